"""Rows of other tables that lose their partner at a promotion: counted before, archived and deleted after, restored by a rollback."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql as psql

from ingestion_dagster.catalog import dependents, relations
from ingestion_dagster.catalog import orphans_sql as sql
from ingestion_dagster.catalog.dependents import ForeignKey
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of foreign keys after a swap: rows archived and brought back, and keys that could not be validated."""

    archived: int = 0
    restored: int = 0
    problems: tuple[Problem, ...] = ()


def refuse_too_many(api: Connection, media: MediaType, incoming: str, limit: int) -> int:
    """How many rows of other tables have no partner in the tables of schema `incoming`.

    Raises `Refused` (`too_many_orphans`) over the limit, and (`orphans_are_referenced`) if rows of a third table hang on them.
    """
    live = [relations.need(api, LIVE, table.name) for table in media.tables]
    counts: dict[str, int] = {}
    for key in dependents.foreign_keys(api, live):
        if not key.is_validated:
            continue
        row = api.execute(_statement(sql.COUNT, key, incoming)).fetchone()
        number = int(row[0]) if row else 0
        counts[key.shown] = counts.get(key.shown, 0) + number
        if number and (third := _referenced_by(api, key, incoming)):
            raise Refused(_hang(key, third))
    total = sum(counts.values())
    if total > limit:
        which = ", ".join(f"{table} ({number})" for table, number in counts.items() if number)
        raise Refused(
            Problem(
                "too_many_orphans",
                which,
                f"{total} rows would lose their partner, {limit} may: look at what upstream lost, or raise INGESTION_CATALOG_ORPHAN_ROWS",
            )
        )
    return total


def settle(api: Connection, media: MediaType, suffix: str | None, *, restore: bool) -> Settled:
    """After a swap: bring back archived rows whose partner is back (if told to), archive orphans, and validate the keys. Repeatable."""
    live = [relations.need(api, LIVE, table.name) for table in media.tables]
    keys = {(key.schema, key.table, key.name): key for key in dependents.foreign_keys(api, live)}
    names = [table.name for table in media.tables]
    archived = restored = 0
    problems: list[Problem] = []
    for schema, table, name in api.execute(sql.PENDING, {"tables": names}).fetchall():
        key = keys.get((schema, table, name))
        fault_point("catalog.swap.validate.before")
        if key:
            if restore:
                restored += _restore(api, key)
            third = _referenced_by(api, key, LIVE)
            if third:
                problems.append(_hang(key, third))
            else:
                archived += _archive(api, key, suffix)
                problems += _validate(api, key)
        api.execute(sql.VALIDATED, {"schema": schema, "table": table, "key": name})
        fault_point("catalog.swap.validate.after")
    return Settled(archived, restored, tuple(problems))


def _archive(api: Connection, key: ForeignKey, suffix: str | None) -> int:
    parameters = {"table": key.shown, "key": key.name, "referenced": key.referenced, "suffix": suffix}
    return api.execute(_statement(sql.ARCHIVE, key, LIVE), parameters).rowcount


def _validate(api: Connection, key: ForeignKey) -> list[Problem]:
    try:
        api.execute(psql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(key.holder, psql.Identifier(key.name)))
    except psycopg.errors.IntegrityError:
        message = "rows without a partner could not be deleted, so it holds for new rows only: look at the triggers of that table"
        return [Problem("key_not_validated", f"{key.shown}: {key.name}", message, "warning")]
    return []


def _restore(api: Connection, key: ForeignKey) -> int:
    """One row at a time: one that is there again, or whose other partners are gone, stays in the archive."""
    columns = [row[0] for row in api.execute(sql.COLUMNS, {"schema": key.schema, "table": key.table})]
    listed = psql.SQL(", ").join(map(psql.Identifier, columns))
    selected = psql.SQL(", ").join(psql.Identifier("h", column) for column in columns)
    statement = _statement(sql.RESTORE, key, LIVE, columns=listed, selected=selected)
    restored = 0
    for number, row in api.execute(sql.ARCHIVED, {"table": key.shown, "key": key.name}).fetchall():
        try:
            with api.transaction():
                if api.execute(statement, {"row": row}).rowcount:
                    api.execute(sql.RESTORED, {"id": number})
                    restored += 1
        except (psycopg.errors.IntegrityError, psycopg.errors.DataError):
            continue
    return restored


def _referenced_by(api: Connection, key: ForeignKey, schema: str) -> str | None:
    """A third table with rows that hang on orphans of a key."""
    for third_schema, third, name, columns, referenced in api.execute(sql.KEYS_TO_HOLDER, {"schema": key.schema, "table": key.table}):
        partner = _equal("t", columns, "h", referenced)
        statement = _statement(sql.IS_REFERENCED, key, schema, third=psql.Identifier(third_schema, third), third_partner=partner)
        if api.execute(statement).fetchone() == (True,):
            return f"{third_schema}.{third} ({name})"
    return None


def _hang(key: ForeignKey, third: str) -> Problem:
    message = f"rows of it would lose their partner, and rows of {third} hang on them: delete or re-point those first"
    return Problem("orphans_are_referenced", f"{key.shown}: {key.name}", message)


def _statement(template: str, key: ForeignKey, schema: str, **more: psql.Composable) -> psql.Composed:
    filled = psql.SQL(" AND ").join(psql.SQL("{} IS NOT NULL").format(psql.Identifier("h", column)) for column in key.columns)
    return psql.SQL(template).format(
        holder=key.holder,
        referenced=psql.Identifier(schema, key.referenced),
        filled=filled,
        partner=_equal("r", key.referenced_columns, "h", key.columns),
        **more,
    )


def _equal(one: str, ones: Sequence[str], other: str, others: Sequence[str]) -> psql.Composed:
    pairs = zip(ones, others, strict=True)
    return psql.SQL(" AND ").join(psql.SQL("{} = {}").format(psql.Identifier(one, a), psql.Identifier(other, b)) for a, b in pairs)

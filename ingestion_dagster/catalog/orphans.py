"""Rows of other tables that lose their partner at a promotion: counted before, archived and deleted after, restored by a rollback."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql as psql

from ingestion_dagster.catalog import dependents, relations
from ingestion_dagster.catalog import orphans_sql as sql
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.foreign_keys import ForeignKey, foreign_keys_to
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
    pending = set(_pending(api, media))
    for key in dependents.foreign_keys(api, live):
        if not key.is_validated and (key.schema, key.table, key.name) not in pending:
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


def settle(api: Connection, media: MediaType, suffix: str | None) -> Settled:
    """After a swap: bring back archived rows whose partner is there again, archive orphans, and validate the keys. Repeatable.

    Readers have the tables by then, so nothing of this fails the swap: a key that cannot be settled is told as a warning, and tried again
    after the next swap. Raises only what ends the connection.
    """
    live = [relations.need(api, LIVE, table.name) for table in media.tables]
    keys = {(key.schema, key.table, key.name): key for key in dependents.foreign_keys(api, live)}
    own = {(table.schema, table.name, key.name): table for table in live for key in dependents.outward_keys(api, table, live)}
    archived = restored = 0
    problems: list[Problem] = []
    for schema, table, name in _pending(api, media):
        key, of_ours = keys.get((schema, table, name)), own.get((schema, table, name))
        fault_point("catalog.swap.validate.before")
        found = Settled()
        if key:
            found = _settle(api, key, suffix)
        elif of_ours:
            found = _validate(api, of_ours.identifier, f"{of_ours.shown}: {name}", name)
        archived, restored = archived + found.archived, restored + found.restored
        problems += found.problems
        if not found.problems:
            api.execute(sql.VALIDATED, {"schema": schema, "table": table, "key": name})
        fault_point("catalog.swap.validate.after")
    return Settled(archived, restored, tuple(problems))


def _pending(api: Connection, media: MediaType) -> list[tuple[str, str, str]]:
    return api.execute(sql.PENDING, {"tables": [table.name for table in media.tables]}).fetchall()


def _settle(api: Connection, key: ForeignKey, suffix: str | None) -> Settled:
    """The rows and the validity of one key."""
    place = f"{key.shown}: {key.name}"
    restored = archived = 0
    try:
        with _by_their_names(api):
            restored = _restore(api, key)
        if third := _referenced_by(api, key, LIVE):
            return Settled(restored=restored, problems=(replace(_hang(key, third), severity="warning"),))
        with _by_their_names(api):
            parameters = {"table": key.shown, "key": key.name, "referenced": key.referenced, "suffix": suffix}
            archived = api.execute(_statement(sql.ARCHIVE, key, LIVE), parameters).rowcount
    except psycopg.Error as error:
        return Settled(archived, restored, (_unsettled(api, place, error),))
    return Settled(archived, restored, _validate(api, key.holder, place, key.name).problems)


def _validate(api: Connection, holder: psql.Identifier, place: str, name: str) -> Settled:
    try:
        with _by_their_names(api):
            api.execute(psql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(holder, psql.Identifier(name)))
    except psycopg.errors.IntegrityError:
        message = "there are rows without a partner, so it holds for new rows only: look at the triggers of that table; it is tried again"
        return Settled(problems=(Problem("key_not_validated", place, message, "warning"),))
    except psycopg.Error as error:
        return Settled(problems=(_unsettled(api, place, error),))
    return Settled()


@contextmanager
def _by_their_names(api: Connection) -> Iterator[None]:
    """A transaction in which triggers of others find what they name without a schema."""
    with api.transaction():
        api.execute("SET LOCAL search_path TO DEFAULT")
        yield


def _unsettled(api: Connection, place: str, error: psycopg.Error) -> Problem:
    """What is told of a key that cannot be settled. Raises the error again if the connection has ended."""
    if api.closed or api.broken:
        raise error
    message = (
        f"the database refused to archive rows without a partner or to validate it (SQLSTATE {error.sqlstate}): it holds for new rows "
        "only; look at the triggers and privileges of that table; the next promotion tries again"
    )
    return Problem("key_not_settled", place, message, "warning")


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
    for third in foreign_keys_to(api, [key.table_oid], besides=()):
        partner = _equal("t", third.columns, "h", third.referenced_columns)
        statement = _statement(sql.IS_REFERENCED, key, schema, third=third.holder, third_partner=partner)
        if api.execute(statement).fetchone() == (True,):
            return f"{third.shown} ({third.name})"
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

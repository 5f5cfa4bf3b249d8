"""What others have on the original's twelve tables: foreign keys, views and grants, which follow to the tables and views that take over."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.first_day import said
from ingestion_dagster.engine.foreign_keys import ForeignKey, foreign_keys_to
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics import dependents_sql
from ingestion_dagster.metrics.adoption_copy import LEFT_BEHIND_REASONS
from ingestion_dagster.metrics.adoption_sql import ROWS_LEFT_BEHIND
from ingestion_dagster.metrics.originals import BEFORE, ORIGINALS, SERIES_COLUMNS, locked

FOR_VIEWS = "metrics_for_views"
"""Schema of views that read with the rights of their owner, made if views of others do so. Nobody may ask them but such a view."""

_PRIVILEGES = {name: sql.SQL(name) for name in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")}
_ON_VIEWS = ("SELECT", "INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True, slots=True)
class View:
    """A view of others over the twelve."""

    oid: int
    schema: str
    name: str
    asks_as_reader: bool
    options: list[str] | None
    definition: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Grant:
    """A privilege on one of the twelve. No grantee: PUBLIC; no columns: the whole table."""

    original: str
    grantee: str | None
    privilege: str
    may_grant: bool
    columns: list[str] | None

    @property
    def what(self) -> str:
        """Privilege, columns and table."""
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"{self.privilege}{columns} on {self.original}"

    def __str__(self) -> str:
        return f"{self.what} to {self.grantee or 'PUBLIC'}"


@dataclass(frozen=True, slots=True)
class Dependents:
    """What others have on the twelve tables, as it was before anything moved."""

    oids: list[int]
    foreign_keys: list[ForeignKey]
    views: list[View]
    grants: list[Grant]


def dependents(connection: Connection, oids: list[int]) -> Dependents:
    """What others have on the tables. Raises `ConfigurationError` if it cannot be re-pointed."""
    _refuse_what_is_in_the_way(connection, oids)
    _refuse_views_grouped_by_key(connection, oids)
    foreign_keys = foreign_keys_to(connection, oids)
    for schema, table in sorted({(key.schema, key.table) for key in foreign_keys}):
        locked(connection, schema, [table])
    views = [View(*row) for row in connection.execute(dependents_sql.VIEWS, {"oids": oids})]
    grants = [Grant(*row) for row in connection.execute(dependents_sql.GRANTS, {"oids": oids})]
    return Dependents(oids, foreign_keys, views, grants)


def _refuse_what_is_in_the_way(connection: Connection, oids: list[int]) -> None:
    blockers = [row[0] for row in connection.execute(dependents_sql.IN_THE_WAY, {"oids": oids})]
    if blockers:
        raise ConfigurationError(
            f"cannot be adopted: {'; '.join(blockers)}. These would go on with the tables of before: drop them, adopt, and create them "
            "again over the views of schema public or the tables of schema metrics"
        )


def _refuse_views_grouped_by_key(connection: Connection, oids: list[int]) -> None:
    """Raise `ConfigurationError` that names every view that would be no valid one over our views."""
    views = [row[0] for row in connection.execute(dependents_sql.VIEWS_GROUPED_BY_KEY, {"oids": oids})]
    if views:
        raise ConfigurationError(
            f"cannot be adopted: {', '.join(views)} group by the id of a table and use other columns of it too, which Postgres allows over "
            "tables only. Add these columns to GROUP BY (CREATE OR REPLACE VIEW, with the view's options, if it has any): the rows shown "
            "are the same. Then adopt again"
        )


def moved(connection: Connection, dependents: Dependents) -> dict[int, str]:
    """Move the tables to schema `metrics_before`; returns new definitions of those views that read with the rights of their owners.

    On their way the tables pass through the schema that such views are to read, so that Postgres writes its name into the definitions.
    """
    for key in dependents.foreign_keys:
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(key.holder, sql.Identifier(key.name)))
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(BEFORE)))
    for_views: dict[int, str] = {}
    standing = "public"
    if not all(view.asks_as_reader for view in dependents.views):
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(FOR_VIEWS)))
        standing = _move(connection, standing, FOR_VIEWS)
        views = (View(*row) for row in connection.execute(dependents_sql.VIEWS, {"oids": dependents.oids}).fetchall())
        for_views = {view.oid: view.definition for view in views if not view.asks_as_reader}
    _move(connection, standing, BEFORE)
    return for_views


def _move(connection: Connection, from_schema: str, to_schema: str) -> str:
    for name in ORIGINALS:
        statement = sql.SQL("ALTER TABLE {} SET SCHEMA {}")
        connection.execute(statement.format(sql.Identifier(from_schema, name), sql.Identifier(to_schema)))
    return to_schema


def repoint_foreign_keys(connection: Connection, foreign_keys: Iterable[ForeignKey]) -> list[str]:
    """Each under its old name with its old properties. Raises `ConfigurationError` if one refers to rows that are left behind."""
    by_hand = []
    for key in foreign_keys:
        dangling = _references_left_behind(connection, key)
        reasons = "; ".join(f"{rows} ({code}) to rows that {LEFT_BEHIND_REASONS[code]}" for code, rows in dangling.items())
        referring = sum(dangling.values())
        if dangling and key.is_validated:
            raise ConfigurationError(
                f"nothing was changed: {referring} rows of {key.schema}.{key.table} refer by {key.name} to rows of {key.referenced} that "
                f"cannot be taken over: {reasons}. Mend these rows, or the references to them, and adopt again"
            )
        if dangling:
            by_hand.append(f"{referring} rows refer by {key} (NOT VALID) to rows of {key.referenced} that are left behind: {reasons}")
        _add_foreign_key(connection, key)
    return by_hand


def _references_left_behind(connection: Connection, key: ForeignKey) -> dict[str, int]:
    """How many rows refer to rows left behind, by the reason for which these are."""
    matches = [
        sql.SQL("held.{} = referring.{}").format(sql.Identifier(theirs), sql.Identifier(ours))
        for theirs, ours in zip(key.referenced_columns, key.columns, strict=True)
    ]
    statement = sql.SQL(
        "SELECT held.reason, count(*) FROM {holder} AS referring JOIN ({left_behind}) AS held ON {matches} GROUP BY 1 ORDER BY 1"
    ).format(
        holder=key.holder,
        left_behind=sql.SQL(ROWS_LEFT_BEHIND[key.referenced]),
        matches=sql.SQL(" AND ").join(matches),
    )
    return dict(connection.execute(statement).fetchall())


def _add_foreign_key(connection: Connection, key: ForeignKey) -> None:
    refers = f" REFERENCES public.{key.referenced}("
    if key.definition.count(refers) != 1:
        raise ConfigurationError(f"nothing was changed: the foreign key {key} is not understood; drop it, adopt, and create it again")
    definition = key.definition.replace(refers, f" REFERENCES metrics.{ORIGINALS[key.referenced].target}(")
    name = sql.Identifier(key.name)
    try:
        # The definition is the server's own spelling of the constraint.
        connection.execute(sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} ").format(key.holder, name) + sql.SQL(definition))
    except psycopg.Error as error:
        raise ConfigurationError(f"nothing was changed: the foreign key {key} cannot be re-pointed ({said(error)})") from None
    if key.comment is not None:
        statement = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}")
        connection.execute(statement.format(name, key.holder, sql.Literal(key.comment)))


def repoint_views(connection: Connection, dependents: Dependents, for_views: Mapping[int, str]) -> None:
    """Views of others read our views: with the rights of whoever asks, or, if they did so before, with those of their owners."""
    if for_views:
        _create_views_for_views(connection)
    for view in dependents.views:
        options = sql.SQL("WITH ({}) ").format(sql.SQL(", ".join(view.options))) if view.options else sql.SQL("")
        definition = sql.SQL(for_views.get(view.oid, view.definition))
        head = sql.SQL("CREATE OR REPLACE VIEW {} {}AS ").format(sql.Identifier(view.schema, view.name), options)
        try:
            connection.execute(head + definition)
        except psycopg.Error as error:
            raise ConfigurationError(
                f"nothing was changed: the view {view} cannot read the views that take the tables' place ({said(error)}); adopt "
                "as a user who owns it, or drop it, adopt, and create it again over the views of schema public"
            ) from None
    behind = [row[0] for row in connection.execute(dependents_sql.STILL_DEPENDENT, {"oids": dependents.oids})]
    if behind:
        raise ConfigurationError(
            f"nothing was changed: {'; '.join(behind)} would still read the tables of before; drop them, and adopt again"
        )


def _create_views_for_views(connection: Connection) -> None:
    """Views like ours, but for whose rights they read with: not even inside another view does Postgres ask ours as that view's owner."""
    names = {"series_labels": "metrics.series_labels"} | {name: f"public.{name}" for name in ORIGINALS}
    for name, ours in names.items():
        [(definition,)] = connection.execute("SELECT pg_get_viewdef(%s::regclass)", [ours]).fetchall()
        definition = definition.replace("metrics.series_labels ", f"{FOR_VIEWS}.series_labels ")
        connection.execute(sql.SQL("CREATE VIEW {} AS ").format(sql.Identifier(FOR_VIEWS, name)) + sql.SQL(definition))


def repoint_grants(connection: Connection, grants: Sequence[Grant], for_views: bool) -> tuple[list[Grant], list[str]]:
    """Give what was granted on the tables on our views, and what these read; returns what was given, and what is left to do by hand."""
    given: list[Grant] = []
    not_given: dict[tuple[str, str], list[str]] = {}
    whole = {(grant.original, grant.grantee, grant.privilege) for grant in grants if grant.columns is None}
    for grant in grants:
        if for_views and grant.privilege in _ON_VIEWS:
            _give(connection, grant, sql.Identifier(FOR_VIEWS, grant.original), grant.columns)
        if grant.columns is not None and (grant.original, grant.grantee, grant.privilege) in whole:
            continue
        why_not = _not_representable(grant)
        if why_not:
            not_given.setdefault((grant.grantee or "PUBLIC", why_not), []).append(grant.what)
            continue
        _give_here(connection, grant)
        given.append(grant)
    return given, [f"not granted to {role} again: {', '.join(what)}; {why_not}" for (role, why_not), what in not_given.items()]


def _not_representable(grant: Grant) -> str | None:
    original = ORIGINALS[grant.original]
    if original.is_fact and grant.privilege not in ("SELECT", "REFERENCES"):
        return "facts are written by loading files only"
    if grant.privilege == "SELECT" and grant.columns is not None and set(grant.columns) != original.columns.keys():
        return (
            "it would show the other columns in schema metrics too; grant SELECT on a view of these columns, owned by whoever may read all"
        )
    if original.is_fact and grant.columns is not None and grant.privilege == "REFERENCES" and grant.columns != ["id"]:
        return "only the id can be referred to"
    return None


def _give_here(connection: Connection, grant: Grant) -> None:
    original = ORIGINALS[grant.original]
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA metrics TO {}").format(_grantee(grant)))
    if grant.privilege in _ON_VIEWS:
        _give(connection, grant, sql.Identifier("public", grant.original), grant.columns)
    read = original.reads if grant.privilege == "SELECT" else (original.target,)
    for table in read:
        columns: Sequence[str] | None = grant.columns if not original.is_fact else None
        if table == "series":
            columns = SERIES_COLUMNS
        elif original.is_fact and grant.privilege == "REFERENCES":
            columns = ("id",)
        _give(connection, grant, sql.Identifier("metrics", table), columns)


def _give(connection: Connection, grant: Grant, on: sql.Identifier, columns: Sequence[str] | None) -> None:
    of = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL("")
    passing_on = sql.SQL(" WITH GRANT OPTION") if grant.may_grant else sql.SQL("")
    statement = sql.SQL("GRANT {}{} ON {} TO {}{}")
    connection.execute(statement.format(_PRIVILEGES[grant.privilege], of, on, _grantee(grant), passing_on))


def _grantee(grant: Grant) -> sql.Composable:
    return sql.SQL("PUBLIC") if grant.grantee is None else sql.Identifier(grant.grantee)

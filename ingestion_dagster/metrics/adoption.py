"""Taking over a database that holds the original dashboard's own twelve tables: rows and ids, foreign keys, views and grants of others.

All of it is one transaction, this project's migrations included: it happens as a whole or not at all. The original's tables are kept as
they are in schema `metrics_before`, with the rows that the tables of this project cannot hold.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection, Database, UpgradeTransaction, upgrading
from ingestion_dagster.metrics import adoption_sql
from ingestion_dagster.metrics.adoption_sql import ORIGINALS, SERIES_COLUMNS

BEFORE = "metrics_before"
"""Schema in which the original's tables stand after the adoption."""

FOR_VIEWS = "metrics_for_views"
"""Schema of views that read with the rights of their owner, made if views of others do so. Nobody may ask them but such a view."""

LEFT_BEHIND_REASONS = {
    "null_parent": "belong to no theme, sub-theme, topic, metric group or geography type",
    "parent_left_behind": "belong to a row that is left behind",
    "null_label": "have no metric, metric group, geography, stratum or age",
    "null_sex": "have no sex",
    "null_refresh_date": "have no refresh date",
    "negative_epiweek": "have an epiweek below zero",
    "label_left_behind": "bear a metric, geography, stratum or age that is left behind",
    "not_public_without_prefix": "are not public, of a metric without OFF-SENS_: here they would become public",
    "metric_at_home_elsewhere": "name a topic or metric group that is not the metric's own",
    "duplicate": "say the same as a newer row",
}
CHANGE_REASONS = {
    "made_non_public": "were public, of OFF-SENS_ metrics, and no longer are",
    "year_or_month_from_date": "had a year or month other than that of their date",
}

_PRIVILEGES = {name: sql.SQL(name) for name in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")}
_ON_VIEWS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_SCHEMA_ERRORS = ("42", "2B", "0A", "55", "40", "57", "53")
"""Classes of errors that speak of tables, rights and sessions. Messages of others may quote rows."""


@dataclass(frozen=True, slots=True)
class TableAdopted:
    """What became of one table's rows. `created` counts rows that only API rows named before."""

    rows: int
    left_behind: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    created: int = 0


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an adoption did, or would do: tables by their original names, what was re-pointed, and what remains to be done by hand."""

    tables: Mapping[str, TableAdopted]
    foreign_keys: tuple[str, ...]
    views: tuple[str, ...]
    grants: tuple[str, ...]
    by_hand: tuple[str, ...]
    dry_run: bool = False

    @property
    def rows(self) -> int:
        """Rows taken over, of all tables."""
        return sum(table.rows for table in self.tables.values())


@dataclass(frozen=True, slots=True)
class _ForeignKey:
    """A foreign key that another table holds to one of the twelve."""

    schema: str
    table: str
    name: str
    original: str
    definition: str
    is_validated: bool
    comment: str | None
    table_oid: int
    columns: list[str]
    referenced: list[str]

    def __str__(self) -> str:
        return f"{self.name} of {self.schema}.{self.table}"

    @property
    def holder(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)


@dataclass(frozen=True, slots=True)
class _View:
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
class _Grant:
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
class _Dependents:
    """What others have on the twelve tables, as it was before anything moved."""

    oids: list[int]
    foreign_keys: list[_ForeignKey]
    views: list[_View]
    grants: list[_Grant]


class _DryRun(Exception):
    """Undoes the transaction of a dry run."""


def adopt_tables(database: Database, *, dry_run: bool = False, lock_seconds: float = 10) -> Adopted | None:
    """Take over the original's twelve tables in schema public; None if there are none (an empty database, or one adopted before).

    A dry run does the same and undoes it. Raises `ConfigurationError`, with nothing changed, if the tables are not the original's, if
    something hangs on them that cannot be re-pointed, or if somebody uses them and does not let go for `lock_seconds`.
    """
    adopted: Adopted | None = None
    try:
        with upgrading(database) as transaction:
            adopted = _adopt(transaction, lock_seconds)
            fault_point("metrics.adopt.before_commit")
            if dry_run:
                raise _DryRun
    except _DryRun:
        return replace(adopted, dry_run=True) if adopted else None
    return adopted


def describe(adopted: Adopted) -> list[str]:
    """The lines that `ingestion adopt metrics` prints."""
    lines = [f"{'would take over' if adopted.dry_run else 'took over'} {adopted.rows} rows of {len(adopted.tables)} tables"]
    for name, table in adopted.tables.items():
        created = f", {table.created} created from API rows" if table.created else ""
        lines.append(f"public.{name} -> metrics.{ORIGINALS[name].target}: {table.rows} rows{created}")
        lines += [f"  {rows} changed ({code}): they {CHANGE_REASONS[code]}" for code, rows in table.changed.items()]
        lines += [f"  {rows} left in {BEFORE} ({code}): they {LEFT_BEHIND_REASONS[code]}" for code, rows in table.left_behind.items()]
    for what, names in (("foreign keys", adopted.foreign_keys), ("views", adopted.views), ("grants", adopted.grants)):
        lines.append(f"{what} re-pointed: {len(names)}")
        lines += [f"  {name}" for name in names]
    lines += [f"to do by hand: {line}" for line in adopted.by_hand]
    lines.append(f"the original's tables, with all their rows, {'would stand' if adopted.dry_run else 'stand'} in schema {BEFORE}")
    return lines


def _adopt(transaction: UpgradeTransaction, lock_seconds: float) -> Adopted | None:
    connection = transaction.connection
    with _step("looking at the tables"):
        if not _originals_are_there(connection):
            return None
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{lock_seconds * 1000:.0f}ms"])
        connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '64MB'; SET LOCAL search_path = ''")
        dependents = _dependents(connection, _locked(connection, "public", list(ORIGINALS)))
    fault_point("metrics.adopt.locked")
    with _step("moving the tables"):
        for_views = _moved(connection, dependents)
    fault_point("metrics.adopt.moved")
    with _step("migrating"):
        connection.execute("SET LOCAL search_path TO DEFAULT")
        transaction.to_head()
        connection.execute("SET LOCAL search_path = ''")
    fault_point("metrics.adopt.migrated")
    with _step("copying the rows"):
        tables = _copied(connection)
        by_hand = _still_wrong(connection)
    fault_point("metrics.adopt.copied")
    with _step("re-pointing foreign keys"):
        by_hand += _repoint_foreign_keys(connection, dependents.foreign_keys)
    with _step("re-pointing views"):
        _repoint_views(connection, dependents, for_views)
    with _step("re-pointing grants"):
        grants, not_granted = _repoint_grants(connection, dependents.grants, bool(for_views))
    return Adopted(
        tables=tables,
        foreign_keys=tuple(map(str, dependents.foreign_keys)),
        views=tuple(map(str, dependents.views)),
        grants=tuple(map(str, grants)),
        by_hand=tuple(by_hand + not_granted),
    )


@contextmanager
def _step(what: str) -> Iterator[None]:
    """What the database says against a step is a `ConfigurationError`; it quotes no row."""
    try:
        yield
    except psycopg.Error as error:
        raise ConfigurationError(f"nothing was changed: {what} failed ({_said(error)})") from None


def _said(error: psycopg.Error) -> str:
    state = error.sqlstate or "connection lost"
    if error.sqlstate and state.startswith(_SCHEMA_ERRORS):
        return f"{error.diag.message_primary}, SQLSTATE {state}"
    return f"SQLSTATE {state}" + (f", {error.diag.constraint_name}" if error.diag.constraint_name else "")


# What is there


def _originals_are_there(connection: Connection) -> bool:
    """Whether all twelve stand in schema public as tables. Raises `ConfigurationError` if some do, or something else has their names."""
    found = connection.execute(adoption_sql.RELATIONS, {"schema": "public", "names": list(ORIGINALS)}).fetchall()
    kinds = {name: kind for name, kind, _ in found}
    is_migrated = _is_migrated(connection)
    if not kinds or (set(kinds.values()) == {"v"} and is_migrated):
        return False
    others = sorted(name for name, kind in kinds.items() if kind != "r")
    if others:
        raise ConfigurationError(
            f"cannot be adopted: {', '.join(others)} in schema public are not tables. Only the dashboard's own twelve tables are taken over"
        )
    missing = [name for name in ORIGINALS if name not in kinds]
    if missing:
        raise ConfigurationError(f"cannot be adopted: of the dashboard's twelve tables {', '.join(missing)} are missing in schema public")
    if is_migrated:
        raise ConfigurationError("cannot be adopted: beside the dashboard's twelve tables this database has those of this project already")
    kept = connection.execute(adoption_sql.RELATIONS, {"schema": BEFORE, "names": list(ORIGINALS)}).fetchall()
    if kept:
        names = ", ".join(sorted(name for name, _, _ in kept))
        raise ConfigurationError(f"cannot be adopted: schema {BEFORE} already holds {names}; rename that schema first")
    return True


def _is_migrated(connection: Connection) -> bool:
    versions, revision = adoption_sql.REVISION
    if connection.execute(versions).fetchone() == (None,):
        return False
    row = connection.execute(revision).fetchone()
    return row is not None and str(row[0]) >= "0002"


def _locked(connection: Connection, schema: str, names: Sequence[str]) -> list[int]:
    """Nobody else reads or writes these tables until the transaction ends. Raises `ConfigurationError` that says who does not let go."""
    tables = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
    statement = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables)
    try:
        with connection.transaction():
            connection.execute(statement)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        users = connection.execute(adoption_sql.USERS_OF_TABLES, {"oids": _oids(connection, schema, names)}).fetchall()
        sessions = "; ".join(_session(*user) for user in users) or "sessions that have ended since"
        raise ConfigurationError(
            f"nothing was changed: {', '.join(names)} cannot be locked, they are used by {sessions}. Stop what uses them and try again"
        ) from None
    return _oids(connection, schema, names)


def _oids(connection: Connection, schema: str, names: Sequence[str]) -> list[int]:
    return [oid for _, _, oid in connection.execute(adoption_sql.RELATIONS, {"schema": schema, "names": list(names)})]


def _session(pid: int | None, user: str | None, application: str | None) -> str:
    if pid is None:
        return "a prepared transaction (see pg_prepared_xacts)"
    return f"session {pid} (user {user or 'unknown'}, application '{application or 'unknown'}')"


def _refuse_other_columns(connection: Connection, oids: list[int]) -> None:
    """Raise `ConfigurationError` that names every column which the original has and these tables do not, or the other way round."""
    found: dict[str, dict[str, str]] = {name: {} for name in ORIGINALS}
    for table, column, kind in connection.execute(adoption_sql.COLUMNS, {"oids": oids}):
        found[table][column] = kind
    wrong = []
    for table, original in ORIGINALS.items():
        for column, kind in original.columns.items():
            if column not in found[table]:
                wrong.append(f"{table}.{column} is missing")
            elif found[table][column] not in (kind, f"{kind} not null"):
                wrong.append(f"{table}.{column} is {found[table][column]}, not {kind}")
        wrong += [f"{table}.{column} is none of the original's columns" for column in sorted(found[table].keys() - original.columns.keys())]
    if wrong:
        raise ConfigurationError(f"cannot be adopted: {'; '.join(wrong)}")


def _refuse_what_is_in_the_way(connection: Connection, oids: list[int]) -> None:
    blockers = [row[0] for row in connection.execute(adoption_sql.IN_THE_WAY, {"oids": oids})]
    if blockers:
        raise ConfigurationError(
            f"cannot be adopted: {'; '.join(blockers)}. These would go on with the tables of before: drop them, adopt, and create them "
            "again over the views of schema public or the tables of schema metrics"
        )


def _refuse_views_grouped_by_key(connection: Connection, oids: list[int]) -> None:
    """Raise `ConfigurationError` that names every view that would be no valid one over our views."""
    views = [row[0] for row in connection.execute(adoption_sql.VIEWS_GROUPED_BY_KEY, {"oids": oids})]
    if views:
        raise ConfigurationError(
            f"cannot be adopted: {', '.join(views)} group by the id of a table and use other columns of it too, which Postgres allows over "
            "tables only. Add these columns to GROUP BY (CREATE OR REPLACE VIEW, with the view's options, if it has any): the rows shown "
            "are the same. Then adopt again"
        )


def _dependents(connection: Connection, oids: list[int]) -> _Dependents:
    """What others have on the tables, which are the original's. Raises `ConfigurationError` if they are not, or it cannot be re-pointed."""
    _refuse_other_columns(connection, oids)
    _refuse_what_is_in_the_way(connection, oids)
    _refuse_views_grouped_by_key(connection, oids)
    foreign_keys = [_ForeignKey(*row) for row in connection.execute(adoption_sql.FOREIGN_KEYS, {"oids": oids})]
    for schema, table in sorted({(key.schema, key.table) for key in foreign_keys}):
        _locked(connection, schema, [table])
    views = [_View(*row) for row in connection.execute(adoption_sql.VIEWS, {"oids": oids})]
    grants = [_Grant(*row) for row in connection.execute(adoption_sql.GRANTS, {"oids": oids})]
    return _Dependents(oids, foreign_keys, views, grants)


# Moving


def _moved(connection: Connection, dependents: _Dependents) -> dict[int, str]:
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
        views = (_View(*row) for row in connection.execute(adoption_sql.VIEWS, {"oids": dependents.oids}).fetchall())
        for_views = {view.oid: view.definition for view in views if not view.asks_as_reader}
    _move(connection, standing, BEFORE)
    return for_views


def _move(connection: Connection, from_schema: str, to_schema: str) -> str:
    for name in ORIGINALS:
        statement = sql.SQL("ALTER TABLE {} SET SCHEMA {}")
        connection.execute(statement.format(sql.Identifier(from_schema, name), sql.Identifier(to_schema)))
    return to_schema


# Copying


def _copied(connection: Connection) -> dict[str, TableAdopted]:
    tables: dict[str, TableAdopted] = {}
    for name, copy in adoption_sql.COPY_SUPPORTING.items():
        left = {reason: rows for reason, rows in connection.execute(copy.reasons) if reason}
        tables[name] = TableAdopted(connection.execute(copy.insert).rowcount, left)
    for name, original in ORIGINALS.items():
        connection.execute(adoption_sql.SET_SEQUENCE.format(original=name, target=original.target))
    _key_series(connection, tables)
    for name, statement in adoption_sql.COPY_FACTS.items():
        tables[name] = _copied_facts(connection, name, statement)
    connection.execute(adoption_sql.ANALYZE_FACTS)
    return tables


def _key_series(connection: Connection, tables: dict[str, TableAdopted]) -> None:
    """Find which rows can be held, create the series that they belong to, and what they name and the supporting tables lack."""
    for statement in (adoption_sql.KEYS, adoption_sql.JUDGE_KEYS, adoption_sql.LABELS, *adoption_sql.JUDGE_LABELS):
        connection.execute(statement)
    for name, statement in adoption_sql.CREATE_SUPPORTING.items():
        tables[name] = replace(tables[name], created=connection.execute(statement).rowcount)
    for statement in (adoption_sql.ANALYZE_SUPPORTING, adoption_sql.KEY_LABELS, adoption_sql.CREATE_SERIES, *adoption_sql.KEY_SERIES):
        connection.execute(statement)
    unkeyed = _count(connection, adoption_sql.UNKEYED)
    if unkeyed:
        raise ConfigurationError(f"nothing was changed: the rows of {unkeyed} series find no series here; report it")


def _copied_facts(connection: Connection, name: str, statement: str) -> TableAdopted:
    rows = connection.execute(statement).rowcount
    left: dict[str, int] = dict(connection.execute(adoption_sql.LEFT_BEHIND[name]).fetchall())
    total = _count(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(BEFORE, name)))
    duplicates = total - rows - sum(left.values())
    if duplicates:
        left["duplicate"] = duplicates
    made_non_public, redated = connection.execute(adoption_sql.CHANGED[name]).fetchone() or (0, 0)
    changed = {"made_non_public": made_non_public, "year_or_month_from_date": redated}
    return TableAdopted(rows, left, {code: count for code, count in changed.items() if count})


def _still_wrong(connection: Connection) -> list[str]:
    """What is taken over and still does not work here as it should."""
    by_hand = []
    rehomed = _count(connection, adoption_sql.GROUPS_OF_ANOTHER_TOPIC)
    if rehomed:
        by_hand.append(f"{rehomed} metrics have a metric group of another topic; their files are refused until metrics.metric is mended")
    api_only, core_only = connection.execute(adoption_sql.ONE_SIDED).fetchone() or (0, 0)
    if api_only or core_only:
        by_hand.append(
            f"as before, {api_only} dates of series stand in api_time_series only and {core_only} in core_time_series only; a file that "
            "changes such a date, or insists by force_write, evens them out"
        )
    by_hand += [
        f"publication {name} publishes every new table, those of schema {BEFORE} and metrics too: see to its subscribers"
        for (name,) in connection.execute(adoption_sql.WIDE_PUBLICATIONS)
    ]
    return by_hand


def _count(connection: Connection, query: str | sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


# Re-pointing


def _repoint_foreign_keys(connection: Connection, foreign_keys: Iterable[_ForeignKey]) -> list[str]:
    """Each under its old name with its old properties. Raises `ConfigurationError` if one refers to rows that are left behind."""
    by_hand = []
    for key in foreign_keys:
        dangling = _references_left_behind(connection, key)
        reasons = "; ".join(f"{rows} ({code}) to rows that {LEFT_BEHIND_REASONS[code]}" for code, rows in dangling.items())
        referring = sum(dangling.values())
        if dangling and key.is_validated:
            raise ConfigurationError(
                f"nothing was changed: {referring} rows of {key.schema}.{key.table} refer by {key.name} to rows of {key.original} that "
                f"cannot be taken over: {reasons}. Mend these rows, or the references to them, and adopt again"
            )
        if dangling:
            by_hand.append(f"{referring} rows refer by {key} (NOT VALID) to rows of {key.original} that are left behind: {reasons}")
        _add_foreign_key(connection, key)
    return by_hand


def _references_left_behind(connection: Connection, key: _ForeignKey) -> dict[str, int]:
    """How many rows refer to rows left behind, by the reason for which these are."""
    matches = [
        sql.SQL("held.{} = referring.{}").format(sql.Identifier(theirs), sql.Identifier(ours))
        for theirs, ours in zip(key.referenced, key.columns, strict=True)
    ]
    statement = sql.SQL(
        "SELECT held.reason, count(*) FROM {holder} AS referring JOIN ({left_behind}) AS held ON {matches} GROUP BY 1 ORDER BY 1"
    ).format(
        holder=key.holder,
        left_behind=sql.SQL(adoption_sql.ROWS_LEFT_BEHIND[key.original]),
        matches=sql.SQL(" AND ").join(matches),
    )
    return dict(connection.execute(statement).fetchall())


def _add_foreign_key(connection: Connection, key: _ForeignKey) -> None:
    refers = f" REFERENCES public.{key.original}("
    if key.definition.count(refers) != 1:
        raise ConfigurationError(f"nothing was changed: the foreign key {key} is not understood; drop it, adopt, and create it again")
    definition = key.definition.replace(refers, f" REFERENCES metrics.{ORIGINALS[key.original].target}(")
    name = sql.Identifier(key.name)
    try:
        # The definition is the server's own spelling of the constraint.
        connection.execute(sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} ").format(key.holder, name) + sql.SQL(definition))
    except psycopg.Error as error:
        raise ConfigurationError(f"nothing was changed: the foreign key {key} cannot be re-pointed ({_said(error)})") from None
    if key.comment is not None:
        statement = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}")
        connection.execute(statement.format(name, key.holder, sql.Literal(key.comment)))


def _repoint_views(connection: Connection, dependents: _Dependents, for_views: Mapping[int, str]) -> None:
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
                f"nothing was changed: the view {view} cannot read the views that take the tables' place ({_said(error)}); adopt "
                "as a user who owns it, or drop it, adopt, and create it again over the views of schema public"
            ) from None
    behind = [row[0] for row in connection.execute(adoption_sql.STILL_DEPENDENT, {"oids": dependents.oids})]
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


def _repoint_grants(connection: Connection, grants: Sequence[_Grant], for_views: bool) -> tuple[list[_Grant], list[str]]:
    """Give what was granted on the tables on our views, and what these read; returns what was given, and what is left to do by hand."""
    given: list[_Grant] = []
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


def _not_representable(grant: _Grant) -> str | None:
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


def _give_here(connection: Connection, grant: _Grant) -> None:
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


def _give(connection: Connection, grant: _Grant, on: sql.Identifier, columns: Sequence[str] | None) -> None:
    of = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL("")
    passing_on = sql.SQL(" WITH GRANT OPTION") if grant.may_grant else sql.SQL("")
    statement = sql.SQL("GRANT {}{} ON {} TO {}{}")
    connection.execute(statement.format(_PRIVILEGES[grant.privilege], of, on, _grantee(grant), passing_on))


def _grantee(grant: _Grant) -> sql.Composable:
    return sql.SQL("PUBLIC") if grant.grantee is None else sql.Identifier(grant.grantee)

"""What of an upstream relation goes into a table of the API, column by column, and what stands in the way before anything is copied."""

from collections.abc import Iterator
from dataclasses import dataclass

from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.tables import LIVE, PREVIOUS, TableSpec
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.postgres import Connection

_COLUMNS = """
SELECT attribute.attname, format_type(attribute.atttypid, NULL), attribute.attnotnull, attribute.atthasdef OR attribute.attidentity <> '',
       attribute.attgenerated <> ''
FROM pg_attribute AS attribute
WHERE attribute.attrelid = to_regclass(%(name)s) AND attribute.attnum > 0 AND NOT attribute.attisdropped
ORDER BY attribute.attnum
"""

_KIND = """
SELECT relkind, has_table_privilege(oid, 'SELECT') FROM pg_class WHERE oid = to_regclass(%(name)s)
"""

_UNIQUE = """
SELECT EXISTS (
    SELECT FROM pg_index AS index
    WHERE index.indrelid = to_regclass(%(name)s) AND index.indisunique AND index.indisvalid AND index.indimmediate
      AND index.indpred IS NULL AND index.indexprs IS NULL
      AND (SELECT array_agg(attribute.attname::text)
           FROM unnest(index.indkey::smallint[]) WITH ORDINALITY AS part (number, place)
           JOIN pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attnum = part.number
           WHERE part.place <= index.indnkeyatts) <@ %(key)s::text[]
)
"""

_INTEGER_ID = """
SELECT EXISTS (
    SELECT FROM pg_index AS index
    JOIN pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attnum = index.indkey[0]
    WHERE index.indrelid = to_regclass(%(name)s) AND index.indisprimary AND index.indnkeyatts = 1
      AND attribute.attname = 'id' AND attribute.atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)
)
"""

_TEXT = ("text", "character varying", "name")
_WIDENED: dict[str, frozenset[str]] = {
    "integer": frozenset(("smallint",)),
    "bigint": frozenset(("smallint", "integer")),
    "numeric": frozenset(("smallint", "integer", "bigint")),
    "real": frozenset(("smallint",)),
    "double precision": frozenset(("smallint", "integer", "real")),
    "text": frozenset(_TEXT),
    "character varying": frozenset(_TEXT),
    "jsonb": frozenset(("json",)),
}
"""Types of the API, and those of upstream that become one of them without a loss."""

_OF_ANY_LENGTH = {"character": "bpchar", "bit": "bit varying"}
"""Names that mean a length of one where none stands behind them."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a relation. `type` has no length; `is_filled`: it has a default or an identity; `is_computed`: nobody writes it."""

    name: str
    type: str
    is_required: bool
    is_filled: bool
    is_computed: bool

    @property
    def raw_type(self) -> str:
        """Its type as a definition of a column that takes values of every length."""
        return _OF_ANY_LENGTH.get(self.type, self.type)


def qualified(connection: Connection, name: str) -> str:
    """An upstream relation's name as `to_regclass` takes it, quoted if need be; the search path says in which schema."""
    row = connection.execute("SELECT quote_ident(%(name)s)", {"name": name}).fetchone()
    assert row is not None
    return str(row[0])


def columns(connection: Connection, name: str) -> tuple[Column, ...]:
    """The columns of a relation, in its order; none if there is no such relation."""
    return tuple(Column(*row) for row in connection.execute(_COLUMNS, {"name": name}))


def kind(connection: Connection, name: str) -> tuple[str, bool] | None:
    """The kind of a relation as `pg_class` names it, and whether it may be read; None if it is not there."""
    row = connection.execute(_KIND, {"name": name}).fetchone()
    return (str(row[0]), bool(row[1])) if row else None


def is_unique(connection: Connection, name: str, key: tuple[str, ...]) -> bool:
    """Whether the server itself keeps the key's values apart (rows with a null in it aside)."""
    return connection.execute(_UNIQUE, {"name": name, "key": list(key)}).fetchone() == (True,)


def shared(upstream: tuple[Column, ...], live: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns of the API that upstream has too, in the API's order. `id` is never one: ids are ours."""
    names = {column.name for column in upstream}
    return tuple(column for column in live if column.name in names and column.name != "id" and not column.is_computed)


def fits(upstream: str, live: str) -> bool:
    """Whether every value of the one type is one of the other. Arrays, as their elements."""
    if upstream == live:
        return True
    if upstream.endswith("[]") and live.endswith("[]"):
        return fits(upstream[:-2], live[:-2])
    return upstream in _WIDENED.get(live, frozenset())


def problems(upstream: Connection, api: Connection, media: MediaType) -> tuple[Problem, ...]:
    """What stands in the way of copying a media type; none: it can be copied."""
    return tuple(problem for table in media.tables for problem in _of_table(upstream, api, table))


def _of_table(upstream: Connection, api: Connection, table: TableSpec) -> Iterator[Problem]:
    live_name = f"{LIVE}.{table.name}"
    theirs, ours = columns(upstream, qualified(upstream, table.upstream)), columns(api, live_name)
    found = kind(upstream, qualified(upstream, table.upstream))
    if found is None:
        yield Problem("no_upstream_relation", table.upstream, "make it upstream, or point INGESTION_CATALOG_UPSTREAM_URL to where it is")
    elif not found[1]:
        yield Problem("not_readable", table.upstream, "grant SELECT on it to the role of INGESTION_CATALOG_UPSTREAM_URL")
    if not ours:
        yield Problem("no_live_table", table.name, f"schema {LIVE} of the API's database has no such table")
    if found is None or not ours:
        return
    yield from _of_live(api, table, live_name)
    yield from _of_columns(table, theirs, ours)


def _of_live(api: Connection, table: TableSpec, live_name: str) -> Iterator[Problem]:
    if api.execute(_INTEGER_ID, {"name": live_name}).fetchone() != (True,):
        yield Problem("no_integer_id", table.name, "the table needs a primary key of one integer column, id: documents are known by it")
    if not is_unique(api, live_name, table.key):
        message = f"the table needs a unique index on ({', '.join(table.key)}): rows keep their id by it"
        yield Problem("no_unique_identity", table.name, message)
    if kind(api, f"{PREVIOUS}.{table.name}") and not columns(api, f"{PREVIOUS}.{table.name}"):
        yield Problem("previous_unreadable", table.name, f"the table of that name in schema {PREVIOUS} has no columns")


def _of_columns(table: TableSpec, theirs: tuple[Column, ...], ours: tuple[Column, ...]) -> Iterator[Problem]:
    common = shared(theirs, ours)
    types = {column.name: column.type for column in theirs}
    if not common:
        yield Problem("no_shared_columns", table.name, f"{table.upstream} upstream and {table.name} have no column of the same name")
        return
    for column in common:
        if not fits(types[column.name], column.type):
            message = f"upstream has {types[column.name]}, the API {column.type}: make them the same"
            yield Problem("type_mismatch", f"{table.name}.{column.name}", message)
    filled = {column.name for column in common} | {name for name, _ in table.defaults} | {"id", *table.key}
    for name in table.key:
        if all(column.name != name for column in common):
            yield Problem("no_identity", f"{table.name}.{name}", "both sides need this column: rows are known by it")
    for column in ours:
        if column.is_required and column.name not in filled and not column.is_filled and not column.is_computed:
            message = "it takes no null, has no default, and upstream does not have it"
            yield Problem("unfilled_column", f"{table.name}.{column.name}", message)

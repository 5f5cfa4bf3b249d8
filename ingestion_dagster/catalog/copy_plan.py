"""What is copied of one table, and how: columns, ranges of the upstream relation, and where rows' ids are looked up."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from ingestion_dagster.catalog import copy_sql, ids, upstream_types, urls
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS, TableSpec
from ingestion_dagster.catalog.upstream_types import Column
from ingestion_dagster.engine.postgres import Connection

OLDEST_WITH_RANGES = 140_000
"""Postgres 14 reads a range of a table's pages without reading the rest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The copy of one table.

    `columns`: what is copied, in the order of the stream. `sources`: a SELECT for each range. `estimate`: rows, as far as upstream's
    statistics tell. `keys`, `addresses`: SELECTs of the identities, and of all addresses in one column.
    `known`: tables to look ids up in, the first that has one decides. `highest`: the highest id in them, or that
    the live one's sequence has given.
    """

    table: TableSpec
    columns: tuple[Column, ...]
    sources: tuple[sql.Composed, ...]
    keys: sql.Composed
    addresses: sql.Composed | None
    estimate: int
    known: tuple[str, ...]
    highest: int
    id_type: str
    updated: bool

    @property
    def staged(self) -> sql.Identifier:
        """The table that is filled."""
        return sql.Identifier(NEXT, self.table.name)

    def names(self) -> sql.Composed:
        """The names of the columns."""
        return sql.SQL(", ").join(sql.Identifier(column.name) for column in self.columns)

    def has(self, name: str) -> bool:
        """Whether a column is filled."""
        return any(column.name == name for column in self.columns)


def in_order(table: TableSpec, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns as the stream has them: the identity first, then what cleaning looks at, `tags` last."""
    first = {name: place for place, name in enumerate(dict.fromkeys((*table.key, *urls.FIELDS, "title", "provider")))}
    return tuple(sorted(columns, key=lambda column: (column.name == "tags", first.get(column.name, len(first)))))


def source(
    table: TableSpec, columns: tuple[Column, ...], types: dict[str, str], limit: int | None, at: datetime, *, only: tuple[str, ...] = ()
) -> sql.Composed:
    """The SELECT of what is copied. With a limit, of the same rows each time if there is an `identifier` to order by."""
    expressions = {name: expression.replace("now()", "{now}") for name, expression in table.defaults}
    values: list[sql.Composable] = []
    for column in columns:
        name, kind = sql.Identifier(column.name), sql.SQL(column.raw_type)
        if column.name not in types:
            expression = sql.SQL(expressions[column.name]).format(now=sql.SQL("{}::timestamptz").format(sql.Literal(at)))
            values.append(sql.SQL("({})::{} AS {}").format(expression, kind, name))
        elif types[column.name] != column.type:
            values.append(sql.SQL("{}::{} AS {}").format(name, kind, name))
        else:
            values.append(name)
    wanted = [value for value, column in zip(values, columns, strict=True) if not only or column.name in only]
    statement = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(wanted), sql.Identifier(table.upstream))
    if limit is None:
        return statement
    if any(column.name == "identifier" for column in columns):
        statement += sql.SQL(" ORDER BY identifier")
    return statement + sql.SQL(" LIMIT {}").format(sql.Literal(limit))


def ranges(statement: sql.Composed, pages: int, pages_each: int) -> Iterator[sql.Composed]:
    """The SELECT in ranges of pages; together they are the whole relation, whatever it has grown to."""
    starts = list(range(0, max(pages, 1), pages_each))
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        after = sql.SQL(" WHERE ctid >= {}::tid").format(sql.Literal(f"({start},0)"))
        before = sql.SQL("") if end is None else sql.SQL(" AND ctid < {}::tid").format(sql.Literal(f"({end},0)"))
        yield statement + after + before


def make(upstream: Connection, api: Connection, table: TableSpec, at: datetime, limit: int | None, range_bytes: int) -> Plan:
    """Plan the copy of a table, of which `upstream_types.problems` finds none."""
    name = upstream_types.qualified(upstream, table.upstream)
    theirs = upstream_types.columns(upstream, name)
    ours = upstream_types.columns(api, f"{LIVE}.{table.name}")
    types = {column.name: column.type for column in theirs}
    common = upstream_types.shared(theirs, ours)
    names = {column.name for column in common} | {name for name, _ in table.defaults}
    columns = in_order(table, tuple(column for column in ours if column.name in names))
    statement = source(table, columns, types, limit, at)
    row = upstream.execute(copy_sql.SIZE, {"name": name}).fetchone()
    assert row is not None
    pages, rows, page = row
    relation = upstream_types.kind(upstream, name)
    if limit is None and relation and relation[0] in ("r", "m") and upstream.info.server_version >= OLDEST_WITH_RANGES:
        sources = tuple(ranges(statement, pages or 0, max(range_bytes // page, 1)))
    else:
        sources = (statement,)
    known, highest = _known(api, table)
    return Plan(
        table=table,
        columns=columns,
        sources=sources,
        keys=source(table, columns, types, limit, at, only=table.key),
        addresses=_addresses(table, columns, types, limit, at),
        estimate=min(rows, limit or rows),
        known=known,
        highest=highest,
        id_type=next(column.type for column in ours if column.name == "id"),
        updated=any(column.name == "updated_on" for column in common),
    )


def _addresses(
    table: TableSpec, columns: tuple[Column, ...], types: dict[str, str], limit: int | None, at: datetime
) -> sql.Composed | None:
    """A SELECT of all addresses that are copied, in one column, in one pass."""
    names = tuple(column.name for column in columns if column.name in urls.FIELDS)
    if not names:
        return None
    rows = source(table, columns, types, limit, at, only=names)
    values = sql.SQL(", ").join(sql.SQL("({}::text)").format(sql.Identifier(name)) for name in names)
    return sql.SQL("SELECT value FROM ({}) AS source CROSS JOIN LATERAL (VALUES {}) AS address (value)").format(rows, values)


def _known(api: Connection, table: TableSpec) -> tuple[tuple[str, ...], int]:
    known, highest = [], ids.last_number(api, f"{LIVE}.{table.name}")
    for schema in (LIVE, PREVIOUS):
        if not upstream_types.columns(api, f"{schema}.{table.name}"):
            continue
        row = api.execute(sql.SQL(copy_sql.HIGHEST).format(table=sql.Identifier(schema, table.name))).fetchone()
        if row and row[0] is not None:
            known.append(schema)
            highest = max(highest, int(row[0]))
    return tuple(known), highest

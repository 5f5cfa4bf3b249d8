"""A table of the API: what it has, and making another one have the same."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import sql as psql

from ingestion_dagster.catalog import relations_sql as sql
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.postgres import Connection

ORDER = ("owner", "default", "option", "replica", "comment", "trigger", "trigger_comment", "grant", "row_security", "policy")
"""Facets in the order in which they are given. Not `trigger_state` and `publication`: those belong to what readers see alone."""

LIVE_ORDER = (*ORDER, "trigger_state", "publication")


@dataclass(frozen=True, slots=True)
class Facet:
    """One thing that a table has: what gives it, and what takes it away again (None: giving another replaces it)."""

    kind: str
    give: str
    take: str | None


@dataclass(frozen=True, slots=True)
class Index:
    """An index: its definition without the table, whether it can be used, and the constraint that it is part of."""

    name: str
    prefix: str
    rest: str
    is_valid: bool
    constraint: str | None
    constraint_type: str | None

    @property
    def what(self) -> tuple[str, str]:
        """What must be equal for two indexes to be the same."""
        return self.prefix, self.rest


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint: p primary key, u unique, x exclusion, c check, f foreign key, n not null; `index`: what holds it."""

    name: str
    type: str
    definition: str
    index: str | None
    is_deferrable: bool
    is_deferred: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table by its name, and its oid as it was looked up."""

    schema: str
    name: str
    oid: int

    @property
    def identifier(self) -> psql.Identifier:
        """Its qualified name."""
        return psql.Identifier(self.schema, self.name)

    @property
    def shown(self) -> str:
        """Its name as messages have it."""
        return f"{self.schema}.{self.name}"


def find(connection: Connection, schema: str, name: str) -> Relation | None:
    """The table of this name, if there is one."""
    row = connection.execute(sql.OID, {"schema": schema, "name": name}).fetchone()
    return Relation(schema, name, row[0]) if row else None


def need(connection: Connection, schema: str, name: str) -> Relation:
    """The table of this name. Raises `Refused` (`no_such_table`) if there is none."""
    found = find(connection, schema, name)
    if found is None:
        raise Refused(Problem("no_such_table", f"{schema}.{name}", "the API database does not have this table; begin a new refresh"))
    return found


def label(connection: Connection, schema: str, name: str) -> dict[str, Any]:
    """What a table's comment says about the refresh that made it; empty if it says nothing of the kind, or there is no such table."""
    row = connection.execute(sql.LABEL, {"schema": schema, "name": name}).fetchone()
    return read_label(row[0] if row else None)


def read_label(comment: str | None) -> dict[str, Any]:
    """The label in a table's comment; empty if the comment is somebody else's."""
    try:
        said = orjson.loads(comment or "")
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) and "refresh" in said else {}


def generation(connection: Connection, schema: str, name: str) -> str | None:
    """The suffix of the refresh that made a table; None if none did. If somebody has written over its comment, our own record counts."""
    found = label(connection, schema, name).get("refresh")
    if found is None and connection.execute(sql.GENERATIONS_THERE).fetchone() == (True,):
        row = connection.execute(sql.GENERATION, {"schema": schema, "name": name}).fetchone()
        found = row[0] if row else None
    return str(found) if found is not None else None


def columns(connection: Connection, relation: Relation) -> dict[str, str]:
    """Type, null rule and generation of each column, by name."""
    return dict(connection.execute(sql.COLUMNS, {"oid": relation.oid}).fetchall())


def indexes(connection: Connection, relation: Relation) -> dict[str, Index]:
    """The indexes by name, those of constraints too."""
    found = {}
    for name, prefix, table, definition, is_valid, constraint, constraint_type in connection.execute(sql.INDEXES, {"oid": relation.oid}):
        start = f"{prefix}{table}"
        if not definition.startswith(f"{start} "):
            raise Refused(Problem("index_not_understood", f"{relation.shown}.{name}", "its definition cannot be read; report this"))
        found[name] = Index(name, prefix, definition[len(start) :], is_valid, constraint, constraint_type)
    return found


def constraints(connection: Connection, relation: Relation, group: Sequence[Relation], schema: str) -> dict[str, Constraint]:
    """The constraints by name. Tables of `group`, where a foreign key names one, are written as of `schema`."""
    rows = connection.execute(sql.CONSTRAINTS, {"oid": relation.oid, "group": [table.oid for table in group], "schema": schema})
    return {row[0]: Constraint(*row) for row in rows}


def facets(connection: Connection, relation: Relation, target: Relation) -> list[Facet]:
    """All else that a table has, as statements for `target`."""
    parameters = {"oid": relation.oid, "target": target.identifier.as_string(connection), "schema": target.schema}
    return [Facet(*row) for row in connection.execute(sql.FACETS, parameters)]


def match(connection: Connection, wanted: Sequence[Facet], target: Relation, kinds: Collection[str]) -> int:
    """Make `target` have the facets that are wanted, of these kinds, and no others; how many statements that took."""
    changes = 0
    there = facets(connection, target, target)
    for kind in LIVE_ORDER:
        if kind not in kinds:
            continue
        statements = [facet.take for facet in there if facet.kind == kind and facet not in wanted and facet.take]
        statements += [facet.give for facet in wanted if facet.kind == kind and facet not in there]
        for statement in statements:
            connection.execute(statement.encode())
        if statements:
            # One may bring another: an owner has privileges, a trigger is switched on when it is made.
            there = facets(connection, target, target)
        changes += len(statements)
    return changes


def lacking(connection: Connection, wanted: Sequence[Facet], target: Relation, kinds: Collection[str]) -> list[Facet]:
    """Facets of these kinds that are wanted and that `target` does not have."""
    there = facets(connection, target, target)
    return [facet for facet in wanted if facet.kind in kinds and facet not in there]

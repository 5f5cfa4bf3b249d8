"""What others have on the live tables: foreign keys and views that follow a swap, and what cannot follow and so forbids one."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql as psql

from ingestion_dagster.catalog import dependents_sql as sql
from ingestion_dagster.catalog import relations
from ingestion_dagster.catalog.registry import MEDIA_TYPES, MediaType
from ingestion_dagster.catalog.relations import Relation
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.foreign_keys import ForeignKey, foreign_keys_to
from ingestion_dagster.engine.postgres import Connection


@dataclass(frozen=True, slots=True)
class OutwardKey:
    """A foreign key that a live table holds to one outside its group. `may_lock`: whether we may lock the table that it names."""

    name: str
    definition: str
    comment: str | None
    schema: str
    referenced: str
    may_lock: bool


@dataclass(frozen=True, slots=True)
class View:
    """A view that reads a live table itself. `options`: as `WITH (…)` takes them."""

    schema: str
    name: str
    owner: str
    definition: str
    options: list[str] | None

    @property
    def identifier(self) -> psql.Identifier:
        """Its qualified name."""
        return psql.Identifier(self.schema, self.name)


def unsupported(api: Connection, media: MediaType) -> tuple[Problem, ...]:
    """What hangs on the live tables of a media type and cannot be taken along by a promotion, by name; none: it can be promoted."""
    with api.transaction():
        api.execute("SET LOCAL search_path = ''")
        live = [found for table in media.tables if (found := relations.find(api, LIVE, table.name))]
        oids = [table.oid for table in live]
        names = [table.name for other in MEDIA_TYPES.values() if other.name != media.name for table in other.tables]
        others = [found.oid for name in names if (found := relations.find(api, LIVE, name)) and found.oid not in oids]
        rows = api.execute(sql.IN_THE_WAY, {"oids": oids, "others": others}).fetchall()
    message = "a promotion would leave it behind on the old table: drop it, or make it a plain view or a plain foreign key"
    return tuple(Problem("cannot_follow", row[0], message) for row in rows)


def foreign_keys(connection: Connection, tables: Sequence[Relation]) -> list[ForeignKey]:
    """Foreign keys of tables outside the group to those in it."""
    return foreign_keys_to(connection, [table.oid for table in tables])


def outward_keys(connection: Connection, table: Relation, group: Sequence[Relation]) -> list[OutwardKey]:
    """Foreign keys of a table to tables outside the group."""
    parameters = {"oid": table.oid, "oids": [other.oid for other in group]}
    return [OutwardKey(*row) for row in connection.execute(sql.OUTWARD_KEYS, parameters)]


def views(connection: Connection, tables: Sequence[Relation]) -> list[View]:
    """Views over the tables, in the order in which readers lock them."""
    return [View(*row) for row in connection.execute(sql.VIEWS, {"oids": [table.oid for table in tables]})]


def repoint(connection: Connection, view: View) -> None:
    """Have a view read the tables that bear the names of those it was read from; grants, options and comments stay."""
    options = psql.SQL(" WITH ({})").format(psql.SQL(", ".join(view.options))) if view.options else psql.SQL("")
    # Options and definition come from the server, with its quoting.
    statement = psql.SQL("CREATE OR REPLACE VIEW {}{} AS {}").format(view.identifier, options, psql.SQL(view.definition))
    connection.execute(statement)


def readers_left(connection: Connection, tables: Sequence[Relation]) -> list[str]:
    """Views and rules that still read these tables."""
    return [row[0] for row in connection.execute(sql.STILL_DEPENDENT, {"oids": [table.oid for table in tables]})]

"""Foreign keys that tables hold to given ones, as Postgres' catalogue tells of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from ingestion_dagster.engine.postgres import Connection

_TO = """
SELECT referenced.relname, k.conrelid, n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated,
       obj_description(k.oid, 'pg_constraint'),
       (SELECT array_agg(a.attname::text ORDER BY p.number)
        FROM unnest(k.conkey) WITH ORDINALITY AS p (attnum, number)
        JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.attnum),
       (SELECT array_agg(a.attname::text ORDER BY p.number)
        FROM unnest(k.confkey) WITH ORDINALITY AS p (attnum, number)
        JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = p.attnum)
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS referenced ON referenced.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = ANY(%(oids)s) AND k.conrelid <> ALL(%(besides)s)
ORDER BY n.nspname, c.relname, k.conname
"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key that a table (`schema`.`table`) holds to another (`referenced`); `definition` and `comment` are the server's own."""

    referenced: str
    table_oid: int
    schema: str
    table: str
    name: str
    definition: str
    is_validated: bool
    comment: str | None
    columns: list[str]
    referenced_columns: list[str]

    @property
    def holder(self) -> sql.Identifier:
        """The table that holds it."""
        return sql.Identifier(self.schema, self.table)

    @property
    def shown(self) -> str:
        """The table that holds it, as messages have it."""
        return f"{self.schema}.{self.table}"

    def __str__(self) -> str:
        return f"{self.name} of {self.shown}"


def foreign_keys_to(connection: Connection, oids: Sequence[int], *, besides: Sequence[int] | None = None) -> list[ForeignKey]:
    """Foreign keys to these tables, but for those that the tables `besides` hold (these themselves, unless others are given).

    Definitions name their tables with schemas where the `search_path` is empty.
    """
    parameters = {"oids": list(oids), "besides": list(oids if besides is None else besides)}
    return [ForeignKey(*row) for row in connection.execute(_TO, parameters)]

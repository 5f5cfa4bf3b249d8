"""One database for a whole test module, emptied before each test: quicker than a copy of the template for each."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.conftest import COPY_OF, TEMPLATE
from ingestion_dagster_tests.engine.processes import emptied


@contextmanager
def one_database(server: EmbeddedServer) -> Iterator[Database]:
    """A migrated database that is dropped in the end."""
    name = f"module_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(COPY_OF.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        try:
            yield Database.at(server.url(name))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def empty(database: Database) -> Database:
    """The same database without a row in the target tables and the ledger."""
    return emptied(database, "metrics", "ledger")

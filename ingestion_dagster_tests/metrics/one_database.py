"""One database for a whole test module, emptied before each test: quicker than a copy of the template for each."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.conftest import TEMPLATE

TABLES = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('metrics', 'ledger') AND tablename <> 'alembic_version'"


@contextmanager
def one_database(server: EmbeddedServer) -> Iterator[Database]:
    """A migrated database that is dropped in the end."""
    name = f"module_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        # No test of ours pulls the plug; waiting for the disk is most of a small load.
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(name)))
        try:
            yield Database.at(server.url(name))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def empty(database: Database) -> Database:
    """The same database without a row in the target tables and the ledger."""
    with database.connect() as connection, connection.transaction():
        tables = connection.execute(TABLES).fetchall()
        assert tables
        # Twice as quick as TRUNCATE for a few rows; without triggers, foreign keys do not ask for an order.
        connection.execute("SET LOCAL session_replication_role = replica")
        for table in tables:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(*table)))
    return database

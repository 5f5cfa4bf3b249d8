"""Real parts for the tests: one Postgres server a session, a migrated database for each test that asks."""

import os
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import botocore.session
import dagster as dg
import psycopg
import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage
from psycopg import sql

from ingestion_dagster.engine import embedded_postgres, postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.sandbox import servers
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine.processes import quick_folder

# Sessions of the tests' own share what they have read of AWS's services, as the package's do.
botocore.session.create_loader = cache(botocore.session.create_loader)

TEMPLATE = "migrated"

COPY_OF = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
"""A database as a copy of another one, file by file: the other way goes through the log, which takes twice the time."""

_HURRIED = ("fsync", "full_page_writes", "synchronous_commit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files about the whole product: they have few tests, which take longest, and would keep one worker busy at the end."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(autouse=True)
def dagster_home_of_its_own() -> Iterator[None]:
    """What an entry point has set in this process for one test's folder is not there for the next: that folder may be gone."""
    before = os.environ.get("DAGSTER_HOME")
    yield
    if before is None:
        os.environ.pop("DAGSTER_HOME", None)
    else:
        os.environ["DAGSTER_HOME"] = before


@pytest.fixture(autouse=True)
def no_dagster_instance_left() -> Iterator[None]:
    """A Dagster instance that is entered twice stays the one that definitions ask while they load, though its folder is gone."""
    with set_defs_state_storage(None):
        yield


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A Postgres server of this session's own, with a migrated database to copy from.

    It waits for no disk: what it has written outlives its processes all the same, though not its machine.
    """
    with quick_folder() as home:
        started = embedded_postgres.start(home)
        try:
            with psycopg.connect(started.conninfo("postgres"), autocommit=True) as connection:
                for name in _HURRIED:
                    connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(name)))
                connection.execute("SELECT pg_reload_conf()")
            embedded_postgres.ensure_database(started, TEMPLATE)
            postgres.upgrade(Database.at(started.url(TEMPLATE)))
            yield started
        finally:
            embedded_postgres.stop(home)


@pytest.fixture
def database(server: EmbeddedServer) -> Iterator[Database]:
    """A migrated database of the test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(COPY_OF.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
    yield Database.at(server.url(name))
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def settings(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The environment of a fresh installation, for this process and those it starts: own database, own home, nothing settles.

    What of the sandbox has been started for it is stopped.
    """
    monkeypatch.setenv("INGESTION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INGESTION_DATABASE_URL", database.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_SETTLE_SECONDS", "0")
    assert "INGESTION_STORAGE_URL" not in os.environ
    yield current()
    servers.down(tmp_path / "home")

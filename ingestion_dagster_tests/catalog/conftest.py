"""Databases for each test that asks, on the session's server, and places that lead to them; a world of a session's own, to be copied."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.catalog import driver, pictures, worlds
from ingestion_dagster_tests.catalog.search_server import opensearch
from ingestion_dagster_tests.catalog.worlds import World

__all__ = ["opensearch"]


@contextmanager
def made(server: EmbeddedServer, kind: str) -> Iterator[Database]:
    """An empty database, dropped at the end."""
    name = f"{kind}_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield Database.at(server.url(name))
    finally:
        with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def upstream(server: EmbeddedServer) -> Iterator[Database]:
    """An empty upstream database."""
    with made(server, "upstream") as database:
        yield database


@pytest.fixture
def api(server: EmbeddedServer) -> Iterator[Database]:
    """An empty database of the API."""
    with made(server, "api") as database:
        yield database


@pytest.fixture
def catalog_settings(settings: Settings, upstream: Database, api: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A fresh installation whose catalogue has an upstream and an API database of its own, and the embedded index; no host is probed."""
    monkeypatch.setenv("INGESTION_CATALOG_UPSTREAM_URL", upstream.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_API_DATABASE_URL", api.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_SEARCH_URL", (tmp_path / "search").as_uri())
    monkeypatch.setenv("INGESTION_CATALOG_PROBE_SECONDS", "0")
    return current()


@pytest.fixture
def places(catalog_settings: Settings) -> Places:
    """Where that installation reads and writes."""
    return Places.of(catalog_settings)


@pytest.fixture
def ledger(places: Places) -> Iterator[Connection]:
    """A connection to that installation's ledger."""
    with places.ledger.connect() as connection:
        yield connection


@pytest.fixture(scope="session")
def one(server: EmbeddedServer) -> Iterator[World]:
    """The world before the refresh; to be copied, never to be changed."""
    with worlds.prepared(server) as world:
        yield world


@pytest.fixture(scope="session")
def old(one: World) -> dict[str, Any]:
    """What readers see before it."""
    return pictures.picture(one)


@pytest.fixture(scope="session")
def undisturbed(server: EmbeddedServer, one: World) -> dict[str, Any]:
    """What is left behind when nobody dies."""
    with worlds.copied(server, one) as world:
        driver.refresh(world.settings)
        return pictures.left_behind(world)

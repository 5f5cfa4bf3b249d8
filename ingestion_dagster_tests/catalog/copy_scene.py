"""Tables upstream and of the API, and copies between them, for tests of the copy."""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import copy, refreshes
from ingestion_dagster.catalog.copy import Copied
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.conftest import made

PAGE = 8192


UPSTREAM = """
CREATE TABLE {name} (
    identifier uuid PRIMARY KEY, created_on timestamptz NOT NULL, updated_on timestamptz NOT NULL, ingestion_type varchar(80),
    provider varchar(80), source varchar(80), foreign_identifier varchar(3000), foreign_landing_url varchar(1000), url varchar(3000),
    thumbnail varchar(3000), filesize integer, license varchar(50) NOT NULL, license_version varchar(25), creator varchar(2000),
    creator_url varchar(2000), title varchar(5000), meta_data jsonb, tags jsonb, watermarked boolean, last_synced_with_source timestamptz,
    removed_from_source boolean NOT NULL, filetype varchar(5), category varchar(80), standardized_popularity double precision{more});
"""


SOUND = ", duration integer, bit_rate integer, sample_rate integer, genres varchar(80)[], audio_set jsonb, alt_files jsonb"


AUDIOSET_VIEW = """
CREATE VIEW audioset_view AS
SELECT DISTINCT (audio_set ->> 'foreign_identifier')::varchar(1000) AS foreign_identifier, (audio_set ->> 'title')::varchar(2000) AS title,
       (audio_set ->> 'url')::varchar(1000) AS url, (audio_set ->> 'filesize')::integer AS filesize, provider
FROM audio WHERE audio_set IS NOT NULL;
"""


INSERT = """
INSERT INTO {name} (
    identifier, created_on, updated_on, provider, foreign_identifier, url, license, removed_from_source, title, meta_data, tags)
SELECT md5(n::text)::uuid, '2024-01-01', '2024-01-02'::timestamptz + n * interval '1 second',
       CASE WHEN n % 3 = 0 THEN 'met' ELSE 'flickr' END, n::text,
       'https://a.example/' || n, 'by', false, 'Title ' || n, jsonb_build_object('n', n), '[{{"name": "cat", "accuracy": 0.950}}]'
FROM generate_series({first}, {last}) AS n
"""


def identifier(number: int) -> uuid.UUID:
    return uuid.UUID(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest())


class CopyScene:
    """An upstream with `image` and `audio`, an API database, and refreshes between them."""

    def __init__(self, places: Places) -> None:
        self.places = places
        with self.upstream() as connection:
            connection.execute(UPSTREAM.format(name="image", more=", width integer, height integer"))
            connection.execute(UPSTREAM.format(name="audio", more=SOUND))
            connection.execute(AUDIOSET_VIEW)

    @contextmanager
    def upstream(self) -> Iterator[Connection]:
        with self.places.upstream.connect() as connection:
            yield connection

    def fill(self, first: int, last: int, name: str = "image") -> None:
        with self.upstream() as connection:
            connection.execute(INSERT.format(name=name, first=first, last=last))

    def change(self, statement: str, *parameters: object) -> None:
        with self.upstream() as connection:
            connection.execute(statement, parameters or None)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.places.api.connect() as connection:
            return connection.execute(statement).fetchall()

    def begin(self, model: str = "image") -> Refresh:
        with self.places.ledger.connect() as connection:
            if known := refreshes.at_work(connection, model):
                refreshes.advance(connection, known, "discarded")
            count = len(refreshes.of_model(connection, model))
            return refreshes.request(connection, model, f"{model}-{count}", asked_by="test")

    def copy(self, model: str = "image", refresh: Refresh | None = None, **options: Any) -> list[Copied]:
        with self.places.ledger.connect() as connection:
            said: list[tuple[int, int]] = []
            media = MEDIA_TYPES[model]
            result = copy.copy_tables(
                self.places, connection, media, refresh or self.begin(model), "run-1", lambda *told: said.append(told), **options
            )
            assert said == sorted(said)
            assert said[-1][0] == sum(each.upstream_rows for each in result)
            return result

    def swap(self, name: str = "image") -> None:
        """As a promotion leaves it."""
        with self.places.api.connect() as connection:
            connection.execute(f"DROP TABLE IF EXISTS catalog_previous.{name}")
            connection.execute(f"ALTER TABLE public.{name} SET SCHEMA catalog_previous")
            connection.execute(f"ALTER TABLE catalog_next.{name} ADD PRIMARY KEY (id), ADD UNIQUE (identifier)")
            connection.execute(f"ALTER TABLE catalog_next.{name} SET SCHEMA public")

    def ids(self, schema: str = "catalog_next") -> dict[uuid.UUID, int]:
        rows = self.rows(f"SELECT identifier, id FROM {schema}.image")
        assert len({row[1] for row in rows}) == len(rows) == len({row[0] for row in rows})
        return dict(rows)


@pytest.fixture(scope="module")
def databases(server: EmbeddedServer) -> Iterator[tuple[Database, Database, Database]]:
    """A ledger's, an upstream and an API database for all tests of this module: dropping three for each test takes longer than the test."""
    with made(server, "ledger") as ledger, made(server, "upstream") as upstream, made(server, "api") as api:
        postgres.upgrade(ledger)
        yield ledger, upstream, api


@pytest.fixture
def world(databases: tuple[Database, Database, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyScene:
    """The three of them, emptied."""
    ledger, upstream, api = databases
    for database in (upstream, api):
        with database.connect() as connection:
            connection.execute("DROP SCHEMA IF EXISTS public, catalog_next, catalog_previous CASCADE")
            connection.execute("CREATE SCHEMA public")
    with ledger.connect() as connection:
        connection.execute("TRUNCATE catalog.refreshes, catalog.fixes, catalog.hosts, catalog.id_marks, ledger.loads CASCADE")
    monkeypatch.setenv("INGESTION_HOME", str(tmp_path))
    monkeypatch.setenv("INGESTION_DATABASE_URL", ledger.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_UPSTREAM_URL", upstream.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_API_DATABASE_URL", api.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_PROBE_SECONDS", "0")
    monkeypatch.setenv("INGESTION_CATALOG_RECORD_LIMIT", "0")
    return CopyScene(Places(current(), ledger, upstream, api))

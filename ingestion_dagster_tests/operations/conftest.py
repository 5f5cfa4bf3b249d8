"""A pipeline with loads that ended long ago, and a database that a module's tests share."""

from collections.abc import Iterator

import pytest

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine.processes import emptied
from ingestion_dagster_tests.metrics.conftest import Metrics
from ingestion_dagster_tests.metrics.one_database import one_database


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def metrics(shared: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """A metrics pipeline on the module's database, emptied: of what other pipelines keep there, too."""
    monkeypatch.setenv("INGESTION_DATABASE_URL", shared.sqlalchemy_url)
    return Metrics(current(), emptied(shared, "ledger", *PIPELINES))

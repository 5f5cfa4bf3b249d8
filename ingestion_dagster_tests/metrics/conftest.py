"""A metrics pipeline to drive by name: land, run, and look."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from ingestion_dagster.engine import landing, whereabouts
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.load import Job, load_metrics
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, zone
from ingestion_dagster.metrics.registry import FILE_TYPES
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.one_database import one_database


def time_series_payload(
    points: Sequence[tuple[str, float | None]] = (("2023-06-20", 10.0), ("2023-06-21", 11.5)), **changes: Any
) -> dict[str, Any]:
    """A good file of COVID-19 deaths: (date, value) points, no embargo, public; any header field replaced by `changes`."""
    payload: dict[str, Any] = {
        "parent_theme": "infectious_disease",
        "child_theme": "respiratory",
        "topic": "COVID-19",
        "metric_group": "deaths",
        "metric": "COVID-19_deaths_ONSByDay",
        "metric_frequency": "daily",
        "geography_type": "Nation",
        "geography": "England",
        "geography_code": "E92000001",
        "age": "all",
        "sex": "all",
        "stratum": "default",
        "refresh_date": "2023-10-10",
        "time_series": [{"epiweek": 25, "date": date, "metric_value": value, "embargo": None, "is_public": True} for date, value in points],
    }
    return payload | changes


def headline_payload(points: Sequence[tuple[str, str, float]] = (("2023-10-01", "2023-10-07", 10.0),), **changes: Any) -> dict[str, Any]:
    """A good headline file: (period start, period end, value) points, no embargo, public."""
    payload = time_series_payload(metric_group="headline", metric="COVID-19_headline_7DayAdmissions")
    del payload["metric_frequency"], payload["time_series"]
    payload["data"] = [
        {"period_start": start, "period_end": end, "metric_value": value, "embargo": None, "is_public": True}
        for start, end, value in points
    ]
    return payload | changes


@dataclass
class Metrics:
    """The pipeline in this process, without Dagster, over a database and a folder of its own."""

    settings: Settings
    database: Database

    def land(self, **files: dict[str, Any] | bytes) -> None:
        """Put files into the landing zone: `land(a=payload)` lands `a.json`."""
        for name, content in files.items():
            self.land_key(f"{name}.json", content)

    def land_key(self, key: str, content: dict[str, Any] | bytes) -> None:
        """Put one file under a key of the landing zone."""
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        zone(self.settings).landing.write(key, raw)

    def run(
        self,
        *,
        now: datetime | None = None,
        run_id: str = "test-run",
        limits: Limits | None = None,
        datasets: frozenset[str] | None = None,
        max_load_bytes: int = 64 * 1024 * 1024,
    ) -> Outcome:
        """Discover and load all there is."""
        clock = now or datetime.now(UTC)
        scope = Scope(PIPELINE, datasets)
        with self.database.connect() as connection:
            sync_datasets(connection, PIPELINE, DATASETS)
            landing.discover(connection, zone(self.settings), datetime.now(UTC), run_id)
            with Claims(self.database, scope, run_id, limits or Limits()) as claims:
                job = Job(zone(self.settings), datasets or frozenset(FILE_TYPES), clock, max_load_bytes)
                return load_metrics(claims, job, connection)

    def load(self, name: str, payload: dict[str, Any], **kwargs: Any) -> Outcome:
        """Land one file and run."""
        self.land_key(name, payload)
        return self.run(**kwargs)

    def states(self) -> list[dict[str, Any]]:
        """Every load as `status --loads --json` shows it."""
        with self.database.connect() as connection:
            return whereabouts.load_states(connection, PIPELINE)

    def statuses(self) -> dict[str, str]:
        """Status by key, of the newest version."""
        return {state["key"]: state["status"] for state in self.states()}

    def query(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Rows of a statement."""
        with self.database.connect() as connection:
            found = connection.execute(statement, parameters)
            return found.fetchall() if found.description else []

    def rows(self, table: str) -> int:
        """How many rows a table or view has."""
        return int(self.query(f"SELECT count(*) FROM {table}")[0][0])

    def keys(self, place: str) -> list[str]:
        """What stands in `in`, `processed`, `archive` or `failed`, sorted."""
        return sorted(seen.key for seen in open_store(f"{self.settings.storage}/metrics/{place}").list())

    def report(self, key: str) -> dict[str, Any]:
        """The report beside the refused file whose key (without suffix) begins like this."""
        store = open_store(f"{self.settings.storage}/metrics/failed")
        [found] = [seen for seen in store.list() if seen.key.startswith(key) and seen.key.endswith(".report.json")]
        content: dict[str, Any] = json.loads(store.read(found))
        return content


@pytest.fixture
def metrics(settings: Settings, database: Database) -> Metrics:
    """A fresh metrics pipeline."""
    return Metrics(settings, database)


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module: its `database` is `empty(shared)`."""
    with one_database(server) as made:
        yield made

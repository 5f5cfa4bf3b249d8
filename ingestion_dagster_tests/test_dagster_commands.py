"""Dagster's own commands over the definitions, as processes of their own: what a person types who has never heard of `ingestion`."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster import runs
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload

GOOD = time_series_payload()
CASES = time_series_payload(metric_group="cases", metric="COVID-19_cases_casesByDay")

Materialize = Callable[[str, str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def metrics(settings: Settings, database: Database) -> Metrics:
    return Metrics(settings, database)


@pytest.fixture
def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


@pytest.fixture
def dagster_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Dagster home that the processes share; in memory where there is such a folder, for SQLite waits for the disk a lot."""
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if os.access(in_memory, os.W_OK) else None) as folder:
        (Path(folder) / "dagster.yaml").write_bytes((Path(__file__).parent.parent / "dagster.yaml").read_bytes())
        monkeypatch.setenv("DAGSTER_HOME", folder)
        yield Path(folder)


@pytest.fixture
def materialize(dagster_home: Path, settings: Settings) -> Materialize:
    """`dagster asset materialize` in the empty folder in which each test starts: Dagster reads the `.env` of the one it is called in."""
    assert list(Path.cwd().iterdir()) == []

    def run(selection: str, partition: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "asset", "materialize", "-m", "ingestion_dagster.definitions"]
        return subprocess.run(
            [*command, "--select", selection, "--partition", partition],
            env=os.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    return run


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


def everything(metrics: Metrics) -> list[Any]:
    return [
        metrics.states(),
        metrics.query("SELECT count(*), max(id) FROM ledger.load_events"),
        metrics.query("SELECT t::text FROM metrics.core_time_series AS t ORDER BY 1"),
        metrics.query("SELECT t::text FROM metrics.api_time_series AS t ORDER BY 1"),
        metrics.query("SELECT t::text FROM metrics.series AS t ORDER BY 1"),
        *(metrics.keys(place) for place in ("in", "processed", "archive", "failed")),
    ]


def test_selected_file_type_is_loaded_alone_and_nine_times_more_change_nothing(
    materialize: Materialize, metrics: Metrics, instance: dg.DagsterInstance, today: str
) -> None:
    metrics.land(case=CASES, case2=CASES | {"age": "01+"}, deaths=GOOD, headline=headline_payload(), broken=b"{")
    first = materialize("metrics/cases", today)
    assert first.returncode == 0, first.stderr[-3000:]
    assert metrics.statuses() == {
        "case.json": "archived", "case2.json": "archived", "deaths.json": "ready", "headline.json": "ready", "broken.json": "errored",
    }  # fmt: skip
    assert {state["attempts"] for state in metrics.states()} == {0}
    assert metrics.query("SELECT DISTINCT metric FROM public.data_apitimeseries") == [(CASES["metric"],)]
    assert instance.get_materialized_partitions(dg.AssetKey(["metrics", "cases"])) == {today}
    before = _without_handed_back(everything(metrics))

    second = materialize("metrics/cases", today)
    assert second.returncode == 0, second.stderr[-3000:]
    job = defs.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as in_memory:
        for _ in range(8):
            assert job.execute_in_process(
                instance=in_memory, asset_selection=[dg.AssetKey(["metrics", "cases"])], partition_key=today
            ).success
    assert _without_handed_back(everything(metrics)) == before


def _without_handed_back(state: list[Any]) -> list[Any]:
    """Loads that were not selected are looked at and handed back by each run: their run id and events tell so."""
    loads = [{name: value for name, value in load.items() if name != "run_id" or load["status"] != "ready"} for load in state[0]]
    return [loads, *state[2:]]


def test_everything_is_loaded_by_its_group_and_by_ingestion_run_in_turns(
    materialize: Materialize, metrics: Metrics, instance: dg.DagsterInstance, today: str
) -> None:
    metrics.land(case=CASES)
    assert runs.run(METRICS, metrics.settings, runs.Request()).loads == 1
    metrics.land(deaths=GOOD, bad=GOOD | {"sex": "banana"}, headline=headline_payload())
    done = materialize("group:metrics", today)
    assert done.returncode == 0, done.stderr[-3000:]
    assert metrics.statuses() == {
        "case.json": "archived", "deaths.json": "archived", "bad.json": "errored", "headline.json": "archived",
    }  # fmt: skip
    before = everything(metrics)
    assert runs.run(METRICS, metrics.settings, runs.Request()).loads == 0
    assert everything(metrics) == before
    for name in ("cases", "deaths", "headline", "core_headline", "core_time_series", "api_time_series"):
        assert instance.get_materialized_partitions(dg.AssetKey(["metrics", name])) == {today}, name


def test_two_that_open_a_new_dagster_home_at_once_do_not_break_it(tmp_path: Path) -> None:
    """Dagster stamps its SQLite files without a lock: two at once left two revisions, and a home that never opened again."""
    opening = "from ingestion_dagster.engine.dagster import open_instance; open_instance().dispose()"
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    opened = [subprocess.Popen([sys.executable, "-c", opening], env=environment) for _ in range(3)]
    assert [process.wait() for process in opened] == [0, 0, 0]
    for database in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
        with closing(sqlite3.connect(tmp_path / database)) as connection:
            assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,), database

"""The sensors of operations: that they stand whatever a pipeline is like, and what the sweep takes from the dead."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import landing, ledger
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.operations.sensors import OPERATIONS, SWEEPS, watched
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

Tick = Callable[..., Any]

LOADED_ALONE = """
import sys
from ingestion_dagster.operations.definitions import defs
assert len(list(defs.get_repository_def().sensor_defs)) > len(%r)
print(*sorted(name for name in sys.modules if name.startswith("ingestion_dagster.") and name.endswith((".assets", ".sensors"))))
"""


@pytest.fixture
def metrics(settings: Settings, database: Database) -> Metrics:
    return Metrics(settings, database)


@pytest.fixture
def tick(metrics: Metrics, instance: dg.DagsterInstance) -> Tick:
    """One evaluation of the sweep of a pipeline as the daemon makes it."""
    repository = dg.Definitions(sensors=list(SWEEPS.values()), resources={"ingestion": INGESTION}).get_repository_def()

    def evaluate(pipeline: str) -> str:
        sensor = SWEEPS[pipeline]
        context = dg.build_sensor_context(
            instance=instance, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=sensor.name
        )
        return str(sensor.evaluate_tick(context).skip_message)

    return evaluate


@pytest.fixture
def broken_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    broken = tmp_path / "tables.yaml"
    broken.write_text("tables: [not a table")
    monkeypatch.setenv("INGESTION_CUBIC_TABLES", str(broken))
    return broken


def test_operations_load_though_a_registry_is_broken_and_need_no_pipelines_assets(broken_registry: Path) -> None:
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADED_ALONE % (list(PIPELINES),)],
        env={"PATH": os.environ["PATH"], "INGESTION_CUBIC_TABLES": str(broken_registry)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == [f"ingestion_dagster.{name}" for name in ("engine.sensors", "operations.assets", "operations.sensors")]


def test_a_pipeline_that_cannot_be_swept_keeps_no_other_from_it(tick: Tick, broken_registry: Path) -> None:
    with pytest.raises(ConfigurationError):
        tick("cubic")
    for name in PIPELINES.keys() - {"cubic"}:
        assert tick(name).startswith("0 loads returned to ready"), name


def test_a_dead_run_is_reported_failed_though_its_pipeline_cannot_be_swept(
    tick: Tick, metrics: Metrics, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="ingestion_dagster.definitions"), location_name="metrics")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "metrics_load")
    run = create_run_for_test(
        instance, job_name="metrics_load", status=dg.DagsterRunStatus.STARTED, tags={PIPELINE_TAG: PIPELINE}, remote_job_origin=origin
    )
    metrics.land(a=time_series_payload())
    with metrics.database.connect() as connection:
        landing.discover(connection, zone(metrics.settings), datetime.now(UTC))
        assert ledger.claim(connection, Scope(PIPELINE), run.run_id, count=10, size=10**9, lease_seconds=-1)
        ledger.expire(connection, PIPELINE, 3)
    monkeypatch.setenv("INGESTION_METRICS_LANDING_URL", "ftp://nowhere")
    with pytest.raises(ConfigurationError):
        tick(PIPELINE)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status == dg.DagsterRunStatus.FAILURE


def test_every_sensor_there_is_is_watched_but_the_watch_itself() -> None:
    everything = Settings(metrics_kinesis_stream="a stream")
    names = [name for sensors in watched(PIPELINES, everything).values() for name in sensors]
    assert sorted([*names, f"{OPERATIONS}_watch_sensor"]) == sorted(sensor.name for sensor in defs.get_repository_def().sensor_defs)


def test_every_pipeline_and_operations_have_a_code_server_of_their_own() -> None:
    workspace = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "workspace.yaml").read_text())
    servers = [entry["grpc_server"] for entry in workspace["load_from"]]
    assert sorted(server["location_name"] for server in servers) == sorted([*PIPELINES, OPERATIONS])
    assert all(server["host"] == server["location_name"] for server in servers)

"""deploy/dagster.yaml carries a real daemon: events and ticks in Postgres, logs in S3, and the queue runs what a sensor asks for."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import boto3
import dagster as dg
import psycopg
import pytest
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster_postgres.event_log import PostgresEventLogStorage
from moto.server import ThreadedMotoServer

from ingestion_dagster.engine import embedded_postgres

ROOT = Path(__file__).parent.parent
BUCKET = "compute-logs"
LOCATION = """
import dagster as dg


@dg.asset
def greeting() -> dg.MaterializeResult:
    print("a line for S3")
    return dg.MaterializeResult(metadata={"dagster/row_count": 7})


@dg.sensor(target=greeting, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=1)
def once_sensor():
    return dg.RunRequest(run_key="once", tags={"ingestion/queue": "trial"})


defs = dg.Definitions(assets=[greeting], sensors=[once_sensor])
"""

T = TypeVar("T")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The variables that deploy/dagster.yaml names, pointing at a Postgres and an S3 of this test's own."""
    home = tmp_path / "home"
    server = embedded_postgres.start(home)
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    try:
        embedded_postgres.ensure_database(server, "dagster")
        login = psycopg.conninfo.conninfo_to_dict(server.conninfo("dagster"))
        host = str(login.get("host", ""))
        by_socket = host.startswith("/")
        if by_socket:
            monkeypatch.setenv("PGHOST", host)
        dagster_home = tmp_path / "dagster"
        dagster_home.mkdir()
        shutil.copy(ROOT / "deploy" / "dagster.yaml", dagster_home)
        for name, value in {
            "DAGSTER_HOME": str(dagster_home),
            "DAGSTER_POSTGRES_HOST": "" if by_socket else host,
            "DAGSTER_POSTGRES_PORT": str(login.get("port", 5432)),
            "DAGSTER_POSTGRES_USER": str(login["user"]),
            "DAGSTER_POSTGRES_PASSWORD": str(login.get("password", "unused")),
            "DAGSTER_POSTGRES_DB": "dagster",
            "DAGSTER_COMPUTE_LOGS_BUCKET": BUCKET,
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*s3.get_host_and_port()),
            "AWS_REGION": "eu-west-2",
            "AWS_DEFAULT_REGION": "eu-west-2",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
        }.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-2"})
        yield
    finally:
        s3.stop()
        embedded_postgres.stop(home)


@pytest.fixture
def instance(environment: None) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def daemon(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[Path]:
    """A real dagster-daemon over one small location; its output, for a failure to show."""
    location = tmp_path / "location.py"
    location.write_text(LOCATION)
    output = tmp_path / "daemon.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.prefix) / "bin" / "dagster-daemon", "run", "-f", location],
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield output
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            # Its code servers and runs share its group; one that lost its database on the way would stay for ever.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(for_what: Callable[[], T | None], output: Path, seconds: float = 90) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := for_what()) is not None:
            return found
        time.sleep(0.5)
    pytest.fail(f"not seen within {seconds} s:\n{output.read_text()[-5000:]}")


def test_production_instance_ticks_queues_materializes_and_keeps_the_log(instance: dg.DagsterInstance, daemon: Path) -> None:
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)

    def finished() -> dg.DagsterRun | None:
        return next((run for run in instance.get_runs() if run.is_finished), None)

    run = _wait(finished, daemon)
    assert run.status is DagsterRunStatus.SUCCESS, daemon.read_text()[-5000:]
    assert run.tags["ingestion/queue"] == "trial"

    materialization = instance.get_latest_materialization_event(dg.AssetKey("greeting"))
    assert materialization is not None
    assert materialization.run_id == run.run_id
    assert materialization.asset_materialization is not None
    assert materialization.asset_materialization.metadata["dagster/row_count"].value == 7

    (state,) = instance.all_instigator_state()
    tick = next(t for t in instance.get_ticks(state.instigator_origin_id, state.selector_id) if t.status is TickStatus.SUCCESS)
    assert state.instigator_name == "once_sensor"
    assert tick.run_ids == [run.run_id]

    def log_in_s3() -> bytes | None:
        client = boto3.client("s3")
        for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=f"dagster/storage/{run.run_id}/").get("Contents", []):
            if entry["Key"].endswith(".out"):
                return client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        return None

    assert b"a line for S3" in _wait(log_in_s3, daemon, 30)

"""The sensor of the Kinesis stream: idle without one, bounded with one, and for the rest what the sensor of the landing zone is."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG
from ingestion_dagster.engine.datasets import pause_dataset
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.sensors import LoadingJob, stream_sensor
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.metrics.sensors import KINESIS, METRICS_JOB, metrics_kinesis_sensor
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

moto_server = s3.moto_server
aws_environment = s3.aws_environment

NAME = "sensed"
VARIABLE = "INGESTION_METRICS_KINESIS_STREAM"
GOOD = time_series_payload()
CASES = time_series_payload(metric_group="cases", metric="COVID-19_cases_casesByDay")

Send = Callable[[str, Any], None]
Tick = Callable[..., Any]


@pytest.fixture
def send(moto_server: str, aws_environment: pytest.MonkeyPatch) -> Iterator[Send]:
    """Sends a record to a new stream, which the environment names."""
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    aws_environment.setenv(VARIABLE, NAME)
    kinesis = boto3.client("kinesis", region_name="eu-west-2")
    kinesis.create_stream(StreamName=NAME, ShardCount=1)

    def sending(name: str, data: Any) -> None:
        kinesis.put_record(StreamName=NAME, Data=json.dumps({"name": name, "data": data}), PartitionKey="any")

    yield sending
    kinesis.delete_stream(StreamName=NAME)


@pytest.fixture
def tick(metrics: Metrics, instance: dg.DagsterInstance) -> Tick:
    """One evaluation as the daemon makes it."""
    repository = defs.get_repository_def()

    def evaluate(cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=repository,
            resources={"ingestion": INGESTION},
            sensor_name=metrics_kinesis_sensor.name,
        )
        return metrics_kinesis_sensor.evaluate_tick(context)

    return evaluate


def test_without_a_stream_a_tick_names_the_variable_and_touches_nothing(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    context = dg.build_sensor_context(
        instance=instance,
        repository_def=defs.get_repository_def(),
        resources={"ingestion": INGESTION},
        sensor_name="metrics_kinesis_sensor",
    )
    result = metrics_kinesis_sensor.evaluate_tick(context)
    assert result.run_requests == []
    assert result.skip_message == f"no stream is read: set {VARIABLE} to the name or ARN of one"


@pytest.mark.parametrize(
    ("sensors", "stream", "status"),
    [(None, None, "STOPPED"), ("running", None, "STOPPED"), ("stopped", NAME, "STOPPED"), ("running", NAME, "RUNNING")],
)
def test_sensor_runs_by_default_only_where_sensors_do_and_a_stream_is_set(
    sensors: str | None, stream: str | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, given in (("INGESTION_SENSORS", sensors), (VARIABLE, stream)):
        if given is not None:
            monkeypatch.setenv(name, given)
    assert stream_sensor("a_sensor", PIPELINE, zone, KINESIS, [LoadingJob(METRICS_JOB)]).default_status.value == status


def test_records_become_files_and_one_run_is_asked_for(send: Send, tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    send("in/a.json", GOOD)
    send("in/b.json", CASES)
    [request] = tick().run_requests
    assert request.partition_key is None
    assert request.tags[PIPELINE_TAG] == "metrics"
    assert metrics.statuses() == {"a.json": "ready", "b.json": "ready"}
    assert defs.resolve_job_def("metrics_load").execute_in_process(instance=instance, tags=request.tags).success
    assert metrics.statuses() == {"a.json": "archived", "b.json": "archived"}
    result = tick()
    assert result.run_requests == []
    assert result.skip_message == (
        "0 records read: 0 written, 0 known already, 0 poison; 1 shards, 0 s behind; "
        f"0 objects in {metrics.settings.storage}/metrics/in: 0 new, 0 being written; 0 loads claimable"
    )


def test_skipped_tick_says_what_became_of_the_records(send: Send, tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.load("a.json", GOOD)
    send("in/a.json", GOOD)
    send("", GOOD)
    result = tick()
    assert result.run_requests == []
    assert result.skip_message.startswith("2 records read: 0 written, 1 known already, 1 poison; 1 shards, 0 s behind; 0 objects in ")


def test_objects_of_the_landing_zone_are_discovered_too(send: Send, tick: Tick, metrics: Metrics) -> None:
    metrics.land(a=GOOD)
    assert len(tick().run_requests) == 1
    assert metrics.statuses() == {"a.json": "ready"}


def test_run_in_flight_keeps_the_next_one_back_and_records_are_read_all_the_same(
    send: Send, tick: Tick, metrics: Metrics, instance: dg.DagsterInstance
) -> None:
    send("in/a.json", GOOD)
    run = create_run_for_test(instance, job_name="metrics_load", status=dg.DagsterRunStatus.STARTED, tags={PIPELINE_TAG: PIPELINE})
    result = tick()
    assert result.run_requests == []
    assert result.skip_message.endswith(f"1 loads claimable; run {run.run_id[:8]} is started")
    assert metrics.statuses() == {"a.json": "ready"}


def test_shard_that_waits_for_a_paused_file_says_so_and_why(send: Send, tick: Tick, metrics: Metrics) -> None:
    metrics.load("first.json", CASES)
    with metrics.database.connect() as connection:
        pause_dataset(connection, PIPELINE, "cases", "under review")
    send("in/b.json", CASES | {"age": "01+"})
    tick()
    metrics.run()
    send("in/b.json", CASES | {"age": "02+"})
    result = tick()
    assert result.run_requests == []
    assert "1 of them wait until a file of the same name that stands in the landing zone has been loaded" in result.skip_message
    assert "1 of cases paused: under review" in result.skip_message


def test_stream_that_is_not_there_fails_the_tick_with_what_to_do(
    send: Send, tick: Tick, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "nowhere")
    with pytest.raises(ConfigurationError, match="correct its name"):
        tick()


def test_stream_that_gives_way_fails_the_tick_unless_there_is_something_to_load(
    send: Send, tick: Tick, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Transient, match="stream_unavailable"):
        tick()
    metrics.land(a=GOOD)
    assert len(tick().run_requests) == 1


def test_cursor_is_that_of_the_listing(send: Send, tick: Tick, metrics: Metrics) -> None:
    assert json.loads(tick().cursor) == {"version": 1, "skip": 0}
    metrics.land(a=GOOD)
    assert len(tick(cursor="garbage").run_requests) == 1

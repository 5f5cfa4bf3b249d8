"""The sensors of the metrics pipeline: what makes them ask for a run, what keeps them from it, and what the sweep takes from the dead."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import landing, ledger, moving
from ingestion_dagster.engine.dagster import ENVIRONMENT_TAG, INGESTION, PIPELINE_TAG
from ingestion_dagster.engine.datasets import pause_dataset, sync_datasets
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.sensors import not_now
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, zone
from ingestion_dagster.metrics.sensors import metrics_s3_sensor
from ingestion_dagster.operations.sensors import SWEEPS
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

GOOD = time_series_payload()
CASES = time_series_payload(metric_group="cases", metric="COVID-19_cases_casesByDay")

Tick = Callable[..., Any]


@pytest.fixture
def tick(metrics: Metrics, instance: dg.DagsterInstance) -> Tick:
    """One evaluation as the daemon makes it; returns its run requests, skip message and cursor."""
    repository = defs.get_repository_def()

    def evaluate(sensor: dg.SensorDefinition = metrics_s3_sensor, cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=sensor.name
        )
        return sensor.evaluate_tick(context)

    return evaluate


def run_of_ours(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="ingestion_dagster.definitions"), location_name="ingestion")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "metrics_load")
    return create_run_for_test(instance, job_name="metrics_load", status=status, tags={PIPELINE_TAG: PIPELINE}, remote_job_origin=origin)


# What makes it ask, and what it says when it does not


def test_new_file_makes_one_run_request_without_a_partition_key(tick: Tick, metrics: Metrics) -> None:
    metrics.land(a=GOOD, b=CASES)
    [request] = tick().run_requests
    assert request.partition_key is None
    assert request.run_key is None
    assert request.tags[PIPELINE_TAG] == "metrics"
    assert request.tags[ENVIRONMENT_TAG] == "local"
    assert metrics.statuses() == {"a.json": "ready", "b.json": "ready"}


def test_the_run_asked_for_loads_what_was_seen(tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(a=GOOD)
    [request] = tick().run_requests
    assert defs.resolve_job_def("metrics_load").execute_in_process(instance=instance, tags=request.tags).success
    assert metrics.statuses() == {"a.json": "archived"}
    assert tick().run_requests == []


def test_skipped_tick_says_what_it_saw(tick: Tick, metrics: Metrics) -> None:
    result = tick()
    assert result.run_requests == []
    place = f"{metrics.settings.storage}/metrics/in"
    assert result.skip_message == f"0 objects in {place}: 0 new, 0 being written; 0 loads claimable"


def test_paused_loads_are_seen_named_and_not_asked_for(tick: Tick, metrics: Metrics) -> None:
    metrics.load("first.json", CASES)
    with metrics.database.connect() as connection:
        pause_dataset(connection, PIPELINE, "cases", "under review")
    metrics.load("second.json", CASES | {"age": "01+"})
    result = tick()
    assert result.run_requests == []
    assert "0 loads claimable; 1 of cases paused: under review" in result.skip_message


def test_half_written_file_is_counted_and_left_alone(tick: Tick, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_SETTLE_SECONDS", "3600")
    metrics.land(growing=GOOD)
    result = tick()
    assert result.run_requests == []
    assert "1 objects" in result.skip_message
    assert "0 new, 1 being written" in result.skip_message
    assert metrics.states() == []
    monkeypatch.setenv("INGESTION_SETTLE_SECONDS", "0")
    assert len(tick().run_requests) == 1


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
)
def test_run_in_flight_keeps_the_next_one_back(
    tick: Tick, metrics: Metrics, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    metrics.land(a=GOOD)
    in_flight = run_of_ours(instance, status)
    result = tick()
    assert result.run_requests == []
    assert result.skip_message.endswith(f"1 loads claimable; run {in_flight.run_id[:8]} is {status.value.lower()}")
    assert metrics.statuses() == {"a.json": "ready"}, "discovery goes on"


def test_run_of_another_pipeline_keeps_nothing_back(tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(a=GOOD)
    create_run_for_test(instance, job_name="other", status=dg.DagsterRunStatus.STARTED, tags={PIPELINE_TAG: "other"})
    assert len(tick().run_requests) == 1


def test_more_runs_are_in_flight_where_the_setting_allows_it(
    tick: Tick, metrics: Metrics, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_RUNS_PER_PIPELINE", "2")
    metrics.land(a=GOOD)
    run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    assert len(tick().run_requests) == 1
    run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    assert tick().run_requests == []


# Back-off


def test_failed_run_is_not_followed_by_another_at_once(tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(a=GOOD)
    run_of_ours(instance, dg.DagsterRunStatus.FAILURE)
    result = tick()
    assert result.run_requests == []
    assert "the last 1 runs failed; the next attempt is due in " in result.skip_message


@pytest.mark.parametrize(("failures", "seconds"), [(1, 30), (2, 60), (3, 120), (6, 900), (8, 900)])
def test_back_off_doubles_up_to_a_quarter_of_an_hour(instance: dg.DagsterInstance, failures: int, seconds: int) -> None:
    for _ in range(failures):
        run_of_ours(instance, dg.DagsterRunStatus.FAILURE)
    now = datetime.now(UTC)
    assert not_now(instance, PIPELINE, "metrics_load", 1, now + timedelta(seconds=seconds - 5)) is not None
    assert not_now(instance, PIPELINE, "metrics_load", 1, now + timedelta(seconds=seconds + 1)) is None


def test_success_ends_the_back_off(instance: dg.DagsterInstance) -> None:
    run_of_ours(instance, dg.DagsterRunStatus.FAILURE)
    run_of_ours(instance, dg.DagsterRunStatus.SUCCESS)
    assert not_now(instance, PIPELINE, "metrics_load", 1, datetime.now(UTC)) is None


# The cursor


@pytest.mark.parametrize(
    "cursor", ["garbage", "[]", "null", "7", '{"skip": 5}', '{"version": 99, "skip": 1}', '{"version": 1, "skip": "x"}',
               '{"version": 1, "skip": -5}', '{"version": 1, "skip": null}']
)  # fmt: skip
def test_unreadable_cursor_costs_a_listing_and_a_warning_no_more(
    tick: Tick, metrics: Metrics, cursor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    metrics.land(a=GOOD)
    result = tick(cursor=cursor)
    assert len(result.run_requests) == 1
    assert json.loads(result.cursor) == {"version": 1, "skip": 0}
    assert "the cursor could not be read; listing from the start" in capfd.readouterr().err


def test_two_ticks_enter_a_file_once_and_two_runs_load_it_once(tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(a=GOOD)
    first = tick()
    second = tick(cursor=first.cursor)
    assert [state["key"] for state in metrics.states()] == ["a.json"]
    for request in (*first.run_requests, *second.run_requests):
        defs.resolve_job_def("metrics_load").execute_in_process(instance=instance, tags=request.tags)
    assert metrics.query("SELECT to_status FROM ledger.load_events ORDER BY id") == [
        (status,) for status in ("ready", "ingesting", "ready_for_archiving", "archiving", "archived")
    ]
    assert metrics.rows("metrics.core_time_series") == 2


def test_lost_cursor_finds_nothing_new(tick: Tick, metrics: Metrics) -> None:
    metrics.load("a.json", GOOD)
    tick()
    result = tick(cursor=None)
    assert result.run_requests == []
    assert len(metrics.states()) == 1


def test_long_listing_goes_on_at_the_next_tick_and_its_cursor_stays_small(
    tick: Tick, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.land(**{f"f{number}": GOOD | {"age": f"{number:02}+"} for number in range(5)})
    monkeypatch.setattr(landing, "PAGE", 2)
    monkeypatch.setattr(landing, "LISTING_SECONDS", -1.0)
    cursor, skips = None, []
    for _ in range(4):
        cursor = tick(cursor=cursor).cursor
        assert cursor is not None
        assert len(cursor) < 100
        skips.append(json.loads(cursor)["skip"])
    assert skips[:2] == [2, 4]
    assert 0 in skips, "the listing starts again"
    assert len(metrics.states()) == 5


# The sweep


def claimed_by(metrics: Metrics, run: dg.DagsterRun, *, lease_seconds: float) -> None:
    """Let a run hold everything that is claimable, as if it were at work or dead."""
    with metrics.database.connect() as connection:
        sync_datasets(connection, PIPELINE, DATASETS)
        landing.discover(connection, zone(metrics.settings), datetime.now(UTC))
        assert ledger.claim(connection, Scope(PIPELINE), run.run_id, count=10, size=10**9, lease_seconds=lease_seconds)


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_started_run_whose_leases_have_all_expired_is_reported_failed(tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(a=GOOD, b=CASES)
    dead = run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    claimed_by(metrics, dead, lease_seconds=-1)
    result = tick(SWEEPS[PIPELINE])
    assert result.run_requests == []
    assert result.skip_message == "2 loads returned to ready, 0 moves finished, 1 dead runs reported failed"
    assert status_of(instance, dead) == dg.DagsterRunStatus.FAILURE
    assert metrics.statuses() == {"a.json": "ready", "b.json": "ready"}
    assert "1 dead" not in tick(SWEEPS[PIPELINE]).skip_message


def test_run_that_still_holds_a_lease_is_left_alone(tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(a=GOOD)
    alive = run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    claimed_by(metrics, alive, lease_seconds=-1)
    tick(SWEEPS[PIPELINE])
    idle = run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    metrics.land(b=CASES)
    claimed_by(metrics, idle, lease_seconds=60)
    result = tick(SWEEPS[PIPELINE])
    assert result.skip_message == "0 loads returned to ready, 0 moves finished, 0 dead runs reported failed"
    assert status_of(instance, idle) == dg.DagsterRunStatus.STARTED


def test_run_that_lost_one_lease_and_took_another_is_alive(tick: Tick, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    run = run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    metrics.land(a=GOOD)
    claimed_by(metrics, run, lease_seconds=-1)
    with metrics.database.connect() as connection:
        ledger.expire(connection, PIPELINE, 3)
    claimed_by(metrics, run, lease_seconds=60)
    tick(SWEEPS[PIPELINE])
    assert status_of(instance, run) == dg.DagsterRunStatus.STARTED


def test_run_that_has_not_claimed_anything_yet_is_left_alone(tick: Tick, instance: dg.DagsterInstance) -> None:
    young = run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    tick(SWEEPS[PIPELINE])
    assert status_of(instance, young) == dg.DagsterRunStatus.STARTED


def test_moves_of_a_run_that_died_after_its_commit_are_finished_and_its_slot_is_freed(
    tick: Tick, metrics: Metrics, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    metrics.land(a=GOOD, bad=GOOD | {"sex": "banana"})
    with monkeypatch.context() as patch:
        patch.setattr(moving, "move", lambda *_arguments, **_named: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            metrics.run(run_id=dead.run_id)
    assert metrics.statuses() == {"a.json": "ready_for_archiving", "bad.json": "ready_for_erroring"}
    assert tick(SWEEPS[PIPELINE]).skip_message.startswith("0 loads returned to ready, 0 moves finished")
    metrics.query("UPDATE ledger.loads SET lease_until = now() - interval '1 second' RETURNING id")
    result = tick(SWEEPS[PIPELINE])
    assert result.skip_message == "0 loads returned to ready, 2 moves finished, 1 dead runs reported failed"
    assert metrics.statuses() == {"a.json": "archived", "bad.json": "errored"}
    assert metrics.keys("in") == []
    assert status_of(instance, dead) == dg.DagsterRunStatus.FAILURE

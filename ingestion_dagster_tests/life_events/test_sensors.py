"""The sensors of life events: what makes them ask for a run, what keeps them from it, and what they tell meanwhile."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test, instance_for_test

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG, QUEUE_TAG
from ingestion_dagster.life_events.pipeline import LOAD_JOB, PUBLISH_JOB
from ingestion_dagster.life_events.sensors import (
    life_events_outbox_sensor,
    life_events_s3_sensor,
)
from ingestion_dagster.operations.sensors import SWEEPS, WATCH
from ingestion_dagster_tests.life_events import driver
from ingestion_dagster_tests.life_events.scene import (
    LifeEvents,
    Run,
    file_of,
    instance,
    life_events,
    one_of_module,
    platform,
    run,
    stand_in_of_module,
)
from ingestion_dagster_tests.life_events.stand_in import StandIn

__all__ = ["instance", "life_events", "one_of_module", "platform", "run", "stand_in_of_module"]

PUBLISHED, RELEASED = dg.AssetKey(["life_events", "published_events"]), dg.AssetKey(["life_events", "released_events"])
NO_FILE = b"<DeathRegistrationGroup>"

Tick = Callable[..., Any]


@pytest.fixture
def tick(life_events: LifeEvents, instance: dg.DagsterInstance) -> Tick:
    """One evaluation as the daemon makes it; its run requests, skip message and cursor."""
    repository = defs.get_repository_def()

    def evaluate(
        sensor: dg.SensorDefinition = life_events_outbox_sensor, cursor: str | None = None, on: dg.DagsterInstance | None = None
    ) -> Any:
        context = dg.build_sensor_context(
            instance=on or instance, cursor=cursor, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=sensor.name
        )
        return sensor.evaluate_tick(context)

    return evaluate


@pytest.fixture
def staged(life_events: LifeEvents) -> LifeEvents:
    """Two events that are due."""
    life_events.drop("a.xml", file_of(1, 2))
    driver.run(life_events.settings)
    return life_events


def asked(result: Any) -> list[list[dg.AssetKey]]:
    """The assets of each run that a tick has asked for."""
    return [list(request.asset_selection or []) for request in result.run_requests]


def cursor(**seen: str) -> str:
    return json.dumps({"version": 1, "seen": seen})


# The landing zone


def test_a_file_makes_one_run_request_without_a_partition_key_and_that_run_loads_it(
    tick: Tick, life_events: LifeEvents, instance: dg.DagsterInstance
) -> None:
    life_events.drop("a.xml", file_of(1))
    life_events.drop("b.xml", NO_FILE)
    [request] = tick(life_events_s3_sensor).run_requests
    assert (request.partition_key, request.run_key) == (None, None)
    assert (request.tags[PIPELINE_TAG], request.tags[QUEUE_TAG]) == ("life_events", "life_events")
    assert life_events.statuses() == {"a.xml": "ready", "b.xml": "ready"}
    assert defs.resolve_job_def(LOAD_JOB).execute_in_process(instance=instance, tags=request.tags).success
    assert life_events.statuses() == {"a.xml": "archived", "b.xml": "errored"}
    assert tick(life_events_s3_sensor).run_requests == []


def test_an_empty_landing_zone_is_skipped_and_the_tick_says_what_it_saw(tick: Tick, life_events: LifeEvents) -> None:
    result = tick(life_events_s3_sensor)
    assert result.run_requests == []
    place = f"{life_events.settings.storage}/life_events/incoming"
    assert result.skip_message == f"0 objects in {place}: 0 new, 0 being written; 0 loads claimable"


def test_publishing_in_flight_keeps_no_load_back(tick: Tick, life_events: LifeEvents, instance: dg.DagsterInstance) -> None:
    life_events.drop("a.xml", file_of(1))
    create_run_for_test(instance, job_name=PUBLISH_JOB, status=dg.DagsterRunStatus.STARTED, tags={PIPELINE_TAG: "life_events"})
    assert len(tick(life_events_s3_sensor).run_requests) == 1


def test_the_sweep_gives_back_what_dead_runs_held(tick: Tick, life_events: LifeEvents) -> None:
    life_events.drop("a.xml", file_of(1))
    tick(life_events_s3_sensor)
    life_events.query("UPDATE ledger.loads SET status = 'ingesting', run_id = 'dead', claim = 1, lease_until = now() - interval '1 second'")
    assert tick(SWEEPS["life_events"]).skip_message.startswith("1 loads returned to ready")
    assert life_events.statuses() == {"a.xml": "ready"}


# The outbox


def test_nothing_due_is_skipped_and_the_tick_says_what_it_saw(tick: Tick, life_events: LifeEvents) -> None:
    result = tick()
    assert result.run_requests == []
    assert result.skip_message == "0 events due, the oldest for 0 s; 0 to be tried again, 0 dead letters"
    assert set(json.loads(result.cursor)["seen"]) == {"swept", "told", "ended"}


def test_events_that_are_due_make_one_run_request_and_that_run_publishes_them(
    tick: Tick, staged: LifeEvents, platform: StandIn, instance: dg.DagsterInstance
) -> None:
    result = tick()
    assert asked(result) == [[PUBLISHED]]
    [request] = result.run_requests
    assert (request.partition_key, request.run_key, request.tags[QUEUE_TAG]) == (None, None, PUBLISH_JOB)
    job = defs.resolve_job_def(request.job_name or PUBLISH_JOB)
    assert job.execute_in_process(instance=instance, asset_selection=request.asset_selection, tags=request.tags).success
    assert staged.records() == {"published": 2}
    assert tick(cursor=result.cursor).run_requests == []


def test_a_document_for_an_acquirer_is_due_too(tick: Tick, staged: LifeEvents) -> None:
    staged.query("UPDATE ledger.outbox SET topic = 'life_events.notify.dwp'")
    assert asked(tick()) == [[PUBLISHED]]


@pytest.mark.parametrize(
    "state",
    ["due_at = now() + interval '1 hour'", "claimed_until = now() + interval '1 minute'", "dead_at = now()", "topic = 'another.topic'"],
    ids=["later", "claimed", "dead", "another's"],
)
def test_what_cannot_be_sent_now_makes_no_run(tick: Tick, staged: LifeEvents, state: str) -> None:
    staged.query(f"UPDATE ledger.outbox SET {state}")
    assert tick().run_requests == []


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED], ids=["starting", "started"])
def test_a_run_in_flight_keeps_the_next_one_back(
    tick: Tick, staged: LifeEvents, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    tags = {PIPELINE_TAG: "life_events"}
    create_run_for_test(instance, job_name=LOAD_JOB, status=status, tags=tags)
    assert len(tick().run_requests) == 1, "a load is none of its runs"
    in_flight = create_run_for_test(instance, job_name=PUBLISH_JOB, status=status, tags=tags)
    result = tick()
    assert result.run_requests == []
    assert result.skip_message.endswith(f"0 dead letters; run {in_flight.run_id[:8]} is {status.value.lower()}")


def test_a_failed_run_is_not_followed_by_another_at_once(tick: Tick, staged: LifeEvents, instance: dg.DagsterInstance) -> None:
    create_run_for_test(instance, job_name=PUBLISH_JOB, status=dg.DagsterRunStatus.FAILURE, tags={PIPELINE_TAG: "life_events"})
    result = tick()
    assert result.run_requests == []
    assert "the last 1 runs failed; the next attempt is due in " in result.skip_message


def test_events_that_have_been_deleted_are_told_once(tick: Tick, staged: LifeEvents, run: Run) -> None:
    staged.query("DELETE FROM ledger.outbox")
    first = tick()
    assert first.run_requests == []
    staged.query("UPDATE life_events.records SET state = 'released', ended_at = now()")
    second = tick(cursor=first.cursor)
    assert asked(second) == [[RELEASED]]
    assert tick(cursor=second.cursor).run_requests == []


def test_what_is_deleted_while_a_run_is_in_flight_is_told_after_it(tick: Tick, staged: LifeEvents, instance: dg.DagsterInstance) -> None:
    staged.query("DELETE FROM ledger.outbox")
    first = tick()
    staged.query("UPDATE life_events.records SET state = 'released', ended_at = now()")
    in_flight = create_run_for_test(instance, job_name=PUBLISH_JOB, status=dg.DagsterRunStatus.STARTED, tags={PIPELINE_TAG: "life_events"})
    kept_back = tick(cursor=first.cursor)
    assert kept_back.run_requests == []
    instance.report_run_canceled(in_flight)
    assert asked(tick(cursor=kept_back.cursor or first.cursor)) == [[RELEASED]]


def test_events_past_their_time_are_swept_at_least_every_ten_minutes(tick: Tick, staged: LifeEvents, run: Run) -> None:
    staged.query("DELETE FROM ledger.outbox")
    staged.let_time_be_up()
    now = datetime.now(UTC)
    recently, long_ago = ((now - timedelta(minutes=minutes)).isoformat() for minutes in (9, 11))
    assert tick(cursor=cursor(swept=recently, ended="")).run_requests == []
    result = tick(cursor=cursor(swept=long_ago, ended=""))
    assert asked(result) == [[RELEASED]]
    run("released_events", job=PUBLISH_JOB)
    assert staged.records() == {"expired": 2}
    assert staged.count("life_events.events") == 0


@pytest.mark.parametrize(
    "lost",
    [None, "garbage", "null", "7", '{"version": 2, "seen": {}}', '{"version": 1, "seen": 7}', cursor(swept="garbage"),
     cursor(swept="2031-02-04"), cursor(swept="2031-02-04T09:30:00"), cursor(swept="9999-01-01T00:00:00+00:00"), cursor(ended="garbage")],
    ids=["none", "garbage", "null", "number", "newer", "no seen", "no time", "a day", "no zone", "the future", "no end"],
)  # fmt: skip
def test_a_lost_cursor_costs_a_look_and_no_more(tick: Tick, staged: LifeEvents, lost: str | None) -> None:
    staged.let_time_be_up()
    staged.query("UPDATE life_events.records SET state = 'released', ended_at = now()")
    result = tick(cursor=lost)
    assert asked(result) in ([[PUBLISHED, RELEASED]], [[PUBLISHED]])
    again = tick(cursor=result.cursor)
    assert asked(again) == [[PUBLISHED]]
    assert again.cursor == result.cursor


def test_a_time_to_come_in_the_cursor_does_not_put_off_the_sweep(tick: Tick, staged: LifeEvents) -> None:
    staged.let_time_be_up()
    assert asked(tick(cursor=cursor(swept="9999-01-01T00:00:00+00:00"))) == [[PUBLISHED, RELEASED]]


def test_refused_files_leave_quarantine_with_a_tick_when_their_time_is_up(tick: Tick, life_events: LifeEvents) -> None:
    life_events.drop("a.xml", NO_FILE)
    driver.run(life_events.settings)
    life_events.query("UPDATE ledger.loads SET finished_at = finished_at - interval '8 days'")
    tick(cursor=cursor(swept=datetime.now(UTC).isoformat()))
    assert life_events.quarantined()
    tick()
    assert life_events.quarantined() == []


# Alerts


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel for alerts at which nobody answers."""
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")


@pytest.mark.usefixtures("channel")
@pytest.mark.parametrize(
    ("state", "kind", "says"),
    [
        (
            "created_at = now() - interval '6 minutes'",
            "lag:life_events.publish",
            "2 events are due to the platform, the oldest for 6 minutes",
        ),
        ("dead_at = now()", "dead:life_events.publish", "2 events did not reach the platform"),
        ("dead_at = now(), topic = 'life_events.notify.dwp'", "dead:life_events.notify.dwp", "2 events did not reach acquirer dwp"),
    ],
    ids=["lag", "dead letters", "an acquirer's"],
)
def test_a_state_that_lasts_is_alerted_to_once(tick: Tick, staged: LifeEvents, state: str, kind: str, says: str) -> None:
    tick()
    assert staged.alerts() == []
    staged.query(f"UPDATE ledger.outbox SET {state}")
    for _ in range(2):
        tick()
    [(key, content)] = staged.query("SELECT key, content::text FROM ledger.alerts")
    assert key.startswith(f"life_events:{kind}:2")
    assert says in content


@pytest.mark.usefixtures("channel")
def test_an_outage_that_goes_on_is_one_alert_and_its_minutes_are_none_of_its_own(tick: Tick, staged: LifeEvents) -> None:
    staged.query("UPDATE ledger.outbox SET created_at = date_trunc('hour', now()) - interval '30 minutes'")
    for _ in range(2):
        tick()
        staged.query("DELETE FROM ledger.outbox WHERE id = (SELECT max(id) FROM ledger.outbox)")
    assert len(staged.alerts()) == 1


@pytest.mark.usefixtures("channel")
def test_a_name_of_the_daily_file_that_cannot_be_is_alerted_to_and_stops_no_publishing(
    tick: Tick, staged: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_EXPECTED_FILE", "always_the_same.xml")
    assert asked(tick()) == [[PUBLISHED]]
    assert [key.rpartition(":")[0] for key in staged.alerts()] == ["life_events:expected"]


@pytest.mark.usefixtures("channel")
def test_an_alert_comes_even_while_no_run_may_be_asked_for(tick: Tick, staged: LifeEvents, instance: dg.DagsterInstance) -> None:
    create_run_for_test(instance, job_name=PUBLISH_JOB, status=dg.DagsterRunStatus.FAILURE, tags={PIPELINE_TAG: "life_events"})
    staged.query("UPDATE ledger.outbox SET created_at = now() - interval '6 minutes'")
    assert tick().run_requests == []
    assert len(staged.alerts()) == 1


@pytest.mark.usefixtures("channel")
def test_a_daily_file_that_has_not_come_is_alerted_to_once_by_its_name(
    tick: Tick, life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_EXPECTED_FILE", "DI_D_%Y%m%d.xml")
    for _ in range(2):
        tick()
    [key] = life_events.alerts()
    name = key.removeprefix("life_events:overdue:")
    assert re.fullmatch(r"DI_D_\d{8}\.xml", name)
    life_events.query("DELETE FROM ledger.alerts")
    life_events.drop(name, file_of(1))
    tick(life_events_s3_sensor)
    tick()
    assert life_events.alerts() == []


# The watch


@pytest.mark.usefixtures("channel")
def test_a_file_that_nobody_takes_is_alerted_to_beyond_the_limit(
    tick: Tick, life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    life_events.drop("a.xml", file_of(1))
    tick(life_events_s3_sensor)
    life_events.query("UPDATE ledger.loads SET discovered_at = now() - interval '2 hours'")
    life_events.query("SET session_replication_role = replica; UPDATE ledger.load_events SET at = now() - interval '2 hours'")
    with driver.quick_folder() as folder, instance_for_test(temp_dir=str(folder)) as with_ticks:
        for minutes, alerts in (("180", []), ("60", ["stalled"])):
            monkeypatch.setenv("INGESTION_LIFE_EVENTS_CLAIMABLE_MINUTES", minutes)
            first = tick(WATCH, on=with_ticks)
            tick(WATCH, cursor=first.cursor, on=with_ticks)
            assert [key.partition(":")[0] for key in life_events.alerts()] == alerts, minutes

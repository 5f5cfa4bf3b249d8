"""The DMAP feeds under Dagster: what a run tells, and that one feed's trouble is not another's."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.cubic import fetch, fetch_sql
from ingestion_dagster.cubic.feed_assets import FeedDefinitions, definitions_of
from ingestion_dagster.cubic.feeds import feeds_of
from ingestion_dagster.cubic.fetch import landing_zone
from ingestion_dagster.cubic.registry import parse_registry
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG, QUEUE_TAG
from ingestion_dagster.engine.http import Http
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.sandbox import servers
from ingestion_dagster.sandbox.dmap_feed import DmapFeed
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine.conftest import one
from ingestion_dagster_tests.sandbox.running import running

__all__ = ["one"]

TABLES = """
tables:
  - {name: cubic__dmap__agg_demo, prefix: cubic/dmap/agg_demo/, kind: dmap}
  - {name: cubic__dmap__citation, prefix: cubic/dmap/citation/, kind: dmap}
  - {name: cubic__dmap__agg_daily_fareprod, prefix: cubic/dmap/agg_daily_fareprod/, kind: dmap}
  - {name: cubic__dmap__device_event, prefix: cubic/dmap/device_event/, kind: dmap, is_active: false}
"""
FEEDS = feeds_of(parse_registry(TABLES))
KEYS = {feed.type: dg.AssetKey(feed.asset) for feed in FEEDS}


@pytest.fixture
def home(one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INGESTION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INGESTION_DATABASE_URL", one.sqlalchemy_url)
    monkeypatch.setattr(fetch, "Http", partial(Http, first_pause=0))
    with one.connect() as connection:
        connection.execute("TRUNCATE cubic.dmap_datasets")
        connection.execute("DELETE FROM ledger.alerts")
    return tmp_path / "home"


@pytest.fixture
def feed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DmapFeed]:
    server = DmapFeed()
    with running(server) as url:
        monkeypatch.setenv("INGESTION_CUBIC_DMAP_URL", url)
        monkeypatch.setenv("INGESTION_CUBIC_DMAP_PUBLIC_KEY", "sandbox-public")
        monkeypatch.setenv("INGESTION_CUBIC_DMAP_CONTROLLED_KEY", "sandbox-controlled")
        yield server


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def offered(**settings: Any) -> FeedDefinitions:
    return definitions_of(FEEDS, Settings(**settings))


def run(instance: dg.DagsterInstance, *types: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        list(offered().assets),
        instance=instance,
        resources={"ingestion": INGESTION},
        selection=[KEYS[kind] for kind in types] if types else None,
        raise_on_error=False,
    )


def told(instance: dg.DagsterInstance, kind: str) -> dict[str, Any] | None:
    event = instance.get_latest_materialization_event(KEYS[kind])
    if event is None or event.asset_materialization is None:
        return None
    metadata = event.asset_materialization.metadata
    return {name: value.records if isinstance(value, dg.TableMetadataValue) else value.value for name, value in metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.asset_key.path[-1]: each.passed for each in result.get_asset_check_evaluations()}


def reason(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.error is not None
    return failure.step_failure_data.error.to_string()


def landed() -> list[str]:
    return sorted(seen.key for seen in landing_zone(current()).list())


def test_an_asset_and_a_check_for_each_feed_that_a_table_wants(home: Path):
    (step,) = offered().assets
    assert {key.to_user_string() for key in step.keys} == {
        "cubic/dmap_feed/agg_daily_fareprod",
        "cubic/dmap_feed/agg_demo",
        "cubic/dmap_feed/citation",
    }
    assert {(key.asset_key, key.name) for key in step.check_keys} == {(key, "nothing_invalid") for key in KEYS.values()}
    for spec in step.specs:
        assert (spec.group_name, spec.kinds, spec.skippable) == ("cubic", {"api", "csv"}, True)
        assert spec.owners
        assert spec.description
    assert definitions_of([], current()) == FeedDefinitions()


@pytest.mark.parametrize(("sensors", "status"), [("running", "RUNNING"), ("stopped", "STOPPED")])
def test_the_feeds_are_fetched_at_three_in_the_afternoon_utc_where_sensors_run(home: Path, sensors: str, status: str):
    feeds = offered(sensors=sensors)
    (schedule,) = feeds.schedules
    assert (schedule.cron_schedule, schedule.execution_timezone, schedule.default_status.value) == ("0 15 * * *", "UTC", status)
    job = dg.Definitions(assets=feeds.assets, jobs=feeds.jobs, resources={"ingestion": INGESTION}).resolve_job_def("cubic_dmap_fetch")
    assert job.tags[PIPELINE_TAG] == "cubic"
    assert job.tags[QUEUE_TAG] != "cubic"
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 1, 5, 15, tzinfo=UTC))
    requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    assert len(requests) == 1


def test_every_feed_is_fetched_and_tells_what_it_did(feed: DmapFeed, instance: dg.DagsterInstance):
    result = run(instance)
    assert result.success
    assert len(landed()) == 6
    assert checks(result) == dict.fromkeys(KEYS, True)
    metadata = told(instance, "citation")
    assert metadata is not None
    assert {name: metadata[name] for name in ("listed", "new", "uploaded", "unchanged", "invalid", "failed", "missing")} == {
        "listed": 2, "new": 2, "uploaded": 2, "unchanged": 0, "invalid": 0, "failed": 0, "missing": 0,
    }  # fmt: skip
    assert metadata["bytes"] > 0
    assert "problems" not in metadata
    assert run(instance).success
    again = told(instance, "citation")
    assert again is not None
    assert (again["new"], again["unchanged"]) == (0, 2)


def test_one_feed_can_be_fetched_by_itself(feed: DmapFeed, instance: dg.DagsterInstance):
    assert run(instance, "agg_demo").success
    assert {asked.path for asked in feed.asked if "/files/" not in asked.path} == {"/datasetpublicusersapi/aggregations/agg_demo"}
    assert told(instance, "citation") is None


def test_a_feed_that_is_down_fails_the_run_but_not_the_other_feeds(feed: DmapFeed, instance: dg.DagsterInstance):
    feed.faults.add("500", "list", times=10_000, of="agg_demo")
    result = run(instance)
    assert not result.success
    assert "agg_demo: 0 of 0 new datasets (1 http_server_error)" in reason(result)
    assert len(landed()) == 4
    assert told(instance, "agg_demo") is None
    assert told(instance, "citation") is not None
    assert set(checks(result)) == {"agg_daily_fareprod", "citation"}
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 2


def test_a_fault_that_has_passed_when_the_step_is_tried_again_leaves_nothing_out(feed: DmapFeed, instance: dg.DagsterInstance):
    feed.faults.add("500", "list", times=4, of="agg_demo")
    result = run(instance)
    assert result.success
    assert len(landed()) == 6
    assert told(instance, "agg_demo") is not None


def test_a_fault_that_lasts_is_told_at_once(feed: DmapFeed, instance: dg.DagsterInstance):
    feed.faults.add("404", "file", times=10_000, of="agg_demo_20260101")
    result = run(instance)
    assert not result.success
    assert "agg_demo: 1 of 2 new datasets (1 dmap_link_broken)" in reason(result)
    assert [event for event in result.all_events if event.is_step_up_for_retry] == []
    metadata = told(instance, "agg_demo")
    assert metadata is not None
    assert (metadata["uploaded"], metadata["failed"], metadata["missing"]) == (1, 1, 1)
    (problem,) = metadata["problems"]
    assert problem.data["code"] == "dmap_link_broken"


def test_a_feed_that_is_being_fetched_already_is_left_alone_and_not_said_to_be_fetched(
    feed: DmapFeed, instance: dg.DagsterInstance, one: Database
):
    with one.connect() as other:
        other.execute(fetch_sql.LOCK, {"lock": "cubic.dmap_feed:/datasetpublicusersapi/aggregations/agg_demo"})
        result = run(instance)
    assert result.success
    assert len(landed()) == 4
    assert (told(instance, "agg_demo"), "agg_demo" in checks(result)) == (None, False)


def test_a_record_that_cannot_be_followed_fails_the_check_and_not_the_run(
    feed: DmapFeed, instance: dg.DagsterInstance, one: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/alerts")
    feed.records["agg_demo"] = [{"id": "agg_demo", "dataset_id": "../marker"}]
    result = run(instance)
    assert result.success
    assert checks(result) == {"agg_daily_fareprod": True, "agg_demo": False, "citation": True}
    metadata = told(instance, "agg_demo")
    assert metadata is not None
    assert (metadata["listed"], metadata["uploaded"], metadata["invalid"]) == (3, 2, 1)
    assert "marker" not in repr(metadata)
    with one.connect() as connection:
        (content,) = connection.execute("SELECT content::text FROM ledger.alerts").fetchall()
    assert "nothing_invalid of cubic/dmap_feed/agg_demo" in content[0]


def test_a_key_that_is_missing_is_named_once_and_hinders_the_other_family_not(
    feed: DmapFeed, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("INGESTION_CUBIC_DMAP_PUBLIC_KEY")
    result = run(instance)
    assert not result.success
    assert reason(result).count("set INGESTION_CUBIC_DMAP_PUBLIC_KEY") >= 1
    assert [event for event in result.all_events if event.is_step_up_for_retry] == []
    assert [key.rpartition("/")[2] for key in landed()] == ["citation_20260101.csv.gz", "citation_20260102.csv.gz"]


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_without_a_url_nobody_but_a_laptop_is_sent_to_the_sandbox(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, environment: str
):
    monkeypatch.setenv("INGESTION_ENVIRONMENT", environment)
    result = run(instance, "agg_demo")
    assert not result.success
    assert "INGESTION_CUBIC_DMAP_URL" in reason(result)


def test_on_a_laptop_the_sandbox_is_asked_and_if_it_does_not_run_how_to_start_it_is_told(home: Path, instance: dg.DagsterInstance):
    result = run(instance)
    assert not result.success
    assert "ingestion sandbox up" in reason(result)
    servers.up(home)
    try:
        assert run(instance).success
        assert len(landed()) == 6
    finally:
        servers.down(home)
    assert date(2026, 1, 1).isoformat().replace("-", "") in landed()[0]


def test_no_key_and_no_signed_link_is_in_any_event(feed: DmapFeed, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    feed.keys = {"public": "marker-one", "controlled": "marker-two"}
    monkeypatch.setenv("INGESTION_CUBIC_DMAP_PUBLIC_KEY", "marker-one")
    monkeypatch.setenv("INGESTION_CUBIC_DMAP_CONTROLLED_KEY", "marker-wrong")
    feed.faults.add("html", "file", times=10_000, of="agg_demo_20260101")
    result = run(instance)
    assert not result.success
    assert "dmap_key_refused" in reason(result)
    for event in instance.all_logs(result.run_id):
        assert "marker-" not in repr(event)
        assert "signature=" not in repr(event)

"""The daily checks of life events, against ledgers that have been tampered with; and what is put in order before them."""

from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.life_events import checks
from ingestion_dagster.life_events.checks import DAILY, DAILY_SPECS, STANDING
from ingestion_dagster.life_events.definitions import defs
from ingestion_dagster_tests.life_events import driver
from ingestion_dagster_tests.life_events.scene import LifeEvents, file_of, life_events, one_of_module

__all__ = ["life_events", "one_of_module"]

NO_FILE = b"<DeathRegistrationGroup>"


@pytest.fixture(scope="module")
def dagster() -> Any:
    """Dagster's memory, in memory, of all these runs."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def daily(dagster: dg.DagsterInstance, life_events: LifeEvents) -> Any:
    """One run of the daily checks; those that have not passed, by name."""

    def check() -> dict[str, dict[str, Any]]:
        result = defs.resolve_job_def(STANDING.job.name).execute_in_process(instance=dagster)
        assert result.success
        found = result.get_asset_check_evaluations()
        assert sorted((each.asset_key, each.check_name) for each in found) == sorted((spec.asset_key, spec.name) for spec in DAILY_SPECS)
        return {
            each.check_name: {name: value.value for name, value in each.metadata.items()} | {"severity": each.severity.value}
            for each in found
            if not each.passed
        }

    return check


@pytest.fixture
def loaded(life_events: LifeEvents) -> LifeEvents:
    """One good file, loaded; its events are due."""
    life_events.drop("a.xml", file_of(1, 2))
    driver.run(life_events.settings)
    return life_events


def test_all_is_well_before_any_load_and_after_one(daily: Any, life_events: LifeEvents) -> None:
    assert daily() == {}
    life_events.drop("a.xml", file_of(1, 2))
    driver.run(life_events.settings)
    assert daily() == {}
    assert {spec.name for spec in DAILY_SPECS} == set(DAILY)


WAITED = """
    SET session_replication_role = replica;
    UPDATE ledger.load_events SET at = now() - interval '2 hours';
    UPDATE ledger.loads SET status = 'ready', finished_at = NULL, discovered_at = now() - interval '2 hours'
"""
TAMPERED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "records are missing in the ledger of files": (
        "UPDATE life_events.files SET accepted = accepted - 1", "counts_match", {"found": 1, "severity": "ERROR"},
    ),
    "rows do not add up, of whatever day": (
        "UPDATE ledger.loads SET rows_unchanged = rows_unchanged + 1, partition = '2026-01-02'", "rows_add_up", {"severity": "ERROR"},
    ),
    "an event is due for too long": (
        "UPDATE ledger.outbox SET created_at = now() - interval '6 minutes'",
        "published_in_time", {"due": 2, "limit_seconds": 300, "severity": "ERROR"},
    ),
    "an acquirer's document is due for too long": (
        "UPDATE ledger.outbox SET topic = 'life_events.notify.a', created_at = now() - interval '6 minutes'",
        "published_in_time", {"due": 2, "severity": "ERROR"},
    ),
    "an acquirer's queue has refused one": (
        "UPDATE ledger.outbox SET topic = 'life_events.notify.a', dead_at = now()", "no_dead_letters", {"dead_letters": 2},
    ),
    "the platform has refused an event": (
        "UPDATE ledger.outbox SET dead_at = now(), code = 'platform_400'", "no_dead_letters", {"dead_letters": 2, "severity": "WARN"},
    ),
    "an event is past its time": (
        "UPDATE life_events.events SET stored_at = now() - interval '8 days', expires_at = now() - interval '1 second'",
        "none_past_its_time", {"past": 2, "ttl_days": 7, "severity": "ERROR"},
    ),
    "a file has been waiting for hours": (WAITED, "claimed_in_time", {}),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_each_check_fails_for_its_own_reason(daily: Any, loaded: LifeEvents, what: str) -> None:
    statement, name, metadata = TAMPERED[what]
    loaded.query(statement)
    found = daily()
    assert set(found) == {name}
    assert {key: found[name][key] for key in metadata} == metadata


def test_a_refused_file_is_left_errored(daily: Any, loaded: LifeEvents) -> None:
    loaded.drop("b.xml", NO_FILE)
    driver.run(loaded.settings)
    assert set(daily()) == {"nothing_left_errored"}


def test_a_daily_file_that_has_not_come_is_named_with_when_it_was_due(
    daily: Any, loaded: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_EXPECTED_FILE", "DI_D_%Y%m%d.xml")
    found = daily()
    assert set(found) == {"daily_file_has_come"}
    name, due = found["daily_file_has_come"]["file"], found["daily_file_has_come"]["due"]
    assert name == f"DI_D_{due[:10].replace('-', '')}.xml"
    loaded.drop(name, file_of(3))
    driver.run(loaded.settings)
    assert daily() == {}


def test_a_name_without_a_day_fails_one_check_and_leaves_the_others_evaluated(
    daily: Any, loaded: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_EXPECTED_FILE", "always_the_same.xml")
    assert set(daily()) == {"daily_file_has_come"}


def test_the_limits_are_settings(daily: Any, loaded: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded.query("UPDATE ledger.outbox SET created_at = now() - interval '6 minutes'")
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_PUBLISH_MINUTES", "7")
    assert daily() == {}


def test_what_fails_is_alerted_to_warnings_too(daily: Any, loaded: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    loaded.query("UPDATE ledger.outbox SET dead_at = now()")
    daily()
    [(content,)] = loaded.query("SELECT content::text FROM ledger.alerts")
    assert "no_dead_letters of life_events/events_platform" in content


def test_what_has_been_kept_for_long_enough_goes_before_the_checks(daily: Any, loaded: LifeEvents) -> None:
    loaded.drop("b.xml", NO_FILE)
    driver.run(loaded.settings)
    assert len(loaded.quarantined()) == 2
    loaded.query("UPDATE ledger.loads SET finished_at = finished_at - interval '8 days' WHERE status = 'errored'")
    long_ago = "now() - interval '91 days'"
    loaded.query(f"UPDATE life_events.records SET state = 'released', seen_at = {long_ago}, ended_at = {long_ago}")
    daily()
    assert loaded.quarantined() == []
    assert loaded.records() == {}


@pytest.mark.parametrize(("due", "cron"), [("06:00", "5 6 * * *"), ("05:57", "2 6 * * *"), ("23:58", "3 0 * * *")])
def test_the_checks_are_made_five_minutes_after_the_file_is_due(due: str, cron: str) -> None:
    assert checks._cron(due) == cron


def test_they_keep_londons_time() -> None:
    assert (STANDING.schedule.cron_schedule, STANDING.schedule.execution_timezone) == ("5 6 * * *", "Europe/London")

"""Both steps under Dagster: what a run with and without a partition key takes, reports, checks and alerts to."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.definitions import defs
from ingestion_dagster.life_events.assets import life_events_files
from ingestion_dagster.life_events.checks import LOAD_CHECK_SPECS, PUBLISH_CHECK_SPECS, counts_and_codes_only
from ingestion_dagster.life_events.pipeline import LOAD_JOB, PUBLISH_JOB
from ingestion_dagster.life_events.publish_assets import life_events_events
from ingestion_dagster_tests.engine.results import evaluations, failed, materialized
from ingestion_dagster_tests.engine.test_notifications import Slack
from ingestion_dagster_tests.life_events.scene import (
    TODAY,
    YESTERDAY,
    LifeEvents,
    Run,
    bad,
    file_of,
    instance,
    life_events,
    one_of_module,
    platform,
    reason,
    registration,
    rows,
    run,
    stand_in_of_module,
)
from ingestion_dagster_tests.life_events.stand_in import StandIn

__all__ = ["instance", "life_events", "one_of_module", "platform", "run", "stand_in_of_module"]

COMMON = {
    "dagster/row_count", "dagster/partition_row_count", "loads_archived", "loads_errored", "loads_duplicate", "loads_late", "rows_in",
    "rows_written", "rows_unchanged", "rows_rejected", "bytes", "seconds", "load_statuses",
}  # fmt: skip
OF_FILES = COMMON | {
    "dagster/uri", "records_expected", "records_accepted", "records_duplicate", "records_quarantined", "ingest_lag_seconds", "bad_records",
}  # fmt: skip
STAGED = COMMON | {"dagster/table_name", "records"}
OF_EVENTS = {
    "dagster/row_count", "dagster/table_name", "rows_in", "rows_written", "rows_rejected", "records", "load_statuses",
}  # fmt: skip
PUBLISHED = OF_EVENTS | {"dagster/partition_row_count", "seconds", "dead_letters", "publish_lag_seconds"}
RELEASED = OF_EVENTS | {"alive", "creation_to_deletion_seconds_median", "creation_to_deletion_seconds_p99", "oldest_alive_seconds"}
NO_FILE = b"<DeathRegistrationGroup>"
TRIED_IN_VAIN = """
    INSERT INTO ledger.outbox (topic, key, created_at, due_at)
    VALUES ('life_events.publish', 'a', now() - interval '9 minutes', now() + interval '1 hour')
"""


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    made = Slack()
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", made.webhook.url)
    yield made
    made.stop()


def some(values: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(values[name] for name in names)


# Loading


def test_a_keyless_run_reports_each_day_it_touched_and_no_other(run: Run, life_events: LifeEvents, instance: dg.DagsterInstance) -> None:
    life_events.drop("old.xml", file_of(1))
    life_events.drop("new.xml", file_of(2))
    life_events.discovered_yesterday("old.xml")
    result = run()
    names = ("source_file", "staged_events")
    assert set(materialized(result)) == {(name, day) for name in names for day in (YESTERDAY, TODAY)}
    for name in names:
        assert instance.get_materialized_partitions(dg.AssetKey(["life_events", name])) == {YESTERDAY, TODAY}
    assert set(evaluations(result)) == {(spec.asset_key.path[-1], spec.name) for spec in LOAD_CHECK_SPECS}
    assert failed(result) == set()
    assert life_events.waiting() == []


@pytest.mark.parametrize("partition_key", [None, TODAY], ids=["keyless", "keyed"])
def test_every_materialization_speaks_the_whole_vocabulary_and_no_more(
    run: Run, life_events: LifeEvents, partition_key: str | None
) -> None:
    life_events.drop("a.xml", file_of(1, 1, 2, bad(3)))
    life_events.drop("b.xml", NO_FILE, 1)
    result = run(partition_key=partition_key)
    found = materialized(result)
    of_files, staged = found["source_file", TODAY], found["staged_events", TODAY]
    assert (set(of_files), set(staged)) == (OF_FILES | {"load_errors"}, STAGED | {"load_errors"})
    counted = ("loads_archived", "loads_errored", "rows_in", "rows_written", "rows_unchanged", "rows_rejected")
    assert some(of_files, *counted) == some(staged, *counted) == (1, 1, 4, 2, 1, 1)
    assert some(of_files, "records_expected", "records_accepted", "records_duplicate", "records_quarantined") == (4, 2, 1, 1)
    assert rows(of_files["bad_records"]) == {("missing_timestamp", "RecordLockedDateTime", "1")}
    assert of_files["dagster/uri"] == f"{life_events.settings.storage}/life_events/quarantine"
    assert of_files["ingest_lag_seconds"] >= 0
    assert rows(staged["records"]) == {("pending", 2)}
    assert failed(result) == {("source_file", "nothing_errored")}


def test_of_what_is_well_nothing_is_told_of_errors(run: Run, life_events: LifeEvents) -> None:
    life_events.drop("a.xml", file_of(1))
    found = materialized(run())
    assert (set(found["source_file", TODAY]), set(found["staged_events", TODAY])) == (OF_FILES, STAGED)


def test_a_partition_key_narrows_a_run_to_its_day(run: Run, life_events: LifeEvents) -> None:
    life_events.drop("old.xml", file_of(1))
    life_events.drop("new.xml", file_of(2))
    life_events.discovered_yesterday("old.xml")
    result = run(partition_key=YESTERDAY)
    assert life_events.statuses() == {"old.xml": "archived", "new.xml": "ready"}
    assert set(materialized(result)) == {("source_file", YESTERDAY), ("staged_events", YESTERDAY)}


@pytest.mark.parametrize("name", ["source_file", "staged_events"])
@pytest.mark.parametrize("partition_key", [None, TODAY], ids=["keyless", "keyed"])
def test_one_asset_by_itself_loads_whole_files_and_is_alone_in_what_is_told(
    run: Run, life_events: LifeEvents, name: str, partition_key: str | None
) -> None:
    life_events.drop("a.xml", file_of(1))
    result = run(name, partition_key=partition_key)
    assert set(materialized(result)) == {(name, TODAY)}
    assert set(evaluations(result)) == {(name, spec.name) for spec in LOAD_CHECK_SPECS if spec.asset_key.path[-1] == name}
    assert life_events.records() == {"pending": 1}
    assert life_events.waiting() == []


def backfill(instance: dg.DagsterInstance, definition: dg.AssetsDefinition, job: str) -> dg.ExecuteInProcessResult:
    """One run over both days, as Dagster's single-run backfill tags it."""
    assert definition.backfill_policy == dg.BackfillPolicy.single_run()
    tags = {"dagster/asset_partition_range_start": YESTERDAY, "dagster/asset_partition_range_end": TODAY}
    return defs.resolve_job_def(job).execute_in_process(instance=instance, tags=tags)


def test_a_backfill_over_two_days_is_one_run_of_both_steps(
    life_events: LifeEvents, platform: StandIn, instance: dg.DagsterInstance
) -> None:
    life_events.drop("old.xml", file_of(1))
    life_events.drop("new.xml", file_of(2, 3))
    life_events.discovered_yesterday("old.xml")
    loaded = backfill(instance, life_events_files, LOAD_JOB)
    assert loaded.success
    assert life_events.statuses() == {"old.xml": "archived", "new.xml": "archived"}
    assert failed(loaded) == set()
    published = backfill(instance, life_events_events, PUBLISH_JOB)
    assert published.success
    assert life_events.records() == {"published": 3}
    assert failed(published) == set()
    for name in ("source_file", "staged_events", "published_events", "released_events"):
        assert instance.get_materialized_partitions(dg.AssetKey(["life_events", name])) == {YESTERDAY, TODAY}, name


def test_nothing_to_load_is_a_run_that_is_well(run: Run) -> None:
    result = run()
    assert materialized(result) == {}
    assert failed(result) == set()
    assert len(evaluations(result)) == len(LOAD_CHECK_SPECS)
    assert set(materialized(run(partition_key=TODAY))) == {("source_file", TODAY), ("staged_events", TODAY)}


def test_a_file_without_registrations_is_loaded(run: Run, life_events: LifeEvents) -> None:
    life_events.drop("a.xml", file_of())
    result = run()
    assert some(materialized(result)["source_file", TODAY], "loads_archived", "rows_in", "records_expected") == (1, 0, 0)
    assert failed(result) == set()


@pytest.mark.parametrize("partition_key", [None, TODAY], ids=["keyless", "keyed"])
def test_replay_is_refused_with_the_reason_and_not_tried_again(run: Run, life_events: LifeEvents, partition_key: str | None) -> None:
    life_events.drop("a.xml", file_of(1))
    result = run(partition_key=partition_key, replay=True, raise_on_error=False)
    assert not result.success
    assert "life_events cannot replay: a file is deleted once its events are stored" in reason(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert life_events.loads() == []


def test_only_errored_takes_nothing_else(run: Run, life_events: LifeEvents) -> None:
    life_events.drop("a.xml", NO_FILE)
    run()
    life_events.drop("b.xml", file_of(1))
    run(only_errored=True)
    assert life_events.statuses() == {"a.xml": "errored"}
    assert life_events.waiting() == ["b.xml"]


def test_as_of_a_day_takes_only_what_had_been_discovered_by_then(run: Run, life_events: LifeEvents) -> None:
    life_events.drop("old.xml", file_of(1))
    life_events.drop("new.xml", file_of(2))
    life_events.discovered_yesterday("old.xml")
    run(as_of=YESTERDAY)
    assert life_events.statuses() == {"old.xml": "archived", "new.xml": "ready"}


def everything(life_events: LifeEvents) -> dict[str, Any]:
    """All rows, and all files below the home, by their content."""
    tables = life_events.query("SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('ledger', 'life_events')")
    found: dict[str, Any] = {table: life_events.query(f"SELECT t::text FROM {table} AS t ORDER BY 1") for (table,) in tables}
    return found | {str(path): path.read_bytes() for path in life_events.settings.home_folder.rglob("*") if path.is_file()}


def test_a_dry_run_is_an_observation_and_writes_nothing(run: Run, life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_MAX_FILE_BYTES", "6000")
    life_events.drop("a.xml", file_of(1, 1, bad(2)))
    life_events.drop("b.xml", NO_FILE)
    life_events.drop("c.xml", file_of(*range(40)))
    before = everything(life_events)
    result = run(dry_run=True)
    [observed] = [event.asset_observation_data.asset_observation for event in result.all_events if event.is_asset_observation]
    assert observed.asset_key.path == ["life_events", "landing_zone"]
    assert {name: value.value for name, value in observed.metadata.items()} == {
        "loads": 3, "errored": 2, "rows_in": 3, "rows_rejected": 1,
    }  # fmt: skip
    assert materialized(result) == {}
    assert everything(life_events) == before


def test_keys_that_are_missing_outside_a_laptop_are_a_mistake_that_is_not_retried(
    run: Run, life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "staging")
    monkeypatch.delenv("INGESTION_LIFE_EVENTS_HMAC_KEYS")
    life_events.drop("a.xml", file_of(1))
    result = run(raise_on_error=False)
    assert "staging needs keys of its own: set INGESTION_LIFE_EVENTS_HMAC_KEYS" in reason(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert life_events.waiting() == ["a.xml"]


def test_a_record_that_is_lost_on_the_way_fails_the_check_in_the_run_that_lost_it(
    run: Run, life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingestion_dagster.life_events import files

    real = files.Counted
    monkeypatch.setattr(files, "Counted", lambda **counted: real(**{**counted, "duplicates": counted["duplicates"] + 1}))
    life_events.drop("a.xml", file_of(1))
    assert failed(run()) == {("staged_events", "counts_match")}
    assert failed(run()) == set(), "of another run it is no concern; the daily check finds it"


@pytest.mark.parametrize(
    "value",
    [
        "PLACEHOLDER, Testy",
        "1 Imaginary Row",
        "O'EXAMPLE",
        "SYNTHÉTIC",
        dg.MetadataValue.md("a b"),
        dg.MetadataValue.json({"surname": "X"}),
    ],
    ids=["name", "address", "apostrophe", "accent", "markdown", "json"],
)
def test_what_looks_like_a_value_fails_the_check_that_tells_its_name_alone(value: Any) -> None:
    passed, severity, metadata = counts_and_codes_only([{"rows_in": 3, "dagster/uri": "file:///tmp/a%20b", "told": value}])
    assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert metadata == {"found": 1, "names": ["told"]}


def test_what_materializations_are_made_of_is_looked_at_as_dagster_keeps_it() -> None:
    made = dg.AssetMaterialization("a", metadata={"rows_in": 3, "seconds": 0.5, "told": "PLACEHOLDER", "dagster/uri": "s3://bucket/a"})
    assert counts_and_codes_only([made.metadata])[2] == {"found": 1, "names": ["told"]}


# Publishing


@pytest.fixture
def staged(run: Run, life_events: LifeEvents, platform: StandIn) -> LifeEvents:
    """An event of yesterday's file, and two of today's."""
    life_events.drop("old.xml", file_of(1))
    life_events.drop("new.xml", file_of(2, 3))
    life_events.discovered_yesterday("old.xml")
    run()
    return life_events


def test_a_keyless_publishing_reports_each_day_it_touched(run: Run, staged: LifeEvents, instance: dg.DagsterInstance) -> None:
    result = run(job=PUBLISH_JOB)
    found = materialized(result)
    assert {key for key in found if key[0] == "published_events"} == {("published_events", YESTERDAY), ("published_events", TODAY)}
    assert set(found["published_events", TODAY]) == PUBLISHED
    assert set(found["released_events", TODAY]) == RELEASED
    assert some(found["published_events", TODAY], "dagster/row_count", "dagster/partition_row_count", "dead_letters") == (2, 2, 0)
    assert some(found["published_events", YESTERDAY], "dagster/row_count", "dagster/partition_row_count") == (1, 1)
    assert rows(found["published_events", TODAY]["records"]) == {("published", 2)}
    assert some(found["released_events", TODAY], "dagster/row_count", "alive") == (0, 2)
    assert set(evaluations(result)) == {(spec.asset_key.path[-1], spec.name) for spec in PUBLISH_CHECK_SPECS}
    assert failed(result) == set()
    assert instance.get_materialized_partitions(dg.AssetKey(["life_events", "published_events"])) == {YESTERDAY, TODAY}
    assert staged.records() == {"published": 3}
    assert staged.count("ledger.outbox") == 0


def test_a_partition_key_publishes_its_day_alone(run: Run, staged: LifeEvents) -> None:
    result = run(job=PUBLISH_JOB, partition_key=YESTERDAY)
    found = materialized(result)
    assert set(found) == {("published_events", YESTERDAY), ("released_events", YESTERDAY)}
    assert (set(found["published_events", YESTERDAY]), set(found["released_events", YESTERDAY])) == (PUBLISHED, RELEASED)
    assert set(evaluations(result)) == {(spec.asset_key.path[-1], spec.name) for spec in PUBLISH_CHECK_SPECS}
    assert staged.records() == {"published": 1, "pending": 2}


@pytest.mark.parametrize("partition_key", [None, TODAY], ids=["keyless", "keyed"])
def test_each_of_its_assets_does_its_own_part(run: Run, staged: LifeEvents, platform: StandIn, partition_key: str | None) -> None:
    run("released_events", job=PUBLISH_JOB, partition_key=partition_key)
    assert platform.bodies == []
    result = run("published_events", job=PUBLISH_JOB, partition_key=partition_key)
    assert {asset for asset, _ in materialized(result)} == {"published_events"}
    assert {asset for asset, _ in evaluations(result)} == {"published_events"}
    staged.let_time_be_up()
    run("published_events", job=PUBLISH_JOB, partition_key=partition_key)
    assert staged.count("life_events.events") == 3
    result = run("released_events", job=PUBLISH_JOB, partition_key=partition_key)
    assert {asset for asset, _ in materialized(result)} == {"released_events"}
    assert set(staged.records()) == {"expired"}
    assert materialized(result)["released_events", TODAY]["dagster/row_count"] == 2
    assert failed(result) == set()


def test_nothing_due_is_a_run_that_is_well(run: Run, platform: StandIn) -> None:
    result = run(job=PUBLISH_JOB)
    assert materialized(result) == {}
    assert failed(result) == set()
    assert platform.token_forms == []


def test_a_platform_that_is_away_hinders_no_load_and_the_next_run_publishes(run: Run, staged: LifeEvents, platform: StandIn) -> None:
    platform.always = 503
    staged.drop("more.xml", file_of(4))
    assert run().success
    assert staged.records() == {"pending": 4}
    result = run(job=PUBLISH_JOB, raise_on_error=False)
    assert not result.success
    said = reason(result)
    assert said.startswith("the events platform (INGESTION_LIFE_EVENTS_PLATFORM_URL): ")
    assert said.endswith("nothing is lost, the next run goes on")
    assert platform.says not in said
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert staged.records() == {"pending": 4}
    platform.always = None
    staged.query("UPDATE ledger.outbox SET due_at = now(), claimed_until = NULL")
    assert run(job=PUBLISH_JOB).success
    assert staged.records() == {"published": 4}


@pytest.mark.parametrize("partition_key", [None, TODAY], ids=["keyless", "keyed"])
def test_an_outage_tells_of_what_got_through_before(
    run: Run, staged: LifeEvents, platform: StandIn, monkeypatch: pytest.MonkeyPatch, partition_key: str | None
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_REQUESTS_IN_FLIGHT", "1")
    platform.tokens.add("first")
    platform.token_answers = [(200, {"access_token": "first", "expires_in": 3600}), *[(503, {})] * 50]
    platform.answers = [(201, {}), *[(401, {})] * 50]
    result = run(job=PUBLISH_JOB, raise_on_error=False, partition_key=partition_key)
    assert not result.success
    assert staged.records() == {"published": 1, "pending": 2}
    told = {key: values["dagster/partition_row_count"] for key, values in materialized(result).items() if key[0] == "published_events"}
    assert list(told.values()) == [1]


def test_a_platform_that_lets_nobody_in_does_not_keep_what_is_past_its_time(run: Run, staged: LifeEvents, platform: StandIn) -> None:
    staged.let_time_be_up()
    platform.token_answers = [(400, {"error": "invalid_client"})] * 5
    staged.drop("more.xml", file_of(4))
    run()
    result = run(job=PUBLISH_JOB, raise_on_error=False)
    assert "INGESTION_LIFE_EVENTS_CLIENT_ID" in reason(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert staged.records() == {"expired": 3, "pending": 1}
    assert set(materialized(result)) == {("released_events", YESTERDAY), ("released_events", TODAY)}


def test_a_platform_that_is_nowhere_is_a_mistake_with_the_next_step(run: Run, staged: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INGESTION_LIFE_EVENTS_PLATFORM_URL")
    result = run(job=PUBLISH_JOB, raise_on_error=False)
    assert "ingestion sandbox up" in reason(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert staged.records() == {"pending": 3}


def test_production_has_no_sandbox_platform(run: Run, staged: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INGESTION_LIFE_EVENTS_PLATFORM_URL")
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "production")
    assert "production needs the real platform" in reason(run(job=PUBLISH_JOB, raise_on_error=False))


def test_what_the_platform_refuses_fails_its_check_and_holds_up_nobody(run: Run, staged: LifeEvents, platform: StandIn) -> None:
    [(refused,)] = staged.query("SELECT encode(record_key, 'hex') FROM life_events.records ORDER BY load_id DESC, ordinal LIMIT 1")
    platform.refused[refused] = 400
    result = run(job=PUBLISH_JOB)
    assert failed(result) == {("published_events", "no_dead_letters")}
    found = evaluations(result)["published_events", "no_dead_letters"]
    assert {name: value.value for name, value in found.metadata.items()} == {"dead_letters": 1, "next": "ingestion life_events republish"}
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert staged.records() == {"published": 2, "dead": 1}


def test_an_event_that_is_due_for_too_long_fails_its_check(run: Run, staged: LifeEvents) -> None:
    staged.query(TRIED_IN_VAIN)
    result = run(job=PUBLISH_JOB)
    assert failed(result) == {("published_events", "published_in_time")}
    found = evaluations(result)["published_events", "published_in_time"].metadata
    assert (found["due"].value, found["limit_seconds"].value) == (1, 300)


# Alerts


def test_a_run_with_trouble_alerts_once_by_counts_and_codes(run: Run, life_events: LifeEvents, slack: Slack) -> None:
    word = "Zyxwquark"
    life_events.drop("a.xml", file_of(1, registration(2, RecordLockedDateTime=word), registration(3, DeceasedGender=word)))
    life_events.drop("b.xml", NO_FILE, 1)
    run()
    assert [key.partition(":")[0] for key in life_events.alerts()] == ["errored"]
    [text] = slack.texts
    assert "not_well_formed" in text
    assert word not in text
    told = len(slack.texts)
    run()
    assert len(slack.texts) == told


def test_a_run_without_trouble_alerts_to_nothing(run: Run, life_events: LifeEvents, platform: StandIn, slack: Slack) -> None:
    life_events.drop("a.xml", file_of(1))
    run()
    run(job=PUBLISH_JOB)
    assert slack.texts == []


def test_a_check_that_fails_after_publishing_is_alerted_to(run: Run, staged: LifeEvents, slack: Slack) -> None:
    staged.query(TRIED_IN_VAIN)
    run(job=PUBLISH_JOB)
    [text] = slack.texts
    assert "published_in_time" in text

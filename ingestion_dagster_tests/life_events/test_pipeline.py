"""Life events as the commands see them, through Dagster in this process: landing, running, publishing what follows, and what is refused."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster import arrivals, demo, runs
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.in_process import RunFailed
from ingestion_dagster.life_events import places
from ingestion_dagster.life_events.pipeline import LIFE_EVENTS, LOAD_JOB, PUBLISH_JOB
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.sandbox import servers
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.life_events.scene import (
    SAMPLES,
    LifeEvents,
    bad,
    file_of,
    in_memory,
    life_events,
    one_of_module,
    platform,
    registration,
    stand_in_of_module,
)
from ingestion_dagster_tests.life_events.stand_in import StandIn
from ingestion_dagster_tests.sandbox.platform_asking import Client

__all__ = ["in_memory", "life_events", "one_of_module", "platform", "stand_in_of_module"]


pytestmark = pytest.mark.usefixtures("in_memory")


def codes(raw: bytes, **settings: Any) -> list[tuple[str, str]]:
    """What `check` says of a file: codes and severities."""
    told = LIFE_EVENTS.check(Settings(**settings), "a.xml", raw, lambda _key: None)
    return [(problem.code, problem.severity) for problem in told]


def test_the_pipeline_is_one_of_those_the_commands_know() -> None:
    assert PIPELINES["life_events"] is LIFE_EVENTS
    assert LIFE_EVENTS.datasets == ("source_file",)
    assert LIFE_EVENTS.asset_of("source_file") == ("life_events", "source_file")
    assert LIFE_EVENTS.asset_of("staged_events") is None
    assert [job.name for job in LIFE_EVENTS.jobs] == [LOAD_JOB]
    assert LIFE_EVENTS.follow_job == PUBLISH_JOB
    for name in (LOAD_JOB, PUBLISH_JOB):
        assert isinstance(defs.resolve_job_def(name), dg.JobDefinition)


def test_a_run_loads_what_is_landed_and_then_publishes_it(life_events: LifeEvents, platform: StandIn) -> None:
    landed = arrivals.land(LIFE_EVENTS, life_events.settings, [SAMPLES])
    assert len(landed.objects) == 11
    summary = runs.run(LIFE_EVENTS, life_events.settings, runs.Request())
    assert (summary.loads, summary.errored, summary.left) == (11, 7, 0)
    assert life_events.records() == {"published": 5}, "two of the files tell of nobody whom another does not"
    assert sorted(platform.events.values()) == [1] * 5
    assert life_events.waiting() == []
    arrivals.land(LIFE_EVENTS, life_events.settings, [SAMPLES])
    again = runs.run(LIFE_EVENTS, life_events.settings, runs.Request())
    assert (again.errored, again.rows_written) == (7, 0)
    assert sorted(platform.events.values()) == [1] * 5, "what has come before is not told again"


def test_a_platform_that_is_away_ends_the_run_after_what_it_has_loaded(life_events: LifeEvents, platform: StandIn) -> None:
    platform.token_always = 503
    life_events.drop("a.xml", file_of(1))
    with pytest.raises(RunFailed, match=r"the events platform .*; nothing is lost, the next run goes on"):
        runs.run(LIFE_EVENTS, life_events.settings, runs.Request())
    assert life_events.statuses() == {"a.xml": "archived"}
    platform.token_always = None
    runs.run(LIFE_EVENTS, life_events.settings, runs.Request())
    assert life_events.records() == {"published": 1}


def test_dead_letters_alone_make_no_run_of_publishing(life_events: LifeEvents, platform: StandIn) -> None:
    life_events.drop("a.xml", file_of(1))
    runs.run(LIFE_EVENTS, life_events.settings, runs.Request())
    with life_events.database.connect() as connection:
        assert LIFE_EVENTS.behind is not None
        assert LIFE_EVENTS.behind(connection, life_events.settings) == []
        connection.execute("INSERT INTO ledger.outbox (topic, key, dead_at) VALUES ('life_events.publish', 'a', now())")
        assert LIFE_EVENTS.behind(connection, life_events.settings) == []
        connection.execute("INSERT INTO ledger.outbox (topic, key) VALUES ('life_events.notify.dwp', 'b')")
        assert LIFE_EVENTS.behind(connection, life_events.settings) == [("life_events", "published_events")]


def test_a_dry_run_asks_nobody_and_leaves_everything(life_events: LifeEvents, platform: StandIn) -> None:
    life_events.drop("a.xml", file_of(1, bad(2)))
    summary = runs.run(LIFE_EVENTS, life_events.settings, runs.Request(dry_run=True))
    assert (summary.loads, summary.errored, summary.rows_in, summary.rows_rejected) == (1, 0, 2, 1)
    assert life_events.waiting() == ["a.xml"]
    assert life_events.loads() == []
    assert platform.token_forms == []


def test_an_unknown_partition_is_refused(life_events: LifeEvents) -> None:
    with pytest.raises(ConfigurationError, match="no partition 1999-01-01"):
        runs.run(LIFE_EVENTS, life_events.settings, runs.Request(partition="1999-01-01"))


def test_nothing_can_be_replayed_nor_adopted_and_the_reason_is_told(life_events: LifeEvents) -> None:
    life_events.drop("a.xml", file_of(1))
    with life_events.database.connect() as connection, pytest.raises(ConfigurationError, match="have GRO send the file again"):
        LIFE_EVENTS.replay(connection, Scope("life_events"))
    for dry_run in (True, False):
        with pytest.raises(ConfigurationError, match="nothing to adopt"):
            arrivals.adopt(LIFE_EVENTS, life_events.settings, dry_run=dry_run)
    assert life_events.waiting() == ["a.xml"]
    assert set(life_events.statuses().values()) <= {"ready"}


def test_where_things_are_told_to_be_is_where_they_go(life_events: LifeEvents, platform: StandIn) -> None:
    assert dict(LIFE_EVENTS.places(life_events.settings)) == {
        "loaded": "deleted once stored",
        "refused": f"{life_events.settings.storage}/life_events/quarantine",
    }
    life_events.drop("a.xml", file_of(1))
    runs.run(LIFE_EVENTS, life_events.settings, runs.Request())
    with life_events.database.connect() as connection:
        assert LIFE_EVENTS.contents(connection, life_events.settings) == [(1, "life_events.records, published")]


# Checking


def test_a_good_file_is_told_nothing_of_without_keys_a_database_or_a_platform(life_events: LifeEvents, platform: StandIn) -> None:
    nowhere = {"database_url": "postgresql://nobody@127.0.0.1:1/nothing", "environment": "staging", "life_events_hmac_keys": None}
    assert codes(file_of(1, 2), **nowhere) == []
    assert platform.token_forms == []


def test_every_fault_of_a_file_is_told_at_once() -> None:
    raw = file_of(bad(1), registration(2, DeceasedGender="7", DeceasedDeathDate="<PersonDeathDate>2031-02-30</PersonDeathDate>"), 3)
    assert sorted(codes(raw)) == [("bad_death_date", "error"), ("missing_timestamp", "error"), ("unknown_gender", "error")]


def test_warnings_alone_make_no_file_bad() -> None:
    assert codes(file_of(registration(1, DeceasedDeathDate=None))) == [("no_death_date", "warning")]


@pytest.mark.parametrize(
    ("raw", "settings", "code"),
    [
        (lambda: file_of(1), {"life_events_max_file_bytes": 100}, "file_too_large"),
        (lambda: file_of(1, bad(2), bad(3)), {"life_events_bad_records": 1}, "too_many_bad_records"),
        (lambda: file_of(bad(1)), {}, "too_many_bad_records"),
        (lambda: file_of(1, count=2), {}, "record_count_mismatch"),
        (lambda: b"", {}, "empty"),
    ],
    ids=["too large", "too bad", "all bad", "count", "empty"],
)
def test_a_file_that_would_be_refused_is_told_so(raw: Callable[[], bytes], settings: dict[str, Any], code: str) -> None:
    assert (code, "error") in codes(raw(), **settings)


# The sandbox


def test_it_needs_the_sandbox_only_where_no_platform_is_set(life_events: LifeEvents) -> None:
    assert LIFE_EVENTS.stand_ins(life_events.settings) == ("events_platform", "api")
    assert LIFE_EVENTS.stand_ins(Settings(life_events_platform_url="https://platform.example")) == ()


def test_production_takes_neither_keys_of_a_laptop_nor_its_database_nor_a_sandbox(
    life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "production")
    settings = life_events.settings
    with pytest.raises(ConfigurationError, match="production has no sandbox"):
        servers.up(settings.home_folder, settings.environment, LIFE_EVENTS.stand_ins(settings))
    with pytest.raises(ConfigurationError, match="set INGESTION_LIFE_EVENTS_PLATFORM_URL"):
        places.platform_address(settings)
    life_events.drop("a.xml", file_of(1))
    for name in ("HMAC", "ENCRYPTION"):
        with monkeypatch.context() as without:
            without.delenv(f"INGESTION_LIFE_EVENTS_{name}_KEYS")
            with pytest.raises(RunFailed, match=f"production needs keys of its own: set INGESTION_LIFE_EVENTS_{name}_KEYS"):
                runs.run(LIFE_EVENTS, life_events.settings, runs.Request())
    monkeypatch.delenv("INGESTION_DATABASE_URL")
    with pytest.raises(ConfigurationError, match="INGESTION_DATABASE_URL"):
        postgres.ready(life_events.settings)
    assert life_events.waiting() == ["a.xml"]
    assert not list(settings.home_folder.glob("*.key"))


def test_the_demo_is_as_expected_each_time(life_events: LifeEvents, capsys: pytest.CaptureFixture[str]) -> None:
    url = servers.up(life_events.settings.home_folder, names=LIFE_EVENTS.stand_ins(life_events.settings))["events_platform"]
    Client(url).switch("settings", {"delete_seconds": 0.2})
    for _ in range(2):
        assert demo._run(LIFE_EVENTS, life_events.settings, project_file("source_data") / "life_events"), capsys.readouterr().out
    told = capsys.readouterr().out
    assert told.count("life_events: every file ended as expected") == 2
    assert "NOT AS EXPECTED" not in told
    assert "the event store holds 0" in told


def test_the_demo_says_what_did_not_go_as_expected(life_events: LifeEvents, platform: StandIn) -> None:
    assert demo._consume(life_events.settings) == ["the events platform of the sandbox is gone"]

"""Pulling the daily file under Dagster: what is offered with a server and without one, and what a run tells."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG, QUEUE_TAG
from ingestion_dagster.life_events.expected import LONDON
from ingestion_dagster.life_events.feed_assets import JOB, PULLED_KEY, PullDefinitions, definitions_of
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.life_events.scene import LifeEvents, file_of, life_events, one_of_module, reason
from ingestion_dagster_tests.life_events.test_sftp import CLIENT, HOST, OTHER, Server, there

__all__ = ["life_events", "one_of_module", "there"]

NAME = f"DI_D_{datetime.now(LONDON):%Y%m%d}.xml"
CONTENT = file_of(1)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def sftp_server(life_events: LifeEvents, there: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server, and the settings that lead there."""
    for name, value in {
        "EXPECTED_FILE": "DI_D_%Y%m%d.xml",
        "SFTP_HOST": "127.0.0.1",
        "SFTP_PORT": str(there.port),
        "SFTP_USER": "gro",
        "SFTP_PRIVATE_KEY": CLIENT.export_private_key().decode(),
        "SFTP_HOST_FINGERPRINT": HOST["ssh-ed25519"].get_fingerprint("sha256"),
    }.items():
        monkeypatch.setenv(f"INGESTION_LIFE_EVENTS_{name}", value)
    return there


def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    pull = definitions_of(current())
    definitions = dg.Definitions(assets=pull.assets, jobs=pull.jobs, resources={"ingestion": INGESTION})
    return definitions.resolve_job_def(JOB).execute_in_process(instance=instance, raise_on_error=False)


def told(result: dg.ExecuteInProcessResult) -> list[dict[str, Any]]:
    found = result.asset_materializations_for_node("life_events_pull_step")
    assert all(each.asset_key == PULLED_KEY for each in found)
    return [{name: value.value for name, value in each.metadata.items()} for each in found]


def test_without_a_server_nothing_is_offered() -> None:
    assert definitions_of(Settings()) == PullDefinitions()


@pytest.mark.parametrize(("sensors", "status"), [("running", "RUNNING"), ("stopped", "STOPPED")])
def test_with_one_an_asset_its_job_and_its_schedule_are_offered(sensors: str, status: str) -> None:
    pull = definitions_of(Settings(life_events_sftp_host="sftp.example", sensors=sensors))
    [step], [schedule] = pull.assets, pull.schedules
    [spec] = step.specs
    assert (spec.key, spec.group_name, spec.skippable, spec.partitions_def) == (PULLED_KEY, "life_events", True, None)
    assert spec.owners
    assert spec.kinds
    assert spec.description
    assert (schedule.execution_timezone, schedule.default_status.value, schedule.job_name) == ("Europe/London", status, JOB)
    job = dg.Definitions(assets=pull.assets, jobs=pull.jobs, resources={"ingestion": INGESTION}).resolve_job_def(JOB)
    assert job.tags[PIPELINE_TAG] == "life_events"
    assert job.tags[QUEUE_TAG] == JOB, "it waits for no load"


def test_the_landing_zone_is_looked_at_in_the_morning_before_and_after_the_file_is_due() -> None:
    [schedule] = definitions_of(Settings(life_events_sftp_host="sftp.example")).schedules
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2031, 2, 5, 6, tzinfo=UTC))
    requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    assert len(requests) == 1
    assert schedule.cron_schedule == "*/15 5-9 * * *"


def test_the_file_is_landed_and_told_of_once(sftp_server: Server, life_events: LifeEvents, instance: dg.DagsterInstance) -> None:
    sftp_server.put(CONTENT, name=NAME)
    result = run(instance)
    assert result.success
    assert told(result) == [{"dagster/uri": f"{life_events.settings.storage}/life_events/incoming/{NAME}", "bytes": len(CONTENT)}]
    assert life_events.waiting() == [NAME]
    again = run(instance)
    assert again.success
    assert told(again) == []


def test_a_file_that_is_not_there_yet_is_no_failure(sftp_server: Server, life_events: LifeEvents, instance: dg.DagsterInstance) -> None:
    result = run(instance)
    assert result.success
    assert told(result) == []
    assert life_events.waiting() == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SFTP_HOST_FINGERPRINT", OTHER.get_fingerprint("sha256"), "set the new fingerprint"),
        ("SFTP_PRIVATE_KEY", OTHER.export_private_key().decode(), "does not let INGESTION_LIFE_EVENTS_SFTP_USER in"),
        ("SFTP_USER", "", "set INGESTION_LIFE_EVENTS_SFTP_USER"),
    ],
    ids=["another server", "another key", "nobody"],
)
def test_a_mistake_of_set_up_fails_with_what_to_do_and_is_not_tried_again(
    sftp_server: Server, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"INGESTION_LIFE_EVENTS_{name}", value)
    result = run(instance)
    assert not result.success
    assert says in reason(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_a_server_that_is_away_fails_the_run_with_its_setting(
    sftp_server: Server, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingestion_dagster.life_events import sftp

    monkeypatch.setattr(sftp, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_SFTP_PORT", "9")
    result = run(instance)
    assert reason(result).startswith("the SFTP server (INGESTION_LIFE_EVENTS_SFTP_HOST): sftp_unavailable")


def test_a_file_that_is_too_large_fails_with_the_setting_and_is_not_quoted(
    sftp_server: Server, life_events: LifeEvents, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_MAX_FILE_BYTES", "10")
    sftp_server.put(CONTENT, name=NAME)
    result = run(instance)
    assert "file_too_large" in reason(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert life_events.waiting() == []

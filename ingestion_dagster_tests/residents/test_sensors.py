"""The sensors of residents: what makes them ask for a run, what keeps them from it, and what they put right meanwhile."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG
from ingestion_dagster.engine.datasets import pause_dataset
from ingestion_dagster.operations.sensors import SWEEPS
from ingestion_dagster.residents.sensors import RESIDENTS_LOAD_JOB, residents_drive_sensor
from ingestion_dagster_tests.residents.scene import Residents, api, nsss, residents

__all__ = ["api", "residents"]

Tick = Callable[..., Any]


@pytest.fixture
def tick(residents: Residents, instance: dg.DagsterInstance) -> Tick:
    """One evaluation as the daemon makes it; its run requests and skip message."""
    repository = defs.get_repository_def()

    def evaluate(sensor: dg.SensorDefinition = residents_drive_sensor) -> Any:
        context = dg.build_sensor_context(
            instance=instance, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=sensor.name
        )
        return sensor.evaluate_tick(context)

    return evaluate


def test_a_file_that_is_dropped_makes_one_run_request_without_a_partition_key(tick: Tick, residents: Residents) -> None:
    residents.drop("nsss/a.xlsx", [nsss(1)])
    residents.drop("spl/b.csv", b"no,such file\n")
    [request] = tick().run_requests
    assert (request.partition_key, request.run_key) == (None, None)
    assert request.tags[PIPELINE_TAG] == "residents"
    assert residents.statuses() == {"a.xlsx": "ready", "b.csv": "ready"}


def test_the_run_asked_for_loads_what_was_seen(tick: Tick, residents: Residents, instance: dg.DagsterInstance) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    [request] = tick().run_requests
    job = defs.resolve_job_def(request.job_name or RESIDENTS_LOAD_JOB.name)
    assert job.execute_in_process(instance=instance, tags=request.tags).success
    assert residents.statuses() == {"a.csv": "archived"}
    assert residents.counts == (1, 1, 1)
    assert tick().run_requests == []


def test_an_empty_drop_folder_is_skipped_and_the_tick_says_what_it_saw(tick: Tick, residents: Residents) -> None:
    result = tick()
    assert result.run_requests == []
    assert result.skip_message == f"0 objects in {residents.settings.drive}: 0 new, 0 being written; 0 loads claimable"


def test_a_file_that_is_still_being_written_is_left_alone(tick: Tick, residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_SETTLE_SECONDS", "3600")
    residents.drop("nsss/a.csv", [nsss(1)])
    result = tick()
    assert result.run_requests == []
    assert "0 new, 1 being written" in result.skip_message


def test_a_paused_dataset_is_seen_named_and_not_asked_for(tick: Tick, residents: Residents) -> None:
    tick()
    with residents.database.connect() as connection:
        pause_dataset(connection, "residents", "nsss", "under review")
    residents.drop("nsss/a.csv", [nsss(1)])
    result = tick()
    assert result.run_requests == []
    assert "1 of nsss paused: under review" in result.skip_message


def test_many_old_files_at_the_first_tick_pause_and_the_tick_says_what_to_do(
    tick: Tick, residents: Residents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_RESIDENTS_FIRST_DAY_FILES", "1")
    for name in ("a.csv", "b.csv"):
        residents.drop(f"nsss/{name}", [nsss(1)], days_old=3)
    result = tick()
    assert result.run_requests == []
    for word in ("2 of nsss paused", "ingestion adopt residents", "ingestion resume residents nsss"):
        assert word in result.skip_message


@pytest.mark.parametrize("name", [".hidden.csv", "~$open.xlsx"])
def test_what_is_no_file_of_anybody_is_not_seen(tick: Tick, residents: Residents, name: str) -> None:
    residents.drop(f"nsss/{name}", [nsss(1)])
    (residents.drive / "nsss" / "inbound" / "below").mkdir()
    (residents.drive / "nsss" / "inbound" / "below" / "a.csv").write_bytes(b"x")
    assert tick().run_requests == []
    assert residents.states() == []


def test_a_report_that_was_deleted_comes_back_with_the_next_tick(tick: Tick, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    [name] = residents.outbound("nsss")
    (residents.drive / "nsss" / "outbound" / name).unlink()
    calls = residents.calls()
    assert tick().run_requests == []
    assert residents.outbound("nsss") == [name]
    assert residents.calls() == calls


def test_a_tick_makes_no_call_to_the_api(tick: Tick, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    tick()
    tick(SWEEPS["residents"])
    assert residents.calls() == 0

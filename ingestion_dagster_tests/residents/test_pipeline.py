"""Residents as the commands see it, through Dagster in this process: landing, running until nothing is left, checking a file."""

import dagster as dg
import pytest

from ingestion_dagster import arrivals, demo, runs
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.in_process import RunFailed
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.residents.pipeline import RESIDENTS
from ingestion_dagster_tests.residents.scene import (
    AS_OF,
    DATASET_NAMES,
    SAMPLES,
    Residents,
    api,
    as_csv,
    contact_tracing,
    in_memory,
    nsss,
    residents,
)

__all__ = ["api", "in_memory", "residents"]

DAY = AS_OF.isoformat()


def codes(residents: Residents, key: str, raw: bytes) -> list[tuple[str, str]]:
    """What `check` says of a file: codes and severities."""
    return [(problem.code, problem.severity) for problem in RESIDENTS.check(residents.settings, key, raw, lambda _key: None)]


def test_the_pipeline_is_one_of_those_the_commands_know() -> None:
    assert PIPELINES["residents"] is RESIDENTS
    assert tuple(RESIDENTS.datasets) == DATASET_NAMES
    assert [RESIDENTS.asset_of(name) for name in DATASET_NAMES] == [("residents", name) for name in DATASET_NAMES]
    assert RESIDENTS.asset_of("other") is None


@pytest.mark.usefixtures("in_memory")
def test_a_folder_of_all_samples_is_landed_and_run_as_a_whole(residents: Residents) -> None:
    landed = arrivals.land(RESIDENTS, residents.settings, [SAMPLES])
    assert len(landed.objects) == 20
    summary = runs.run(RESIDENTS, residents.settings, runs.Request(as_of=DAY))
    assert (summary.loads, summary.errored, summary.left) == (20, 4, 0)
    assert summary.rows_rejected == 2 + 1 + 2 + 2 + 2
    assert (residents.drive / "nsss" / "inbound" / "01_valid.xlsx").read_bytes() == (SAMPLES / "nsss" / "01_valid.xlsx").read_bytes()
    calls = residents.calls()
    arrivals.land(RESIDENTS, residents.settings, [SAMPLES])
    again = runs.run(RESIDENTS, residents.settings, runs.Request(as_of=DAY))
    assert again.errored == 4
    assert again.rows_written == 0
    assert residents.calls() == calls, "the same files again cost no call"


@pytest.mark.usefixtures("in_memory")
def test_a_file_larger_than_a_run_is_finished_by_the_runs_after_it(residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_RUN_SECONDS", "1")
    monkeypatch.setenv("INGESTION_RESIDENTS_REQUESTS_IN_FLIGHT", "1")
    residents.api.settings.change(latency_ms=15)
    residents.drop("contact_tracing/a.csv", [contact_tracing(number, {"Date Tested": "20/11/2098"}) for number in range(60)])
    settings = residents.settings.model_copy(update={"run_seconds": 1, "residents_requests_in_flight": 1})
    summary = runs.run(RESIDENTS, settings, runs.Request())
    assert (summary.loads, summary.left) == (1, 0)
    assert residents.counts[0] == 60
    assert residents.calls("create") == 60


@pytest.mark.usefixtures("in_memory")
def test_a_run_for_a_day_that_ran_out_of_time_says_what_is_left(residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_RUN_SECONDS", "1")
    monkeypatch.setenv("INGESTION_RESIDENTS_REQUESTS_IN_FLIGHT", "1")
    residents.api.settings.change(latency_ms=15)
    residents.drop("contact_tracing/a.csv", [contact_tracing(number) for number in range(60)])
    settings = residents.settings.model_copy(update={"run_seconds": 1, "residents_requests_in_flight": 1})
    summary = runs.run(RESIDENTS, settings, runs.Request(as_of=DAY))
    assert summary.left or residents.counts[0] == 60, "half a file was sent, and nobody is told"


@pytest.mark.usefixtures("in_memory")
def test_a_run_that_the_api_ends_says_why(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(number) for number in range(20)])
    residents.go_wrong("any", "503", until=True)
    with pytest.raises(RunFailed, match="http_unavailable"):
        runs.run(RESIDENTS, residents.settings, runs.Request(as_of=DAY))
    assert residents.statuses() == {"a.csv": "ready"}


@pytest.mark.usefixtures("in_memory")
def test_an_unknown_partition_is_refused(residents: Residents) -> None:
    with pytest.raises(ConfigurationError, match="no partition 1999-01-01"):
        runs.run(RESIDENTS, residents.settings, runs.Request(partition="1999-01-01"))


# Checking


def test_a_good_file_is_told_nothing_of_and_costs_no_call(residents: Residents) -> None:
    assert codes(residents, "nsss/a.csv", as_csv([nsss(1)])) == []
    assert residents.calls() == 0
    assert set(residents.in_ledger().values()) == {0}


def test_every_fault_of_a_file_is_told_at_once(residents: Residents) -> None:
    raw = as_csv([nsss(1, date_of_birth="31/02/1990", ID=""), nsss(2, nhs_number="1234567890")])
    found = codes(residents, "nsss/a.csv", raw)
    assert {code for code, severity in found if severity == "error"} == {"bad_date", "blank_dedupe_id"}
    assert ("nhs_check_digit", "warning") in found


def test_a_file_of_no_known_dataset_is_told_what_to_say(residents: Residents) -> None:
    [(code, severity)] = codes(residents, "a.csv", as_csv([nsss(1)]))
    assert (code, severity) == ("unknown_dataset", "error")


def test_a_file_that_is_too_large_is_told_so(residents: Residents) -> None:
    residents.settings = residents.settings.model_copy(update={"residents_max_file_bytes": 10})
    assert codes(residents, "nsss/a.csv", as_csv([nsss(1)])) == [("too_large", "error")]


def test_an_id_of_two_people_is_found_before_the_upload(residents: Residents) -> None:
    raw = as_csv([nsss(1), nsss(2, ID=nsss(1)["ID"])])
    assert ("dedupe_collision", "error") in codes(residents, "nsss/a.csv", raw)


@pytest.mark.usefixtures("in_memory")
def test_the_demo_ends_as_expected_each_time(residents: Residents, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert demo._run(RESIDENTS, residents.settings, project_file("source_data") / "residents"), capsys.readouterr().out
    told = capsys.readouterr().out
    assert "residents: every file ended as expected" in told
    assert "NOT AS EXPECTED" not in told


def test_the_job_is_the_one_that_the_definitions_have() -> None:
    from ingestion_dagster.definitions import defs

    [job] = RESIDENTS.jobs
    assert isinstance(defs.resolve_job_def(job.name), dg.JobDefinition)

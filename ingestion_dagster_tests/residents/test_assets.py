"""The load step under Dagster: what a run with and without a partition key takes, reports, checks and alerts to."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import landing
from ingestion_dagster.residents import upkeep
from ingestion_dagster.residents.checks import CHECK_SPECS
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.sensors import RESIDENTS_LOAD_JOB
from ingestion_dagster_tests.engine.results import evaluations, failed, materialized
from ingestion_dagster_tests.engine.test_notifications import Slack
from ingestion_dagster_tests.residents.scene import AS_OF, Residents, api, contact_tracing, generic, nhs_number, nsss, residents

__all__ = ["api", "residents"]

TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
YESTERDAY = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
VOCABULARY = {
    "dagster/row_count", "dagster/uri", "loads_archived", "loads_errored", "rows_in", "rows_written", "rows_rejected", "bytes", "seconds",
    "load_statuses", "rows",
}  # fmt: skip
WORD = "Zyxwquark"

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    made = Slack()
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", made.webhook.url)
    yield made
    made.stop()


@pytest.fixture
def run(residents: Residents, instance: dg.DagsterInstance) -> Run:
    """One run of the pipeline's job, judged by the day of the samples; `run("nsss", partition_key=…)` narrows it."""
    job = defs.resolve_job_def(RESIDENTS_LOAD_JOB.name)

    def execute(*names: str, partition_key: str | None = None, raise_on_error: bool = True, **config: Any) -> dg.ExecuteInProcessResult:
        asked = {"as_of": AS_OF.isoformat()} | config
        return job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["residents", name]) for name in names] or None,
            partition_key=partition_key,
            run_config={"ops": {node.name: {"config": asked} for node in job.nodes}},
            raise_on_error=raise_on_error,
        )

    return execute


def discovered_yesterday(residents: Residents, *names: str) -> None:
    """Enter what stands in the inbound folders, and date these files back."""
    with residents.database.connect() as connection:
        upkeep.sync(connection, residents.settings)
        landing.discover(connection, residents.job().zone, datetime.now(UTC))
        connection.execute(
            "UPDATE ledger.loads SET partition = %s, discovered_at = discovered_at - interval '1 day' WHERE key = ANY(%s)",
            [YESTERDAY, list(names)],
        )


def records(values: dict[str, Any], name: str = "rows") -> set[tuple[Any, ...]]:
    return {tuple(record.data.values()) for record in values[name].records}


# What is told of a run


def test_a_keyless_run_reports_each_dataset_and_day_it_touched_and_no_other(
    run: Run, residents: Residents, instance: dg.DagsterInstance
) -> None:
    residents.drop("nsss/old.csv", [nsss(1)])
    residents.drop("nsss/new.csv", [nsss(2)])
    residents.drop("generic/a.csv", [generic(3)])
    discovered_yesterday(residents, "nsss/inbound/old.csv")
    result = run()
    assert set(materialized(result)) == {("nsss", YESTERDAY), ("nsss", TODAY), ("generic", TODAY)}
    assert instance.get_materialized_partitions(dg.AssetKey(["residents", "nsss"])) == {YESTERDAY, TODAY}
    assert failed(result) == set()


@pytest.mark.parametrize("partition_key", [None, TODAY])
def test_every_materialization_speaks_the_whole_vocabulary(run: Run, residents: Residents, partition_key: str | None) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(1), nsss(2, date_of_birth="31/02/1990")])
    residents.drop("nsss/b.csv", b"no,such file\n")
    found = materialized(run(partition_key=partition_key))
    assert set(found) == ({("nsss", TODAY)} if partition_key is None else {(name, TODAY) for name in DATASETS})
    for values in found.values():
        assert set(values) >= VOCABULARY
    values = found["nsss", TODAY]
    counts = ("loads_archived", "loads_errored", "rows_in", "rows_written", "rows_unchanged", "rows_rejected")
    assert tuple(values[name] for name in counts) == (1, 1, 3, 1, 1, 1)
    assert values["dagster/uri"] == f"{residents.settings.drive}/nsss/outbound"
    assert records(values) >= {("refused", "bad_date", 1)}
    assert sum(row[2] for row in records(values)) == 3


def test_a_partition_key_narrows_a_run_to_its_day(run: Run, residents: Residents) -> None:
    residents.drop("nsss/old.csv", [nsss(1)])
    residents.drop("nsss/new.csv", [nsss(2)])
    discovered_yesterday(residents, "nsss/inbound/old.csv")
    run(partition_key=YESTERDAY)
    assert residents.statuses() == {"old.csv": "archived", "new.csv": "ready"}


def test_selecting_a_dataset_narrows_a_run_to_it(run: Run, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.drop("generic/b.csv", [generic(2)])
    residents.drop("spl/c.csv", b"no,such file\n")
    result = run("nsss")
    assert residents.statuses() == {"a.csv": "archived", "b.csv": "ready", "c.csv": "ready"}
    assert set(materialized(result)) == {("nsss", TODAY)}
    assert {asset for asset, _ in evaluations(result)} == {"nsss"}


def test_nothing_to_load_is_a_run_that_is_well(run: Run, residents: Residents) -> None:
    result = run()
    assert materialized(result) == {}
    assert failed(result) == set()


def test_replay_needs_a_partition_and_sends_nothing_twice(run: Run, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    run()
    calls = residents.calls()
    with pytest.raises(dg.Failure, match="replay needs a partition"):
        run(replay=True)
    result = run(partition_key=TODAY, replay=True)
    assert residents.calls() == calls
    [report] = residents.outbound("nsss")
    assert residents.report("nsss", report).summary["status"] == "complete"
    assert failed(result) == set()


def test_only_errored_takes_nothing_else(run: Run, residents: Residents) -> None:
    residents.drop("nsss/a.csv", b"no,such file\n")
    run()
    residents.drop("nsss/b.csv", [nsss(1)])
    run(only_errored=True)
    assert residents.statuses().get("b.csv", "unseen") != "archived"
    assert [state["status"] for state in residents.states() if state["key"].endswith("a.csv")] == ["errored"]


def test_a_dry_run_is_an_observation_of_the_drop_folder(run: Run, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    result = run(dry_run=True)
    [observed] = [event.asset_observation_data.asset_observation for event in result.all_events if event.is_asset_observation]
    assert observed.asset_key.path == ["residents", "drop_folder"]
    assert {name: observed.metadata[name].value for name in ("loads", "rows_in", "rows_created")} == {
        "loads": 1,
        "rows_in": 2,
        "rows_created": 2,
    }
    assert materialized(result) == {}


# Checks of a load


def test_every_check_of_a_dataset_is_evaluated_by_its_run(run: Run, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    result = run("nsss")
    assert set(evaluations(result)) == {("nsss", spec.name) for spec in CHECK_SPECS if spec.asset_key.path[-1] == "nsss"}


def test_each_check_fails_for_its_own_reason_and_for_its_own_dataset(
    run: Run, residents: Residents, monkeypatch: pytest.MonkeyPatch
) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2, ID=nsss(1)["ID"])])
    residents.drop("generic/b.csv", [generic(3)])
    residents.drop("spl/c.csv", b"no,such file\n")
    found = evaluations(run())
    assert {key for key, evaluation in found.items() if not evaluation.passed} == {
        ("nsss", "refused_share"),
        ("nsss", "dedupe_collisions"),
        ("spl", "nothing_errored"),
    }
    share = {name: value.value for name, value in found["nsss", "refused_share"].metadata.items()}
    assert share == {"rows_in": 2, "rows_rejected": 1, "percent": 50.0, "limit_percent": 20.0}
    assert found["nsss", "dedupe_collisions"].metadata["rows"].value == 1
    assert found["nsss", "refused_share"].severity == dg.AssetCheckSeverity.WARN


def test_the_limit_of_refused_rows_is_a_setting(run: Run, residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_RESIDENTS_REFUSED_PERCENT", "50")
    residents.drop("nsss/a.csv", [nsss(1), nsss(2, date_of_birth="31/02/1990")])
    assert failed(run()) == set()


# Runs that fail


def test_an_outage_fails_the_run_once_and_what_was_finished_is_told(run: Run, residents: Residents) -> None:
    residents.drop("contact_tracing/a.csv", [contact_tracing(1)])
    residents.drop("nsss/b.csv", [nsss(number) for number in range(2, 30)])
    residents.go_wrong("note", "503", until=True)
    result = run(raise_on_error=False)
    assert not result.success
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data
    assert "http_unavailable" in (failure.user_failure_data.description or "")
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert residents.statuses() == {"a.csv": "archived", "b.csv": "ready"}
    assert set(materialized(result)) == {("contact_tracing", TODAY)}
    residents.be_well()
    assert run().success
    assert residents.counts == (29, 29, 28)


def test_an_api_without_an_address_is_a_mistake_that_is_not_retried(
    run: Run, residents: Residents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INGESTION_RESIDENTS_API_URL")
    residents.drop("nsss/a.csv", [nsss(1)])
    result = run(raise_on_error=False)
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data
    assert "ingestion sandbox up" in (failure.user_failure_data.description or "")
    assert residents.statuses().get("a.csv", "unseen") in ("ready", "unseen")


# Alerts


def test_one_alert_a_run_names_each_file_with_dataset_counts_and_report(run: Run, residents: Residents, slack: Slack) -> None:
    residents.drop("nsss/week 1.csv", [nsss(1), nsss(2, date_of_birth=f"{WORD} 1990", last_name=WORD)])
    residents.drop("spl/c.csv", b"no,such file\n")
    residents.drop("generic/good.csv", [generic(3)])
    run()
    [text, *others] = slack.texts
    assert "nsss: week 1.csv is partial (1 done, 1 refused bad_date); report: file://" in text
    assert "PROCESSED_week%201.csv_2026-11-20.xlsx" in text
    assert "spl: c.csv is refused (" in text
    assert "REFUSED_c.csv_2026-11-20.xlsx" in text
    assert "good.csv" not in str(slack.texts)
    assert WORD not in str(slack.texts)
    assert "McFictional" not in str(slack.texts)
    assert all("check" in other for other in others), others


def test_a_run_without_trouble_alerts_to_nothing(run: Run, residents: Residents, slack: Slack) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    run()
    assert slack.texts == []


def test_another_persons_record_is_an_alert_of_high_severity_and_its_own(run: Run, residents: Residents, slack: Slack) -> None:
    stranger = {
        "FirstName": "Somebody", "LastName": "Else", "NhsNumber": nhs_number(50), "HelpNeeded": "Shielding",
        "Metadata": {"nsss_id": nsss(1)["ID"]},
    }  # fmt: skip
    residents.api.store.create_request(residents.api.store.create_resident(stranger), stranger)
    residents.drop("nsss/a.csv", [nsss(1)])
    run()
    [text] = [text for text in slack.texts if "HIGH SEVERITY" in text]
    assert "nsss: a.csv is partial (1 quarantined resident_mismatch); report: file://" in text
    assert "Somebody" not in str(slack.texts)
    told = len(slack.texts)
    residents.drop("nsss/b.csv", [nsss(2)])
    run()
    assert len(slack.texts) == told


def test_many_troubled_files_are_counted_beyond_those_that_are_named(run: Run, residents: Residents, slack: Slack) -> None:
    for number in range(23):
        residents.drop(f"spl/{number:02}.csv", f"no,such file {number}\n".encode())
    run()
    assert slack.texts[0].count("is refused") == 20
    assert "and 3 more files" in slack.texts[0]


def test_an_outage_is_told_of_files_that_were_finished_before(run: Run, residents: Residents, slack: Slack) -> None:
    residents.drop("contact_tracing/a.csv", [contact_tracing(1, {"Date of Birth": "31/02/1990"})])
    residents.drop("nsss/b.csv", [nsss(number) for number in range(2, 30)])
    residents.go_wrong("note", "503", until=True)
    run(raise_on_error=False)
    assert [text for text in slack.texts if "contact_tracing: a.csv is partial" in text]


def test_a_pause_of_the_first_day_is_alerted_to(run: Run, residents: Residents, slack: Slack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_RESIDENTS_FIRST_DAY_FILES", "0")
    residents.drop("nsss/a.csv", [nsss(1)], days_old=3)
    run()
    [text] = slack.texts
    assert "nsss is paused" in text
    assert "ingestion adopt residents" in text
    run()
    assert len(slack.texts) == 1

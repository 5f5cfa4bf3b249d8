"""The daily checks of residents, against a ledger that has been tampered with and an API that is not well."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.residents.checks import DAILY, STANDING
from ingestion_dagster.residents.definitions import defs
from ingestion_dagster_tests.residents.scene import Residents, api, nsss, residents

__all__ = ["api", "residents"]


def daily() -> dict[str, dg.AssetCheckEvaluation]:
    """One run of the daily checks, by name."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def(STANDING.job.name).execute_in_process(instance=instance)
    assert result.success
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def failed() -> set[str]:
    return {name for name, evaluation in daily().items() if not evaluation.passed}


def value(evaluation: dg.AssetCheckEvaluation, name: str) -> Any:
    return evaluation.metadata[name].value


@pytest.fixture
def loaded(residents: Residents) -> Residents:
    """One good file, loaded."""
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    return residents


def test_all_is_well_after_a_load_and_before_any(residents: Residents) -> None:
    found = daily()
    assert set(found) == set(DAILY)
    assert failed() == set()
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    assert failed() == set()


def test_a_refused_file_is_left_errored_until_it_is_mended(loaded: Residents) -> None:
    loaded.drop("spl/b.csv", b"no,such file\n")
    loaded.run()
    assert failed() == {"nothing_left_errored"}
    loaded.drop("spl/b.csv", [dict.fromkeys(["nothing"], "x")])
    loaded.run()
    assert failed() == {"nothing_left_errored"}


def test_rows_that_do_not_add_up_are_found_on_any_day(loaded: Residents) -> None:
    loaded.query("UPDATE ledger.loads SET rows_unchanged = rows_unchanged + 1, partition = '2020-01-01'")
    assert failed() == {"rows_add_up"}


def test_a_row_that_was_left_open_in_a_finished_file_is_found(loaded: Residents) -> None:
    loaded.query("UPDATE residents.rows SET step = 'created'")
    found = daily()
    assert {name for name, evaluation in found.items() if not evaluation.passed} == {"all_rows_terminal"}
    table = found["all_rows_terminal"].metadata["datasets"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [dict(record.data) for record in table.records] == [{"dataset": "nsss", "rows": 2}]


def test_a_file_that_waits_too_long_is_found(loaded: Residents) -> None:
    loaded.go_wrong("any", "503", until=True)
    loaded.query("UPDATE ledger.loads SET status = 'ready', finished_at = NULL, discovered_at = now() - interval '2 hours'")
    loaded.be_well()
    assert failed() >= {"claimed_in_time"}


@pytest.mark.parametrize("how", ["403", "html"])
def test_an_api_that_is_not_the_one_or_takes_no_key_is_found(loaded: Residents, how: str) -> None:
    loaded.go_wrong("ping", how, until=True)
    found = daily()
    assert {name for name, evaluation in found.items() if not evaluation.passed} == {"api_reachable"}
    assert value(found["api_reachable"], "why")
    assert found["api_reachable"].severity == dg.AssetCheckSeverity.ERROR


def test_an_api_that_nobody_answers_for_is_found_with_the_next_step(loaded: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INGESTION_RESIDENTS_API_URL")
    assert "ingestion sandbox up" in value(daily()["api_reachable"], "why")


def test_the_checks_forget_what_is_older_than_the_setting(loaded: Residents) -> None:
    old = datetime.now(UTC) - timedelta(days=401)
    loaded.query("UPDATE residents.rows SET seen_at = %s", [old])
    loaded.query("UPDATE ledger.loads SET finished_at = %s", [old])
    assert failed() == set()
    assert loaded.in_ledger()["residents.rows"] == 0

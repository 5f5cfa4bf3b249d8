"""Dry runs: what would become of each row, by calls that only read, with nothing entered, written or sent."""

from pathlib import Path

import pytest

from ingestion_dagster import runs
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.residents.dry_run import predict_file
from ingestion_dagster.residents.pipeline import RESIDENTS
from ingestion_dagster_tests.residents.scene import AS_OF, Residents, api, as_csv, contact_tracing, in_memory, nsss, residents

__all__ = ["api", "in_memory", "residents"]

WRITES = ("create", "note", "add_request", "patch")


def traces(residents: Residents) -> list[str]:
    """Files of the home, but for Dagster's own."""
    home = Path(residents.settings.home_folder)
    return sorted(
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and "dagster" not in path.relative_to(home).parts
    )


def test_a_file_is_foretold_row_by_row(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    before = (residents.in_ledger(), residents.counts, residents.outbound("nsss"))
    written = sum(map(residents.calls, WRITES))
    changed = nsss(1, submission_datetime="2022-01-01")
    raw = as_csv([nsss(1), changed, nsss(2), nsss(3), nsss(4, date_of_birth="31/02/1990")])
    found = predict_file(residents.settings, "nsss/whatever.csv", raw, "2026-11-20")
    assert found == {"rows": 5, "created": 2, "matched": 1, "skipped": 1, "refused": 1}
    assert (residents.in_ledger(), residents.counts, residents.outbound("nsss")) == before
    assert sum(map(residents.calls, WRITES)) == written


def test_rows_are_judged_by_the_day_asked_for(residents: Residents) -> None:
    raw = as_csv([contact_tracing(1, {"Date Tested": "01/11/2026"})])
    assert predict_file(residents.settings, "contact_tracing/a.csv", raw, "2026-11-14") == {"rows": 1, "created": 1}
    assert predict_file(residents.settings, "contact_tracing/a.csv", raw, "2026-11-15") == {"rows": 1, "skipped": 1}


def test_a_file_that_would_be_refused_is_told_without_a_call(residents: Residents) -> None:
    assert predict_file(residents.settings, "nsss/a.csv", b"no,such file\n", None) == {"refused_files": 1}
    assert residents.calls() == 0


def test_a_file_too_large_would_be_refused(residents: Residents) -> None:
    small = residents.settings.model_copy(update={"residents_max_file_bytes": 10})
    assert predict_file(small, "nsss/a.csv", as_csv([nsss(1)]), None) == {"refused_files": 1}


def test_the_dataset_has_to_be_known(residents: Residents) -> None:
    with pytest.raises(ConfigurationError, match="--dataset"):
        predict_file(residents.settings, "a.csv", as_csv([nsss(1)]), None)


def test_an_id_that_stands_for_somebody_else_would_be_refused(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    raw = as_csv([nsss(2, ID=nsss(1)["ID"]), nsss(3), nsss(4, ID=nsss(3)["ID"])])
    assert predict_file(residents.settings, "nsss/b.csv", raw, "2026-11-20") == {"rows": 3, "created": 1, "refused": 2}


def test_a_row_that_stands_there_twice_would_be_sent_once(residents: Residents) -> None:
    raw = as_csv([nsss(1), nsss(1)])
    assert predict_file(residents.settings, "nsss/b.csv", raw, "2026-11-20") == {"rows": 2, "created": 1, "skipped": 1}


def test_an_api_that_is_down_is_said(residents: Residents) -> None:
    residents.go_wrong("any", "503", until=True)
    with pytest.raises(Transient):
        predict_file(residents.settings, "nsss/a.csv", as_csv([nsss(number) for number in range(20)]), "2026-11-20")


@pytest.mark.usefixtures("in_memory")
def test_a_run_that_is_dry_enters_writes_and_sends_nothing(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2, date_of_birth="31/02/1990")])
    residents.drop("contact_tracing/b.csv", [contact_tracing(3), contact_tracing(4, {"UTLA": "Elsewhere"})])
    residents.drop("spl/c.csv", b"no,such file\n")
    before = traces(residents)
    summary = runs.run(RESIDENTS, residents.settings, runs.Request(as_of=AS_OF.isoformat(), dry_run=True))
    assert (summary.loads, summary.errored, summary.rows_in, summary.rows_rejected) == (3, 1, 4, 1)
    assert (summary.rows_created, summary.rows_matched, summary.rows_skipped) == (2, 0, 1)
    assert set(residents.in_ledger().values()) == {0}
    assert [path for path in traces(residents) if path not in before and not path.endswith("residents.key")] == []
    assert residents.counts == (0, 0, 0)
    assert sum(map(residents.calls, WRITES)) == 0


@pytest.mark.usefixtures("in_memory")
def test_a_dry_run_of_one_dataset_foretells_no_other(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.drop("spl/c.csv", b"no,such file\n")
    summary = runs.run(RESIDENTS, residents.settings, runs.Request(dataset="nsss", as_of=AS_OF.isoformat(), dry_run=True))
    assert (summary.loads, summary.errored, summary.rows_in) == (1, 0, 1)


def test_a_row_that_failed_would_be_sent_again(residents: Residents) -> None:
    residents.reject(1)
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    assert predict_file(residents.settings, "nsss/b.csv", as_csv([nsss(1)]), "2026-11-20") == {"rows": 1, "created": 1}

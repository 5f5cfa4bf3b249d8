"""Reports in the outbound folders: their names, and reports that somebody has taken away."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_dagster.residents import outbound, upkeep
from ingestion_dagster_tests.residents.scene import AS_OF, Residents, Row, api, contact_tracing, nsss, residents

__all__ = ["api", "residents"]


def contents(residents: Residents, dataset: str) -> dict[str, bytes]:
    folder = residents.drive / dataset / "outbound"
    return {name: (folder / name).read_bytes() for name in residents.outbound(dataset)}


def take_away(residents: Residents, dataset: str, *names: str) -> None:
    for name in names or residents.outbound(dataset):
        (residents.drive / dataset / "outbound" / name).unlink()


# Names


def test_two_files_of_one_name_and_day_have_a_report_each(residents: Residents) -> None:
    for number in range(3):
        residents.drop("nsss/a.csv", [nsss(number)])
        residents.run()
    names = ["PROCESSED_a.csv_2026-11-20 (2).xlsx", "PROCESSED_a.csv_2026-11-20 (3).xlsx", "PROCESSED_a.csv_2026-11-20.xlsx"]
    assert residents.outbound("nsss") == names
    found = {name: residents.report("nsss", name).rows[0]["ID"] for name in names}
    assert found == dict(zip(names, [nsss(1)["ID"], nsss(2)["ID"], nsss(0)["ID"]], strict=True))


def test_both_workbooks_of_contact_tracing_bear_the_same_number(residents: Residents) -> None:
    for number in range(2):
        residents.drop("contact_tracing/a.csv", [contact_tracing(number), contact_tracing(number + 10, {"UTLA": "City of London"})])
        residents.run()
    assert residents.outbound("contact_tracing") == [
        "Hackney_CT_FOR_UPLOAD_a.csv_2026-11-20 (2).xlsx",
        "Hackney_CT_FOR_UPLOAD_a.csv_2026-11-20.xlsx",
        "city_CT_FOR_UPLOAD_a.csv_2026-11-20 (2).xlsx",
        "city_CT_FOR_UPLOAD_a.csv_2026-11-20.xlsx",
    ]


def test_the_same_name_in_two_datasets_or_on_two_days_needs_no_number(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.drop("spl/a.csv", b"no,such file")
    residents.run()
    residents.drop("nsss/a.csv", [nsss(2)])
    residents.run(as_of=AS_OF.replace(day=21))
    assert residents.outbound("nsss") == ["PROCESSED_a.csv_2026-11-20.xlsx", "PROCESSED_a.csv_2026-11-21.xlsx"]
    assert residents.outbound("spl") == ["REFUSED_a.csv_2026-11-20.xlsx"]


def test_a_retry_a_day_later_writes_in_place_of_the_first_report(residents: Residents) -> None:
    residents.reject(1)
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    before = contents(residents, "nsss")
    residents.be_well()
    residents.retry()
    residents.run(as_of=AS_OF.replace(day=22))
    after = contents(residents, "nsss")
    assert list(after) == list(before)
    assert after != before


def test_a_file_refused_at_first_has_the_name_of_a_loaded_one_after_a_retry(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run(residents_max_file_bytes=10)
    assert residents.outbound("nsss") == ["REFUSED_a.csv_2026-11-20.xlsx"]
    residents.retry()
    residents.run()
    assert "PROCESSED_a.csv_2026-11-20.xlsx" in residents.outbound("nsss")
    assert residents.query("SELECT name FROM residents.reports") == [("PROCESSED_a.csv_2026-11-20",)]


# Reports that are gone


@pytest.mark.parametrize("kind", ["complete", "partial", "refused"])
def test_a_report_that_was_deleted_comes_back_without_a_call(residents: Residents, kind: str) -> None:
    rows = [nsss(1), nsss(2, date_of_birth="31/02/1990")]
    contents_of: dict[str, bytes | list[Row]] = {"complete": rows[:1], "partial": rows, "refused": b"no,such file\n"}
    residents.drop("nsss/a.csv", contents_of[kind])
    residents.run()
    before, calls = contents(residents, "nsss"), residents.calls()
    take_away(residents, "nsss")
    assert residents.tidy() == 1
    assert contents(residents, "nsss") == before, "to the byte"
    assert residents.calls() == calls
    assert residents.tidy() == 0


def test_one_of_two_workbooks_that_was_deleted_comes_back(residents: Residents) -> None:
    residents.drop("contact_tracing/a.csv", [contact_tracing(1), contact_tracing(2, {"UTLA": "City of London"})])
    residents.run()
    before = contents(residents, "contact_tracing")
    take_away(residents, "contact_tracing", "city_CT_FOR_UPLOAD_a.csv_2026-11-20.xlsx")
    assert residents.tidy() == 1
    assert contents(residents, "contact_tracing") == before


def test_a_report_is_not_written_again_for_a_file_that_is_gone_too(residents: Residents) -> None:
    path = residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    take_away(residents, "nsss")
    path.unlink()
    assert [residents.tidy(), residents.outbound("nsss")] == [0, []]


def test_a_report_is_not_written_again_for_a_version_that_was_replaced(residents: Residents) -> None:
    for number in (1, 2):
        residents.drop("nsss/a.csv", [nsss(number)])
        residents.run()
    take_away(residents, "nsss")
    assert residents.tidy() == 1
    assert residents.outbound("nsss") == ["PROCESSED_a.csv_2026-11-20 (2).xlsx"]


def test_reports_of_larger_files_are_left_to_a_run(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    take_away(residents, "nsss")
    with residents.database.connect() as connection:
        assert upkeep.write_missing_reports(connection, residents.settings, rows=1) == 0
        assert upkeep.write_missing_reports(connection, residents.settings, rows=2) == 1


@pytest.mark.parametrize("name", [f"{'long' * 60}.csv", "a b'c;é😀.csv", "100%25.csv", "a.XLSX.csv", " lead.csv"])
def test_a_report_that_is_there_is_not_written_again_whatever_its_name(residents: Residents, name: str) -> None:
    residents.drop(f"nsss/{name}", [nsss(1)])
    residents.run()
    assert len(residents.outbound("nsss")) == 1
    assert residents.tidy() == 0


def test_what_a_killed_run_left_of_a_report_is_removed_after_a_day(residents: Residents) -> None:
    scratch = residents.settings.home_folder / "scratch"
    old, young = scratch / "old", scratch / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "0.xlsx").write_bytes(b"PK")
    moment = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(old, (moment, moment))
    outbound.clear_leftovers(residents.settings, datetime.now(UTC) - timedelta(days=1))
    assert [path.name for path in scratch.iterdir()] == ["young"]


def test_a_run_leaves_no_workbook_but_in_the_outbound_folder(residents: Residents, tmp_path: Path) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    found = [path for path in tmp_path.rglob("*.xlsx") if path.is_file()]
    assert [path.parent.name for path in found] == ["outbound"]

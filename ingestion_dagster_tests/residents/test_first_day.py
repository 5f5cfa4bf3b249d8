"""The first day on a living system: nothing old is sent by surprise, and what another system has done stays done."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_dagster import arrivals
from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.datasets import resume_dataset, sync_datasets
from ingestion_dagster.residents import first_day
from ingestion_dagster.residents.pipeline import RESIDENTS
from ingestion_dagster_tests.residents.scene import Residents, api, as_csv, nsss, residents

__all__ = ["api", "residents"]


@pytest.fixture(autouse=True)
def three_are_many(residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two old files are few."""
    monkeypatch.setenv("INGESTION_RESIDENTS_FIRST_DAY_FILES", "2")
    residents.settings = residents.settings.model_copy(update={"residents_first_day_files": 2})


def living(residents: Residents, *names: str, dataset: str = "nsss", days_old: float = 3) -> None:
    """Files of one person each, as they stand there on the first day."""
    for number, name in enumerate(names):
        residents.drop(f"{dataset}/{name}", [nsss(number)], days_old=days_old)


def twins(residents: Residents, *names: str, dataset: str = "nsss") -> None:
    """What another system left in the outbound folder."""
    folder = residents.drive / dataset / "outbound"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"another system's")


def paused(residents: Residents) -> list[str]:
    return [name for (name,) in residents.query("SELECT name FROM ledger.datasets WHERE paused_at IS NOT NULL ORDER BY 1")]


def resume(residents: Residents, dataset: str = "nsss") -> None:
    with residents.database.connect() as connection:
        resume_dataset(connection, "residents", dataset)


def test_a_folder_with_many_old_files_pauses_its_dataset_and_no_other(residents: Residents) -> None:
    living(residents, "a.csv", "b.csv", "c.csv")
    living(residents, "a.csv", "b.csv", dataset="spl")
    residents.run()
    assert paused(residents) == ["nsss"]
    assert residents.calls() == 0
    assert {state["status"] for state in residents.states() if state["dataset"] == "nsss"} == {"ready"}
    with residents.database.connect() as connection:
        [(dataset, why, loads)] = whereabouts.held_back(connection, "residents")
    assert (dataset, loads) == ("nsss", 3)
    for word in ("3 files older than a day", "ingestion adopt residents", "ingestion resume residents nsss"):
        assert word in why


@pytest.mark.parametrize(("files", "days_old"), [(2, 3.0), (5, 0.9)], ids=["few", "young"])
def test_few_or_young_files_are_loaded_at_once(residents: Residents, files: int, days_old: float) -> None:
    living(residents, *(f"{number}.csv" for number in range(files)), days_old=days_old)
    residents.run()
    assert paused(residents) == []
    assert residents.counts[0] == files


def test_old_files_that_come_later_are_no_reason_to_pause(residents: Residents) -> None:
    residents.run()
    living(residents, "a.csv", "b.csv", "c.csv", days_old=400)
    residents.run()
    assert paused(residents) == []
    assert residents.counts[0] == 3


def test_files_that_are_landed_by_command_never_pause(residents: Residents, tmp_path: Path) -> None:
    folder = tmp_path / "to land" / "nsss"
    folder.mkdir(parents=True)
    for number in range(4):
        path = folder / f"{number}.csv"
        path.write_bytes(as_csv([nsss(number)]))
        moment = (datetime.now(UTC) - timedelta(days=30)).timestamp()
        os.utime(path, (moment, moment))
    arrivals.land(RESIDENTS, residents.settings, [folder.parent])
    residents.run()
    assert paused(residents) == []
    assert residents.counts[0] == 4


def test_the_first_look_is_one_look(residents: Residents) -> None:
    living(residents, "a.csv", "b.csv", "c.csv")
    with residents.database.connect() as connection:
        sync_datasets(connection, "residents", ("nsss",))
        now = datetime.now(UTC)
        assert first_day.look(connection, residents.settings, now) == ["nsss"]
        resume_dataset(connection, "residents", "nsss")
        assert first_day.look(connection, residents.settings, now) == []
    assert paused(residents) == []


@pytest.mark.parametrize(
    ("inbound", "outbound"),
    [
        ("week 1", "PROCESSED_week 1_2026-11-01"),
        ("week 1", "PROCESSED_week 1_2026-11-01.xlsx"),
        ("week 1.xlsx", "PROCESSED_week 1.xlsx_2026-11-01.xlsx"),
        ("week 1.csv", "PROCESSED_week 1.csv_2026-11-01.xlsx"),
        ("a_2026-10-01.csv", "PROCESSED_a_2026-10-01.csv_2026-11-01.xlsx"),
    ],
)
def test_adopt_marks_what_has_a_twin_while_it_is_paused_and_resume_loads_the_others(
    residents: Residents, inbound: str, outbound: str
) -> None:
    living(residents, "other 1.csv", inbound, "other 2.csv")
    twins(residents, outbound)
    residents.run()
    assert paused(residents) == ["nsss"]
    assert arrivals.adopt(RESIDENTS, residents.settings).files == 1
    assert residents.statuses() == {inbound: "archived", "other 1.csv": "ready", "other 2.csv": "ready"}
    assert paused(residents) == ["nsss"]
    assert residents.calls() == 0
    resume(residents)
    residents.run()
    assert residents.counts[0] == 2
    assert outbound in residents.outbound("nsss")
    assert not [name for name in residents.outbound("nsss") if inbound in name and name != outbound]


@pytest.mark.parametrize(
    "outbound",
    [
        "PROCESSED_week 1.csv",
        "PROCESSED_week 1.csv_2026-11",
        "week 1.csv_2026-11-01.xlsx",
        "PROCESSED_week 1_2026-11-01.xlsx",
        "REFUSED_week 1.csv_2026-11-01.xlsx",
        "city_CT_FOR_UPLOAD_week 1.csv_2026-11-01.xlsx",
    ],
)
def test_what_has_no_twin_is_not_adopted(residents: Residents, outbound: str) -> None:
    living(residents, "week 1.csv")
    twins(residents, outbound)
    assert arrivals.adopt(RESIDENTS, residents.settings).files == 0


def test_a_twin_in_the_folder_of_another_dataset_is_none(residents: Residents) -> None:
    living(residents, "week 1.csv")
    twins(residents, "PROCESSED_week 1.csv_2026-11-01.xlsx", dataset="spl")
    assert arrivals.adopt(RESIDENTS, residents.settings).files == 0


def test_the_hackney_workbook_of_contact_tracing_is_a_twin(residents: Residents) -> None:
    living(residents, "extract.xlsx", dataset="contact_tracing")
    twins(residents, "Hackney_CT_FOR_UPLOAD_extract.xlsx_2026-11-01.xlsx", dataset="contact_tracing")
    assert arrivals.adopt(RESIDENTS, residents.settings).files == 1
    residents.run()
    assert residents.calls() == 0


def test_an_adopted_file_that_is_changed_is_a_new_one(residents: Residents) -> None:
    living(residents, "week 1.csv")
    twins(residents, "PROCESSED_week 1.csv_2026-11-01.xlsx")
    arrivals.adopt(RESIDENTS, residents.settings)
    residents.drop("nsss/week 1.csv", [nsss(5)])
    residents.run()
    assert residents.counts == (1, 1, 1)


def test_what_would_be_adopted_is_said_and_nothing_is_changed(residents: Residents) -> None:
    living(residents, "a.csv", "b.csv", "c.csv")
    twins(residents, "PROCESSED_a.csv_2026-11-01.xlsx", "PROCESSED_b.csv_2026-11-01")
    assert arrivals.adopt(RESIDENTS, residents.settings, dry_run=True).files == 2
    assert set(residents.in_ledger().values()) == {0}
    assert arrivals.adopt(RESIDENTS, residents.settings, dry_run=True).files == 2
    assert arrivals.adopt(RESIDENTS, residents.settings).files == 2


def test_adopt_before_a_day_takes_only_older_files(residents: Residents) -> None:
    living(residents, "old.csv", days_old=10)
    living(residents, "young.csv", days_old=2)
    twins(residents, "PROCESSED_old.csv_2026-11-01", "PROCESSED_young.csv_2026-11-01")
    before = datetime.now(UTC) - timedelta(days=5)
    assert arrivals.adopt(RESIDENTS, residents.settings, before).files == 1
    assert residents.statuses() == {"old.csv": "archived", "young.csv": "ready"}


def test_an_adopted_file_gets_no_report_of_ours(residents: Residents) -> None:
    living(residents, "a.csv")
    twins(residents, "PROCESSED_a.csv_2026-11-01")
    arrivals.adopt(RESIDENTS, residents.settings)
    for name in residents.outbound("nsss"):
        (residents.drive / "nsss" / "outbound" / name).unlink()
    assert residents.tidy() == 0
    assert residents.outbound("nsss") == []


def test_our_own_reports_are_twins_if_the_ledger_is_lost(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.drop("nsss/b.csv", [nsss(2)])
    residents.run()
    residents.query("TRUNCATE ledger.loads, ledger.datasets CASCADE")
    residents.drop("nsss/c.csv", [nsss(3)])
    assert arrivals.adopt(RESIDENTS, residents.settings).files == 2
    residents.run()
    assert residents.statuses() == {"a.csv": "archived", "b.csv": "archived", "c.csv": "archived"}
    assert residents.calls("create") == 3

"""The commands over residents, called as the shell calls them, and Dagster's own as a process: exit codes, and what is printed where."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.sandbox import servers
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.residents.scene import (
    AS_OF,
    DATASET_NAMES,
    SAMPLES,
    Residents,
    Workbook,
    api,
    as_csv,
    nsss,
    residents,
)
from ingestion_dagster_tests.test_cli import Command, ingestion

__all__ = ["api", "ingestion", "residents"]

TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
DAY = AS_OF.isoformat()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a good row, one that is refused, and one that would be odd."""
    path = tmp_path / "mine.csv"
    path.write_bytes(as_csv([nsss(1), nsss(2, date_of_birth="31/02/1990"), nsss(3, contact_number_calls="12")]))
    return path


# load, check, template


@pytest.mark.parametrize(
    ("sample", "code", "line"),
    [
        ("nsss/01_valid.xlsx", 0, "1 loads: 1 loaded (0 duplicates), 0 refused; 3 rows in, 3 written, 0 unchanged, 0 rejected"),
        ("nsss/02_bad_headers.csv", 2, "1 loads: 0 loaded (0 duplicates), 1 refused; 0 rows in, 0 written, 0 unchanged, 0 rejected"),
        ("spl/03_bad_dob.csv", 2, "1 loads: 1 loaded (0 duplicates), 0 refused; 4 rows in, 2 written, 0 unchanged, 2 rejected"),
    ],
)
def test_a_file_is_loaded_under_its_dataset_and_the_exit_code_says_how_it_went(
    ingestion: Command, residents: Residents, sample: str, code: int, line: str
) -> None:
    dataset = sample.partition("/")[0]
    result = ingestion("load", "residents", SAMPLES / sample, "--dataset", dataset, "--as-of", DAY)
    assert (result.code, result.out) == (code, f"{line}\n"), result
    assert [state["key"] for state in residents.states()] == [sample.replace("/", "/inbound/")]


def test_a_file_without_a_dataset_is_not_landed(ingestion: Command, residents: Residents, file: Path) -> None:
    result = ingestion("load", "residents", file)
    assert result.code == 1
    assert "--dataset" in result.err
    assert residents.states() == []


def test_a_dry_load_says_what_would_become_of_each_row_and_does_nothing(ingestion: Command, residents: Residents, file: Path) -> None:
    result = ingestion("load", "residents", file, "--dataset", "nsss", "--dry-run")
    assert (result.code, result.out) == (2, f"{file}: dry run, nothing sent: 2 created, 1 refused, 3 rows\n")
    assert set(residents.in_ledger().values()) == {0}
    assert residents.counts == (0, 0, 0)
    assert not residents.drive.exists()


def test_a_dry_run_says_what_would_become_of_what_is_there(ingestion: Command, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    result = ingestion("run", "residents", "--dry-run")
    assert result.code == 0
    assert result.out == (
        "dry run, nothing changed: 1 loads: 1 would be loaded, 0 refused; 2 rows in, 0 rejected; 2 would be created, 0 matched, 0 skipped\n"
    )
    assert set(residents.in_ledger().values()) == {0}


def test_check_tells_staff_what_is_wrong_without_a_database_or_a_call(
    ingestion: Command, residents: Residents, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    result = ingestion("check", "residents", file, "--dataset", "nsss")
    assert result.code == 2
    assert f"{file}: error: row 2, column 'date_of_birth'" in result.out
    assert "[bad_date]" in result.out
    assert f"{file}: warning: row 3" in result.out
    assert "31/02/1990" not in result.out
    assert residents.calls() == 0
    [report] = ingestion("check", "residents", file, "--dataset", "nsss", "--json").json
    assert report["ok"] is False
    assert {problem["severity"] for problem in report["problems"]} == {"error", "warning"}


@pytest.mark.parametrize("dataset", DATASET_NAMES)
def test_a_template_has_the_columns_that_a_file_needs(ingestion: Command, residents: Residents, tmp_path: Path, dataset: str) -> None:
    path = tmp_path / "empty.xlsx"
    result = ingestion("residents", "template", "--dataset", dataset, "--output", path)
    assert (result.code, result.out) == (0, f"{path}\n")
    book = Workbook.read(path)
    assert dataset in book.tabs
    assert all(f"'{column}'" in book.text or f'"{column}"' in book.text for column in DATASETS[dataset].required)
    checked = ingestion("check", "residents", path, "--dataset", dataset)
    assert "missing_header" not in checked.out
    assert "header_not_found" not in checked.out


def test_a_template_of_no_dataset_is_refused_with_the_names_of_all(ingestion: Command) -> None:
    result = ingestion("residents", "template", "--dataset", "nothing")
    assert result.code == 2
    assert "self_isolation" in result.err


# run, retry, status, pause, adopt


def test_an_api_that_nobody_answers_for_ends_the_run_and_leaves_the_file(
    ingestion: Command, residents: Residents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_RESIDENTS_API_URL", "http://127.0.0.1:9/api/")
    residents.drop("nsss/a.csv", [nsss(number) for number in range(16)])
    result = ingestion("run", "residents", "--as-of", DAY)
    assert result.code == 1
    assert "http_unavailable" in result.err
    assert "Traceback" not in result.err
    assert residents.statuses() == {"a.csv": "ready"}


def test_retry_takes_the_name_of_a_file_as_people_know_it(ingestion: Command, residents: Residents) -> None:
    residents.reject(2)
    residents.drop("nsss/a b.csv", [nsss(1), nsss(2)])
    assert ingestion("run", "residents", "--as-of", DAY).code == 2
    residents.be_well()
    missed = ingestion("retry", "residents", "--key", "another.csv")
    assert (missed.code, missed.err) == (2, "no file that stands refused has the key another.csv\n")
    result = ingestion("retry", "residents", "--key", "a b.csv")
    assert result.code == 0, result
    assert result.out == "1 loads: 1 loaded (0 duplicates), 0 refused; 2 rows in, 1 written, 1 unchanged, 0 rejected\n"
    assert residents.counts == (2, 2, 2)


def test_status_tells_loads_and_rows_in_numbers(ingestion: Command, residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(1), nsss(2, date_of_birth="31/02/1990")])
    residents.drop("spl/b.csv", b"no,such file\n")
    residents.run()
    residents.drop("generic/c.csv", b"not yet\n")
    ingestion("pause", "residents", "generic", "--why", "under review")
    found = ingestion("status", "residents", "--json").json
    nsss_row = next(row for row in found if row["dataset"] == "nsss")
    assert {name: nsss_row[name] for name in ("status", "partition", "loads", "rows_written", "rows_unchanged", "rows_rejected")} == {
        "status": "archived",
        "partition": TODAY,
        "loads": 1,
        "rows_written": 1,
        "rows_unchanged": 1,
        "rows_rejected": 1,
    }
    assert [row["status"] for row in found if row["dataset"] == "spl"] == ["errored"]
    text = ingestion("status", "residents").out
    assert "residents: 0 loads claimable" in text
    assert "residents: 1 errored with header_not_found" in text
    assert "31/02/1990" not in text


def test_a_paused_dataset_is_named_and_its_file_waits_for_resume(ingestion: Command, residents: Residents) -> None:
    assert ingestion("pause", "residents", "nsss", "--why", "under review").code == 0
    residents.drop("nsss/a.csv", [nsss(1)])
    result = ingestion("run", "residents", "--as-of", DAY)
    assert result.code == 0
    assert "not loaded: 1 loads of nsss paused: under review" in result.err
    assert ingestion("resume", "residents", "nsss").code == 0
    assert ingestion("run", "residents", "--as-of", DAY).code == 0
    assert residents.counts == (1, 1, 1)


def test_the_first_day_by_command_from_pause_to_resume(ingestion: Command, residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_RESIDENTS_FIRST_DAY_FILES", "1")
    for number in range(3):
        residents.drop(f"nsss/{number}.csv", [nsss(number)], days_old=3)
    folder = residents.drive / "nsss" / "outbound"
    folder.mkdir()
    (folder / "PROCESSED_1.csv_2026-11-01.xlsx").write_bytes(b"another system's")
    before = ingestion("adopt", "residents", "--dry-run").out
    assert "1 files in the landing zone would be marked as done; nothing is loaded" in before
    first = ingestion("run", "residents", "--as-of", DAY)
    assert first.code == 0
    assert "not loaded: 3 loads of nsss paused: 3 files older than a day" in first.err
    assert "1 files in the landing zone are marked as done; nothing is loaded" in ingestion("adopt", "residents").out
    ingestion("resume", "residents", "nsss")
    last = ingestion("run", "residents", "--as-of", DAY)
    assert last.out.startswith("2 loads: 2 loaded")
    assert residents.counts == (2, 2, 2)


@pytest.mark.parametrize("day", ["tomorrow", "2026-13-01"])
def test_a_day_that_is_none_is_refused(ingestion: Command, residents: Residents, tmp_path: Path, day: str) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    for arguments in (["run", "residents"], ["load", "residents", tmp_path, "--dry-run", "--dataset", "nsss"]):
        (tmp_path / "b.csv").write_bytes(as_csv([nsss(1)]))
        result = ingestion(*arguments, "--as-of", day)
        assert result.code == 1, arguments
        assert "must be an ISO date" in result.err
        assert "Traceback" not in result.err


# The sandbox, and Dagster's own command


@pytest.fixture
def sandbox(settings: Settings) -> Iterator[Path]:
    """A home whose stand-ins are stopped at the end."""
    yield settings.home_folder
    servers.down(settings.home_folder)


def test_a_run_starts_the_stand_in_that_it_needs(ingestion: Command, settings: Settings, sandbox: Path, file: Path) -> None:
    assert settings.residents_api_url is None
    result = ingestion("load", "residents", file, "--dataset", "nsss")
    assert result.code == 2
    assert result.out.startswith("1 loads: 1 loaded")
    assert set(servers.down(sandbox)) == {"here_to_help"}


def materialize(selection: str, partition: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "asset", "materialize", "-m", "ingestion_dagster.definitions"]
    return subprocess.run(
        [*command, "--select", selection, "--partition", partition],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_dagsters_own_command_loads_one_dataset(
    settings: Settings, database: Database, sandbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "dagster home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((Path(__file__).parents[2] / "dagster.yaml").read_bytes())
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    for dataset in ("nsss", "spl"):
        inbound = sandbox / "drive" / dataset / "inbound"
        inbound.mkdir(parents=True)
        (inbound / "a.csv").write_bytes((SAMPLES / dataset / "01_valid.csv").read_bytes())
    without = materialize("residents/nsss", TODAY)
    assert without.returncode != 0
    assert "ingestion sandbox up" in without.stdout + without.stderr
    servers.up(sandbox, names=["here_to_help"])
    result = materialize("residents/nsss", TODAY)
    assert result.returncode == 0, result.stderr[-3000:]
    with database.connect() as connection:
        found = connection.execute("SELECT key, status FROM ledger.loads ORDER BY key").fetchall()
    assert found == [("nsss/inbound/a.csv", "archived"), ("spl/inbound/a.csv", "ready")]
    [report] = (sandbox / "drive" / "nsss" / "outbound").iterdir()
    assert [row["status"] for row in Workbook.read(report).rows] == ["done"] * 3
    assert json.loads((sandbox / "sandbox" / "here_to_help.json").read_text())["url"]

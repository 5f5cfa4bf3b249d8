"""`source_data/residents` is what its generator writes, and every file and row is judged as `expected.json` tells."""

import json
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.residents import sheets, values
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.model import Judged, RowStatus, Rules

SOURCE_DATA = Path(__file__).parents[2] / "source_data"
FOLDER = SOURCE_DATA / "residents"
SCRIPT = SOURCE_DATA / "generate_residents.py"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_bytes())
FILES: dict[str, dict[str, Any]] = EXPECTED["files"]
RULES = Rules(date.fromisoformat(EXPECTED["as_of"]))


def generate(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def judged(path: str) -> tuple[list[str], list[Judged]]:
    """Codes of the whole file, and its rows."""
    dataset = DATASETS[path.partition("/")[0]]
    try:
        sheet = sheets.read(path, (FOLDER / path).read_bytes(), dataset)
    except Refused as refused:
        return sorted({problem.code for problem in refused.problems}), []
    return sorted({problem.code for problem in sheet.problems}), [dataset.judge(cells, number, RULES) for number, cells in sheet.rows()]


def test_committed_files_are_what_the_generator_writes():
    outcome = generate(SCRIPT, "--check")
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_check_sees_changed_missing_and_stray_files_and_a_rewrite_repairs_them(tmp_path: Path):
    script = Path(shutil.copy(SCRIPT, tmp_path))
    shutil.copytree(FOLDER, tmp_path / "residents")
    changed, missing, stray = (tmp_path / "residents" / name for name in (*list(FILES)[:2], "generic/inbound/stray.csv"))
    changed.write_bytes(changed.read_bytes() + b" ")
    missing.unlink()
    stray.write_text("")
    outcome = generate(script, "--check")
    assert outcome.returncode == 1
    assert set(outcome.stdout.splitlines()) == {
        f"differs: {path.relative_to(tmp_path / 'residents')}" for path in (changed, missing, stray)
    }
    assert generate(script).returncode == 0
    assert generate(script, "--check").returncode == 0


@pytest.mark.parametrize("path", FILES)
def test_file_is_judged_as_expected(path: str):
    expected = FILES[path]
    codes, rows = judged(path)
    assert codes == expected["codes"]
    assert [[{"pending": "done"}.get(row.status, row.status.value), row.reason.code if row.reason else None] for row in rows] == expected[
        "rows"
    ]
    said = {problem.code for row in rows for problem in row.problems if problem.severity == "warning" and problem is not row.reason}
    assert sorted(said) == expected["warnings"]
    refused = any(row.status is RowStatus.REFUSED for row in rows)
    assert expected["status"] == ("partial" if refused else "complete" if rows else "refused")


@pytest.mark.parametrize("path", [path for path, expected in FILES.items() if "api" in expected])
def test_what_a_good_file_makes_of_an_empty_api_is_counted_right(path: str):
    sent = [row.prepared for row in judged(path)[1] if row.prepared]
    if FILES[path]["api"]["residents"]:
        shielding = sum(row.shielding_note is not None for row in sent)
        assert FILES[path]["api"] == {
            "residents": len({row.person for row in sent}),
            "help_requests": len(sent) + shielding,
            "case_notes": sum(len(row.notes) for row in sent) + shielding,
        }


def test_files_that_repeat_others_hold_the_same_people():
    people = {
        path: [row.prepared for row in judged(path)[1]]
        for path in ("nsss/inbound/applications.csv", "nsss/inbound/applications again.xlsx")
    }
    first, again = people.values()
    assert first == again


def test_only_bad_files_are_refused_or_partial():
    for path, expected in FILES.items():
        assert (expected["status"] == "complete") is not Path(path).name.startswith("bad_")


def test_every_dataset_has_good_and_bad_files_of_both_formats():
    for dataset in DATASETS:
        names = [Path(path).name for path in FILES if path.startswith(f"{dataset}/inbound/")]
        assert {Path(name).suffix for name in names} >= {".csv", ".xlsx"}
        assert {name.startswith("bad_") for name in names} == {True, False}


def test_the_folder_stays_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 200_000


def test_nobody_in_the_files_exists():
    for path in FILES:
        for row in judged(path)[1]:
            request = row.prepared.request if row.prepared else {}
            phones = [request.get(f"Contact{kind}Number", "") for kind in ("Telephone", "Mobile")]
            assert all(re.fullmatch(r"(0?7700900\d{3}|02079460\d{3})?", phone) for phone in phones)
            assert re.fullmatch(r"(999[\d ]*)?", request.get("NhsNumber", ""))
            assert request.get("Postcode", "ZZ99").startswith("ZZ99")
            assert request.get("EmailAddress", "@example.invalid").endswith("@example.invalid")
            assert values.is_postcode(request.get("Postcode", "ZZ99 3VZ"))

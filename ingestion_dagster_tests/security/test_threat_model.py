"""docs/security.md says nothing that no test shows."""

import re
from pathlib import Path

import pytest

from ingestion_dagster.settings import Settings

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]*test_\w+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_that_is_named_is_there(path: str, name: str) -> None:
    text = (TESTS / path).read_text(encoding="utf-8")
    assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE)


def test_every_threat_has_something_that_stops_it_and_a_test() -> None:
    rows = [line.split(" | ") for table in PAGE.split("| threat |")[1:] for line in table.split("\n\n")[0].splitlines()[2:]]
    assert len(rows) > 25
    assert [row for row in rows if len(row) != 3 or not re.search(r"`[\w/]*test_\w+\.py", row[2])] == []


def test_every_module_of_these_tests_is_named() -> None:
    ours = {f"security/{path.name}" for path in Path(__file__).parent.glob("test_*.py")} - {"security/test_threat_model.py"}
    assert ours <= {path for path, _ in NAMED}


def test_settings_that_are_named_are_there() -> None:
    assert {name.lower() for name in re.findall(r"INGESTION_([A-Z_]+[A-Z])", PAGE)} <= Settings.model_fields.keys()

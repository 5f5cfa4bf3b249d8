"""The comparison with the originals: each pipeline has its table and says what it lacks, and the tests that it names are there."""

import re
from pathlib import Path

import pytest

from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster_tests.catalog.test_docs_table import NAMED, is_there

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "comparison.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_is_there() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 50
    assert [f"{file}::{name}" for file, name in named if not is_there(file, name)] == []


def test_every_file_of_tests_that_is_named_is_there() -> None:
    files = set(re.findall(r"`((?:\w+/)+test_\w+\.py)", PAGE))
    assert len(files) > 40
    assert {file for file in files if not (TESTS / file).is_file()} == set()


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_original_is_compared_row_by_row_and_what_is_lacking_is_said(pipeline: str) -> None:
    section = PAGE.partition(f"\n## {pipeline}\n")[2].partition("\n## ")[0]
    rows = [int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)]
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) >= 15
    assert all(line.count(" | ") == 3 for line in section.splitlines() if re.match(r"\| \d+ \|", line))
    lacks = re.split(r"\*\*What (?:it does|they do) that this does not:\*\*", section)
    assert len(lacks) == 2
    assert lacks[1].count("\n* ") >= 3

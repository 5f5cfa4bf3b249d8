"""The empty workbook to fill in is one that is accepted once it is filled in."""

from datetime import date
from pathlib import Path

import pytest
from python_calamine import CalamineWorkbook

from ingestion_dagster.residents import dates, sheets, template
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster_tests.residents.books import header


@pytest.mark.parametrize("dataset", DATASETS)
def test_template_is_read_back_without_a_problem(dataset: str, tmp_path: Path):
    path = template.write(DATASETS[dataset], tmp_path / "new.xlsx")
    sheet = sheets.read(path.name, path.read_bytes(), DATASETS[dataset])
    assert (list(sheet.header), len(sheet), sheet.problems) == (header(dataset), 0, ())


@pytest.mark.parametrize("dataset", DATASETS)
def test_help_explains_every_column_and_only_dates_that_are_accepted(dataset: str, tmp_path: Path):
    book = CalamineWorkbook.from_path(template.write(DATASETS[dataset], tmp_path / "new.xlsx"))
    assert book.sheet_names == [dataset, "help"]
    rows = book.get_sheet_by_name("help").to_python()
    assert [row[0] for row in rows if row[1]] == header(dataset)
    written = [str(row[0]) for row in rows[[row[0] for row in rows].index("dates") + 1 : -1]]
    day_first = DATASETS[dataset].day_first
    examples = [each for line in written for each in line.partition(" (")[0].partition(", also")[0].split(", ")]
    assert len(examples) >= 2
    assert all(isinstance(dates.parse(each, day_first=day_first), date) for each in examples)


@pytest.mark.parametrize("dataset", DATASETS)
def test_explanations_are_of_columns_that_there_are(dataset: str):
    ours = DATASETS[dataset]
    assert set(ours.explanations) | set(ours.aliases) <= set(header(dataset))
    assert len({*ours.required, *ours.expected, *ours.known}) == len((*ours.required, *ours.expected, *ours.known))

"""Empty workbooks to fill in: the header as a file of the dataset needs it, and what belongs into each column."""

from pathlib import Path
from typing import Any

from ingestion_dagster.residents.registry import Dataset

_DAY_FIRST = (
    "22/02/1963 (day, month, year; also with - . or blanks, and as 2/6/2021)",
    "12 Nov 1998, 12-Jan-1985, 12 January 1985",
    "22021963",
    "1963-02-22, also with a time",
)
_YEAR_FIRST = ("19630222 (year, month, day)", "1963-02-22, also with a time")
_NEVER = "Years need four digits. Text that is no date, and days that do not exist, are refused."


def write(dataset: Dataset, path: Path) -> Path:
    """Write an empty workbook of a dataset: a tab with the header, columns formatted as text, and a tab `help`. Returns the path."""
    import xlsxwriter

    with xlsxwriter.Workbook(str(path)) as workbook:
        text = workbook.add_format({"num_format": "@"})
        bold = workbook.add_format({"num_format": "@", "bold": True})
        table = workbook.add_worksheet(dataset.name)
        for position, column in enumerate((*dataset.required, *dataset.expected)):
            table.set_column(position, position, max(12, len(column) + 2), text)
            table.write_string(0, position, column, bold)
        table.freeze_panes(1, 0)
        explained = workbook.add_worksheet("help")
        explained.set_column(0, 0, 58, text)
        explained.set_column(1, 1, 14, text)
        explained.set_column(2, 2, 100, text)
        for number, (style, cells) in enumerate(_help(dataset, bold, text)):
            for position, cell in enumerate(cells):
                explained.write_string(number, position, cell, style)
    return path


def _help(dataset: Dataset, heading: Any, plain: Any) -> list[tuple[Any, tuple[str, ...]]]:
    columns = ((column, "required") for column in dataset.required), ((column, "may be missing") for column in dataset.expected)
    dates = _DAY_FIRST if dataset.day_first else _YEAR_FIRST
    return [
        (heading, (dataset.title,)),
        (plain, (dataset.description,)),
        (plain, ()),
        (heading, ("column", "", "what belongs into it")),
        *((plain, (column, need, dataset.explanations.get(column, ""))) for group in columns for column, need in group),
        (plain, ()),
        (heading, ("dates",)),
        *((plain, (written,)) for written in dates),
        (plain, (_NEVER,)),
    ]

"""Files to read: workbooks and texts of given cells."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster_tests.residents.rows_of import GOOD

FORMATS = {date: "dd/mm/yyyy", datetime: "dd/mm/yyyy hh:mm:ss", time: "hh:mm", timedelta: "[h]:mm:ss"}


def header(dataset: str) -> list[str]:
    """The columns that files of a dataset have."""
    return [*DATASETS[dataset].required, *DATASETS[dataset].expected]


def row(dataset: str, **cells: Any) -> list[Any]:
    """A good row below `header`, with other cells; blanks and dots in names are underscores here."""
    return [cells.get(column.replace(" ", "_").replace(".", "_"), GOOD[dataset].get(column, "")) for column in header(dataset)]


def table(dataset: str, *rows: Sequence[Any]) -> list[Sequence[Any]]:
    """A header and rows, one good one by default."""
    return [header(dataset), *(rows or [row(dataset)])]


def text(rows: Iterable[Sequence[str]], encoding: str = "utf-8", separator: str = ",") -> bytes:
    """A text file of cells."""
    lines = io.StringIO(newline="")
    csv.writer(lines, delimiter=separator).writerows(rows)
    return lines.getvalue().encode(encoding)


def workbook(*sheets: Iterable[Sequence[Any]], at: tuple[int, int] = (0, 0)) -> bytes:
    """A workbook whose cells have the types of the values; the first cell of each sheet stands at a place."""
    import xlsxwriter

    raw = io.BytesIO()
    with xlsxwriter.Workbook(raw, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}) as book:
        formats = {kind: book.add_format({"num_format": shown}) for kind, shown in FORMATS.items()}
        for rows in sheets:
            sheet = book.add_worksheet()
            for down, cells in enumerate(rows):
                for across, cell in enumerate(cells):
                    place = at[0] + down, at[1] + across
                    if isinstance(cell, str):
                        sheet.write_string(*place, cell)
                    elif isinstance(cell, bool):
                        sheet.write_boolean(*place, cell)
                    elif type(cell) in FORMATS:
                        sheet.write_datetime(*place, cell, formats[type(cell)])
                    elif cell is not None:
                        sheet.write_number(*place, cell)
    return raw.getvalue()

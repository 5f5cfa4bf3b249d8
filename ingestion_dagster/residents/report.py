"""Reports: workbooks that tell the people who sent a spreadsheet what became of each of its rows."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.residents.model import FileReport, RowReport, RowStatus
from ingestion_dagster.residents.report_layout import FACTS, Tab, layouts, names

if TYPE_CHECKING:
    from ingestion_dagster.residents.sheets import Sheet

__all__ = ["REFUSED", "names", "safe", "write"]

REFUSED = "refused"
PROBLEMS_SHOWN = 1000
_ROWS_AT_ONCE = 2_000

ROWS_OF_A_SHEET = 1_048_576
COLUMNS_OF_A_SHEET = 16_384
CELL_UNITS = 32_767
"""What a workbook can hold; a cell's text is counted in units of UTF-16."""

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_END = re.compile("\r\n?")
# The last: xlsxwriter takes a text that begins so for XML of its own.
_RISKY = re.compile("[\\s\u00ad\u200b-\u200f\u2060\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]|<r>")

Cell = str | int | float | None
_PROBLEM_COLUMNS = ("severity", "code", "place", "message")


def safe(text: str) -> str:
    """A text as a workbook may hold it: nothing a spreadsheet would calculate, no character XML forbids, no longer than a cell."""
    text = _ILLEGAL.sub("", text)
    if _RISKY.match(text):
        text = f"'{text}"
    text = _LINE_END.sub("\n", text)
    if len(text) > CELL_UNITS // 2 and (units := text.encode("utf-16-le"))[2 * CELL_UNITS :]:
        text = units[: 2 * (CELL_UNITS - 1)].decode("utf-16-le", "ignore") + "…"
    return text


def write(report: FileReport, sheet: "Sheet | None", folder: Path) -> list[Path]:
    """Write a file's reports into `folder`, a workbook for each of its names and in their order.

    `sheet` is the file as it was read, None if it was not. The same report gives the same bytes. Rows are passed one at a time, so memory
    does not grow with them. Raises `Transient` (`scratch_unusable`) if the folder cannot be written.
    """
    refused = report.status == REFUSED
    header = () if sheet is None or refused else sheet.header
    workbooks = ((),) if refused else layouts(report.dataset, header)
    paths = [folder / f"{number}.xlsx" for number in range(len(workbooks))]
    for path, tabs in zip(paths, workbooks, strict=True):
        _write_workbook(path, report, tabs, sheet)
    return paths


def _write_workbook(path: Path, report: FileReport, tabs: Sequence[Tab], sheet: "Sheet | None") -> None:
    from xlsxwriter.exceptions import XlsxWriterException

    try:
        with TemporaryDirectory(dir=path.parent) as scratch:
            _fill(path, Path(scratch), report, tabs, sheet)
    except (OSError, XlsxWriterException) as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise Transient("scratch_unusable", f"{path.parent}: {type(error).__name__}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _fill(path: Path, scratch: Path, report: FileReport, tabs: Sequence[Tab], sheet: "Sheet | None") -> None:
    from xlsxwriter import Workbook

    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "tmpdir": str(scratch),
        "use_zip64": True,
    }
    with Workbook(str(path), options) as workbook:
        # A report that is written again is the same to the byte, so no clock is read.
        workbook.set_properties({"created": datetime.combine(report.day, time())})
        _write_rows(workbook, report, tabs, sheet)
        _write_summary(workbook, report)
        if report.status == REFUSED:
            problems = _Sheets(workbook, "problems", _PROBLEM_COLUMNS)
            for problem in report.problems:
                problems.add(_problem(problem))


class _Sheets:
    """Sheets of one kind: the rows that one cannot hold go on in another, under the same header."""

    def __init__(self, workbook: Any, name: str, header: Sequence[str]) -> None:
        self._workbook = workbook
        self._name = name
        self._header = header
        self._count = 0
        self._begin()

    def _begin(self) -> None:
        self._count += 1
        sheet = self._workbook.add_worksheet(self._name if self._count == 1 else f"{self._name}_{self._count}")
        sheet.freeze_panes(1, 0)
        sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{ROWS_OF_A_SHEET}"})
        self._sheet = sheet
        self._row = 0
        self.add(self._header)

    def add(self, cells: Iterable[Cell]) -> None:
        """Write one row; what is blank takes no room."""
        if self._row == ROWS_OF_A_SHEET:
            self._begin()
        row, sheet = self._row, self._sheet
        for column, cell in enumerate(cells):
            if isinstance(cell, str):
                if cell:
                    sheet.write_string(row, column, safe(cell))
            elif cell is not None:
                sheet.write_number(row, column, cell)
        self._row += 1


def _write_rows(workbook: Any, report: FileReport, tabs: Sequence[Tab], sheet: "Sheet | None") -> None:
    targets = []
    for tab in tabs:
        inbound = tab.inbound[: COLUMNS_OF_A_SHEET - len(tab.before) - len(tab.after)]
        sheets = _Sheets(workbook, tab.name, (*tab.before, *(column.name for column in inbound), *tab.after))
        positions = [column.position for column in inbound]
        targets.append((tab.takes, [FACTS[name] for name in tab.before], positions, [FACTS[name] for name in tab.after], sheets))
    if not targets:
        return
    for row, cells, line in _rows(report, sheet):
        for takes, before, positions, after, sheets in targets:
            if takes(cells, row):
                copied = (None if position is None else line[position] for position in positions)
                sheets.add((*(fact(row) for fact in before), *copied, *(fact(row) for fact in after)))


def _rows(report: FileReport, sheet: "Sheet | None") -> Iterator[tuple[RowReport, Mapping[str, str], Sequence[str]]]:
    """What became of each row of the file, with its cells by name, and as they stand there by position; the former alone without a file."""
    if sheet is None:
        yield from ((row, {}, ()) for row in report.rows)
        return
    became = {row.number: row for row in report.rows}
    for (number, cells), line in zip(sheet.rows(), _lines(sheet), strict=True):
        yield became.get(number) or RowReport(number, RowStatus.PENDING), cells, line


def _lines(sheet: "Sheet") -> Iterator[Sequence[str]]:
    """Every cell of each row: of columns with one name, `rows` tells the first only."""
    for start in range(0, len(sheet.frame), _ROWS_AT_ONCE):
        part = sheet.frame.iloc[start : start + _ROWS_AT_ONCE]
        yield from zip(*(part.iloc[:, position].tolist() for position in range(len(sheet.header))), strict=True)


def _write_summary(workbook: Any, report: FileReport) -> None:
    summary = _Sheets(workbook, "summary", ("what", "value"))
    for line in _facts_of_the_file(report):
        summary.add(line)
    if report.status == REFUSED or not report.problems:
        return
    summary.add(())
    summary.add(_PROBLEM_COLUMNS)
    for problem in report.problems[:PROBLEMS_SHOWN]:
        summary.add(_problem(problem))
    if (more := len(report.problems) - PROBLEMS_SHOWN) > 0:
        summary.add((f"and {more} more",))


def _facts_of_the_file(report: FileReport) -> Iterator[tuple[Cell, ...]]:
    yield "file", report.file_name
    yield "dataset", report.dataset
    yield "status", report.status
    yield "day", report.day.isoformat()
    yield "rows", len(report.rows)
    statuses = Counter(row.status.value for row in report.rows)
    yield from ((f"rows {status.value}", statuses[status.value]) for status in RowStatus if statuses[status.value])
    actions = Counter(row.action.value for row in report.rows if row.action)
    yield from ((f"action {action}", count) for action, count in sorted(actions.items()))
    reasons = Counter(row.reason_code for row in report.rows if row.reason_code)
    yield from ((f"reason {reason}", count) for reason, count in sorted(reasons.items()))
    yield "notes added", sum(row.notes_added for row in report.rows)
    yield "header found in row", report.header_row
    yield "hash of the file", report.content_hash
    yield "seconds", round(report.seconds, 1)
    yield "problems", len(report.problems)


def _problem(problem: Problem) -> tuple[Cell, ...]:
    return problem.severity, problem.code, problem.place, problem.message

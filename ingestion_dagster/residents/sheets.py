"""Spreadsheets as tables of text: nothing is guessed, nothing is converted, every row can be found again in the sheet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.residents import delimited, headers, workbooks
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.rows import BEYOND_HEADER

if TYPE_CHECKING:
    import pandas as pd

MAX_UNPACKED_BYTES = 1024**3
MAX_CELLS = 25_000_000
"""Blank cells between the first and the last included."""

_CHUNK_ROWS = 2_000
_NEUTRALISED = ("'=", "'+", "'-", "'@")


@dataclass(frozen=True, slots=True)
class Sheet:
    """The table of a sheet: one row for each that is not blank, cells as they stand there."""

    header: tuple[str, ...]
    """The names of the columns as they stand there, trimmed."""
    header_row: int
    """Which row of the sheet it is, counted from 1."""
    frame: "pd.DataFrame" = field(repr=False)
    """All cells as text, "" for blank. The index tells the row of the sheet; a name that is there twice gets a number: Comments (2)."""
    problems: tuple[Problem, ...] = ()
    """Warnings."""
    _lacking: tuple[str, ...] = ()
    _beyond: Mapping[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.frame)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The rows with their numbers from 1 (blank ones have none): trimmed cells by column, "" for columns that the file lacks.

        Of columns with one name the first counts. What a row has beyond the header is under `rows.BEYOND_HEADER`.
        """
        names = {name: self.header.index(name) for name in self.header}
        lacking = dict.fromkeys(self._lacking, "")
        for start in range(0, len(self.frame), _CHUNK_ROWS):
            part = self.frame.iloc[start : start + _CHUNK_ROWS]
            columns = [part.iloc[:, position].tolist() for position in names.values()]
            for offset, cells in enumerate(zip(*columns, strict=True)):
                number = start + offset + 1
                row = dict(zip(names, map(str.strip, cells), strict=True)) | lacking
                if number in self._beyond:
                    row[BEYOND_HEADER] = self._beyond[number]
                yield number, row


def read(
    name: str,  # noqa: ARG001
    raw: bytes,
    dataset: Dataset,
    *,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
    max_cells: int = MAX_CELLS,
) -> Sheet:
    """The table of a file: of a workbook the first worksheet. Its content decides what kind it is; its name may end in anything.

    Raises `Refused` with all that is wrong with the file, or with its header. A file without rows is none.
    """
    lines, warnings = _lines(raw, dataset, max_unpacked_bytes, max_cells)
    first = list(islice(lines, headers.SEARCHED_ROWS))
    if not any(cell.strip() for row in first for cell in row):
        raise Refused(Problem("empty_file", "file", "the first worksheet is empty; upload the file again"))
    header = headers.find(first, dataset)
    table = _Table(header.cells)
    for position, cells in enumerate(first[header.index + 1 :], header.index + 2):
        table.add(position, cells)
    for position, cells in enumerate(lines, len(first) + 1):
        table.add(position, cells)
    lacking = tuple(column for column in (*dataset.required, *dataset.expected) if column not in table.names)
    frame = table.frame()
    problems = (*warnings, *header.warnings, *table.warnings())
    return Sheet(table.names, header.index + 1, frame, problems, lacking, table.beyond())


def _lines(raw: bytes, dataset: Dataset, max_unpacked_bytes: int, max_cells: int) -> tuple[Iterator[list[str]], tuple[Problem, ...]]:
    if raw.startswith(workbooks.ZIP_MAGIC):
        return workbooks.rows(raw, day_first=dataset.day_first, max_unpacked_bytes=max_unpacked_bytes, max_cells=max_cells), ()
    workbooks.refuse_other_kinds(raw)
    encoding, warnings = delimited.encoding_of(raw)
    return delimited.rows(raw, encoding), warnings


class _Table:
    """The rows below a header while they are read, in chunks, since cells take ten times the room as separate objects."""

    def __init__(self, header: tuple[str, ...]) -> None:
        self._width = len(header)
        self._positions = [position for position, name in enumerate(header) if name]
        self.names = tuple(header[position] for position in self._positions)
        self._nameless: set[int] = set()
        self._count = 0
        self._rows: list[list[str]] = []
        self._index: list[int] = []
        self._chunks: list[pd.DataFrame] = []
        self._long: dict[int, str] = {}

    def add(self, position: int, cells: list[str]) -> None:
        """A row of the sheet, if anything is in it."""
        if not any(cell and not cell.isspace() for cell in cells):
            return
        if len(cells) < self._width:
            cells = cells + [""] * (self._width - len(cells))
        row = [cell[1:] if cell.startswith(_NEUTRALISED) else cell for cell in map(cells.__getitem__, self._positions)]
        if not any(cell and not cell.isspace() for cell in row):
            self._note_nameless(cells)
            return
        self._count += 1
        self._rows.append(row)
        self._index.append(position)
        if len(cells) > len(row):
            self._note_nameless(cells)
        if len(cells) > self._width:
            self._long[self._count] = " ".join(cells[self._width :]).strip()
        if len(self._rows) >= _CHUNK_ROWS:
            self._pack()

    def _note_nameless(self, cells: list[str]) -> None:
        named = set(self._positions)
        self._nameless |= {position for position, cell in enumerate(cells[: self._width]) if position not in named and cell.strip()}

    def _pack(self) -> None:
        import pandas as pd

        columns = zip(*self._rows, strict=True) if self._rows else ([] for _ in self.names)
        arrays = {position: pd.array(list(column), dtype="str") for position, column in enumerate(columns)}
        self._chunks.append(pd.DataFrame(arrays, index=pd.Index(self._index, dtype="int32")))
        self._rows, self._index = [], []

    def frame(self) -> "pd.DataFrame":
        """What was added."""
        import pandas as pd

        self._pack()
        frame = pd.concat(self._chunks)
        self._chunks = []
        frame.columns = pd.Index(_distinct(self.names), dtype="str")
        return frame

    def beyond(self) -> dict[int, str]:
        """By row what it has to the right of the header; not if that is blank in all rows, as some programs write them."""
        if len(self._long) == self._count and not any(self._long.values()):
            return {}
        return {number: text or "(blank)" for number, text in self._long.items()}

    def warnings(self) -> Iterator[Problem]:
        """What was left out."""
        if self._nameless:
            listed = ", ".join(map(column_letters, sorted(self._nameless)[:20]))
            message = f"cells of the columns {listed} have no name above them and are left out; name the columns if they are needed"
            yield Problem("unnamed_column", "header", message, "warning")
        if long := list(self.beyond()):
            listed = ", ".join(map(str, long[:20])) + (", …" if len(long) > 20 else "")
            message = f"rows with more cells than the header: {listed}; put quotes around texts with a comma in them"
            yield Problem("row_too_long", "file", message, "warning")


def _distinct(names: tuple[str, ...]) -> list[str]:
    taken, distinct = set(names), list[str]()
    for name in names:
        numbered = (f"{name} ({number})" for number in range(2, len(names) + 2))
        distinct.append(next(each for each in numbered if each not in taken) if name in distinct else name)
        taken.add(distinct[-1])
    return distinct


def column_letters(position: int) -> str:
    """The letters over a column counted from 0."""
    letters = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        letters = chr(65 + rest) + letters
    return letters

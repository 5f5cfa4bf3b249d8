"""Data files to Parquet: one pass over the bytes gives every value as text, and typed; what is wrong is told row by row.

Nothing of a file is held but a block, whatever its size. The same bytes give the same Parquet, however they arrive.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ingestion_dagster.cubic.casts import Rows
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.dfm import Dialect
from ingestion_dagster.cubic.gunzip import gunzip
from ingestion_dagster.cubic.records import LONGEST, Block, blocks, line_feeds, record_ends
from ingestion_dagster.cubic.sink import EMPTY, Converted, Outputs, Sink, Source, Tolerance, with_the_rest
from ingestion_dagster.engine.errors import Problem, Refused

Accept = Callable[[tuple[str, ...]], Sequence[Column]]
_MOST_COLUMNS = 2000
_LONGEST_HEADER = 1 << 20
_SMALL = 1 << 20


def convert_csv(
    chunks: Iterator[bytes],
    accept: Accept,
    outputs: Outputs,
    *,
    dialect: Dialect,
    compressed: bool,
    expected_rows: int | None,
    tolerance: Tolerance,
) -> Converted:
    """Convert the file that `chunks` are the bytes of.

    `accept` gets the header's names in lower case, once, and returns the columns to write, in their order; one that the header
    lacks is null. What it raises passes through, as does what `chunks` raises.

    Raises Refused with all that can be known: `empty_file`, `not_gzip`, `gzip_truncated`, `gzip_corrupt`, `header_unreadable`,
    `not_utf8`, `record_too_long`, `row_count_differs`, `too_many_rejected_rows`. The outputs are then worth nothing, except
    `rejects`, if it is there.
    """
    source = Source(chunks)
    pieces = gunzip(iter(source)) if compressed else iter(source)
    with ExitStack() as stack:
        sink = Sink(outputs, tolerance, stack)
        try:
            _convert(pieces, accept, dialect, sink)
        except Refused as refused:
            raise with_the_rest(refused, pieces, sink) from None
        sink.finish()
    problems = []
    if expected_rows is not None and sink.rows_in != expected_rows:
        told = f"the .dfm says {expected_rows}, the file has {sink.rows_in}; deliver both again"
        problems.append(Problem("row_count_differs", "rows", told))
    return sink.converted(source, problems)


def _convert(pieces: Iterator[bytes], accept: Accept, dialect: Dialect, sink: Sink) -> None:
    header: tuple[str, ...] | None = None
    for block in blocks(pieces, dialect):
        rows = block
        if header is None:
            header, rows = _header(block, dialect)
            sink.columns = tuple(accept(header))
        if rows.content:
            _rows(rows, header, dialect, sink)
    if header is None:
        raise Refused(EMPTY)


def _header(block: Block, dialect: Dialect) -> tuple[tuple[str, ...], Block]:
    """The names of the columns in lower case, and the block without them."""
    beginning = bytes(block.content[:_LONGEST_HEADER])
    end = beginning.find(b"\n") + 1
    if not end or dialect.escape or (dialect.quote and dialect.quote.encode() in beginning[:end]):
        ends = record_ends(block.content[:_LONGEST_HEADER], dialect)
        end = int(ends[0]) if len(ends) else len(block.content)
    try:
        text = str(block.content[:end], "utf-8").rstrip("\r\n")
        row = next(csv.reader([text], **_python_dialect(dialect)), [])
    except UnicodeDecodeError:
        raise Refused(_unreadable_header("is no UTF-8")) from None
    except csv.Error:
        raise Refused(_unreadable_header("is not quoted as it should be")) from None
    names = tuple(name.lower() for name in row)
    if not names or not all(name.strip() for name in names):
        raise Refused(_unreadable_header("has a column without a name"))
    if len(set(names)) < len(names):
        raise Refused(_unreadable_header("has a name twice"))
    if len(names) > _MOST_COLUMNS:
        raise Refused(_unreadable_header(f"has more than {_MOST_COLUMNS} names"))
    return names, block.after(end)


def _unreadable_header(what: str) -> Problem:
    return Problem("header_unreadable", "line 1", f"the header {what}; deliver the file again")


def _python_dialect(dialect: Dialect) -> dict[str, Any]:
    return {
        "delimiter": dialect.delimiter,
        "quotechar": dialect.quote or None,
        "quoting": csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        "escapechar": dialect.escape or None,
        "strict": True,
    }


@lru_cache(maxsize=64)
def _options(
    dialect: Dialect, header: tuple[str, ...], wanted: tuple[str, ...], block_size: int
) -> tuple[pacsv.ReadOptions, pacsv.ConvertOptions]:
    reading = pacsv.ReadOptions(use_threads=False, column_names=header, block_size=block_size)
    converting = pacsv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()),
        include_columns=wanted,
        null_values=[dialect.null],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    return reading, converting


def _rows(block: Block, header: tuple[str, ...], dialect: Dialect, sink: Sink) -> None:
    """Parse a block and write its rows."""
    wrong: list[int] = []
    most = max(0, sink.left + 1)
    uncounted = 0

    def skip(row: pacsv.InvalidRow) -> str:
        nonlocal uncounted
        if len(wrong) < most:
            wrong.append(row.number)
        else:
            uncounted += 1
        return "skip"

    present = frozenset(header)
    wanted = tuple(column.name for column in sink.columns if column.name in present) or header[:1]
    reading, converting = _options(dialect, header, wanted, _SMALL if len(block.content) < _SMALL else 2 * LONGEST)
    parsing = pacsv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        double_quote=True,
        escape_char=dialect.escape or False,
        newlines_in_values=True,
        invalid_row_handler=skip,
        ignore_empty_lines=len(header) > 1,
    )
    try:
        table = pacsv.read_csv(pa.BufferReader(pa.py_buffer(block.content)), reading, parsing, converting)
    except pa.ArrowInvalid:  # its text holds values
        raise Refused(_unparsed(block)) from None
    lines = _Lines(block, dialect, wrong, skip_empty=len(header) > 1)
    sink.rows_in += table.num_rows + len(wrong) + uncounted
    if wrong:
        sink.rejected.add([(line, None, "field_count") for line in lines.of_records(np.array(wrong) - 1)], len(wrong))
    sink.rejected.count(uncounted, "field_count")
    nulls = pa.nulls(table.num_rows, pa.string())
    found = {name: _whole(values) for name, values in zip(wanted, table.itercolumns(), strict=True)}
    sink.write([found.get(column.name, nulls) for column in sink.columns], lines)


def _whole(values: pa.ChunkedArray) -> pa.Array:
    return (
        values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], pa.string())
    )


def _unparsed(block: Block) -> Problem:
    try:
        str(block.content, "utf-8")
    except UnicodeDecodeError as error:
        line = block.line + line_feeds(block.content[: error.start])
        return Problem("not_utf8", f"line {line}", "it is no UTF-8; deliver the file as UTF-8")
    return Problem("not_csv", f"after line {block.line}", "it cannot be parsed; deliver the file again")


class _Lines:
    """Finds the lines of a block's rows; only when asked, for that takes a second look at the block."""

    def __init__(self, block: Block, dialect: Dialect, wrong: list[int], *, skip_empty: bool) -> None:
        self._block = block
        self._dialect = dialect
        self._wrong = wrong
        self._skip_empty = skip_empty
        self._begin: np.ndarray | None = None

    def __call__(self, rows: Rows) -> list[int]:
        """Lines on which rows begin, counted without those that have a wrong number of fields."""
        records = rows
        if self._wrong:
            wrong = np.array(self._wrong) - 1
            # The n-th wrong record has (its position - n) right ones before it.
            records = rows + np.searchsorted(wrong - np.arange(len(wrong)), rows, side="right")
        return self.of_records(records)

    def of_records(self, records: np.ndarray) -> list[int]:
        """Lines on which records begin."""
        if self._begin is None:
            self._begin = self._begins()
        return [int(line) for line in self._begin[records]]

    def _begins(self) -> np.ndarray:
        content = self._block.content
        ends = record_ends(content, self._dialect)
        starts = np.concatenate([[0], ends])
        if self._skip_empty:
            view = np.frombuffer(content, np.uint8)
            inside = starts[starts < len(content)]
            starts = inside[(view[inside] != 10) & (view[inside] != 13)]
        feeds = np.flatnonzero(np.frombuffer(content, np.uint8) == 10)
        return np.searchsorted(feeds, starts) + self._block.line

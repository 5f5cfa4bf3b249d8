"""Data files to Parquet: one pass over the bytes gives every value as text, and typed; what is wrong is told row by row.

Nothing of a file is held but a block, whatever its size. The same bytes give the same Parquet, however they arrive.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ingestion_dagster.cubic.casts import NONE, Rows, cast_column, code
from ingestion_dagster.cubic.columns import Column, arrow_type
from ingestion_dagster.cubic.dfm import Dialect
from ingestion_dagster.cubic.gunzip import gunzip
from ingestion_dagster.cubic.records import LONGEST, Block, blocks, line_feeds, record_ends
from ingestion_dagster.engine.errors import Problem, Refused

Accept = Callable[[tuple[str, ...]], Sequence[Column]]
EMPTY = Problem("empty_file", "file", "it holds nothing; deliver it again")
_MOST_COLUMNS = 2000
_LONGEST_HEADER = 1 << 20
_SMALL = 1 << 20
_UNCOUNTED = (pa.string(), pa.binary())
"""Types without least and greatest value in the Parquet: they would cost a tenth of the time."""

REJECTS = pa.schema([("line", pa.int64()), ("column", pa.string()), ("code", pa.string())])


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the Parquet is written: files of the caller's own, to publish or to throw away."""

    raw: Path | None
    """Every value as text."""
    typed: Path | None
    rejects: Path
    """Line, column and code of what was rejected; written only if something was."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How many rows may be rejected before the file is: neither more than `rows`, nor more than this share of all."""

    rows: int = 1000
    share: float = 0.001

    def exceeded(self, rejected: int, rows: int) -> bool:
        """Whether so many rejected rows of so many are too many."""
        return rejected > self.rows or rejected > self.share * rows


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of a file."""

    rows_in: int
    rows_written: int
    rows_rejected: int
    bytes_read: int
    """As they are in the file, compressed or not."""
    content_hash: str
    """SHA-256 of these bytes, in hexadecimal."""
    problems: tuple[Problem, ...]
    """Warnings: the rejected rows by column and code."""
    columns: tuple[Column, ...]
    offsets: Mapping[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    """Of messages: what was written, by topic and partition."""


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


class Source:
    """Counts and hashes the bytes of a file as they pass."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.bytes_read = 0
        self._chunks = chunks
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.bytes_read += len(chunk)
            self._hash.update(chunk)
            yield chunk

    @property
    def content_hash(self) -> str:
        """Of what has passed."""
        return self._hash.hexdigest()


def with_the_rest(refused: Refused, pieces: Iterator[bytes], sink: "Sink") -> Refused:
    """A refusal in the middle of a file with what is wrong with its remainder, and the rows that were rejected before."""
    remainder: tuple[Problem, ...] = ()
    try:
        for _ in pieces:
            pass
    except Refused as further:
        remainder = further.problems
    return Refused(*remainder, *refused.problems, *sink.rejected.problems("error"))


class Rejected:
    """The rows that were rejected: written down one by one, and counted by column and code."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.rows = 0
        self._path = path
        self._stack = stack
        self._writer: pq.ParquetWriter | None = None
        self._counts: dict[tuple[str | None, str], tuple[int, int]] = {}

    def add(self, reasons: Sequence[tuple[int, str | None, str]], rows: int) -> None:
        """Note the (line, column, code) of so many rows; column None: the row as a whole."""
        if not reasons:
            return
        self.rows += rows
        for line, column, reason in reasons:
            count, first = self._counts.get((column, reason), (0, line))
            self._counts[column, reason] = (count + 1, first)
        if self._writer is None:
            self._writer = self._stack.enter_context(pq.ParquetWriter(self._path, REJECTS, compression="zstd", compression_level=1))
        columns = zip(*reasons, strict=True)
        arrays = [pa.array(values, kind) for values, kind in zip(columns, REJECTS.types, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=REJECTS))

    def count(self, rows: int, reason: str) -> None:
        """Note rows only as a number: those beyond what is tolerated, which refuses the file."""
        if rows:
            self.rows += rows
            count, first = self._counts.get((None, reason), (0, 0))
            self._counts[None, reason] = (count + rows, first)

    def problems(self, severity: str) -> list[Problem]:
        """One for each column and code, the first ones first."""
        return [
            Problem(reason, f"column {column}" if column is not None else "row", f"{count} rejected, the first at line {first}", severity)  # type: ignore[arg-type]
            for (column, reason), (count, first) in self._counts.items()
        ]


class Sink:
    """The Parquet files that the rows of a file go into."""

    def __init__(self, outputs: Outputs, tolerance: Tolerance, stack: ExitStack) -> None:
        self.rows_in = self.rows_written = 0
        self.rejected = Rejected(outputs.rejects, stack)
        self.columns: tuple[Column, ...] = ()
        self.repetitive: frozenset[str] | None = None
        """The columns whose few values are stored once; None before the first rows."""
        self._outputs = outputs
        self._tolerance = tolerance
        self._stack = stack
        self._raw: pq.ParquetWriter | None = None
        self._typed: pq.ParquetWriter | None = None

    @property
    def left(self) -> int:
        """How many more rows can be rejected before the file is, whatever else it holds; below 0 once it is."""
        return self._tolerance.rows - self.rejected.rows

    def write(self, texts: list[pa.Array], lines: Callable[[Rows], Sequence[int]]) -> set[int]:
        """Write rows, given column by column as texts, but those that hold a value that cannot be cast, which it returns.

        `lines` tells on which line of the file a row is.
        """
        if self.left < 0:
            return set()
        typed = []
        reasons: list[tuple[int, int]] = []
        for number, (column, values) in enumerate(zip(self.columns, texts, strict=True)):
            cast, bad = cast_column(values, column.type, self.left) if self._outputs.typed else (values, NONE)
            typed.append(cast)
            reasons += [(int(row), number) for row in bad]
        if reasons:
            rows = np.unique([row for row, _ in reasons])
            at = dict(zip(rows.tolist(), lines(rows), strict=True))
            told = [(at[row], self.columns[number].name, code(self.columns[number].type)) for row, number in sorted(reasons)]
            self.rejected.add(told, len(rows))
            kept = np.ones(len(texts[0]), bool)
            kept[rows] = False
            mask = pa.array(kept)
            texts, typed = [each.filter(mask) for each in texts], [each.filter(mask) for each in typed]
        self._write(texts, typed)
        return {row for row, _ in reasons}

    def finish(self) -> None:
        """Open the outputs even if there was no row."""
        if self.repetitive is None:
            self._write([], [])

    def _write(self, texts: list[pa.Array], typed: list[pa.Array]) -> None:
        if self.repetitive is None:
            self.repetitive = frozenset(column.name for column, values in zip(self.columns, texts, strict=False) if _repeats(values))
            self._open()
        rows = len(texts[0]) if texts else 0
        if not rows:
            return
        self.rows_written += rows
        if self._raw:
            self._raw.write_table(pa.Table.from_arrays(texts, schema=self._raw.schema))
        if self._typed:
            self._typed.write_table(pa.Table.from_arrays(typed, schema=self._typed.schema))

    def _open(self) -> None:
        repetitive = sorted(self.repetitive or ())
        if self._outputs.raw:
            schema = pa.schema([(column.name, pa.string()) for column in self.columns])
            self._raw = self._stack.enter_context(_writer(self._outputs.raw, schema, repetitive))
        if self._outputs.typed:
            schema = pa.schema([(column.name, arrow_type(column.type)) for column in self.columns])
            self._typed = self._stack.enter_context(_writer(self._outputs.typed, schema, repetitive))

    def converted(self, source: Source, problems: list[Problem]) -> Converted:
        """What came of the file. Raises Refused if there are problems, or too many rows were rejected."""
        if self._tolerance.exceeded(self.rejected.rows, self.rows_in):
            told = f"at least {self.rejected.rows} of {self.rows_in}; correct them at the source, or allow more"
            problems.append(Problem("too_many_rejected_rows", "rows", told))
        if problems:
            raise Refused(*problems, *self.rejected.problems("error"))
        return Converted(
            rows_in=self.rows_in,
            rows_written=self.rows_written,
            rows_rejected=self.rejected.rows,
            bytes_read=source.bytes_read,
            content_hash=source.content_hash,
            problems=tuple(self.rejected.problems("warning")),
            columns=self.columns,
        )


def _repeats(values: pa.Array) -> bool:
    """Whether a column's values repeat so much that a dictionary pays."""
    sample = values.slice(0, 20_000)
    return len(sample) >= 1000 and pc.count_distinct(sample).as_py() * 5 < len(sample)


def _writer(path: Path, schema: pa.Schema, repetitive: list[str]) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=repetitive or False,
        store_schema=False,
        write_statistics=[field.name for field in schema if field.type not in _UNCOUNTED],
        write_batch_size=1 << 16,
    )


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

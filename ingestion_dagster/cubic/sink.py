"""The Parquet files that the rows of a file go into: what was written, and what was rejected, counted and noted."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion_dagster.cubic.casts import NONE, Rows, cast_column, code
from ingestion_dagster.cubic.columns import Column, arrow_type
from ingestion_dagster.engine.errors import Problem, Refused

EMPTY = Problem("empty_file", "file", "it holds nothing; deliver it again")

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

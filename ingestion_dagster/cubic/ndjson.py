"""Batches of messages to Parquet: one envelope per line, and each (topic, partition, offset) only once, whatever was sent again."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pyarrow as pa

from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.dfm import Dialect
from ingestion_dagster.cubic.gunzip import gunzip
from ingestion_dagster.cubic.records import Block, blocks
from ingestion_dagster.cubic.sink import EMPTY, Converted, Outputs, Sink, Source, Tolerance, with_the_rest
from ingestion_dagster.engine.errors import Refused

ENVELOPE = (
    Column("topic", "string"),
    Column("partition", "bigint"),
    Column("offset", "bigint"),
    Column("timestamp", "timestamp"),
    Column("key", "string"),
    Column("value", "string"),
)
"""What every message has; `value` is JSON as compact text."""

Offsets = dict[tuple[str, int], list[int]]
"""Offsets by topic and partition, in the order of the file."""

Wanted = Callable[[Offsets], Mapping[tuple[str, int], set[int]]]
_LINES = Dialect(quote="")
_INEXACT = re.compile(rb'(?:"\s*:|[\[,])\s*-?(?:[0-9]{16}|[0-9]+[.eE])')
_POSITIONS = range(2**63)


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as it is written: read and written again it might lose digits."""

    text: str


@dataclass(frozen=True, slots=True)
class _Message:
    line: int
    where: tuple[str, int]
    offset: int
    texts: list[str | None]


class _Bad(Exception):
    """A line is no message: the column (None: the line as a whole) and the code."""

    def __init__(self, column: str | None, code: str) -> None:
        super().__init__(code)
        self.column = column
        self.code = code


def convert_ndjson(
    chunks: Iterator[bytes],
    columns: Sequence[Column] | None,
    outputs: Outputs,
    *,
    compressed: bool,
    tolerance: Tolerance,
    wanted: Wanted,
) -> Converted:
    """Convert a batch: the envelope's columns, and `columns` out of the members of each value that is an object.

    A column that is named as one of the envelope's gives that one its type. `wanted` gets offsets of the file (all of them, but of
    files above 8 MB in several calls) and gives back those that are written elsewhere: they are left out, as are repetitions in the
    file. A line that is no JSON object, or has no topic, partition and offset, is a rejected row.

    Raises Refused: `empty_file`, `not_gzip`, `gzip_truncated`, `gzip_corrupt`, `record_too_long`, `too_many_rejected_rows`. What
    `chunks` and `wanted` raise passes through.
    """
    own = {column.name: column for column in columns or ()}
    members = tuple(column for name, column in own.items() if name not in {known.name for known in ENVELOPE})
    source = Source(chunks)
    pieces = gunzip(iter(source)) if compressed else iter(source)
    written: Offsets = {}
    with ExitStack() as stack:
        sink = Sink(outputs, tolerance, stack)
        sink.columns = (*(own.get(column.name, column) for column in ENVELOPE), *members)
        batch = _Batch(sink, tuple(column.name for column in members), wanted)
        try:
            for block in blocks(pieces, _LINES):
                for where, offset in batch.write(block):
                    written.setdefault(where, []).append(offset)
            if not source.bytes_read or batch.empty:
                raise Refused(EMPTY)
        except Refused as refused:
            raise with_the_rest(refused, pieces, sink) from None
        sink.finish()
    return replace(sink.converted(source, []), offsets={where: tuple(there) for where, there in written.items()})


class _Batch:
    """The messages of a file, of which each is written once."""

    def __init__(self, sink: Sink, members: tuple[str, ...], wanted: Wanted) -> None:
        self.empty = True
        self._sink = sink
        self._members = members
        self._wanted = wanted
        self._done: dict[tuple[str, int], set[int]] = {}

    def write(self, block: Block) -> list[tuple[tuple[str, int], int]]:
        """Write the messages of a block; topic, partition and offset of those that were."""
        self.empty = False
        messages = self._messages(block)
        offsets: Offsets = {}
        for message in messages:
            offsets.setdefault(message.where, []).append(message.offset)
        if offsets:
            for where, elsewhere in self._wanted(offsets).items():
                self._done.setdefault(where, set()).update(elsewhere)
        new = [message for message in messages if self._is_new(message)]
        texts = [pa.array([message.texts[number] for message in new], pa.string()) for number in range(len(self._sink.columns))]
        rejected = self._sink.write(texts, lambda rows: [new[row].line for row in rows])
        return [(message.where, message.offset) for row, message in enumerate(new) if row not in rejected]

    def _is_new(self, message: _Message) -> bool:
        done = self._done.setdefault(message.where, set())
        if message.offset in done:
            return False
        done.add(message.offset)
        return True

    def _messages(self, block: Block) -> list[_Message]:
        messages, bad = [], []
        for number, line in enumerate(bytes(block.content).split(b"\n"), block.line):
            if not line.strip():
                continue
            self._sink.rows_in += 1
            try:
                messages.append(_message(line, number, self._members))
            except _Bad as reason:
                bad.append((number, reason.column, reason.code))
        self._sink.rejected.add(bad, len(bad))
        return messages


def _message(line: bytes, number: int, members: tuple[str, ...]) -> _Message:
    try:
        envelope = orjson.loads(line)
        exact = json.loads(line, parse_float=_Number, parse_int=_Number) if _INEXACT.search(line) else envelope
    except (ValueError, RecursionError):
        raise _Bad(None, "not_json") from None
    if not isinstance(envelope, dict):
        raise _Bad(None, "not_an_object")
    topic = envelope.get("topic")
    if not isinstance(topic, str) or not topic:
        raise _Bad("topic", "not_a_string")
    partition, offset = _position(envelope, "partition"), _position(envelope, "offset")
    value = exact.get("value")
    of_value = value if isinstance(value, dict) else {}
    try:
        texts = [
            topic,
            str(partition),
            str(offset),
            _text(exact.get("timestamp")),
            _text(exact.get("key")),
            None if value is None else _json(value),
            *(_text(of_value.get(member)) for member in members),
        ]
    except orjson.JSONEncodeError:
        raise _Bad("value", "too_deep") from None
    return _Message(number, (topic, partition), offset, texts)


def _position(envelope: Mapping[str, Any], name: str) -> int:
    found = envelope.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found not in _POSITIONS:
        raise _Bad(name, "not_a_bigint")
    return found


def _text(value: Any) -> str | None:
    """A member as text: a string as it is, anything else as JSON, null as nothing."""
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return orjson.dumps(value, default=_as_written, option=orjson.OPT_PASSTHROUGH_DATACLASS).decode()


def _as_written(value: Any) -> orjson.Fragment:
    if not isinstance(value, _Number):
        raise TypeError
    return orjson.Fragment(value.text)

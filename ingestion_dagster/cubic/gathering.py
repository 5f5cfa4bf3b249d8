"""The records of a shard on their way into files: gathered by topic, and how far its checkpoint may go meanwhile."""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ingestion_dagster.cubic.batches import ARRIVALS_AGREE, Batch, Range
from ingestion_dagster.cubic.envelopes import Line
from ingestion_dagster.engine.kinesis import Record
from ingestion_dagster.settings import Settings

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Buffer:
    """Records of one topic of one shard, on their way into a file."""

    topic: str | None
    before: str | None
    """The number of the record before the first: as far as the checkpoint may go."""
    begun: datetime
    first: Record
    last: Record
    lines: list[bytes] = field(default_factory=list)
    bytes: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record, line: Line) -> None:
        """Take in the next record, as that line."""
        self.last = record
        self.lines.append(line.content)
        self.bytes += len(line.content)
        self.codes.update(line.codes)

    def range(self, stream: str) -> Range:
        """Which records of the stream these are."""
        first, last = self.first, self.last
        numbers = (first.sequence_number, last.sequence_number, first.arrived, last.arrived)
        return Range(stream, first.shard, self.topic, *numbers, len(self.lines))


@dataclass(frozen=True, slots=True)
class Limits:
    """When a topic's records become a file: at so many, so many seconds after the first arrived, or at so many bytes."""

    records: int
    seconds: float
    bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """As the settings say."""
        return cls(settings.cubic_consume_records, settings.cubic_consume_seconds, settings.cubic_consume_bytes)

    def is_full(self, buffer: Buffer) -> bool:
        """Whether a topic's records are to become a file because they are many."""
        return len(buffer.lines) >= self.records or buffer.bytes >= self.bytes

    def is_aged(self, buffer: Buffer, now: datetime) -> bool:
        """Whether they are to because the first has waited for long."""
        return (now - buffer.first.arrived).total_seconds() >= self.seconds


@dataclass(slots=True)
class Sealed:
    """A batch that has been entered and is to be put."""

    batch: Batch
    lines: bytes
    buffer: Buffer


@dataclass(slots=True)
class Waits:
    """Something that is left alone for a while, longer after each failure."""

    not_before: float = 0.0
    failures: int = 0


@dataclass(slots=True)
class Shard:
    """A shard in hand: what was read of it, and what of that is on its way into files."""

    id: str
    read: str | None
    """The last record that is in a buffer, or done with."""
    known: dict[str | None, tuple[int, datetime]] | None = None
    """By topic, the last record that is in a file; None: the file that was begun last is to be looked at first."""
    newest: int | None = None
    fetched: deque[Record] = field(default_factory=deque)
    is_behind: bool = False
    """Whether the stream has more of it."""
    arrived: datetime = _LONG_AGO
    """When the last record arrived that was read of it."""
    at_end: bool = False
    buffers: dict[str | None, Buffer] = field(default_factory=dict)
    sealed: Sealed | None = None
    waits: Waits = field(default_factory=Waits)

    @property
    def bytes(self) -> int:
        """How much of it is in hand."""
        return sum(buffer.bytes for buffer in self.in_hand)

    @property
    def in_hand(self) -> list[Buffer]:
        """What stands in no file yet."""
        return [*self.buffers.values(), *([self.sealed.buffer] if self.sealed else [])]

    @property
    def done_up_to(self) -> str | None:
        """The last record before the oldest that is in no file."""
        oldest = min(self.in_hand, key=lambda buffer: int(buffer.first.sequence_number), default=None)
        return self.read if oldest is None else oldest.before

    def knows(self, record: Record, topic: str | None) -> bool:
        """Whether a record stands in a file. One of a stream that was made again under the same name is younger, and does not."""
        last = (self.known or {}).get(topic)
        return last is not None and int(record.sequence_number) <= last[0] and record.arrived <= last[1] + ARRIVALS_AGREE

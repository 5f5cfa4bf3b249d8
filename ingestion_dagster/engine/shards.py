"""The shards of a Kinesis stream: who may read them, from where, and how far each has been read, by checkpoints in the ledger."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from botocore.exceptions import ClientError

from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.kinesis import Record, Stream, code_of
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

FETCHED = 1000
"""Records that one call asks for."""

_CHECKPOINTS = "SELECT shard, sequence_number, finished, updated_at FROM ledger.stream_checkpoints WHERE stream = %(stream)s"

_BEGIN = """
INSERT INTO ledger.stream_checkpoints (stream, shard) VALUES (%(stream)s, %(shard)s) ON CONFLICT (stream, shard) DO NOTHING
"""

CHECKPOINT = "SELECT sequence_number, finished FROM ledger.stream_checkpoints WHERE stream = %(stream)s AND shard = %(shard)s"

# A reader whose lock went with its connection finds another number here, and stops.
_ADVANCE = """
UPDATE ledger.stream_checkpoints SET sequence_number = %(to)s, finished = %(finished)s, updated_at = now()
WHERE stream = %(stream)s AND shard = %(shard)s AND sequence_number IS NOT DISTINCT FROM %(was)s
"""


@dataclass(slots=True)
class Shard:
    """A shard in hand: where it stands, what was fetched and not handed over yet, and until when it is left alone."""

    id: str
    end: int | None
    checkpoint: str | None
    position: str | None
    """The last record that was read; behind a checkpoint that waits for its reader."""
    iterator: str | None = None
    fetched: deque[Record] = field(default_factory=deque)
    at_end: bool = False
    caught_up: bool = False
    not_before: float = 0.0
    pauses: int = 0


@dataclass(slots=True, kw_only=True)
class Shards:
    """The shards of a stream: who may read them, from where, and what they hold."""

    connection: Connection
    stream: Stream
    client: Any
    in_hand: dict[str, Shard] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)

    def release(self) -> None:
        """Let others read what this reader had in hand."""
        for shard in sorted(self.locked):
            self._unlock(shard)

    def _listed(self) -> Iterator[Mapping[str, Any]]:
        """All shards that the stream still knows, closed ones too, page by page."""
        request: dict[str, Any] = dict(self.stream.arguments)
        while True:
            page = self._listing(request)
            if page is None:
                continue
            yield from page["Shards"]
            if not page.get("NextToken"):
                return
            request = dict(self.stream.more_arguments, NextToken=page["NextToken"])

    def _listing(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A page of the listing; None if it is to be asked for again."""
        page: Mapping[str, Any] = self.client.list_shards(**request)
        return page

    def _unread(self, listed: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Of these shards those not read to their end; the ones that have waited longest come first."""
        known = {row[0]: row[1:] for row in self.connection.execute(_CHECKPOINTS, {"stream": self.stream.name})}
        unread = {name for name, shard in listed.items() if not _finished(shard, *known.get(name, (None, False))[:2])}
        return sorted(unread, key=lambda name: (name in known, known[name][2] if name in known else None, name))

    def _try_lock(self, shard: str) -> bool:
        """Keep other readers out of a shard. False if one is in."""
        row = self.connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%(lock)s, 0))", {"lock": self._lock(shard)}).fetchone()
        if row is None or not row[0]:
            return False
        self.locked.add(shard)
        return True

    def _unlock(self, shard: str) -> None:
        self.locked.discard(shard)
        if not self.connection.broken and not self.connection.closed:
            self.connection.execute("SELECT pg_advisory_unlock(hashtextextended(%(lock)s, 0))", {"lock": self._lock(shard)})

    def _begin(self, listed: Mapping[str, Any]) -> bool:
        """Take a locked shard in hand, where its checkpoint stands. False if it has been read to its end meanwhile."""
        name: str = listed["ShardId"]
        place = {"stream": self.stream.name, "shard": name}
        self.connection.execute(_BEGIN, place)
        checkpoint = self.connection.execute(CHECKPOINT, place).fetchone()
        if checkpoint is None or _finished(listed, *checkpoint):
            return False
        self.in_hand[name] = Shard(name, end_of(listed), checkpoint[0], checkpoint[0])
        return True

    def _get(self, shard: Shard, limit: int) -> tuple[list[Record], float]:
        """The next records of a shard, and how many seconds they are from its tip."""
        shard.iterator = shard.iterator or self._iterator(shard)
        answer = self.client.get_records(ShardIterator=shard.iterator, Limit=limit, **self.stream.more_arguments)
        shard.pauses = 0
        shard.iterator = answer.get("NextShardIterator")
        behind = answer.get("MillisBehindLatest") or 0
        nothing_left = not answer["Records"] and not behind
        # Kinesis ends a closed shard with no iterator; a stand-in may go on for ever with nothing.
        shard.at_end = not shard.iterator or (nothing_left and shard.end is not None)
        shard.caught_up = nothing_left
        return [_record(shard.id, found) for found in answer["Records"]], behind / 1000

    def _iterator(self, shard: Shard, kind: str = "AFTER_SEQUENCE_NUMBER") -> str:
        request = dict(self.stream.arguments, ShardId=shard.id)
        if shard.position is not None:
            try:
                after = self.client.get_shard_iterator(**request, ShardIteratorType=kind, StartingSequenceNumber=shard.position)
                return str(after["ShardIterator"])
            except ClientError as error:
                if code_of(error) not in {"InvalidArgumentException", "ValidationException"}:
                    raise
            log.warning("%s: the place to read %s from is older than what is kept, or of another stream", self.stream.url, shard.id)
        return str(self.client.get_shard_iterator(**request, ShardIteratorType="TRIM_HORIZON")["ShardIterator"])

    def _stands(self, shard: Shard) -> bool:
        """Whether a shard is still listed: its records may have expired since it was. A stream that is gone is told of here."""
        return any(listed["ShardId"] == shard.id for listed in self._listed())

    def _advance(self, shard: Shard, to: str | None, *, finished: bool = False) -> bool:
        """Move a checkpoint on. False if it is not where this reader left it: somebody else reads the shard, or it was lost."""
        place = {"stream": self.stream.name, "shard": shard.id, "was": shard.checkpoint, "to": to, "finished": finished}
        fault_point("streams.checkpoint.before")
        moved = self.connection.execute(_ADVANCE, place).rowcount == 1
        fault_point("streams.checkpoint.after")
        if moved:
            shard.checkpoint = to
        else:
            log.warning("%s: the checkpoint of %s was changed by somebody else; leaving the shard to them", self.stream.url, shard.id)
        return moved

    def _advance_to_end(self, shard: Shard) -> bool:
        """Note that a closed shard is read to its end: under its last number, so that one that went on after all is seen to have."""
        numbers = [int(shard.checkpoint)] if shard.checkpoint else []
        numbers += [shard.end] if shard.end is not None else []
        return self._advance(shard, str(max(numbers)) if numbers else None, finished=True)

    def _lock(self, shard: str) -> str:
        return f"{self.stream.url}/{shard}"


def _finished(listed: Mapping[str, Any], sequence_number: str | None, finished: bool) -> bool:
    """Whether a shard is read to the end that it has now. One that is open, or ends later, is another under the same name."""
    end = end_of(listed)
    return bool(finished and end is not None and (sequence_number is None or end <= int(sequence_number)))


def end_of(listed: Mapping[str, Any]) -> int | None:
    """The number at which a listed shard ends; None for one that is open."""
    end = _range(listed).get("EndingSequenceNumber")
    return int(end) if end else None


def parents(listed: Mapping[str, Any]) -> set[str]:
    """The shards that a listed shard goes on from."""
    return {parent for name in ("ParentShardId", "AdjacentParentShardId") if (parent := listed.get(name))}


def _record(shard: str, found: Mapping[str, Any]) -> Record:
    return Record(shard, found["SequenceNumber"], found["Data"], found["ApproximateArrivalTimestamp"].astimezone(UTC))


def _range(listed: Mapping[str, Any]) -> Mapping[str, str]:
    numbers: Mapping[str, str] = listed.get("SequenceNumberRange") or {}
    return numbers

"""Kinesis streams: read shard by shard from checkpoints in the ledger, each record in its shard's order and at least once.

`drain` reads what is new and ends, for handlers that put each record where it belongs. A `Tail` is read on and on, by readers who gather
records and say later how far their checkpoints may go.
"""

import logging
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ingestion_dagster.engine import aws
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_ARN = re.compile(rf"arn:[a-z-]+:kinesis:([a-z0-9-]+):\d{{12}}:stream/({_NAME.pattern})")

_FETCHED = 1000
_HANDED_OVER = 25  # records at a time: what a crash has read again, and how long one shard keeps the others waiting
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_BOTO_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=5, read_timeout=10)

_TOO_FAST = {
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
}
_KEY_REFUSALS = {"KMSAccessDeniedException", "KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException", "KMSOptInRequired"}

_CHECKPOINTS = "SELECT shard, sequence_number, finished, updated_at FROM ledger.stream_checkpoints WHERE stream = %(stream)s"

_BEGIN = """
INSERT INTO ledger.stream_checkpoints (stream, shard) VALUES (%(stream)s, %(shard)s) ON CONFLICT (stream, shard) DO NOTHING
"""

_CHECKPOINT = "SELECT sequence_number, finished FROM ledger.stream_checkpoints WHERE stream = %(stream)s AND shard = %(shard)s"

# A reader whose lock went with its connection finds another number here, and stops.
_ADVANCE = """
UPDATE ledger.stream_checkpoints SET sequence_number = %(to)s, finished = %(finished)s, updated_at = now()
WHERE stream = %(stream)s AND shard = %(shard)s AND sequence_number IS NOT DISTINCT FROM %(was)s
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its shard, its number there (decimal digits, growing), its bytes, and when the stream took it, UTC."""

    shard: str
    sequence_number: str
    data: bytes
    arrived: datetime


@dataclass(frozen=True, slots=True)
class Stream:
    """Which stream is meant. Checkpoints are kept under its name."""

    name: str
    arn: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, name_or_arn: str) -> "Stream":
        """The stream by its name or ARN. Raises `ConfigurationError` for anything else."""
        if arn := _ARN.fullmatch(name_or_arn):
            return cls(arn[2], name_or_arn, arn[1])
        if _NAME.fullmatch(name_or_arn):
            return cls(name_or_arn)
        raise ConfigurationError("a Kinesis stream is given by its name or as arn:aws:kinesis:REGION:ACCOUNT:stream/NAME; this is neither")

    @property
    def url(self) -> str:
        """The stream as the ledger names it."""
        return f"kinesis://{self.name}"

    @property
    def arguments(self) -> dict[str, str]:
        """How a call names the stream."""
        return {"StreamARN": self.arn} if self.arn else {"StreamName": self.name}

    @property
    def more_arguments(self) -> dict[str, str]:
        """How a call does that goes on with what another began, and takes no name."""
        return {"StreamARN": self.arn} if self.arn else {}


Handler = Callable[[Connection, Sequence[Record]], int]
"""Takes records of one shard in order, and returns of how many, from the first, everything stands durably where it belongs.

Fewer than it was given: the next one cannot be dealt with yet. Its shard waits there until the next `drain`."""


@dataclass(slots=True)
class Drained:
    """What a drain read: records taken, shards not read to their end before, and why it stopped where it did."""

    records: int = 0
    shards: int = 0
    finished: int = 0
    """Closed shards whose end was reached."""
    waiting: int = 0
    """Shards whose next record the handler could not take yet."""
    busy: int = 0
    """Shards that another reader has in hand."""
    throttled: int = 0
    """How often the stream asked for a pause."""
    complete: bool = True
    """Whether every shard was read as far as it could be; else the time or the number of records ran out."""
    behind: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_behind(self) -> float:
        """How far the shard that is furthest behind was from its tip when it was last asked."""
        return max(self.behind.values(), default=0.0)


def connect(stream: Stream) -> Any:
    """A Kinesis client for this stream's region, with boto3's default credentials and endpoint. Raises `ConfigurationError`."""
    with _faults(stream):
        return aws.connect("kinesis", _BOTO_CONFIG, stream.region)


def drain(
    connection: Connection,
    stream: Stream,
    handler: Handler,
    *,
    seconds: float,
    records: int = 100_000,
    client: Any = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Drained:
    """Read what is new in a stream, until nothing is or time (`seconds`) or number (`records`) is up; shards take turns.

    A shard is read from its checkpoint, one without from the oldest record kept, and only once its parents are read to their end or
    expired. What the handler has taken is checkpointed; killed anywhere, the next call hands it what was not checkpointed again. Two
    calls at once share the shards: each is read by one of them.

    Raises `Transient` (`stream_unavailable`), `ConfigurationError`, and what the handler raises; what was checkpointed by then stays.
    """
    reader = _Reader(
        connection=connection,
        stream=stream,
        client=client or connect(stream),
        handler=handler,
        deadline=clock() + seconds,
        records=records,
        clock=clock,
        sleep=sleep,
    )
    try:
        with _faults(stream):
            reader.read()
    finally:
        reader.release()
    return reader.drained


@dataclass(slots=True)
class _Shard:
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
class _Shards:
    """The shards of a stream: who may read them, from where, and what they hold."""

    connection: Connection
    stream: Stream
    client: Any
    in_hand: dict[str, _Shard] = field(default_factory=dict)
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
        checkpoint = self.connection.execute(_CHECKPOINT, place).fetchone()
        if checkpoint is None or _finished(listed, *checkpoint):
            return False
        self.in_hand[name] = _Shard(name, _end(listed), checkpoint[0], checkpoint[0])
        return True

    def _get(self, shard: _Shard, limit: int) -> tuple[list[Record], float]:
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

    def _iterator(self, shard: _Shard, kind: str = "AFTER_SEQUENCE_NUMBER") -> str:
        request = dict(self.stream.arguments, ShardId=shard.id)
        if shard.position is not None:
            try:
                after = self.client.get_shard_iterator(**request, ShardIteratorType=kind, StartingSequenceNumber=shard.position)
                return str(after["ShardIterator"])
            except ClientError as error:
                if _code(error) not in {"InvalidArgumentException", "ValidationException"}:
                    raise
            log.warning("%s: the place to read %s from is older than what is kept, or of another stream", self.stream.url, shard.id)
        return str(self.client.get_shard_iterator(**request, ShardIteratorType="TRIM_HORIZON")["ShardIterator"])

    def _stands(self, shard: _Shard) -> bool:
        """Whether a shard is still listed: its records may have expired since it was. A stream that is gone is told of here."""
        return any(listed["ShardId"] == shard.id for listed in self._listed())

    def _advance(self, shard: _Shard, to: str | None, *, finished: bool = False) -> bool:
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

    def _advance_to_end(self, shard: _Shard) -> bool:
        """Note that a closed shard is read to its end: under its last number, so that one that went on after all is seen to have."""
        numbers = [int(shard.checkpoint)] if shard.checkpoint else []
        numbers += [shard.end] if shard.end is not None else []
        return self._advance(shard, str(max(numbers)) if numbers else None, finished=True)

    def _lock(self, shard: str) -> str:
        return f"{self.stream.url}/{shard}"


@dataclass(slots=True, kw_only=True)
class _Reader(_Shards):
    """One drain."""

    handler: Handler
    deadline: float
    records: int
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    drained: Drained = field(default_factory=Drained)
    done_with: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def read(self) -> None:
        """Admit shards and let them take turns; a shard read to its end may let its children in."""
        finished = -1
        while finished < self.drained.finished:
            finished = self.drained.finished
            self._admit()
            while self.in_hand:
                for shard in list(self.in_hand.values()):
                    if self._over():
                        self.drained.complete = False
                        return
                    self._turn(shard)
                self._pause()

    def _admit(self) -> None:
        listed = {shard["ShardId"]: shard for shard in self._listed()}
        unread = self._unread(listed)
        self.seen.update(unread)
        self.drained.shards = len(self.seen)
        # Time may be up before each has had a turn.
        for name in unread:
            if name not in self.done_with and _parents(listed[name]).isdisjoint(unread):
                self._take(listed[name])

    def _listing(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A page of the listing; None after a pause that the stream asked for. Raises `Transient` when there is no time for one."""
        try:
            page: Mapping[str, Any] = self.client.list_shards(**request)
            return page
        except ClientError as error:
            if _code(error) not in _TOO_FAST:
                raise
        self.drained.throttled += 1
        pause = _pause_after(self.drained.throttled)
        if self.clock() + pause >= self.deadline:
            raise Transient("stream_unavailable", f"{self.stream.url}: too many calls of ListShards; the next tick tries again")
        self.sleep(pause)
        return None

    def _take(self, listed: Mapping[str, Any]) -> None:
        """Take a shard in hand, unless another reader has it."""
        name: str = listed["ShardId"]
        if not self._try_lock(name):
            self.done_with.add(name)
            self.drained.busy += 1
        elif not self._begin(listed):
            self.done_with.add(name)

    def _turn(self, shard: _Shard) -> None:
        """One shard's turn: hand over some of what was fetched, or fetch."""
        if shard.not_before > self.clock():
            return
        if not shard.fetched and not shard.at_end and not shard.caught_up:
            self._fetch(shard)
        if shard.fetched:
            self._hand_over(shard)
        if shard.id in self.in_hand and not shard.fetched:
            if shard.at_end:
                self._finish(shard)
            elif shard.caught_up:
                self._drop(shard)

    def _fetch(self, shard: _Shard) -> None:
        try:
            records, self.drained.behind[shard.id] = self._get(shard, min(_FETCHED, self.records - self.drained.records))
        except ClientError as error:
            self._not_fetched(shard, error)
        else:
            shard.fetched.extend(records)

    def _not_fetched(self, shard: _Shard, error: ClientError) -> None:
        """Go on with the other shards, if waiting or a new iterator can help. Raises the error otherwise."""
        code = _code(error)
        if code == "ExpiredIteratorException":
            shard.iterator = None
        elif code == "ResourceNotFoundException" and not self._stands(shard):
            self._drop(shard)
            return
        elif code not in _TOO_FAST:
            raise error
        else:
            self.drained.throttled += 1
        shard.pauses += 1
        shard.not_before = self.clock() + _pause_after(shard.pauses)

    def _hand_over(self, shard: _Shard) -> None:
        batch = list(islice(shard.fetched, min(_HANDED_OVER, self.records - self.drained.records)))
        taken = self.handler(self.connection, batch)
        if taken and not self._advance(shard, batch[taken - 1].sequence_number):
            self._drop(shard)
            return
        shard.position = shard.checkpoint
        self.drained.records += taken
        for _ in range(taken):
            shard.fetched.popleft()
        if taken < len(batch):
            self.drained.waiting += 1
            self._drop(shard)

    def _finish(self, shard: _Shard) -> None:
        if self._advance_to_end(shard):
            self.drained.finished += 1
        self._drop(shard)

    def _drop(self, shard: _Shard) -> None:
        self.in_hand.pop(shard.id, None)
        self.done_with.add(shard.id)

    def _pause(self) -> None:
        """Sleep if every shard in hand is to be left alone for a while."""
        if self.in_hand:
            now = self.clock()
            wait = min(self.deadline, *(shard.not_before for shard in self.in_hand.values())) - now
            if wait > 0:
                self.sleep(wait)

    def _over(self) -> bool:
        return self.clock() >= self.deadline or self.drained.records >= self.records


@dataclass(frozen=True, slots=True)
class Page:
    """What one read of a shard gave: its next records, how many seconds these are from its tip, and whether it ends with them."""

    records: Sequence[Record]
    behind: float
    at_end: bool


@dataclass(slots=True, kw_only=True)
class Tail(_Shards):
    """A stream that is read for as long as its reader likes. Each shard goes on where it was read last; its checkpoint waits to be told.

    Every method that asks the stream raises `Transient` (`stream_unavailable`: throttled too) or `ConfigurationError`, and may be
    called again. For one reader at a time, over one connection, on which it holds the locks of its shards.
    """

    listed: frozenset[str] = frozenset()
    """The shards that the stream knew when it was asked last."""

    def admit(self) -> list[str]:
        """Take in hand what can be read and nobody reads: shards not read to their end whose parents are. Those that are new in hand."""
        with _faults(self.stream):
            listed = {shard["ShardId"]: shard for shard in self._listed()}
        self.listed = frozenset(listed)
        for name in self.in_hand.keys() & listed.keys():
            self.in_hand[name].end = _end(listed[name])
        unread = self._unread(listed)
        admitted = []
        for name in unread:
            if name not in self.in_hand and _parents(listed[name]).isdisjoint(unread) and self._try_lock(name):
                if self._begin(listed[name]):
                    admitted.append(name)
                else:
                    self._unlock(name)
        return admitted

    def read(self, name: str, limit: int = _FETCHED) -> Page:
        """The next records of a shard in hand, at most `limit`. A shard whose records have all expired is at its end."""
        shard = self.in_hand[name]
        with _faults(self.stream):
            try:
                try:
                    records, behind = self._get(shard, limit)
                except ClientError as error:
                    if _code(error) != "ExpiredIteratorException":
                        raise
                    shard.iterator = None
                    records, behind = self._get(shard, limit)
            except ClientError as error:
                if _code(error) == "ResourceNotFoundException" and not self._stands(shard):
                    return Page((), 0.0, at_end=True)
                raise
        shard.position = records[-1].sequence_number if records else shard.position
        return Page(records, behind, shard.at_end)

    def reread(self, name: str, first: str, last: str) -> Iterator[list[Record]]:
        """The records of a shard between two numbers, both included, page by page: those that are still kept."""
        shard = _Shard(name, None, None, first)
        with _faults(self.stream):
            try:
                shard.iterator = self._iterator(shard, "AT_SEQUENCE_NUMBER")
                while shard.iterator and not shard.caught_up:
                    records, _ = self._get(shard, _FETCHED)
                    yield [record for record in records if int(first) <= int(record.sequence_number) <= int(last)]
                    if records and int(records[-1].sequence_number) >= int(last):
                        return
            except ClientError as error:
                if _code(error) != "ResourceNotFoundException" or self._stands(shard):
                    raise

    def advance(self, name: str, to: str | None) -> bool:
        """Move the checkpoint of a shard in hand on. False if somebody else has moved it, or it was lost: then `drop` the shard."""
        shard = self.in_hand[name]
        return to == shard.checkpoint or self._advance(shard, to)

    def finish(self, name: str) -> bool:
        """Note that a shard in hand is read to its end and all of it done with, and let go of it. False as with `advance`."""
        shard = self.in_hand[name]
        if shard.end is None:
            with _faults(self.stream):
                shard.end = next((_end(listed) for listed in self._listed() if listed["ShardId"] == name), None)
        finished = self._advance_to_end(shard)
        self.drop(name)
        return finished

    def drop(self, name: str) -> None:
        """Let go of a shard: whoever takes it next reads it from its checkpoint."""
        self.in_hand.pop(name, None)
        self._unlock(name)

    def hold(self, name: str) -> bool:
        """Keep readers out of a shard that need not be listed any more. False if one is in."""
        return name not in self.locked and self._try_lock(name)

    def reconnect(self, connection: Connection) -> None:
        """Go on over another connection: shards in hand stay so if nobody has come in between, and are dropped otherwise."""
        self.connection, self.locked = connection, set()
        for name, shard in list(self.in_hand.items()):
            row = None
            if self._try_lock(name):
                row = connection.execute(_CHECKPOINT, {"stream": self.stream.name, "shard": name}).fetchone()
            if row is None or row[0] != shard.checkpoint:
                self.in_hand.pop(name)
                if name in self.locked:
                    self._unlock(name)


def _finished(listed: Mapping[str, Any], sequence_number: str | None, finished: bool) -> bool:
    """Whether a shard is read to the end that it has now. One that is open, or ends later, is another under the same name."""
    end = _end(listed)
    return bool(finished and end is not None and (sequence_number is None or end <= int(sequence_number)))


def _end(listed: Mapping[str, Any]) -> int | None:
    end = _range(listed).get("EndingSequenceNumber")
    return int(end) if end else None


def _parents(listed: Mapping[str, Any]) -> set[str]:
    return {parent for name in ("ParentShardId", "AdjacentParentShardId") if (parent := listed.get(name))}


def _record(shard: str, found: Mapping[str, Any]) -> Record:
    return Record(shard, found["SequenceNumber"], found["Data"], found["ApproximateArrivalTimestamp"].astimezone(UTC))


def _range(listed: Mapping[str, Any]) -> Mapping[str, str]:
    numbers: Mapping[str, str] = listed.get("SequenceNumberRange") or {}
    return numbers


def _pause_after(attempts: int) -> float:
    """Exponential, with jitter: readers that were refused together must not come back together."""
    return float(min(_FIRST_PAUSE * 2 ** min(attempts - 1, 10), _LONGEST_PAUSE) * random.uniform(0.5, 1))  # noqa: S311 - no secret


def _code(error: ClientError) -> str:
    return aws.code_of(error.response)


@contextmanager
def _faults(stream: Stream) -> Iterator[None]:
    """Turns what AWS says into what this project says. Without the original: error bodies hold account numbers and key ids."""
    try:
        yield
    except ClientError as error:
        raise _fault(stream, _code(error)) from None
    except aws.MISTAKES as error:
        raise ConfigurationError(f"{stream.url} is not open to us ({type(error).__name__}); check the AWS credentials and region") from None
    except BotoCoreError as error:
        raise Transient("stream_unavailable", f"{stream.url}: {type(error).__name__}") from None


def _fault(stream: Stream, code: str) -> Exception:
    if code == "ResourceNotFoundException":
        return ConfigurationError(f"there is no Kinesis stream {stream.name!r}; correct its name or ARN, or set AWS_REGION to its region")
    if code in aws.REFUSALS:
        return ConfigurationError(
            f"{stream.url} is not open to us ({code}); check credentials, kinesis:ListShards, kinesis:GetShardIterator and "
            "kinesis:GetRecords among the permissions"
        )
    if code in _KEY_REFUSALS:
        return ConfigurationError(f"{stream.url}: its encryption key is not open to us ({code}); allow kms:Decrypt, or enable the key")
    return Transient("stream_unavailable", f"{stream.url}: {code}")

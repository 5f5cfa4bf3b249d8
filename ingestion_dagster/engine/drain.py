"""Reading what is new in a stream and ending: each record is handed over in its shard's order and at least once."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.kinesis import TOO_FAST, Record, Stream, code_of, connect, pause_after, told
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.shards import FETCHED, Shard, Shards, parents

_HANDED_OVER = 25  # records at a time: what a crash has read again, and how long one shard keeps the others waiting

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
        with told(stream):
            reader.read()
    finally:
        reader.release()
    return reader.drained


@dataclass(slots=True, kw_only=True)
class _Reader(Shards):
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
            if name not in self.done_with and parents(listed[name]).isdisjoint(unread):
                self._take(listed[name])

    def _listing(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A page of the listing; None after a pause that the stream asked for. Raises `Transient` when there is no time for one."""
        try:
            page: Mapping[str, Any] = self.client.list_shards(**request)
            return page
        except ClientError as error:
            if code_of(error) not in TOO_FAST:
                raise
        self.drained.throttled += 1
        pause = pause_after(self.drained.throttled)
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

    def _turn(self, shard: Shard) -> None:
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

    def _fetch(self, shard: Shard) -> None:
        try:
            records, self.drained.behind[shard.id] = self._get(shard, min(FETCHED, self.records - self.drained.records))
        except ClientError as error:
            self._not_fetched(shard, error)
        else:
            shard.fetched.extend(records)

    def _not_fetched(self, shard: Shard, error: ClientError) -> None:
        """Go on with the other shards, if waiting or a new iterator can help. Raises the error otherwise."""
        code = code_of(error)
        if code == "ExpiredIteratorException":
            shard.iterator = None
        elif code == "ResourceNotFoundException" and not self._stands(shard):
            self._drop(shard)
            return
        elif code not in TOO_FAST:
            raise error
        else:
            self.drained.throttled += 1
        shard.pauses += 1
        shard.not_before = self.clock() + pause_after(shard.pauses)

    def _hand_over(self, shard: Shard) -> None:
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

    def _finish(self, shard: Shard) -> None:
        if self._advance_to_end(shard):
            self.drained.finished += 1
        self._drop(shard)

    def _drop(self, shard: Shard) -> None:
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

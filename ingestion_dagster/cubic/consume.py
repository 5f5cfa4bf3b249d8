"""Kafka's records from a stream: gathered by topic, and written to the landing zone as files by their number, age or size.

A shard's checkpoint stands before its oldest record that is in no file yet. After a crash what follows is read again: first the file that
was begun is finished, from its range; then each topic goes on after its last file. So each record comes into one file, and into no second.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from operator import itemgetter
from typing import Any

import psycopg

from ingestion_dagster.cubic import batches
from ingestion_dagster.cubic.batches import Batch, Places
from ingestion_dagster.cubic.envelopes import read
from ingestion_dagster.cubic.gathering import Buffer, Limits, Sealed, Shard, Waits
from ingestion_dagster.cubic.registry import PIPELINE, Registry
from ingestion_dagster.engine import kinesis, pauses, postgres
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.kinesis import Stream
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.tail import Tail
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_READ_SECONDS = 0.2  # a shard may be read five times a second
_ADMISSION_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_SHUTDOWN_SECONDS = 20.0
_HEARING_SECONDS = 0.2  # how long a signal goes unnoticed in a pause

_DatabaseGone = (psycopg.OperationalError, psycopg.InterfaceError)


@dataclass(slots=True)
class Consumed:
    """What a consumer has done until it was stopped."""

    files: int = 0
    """In the landing zone."""
    records: int = 0
    """In those files."""
    dead_letters: int = 0
    """Records that are none of any topic, in dead-letter files."""
    known: int = 0
    """Records read again that stand in a file already."""
    lost: int = 0
    """Records of files that had been begun by another, which the stream no longer keeps."""
    unwritten: int = 0
    """Records in hand that could not be written before the end; the next consumer reads them again."""


def run(
    settings: Settings,
    registry: Registry,
    *,
    stop: threading.Event | Callable[[], bool],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    client: Any = None,
) -> Consumed:
    """Read the stream and write files until told to stop; then write what is in hand, and end.

    `clock` decides how old records are, `monotonic` and `sleep` when to ask the stream again. What may pass (the stream, the store or the
    database does not answer) is waited for. Raises `ConfigurationError` for what will not pass, once what is in hand is written, if it can.
    """
    if settings.cubic_kinesis_stream is None:
        raise ConfigurationError("no stream is set up for cubic: set INGESTION_CUBIC_KINESIS_STREAM to its name or ARN")
    stream = Stream.of(settings.cubic_kinesis_stream)
    places = Places(
        open_store(settings.zone(PIPELINE, "landing", "cubic/incoming")),
        open_store(settings.zone(PIPELINE, "error", "cubic/error")),
        registry,
    )
    client = client or kinesis.connect(stream)
    database = postgres.ready(settings)
    connection = database.connect()
    tail = Tail(connection=connection, stream=stream, client=client)
    asked = stop.is_set if isinstance(stop, threading.Event) else stop
    consumer = _Consumer(database, tail, places, Limits.of(settings), asked, clock, monotonic, sleep)
    try:
        sync_datasets(connection, PIPELINE, registry.datasets)
        consumer.run()
    finally:
        with suppress(*_DatabaseGone):
            tail.release()
        tail.connection.close()
    return consumer.consumed


def summary(consumed: Consumed) -> str:
    """The sentence that is said at the end."""
    said = f"{consumed.files} files with {consumed.records} records written, {consumed.dead_letters} dead letters"
    said += f", {consumed.known} records known already" if consumed.known else ""
    said += f", {consumed.lost} lost" if consumed.lost else ""
    return f"{said}; {consumed.unwritten} left in the stream" if consumed.unwritten else said


@contextmanager
def stopping_on_signals() -> Iterator[Callable[[], bool]]:
    """What says whether SIGTERM or SIGINT has come, for `run` to stop at; one more of them changes nothing. For the main thread."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Consumer:
    """One consumer, from its start to its end."""

    database: Database
    tail: Tail
    places: Places
    limits: Limits
    asked: Callable[[], bool]
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    shards: dict[str, Shard] = field(default_factory=dict)
    admission: Waits = field(default_factory=Waits)
    buried: set[str] = field(default_factory=set)
    held: int = 0
    """Bytes in hand, of all shards."""
    consumed: Consumed = field(default_factory=Consumed)

    @property
    def connection(self) -> Connection:
        return self.tail.connection

    @property
    def stream(self) -> str:
        return self.tail.stream.name

    def run(self) -> None:
        """Work until asked to stop."""
        try:
            while not self.asked():
                self._round()
        except ConfigurationError:
            # The stream may be gone, and what is in hand stands nowhere else then.
            self._write_the_rest()
            raise
        self._write_the_rest()

    def _round(self) -> None:
        self._attempt("shards", self.admission, self._admit)
        for name in list(self.shards):
            if self.asked():
                return
            if shard := self.shards.get(name):
                self._attempt(name, shard.waits, partial(self._turn, shard))
        next_time = min(self.admission.not_before, *(shard.waits.not_before for shard in self.shards.values()), math.inf)
        self._pause(next_time - self.monotonic())

    def _attempt(self, what: str, waits: Waits, work: Callable[[], float]) -> bool:
        """Do work, which says after how many seconds it is due again; after failures that may pass, after a longer pause each time."""
        if waits.not_before > self.monotonic():
            return True
        try:
            pause = work()
        except Transient as error:
            trouble = str(error)
        except _DatabaseGone:
            trouble = "database_unavailable"
            if self.connection.broken or self.connection.closed:
                self._reconnect()
        except psycopg.Error as error:
            raise ConfigurationError(
                f"the database refuses what a consumer does ({type(error).__name__}); run 'ingestion db upgrade' and check its permissions"
            ) from None
        else:
            waits.failures = 0
            waits.not_before = self.monotonic() + pause
            return True
        waits.failures += 1
        waits.not_before = self.monotonic() + pauses.after(waits.failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        log.warning("%s: %s (failure %s in a row); nothing is lost, trying again", what, trouble, waits.failures)
        return False

    def _admit(self) -> float:
        for name in self.tail.admit():
            self.shards[name] = Shard(name, self.tail.in_hand[name].checkpoint)
        for name in batches.unfinished_shards(self.connection, self.stream):
            if name not in self.tail.listed and name not in self.buried and self.tail.hold(name):
                try:
                    for batch in batches.unfinished(self.connection, self.stream, name):
                        self._finish(batch, kept=False)
                    self.buried.add(name)
                finally:
                    self.tail.drop(name)
        return _ADMISSION_SECONDS

    def _turn(self, shard: Shard) -> float:
        """Read some of a shard, and write what is due."""
        if shard.known is None and not self._begin(shard):
            return 0.0
        self._put(shard)
        self._write_due(shard)
        if not shard.fetched and not shard.at_end:
            page = self.tail.read(shard.id)
            shard.fetched.extend(page.records)
            shard.is_behind = page.behind > 0
            shard.at_end = page.at_end
        read_something = bool(shard.fetched)
        while shard.fetched:
            self._take(shard)
        self._write_due(shard)
        if shard.at_end:
            self._write_all(shard)
            self._drop(shard, self.tail.finish)
        elif not self.tail.advance(shard.id, shard.done_up_to):
            self._drop(shard, self.tail.drop)
        return _READ_SECONDS if read_something or shard.is_behind else _POLL_SECONDS

    def _begin(self, shard: Shard) -> bool:
        """Finish what another has begun, and learn where each topic goes on. False if that was interrupted."""
        for batch in batches.unfinished(self.connection, self.stream, shard.id):
            if not self._finish(batch, kept=True):
                return False
        shard.newest = batches.newest(self.connection, self.stream, shard.id)
        shard.known = dict(batches.newest_of_topics(self.connection, self.stream, shard.id))
        return True

    def _finish(self, batch: Batch, *, kept: bool) -> bool:
        """Put the file of a batch, from the stream if it keeps the shard. False if asked to stop meanwhile."""
        if batches.is_there(self.connection, self.places, batch, self.clock()):
            return True
        lines: list[bytes] = []
        wanted = batch.range
        for page in self.tail.reread(wanted.shard, wanted.first, wanted.last) if kept else ():
            if self.asked():
                return False
            read_again = [read(record) for record in page if wanted.covers(record)]
            lines += [line.content for line in read_again if line.topic == wanted.topic]
            self._pause(_READ_SECONDS)
        batches.put_again(self.connection, self.places, batch, lines, self.clock())
        self.consumed.lost += max(0, wanted.records - len(lines))
        if lines:
            self._count(wanted.topic, len(lines))
        return True

    def _take(self, shard: Shard) -> None:
        """Put the next record that was fetched into its buffer, unless it is in a file; then write what has become due by it."""
        record = shard.fetched[0]
        line = read(record)
        if shard.knows(record, line.topic):
            self.consumed.known += 1
        else:
            buffer = shard.buffers.get(line.topic)
            if buffer is not None and self.limits.is_aged(buffer, record.arrived):
                self._write(shard, buffer)
                buffer = None
            if buffer is None:
                buffer = shard.buffers[line.topic] = Buffer(line.topic, shard.read, self.clock(), record, record)
            buffer.add(record, line)
            self.held += len(line.content)
        shard.read, shard.arrived = record.sequence_number, record.arrived
        shard.fetched.popleft()
        if line.topic in shard.buffers and self.limits.is_full(shard.buffers[line.topic]):
            self._write(shard, shard.buffers[line.topic])
        self._relieve()

    def _write_due(self, shard: Shard) -> None:
        """Write what is full or old. How late a backlog is read does not cut it up: there the time is that of the record read last."""
        now = self.clock()
        for buffer in list(shard.buffers.values()):
            has_waited = (now - buffer.begun).total_seconds() >= self.limits.seconds
            if has_waited or self.limits.is_full(buffer) or self.limits.is_aged(buffer, shard.arrived if shard.is_behind else now):
                self._write(shard, buffer)

    def _write_all(self, shard: Shard) -> None:
        self._put(shard)
        for buffer in list(shard.buffers.values()):
            self._write(shard, buffer)

    def _relieve(self) -> None:
        """Write the largest buffers of all, while more is in hand than two files may hold."""
        while self.held > 2 * self.limits.bytes:
            buffers = [(buffer.bytes, shard.id, buffer) for shard in self.shards.values() for buffer in shard.buffers.values()]
            if not buffers:
                return
            _, name, largest = max(buffers, key=itemgetter(0))
            self._write(self.shards[name], largest)

    def _write(self, shard: Shard, buffer: Buffer) -> None:
        """Make a file of a buffer: entered, then put."""
        self._put(shard)
        lines = b"".join(buffer.lines)
        batch = batches.enter(self.connection, self.places, buffer.range(self.stream), lines, self.clock())
        assert shard.known is not None
        shard.known[buffer.topic] = (int(buffer.last.sequence_number), buffer.last.arrived)
        shard.newest = batch.id
        shard.sealed = Sealed(batch, lines, buffer)
        del shard.buffers[buffer.topic]
        self._put(shard)

    def _put(self, shard: Shard) -> None:
        """Put the file of the batch that was entered last, if it does not stand yet."""
        if shard.sealed is None:
            return
        sealed = shard.sealed
        batches.put(self.connection, self.places, sealed.batch, sealed.lines, self.clock())
        shard.sealed = None
        self.held -= sealed.buffer.bytes
        self._count(sealed.buffer.topic, len(sealed.buffer.lines))
        if sealed.buffer.codes:
            log.warning("%s: dead letters of %s by code: %s", self.tail.stream.url, shard.id, dict(sorted(sealed.buffer.codes.items())))

    def _count(self, topic: str | None, records: int) -> None:
        if topic is None:
            self.consumed.dead_letters += records
        else:
            self.consumed.files += 1
            self.consumed.records += records
            log.info("%s: a file of %s records of topic %s", self.tail.stream.url, records, topic)

    def _drop(self, shard: Shard, let_go: Callable[[str], Any]) -> None:
        """Let go of a shard: of its end, or because somebody else has moved its checkpoint. It may let others in, or be read again."""
        let_go(shard.id)
        self.held -= shard.bytes
        del self.shards[shard.id]
        self.admission.not_before = self.monotonic()

    def _reconnect(self) -> None:
        """Connect anew. What is in hand stays so where nobody has come in between; the rest is read again by whoever reads it now."""
        lost = self.connection
        for failures in count(1):
            fresh: Connection | None = None
            try:
                fresh = self.database.connect()
                self.tail.reconnect(fresh)
                self._leave_what_others_have_read()
            except (ConfigurationError, *_DatabaseGone):
                log.warning("%s: the database does not answer; trying again", self.tail.stream.url)
                if fresh is not None:
                    fresh.close()
                if self.asked():
                    return
                self._pause(pauses.after(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE))
            else:
                lost.close()
                self.admission.not_before = self.monotonic()
                return

    def _leave_what_others_have_read(self) -> None:
        for shard in list(self.shards.values()):
            is_ours = shard.id in self.tail.in_hand
            if is_ours and shard.known is not None:
                is_ours = batches.newest(self.connection, self.stream, shard.id) == shard.newest
            if not is_ours:
                self._drop(shard, self.tail.drop)

    def _write_the_rest(self) -> None:
        """Write all that is in hand. What cannot be written in time is left to the next consumer, who reads it again."""
        deadline = self.monotonic() + _SHUTDOWN_SECONDS
        for shard in list(self.shards.values()):
            shard.waits = Waits()
            with suppress(ConfigurationError):
                while not self._attempt(shard.id, shard.waits, partial(self._end, shard)):
                    if shard.id not in self.shards or self.monotonic() + _FIRST_PAUSE > deadline:
                        break
                    self.sleep(_FIRST_PAUSE)
                    shard.waits.not_before = 0.0
        self.consumed.unwritten = sum(len(buffer.lines) for shard in self.shards.values() for buffer in shard.in_hand)
        if self.consumed.unwritten:
            log.warning("%s: %s records are left to be read again", self.tail.stream.url, self.consumed.unwritten)

    def _end(self, shard: Shard) -> float:
        if shard.known is not None:
            self._write_all(shard)
            self.tail.advance(shard.id, shard.done_up_to)
        return 0.0

    def _pause(self, seconds: float) -> None:
        """Sleep, unless asked to stop."""
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0 and not self.asked():
            self.sleep(min(left, _HEARING_SECONDS))

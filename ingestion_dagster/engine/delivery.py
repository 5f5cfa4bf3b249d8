"""Working off the outbox: a bounded number of messages on their way at a time, claimed ahead and settled in groups."""

import asyncio
import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import psycopg
from psycopg.errors import DeadlockDetected, SerializationFailure

from ingestion_dagster.engine import outbox, pauses
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.outbox import Dead, Later, Message, Settlement
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.verdicts import kind_of

log = logging.getLogger(__name__)

C = TypeVar("C")

DATABASE_AWAY = "database_gave_way"

_SETTLE_TRIES = 3


class Decided(Exception):
    """What a message comes to without having been taken: one of the three below."""


class NotNeeded(Decided):
    """Nobody has to be told any more: the message is dropped."""


class _Late(Decided):
    """Its claim may have run out before its turn came: whoever claims it next sends it."""


class Undeliverable(Decided):
    """The receiver will not take this message: it is dead.

    With `if_everybody`, it is not yet certain whose trouble that is. Once another message gets through, this one is dead; after
    `Limits.refusals` of them in a row with nobody through, the run raises `if_everybody`, and they stay due. `unless_others` asks that
    somebody gets through at all: a run in which nobody does raises, however few they are.
    """

    def __init__(self, code: str, if_everybody: Exception | None = None, *, unless_others: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.if_everybody = if_everybody
        self.unless_others = unless_others


class NotThisTime(Decided):
    """The message did not get through, and may at another time.

    It is charged with an attempt if others get through beside or after it, unless `blameless`.
    """

    def __init__(self, code: str, *, blameless: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.blameless = blameless


class Recipient(ABC, Generic[C]):
    """Who is told, what, and what is noted once he has been."""

    @abstractmethod
    def prepare(self, connection: Connection, messages: Sequence[Message]) -> Mapping[int, C | Decided]:
        """For each message, by its `id`, what is to be sent, or what was decided without. Called in a thread, in no transaction."""

    @abstractmethod
    async def send(self, message: Message, content: C) -> None:
        """Return once the receiver has it. Raises `Decided`; anything else ends the run, and nothing of it is held against a message."""

    def mark(self, connection: Connection, settlement: Settlement) -> None:
        """Note what became of messages, in the transaction that settles them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at a time; times are seconds.

    A message that did not get through is due again after a random time between half of and a whole pause: `first_pause`, twice that
    after the first attempt it was charged with, and so on up to `longest_pause`; after `max_attempts` of them it is dead.
    """

    in_flight: int = 32
    batch: int = 500
    """Messages claimed at a time."""
    group: int = 500
    group_seconds: float = 0.5
    """Settled together: so many, or what came in so long."""
    lease_seconds: float = 120
    refusals: int = 10
    max_attempts: int = 8
    first_pause: float = 30.0
    longest_pause: float = 3600.0


@dataclass(slots=True)
class Tally:
    """What a run did, messages by load id: it tells of what was settled, also when the run is raised out of."""

    sent: Counter[int | None] = field(default_factory=Counter)
    dropped: Counter[int | None] = field(default_factory=Counter)
    dead: Counter[int | None] = field(default_factory=Counter)
    later: Counter[int | None] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Why, of those that are dead or due later."""
    lost: int = 0
    """Messages of which somebody else has the claim by now."""


async def deliver(
    database: Database,
    topic: str,
    recipient: Recipient[C],
    *,
    seconds: float,
    limits: Limits | None = None,
    partitions: Sequence[str] | None = None,
    tally: Tally | None = None,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> Tally:
    """Send what is due until nothing is, or time is up; messages on their way by then are waited for.

    Raises what `recipient` raised, and `Transient` if the database gives way, or if some messages failed and none got through. Whatever is
    raised, what was sent by then is settled if the database allows it, and the rest is given back.
    """
    tally = Tally() if tally is None else tally
    limits = limits or Limits()
    with closing(_connect(database, limits)) as claiming, closing(_connect(database, limits)) as settling:
        run = _Run(database, topic, recipient, limits, partitions, tally, claiming, settling, clock, chance, clock() + seconds)
        try:
            await run.work()
        finally:
            await run.finish()
    if run.failure is not None:
        raise run.failure
    return tally


def _connect(database: Database, limits: Limits) -> Connection:
    connection = database.connect()
    # A run that falls asleep inside a transaction must not hold its rows for longer than its claims.
    timeout = {"milliseconds": str(int(limits.lease_seconds * 1000))}
    connection.execute("SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false)", timeout)
    return connection


@dataclass(slots=True)
class _Run(Generic[C]):
    database: Database
    topic: str
    recipient: Recipient[C]
    limits: Limits
    partitions: Sequence[str] | None
    tally: Tally
    claiming: Connection
    settling: Connection
    clock: Callable[[], float]
    chance: Callable[[], float]
    until: float
    failure: Exception | None = None
    _queue: "asyncio.Queue[tuple[Message, C] | None]" = field(init=False)
    _in_hand: dict[Message, float] = field(default_factory=dict)
    """Claimed and not settled, with the moment until which the claim holds for certain."""
    _results: list[tuple[Message, Decided | None]] = field(default_factory=list)
    """What is to be settled next; None: sent."""
    _doubtful: list[tuple[Message, Undeliverable | NotThisTime]] = field(default_factory=list)
    """Whose trouble it is, theirs or the receiver's, the next one that gets through shows."""
    _through: int = 0
    _at_work: int = 0
    _renewed: float = 0.0
    _claim_turn: threading.Lock = field(default_factory=threading.Lock)
    _settle_turn: threading.Lock = field(default_factory=threading.Lock)
    """A thread outlives the task that was cancelled while it waited for it: what comes after waits for its turn."""
    _to_settle: asyncio.Event = field(default_factory=asyncio.Event)
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._queue = asyncio.Queue(self.limits.batch)
        self._renewed = self.clock()

    async def work(self) -> None:
        workers = [asyncio.create_task(self._worker()) for _ in range(self.limits.in_flight)]
        self._at_work = len(workers)
        tasks = [asyncio.create_task(self._fetcher()), asyncio.create_task(self._settler()), *workers]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Settle what is left to be settled, and give back the rest."""
        got_through = self._through
        for message, decided in self._doubtful:
            if isinstance(decided, NotThisTime):
                self._results.append((message, NotThisTime(decided.code, blameless=True)))
                self._end(None if got_through else Transient(decided.code, "nothing got through; what is due stays due"))
            elif decided.unless_others and not got_through:
                self._end(decided.if_everybody)
            elif self.failure is None:
                self._results.append((message, decided))
        await asyncio.to_thread(self._finish)

    @property
    def _is_over(self) -> bool:
        return self.failure is not None or self.clock() >= self.until

    def _end(self, error: Exception | None) -> None:
        """Claim and send no more; what was there first is raised."""
        if self.failure is None and error is not None:
            self.failure = Transient(DATABASE_AWAY, kind_of(error)) if isinstance(error, psycopg.Error) else error

    async def _fetcher(self) -> None:
        """Claim and prepare a batch while the one before it is being sent."""
        try:
            # When so many in a row fail, more of them tell nothing new.
            while not self._is_over and len(self._doubtful) < self.limits.batch:
                if len(self._in_hand) > 4 * self.limits.batch:
                    self._settled.clear()
                    await self._settled.wait()
                    continue
                ready = await asyncio.to_thread(self._claim)
                if ready is None:
                    break
                for message, content in ready:
                    if isinstance(content, Decided):
                        self._decided(message, content, is_sure=True)
                    else:
                        await self._queue.put((message, content))
        except Exception as error:  # noqa: BLE001 - raised where the run ends
            self._end(error)
        for _ in range(self.limits.in_flight):
            await self._queue.put(None)

    def _claim(self) -> list[tuple[Message, C | Decided]] | None:
        """The next batch, in order of need; None if nothing is due."""
        with self._claim_turn:
            holds_until = self.clock() + self.limits.lease_seconds
            messages = outbox.claim(
                self.claiming, self.topic, count=self.limits.batch, lease_seconds=self.limits.lease_seconds, partitions=self.partitions
            )
            self._in_hand.update(dict.fromkeys(messages, holds_until))
            if not messages:
                return None
            contents = self.recipient.prepare(self.claiming, messages)
            return [(message, contents[message.id]) for message in messages]

    async def _worker(self) -> None:
        while (taken := await self._queue.get()) is not None:
            message, content = taken
            if self._is_over:
                continue
            if self.clock() >= self._in_hand[message]:
                self._result(message, _Late())
            else:
                await self._send(message, content)
        self._at_work -= 1
        self._to_settle.set()

    async def _send(self, message: Message, content: C) -> None:
        before = self._through
        try:
            await self.recipient.send(message, content)
        except Decided as decided:
            self._decided(message, decided, is_sure=self._through > before)
        except Exception as error:  # noqa: BLE001 - raised where the run ends
            self._end(error)
        else:
            self._through += 1
            self._results += self._doubtful
            self._doubtful.clear()
            self._result(message, None)

    def _decided(self, message: Message, decided: Decided, *, is_sure: bool) -> None:
        doubtful = isinstance(decided, NotThisTime) or (isinstance(decided, Undeliverable) and decided.if_everybody is not None)
        if not doubtful or (is_sure and isinstance(decided, NotThisTime)):
            self._result(message, decided)
            return
        assert isinstance(decided, (NotThisTime, Undeliverable))
        self._doubtful.append((message, decided))
        refused = [each for _, each in self._doubtful if isinstance(each, Undeliverable)]
        if len(refused) >= self.limits.refusals:
            self._end(refused[0].if_everybody)

    def _result(self, message: Message, decided: Decided | None) -> None:
        self._results.append((message, decided))
        if len(self._results) >= self.limits.group:
            self._to_settle.set()

    async def _settler(self) -> None:
        """Settle by number and by time, and keep the claims alive, until all workers have gone home."""
        try:
            while self._at_work:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._to_settle.wait(), self.limits.group_seconds)
                self._to_settle.clear()
                await asyncio.to_thread(self._settle_and_renew)
                self._settled.set()
        except Exception as error:  # noqa: BLE001 - raised where the run ends
            self._end(error)
            self._settled.set()

    def _settle_and_renew(self) -> None:
        with self._settle_turn:
            self._settle(self.settling)
            now = self.clock()
            if now - self._renewed >= self.limits.lease_seconds / 3:
                held = list(self._in_hand)
                kept = outbox.renew(self.settling, held, self.limits.lease_seconds)
                until = now + self.limits.lease_seconds
                self._in_hand.update({each: until if each.id in kept else now for each in held})
                self._renewed = now

    def _settle(self, connection: Connection) -> None:
        results = self._results[:]
        if not results:
            return
        settlement = self._settlement(results)
        for attempt in range(1, _SETTLE_TRIES + 1):
            try:
                settled = outbox.settle(connection, settlement, self.recipient.mark)
            except (DeadlockDetected, SerializationFailure):
                # Others write to the same ledger in an order of their own; who loses goes again.
                if attempt == _SETTLE_TRIES:
                    raise
            else:
                break
        outbox.give_back(connection, [message for message, decided in results if isinstance(decided, _Late)])
        del self._results[: len(results)]
        for message, _ in results:
            del self._in_hand[message]
        self._count(settled, lost=len(settlement) - len(settled))

    def _settlement(self, results: Sequence[tuple[Message, Decided | None]]) -> Settlement:
        sent, dropped, dead, later = [], [], [], []
        for message, decided in results:
            if decided is None:
                sent.append(message)
            elif isinstance(decided, Undeliverable):
                dead.append(Dead(message, decided.code))
            elif isinstance(decided, NotThisTime):
                attempts = message.attempts + (not decided.blameless)
                if attempts >= self.limits.max_attempts:
                    dead.append(Dead(message, decided.code))
                else:
                    later.append(Later(message, decided.code, self._pause(message.attempts), not decided.blameless))
            elif isinstance(decided, NotNeeded):
                dropped.append(message)
        return Settlement(sent, dropped, dead, later)

    def _pause(self, attempts: int) -> float:
        return pauses.after(attempts + 1, first=self.limits.first_pause, longest=self.limits.longest_pause, chance=self.chance)

    def _count(self, settled: Settlement, lost: int) -> None:
        self.tally.sent.update(each.load_id for each in settled.sent)
        self.tally.dropped.update(each.load_id for each in settled.dropped)
        self.tally.dead.update(each.message.load_id for each in settled.dead)
        self.tally.later.update(each.message.load_id for each in settled.later)
        self.tally.codes.update([each.code for each in settled.dead] + [each.code for each in settled.later])
        self.tally.lost += lost

    def _finish(self) -> None:
        with self._claim_turn, self._settle_turn:
            try:
                with closing(_connect(self.database, self.limits)) if self.settling.closed else nullcontext(self.settling) as connection:
                    self._settle(connection)
                    outbox.give_back(connection, self._in_hand)
            except (psycopg.Error, ConfigurationError) as error:
                log.warning("topic=%s: messages could not be given back, their claims will run out (%s)", self.topic, kind_of(error))
                self._end(error)

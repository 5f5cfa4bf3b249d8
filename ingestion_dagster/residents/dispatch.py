"""Sending the rows of a file: people side by side, one person's rows in the order of the file, and stopping without losing anything."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from ingestion_dagster.engine.breaker import UNAVAILABLE
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.residents.api_client import HereToHelp
from ingestion_dagster.residents.journal import Journal, Locks
from ingestion_dagster.residents.model import OUTAGE, Action, Prepared, Progress, Step
from ingestion_dagster.residents.send import send

log = logging.getLogger(__name__)

ROWS_LEFT = "rows_left"

_PASSES = 3
_PAUSES = (0.5, 2.0)
_AHEAD = 8
"""So many rows are taken up for each request in flight: people's rows that wait for each other do not hold up others."""
_FIRST_LOOK, _LONGEST_LOOK = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class Due:
    """A row that is to be sent: its number in the file, its id in the ledger, the locks it needs, and whose row it is."""

    number: int
    row_id: int
    prepared: Prepared
    lock_ids: tuple[int, ...]
    person: int
    """Rows of one number are sent one after the other."""


@dataclass(frozen=True, slots=True)
class Turn:
    """When a file has to stop: at a time (monotonic), or when others want their turn, which is asked for that often."""

    until: float
    seconds: float
    others_wait: Callable[[], bool]


@dataclass(slots=True)
class Sent:
    """What came of sending: whether every row is over, and how many were done."""

    is_over: bool = False
    done: int = 0


@dataclass(slots=True)
class Dispatch:
    """What sending needs: an open API, and where to write down what was done."""

    api: HereToHelp
    journal: Journal
    locks: Locks
    in_flight: int
    max_attempts: int
    now: Callable[[], datetime]
    in_hand: frozenset[int] = frozenset()
    """Rows that were being sent when the API gave way, or did not get through while no other did: their trouble, or the API's."""
    _latest: dict[int, Progress] = field(default_factory=dict)
    _left: list[Due] = field(default_factory=list)
    _held_up: set[int] = field(default_factory=set)
    _proven: bool = False
    _unproven: Counter[int] = field(default_factory=Counter)
    """Attempts of rows while nobody had got through."""
    _last_trouble: Transient | None = None
    _failure: BaseException | None = None
    _sent: Sent = field(default_factory=Sent)

    async def send_all(self, due: Iterator[Due], turn: Turn) -> Sent:
        """Send rows until all are over or the turn is.

        A row that does not get through is tried again after the others; its person's later rows wait for it. It is given up after
        `max_attempts`, if others got through meanwhile; if none did, it is left (`in_hand`). Raises `Transient` when the API or the
        database gives way, and `ConfigurationError`; what was sent by then is written down.
        """
        self.api.before_write = self.locks.still_held
        for each_pass in range(_PASSES):
            finished = await self._pass(due, turn)
            if self._failure is not None:
                raise self._failure
            if not finished:
                return self._sent
            if not self._left:
                self._sent.is_over = True
                return self._sent
            due, self._left, self._held_up = iter(sorted(self._left, key=lambda each: each.number)), [], set()
            if each_pass < len(_PAUSES):
                await asyncio.sleep(_PAUSES[each_pass])
        raise self._last_trouble or Transient(ROWS_LEFT, "some rows are being sent by another run")

    async def _pass(self, due: Iterator[Due], turn: Turn) -> bool:
        """Take up each row once; False if the turn ended before."""
        room = asyncio.Semaphore(self.in_flight * _AHEAD)
        last_of: dict[int, asyncio.Task[None]] = {}
        tasks: set[asyncio.Task[None]] = set()
        ask_at = time.monotonic() + turn.seconds
        finished = True
        try:
            for each in due:
                await room.acquire()
                now = time.monotonic()
                if now >= ask_at:
                    ask_at = now + turn.seconds
                    finished = not await asyncio.to_thread(turn.others_wait)
                if self._failure is not None or now >= turn.until or not finished:
                    finished = False
                    break
                task = asyncio.create_task(self._row(each, last_of.get(each.person), room))
                last_of[each.person] = task
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(_forgets(last_of, each.person))
            while tasks and self._failure is None:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return finished

    async def _row(self, due: Due, before: "asyncio.Task[None] | None", room: asyncio.Semaphore) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            if due.person in self._held_up:
                self._left.append(due)
            elif self._failure is None:
                await self._one(due)
        except Exception as error:  # noqa: BLE001 - raised where all are waited for
            self._failure = self._failure or error
        finally:
            room.release()

    async def _one(self, due: Due) -> None:
        progress = await self._locked(due)
        if progress is None:
            self._leave(due)
            return
        try:
            if progress.is_over:
                return
            self._latest[due.row_id] = progress
            progress = await send(self.api, due.prepared, progress, self._saving(due.row_id), self.now)
            self._proven = self._proven or progress.step == Step.DONE
            self._sent.done += progress.step == Step.DONE
        except Transient as trouble:
            if trouble.code in OUTAGE:
                self.in_hand = frozenset(self._latest) if trouble.code == UNAVAILABLE else frozenset()
                raise
            await self._not_through(due, trouble)
        finally:
            self._latest.pop(due.row_id, None)
            await self.locks.give_back(due.lock_ids)

    async def _locked(self, due: Due) -> Progress | None:
        """Wait for the person's locks, a while; how far the row has come by then."""
        wait = _FIRST_LOOK
        while (progress := await self.locks.take(due.lock_ids, due.row_id)) is None:
            if wait > _LONGEST_LOOK:
                return None
            await asyncio.sleep(wait)
            wait *= 2
        return progress

    async def _not_through(self, due: Due, trouble: Transient) -> None:
        """A row that did not get through this time: to be tried again, or given up."""
        self._last_trouble = trouble
        latest = self._latest[due.row_id]
        if not self._proven:
            # Nobody has got through yet: whether this is the row's trouble, or an outage, the caller finds out.
            log.warning("row=%s error=%s: left for now", due.number, trouble.code)
            self.in_hand |= {due.row_id}
            self._unproven[due.row_id] += 1
            self._leave(due)
            return
        self.in_hand -= {due.row_id}
        latest = replace(latest, attempts=latest.attempts + 1 + self._unproven.pop(due.row_id, 0))
        if latest.attempts >= self.max_attempts:
            latest = replace(latest, step=Step.FAILED, action=Action.FAILED, code=trouble.code)
        else:
            self._leave(due)
        await self.journal.save(due.row_id, latest)
        log.warning("row=%s error=%s attempts=%s: %s", due.number, trouble.code, latest.attempts, latest.step)

    def _leave(self, due: Due) -> None:
        self._left.append(due)
        self._held_up.add(due.person)

    def _saving(self, row_id: int) -> Callable[[Progress], Awaitable[None]]:
        async def save(progress: Progress) -> None:
            await self.journal.save(row_id, progress)
            self._latest[row_id] = progress

        return save


def _forgets(last_of: dict[int, "asyncio.Task[None]"], person: int) -> Callable[["asyncio.Task[None]"], None]:
    def forget(task: "asyncio.Task[None]") -> None:
        if last_of.get(person) is task:
            del last_of[person]

    return forget

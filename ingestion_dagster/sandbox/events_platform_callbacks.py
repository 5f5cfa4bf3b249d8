"""How the sandbox's events platform calls a supplier back: for what an event is about, and to have it deleted once it is consumed."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import orjson

from ingestion_dagster.sandbox.events_platform_schema import Unreadable, event_data
from ingestion_dagster.sandbox.events_platform_store import AcquirerEvent, Events
from ingestion_dagster.sandbox.events_platform_switches import Settings

log = logging.getLogger(__name__)
_AT_A_TIME = 8
_GLANCE = 0.1
"""How often it is looked at what the settings say, in seconds."""
_BATCH = 5000
_LONGEST_TURN = 45.0
_ATTEMPTS, _LONGEST_PAUSE = 5, 2.0


class NoData(Exception):
    """The supplier knows no such event: there is nothing to tell the acquirer."""


class Unavailable(Exception):
    """The supplier did not answer as it should; it may the next time."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a supplier is called back, and the token it wants to see."""

    url: str
    token: str | None = field(default=None, repr=False)


class Supplier:
    """The supplier's side: POST to /life-events/enrich and /life-events/delete below its address, which is looked up at each call."""

    def __init__(self, address: Callable[[], Address | None], settings: Settings) -> None:
        self._address = address
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self.answers: Counter[tuple[str, str]] = Counter()
        """How the calls ended: operation and status, or what there was instead."""

    async def enrich(self, event: AcquirerEvent) -> dict[str, Any]:
        """The data of an event, as far as it is subscribed to. Raises `NoData` and `Unavailable`.

        The real platform takes every failure for `NoData`; this one lets the acquirer try again.
        """
        status, body = await self._call("enrich", event.data_id)
        if status == 404:
            raise NoData
        if status != 200:
            raise Unavailable
        try:
            attributes = orjson.loads(body)
            if attributes is None:
                raise NoData
            if not isinstance(attributes, dict):
                raise Unavailable
            return event_data(attributes, event.fields)
        except (orjson.JSONDecodeError, Unreadable):
            raise Unavailable from None

    async def delete(self, data_id: str) -> bool:
        """Whether the supplier keeps nothing of an event any more. The real platform does not look at the answer; this one does."""
        try:
            status, _ = await self._call("delete", data_id)
        except Unavailable:
            return False
        return status in {200, 404}

    async def close(self) -> None:
        """End its connections."""
        if self._session is not None:
            await self._session.close()

    async def _call(self, operation: str, data_id: str) -> tuple[int, bytes]:
        address = self._address()
        if address is None:
            self.answers[operation, "no address"] += 1
            raise Unavailable
        if self._session is None:
            self._session = aiohttp.ClientSession()
        headers = {"Authorization": f"Bearer {address.token}"} if address.token else {}
        timeout = aiohttp.ClientTimeout(total=self._settings.callback_seconds)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                url = f"{address.url.rstrip('/')}/life-events/{operation}"
                async with self._session.post(url, json={"id": data_id}, headers=headers, timeout=timeout, allow_redirects=False) as answer:
                    body = await answer.read()
                    status, pause = answer.status, answer.headers.get("Retry-After", "")
            except (aiohttp.ClientError, TimeoutError, ValueError):
                self.answers[operation, "no answer"] += 1
                raise Unavailable from None
            self.answers[operation, str(status)] += 1
            if status != 429 or attempt == _ATTEMPTS:
                break
            await asyncio.sleep(min(float(pause) if pause.isdigit() else 0.1 * 2**attempt, _LONGEST_PAUSE))
        return status, body


@dataclass
class Turn:
    """What a turn of the delete job has come to."""

    due: int = 0
    deleted: int = 0
    failed: int = 0


class DeleteJob:
    """Has suppliers delete what every acquirer has consumed, turn by turn; what fails stays for the next turn and holds up nothing else."""

    def __init__(self, events: Events, supplier: Supplier, settings: Settings) -> None:
        self._events = events
        self._supplier = supplier
        self._settings = settings
        self._one_at_a_time = asyncio.Lock()
        self._after = 0

    async def turns(self) -> None:
        """One turn after another, as the settings say, until it is cancelled."""
        waited = 0.0
        while True:
            await asyncio.sleep(_GLANCE)
            waited += _GLANCE
            if self._settings.delete_seconds and waited >= self._settings.delete_seconds:
                try:
                    await self.turn()
                except Exception:
                    log.exception("a turn of the delete job failed; the next one tries again")
                waited = 0.0

    async def turn(self) -> dict[str, int]:
        """One turn, of 45 seconds at most, over the next events that are due; what has come of it."""
        async with self._one_at_a_time:
            due = self._events.deletable(self._after, _BATCH, keep_unsubscribed=bool(self._settings.keep_unsubscribed))
            self._after = due[-1][0] if len(due) == _BATCH else 0
            random.shuffle(due)
            turn = Turn(due=len(due))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_TURN), asyncio.TaskGroup() as group:
                    waiting = iter(due)
                    for _ in range(min(_AT_A_TIME, len(due))):
                        group.create_task(self._work(waiting, turn))
            return asdict(turn)

    async def _work(self, waiting: Iterator[tuple[int, str]], turn: Turn) -> None:
        for number, data_id in waiting:
            if await self._supplier.delete(data_id):
                self._events.released(number)
                turn.deleted += 1
            else:
                turn.failed += 1

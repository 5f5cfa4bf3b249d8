"""Publishing: telling the platform of every event that is due, and noting which it has taken."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
import psycopg

from ingestion_dagster.engine import delivery, outbox
from ingestion_dagster.engine.breaker import UNAVAILABLE
from ingestion_dagster.engine.delivery import Decided, Limits, NotNeeded, NotThisTime, Recipient, Tally, Undeliverable
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.http import THROTTLED, UNREACHABLE
from ingestion_dagster.engine.outbox import Message, Settlement
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import audit, records
from ingestion_dagster.life_events.audit import EVENT_PUBLISHED, Entry
from ingestion_dagster.life_events.keys import Undecipherable, Vault, vault
from ingestion_dagster.life_events.places import platform_address
from ingestion_dagster.life_events.platform_client import NoToken, Platform, Rejected, open_platform
from ingestion_dagster.life_events.registry import EVENT_EXPIRED, PUBLISH
from ingestion_dagster.life_events.store import EventStore, Sealed, open_store
from ingestion_dagster.settings import Settings

EVENT_GONE = "event_gone"
"""The event of a message is not in the store, and nobody is known to have deleted it."""

EVENT_UNREADABLE = "event_unreadable"
"""What opens is no event: our own fault, and no other event's trouble."""

_COMPONENT = "publish"
_BLAMELESS = frozenset({THROTTLED, UNREACHABLE})

# Whoever deletes an event holds its record meanwhile: he is waited for.
_STATES = """
    SELECT record_key, state, stored_at FROM life_events.records WHERE record_key = ANY(%(keys)s) ORDER BY record_key FOR SHARE
"""

_REVIVE = "UPDATE life_events.records SET state = 'pending', code = NULL WHERE record_key = ANY(%(keys)s) AND state = 'dead'"

_PARTITIONS = "SELECT id, partition FROM ledger.loads WHERE id = ANY(%(ids)s)"


@dataclass(slots=True)
class Published:
    """What a run did: events that the platform has taken, dead letters, events that nobody needs any more, and what is left to be done."""

    sent: int = 0
    dead: int = 0
    dropped: int = 0
    left: int = 0
    """Due now or later, without dead letters; of the partitions asked for, if any were."""
    seconds: float = 0.0
    by_partition: Counter[str] = field(default_factory=Counter)
    """Events taken, by the landing day of their loads."""
    dead_by_partition: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Why, of dead letters and of what is due later."""


def publish(
    database: Database,
    settings: Settings,
    run_id: str,
    *,
    partitions: Sequence[str] | None = None,
    seconds: float,
    outcome: Published | None = None,
    limits: Limits | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Published:
    """Tell the platform of what is due, the longest due first, until nothing is or time is up.

    `partitions` narrows it to events of loads of these landing days. Raises `Transient` when the platform has failed for
    `life_events_platform_patience_seconds`, or the store or the database gives way, and `ConfigurationError` when the platform does not let
    us in, or the keys do not open the events. Nothing is held against an event then; what was taken by then is noted, and counted in
    `outcome`.
    """
    address = platform_address(settings)
    recipient = _Publisher(Events.of_settings(settings), run_id, now)
    limits = limits or Limits(in_flight=settings.life_events_requests_in_flight, lease_seconds=settings.lease_seconds)

    async def work(tally: Tally) -> None:
        patience = settings.life_events_platform_patience_seconds
        async with open_platform(address, in_flight=limits.in_flight, patience_seconds=patience) as recipient.platform:
            await delivery.deliver(database, PUBLISH, recipient, seconds=seconds, limits=limits, partitions=partitions, tally=tally)

    outcome = Published() if outcome is None else outcome
    started, tally = time.monotonic(), Tally()
    try:
        asyncio.run(work(tally))
    except BaseException:
        # A database that is away now has most likely been told of already.
        with suppress(psycopg.Error, ConfigurationError):
            _count(database, tally, partitions, outcome)
        raise
    finally:
        outcome.seconds += time.monotonic() - started
    _count(database, tally, partitions, outcome)
    return outcome


def retry(connection: Connection) -> int:
    """Make dead letters due again; how many. Those whose events have expired are dropped: they are past help, and somebody knows now."""
    with connection.transaction():
        outbox.drop_dead(connection, PUBLISH, EVENT_EXPIRED)
        keys = outbox.retry(connection, PUBLISH)
        connection.execute(_REVIVE, {"keys": sorted(map(bytes.fromhex, keys))})
    return len(keys)


@dataclass(frozen=True, slots=True)
class Opened:
    """An event as those that tell of it need it, for as long as that takes."""

    stored_at: datetime
    content: Mapping[str, Any] = field(repr=False)


class Events:
    """What is in the store of the events that messages are about."""

    def __init__(self, store: EventStore, opener: Vault, ttl: timedelta) -> None:
        self._store = store
        self._vault = opener
        self._ttl = ttl

    @classmethod
    def of_settings(cls, settings: Settings) -> "Events":
        """Those of the store that the settings mean."""
        return cls(open_store(settings), vault(settings), timedelta(days=settings.life_events_ttl_days))

    def of(self, connection: Connection, messages: Sequence[Message], now: datetime) -> dict[int, Opened | Decided]:
        """The event of each message, by the message's id, or why there is none.

        Raises `ConfigurationError` if none of several opens with the keys that are set.
        """
        keys = {message.id: bytes.fromhex(message.key) for message in messages}
        found = self._store.get(connection, list(keys.values()), now)
        missing = sorted(key for key in keys.values() if key not in found)
        rows = connection.execute(_STATES, {"keys": missing}).fetchall() if missing else []
        states = {row[0]: (row[1], row[2]) for row in rows}
        opened: dict[int, Opened | Decided] = {}
        wrong_key: str | None = None
        for number, key in keys.items():
            try:
                opened[number] = self._open(found[key]) if key in found else self._why_gone(*states.get(key, (None, now)), now)
            except Undecipherable as error:
                # One is that event's trouble, and must not hold up the others; all of them are a matter of the keys.
                wrong_key = str(error)
                opened[number] = NotThisTime(EVENT_UNREADABLE)
        if wrong_key is not None and not any(isinstance(each, Opened) for each in opened.values()):
            raise ConfigurationError(wrong_key)
        return opened

    def _open(self, sealed: Sealed) -> Opened | Decided:
        payload = self._vault.open(sealed.record_key, sealed.encryption_key, sealed.payload)
        try:
            return Opened(sealed.stored_at, orjson.loads(payload))
        except orjson.JSONDecodeError:
            return Undeliverable(EVENT_UNREADABLE)

    def _why_gone(self, state: str | None, stored_at: datetime, now: datetime) -> Decided:
        if state == "released":
            return NotNeeded()
        return Undeliverable(EVENT_EXPIRED if state == "expired" or stored_at + self._ttl <= now else EVENT_GONE)


class _Publisher(Recipient[str]):
    """The platform, as told of events: of each, its time."""

    platform: Platform

    def __init__(self, events: Events, run_id: str, now: Callable[[], datetime]) -> None:
        self._events = events
        self._run_id = run_id
        self._now = now

    def prepare(self, connection: Connection, messages: Sequence[Message]) -> Mapping[int, str | Decided]:
        return {number: _time_of(found) for number, found in self._events.of(connection, messages, self._now()).items()}

    async def send(self, message: Message, content: str) -> None:
        fault_point("life_events.publish.before")
        try:
            await self.platform.publish(message.key, content)
        except Rejected as rejected:
            raise Undeliverable(rejected.code, rejected.if_everybody, unless_others=rejected.is_of_address) from None
        except NoToken:
            raise
        except Transient as trouble:
            if trouble.code == UNAVAILABLE:
                raise
            raise NotThisTime(trouble.code, blameless=trouble.code in _BLAMELESS) from None
        fault_point("life_events.publish.after")

    def mark(self, connection: Connection, settlement: Settlement) -> None:
        sent = [bytes.fromhex(each.key) for each in settlement.sent]
        codes = {bytes.fromhex(each.message.key): each.code for each in settlement.dead}
        records.lock_all(connection, [*sent, *codes])
        if sent:
            records.mark_published(connection, sent, self._now())
        if codes:
            records.mark_dead(connection, codes)
        entry = partial(Entry, _COMPONENT, EVENT_PUBLISHED, self._run_id)
        entries = [entry("ok", record_key=key) for key in sent] + [entry(code, record_key=key) for key, code in codes.items()]
        audit.write(connection, entries)


def _time_of(found: Opened | Decided) -> str | Decided:
    if isinstance(found, Decided):
        return found
    event_time = found.content.get("eventTime")
    return event_time if isinstance(event_time, str) else Undeliverable(EVENT_UNREADABLE)


def _count(database: Database, tally: Tally, partitions: Sequence[str] | None, outcome: Published) -> None:
    """Add what a run did to its outcome."""
    ids = {number for counted in (tally.sent, tally.dead) for number in counted if number is not None}
    outcome.sent += tally.sent.total()
    outcome.dead += tally.dead.total()
    outcome.dropped += tally.dropped.total()
    outcome.codes += tally.codes
    with database.connect() as connection:
        days: dict[int, str] = dict(connection.execute(_PARTITIONS, {"ids": sorted(ids)}).fetchall())
        lag = outbox.lag(connection, PUBLISH, partitions)
    outcome.left = lag.due + lag.later
    for counted, by_day in ((tally.sent, outcome.by_partition), (tally.dead, outcome.dead_by_partition)):
        for number, count in counted.items():
            if number in days:
                by_day[days[number]] += count

"""The second output: a DeathNotificationSet for each acquirer that is set, with no more in it than that acquirer gets, on its own queue."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ingestion_dagster.engine import delivery, outbox
from ingestion_dagster.engine.delivery import Decided, Limits, Recipient, Tally, Undeliverable
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.outbox import Message
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.acquirers import Acquirer, acquirers, topics
from ingestion_dagster.life_events.notification import document, minimise
from ingestion_dagster.life_events.publish import Events, Opened
from ingestion_dagster.life_events.queues import LARGEST, Queue
from ingestion_dagster.life_events.registry import EVENT_EXPIRED, NOTIFY
from ingestion_dagster.settings import Settings

NOT_KEPT = "record_not_kept"
"""The event was stored when no acquirer was set, without the record that its document would be made of."""

TOO_LARGE = "notification_too_large"

ACQUIRER_UNSET = "acquirer_unset"
"""The acquirer has been taken out of the settings."""


@dataclass(slots=True)
class Notified:
    """What a run did: documents that queues have taken, dead letters, what is left to be sent, and seconds."""

    sent: int = 0
    dead: int = 0
    left: int = 0
    seconds: float = 0.0
    by_acquirer: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    unknown: tuple[str, ...] = ()
    """Names of acquirers that documents were due for, and that are not set any more: they are dead letters now."""


def deliver(
    database: Database,
    settings: Settings,
    run_id: str,  # noqa: ARG001 - as every step of the pipeline is called
    *,
    partitions: Sequence[str] | None = None,
    seconds: float,
    outcome: Notified | None = None,
    limits: Limits | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Notified:
    """Send each acquirer what is due to it, until nothing is or time is up; one whose queue is away does not stop the others.

    A document may come twice: its `jti`, made from the record key, is the same then. Raises, once all have had their turn,
    `ConfigurationError` for a queue that is not there or not open to us, and `Transient` for one that is away; what was taken by then is
    noted, and counted in `outcome`.
    """
    outcome = Notified() if outcome is None else outcome
    started = time.monotonic()
    trouble: list[Transient | ConfigurationError] = []
    everybody = acquirers(settings)
    for acquirer in everybody:
        tally = Tally()
        try:
            _deliver(database, settings, acquirer, tally, partitions, seconds - (time.monotonic() - started), limits, now)
        except (Transient, ConfigurationError) as error:
            trouble.append(error)
        outcome.sent += tally.sent.total()
        outcome.dead += tally.dead.total()
        outcome.codes += tally.codes
        outcome.by_acquirer[acquirer.name] += tally.sent.total()
    with database.connect() as connection:
        lags = [outbox.lag(connection, each.topic, partitions) for each in everybody]
        unset = sorted(set(outbox.topics(connection, NOTIFY)) - {each.topic for each in everybody})
        # Nobody will ever send them, and their events could not be released.
        buried = outbox.bury(connection, unset, ACQUIRER_UNSET)
    outcome.left = sum(lag.due + lag.later for lag in lags)
    outcome.unknown = tuple(sorted({topic.removeprefix(NOTIFY) for topic, _ in buried}))
    outcome.dead += len(buried)
    outcome.seconds += time.monotonic() - started
    if trouble:
        raise min(trouble, key=lambda each: isinstance(each, Transient))
    return outcome


def _deliver(
    database: Database,
    settings: Settings,
    acquirer: Acquirer,
    tally: Tally,
    partitions: Sequence[str] | None,
    seconds: float,
    limits: Limits | None,
    now: Callable[[], datetime],
) -> None:
    events = Events.of_settings(settings)
    patience = settings.life_events_platform_patience_seconds
    limits = limits or Limits(in_flight=settings.life_events_requests_in_flight, batch=100, lease_seconds=settings.lease_seconds)

    async def work() -> None:
        with closing(Queue(acquirer, patience)) as queue:
            recipient = _Notifier(acquirer, events, queue, now)
            await delivery.deliver(
                database, acquirer.topic, recipient, seconds=max(seconds, 0), limits=limits, partitions=partitions, tally=tally
            )

    asyncio.run(work())


def retry(connection: Connection, settings: Settings) -> int:
    """Make dead letters of the acquirers that are set due again; how many.

    Those of expired events are dropped, and those that other acquirers were due when they were taken out of the settings.
    """
    set_now = topics(settings)
    with connection.transaction():
        for topic in outbox.topics(connection, NOTIFY):
            outbox.drop_dead(connection, topic, EVENT_EXPIRED)
            if topic not in set_now:
                outbox.drop_dead(connection, topic, ACQUIRER_UNSET)
        return sum(len(outbox.retry(connection, topic)) for topic in set_now)


class _Notifier(Recipient[bytes]):
    """An acquirer, as sent documents."""

    def __init__(self, acquirer: Acquirer, events: Events, queue: Queue, now: Callable[[], datetime]) -> None:
        self._acquirer = acquirer
        self._events = events
        self._queue = queue
        self._now = now

    def prepare(self, connection: Connection, messages: Sequence[Message]) -> Mapping[int, bytes | Decided]:
        found = self._events.of(connection, messages, self._now())
        return {message.id: _document(found[message.id], message.key, self._acquirer.fields) for message in messages}

    async def send(self, message: Message, content: bytes) -> None:
        await self._queue.send(message.key, content)


def _document(found: Opened | Decided, key_hex: str, fields: Collection[str]) -> bytes | Decided:
    """What an acquirer gets of an event. It was issued when it was stored: sent twice, it is the same."""
    if isinstance(found, Decided):
        return found
    record = found.content.get("record")
    if not isinstance(record, dict):
        return Undeliverable(NOT_KEPT)
    # ASCII alone: there are characters that SQS refuses a whole request for.
    body = json.dumps(minimise(document(record, key_hex, found.stored_at), fields), separators=(",", ":")).encode()
    return body if len(body) <= LARGEST else Undeliverable(TOO_LARGE)

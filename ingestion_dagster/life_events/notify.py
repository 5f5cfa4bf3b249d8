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
from ingestion_dagster.life_events.acquirers import Acquirer, acquirers
from ingestion_dagster.life_events.keys import vault
from ingestion_dagster.life_events.notification import document, minimise
from ingestion_dagster.life_events.publish import Events, Opened
from ingestion_dagster.life_events.queues import LARGEST, Queue
from ingestion_dagster.life_events.registry import NOTIFY
from ingestion_dagster.life_events.store import open_store
from ingestion_dagster.settings import Settings

NOT_KEPT = "record_not_kept"
"""The event was stored when no acquirer was set, without the record that its document would be made of."""

TOO_LARGE = "notification_too_large"

# From topic to topic along the index: there are few, whatever number of messages.
_TOPICS = """
WITH RECURSIVE topics (topic) AS (
    (SELECT topic FROM ledger.outbox ORDER BY topic LIMIT 1)
    UNION ALL
    SELECT (SELECT o.topic FROM ledger.outbox AS o WHERE o.topic > topics.topic ORDER BY o.topic LIMIT 1)
      FROM topics WHERE topics.topic IS NOT NULL
)
SELECT topic FROM topics WHERE starts_with(topic, %(prefix)s)
"""

_OUTSTANDING = "SELECT EXISTS (SELECT FROM ledger.outbox WHERE topic = ANY(%(topics)s) AND key = %(key)s AND dead_at IS NULL)"


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
    """Names of acquirers that documents are due for, and that are not set any more: theirs stay."""


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
        due = _topics(connection)
    outcome.left = sum(lag.due + lag.later for lag in lags)
    outcome.unknown = tuple(topic.removeprefix(NOTIFY) for topic in due if topic not in {each.topic for each in everybody})
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
    events = Events(open_store(settings), vault(settings))
    patience = settings.life_events_platform_patience_seconds
    limits = limits or Limits(in_flight=settings.life_events_requests_in_flight, batch=100, lease_seconds=settings.lease_seconds)

    async def work() -> None:
        with closing(Queue(acquirer, patience)) as queue:
            recipient = _Notifier(acquirer, events, queue, now)
            await delivery.deliver(
                database, acquirer.topic, recipient, seconds=max(seconds, 0), limits=limits, partitions=partitions, tally=tally
            )

    asyncio.run(work())


def outstanding(connection: Connection, key_hex: str) -> bool:
    """Whether some acquirer has yet to get its document of this event. What a queue has refused is not waited for."""
    found = connection.execute(_OUTSTANDING, {"topics": _topics(connection), "key": key_hex}).fetchone()
    return found == (True,)


def retry(connection: Connection) -> int:
    """Make dead letters of all acquirers due again; how many."""
    with connection.transaction():
        return sum(len(outbox.retry(connection, topic)) for topic in _topics(connection))


def _topics(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute(_TOPICS, {"prefix": NOTIFY})]


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

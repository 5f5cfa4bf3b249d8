"""The events of the sandbox's platform: what suppliers published, and who has yet to consume it. Never what they are about."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson

from ingestion_dagster.sandbox.events_platform_database import Database
from ingestion_dagster.sandbox.events_platform_schema import GRO, Published

_SUBSCRIPTION_OF_SUPPLIER = """
SELECT id FROM supplier_subscription WHERE client_id = :client_id AND event_type = :event_type AND deleted_at IS NULL
"""
_SUBSCRIBED = "SELECT id FROM acquirer_subscription WHERE event_type = :event_type AND deleted_at IS NULL"
_ADD_POST = "INSERT INTO post (data_id, client_id, at, stored) VALUES (:data_id, :client_id, :now, :stored)"
_ADD_SUPPLIER_EVENT = """
INSERT INTO supplier_event (id, subscription_id, event_type, data_id, event_time, created_at, subscribers, unconsumed)
VALUES (:id, :subscription, :event_type, :data_id, :event_time, :now, :subscribers, :subscribers)
ON CONFLICT (data_id) DO NOTHING
"""
_ADD_ACQUIRER_EVENT = """
INSERT INTO acquirer_event (id, supplier_event, subscription_id, data_id, created_at)
VALUES (:id, :supplier_event, :subscription, :data_id, :now)
"""
_SUBSCRIPTIONS_OF_CLIENT = """
SELECT id FROM acquirer_subscription
 WHERE client_id = :client_id AND deleted_at IS NULL AND (:types IS NULL OR event_type IN (SELECT value FROM json_each(:types)))
"""
_OPEN = """
  FROM acquirer_event AS event
 WHERE event.subscription_id IN (SELECT value FROM json_each(:subscriptions)) AND event.deleted_at IS NULL
   AND event.created_at > :since AND event.created_at <= :until
"""
_COUNT = f"SELECT count(*) {_OPEN}"
_EVENT = """
SELECT event.id, event.data_id, subscription.event_type, subscription.fields, subscription.in_poll
  FROM acquirer_event AS event JOIN acquirer_subscription AS subscription ON subscription.id = event.subscription_id
"""
_PAGE = f"""
{_EVENT} WHERE event.number IN (SELECT event.number {_OPEN} ORDER BY event.created_at, event.number LIMIT :size OFFSET :skipped)
 ORDER BY event.created_at, event.number
"""
_ONE = f"""
{_EVENT} WHERE event.id = :id AND event.deleted_at IS NULL AND subscription.client_id = :client_id AND subscription.deleted_at IS NULL
"""
_CONSUME = "UPDATE acquirer_event SET deleted_at = :now WHERE id = :id RETURNING supplier_event"
_CONSUMED = "UPDATE supplier_event SET unconsumed = unconsumed - 1 WHERE number = :number"
_DELETABLE = """
SELECT number, data_id FROM supplier_event
 WHERE event_type = :event_type AND deleted_at IS NULL AND unconsumed = 0 AND subscribers >= :least AND number > :after
 ORDER BY number LIMIT :most
"""
_COUNT_DELETABLE = """
SELECT count(*) FROM supplier_event
 WHERE event_type = :event_type AND deleted_at IS NULL AND unconsumed = 0 AND subscribers >= :least
"""
_RELEASED = "UPDATE supplier_event SET deleted_at = :now WHERE number = :number AND deleted_at IS NULL"
_COUNTS = {
    "supplier_events": "SELECT count(*) FROM supplier_event",
    "deleted": "SELECT count(*) FROM supplier_event WHERE deleted_at IS NOT NULL",
    "acquirer_events": "SELECT count(*) FROM acquirer_event",
    "acquirer_events_open": "SELECT count(*) FROM acquirer_event WHERE deleted_at IS NULL",
    "posts": "SELECT count(*) FROM post",
    "duplicate_posts": "SELECT count(*) FROM post WHERE NOT stored",
}


class NotSubscribed(Exception):
    """The client has no live subscription as a supplier of such events."""


@dataclass(frozen=True, slots=True)
class AcquirerEvent:
    """An event as an acquirer has it: its id, the supplier's, and what the acquirer's subscription lets through."""

    id: str
    data_id: str
    event_type: str
    fields: tuple[str, ...]
    in_poll: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of events, and how many there are on all pages."""

    events: Sequence[AcquirerEvent]
    total: int


class Events:
    """What has been published, and what has become of it. Times are microseconds since the epoch."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def publish(self, client_id: str, event: Published) -> None:
        """Keep an event, with one for each subscription of an acquirer, in one transaction; one whose id is known is only counted.

        Raises `NotSubscribed`.
        """
        subscription = self._database.one(_SUBSCRIPTION_OF_SUPPLIER, client_id=client_id, event_type=event.event_type)
        if subscription is None:
            raise NotSubscribed
        now = self.now()
        with self._database.transaction():
            subscribed = self._database.rows(_SUBSCRIBED, event_type=event.event_type)
            number = self._database.insert(
                _ADD_SUPPLIER_EVENT,
                id=str(uuid4()),
                subscription=subscription,
                event_type=event.event_type,
                data_id=event.data_id,
                event_time=event.event_time,
                now=now,
                subscribers=len(subscribed),
            )
            for (each,) in subscribed if number is not None else ():
                values = {"id": str(uuid4()), "supplier_event": number, "subscription": each, "data_id": event.data_id, "now": now}
                self._database.run(_ADD_ACQUIRER_EVENT, **values)
            self._database.run(_ADD_POST, data_id=event.data_id, client_id=client_id, now=now, stored=number is not None)

    def listed(self, client_id: str, types: Sequence[str] | None, since: int, until: int, number: int, size: int) -> Listed:
        """A page of what the client has yet to consume, of these types or of all, published after `since` and not after `until`."""
        values = {"client_id": client_id, "types": None if types is None else orjson.dumps(types).decode()}
        subscriptions = [row[0] for row in self._database.rows(_SUBSCRIPTIONS_OF_CLIENT, **values)]
        if not subscriptions:
            return Listed((), 0)
        asked = {"subscriptions": orjson.dumps(subscriptions).decode(), "since": since, "until": until}
        total = self._database.one(_COUNT, **asked)
        skipped = number * size
        rows = self._database.rows(_PAGE, **asked, size=min(size, total), skipped=skipped) if skipped < total else []
        return Listed([_acquirer_event(row) for row in rows], total)

    def event(self, client_id: str, event_id: str) -> AcquirerEvent | None:
        """An event that the client has yet to consume."""
        rows = self._database.rows(_ONE, id=event_id, client_id=client_id)
        return _acquirer_event(rows[0]) if rows else None

    def consume(self, client_id: str, event_id: str) -> bool:
        """The client has consumed an event; False if it has none of that id to consume."""
        with self._database.transaction():
            if self.event(client_id, event_id) is None:
                return False
            [(number,)] = self._database.rows(_CONSUME, id=event_id, now=self.now())
            self._database.run(_CONSUMED, number=number)
            return True

    def deletable(self, after: int, most: int, *, keep_unsubscribed: bool) -> list[tuple[int, str]]:
        """The next events that nobody has yet to consume, whose supplier has not been told: number and the supplier's id.

        Events that nobody ever subscribed to are among them, unless they are to be kept.
        """
        values = {"after": after, "most": most, "least": int(keep_unsubscribed)}
        return [(number, data_id) for number, data_id in self._database.rows(_DELETABLE, event_type=GRO, **values)]

    def released(self, number: int) -> None:
        """The supplier has deleted what it kept of this event."""
        self._database.run(_RELEASED, number=number, now=self.now())

    def counts(self, *, keep_unsubscribed: bool) -> dict[str, int]:
        """How many there are of what."""
        counts = {name: int(self._database.one(statement)) for name, statement in _COUNTS.items()}
        return counts | {"deletable": self._database.one(_COUNT_DELETABLE, event_type=GRO, least=int(keep_unsubscribed))}

    def data_ids(self, *, deleted: bool | None = None) -> list[str]:
        """The suppliers' ids of all events in the order in which they came; or only of those that have been deleted, or have not."""
        statement = "SELECT data_id FROM supplier_event WHERE :deleted IS NULL OR (deleted_at IS NOT NULL) = :deleted ORDER BY number"
        return [row[0] for row in self._database.rows(statement, deleted=deleted)]

    def posts(self) -> dict[str, int]:
        """How often each id has been published."""
        rows = self._database.rows("SELECT data_id, count(*) FROM post GROUP BY data_id ORDER BY min(number)")
        return dict(rows)

    def now(self) -> int:
        """The time."""
        return int(self._clock() * 1_000_000)


def _acquirer_event(row: tuple[Any, ...]) -> AcquirerEvent:
    event_id, data_id, event_type, fields, in_poll = row
    return AcquirerEvent(event_id, data_id, event_type, tuple(orjson.loads(fields)), bool(in_poll))

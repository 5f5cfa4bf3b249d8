"""Who takes part in the sandbox's events platform: suppliers and acquirers, what they subscribe to, and the clients they come as."""

import secrets
import sqlite3
import string
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson

from ingestion_dagster.sandbox.events_platform_database import Database
from ingestion_dagster.sandbox.events_platform_schema import ADMIN, CONSUME, GRO, GRO_FIELDS, PUBLISH, Invalid, Wanted

PUBLISHER = ("sandbox-gro-publisher", "sandbox-gro-publisher-secret")  # pragma: allowlist secret
ACQUIRER = ("sandbox-acquirer", "sandbox-acquirer-secret")  # pragma: allowlist secret
ADMINISTRATOR = ("sandbox-admin", "sandbox-admin-secret")  # pragma: allowlist secret
"""The clients that there are from the first start on: id and secret."""

_QUEUES = "https://sqs.eu-west-2.amazonaws.com/000000000000/"
_SEEDED = "seeded"
_ID_LETTERS = string.ascii_lowercase + string.digits

_ACQUIRER_SUBSCRIPTIONS = """
SELECT id, acquirer_id, event_type, client_id, queue, fields, in_poll, created_at FROM acquirer_subscription
 WHERE (:id IS NULL OR id = :id) AND (:acquirer_id IS NULL OR acquirer_id = :acquirer_id) AND deleted_at IS NULL ORDER BY created_at, id
"""
_SUPPLIER_SUBSCRIPTIONS = """
SELECT id, supplier_id, event_type, client_id, created_at FROM supplier_subscription
 WHERE (:id IS NULL OR id = :id) AND (:supplier_id IS NULL OR supplier_id = :supplier_id) AND deleted_at IS NULL ORDER BY created_at, id
"""
_RELEASE_SUPPLIER_EVENTS = """
UPDATE supplier_event SET unconsumed = unconsumed - open.events
  FROM (
      SELECT supplier_event, count(*) AS events FROM acquirer_event
       WHERE subscription_id = :id AND deleted_at IS NULL GROUP BY supplier_event
  ) AS open
 WHERE open.supplier_event = supplier_event.number
"""
_DROP_ACQUIRER_EVENTS = "UPDATE acquirer_event SET deleted_at = :now WHERE subscription_id = :id AND deleted_at IS NULL"
_STILL_USED = """
SELECT EXISTS (SELECT 1 FROM acquirer_subscription WHERE client_id = :client_id AND deleted_at IS NULL)
    OR EXISTS (SELECT 1 FROM supplier_subscription WHERE client_id = :client_id AND deleted_at IS NULL)
"""


class Unknown(Exception):
    """There is no such acquirer, supplier or subscription; the text says which of them, not its id."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who may ask for tokens, and of what scopes."""

    client_id: str
    secret: str
    scopes: tuple[str, ...]


class Parties:
    """Suppliers, acquirers, their subscriptions and clients."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self.seed()

    def seed(self) -> None:
        """Those that there are from the first start on: a publisher of death notifications, an acquirer of all their fields, an admin."""
        if _SEEDED in self._database.switches():
            return
        with self._database.transaction():
            self._database.switch(_SEEDED, "yes")
            self._add_client(*PUBLISHER, PUBLISHER[0], PUBLISH)
            self.add_supplier_subscription(self.add("supplier", PUBLISHER[0])["id"], PUBLISHER[0], GRO)
            self._add_client(*ACQUIRER, ACQUIRER[0], CONSUME)
            wanted = Wanted(GRO, GRO_FIELDS, in_poll=False, client_id=ACQUIRER[0], queue=None, principal=None)
            self.add_acquirer_subscription(self.add("acquirer", ACQUIRER[0])["id"], wanted)
            self._add_client(*ADMINISTRATOR, ADMINISTRATOR[0], ADMIN)

    def client(self, client_id: str) -> Client | None:
        """The client of that id."""
        rows = self._database.rows("SELECT client_id, secret, scope FROM client WHERE client_id = :client_id", client_id=client_id)
        return Client(rows[0][0], rows[0][1], tuple(rows[0][2].split())) if rows else None

    def create_acquirer(self, name: str, wanted: Wanted) -> dict[str, Any]:
        """An acquirer with a subscription, and with a client of its own unless a queue is wanted."""
        with self._database.transaction():
            acquirer_id = self.add("acquirer", name)["id"]
            if wanted.queue is not None:
                return {"queueUrl": self.add_acquirer_subscription(acquirer_id, wanted)["queueUrl"]}
            client = self._new_client(name, CONSUME)
            made = Wanted(wanted.event_type, wanted.fields, wanted.in_poll, client["clientId"], None, None)
            self.add_acquirer_subscription(acquirer_id, made)
            return client

    def create_supplier(self, name: str, event_type: str) -> dict[str, Any]:
        """A supplier with a subscription and a client of its own."""
        with self._database.transaction():
            client = self._new_client(name, PUBLISH)
            self.add_supplier_subscription(self.add("supplier", name)["id"], client["clientId"], event_type)
            return client

    def all(self, kind: str) -> list[dict[str, Any]]:
        """The acquirers or suppliers there are."""
        rows = self._database.rows(f"SELECT id, name, created_at FROM {kind} WHERE deleted_at IS NULL ORDER BY created_at, id")  # noqa: S608
        return [{"id": each, "name": name, "whenCreated": _shown(at)} for each, name, at in rows]

    def add(self, kind: str, name: str) -> dict[str, Any]:
        """One more acquirer or supplier, without a subscription."""
        party, now = str(uuid4()), self._now()
        self._database.run(f"INSERT INTO {kind} VALUES (:id, :name, :now, NULL)", id=party, name=name, now=now)  # noqa: S608
        return {"id": party, "name": name, "whenCreated": _shown(now)}

    def remove(self, kind: str, party: str) -> None:
        """Delete an acquirer or supplier with all its subscriptions. Raises `Unknown`."""
        with self._database.transaction():
            self._required(kind, party)
            self._database.run(f"UPDATE {kind} SET deleted_at = :now WHERE id = :id", id=party, now=self._now())  # noqa: S608
            statement = f"SELECT id FROM {kind}_subscription WHERE {kind}_id = :id AND deleted_at IS NULL"  # noqa: S608
            for (subscription,) in self._database.rows(statement, id=party):
                self.remove_subscription(kind, subscription)

    def subscriptions(self, kind: str, party: str | None = None) -> list[dict[str, Any]]:
        """The live subscriptions of an acquirer or supplier, or of all."""
        if kind == "acquirer":
            return [_acquirer_subscription(row) for row in self._database.rows(_ACQUIRER_SUBSCRIPTIONS, id=None, acquirer_id=party)]
        return [_supplier_subscription(row) for row in self._database.rows(_SUPPLIER_SUBSCRIPTIONS, id=None, supplier_id=party)]

    def add_acquirer_subscription(self, acquirer: str, wanted: Wanted) -> dict[str, Any]:
        """One more subscription of an acquirer. Raises `Unknown`."""
        self._required("acquirer", acquirer)
        subscription = str(uuid4())
        self._database.run(
            "INSERT INTO acquirer_subscription VALUES "
            "(:id, :acquirer, :event_type, :client_id, :queue, :principal, :fields, :in_poll, :now, NULL)",
            id=subscription,
            acquirer=acquirer,
            event_type=wanted.event_type,
            client_id=wanted.client_id,
            queue=wanted.queue,
            principal=wanted.principal,
            fields=orjson.dumps(wanted.fields).decode(),
            in_poll=wanted.in_poll,
            now=self._now(),
        )
        return self._shown_acquirer_subscription(subscription)

    def change_acquirer_subscription(self, acquirer: str, subscription: str, wanted: Wanted) -> dict[str, Any]:
        """Another acquirer, client, event type or other fields for a subscription; a queue stays what it was. Raises `Unknown`."""
        with self._database.transaction():
            self._required("acquirer", acquirer)
            if wanted.queue is not None:
                raise Invalid("the queue of a subscription cannot be changed")
            changed = self._database.run(
                "UPDATE acquirer_subscription SET acquirer_id = :acquirer, event_type = :event_type, client_id = :client_id, queue = NULL, "
                "principal = NULL, fields = :fields, in_poll = :in_poll WHERE id = :id AND deleted_at IS NULL",
                id=subscription,
                acquirer=acquirer,
                event_type=wanted.event_type,
                client_id=wanted.client_id,
                fields=orjson.dumps(wanted.fields).decode(),
                in_poll=wanted.in_poll,
            )
            if not changed:
                raise Unknown("Acquirer subscription")
            return self._shown_acquirer_subscription(subscription)

    def add_supplier_subscription(self, supplier: str, client_id: str, event_type: str) -> dict[str, Any]:
        """One more subscription of a supplier. Raises `Unknown`, and `Invalid` if the client has one for that type."""
        self._required("supplier", supplier)
        subscription = str(uuid4())
        values = {"id": subscription, "supplier": supplier, "client_id": client_id, "event_type": event_type, "now": self._now()}
        with _once_per_client():
            self._database.run("INSERT INTO supplier_subscription VALUES (:id, :supplier, :client_id, :event_type, :now, NULL)", **values)
        return self._shown_supplier_subscription(subscription)

    def change_supplier_subscription(self, supplier: str, subscription: str, client_id: str, event_type: str) -> dict[str, Any]:
        """Another supplier, client or event type for a subscription. Raises `Unknown` and `Invalid`."""
        self._required("supplier", supplier)
        values = {"id": subscription, "supplier": supplier, "client_id": client_id, "event_type": event_type}
        with _once_per_client():
            changed = self._database.run(
                "UPDATE supplier_subscription SET supplier_id = :supplier, client_id = :client_id, event_type = :event_type "
                "WHERE id = :id AND deleted_at IS NULL",
                **values,
            )
        if not changed:
            raise Unknown("Supplier subscription")
        return self._shown_supplier_subscription(subscription)

    def remove_subscription(self, kind: str, subscription: str) -> None:
        """Delete a subscription, its client if nobody else uses it, and an acquirer's open events, which may release what they stand for.

        Raises `Unknown`.
        """
        with self._database.transaction():
            statement = f"SELECT client_id FROM {kind}_subscription WHERE id = :id AND deleted_at IS NULL"  # noqa: S608
            rows = self._database.rows(statement, id=subscription)
            if not rows:
                raise Unknown(f"{kind.capitalize()} subscription")
            now = self._now()
            if kind == "acquirer":
                self._database.run(_RELEASE_SUPPLIER_EVENTS, id=subscription)
                self._database.run(_DROP_ACQUIRER_EVENTS, id=subscription, now=now)
                self._database.run("UPDATE acquirer_subscription SET fields = '[]' WHERE id = :id", id=subscription)
            self._database.run(f"UPDATE {kind}_subscription SET deleted_at = :now WHERE id = :id", id=subscription, now=now)  # noqa: S608
            client_id = rows[0][0]
            if client_id is not None and not self._database.one(_STILL_USED, client_id=client_id):
                self._database.run("DELETE FROM client WHERE client_id = :client_id", client_id=client_id)

    def _shown_acquirer_subscription(self, subscription: str) -> dict[str, Any]:
        return _acquirer_subscription(self._database.rows(_ACQUIRER_SUBSCRIPTIONS, id=subscription, acquirer_id=None)[0])

    def _shown_supplier_subscription(self, subscription: str) -> dict[str, Any]:
        return _supplier_subscription(self._database.rows(_SUPPLIER_SUBSCRIPTIONS, id=subscription, supplier_id=None)[0])

    def _new_client(self, name: str, scope: str) -> dict[str, Any]:
        client_id, secret = "".join(secrets.choice(_ID_LETTERS) for _ in range(26)), secrets.token_urlsafe(32)
        self._add_client(client_id, secret, name, scope)
        return {"clientName": name, "clientId": client_id, "clientSecret": secret}

    def _add_client(self, client_id: str, secret: str, name: str, scope: str) -> None:
        self._database.run("INSERT INTO client VALUES (:id, :name, :secret, :scope)", id=client_id, name=name, secret=secret, scope=scope)

    def _required(self, kind: str, party: str) -> None:
        if self._database.one(f"SELECT 1 FROM {kind} WHERE id = :id AND deleted_at IS NULL", id=party) is None:  # noqa: S608
            raise Unknown(kind.capitalize())

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


@contextmanager
def _once_per_client() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise Invalid("the client has a subscription to events of this type") from None


def _acquirer_subscription(row: tuple[Any, ...]) -> dict[str, Any]:
    subscription, acquirer, event_type, client_id, queue, fields, in_poll, created_at = row
    shown = {
        "acquirerSubscriptionId": subscription,
        "acquirerId": acquirer,
        "oauthClientId": client_id,
        "eventType": event_type,
        "enrichmentFields": orjson.loads(fields),
        "enrichmentFieldsIncludedInPoll": bool(in_poll),
        "queueName": queue,
        "queueUrl": queue and f"{_QUEUES}{queue}",
        "whenCreated": _shown(created_at),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _supplier_subscription(row: tuple[Any, ...]) -> dict[str, Any]:
    subscription, supplier, event_type, client_id, created_at = row
    return {
        "supplierSubscriptionId": subscription,
        "supplierId": supplier,
        "clientId": client_id,
        "eventType": event_type,
        "whenCreated": _shown(created_at),
    }


def _shown(at: int) -> str:
    return datetime.fromtimestamp(at / 1_000_000, UTC).replace(tzinfo=None).isoformat()

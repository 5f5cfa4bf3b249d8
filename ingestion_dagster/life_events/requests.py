"""What the events platform asks of us: an event's attributes, and that the event be deleted. Each request leaves one row in the audit."""

import logging
import re
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from ingestion_dagster.engine import channels, notifications, outbox, postgres
from ingestion_dagster.engine.alert import Alert, overview_link
from ingestion_dagster.engine.connections import Connections
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events import audit, records
from ingestion_dagster.life_events.audit import EVENT_DELETED, EVENT_ENRICHED, Entry
from ingestion_dagster.life_events.keys import Hasher, Undecipherable, Vault, hasher, vault
from ingestion_dagster.life_events.registry import NOTIFY, PIPELINE, PUBLISH
from ingestion_dagster.life_events.store import EventStore, open_store
from ingestion_dagster.settings import Settings, current

log = logging.getLogger(__name__)

OK, NOT_FOUND, INVALID = "ok", "not_found", "invalid"
UNDECIPHERABLE, NOT_YET, MISCONFIGURED, FAILED = "undecipherable", "not_yet", "misconfigured", "failed"

_COMPONENT = "api"
_RECORD = "record"
"""The part of a payload that is for acquirers' notifications, and is never handed out."""

_ID = re.compile(r"[0-9a-f]{64}")

_STATE = "SELECT state FROM life_events.records WHERE record_key = %(key)s"

# One that somebody is settling at this moment is left to him: he finds the event gone.
_UNPUBLISH = """
    DELETE FROM ledger.outbox
     WHERE id IN (SELECT id FROM ledger.outbox WHERE topic = %(topic)s AND key = %(key)s FOR UPDATE SKIP LOCKED)
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the audit names him: nothing that he has said of himself unchecked."""

    client: str
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Desk:
    """Where requests are answered from: the database, the event store, and the keys of both."""

    connections: Connections
    store: EventStore
    vault: Vault
    hasher: Hasher
    settings: Settings
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @classmethod
    def of(cls, settings: Settings) -> "Desk":
        """What the settings mean. Raises `ConfigurationError` for a database, a store or keys that cannot be used."""
        store, keys, hashes = open_store(settings), vault(settings), hasher(settings)
        return cls(Connections(postgres.ready(settings)), store, keys, hashes, settings)

    def close(self) -> None:
        """Close the connections to the database."""
        self.connections.close()


@dataclass(frozen=True, slots=True)
class Enriched:
    """What is known of an event, as JSON; None: no such event, or none any more."""

    body: bytes | None = field(repr=False)

    @property
    def attributes(self) -> dict[str, Any] | None:
        """The same as an object."""
        return None if self.body is None else dict(orjson.loads(self.body))


@dataclass(frozen=True, slots=True)
class Released:
    """Whether the event was there to be deleted. It is not there now."""

    was_there: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request: the event's record key, and what the audit says of it."""

    key: bytes | None
    entry: Entry

    def ended(self, outcome: str, fields: tuple[str, ...] | None = None, payload_hmac: bytes | None = None) -> Entry:
        return replace(self.entry, outcome=outcome, fields=fields, payload_hmac=payload_hmac)


def enrich(desk: Desk, event_id: str, caller: Caller) -> Enriched:
    """The attributes of an event that is alive, all that the sealed payload holds but the record for acquirers.

    Nothing is handed out that the audit has no row of. Raises `Transient`: `database_unavailable`, `store_unavailable`, `undecipherable`,
    `misconfigured`; the caller may ask again, and must not take it for an event that is not there.
    """
    with _answering(desk, EVENT_ENRICHED, event_id, caller) as asked, desk.connections.borrowed() as connection, connection.transaction():
        attributes = _attributes(desk, connection, asked.key) if asked.key else None
        if attributes is None:
            audit.write(connection, [asked.ended(NOT_FOUND)])
            return Enriched(None)
        body = orjson.dumps(attributes)
        audit.write(connection, [asked.ended(OK, tuple(attributes), desk.hasher.of(body))])
        return Enriched(body)


def release(desk: Desk, event_id: str, caller: Caller) -> Released:
    """Delete an event: from the store, and from what is yet to be published. Repeating it does no harm.

    Raises `Transient` as `enrich` does, and `not_yet` while acquirers are still to be sent what is made of it: the caller asks again.
    """
    with _answering(desk, EVENT_DELETED, event_id, caller) as asked, desk.connections.borrowed() as connection:
        with connection.transaction():
            was_there = _release(desk, connection, asked.key) if asked.key else False
            audit.write(connection, [asked.ended(OK if was_there else NOT_FOUND)])
            fault_point("life_events.release_commit.before")
        fault_point("life_events.release_commit.after")
        return Released(was_there)


def _attributes(desk: Desk, connection: Connection, key: bytes) -> dict[str, Any] | None:
    found = connection.execute(_STATE, {"key": key}).fetchone()
    if found is None or found[0] not in records.ALIVE:
        return None
    sealed = desk.store.get(connection, [key], desk.now()).get(key)
    if sealed is None:
        return None
    try:
        attributes = orjson.loads(desk.vault.open(key, sealed.encryption_key, sealed.payload))
    except orjson.JSONDecodeError:
        raise Undecipherable("an event's payload is no JSON") from None
    return {name: value for name, value in attributes.items() if name != _RECORD}


def _release(desk: Desk, connection: Connection, key: bytes) -> bool:
    """Delete an event in the caller's transaction, which holds its record. False: the ledger has none, or knows it to be deleted."""
    record = records.lock(connection, key)
    if record is None:
        # What the store may hold under this key belongs to a load that has yet to commit.
        return False
    if record.is_alive and _is_outstanding(connection, key):
        raise Transient(NOT_YET, "the event is yet to be sent to an acquirer")
    if record.is_alive or not desk.store.is_transactional:
        # The store first: if that is all that gets done, the ledger still says that something is to be deleted.
        fault_point("life_events.release_store.before")
        desk.store.remove(connection, [key])
        fault_point("life_events.release_store.after")
    if not record.is_alive:
        return False
    records.mark_ended(connection, [key], "released", desk.now())
    connection.execute(_UNPUBLISH, {"topic": PUBLISH, "key": key.hex()})
    return True


def _is_outstanding(connection: Connection, key: bytes) -> bool:
    """Whether a message for an acquirer, which is made of the event, has yet to be sent."""
    return outbox.is_waited_for(connection, outbox.topics(connection, NOTIFY), key.hex())


@contextmanager
def _answering(desk: Desk, event_name: str, event_id: str, caller: Caller) -> Iterator[_Asked]:
    """Answer a request; what fails is told as `Transient`, in the audit, and, if a person has to know, in an alert."""
    key = bytes.fromhex(event_id) if _ID.fullmatch(event_id) else None
    entry = Entry(_COMPONENT, event_name, caller.correlation_id, FAILED, record_key=key, client=caller.client)
    try:
        yield _Asked(key, entry)
    except Transient as error:
        _tell(desk, replace(entry, outcome=error.code))
        raise
    except Undecipherable as error:
        log.error("request %s: %s", caller.correlation_id, error)
        _tell(desk, replace(entry, outcome=UNDECIPHERABLE))
        raise Transient(UNDECIPHERABLE, "the event cannot be opened with the keys that are set") from None
    except ConfigurationError as error:
        log.error("request %s: %s", caller.correlation_id, error)
        _tell(desk, replace(entry, outcome=MISCONFIGURED))
        raise Transient(MISCONFIGURED, "the event store cannot be used as it is set up") from None
    except Exception as error:  # noqa: BLE001 - its text may quote what was being handled
        log.error("request %s: %s at %s", caller.correlation_id, type(error).__name__, _place(error))
        _tell(desk, entry)
        raise Transient(FAILED, "the request was not answered, by our own fault") from None


def _place(error: BaseException) -> str:
    """Where in the code an exception was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def tell_invalid(desk: Desk, event_name: str, caller: Caller) -> None:
    """Enter a request into the audit that asks for nothing that can be understood. A database that is away hinders nobody."""
    _tell(desk, Entry(_COMPONENT, event_name, caller.correlation_id, INVALID, client=caller.client))


def _tell(desk: Desk, entry: Entry) -> None:
    """Enter what was not done into the audit, and alert to it: what kept us from doing it may keep us from telling."""
    try:
        with desk.connections.borrowed() as connection:
            with connection.transaction():
                audit.write(connection, [entry])
            if entry.outcome not in (INVALID, NOT_YET):
                _alert(desk, connection, entry)
    except Transient as error:
        log.error("request %s ended as %s, of which the audit has no row (%s)", entry.correlation_id, entry.outcome, error.code)


def _alert(desk: Desk, connection: Connection, entry: Entry) -> None:
    """Alert to requests that cannot be answered, once an hour for each kind; the watch sensor hands it over."""
    what = "deleted" if entry.event_name == EVENT_DELETED else "enriched"
    hour = f"{desk.now().astimezone(UTC):%Y-%m-%dT%H}"
    alert = Alert(
        key=f"{PIPELINE}:requests:{what}:{entry.outcome}:{hour}",
        environment=desk.settings.environment,
        pipeline=PIPELINE,
        title=f"the platform asks for events to be {what}, and cannot be answered ({entry.outcome})",
        details=("the platform asks again; what is not deleted meanwhile goes when its time is up",),
        link=overview_link(desk.settings),
    )
    try:
        notifications.raise_alert(connection, channels.channels(desk.settings), alert)
    except ConfigurationError as error:
        log.error("an alert could not be raised: %s", error)


def enrich_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """`enrich` as a function that is invoked: `{"id": …}` → `{"statusCode": 200, "payload": {…}}`, 404, 422 without an id, or 500."""
    asked = _read(event, context, EVENT_ENRICHED)
    if isinstance(asked, int):
        return {"statusCode": asked}
    event_id, caller = asked
    try:
        attributes = enrich(_warm(), event_id, caller).attributes
    except (Transient, ConfigurationError) as error:
        log.error("enrichment %s: %s", caller.correlation_id, error)
        return {"statusCode": 500}
    return {"statusCode": 404} if attributes is None else {"statusCode": 200, "payload": attributes}


def delete_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """`release` as a function that is invoked: `{"id": …}` → `{"statusCode": 200 | 404 | 500, "payload": id}`; 422 without an id."""
    asked = _read(event, context, EVENT_DELETED)
    if isinstance(asked, int):
        return {"statusCode": asked, "payload": None}
    event_id, caller = asked
    try:
        status = 200 if release(_warm(), event_id, caller).was_there else 404
    except (Transient, ConfigurationError) as error:
        log.error("deletion %s: %s", caller.correlation_id, error)
        status = 500
    return {"statusCode": status, "payload": event_id}


@cache
def _warm() -> Desk:
    """The desk that the invocations of one process share."""
    return Desk.of(current())


def _read(event: object, context: object, event_name: str) -> tuple[str, Caller] | int:
    """The id that is asked for, and who asks; else the status to answer with."""
    caller = Caller("function", correlation_id(getattr(context, "aws_request_id", None)))
    event_id = event.get("id") if isinstance(event, Mapping) else None
    if isinstance(event_id, str):
        return event_id, caller
    try:
        tell_invalid(_warm(), event_name, caller)
    except ConfigurationError as error:
        log.error("request %s: %s", caller.correlation_id, error)
        return 500
    return 422


def correlation_id(given: object) -> str:
    """What the caller calls his request, if that is a UUID, in its usual form; else a new one."""
    try:
        return str(uuid.UUID(given)) if isinstance(given, str) else str(uuid.uuid4())
    except ValueError:
        return str(uuid.uuid4())

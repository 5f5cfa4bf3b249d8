"""What life events lets go of in time: events that nobody asked to delete, refused files, ledger rows, audit rows; and how it stands."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ingestion_dagster.engine import ledger, outbox
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import ObjectStore, open_store
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import audit, records
from ingestion_dagster.life_events import upkeep_sql as sql
from ingestion_dagster.life_events.audit import Entry
from ingestion_dagster.life_events.places import quarantine_key
from ingestion_dagster.life_events.registry import EVENT_EXPIRED, NOTIFY, PIPELINE, PUBLISH
from ingestion_dagster.life_events.store import EventStore
from ingestion_dagster.life_events.topics import topics
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

EXPIRED = "expired"
"""The state of a record, and the outcome in the audit, of what was deleted unasked."""

EXPIRED_UNPUBLISHED = "expired_unpublished"
"""The outcome in the audit of what was deleted before the platform was told."""

LONGEST_TTL = timedelta(days=14)
"""No event is kept for longer, whatever the settings say."""

_COMPONENT = "sweep"
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows were let go of: of the record ledger, of the audit, and of what is told of files and their bad records."""

    records: int
    audit: int
    quarantine: int


def sweep(database: Database, store: EventStore, now: datetime, correlation_id: str, *, ttl: timedelta = LONGEST_TTL) -> int:
    """Delete the events whose time is up, and what is still to be told of them. Returns how many there were.

    In the ledger they are `expired` before they leave a store that is not in its database: killed in between, the next sweep finds them in
    the store again. An event that has come again meanwhile stays. Records older than `ttl` end as `expired` too, whatever their events
    were given when they were stored, and though a store with an expiry of its own has deleted them. A message that nobody was told by
    then is dead (`event_expired`). Raises as the store does; what is done by then stays.
    """
    with database.connect() as connection:
        return _sweep_store(connection, store, now, correlation_id) + _sweep_ledger(connection, store, now, correlation_id, now - ttl)


def _sweep_store(connection: Connection, store: EventStore, now: datetime, correlation_id: str) -> int:
    """Delete what the store says has expired."""
    swept = 0
    while keys := store.expired(connection, now, _BATCH):
        with connection.transaction():
            locked = connection.execute(sql.LOCK_ALIVE, {"keys": keys}).fetchall()
            ended = _end(connection, store, [row[0] for row in locked], now, correlation_id)
            removed = store.remove(connection, keys, expired_by=now) if store.is_transactional else frozenset()
            fault_point("life_events.sweep.within")
        if not store.is_transactional:
            fault_point("life_events.sweep.before")
            removed = store.remove(connection, keys, expired_by=now)
            fault_point("life_events.sweep.after")
        swept += len(removed.union(ended))
        if not removed and not ended:  # others are at it
            break
    return swept


def _sweep_ledger(connection: Connection, store: EventStore, now: datetime, correlation_id: str, before: datetime) -> int:
    """End the records that should have been swept by now, by their age alone."""
    swept = 0
    last: tuple[datetime, bytes] | None = None
    while True:
        after_at, after_key = last or (None, None)
        parameters = {"before": before, "after_at": after_at, "after_key": after_key, "count": _BATCH}
        with connection.transaction():
            overdue = connection.execute(sql.LOCK_OVERDUE, parameters).fetchall()
            if not overdue:
                return swept
            keys = [row[1] for row in overdue]
            # Before the commit, whatever store it is: nobody can bring one of these back while their rows are ours.
            store.remove(connection, keys)
            swept += len(_end(connection, store, keys, now, correlation_id))
        last = max(overdue)


def _end(connection: Connection, store: EventStore, locked: Sequence[bytes], now: datetime, correlation_id: str) -> list[bytes]:
    """End those of these records, whose rows are ours, of which the store has no event that lives."""
    lives = store.get(connection, locked, now) if locked else {}
    ended = records.mark_ended(connection, [key for key in locked if key not in lives], EXPIRED, now)
    if ended:
        untold = outbox.bury(connection, topics(connection), EVENT_EXPIRED, [key.hex() for key in ended])
        unpublished = {bytes.fromhex(key) for topic, key in untold if topic == PUBLISH}
        outcomes = ((key, EXPIRED_UNPUBLISHED if key in unpublished else EXPIRED) for key in ended)
        audit.write(
            connection, [Entry(_COMPONENT, audit.EVENT_DELETED, correlation_id, outcome, record_key=key) for key, outcome in outcomes]
        )
    return ended


def forget(connection: Connection, settings: Settings, now: datetime) -> Forgotten:
    """Let go of ledger rows of records that have ended and not come again, of what is told of files, and of audit rows, by their age."""
    known = {"before": now - timedelta(days=settings.life_events_ledger_days), "pipeline": PIPELINE}
    told = {"before": now - timedelta(days=settings.life_events_audit_days)}
    with connection.transaction():
        forgotten = connection.execute(sql.FORGET_RECORDS, known).rowcount
        bad = connection.execute(sql.FORGET_BAD_RECORDS, known).rowcount
        bad += connection.execute(sql.FORGET_FILES, known).rowcount
        connection.execute(sql.FORGET_MESSAGES, known | {"code": EVENT_EXPIRED})
    # By itself: whoever loads holds the keys, and waits for records.
    connection.execute(sql.FORGET_KEYS)
    with connection.transaction():
        connection.execute("SELECT set_config('life_events.forgetting', 'on', true)")
        entries = connection.execute(sql.FORGET_AUDIT, told).rowcount
        # The caller's transaction, if there is one, goes on without the permission.
        connection.execute("SELECT set_config('life_events.forgetting', 'off', true)")
    return Forgotten(forgotten, entries, bad)


def expire_quarantine(connection: Connection, settings: Settings, now: datetime) -> int:
    """Delete the refused files that have been in quarantine for long enough, and their reports. Returns how many files.

    Each is a transaction of its own, in which its load is held: one that is retried meanwhile is left alone, one that is deleted cannot be.
    Killed anywhere, the same call goes on. One whose store does not answer is left to the next call, and does not hold up the others.
    """
    expired = 0
    parameters = {"pipeline": PIPELINE, "before": now - timedelta(days=settings.life_events_quarantine_days)}
    for (load_id,) in connection.execute(sql.QUARANTINED, parameters).fetchall():
        try:
            with connection.transaction():
                expired += _expire_file(connection, load_id, parameters, now)
        except (Transient, ConfigurationError) as error:
            log.warning("load_id=%s error=%s: its file stays in quarantine for now", load_id, type(error).__name__)
    return expired


def _expire_file(connection: Connection, load_id: int, parameters: Mapping[str, Any], now: datetime) -> bool:
    """Delete one refused file, in the caller's transaction. False: there was none to delete."""
    held = connection.execute(sql.HOLD_QUARANTINED, {**parameters, "load": load_id}).fetchone()
    if held is None:
        return False
    (load,) = ledger.loads(connection, [load_id])
    if load.location is not None:
        if not _delete_quarantined(load, load.location):
            return False
        audit.write(connection, [Entry(_COMPONENT, audit.FILE_DELETED, f"load-{load_id}", EXPIRED, file_hmac=held[0])])
    connection.execute(sql.FILE_EXPIRED, {"load": load_id, "now": now})
    return load.location is not None


def _delete_quarantined(load: Load, location: str) -> bool:
    """Delete a refused file and its report, every version of them. False: it is nowhere that its key leads to, and is left there."""
    key = quarantine_key(load)
    if not location.endswith(f"/{key}"):
        log.warning("load_id=%s: its file is not where the quarantine keeps such a key; it is left there", load.id)
        return False
    # Not the store of today's settings: the file may have been moved under earlier ones.
    store = open_store(location.removesuffix(f"/{key}"))
    fault_point("life_events.expire.before")
    _delete(store, key)
    fault_point("life_events.expire.within")
    _delete(store, f"{key}.report.json")
    fault_point("life_events.expire.after")
    return True


def _delete(store: ObjectStore, key: str) -> None:
    # In a bucket with versioning, deleting the newest version brings the one before it to light.
    while (found := store.find(key)) is not None:
        store.remove(found)


def metrics(
    connection: Connection, store: EventStore, now: datetime, *, older_than: timedelta = timedelta(days=7)
) -> dict[str, float | None]:
    """How life events stand: numbers, ages in seconds; None where there is nothing to measure. Of a store outside it reads every event.

    `released_…_seconds` are the times from storing to deletion of the events that were released in the last day.
    """
    row = connection.execute(sql.STANDING, {"now": now, "publish": PUBLISH, "notify": NOTIFY, "pipeline": PIPELINE}).fetchone()
    assert row is not None
    older, oldest = store.age(connection, now - older_than)
    names = (
        "events_alive",
        "events_unconsumed",
        "oldest_unconsumed_seconds",
        "events_unpublished",
        "oldest_unpublished_seconds",
        "dead_letters",
        "quarantine_files",
        "released_p50_seconds",
        "released_p95_seconds",
        "released_p99_seconds",
    )
    found: dict[str, float | None] = dict(zip(names, row, strict=True))
    return found | {
        "events_older": older,
        "events_older_than_seconds": older_than.total_seconds(),
        "oldest_event_seconds": (now - oldest).total_seconds() if oldest is not None else None,
    }

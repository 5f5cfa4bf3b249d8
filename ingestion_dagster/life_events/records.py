"""The record ledger: one row per record there has been, without anything of a person, and how far its event has come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ingestion_dagster.engine.postgres import Connection

ALIVE = ("pending", "published", "dead")
"""States of records whose events are in the store."""

# Everybody locks records by their keys, in that order: two who mean some of the same wait for each other, and do not deadlock.
_LOCK_ALL = """
    SELECT FROM life_events.records WHERE record_key = ANY(%(keys)s) ORDER BY record_key FOR UPDATE
"""

_PUBLISHED = """
    UPDATE life_events.records
       SET state = 'published', code = NULL, published_at = coalesce(published_at, %(at)s)
     WHERE record_key = ANY(%(keys)s) AND state IN ('pending', 'dead')
"""

_DEAD = """
    UPDATE life_events.records AS record
       SET state = 'dead', code = given.code
      FROM unnest(%(keys)s::bytea[], %(codes)s::text[]) AS given (record_key, code)
     WHERE record.record_key = given.record_key AND record.state = 'pending'
"""

_ENDED = """
    UPDATE life_events.records
       SET state = %(state)s, ended_at = %(at)s
     WHERE record_key = ANY(%(keys)s) AND state IN ('pending', 'published', 'dead')
    RETURNING record_key
"""

_LOCKED = """
    SELECT record_key, state, load_id, stored_at, published_at, ended_at
      FROM life_events.records
     WHERE record_key = %(key)s
       FOR UPDATE
"""


@dataclass(frozen=True, slots=True)
class Record:
    """What the ledger knows of a record."""

    record_key: bytes
    state: str
    load_id: int
    stored_at: datetime
    published_at: datetime | None
    ended_at: datetime | None

    @property
    def is_alive(self) -> bool:
        """Whether its event should be in the store."""
        return self.state in ALIVE


def lock_all(connection: Connection, keys: Sequence[bytes]) -> None:
    """Hold these records until the caller's transaction ends: for one who is to mark some of them this way, and some another."""
    connection.execute(_LOCK_ALL, {"keys": sorted(keys)})


def mark_published(connection: Connection, keys: Sequence[bytes], at: datetime) -> None:
    """The platform has taken these events, in the caller's transaction. Those that have been deleted since stay deleted."""
    lock_all(connection, keys)
    connection.execute(_PUBLISHED, {"keys": sorted(keys), "at": at})


def mark_dead(connection: Connection, codes: Mapping[bytes, str]) -> None:
    """The platform will not take these events, each for a reason by its code."""
    lock_all(connection, list(codes))
    connection.execute(_DEAD, {"keys": list(codes), "codes": list(codes.values())})


def lock(connection: Connection, key: bytes) -> Record | None:
    """The record of this key, ours until the caller's transaction ends; None if there is none."""
    row = connection.execute(_LOCKED, {"key": key}).fetchone()
    return Record(*row) if row else None


def mark_ended(connection: Connection, keys: Sequence[bytes], state: str, at: datetime) -> list[bytes]:
    """The events of these records are deleted: `released` on request, or `expired`. Returns the keys of those that were alive."""
    lock_all(connection, keys)
    return [row[0] for row in connection.execute(_ENDED, {"keys": sorted(keys), "state": state, "at": at})]

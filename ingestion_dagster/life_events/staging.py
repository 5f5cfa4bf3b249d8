"""Staging: accepted records enter the ledger, the event store, the outbox and the audit together, a chunk in a transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from ingestion_dagster.engine import outbox
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.keys import Hasher, Vault
from ingestion_dagster.life_events.records import ALIVE
from ingestion_dagster.life_events.registry import PUBLISH
from ingestion_dagster.life_events.spool import Accepted
from ingestion_dagster.life_events.store import EventStore, Sealed

_CHUNK = """
    CREATE TEMPORARY TABLE IF NOT EXISTS life_events_chunk (
        ordinal bigint NOT NULL, record_key bytea NOT NULL, hmac_key text NOT NULL
    ) ON COMMIT DELETE ROWS
"""

_COPY = "COPY life_events_chunk (ordinal, record_key, hmac_key) FROM STDIN (FORMAT binary)"

_KNOWN_UNDER_OLDER_KEYS = """
    SELECT record_key, hmac_key FROM life_events.records WHERE record_key = ANY(%(keys)s)
"""

_ENTER = """
    INSERT INTO life_events.records AS known (record_key, hmac_key, load_id, ordinal, stored_at, seen_at)
    SELECT record_key, hmac_key, %(load)s, ordinal, %(now)s, %(now)s
      FROM (SELECT DISTINCT ON (record_key) ordinal, record_key, hmac_key
              FROM life_events_chunk
             ORDER BY record_key, ordinal) AS first
     ORDER BY record_key
    ON CONFLICT (record_key) DO UPDATE SET seen_at = excluded.seen_at
    RETURNING record_key, state, xmax = 0
"""

_REVIVE = """
    UPDATE life_events.records AS record
       SET state = CASE WHEN record.published_at IS NULL THEN 'pending' ELSE 'published' END, code = NULL,
           load_id = %(load)s, ordinal = given.ordinal, stored_at = %(now)s, ended_at = NULL
      FROM unnest(%(keys)s::bytea[], %(ordinals)s::bigint[]) AS given (record_key, ordinal)
     WHERE record.record_key = given.record_key
    RETURNING record.record_key, record.state
"""

_AUDIT = """
    INSERT INTO life_events.audit (component, event_name, correlation_id, file_hmac, record_key, outcome)
    SELECT 'load', 'RECORD_STAGED', %(correlation)s, %(file)s, record_key, 'ok'
      FROM unnest(%(keys)s::bytea[]) WITH ORDINALITY AS given (record_key, position)
     ORDER BY position
"""

_ENDED = """
    SELECT record_key FROM life_events.records
     WHERE record_key = ANY(%(keys)s) AND state IN ('released', 'expired')
     ORDER BY record_key
       FOR UPDATE
"""

_ACCEPTED = "SELECT count(*) FROM life_events.records WHERE load_id = %(load)s"


@dataclass(frozen=True, slots=True)
class Staging:
    """Where a file's records go, and by what they are known there."""

    store: EventStore
    hasher: Hasher
    vault: Vault
    ttl: timedelta
    topics: tuple[str, ...] = (PUBLISH,)
    """Topics of the outbox that a new event is due under."""

    def enter(
        self, connection: Connection, chunk: Sequence[Accepted], *, load_id: int, file_hmac: bytes, correlation_id: str, now: datetime
    ) -> int:
        """Enter a chunk in the caller's transaction; how many of its records are new.

        A record that is known, from this file or another, from this attempt or an earlier one, only counts as seen again, unless its event
        is gone and nobody has asked for that: then it is as good as new.
        """
        known_as = self._known_under_older_keys(connection, chunk)
        connection.execute(_CHUNK)
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(("int8", "bytea", "text"))
            for each in chunk:
                copy.write_row((each.ordinal, *known_as.get(each.record_key, (each.record_key, self.hasher.current.id))))
        first: dict[bytes, Accepted] = {}
        for each in chunk:
            first.setdefault(known_as.get(each.record_key, (each.record_key, ""))[0], each)
        of_load = {"load": load_id, "now": now}
        entered = connection.execute(_ENTER, of_load).fetchall()
        new = [key for key, _, is_new in entered if is_new]
        revived = self._revived(connection, {key: state for key, state, is_new in entered if not is_new}, first, of_load)
        fresh = sorted({*new, *revived}, key=lambda key: first[key].ordinal)
        if fresh:
            self.store.put(connection, [self._sealed(key, first[key], now) for key in fresh])
            self._queue(connection, load_id, new, revived, first)
            connection.execute(_AUDIT, {"correlation": correlation_id, "file": file_hmac, "keys": fresh})
        connection.execute("TRUNCATE life_events_chunk")
        return len(fresh)

    def _revived(
        self, connection: Connection, known: Mapping[bytes, str], first: Mapping[bytes, Accepted], of_load: Mapping[str, Any]
    ) -> dict[bytes, str]:
        """Bring back the known records whose events are gone though nobody has asked for that; by key, their states from now on."""
        alive = [key for key, state in known.items() if state in ALIVE]
        there = self.store.get(connection, alive, of_load["now"]) if alive else {}
        gone = sorted(key for key, state in known.items() if state == "expired" or (state in ALIVE and key not in there))
        if not gone:
            return {}
        parameters = {**of_load, "keys": gone, "ordinals": [first[key].ordinal for key in gone]}
        return dict(connection.execute(_REVIVE, parameters).fetchall())

    def _queue(
        self, connection: Connection, load_id: int, new: Sequence[bytes], revived: Mapping[bytes, str], first: Mapping[bytes, Accepted]
    ) -> None:
        """Put new events into the outbox, for everybody; revived ones for those whom nobody has told of them in time."""
        in_order = [key.hex() for key in sorted(new, key=lambda key: first[key].ordinal)]
        for topic in self.topics:
            outbox.put(connection, topic, in_order, load_id)
            if revived:
                outbox.retry(connection, topic, [key.hex() for key in revived])
        if unpublished := [key.hex() for key, state in revived.items() if state == "pending"]:
            outbox.put(connection, PUBLISH, unpublished, load_id)

    def take_back(self, connection: Connection, chunk: Sequence[Accepted]) -> None:
        """Take out of a store outside the database what a transaction that was lost has put there after everybody was done with it.

        That is what a run may do that has slept, and not noticed that another has taken over.
        """
        keys = [key for each in chunk for key in (each.record_key, *each.older)]
        with connection.transaction():
            ended = [row[0] for row in connection.execute(_ENDED, {"keys": keys})]
            if ended:
                self.store.remove(connection, ended)

    def accepted(self, connection: Connection, load_id: int) -> int:
        """How many records a file has brought, in all attempts."""
        row = connection.execute(_ACCEPTED, {"load": load_id}).fetchone()
        return int(row[0]) if row else 0

    def _known_under_older_keys(self, connection: Connection, chunk: Sequence[Accepted]) -> dict[bytes, tuple[bytes, str]]:
        """Records that came before the keys were rotated: by record key under the current key, the one that each goes by."""
        current = {older: each.record_key for each in chunk for older in each.older}
        if not current:
            return {}
        found = connection.execute(_KNOWN_UNDER_OLDER_KEYS, {"keys": sorted(current)}).fetchall()
        return {current[key]: (key, hmac_key) for key, hmac_key in found}

    def _sealed(self, record_key: bytes, each: Accepted, now: datetime) -> Sealed:
        payload = each.payload
        if record_key != each.record_key:
            # An expired event that comes again: to the platform it is the one it knows.
            content = orjson.loads(self.vault.open(each.record_key, self.vault.current.id, payload))
            payload = self.vault.seal(record_key, orjson.dumps(content | {"hash": record_key.hex()}))
        return Sealed(record_key, self.vault.current.id, payload, now, now + self.ttl)

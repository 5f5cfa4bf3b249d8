"""Staging: accepted records enter the ledger, the event store, the outbox and the audit together, a chunk in a transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.keys import Hasher, Vault
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
    WITH first AS (
        SELECT DISTINCT ON (record_key) ordinal, record_key, hmac_key
          FROM life_events_chunk
         ORDER BY record_key, ordinal
    ), entered AS (
        INSERT INTO life_events.records AS known (record_key, hmac_key, load_id, ordinal, stored_at, seen_at)
        SELECT record_key, hmac_key, %(load)s, ordinal, %(now)s, %(now)s
          FROM first
         ORDER BY record_key
        ON CONFLICT (record_key) DO UPDATE
           SET seen_at    = excluded.seen_at,
               deliveries = known.deliveries
                            + CASE WHEN known.load_id = excluded.load_id AND known.ordinal = excluded.ordinal THEN 0 ELSE 1 END,
               load_id    = CASE known.state WHEN 'expired' THEN excluded.load_id ELSE known.load_id END,
               ordinal    = CASE known.state WHEN 'expired' THEN excluded.ordinal ELSE known.ordinal END,
               stored_at  = CASE known.state WHEN 'expired' THEN excluded.stored_at ELSE known.stored_at END,
               ended_at   = CASE known.state WHEN 'expired' THEN NULL ELSE known.ended_at END,
               state      = CASE WHEN known.state <> 'expired' THEN known.state
                                 WHEN known.published_at IS NULL THEN 'pending'
                                 ELSE 'published' END
        RETURNING record_key, state, load_id, ordinal, stored_at
    ), fresh AS (
        SELECT record_key, state, ordinal FROM entered WHERE stored_at = %(now)s AND load_id = %(load)s
    ), queued AS (
        INSERT INTO ledger.outbox (topic, key, load_id)
        SELECT topic, encode(record_key, 'hex'), %(load)s
          FROM fresh CROSS JOIN unnest(%(topics)s::text[]) AS topic
         WHERE state = 'pending'
         ORDER BY ordinal
        ON CONFLICT (topic, key) DO NOTHING
    ), audited AS (
        INSERT INTO life_events.audit (component, event_name, correlation_id, file_hmac, record_key, outcome)
        SELECT 'load', 'RECORD_STAGED', %(correlation)s, %(file)s, record_key, 'ok' FROM fresh ORDER BY ordinal
    )
    SELECT record_key, ordinal FROM fresh
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
        has expired: then it is as good as new. No two chunks may have the same `now`.
        """
        known_as = self._known_under_older_keys(connection, chunk)
        connection.execute(_CHUNK)
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(("int8", "bytea", "text"))
            for each in chunk:
                copy.write_row((each.ordinal, *known_as.get(each.record_key, (each.record_key, self.hasher.current.id))))
        parameters = {
            "load": load_id,
            "now": now,
            "topics": list(self.topics),
            "correlation": correlation_id,
            "file": file_hmac,
        }
        fresh: dict[bytes, int] = dict(connection.execute(_ENTER, parameters).fetchall())
        if fresh:
            self.store.put(connection, [self._sealed(each, known_as, now) for each in chunk if self._is_fresh(each, known_as, fresh)])
        connection.execute("TRUNCATE life_events_chunk")
        return len(fresh)

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

    def _is_fresh(self, each: Accepted, known_as: dict[bytes, tuple[bytes, str]], fresh: dict[bytes, int]) -> bool:
        key, _ = known_as.get(each.record_key, (each.record_key, ""))
        return fresh.get(key) == each.ordinal

    def _sealed(self, each: Accepted, known_as: dict[bytes, tuple[bytes, str]], now: datetime) -> Sealed:
        record_key, payload = each.record_key, each.payload
        if each.record_key in known_as:
            # An expired event that comes again: to the platform it is the one it knows.
            record_key, _ = known_as[each.record_key]
            content = orjson.loads(self.vault.open(each.record_key, self.vault.current.id, payload))
            payload = self.vault.seal(record_key, orjson.dumps(content | {"hash": record_key.hex()}))
        return Sealed(record_key, self.vault.current.id, payload, now, now + self.ttl)

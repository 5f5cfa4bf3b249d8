"""The event store in the database of the ledger: it takes part in the caller's transaction."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.store import EventStore, Sealed

# Rows are locked in the order of their keys, by every statement that takes several, so that none waits for another in a circle.

_INCOMING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS life_events_incoming (
        record_key bytea NOT NULL, encryption_key text NOT NULL, payload bytea NOT NULL,
        stored_at timestamptz NOT NULL, expires_at timestamptz NOT NULL
    ) ON COMMIT DELETE ROWS
"""

_COPY = """
    COPY life_events_incoming (record_key, encryption_key, payload, stored_at, expires_at) FROM STDIN (FORMAT binary)
"""
_TYPES = ("bytea", "text", "bytea", "timestamptz", "timestamptz")

_PUT = """
    INSERT INTO life_events.events AS known (record_key, encryption_key, payload, stored_at, expires_at)
    SELECT record_key, encryption_key, payload, stored_at, expires_at
      FROM life_events_incoming
     ORDER BY record_key
    ON CONFLICT (record_key) DO UPDATE
       SET encryption_key = excluded.encryption_key, payload = excluded.payload,
           stored_at = excluded.stored_at, expires_at = excluded.expires_at
     WHERE known.stored_at < excluded.stored_at
"""

_GET = """
    SELECT record_key, encryption_key, payload, stored_at, expires_at
      FROM life_events.events
     WHERE record_key = ANY(%(keys)s) AND expires_at > %(now)s
"""

_REMOVE = """
    WITH meant AS (
        SELECT record_key
          FROM life_events.events
         WHERE record_key = ANY(%(keys)s) AND (%(by)s::timestamptz IS NULL OR expires_at <= %(by)s::timestamptz)
         ORDER BY record_key
           FOR UPDATE
    )
    DELETE FROM life_events.events AS event USING meant WHERE event.record_key = meant.record_key
    RETURNING event.record_key
"""

_EXPIRED = """
    SELECT record_key FROM life_events.events WHERE expires_at <= %(now)s ORDER BY expires_at LIMIT %(count)s
"""

_UNDER_OTHER_KEYS = """
    SELECT record_key, encryption_key, payload, stored_at, expires_at
      FROM life_events.events
     WHERE encryption_key <> %(current)s AND record_key > %(last)s
     ORDER BY record_key
     LIMIT %(count)s
"""

_LOCK = """
    SELECT FROM life_events.events WHERE record_key = ANY(%(keys)s) ORDER BY record_key FOR UPDATE
"""

_RESEAL = """
    UPDATE life_events.events AS event
       SET encryption_key = change.to_key, payload = change.payload
      FROM unnest(%(keys)s::bytea[], %(had_keys)s::text[], %(had)s::bytea[], %(to_keys)s::text[], %(to)s::bytea[])
           AS change (record_key, had_key, had, to_key, payload)
     WHERE event.record_key = change.record_key AND event.encryption_key = change.had_key AND event.payload = change.had
    RETURNING event.record_key
"""

_AGE = """
    SELECT count(*) FILTER (WHERE stored_at < %(since)s), min(stored_at) FROM life_events.events
"""


class PostgresStore(EventStore):
    """Table `life_events.events`."""

    is_transactional = True

    def put(self, connection: Connection, events: Sequence[Sealed]) -> None:
        """See EventStore."""
        first = {event.record_key: event for event in reversed(events)}
        if not first:
            return
        with connection.transaction():
            connection.execute(_INCOMING)
            with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(_TYPES)
                for event in first.values():
                    copy.write_row((event.record_key, event.encryption_key, event.payload, event.stored_at, event.expires_at))
            connection.execute(_PUT)
            connection.execute("TRUNCATE life_events_incoming")

    def get(self, connection: Connection, record_keys: Sequence[bytes], now: datetime) -> dict[bytes, Sealed]:
        """See EventStore."""
        rows = connection.execute(_GET, {"keys": list(record_keys), "now": now}, binary=True)
        return {row[0]: Sealed(*row) for row in rows}

    def remove(self, connection: Connection, record_keys: Sequence[bytes], *, expired_by: datetime | None = None) -> frozenset[bytes]:
        """See EventStore."""
        return frozenset(row[0] for row in connection.execute(_REMOVE, {"keys": list(record_keys), "by": expired_by}))

    def expired(self, connection: Connection, now: datetime, count: int) -> list[bytes]:
        """See EventStore. Those that expired first come first."""
        return [row[0] for row in connection.execute(_EXPIRED, {"now": now, "count": count})]

    def under_other_keys(self, connection: Connection, current: str, count: int) -> Iterator[list[Sealed]]:
        """See EventStore. In the order of their record keys."""
        last = b""
        while page := [
            Sealed(*row)
            for row in connection.execute(_UNDER_OTHER_KEYS, {"current": current, "last": last, "count": count}, binary=True).fetchall()
        ]:
            yield page
            last = page[-1].record_key

    def reseal(self, connection: Connection, changes: Sequence[tuple[Sealed, Sealed]]) -> frozenset[bytes]:
        """See EventStore."""
        parameters = {
            "keys": [before.record_key for before, _ in changes],
            "had_keys": [before.encryption_key for before, _ in changes],
            "had": [before.payload for before, _ in changes],
            "to_keys": [after.encryption_key for _, after in changes],
            "to": [after.payload for _, after in changes],
        }
        with connection.transaction():
            connection.execute(_LOCK, {"keys": parameters["keys"]})
            return frozenset(row[0] for row in connection.execute(_RESEAL, parameters))

    def age(self, connection: Connection, since: datetime) -> tuple[int, datetime | None]:
        """See EventStore."""
        row = connection.execute(_AGE, {"since": since}).fetchone()
        assert row is not None
        return int(row[0]), row[1]

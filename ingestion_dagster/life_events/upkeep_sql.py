"""The statements of upkeep."""

LOCK_ALIVE = """
    SELECT record_key
      FROM life_events.records
     WHERE record_key = ANY(%(keys)s) AND state IN ('pending', 'published', 'dead')
     ORDER BY record_key
       FOR UPDATE
"""

# Whoever holds one of these at the moment decides about it himself.
LOCK_OVERDUE = """
    SELECT stored_at, record_key
      FROM life_events.records
     WHERE state IN ('pending', 'published', 'dead') AND stored_at < %(before)s
       AND (%(after_at)s::timestamptz IS NULL OR (stored_at, record_key) > (%(after_at)s::timestamptz, %(after_key)s::bytea))
     ORDER BY stored_at, record_key
     LIMIT %(count)s
       FOR UPDATE SKIP LOCKED
"""

FORGET_RECORDS = """
    DELETE FROM life_events.records
     WHERE state IN ('released', 'expired') AND seen_at < %(before)s AND ended_at < %(before)s
"""

# A key that nothing is known by need not be looked for any more; the newest one stays.
FORGET_KEYS = """
    DELETE FROM life_events.hmac_keys AS key
     WHERE position < (SELECT max(position) FROM life_events.hmac_keys)
       AND NOT EXISTS (SELECT FROM life_events.records WHERE hmac_key = key.id)
"""

FORGET_MESSAGES = """
    DELETE FROM ledger.outbox WHERE code = %(code)s AND dead_at < %(before)s
"""

FORGET_BAD_RECORDS = """
    DELETE FROM life_events.quarantine WHERE at < %(before)s
"""

# What was refused stays known: the row says whether its file is deleted.
FORGET_FILES = """
    DELETE FROM life_events.files AS file
     USING ledger.loads AS load
     WHERE load.id = file.load_id AND load.status = 'archived' AND load.finished_at < %(before)s
"""

FORGET_AUDIT = """
    DELETE FROM life_events.audit WHERE at < %(before)s
"""

_IN_QUARANTINE = """
    load.pipeline = %(pipeline)s AND load.status = 'errored'
    AND NOT EXISTS (SELECT FROM life_events.files AS file WHERE file.load_id = load.id AND file.expired_at >= load.finished_at)
"""

QUARANTINED = f"""
    SELECT load.id
      FROM ledger.loads AS load
     WHERE {_IN_QUARANTINE} AND load.finished_at < %(before)s
     ORDER BY load.finished_at, load.id
"""  # noqa: S608 - a fragment of our own

HOLD_QUARANTINED = f"""
    SELECT (SELECT file.file_hmac FROM life_events.files AS file WHERE file.load_id = load.id)
      FROM ledger.loads AS load
     WHERE load.id = %(load)s AND {_IN_QUARANTINE} AND load.finished_at < %(before)s
       FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - a fragment of our own

FILE_EXPIRED = """
    INSERT INTO life_events.files (load_id, code, expired_at)
    SELECT id, coalesce(error_code, 'refused'), %(now)s FROM ledger.loads WHERE id = %(load)s
    ON CONFLICT (load_id) DO UPDATE SET expired_at = excluded.expired_at
"""

STANDING = f"""
    WITH alive AS (
        SELECT count(*) AS number, count(*) FILTER (WHERE state = 'published') AS unconsumed,
               min(published_at) FILTER (WHERE state = 'published') AS unconsumed_since
          FROM life_events.records
         WHERE state IN ('pending', 'published', 'dead')
    ), due AS (
        SELECT count(*) FILTER (WHERE dead_at IS NULL AND topic = %(publish)s) AS number,
               min(created_at) FILTER (WHERE dead_at IS NULL AND topic = %(publish)s) AS since,
               count(*) FILTER (WHERE dead_at IS NOT NULL) AS dead
          FROM ledger.outbox
         WHERE topic = %(publish)s OR starts_with(topic, %(notify)s)
    ), released AS (
        SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - stored_at)::float8) AS seconds
          FROM life_events.records
         WHERE state = 'released' AND ended_at > %(now)s::timestamptz - interval '1 day'
    )
    SELECT alive.number, alive.unconsumed, extract(epoch FROM %(now)s::timestamptz - alive.unconsumed_since)::float8,
           due.number, extract(epoch FROM %(now)s::timestamptz - due.since)::float8, due.dead,
           (SELECT count(*) FROM ledger.loads AS load WHERE {_IN_QUARANTINE} AND load.location IS NOT NULL),
           released.seconds[1], released.seconds[2], released.seconds[3]
      FROM alive, due, released
"""  # noqa: S608 - a fragment of our own

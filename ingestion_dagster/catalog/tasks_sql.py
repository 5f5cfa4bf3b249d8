"""The statements of tasks."""

_COLUMNS = """
t.id, t.model, t.action, t.request, t.asked_by, t.state, t.run_id, t.progress, t.error, t.is_bad_request,
t.created_at, t.started_at, t.finished_at, t.called_back_at, t.callback_outcome
"""

# The lock of a task is named by the first 64 bits of its id.
_KEY = "('x' || left({id}, 16))::bit(64)::bigint"

SELECT = f"""
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS key
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT {_COLUMNS},
       {_KEY.format(id="t.id")} IN (SELECT key FROM held) AS is_held,
       t.state = 'started' AND t.run_id IS NOT NULL AND EXISTS (
           SELECT FROM ledger.loads AS l
           WHERE l.pipeline = 'catalog' AND l.status = 'ingesting' AND l.run_id = t.run_id AND l.lease_until > clock_timestamp()
       ) AS is_run,
       t.state = 'started' AND EXISTS (
           SELECT FROM catalog.ranges AS r JOIN ledger.loads AS l ON l.id = r.load_id
           WHERE r.model = t.model AND r.suffix = t.request ->> 'fills' AND l.status = 'ingesting' AND l.lease_until > clock_timestamp()
       ) AS is_filled
FROM catalog.tasks AS t
"""  # noqa: S608 - of our own parts

BY_ID = SELECT + "WHERE t.id = %(id)s"
BY_KEY = SELECT + "WHERE t.idempotency_key = %(key)s"
ALL = SELECT + "ORDER BY t.finished_at NULLS FIRST, t.created_at, t.id"
OPEN_OF_MODEL = SELECT + "WHERE t.model = %(model)s AND t.state IN ('queued', 'started') ORDER BY t.created_at"
FILLING = (
    SELECT
    + """WHERE t.model = %(model)s AND t.state IN ('queued', 'started') AND t.action IN ('REINDEX', 'CREATE_AND_POPULATE_FILTERED_INDEX')
ORDER BY t.created_at"""
)
STARTED = SELECT + "WHERE t.state = 'started' ORDER BY t.created_at"

ENTER = """
INSERT INTO catalog.tasks (id, model, action, request, idempotency_key, asked_by)
VALUES (%(id)s, %(model)s, %(action)s, %(request)s::jsonb, %(key)s, %(asked_by)s)
"""

MODEL_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('catalog.tasks.' || %(model)s, 0))"

TRY_LOCK = f"SELECT pg_try_advisory_lock({_KEY.format(id='%(id)s')})"
UNLOCK = f"SELECT pg_advisory_unlock({_KEY.format(id='%(id)s')})"

START = """
UPDATE catalog.tasks SET state = 'started', started_at = clock_timestamp() WHERE id = %(id)s AND state = 'queued' RETURNING id
"""

RUN = "UPDATE catalog.tasks SET run_id = %(run_id)s WHERE id = %(id)s AND state = 'started'"

END = """
UPDATE catalog.tasks
SET state = %(state)s, error = %(error)s, is_bad_request = %(is_bad_request)s, finished_at = clock_timestamp(),
    progress = CASE WHEN %(state)s = 'succeeded' THEN 100 ELSE least(progress, 99) END
WHERE id = %(id)s AND state IN ('queued', 'started')
RETURNING id
"""

QUEUED = "SELECT id FROM catalog.tasks WHERE state = 'queued' ORDER BY created_at"

UNCALLED = """
SELECT id FROM catalog.tasks
WHERE state IN ('succeeded', 'failed') AND called_back_at IS NULL AND request ? 'callback_url'
ORDER BY finished_at
"""

CALLED = """
UPDATE catalog.tasks SET called_back_at = clock_timestamp(), callback_outcome = %(outcome)s
WHERE id = %(id)s AND called_back_at IS NULL
RETURNING id
"""

# A fill is the longest part of what has one; what comes before it in a refresh is counted as two fifths.
PROGRESS = """
WITH filled AS (
    SELECT t.id,
           coalesce(sum(CASE WHEN l.status IN ('ready_for_archiving', 'archiving', 'archived') THEN r.last_id - r.first_id + 1
                             ELSE coalesce(r.committed_id - r.first_id + 1, 0) END)::float8
                    / nullif(sum(r.last_id - r.first_id + 1), 0), 0) AS share
    FROM catalog.tasks AS t
    LEFT JOIN catalog.ranges AS r ON r.model = t.model AND r.suffix = t.request ->> 'fills'
    LEFT JOIN ledger.loads AS l ON l.id = r.load_id
    WHERE t.state = 'started'
    GROUP BY t.id
), reached AS (
    SELECT t.id,
           CASE WHEN t.action = 'INGEST_UPSTREAM' THEN
                    CASE f.state WHEN 'requested' THEN 1 WHEN 'copied' THEN 25 WHEN 'indexed' THEN 40 + 59 * filled.share ELSE 99 END
                WHEN t.action = 'PROMOTE' THEN CASE f.state WHEN 'promoting' THEN 50 WHEN 'live' THEN 99 ELSE 1 END
                ELSE 99 * filled.share END AS progress
    FROM catalog.tasks AS t
    JOIN filled ON filled.id = t.id
    LEFT JOIN catalog.refreshes AS f ON f.model = t.model AND f.suffix = t.request ->> 'index_suffix'
)
UPDATE catalog.tasks AS t SET progress = reached.progress
FROM reached
WHERE t.id = reached.id AND t.state = 'started' AND reached.progress > t.progress
"""

FORGET = """
DELETE FROM catalog.tasks
WHERE state IN ('succeeded', 'failed') AND finished_at < clock_timestamp() - make_interval(days => %(days)s)
  AND (called_back_at IS NOT NULL OR NOT request ? 'callback_url')
"""

IS_HELD = """
SELECT EXISTS (SELECT FROM ledger.loads WHERE id = %(load_id)s AND status = 'ingesting' AND lease_until > clock_timestamp())
"""

TAKE_OVER = """
UPDATE catalog.refreshes SET asked_by = %(asked_by)s WHERE model = %(model)s AND suffix = %(suffix)s
"""

# What fills an index and was broken off has left it without some of its documents.
IS_UNFINISHED = """
SELECT EXISTS (
    SELECT FROM catalog.ranges AS r JOIN ledger.loads AS l ON l.id = r.load_id
    WHERE r.model = %(model)s AND r.suffix = %(fills)s AND l.status NOT IN ('ready_for_archiving', 'archiving', 'archived')
) OR coalesce((
    SELECT state <> 'succeeded' FROM catalog.tasks
    WHERE model = %(model)s AND action IN ('REINDEX', 'CREATE_AND_POPULATE_FILTERED_INDEX') AND request ->> 'fills' = %(fills)s
    ORDER BY created_at DESC LIMIT 1
), false)
"""

# Postgres decides what is a date, as it always has for callers of UPDATE_INDEX.
MOMENT = (
    "SELECT isfinite(at), CASE WHEN isfinite(at) THEN extract(year FROM at) END, at::text FROM (SELECT %(text)s::timestamptz AS at) AS read"
)

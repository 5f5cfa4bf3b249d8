"""The statements of filling an index range by range."""

PLAN_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('catalog.plan.' || %(model)s || '.' || %(suffix)s, 0))"

PLANNED = "SELECT count(*), count(committed_id) FROM catalog.ranges WHERE model = %(model)s AND suffix = %(suffix)s"

# A gap in the ids, however long, makes no range.
BOUNDS = """
WITH RECURSIVE range (first_id) AS (
    SELECT min(id)::bigint FROM {relation}
    UNION ALL
    SELECT (SELECT min(t.id)::bigint FROM {relation} AS t WHERE t.id >= range.first_id + %(rows)s)
    FROM range WHERE range.first_id IS NOT NULL
), last (id) AS (
    SELECT max(id)::bigint FROM {relation}
)
SELECT first_id, least(first_id + %(rows)s - 1, greatest(last.id, first_id)) FROM range, last WHERE first_id IS NOT NULL ORDER BY first_id
"""

ADD_RANGES = """
INSERT INTO catalog.ranges (load_id, model, suffix, first_id, last_id)
SELECT l.id, %(model)s, %(suffix)s, planned.first_id, planned.last_id
FROM unnest(%(keys)s::text[], %(firsts)s::bigint[], %(lasts)s::bigint[]) AS planned (key, first_id, last_id)
JOIN ledger.loads AS l ON l.landing_zone = %(zone)s AND l.key = planned.key AND l.version = %(suffix)s
"""

RANGE = "SELECT first_id, last_id, committed_id FROM catalog.ranges WHERE load_id = %(id)s"

# Nobody claims what is locked.
LOADS = """
SELECT l.id, l.status FROM ledger.loads AS l JOIN catalog.ranges AS r ON r.load_id = l.id
WHERE r.model = %(model)s AND r.suffix = %(suffix)s
ORDER BY l.id
FOR UPDATE OF l
"""

BEGIN_ANEW = """
UPDATE catalog.ranges
SET committed_id = NULL, rows_read = 0, documents = 0, filtered = 0, dead = 0, retries = 0, bytes = 0, seconds = 0
WHERE model = %(model)s AND suffix = %(suffix)s
"""

# Rows of the live table that came in later have changed upstream since then.
LIVE_SINCE = """
SELECT coalesce((SELECT w.updated_on FROM catalog.watermarks AS w WHERE w.model = r.model AND w.suffix = r.suffix), r.snapshot_at)
FROM catalog.refreshes AS r WHERE r.model = %(model)s AND r.state = 'live'
"""

COMMIT = """
UPDATE catalog.ranges
SET committed_id = %(committed)s, rows_read = rows_read + %(rows)s, documents = documents + %(documents)s,
    filtered = filtered + %(filtered)s, dead = dead + %(dead)s, retries = retries + %(retries)s, bytes = bytes + %(bytes)s,
    seconds = seconds + %(seconds)s
WHERE load_id = %(id)s
"""

COUNTED = "SELECT rows_read, documents, dead, bytes FROM catalog.ranges WHERE load_id = %(id)s"

BURY = """
INSERT INTO catalog.dead_letters (model, index_name, document_id, code, reason)
SELECT %(model)s, %(index)s, dead.id, dead.code, dead.reason
FROM unnest(%(ids)s::bigint[], %(codes)s::text[], %(reasons)s::text[]) AS dead (id, code, reason)
ON CONFLICT (index_name, document_id) DO UPDATE SET code = excluded.code, reason = excluded.reason, at = clock_timestamp()
"""

UNBURY = "DELETE FROM catalog.dead_letters WHERE index_name = ANY(%(indexes)s) AND document_id = ANY(%(ids)s)"

DEAD = """
SELECT count(DISTINCT document_id), min(code) FROM catalog.dead_letters WHERE index_name = ANY(%(indexes)s)
"""

TOTALS = """
SELECT count(*), coalesce(sum(rows_read), 0)::bigint, coalesce(sum(documents), 0)::bigint, coalesce(sum(filtered), 0)::bigint,
       coalesce(sum(dead), 0)::bigint, coalesce(sum(retries), 0)::bigint, coalesce(sum(r.bytes), 0)::bigint,
       count(*) FILTER (WHERE l.status = 'archived'), count(*) FILTER (WHERE l.status IN ('errored', 'erroring', 'ready_for_erroring')),
       count(*) FILTER (WHERE l.status = 'ready'), coalesce(sum(greatest(committed_id - first_id + 1, 0)), 0)::bigint,
       coalesce(sum(last_id - first_id + 1), 0)::bigint
FROM catalog.ranges AS r JOIN ledger.loads AS l ON l.id = r.load_id
WHERE r.model = %(model)s AND r.suffix = %(suffix)s
"""

IS_OURS = """
SELECT extract(epoch FROM lease_until - clock_timestamp())::float8
FROM ledger.loads WHERE id = %(id)s AND claim = %(claim)s AND status = 'ingesting'
"""

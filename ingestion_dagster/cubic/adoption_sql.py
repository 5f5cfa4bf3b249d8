"""The statements by which the metadata database of the system before is taken over. Its tables are only read."""

from psycopg import sql

ORIGINALS = """
SELECT n.nspname, c.relname, array_agg(a.attname::text)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relname = ANY(%(names)s)
  AND n.nspname = ANY(current_schemas(false) || ARRAY['public']::name[]) AND n.nspname NOT IN ('ledger', 'cubic')
GROUP BY n.nspname, c.relname
ORDER BY array_position(current_schemas(false) || ARRAY['public']::name[], n.nspname)
"""

LOCK = "SELECT pg_advisory_xact_lock(%(lock)s)"

TABLES = sql.SQL("""
SELECT t.id, t.name, rtrim(t.s3_prefix, '/') || '/', coalesce(c.loads, 0)
FROM {tables} AS t
LEFT JOIN (SELECT l.table_id, count(*) AS loads FROM {loads} AS l WHERE {load_stands} GROUP BY l.table_id) AS c ON c.table_id = t.id
WHERE {table_stands}
ORDER BY t.name
""")

# Which of our datasets the loads of a table of theirs belong to: by the folder, since their table has those of its changes too.
KNOWN = """
CREATE TEMP TABLE adoption_tables ON COMMIT DROP AS
SELECT t.table_id, t.prefix, d.id AS dataset_id, base.id AS base_id, t.is_ods, t.marker
FROM unnest(%(tables)s::bigint[], %(prefixes)s::text[], %(names)s::text[], %(bases)s::text[], %(ods)s::boolean[], %(markers)s::text[])
         AS t (table_id, prefix, name, base, is_ods, marker)
JOIN ledger.datasets AS d ON d.pipeline = %(pipeline)s AND d.name = t.name
JOIN ledger.datasets AS base ON base.pipeline = %(pipeline)s AND base.name = t.base
"""

TABLE_SNAPSHOTS = sql.SQL("""
CREATE TEMP TABLE adoption_snapshots ON COMMIT DROP AS
SELECT DISTINCT a.base_id, date_trunc('second', s.snapshot::timestamptz) AS snapshot, s.snapshot_s3_key AS marker
FROM {table_snapshots} AS s
JOIN adoption_tables AS a ON a.table_id = s.{table} AND a.dataset_id = a.base_id AND a.is_ods
WHERE {stands}
""")

# Workers of theirs went by the snapshot that was entered last for a load.
LOAD_SNAPSHOTS = sql.SQL("""
SELECT DISTINCT ON (load_id) load_id, snapshot FROM {load_snapshots} AS s WHERE {stands} ORDER BY load_id, id DESC
""")
OWN_SNAPSHOTS = sql.SQL("SELECT id AS load_id, snapshot FROM {loads}")

LOADS = sql.SQL("""
CREATE TEMP TABLE adoption_loads ON COMMIT DROP AS
WITH snapshots AS ({snapshots}), theirs AS (
    SELECT l.id AS original_id, l.status, l.s3_key AS key, date_trunc('second', l.s3_modified::timestamptz) AS modified, l.s3_size AS size,
           coalesce({inserted}::timestamptz, l.s3_modified::timestamptz) AS inserted_at,
           coalesce({updated}::timestamptz, l.s3_modified::timestamptz) AS updated_at,
           a.dataset_id, a.base_id, a.is_ods, a.marker,
           CASE WHEN a.is_ods THEN date_trunc('second', s.snapshot::timestamptz) END AS snapshot,
           CASE WHEN l.status IN ('archived', 'archiving', 'archived_unknown') THEN 'archived'
                WHEN l.status IN ('errored', 'erroring', 'errored_unknown') THEN 'errored' END AS goal
    FROM {loads} AS l
    JOIN adoption_tables AS a ON a.table_id = l.table_id AND starts_with(l.s3_key, a.prefix)
    LEFT JOIN snapshots AS s ON s.load_id = l.id
    WHERE {stands}
)
SELECT t.*, t.status IN ('archived', 'errored') AS is_sure,
       CASE WHEN NOT is_ods AND goal IS NOT NULL THEN key
            WHEN goal = 'archived'
            THEN regexp_replace(key, '[^/]*$', '') || 'snapshot=' || to_char(snapshot AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"/')
                 || substring(key FROM '[^/]*$')
            WHEN goal = 'errored'
            THEN regexp_replace(key, '[^/]*$', '') || 'timestamp=' || to_char(modified AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"/')
                 || substring(key FROM '[^/]*$') END AS place
FROM theirs AS t
""")

OBJECTS = """
CREATE TEMP TABLE adoption_objects (place text NOT NULL, key text NOT NULL, size bigint NOT NULL, version text, modified timestamptz)
ON COMMIT DROP
"""
COPY_OBJECTS = "COPY adoption_objects (place, key, size, version, modified) FROM STDIN"

# Of several that would stand in one place, the first does: theirs never replaced what was archived, nor what was refused.
PLAN = """
CREATE TEMP TABLE adoption_plan ON COMMIT DROP AS
WITH placed AS (
    SELECT l.original_id, row_number() OVER (PARTITION BY l.goal, l.place ORDER BY l.modified, l.original_id) AS nth
    FROM adoption_loads AS l
    JOIN adoption_objects AS o ON o.place = l.goal AND o.key = l.place AND o.size = l.size
), landed AS (
    SELECT l.original_id, o.version,
           row_number() OVER (PARTITION BY o.key, o.version ORDER BY l.goal IS NULL, l.is_sure DESC, l.original_id) AS nth
    FROM adoption_loads AS l
    JOIN adoption_objects AS o ON o.place = 'landing' AND o.key = l.key AND o.size = l.size
                              AND date_trunc('second', o.modified) = l.modified
), judged AS (
    SELECT l.*, p.original_id IS NOT NULL AS is_placed, w.original_id IS NOT NULL AS is_landed,
           CASE WHEN w.nth = 1 THEN w.version END AS landed_version,
           a.load_id AS adopted_as
    FROM adoption_loads AS l
    LEFT JOIN placed AS p ON p.original_id = l.original_id AND p.nth = 1
    LEFT JOIN landed AS w ON w.original_id = l.original_id
    LEFT JOIN cubic.adopted_loads AS a ON a.original_id = l.original_id
)
SELECT j.*, j.goal IS NOT NULL AND (j.is_sure OR j.is_placed) AS is_done,
       j.adopted_as IS NULL AND EXISTS (
           SELECT FROM ledger.loads AS ours
           WHERE ours.landing_zone = %(landing)s AND ours.key = j.key AND ours.size = j.size
             AND date_trunc('second', ours.modified) = j.modified
             AND NOT EXISTS (SELECT FROM cubic.adopted_loads AS a WHERE a.load_id = ours.id)) AS is_known,
       CASE WHEN j.is_placed THEN (CASE j.goal WHEN 'archived' THEN %(archive)s ELSE %(error)s END) || '/' || j.place END AS location
FROM judged AS j
"""

NUMBERED = """
CREATE TEMP TABLE adoption_new ON COMMIT DROP AS
SELECT nextval(pg_get_serial_sequence('ledger.loads', 'id')) AS id, p.*
FROM (SELECT * FROM adoption_plan WHERE is_done AND adopted_as IS NULL AND NOT is_known ORDER BY modified, key, original_id) AS p
"""

SNAPSHOTS = """
INSERT INTO ledger.snapshots (dataset_id, snapshot, marker_key)
SELECT base_id, snapshot, coalesce((SELECT min(s.marker) FROM adoption_snapshots AS s WHERE s.base_id = known.base_id), marker)
FROM (SELECT base_id, snapshot, marker FROM adoption_new WHERE snapshot IS NOT NULL
      UNION
      SELECT base_id, snapshot, marker FROM adoption_snapshots WHERE snapshot IS NOT NULL) AS known
ORDER BY base_id, snapshot
ON CONFLICT (dataset_id, snapshot) DO NOTHING
"""

# The version is one that a store can compare with what stands there, and finds different.
ENTER = """
WITH entered AS (
    INSERT INTO ledger.loads (id, pipeline, dataset_id, landing_zone, key, version, size, modified, partition, snapshot_id, status,
                              error_code, error_message, problems, location, discovered_at, finished_at)
    OVERRIDING SYSTEM VALUE
    SELECT n.id, %(pipeline)s, n.dataset_id, %(landing)s, n.key,
           coalesce(n.landed_version, 'etag:adopted-' || n.original_id || ':' || extract(epoch FROM n.modified)::bigint || ':' || n.size),
           n.size, n.modified,
           CASE WHEN NOT n.is_ods THEN to_char(n.inserted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
                ELSE coalesce(to_char(n.snapshot AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'), %(pending)s) END,
           s.id, n.goal, why.code, why.message, why.problems::jsonb, n.location, n.inserted_at, greatest(n.inserted_at, n.updated_at)
    FROM adoption_new AS n
    LEFT JOIN ledger.snapshots AS s ON s.dataset_id = n.base_id AND s.snapshot = n.snapshot
    LEFT JOIN unnest(%(codes)s::text[], %(messages)s::text[], %(problems)s::text[]) AS why (code, message, problems)
           ON why.code = CASE WHEN n.location IS NULL AND n.landed_version IS NULL THEN %(lost)s
                              WHEN n.goal = 'errored' THEN %(refused)s END
    ORDER BY n.id
    RETURNING id
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, why)
    SELECT id, NULL, goal, 'adopted: ' || status FROM adoption_new ORDER BY id
), remembered AS (
    INSERT INTO cubic.adopted_loads (original_id, load_id) SELECT original_id, id FROM adoption_new
)
SELECT count(*) FROM entered
"""

# Where the archive was not the one that is configured now.
FOUND_SINCE = """
UPDATE ledger.loads AS l
SET location = p.location,
    error_code = CASE WHEN l.status = 'errored' THEN %(refused)s END,
    error_message = CASE WHEN l.status = 'errored' THEN %(message)s END,
    problems = CASE WHEN l.status = 'errored' THEN %(problems)s::jsonb END
FROM adoption_plan AS p
WHERE l.id = p.adopted_as AND p.location IS NOT NULL AND l.location IS NULL AND l.error_code = %(lost)s AND l.status = p.goal
"""

COUNTS = """
SELECT count(*) FILTER (WHERE is_new AND goal = 'archived') AS archived,
       count(*) FILTER (WHERE is_new AND goal = 'errored') AS errored,
       count(*) FILTER (WHERE is_new AND location IS NOT NULL) AS placed,
       count(*) FILTER (WHERE is_new AND location IS NULL AND landed_version IS NULL) AS lost,
       count(*) FILTER (WHERE is_new AND landed_version IS NOT NULL) AS landed,
       count(*) FILTER (WHERE adopted_as IS NOT NULL) AS before,
       count(*) FILTER (WHERE is_done AND is_known) AS known,
       count(*) FILTER (WHERE NOT is_done AND adopted_as IS NULL AND is_landed) AS left_to_load,
       count(*) FILTER (WHERE NOT is_done AND adopted_as IS NULL AND NOT is_landed AND NOT is_known) AS gone,
       count(DISTINCT dataset_id) FILTER (WHERE is_new) AS datasets
FROM (SELECT *, is_done AND adopted_as IS NULL AND NOT is_known AS is_new FROM adoption_plan) AS p
"""

OTHER_MARKERS = """
SELECT DISTINCT d.name
FROM adoption_snapshots AS s
JOIN adoption_tables AS a ON a.base_id = s.base_id AND a.dataset_id = s.base_id
JOIN ledger.datasets AS d ON d.id = s.base_id
WHERE s.marker <> a.marker
ORDER BY d.name
"""

"""What discovery asks of the ledger: tables of the registry, what they release, snapshots, and the loads that belong to them."""

LOCK = "SELECT pg_advisory_xact_lock(%(lock)s)"

DATASETS = "SELECT name, landing_prefix, is_active, entry FROM ledger.datasets WHERE pipeline = %(pipeline)s"

SYNC = """
INSERT INTO ledger.datasets AS d (pipeline, name, landing_prefix, is_active, entry)
SELECT %(pipeline)s, name, prefix, is_active, entry
FROM unnest(%(names)s::text[], %(prefixes)s::text[], %(active)s::boolean[], %(entries)s::jsonb[]) AS wanted (name, prefix, is_active, entry)
ORDER BY name
ON CONFLICT (pipeline, name) DO UPDATE
SET landing_prefix = excluded.landing_prefix, is_active = excluded.is_active, entry = excluded.entry,
    rebuilt_at = CASE WHEN d.entry IS DISTINCT FROM excluded.entry THEN clock_timestamp() ELSE d.rebuilt_at END
"""

# The table of a prefix is the same table under its new name: its loads and snapshots stay with it.
RENAME = """
UPDATE ledger.datasets AS d SET name = wanted.name
FROM unnest(%(names)s::text[], %(prefixes)s::text[]) AS wanted (name, prefix)
WHERE d.pipeline = %(pipeline)s AND d.landing_prefix = wanted.prefix AND wanted.prefix <> '' AND d.name <> ALL (%(names)s::text[])
  AND NOT EXISTS (SELECT FROM ledger.datasets AS there WHERE there.pipeline = %(pipeline)s AND there.name = wanted.name)
RETURNING d.id
"""

FORGET_CURRENT = "DELETE FROM cubic.current_tables WHERE dataset_id = ANY (%(datasets)s::bigint[])"

DEACTIVATE = "UPDATE ledger.datasets SET is_active = false WHERE pipeline = %(pipeline)s AND is_active AND name <> ALL (%(names)s::text[])"

RELEASE_SCHEMA = """
UPDATE ledger.loads AS l SET waiting_for = NULL
FROM ledger.datasets AS d
WHERE l.pipeline = %(pipeline)s AND l.waiting_for = 'schema'
  AND d.id = l.dataset_id AND d.name = ANY(%(names)s::text[])
"""

UNCLASSIFIED_FOLDERS = """
SELECT DISTINCT substring(key FROM '^.*/') FROM ledger.loads
WHERE pipeline = %(pipeline)s AND waiting_for = 'dataset' AND key LIKE '%%/%%'
"""

UNCLASSIFIED_LOADS = """
SELECT id, key, size, modified, version FROM ledger.loads
WHERE pipeline = %(pipeline)s AND waiting_for = 'dataset' AND substring(key FROM '^.*/') = ANY(%(folders)s::text[])
LIMIT %(batch)s
"""

# A load that a run by another registry gave back may have a snapshot; it keeps it, unless it is another table's.
CLASSIFY = """
UPDATE ledger.loads AS l
SET dataset_id = v.dataset_id,
    snapshot_id = CASE WHEN v.keeps THEN l.snapshot_id END,
    partition = CASE WHEN v.keeps THEN l.partition ELSE coalesce(v.partition, l.partition) END,
    waiting_for = CASE WHEN NOT v.keeps THEN v.waiting_for END
FROM (
    SELECT was.id, d.id AS dataset_id, found.partition, found.waiting_for,
           was.snapshot_id IS NOT NULL AND was.dataset_id = d.id AS keeps
    FROM unnest(%(ids)s::bigint[], %(datasets)s::text[], %(partitions)s::text[], %(waiting)s::text[])
             AS found (id, dataset, partition, waiting_for)
    JOIN ledger.datasets AS d ON d.pipeline = %(pipeline)s AND d.name = found.dataset
    JOIN ledger.loads AS was ON was.id = found.id) AS v
WHERE l.id = v.id AND l.waiting_for = 'dataset'
"""

ANY_PENDING = """
SELECT EXISTS (SELECT FROM ledger.loads WHERE pipeline = %(pipeline)s AND partition = %(pending)s AND snapshot_id IS NULL)
"""

# Whatever became of the marker's load: that it came starts the snapshot.
# OFFSET 0, here and below, keeps the planner to a look into the index by partition and table: by statistics of before the backlog came
# it would compare every pending load with every table, by those of after it look through all open loads for each.
NEW_SNAPSHOTS = """
INSERT INTO ledger.snapshots (dataset_id, snapshot, marker_key)
SELECT DISTINCT d.id, date_trunc('second', came.modified), t.marker
FROM unnest(%(names)s::text[], %(bases)s::text[], %(markers)s::text[]) AS t (name, base, marker)
JOIN ledger.datasets AS d ON d.pipeline = %(pipeline)s AND d.name = t.base
CROSS JOIN LATERAL (
    SELECT l.modified FROM ledger.loads AS l
    WHERE l.pipeline = %(pipeline)s AND l.partition = %(pending)s AND l.dataset_id = d.id AND l.snapshot_id IS NULL
      AND l.key = t.marker AND l.size > 0
    OFFSET 0) AS came
WHERE t.name = t.base
ORDER BY 1, 2
ON CONFLICT (dataset_id, snapshot) DO NOTHING
"""

# Files that come one after another under one name are decided one after another (`turn`): what becomes of the first decides about the
# second. Markers, changes, and what will be refused whatever its snapshot, need not wait for their turn. A snapshot is a whole second, so
# that all of its second is not before it; a part that comes again with its old time is the same delivery, and replaces itself.
DESTINED = """
WITH tables AS MATERIALIZED (
    SELECT d.id AS dataset_id, base.id AS base_id, d.id = base.id AS is_base, t.marker
    FROM unnest(%(names)s::text[], %(bases)s::text[], %(markers)s::text[]) AS t (name, base, marker)
    JOIN ledger.datasets AS d ON d.pipeline = %(pipeline)s AND d.name = t.name
    JOIN ledger.datasets AS base ON base.pipeline = %(pipeline)s AND base.name = t.base
    WHERE EXISTS (SELECT FROM ledger.snapshots AS s WHERE s.dataset_id = base.id)
), pending AS (
    SELECT l.id, l.key, l.modified, t.base_id,
           t.is_base AND l.key <> t.marker AND l.size > 0 AND l.key LIKE ANY (%(data_files)s::text[]) AS is_part
    FROM tables AS t
    CROSS JOIN LATERAL (
        SELECT l.id, l.key, l.modified, l.size, l.status, l.snapshot_id FROM ledger.loads AS l
        WHERE l.pipeline = %(pipeline)s AND l.partition = %(pending)s AND l.dataset_id = t.dataset_id
        OFFSET 0) AS l
    WHERE l.status = 'ready' AND l.snapshot_id IS NULL
), turns AS MATERIALIZED (
    SELECT *, CASE WHEN is_part THEN row_number() OVER (PARTITION BY base_id, key, is_part ORDER BY modified, id) ELSE 1 END AS turn
    FROM pending
), destined AS (
    SELECT p.id, CASE
        WHEN own.id IS NULL THEN next.id
        WHEN previous.is_undecided THEN NULL
        WHEN previous.was_superseded THEN coalesce(next.id, own.id)
        WHEN previous.is_loaded AND NOT previous.is_same THEN next.id
        ELSE own.id END AS snapshot_id
    FROM turns AS p
    LEFT JOIN LATERAL (
        SELECT s.id FROM ledger.snapshots AS s
        WHERE s.dataset_id = p.base_id AND s.snapshot <= p.modified
        ORDER BY s.snapshot DESC LIMIT 1) AS own ON true
    LEFT JOIN LATERAL (
        SELECT s.id FROM ledger.snapshots AS s
        WHERE s.dataset_id = p.base_id AND s.snapshot > p.modified
        ORDER BY s.snapshot LIMIT 1) AS next ON true
    LEFT JOIN LATERAL (
        SELECT l.status IN ('ready', 'ingesting') AS is_undecided,
               date_trunc('second', l.modified) = date_trunc('second', p.modified) AS is_same,
               l.status IN ('ready_for_archiving', 'archiving', 'archived') AS is_loaded,
               l.status IN ('ready_for_archiving', 'archiving', 'archived') AND l.error_code = 'superseded' AS was_superseded
        FROM ledger.loads AS l
        WHERE p.is_part AND l.snapshot_id = own.id AND l.key = p.key AND l.size > 0 AND (l.modified, l.id) < (p.modified, p.id)
        ORDER BY l.modified DESC, l.id DESC LIMIT 1) AS previous ON true
    WHERE p.turn = 1
)
SELECT id, snapshot_id FROM destined WHERE snapshot_id IS NOT NULL LIMIT %(batch)s
"""

# What is claimed while this waits for its row is no longer `ready`, and left alone.
ASSIGN = """
UPDATE ledger.loads AS l
SET snapshot_id = s.id,
    partition = to_char(s.snapshot AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'),
    waiting_for = CASE WHEN l.waiting_for = 'snapshot' THEN NULL ELSE l.waiting_for END
FROM unnest(%(ids)s::bigint[], %(snapshots)s::bigint[]) AS destined (id, snapshot_id)
JOIN ledger.snapshots AS s ON s.id = destined.snapshot_id
WHERE l.id = destined.id AND l.status = 'ready' AND l.snapshot_id IS NULL
"""

SNAPSHOTS = """
SELECT DISTINCT to_char(s.snapshot AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"') AS partition
FROM ledger.snapshots AS s
JOIN ledger.datasets AS d ON d.id = s.dataset_id
WHERE d.pipeline = %(pipeline)s
ORDER BY partition
"""

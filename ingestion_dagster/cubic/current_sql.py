"""The statements by which current tables are compared with the ledger, and what they hold is remembered."""

# ruff: noqa: S608 - fragments of our own are put together here, never values

_LOADED = """(
    {load}.status IN ('ready_for_archiving', 'archiving', 'archived') AND {load}.committed_at IS NOT NULL
    AND {load}.duplicate_of IS NULL AND {load}.error_code IS DISTINCT FROM 'superseded')"""

# Nobody has read what was adopted: it is archived, and has no Parquet before it is replayed.
_READ = "({load}.content_hash IS NOT NULL OR {load}.rows_written > 0)"
_COMMITTED = f"({_LOADED} AND {_READ})"

# A newer snapshot counts once its marker is committed and all that is known of it has been read: readers see whole states.
# From the one that is held there is no way back, so that a replay of its marker changes nothing meanwhile.
_WANTED = f"""
WITH wanted AS (
    SELECT base.id AS base_id, changes.id AS changes_id, base.name, asked.key AS registry_key, target.id AS snapshot_id, target.snapshot,
           state.dataset_id IS NOT NULL AS is_built, state.snapshot_id AS held_id, state.key AS held_key, state.columns AS held_columns,
           state.sequence, state.commit
    FROM jsonb_to_recordset(%(tables)s::jsonb) AS asked (base text, changes text, key jsonb)
    JOIN ledger.datasets AS base ON base.pipeline = 'cubic' AND base.name = asked.base
    LEFT JOIN ledger.datasets AS changes ON changes.pipeline = 'cubic' AND changes.name = asked.changes
    LEFT JOIN cubic.current_tables AS state ON state.dataset_id = base.id
    LEFT JOIN ledger.snapshots AS held ON held.id = state.snapshot_id
    CROSS JOIN LATERAL (
        SELECT s.id, s.snapshot
        FROM ledger.snapshots AS s
        WHERE s.dataset_id = base.id
          AND (s.id = held.id OR (held.id IS NULL OR s.snapshot > held.snapshot)
               AND EXISTS (
                   SELECT FROM ledger.loads AS l
                   WHERE l.snapshot_id = s.id AND l.key = s.marker_key AND {_COMMITTED.format(load="l")})
               AND NOT EXISTS (
                   SELECT FROM ledger.loads AS l
                   WHERE l.snapshot_id = s.id
                     AND (l.dataset_id = base.id AND l.status IN ('ready', 'ingesting') AND l.waiting_for IS NULL
                          OR {_LOADED.format(load="l")} AND NOT {_READ.format(load="l")})))
        ORDER BY s.snapshot DESC
        LIMIT 1) AS target
), schemas AS (
    SELECT DISTINCT ON (s.dataset_id) s.dataset_id, s.columns, s.key
    FROM cubic.schemas AS s
    WHERE s.dataset_id IN (SELECT base_id FROM wanted UNION ALL SELECT changes_id FROM wanted)
    ORDER BY s.dataset_id, s.version DESC
), keyed AS (
    SELECT w.*, schema.columns, of_changes.columns AS changes_columns,
           CASE WHEN jsonb_array_length(w.registry_key) > 0 THEN ARRAY(SELECT jsonb_array_elements_text(w.registry_key))
                WHEN cardinality(schema.key) > 0 THEN schema.key
                ELSE of_changes.key END AS key
    FROM wanted AS w
    JOIN schemas AS schema ON schema.dataset_id = w.base_id
    LEFT JOIN schemas AS of_changes ON of_changes.dataset_id = w.changes_id
)
"""

# What a load that is being loaded again has published stands there until it is replaced: it keeps its place meanwhile.
_LOADS = f"""
    SELECT l.id, l.dataset_id IS DISTINCT FROM k.base_id AS is_change, l.key, l.committed_at, l.rows_written,
           {_COMMITTED.format(load="l")} AS is_committed,
           l.status IN ('ready', 'ingesting') AND m.load_id IS NOT NULL AS is_held,
           l.snapshot_id = k.snapshot_id AS is_of_snapshot, m.committed_at AS merged_at
    FROM ledger.loads AS l
    LEFT JOIN cubic.current_loads AS m ON m.load_id = l.id AND m.dataset_id = k.base_id
    WHERE l.snapshot_id = k.snapshot_id AND l.dataset_id IN (k.base_id, k.changes_id)
    UNION ALL
    SELECT l.id, l.dataset_id IS DISTINCT FROM k.base_id, l.key, l.committed_at, l.rows_written, false, false, false, m.committed_at
    FROM cubic.current_loads AS m
    JOIN ledger.loads AS l ON l.id = m.load_id
    WHERE m.dataset_id = k.base_id AND l.snapshot_id IS DISTINCT FROM k.snapshot_id
"""

BEHIND = f"""
{_WANTED}
SELECT k.name
FROM keyed AS k
WHERE cardinality(k.key) > 0
  AND (k.held_id IS DISTINCT FROM k.snapshot_id OR k.held_key IS DISTINCT FROM k.key OR EXISTS (
      SELECT FROM ({_LOADS}) AS l
      WHERE CASE WHEN l.is_committed THEN l.merged_at IS DISTINCT FROM l.committed_at ELSE l.merged_at IS NOT NULL AND NOT l.is_held END))
ORDER BY k.name
"""

TARGET = f"""
{_WANTED}
SELECT base_id, changes_id, snapshot_id, snapshot, key, columns, changes_columns, is_built, held_id, held_key, held_columns, sequence,
       commit
FROM keyed
"""

LOADS = f"""
SELECT l.*
FROM (SELECT %(base)s::bigint AS base_id, %(changes)s::bigint AS changes_id, %(snapshot)s::bigint AS snapshot_id) AS k
CROSS JOIN LATERAL ({_LOADS}) AS l
ORDER BY l.is_change, l.key, l.id
"""

REMEMBER = """
INSERT INTO cubic.current_tables (dataset_id, snapshot_id, key, columns, sequence, commit, rows, at)
VALUES (%(base)s, %(snapshot)s, %(key)s, %(columns)s, %(sequence)s, %(commit)s, %(rows)s, now())
ON CONFLICT (dataset_id) DO UPDATE
SET snapshot_id = excluded.snapshot_id, key = excluded.key, columns = excluded.columns, sequence = excluded.sequence,
    commit = excluded.commit, rows = excluded.rows, at = excluded.at
"""

FORGET_LOADS = "DELETE FROM cubic.current_loads WHERE dataset_id = %(base)s"

REMEMBER_LOADS = """
INSERT INTO cubic.current_loads (dataset_id, load_id, committed_at)
SELECT %(base)s, * FROM unnest(%(loads)s::bigint[], %(committed)s::timestamptz[])
ON CONFLICT (dataset_id, load_id) DO UPDATE SET committed_at = excluded.committed_at
"""

STATE = """
SELECT d.name, s.snapshot, t.rows, t.commit
FROM cubic.current_tables AS t
JOIN ledger.datasets AS d ON d.id = t.dataset_id
JOIN ledger.snapshots AS s ON s.id = t.snapshot_id
"""

LOCK = "SELECT pg_advisory_lock(hashtextextended(%(name)s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))"
LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %(milliseconds)s, false)"

"""What a fetch of a DMAP feed reads and writes of its state, as SQL."""

LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%(lock)s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%(lock)s, 0))"

# What was listed and is still missing holds the cursor back, else a listing would soon no longer show it: unless a newer issue has
# been fetched since, or it has been missing for so long that it must have been withdrawn.
CURSOR = """
SELECT least(
    (SELECT max(last_updated) FROM cubic.dmap_datasets WHERE feed = %(feed)s AND fetched_at IS NOT NULL),
    (SELECT min(last_updated) FROM cubic.dmap_datasets AS missing
     WHERE feed = %(feed)s AND fetched_at IS NULL AND seen_at > %(held_since)s
       AND NOT EXISTS (SELECT FROM cubic.dmap_datasets AS issue
                       WHERE issue.feed = missing.feed AND issue.dataset_id = missing.dataset_id
                         AND issue.last_updated >= missing.last_updated AND issue.fetched_at IS NOT NULL)))
"""

FETCHED = """
SELECT dataset_id, max(last_updated) FROM cubic.dmap_datasets
WHERE feed = %(feed)s AND dataset_id = ANY(%(dataset_ids)s) AND fetched_at IS NOT NULL
GROUP BY dataset_id
"""

ENTER = """
INSERT INTO cubic.dmap_datasets (feed, dataset_id, last_updated, start_date, end_date, seen_at, code)
SELECT %(feed)s, dataset_id, last_updated, start_date, end_date, %(now)s, code
FROM unnest(%(dataset_ids)s::text[], %(last_updated)s::timestamptz[], %(start_dates)s::date[], %(end_dates)s::date[], %(codes)s::text[])
    AS listed (dataset_id, last_updated, start_date, end_date, code)
ON CONFLICT (feed, dataset_id, last_updated) DO UPDATE
SET start_date = coalesce(excluded.start_date, dmap_datasets.start_date),
    end_date = coalesce(excluded.end_date, dmap_datasets.end_date),
    code = excluded.code
WHERE dmap_datasets.fetched_at IS NULL
"""

FETCHED_NOW = """
UPDATE cubic.dmap_datasets
SET key = %(key)s, bytes = %(bytes)s, sha256 = %(sha256)s, fetched_at = %(now)s, code = NULL
WHERE feed = %(feed)s AND dataset_id = %(dataset_id)s AND last_updated = %(last_updated)s
"""

FAILED_NOW = """
UPDATE cubic.dmap_datasets SET code = %(code)s
WHERE feed = %(feed)s AND dataset_id = %(dataset_id)s AND last_updated = %(last_updated)s AND fetched_at IS NULL
"""

MISSING = """
SELECT count(*) FROM (
    SELECT FROM cubic.dmap_datasets WHERE feed = %(feed)s
    GROUP BY dataset_id HAVING max(last_updated) > coalesce(max(last_updated) FILTER (WHERE fetched_at IS NOT NULL), '-infinity')
) AS dataset
"""

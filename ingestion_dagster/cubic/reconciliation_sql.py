"""What reconciliation asks of the ledger: pages of a listing against its loads, and its loads against a listing."""

NOT_ENTERED = """
SELECT seen.key
FROM unnest(%(keys)s::text[], %(versions)s::text[]) AS seen (key, version)
WHERE NOT EXISTS (
    SELECT FROM ledger.loads AS l
    WHERE l.landing_zone = %(landing)s AND l.key = seen.key AND l.version = seen.version)
"""

# Of each data file its newest version comes first.
LOADS_OF = """
SELECT asked.key, l.unfinished, CASE WHEN NOT l.came_back THEN l.location END
FROM unnest(%(metadata)s::text[], %(data)s::text[]) AS asked (key, data)
JOIN ledger.loads AS l ON l.landing_zone = %(landing)s AND l.key = asked.data
ORDER BY l.modified DESC, l.id DESC
"""

STANDING = "CREATE TEMP TABLE reconciliation_standing (key text NOT NULL, size bigint NOT NULL)"
COPY_STANDING = "COPY reconciliation_standing (key, size) FROM STDIN"
# Whatever the planner thinks of how many loads there are, none is compared with the whole listing.
INDEX_STANDING = "CREATE INDEX ON reconciliation_standing (key); ANALYZE reconciliation_standing"
NO_STANDING = "DROP TABLE IF EXISTS pg_temp.reconciliation_standing"

# A load that finished after the listing began is not meant: the listing may have been past its place by then.
_ARCHIVED = """
    SELECT l.id, l.key, l.size, l.location, substr(l.location, length(%(archive)s) + 2) AS standing_key,
           starts_with(l.location, %(archive)s || '/') AS is_here
    FROM ledger.loads AS l
    WHERE l.pipeline = %(pipeline)s AND l.status = 'archived' AND l.location IS NOT NULL AND l.finished_at < %(listed_at)s
      AND (%(since)s::timestamptz IS NULL OR l.finished_at >= %(since)s::timestamptz)
"""

COUNTED = f"""
WITH archived AS ({_ARCHIVED})
SELECT count(*) FILTER (WHERE is_here), count(*) FILTER (WHERE NOT is_here) FROM archived
"""  # noqa: S608 - a fragment of our own

DIFFERING = f"""
WITH archived AS ({_ARCHIVED})
SELECT a.id, a.standing_key, a.size, s.key IS NOT NULL, count(*) FILTER (WHERE s.key IS NULL) OVER (),
       count(*) FILTER (WHERE s.key IS NOT NULL) OVER ()
FROM archived AS a
LEFT JOIN reconciliation_standing AS s ON s.key = a.standing_key
WHERE a.is_here AND s.size IS DISTINCT FROM a.size
ORDER BY a.id
LIMIT %(limit)s
"""  # noqa: S608 - a fragment of our own

# Ids are spread evenly over the days, and each day's share is another.
SHARE = f"""
WITH archived AS ({_ARCHIVED})
SELECT a.standing_key
FROM archived AS a
WHERE a.is_here AND a.id %% %(days)s = %(day)s
ORDER BY a.id
"""  # noqa: S608 - a fragment of our own

IS_ARCHIVED_AT = "SELECT id FROM ledger.loads WHERE id = %(id)s AND status = 'archived' AND location = %(location)s"

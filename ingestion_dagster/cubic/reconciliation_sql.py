"""What reconciliation asks of the ledger: pages of a listing against its loads, and a share of its loads."""

from ingestion_dagster.engine.archived import ARCHIVED

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

# Ids are spread evenly over the days, and each day's share is another.
SHARE = f"""
WITH archived AS ({ARCHIVED})
SELECT a.standing_key
FROM archived AS a
WHERE a.is_here AND a.id %% %(days)s = %(day)s
ORDER BY a.id
"""  # noqa: S608 - a fragment of our own

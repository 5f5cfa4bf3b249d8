"""The statements of retirement."""

# Refreshes at work whose load has ended as errored for so long that nobody will go on with them.
GIVEN_UP = """
SELECT r.suffix FROM catalog.refreshes AS r JOIN ledger.loads AS l ON l.id = r.load_id
WHERE r.model = %(model)s AND r.state IN ('requested', 'copied', 'indexed', 'filled', 'promoting') AND l.status = 'errored'
  AND coalesce(l.finished_at, l.discovered_at) < clock_timestamp() - make_interval(secs => %(seconds)s)
"""

# Suffixes of indexes that no refresh is known of, and that were filled so long ago that nobody will point an alias there.
ORPHANED = """
SELECT g.suffix
FROM catalog.ranges AS g JOIN ledger.loads AS l ON l.id = g.load_id
WHERE g.model = %(model)s AND NOT EXISTS (SELECT FROM catalog.refreshes AS r WHERE r.model = g.model AND r.suffix = g.suffix)
GROUP BY g.suffix
HAVING bool_and(l.status IN ('archived', 'errored'))
   AND max(coalesce(l.finished_at, l.discovered_at)) < clock_timestamp() - make_interval(secs => %(seconds)s)
"""

OPEN_RANGES = """
SELECT g.load_id, l.status = 'ingesting' AND l.lease_until > clock_timestamp()
FROM catalog.ranges AS g JOIN ledger.loads AS l ON l.id = g.load_id
WHERE g.model = %(model)s AND g.suffix = %(suffix)s AND l.status <> 'archived'
"""

STATUS = "SELECT status FROM ledger.loads WHERE id = %(id)s"

GENERATIONS_SEEN = """
SELECT DISTINCT generation FROM catalog_previous.seen_flags WHERE table_name = ANY(%(tables)s) AND generation <> ALL(%(kept)s)
"""

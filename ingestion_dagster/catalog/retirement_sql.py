"""The statements of retirement."""

# Refreshes at work whose load has ended as errored for so long that nobody will go on with them, and those whose discard was broken off.
GIVEN_UP = """
SELECT r.suffix FROM catalog.refreshes AS r JOIN ledger.loads AS l ON l.id = r.load_id
WHERE r.model = %(model)s AND r.state IN ('requested', 'copied', 'indexed', 'filled', 'promoting')
  AND (l.status = 'archived'
       OR l.status = 'errored' AND coalesce(l.finished_at, l.discovered_at) < clock_timestamp() - make_interval(secs => %(seconds)s))
"""

# Refreshes that readers have had whose load was not ended: whoever promoted them was killed before.
UNENDED = """
SELECT r.suffix FROM catalog.refreshes AS r JOIN ledger.loads AS l ON l.id = r.load_id
WHERE r.model = %(model)s AND r.state IN ('previous', 'retired') AND l.status = 'ready'
ORDER BY r.suffix
"""

# Suffixes of indexes that no refresh is known of, filled or broken off, and that nobody has worked on for so long that nobody will.
ORPHANED = """
SELECT g.suffix
FROM catalog.ranges AS g JOIN ledger.loads AS l ON l.id = g.load_id
WHERE g.model = %(model)s AND NOT EXISTS (SELECT FROM catalog.refreshes AS r WHERE r.model = g.model AND r.suffix = g.suffix)
GROUP BY g.suffix
HAVING max(greatest(l.finished_at, l.discovered_at, CASE WHEN l.status = 'ingesting' THEN l.lease_until END))
       < clock_timestamp() - make_interval(secs => %(seconds)s)
   AND NOT EXISTS (
       SELECT FROM catalog.tasks AS t
       WHERE t.model = %(model)s AND t.state IN ('queued', 'started') AND t.request ->> 'fills' = g.suffix
   )
"""

OPEN_RANGES = """
SELECT g.load_id, l.status = 'ingesting' AND l.lease_until > clock_timestamp()
FROM catalog.ranges AS g JOIN ledger.loads AS l ON l.id = g.load_id
WHERE g.model = %(model)s AND g.suffix = ANY(%(suffixes)s) AND l.status <> 'archived'
"""

STATUS = "SELECT status FROM ledger.loads WHERE id = %(id)s"

GENERATIONS_SEEN = """
SELECT DISTINCT generation FROM catalog_previous.seen_flags WHERE table_name = ANY(%(tables)s) AND generation <> ALL(%(kept)s)
"""

FORGET_REBUILD = "DELETE FROM catalog.rebuilds WHERE model = %(model)s AND suffix = ANY(%(suffixes)s)"

FORGET_COUNTS = (
    "DELETE FROM catalog.fixes WHERE model = %(model)s AND suffix = ANY(%(suffixes)s)",
    "DELETE FROM catalog.ranges WHERE model = %(model)s AND suffix = ANY(%(suffixes)s)",
    "DELETE FROM catalog.carried WHERE model = %(model)s AND suffix = ANY(%(suffixes)s)",
)

# Suffixes of indexes that no refresh is known of, and whose ranges are all done.
FILLED_OF_NO_REFRESH = """
SELECT g.suffix
FROM catalog.ranges AS g JOIN ledger.loads AS l ON l.id = g.load_id
WHERE g.model = %(model)s AND NOT EXISTS (SELECT FROM catalog.refreshes AS r WHERE r.model = g.model AND r.suffix = g.suffix)
GROUP BY g.suffix HAVING bool_and(l.status = 'archived')
"""

# Of indexes that were no more at a moment, whoever made them.
FORGET_DEAD = """
DELETE FROM catalog.dead_letters
WHERE model = %(model)s AND starts_with(index_name, %(model)s || '-') AND index_name <> ALL(%(standing)s) AND at < %(moment)s
"""

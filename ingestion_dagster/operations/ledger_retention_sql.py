"""The statements of the ledger's retention. What may go is told once, and asked again by the statement that deletes."""

from psycopg import sql

# The newest version of a key stands for it: what comes under that key is compared with it.
_FINISHED = """
    l.pipeline = %(pipeline)s AND l.status IN ('archived', 'errored') AND l.finished_at < %(before)s AND NOT l.came_back
"""

_NEWER = """
    EXISTS (SELECT FROM ledger.loads AS newer
            WHERE newer.landing_zone = l.landing_zone AND newer.key = l.key AND (newer.modified, newer.id) > (l.modified, l.id))
"""

OLD = f"""
SELECT l.id, {_NEWER}, l.finished_at
FROM ledger.loads AS l
WHERE {_FINISHED} AND (l.finished_at, l.id) > (%(after_at)s, %(after_id)s)
ORDER BY l.finished_at, l.id
LIMIT %(count)s
"""  # noqa: S608 - fragments of our own

_LET_GO = f"""
WITH held AS (
    SELECT l.id FROM ledger.loads AS l
    WHERE l.id = ANY(%(ids)s) AND {_FINISHED} REFERRED
    ORDER BY l.id
    FOR UPDATE OF l SKIP LOCKED
)
SELECT id FROM held
"""  # noqa: S608 - fragments of our own

FORGET_EVENTS = "DELETE FROM ledger.load_events WHERE load_id = ANY(%(ids)s)"
FORGET_LOADS = "DELETE FROM ledger.loads WHERE id = ANY(%(ids)s)"

ALLOW = "SELECT set_config('ledger.forgetting', 'on', true)"
ALLOW_NO_MORE = "SELECT set_config('ledger.forgetting', 'off', true)"

NAMED_LOAD = """
SELECT n.nspname, c.relname, a.attname
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = a.attrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attname = 'load_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND c.oid <> %(history)s
  AND n.nspname IN ('ledger', 'metrics', 'cubic', 'residents', 'life_events', 'catalog')
"""

LOADS = "SELECT 'ledger.loads'::regclass::oid::bigint, 'ledger.load_events'::regclass::oid::bigint"

# That it was discovered, and by whom; that it was loaded again; and what came of it in the end: all that decides about later versions.
HISTORY = """
WITH old AS (
    SELECT e.id
    FROM ledger.loads AS l
    JOIN ledger.load_events AS e ON e.load_id = l.id
    WHERE l.status IN ('archived', 'errored') AND l.finished_at < %(before)s
      AND e.from_status IS NOT NULL AND e.from_status NOT IN ('archived', 'errored') AND e.to_status NOT IN ('archived', 'errored')
      AND e.id > %(after)s
    ORDER BY e.id
    LIMIT %(count)s
)
SELECT id FROM old
"""
FORGET_HISTORY = "DELETE FROM ledger.load_events WHERE id = ANY(%(ids)s)"

FORGET_ALERTS = """
DELETE FROM ledger.alerts WHERE id IN (
    SELECT id FROM ledger.alerts WHERE status = 'sent' AND sent_at < %(before)s ORDER BY id LIMIT %(count)s FOR UPDATE SKIP LOCKED)
"""
OLD_ALERTS = "SELECT count(*) FROM ledger.alerts WHERE status = 'sent' AND sent_at < %(before)s"


def let_go(referring: sql.Composable) -> sql.Composed:
    """The statement that holds, of some loads, those that may still go; `referring` leaves out those that something refers to."""
    before, after = _LET_GO.split("REFERRED")
    return sql.SQL(before) + referring + sql.SQL(after)

"""The statements of the journal of promotions."""

OPEN_ONE = """
SELECT id, kind, suffix, from_suffix, table_state, alias_state, plan, begun_at FROM catalog.promotions
WHERE model = %(model)s AND ended_at IS NULL
"""

LAST_DONE = """
SELECT id, kind, suffix, from_suffix, table_state, alias_state, plan, begun_at FROM catalog.promotions
WHERE model = %(model)s AND outcome = 'done' ORDER BY id DESC LIMIT 1
"""

BEGIN = """
INSERT INTO catalog.promotions (model, kind, suffix, from_suffix, plan, run_id)
VALUES (%(model)s, %(kind)s, %(suffix)s, %(from_suffix)s, %(plan)s::jsonb, %(run_id)s)
RETURNING id, kind, suffix, from_suffix, table_state, alias_state, plan, begun_at
"""

TABLES = "UPDATE catalog.promotions SET table_state = %(state)s WHERE id = %(id)s"

ALIASES = "UPDATE catalog.promotions SET alias_state = %(state)s WHERE id = %(id)s"

END = "UPDATE catalog.promotions SET ended_at = clock_timestamp(), outcome = %(outcome)s WHERE id = %(id)s"

STATE = """
UPDATE catalog.refreshes
SET state = %(state)s,
    promoted_at = CASE WHEN %(state)s = 'live' THEN coalesce(promoted_at, clock_timestamp()) ELSE promoted_at END,
    ended_at = CASE WHEN %(state)s = 'retired' THEN clock_timestamp() ELSE ended_at END
WHERE model = %(model)s AND suffix = %(suffix)s
"""

IS_OPEN = "SELECT 1 FROM catalog.promotions WHERE id = %(id)s AND ended_at IS NULL"

PROMOTING = """
UPDATE catalog.refreshes SET state = 'promoting' WHERE model = %(model)s AND suffix = %(suffix)s AND state = 'filled'
"""

FILLED_AGAIN = """
UPDATE catalog.refreshes SET state = 'filled' WHERE model = %(model)s AND suffix = %(suffix)s AND state = 'promoting'
"""

PREVIOUS_TO_RETIRED = """
UPDATE catalog.refreshes SET state = 'retired', ended_at = clock_timestamp()
WHERE model = %(model)s AND state = 'previous' AND suffix <> %(suffix)s
"""

LIVE_TO_PREVIOUS = """
UPDATE catalog.refreshes SET state = 'previous' WHERE model = %(model)s AND state = 'live' AND suffix <> %(suffix)s
"""

MARKS = "SELECT table_name, last_id FROM catalog.id_marks WHERE table_name = ANY(%(tables)s)"

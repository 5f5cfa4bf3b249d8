"""The statements of refreshes."""

SELECT = """
SELECT model, suffix, load_id, state, asked_by, alias, filtered, promote, run_id, counts, requested_at, snapshot_at, promoted_at
FROM catalog.refreshes
"""

KNOWN = "SELECT 1 FROM catalog.refreshes WHERE model = %(model)s AND suffix = %(suffix)s"

REQUEST = """
INSERT INTO catalog.refreshes (model, suffix, load_id, asked_by, alias, filtered, promote)
SELECT %(model)s, %(suffix)s, id, %(asked_by)s, %(alias)s, %(filtered)s, %(promote)s
FROM ledger.loads
WHERE pipeline = 'catalog' AND landing_zone = %(zone)s AND key = %(suffix)s AND version = %(suffix)s
"""

ADVANCE = """
UPDATE catalog.refreshes
SET state = %(state)s,
    counts = counts || %(counts)s::jsonb,
    copied_at = CASE WHEN %(state)s = 'copied' THEN clock_timestamp() ELSE copied_at END,
    filled_at = CASE WHEN %(state)s = 'filled' THEN clock_timestamp() ELSE filled_at END,
    promoted_at = CASE WHEN %(state)s = 'live' AND promoted_at IS NULL THEN clock_timestamp() ELSE promoted_at END,
    snapshot_at = coalesce((%(counts)s::jsonb ->> 'snapshot_at')::timestamptz, snapshot_at),
    ended_at = CASE WHEN %(state)s IN ('retired', 'discarded') THEN clock_timestamp() ELSE ended_at END
WHERE model = %(model)s AND suffix = %(suffix)s AND state = %(seen)s
"""

NOTE = "UPDATE catalog.refreshes SET counts = counts || %(counts)s::jsonb WHERE model = %(model)s AND suffix = %(suffix)s"

HOLDER = "SELECT run_id FROM ledger.loads WHERE id = %(id)s"

# What a run has given back itself it may take again, at its next step: the ledger keeps a run only from what it has died with.
GIVEN_BACK_BY_US = "UPDATE ledger.loads SET run_id = NULL WHERE id = %(id)s AND status = 'ready' AND run_id = %(run_id)s"

FORGIVE = """
UPDATE ledger.loads SET attempts = 0, alone = false
WHERE id = %(id)s AND claim = %(claim)s AND status = 'ingesting' AND (attempts > 0 OR alone)
"""

IDLE = "SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false)"

LET_PROMOTE = """
UPDATE catalog.refreshes SET promote = true, alias = %(alias)s WHERE model = %(model)s AND suffix = %(suffix)s
"""

LOADS_OF = """
SELECT %(load_id)s
UNION ALL
SELECT load_id FROM catalog.ranges WHERE model = %(model)s AND suffix = %(suffix)s
"""

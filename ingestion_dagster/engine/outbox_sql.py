"""The outbox's statements."""

# ruff: noqa: S608 - fragments of our own are put together here, never values

_IN_SCOPE = """
    o.topic = %(topic)s
    AND (%(partitions)s::text[] IS NULL
         OR o.load_id IN (SELECT l.id FROM ledger.loads AS l WHERE l.partition = ANY(%(partitions)s::text[])))
"""

PUT = """
INSERT INTO ledger.outbox (topic, key, load_id)
SELECT %(topic)s, key, %(load_id)s FROM unnest(%(keys)s::text[]) AS given (key)
ON CONFLICT (topic, key) DO NOTHING
"""

CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT o.id
      FROM ledger.outbox AS o
     WHERE {_IN_SCOPE} AND o.dead_at IS NULL AND o.due_at <= now() AND (o.claimed_until IS NULL OR o.claimed_until < now())
     ORDER BY o.due_at, o.id
     LIMIT %(count)s
       FOR UPDATE SKIP LOCKED
)
UPDATE ledger.outbox AS o
   SET claim = (SELECT nextval('ledger.outbox_claim')), claimed_until = now() + %(lease)s
  FROM due
 WHERE o.id = due.id
RETURNING o.due_at, o.id, o.key, o.load_id, o.claim, o.attempts
"""

_OURS = "unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS ours (id, claim) WHERE o.id = ours.id AND o.claim = ours.claim"

RENEW = f"UPDATE ledger.outbox AS o SET claimed_until = now() + %(lease)s FROM {_OURS} RETURNING o.id"

GIVE_BACK = f"UPDATE ledger.outbox AS o SET claim = NULL, claimed_until = NULL FROM {_OURS}"

TAKE_OUT = f"DELETE FROM ledger.outbox AS o USING {_OURS} RETURNING o.id"

BURY = """
UPDATE ledger.outbox AS o
   SET dead_at = now(), code = ours.code, claim = NULL, claimed_until = NULL
  FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[], %(codes)s::text[]) AS ours (id, claim, code)
 WHERE o.id = ours.id AND o.claim = ours.claim
RETURNING o.id
"""

PUT_OFF = """
UPDATE ledger.outbox AS o
   SET due_at = clock_timestamp() + make_interval(secs => ours.seconds), attempts = o.attempts + ours.charge, code = ours.code,
       claim = NULL, claimed_until = NULL
  FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[], %(codes)s::text[], %(seconds)s::float8[], %(charges)s::integer[])
       AS ours (id, claim, code, seconds, charge)
 WHERE o.id = ours.id AND o.claim = ours.claim
RETURNING o.id
"""

RETRY = """
UPDATE ledger.outbox AS o
   SET dead_at = NULL, code = NULL, attempts = 0, due_at = now(), created_at = now()
 WHERE o.topic = %(topic)s AND o.dead_at IS NOT NULL AND (%(keys)s::text[] IS NULL OR o.key = ANY(%(keys)s::text[]))
RETURNING o.key
"""

LAG = f"""
SELECT count(*) FILTER (WHERE o.dead_at IS NULL AND o.due_at <= now()),
       count(*) FILTER (WHERE o.dead_at IS NULL AND o.due_at > now()),
       count(*) FILTER (WHERE o.dead_at IS NOT NULL),
       coalesce(extract(epoch FROM now() - min(o.created_at) FILTER (WHERE o.dead_at IS NULL)), 0)::float8
  FROM ledger.outbox AS o
 WHERE {_IN_SCOPE}
"""

# From topic to topic along the index: there are few, whatever number of messages.
TOPICS = """
    WITH RECURSIVE topics (topic) AS (
        (SELECT topic FROM ledger.outbox ORDER BY topic LIMIT 1)
        UNION ALL
        SELECT (SELECT beyond.topic FROM ledger.outbox AS beyond WHERE beyond.topic > topics.topic ORDER BY beyond.topic LIMIT 1)
          FROM topics
         WHERE topics.topic IS NOT NULL
    )
    SELECT topic FROM topics WHERE starts_with(topic, %(prefix)s)
"""

IS_WAITED_FOR = """
    SELECT EXISTS (SELECT FROM ledger.outbox WHERE topic = ANY(%(topics)s) AND key = %(key)s AND dead_at IS NULL)
"""

BURY_ALL = """
    WITH meant AS (
        SELECT message.id, message.dead_at IS NULL AS was_due
          FROM unnest(%(topics)s::text[]) AS given (topic)
          JOIN ledger.outbox AS message ON message.topic = given.topic
         WHERE %(keys)s::text[] IS NULL OR message.key = ANY(%(keys)s::text[])
           FOR UPDATE OF message SKIP LOCKED
    )
    UPDATE ledger.outbox AS message
       SET dead_at = coalesce(message.dead_at, clock_timestamp()), code = %(code)s, claim = NULL, claimed_until = NULL
      FROM meant
     WHERE message.id = meant.id AND message.code IS DISTINCT FROM %(code)s
    RETURNING message.topic, message.key, meant.was_due
"""

DROP_DEAD = """
    DELETE FROM ledger.outbox WHERE topic = %(topic)s AND code = %(code)s AND dead_at IS NOT NULL
"""

HELD = """
    SELECT count(*), max(claimed_until) FROM ledger.outbox WHERE topic = %(topic)s AND dead_at IS NULL AND claimed_until > clock_timestamp()
"""

DEAD_CODES = """
    SELECT coalesce(code, 'unknown'), count(*)
      FROM ledger.outbox
     WHERE topic = %(topic)s AND dead_at IS NOT NULL
     GROUP BY 1
     ORDER BY count(*) DESC, 1
"""

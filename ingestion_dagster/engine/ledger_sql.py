"""The ledger's statements. Each that moves loads tells `load_events` in the same breath."""

# ruff: noqa: S608 - fragments of our own are put together here, never values

_IN_SCOPE = """
    l.pipeline = %(pipeline)s
    AND (%(datasets)s::text[] IS NULL OR d.name IS NULL OR d.name = ANY(%(datasets)s::text[]))
    AND (%(partitions)s::text[] IS NULL OR l.partition = ANY(%(partitions)s::text[]))
    AND (%(not_after)s::timestamptz IS NULL OR l.discovered_at <= %(not_after)s::timestamptz)
    AND (%(ids)s::bigint[] IS NULL OR l.id = ANY(%(ids)s::bigint[]))
"""

# OFFSET 0 keeps the planner from joining: by statistics of before the backlog came, it would compare every open load with every other.
_CLAIMABLE = f"""
    {_IN_SCOPE}
    AND l.status = 'ready'
    AND (l.waiting_for IS NULL OR (%(waiting)s AND l.waiting_for <> 'upload'))
    AND (d.id IS NULL OR (d.is_active AND d.paused_at IS NULL) OR %(paused)s)
    AND NOT EXISTS (
        SELECT FROM ledger.loads AS older
        WHERE older.landing_zone = l.landing_zone AND older.key = l.key
          AND (older.modified, older.id) < (l.modified, l.id)
          AND older.unfinished
        OFFSET 0)
"""

COME_BACK = """
SELECT l.id, l.status
FROM unnest(%(keys)s::text[], %(versions)s::text[]) AS seen (key, version)
JOIN ledger.loads AS l ON l.landing_zone = %(landing_zone)s AND l.key = seen.key AND l.version = seen.version
WHERE l.status IN ('archived', 'errored') AND l.finished_at < %(listed_at)s
FOR UPDATE OF l SKIP LOCKED
"""

BACK = """
WITH back AS (
    UPDATE ledger.loads SET status = %(to)s, lease_until = NULL, came_back = true WHERE id = ANY(%(ids)s)
    RETURNING id
)
INSERT INTO ledger.load_events (load_id, from_status, to_status, why)
SELECT id, %(from)s, %(to)s, 'stands in the landing zone again' FROM back
"""

_CLAIM = """
WITH candidates AS (
    SELECT l.id, l.size, l.modified, l.key
    FROM ledger.loads AS l
    LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
    WHERE CLAIMABLE AND l.alone = %(alone)s
      AND (l.attempts = 0 OR l.run_id IS DISTINCT FROM %(run_id)s)
    ORDER BY l.modified, l.key, l.id
    LIMIT %(count)s
    FOR UPDATE OF l SKIP LOCKED
), measured AS (
    SELECT id, row_number() OVER w AS position, sum(size) OVER w AS total
    FROM candidates WINDOW w AS (ORDER BY modified, key, id)
), number AS (
    SELECT nextval('ledger.claim_number') AS claim
), claimed AS (
    UPDATE ledger.loads AS l
    SET status = 'ingesting', run_id = %(run_id)s, claim = number.claim, claimed_at = now(),
        lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM measured, number
    WHERE l.id = measured.id AND (measured.position = 1 OR measured.total <= %(bytes)s)
    RETURNING l.id
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, 'ready', 'ingesting', %(run_id)s, NULL FROM claimed
)
SELECT id FROM claimed
"""

CLAIM = _CLAIM.replace("CLAIMABLE", _CLAIMABLE)

# Of one dataset, found by its index; those that are loaded again by themselves, or only the others.
CLAIM_OF = _CLAIM.replace(
    "CLAIMABLE",
    f"""{_CLAIMABLE}
      AND l.dataset_id = (SELECT id FROM ledger.datasets WHERE pipeline = %(pipeline)s AND name = %(dataset)s)
      AND l.replay = %(replay)s""",
)

LOADS = """
SELECT l.id, l.pipeline, d.name, l.landing_zone, l.key, l.version, l.size, l.modified, l.partition, l.status, l.claim, l.attempts,
       l.alone, l.problems, CASE WHEN NOT l.came_back THEN l.location END, l.rows_in, l.rows_written, l.rows_unchanged, l.rows_rejected,
       to_char(s.snapshot AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'), l.replay
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
LEFT JOIN ledger.snapshots AS s ON s.id = l.snapshot_id
"""

PREVIOUS = """
SELECT l.id, previous.id,
       CASE WHEN previous.status = 'archived' AND previous.rows_rejected = 0
                 AND (l.dataset_id IS NULL OR previous.dataset_id = l.dataset_id)
                 AND (d.rebuilt_at IS NULL OR previous.committed_at > d.rebuilt_at) THEN previous.content_hash END
FROM ledger.loads AS l
CROSS JOIN LATERAL (
    SELECT p.id, p.status, p.rows_rejected, p.content_hash, p.committed_at, p.dataset_id
    FROM ledger.loads AS p
    WHERE p.landing_zone = l.landing_zone AND p.key = l.key AND (p.modified, p.id) < (l.modified, l.id)
    ORDER BY p.modified DESC, p.id DESC
    LIMIT 1) AS previous
LEFT JOIN ledger.datasets AS d ON d.id = previous.dataset_id
WHERE l.id = ANY(%(ids)s) AND NOT EXISTS (
    SELECT FROM ledger.load_events AS e WHERE e.load_id = l.id AND e.from_status IN ('archived', 'errored'))
"""

# Of two dated alike, the one entered first is the newer if its second was over by then: the listing showed the newest of that second.
OVERTAKEN = """
SELECT l.id FROM ledger.loads AS l
WHERE l.id = ANY(%(ids)s) AND l.location IS NULL AND EXISTS (
    SELECT FROM ledger.loads AS newer
    WHERE newer.landing_zone = l.landing_zone AND newer.key = l.key AND newer.status = 'archived'
      AND newer.snapshot_id IS NOT DISTINCT FROM l.snapshot_id
      AND (newer.modified > l.modified
           OR newer.modified = l.modified AND newer.id < l.id AND EXISTS (
               SELECT FROM ledger.load_events AS e
               WHERE e.load_id = newer.id AND e.from_status IS NULL AND e.at >= newer.modified + interval '1 second')))
"""

SETTLE = """
WITH verdicts AS (
    SELECT * FROM jsonb_to_recordset(%(verdicts)s::jsonb) AS v (
        id bigint, from_status text, claim bigint, to_status text, why text, dataset text, rows_in bigint, rows_written bigint,
        rows_unchanged bigint, rows_rejected bigint, bytes bigint, content_hash text, duplicate_of bigint, error_code text,
        error_message text, problems jsonb, charged boolean, waiting_for text)
), settled AS (
    UPDATE ledger.loads AS l
    SET status = v.to_status,
        dataset_id = coalesce(d.id, l.dataset_id),
        rows_in = v.rows_in, rows_written = v.rows_written, rows_unchanged = v.rows_unchanged, rows_rejected = v.rows_rejected,
        bytes = v.bytes, content_hash = v.content_hash, duplicate_of = v.duplicate_of,
        error_code = v.error_code, error_message = v.error_message, problems = v.problems,
        attempts = l.attempts + v.charged::int,
        replay = l.replay AND v.to_status = 'ready',
        waiting_for = v.waiting_for,
        committed_at = CASE WHEN v.to_status <> 'ready' THEN now() END,
        claim = CASE WHEN v.to_status <> 'ready' THEN l.claim END,
        lease_until = CASE WHEN v.to_status <> 'ready' THEN l.lease_until END
    FROM verdicts AS v
    LEFT JOIN ledger.datasets AS d ON d.pipeline = %(pipeline)s AND d.name = v.dataset
    WHERE l.id = v.id AND l.status = 'ingesting' AND l.claim = v.claim
    RETURNING l.id, v.to_status, v.why, l.run_id
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, 'ingesting', to_status, run_id, why FROM settled
)
SELECT count(*) FROM settled
"""

# The load stays its loader's, whoever moves it. What is told of a lease that ran out is told of the run that held it.
TRANSITION = """
WITH moved AS (
    UPDATE ledger.loads AS l
    SET status = %(to)s,
        lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
        location = coalesce(v.location, l.location),
        came_back = l.came_back AND %(to)s NOT IN ('archived', 'errored'),
        finished_at = CASE WHEN %(to)s IN ('archived', 'errored') THEN clock_timestamp() END
    FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[], %(locations)s::text[], %(whys)s::text[]) AS v (id, claim, location, why)
    WHERE l.id = v.id AND l.status = %(from)s AND l.claim = v.claim
    RETURNING l.id, l.run_id, v.why
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, %(from)s, %(to)s, CASE WHEN starts_with(why, 'lease expired') THEN run_id ELSE coalesce(%(run_id)s, run_id) END, why
    FROM moved
)
SELECT id FROM moved
"""

# A load that its own run is moving on at this moment is passed over: the two would wait for each other, row by row.
RENEW = """
UPDATE ledger.loads SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id IN (
    SELECT id FROM ledger.loads
    WHERE claim = ANY(%(claims)s) AND status NOT IN ('ready', 'archived', 'errored')
    FOR UPDATE SKIP LOCKED)
"""

EXPIRE = """
WITH expired AS (
    SELECT id, alone, attempts, alone AND attempts + 1 >= %(max_attempts)s AS given_up
    FROM ledger.loads
    WHERE pipeline = %(pipeline)s AND status = 'ingesting' AND lease_until < now()
    FOR UPDATE SKIP LOCKED
), back AS (
    UPDATE ledger.loads AS l
    SET status = CASE WHEN e.given_up THEN 'ready_for_erroring' ELSE 'ready' END,
        attempts = l.attempts + e.alone::int,
        alone = true,
        error_code = CASE WHEN e.given_up THEN %(code)s ELSE l.error_code END,
        error_message = CASE WHEN e.given_up THEN %(message)s ELSE l.error_message END,
        problems = CASE WHEN e.given_up THEN %(problems)s::jsonb ELSE l.problems END,
        claim = CASE WHEN e.given_up THEN l.claim END
    FROM expired AS e WHERE l.id = e.id
    RETURNING l.id, l.status, l.run_id, e.alone
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, 'ingesting', status, run_id, CASE WHEN alone THEN 'lease expired, charged' ELSE 'lease expired' END FROM back
)
SELECT count(*) FROM back
"""

STRANDED = """
WITH stranded AS (
    SELECT id FROM ledger.loads
    WHERE pipeline = %(pipeline)s
      AND status IN ('ready_for_archiving', 'archiving', 'ready_for_erroring', 'erroring')
      AND (lease_until IS NULL OR lease_until < now())
    ORDER BY modified, key, id
    LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
), number AS (
    SELECT nextval('ledger.claim_number') AS claim
), taken AS (
    UPDATE ledger.loads AS l
    SET status = CASE l.status WHEN 'archiving' THEN 'ready_for_archiving' WHEN 'erroring' THEN 'ready_for_erroring' ELSE l.status END,
        claim = number.claim, lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM stranded, number, ledger.loads AS was
    WHERE l.id = stranded.id AND was.id = l.id
    RETURNING l.id, l.run_id, was.status AS from_status, l.status AS to_status, was.lease_until IS NOT NULL AS expired
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, from_status, to_status, run_id, 'lease expired during the move' FROM taken WHERE from_status <> to_status
)
SELECT id, expired FROM taken
"""

# A key may have been landed in another zone since: by a boot, or after one. What belongs to different snapshots does not supersede; what
# was lost before it was adopted does not, either.
AGAIN = """
WITH wanted AS (
    SELECT l.id, l.status AS from_status, coalesce(l.error_code IN ('superseded', 'lost_before'), false) OR EXISTS (
        SELECT FROM ledger.loads AS newer
        WHERE newer.landing_zone = l.landing_zone AND newer.key = l.key AND (newer.modified, newer.id) > (l.modified, l.id)
          AND newer.snapshot_id IS NOT DISTINCT FROM l.snapshot_id
          AND newer.error_code IS DISTINCT FROM 'lost_before'
    ) OR EXISTS (
        SELECT FROM ledger.loads AS newer
        WHERE newer.pipeline = l.pipeline AND newer.key = l.key AND newer.landing_zone <> l.landing_zone
          AND newer.status = 'archived' AND newer.discovered_at > l.discovered_at
          AND newer.snapshot_id IS NOT DISTINCT FROM l.snapshot_id
    ) AS superseded
    FROM ledger.loads AS l
    LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
    WHERE l.pipeline = %(pipeline)s AND l.status = %(from)s
      AND (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s::text[]))
      AND (%(partitions)s::text[] IS NULL OR l.partition = ANY(%(partitions)s::text[]))
      AND (%(not_after)s::timestamptz IS NULL OR l.discovered_at <= %(not_after)s::timestamptz)
      AND (%(ids)s::bigint[] IS NULL OR l.id = ANY(%(ids)s::bigint[]))
      AND (%(key)s::text IS NULL OR l.key = %(key)s::text)
    FOR UPDATE OF l
), again AS (
    UPDATE ledger.loads AS l
    SET status = 'ready', attempts = 0, alone = false, claim = NULL, lease_until = NULL, error_code = NULL, error_message = NULL,
        problems = NULL, duplicate_of = NULL, committed_at = NULL, finished_at = NULL,
        rows_in = CASE w.from_status WHEN 'archived' THEN l.rows_in ELSE 0 END,
        rows_written = CASE w.from_status WHEN 'archived' THEN l.rows_written ELSE 0 END,
        rows_unchanged = CASE w.from_status WHEN 'archived' THEN l.rows_unchanged ELSE 0 END,
        rows_rejected = CASE w.from_status WHEN 'archived' THEN l.rows_rejected ELSE 0 END,
        replay = w.from_status = 'archived'
    FROM wanted AS w WHERE l.id = w.id AND NOT w.superseded
    RETURNING l.id, w.from_status
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, from_status, 'ready', %(run_id)s, %(why)s FROM again
)
SELECT l.id, l.key, w.superseded FROM wanted AS w JOIN ledger.loads AS l ON l.id = w.id ORDER BY l.key, l.id
"""

LOOK_AGAIN = f"""
UPDATE ledger.loads AS held SET waiting_for = NULL
FROM ledger.loads AS l LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE held.id = l.id AND {_IN_SCOPE} AND l.status = 'ready' AND l.waiting_for = 'schema'
  AND (%(key)s::text IS NULL OR l.key = %(key)s::text)
"""

# A bound ends the count of a backlog of a million: each of its loads is looked up among the older versions of its key.
CLAIMABLE = f"""
SELECT count(*), min(discovered_at)
FROM (
    SELECT l.discovered_at
    FROM ledger.loads AS l
    LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
    WHERE {_CLAIMABLE}
    LIMIT %(most)s) AS claimable
"""

# Of each dataset only its oldest is looked for, by the index of what is ready.
CLAIMABLE_DATASETS = f"""
SELECT d.name, EXISTS (SELECT FROM ledger.loads AS l WHERE l.dataset_id = d.id AND l.replay AND {_CLAIMABLE})
FROM ledger.datasets AS d
CROSS JOIN LATERAL (
    SELECT l.modified FROM ledger.loads AS l WHERE l.dataset_id = d.id AND {_CLAIMABLE} ORDER BY l.modified LIMIT 1) AS oldest
WHERE d.pipeline = %(pipeline)s
ORDER BY oldest.modified, d.name
"""

HOLD = """
SELECT l.id FROM ledger.loads AS l
JOIN unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS ours (id, claim) ON ours.id = l.id
WHERE l.status = 'ingesting' AND l.claim = ours.claim
ORDER BY l.id
FOR UPDATE OF l
"""

WAITING_SINCE = f"""
SELECT min(coalesce(
    (SELECT max(e.at) FROM ledger.load_events AS e
     WHERE e.load_id = l.id AND e.to_status = 'ready' AND e.from_status IN ('archived', 'errored')),
    l.discovered_at))
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE {_CLAIMABLE}
"""

CLAIMABLE_LOADS = f"""
{LOADS} WHERE {_CLAIMABLE} ORDER BY l.modified, l.key, l.id
"""

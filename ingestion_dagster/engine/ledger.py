"""The load ledger: one row per load, and the only legal moves between statuses."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection


class Status(StrEnum):
    """Where a load stands; the database refuses any other value."""

    READY = "ready"
    INGESTING = "ingesting"
    READY_FOR_ARCHIVING = "ready_for_archiving"
    ARCHIVING = "archiving"
    ARCHIVED = "archived"
    READY_FOR_ERRORING = "ready_for_erroring"
    ERRORING = "erroring"
    ERRORED = "errored"


LEGAL_MOVES: frozenset[tuple[Status, Status]] = frozenset(
    {
        (Status.READY, Status.INGESTING),
        (Status.INGESTING, Status.READY),
        (Status.INGESTING, Status.READY_FOR_ARCHIVING),
        (Status.INGESTING, Status.READY_FOR_ERRORING),
        (Status.READY_FOR_ARCHIVING, Status.ARCHIVING),
        (Status.READY_FOR_ERRORING, Status.ERRORING),
        (Status.ARCHIVING, Status.ARCHIVED),
        (Status.ERRORING, Status.ERRORED),
        (Status.ARCHIVING, Status.READY_FOR_ARCHIVING),
        (Status.ERRORING, Status.READY_FOR_ERRORING),
        (Status.ERRORED, Status.READY),
        (Status.ARCHIVED, Status.READY),
        (Status.ARCHIVED, Status.READY_FOR_ARCHIVING),
        (Status.ERRORED, Status.READY_FOR_ERRORING),
    }
)
"""Every move there is. Going back from a `…ing` status is a lease that ran out or a step that is to be repeated;
leaving `archived` or `errored` is a replay, a retry, or an object that has come back to the landing zone."""

FINISHED = (Status.ARCHIVED, Status.ERRORED)
MOVING = {Status.READY_FOR_ARCHIVING: Status.ARCHIVING, Status.READY_FOR_ERRORING: Status.ERRORING}
MOVED = {Status.ARCHIVING: Status.ARCHIVED, Status.ERRORING: Status.ERRORED}


class IllegalMove(Exception):
    """A transition that `LEGAL_MOVES` does not hold: a defect of the caller."""


class ClaimLost(Exception):
    """The lease of a claim ran out and somebody else took its loads: nothing of this transaction may be kept."""


@dataclass(frozen=True, slots=True)
class Load:
    """A load as claimed: what it is, and the claim number under which it may be moved on."""

    id: int
    pipeline: str
    dataset: str | None
    landing_zone: str
    key: str
    version: str
    size: int
    modified: datetime
    partition: str
    status: Status
    claim: int
    attempts: int = 0
    alone: bool = False
    problems: tuple[Problem, ...] = ()
    location: str | None = None
    rows_in: int = 0
    rows_written: int = 0
    rows_unchanged: int = 0
    rows_rejected: int = 0

    @property
    def stored_object(self) -> StoredObject:
        """The object in the landing zone that this load stands for."""
        return StoredObject(key=self.key, size=self.size, modified=self.modified, version=self.version)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which loads a run may claim. None means no narrowing; a load of unknown dataset is in every scope."""

    pipeline: str
    datasets: frozenset[str] | None = None
    partitions: frozenset[str] | None = None
    not_after: datetime | None = None
    ids: frozenset[int] | None = None

    def as_parameters(self) -> dict[str, Any]:
        """The named parameters of `_IN_SCOPE`."""
        return {
            "pipeline": self.pipeline,
            "datasets": None if self.datasets is None else sorted(self.datasets),
            "partitions": None if self.partitions is None else sorted(self.partitions),
            "not_after": self.not_after,
            "ids": None if self.ids is None else sorted(self.ids),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one claimed load. `to` is `ready` (given back, uncharged), `ready_for_archiving` or `ready_for_erroring`."""

    load: Load
    to: Status
    why: str | None = None
    dataset: str | None = None
    rows_in: int = 0
    rows_written: int = 0
    rows_rejected: int = 0
    bytes: int = 0
    content_hash: str | None = None
    duplicate_of: int | None = None
    problems: tuple[Problem, ...] = ()
    charged: bool = False

    @property
    def rows_unchanged(self) -> int:
        """Rows that came in and were neither written nor rejected."""
        return self.rows_in - self.rows_written - self.rows_rejected

    @property
    def error(self) -> Problem | None:
        """The problem shown with the load: the first error, or else the first warning."""
        errors = [problem for problem in self.problems if problem.severity == "error"]
        return (errors or list(self.problems) or [None])[0]


@dataclass(frozen=True, slots=True)
class Previous:
    """The version of a key before the one in hand: its load, and the hash of its content if that counts for duplicates."""

    load_id: int
    content_hash: str | None


_IN_SCOPE = """
    l.pipeline = %(pipeline)s
    AND (%(datasets)s::text[] IS NULL OR d.name IS NULL OR d.name = ANY(%(datasets)s::text[]))
    AND (%(partitions)s::text[] IS NULL OR l.partition = ANY(%(partitions)s::text[]))
    AND (%(not_after)s::timestamptz IS NULL OR l.discovered_at <= %(not_after)s::timestamptz)
    AND (%(ids)s::bigint[] IS NULL OR l.id = ANY(%(ids)s::bigint[]))
"""

_CLAIMABLE = f"""
    {_IN_SCOPE}
    AND l.status = 'ready'
    AND l.waiting_for IS NULL
    AND (d.id IS NULL OR (d.is_active AND d.paused_at IS NULL))
    AND NOT EXISTS (
        SELECT FROM ledger.loads AS older
        WHERE older.landing_zone = l.landing_zone AND older.key = l.key
          AND (older.modified, older.id) < (l.modified, l.id)
          AND older.status NOT IN ('archived', 'errored'))
"""

SYNC_DATASETS = """
INSERT INTO ledger.datasets (pipeline, name, landing_prefix)
SELECT %(pipeline)s, name, '' FROM unnest(%(names)s::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM ledger.datasets AS d WHERE d.pipeline = %(pipeline)s AND d.name = wanted.name)
ORDER BY name
ON CONFLICT (pipeline, name) DO NOTHING
"""

DISCOVER = """
WITH seen AS (
    SELECT * FROM unnest(%(keys)s::text[], %(versions)s::text[], %(sizes)s::bigint[], %(modified)s::timestamptz[])
        AS seen (key, version, size, modified)
), added AS (
    INSERT INTO ledger.loads (pipeline, landing_zone, key, version, size, modified, partition, discovered_at)
    SELECT %(pipeline)s, %(landing_zone)s, key, version, size, modified, %(partition)s, %(now)s
    FROM seen
    WHERE NOT EXISTS (
        SELECT FROM ledger.loads AS l
        WHERE l.landing_zone = %(landing_zone)s AND l.key = seen.key AND l.version = seen.version)
    ORDER BY modified, key
    ON CONFLICT (landing_zone, key, version) DO NOTHING
    RETURNING id
)
INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
SELECT id, NULL, 'ready', %(run_id)s, 'discovered' FROM added
"""

COME_BACK = """
SELECT l.id, l.status
FROM unnest(%(keys)s::text[], %(versions)s::text[]) AS seen (key, version)
JOIN ledger.loads AS l ON l.landing_zone = %(landing_zone)s AND l.key = seen.key AND l.version = seen.version
WHERE l.status IN ('archived', 'errored') AND l.finished_at < %(listed_at)s
FOR UPDATE OF l SKIP LOCKED
"""

CLAIM = f"""
WITH candidates AS (
    SELECT l.id, l.size, l.modified, l.key
    FROM ledger.loads AS l
    LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
    WHERE {_CLAIMABLE} AND l.alone = %(alone)s
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
        lease_until = now() + make_interval(secs => %(lease)s)
    FROM measured, number
    WHERE l.id = measured.id AND (measured.position = 1 OR measured.total <= %(bytes)s)
    RETURNING l.id
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, 'ready', 'ingesting', %(run_id)s, NULL FROM claimed
)
SELECT id FROM claimed
"""

_LOAD_COLUMNS = """
SELECT l.id, l.pipeline, d.name, l.landing_zone, l.key, l.version, l.size, l.modified, l.partition, l.status, l.claim, l.attempts,
       l.alone, l.problems, l.location, l.rows_in, l.rows_written, l.rows_unchanged, l.rows_rejected
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
"""

PREVIOUS = """
SELECT l.id, previous.id,
       CASE WHEN previous.status = 'archived' AND previous.rows_rejected = 0 THEN previous.content_hash END
FROM ledger.loads AS l
CROSS JOIN LATERAL (
    SELECT p.id, p.status, p.rows_rejected, p.content_hash
    FROM ledger.loads AS p
    WHERE p.landing_zone = l.landing_zone AND p.key = l.key AND (p.modified, p.id) < (l.modified, l.id)
    ORDER BY p.modified DESC, p.id DESC
    LIMIT 1) AS previous
WHERE l.id = ANY(%(ids)s) AND NOT EXISTS (
    SELECT FROM ledger.load_events AS e WHERE e.load_id = l.id AND e.from_status IN ('archived', 'errored'))
"""

SETTLE = """
WITH verdicts AS (
    SELECT * FROM jsonb_to_recordset(%(verdicts)s::jsonb) AS v (
        id bigint, from_status text, claim bigint, to_status text, why text, dataset text, rows_in bigint, rows_written bigint,
        rows_unchanged bigint, rows_rejected bigint, bytes bigint, content_hash text, duplicate_of bigint, error_code text,
        error_message text, problems jsonb, charged boolean)
), settled AS (
    UPDATE ledger.loads AS l
    SET status = v.to_status,
        dataset_id = coalesce(d.id, l.dataset_id),
        rows_in = v.rows_in, rows_written = v.rows_written, rows_unchanged = v.rows_unchanged, rows_rejected = v.rows_rejected,
        bytes = v.bytes, content_hash = v.content_hash, duplicate_of = v.duplicate_of,
        error_code = v.error_code, error_message = v.error_message, problems = v.problems,
        attempts = l.attempts + v.charged::int,
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

TRANSITION = """
WITH moved AS (
    UPDATE ledger.loads AS l
    SET status = %(to)s,
        run_id = coalesce(%(run_id)s, l.run_id),
        lease_until = now() + make_interval(secs => %(lease)s),
        location = coalesce(v.location, l.location),
        finished_at = CASE WHEN %(to)s IN ('archived', 'errored') THEN clock_timestamp() END
    FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[], %(locations)s::text[], %(whys)s::text[]) AS v (id, claim, location, why)
    WHERE l.id = v.id AND l.status = %(from)s AND l.claim = v.claim
    RETURNING l.id, l.run_id, v.why
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, %(from)s, %(to)s, run_id, why FROM moved
)
SELECT id FROM moved
"""

RENEW = """
UPDATE ledger.loads SET lease_until = now() + make_interval(secs => %(lease)s)
WHERE claim = ANY(%(claims)s) AND status IN ('ingesting', 'ready_for_archiving', 'archiving', 'ready_for_erroring', 'erroring')
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
        claim = number.claim, lease_until = now() + make_interval(secs => %(lease)s)
    FROM stranded, number, ledger.loads AS was
    WHERE l.id = stranded.id AND was.id = l.id
    RETURNING l.id, was.status AS from_status, l.status AS to_status
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, from_status, to_status, %(run_id)s, 'lease expired during the move' FROM taken WHERE from_status <> to_status
)
SELECT id FROM taken
"""

RETRY = """
WITH wanted AS (
    SELECT l.id, l.status AS from_status, EXISTS (
        SELECT FROM ledger.loads AS newer
        WHERE newer.landing_zone = l.landing_zone AND newer.key = l.key AND (newer.modified, newer.id) > (l.modified, l.id)
    ) AS superseded
    FROM ledger.loads AS l
    LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
    WHERE l.pipeline = %(pipeline)s AND l.status = 'errored'
      AND (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s::text[]))
      AND (%(partitions)s::text[] IS NULL OR l.partition = ANY(%(partitions)s::text[]))
      AND (%(key)s::text IS NULL OR l.key = %(key)s::text)
    FOR UPDATE OF l
), again AS (
    UPDATE ledger.loads AS l
    SET status = 'ready', attempts = 0, alone = false, claim = NULL, lease_until = NULL, error_code = NULL, error_message = NULL,
        problems = NULL, duplicate_of = NULL, committed_at = NULL, finished_at = NULL,
        rows_in = 0, rows_written = 0, rows_unchanged = 0, rows_rejected = 0
    FROM wanted AS w WHERE l.id = w.id AND NOT w.superseded
    RETURNING l.id, w.from_status
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
    SELECT id, from_status, 'ready', NULL, 'retry' FROM again
)
SELECT l.id, l.key, w.superseded FROM wanted AS w JOIN ledger.loads AS l ON l.id = w.id ORDER BY l.key, l.id
"""

PAUSE = "UPDATE ledger.datasets SET paused_at = now(), paused_why = %(why)s WHERE pipeline = %(pipeline)s AND name = %(dataset)s RETURNING id"
RESUME = "UPDATE ledger.datasets SET paused_at = NULL, paused_why = NULL WHERE pipeline = %(pipeline)s AND name = %(dataset)s RETURNING id"
DATASETS = "SELECT name FROM ledger.datasets WHERE pipeline = %(pipeline)s AND is_active AND paused_at IS NULL"

CLAIMABLE = f"""
SELECT count(*), min(l.discovered_at)
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE {_CLAIMABLE}
"""

CLAIMABLE_LOADS = f"""
{_LOAD_COLUMNS} WHERE {_CLAIMABLE} ORDER BY l.modified, l.key, l.id
"""


STATUS_COUNTS = """
SELECT l.pipeline, coalesce(d.name, 'unknown'), l.partition, l.status, l.waiting_for, count(*), sum(l.rows_written), sum(l.rows_unchanged),
       sum(l.rows_rejected), sum(l.bytes)
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE (%(pipeline)s::text IS NULL OR l.pipeline = %(pipeline)s::text)
  AND (%(partitions)s::text[] IS NULL OR l.partition = ANY(%(partitions)s::text[]))
GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3, 4, 5
"""
STATUS_COUNT_FIELDS = (
    "pipeline", "dataset", "partition", "status", "waiting_for", "loads", "rows_written", "rows_unchanged", "rows_rejected", "bytes",
)  # fmt: skip

LOAD_STATES = """
SELECT l.pipeline, coalesce(d.name, 'unknown'), l.key, l.version, l.partition, to_char(s.snapshot AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'),
       l.waiting_for, l.status, l.attempts, l.rows_in, l.rows_written, l.rows_unchanged, l.rows_rejected, l.duplicate_of, l.error_code,
       l.error_message, l.run_id, l.discovered_at, l.finished_at
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
LEFT JOIN ledger.snapshots AS s ON s.id = l.snapshot_id
WHERE (%(pipeline)s::text IS NULL OR l.pipeline = %(pipeline)s::text)
ORDER BY l.pipeline, l.discovered_at, l.key, l.id
"""
LOAD_STATE_FIELDS = (
    "pipeline", "dataset", "key", "version", "partition", "snapshot", "waiting_for", "status", "attempts", "rows_in", "rows_written",
    "rows_unchanged", "rows_rejected", "duplicate_of", "error_code", "error_message", "run_id", "discovered_at", "finished_at",
)  # fmt: skip

OF_RUN = """
SELECT status, count(*), coalesce(sum(rows_in), 0), coalesce(sum(rows_written), 0), coalesce(sum(rows_unchanged), 0),
       coalesce(sum(rows_rejected), 0), count(duplicate_of)
FROM ledger.loads WHERE pipeline = %(pipeline)s AND run_id = %(run_id)s GROUP BY status
"""

HELD_BACK = """
SELECT coalesce(d.name, 'unknown'), CASE WHEN d.paused_at IS NOT NULL THEN 'paused: ' || coalesce(d.paused_why, '')
            ELSE 'waiting for ' || l.waiting_for END, count(*)
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND l.status = 'ready' AND (d.paused_at IS NOT NULL OR l.waiting_for IS NOT NULL)
GROUP BY 1, 2 ORDER BY 1, 2
"""

ERRORS = """
SELECT error_code, min(error_message), count(*) FROM ledger.loads
WHERE pipeline = %(pipeline)s AND status IN ('ready_for_erroring', 'erroring', 'errored')
GROUP BY 1 ORDER BY 3 DESC, 1
"""

DEAD_RUNS = """
SELECT DISTINCT e.run_id
FROM ledger.load_events AS e
JOIN ledger.loads AS l ON l.id = e.load_id
WHERE l.pipeline = %(pipeline)s AND e.run_id = ANY(%(run_ids)s) AND starts_with(e.why, 'lease expired')
  AND NOT EXISTS (SELECT FROM ledger.loads AS held WHERE held.run_id = e.run_id AND held.lease_until > now()
                  AND held.status IN ('ingesting', 'archiving', 'erroring'))
"""


def sync_datasets(connection: Connection, pipeline: str, names: Iterable[str]) -> None:
    """Enter the datasets a pipeline's registry knows; those already there keep their pause and activity."""
    connection.execute(SYNC_DATASETS, {"pipeline": pipeline, "names": sorted(names)})


def discover(
    connection: Connection, pipeline: str, landing_zone: str, objects: Sequence[StoredObject], now: datetime, run_id: str | None = None
) -> int:
    """Enter objects seen in a landing zone as `ready` loads of today's partition; known ones are left alone.

    Returns how many were new.
    """
    new = connection.execute(
        DISCOVER,
        {
            "pipeline": pipeline,
            "landing_zone": landing_zone,
            "keys": [seen.key for seen in objects],
            "versions": [seen.version for seen in objects],
            "sizes": [seen.size for seen in objects],
            "modified": [seen.modified for seen in objects],
            "partition": now.strftime("%Y-%m-%d"),
            "now": now,
            "run_id": run_id,
        },
    )
    return new.rowcount


def come_back(connection: Connection, landing_zone: str, objects: Sequence[StoredObject], listed_at: datetime) -> int:
    """Mark finished loads whose very version stands in the landing zone again, to be moved once more. Returns how many.

    A load that finished after the listing began is not meant: the listing saw its object before the move.
    """
    found = connection.execute(
        COME_BACK,
        {
            "landing_zone": landing_zone,
            "keys": [seen.key for seen in objects],
            "versions": [seen.version for seen in objects],
            "listed_at": listed_at,
        },
    ).fetchall()
    for status, to in ((Status.ARCHIVED, Status.READY_FOR_ARCHIVING), (Status.ERRORED, Status.READY_FOR_ERRORING)):
        ids = [row[0] for row in found if row[1] == status]
        if ids:
            _check_legal(status, to)
            connection.execute(
                "WITH back AS (UPDATE ledger.loads SET status = %(to)s, lease_until = NULL, location = NULL WHERE id = ANY(%(ids)s) "
                "RETURNING id) INSERT INTO ledger.load_events (load_id, from_status, to_status, why) "
                "SELECT id, %(from)s, %(to)s, 'stands in the landing zone again' FROM back",
                {"ids": ids, "from": status, "to": to},
            )
    return len(found)


def claim(connection: Connection, scope: Scope, run_id: str, *, count: int, size: int, lease_seconds: float) -> list[Load]:
    """Take a batch of claimable loads, oldest first, bounded by number and bytes.

    Loads that a run died with come last and one by one. Two callers at once get disjoint batches.
    """
    for alone in (False, True):
        parameters = scope.as_parameters() | {
            "alone": alone,
            "count": 1 if alone else count,
            "bytes": size,
            "run_id": run_id,
            "lease": lease_seconds,
        }
        fault_point("transition.ready.ingesting.before")
        ids = [row[0] for row in connection.execute(CLAIM, parameters).fetchall()]
        if ids:
            fault_point("transition.ready.ingesting.after")
            return loads(connection, ids)
    return []


def loads(connection: Connection, ids: Sequence[int]) -> list[Load]:
    """The loads with these ids, oldest `modified` first, then by key."""
    rows = connection.execute(_LOAD_COLUMNS + "WHERE l.id = ANY(%(ids)s) ORDER BY l.modified, l.key, l.id", {"ids": list(ids)})
    return [_load(row) for row in rows]


def claimable_loads(connection: Connection, scope: Scope) -> list[Load]:
    """What a run of this scope would claim now, without claiming it."""
    return [_load(row) for row in connection.execute(CLAIMABLE_LOADS, scope.as_parameters())]


def claimable(connection: Connection, scope: Scope) -> tuple[int, datetime | None]:
    """How many loads a run of this scope could claim now, and when the oldest of them was discovered."""
    row = connection.execute(CLAIMABLE, scope.as_parameters()).fetchone()
    assert row is not None
    return int(row[0]), row[1]


def previous_versions(connection: Connection, batch: Sequence[Load]) -> dict[int, Previous]:
    """By load id, the version of the same key before it. Loads that are retried or replayed have none: they are loaded again."""
    rows = connection.execute(PREVIOUS, {"ids": [load.id for load in batch]})
    return {row[0]: Previous(row[1], row[2]) for row in rows}


def available_datasets(connection: Connection, pipeline: str) -> frozenset[str]:
    """Datasets that are active and not paused."""
    return frozenset(row[0] for row in connection.execute(DATASETS, {"pipeline": pipeline}))


def settle(connection: Connection, verdicts: Sequence[Verdict]) -> None:
    """Move claimed loads on as judged, in the caller's transaction. All or nothing: raises `ClaimLost` if one is no longer ours."""
    for to in {verdict.to for verdict in verdicts}:
        _check_legal(Status.INGESTING, to)
        fault_point(f"transition.ingesting.{to}.before")
    for pipeline in {verdict.load.pipeline for verdict in verdicts}:
        of_pipeline = [verdict for verdict in verdicts if verdict.load.pipeline == pipeline]
        payload = json.dumps([_as_record(verdict) for verdict in of_pipeline])
        row = connection.execute(SETTLE, {"pipeline": pipeline, "verdicts": payload}).fetchone()
        if row is None or row[0] != len(of_pipeline):
            raise ClaimLost
    for to in {verdict.to for verdict in verdicts}:
        fault_point(f"transition.ingesting.{to}.after")


@dataclass(frozen=True, slots=True)
class Step:
    """One load's part in a transition: which, and what to record with it."""

    load: Load
    location: str | None = None
    why: str | None = None


def transition(
    connection: Connection, steps: Sequence[Step], frm: Status, to: Status, *, lease_seconds: float, run_id: str | None = None
) -> list[Load]:
    """Move loads from one status to another if they still stand there under their claim. Returns those that moved."""
    _check_legal(frm, to)
    if not steps:
        return []
    fault_point(f"transition.{frm}.{to}.before")
    moved = connection.execute(
        TRANSITION,
        {
            "ids": [step.load.id for step in steps],
            "claims": [step.load.claim for step in steps],
            "locations": [step.location for step in steps],
            "whys": [step.why for step in steps],
            "from": frm,
            "to": to,
            "run_id": run_id,
            "lease": lease_seconds,
        },
    )
    ids = {row[0] for row in moved}
    fault_point(f"transition.{frm}.{to}.after")
    return [replace(step.load, status=to) for step in steps if step.load.id in ids]


def renew(connection: Connection, claims: Sequence[int], lease_seconds: float) -> None:
    """Put off the expiry of these claims."""
    connection.execute(RENEW, {"claims": list(claims), "lease": lease_seconds})


def expire(connection: Connection, pipeline: str, max_attempts: int) -> int:
    """Return loads whose run went silent to `ready`. Returns how many.

    They are claimed one by one from then on; only a load that was in hand alone is charged with an attempt, and given up
    as `crashed_repeatedly` when it has used up `max_attempts`.
    """
    problem = Problem(
        "crashed_repeatedly",
        "the whole file",
        f"{max_attempts} runs died with this file alone in hand; see their logs for what killed them, then use 'ingestion retry'",
    )
    fault_point("transition.ingesting.ready.before")
    row = connection.execute(
        EXPIRE,
        {
            "pipeline": pipeline,
            "max_attempts": max_attempts,
            "code": problem.code,
            "message": problem.message,
            "problems": json.dumps([problem.as_dict()]),
        },
    ).fetchone()
    fault_point("transition.ingesting.ready.after")
    return int(row[0]) if row else 0


def take_stranded(connection: Connection, pipeline: str, run_id: str | None, *, count: int, lease_seconds: float) -> list[Load]:
    """Take over moves that nobody is working on any more, under a new claim."""
    rows = connection.execute(STRANDED, {"pipeline": pipeline, "run_id": run_id, "count": count, "lease": lease_seconds}).fetchall()
    return loads(connection, [row[0] for row in rows]) if rows else []


@dataclass(frozen=True, slots=True)
class Retried:
    """By load id, keys put back to `ready`, and keys refused because a newer version of them is known."""

    again: dict[int, str] = field(default_factory=dict)
    superseded: dict[int, str] = field(default_factory=dict)


def retry(connection: Connection, scope: Scope, key: str | None = None) -> Retried:
    """Put errored loads back to `ready`, attempts forgotten; only the newest version of a key."""
    fault_point("transition.errored.ready.before")
    rows = connection.execute(RETRY, scope.as_parameters() | {"key": key}).fetchall()
    fault_point("transition.errored.ready.after")
    return Retried({id: key for id, key, old in rows if not old}, {id: key for id, key, old in rows if old})


def pause(connection: Connection, pipeline: str, dataset: str, why: str) -> bool:
    """Stop claiming a dataset's loads; discovery goes on. False if there is no such dataset."""
    found = connection.execute(PAUSE, {"pipeline": pipeline, "dataset": dataset, "why": why}).fetchone() is not None
    return found


def resume(connection: Connection, pipeline: str, dataset: str) -> bool:
    """Claim a paused dataset's loads again. False if there is no such dataset."""
    found = connection.execute(RESUME, {"pipeline": pipeline, "dataset": dataset}).fetchone() is not None
    return found


def status_counts(connection: Connection, pipeline: str | None = None, partitions: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Loads by pipeline, dataset, partition and status, as `status --json` shows them."""
    parameters = {"pipeline": pipeline, "partitions": None if partitions is None else sorted(partitions)}
    return [dict(zip(STATUS_COUNT_FIELDS, _plain(row), strict=True)) for row in connection.execute(STATUS_COUNTS, parameters)]


def load_states(connection: Connection, pipeline: str | None = None) -> list[dict[str, Any]]:
    """Every load, as `status --loads --json` shows it; times in ISO 8601, UTC."""
    return [dict(zip(LOAD_STATE_FIELDS, _plain(row), strict=True)) for row in connection.execute(LOAD_STATES, {"pipeline": pipeline})]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What one run did, as far as it is the last that touched the loads."""

    loads: int = 0
    errored: int = 0
    duplicates: int = 0
    rows_in: int = 0
    rows_written: int = 0
    rows_unchanged: int = 0
    rows_rejected: int = 0

    def __add__(self, other: "RunSummary") -> "RunSummary":
        return RunSummary(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def of_run(connection: Connection, pipeline: str, run_id: str) -> RunSummary:
    """The loads a run took to an end or committed; what it gave back is not counted."""
    done = [row for row in connection.execute(OF_RUN, {"pipeline": pipeline, "run_id": run_id}) if row[0] not in ("ready", "ingesting")]
    errored = sum(row[1] for row in done if row[0] in ("ready_for_erroring", "erroring", "errored"))
    sums = [int(sum(row[column] for row in done)) for column in range(1, 7)]
    return RunSummary(sums[0], errored, sums[5], *sums[1:5])


def held_back(connection: Connection, pipeline: str) -> list[tuple[str, str, int]]:
    """Loads that no run may claim now: dataset, why, how many."""
    return [(row[0], row[1], row[2]) for row in connection.execute(HELD_BACK, {"pipeline": pipeline})]


def errors(connection: Connection, pipeline: str) -> list[tuple[str, str, int]]:
    """What errored loads were refused for: code, one of the messages, how many; most frequent first."""
    return [(row[0], row[1], row[2]) for row in connection.execute(ERRORS, {"pipeline": pipeline})]


def dead_runs(connection: Connection, pipeline: str, run_ids: Sequence[str]) -> list[str]:
    """Those of these runs whose leases have run out and that hold no live one: they cannot be working any more."""
    return [row[0] for row in connection.execute(DEAD_RUNS, {"pipeline": pipeline, "run_ids": list(run_ids)})]


def _plain(row: tuple[Any, ...]) -> list[Any]:
    """Values as JSON has them: sums as integers, times as ISO text."""
    return [value.isoformat() if isinstance(value, datetime) else int(value) if isinstance(value, Decimal) else value for value in row]


def _check_legal(frm: Status, to: Status) -> None:
    if (frm, to) not in LEGAL_MOVES:
        raise IllegalMove(f"{frm} → {to}")


def _as_record(verdict: Verdict) -> dict[str, Any]:
    error = verdict.error
    return {
        "id": verdict.load.id,
        "claim": verdict.load.claim,
        "to_status": verdict.to,
        "why": verdict.why,
        "dataset": verdict.dataset,
        "rows_in": verdict.rows_in,
        "rows_written": verdict.rows_written,
        "rows_unchanged": verdict.rows_unchanged,
        "rows_rejected": verdict.rows_rejected,
        "bytes": verdict.bytes,
        "content_hash": verdict.content_hash,
        "duplicate_of": verdict.duplicate_of,
        "error_code": error.code if error else None,
        "error_message": f"{error.place}: {error.message}" if error else None,
        "problems": [problem.as_dict() for problem in verdict.problems] or None,
        "charged": verdict.charged,
    }


def _load(row: tuple[Any, ...]) -> Load:
    problems = tuple(Problem(**problem) for problem in row[13] or ())
    return Load(*row[:9], Status(row[9]), row[10] or 0, row[11], row[12], problems, *row[14:19])

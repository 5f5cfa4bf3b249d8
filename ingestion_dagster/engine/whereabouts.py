"""Where every load stands, as people and checks ask for it; reads the ledger, moves nothing."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import psycopg

from ingestion_dagster.engine.ledger import SUPERSEDED
from ingestion_dagster.engine.postgres import Connection

DRAIN = "stream-"
NO_RUNS = (DRAIN, "adopt-")
"""How the ids begin under which loads are claimed by what is no run of Dagster's."""

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
SELECT l.pipeline, coalesce(d.name, 'unknown'), l.key, l.version, l.partition,
       to_char(s.snapshot AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'),
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
       coalesce(sum(rows_rejected), 0), count(duplicate_of),
       count(*) FILTER (WHERE EXISTS (SELECT FROM ledger.load_events AS e
                                      WHERE e.load_id = loads.id AND e.run_id = loads.run_id AND starts_with(e.why, 'late:')))
FROM ledger.loads WHERE pipeline = %(pipeline)s AND run_id = %(run_id)s GROUP BY status
"""

OF_LOADS = """
SELECT status, count(*), coalesce(sum(rows_in), 0), coalesce(sum(rows_written), 0), coalesce(sum(rows_unchanged), 0),
       coalesce(sum(rows_rejected), 0), count(duplicate_of), 0
FROM ledger.loads WHERE id = ANY(%(ids)s) GROUP BY status
"""

IN_HAND = "SELECT count(*) FROM ledger.loads WHERE pipeline = %(pipeline)s AND status NOT IN ('ready', 'archived', 'errored')"

HELD_BACK = """
SELECT coalesce(d.name, 'unknown'), CASE WHEN d.paused_at IS NOT NULL THEN 'paused: ' || coalesce(d.paused_why, '')
            WHEN l.waiting_for IS NOT NULL THEN 'waiting for ' || l.waiting_for || coalesce(': ' || l.error_message, '')
            ELSE 'not active' END, count(*)
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND l.status = 'ready' AND (d.paused_at IS NOT NULL OR l.waiting_for IS NOT NULL OR NOT d.is_active)
GROUP BY 1, 2 ORDER BY 1, 2
"""

# A file that was delivered again has been dealt with, one way or the other: its newest version stands for it.
UNMENDED: Final = """l.status IN ('ready_for_erroring', 'erroring', 'errored')
  AND NOT EXISTS (
      SELECT FROM ledger.loads AS newer
      WHERE newer.pipeline = l.pipeline AND newer.key = l.key AND newer.status IN ('archived', 'errored')
        AND (newer.discovered_at, newer.id) > (l.discovered_at, l.id))"""
"""Of `ledger.loads AS l`: what stands refused."""

ERRORS = f"""
SELECT l.error_code, min(l.error_message), count(*)
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND {UNMENDED}
  AND (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s::text[]))
  AND (%(partitions)s::text[] IS NULL OR l.partition = ANY(%(partitions)s::text[]))
GROUP BY 1 ORDER BY 3 DESC, 1
"""  # noqa: S608 - of constants

UNACCOUNTED = """
SELECT l.id
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND l.committed_at IS NOT NULL
  AND (%(dataset)s::text IS NULL OR d.name = %(dataset)s::text)
  AND (%(run_id)s::text IS NULL OR l.run_id = %(run_id)s::text)
  AND (l.rows_in <> l.rows_written + l.rows_unchanged + l.rows_rejected OR l.rows_unchanged < 0)
ORDER BY l.id
"""

DEAD_RUNS = """
SELECT DISTINCT e.run_id
FROM ledger.load_events AS e
JOIN ledger.loads AS l ON l.id = e.load_id
WHERE l.pipeline = %(pipeline)s AND e.run_id = ANY(%(run_ids)s) AND starts_with(e.why, 'lease expired')
  AND NOT EXISTS (SELECT FROM ledger.loads AS held WHERE held.run_id = e.run_id AND held.lease_until > now()
                  AND held.status NOT IN ('ready', 'archived', 'errored')
                  AND NOT EXISTS (SELECT FROM ledger.load_events AS taken WHERE taken.load_id = held.id AND taken.run_id = held.run_id
                                  AND starts_with(taken.why, 'lease expired') AND taken.at > held.claimed_at))
"""

VERSIONS = """
SELECT l.id, l.version, l.modified, l.discovered_at, l.content_hash, l.location IS NOT NULL, coalesce(l.error_code = %(superseded)s, false),
       CASE WHEN l.committed_at <= d.rebuilt_at THEN d.rebuilt_at END, e.run_id
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
LEFT JOIN ledger.load_events AS e ON e.load_id = l.id AND e.from_status IS NULL
WHERE l.landing_zone = %(landing_zone)s AND l.key = %(key)s
ORDER BY l.modified DESC, l.id DESC
"""

LOAD_OF = "SELECT id FROM ledger.loads WHERE landing_zone = %(landing_zone)s AND key = %(key)s AND version = %(version)s"

WORKS = "SELECT pg_advisory_lock(hashtextextended(%(run_id)s, 0))"
WORKS_NO_MORE = "SELECT pg_advisory_unlock(hashtextextended(%(run_id)s, 0))"
NOBODY_WORKS = "SELECT pg_try_advisory_xact_lock(hashtextextended(%(run_id)s, 0))"

LAST_CLAIM = "SELECT max(claimed_at) FROM ledger.loads WHERE pipeline = %(pipeline)s AND run_id = %(run_id)s"


def status_counts(connection: Connection, pipeline: str | None = None, partitions: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Loads by pipeline, dataset, partition and status, as `status --json` shows them: `STATUS_COUNT_FIELDS` each."""
    parameters = {"pipeline": pipeline, "partitions": None if partitions is None else sorted(partitions)}
    return [dict(zip(STATUS_COUNT_FIELDS, _plain(row), strict=True)) for row in connection.execute(STATUS_COUNTS, parameters)]


def load_states(connection: Connection, pipeline: str | None = None) -> list[dict[str, Any]]:
    """Every load, as `status --loads --json` shows it: `LOAD_STATE_FIELDS` each, times in ISO 8601, UTC."""
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
    moving: int = 0
    """Committed loads whose objects have not reached their place yet."""
    late: int = 0
    """Loads whose file was older than one already seen."""
    left: int = 0
    """Loads in scope that could be claimed but not be dealt with."""
    rows_created: int = 0
    """Of a dry run that could foretell it: rows that would become new records elsewhere; so the next two."""
    rows_matched: int = 0
    rows_skipped: int = 0

    def __add__(self, other: "RunSummary") -> "RunSummary":
        return RunSummary(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def of_run(connection: Connection, pipeline: str, run_id: str) -> RunSummary:
    """The loads a run took to an end or committed; what it gave back is not counted."""
    return _summed(connection.execute(OF_RUN, {"pipeline": pipeline, "run_id": run_id}).fetchall())


def of_loads(connection: Connection, ids: Sequence[int]) -> RunSummary:
    """What has become of these loads; those that are not at an end yet are not counted."""
    return _summed(connection.execute(OF_LOADS, {"ids": list(ids)}).fetchall())


def _summed(rows: Sequence[tuple[Any, ...]]) -> RunSummary:
    done = [row for row in rows if row[0] not in ("ready", "ingesting")]
    errored = sum(row[1] for row in done if row[0] in ("ready_for_erroring", "erroring", "errored"))
    loads, rows_in, written, unchanged, rejected, duplicates, late = (int(sum(row[column] for row in done)) for column in range(1, 8))
    moving = sum(row[1] for row in done if row[0] not in ("archived", "errored"))
    return RunSummary(loads, errored, duplicates, rows_in, written, unchanged, rejected, moving, late=late)


def in_hand(connection: Connection, pipeline: str) -> int:
    """How many loads some run has, or had when it died."""
    row = connection.execute(IN_HAND, {"pipeline": pipeline}).fetchone()
    assert row is not None
    return int(row[0])


def held_back(connection: Connection, pipeline: str) -> list[tuple[str, str, int]]:
    """Loads that no run may claim now: dataset, why, how many."""
    return [(row[0], row[1], row[2]) for row in connection.execute(HELD_BACK, {"pipeline": pipeline})]


def errors(
    connection: Connection, pipeline: str, datasets: Iterable[str] | None = None, partitions: Iterable[str] | None = None
) -> list[tuple[str, str, int]]:
    """What errored loads were refused for: code, one of the messages, how many; most frequent first."""
    parameters = {
        "pipeline": pipeline,
        "datasets": None if datasets is None else sorted(datasets),
        "partitions": None if partitions is None else sorted(partitions),
    }
    return [(row[0], row[1], row[2]) for row in connection.execute(ERRORS, parameters)]


def unaccounted(connection: Connection, pipeline: str, dataset: str | None = None, run_id: str | None = None) -> list[int]:
    """Ids of committed loads, of one dataset or run if named, whose rows in are not the sum of written, unchanged and rejected ones."""
    parameters = {"pipeline": pipeline, "dataset": dataset, "run_id": run_id}
    return [int(row[0]) for row in connection.execute(UNACCOUNTED, parameters)]


def dead_runs(connection: Connection, pipeline: str, run_ids: Sequence[str]) -> list[str]:
    """Those of these runs whose leases have run out and that hold no live one: they cannot be working any more."""
    return [row[0] for row in connection.execute(DEAD_RUNS, {"pipeline": pipeline, "run_ids": list(run_ids)})]


@contextmanager
def at_work(connection: Connection, run_id: str) -> Iterator[None]:
    """Let others see, until the end or this process's death, that something of this id works which is no run of Dagster's."""
    connection.execute(WORKS, {"run_id": run_id})
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a connection that is lost has let go already
            connection.execute(WORKS_NO_MORE, {"run_id": run_id})


def is_at_work(connection: Connection, run_id: str) -> bool:
    """Whether somebody is `at_work` under this id. The connection must be in no transaction."""
    return connection.execute(NOBODY_WORKS, {"run_id": run_id}).fetchone() == (False,)


def last_claim(connection: Connection, pipeline: str, run_id: str) -> datetime | None:
    """When a run claimed the newest of the loads that it was the last to have in hand."""
    row = connection.execute(LAST_CLAIM, {"pipeline": pipeline, "run_id": run_id}).fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class Version:
    """A load of a key: what is known of its content, and by whom it was discovered."""

    load_id: int
    version: str
    modified: datetime
    discovered_at: datetime
    content_hash: str | None
    was_moved: bool
    superseded: bool
    replaced_at: datetime | None
    """When a rebuild replaced the rows that it had written; None if they stand."""
    discovered_by: str | None


def versions(connection: Connection, landing_zone: str, key: str) -> list[Version]:
    """The loads of a key of a landing zone, newest first."""
    parameters = {"landing_zone": landing_zone, "key": key, "superseded": SUPERSEDED.code}
    return [Version(*row) for row in connection.execute(VERSIONS, parameters)]


def load_of(connection: Connection, landing_zone: str, key: str, version: str) -> int | None:
    """Id of the load of this very version; None if it was never discovered."""
    row = connection.execute(LOAD_OF, {"landing_zone": landing_zone, "key": key, "version": version}).fetchone()
    return None if row is None else int(row[0])


def _plain(row: tuple[Any, ...]) -> list[Any]:
    """Values as JSON has them: sums as integers, times as ISO text."""
    return [value.isoformat() if isinstance(value, datetime) else int(value) if isinstance(value, Decimal) else value for value in row]

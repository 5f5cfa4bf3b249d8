"""The load ledger: one row per load, and the only legal moves between statuses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson

from ingestion_dagster.engine import ledger_sql as sql
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

MOVING = {Status.READY_FOR_ARCHIVING: Status.ARCHIVING, Status.READY_FOR_ERRORING: Status.ERRORING}
MOVED = {Status.ARCHIVING: Status.ARCHIVED, Status.ERRORING: Status.ERRORED}


SUPERSEDED = Problem(
    "superseded", "the whole file", "overwritten before it was read; the newer version is a load of its own", severity="warning"
)
"""What a load carries that ends as `archived` without having been read."""


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
    snapshot: str | None = None
    """The snapshot it belongs to, as `20220101T204950Z`; None where there are none."""
    replay: bool = False
    """Whether it was archived and is loaded again; its rows are then those that it has loaded before."""

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
    waiting: bool = False
    """Whether what waits for something else is meant, too: to be marked, not to be loaded."""
    paused: bool = False
    """Whether loads of paused datasets are meant, too: to be marked, not to be loaded."""

    def as_parameters(self) -> dict[str, Any]:
        """The named parameters of `_IN_SCOPE`."""
        return {
            "pipeline": self.pipeline,
            "datasets": None if self.datasets is None else sorted(self.datasets),
            "partitions": None if self.partitions is None else sorted(self.partitions),
            "not_after": self.not_after,
            "ids": None if self.ids is None else sorted(self.ids),
            "waiting": self.waiting,
            "paused": self.paused,
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
    waiting_for: str | None = None
    """What a load that is given back waits for; None: it can be claimed again."""

    @property
    def rows_unchanged(self) -> int:
        """Rows that came in and were neither written nor rejected."""
        return self.rows_in - self.rows_written - self.rows_rejected

    @property
    def settled(self) -> Load:
        """The load as it is once the verdict is settled, to be moved."""
        return replace(
            self.load,
            status=self.to,
            problems=self.problems,
            rows_in=self.rows_in,
            rows_written=self.rows_written,
            rows_unchanged=self.rows_unchanged,
            rows_rejected=self.rows_rejected,
        )

    @property
    def error(self) -> Problem | None:
        """The problem shown with the load: the first error. Of warnings only that it was not read at all."""
        return next((problem for problem in self.problems if problem.severity == "error" or problem == SUPERSEDED), None)


@dataclass(frozen=True, slots=True)
class Previous:
    """The version of a key before the one in hand: its load, and the hash of its content if that counts for duplicates."""

    load_id: int
    content_hash: str | None


def now(connection: Connection) -> datetime:
    """The time by the clock that dates the ledger."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def come_back(connection: Connection, landing_zone: str, objects: Sequence[StoredObject], listed_at: datetime) -> int:
    """Mark finished loads whose very version stands in the landing zone again, to be moved once more. Returns how many.

    A load that finished after the listing began (`listed_at`, by `now`) is not meant: the listing saw its object before the move.
    Until it is moved again it stands in the landing zone (`Load.location` is None), while its row keeps where it was moved to before.
    """
    found = connection.execute(
        sql.COME_BACK,
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
            connection.execute(sql.BACK, {"ids": ids, "from": status, "to": to})
    return len(found)


def claim(
    connection: Connection,
    scope: Scope,
    run_id: str,
    *,
    count: int,
    size: int,
    lease_seconds: float,
    died: bool | None = None,
    dataset: str | None = None,
    replay: bool = False,
) -> list[Load]:
    """Take a batch of claimable loads, oldest first, bounded by number and bytes.

    Loads that a run died with come last and one by one; `died` asks for those only, or for none of them. With `dataset` only its loads
    are meant: those that are replayed, or only the others. Two callers at once get disjoint batches.
    """
    for alone in (False, True) if died is None else (died,):
        parameters = scope.as_parameters() | {
            "alone": alone,
            "count": 1 if alone else count,
            "bytes": size,
            "run_id": run_id,
            "lease": lease_seconds,
            "dataset": dataset,
            "replay": replay,
        }
        fault_point("transition.ready.ingesting.before")
        statement = sql.CLAIM if dataset is None else sql.CLAIM_OF
        ids = [row[0] for row in connection.execute(statement, parameters).fetchall()]
        if ids:
            fault_point("transition.ready.ingesting.after")
            return loads(connection, ids)
    return []


def loads(connection: Connection, ids: Sequence[int]) -> list[Load]:
    """The loads with these ids, oldest `modified` first, then by key."""
    rows = connection.execute(sql.LOADS + "WHERE l.id = ANY(%(ids)s) ORDER BY l.modified, l.key, l.id", {"ids": list(ids)})
    return [_load(row) for row in rows]


def claimable_loads(connection: Connection, scope: Scope) -> list[Load]:
    """What a run of this scope would claim now, without claiming it."""
    return [_load(row) for row in connection.execute(sql.CLAIMABLE_LOADS, scope.as_parameters())]


def claimable(connection: Connection, scope: Scope, *, most: int | None = None) -> tuple[int, datetime | None]:
    """How many loads a run of this scope could claim now, and when the oldest of them was discovered.

    With `most` counting ends there, and the oldest is the oldest of those counted.
    """
    row = connection.execute(sql.CLAIMABLE, scope.as_parameters() | {"most": most}).fetchone()
    assert row is not None
    return int(row[0]), row[1]


def claimable_datasets(connection: Connection, scope: Scope) -> dict[str, bool]:
    """Datasets with loads that a run of this scope could claim now, oldest `modified` first; True: some are replayed."""
    return dict(connection.execute(sql.CLAIMABLE_DATASETS, scope.as_parameters()).fetchall())


def hold(connection: Connection, loads_in_hand: Sequence[Load]) -> None:
    """Keep these loads ours until the caller's transaction ends, whatever their leases say: their results are about to be published.

    Raises `ClaimLost` if one is no longer ours.
    """
    parameters = {"ids": [load.id for load in loads_in_hand], "claims": [load.claim for load in loads_in_hand]}
    if len(connection.execute(sql.HOLD, parameters).fetchall()) != len(loads_in_hand):
        raise ClaimLost


def waiting_since(connection: Connection, scope: Scope) -> datetime | None:
    """Since when the load that waits longest could be claimed: since it was discovered, or put back by a retry or a replay."""
    row = connection.execute(sql.WAITING_SINCE, scope.as_parameters()).fetchone()
    return row[0] if row else None


def previous_versions(connection: Connection, batch: Sequence[Load]) -> dict[int, Previous]:
    """By load id, the version of the same key before it. Loads that are retried or replayed have none: they are loaded again."""
    rows = connection.execute(sql.PREVIOUS, {"ids": [load.id for load in batch]})
    return {row[0]: Previous(row[1], row[2]) for row in rows}


def overtaken(connection: Connection, batch: Sequence[Load]) -> frozenset[int]:
    """Ids of loads of which a newer version has been loaded already.

    A bucket with versioning shows an unseen older version once the newer one has been moved away; its date, in whole seconds, may
    be the same.
    """
    return frozenset(row[0] for row in connection.execute(sql.OVERTAKEN, {"ids": [load.id for load in batch]}))


def settle(connection: Connection, verdicts: Sequence[Verdict]) -> None:
    """Move claimed loads on as judged, in the caller's transaction. All or nothing: raises `ClaimLost` if one is no longer ours."""
    for to in {verdict.to for verdict in verdicts}:
        _check_legal(Status.INGESTING, to)
        fault_point(f"transition.ingesting.{to}.before")
    for pipeline in {verdict.load.pipeline for verdict in verdicts}:
        of_pipeline = [verdict for verdict in verdicts if verdict.load.pipeline == pipeline]
        payload = orjson.dumps([_as_record(verdict) for verdict in of_pipeline]).decode()
        row = connection.execute(sql.SETTLE, {"pipeline": pipeline, "verdicts": payload}).fetchone()
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
        sql.TRANSITION,
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
    connection.execute(sql.RENEW, {"claims": list(claims), "lease": lease_seconds})


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
        sql.EXPIRE,
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


def take_stranded(connection: Connection, pipeline: str, *, count: int, lease_seconds: float) -> list[Step]:
    """Take over moves that nobody is working on any more, under a new claim. Returns the step each is to take next."""
    rows = connection.execute(sql.STRANDED, {"pipeline": pipeline, "count": count, "lease": lease_seconds}).fetchall()
    expired = {row[0] for row in rows if row[1]}
    stranded = loads(connection, [row[0] for row in rows]) if rows else []
    return [Step(load, why="lease expired before the move was done" if load.id in expired else None) for load in stranded]


@dataclass(frozen=True, slots=True)
class Again:
    """By load id, keys put back to `ready`, and keys refused because a newer version of them is known."""

    ready: dict[int, str] = field(default_factory=dict)
    superseded: dict[int, str] = field(default_factory=dict)


def retry(connection: Connection, scope: Scope, key: str | None = None, run_id: str | None = None) -> Again:
    """Put errored loads back to `ready`, attempts forgotten; only the newest version of a key."""
    fault_point("transition.errored.ready.before")
    again = _again(connection, Status.ERRORED, scope, {"key": key, "run_id": run_id, "why": "retry"})
    fault_point("transition.errored.ready.after")
    return again


def look_again(connection: Connection, scope: Scope, key: str | None = None) -> int:
    """Let loads be claimed again that waited for a person to decide about their schema. Returns how many there were."""
    return connection.execute(sql.LOOK_AGAIN, scope.as_parameters() | {"key": key}).rowcount


def replay(connection: Connection, scope: Scope, run_id: str | None = None) -> Again:
    """Put archived loads back to `ready`, to be loaded again from the archive; only the newest version of a key."""
    fault_point("transition.archived.ready.before")
    again = _again(connection, Status.ARCHIVED, scope, {"key": None, "run_id": run_id, "why": "replay"})
    fault_point("transition.archived.ready.after")
    return again


def _again(connection: Connection, frm: Status, scope: Scope, parameters: dict[str, str | None]) -> Again:
    _check_legal(frm, Status.READY)
    rows = connection.execute(sql.AGAIN, scope.as_parameters() | parameters | {"from": frm}).fetchall()
    return Again({load: key for load, key, old in rows if not old}, {load: key for load, key, old in rows if old})


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
        "waiting_for": verdict.waiting_for,
    }


def _load(row: tuple[Any, ...]) -> Load:
    problems = tuple(Problem(**problem) for problem in row[13] or ())
    return Load(
        id=row[0],
        pipeline=row[1],
        dataset=row[2],
        landing_zone=row[3],
        key=row[4],
        version=row[5],
        size=row[6],
        modified=row[7],
        partition=row[8],
        status=Status(row[9]),
        claim=row[10] or 0,
        attempts=row[11],
        alone=row[12],
        problems=problems,
        location=row[14],
        rows_in=row[15],
        rows_written=row[16],
        rows_unchanged=row[17],
        rows_rejected=row[18],
        snapshot=row[19],
        replay=row[20],
    )

"""The way of a metric file: claim, read, judge, stage, merge, mark, move. No Dagster in here."""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg

from ingestion_dagster.engine import landing, ledger, moving
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.datasets import available_datasets
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Previous, Status, Verdict
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.verdicts import charge, internal_error, kind_of, superseded, unread
from ingestion_dagster.metrics import files
from ingestion_dagster.metrics.interface import Merged, MetricsAPIInterface, Unresolved
from ingestion_dagster.metrics.problems import Code

log = logging.getLogger(__name__)

REHOMED = Problem(
    Code.METRIC_REHOMED.value,
    "metric",
    "this metric is known under another topic or metric group; deliver it under a new name, or move its row in metrics.metric first",
)


@dataclass(frozen=True, slots=True)
class Job:
    """What a run has been asked for: where from, for which datasets, by whose clock. Limits come with the claims."""

    zone: Zone
    datasets: frozenset[str]
    now: datetime
    max_load_bytes: int = 64 * 1024 * 1024
    full_topics: frozenset[str] = frozenset()
    """Topics whose newest file is the whole truth about its series."""
    progress: Callable[[int], None] = lambda _loads: None


def load_metrics(claims: Claims, job: Job, connection: Connection, outcome: Outcome | None = None) -> Outcome:
    """Load every claimable metric file, batch by batch, until none is left or time is up.

    Returns what it did; a caller that wants to know it even of a run that fails passes the `outcome` to count in.

    A file's rows and its ledger status commit together; a file that is refused has written nothing. Raises `Transient` when the store or
    the database gives way as a whole; batches committed by then stay.
    """
    outcome = Outcome() if outcome is None else outcome
    started = time.monotonic()
    for batch in claims.batches(connection):
        settled = load_batch(connection, job, claims, batch, outcome)
        pending = moving.move(connection, job.zone, settled, lease_seconds=claims.limits.lease_seconds, run_id=claims.run_id)
        outcome.moves_pending += len(pending)
        outcome.seconds = time.monotonic() - started
    return outcome


def load_batch(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load], outcome: Outcome) -> list[Load]:
    """Judge, stage, merge and settle a claimed batch; the loads as they are now to be moved. Raises `Transient`."""
    verdicts = _load_batch(connection, job, claims, batch, outcome)
    return [verdict.settled for verdict in verdicts]


def judge_loads(job: Job, loads: Sequence[Load]) -> Outcome:
    """Judge loads that nobody has claimed, and write nothing."""
    outcome = Outcome()
    started = time.monotonic()
    for load, raw in landing.read_ahead(job.zone, loads):
        judged = _judge(load, raw, None, job.datasets, 1)
        outcome.count([judged if isinstance(judged, Verdict) else judged.verdict])
    outcome.seconds = time.monotonic() - started
    return outcome


@dataclass(frozen=True, slots=True)
class _Judged:
    """An accepted file and the verdict it gets unless the tables refuse it."""

    file: files.MetricFile
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _GaveWay:
    """That the database refused a batch: the kind of error and its SQLSTATE. Its message quotes rows, and must go no further."""

    kind: str
    sqlstate: str | None
    may_pass: bool


def _load_batch(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load], outcome: Outcome) -> list[Verdict]:
    """Stage, merge and settle a batch in one transaction; when the database refuses it, one file at a time.

    Returns the verdicts that were kept: none of a batch that another run has taken over.
    """
    try:
        attempt = _attempt(connection, job, claims, batch, outcome)
        if not isinstance(attempt, _GaveWay):
            return attempt
        if len(batch) == 1:
            refused = [_refused_by_database(batch[0], attempt, claims.limits.max_attempts)]
            with connection.transaction():
                ledger.settle(connection, refused)
            return _told(refused, outcome)
    except ledger.ClaimLost:
        log.warning("loads=%s: their leases ran out and another run took them; nothing of them was kept here", len(batch))
        return []
    log.warning("loads=%s error=%s: the database refused the batch; taking them one by one", len(batch), attempt.kind)
    return [verdict for load in batch for verdict in _load_batch(connection, job, claims, [load], outcome)]


def _attempt(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load], outcome: Outcome) -> "list[Verdict] | _GaveWay":
    """One transaction over a batch. What the database says against it is not passed on, nor chained to what is raised later."""
    gave_way: _GaveWay
    try:
        with connection.transaction():
            verdicts, late, merged = _stage_and_merge(connection, job, claims, batch)
            ledger.settle(connection, verdicts)
    except (psycopg.Error, Unresolved) as error:
        may_pass = isinstance(error, psycopg.OperationalError | Unresolved)
        gave_way = _GaveWay(kind_of(error), getattr(error, "sqlstate", None), may_pass)
    else:
        outcome.rows_superseded += merged.superseded
        outcome.rows_withdrawn += sum(merged.withdrawn.values())
        outcome.rows_restored += merged.restored
        return _told(verdicts, outcome, late)
    if connection.broken:
        raise Transient("database_connection_lost", f"the connection to the database was lost ({gave_way.kind})")
    return gave_way


def _told(verdicts: list[Verdict], outcome: Outcome, late: set[int] | None = None) -> list[Verdict]:
    """Log and count verdicts that are committed."""
    for verdict in verdicts:
        _tell(verdict)
    outcome.count(verdicts, late or set())
    return verdicts


def _stage_and_merge(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load]) -> tuple[list[Verdict], set[int], Merged]:
    """The verdicts on a batch, the ids of late loads, and what the merge did; all rows are in the tables."""
    interface = MetricsAPIInterface(connection, job.full_topics)
    interface.await_turn()
    previous = ledger.previous_versions(connection, batch)
    available = available_datasets(connection, job.zone.pipeline) & job.datasets
    overtaken = ledger.overtaken(connection, batch) if job.zone.landing.dated_by_arrival else frozenset()
    verdicts = [superseded(load) for load in batch if load.id in overtaken]
    verdicts += [_too_large(load) for load in batch if load.size > job.max_load_bytes and load.id not in overtaken]
    readable = [load for load in batch if load.size <= job.max_load_bytes and load.id not in overtaken]
    staged: dict[int, Verdict] = {}
    unread: list[Exception] = []
    with interface.staging() as staging:
        for load, raw in landing.read_ahead(job.zone, readable):
            if isinstance(raw, Transient | ConfigurationError):
                unread.append(raw)
            judged = _judge(load, raw, previous.get(load.id), available, claims.limits.max_attempts)
            if isinstance(judged, Verdict):
                verdicts.append(judged)
            else:
                staged[staging.add(judged.file)] = judged.verdict
    if unread and len(unread) == len(readable) and not any(load.alone for load in readable):
        # Nothing at all can be read: that is the store's trouble, no file's. The run fails, and the next one waits a while.
        # A load that is claimed by itself is charged all the same: it would fail every run for ever.
        raise unread[0]
    rehomed = interface.take_out_rehomed() if staged else set()
    merged = interface.merge(job.now) if staged else Merged()
    for number, verdict in staged.items():
        if number in rehomed:
            verdicts.append(_refuse(verdict, (REHOMED,), verdict.rows_in))
        else:
            verdicts.append(replace(verdict, rows_written=merged.written.get(number, 0), why=_remark(merged, number)))
    return verdicts, {staged[number].load.id for number in merged.late}, merged


def _remark(merged: Merged, number: int) -> str | None:
    """What the history of a loaded file tells beyond that it was loaded."""
    if number in merged.late:
        return "late: a newer refresh date is known"
    if number in merged.withdrawn:
        return f"withdrew {merged.withdrawn[number]} points that it lacks"
    return None


def _judge(
    load: Load, raw: bytes | Exception, previous: Previous | None, datasets: Iterable[str], max_attempts: int
) -> "_Judged | Verdict":
    """What a file is worth, as far as can be told without the tables."""
    if isinstance(raw, Exception):
        return unread(load, raw, max_attempts)
    accepted = Verdict(load, Status.READY_FOR_ARCHIVING, bytes=len(raw))
    try:
        payload = files.decode(raw)
        content_hash = files.content_hash(payload)
    except Refused as refused:
        return _refuse(replace(accepted, dataset=files.UNCLASSIFIED), refused.problems)
    dataset = files.dataset_of(payload)
    accepted = replace(accepted, dataset=dataset)
    if dataset != files.UNCLASSIFIED and dataset not in datasets:
        return Verdict(load, Status.READY, dataset=dataset, why=f"belongs to {dataset}, which this run does not load")
    accepted = replace(accepted, content_hash=content_hash)
    if previous is not None and previous.content_hash == content_hash:
        return replace(accepted, duplicate_of=previous.load_id, why="the same content as the version before")
    try:
        file = files.judge(payload, load.key)
    except Refused as refused:
        return _refuse(accepted, refused.problems, _points_in(payload))
    except Exception as error:  # noqa: BLE001 - see below
        # A defect of ours must not take a file's neighbours down; frames are logged, the message (it may quote a value) is not.
        log.error("load_id=%s dataset=%s error=%s\n%s", load.id, dataset, kind_of(error), "".join(traceback.format_tb(error.__traceback__)))
        return _refuse(accepted, (internal_error(error),))
    return _Judged(file, replace(accepted, rows_in=len(file.points) + file.duplicates, problems=file.warnings))


def _refuse(verdict: Verdict, problems: Sequence[Problem], rows: int = 0) -> Verdict:
    return replace(verdict, to=Status.READY_FOR_ERRORING, problems=tuple(problems), rows_in=rows, rows_rejected=rows)


def _too_large(load: Load) -> Verdict:
    problem = Problem("file_too_large", "the whole file", "larger than INGESTION_MAX_LOAD_BYTES; split it by date or raise the limit")
    return Verdict(load, Status.READY_FOR_ERRORING, dataset=files.UNCLASSIFIED, bytes=load.size, problems=(problem,))


def _refused_by_database(load: Load, gave_way: _GaveWay, max_attempts: int) -> Verdict:
    """One file that the database refused by itself: its own fault, unless the database says that it may work later."""
    if gave_way.may_pass:
        exhausted = Problem("transient_exhausted", "the whole file", f"the database gave way {max_attempts} times ({gave_way.kind})")
        return charge(load, exhausted, max_attempts)
    state = gave_way.sqlstate or "no SQLSTATE"
    problem = Problem("database_refused", "the whole file", f"the database refused its rows (SQLSTATE {state}); report it with the file")
    return Verdict(load, Status.READY_FOR_ERRORING, problems=(problem,), charged=True)


def _points_in(payload: dict[str, object]) -> int:
    """How many points a refused file lists, as far as it has a list."""
    points = payload.get("data" if payload.get("metric_group") == "headline" else "time_series")
    return len(points) if isinstance(points, list) else 0


def _tell(verdict: Verdict) -> None:
    if verdict.to == Status.READY_FOR_ERRORING:
        codes = ",".join(sorted({problem.code for problem in verdict.problems}))
        log.warning("load_id=%s dataset=%s status=%s codes=%s", verdict.load.id, verdict.dataset or "unclassified", verdict.to, codes)


def check_file(key: str, raw: bytes) -> tuple[Problem, ...]:
    """Every problem of one file, warnings too; no ledger, no database."""
    try:
        return files.parse(raw, key).warnings
    except Refused as refused:
        return refused.problems

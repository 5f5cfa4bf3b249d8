"""The way of a metric file: claim, read, judge, stage, merge, mark, move. No Dagster in here."""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg

from ingestion_dagster.engine import landing, ledger
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import SUPERSEDED, Load, Previous, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics import files
from ingestion_dagster.metrics.interface import MetricsAPIInterface, Unresolved
from ingestion_dagster.metrics.problems import Code

log = logging.getLogger(__name__)

REHOMED = Problem(
    Code.METRIC_REHOMED.value,
    "metric",
    "this metric is known under another topic or metric group; deliver it under a new name, or move its row in metrics.metric first",
)
GONE = Problem("object_missing", "the whole file", "the file was removed before it was read; deliver it again")


@dataclass(frozen=True, slots=True)
class Job:
    """What a run has been asked for: where from, for which datasets, by whose clock. Limits come with the claims."""

    zone: Zone
    datasets: frozenset[str]
    now: datetime
    max_load_bytes: int = 64 * 1024 * 1024
    progress: Callable[[int], None] = lambda _loads: None


def load_metrics(claims: Claims, job: Job, connection: Connection) -> Outcome:
    """Load every claimable metric file, batch by batch, until none is left or time is up.

    A file's rows and its ledger status commit together; a file that is refused has written nothing.
    """
    outcome = Outcome()
    started = time.monotonic()
    for batch in claims.batches(connection):
        try:
            verdicts = _load_batch(connection, job, claims, batch, outcome)
        except ledger.ClaimLost:
            log.warning("loads=%s: their leases ran out and another run took them; nothing of them was kept here", len(batch))
            continue
        settled = [replace(v.load, status=v.to, problems=v.problems, rows_in=v.rows_in, rows_rejected=v.rows_rejected) for v in verdicts]
        pending = landing.move(connection, job.zone, settled, lease_seconds=claims.limits.lease_seconds, run_id=claims.run_id)
        outcome.moves_pending += len(pending)
        job.progress(len(batch))
    outcome.seconds = time.monotonic() - started
    return outcome


def check_claimable(connection: Connection, scope: ledger.Scope, job: Job) -> Outcome:
    """Judge what a run would load, without claiming or writing anything."""
    outcome = Outcome()
    started = time.monotonic()
    for load, raw in landing.read_ahead(job.zone, ledger.claimable_loads(connection, scope)):
        judged = _judge(job, load, raw, None, job.datasets, 1)
        outcome.count([judged if isinstance(judged, Verdict) else judged.verdict])
    outcome.seconds = time.monotonic() - started
    return outcome


@dataclass(frozen=True, slots=True)
class _Judged:
    """An accepted file and the verdict it gets unless the tables refuse it."""

    file: files.MetricFile
    verdict: Verdict


def _load_batch(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load], outcome: Outcome) -> list[Verdict]:
    """Stage, merge and settle a batch in one transaction; when the database refuses it, one file at a time."""
    try:
        with connection.transaction():
            verdicts, late, superseded = _stage_and_merge(connection, job, claims, batch)
            ledger.settle(connection, verdicts)
    except (psycopg.Error, Unresolved) as error:
        if connection.broken:
            raise
        if len(batch) > 1:
            log.warning("loads=%s error=%s: the database refused the batch; taking them one by one", len(batch), _kind(error))
            return [verdict for load in batch for verdict in _load_batch(connection, job, claims, [load], outcome)]
        verdicts, late, superseded = [_refused_by_database(batch[0], error, claims.limits.max_attempts)], set(), 0
        with connection.transaction():
            ledger.settle(connection, verdicts)
    for verdict in verdicts:
        _tell(verdict)
    outcome.count(verdicts, late)
    outcome.rows_superseded += superseded
    return verdicts


def _stage_and_merge(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load]) -> tuple[list[Verdict], set[int], int]:
    """The verdicts on a batch, the ids of late loads, and how many rows were superseded; all rows are in the tables."""
    interface = MetricsAPIInterface(connection)
    previous = ledger.previous_versions(connection, batch)
    available = ledger.available_datasets(connection, job.zone.pipeline) & job.datasets
    overtaken = ledger.overtaken(connection, batch) if job.zone.landing.dated_by_arrival else frozenset()
    verdicts = [_superseded(load) for load in batch if load.id in overtaken]
    staged: dict[int, Verdict] = {}
    with interface.staging() as staging:
        for load, raw in landing.read_ahead(job.zone, [load for load in batch if load.id not in overtaken]):
            judged = _judge(job, load, raw, previous.get(load.id), available, claims.limits.max_attempts)
            if isinstance(judged, Verdict):
                verdicts.append(judged)
            else:
                staged[staging.add(judged.file)] = judged.verdict
    rehomed = interface.take_out_rehomed()
    merged = interface.merge(job.now)
    for number, verdict in staged.items():
        if number in rehomed:
            verdicts.append(_refuse(verdict, (REHOMED,), verdict.rows_in))
        else:
            why = "late: a newer refresh date is known" if number in merged.late else None
            verdicts.append(replace(verdict, rows_written=merged.written.get(number, 0), why=why))
    return verdicts, {staged[number].load.id for number in merged.late}, merged.superseded


def _judge(
    job: Job, load: Load, raw: bytes | Exception, previous: Previous | None, datasets: Iterable[str], max_attempts: int
) -> "_Judged | Verdict":
    """What a file is worth, as far as can be told without the tables."""
    if isinstance(raw, Exception):
        return _unread(load, raw, max_attempts)
    accepted = Verdict(load, Status.READY_FOR_ARCHIVING, bytes=len(raw))
    if len(raw) > job.max_load_bytes:
        too_large = Problem("file_too_large", "the whole file", "larger than INGESTION_MAX_LOAD_BYTES; split it by date or raise the limit")
        return _refuse(replace(accepted, dataset=files.UNCLASSIFIED), (too_large,))
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
        log.error("load_id=%s dataset=%s error=%s\n%s", load.id, dataset, _kind(error), "".join(traceback.format_tb(error.__traceback__)))
        return _refuse(accepted, (Problem("internal_error", "the whole file", f"the parser failed with {_kind(error)}; report it"),))
    return _Judged(file, replace(accepted, rows_in=len(file.points) + file.duplicates, problems=file.warnings))


def _refuse(verdict: Verdict, problems: Sequence[Problem], rows: int = 0) -> Verdict:
    return replace(verdict, to=Status.READY_FOR_ERRORING, problems=tuple(problems), rows_in=rows, rows_rejected=rows)


def _superseded(load: Load) -> Verdict:
    return Verdict(load, Status.READY_FOR_ARCHIVING, problems=(SUPERSEDED,), why="overwritten before it was read")


def _unread(load: Load, error: Exception, max_attempts: int) -> Verdict:
    """A load whose object could not be read: gone, overwritten, or the store did not answer (charged)."""
    if isinstance(error, Changed):
        return _superseded(load)
    if isinstance(error, Missing):
        return Verdict(load, Status.READY_FOR_ERRORING, problems=(GONE,))
    code = error.code if isinstance(error, Transient) else _kind(error)
    return _charge(
        load, Problem("transient_exhausted", "the whole file", f"could not be read in {max_attempts} attempts ({code})"), max_attempts
    )


def _refused_by_database(load: Load, error: Exception, max_attempts: int) -> Verdict:
    """One file that the database refused by itself: its own fault, unless the database says that it may work later."""
    if isinstance(error, psycopg.OperationalError | Unresolved):
        return _charge(
            load,
            Problem("transient_exhausted", "the whole file", f"the database gave way {max_attempts} times ({_kind(error)})"),
            max_attempts,
        )
    state = getattr(error, "sqlstate", None) or "no SQLSTATE"
    problem = Problem("database_refused", "the whole file", f"the database refused its rows (SQLSTATE {state}); report it with the file")
    return Verdict(load, Status.READY_FOR_ERRORING, problems=(problem,), charged=True)


def _charge(load: Load, exhausted: Problem, max_attempts: int) -> Verdict:
    if load.attempts + 1 >= max_attempts:
        return Verdict(load, Status.READY_FOR_ERRORING, problems=(exhausted,), charged=True)
    return Verdict(load, Status.READY, why="to be tried again", charged=True)


def _points_in(payload: dict[str, object]) -> int:
    """How many points a refused file lists, as far as it has a list."""
    points = payload.get("data" if payload.get("metric_group") == "headline" else "time_series")
    return len(points) if isinstance(points, list) else 0


def _tell(verdict: Verdict) -> None:
    if verdict.to == Status.READY_FOR_ERRORING:
        codes = ",".join(sorted({problem.code for problem in verdict.problems}))
        log.warning("load_id=%s dataset=%s status=%s codes=%s", verdict.load.id, verdict.dataset or "unclassified", verdict.to, codes)


def _kind(error: BaseException) -> str:
    return type(error).__name__


def check_file(key: str, raw: bytes) -> tuple[Problem, ...]:
    """Every problem of one file, warnings too; no ledger, no database."""
    try:
        return files.parse(raw, key).warnings
    except Refused as refused:
        return refused.problems

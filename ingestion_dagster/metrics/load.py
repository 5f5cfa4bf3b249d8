"""The way of a metric file: claim, read, judge, stage, merge, mark, move. No Dagster in here."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from ingestion_dagster.engine import batches, landing, ledger
from ingestion_dagster.engine.batches import Attempt, load_batches, set_aside
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.datasets import available_datasets
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Previous, Status, Verdict
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.verdicts import defect, demand_readable, refused, unread
from ingestion_dagster.metrics import files
from ingestion_dagster.metrics.interface import Merged, MetricsAPIInterface
from ingestion_dagster.metrics.problems import Code

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
    return load_batches(claims, job.zone, connection, partial(_stage_and_merge, connection, job, claims, outcome), outcome)


def load_batch(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load], outcome: Outcome) -> list[Load]:
    """Judge, stage, merge and settle a claimed batch; the loads as they are now to be moved. Raises `Transient`."""
    return batches.load_batch(claims, connection, batch, partial(_stage_and_merge, connection, job, claims, outcome), outcome)


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


def _stage_and_merge(connection: Connection, job: Job, claims: Claims, outcome: Outcome, batch: Sequence[Load]) -> Attempt:
    """The verdicts on a batch, of which all rows are in the tables."""
    interface = MetricsAPIInterface(connection, job.full_topics)
    interface.await_turn()
    previous = ledger.previous_versions(connection, batch)
    available = available_datasets(connection, job.zone.pipeline) & job.datasets
    aside, readable = set_aside(connection, job.zone, batch, job.max_load_bytes)
    verdicts = [replace(each, dataset=files.UNCLASSIFIED) if each.to == Status.READY_FOR_ERRORING else each for each in aside]
    staged: dict[int, Verdict] = {}
    seen: list[tuple[Load, bytes | Exception]] = []
    with interface.staging() as staging:
        for load, raw in landing.read_ahead(job.zone, readable):
            seen.append((load, raw if isinstance(raw, Exception) else b""))
            judged = _judge(load, raw, previous.get(load.id), available, claims.limits.max_attempts)
            if isinstance(judged, Verdict):
                verdicts.append(judged)
            else:
                staged[staging.add(judged.file)] = judged.verdict
    demand_readable(seen)
    rehomed = interface.take_out_rehomed() if staged else set()
    merged = interface.merge(job.now) if staged else Merged()
    for number, verdict in staged.items():
        if number in rehomed:
            verdicts.append(refused(verdict, (REHOMED,), verdict.rows_in))
        else:
            verdicts.append(replace(verdict, rows_written=merged.written.get(number, 0), why=_remark(merged, number)))

    def count() -> None:
        outcome.rows_superseded += merged.superseded
        outcome.rows_withdrawn += sum(merged.withdrawn.values())
        outcome.rows_restored += merged.restored

    return Attempt(verdicts, frozenset(staged[number].load.id for number in merged.late), count)


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
    except Refused as refusal:
        return refused(replace(accepted, dataset=files.UNCLASSIFIED), refusal.problems)
    dataset = files.dataset_of(payload)
    accepted = replace(accepted, dataset=dataset)
    if dataset != files.UNCLASSIFIED and dataset not in datasets:
        return Verdict(load, Status.READY, dataset=dataset, why=f"belongs to {dataset}, which this run does not load")
    accepted = replace(accepted, content_hash=content_hash)
    if previous is not None and previous.content_hash == content_hash:
        return replace(accepted, duplicate_of=previous.load_id, why="the same content as the version before")
    try:
        file = files.judge(payload, load.key)
    except Refused as refusal:
        return refused(accepted, refusal.problems, _points_in(payload))
    except Exception as error:  # noqa: BLE001 - a defect of ours must not take a file's neighbours down
        return refused(accepted, (defect(load, error),))
    return _Judged(file, replace(accepted, rows_in=len(file.points) + file.duplicates, problems=file.warnings))


def _points_in(payload: dict[str, object]) -> int:
    """How many points a refused file lists, as far as it has a list."""
    points = payload.get("data" if payload.get("metric_group") == "headline" else "time_series")
    return len(points) if isinstance(points, list) else 0


def check_file(key: str, raw: bytes) -> tuple[Problem, ...]:
    """Every problem of one file, warnings too; no ledger, no database."""
    try:
        return files.parse(raw, key).warnings
    except Refused as refusal:
        return refusal.problems

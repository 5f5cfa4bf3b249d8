"""The way of a cubic file: claim, read, convert, publish, settle, move. No Dagster in here."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from ingestion_dagster.cubic import offsets, publication
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.registry import CubicTable
from ingestion_dagster.cubic.schemas import Version
from ingestion_dagster.cubic.table_batch import WAITS_FOR_SCHEMA, Job, Outdated, TableBatch, Unreadable
from ingestion_dagster.engine import ledger, moving
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.datasets import pause_faulty_datasets
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Transient
from ingestion_dagster.engine.ledger import Load, Status, Verdict
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.verdicts import OUR_FAULT, kind_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CubicOutcome(Outcome):
    """A run's counts, and what a person has to know of: tables that were paused, files that wait for a decision about columns."""

    paused: list[str] = field(default_factory=list)
    held: dict[str, Problem] = field(default_factory=dict)
    proposed: dict[str, str] = field(default_factory=dict)
    """By held table, an entry for the registry by which what waits would be loaded."""
    trouble: Transient | ConfigurationError | None = None
    """Why some table could not be read at all; the run goes on with the others, and fails at its end."""


def load_cubic(claims: Claims, job: Job, connection: Connection, outcome: CubicOutcome | None = None) -> CubicOutcome:
    """Load every claimable file, a batch of one table after a batch of another, until none is left or time is up.

    What a load has written is published and its status committed in one breath; a file that is refused has published nothing. Raises
    `Transient` when the database or the springboard gives way, and at its end if some table could not be read at all; what was committed
    by then stays.
    """
    outcome = CubicOutcome() if outcome is None else outcome
    started = time.monotonic()
    for batch in claims.rounds(connection, count=job.batch_files, size=job.batch_bytes):
        settled = load_batch(connection, job, claims, batch, outcome)
        pending = moving.move(connection, job.zone, settled, lease_seconds=claims.limits.lease_seconds, run_id=claims.run_id)
        outcome.moves_pending += len(pending)
        if any(load.snapshot for load in settled):
            # What became of a part of a snapshot decides where its next version belongs.
            job.zone.assign(connection)
        if any(problem.code in OUR_FAULT for load in settled for problem in load.problems):
            outcome.paused += pause_faulty_datasets(connection, job.zone.pipeline, OUR_FAULT, job.fault_limit)
        outcome.seconds = time.monotonic() - started
    if outcome.trouble is not None:
        raise outcome.trouble
    return outcome


def load_batch(connection: Connection, job: Job, claims: Claims, batch: Sequence[Load], outcome: CubicOutcome) -> list[Load]:
    """Convert, publish and settle a claimed batch of one table; the loads as they are now to be moved. Raises `Transient`."""
    table = job.registry.tables.get(batch[0].dataset or "")
    if table is None:
        # The registry that this run goes by is older, or newer, than the one by which the files were entered.
        verdicts = [Verdict(load, Status.READY, why="not in this run's registry", waiting_for="dataset") for load in batch]
        _settle(connection, verdicts)
        outcome.count(verdicts)
        return []
    with publication.scratch(job.springboard) as folder, _turn(connection, table) as ours:
        if not ours:
            claims.leave(table.name)
            return _given_back(connection, batch, outcome, "another run decides what of its topic is new")
        batch_in_hand = TableBatch(connection, job, table, folder, batch, claims.limits.max_attempts)
        try:
            done = batch_in_hand.convert()
            verdicts = batch_in_hand.publish(done)
        except Outdated:
            claims.leave(table.name)
            return _given_back(connection, batch, outcome, "another run has added columns")
        except Unreadable as unreadable:
            claims.leave(table.name)
            outcome.trouble = outcome.trouble or unreadable.error
            return _given_back(connection, batch, outcome, "nothing of its table can be read")
        except ledger.ClaimLost:
            log.warning("loads=%s: their leases ran out and another run took them; nothing of them was kept here", len(batch))
            return []
        except psycopg.Error as error:
            # What the database says may quote a row.
            failure = kind_of(error)
        else:
            failure = ""
        if failure:
            raise Transient("database_gave_way", failure)
    _tell_of(batch_in_hand, verdicts, outcome)
    outcome.count(verdicts)
    return [verdict.settled for verdict in verdicts if verdict.to != Status.READY]


def _tell_of(batch: "TableBatch", verdicts: Sequence[Verdict], outcome: CubicOutcome) -> None:
    """Log what was not loaded, and keep what a person has to know of."""
    table = batch.table
    if batch.kept:
        codes = ", ".join(sorted({problem.code for v in verdicts for problem in v.problems if problem.severity == "error"}))
        outcome.trouble = outcome.trouble or ConfigurationError(
            f"{batch.kept} files of {table.name} are refused by what is said of them now ({codes}), and stay as they were loaded "
            "before: correct the table's entry, then replay again"
        )
    for verdict in verdicts:
        _tell(verdict)
        if verdict.waiting_for == WAITS_FOR_SCHEMA:
            outcome.held.setdefault(table.name, verdict.problems[0])
            if batch.proposed:
                outcome.proposed.setdefault(table.name, batch.proposed)


def judge_loads(job: Job, connection: Connection, loads: Sequence[Load], versions: Mapping[str, list[Version]]) -> CubicOutcome:
    """Judge loads that nobody has claimed, by these versions of their tables, and publish nothing."""
    outcome = CubicOutcome()
    started = time.monotonic()
    by_table: dict[str, list[Load]] = {}
    for load in loads:
        by_table.setdefault(load.dataset or "", []).append(load)
    for name, of_table in by_table.items():
        table = job.registry.tables.get(name)
        if table is None:
            continue
        for first in range(0, len(of_table), job.batch_files):
            with publication.scratch(job.springboard) as folder:
                batch = TableBatch(connection, job, table, folder, of_table[first : first + job.batch_files], 1, versions.get(name))
                outcome.count([each.verdict for each in batch.convert()])
    outcome.seconds = time.monotonic() - started
    return outcome


@contextmanager
def _turn(connection: Connection, table: CubicTable) -> Iterator[bool]:
    """Take the table for oneself where its kind asks for that."""
    if not KINDS[table.kind].one_by_one:
        yield True
        return
    with offsets.alone(connection, table.name) as ours:
        yield ours


def _given_back(connection: Connection, batch: Sequence[Load], outcome: CubicOutcome, why: str) -> list[Load]:
    """Leave a batch to another run, uncharged; nothing of it is to be moved."""
    log.info("loads=%s dataset=%s: given back, %s", len(batch), batch[0].dataset, why)
    verdicts = [Verdict(load, Status.READY, why=why) for load in batch]
    _settle(connection, verdicts)
    outcome.count(verdicts)
    return []


def _tell(verdict: Verdict) -> None:
    if verdict.to == Status.READY_FOR_ERRORING or verdict.waiting_for:
        codes = ",".join(sorted({problem.code for problem in verdict.problems}))
        log.warning("load_id=%s dataset=%s status=%s codes=%s", verdict.load.id, verdict.load.dataset, verdict.to, codes)


def _settle(connection: Connection, verdicts: Sequence[Verdict]) -> None:
    with connection.transaction():
        ledger.settle(connection, verdicts)

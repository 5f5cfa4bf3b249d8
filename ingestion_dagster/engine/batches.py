"""Batches that commit whole: what was written of their files, and the loads' statuses, in one transaction; or else file by file."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from ingestion_dagster.engine import ledger, moving
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Status, Verdict
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.verdicts import EXHAUSTED, charge, kind_of, superseded, tell

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a batch in a transaction that is yet to be committed."""

    verdicts: list[Verdict]
    """One for each of its loads."""
    late: frozenset[int] = frozenset()
    """Ids of loads whose file was older than one already seen."""
    committed: Callable[[], None] = lambda: None
    """Counts what else was done, once that is certain."""


Work = Callable[[Sequence[Load]], Attempt]
"""Judges the loads of a batch and writes what is good of them, in a transaction that it does not end."""


class NotNow(Exception):
    """What others do at the moment keeps a batch from being written; a file that this is about by itself is tried again, charged."""


def load_batches(claims: Claims, zone: Zone, connection: Connection, work: Work, outcome: Outcome) -> Outcome:
    """Load batch by batch until nothing is claimable or time is up, counting in `outcome`, which is returned.

    When the database refuses a batch (or `work` raises `NotNow`) its files are taken one by one, and one that is refused by itself has
    written nothing. Raises `Transient` when the connection is lost, and what `work` raises besides; batches committed by then stay.
    """
    started = time.monotonic()
    for batch in claims.batches(connection):
        settled = load_batch(claims, connection, batch, work, outcome)
        pending = moving.move(connection, zone, settled, lease_seconds=claims.limits.lease_seconds, run_id=claims.run_id)
        outcome.moves_pending += len(pending)
        outcome.seconds = time.monotonic() - started
    return outcome


def load_batch(claims: Claims, connection: Connection, batch: Sequence[Load], work: Work, outcome: Outcome) -> list[Load]:
    """Work off and settle a claimed batch; its loads as they are now, none of a batch that another run has taken over.

    Raises as `load_batches`.
    """
    try:
        gave_way = _attempt(connection, batch, work, outcome)
        if not isinstance(gave_way, _GaveWay):
            return gave_way
        if len(batch) == 1:
            verdict = _refused(batch[0], gave_way, claims.limits.max_attempts)
            with connection.transaction():
                ledger.settle(connection, [verdict])
            return _told(Attempt([verdict]), outcome)
    except ledger.ClaimLost:
        log.warning("loads=%s: their leases ran out and another run took them; nothing of them was kept here", len(batch))
        return []
    log.warning("loads=%s error=%s: the database refused the batch; taking them one by one", len(batch), gave_way.kind)
    return [settled for load in batch for settled in load_batch(claims, connection, [load], work, outcome)]


def set_aside(connection: Connection, zone: Zone, batch: Sequence[Load], most_bytes: int) -> tuple[list[Verdict], list[Load]]:
    """Verdicts on loads of a batch that are not to be read (overtaken by a newer version, or too large), and the other loads."""
    overtaken = ledger.overtaken(connection, batch) if zone.landing.dated_by_arrival else frozenset()
    verdicts, readable = [], []
    for load in batch:
        if load.id in overtaken:
            verdicts.append(superseded(load))
        elif load.size > most_bytes:
            verdicts.append(Verdict(load, Status.READY_FOR_ERRORING, bytes=load.size, problems=(_TOO_LARGE,)))
        else:
            readable.append(load)
    return verdicts, readable


_TOO_LARGE = Problem("file_too_large", "the whole file", "larger than INGESTION_MAX_LOAD_BYTES; split it by date or raise the limit")


@dataclass(frozen=True, slots=True)
class _GaveWay:
    """That a batch was refused: the kind of error and its SQLSTATE. Its message quotes rows, and must go no further."""

    kind: str
    sqlstate: str | None
    may_pass: bool


def _attempt(connection: Connection, batch: Sequence[Load], work: Work, outcome: Outcome) -> list[Load] | _GaveWay:
    """One transaction over a batch. What the database says against it is not passed on, nor chained to what is raised later."""
    try:
        with connection.transaction():
            attempt = work(batch)
            ledger.settle(connection, attempt.verdicts)
    except (psycopg.Error, NotNow) as error:
        may_pass = isinstance(error, psycopg.OperationalError | NotNow)
        gave_way = _GaveWay(kind_of(error), getattr(error, "sqlstate", None), may_pass)
    else:
        attempt.committed()
        return _told(attempt, outcome)
    if connection.broken:
        raise Transient("database_connection_lost", f"the connection to the database was lost ({gave_way.kind})")
    return gave_way


def _told(attempt: Attempt, outcome: Outcome) -> list[Load]:
    """Log and count verdicts that are committed."""
    for verdict in attempt.verdicts:
        tell(verdict)
    outcome.count(attempt.verdicts, attempt.late)
    return [verdict.settled for verdict in attempt.verdicts]


def _refused(load: Load, gave_way: _GaveWay, max_attempts: int) -> Verdict:
    """One file that the database refused by itself: its own fault, unless the database says that it may work later."""
    if gave_way.may_pass:
        exhausted = Problem(EXHAUSTED, "the whole file", f"the database gave way {max_attempts} times ({gave_way.kind})")
        return charge(load, exhausted, max_attempts)
    state = gave_way.sqlstate or "no SQLSTATE"
    problem = Problem("database_refused", "the whole file", f"the database refused its rows (SQLSTATE {state}); report it with the file")
    return Verdict(load, Status.READY_FOR_ERRORING, problems=(problem,), charged=True)

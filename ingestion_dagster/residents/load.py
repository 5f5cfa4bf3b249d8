"""The way of a spreadsheet: claim, read, judge, send, report, settle. No Dagster in here."""

import logging
import time
from contextlib import suppress

import psycopg

from ingestion_dagster.engine import ledger, moving
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.ledger import Load, Status, Verdict
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.verdicts import kind_of
from ingestion_dagster.residents import row_ledger
from ingestion_dagster.residents.job import Job, ResidentsOutcome
from ingestion_dagster.residents.model import OUTAGE
from ingestion_dagster.residents.places import api_address
from ingestion_dagster.residents.sheet_file import SERVER_ERROR, UNPROVEN_LIMIT, GaveWay, SheetFile

log = logging.getLogger(__name__)


def load_residents(
    claims: Claims, job: Job, connection: Connection, database: Database, outcome: ResidentsOutcome | None = None
) -> ResidentsOutcome:
    """Load every claimable file, one of a dataset after one of another, until none is left or time is up.

    Raises `Transient` or `ConfigurationError` when the database or the API gives way, and at its end if some files could not be read; what
    was sent by then stays sent, and is not sent again.
    """
    from ingestion_dagster.residents.line import Line

    outcome = ResidentsOutcome() if outcome is None else outcome
    started = time.monotonic()
    address = api_address(job.settings)
    until = started + claims.limits.run_seconds
    with Line(job.settings, address) as line:
        for batch in claims.rounds(connection, count=1, size=1):
            for load in batch:
                settled = _settled(SheetFile(connection, database, job, claims, load, line, until), outcome)
                pending = moving.move(connection, job.zone, settled, lease_seconds=claims.limits.lease_seconds, run_id=claims.run_id)
                outcome.moves_pending += len(pending)
                outcome.seconds = time.monotonic() - started
    if outcome.trouble is not None:
        raise outcome.trouble
    return outcome


def _settled(file: "SheetFile", outcome: ResidentsOutcome) -> list[Load]:
    """One load, to its end or given back; the load as it is now to be moved."""
    load = file.load
    try:
        verdict = file.verdict()
        with file.connection.transaction():
            ledger.settle(file.connection, [verdict])
    except ledger.ClaimLost:
        log.warning("load_id=%s: its lease ran out and another run took it; the rows that were sent are noted", load.id)
        return []
    except GaveWay as gave_way:
        _give_back(file.connection, load, outcome, gave_way.why)
        if gave_way.for_all and not (gave_way.rows_in_hand and file.line.answers()):
            raise gave_way.error from None
        # The API is well, and these rows are what it fails at; or a folder of this dataset is closed. Others go on.
        code = gave_way.error.code if isinstance(gave_way.error, Transient) and gave_way.error.code not in OUTAGE else SERVER_ERROR
        with suppress(psycopg.Error):  # uncharged is no loss, and the next statement tells of a database that is away
            row_ledger.charge(file.connection, gave_way.rows_in_hand, by=file.claims.limits.max_attempts, limit=UNPROVEN_LIMIT, code=code)
        file.claims.leave(load.dataset or "")
        outcome.trouble = outcome.trouble or gave_way.error
        return []
    except psycopg.Error as error:
        # What the database says may quote a row.
        failure = kind_of(error)
    else:
        failure = ""
    if failure:
        raise Transient("database_gave_way", failure)
    file.tell(verdict, outcome)
    outcome.count([verdict])
    if verdict.to == Status.READY:
        return []
    return [verdict.settled]


def _give_back(connection: Connection, load: Load, outcome: ResidentsOutcome, why: str) -> None:
    verdict = Verdict(load, Status.READY, why=why)
    # If that fails, the lease has gone to somebody else, or will end.
    with suppress(psycopg.Error, ledger.ClaimLost), connection.transaction():
        ledger.settle(connection, [verdict])
    outcome.count([verdict])

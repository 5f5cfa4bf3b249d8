"""The way of a file of registrations: claim, read to its end, stage, settle, delete. No Dagster in here."""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg

from ingestion_dagster.engine import landing, ledger, moving, postgres
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.verdicts import GONE, charge, internal_error, kind_of, unread
from ingestion_dagster.life_events import acquirers, audit, files, key_guard, quarantine
from ingestion_dagster.life_events.keys import hasher, vault
from ingestion_dagster.life_events.places import zone
from ingestion_dagster.life_events.reading import Reading, Rules, Sealer
from ingestion_dagster.life_events.registry import PUBLISH
from ingestion_dagster.life_events.spool import Accepted, Spool
from ingestion_dagster.life_events.staging import Staging
from ingestion_dagster.life_events.store import open_store
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

CHUNK_RECORDS = 5000
"""Records that enter in one transaction."""

_CHUNK_OUTSIDE = 500
# A store outside the database takes longer, while the transaction is idle and a run that has fallen asleep may be overtaken.

UNPROVEN_LIMIT = 10
"""Attempts after which a file is given up that cannot be read, though its landing zone answers."""

_EXPIRED = replace(GONE, message="its time in quarantine is over, and it has been deleted there; have GRO send it again")
"""What is told of a refused file that is to be loaded after all, too late."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a run works with: where files come from, by what they are judged, and where their records go."""

    zone: Zone
    rules: Rules
    staging: Staging
    chunk_records: int = CHUNK_RECORDS
    database: Database | None = None
    """Where a new connection comes from when one was lost."""
    keep_record: bool = False
    """Whether the whole record is kept with the event: another output is made of it."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @classmethod
    def of(cls, settings: Settings) -> "Job":
        """What the settings ask for. Raises `ConfigurationError` for keys or a store that cannot be used."""
        notified = acquirers.topics(settings)
        ttl = timedelta(days=settings.life_events_ttl_days)
        staging = Staging(open_store(settings), hasher(settings), vault(settings), ttl, (PUBLISH, *notified))
        chunk_records = CHUNK_RECORDS if staging.store.is_transactional else _CHUNK_OUTSIDE
        return cls(zone(settings), Rules.of(settings), staging, chunk_records, postgres.locate(settings), keep_record=bool(notified))

    def sealer(self, spool: Spool) -> Sealer:
        """What makes events of records, and keeps them until the end of their file is known."""
        return Sealer(self.staging.hasher, self.staging.vault, spool, keep_record=self.keep_record)


def load_life_events(claims: Claims, job: Job, connection: Connection, outcome: Outcome | None = None) -> Outcome:
    """Load every claimable file, one after the other, until none is left or time is up.

    Nothing of a file is stored before its end has been read and found good. Then its records enter chunk by chunk; a run that follows one
    which was killed finds those that are there. Raises `Transient` when a store or the database gives way: what is committed stays.
    """
    outcome = Outcome() if outcome is None else outcome
    try:
        _load_all(connection, job, claims, outcome)
    except psycopg.Error as error:
        gave_way = _gave_way(connection, error)
        if gave_way is None:
            raise
    else:
        return outcome
    raise gave_way


def _load_all(connection: Connection, job: Job, claims: Claims, outcome: Outcome) -> None:
    started = time.monotonic()
    key_guard.guard(connection, job.staging.hasher)
    # What a run has deleted that was killed then, or the sweep for it, is told by the next one.
    files.audit_deleted(connection, claims.run_id)
    for batch in claims.batches(connection):
        for load in batch:
            settled = load_file(connection, job, claims, load, outcome)
            if settled is not None:
                pending = moving.move(connection, job.zone, [settled], lease_seconds=claims.limits.lease_seconds, run_id=claims.run_id)
                outcome.moves_pending += len(pending)
                files.audit_deleted(connection, claims.run_id)
            outcome.seconds = time.monotonic() - started


def load_file(connection: Connection, job: Job, claims: Claims, load: Load, outcome: Outcome) -> Load | None:
    """Read, judge, stage and settle one file; the load as it is now to be moved, None if it is no longer ours. Raises `Transient`."""
    try:
        verdict = _judged_by_database(connection, job, claims, load)
    except ledger.ClaimLost:
        log.warning("load_id=%s: its lease ran out and another run took it; what was staged counts there", load.id)
        return None
    if verdict.to == Status.READY_FOR_ERRORING:
        codes = ",".join(sorted({problem.code for problem in verdict.problems if problem.severity == "error"}))
        log.warning("load_id=%s status=%s codes=%s", load.id, verdict.to, codes)
    outcome.count([verdict])
    if verdict.to == Status.READY:
        return None
    return verdict.settled


def _judged_by_database(connection: Connection, job: Job, claims: Claims, load: Load) -> Verdict:
    """The verdict that was settled; what the database says against a file is not passed on, nor chained."""
    try:
        return _load(connection, job, claims, load)
    except psycopg.Error as error:
        state, gave_way = error.sqlstate, _gave_way(connection, error)
    if gave_way is not None:
        raise gave_way
    problem = Problem(
        "database_refused", "the whole file", f"the database refused its records (SQLSTATE {state or 'none'}); report it with the file"
    )
    accepted = job.staging.accepted(connection, load.id)
    return _settle(connection, replace(_refused(load, (problem,)), rows_in=accepted, rows_written=accepted), None, claims.run_id)


def _gave_way(connection: Connection, error: psycopg.Error) -> Transient | None:
    """What is told of a database that is away or in trouble; None if it has something against what it was given."""
    if not isinstance(error, psycopg.OperationalError) and not connection.broken:
        return None
    return Transient("database_gave_way", f"the database gave way ({kind_of(error)}); what is committed stays, the next run goes on")


def _load(connection: Connection, job: Job, claims: Claims, load: Load) -> Verdict:
    """Read a file to its end, then stage what is good of it."""
    if load.size > job.rules.max_file_bytes:
        return _settle(connection, _refused(load, (job.rules.too_large,)), None, claims.run_id)
    with Spool(len(job.staging.hasher.older)) as spool:
        reading = Reading(job.rules, job.sealer(spool))
        try:
            reading.read(landing.stream(job.zone, load))
        except Refused as refused:
            return _settle(connection, _refused(load, reading.problems(refused.problems), reading), reading, claims.run_id)
        except (Missing, Changed, Transient) as error:
            if isinstance(error, Transient) and not (load.alone or _answers(job.zone, load)):
                raise
            return _settle(connection, _unread(connection, job, load, error), None, claims.run_id)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - see below
            # A defect of ours must not take a file's neighbours down; frames are logged, the message (it may quote a value) is not.
            log.error("load_id=%s error=%s\n%s", load.id, kind_of(error), "".join(traceback.format_tb(error.__traceback__)))
            return _settle(connection, charge(load, internal_error(error), 1), None, claims.run_id)
        if refusal := reading.too_bad():
            return _settle(connection, _refused(load, reading.problems([refusal]), reading), reading, claims.run_id)
        _stage(connection, job, claims, load, reading, spool)
        return _finish(connection, job, claims, load, reading)


def _answers(zone: Zone, load: Load) -> bool:
    """Whether the landing zone can be asked: then it is this file that cannot be read, and the others need not wait for it."""
    try:
        zone.landing.find(load.key)
    except (Transient, ConfigurationError):
        return False
    return True


def _unread(connection: Connection, job: Job, load: Load, error: Exception) -> Verdict:
    """A file that cannot be read to its end: not now (charged), or not any more. What an attempt before has staged of it counts."""
    verdict = unread(load, error, UNPROVEN_LIMIT)
    if verdict.to == Status.READY:
        return verdict
    accepted = job.staging.accepted(connection, load.id)
    problems = (_EXPIRED,) if isinstance(error, Missing) and load.location is not None else verdict.problems
    return replace(verdict, rows_in=accepted, rows_written=accepted, problems=problems)


def _stage(connection: Connection, job: Job, claims: Claims, load: Load, reading: Reading, spool: Spool) -> None:
    """Enter what is good, chunk by chunk, each under the claim and the keys of this run."""
    now, file_hmac = job.now(), reading.file_hmac
    assert file_hmac is not None
    for chunk in spool.chunks(job.chunk_records):
        now = max(job.now(), now + timedelta(microseconds=1))
        fault_point("life_events.stage.before")
        try:
            with connection.transaction():
                ledger.hold(connection, [load])
                key_guard.guard(connection, job.staging.hasher, thorough=False)
                job.staging.enter(connection, chunk, load_id=load.id, file_hmac=file_hmac, correlation_id=claims.run_id, now=now)
                fault_point("life_events.stage.within")
        except psycopg.Error:
            _take_back(job, chunk)
            raise
        fault_point("life_events.stage.after")


def _take_back(job: Job, chunk: Sequence[Accepted]) -> None:
    if job.staging.store.is_transactional or job.database is None:
        return
    try:
        with job.database.connect() as connection:
            job.staging.take_back(connection, chunk)
    except (psycopg.Error, Transient, ConfigurationError) as error:
        log.warning("error=%s: what a lost transaction may have left in the store stays there until its time is up", kind_of(error))


def _finish(connection: Connection, job: Job, claims: Claims, load: Load, reading: Reading) -> Verdict:
    """Settle a file of which every record is accounted for."""
    accepted = job.staging.accepted(connection, load.id)
    duplicates = reading.good - accepted
    if duplicates < 0 or reading.records != reading.record_count:
        raise Transient("records_unaccounted", f"load {load.id} has more records in the ledger than its file; it is left where it is")
    assert reading.file_hmac is not None
    content_hash = reading.file_hmac.hex()
    previous = ledger.previous_versions(connection, [load]).get(load.id)
    same = previous is not None and previous.content_hash == content_hash and not accepted and not reading.bad
    verdict = Verdict(
        load,
        Status.READY_FOR_ARCHIVING,
        rows_in=reading.records,
        rows_written=accepted,
        rows_rejected=reading.bad,
        bytes=load.size,
        content_hash=content_hash,
        duplicate_of=previous.load_id if same and previous is not None else None,
        problems=reading.problems(),
    )
    return _settle(connection, verdict, reading, claims.run_id)


def _refused(load: Load, problems: Sequence[Problem], reading: Reading | None = None) -> Verdict:
    seen = reading.records if reading else 0
    hashed = reading.file_hmac.hex() if reading and reading.file_hmac else None
    return Verdict(
        load,
        Status.READY_FOR_ERRORING,
        rows_in=seen,
        rows_rejected=seen,
        bytes=load.size,
        content_hash=hashed,
        problems=tuple(problems),
    )


def _settle(connection: Connection, verdict: Verdict, reading: Reading | None, run_id: str) -> Verdict:
    """Commit a verdict with what is told of the file: its counts, its bad records, and that it was received."""
    with connection.transaction():
        ledger.settle(connection, [verdict])
        if verdict.to != Status.READY:
            is_whole = verdict.to == Status.READY_FOR_ARCHIVING and reading is not None
            code = verdict.error.code if verdict.error and not is_whole else None
            counted = files.Counted(
                file_hmac=reading.file_hmac if reading else None,
                record_count=reading.record_count if reading else None,
                accepted=verdict.rows_written,
                duplicates=verdict.rows_unchanged,
                quarantined=verdict.rows_rejected,
                code=code,
            )
            files.finish(connection, verdict.load.id, counted)
            entries = [audit.Entry("load", audit.FILE_RECEIVED, run_id, code or "ok", file_hmac=counted.file_hmac)]
            if reading is not None:
                quarantine.write(connection, verdict.load.id, reading.rejected)
                entries += [
                    audit.Entry("load", audit.RECORD_REJECTED, run_id, each.problems[0].code, counted.file_hmac, each.record_key)
                    for each in reading.rejected
                ]
            audit.write(connection, entries)
    return verdict

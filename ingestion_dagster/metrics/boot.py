"""Boot: every fact replaced by what the files of a folder say, in one transaction, by the functions that load any file."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from ingestion_dagster.engine import entries, ledger, moving
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import mark_rebuilt, paused_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Load, Scope, Status
from ingestion_dagster.engine.local_files import read_file
from ingestion_dagster.engine.object_store import ObjectStore, StoredObject, is_key
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.metrics.interface import MetricsAPIInterface
from ingestion_dagster.metrics.load import Job, load_batch

log = logging.getLogger(__name__)

_BOOT_LOCK = 0x1A6E5B07
_EVERYTHING = 2**62


def boot(database: Database, job: Job, boots: ObjectStore, files: Mapping[str, Path], run_id: str, limits: Limits) -> Outcome:
    """Load `files` (by landing key) as all there is; what was done.

    `job.zone` is this boot's own zone, below the folder `boots`. The files are landed there; then they are entered, claimed, judged,
    merged into emptied fact tables and settled in one transaction: until it commits, readers see what was before, and so they do if
    it fails. Supporting rows and series keep their ids. A refused file stops nothing. A boot whose zone has been loaded is not made
    again: what has been loaded since would go.

    Raises `Transient`, and `ConfigurationError` for no files at all, a paused dataset, or a second boot at once.
    """
    named = {key: path for key, path in files.items() if is_key(key)}
    if not named:
        raise ConfigurationError("there is no file to boot from: every fact would go")
    if len(named) < len(files):
        log.warning("files=%s: left out, their names cannot be keys", len(files) - len(named))
    outcome = Outcome()
    started = time.monotonic()
    with database.connect() as connection, _only_boot(connection):
        if paused := paused_datasets(connection, job.zone.pipeline):
            raise ConfigurationError(f"a boot would take out the facts of paused datasets: 'ingestion resume' {', '.join(paused)} first")
        if entries.was_entered(connection, job.zone.landing.url):
            log.warning("boot=%s: was made before; the sweep moves what is left of it", run_id)
            return outcome
        _tidy(connection, boots)
        landed = [_land(job.zone.landing, key, path) for key, path in named.items()]
        fault_point("metrics.boot.landed")
        with connection.transaction():
            entries.discover(connection, job.zone.pipeline, job.zone.landing.url, list(map(Arrival, landed)), datetime.now(UTC), run_id)
            settled = _replace_facts(connection, database, job, run_id, limits, outcome)
            _refuse_to_lose(settled, landed)
            _renew(connection, settled, limits)
        fault_point("metrics.boot.committed")
        outcome.moves_pending = _move(connection, job, settled, run_id, limits)
    outcome.seconds = time.monotonic() - started
    return outcome


def _move(connection: Connection, job: Job, settled: Sequence[Load], run_id: str, limits: Limits) -> int:
    """Move the objects of a boot that has committed; how many are left to the sweep. Nothing here can undo the boot, or fail it."""
    moved = 0
    try:
        for first in range(0, len(settled), limits.batch_files):
            page = settled[first : first + limits.batch_files]
            _renew(connection, settled[first:], limits)
            pending = moving.move(connection, job.zone, page, lease_seconds=limits.lease_seconds, run_id=run_id)
            moved += len(page) - len(pending)
    except psycopg.Error as error:
        log.warning("error=%s: the facts are replaced; the sweep moves the files", type(error).__name__)
    return len(settled) - moved


def _renew(connection: Connection, settled: Sequence[Load], limits: Limits) -> None:
    """Renew the leases by hand: before the commit nobody else can see them, and a boot may outlast them."""
    ledger.renew(connection, sorted({load.claim for load in settled}), limits.lease_seconds)


def _refuse_to_lose(settled: Sequence[Load], landed: Sequence[StoredObject]) -> None:
    """Raise rather than commit facts that lack what a file says which was only not read, or that are none at all."""
    done = [load for load in settled if load.status != Status.READY]
    if len(done) < len(landed):
        raise Transient("boot_incomplete", f"{len(landed) - len(done)} of {len(landed)} files could not be read or written now")
    if not any(load.status == Status.READY_FOR_ARCHIVING for load in done):
        raise ConfigurationError("no file of the folder can be loaded: every fact would go; 'ingestion check' says why")


def _land(store: ObjectStore, key: str, path: Path) -> StoredObject:
    return store.write(key, read_file(path), modified=datetime.fromtimestamp(path.stat().st_mtime, UTC))


def _replace_facts(connection: Connection, database: Database, job: Job, run_id: str, limits: Limits, outcome: Outcome) -> list[Load]:
    """Empty the fact tables and load what was landed, in the caller's transaction: the loads to be moved once it has committed."""
    ids = frozenset(entries.unfinished(connection, job.zone.landing.url))
    MetricsAPIInterface(connection).clear()
    mark_rebuilt(connection, job.zone.pipeline)
    # One batch, and so one merge; whoever waits for the next run does not wait for a time limit here.
    everything = replace(limits, batch_files=_EVERYTHING, batch_bytes=_EVERYTHING)
    settled: list[Load] = []
    with Claims(database, Scope(job.zone.pipeline, ids=ids), run_id, everything) as claims:
        for batch in claims.batches(connection):
            settled += load_batch(connection, job, claims, batch, outcome)
    fault_point("metrics.boot.replaced")
    return settled


@contextmanager
def _only_boot(connection: Connection) -> Iterator[None]:
    """Hold the place of the one boot there may be at a time."""
    if connection.execute("SELECT pg_try_advisory_lock(%s)", [_BOOT_LOCK]).fetchone() != (True,):
        raise ConfigurationError("another boot is running in this database; wait for its end")
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", [_BOOT_LOCK])


def _tidy(connection: Connection, boots: ObjectStore) -> None:
    """Remove what boots that failed have landed and never entered."""
    entered = set(entries.unfinished(connection, boots.url).values())
    for seen in boots.list():
        if f"{boots.url}/{seen.key}" not in entered:
            boots.remove(seen)

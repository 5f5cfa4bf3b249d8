"""What stands in a landing zone before a run: files put there, objects still being written, and those of before the first day."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from ingestion_dagster.engine import discovery, entries, landing, ledger, moving, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.home import prepare_dagster_home
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Scope, Status, Verdict
from ingestion_dagster.engine.local_files import distinct, read_file
from ingestion_dagster.engine.object_store import StoredObject, is_key
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

ADOPTED = "adopted: it was there before"
"""Why a load is archived that nobody read."""

_LONGEST_WAIT = 60.0
_PAGE = 500


@dataclass(slots=True)
class Landed:
    """What was put into a landing zone, and names that cannot be keys."""

    objects: list[StoredObject] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


def land(pipeline: Pipeline, settings: Settings, paths: Sequence[Path], dataset: str | None = None) -> Landed:
    """Put files into the landing zone, modification times kept on a local store, and enter them into the ledger."""
    zone = pipeline.zone(settings)
    prefix = pipeline.prefix_of(dataset) if dataset else ""
    files = distinct(paths, prefix)
    landed = Landed()
    with postgres.ready(settings).connect() as connection:
        pipeline.sync_datasets(connection, settings)
        entered = 0
        for key, path in files.items():
            if not is_key(key):
                landed.unusable.append(key)
                continue
            modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            landed.objects.append(zone.landing.write(pipeline.landing_key(settings, key), read_file(path), modified=modified))
            if len(landed.objects) - entered >= _PAGE:
                _enter(connection, zone, landed.objects[entered:])
                entered = len(landed.objects)
        _enter(connection, zone, landed.objects[entered:])
        zone.assign(connection)
        add_partitions(pipeline, settings, connection)
    return landed


def _enter(connection: Connection, zone: Zone, objects: Sequence[StoredObject]) -> None:
    arrivals = [arrival for arrival in map(zone.arrival, objects) if arrival is not None]
    entries.discover(connection, zone.pipeline, zone.landing.url, arrivals, datetime.now(UTC))


def add_partitions(pipeline: Pipeline, settings: Settings, connection: Connection) -> None:
    """Tell Dagster of partitions that have come up with what has arrived."""
    wanted = pipeline.dynamic_partitions(connection) if pipeline.dynamic_partitions else {}
    if not any(wanted.values()):
        return
    from ingestion_dagster.engine import dagster

    prepare_dagster_home(settings)
    with dagster.open_instance() as instance:
        dagster.add_partitions(instance, wanted)


def await_settled(pipeline: Pipeline, settings: Settings, connection: Connection, *, listed: bool = False) -> landing.Discovery:
    """Discover until no object is still being written (a minute at most; what still changes then is left to the next run).

    A queue that tells of them is emptied, unless all is to be `listed` that stands there, told of or not.
    """
    zone = pipeline.zone(settings)
    if listed:
        zone = replace(zone, queue=None)
    deadline = time.monotonic() + _LONGEST_WAIT
    while True:
        found = discovery.discover(connection, zone, datetime.now(UTC))
        if not found.complete:
            continue
        if not found.settling or time.monotonic() > deadline:
            return found
        time.sleep(min(0.2, settings.settle_seconds))


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was there on the first day: lines on what was taken over in the database, and how many files were marked as done."""

    told: tuple[str, ...]
    files: int
    doubts: tuple[str, ...] = ()
    """Lines on files that a person should look at."""


def adopt(pipeline: Pipeline, settings: Settings, before: datetime | None = None, *, dry_run: bool = False) -> Adopted:
    """Take over a living system: its tables, and, as done, the files that stand in the landing zone (modified before `before`).

    Nothing is loaded. The files are moved to where loaded ones go. Of a pipeline that can tell which files were dealt with, only those.
    """
    told = pipeline.take_over(postgres.locate(settings), dry_run)
    zone = pipeline.zone(settings)
    if told and pipeline.takes_over_loads and before is None:
        return Adopted(told, 0)
    if not told:
        postgres.ready(settings)
    if dry_run:
        standing = [seen for seen in zone.landing.list() if before is None or seen.modified < before]
        dealt_with, doubts = pipeline.done(settings, standing)
        return Adopted(told, len(dealt_with), doubts)
    database = postgres.ready(settings)
    limits = Limits.of(settings)
    run_id = f"adopt-{uuid.uuid4().hex[:8]}"
    adopted = 0
    with database.connect() as connection:
        pipeline.sync_datasets(connection, settings)
        await_settled(pipeline, settings, connection, listed=True)
        scope = Scope(pipeline.name, waiting=True, paused=True)
        there = [load for load in ledger.claimable_loads(connection, scope) if before is None or load.modified < before]
        dealt_with, doubts = pipeline.done(settings, [load.stored_object for load in there])
        there = [load for load in there if load.key in dealt_with]
        with Claims(database, replace(scope, ids=frozenset(load.id for load in there)), run_id, limits) as claims:
            for batch in claims.batches(connection):
                with connection.transaction():
                    ledger.settle(connection, [Verdict(load, Status.READY_FOR_ARCHIVING, why=ADOPTED) for load in batch])
                done = [replace(load, status=Status.READY_FOR_ARCHIVING) for load in batch]
                moving.move(connection, zone, done, lease_seconds=limits.lease_seconds, run_id=run_id)
                adopted += len(batch)
    return Adopted(told, adopted, doubts)

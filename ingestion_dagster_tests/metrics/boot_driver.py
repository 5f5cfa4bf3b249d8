"""Boots, replays and loads under a point policy in processes of their own, to be killed, stopped and raced."""

import shlex
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ingestion_dagster.engine import landing, ledger, moving, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Again, Scope
from ingestion_dagster.engine.local_files import distinct
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics.boot import boot as boot_from
from ingestion_dagster.metrics.load import Job, load_metrics
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, boot_folder, boot_zone, zone
from ingestion_dagster.metrics.policy import full_topics
from ingestion_dagster.metrics.registry import FILE_TYPES
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.metrics import driver


def boot(settings: Settings, folder: Path | str, run_id: str | None = None) -> Outcome:
    """One boot, as the load step makes it: sweep, then replace the facts."""
    database = postgres.locate(settings)
    run_id = run_id or f"boot-{uuid.uuid4().hex[:8]}"
    with database.connect() as connection:
        _sweep(connection, settings, run_id)
    job = _job(settings, boot_zone(settings, run_id))
    return boot_from(database, job, open_store(boot_folder(settings)), distinct([Path(folder)]), run_id, Limits.of(settings))


def replay(settings: Settings, partition: str) -> Again:
    """What is archived in a partition put back, then one run over that partition, as `ingestion replay` does it."""
    with postgres.locate(settings).connect() as connection:
        again = ledger.replay(connection, Scope(PIPELINE, partitions=frozenset({partition})))
    load(settings, partition=partition)
    return again


def load(settings: Settings, *, now: datetime = driver.NOW, partition: str | None = None) -> Outcome:
    """One run under the settings' point policy, over a partition or all there is: sweep, discover, load."""
    database = postgres.locate(settings)
    run_id = f"load-{uuid.uuid4().hex[:8]}"
    scope = Scope(PIPELINE, partitions=frozenset({partition}) if partition else None)
    with database.connect() as connection:
        _sweep(connection, settings, run_id)
        landing.discover(connection, zone(settings), datetime.now(UTC), run_id)
        with Claims(database, scope, run_id, Limits.of(settings)) as claims:
            return load_metrics(claims, _job(settings, zone(settings), now), connection)


def _job(settings: Settings, place: Zone, now: datetime = driver.NOW) -> Job:
    return Job(place, frozenset(FILE_TYPES), now, settings.max_load_bytes, full_topics(settings))


def _sweep(connection: Connection, settings: Settings, run_id: str) -> None:
    limits = Limits.of(settings)
    sync_datasets(connection, PIPELINE, DATASETS)
    moving.sweep(connection, zone(settings), lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)


def command(line: str) -> None:
    """What a process does: `boot FOLDER`, `replay PARTITION` or `load`."""
    name, *arguments = shlex.split(line)
    commands: dict[str, Callable[..., object]] = {"boot": boot, "replay": replay, "load": load}
    commands[name](current(), *arguments)


def start(settings: Settings, *words: str | Path, fault: str | None = None) -> processes.Process:
    """A process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    line = shlex.join(map(str, words))
    return processes.start("ingestion_dagster_tests.metrics.boot_driver", settings, line, fault=fault)


if __name__ == "__main__":
    processes.serve(command)

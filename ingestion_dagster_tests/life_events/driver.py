"""The life events pipeline in processes of its own, without Dagster: to be killed, stopped and raced; and what its runs leave behind.

`python -m ingestion_dagster_tests.life_events.driver` sweeps, discovers and loads once; `… publish` tells the platform of what is due;
`… sweep` deletes what has outlived its time. Settings come from the environment.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ingestion_dagster.engine import landing, moving, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import places, upkeep
from ingestion_dagster.life_events import publish as publishing
from ingestion_dagster.life_events import rekey as rekeying
from ingestion_dagster.life_events.keys import vault
from ingestion_dagster.life_events.load import Job, load_life_events
from ingestion_dagster.life_events.registry import DATASET, PIPELINE
from ingestion_dagster.life_events.store import open_store
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import finished, query, retried

HMAC_KEYS = f"k1:{'0123456789abcdef' * 4}"  # pragma: allowlist secret
ENCRYPTION_KEYS = f"e1:{'fedcba9876543210' * 4}"  # pragma: allowlist secret
CHUNK = 3
"""Records in a transaction: so few that a small file needs several."""
_MODULE = "ingestion_dagster_tests.life_events.driver"
Process = processes.Process
environment_of = processes.environment_of
quick_folder = processes.quick_folder


def run(settings: Settings) -> Outcome:
    """One run, as the load step makes it: sweep, discover, load until nothing is claimable."""
    database = postgres.locate(settings)
    limits = Limits.of(settings)
    job = replace(Job.of(settings), chunk_records=CHUNK)
    run_id = f"driver-{uuid.uuid4().hex[:8]}"
    with database.connect() as connection:
        sync_datasets(connection, PIPELINE, [DATASET])
        moving.sweep(connection, job.zone, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        landing.discover(connection, job.zone, datetime.now(UTC), run_id)
        with Claims(database, Scope(PIPELINE), run_id, limits) as claims:
            return load_life_events(claims, job, connection)


def discover(settings: Settings) -> None:
    """Enter what stands in the landing zone, and load nothing."""
    with postgres.locate(settings).connect() as connection:
        sync_datasets(connection, PIPELINE, [DATASET])
        landing.discover(connection, places.zone(settings), datetime.now(UTC))


def retry(settings: Settings) -> None:
    """Put every refused file back to ready."""
    retried(settings, PIPELINE)


def publish(settings: Settings) -> publishing.Published:
    """Tell the platform of what is due."""
    return publishing.publish(postgres.locate(settings), settings, f"driver-{uuid.uuid4().hex[:8]}", seconds=60)


def rekey(settings: Settings) -> rekeying.Rekeyed:
    """Seal again, under the newest key, what is sealed with another."""
    return rekeying.rekey(postgres.locate(settings), open_store(settings), vault(settings))


def sweep(settings: Settings) -> int:
    """Delete what has outlived its time."""
    return upkeep.sweep(postgres.locate(settings), open_store(settings), datetime.now(UTC), f"driver-{uuid.uuid4().hex[:8]}")


COMMANDS: dict[str, Callable[[Settings], Any]] = {"run": run, "publish": publish, "rekey": rekey, "retry": retry, "sweep": sweep}


def command(name: str) -> None:
    """What a driver process does."""
    COMMANDS[name](current())


def start(settings: Settings, name: str = "run", *, fault: str | None = None) -> Process:
    """A driver process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start(_MODULE, settings, name, fault=fault)


def emptied(database: Database) -> Database:
    """The same database without a row in the ledger and the tables of life events."""
    return processes.emptied(database, "life_events", "ledger")


def settings_for(database: Database, home: Path, **more: Any) -> Settings:
    """A fresh installation over a database, where nothing has to settle."""
    values: dict[str, Any] = {
        "home": home,
        "database_url": database.sqlalchemy_url,
        "settle_seconds": 0,
        "life_events_hmac_keys": SecretStr(HMAC_KEYS),
        "life_events_encryption_keys": SecretStr(ENCRYPTION_KEYS),
    }
    return Settings(**{**values, **more})


def incoming(settings: Settings) -> Path:
    """The landing zone of an installation on a disk."""
    return Path(settings.zone(PIPELINE, "landing", "life_events/incoming").removeprefix("file://"))


def quarantine(settings: Settings) -> Path:
    """The quarantine of an installation on a disk."""
    return Path(settings.zone(PIPELINE, "quarantine", "life_events/quarantine").removeprefix("file://"))


def drop(settings: Settings, name: str, content: bytes, minute: int = 0) -> Path:
    """Put a file into the landing zone; files are loaded in the order of their minutes."""
    path = incoming(settings) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    at = time.time() - 3600 + 60 * minute
    os.utime(path, (at, at))
    return path


def connect(settings: Settings) -> Connection:
    """A connection to the ledger's database."""
    return postgres.locate(settings).connect()


def finish(settings: Settings, seconds: float = 60) -> None:
    """Runs in this process, one after the other, until every load is finished."""
    finished(settings, run, seconds)


_LOADS = """
SELECT l.key, l.status, l.error_code, l.rows_in, l.rows_written, l.rows_unchanged, l.rows_rejected, l.content_hash,
       l.duplicate_of IS NOT NULL, l.problems, f.record_count, f.accepted, f.duplicates, f.quarantined, f.code, f.deleted_at IS NOT NULL
FROM ledger.loads AS l LEFT JOIN life_events.files AS f ON f.load_id = l.id ORDER BY l.key, l.id
"""

_RECORDS = """
SELECT encode(r.record_key, 'hex'), r.hmac_key, l.key, r.ordinal, r.state, r.code, e.record_key IS NOT NULL
FROM life_events.records AS r JOIN ledger.loads AS l ON l.id = r.load_id LEFT JOIN life_events.events AS e USING (record_key) ORDER BY 1
"""

_OUTBOX = "SELECT topic, key, dead_at IS NOT NULL FROM ledger.outbox ORDER BY 1, 2"

_QUARANTINE = """
SELECT l.key, q.ordinal, q.number, q.byte_offset, q.code, q.field, encode(q.record_key, 'hex')
FROM life_events.quarantine AS q JOIN ledger.loads AS l ON l.id = q.load_id ORDER BY 1, 2, 3
"""

_STAGED = "SELECT event_name, encode(record_key, 'hex'), outcome FROM life_events.audit WHERE record_key IS NOT NULL ORDER BY 1, 2, 3"

_FILE_AUDIT = "SELECT event_name, encode(file_hmac, 'hex'), outcome FROM life_events.audit WHERE record_key IS NULL ORDER BY 1, 2, 3"


def left_behind(settings: Settings) -> dict[str, Any]:
    """What runs have left in the ledgers, the store, the outbox, the audit and the folders: not who, when, nor at which attempt."""
    return {
        "loads": [list(row) for row in query(settings, _LOADS)],
        "records": [list(row) for row in query(settings, _RECORDS)],
        "outbox": [list(row) for row in query(settings, _OUTBOX)],
        "quarantine": [list(row) for row in query(settings, _QUARANTINE)],
        "staged": [list(row) for row in query(settings, _STAGED)],
        "files": [list(row) for row in query(settings, _FILE_AUDIT)],
        "incoming": sorted(path.name for path in incoming(settings).rglob("*") if path.is_file()),
        "refused": sorted((path.name.split(".")[0], path.suffix) for path in quarantine(settings).rglob("*") if path.is_file()),
    }


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "run"
    processes.serve(command) if wanted == "serve" else command(wanted)

"""The cubic pipeline in processes of its own, without Dagster: to be killed, stopped and raced; and what its runs leave behind.

`python -m ingestion_dagster_tests.cubic.driver` prepares, sweeps, discovers and loads once; `… discover` only enters what has arrived,
`… retry` puts errored loads back to ready, `… replay` archived ones. Settings come from the environment.

`… serve` waits for such commands on its standard input and forks a process for each: an import of everything is a second.
"""

import hashlib
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingestion_dagster.cubic import zone as cubic_zone
from ingestion_dagster.cubic.load import CubicOutcome, load_cubic
from ingestion_dagster.cubic.registry import PIPELINE, registry
from ingestion_dagster.cubic.table_batch import Job
from ingestion_dagster.engine import landing, moving, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.ledger import Load, Scope
from ingestion_dagster.engine.object_store import ObjectStore, open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import replayed, retried

POISON = "INGESTION_TEST_POISON"
"""Part of a key: whoever reads such a file is killed."""

PLACES = ("incoming", "archive", "error", "springboard")
_MODULE = "ingestion_dagster_tests.cubic.driver"
Process = processes.Process
quick_folder = processes.quick_folder


def run(settings: Settings) -> CubicOutcome:
    """One run, as the load steps make it: sweep, prepare, discover, load until nothing is claimable."""
    database = postgres.locate(settings)
    limits = Limits.of(settings)
    job = Job.of(settings, registry(settings))
    run_id = f"driver-{uuid.uuid4().hex[:8]}"
    with database.connect() as connection:
        cubic_zone.prepare(connection, job.registry)
        moving.sweep(connection, job.zone, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        landing.discover(connection, job.zone, datetime.now(UTC), run_id)
        with Claims(database, Scope(PIPELINE), run_id, limits) as claims:
            return load_cubic(claims, job, connection)


def discover(settings: Settings) -> None:
    """Enter what stands in the landing zone, and load nothing."""
    tables = registry(settings)
    with postgres.locate(settings).connect() as connection:
        cubic_zone.prepare(connection, tables)
        landing.discover(connection, cubic_zone.zone(settings, tables), datetime.now(UTC))


def retry(settings: Settings) -> None:
    """Put every errored load back to ready."""
    retried(settings, PIPELINE)


def replay(settings: Settings) -> None:
    """Put every archived load that is the newest of its key back to ready."""
    replayed(settings, PIPELINE)


COMMANDS = {"run": run, "discover": discover, "retry": retry, "replay": replay}


def command(name: str) -> None:
    """What a driver process does."""
    poison = os.environ.get(POISON)
    if poison:
        stream = landing.stream

        def deadly(zone: landing.Zone, load: Load) -> Any:
            if poison in load.key:
                os.kill(os.getpid(), signal.SIGKILL)
            return stream(zone, load)

        landing.stream = deadly
    COMMANDS[name](current())


def start(settings: Settings, name: str = "run", *, fault: str | None = None, poison: str | None = None) -> Process:
    """A driver process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start(_MODULE, settings, name, fault=fault, **({POISON: poison} if poison is not None else {}))


def emptied(database: Database) -> Database:
    """The same database without a row in the ledger and cubic's tables."""
    return processes.emptied(database, "cubic", "ledger")


def settings_for(database: Database, home: Path, tables: Path, **more: Any) -> Settings:
    """A fresh installation over a database, where nothing has to settle and half of the rows may be bad."""
    return Settings(
        home=home, database_url=database.sqlalchemy_url, settle_seconds=0, cubic_tables=tables, cubic_rejected_percent=50, **more
    )


def is_open(load: Mapping[str, Any]) -> bool:
    """Whether a run could still do something for a load; what waits for a person, it cannot."""
    return load["status"] not in ("archived", "errored") and load["waiting_for"] is None


def finish(settings: Settings, seconds: float = 60) -> None:
    """Runs in this process, one after the other, until every load is finished or waits, and only what waits stands in the landing zone."""
    deadline = time.monotonic() + seconds
    while True:
        run(settings)
        found = loads(settings)
        still_open = [load for load in found if is_open(load)]
        waiting = {_stem(load["key"]) for load in found if load["waiting_for"] is not None}
        standing = [seen.key for seen in store(settings, "incoming").list() if _stem(seen.key) not in waiting]
        if not still_open and not standing:
            return
        assert time.monotonic() < deadline, f"still open after {seconds} s: {still_open}; in the landing zone: {standing}"
        time.sleep(0.2)


def _stem(key: str) -> str:
    """What a file and its `.dfm` have in common."""
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


_LOADS = """
WITH numbered AS (
    SELECT *, row_number() OVER (PARTITION BY landing_zone, key ORDER BY modified, id) AS number FROM ledger.loads
)
SELECT l.key, l.number, d.name AS dataset, l.status, l.waiting_for, s.snapshot::text AS snapshot, l.size, l.rows_in, l.rows_written,
       l.rows_unchanged, l.rows_rejected, l.bytes, l.content_hash, o.key AS original, o.number AS original_number, l.error_code,
       l.error_message, l.problems, l.location, l.committed_at IS NOT NULL AS committed, l.finished_at IS NOT NULL AS finished
FROM numbered AS l
LEFT JOIN numbered AS o ON o.id = l.duplicate_of
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
LEFT JOIN ledger.snapshots AS s ON s.id = l.snapshot_id
ORDER BY l.key, l.number
"""

_SCHEMAS = """
SELECT d.name, s.version, s.columns, s.key, s.registered, s.since::text, l.key
FROM cubic.schemas AS s JOIN ledger.datasets AS d ON d.id = s.dataset_id LEFT JOIN ledger.loads AS l ON l.id = s.load_id ORDER BY 1, 2
"""

_OFFSETS = """
SELECT d.name, l.key, o.topic, o.partition, o.offsets::text
FROM cubic.kafka_offsets AS o JOIN ledger.datasets AS d ON d.id = o.dataset_id JOIN ledger.loads AS l ON l.id = o.load_id ORDER BY 2, 3, 4
"""


def loads(settings: Settings) -> list[dict[str, Any]]:
    """Every load by key and number of its version: what became of it, not who did it, when, and at which attempt."""
    with postgres.locate(settings).connect() as connection:
        cursor = connection.execute(_LOADS)
        names = [column.name for column in cursor.description or ()]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
    for load in found:
        load["location"] = load["location"] and plain(load["location"].replace(settings.storage, "storage"))
    return found


def store(settings: Settings, place: str) -> ObjectStore:
    """The store of `incoming`, `archive`, `error` or `springboard`."""
    purpose = "landing" if place == "incoming" else place
    return open_store(settings.zone(PIPELINE, purpose, f"cubic/{place}"))


def files(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    """By place, the keys (without versions) that stand there, and the digest of what each holds."""
    found = {}
    for place in PLACES:
        there = store(settings, place)
        found[place] = sorted((plain(seen.key), hashlib.sha256(there.read(seen)).hexdigest()) for seen in there.list())
    return found


def left_behind(settings: Settings) -> dict[str, Any]:
    """What runs have left in the ledger, in cubic's tables and in the stores, so that two histories can be compared."""
    with postgres.locate(settings).connect() as connection:
        schemas = [list(row) for row in connection.execute(_SCHEMAS)]
        offsets = [list(row) for row in connection.execute(_OFFSETS)]
    by_load = {f"{load['key']} #{load['number']}": load for load in loads(settings)}
    return {"loads": by_load, "files": files(settings), "schemas": schemas, "offsets": offsets}


def plain(key: str) -> str:
    """A key without the version in it."""
    return re.sub(r"\.[0-9a-f]{12}(?=\.|$)", ".VERSION", key)


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "run"
    processes.serve(command) if wanted == "serve" else command(wanted)

"""The metrics pipeline in a process of its own, without Dagster: to be killed, stopped and raced; and what its runs leave behind.

A process called `run` sweeps, discovers and loads once; `retry` puts errored loads back to ready, `replay` archived ones.
"""

import json
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ingestion_dagster.engine import landing, ledger, moving, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.load import Job, load_metrics
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, zone
from ingestion_dagster.metrics.registry import FILE_TYPES
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import replayed, retried

NOW = datetime(2024, 1, 1, tzinfo=UTC)
"""The clock by which embargoes are judged: every run of a test must judge them alike."""


def run(settings: Settings) -> Outcome:
    """One run, as the load step makes it: sweep, discover, load until nothing is claimable."""
    database = postgres.locate(settings)
    limits = Limits.of(settings)
    place = zone(settings)
    run_id = f"driver-{uuid.uuid4().hex[:8]}"
    with database.connect() as connection:
        sync_datasets(connection, PIPELINE, DATASETS)
        moving.sweep(connection, place, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        landing.discover(connection, place, datetime.now(UTC), run_id)
        with Claims(database, Scope(PIPELINE), run_id, limits) as claims:
            return load_metrics(claims, Job(place, frozenset(FILE_TYPES), NOW, settings.max_load_bytes), connection)


def copy_of_template(server: EmbeddedServer, name: str) -> Database:
    """A migrated database by this name, for what outlives a test; it goes with the session's server."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE migrated").format(sql.Identifier(name)))
    return Database.at(server.url(name))


def discover(settings: Settings) -> None:
    """Enter what stands in the landing zone, and load nothing."""
    with postgres.locate(settings).connect() as connection:
        sync_datasets(connection, PIPELINE, DATASETS)
        landing.discover(connection, zone(settings), datetime.now(UTC))


def retry(settings: Settings) -> None:
    """Put every errored load back to ready."""
    retried(settings, PIPELINE)


def replay(settings: Settings) -> None:
    """Put every archived load that is the newest of its key back to ready."""
    replayed(settings, PIPELINE)


COMMANDS = {"run": run, "retry": retry, "replay": replay}


def settings_for(database: Database, home: Path) -> Settings:
    """A fresh installation over a database, where nothing has to settle."""
    return Settings(home=home, database_url=database.sqlalchemy_url, settle_seconds=0)


def command(name: str) -> None:
    """What a driver process does."""
    COMMANDS[name](current())


def start(settings: Settings, name: str = "run", *, fault: str | None = None) -> processes.Process:
    """A driver process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start("ingestion_dagster_tests.metrics.driver", settings, name, fault=fault)


def finish(settings: Settings, seconds: float = 60) -> None:
    """Runs in this process, one after the other, until every load is finished and the landing zone empty."""
    deadline = time.monotonic() + seconds
    while True:
        run(settings)
        open_loads = [load for load in loads(settings) if load["status"] not in ("archived", "errored")]
        standing = list(zone(settings).landing.list())
        if not open_loads and not standing:
            return
        assert time.monotonic() < deadline, f"still open after {seconds} s: {open_loads}; in the landing zone: {standing}"
        time.sleep(0.2)


_FACTS = """
SELECT ((to_jsonb(l) - 'series_id') || (to_jsonb(t) - '{{id,series_id}}'::text[]))::text
FROM metrics.{table} AS t JOIN metrics.series_labels AS l USING (series_id)
"""
_NAMES = """
SELECT (to_jsonb(t) - '{{id,created_dt,theme_id,sub_theme_id,topic_id,metric_group_id,geography_type_id}}'::text[])::text
FROM metrics.{table} AS t
"""
_SERIES = """
SELECT ((to_jsonb(l) - 'series_id') || jsonb_build_object('newest', s.newest_refresh_date))::text
FROM metrics.series AS s JOIN metrics.series_labels AS l ON l.series_id = s.id
"""
_TABLES = {
    **{table: _FACTS.format(table=table) for table in ("core_headline", "core_time_series", "api_time_series")},
    **{
        table: _NAMES.format(table=table)
        for table in ("theme", "sub_theme", "topic", "metric_group", "metric", "geography_type", "geography", "stratum", "age")
    },
    "series": _SERIES,
}

_LOADS = """
WITH numbered AS (
    SELECT *, row_number() OVER (PARTITION BY landing_zone, key ORDER BY modified, id) AS number FROM ledger.loads
)
SELECT l.key, l.number, d.name AS dataset, l.status, l.rows_in, l.rows_written, l.rows_unchanged, l.rows_rejected, l.bytes,
       l.content_hash, o.key AS original, o.number AS original_number, l.error_code, l.error_message, l.problems, l.location,
       l.committed_at IS NOT NULL AS committed, l.finished_at IS NOT NULL AS finished
FROM numbered AS l
LEFT JOIN numbered AS o ON o.id = l.duplicate_of
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
ORDER BY l.key, l.number
"""


def tables(settings: Settings) -> dict[str, list[str]]:
    """Every row of every metrics table, ids resolved or left out, sorted."""
    with postgres.locate(settings).connect() as connection:
        return {name: sorted(row[0] for row in connection.execute(statement)) for name, statement in _TABLES.items()}


def loads(settings: Settings) -> list[dict[str, Any]]:
    """Every load by key and number of its version: what became of it, not who did it, when, and at which attempt."""
    with postgres.locate(settings).connect() as connection:
        cursor = connection.execute(_LOADS)
        names = [column.name for column in cursor.description or ()]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
    for load in found:
        load["location"] = load["location"] and _plain(load["location"].replace(settings.storage, "storage"))
    return found


def files(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    """By place, the keys (without versions and days) and contents that stand there."""
    place = zone(settings)
    processed, archive = (target.store for target in place.archive_targets(_ANY))
    stores = {"in": place.landing, "processed": processed, "archive": archive, "failed": place.error_targets(_ANY)[-1].store}
    return {name: sorted((_plain(seen.key), store.read(seen).decode()) for seen in store.list()) for name, store in stores.items()}


_ANY = ledger.Load(0, PIPELINE, None, "", "any", "", 0, NOW, "", ledger.Status.ARCHIVED, 0)


def left_behind(settings: Settings) -> dict[str, Mapping[str, Any]]:
    """What runs have left in the tables, the ledger and the stores, so that two histories can be compared."""
    by_load = {f"{load['key']} #{load['number']}": load for load in loads(settings)}
    return {"tables": tables(settings), "loads": by_load, "files": files(settings)}


def _plain(key: str) -> str:
    """A key without the version and the day in it."""
    return re.sub(r"\.[0-9a-f]{12}(?=\.|$)", ".VERSION", re.sub(r"(^|/)\d{4}-\d{2}-\d{2}/", r"\1DAY/", key))


def as_bytes(payload: Mapping[str, Any] | bytes) -> bytes:
    """The file of a payload."""
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


if __name__ == "__main__":
    processes.serve(command)

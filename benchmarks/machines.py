"""Workers that share nothing but a bucket and a Postgres: 1, 2 and 4 of them over one backlog, and 2 of which one is killed.

Each worker is a process with a home and a folder for temporary files of its own, as a machine has them, and no disk in common: files are
in `quick_s3` (beside moto the workers would only wait for moto). What they leave behind must be what one alone leaves. On two cores the
figures show what sharing costs more than what it gains: S3, Postgres and the workers all live there. Clocks begin when all are started.
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import orjson

from benchmarks.metrics import payloads
from benchmarks.quick_s3 import quick_s3
from benchmarks.results import Result, Row, met
from ingestion_dagster.cubic import zone as cubic_zone
from ingestion_dagster.cubic.load import Job as CubicJob
from ingestion_dagster.cubic.load import load_cubic
from ingestion_dagster.cubic.registry import registry
from ingestion_dagster.engine import datasets, discovery, embedded_postgres, moving, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.metrics.load import Job, load_metrics
from ingestion_dagster.metrics.places import DATASETS, zone
from ingestion_dagster.metrics.registry import FILE_TYPES
from ingestion_dagster.settings import Settings, current

FILES, QUICK = 1000, 80
POINTS, LINES = 20, 200
ROUNDS = {"1 worker": 1, "2 workers": 2, "4 workers": 4, "2 workers, one killed": 2}
LEASE_SECONDS = 5
REGISTRY = "tables: [{name: fares, prefix: cubic/dmap/fares, kind: dmap, columns: {day: date, fare: int}}]"

LEFT = {
    "loads": "SELECT pipeline, key, status, rows_in, rows_written, rows_rejected FROM ledger.loads ORDER BY pipeline, key, id",
    "points": """
        SELECT s.id IS NOT NULL, count(*), sum(p.metric_value), count(DISTINCT (p.series_id, p.date))
        FROM metrics.core_time_series AS p JOIN metrics.series AS s ON s.id = p.series_id GROUP BY 1
    """,
    "moves": "SELECT e.to_status, count(DISTINCT e.load_id) FROM ledger.load_events AS e GROUP BY 1 HAVING e.to_status = 'archived'",
}


def work(pipeline: str) -> None:
    """In a process of its own: sweep, discover, and load until nothing is left, as a run does."""
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.process_time()
    settings = current()
    database, limits, run_id = postgres.locate(settings), Limits.of(settings), f"worker-{os.getpid()}-{pipeline}"
    tables = registry(settings)
    place = zone(settings) if pipeline == "metrics" else cubic_zone.zone(settings, tables)
    with database.connect() as connection:
        moving.sweep(connection, place, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        discovery.discover(connection, place, datetime.now(UTC), run_id)
        with Claims(database, Scope(pipeline), run_id, limits) as claims:
            if pipeline == "metrics":
                load_metrics(claims, Job(place, frozenset(FILE_TYPES), datetime.now(UTC)), connection)
            else:
                load_cubic(claims, CubicJob.of(settings, tables), connection)
    print(time.process_time() - begun)


def environment(home: Path, shared: Mapping[str, str]) -> dict[str, str]:
    """The environment of a machine of its own."""
    (home / "tmp").mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INGESTION_", "AWS_"))}
    return kept | dict(shared) | {"INGESTION_HOME": str(home), "TMPDIR": str(home / "tmp")}


def land(url: str, bucket: str, count: int) -> None:
    """Put a backlog into a bucket: metric files, and DMAP files as many again by four."""
    client = boto3.client("s3", endpoint_url=url, aws_access_key_id="b", aws_secret_access_key="b", region_name="eu-west-2")
    for number, payload in enumerate(payloads(count, POINTS, "2024-03-01 10:00:00")):
        client.put_object(Bucket=bucket, Key=f"metrics/in/COVID-19_{number:05}.json", Body=orjson.dumps(payload))
    for number in range(count // 4):
        lines = "".join(f"2026-01-01,{number * LINES + line}\n" for line in range(LINES))
        body = gzip.compress(f"day,fare\n{lines}".encode(), mtime=0)
        client.put_object(Bucket=bucket, Key=f"cubic/incoming/cubic/dmap/fares/{number:05}.csv.gz", Body=body)
    client.close()


def left(connection: Connection, url: str, bucket: str) -> dict[str, Any]:
    """What stands in the tables and in the bucket, without what differs from round to round."""
    client = boto3.client("s3", endpoint_url=url, aws_access_key_id="b", aws_secret_access_key="b", region_name="eu-west-2")
    places: dict[str, int] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", ()):
            place = "/".join(found["Key"].split("/")[:2])
            places[place] = places.get(place, 0) + 1
    client.close()
    rows = {name: [list(map(str, row)) for row in connection.execute(statement)] for name, statement in LEFT.items()}
    return rows | {"places": places}


class Worker:
    """A machine: a process that has started and waits to be told to begin."""

    def __init__(self, home: Path, shared: Mapping[str, str], pipeline: str, fault: str | None) -> None:
        own = environment(home, shared) | ({"INGESTION_TEST_FAULT": fault} if fault else {})
        command = [sys.executable, "-m", "benchmarks.machines", "work", pipeline]
        self._process = subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._told, self._answers = self._process.stdin, self._process.stdout
        assert self._answers.readline() == "ready\n"

    def begin(self) -> None:
        """Begin to work."""
        self._told.write("go\n")
        self._told.flush()

    def end(self) -> float:
        """Wait for it; the CPU seconds of its work, none if it was killed."""
        answer, _ = self._process.communicate()
        assert self._process.returncode in (0, -signal.SIGKILL), self._process.returncode
        return float(answer or 0)


def round_of(workers: int, database: Database, shared: Mapping[str, str], folder: Path, *, kill: bool) -> tuple[float, float]:
    """Wall and CPU seconds of so many workers until everything is loaded. With `kill` the first of each pipeline is killed at work."""
    wall = cpu = 0.0
    for pipeline in ("metrics", "cubic"):
        fault = "transition.ready_for_archiving.archiving.after" if kill else None
        count = workers
        while count:
            homes = [folder / f"machine-{time.monotonic_ns()}" for _ in range(count)]
            at_work = [Worker(home, shared, pipeline, fault if home is homes[0] else None) for home in homes]
            begun = time.perf_counter()
            for worker in at_work:
                worker.begin()
            cpu += sum(worker.end() for worker in at_work)
            while _open(database, pipeline) and _leased(database):  # what a dead worker held is there again once its lease has ended
                time.sleep(0.1)
            wall += time.perf_counter() - begun
            fault, count = None, int(_open(database, pipeline))
    return wall, cpu


def _leased(database: Database) -> bool:
    with database.connect() as connection:
        row = connection.execute("SELECT EXISTS (SELECT FROM ledger.loads WHERE unfinished AND lease_until > now())").fetchone()
        return row == (True,)


def _ticks(pid: int) -> float:
    """CPU seconds that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _open(database: Database, pipeline: str) -> bool:
    with database.connect() as connection:
        row = connection.execute("SELECT EXISTS (SELECT FROM ledger.loads WHERE pipeline = %s AND unfinished)", [pipeline]).fetchone()
        return row == (True,)


def main(*, quick: bool = False) -> Result:
    """Print the table; `quick` lands fewer files."""
    count = QUICK if quick else FILES
    folder = Path(tempfile.mkdtemp(prefix="machines-"))
    rows: list[Row] = []
    try:
        (folder / "tables.yaml").write_text(REGISTRY)
        server = embedded_postgres.start(folder / "postgres")
        with quick_s3() as (url, server_pid):
            alone: tuple[float, dict[str, Any]] | None = None
            print(f"machines: {count} metric files of {POINTS} points, {count // 4} DMAP files of {LINES} lines; one S3, one Postgres")
            for number, (name, workers) in enumerate(ROUNDS.items()):
                bucket, database = f"bench-{number}", _database(server, f"round_{number}")
                land(url, bucket, count)
                shared = {
                    "INGESTION_DATABASE_URL": database.sqlalchemy_url, "INGESTION_STORAGE_URL": f"s3://{bucket}",
                    "INGESTION_CUBIC_TABLES": str(folder / "tables.yaml"), "INGESTION_CUBIC_METADATA_SECONDS": "0",
                    "INGESTION_BATCH_FILES": "50", "INGESTION_CUBIC_BATCH_FILES": "20", "INGESTION_LEASE_SECONDS": str(LEASE_SECONDS),
                    "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "b", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true",
                }  # fmt: skip
                _enter(shared, database)
                before = _ticks(server_pid)
                wall, cpu = round_of(workers, database, shared, folder, kill="killed" in name)
                with database.connect() as connection:
                    found = left(connection, url, bucket)
                alone = alone or (wall, found)
                differing = sum(found[what] != alone[1][what] for what in alone[1])
                files = count + count // 4
                store = _ticks(server_pid) - before
                print(f"  {name:<22} {files / wall:7.1f} files/s {wall:7.1f} s {cpu:7.1f} CPU-s of workers, {store:5.1f} of S3", flush=True)
                rows += [
                    Row(
                        name, files / wall, "files/s", better="more", note=f"{wall:.0f} s; {cpu:.1f} CPU-s of workers, without their start"
                    ),
                    met(Row(f"{name}: lost, doubled or different", differing, "places", limit=0)),
                ]
    finally:
        embedded_postgres.stop(folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)
    return Result("Workers without a shared disk, over one backlog", rows)


def _database(server: embedded_postgres.EmbeddedServer, name: str) -> Database:
    embedded_postgres.ensure_database(server, name)
    database = Database.at(server.url(name))
    postgres.upgrade(database)
    return database


def _enter(shared: Mapping[str, str], database: Database) -> None:
    tables = registry(Settings(cubic_tables=Path(shared["INGESTION_CUBIC_TABLES"])))
    with database.connect() as connection:
        datasets.sync_datasets(connection, "metrics", DATASETS)
        cubic_zone.prepare(connection, tables)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2])
    else:
        print(json.dumps([row.missed for row in main(quick="--quick" in sys.argv).rows]))

"""A million objects that a queue tells of, through the real sensor: bounded memory, no tick beyond its budget, and nothing missed.

Each case is a process of its own. It ticks until the queue is empty, then reconciles; what was never told of is found by that. S3 and SQS
are stood in for by `benchmarks.wire`. The floor is the same messages received and deleted by boto3, with nothing looked for or entered.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import wire
from benchmarks.measure import cost, peak_memory
from benchmarks.results import Result, Row, met

OBJECTS, QUICK = 1_000_000, 20_000
OF_OTHERS = 100_000
OF_FLOOR = 20_000
LOST = 0.01
LONGEST_TICK = 40.0
MOST_MEMORY = 500.0
MEGABYTE = 1_000_000
CASES = {"many prefixes": 65_536, "few prefixes": 16, "one prefix, growing": 0}


def ticks(url: str, home: Path, count: int) -> dict[str, float]:
    """In a process of its own: tick until the queue is empty, then reconcile; what that took, and what is missing."""
    os.environ |= {
        "INGESTION_HOME": str(home), "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true", "INGESTION_METRICS_LANDING_URL": f"s3://{wire.BUCKET}/{wire.ZONE}",
        "INGESTION_METRICS_QUEUE_URL": f"{url}{wire.QUEUE}",
    }  # fmt: skip
    import dagster as dg

    from ingestion_dagster.engine import datasets, discovery, embedded_postgres, postgres
    from ingestion_dagster.engine.dagster import INGESTION
    from ingestion_dagster.metrics import definitions
    from ingestion_dagster.metrics.places import DATASETS, PIPELINE, zone
    from ingestion_dagster.metrics.sensors import metrics_s3_sensor
    from ingestion_dagster.settings import current

    settings = current()
    database = postgres.ready(settings)
    repository = definitions.defs.get_repository_def()
    walls: list[float] = []
    memory: list[int] = []

    def tick(instance: dg.DagsterInstance, cursor: str | None) -> str | None:
        begun = time.perf_counter()
        with dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name="metrics_s3_sensor"
        ) as context:
            after: str | None = metrics_s3_sensor.evaluate_tick(context).cursor
        walls.append(time.perf_counter() - begun)
        memory.append(peak_memory())
        return after

    def until_empty() -> None:
        cursor, seen = None, -1
        with dg.DagsterInstance.ephemeral() as instance:
            while seen != (seen := wire.Served(url).counts()["deleted"]):
                cursor = tick(instance, cursor)
                print(f"tick {len(walls)}: {walls[-1]:.1f} s, {seen} deleted, {memory[-1] / MEGABYTE:.0f} MB", file=sys.stderr, flush=True)

    def known() -> int:
        row = connection.execute("SELECT count(*), count(DISTINCT key) FROM ledger.loads").fetchone()
        assert row is not None
        assert row[0] == row[1], "an object has become two loads"
        return int(row[0])

    parts: list[float] = []

    def reconcile() -> None:
        after: str | None = ""
        while after is not None:
            begun = time.perf_counter()
            found = discovery.reconcile(connection, zone(settings), datetime.now(UTC), after=after, seconds=discovery.QUEUE_SECONDS)
            after = found.after
            parts.append(time.perf_counter() - begun)
            late.append(found.late)

    late: list[int] = []
    try:
        with database.connect() as connection:
            datasets.sync_datasets(connection, PIPELINE, DATASETS)
            took = cost(until_empty, database.conninfo)
            missed = count - known()
            listing = cost(reconcile, database.conninfo)
            left = count - known()
    finally:
        embedded_postgres.stop(home)
    return {
        "cpu": took.client, "server": took.server, "wall": took.wall, "ticks": len(walls), "longest": max(walls), "memory": memory[-1],
        "first_memory": memory[0], "missed": missed, "left": left, "late": sum(late), "listing_cpu": listing.cpu, "parts": len(parts),
        "longest_part": max(parts),
    }  # fmt: skip


def floor(count: int) -> float:
    """CPU seconds in which boto3 receives and deletes so many messages, one request after the other."""
    import boto3

    with wire.served(count, lost=0, prefixes=16) as server:
        keys: dict[str, Any] = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench", "region_name": "eu-west-2"}
        client = boto3.client("sqs", endpoint_url=server.url, **keys)
        url, begun = f"{server.url}{wire.QUEUE}", resource.getrusage(resource.RUSAGE_SELF)
        while messages := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            entries: Any = [{"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]} for number, each in enumerate(messages)]
            client.delete_message_batch(QueueUrl=url, Entries=entries)
        used = resource.getrusage(resource.RUSAGE_SELF)
        client.close()
    return used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime


def measured(count: int, prefixes: int) -> dict[str, float]:
    """What a case took: `ticks`, and the messages left in the queue."""
    with tempfile.TemporaryDirectory() as home, wire.served(count, lost=LOST, prefixes=prefixes) as server:
        command = [sys.executable, "-m", "benchmarks.discovery", "ticks", server.url, home, str(count)]
        told: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        counts = server.counts()
    return told | {"kept": counts["told"] - counts["deleted"], "lost": counts["lost"], "messages": counts["told"]}


def main(*, quick: bool = False) -> Result:
    """Print the table; `quick` takes fewer objects."""
    bare = floor(OF_FLOOR) / OF_FLOOR * 1e6
    rows: list[Row] = []
    for name, prefixes in CASES.items():
        count = QUICK if quick else OBJECTS if prefixes > 16 else OF_OTHERS
        case = f"{count:,} objects, {name}"
        got = measured(count, prefixes)
        each, server = got["cpu"] / got["messages"] * 1e6, got["server"] / got["messages"] * 1e6
        memory = f"{got['first_memory'] / MEGABYTE:.0f} after one tick"
        found = f"{got['missed']:.0f} before, of {got['lost']:.0f} lost"
        print(
            f"discovery: {case}: {got['ticks']:.0f} ticks in {got['wall']:.0f} s, {each:.0f} CPU-µs a message (boto3 alone {bare:.0f}), "
            f"Postgres {server:.0f}; the listing that followed took {got['listing_cpu'] / count * 1e6:.0f} CPU-µs an object, in "
            f"{got['parts']:.0f} parts"
        )
        rows += [
            Row(f"{case}: a message", each, "CPU µs", floor=bare, note="floor: boto3 receives and deletes it"),
            met(Row(f"{case}: longest tick", got["longest"], "s", limit=LONGEST_TICK)),
            met(Row(f"{case}: longest part of the listing", got["longest_part"], "s", limit=LONGEST_TICK)),
            met(Row(f"{case}: peak memory", got["memory"] / MEGABYTE, "MB", limit=MOST_MEMORY, note=memory)),
            met(Row(f"{case}: missed, once reconciled", got["left"], "objects", limit=0, note=found)),
            met(Row(f"{case}: messages left", got["kept"], "messages", limit=0)),
        ]  # fmt: skip
    return Result("A million objects that a queue tells of, 1 % never", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["ticks"]:
        print(json.dumps(ticks(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(quick="--quick" in sys.argv)

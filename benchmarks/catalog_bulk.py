"""Rows into a real OpenSearch: documents per second, ours beside an object per row and the search client's bulk helper.

Both read the same table of images (ten tags each) and fill an index of the same mapping in the same node, without replicas and without a
refresh meanwhile, one connection each. Each way runs in a process of its own, in turns. The node (Java) is on the same machine: its work
is the same for both, and is most of it.
"""

import json
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import opensearchpy
import psycopg

from benchmarks import catalog_documents
from benchmarks.catalog_documents import CHUNK, FILL, PEER_CHUNK, RELATION
from benchmarks.measure import cost
from benchmarks.results import Result, Row, met
from ingestion_dagster.catalog import live_tables
from ingestion_dagster.catalog.documents import IMAGE
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine import embedded_postgres
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.sandbox import opensearch

ROWS, QUICK = 100_000, 20_000
ROUNDS = 2
GOAL = 2
HELPER = "an object a row, bulk helper"


def ours(connection: psycopg.Connection[Any], url: str, index: str) -> int:
    """Documents that the node took."""
    query = IMAGE.query(RELATION, deleted="api_deletedimage", mature="api_matureimage")
    count = behind = 0
    with closing(OpenSearch.at(url)) as engine, connection.cursor(binary=True) as cursor:
        while True:
            rows = cursor.execute(query, {"first": behind + 1, "last": 2**31, "limit": CHUNK}, prepare=True).fetchall()
            count += engine.bulk(index, [(number, source) for number, source, _ in IMAGE.documents(rows) if source is not None]).accepted
            if len(rows) < CHUNK:
                return count
            behind = rows[-1][0]


def objects(connection: psycopg.Connection[Any], url: str, index: str) -> int:
    """The same with an object per row and the bulk helper."""
    client = opensearchpy.OpenSearch(url, timeout=120)
    count, _ = opensearchpy.helpers.bulk(client, catalog_documents.actions(connection, index), chunk_size=PEER_CHUNK, stats_only=True)
    return int(count)


WAYS = {"ours": ours, "objects": objects}


def one(way: str, conninfo: str, url: str, index: str) -> None:
    """Run one way in this process, and print what it took as JSON."""
    made: list[int] = []
    with psycopg.connect(conninfo, autocommit=True, options="-c timezone=UTC") as connection:
        took = cost(lambda: made.append(WAYS[way](connection, url, index)), conninfo)
    print(json.dumps({"documents": made[0], "client": took.client, "wall": took.wall}))


def main(*, quick: bool = False) -> Result:
    """Print documents per second of both ways."""
    rows = QUICK if quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = embedded_postgres.start(home)
        node = opensearch.start(home, heap_mb=1024, owned=True)
        try:
            embedded_postgres.ensure_database(server, "documents")
            with Database.at(server.url("documents")).connect() as connection:
                live_tables.ensure(connection, MEDIA_TYPES["image"])
                connection.execute(FILL, {"rows": rows})
                connection.execute("VACUUM ANALYZE image")
            return report(rows, server.conninfo("documents"), node.url)
        finally:
            opensearch.stop(home)
            embedded_postgres.stop(home)


def report(rows: int, conninfo: str, url: str) -> Result:
    print(f"catalog bulk: {rows:,} images with ten tags into OpenSearch, one connection")
    best: dict[str, dict[str, float]] = {}
    for number in range(ROUNDS):
        for way in WAYS:
            took = _run(way, conninfo, url, f"image-{way}-{number}")
            if way not in best or took["wall"] < best[way]["wall"]:
                best[way] = took
    rates = {way: each["documents"] / each["wall"] for way, each in best.items()}
    for way, each in best.items():
        print(f"  {way:<10} {rates[way]:8,.0f} documents/s, client {each['client']:6.2f} CPU seconds")
    ours, helper = best["ours"]["client"], best["objects"]["client"]
    row = Row(
        "into OpenSearch on the same cores", rates["ours"], "documents/s", rates["objects"], HELPER, None, "more", GOAL * rates["objects"]
    )
    print(f"  {rates['ours'] / rates['objects']:.2f} × the helper's documents/s")
    client = Row("CPU of the client", ours, "CPU s", helper, HELPER)
    return Result(f"{rows:,} images with ten tags into a real OpenSearch, one connection", [met(row), client])


def _run(way: str, conninfo: str, url: str, index: str) -> dict[str, float]:
    with closing(OpenSearch.at(url)) as engine:
        engine.create(index, MEDIA_TYPES["image"].mapping.definition({}))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.catalog_bulk", way, conninfo, url, index], check=True, capture_output=True, text=True
        )
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        engine.refresh(index)
        assert engine.count(index) == result["documents"], "not all arrived"
        engine.delete_index(index)
    return result


if __name__ == "__main__":
    if len(sys.argv) == 5:
        one(*sys.argv[1:])
    else:
        main(quick="--quick" in sys.argv)

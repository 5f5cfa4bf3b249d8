"""Rows to bulk bodies: documents per CPU second of this client, ours beside an object per row and the search client's bulk helper.

Both read the same table of images (ten tags each) from the same server, both make the bodies of bulk requests, and both read the reply
that a search cluster would give; nothing is sent. Each way runs in a process of its own; what the server spends is shown beside.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
from opensearchpy import Connection, OpenSearch, helpers
from psycopg import sql
from psycopg.rows import dict_row

from benchmarks.measure import cost, peak_memory
from benchmarks.results import Result, Row, met
from ingestion_dagster.catalog import live_tables
from ingestion_dagster.catalog.documents import IMAGE
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.sensitive import Terms
from ingestion_dagster.engine import embedded_postgres
from ingestion_dagster.engine.postgres import Database

ROWS, QUICK = 200_000, 40_000
GOAL = 40_000
CHUNK, PEER_CHUNK = 2000, 400
RELATION = sql.Identifier("public", "image")
TERMS = [f"sensitive word {number}" for number in range(1000)] + [f"unwanted{number}" for number in range(1000)]

FILL = """
INSERT INTO image (id, created_on, updated_on, identifier, provider, source, foreign_identifier, foreign_landing_url, url, thumbnail, width,
                   height, filesize, license, license_version, creator, creator_url, title, removed_from_source, meta_data, tags, filetype,
                   standardized_popularity, category)
SELECT number, timestamptz '2024-01-01' - number * interval '1.3 s', '2024-01-01', gen_random_uuid(),
       (ARRAY['flickr', 'stocksnap', 'met', 'another'])[number %% 4 + 1], 'flickr', number::text,
       'https://example.org/landing/' || number, 'https://live.example.org/65535/' || number || '_abcdef.jpg',
       'https://live.example.org/65535/' || number || '_t.jpg', number %% 4000, number %% 3000, number, 'by-nc', '2.0',
       'A creator of photographs ' || number %% 1000, 'https://example.org/people/' || number %% 1000,
       'A title of the photograph with some words, number ' || number, number %% 100 = 0,
       jsonb_build_object('description', repeat('some words of a description that goes on ', 6),
                          'license_url', 'https://creativecommons.org/licenses/by-nc/2.0/', 'views', number::text, 'pub_date', number),
       (SELECT jsonb_agg(jsonb_build_object('name', 'tagword' || number * tag %% 1000, 'provider', 'flickr')
                         || CASE WHEN tag %% 3 = 0 THEN '{"accuracy": 0.97123}'::jsonb ELSE '{}' END) FROM generate_series(1, 10) AS tag),
       'jpg', number %% 1000 / 1000.0, 'photograph'
FROM generate_series(1, %(rows)s) AS number
"""


class Picture:
    """A row as an object, as the services that are replaced have it."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row

    def to_dict(self) -> dict[str, Any] | None:
        """Its document."""
        return IMAGE.plain(self.row)


class Unsent(Connection):
    """A connection that answers at once, as a cluster does that has taken everything."""

    body = 0

    def perform_request(self, *arguments: Any, **options: Any) -> tuple[int, dict[str, str], str]:
        """Method, URL, parameters, body; the answer's status, headers and body."""
        body = options.get("body", arguments[3] if len(arguments) > 3 else b"")
        Unsent.body += len(body)
        return 200, {"content-type": "application/json"}, reply(body.count(b'{"index":{'))


def reply(documents: int) -> str:
    """What a cluster answers to a bulk."""
    item = '{"index":{"_index":"image-x","_id":"123456","_version":1,"result":"created","_seq_no":1,"_primary_term":1,"status":201}}'
    return '{"took":30,"errors":false,"items":[' + ",".join([item] * documents) + "]}"


def ours(connection: psycopg.Connection[Any], *, terms: Terms | None = None) -> tuple[int, int]:
    """Documents, and bytes of the bodies."""
    query = IMAGE.query(RELATION, deleted="api_deletedimage", mature="api_matureimage")
    count = size = behind = 0
    with connection.cursor(binary=True) as cursor:
        while True:
            rows = cursor.execute(query, {"first": behind + 1, "last": 2**31, "limit": CHUNK}, prepare=True).fetchall()
            body = []
            for number, source, text in IMAGE.documents(rows):
                if source is None:
                    continue
                if terms is not None and terms.found_in(text):
                    continue
                body.append(b'{"index":{"_id":"%d"}}\n' % number + source + b"\n")
            count += len(body)
            size += len(b"".join(body))
            orjson.loads(reply(len(body)))
            if len(rows) < CHUNK:
                return count, size
            behind = rows[-1][0]


def objects(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """The same with an object per row and the bulk helper."""
    client = OpenSearch("http://localhost:9200", connection_class=Unsent)
    count, _ = helpers.bulk(client, actions(connection, "image-x"), chunk_size=PEER_CHUNK, stats_only=True)
    return int(count), Unsent.body


def actions(connection: psycopg.Connection[Any], index: str) -> Iterator[dict[str, Any]]:
    """Of each row an object, and of that a dictionary, for the helper."""
    query = sql.SQL(
        "SELECT t.*, EXISTS (SELECT FROM api_deletedimage AS d WHERE d.identifier = t.identifier) AS deleted, "
        "EXISTS (SELECT FROM api_matureimage AS m WHERE m.identifier = t.identifier) AS mature FROM {} AS t"
    ).format(RELATION)
    with connection.transaction(), connection.cursor("rows", row_factory=dict_row) as cursor:
        cursor.itersize = 10_000
        for row in cursor.execute(query):
            document = Picture(row).to_dict()
            if document is not None:
                yield {"_index": index, "_id": document["id"], "_source": document}


def one(way: str, conninfo: str) -> None:
    """Run one way in this process, and print what it took as JSON."""
    terms = Terms(TERMS) if way == "with terms" else None
    made: list[tuple[int, int]] = []
    with psycopg.connect(conninfo, autocommit=True, options="-c timezone=UTC") as connection:
        took = cost(lambda: made.append(objects(connection) if way == "objects" else ours(connection, terms=terms)), conninfo)
    count, size = made[0]
    print(
        json.dumps(
            {"documents": count, "bytes": size, "client": took.client, "server": took.server, "wall": took.wall, "peak": peak_memory()}
        )
    )


def main(*, quick: bool = False) -> Result:
    """Print documents per CPU second of both ways."""
    rows = QUICK if quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        server = embedded_postgres.start(Path(folder))
        try:
            embedded_postgres.ensure_database(server, "documents")
            conninfo = server.conninfo("documents")
            with Database.at(server.url("documents")).connect() as connection:
                live_tables.ensure(connection, MEDIA_TYPES["image"])
                connection.execute(FILL, {"rows": rows})
                connection.execute("VACUUM ANALYZE image")
            return report(rows, conninfo)
        finally:
            embedded_postgres.stop(Path(folder))


def report(rows: int, conninfo: str) -> Result:
    print(f"catalog documents: {rows:,} images with ten tags, from the server to bodies of bulk requests")
    took = {way: _run(way, conninfo) for way in ("ours", "with terms", "objects")}
    titles = {"ours": "ours", "with terms": f"ours, {len(TERMS):,} sensitive terms looked for", "objects": "an object a row, bulk helper"}
    rates = {way: each["documents"] / each["client"] for way, each in took.items()}
    for way, each in took.items():
        print(
            f"  {titles[way]:<40} {rates[way]:9,.0f} documents per CPU second, server {each['documents'] / each['server']:9,.0f}, "
            f"{each['documents'] / each['wall']:9,.0f}/s, {each['bytes'] / each['documents']:,.0f} bytes each, {each['peak'] / 1e6:,.0f} MB"
        )
    print(f"  ratio to the helper {rates['ours'] / rates['objects']:.1f} ×")
    unit, peer, name = "documents/CPU-s", rates["objects"], titles["objects"]
    found = [
        met(Row("rows to bulk bodies", rates["ours"], unit, peer, name, None, "more", GOAL)),
        Row(titles["with terms"].removeprefix("ours, "), rates["with terms"], unit, peer, name, None, "more"),
    ]
    return Result(f"{rows:,} images with ten tags, from the server to bodies of bulk requests", found)


def _run(way: str, conninfo: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.catalog_documents", way, conninfo]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one(sys.argv[1], sys.argv[2])
    else:
        main(quick="--quick" in sys.argv)

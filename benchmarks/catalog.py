"""The copy of the catalogue: what cleaning and stable ids cost beyond a bare binary COPY from one database into another.

Upstream has a million images of about 1 kB. Four in a hundred need cleaning: 1.3 % of creators' and as many landing addresses have no
scheme, and 2 % have a tag that is left out. The floor reads the same table with psycopg and writes what it reads into a table without
indexes; `psql | psql` does the same without Python. The first copy gives every row a number; in the second, all rows have one, which is
looked up. All of it on one server, whose CPU is counted with this process's; the best of several rounds counts.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from benchmarks.measure import Cost, cost
from benchmarks.results import Result, Row, met
from ingestion_dagster.catalog import copy, live_tables, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine import embedded_postgres, postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings

ROWS, QUICK = 1_000_000, 200_000
ROUNDS = 3
BUFFER = 256 * 1024
INGESTR = Path(sys.prefix) / "bench-ingestr" / "bin" / "ingestr"
MEDIA = MEDIA_TYPES["image"]

TABLE = """
CREATE TABLE {name} (
    identifier uuid PRIMARY KEY, created_on timestamptz NOT NULL, updated_on timestamptz NOT NULL, ingestion_type varchar(80),
    provider varchar(80), source varchar(80), foreign_identifier varchar(3000), foreign_landing_url varchar(1000), url varchar(3000),
    thumbnail varchar(3000), width integer, height integer, filesize integer, license varchar(50) NOT NULL, license_version varchar(25),
    creator varchar(2000), creator_url varchar(2000), title varchar(5000), meta_data jsonb, tags jsonb, watermarked boolean,
    last_synced_with_source timestamptz, removed_from_source boolean NOT NULL, filetype varchar(5), category varchar(80),
    standardized_popularity double precision
)
"""

FILL = """
INSERT INTO image
SELECT md5(n::text)::uuid, now(), now(), 'provider_api', CASE WHEN n % 2 = 0 THEN 'flickr' ELSE 'stocksnap' END, 'flickr', n::text,
       CASE WHEN n % 77 = 1 THEN '' ELSE 'https://' END || 'www.flickr.com/photos/' || n,
       'https://live.images.example/65535/' || n || '_' || md5(n::text) || '.jpg', 'https://live.images.example/65535/' || n || '_m.jpg',
       1024, 768, 20000, 'by', '2.0', 'Someone ' || n % 1000,
       CASE WHEN n % 77 = 2 THEN '' ELSE 'https://' END || 'www.flickr.com/people/' || n % 1000, 'A title of photo ' || n,
       jsonb_build_object('license_url', 'https://licenses.example/by/2.0/', 'description', repeat('some words of text ', 8), 'views', n),
       (SELECT jsonb_agg(jsonb_build_object('name', CASE WHEN n % 50 = 3 AND k = 1 THEN 'geo:lat=5' ELSE 'tag' || n * k % 5000 END,
                                            'accuracy', 0.95, 'provider', 'clarifai')) FROM generate_series(1, 6) AS k),
       false, now(), false, 'jpg', 'photograph', 0.5
FROM generate_series(1, {rows}) AS n
"""

AS_LIVE = (
    "DROP TABLE IF EXISTS catalog_previous.image",
    "ALTER TABLE public.image SET SCHEMA catalog_previous",
    "ALTER TABLE catalog_next.image ADD PRIMARY KEY (id), ADD UNIQUE (identifier)",
    "ALTER TABLE catalog_next.image SET SCHEMA public",
    "ANALYZE public.image",
)


class World:
    """The databases of the benchmark, on one server."""

    def __init__(self, server: EmbeddedServer, home: Path, rows: int) -> None:
        for name in ("ledger", "upstream", "api"):
            embedded_postgres.ensure_database(server, name)
        self.server = server
        self.ledger, self.upstream, self.api = (Database.at(server.url(name)) for name in ("ledger", "upstream", "api"))
        postgres.upgrade(self.ledger)
        settings = Settings(home=home, database_url=self.ledger.sqlalchemy_url, catalog_probe_seconds=0, catalog_record_limit=0)
        self.places = Places(settings, self.ledger, self.upstream, self.api)
        self._do(self.upstream, TABLE.format(name="image"), FILL.format(rows=rows), "VACUUM ANALYZE image")
        self._do(self.api, TABLE.format(name="floor").replace(" PRIMARY KEY", ""))
        with self.api.connect() as connection:
            live_tables.ensure(connection, MEDIA)

    def _do(self, database: Database, *statements: str) -> None:
        with database.connect() as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement))

    def empty(self) -> None:
        """Before each round: no work of the last one is left to be done."""
        self._do(self.api, "TRUNCATE floor", "DROP TABLE IF EXISTS catalog_next.image", "CHECKPOINT")

    def promoted(self) -> None:
        """What was copied is live now."""
        self._do(self.api, *AS_LIVE)

    def pipe(self) -> None:
        """The floor."""
        with (
            self.upstream.connect() as upstream,
            self.api.connect() as api,
            upstream.cursor().copy("COPY image TO STDOUT (FORMAT binary)") as out,
            api.cursor().copy("COPY floor FROM STDIN (FORMAT binary)") as into,
        ):
            waiting, size = [], 0
            for row in out:
                waiting.append(bytes(row))
                size += len(row)
                if size >= BUFFER:
                    into.write(b"".join(waiting))
                    waiting, size = [], 0
            into.write(b"".join(waiting))

    def psql(self) -> None:
        """The floor without Python."""
        out = f'psql -qX "{self.upstream.conninfo}" -c "COPY image TO STDOUT (FORMAT binary)"'
        into = f'psql -qX "{self.api.conninfo}" -c "COPY floor FROM STDIN (FORMAT binary)"'
        subprocess.run(["/bin/sh", "-c", f"{out} | {into}"], check=True)

    def ingestr(self) -> None:
        """The peer, which neither cleans nor knows ids."""
        tables = ["--source-table", "public.image", "--dest-table", "peer.image", "--incremental-strategy", "replace", "--yes"]
        # It wants a host and a password; where the socket is, is told besides, and the server asks for none.
        source, target = (self.server.url(name).replace("+psycopg:", ":").replace("@/", ":none@localhost/") for name in ("upstream", "api"))
        addresses = ["--source-uri", source, "--dest-uri", target]
        surroundings = os.environ | {"DISABLE_TELEMETRY": "true", "INGESTR_DISABLE_TELEMETRY": "true"}
        done = subprocess.run([str(INGESTR), "ingest", *addresses, *tables], capture_output=True, text=True, check=False, env=surroundings)
        if done.returncode:
            raise SystemExit(f"ingestr: {done.stderr[-1000:]}")

    def copy(self, rows: int) -> None:
        """Ours."""
        with self.ledger.connect() as connection:
            if known := refreshes.at_work(connection, "image"):
                refreshes.advance(connection, known, "discarded")
            suffix = f"round-{len(refreshes.of_model(connection, 'image'))}"
            refresh = refreshes.request(connection, "image", suffix, asked_by="benchmark")
            (copied,) = copy.copy_tables(self.places, connection, MEDIA, refresh, "benchmark", lambda *_: None)
        assert copied.rows == rows, copied

    def best(self, work: Callable[[], None], rounds: int = ROUNDS) -> Cost:
        """The cheapest of several rounds: other programs of the machine can only add to them."""
        took = []
        for _ in range(rounds):
            self.empty()
            took.append(cost(work, self.server.conninfo("api")))
        return Cost(min(one.client for one in took), min(one.server for one in took), min(one.wall for one in took))


def main(*, quick: bool = False) -> Result:
    """Print the table; `quick` copies fewer rows, and leaves out the peer."""
    rows = QUICK if quick else ROWS
    with tempfile.TemporaryDirectory() as home:
        server = embedded_postgres.start(Path(home))
        try:
            return Result(
                f"{rows:,} images copied and cleaned, beside a bare COPY pipe", _run(World(server, Path(home), rows), rows, quick=quick)
            )
        finally:
            embedded_postgres.stop(Path(home))


def _run(world: World, rows: int, *, quick: bool) -> list[Row]:
    print(f"catalog: {rows:,} images into the API's database (CPU seconds: client + server)")
    floor = world.best(world.pipe)
    _line("a bare COPY pipe, psycopg", floor, floor)
    if shutil.which("psql"):
        _line("a bare COPY pipe, psql | psql", world.best(world.psql, 1), floor)
    first = world.best(lambda: world.copy(rows))
    _line("ours: first copy, all rows new", first, floor)
    world.copy(rows)
    world.promoted()
    again = world.best(lambda: world.copy(rows))
    _line("ours: next copy, all rows keep their ids", again, floor)
    other = None
    if not quick and INGESTR.exists():
        _line("ingestr: replace", other := world.best(world.ingestr, 1), floor)
    name, note = ("ingestr", "ingestr neither cleans nor knows ids") if other else (None, "")
    cpu, wall = (other.cpu / floor.cpu, other.wall / floor.wall) if other else (None, None)
    found = []
    for title, took in (("first copy", first), ("next copy, all ids looked up", again)):
        found.append(met(Row(f"{title}: CPU", took.cpu / floor.cpu, "× the pipe's", cpu, name, 1, limit=2, note=note)))
        found.append(met(Row(f"{title}: time", took.wall / floor.wall, "× the pipe's", wall, name, 1, limit=1.5, note=note)))
    return found


def _line(title: str, took: Cost, floor: Cost) -> None:
    print(
        f"  {title:<44} {took.cpu:6.2f} = {took.client:5.2f} + {took.server:5.2f}   wall {took.wall:6.2f}   "
        f"{took.cpu / floor.cpu:5.2f} × CPU, {took.wall / floor.wall:5.2f} × time",
        flush=True,
    )


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)

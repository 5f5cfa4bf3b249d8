"""The swap of the catalogue: how long readers wait when a generation of a million rows takes the place of another, and back again.

Two million rows of a list refer to the table, a view reads it, and a reader asks for a row of it without end. The alias is that of the
embedded index, with a few documents: its move does not depend on how many there are.
"""

import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from benchmarks.results import Result, Row, met
from ingestion_dagster.catalog import live_tables, promotion, refreshes, staging
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.promotion import Promotion
from ingestion_dagster.catalog.registry import MEDIA_TYPES, filtered_name, index_name
from ingestion_dagster.engine import embedded_postgres, postgres
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings

ROWS, QUICK = 1_000_000, 100_000
AT_MOST_SECONDS = 1.0
MEDIA = MEDIA_TYPES["image"]
SUFFIX = "round"

FILL = """
INSERT INTO {table} (id, created_on, updated_on, identifier, provider, source, foreign_identifier, url, license, removed_from_source)
SELECT n, now(), now(), md5(n::text)::uuid, 'p' || n % 7, 'p' || n % 7, n::text, 'https://example.org/' || n, 'by', false
FROM generate_series(1, {rows}) AS n
"""

OTHERS = """
CREATE TABLE imagelist_images (id bigint PRIMARY KEY, image_id integer REFERENCES image ON DELETE CASCADE);
INSERT INTO imagelist_images SELECT n, 1 + n % {rows} FROM generate_series(1, 2 * {rows}) AS n;
CREATE VIEW shown AS SELECT id, url, provider FROM image;
ANALYZE
"""

STAGE = "CREATE TABLE catalog_next.image (LIKE public.image INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY)"
LABEL = """COMMENT ON TABLE catalog_next.image IS '{"refresh": "round", "run": "benchmark", "state": "copied"}'"""


class Reader:
    """Asks for a row without end; `longest`: the longest that it waited for one, in seconds."""

    def __init__(self, database: Database) -> None:
        self.longest, self.answers, self.errors = 0.0, 0, 0
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        with self._database.connect() as connection:
            while not self._stop.is_set():
                begun = time.perf_counter()
                row = connection.execute("SELECT url FROM shown WHERE id = 1").fetchone()
                self.longest = max(self.longest, time.perf_counter() - begun)
                self.answers += 1
                self.errors += row is None


def main(*, quick: bool = False) -> Result:
    """Print how long readers waited, and whether that is less than a second."""
    rows = QUICK if quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = embedded_postgres.start(home)
        try:
            for name in ("ledger", "api"):
                embedded_postgres.ensure_database(server, name)
            ledger, api = Database.at(server.url("ledger")), Database.at(server.url("api"))
            postgres.upgrade(ledger)
            settings = Settings(home=home, database_url=ledger.sqlalchemy_url, catalog_search_url=(home / "search").as_uri())
            places = Places(settings, ledger, api, api)
            built = _scene(places, rows)
            print(f"indexes and constraints of {rows:,} rows: {built:.1f} s, before anybody reads them")
            return Result(f"Readers while a generation of {rows:,} rows takes the place of another", _swap(places, rows))
        finally:
            embedded_postgres.stop(home)


def _scene(places: Places, rows: int) -> float:
    with places.api.connect() as api:
        live_tables.ensure(api, MEDIA)
        api.execute(FILL.format(table="public.image", rows=rows).encode())
        api.execute(OTHERS.format(rows=rows).encode())
        api.execute(STAGE)
        api.execute(FILL.format(table="catalog_next.image", rows=rows).encode())
        api.execute(LABEL)
    begun = time.perf_counter()
    with places.ledger.connect() as ledger:
        refresh = refreshes.request(ledger, "image", SUFFIX, asked_by="benchmark")
        staging.build(places, MEDIA, refresh, "benchmark", lambda *_: None)
        refreshes.advance(ledger, refresh, "filled")
    return time.perf_counter() - begun


def _swap(places: Places, rows: int) -> list[Row]:
    label = {"refresh": SUFFIX, "model": "image"}
    with closing(places.search()) as engine, places.ledger.connect() as ledger, Reader(places.api) as reader:
        for index in (index_name("image", SUFFIX), filtered_name("image", SUFFIX)):
            engine.create(index, MEDIA.mapping.definition(label))
            engine.bulk(index, [(1, b'{"id": 1, "title": "one"}')])
            engine.finish(index)
        refresh = refreshes.get(ledger, "image", SUFFIX)
        reader.longest = 0.0
        promoted = _said("promotion", promotion.promote(places, engine, ledger, MEDIA, refresh, "benchmark"), reader, rows)
        reader.longest = 0.0
        return [promoted, _said("rollback", promotion.rollback(places, engine, ledger, MEDIA, "benchmark"), reader, rows)]


def _said(what: str, done: Promotion, reader: Reader, rows: int) -> Row:
    waited = max(done.seconds_locked, reader.longest)
    locked = f"locked {done.seconds_locked * 1000:.0f} ms in attempt {done.attempts}"
    longest = f"longest answer {reader.longest * 1000:.0f} ms of {reader.answers:,}"
    print(f"{what} of {rows:,} rows: {done.seconds:.2f} s, {locked}, {longest}, {reader.errors} errors")
    # A reader who got no answer at all waited for ever.
    return met(Row(f"{what}: longest wait", 1e6 if reader.errors else waited * 1000, "ms", limit=AT_MOST_SECONDS * 1000))


if __name__ == "__main__":
    main()

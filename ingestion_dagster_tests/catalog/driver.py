"""The catalogue in processes of its own, without Dagster: to be killed, stopped and raced; the scene they play in, and what they leave.

`python -m ingestion_dagster_tests.catalog.driver serve` forks a process for each command: `refresh` begins or goes on with the refresh
`SUFFIX`, `update`, `rebuild` and `rollback` do what they say. Settings come from the environment.
"""

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ingestion_dagster.catalog import copy as copying
from ingestion_dagster.catalog import filtered, promotion, refreshes, steps, updates
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.search import AliasMove, Query, SearchEngine
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.catalog import scene
from ingestion_dagster_tests.catalog.promotion_scene import QUICKLY, SHAPE
from ingestion_dagster_tests.engine import processes

IMAGE = MEDIA_TYPES["image"]
ROWS = 30
PAGE = 8192
SUFFIX = "third"
"""The refresh that is killed, cut and raced; `first` and `second` were before it."""

STEPS: tuple[Callable[[Work], Any], ...] = (steps.copy, steps.index_staged, steps.fill, steps.promote, steps.retire)
_MODULE = "ingestion_dagster_tests.catalog.driver"
Process = processes.Process

# Ranges of a page: so that a small table takes several.
copying.copy_tables.__kwdefaults__["range_bytes"] = PAGE  # type: ignore[index]

HANGING = """
CREATE TABLE public.imagelist_images (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image_id integer NOT NULL,
    note text,
    CONSTRAINT imagelist_image_fk FOREIGN KEY (image_id) REFERENCES public.image (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
CREATE VIEW public.photos AS SELECT id, title FROM public.image WHERE provider = 'flickr';
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'catalog_reader') THEN CREATE ROLE catalog_reader; END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT SELECT ON public.image, public.photos TO catalog_reader;
"""


def run_id() -> str:
    """The id of a run of a driver."""
    return f"driver-{uuid.uuid4().hex[:8]}"


def refresh(settings: Settings, suffix: str = SUFFIX, todo: Sequence[Callable[[Work], Any]] = STEPS, alias: str | None = None) -> None:
    """Begin a refresh or go on with it, to the end, as the assets of a run do."""
    run = run_id()
    places, limits = Places.of(settings), Limits.of(settings)
    with places.ledger.connect() as connection:
        refreshes.sweep(connection, limits, run)
        known = [each for each in refreshes.of_model(connection, "image") if each.suffix == suffix]
        if not known:
            steps.begin(places, connection, IMAGE, run, asked_by="driver", suffix=suffix, alias=alias)
        work = Work(places, connection, IMAGE, suffix, run, limits)
        for step in todo:
            step(work)


def begin(settings: Settings) -> None:
    """Enter a refresh of a suffix of its own, as `ingestion run` does."""
    places = Places.of(settings)
    with places.ledger.connect() as connection:
        steps.begin(places, connection, IMAGE, run_id(), asked_by="driver")


def update(settings: Settings) -> None:
    """Bring upstream changes into what is live."""
    places = Places.of(settings)
    with places.ledger.connect() as connection, closing(places.search()) as engine:
        updates.update_live(places, engine, connection, IMAGE, run_id())


def rebuild(settings: Settings) -> None:
    """Make the filtered index anew."""
    places = Places.of(settings)
    with places.ledger.connect() as connection:
        filtered.rebuild(places, connection, IMAGE, run_id(), Limits.of(settings), lambda _done, _of: None)


def rollback(settings: Settings) -> None:
    """Give readers back what they had before."""
    places = Places.of(settings)
    with places.ledger.connect() as connection:
        steps.roll_back(places, connection, IMAGE, run_id())


COMMANDS: dict[str, Callable[[Settings], Any]] = {
    "refresh": refresh,
    "copy": lambda settings: refresh(settings, todo=STEPS[:1]),
    "begin": begin,
    "update": update,
    "rebuild": rebuild,
    "rollback": rollback,
}


def command(name: str) -> None:
    """What a driver process does."""
    if name.startswith("refresh:"):
        _, suffix, alias = name.split(":")
        refresh(current(), suffix, alias=alias)
    else:
        COMMANDS[name](current())


def start(settings: Settings, name: str = "refresh", *, fault: str | None = None) -> Process:
    """A driver process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start(_MODULE, settings, name, fault=fault)


class World:
    """Where a story is played: databases and a search folder of its own, all under `settings`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.places = Places.of(settings)

    @property
    def databases(self) -> tuple[Database, Database, Database]:
        return self.places.ledger, self.places.upstream, self.places.api

    def query(self, database: Database, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Rows of a statement."""
        with database.connect() as connection:
            found = connection.execute(statement, parameters)
            return found.fetchall() if found.description else []

    def let_leases_run_out(self) -> None:
        """What time does to the leases of the dead, at once."""
        self.query(self.places.ledger, "UPDATE ledger.loads SET lease_until = now() - interval '1 second' WHERE lease_until > now()")

    def finish(self, seconds: float = 60) -> None:
        """Go on with the refresh to its end. The server may not have noticed yet that a connection of the dead is gone."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return refresh(self.settings)
            except refreshes.Busy as error:
                if "it is ready" in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def recover(self) -> str | None:
        """What the next run does before all else."""
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.places.ledger.connect() as connection, closing(self.places.search()) as engine:
                    return promotion.recover(self.places, engine, connection, IMAGE, "recovery")
            except refreshes.Busy:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def generations(self) -> tuple[str, str, str]:
        """The generation of what readers get from the table, from the index, and from the filtered index; asserts that each is whole."""
        with self.places.api.connect() as api, closing(self.places.search()) as engine:
            of_table = table_generation(api)
            return of_table, index_generation(engine, "image"), index_generation(engine, "image-filtered")


def seen_titles(world: World, alias: str) -> set[str]:
    """The generations of the titles that readers of both aliases find."""
    with closing(world.places.search()) as engine:
        return {index_generation(engine, alias), index_generation(engine, f"{alias}-filtered")}


def clean_cluster(world: World, own: str) -> None:
    """Take away what a test has put into the cluster that all use."""
    with closing(world.places.search()) as engine:
        engine.switch([AliasMove(own, None), AliasMove(f"{own}-filtered", None)])
        for index in engine.indexes(f"image-{own}"):
            engine.delete_index(index)


def titles_generation(titles: Iterable[str | None], where: str) -> str:
    """The one generation that all of some titles are of: their last word."""
    found = {(title or "").split()[-1] for title in titles}
    assert len(found) == 1, f"{where} is of {sorted(found)}"
    return found.pop()


_ALL_TITLES = """
SELECT 'table', title FROM public.image
UNION ALL
SELECT 'list', i.title FROM public.imagelist_images AS l JOIN public.image AS i ON i.id = l.image_id
UNION ALL
SELECT 'view', title FROM public.photos
"""


def table_generation(api: Connection) -> str:
    """That of all rows of the live table, of what hangs on it, and of the view, as one statement sees them."""
    rows = api.execute(_ALL_TITLES).fetchall()
    assert {row[0] for row in rows} == {"table", "list", "view"}
    return titles_generation((row[1] for row in rows), "the table")


def index_generation(engine: SearchEngine, alias: str) -> str:
    """That of all documents that a reader finds."""
    found = engine.search(alias, Query(text="lantern", limit=100, mature=True))
    assert found.hits, f"{alias} is empty"
    return titles_generation((hit.source["title"] for hit in found.hits), alias)


def settings_for(databases: Mapping[str, Database], home: Path, **more: Any) -> Settings:
    """An installation over these databases, with the embedded index; all bounds are small."""
    values: dict[str, Any] = {
        "home": home,
        "database_url": databases["ledger"].sqlalchemy_url,
        "catalog_upstream_url": databases["upstream"].sqlalchemy_url,
        "catalog_api_database_url": databases["api"].sqlalchemy_url,
        "catalog_search_url": (home / "search").as_uri(),
        "catalog_probe_seconds": 0,
        "catalog_record_limit": 0,
        "catalog_range_rows": 10,
        "catalog_bulk_documents": 5,
        "catalog_fall_percent": 20,
        "catalog_provider_fall_percent": 30,
        "catalog_swap_seconds": 30,
    }
    return Settings(**{**values, **more})


def databases_of(server: EmbeddedServer, template: Mapping[str, str] | None = None) -> dict[str, Database]:
    """Three new databases, copies of these, or a migrated one and two empty ones. They go with the session's server."""
    made = {}
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        for kind in ("ledger", "upstream", "api"):
            name = f"{kind}_{uuid.uuid4().hex[:12]}"
            source = template[kind] if template else ("migrated" if kind == "ledger" else "template1")
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source))
            connection.execute(statement)
            made[kind] = Database.at(server.url(name))
    return made


def name_of(database: Database) -> str:
    """Its name on the server."""
    return str(psycopg.conninfo.conninfo_to_dict(database.conninfo)["dbname"])


@contextmanager
def prepared(server: EmbeddedServer, *, is_durable: bool = False) -> Iterator["World"]:
    """A world in which readers have refresh `second`, and upstream holds what `third` will show.

    Where no server is killed nothing need be durable.
    """
    databases = databases_of(server)
    with processes.quick_folder() as home:
        world = World(settings_for(databases, home))
        if not is_durable:
            hurry(world)
        set_up(world)
        yield world


def hurry(world: World) -> None:
    """Commits do not wait for the disk; a copy of a database has lost that setting."""
    for database in world.databases:
        world.query(database, QUICKLY)


def set_up(world: World, prefix: str = "", alias: str | None = None, generations: Sequence[str] = ("first", "second")) -> None:
    """Play the story up to the refresh that matters."""
    with world.places.upstream.connect() as upstream:
        scene.upstream_tables(upstream)
        scene.put_upstream(upstream, "image", [_row(number) for number in range(1, ROWS + 1)])
    for generation in generations:
        entitle(world, generation)
        refresh(world.settings, prefix + generation, alias=alias)
        if generation == generations[0]:
            world.query(world.places.api, HANGING)
            statement = "INSERT INTO public.imagelist_images (image_id, note) SELECT id, 'note ' || id FROM public.image WHERE id % 3 = 0"
            world.query(world.places.api, statement)
    entitle(world, "third")
    with world.places.upstream.connect() as upstream:
        scene.remove_upstream(upstream, "image", [6])
        scene.put_upstream(upstream, "image", [_row(number, "third") for number in (101, 102)])
    with world.places.api.connect() as api:
        # As the API does: moderation keeps the identifier, and takes the row and its documents away.
        scene.moderate(api, IMAGE, "deleted", [9])
        api.execute("DELETE FROM public.image WHERE identifier = %s", [scene.identifier(9)])
        scene.moderate(api, IMAGE, "mature", [4])
    with closing(world.places.search()) as engine:
        for index in (alias or "image", f"{alias or 'image'}-filtered"):
            engine.delete_documents(index, [9])
            engine.update_documents(index, [4], {"mature": True})
            engine.refresh(index)


def _row(number: int, generation: str = "first") -> scene.Row:
    """Some need cleaning, one is sensitive; each is as long as a row of upstream is."""
    row = scene.row(number, title=f"Harbour lantern {number} {generation}", meta_data={"description": "long " * 100})
    if number % 5 == 0:
        row["url"] = f"live.flickr.example/{number}.jpg"
    if number % 7 == 0:
        row["tags"] = [{"name": "lantern", "accuracy": 0.5, "provider": "clarifai"}]
    return row


def entitle(world: World, generation: str) -> None:
    """Upstream, the last word of every title becomes this."""
    statement = "UPDATE image SET title = regexp_replace(title, '\\w+$', %s), updated_on = now()"
    world.query(world.places.upstream, statement, [generation])


@contextmanager
def copied(server: EmbeddedServer, original: World, **more: Any) -> Iterator[World]:
    """A world like another one, to be spoilt."""
    template = dict(zip(("ledger", "upstream", "api"), map(name_of, original.databases), strict=True))
    databases = databases_of(server, template)
    with processes.quick_folder() as home:
        shutil.copytree(original.settings.home_folder / "search", home / "search")
        world = World(settings_for(databases, home, **more))
        hurry(world)
        yield world


_LOADS = """
SELECT landing_zone, partition, count(*), array_agg(DISTINCT status), array_agg(DISTINCT error_code),
       sum(rows_in), sum(rows_written), sum(rows_rejected)
FROM ledger.loads GROUP BY 1, 2 ORDER BY 1, 2
"""

_RANGES = """
SELECT suffix, sum(rows_read), sum(documents), sum(filtered), sum(dead) FROM catalog.ranges GROUP BY 1 ORDER BY 1
"""

_FIXES = "SELECT suffix, identifier::text, field, old_value, new_value, rule FROM catalog.fixes ORDER BY 1, 2, 3, 4, 5, 6"

_TABLES = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname LIKE 'catalog%' ORDER BY 1"


def picture(world: World) -> dict[str, Any]:
    """All that readers can see: tables with what hangs on them, and documents; new rows by their identity, not by their number."""
    with world.places.api.connect() as api, closing(world.places.search()) as engine:
        api.execute("SET search_path = ''")
        shape = sorted((tuple(_in_order(row)) for row in api.execute(SHAPE)), key=repr)
        rows = api.execute("SELECT id, identifier::text, title, url, tags::text FROM public.image ORDER BY identifier").fetchall()
        listed = api.execute(
            "SELECT l.note, i.identifier::text FROM public.imagelist_images AS l JOIN public.image AS i ON i.id = l.image_id ORDER BY 1"
        )
        numbers = {row[1]: row[0] for row in rows}
        assert len(set(numbers.values())) == len(rows)
        found: dict[str, Any] = {
            "shape": shape,
            "rows": [[number if number <= ROWS else "new", *rest] for number, *rest in rows],
            "listed": [list(row) for row in listed],
            "viewed": sorted(row[0] for row in api.execute("SELECT title FROM public.photos")),
        }
        for alias in ("image", "image-filtered"):
            (index,) = engine.behind(alias)
            hits = engine.search(alias, Query(text="lantern", limit=100, mature=True)).hits
            assert engine.count(alias) == len(hits)
            found[alias] = index
            found[f"{alias} documents"] = sorted(
                [hit.source["identifier"], hit.source["title"], hit.source.get("mature"), hit.id if hit.id <= ROWS else "new"]
                for hit in hits
            )
            if _of_one(found):
                wrong = [hit.source["identifier"] for hit in hits if numbers.get(hit.source["identifier"]) != hit.id]
                assert wrong == [], f"documents of {alias} have other ids than their rows"
    return found


def halves(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a picture is in the database, and what in the search engine; whether a key is validated yet concerns no reader."""
    shape = [[value for place, value in enumerate(row) if place != 5 or row[0] != "constraint"] for row in found["shape"]]
    shape = [[value.removesuffix(" NOT VALID") if isinstance(value, str) else value for value in row] for row in shape]
    tables = {name: value for name, value in found.items() if not name.startswith("image")}
    return tables | {"shape": shape}, {name: value for name, value in found.items() if name.startswith("image")}


def _of_one(found: Mapping[str, Any]) -> bool:
    return bool(found["rows"]) and str(found["rows"][0][2]).split()[-1] == str(found["image"]).removesuffix("-filtered").split("-")[-1]


def _in_order(row: Sequence[Any]) -> Iterator[Any]:
    for value in row:
        yield ",".join(sorted(value.strip("{}").split(","))) if isinstance(value, str) and value.startswith("{") and "=" in value else value


def left_behind(world: World) -> dict[str, Any]:
    """What refreshes have left: what readers see, what the ledger says, and what lies about; not who, when, nor at which attempt."""
    ledger, _, api = world.databases
    with closing(world.places.search()) as engine:
        indexes = engine.indexes("image-")
        sizes = {index: engine.count(index) for index in indexes}
    return picture(world) | {
        "loads": [list(row) for row in world.query(ledger, _LOADS)],
        "ranges": [list(row) for row in world.query(ledger, _RANGES)],
        "fixes": [list(row) for row in world.query(ledger, _FIXES)],
        "refreshes": [list(row) for row in world.query(ledger, "SELECT suffix, state FROM catalog.refreshes ORDER BY 1")],
        "open promotions": world.query(ledger, "SELECT count(*) FROM catalog.promotions WHERE ended_at IS NULL"),
        "dead letters": world.query(ledger, "SELECT count(*) FROM catalog.dead_letters"),
        "tables": [row[0] for row in world.query(api, _TABLES)],
        "listed rows": world.query(api, "SELECT count(*) FROM public.imagelist_images"),
        "pending": world.query(api, "SELECT count(*) FROM catalog_previous.pending_keys"),
        "archived": [
            list(row) for row in world.query(api, "SELECT table_name, row->>'note' FROM catalog_previous.archived_rows ORDER BY 2")
        ],
        "indexes": sizes,
    }


def killed(world: World, fault: str, name: str = "refresh") -> None:
    """Run a driver until it is killed there; then its leases run out."""
    code, complaint = start(world.settings, name, fault=fault).end()
    assert code == -9, f"was not killed at {fault}: {complaint[-3000:]}"
    world.let_leases_run_out()


def kill_quietly(process: Process) -> None:
    """It is gone, whatever it does."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, 9)
    process.end()


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "refresh"
    processes.serve(command) if wanted == "serve" else command(wanted)

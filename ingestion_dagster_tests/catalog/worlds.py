"""The world in which a driver plays: databases and a search folder of its own, two refreshes behind it and upstream's changes ahead."""

import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ingestion_dagster.catalog import promotion, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.search import AliasMove
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.catalog import driver, scene
from ingestion_dagster_tests.catalog.driver import IMAGE
from ingestion_dagster_tests.conftest import COPY_OF, TEMPLATE
from ingestion_dagster_tests.engine import processes

ROWS = 30

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
                return driver.refresh(self.settings)
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


@contextmanager
def databases_of(server: EmbeddedServer, template: Mapping[str, str] | None = None) -> Iterator[dict[str, Database]]:
    """Three databases, copies of these, or a migrated one and two empty ones; dropped at the end."""
    made = {}
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        for kind in ("ledger", "upstream", "api"):
            name = f"{kind}_{uuid.uuid4().hex[:12]}"
            source = template[kind] if template else (TEMPLATE if kind == "ledger" else "template1")
            connection.execute(COPY_OF.format(sql.Identifier(name), sql.Identifier(source)))
            made[kind] = Database.at(server.url(name))
    try:
        yield made
    finally:
        with suppress(psycopg.OperationalError), psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
            for database in made.values():
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name_of(database))))


def name_of(database: Database) -> str:
    """Its name on the server."""
    return str(psycopg.conninfo.conninfo_to_dict(database.conninfo)["dbname"])


@contextmanager
def prepared(server: EmbeddedServer) -> Iterator[World]:
    """A world in which readers have refresh `second`, and upstream holds what `third` will show."""
    with databases_of(server) as databases, processes.quick_folder() as home:
        world = World(settings_for(databases, home))
        set_up(world)
        yield world


def set_up(world: World, prefix: str = "", alias: str | None = None, generations: Sequence[str] = ("first", "second")) -> None:
    """Play the story up to the refresh that matters."""
    with world.places.upstream.connect() as upstream:
        scene.upstream_tables(upstream)
        scene.put_upstream(upstream, "image", [_row(number) for number in range(1, ROWS + 1)])
    # One after the other, rows get ids in their order: the id of row 9 is 9.
    in_order = world.settings.model_copy(update={"catalog_copy_workers": 1})
    for generation in generations:
        entitle(world, generation)
        driver.refresh(in_order, prefix + generation, alias=alias)
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


_ENTITLE = """
UPDATE image SET title = regexp_replace(title, '\\w+$', %s),
                 updated_on = now() - CASE WHEN foreign_identifier ~ '[05]$' THEN interval '0' ELSE interval '1 hour' END
"""


def entitle(world: World, generation: str) -> None:
    """Upstream, the last word of every title becomes this; of every fifth row it has just done so, and is brought after once more."""
    world.query(world.places.upstream, _ENTITLE, [generation])


def touch(world: World) -> None:
    """Upstream, all rows have just been changed."""
    world.query(world.places.upstream, "UPDATE image SET updated_on = now()")


@contextmanager
def copied(server: EmbeddedServer, original: World, **more: Any) -> Iterator[World]:
    """A world like another one, to be spoilt."""
    template = dict(zip(("ledger", "upstream", "api"), map(name_of, original.databases), strict=True))
    with databases_of(server, template) as databases, processes.quick_folder() as home:
        shutil.copytree(original.settings.home_folder / "search", home / "search")
        # By another key the list of sensitive terms would be another.
        shutil.copy(original.settings.home_folder / "catalog-terms.key", home)
        world = World(settings_for(databases, home, **more))
        yield world


def killed(world: World, fault: str, name: str = "refresh") -> None:
    """Run a driver until it is killed there; then its leases run out."""
    code, complaint = driver.start(world.settings, name, fault=fault).end()
    assert code == -9, f"was not killed at {fault}: {complaint[-3000:]}"
    world.let_leases_run_out()


def clean_cluster(world: World, own: str) -> None:
    """Take away what a test has put into the cluster that all use."""
    with closing(world.places.search()) as engine:
        engine.switch([AliasMove(own, None), AliasMove(f"{own}-filtered", None)])
        for index in engine.indexes(f"image-{own}"):
            engine.delete_index(index)

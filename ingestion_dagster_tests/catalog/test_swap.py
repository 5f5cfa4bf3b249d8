"""The swap and readers: it waits for them and not they for it, and they see the one generation or the other."""

import logging
import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import swap
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.patience import PATIENCE, until
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, Scene


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger)


def test_readers_see_no_error_and_never_nothing(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    stop, seen, failures = threading.Event(), set(), []

    def read(statement: str) -> None:
        with scene.places.api.connect() as connection:
            while not stop.is_set():
                try:
                    row = connection.execute(statement).fetchone()
                    seen.add(row[0] if row else None)
                except psycopg.Error as error:
                    failures.append(repr(error))
                    return

    statements = (
        "SELECT count(*) FROM public.image",
        "SELECT count(*) FROM public.titles",
        "SELECT count(i.id) + 4 FROM public.imagelist_images AS l JOIN public.image AS i ON i.id = l.image_id WHERE i.id = 1",
        "SELECT count(i.id) + 4 FROM public.image AS i JOIN public.imagelist_images AS l ON i.id = l.image_id WHERE i.id = 1",
        "SELECT count(*) FROM public.by_key AS k LEFT JOIN public.imagelist_images AS l ON l.image_id = k.id",
    )
    threads = [threading.Thread(target=read, args=(statement,)) for statement in statements]
    for thread in threads:
        thread.start()
    try:
        done = scene.promote(refresh)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert seen == {5, 7}
    assert done.seconds_locked < 1


def test_a_long_reader_is_waited_for_and_others_pass(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    scene.places = replace(
        scene.places, settings=scene.places.settings.model_copy(update={"catalog_lock_seconds": 0.2, "catalog_swap_seconds": 0.5})
    )
    with scene.places.api.connect() as reader:
        reader.autocommit = False
        reader.execute("SELECT count(*) FROM public.image").fetchone()
        with pytest.raises(Transient, match="tables_in_use"):
            scene.promote(refresh)
        assert scene.ids() == [1, 2, 3, 4, 5]
        assert scene.behind() == (("image-old",), ("image-old-filtered",))
        reader.rollback()
    assert scene.promote(refresh).attempts >= 1


def test_a_long_reader_holds_up_the_promotion_and_no_other_reader(
    places: Places, ledger: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables are locked in three ways in turn; each of them gives way."""
    caplog.set_level(logging.INFO, "ingestion_dagster.catalog.swap")
    changed = places.settings.model_copy(update={"catalog_lock_seconds": 0.2, "catalog_swap_seconds": PATIENCE})
    scene = Scene(replace(places, settings=changed), ledger, rich=False)
    refresh = scene.stage("new", range(1, 8))
    stop, took, promoted = threading.Event(), list[float](), list[Any]()

    def read() -> None:
        with scene.places.api.connect() as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute("SELECT count(*) FROM public.image").fetchone()
                took.append(time.monotonic() - began)

    threads = [threading.Thread(target=read), threading.Thread(target=lambda: promoted.append(scene.promote(refresh)))]
    with scene.places.api.connect() as long:
        long.autocommit = False
        long.execute("SELECT count(*) FROM public.image").fetchone()
        for thread in threads:
            thread.start()
        try:
            until(lambda: "attempt 4 to swap it gave way" in caplog.text)
            assert not promoted
            assert scene.ids() == [1, 2, 3, 4, 5]
        finally:
            long.rollback()
            threads[1].join(PATIENCE)
            stop.set()
            threads[0].join(PATIENCE)
    assert promoted[0].attempts > 4
    assert scene.ids() == list(range(1, 8))
    assert max(took) < 1.5, "a reader waited for as long as the promotion did"
    assert len(took) > 20


def test_what_is_in_use_is_not_locked_for_a_moment_again_and_again(scene: Scene, places: Places) -> None:
    locked: list[str] = []

    class Seen(psycopg.Connection[Any]):
        def execute(self, query: Any, *arguments: Any, **more: Any) -> Any:
            if "LOCK TABLE" in (query if isinstance(query, str) else query.as_string(self)):
                locked.append("tried")
            return super().execute(query, *arguments, **more)

    scene.promote(scene.stage("new", range(1, 8)))
    with Seen.connect(places.api.conninfo, autocommit=True) as ours, places.api.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM public.image")
        ours.execute("SET search_path = ''")
        found = swap._look(ours, IMAGE, swap.ROLL_BACK)
        with ours.transaction(), pytest.raises(Transient, match="lock_not_available"):
            swap._lock(ours, found, 0.2, 1)
    assert locked == []


def test_only_the_ids_are_looked_through_with_readers_waiting(scene: Scene) -> None:
    scene.do("ALTER TABLE public.image ADD COLUMN place serial")
    refresh = scene.stage("new", range(1, 8))
    scene.do("UPDATE catalog_next.image SET place = 1000")
    scene.promote(refresh)
    assert scene.one("SELECT last_value FROM public.image_place_seq") < 1000
    assert scene.one("SELECT last_value FROM public.image_id_seq") >= 7

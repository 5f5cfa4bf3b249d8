"""Promotion beside what is slow or broken off: commits under way, filtered aliases of others, swaps that have not ended, autovacuum."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ingestion_dagster.catalog import filtered, index_operations, refreshes, swap, swap_sql, task_requests, tasks, updates
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, Refresh
from ingestion_dagster.catalog.swap import Swapped
from ingestion_dagster.catalog.task_requests import Action, Standing, TaskRequest
from ingestion_dagster.catalog.tasks import NewTask
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.patience import PATIENCE, until
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, Scene, number
from ingestion_dagster_tests.catalog.scenes import FakePlaces

LIMITS = Limits(lease_seconds=60, run_seconds=60)

OLD = (("image-old",), ("image-old-filtered",))


class Killed(BaseException):
    """A process that is gone."""


class Beside(Scene):
    """A scene in which a filtered index can be made of a refresh's rows beside it, and a process can die."""

    def put_filtered(self, suffix: str, ids: range) -> None:
        label = {"refresh": f"{suffix}-filtered", "origin": suffix, "kind": "filtered", "model": "image"}
        self.engine.put(f"image-{suffix}-filtered", self.documents(ids), label)

    def lead(self, alias: str, index: str) -> None:
        self.engine.aliases[alias] = {index}

    @contextmanager
    def killed_at(self, call: str) -> Iterator[None]:
        def fault(point: str, _arguments: object) -> None:
            if point == call:
                raise Killed

        self.engine.fault = fault
        with pytest.raises(Killed):
            yield
        self.engine.fault = None


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Beside:
    return Beside(places, ledger, rich=False)


def test_a_commit_that_is_under_way_is_waited_for_before_readers_are_said_to_have_the_old_tables(
    scene: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost while a standby is slow: the server ends the transaction all the same."""
    refresh = scene.stage("new", range(1, 8))
    real, held, go = swap._attempt, threading.Event(), threading.Event()
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())"

    def commit_slowly(name: str) -> None:
        if name == "catalog.swap.tables.before":
            held.set()
            go.wait(PATIENCE)

    def cut_off(*arguments: Any) -> float:
        monkeypatch.setattr(swap, "_attempt", real)
        monkeypatch.setattr(swap, "fault_point", commit_slowly)
        threads.append(threading.Thread(target=lambda: real(*arguments)))
        threads[0].start()
        assert held.wait(PATIENCE)
        threads.append(threading.Thread(target=let_go))
        threads[1].start()
        monkeypatch.setattr(swap, "fault_point", lambda _name: None)
        raise Transient("connection_lost", "the API's database ended the connection")

    def let_go() -> None:
        try:
            until(lambda: scene.one(waiting))
        finally:
            go.set()

    threads: list[threading.Thread] = []
    monkeypatch.setattr(swap, "_attempt", cut_off)
    with pytest.raises(Transient, match="connection_lost"):
        scene.promote(refresh)
    for thread in threads:
        thread.join(PATIENCE)
    assert (scene.ids(), scene.behind()) == ([1, 2, 3, 4, 5], OLD)
    assert refreshes.get(scene.ledger, "image", "new").state == "filled"
    scene.promote(refresh)
    assert scene.ids() == list(range(1, 8))


def test_a_filtered_index_that_was_made_after_the_promotion_goes_with_its_rollback_and_comes_with_its_undoing(scene: Beside) -> None:
    refresh = scene.stage("b", range(1, 7), filtered=False)
    scene.do(f"INSERT INTO public.api_deletedimage (identifier) VALUES ('{number(3)}')")
    scene.promote(refresh)
    assert scene.behind() == (("image-b",), ("image-old-filtered",))
    assert set(scene.engine.sources("image-filtered")) == {1, 2}
    scene.put_filtered("b", range(1, 7))
    scene.lead("image-filtered", "image-b-filtered")
    assert scene.rollback().warnings == ()
    assert scene.behind() == OLD
    scene.rollback()
    assert scene.behind() == (("image-b",), ("image-b-filtered",))


def test_without_the_filtered_index_of_before_its_alias_leads_nowhere_after_a_rollback(scene: Beside) -> None:
    """As when a rebuild has deleted it: the one that readers have is of rows that are not there any more."""
    scene.promote(scene.stage("b", range(1, 7), filtered=False))
    scene.put_filtered("b", range(1, 7))
    scene.lead("image-filtered", "image-b-filtered")
    del scene.engine.documents["image-old-filtered"]
    (warning,) = scene.rollback().warnings
    assert (warning.code, warning.place, warning.severity) == ("no_filtered_index", "image-filtered", "warning")
    assert (scene.ids(), scene.behind()) == ([1, 2, 3, 4, 5], (("image-old",), ()))
    scene.rollback()
    assert scene.behind() == (("image-b",), ("image-b-filtered",))


@pytest.mark.parametrize("is_through", [True, False])
def test_a_filtered_index_that_is_deleted_meanwhile_keeps_no_swap_open(scene: Beside, is_through: bool) -> None:
    """It is that of the generation before, which stays when a refresh has none; its own index is there, or is lost as well."""
    refresh = scene.stage("b", range(1, 7), filtered=False)
    with scene.killed_at("switch.before"):
        scene.promote(refresh)
    del scene.engine.documents["image-old-filtered"]
    if not is_through:
        del scene.engine.documents["image-b"]
    said = scene.recover() or ""
    assert said.startswith("completed" if is_through else "reverted")
    assert (scene.ids(), scene.behind()) == (
        (list(range(1, 7)), (("image-b",), ())) if is_through else ([1, 2, 3, 4, 5], (("image-old",), ()))
    )
    assert scene.recover() is None


def run_task(scene: Scene, action: str, **request: Any) -> Callable[[], Any]:
    def do() -> None:
        task_id = uuid.uuid4().hex
        tasks.enter(scene.ledger, NewTask(task_id, "image", action, request, "test"))
        with tasks.begun(scene.ledger, task_id) as task:
            assert task is not None
            try:
                index_operations.execute(scene.places, scene.engine, scene.ledger, task, "run", LIMITS)
            finally:
                tasks.end(scene.ledger, task_id)

    return do


def test_beside_a_rollback_that_was_broken_off_nothing_else_goes_by_what_seems_to_be_live(scene: Beside) -> None:
    """Tables are of one generation, aliases of another, and no state of a refresh says so."""
    scene.promote(scene.stage("new", range(1, 8)))
    with scene.killed_at("switch.before"):
        scene.rollback()
    assert (scene.ids(), scene.behind()[0]) == ([1, 2, 3, 4, 5], ("image-new",))
    places = FakePlaces(scene.places.settings, scene.places.ledger, scene.places.upstream, scene.places.api, scene.engine)
    standing = Standing(scene.ledger, scene.engine)
    asked = [
        TaskRequest(model="image", action=Action.POINT_ALIAS, index_suffix="new", alias="image"),
        TaskRequest(model="image", action=Action.UPDATE_INDEX, index_suffix="new", since_date="1999-01-01"),
        TaskRequest(model="image", action=Action.DELETE_INDEX, index_suffix="spare"),
    ]
    work: list[Callable[[], Any]] = [
        lambda: updates.update_live(places, scene.engine, scene.ledger, IMAGE, "run"),
        lambda: filtered.rebuild(places, scene.ledger, IMAGE, "run", LIMITS, lambda _done, _of: None),
        run_task(scene, "POINT_ALIAS", index_suffix="new", alias="image"),
        run_task(scene, "UPDATE_INDEX", index_suffix="new", since_date="1999-01-01T00:00:00+00:00"),
        run_task(scene, "DELETE_INDEX", index_suffix="spare", targets=["image-spare"]),
        *(lambda each=each: task_requests.check(standing, each, uuid.uuid4().hex) for each in asked),
    ]
    scene.engine.put("image-spare", {})
    documents = scene.engine.sources("image")
    for one in work:
        with pytest.raises(Busy, match="has not ended"):
            one()
    assert (scene.engine.sources("image"), scene.engine.exists("image-spare")) == (documents, True)
    assert (scene.recover() or "").startswith("completed")
    for each in asked:
        task_requests.check(standing, each, uuid.uuid4().hex)


def test_an_index_is_not_updated_from_tables_that_change_places_meanwhile(scene: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_operations, "TURN_SECONDS", 0)
    scene.promote(scene.stage("new", range(1, 8)))
    seen: list[str] = []

    def meanwhile(_places: Any, _engine: Any, _ledger: Any, _media: Any, index: str, _since: Any) -> Swapped:
        with scene.places.ledger.connect() as other, pytest.raises(Busy):
            replace_ledger(scene, other).rollback()
        seen.append(index)
        return Swapped(0, 0)

    monkeypatch.setattr(updates, "index_changes", meanwhile)
    run_task(scene, "UPDATE_INDEX", index_suffix="new", since_date="1999-01-01T00:00:00+00:00")()
    assert (seen, scene.ids()) == (["image-new"], list(range(1, 8)))


def replace_ledger(scene: Scene, other: Connection) -> Scene:
    """The same scene, by another session."""
    made = object.__new__(Scene)
    made.places, made.ledger, made.engine = scene.places, other, scene.engine
    return made


def test_staged_tables_leave_autovacuum_nothing_to_do(scene: Beside) -> None:
    scene.stage("new", range(1, 8))
    vacuumed = "SELECT vacuum_count, analyze_count FROM pg_stat_all_tables WHERE relid = 'catalog_next.image'::regclass"
    with scene.places.api.connect() as api:
        assert api.execute(vacuumed).fetchone() == (1, 1)


SLOWLY = """
ALTER TABLE public.image SET (
    autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
    autovacuum_vacuum_insert_threshold = 100, autovacuum_vacuum_insert_scale_factor = 0
)
"""

MANY = """
INSERT INTO public.image (id, identifier, url, title)
SELECT n, gen_random_uuid(), 'https://example.org/many/' || n, repeat(n::text, 100) FROM generate_series(100, 3000) AS n
"""

SET = {"autovacuum": "on", "autovacuum_naptime": "1s", "deadlock_timeout": "3s"}

WORKERS = """
SELECT a.pid FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid AND l.relation = 'public.image'::regclass
WHERE a.backend_type = 'autovacuum worker' AND a.datname = current_database()
"""


@pytest.fixture
def diligent(server: EmbeddedServer) -> Iterator[None]:
    """The server vacuums every second, and looks for deadlocks later than it otherwise would."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        for name, value in SET.items():
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
        yield
        for name in SET:
            connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
        connection.execute("SELECT pg_reload_conf()")


def promoted_beside_readers(scene: Scene, refresh: Refresh) -> tuple[Any, list[float]]:
    """What the promotion says, and for how long each reader and writer waited who came meanwhile."""
    stop, took, done = threading.Event(), list[float](), list[Any]()

    def use(statement: str) -> None:
        with scene.places.api.connect() as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute(statement)
                took.append(time.monotonic() - began)

    statements = (
        "SELECT title FROM public.image WHERE id = 1",
        "SELECT title FROM public.titles WHERE id = 1",
        "UPDATE public.image SET width = 6 WHERE id = 2",
    )
    threads = [threading.Thread(target=use, args=(statement,)) for statement in statements]
    for thread in threads:
        thread.start()
    try:
        done.append(scene.promote(refresh))
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    return done[0], took


@pytest.mark.usefixtures("diligent")
def test_autovacuum_gives_way_to_a_promotion_and_no_reader_waits_for_that(scene: Beside) -> None:
    changed = scene.places.settings.model_copy(update={"catalog_swap_seconds": PATIENCE})
    scene.places = replace(scene.places, settings=changed)
    scene.do(SLOWLY)
    refresh = scene.stage("new", range(1, 8))
    scene.do(MANY)
    until(lambda: scene.one(WORKERS))
    with scene.places.api.connect() as plain:
        # Who may not see of what kind other processes are knows it, too.
        plain.execute("CREATE ROLE plain_" + (name := uuid.uuid4().hex[:8]))
        plain.execute(f"SET ROLE plain_{name}")
        found = plain.execute(swap_sql.VACUUMED, {"schemas": ["public", "public"], "tables": ["image", "titles"]}).fetchall()
        plain.execute("RESET ROLE")
        plain.execute(f"DROP ROLE plain_{name}")
    assert found == [("public", "image")]
    done, took = promoted_beside_readers(scene, refresh)
    assert scene.ids() == list(range(1, 8))
    assert done.attempts < 10
    assert max(took) < 1.5, "a reader waited for autovacuum to go"
    assert len(took) > 100

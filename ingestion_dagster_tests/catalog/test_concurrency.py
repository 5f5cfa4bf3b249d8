"""Several processes at once on one media type, and one that sleeps past its lease: no reader notices, nothing is done twice or undone."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from ingestion_dagster.catalog import fill, refreshes, steps
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster_tests.catalog import driver, pictures, worlds
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.fill_scene import small, target
from ingestion_dagster_tests.catalog.scenes import FakePlaces
from ingestion_dagster_tests.catalog.worlds import World
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences

__all__ = ["small"]

ASLEEP = [
    "catalog.copy.prepare.before:1",
    "catalog.copy.fixes.before:1",
    "catalog.copy.range.before:2",
    "catalog.copy.done.before:1",
    "catalog.stage.index.before:3",
    "catalog.fill.create.before:1",
    "catalog.fill.commit.before:2",
    "catalog.fill.settle.before:1",
]


@pytest.mark.parametrize("point", ASLEEP)
def test_a_run_that_wakes_up_after_its_lease_can_do_no_harm(
    point: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    """Its successor does all of the refresh meanwhile, while the sleeper holds what it held."""
    with worlds.copied(server, one, lease_seconds=1) as world:
        sleeper = driver.start(world.settings, fault=f"{point}:SIGSTOP")
        try:
            sleeper.await_sleep()
            processes.await_leases(world.places.ledger)
            processes.await_end_of_idle_transactions(world.places.ledger)
            code, complaint = driver.start(world.settings.model_copy(update={"lease_seconds": 60})).end(40)
            assert code == 0, f"the run that takes over is held up by the sleeper: {complaint[-3000:]}"
            left = pictures.left_behind(world)
            assert differences(left, undisturbed) == []
            sleeper.send(signal.SIGCONT)
            code, complaint = sleeper.end(30)
            assert code in {0, 1}, complaint
        finally:
            driver.kill_quietly(sleeper)
        assert differences(pictures.left_behind(world), left) == []
        assert_history_is_legal(world.settings)


@pytest.mark.parametrize("point", ["catalog.copy.prepare.before:1", "catalog.copy.fixes.before:2", "catalog.copy.done.before:1"])
def test_a_copier_that_wakes_up_while_its_successor_copies_changes_nothing_of_it(
    point: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    """A label that says `copied` over half a table would let half a table be promoted, if the successor died then."""
    with worlds.copied(server, one, lease_seconds=1) as world:
        sleeper = driver.start(world.settings, fault=f"{point}:SIGSTOP")
        successor = None
        try:
            sleeper.await_sleep()
            processes.await_leases(world.places.ledger)
            processes.await_end_of_idle_transactions(world.places.ledger)
            patient = world.settings.model_copy(update={"lease_seconds": 60})
            successor = driver.start(patient, fault="catalog.copy.range.after:2:SIGSTOP")
            successor.await_sleep()
            label, rows = half(world)
            assert '"copying"' in label
            sleeper.send(signal.SIGCONT)
            assert sleeper.end(30)[0] == 1
            assert half(world) == (label, rows)
            successor.send(signal.SIGCONT)
            code, complaint = successor.end(30)
            assert code == 0, complaint
        finally:
            for process in (sleeper, successor):
                if process is not None:
                    driver.kill_quietly(process)
        assert differences(pictures.left_behind(world), undisturbed) == []


def half(world: World) -> tuple[str, int]:
    """Label and rows of the staged table."""
    ((label,),) = world.query(world.places.api, "SELECT obj_description('catalog_next.image'::regclass, 'pg_class')")
    ((rows,),) = world.query(world.places.api, "SELECT count(*) FROM catalog_next.image")
    return str(label), int(rows)


@pytest.mark.parametrize("point", ["catalog.swap.journal.before", "catalog.swap.tables.after", "catalog.swap.alias.after"])
def test_whoever_promotes_is_left_alone_while_it_sleeps_and_ends_what_it_began(
    point: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    with worlds.copied(server, one, lease_seconds=1) as world:
        sleeper = driver.start(world.settings, fault=f"{point}:1:SIGSTOP")
        try:
            sleeper.await_sleep()
            processes.await_leases(world.places.ledger)
            processes.await_end_of_idle_transactions(world.places.ledger)
            code, complaint = driver.start(world.settings, "hasten").end(30)
            assert code == 1
            assert "Busy" in complaint
            sleeper.send(signal.SIGCONT)
            sleeper.end(30)
        finally:
            driver.kill_quietly(sleeper)
        world.let_leases_run_out()
        world.finish()
        assert differences(pictures.left_behind(world), undisturbed) == []


def test_a_swap_that_falls_asleep_lets_readers_in_again(server: EmbeddedServer, one: World, undisturbed: dict[str, Any]) -> None:
    with worlds.copied(server, one) as world:
        sleeper = driver.start(world.settings, "hasten", fault="catalog.swap.tables.before:1:SIGSTOP")
        try:
            sleeper.await_sleep()
            with world.places.api.connect() as api:
                api.execute("SET lock_timeout = '20s'")
                assert pictures.table_generation(api) == "second"
            sleeper.send(signal.SIGCONT)
            assert sleeper.end(30)[0] == 1
        finally:
            driver.kill_quietly(sleeper)
        assert pictures.generations(world) == ("second", "second", "second")
        world.finish()
        assert differences(pictures.left_behind(world), undisturbed) == []


MOMENT_SECONDS = 2.0
"""How long tables may be of one generation and documents of another: from the commit of the swap to the move of the aliases."""


class Reader:
    """Reads without a pause, with connections of its own, and keeps what no reader may see."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._watched, args=(each,)) for each in (self._tables, self._index, self._together)]
        self.wrong: list[str] = []
        self.reads = 0
        self.seen: set[str] = set()

    def __enter__(self) -> "Reader":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watched(self, read: Callable[[], None]) -> None:
        try:
            read()
        except Exception as error:  # noqa: BLE001 - said by the test
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _tables(self) -> None:
        with self._world.places.api.connect() as api:
            while not self._over.is_set():
                self.seen.add(pictures.table_generation(api))
                by_id = api.execute("SELECT count(*) FROM public.image WHERE id = ANY(%s)", [[1, 2, 3]]).fetchone()
                assert by_id == (3,), by_id
                self.reads += 1

    def _index(self) -> None:
        with closing(self._world.places.search()) as engine:
            while not self._over.is_set():
                for alias in ("image", "image-filtered"):
                    pictures.index_generation(engine, alias)
                    assert engine.count(alias) >= 25
                self.reads += 1

    def _together(self) -> None:
        """Table and index are of one generation, but for a moment."""
        apart_since = None
        with self._world.places.api.connect() as api, closing(self._world.places.search()) as engine:
            while not self._over.is_set():
                seen = {
                    pictures.table_generation(api),
                    *(pictures.index_generation(engine, alias) for alias in ("image", "image-filtered")),
                }
                apart_since = None if len(seen) == 1 else apart_since or time.monotonic()
                assert apart_since is None or time.monotonic() - apart_since < MOMENT_SECONDS, seen


def test_who_reads_without_a_pause_never_sees_half_a_state(server: EmbeddedServer, one: World) -> None:
    """Throughout two refreshes, a rollback and another one, and a filtered index made anew."""
    with worlds.copied(server, one) as world, Reader(world) as reader:
        for name in ("refresh", "rollback", "rollback", "rebuild"):
            assert driver.start(world.settings, name).end() == (0, "")
        worlds.entitle(world, "fourth")
        assert driver.start(world.settings, "refresh:fourth:").end() == (0, "")
    assert reader.wrong == []
    assert reader.seen == {"second", "third", "fourth"}
    assert reader.reads > 50


def test_an_update_beside_readers_changes_rows_and_documents_and_loses_none(server: EmbeddedServer, one: World) -> None:
    with worlds.copied(server, one) as world:
        worlds.touch(world)
        over, wrong = threading.Event(), []

        def read() -> None:
            with world.places.api.connect() as api, closing(world.places.search()) as engine:
                while not over.is_set():
                    rows = api.execute("SELECT count(*) FROM public.image").fetchone()
                    counts = [engine.count(alias) for alias in ("image", "image-filtered")]
                    if not (rows and 29 <= rows[0] <= 32 and all(29 <= count <= 32 for count in counts)):
                        wrong.append((rows, counts))

        thread = threading.Thread(target=read)
        thread.start()
        driver.update(world.settings)
        over.set()
        thread.join()
        assert wrong == []


def raced(world: World, *names: str) -> list[tuple[int, str]]:
    """How processes end that do this at once."""
    started = [driver.start(world.settings, name) for name in names]
    return [process.end() for process in started]


def test_two_runs_of_one_refresh_are_one_that_is_refused_or_helps(server: EmbeddedServer, one: World, undisturbed: dict[str, Any]) -> None:
    with worlds.copied(server, one) as world:
        driver.refresh(world.settings, todo=driver.STEPS[:1])
        ended = raced(world, "refresh", "refresh", "refresh")
        assert all(code == 0 or "Busy" in said for code, said in ended), [said[-1500:] for _, said in ended]
        world.finish()
        assert differences(pictures.left_behind(world), undisturbed) == []
        assert_history_is_legal(world.settings)


def test_of_refreshes_asked_for_at_once_one_is_entered(server: EmbeddedServer, one: World) -> None:
    with worlds.copied(server, one) as world:
        ended = raced(world, "begin", "begin", "begin")
        assert sorted(code for code, _ in ended) == [0, 1, 1]
        assert all("Busy" in said for code, said in ended if code)
        assert world.query(world.places.ledger, "SELECT count(*) FROM catalog.refreshes WHERE state = 'requested'") == [(1,)]


@pytest.mark.parametrize("other", ["update", "rebuild", "rollback"])
def test_a_change_of_what_is_live_beside_a_promotion_waits_or_is_refused(
    other: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    """Held in the middle of its swap, so that they do meet."""
    with worlds.copied(server, one) as world:
        promoting = driver.start(world.settings, fault="catalog.swap.tables.after:1:SIGSTOP")
        try:
            promoting.await_sleep()
            code, said = driver.start(world.settings, other).end()
            assert code == 1
            assert "Busy" in said
            promoting.send(signal.SIGCONT)
            assert promoting.end()[0] == 0
        finally:
            driver.kill_quietly(promoting)
        assert differences(pictures.left_behind(world), undisturbed) == []


def test_a_refresh_does_not_begin_beside_a_filtered_index_that_is_made_anew(
    server: EmbeddedServer, one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.undisturbed.__wrapped__, "__defaults__", (0.2,))  # type: ignore[attr-defined]
    with worlds.copied(server, one) as world:
        making = driver.start(world.settings, "rebuild", fault="catalog.filtered.alias.before:1:SIGSTOP")
        try:
            making.await_sleep()
            with pytest.raises(refreshes.Busy):
                driver.begin(world.settings)
            making.send(signal.SIGCONT)
            assert making.end()[0] == 0
        finally:
            driver.kill_quietly(making)
        driver.begin(world.settings)


def test_a_sweep_beside_a_run_that_lives_takes_nothing_from_it(server: EmbeddedServer, one: World, undisturbed: dict[str, Any]) -> None:
    with worlds.copied(server, one, lease_seconds=2) as world:
        run = driver.start(world.settings)
        with world.places.ledger.connect() as connection:
            while run.poll() is None:
                refreshes.sweep(connection, Limits.of(world.settings), "sweeper")
        assert run.end() == (0, "")
        assert differences(pictures.left_behind(world), undisturbed) == []


def test_an_index_that_is_being_built_by_the_dead_is_built_by_the_living(server: EmbeddedServer, one: World) -> None:
    """A server goes on with a statement whose process was killed; its index would have the name that the next run gives its own."""
    with worlds.copied(server, one) as world:
        slow = """
            CREATE FUNCTION public.slowly(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
            BEGIN
                IF current_setting('slow.is_on', true) = 'on' THEN PERFORM pg_sleep(1); END IF;
                RETURN $1;
            END $$;
            CREATE INDEX image_slow ON public.image (public.slowly(title));
            DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET slow.is_on = on', current_database()); END $$
        """
        world.query(world.places.api, slow)
        run = driver.start(world.settings)
        building = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX image_slow%%'"
        deadline = time.monotonic() + 30
        while world.query(world.places.api, building + " AND state = 'active'") == [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.kill_quietly(run)
        world.let_leases_run_out()
        world.query(world.places.api, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET slow.is_on = off', current_database()); END $$")
        world.finish()
        assert pictures.generations(world) == ("third", "third", "third")


def test_a_label_that_somebody_has_written_over_does_not_stop_the_next_promotion(server: EmbeddedServer, one: World) -> None:
    with worlds.copied(server, one) as world:
        world.query(world.places.api, "COMMENT ON TABLE public.image IS 'what the API shows'")
        world.finish()
        assert pictures.generations(world) == ("third", "third", "third")
        states = world.query(world.places.ledger, "SELECT suffix, state FROM catalog.refreshes ORDER BY 1")
        assert states == [("first", "retired"), ("second", "previous"), ("third", "live")]


def test_an_index_that_another_fills_before_its_maker_hears_that_it_is_made_is_not_taken_for_a_lost_one(
    small: tuple[FakePlaces, FakeSearch],
) -> None:
    """A cluster shows an index to others while its maker still waits for the shards."""
    places, engine = small

    with places.ledger.connect() as connection:

        def filled_by_another(name: str, arguments: tuple[Any, ...]) -> None:
            if name == "create.after" and str(arguments[0]).endswith("-filtered"):
                fill.plan(connection, places, driver.IMAGE, target(), 100)
                connection.execute("UPDATE catalog.ranges SET committed_id = first_id")

        engine.fault = filled_by_another
        fill.prepare(engine, connection, places, driver.IMAGE, target(), "its maker")
    assert {*engine.documents} == {*target().indexes.values()}

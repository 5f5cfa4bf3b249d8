"""Whatever fails under a refresh, statement by statement, call by call: readers keep what they had, and it goes on to its end."""

import os
import re
import signal
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import places as places_module
from ingestion_dagster.catalog.places import search_engine
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine import embedded_postgres, postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.catalog import driver, pictures, worlds
from ingestion_dagster_tests.catalog.cuts import function_of_ours, only_reads
from ingestion_dagster_tests.catalog.faulty_proxy import faulty_proxy, passes, status
from ingestion_dagster_tests.catalog.worlds import World
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences
from ingestion_dagster_tests.engine.processes import quick_folder


class Cuts:
    """Where a run is to fail: at the first statement or call that none has failed at yet. One failure a run."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.hit: str | None = None
        self.is_armed = False
        self._lock = threading.Lock()

    def arm(self) -> None:
        """The next run fails once."""
        self.hit, self.is_armed = None, True

    def falls(self, what: str) -> bool:
        """Whether it is this one's turn."""
        with self._lock:
            if not self.is_armed or self.hit is not None or what in self.done:
                return False
            self.done.add(what)
            self.hit = what
            return True


def _named(connection: psycopg.Connection[Any], statement: str) -> str:
    """A statement without names, numbers and values, and which database it goes to."""
    plain = re.sub(r'"[^"]*"|\'[^\']*\'|\d+', "?", " ".join(statement.split()))
    plain = re.sub(r"\b(INDEX|CONSTRAINT) \w+", r"\1 ?", plain)
    return f"{connection.info.dbname.split('_')[0]}: {plain[:300]}"


_ONLY_READ = frozenset(
    ("exists", "behind", "aliases_of", "indexes", "label", "wait_ready", "count", "get", "search", "problems"),
)


def cutting(cuts: Cuts) -> type[psycopg.Connection[Any]]:
    """Connections that fail where they are to: before a statement, or after it was done."""

    class CutCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **more: Any) -> Any:
            text = query if isinstance(query, str) else query.decode() if isinstance(query, bytes) else query.as_string(self)
            name = _named(self.connection, text)
            if cuts.falls(name):
                self.connection.close()
                raise psycopg.OperationalError("cut by a test")
            done = super().execute(query, *arguments, **more)
            if not only_reads(text) and cuts.falls(f"{name} (done)"):
                self.connection.close()
                raise psycopg.OperationalError("cut by a test")
            return done

        def copy(self, statement: Any, *arguments: Any, **more: Any) -> Any:
            text = statement if isinstance(statement, str) else statement.as_string(self)
            if cuts.falls(_named(self.connection, text)):
                self.connection.close()
                raise psycopg.OperationalError("cut by a test")
            return super().copy(statement, *arguments, **more)

    class CutConnection(psycopg.Connection[Any]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self.cursor_factory = CutCursor

        def _exec_command(self, command: Any, *arguments: Any) -> Any:
            is_commit = b"COMMIT" in (command if isinstance(command, bytes) else b"")
            for when in ("before", "after"):
                if is_commit and cuts.falls(f"{self.info.dbname.split('_')[0]}: {when} COMMIT in {function_of_ours()}"):
                    self.close()
                    raise psycopg.OperationalError("cut by a test")
                if when == "before":
                    yield from super()._exec_command(command, *arguments)

    return CutConnection


class CutSearch:
    """A search engine whose calls fail where they are to: before they are made, or after, when the answer is lost."""

    def __init__(self, engine: SearchEngine, cuts: Cuts) -> None:
        self._engine = engine
        self._cuts = cuts

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        if name == "close":
            return method

        def call(*arguments: Any, **more: Any) -> Any:
            if self._cuts.falls(f"search: {name}"):
                raise Transient("search_unavailable", "cut by a test")
            answer = method(*arguments, **more)
            if name not in _ONLY_READ and self._cuts.falls(f"search: {name} (done)"):
                raise Transient("search_unavailable", "cut by a test")
            return answer

        return call


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> Cuts:
    """Every connection and every search engine of this process fails where it says."""
    made = Cuts()
    kind = cutting(made)
    monkeypatch.setattr(psycopg, "connect", kind.connect)
    monkeypatch.setattr(places_module, "search_engine", lambda settings: CutSearch(search_engine(settings), made))
    return made


def swept(world: World, cuts: Cuts, name: str) -> list[str]:
    """A command again and again until nothing is left for it to fail at; where it failed, in order."""
    where: list[str] = []
    deadline = time.monotonic() + 250
    while True:
        cuts.arm()
        try:
            driver.COMMANDS[name](world.settings)
        except (psycopg.Error, Transient, ConfigurationError):
            if cuts.hit is None:
                raise
        except Busy:
            # The server has not noticed yet that a connection which held a lock is gone.
            assert time.monotonic() < deadline
            time.sleep(0.02)
        cuts.is_armed = False
        if cuts.hit is None:
            if is_through(world, name):
                return where
            continue
        where.append(cuts.hit)
        assert time.monotonic() < deadline, f"{len(where)} failures, the last at {where[-1]}"
        world.let_leases_run_out()
        if changes(cuts.hit):
            seen = pictures.generations(world)
            assert set(seen) <= {"second", "third"}, cuts.hit
            if len(set(seen)) > 1:
                world.recover()
                assert len(set(pictures.generations(world))) == 1, cuts.hit


def changes(what: str) -> bool:
    """Whether what failed may have changed what readers see."""
    return what.startswith(("api", "search: switch")) and not what.startswith("api: SELECT")


def is_through(world: World, name: str) -> bool:
    if name != "refresh":
        return True
    return world.query(world.places.ledger, "SELECT state FROM catalog.refreshes WHERE suffix = 'third'") == [("live",)]


@pytest.mark.timeout(300)
def test_a_refresh_may_fail_at_every_statement_and_every_call(
    server: EmbeddedServer, one: World, undisturbed: dict[str, Any], cuts: Cuts
) -> None:
    with worlds.copied(server, one, max_attempts=10_000) as world:
        where = swept(world, cuts, "refresh")
        assert differences(pictures.left_behind(world), undisturbed) == []
        assert_history_is_legal(world.settings)
    assert len(where) > 100
    assert {each.partition(":")[0] for each in where} == {"ledger", "upstream", "api", "search"}
    assert {"search: switch", "search: switch (done)", "search: bulk", "search: bulk (done)", "search: create (done)"} <= {*where}


def test_readers_of_a_killed_server_find_it_as_it_was_and_the_refresh_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The server dies in the midst of the copy, of the building of indexes, and of the swap; nothing that was said to be done is lost."""
    home = tmp_path_factory.mktemp("killed")
    own = embedded_postgres.start(home)
    try:
        embedded_postgres.ensure_database(own, "migrated")
        postgres.upgrade(Database.at(own.url("migrated")))
        with worlds.prepared(own) as world, worlds.copied(own, world) as other:
            driver.refresh(other.settings)
            undisturbed = pictures.left_behind(other)
            for point in ("catalog.copy.range.before:2", "catalog.stage.index.after:4", "catalog.swap.tables.before:1"):
                run = driver.start(world.settings, fault=f"{point}:SIGSTOP")
                run.await_sleep()
                kill_server(own)
                run.send(signal.SIGCONT)
                assert run.end(60)[0] == 1
                embedded_postgres.start(home)
                assert pictures.generations(world) == ("second", "second", "second")
                world.let_leases_run_out()
            world.finish()
            assert differences(pictures.left_behind(world), undisturbed) == []
            assert_history_is_legal(world.settings)
    finally:
        embedded_postgres.stop(home)


def kill_server(server: EmbeddedServer) -> None:
    """At once, as a machine that loses its power."""
    pid = int((server.data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


TROUBLE = {
    "away": lambda exchange: exchange.drop(),
    "storm": status(429),
    "full": status(429, "cluster_block_exception"),
}


@pytest.mark.timeout(300)
def test_a_search_cluster_in_trouble_fails_the_run_in_time_and_the_refresh_goes_on_after_it(
    server: EmbeddedServer, opensearch: str
) -> None:
    """It goes away, wards off all that is put, and has no room left, in turn."""
    own = f"q{uuid.uuid4().hex[:8]}"
    with worlds.databases_of(server) as databases, quick_folder() as home, faulty_proxy(opensearch) as proxy:
        world = World(worlds.settings_for(databases, home, catalog_search_url=opensearch, catalog_index_workers=1))
        worlds.set_up(world, own, alias=own, generations=("second",))
        impatient = world.settings.model_copy(update={"catalog_search_url": proxy.url, "catalog_search_patience_seconds": 0.5})
        for trouble in TROUBLE.values():
            proxy.otherwise = trouble
            with pytest.raises(Transient):
                driver.refresh(impatient, f"{own}third", alias=own)
            assert pictures.seen_titles(world, own) == {"second"}
        proxy.otherwise = passes
        driver.refresh(world.settings.model_copy(update={"catalog_search_url": proxy.url}), f"{own}third", alias=own)
        assert pictures.seen_titles(world, own) == {"third"}
        worlds.clean_cluster(world, own)

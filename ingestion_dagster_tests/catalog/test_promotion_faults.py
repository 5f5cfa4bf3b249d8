"""Whatever statement or call of a promotion fails, wherever its process is killed: readers have one generation or the other, whole."""

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import locks, promotion, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster_tests.catalog.cuts import module_of_ours, only_reads
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.patience import until
from ingestion_dagster_tests.catalog.promotion_driver import killed
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, FileSearch, Scene

_ASKED = frozenset(f"{name}.{when}" for name in ("exists", "behind") for when in ("before", "after"))
"""Calls of the search engine that change nothing."""

WAITS_FOR_A_TABLE = """
SELECT 1 FROM pg_locks
WHERE locktype = 'relation' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Cut:
    """Counts what goes over a connection from the journal's entry on; at the number set it cuts the connection, or fails the call.

    Of reads of one module, with nothing done in between, one is counted: the next finds the same, whichever of them has failed.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.count = 0
        self.at = 0
        self.cut_at: str | None = None
        self._read: set[str] = set()

    def set(self, at: int) -> None:
        self.is_on, self.count, self.at, self.cut_at = False, 0, at, None
        self._read.clear()

    def step(self, what: str, connection: Connection | None) -> None:
        self.is_on = self.is_on or "INSERT INTO catalog.promotions" in what
        if not self.is_on:
            return
        if self._has_failed_already(what):
            return
        self.count += 1
        if self.count == self.at:
            self.cut_at = what
            if connection is None:
                raise Transient("search_unavailable", "a test")
            connection.close()
            raise psycopg.OperationalError("cut by a test")

    def _has_failed_already(self, what: str) -> bool:
        if not (only_reads(what) or what in _ASKED):
            self._read.clear()
            return False
        module = module_of_ours()
        is_known = module in self._read
        self._read.add(module)
        return is_known


def cutting(cut: Cut) -> type[psycopg.Connection[Any]]:
    class CutCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **more: Any) -> Any:
            text = query if isinstance(query, str) else query.decode() if isinstance(query, bytes) else query.as_string(self)
            cut.step(text, self.connection)
            return super().execute(query, *arguments, **more)

    class CutConnection(psycopg.Connection[Any]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self.cursor_factory = CutCursor

        def _exec_command(self, command: Any, *arguments: Any) -> Any:
            is_commit = b"COMMIT" in (command if isinstance(command, bytes) else b"")
            if is_commit:
                cut.step("before COMMIT", self)
            yield from super()._exec_command(command, *arguments)
            if is_commit:
                cut.step("after COMMIT", self)

    return CutConnection


@dataclass(frozen=True, slots=True)
class CutDatabase(Database):
    kind: Any = None

    def connect(self) -> Connection:
        return self.kind.connect(self.conninfo, autocommit=True, options="-c timezone=UTC")


def picture(scene: Scene) -> tuple[Any, ...]:
    return scene.shape(), scene.ids(), scene.behind(), sorted(scene.listed())


def run_cut(scene: Scene, cut: Cut, suffix: str) -> bool:
    """Whether it went through without being cut."""
    kind = cutting(cut)
    api = CutDatabase(scene.places.api.conninfo, scene.places.api.sqlalchemy_url, kind=kind)
    places = replace(scene.places, api=api)
    scene.engine.fault = lambda point, _arguments: cut.step(point, None)
    try:
        with CutDatabase(places.ledger.conninfo, "", kind=kind).connect() as connection:
            if suffix:
                promotion.promote(places, scene.engine, connection, IMAGE, refreshes.get(connection, "image", suffix), "cut")
            else:
                promotion.rollback(places, scene.engine, connection, IMAGE, "cut")
    except (psycopg.Error, Transient):
        return False
    finally:
        scene.engine.fault = None
    return cut.cut_at is None


def test_every_statement_and_call_may_fail(places: Places, ledger: Connection) -> None:
    """One scene, promoted and rolled back over and over, each time cut at the next statement or call."""
    scene = Scene(places, ledger)
    scene.promote(scene.stage("new", range(2, 8)))
    new = picture(scene)
    scene.rollback()
    old = picture(scene)
    cut, at, cuts = Cut(), 0, set()
    while True:
        at += 1
        cut.set(at)
        before, after = (old, new) if scene.ids() == old[1] else (new, old)
        if run_cut(scene, cut, ""):
            break
        recovered(scene)
        assert not promotion.is_open(scene.ledger, "image")
        assert picture(scene) in (before, after), (at, cut.cut_at)
        states = sorted(refresh.state for refresh in refreshes.of_model(scene.ledger, "image"))
        assert states == (["live"] if scene.ids() == new[1] else ["previous"]), (at, cut.cut_at)
        cuts.add(cut.cut_at)
    assert at > 60
    assert {"before COMMIT", "after COMMIT", "switch.before", "switch.after"} <= cuts


def test_every_statement_of_a_promotion_may_fail(places: Places, ledger: Connection) -> None:
    """The staged generation is still there after each cut that was reverted, and is promoted in the end."""
    scene = Scene(places, ledger)
    refresh = scene.stage("new", range(2, 8))
    old = picture(scene)
    cut, at = Cut(), 0
    while scene.ids() == old[1]:
        at += 1
        cut.set(at)
        if run_cut(scene, cut, refresh.suffix):
            break
        recovered(scene)
        assert scene.ids() == list(range(2, 8)) or picture(scene) == old, (at, cut.cut_at)
    assert at > 30
    assert (scene.ids(), scene.behind()) == (list(range(2, 8)), (("image-new",), ("image-new-filtered",)))
    scene.rollback()
    assert picture(scene) == old


def recovered(scene: Scene) -> str | None:
    """The server may not have noticed yet that a connection which held the lock was cut."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return scene.recover()
        except Busy:
            assert time.monotonic() < deadline


POINTS = [f"catalog.swap.{step}.{when}" for step in ("journal", "tables", "alias", "validate", "done") for when in ("before", "after")] + [
    "catalog.retire.table.before"
]


def test_a_killed_promotion_is_completed_or_reverted(places: Places, ledger: Connection, tmp_path: Path) -> None:
    """Killed at each point in turn; what is then live is promoted or rolled back by the next process, killed at the next point."""
    state = tmp_path / "search.json"
    scene = Scene(places, ledger, FileSearch(state))
    scene.stage("new", range(2, 8))
    scene.engine.save()  # type: ignore[attr-defined]
    scene.promote(refreshes.get(ledger, "image", "new"))
    new = picture(scene)
    scene.rollback()
    old = picture(scene)
    for point in POINTS:
        before = picture(scene)
        if point == "catalog.retire.table.before":
            scene.do("CREATE TABLE catalog_retired.image ()")
        killed(places.settings, "rollback", state, point)
        scene.engine = FileSearch(state)
        said = recovered(scene)
        assert picture(scene) in (old, new), point
        is_through = picture(scene) != before
        assert is_through == (point.split(".")[2] in ("alias", "validate", "done") or point == "catalog.swap.tables.after"), (point, said)
        assert scene.recover() is None


@pytest.mark.parametrize("point", ["catalog.swap.revert.before", "catalog.swap.revert.after"])
def test_a_killed_reversal_is_gone_on_with(places: Places, ledger: Connection, tmp_path: Path, point: str) -> None:
    state = tmp_path / "search.json"
    scene = Scene(places, ledger, FileSearch(state))
    scene.stage("new", range(2, 8))
    scene.engine.save()  # type: ignore[attr-defined]
    old = picture(scene)
    killed(places.settings, "promote new", state, "catalog.swap.tables.after")
    scene.engine = FileSearch(state)
    del scene.engine.documents["image-new"]
    scene.engine.save()
    killed(places.settings, "recover", state, point)
    recovered(scene)
    assert picture(scene) == old
    assert not promotion.is_open(ledger, "image")


def test_a_promotion_under_way_is_left_alone(places: Places, ledger: Connection) -> None:
    scene = Scene(places, ledger, FakeSearch(), rich=False)
    refresh = scene.stage("new", range(2, 8))
    with places.ledger.connect() as other, locks.model(other, "image"):
        with pytest.raises(refreshes.Busy):
            scene.promote(refresh)
        with pytest.raises(refreshes.Busy):
            scene.rollback()
    scene.promote(refresh)


def test_who_has_lost_the_ledger_swaps_nothing_after_somebody_has_reverted_it(places: Places, ledger: Connection) -> None:
    """The process lives, and waits for a reader; only its session of the ledger is gone, and the lock with it."""
    scene = Scene(places, ledger, rich=False)
    refresh = scene.stage("new", range(1, 8))
    raised: list[Transient] = []
    own = places.ledger.connect()

    def run() -> None:
        try:
            promotion.promote(places, scene.engine, own, IMAGE, refresh, "sleeper")
        except Transient as error:
            raised.append(error)

    sleeper = threading.Thread(target=run)
    with places.api.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM public.image")
        sleeper.start()
        until(lambda: reader.execute(WAITS_FOR_A_TABLE).fetchone())
        ledger.execute("SELECT pg_terminate_backend(%s)", [own.info.backend_pid])
        until(lambda: ledger.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [own.info.backend_pid]).fetchone() is None)
        assert (recovered(scene) or "").startswith("reverted")
    sleeper.join(60)
    own.close()
    assert [error.code for error in raised] == ["overtaken"]
    assert (scene.ids(), scene.behind()) == ([1, 2, 3, 4, 5], (("image-old",), ("image-old-filtered",)))
    assert refreshes.get(ledger, "image", "new").state == "filled"
    scene.promote(refresh)
    assert scene.ids() == list(range(1, 8))

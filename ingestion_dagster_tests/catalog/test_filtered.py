"""Filtered indexes besides those of a refresh: made anew when terms change, or by tasks; what goes on, goes along, and goes."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import filtered, index_operations, refreshes, retirement, sensitive, tasks
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.tasks import NewTask
from ingestion_dagster.engine import ledger as engine_ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.promotion_scene import Scene, number
from ingestion_dagster_tests.catalog.scenes import FakePlaces, go_live, identifier, live_table, row, with_fake

IMAGE = MEDIA_TYPES["image"]
LIMITS = Limits(lease_seconds=60, run_seconds=60)


class Live:
    """Twenty rows that readers have, the fifth of which is a bird, and an engine that can go down."""

    def __init__(self, places: Places, ledger: Connection) -> None:
        self.places: FakePlaces
        self.engine: FakeSearch
        self.places, self.engine = with_fake(places)
        self.ledger = ledger
        titles = {5: "A bird"}
        live_table(places, IMAGE, [row("image", one, title=titles.get(one, "A stone")) for one in range(1, 21)])
        go_live(ledger, self.engine, IMAGE, "one", snapshot_at=datetime.now(UTC))

    def rebuild(self, down_after: int = 1000) -> filtered.Rebuilt:
        def fault(name: str, _arguments: tuple[Any, ...]) -> None:
            if name == "bulk.before" and self.engine.seen()["bulk"] > down_after:
                raise Transient("search_unavailable", "down")

        self.engine.calls.clear()
        self.engine.fault = fault
        return filtered.rebuild(self.places, self.ledger, IMAGE, "run", LIMITS, lambda _done, _of: None)

    def unread(self) -> list[str]:
        return [name for name in sorted(self.engine.documents) if not any(name in behind for behind in self.engine.aliases.values())]


@pytest.fixture
def live(places: Places, ledger: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    listed = tmp_path / "terms.txt"
    listed.write_text("bird\n")
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", listed.as_uri())
    monkeypatch.setenv("INGESTION_CATALOG_RANGE_ROWS", "4")
    return Live(Places.of(current()), ledger)


def test_a_rebuild_that_was_broken_off_is_gone_on_with_and_leaves_nothing(live: Live) -> None:
    with pytest.raises(Transient):
        live.rebuild(down_after=2)
    (begun,) = live.unread()
    with live.places.api.connect() as api:
        api.execute("INSERT INTO api_deletedimage (identifier, created_on, updated_on) VALUES (%s, now(), now())", [identifier(1)])
        api.execute("UPDATE image SET title = 'A changed stone', updated_on = now() WHERE id = 2")
    done = live.rebuild()
    assert done.index == begun
    assert live.engine.seen()["bulk"] < 6
    found = live.engine.sources("image-filtered")
    assert set(found) == set(range(2, 21)) - {5}
    assert found[2]["title"] == "A changed stone"
    assert live.unread() == []
    assert live.ledger.execute("SELECT count(*) FROM catalog.rebuilds").fetchone() == (0,)
    assert filtered.made_with(live.engine, "image") == sensitive.fingerprint_of(live.places.settings)
    assert live.rebuild().index != begun


def test_a_rebuild_of_what_is_no_longer_live_is_begun_anew_and_its_leavings_go_by_age(live: Live) -> None:
    with pytest.raises(Transient):
        live.rebuild(down_after=2)
    (begun,) = live.unread()
    refreshes.advance(live.ledger, refreshes.get(live.ledger, "image", "one"), "previous")
    refreshes.advance(live.ledger, refreshes.request(live.ledger, "image", "two", asked_by="test"), "live")
    assert live.rebuild().index != begun
    assert begun in live.unread()
    live.engine.fault = None
    retire = retirement.retire
    assert begun not in retire(live.places, live.engine, live.ledger, IMAGE, "run").indexes
    later = replace(live.places, settings=live.places.settings.model_copy(update={"catalog_keep_failed_days": 0}))
    assert begun in retire(later, live.engine, live.ledger, IMAGE, "run").indexes
    scope = engine_ledger.Scope("catalog", datasets=frozenset({"image_index"}))
    assert engine_ledger.claimable(live.ledger, scope)[0] == 0
    assert live.engine.behind("image-filtered")


def test_a_rebuild_keeps_away_from_a_task_that_fills_an_index_and_a_refresh_does_too(live: Live) -> None:
    going = refreshes.advance(live.ledger, refreshes.request(live.ledger, "image", "two", asked_by="test", promote=False), "filled")
    request = {"origin_index_suffix": "two", "destination_index_suffix": "two", "fills": "two-filtered"}
    tasks.enter(live.ledger, NewTask("0" * 32, "image", "CREATE_AND_POPULATE_FILTERED_INDEX", request, "test"))
    with pytest.raises(Busy, match="CREATE_AND_POPULATE"):
        live.rebuild()
    with pytest.raises(Busy, match="CREATE_AND_POPULATE"):
        retirement.discard(live.places, live.engine, live.ledger, going)
    assert refreshes.get(live.ledger, "image", "two").state == "filled"


class Asked(Scene):
    """As callers of the private API go: a refresh without a filtered index, which a task makes of its rows."""

    def with_filtered(self, suffix: str, ids: range) -> Refresh:
        refresh = self.stage(suffix, ids, filtered=False)
        label = {"refresh": f"{suffix}-filtered", "origin": suffix, "kind": "filtered", "model": "image"}
        self.engine.put(f"image-{suffix}-filtered", self.documents(ids), label)
        return refresh

    def point_alias(self, suffix: str, alias: str) -> None:
        task_id = uuid.uuid4().hex
        tasks.enter(self.ledger, NewTask(task_id, "image", "POINT_ALIAS", {"index_suffix": suffix, "alias": alias}, "test"))
        with tasks.begun(self.ledger, task_id) as task:
            assert task is not None
            index_operations.execute(self.places, self.engine, self.ledger, task, "run", LIMITS)
        tasks.end(self.ledger, task_id)

    def delete(self, one: int) -> None:
        self.do(f"INSERT INTO public.api_deletedimage (identifier) VALUES ('{number(one)}')")


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Asked:
    return Asked(places, ledger, rich=False)


def test_a_filtered_index_of_a_refreshs_rows_goes_along_with_its_promotion_and_its_rollback(scene: Asked) -> None:
    refresh = scene.with_filtered("b", range(1, 7))
    scene.delete(5)
    scene.promote(refresh)
    assert scene.behind() == (("image-b",), ("image-b-filtered",))
    assert set(scene.engine.sources("image-filtered")) == {1, 2, 3, 4, 6}
    scene.point_alias("b-filtered", "image-filtered")
    assert scene.behind() == (("image-b",), ("image-b-filtered",))
    scene.rollback()
    assert scene.behind() == (("image-old",), ("image-old-filtered",))
    later = replace(scene.places, settings=scene.places.settings.model_copy(update={"catalog_keep_failed_days": 0}))
    assert retirement.retire(later, scene.engine, scene.ledger, IMAGE, "run").indexes == ()


@pytest.mark.parametrize("label", [{"refresh": "b-filtered", "origin": "another"}, {}])
def test_a_filtered_index_of_other_rows_is_left_where_it_is(scene: Asked, label: dict[str, str]) -> None:
    refresh = scene.stage("b", range(1, 7), filtered=False)
    scene.engine.put("image-b-filtered", scene.documents(range(1, 3)), label)
    scene.promote(refresh)
    assert scene.behind() == (("image-b",), ("image-old-filtered",))


def test_what_was_deleted_by_moderation_since_is_not_shown_by_an_alias(scene: Asked) -> None:
    scene.engine.put("image-c-filtered", scene.documents(range(1, 7)), {"refresh": "c-filtered", "origin": "c"})
    scene.delete(5)

    def meanwhile(name: str, _arguments: tuple[Any, ...]) -> None:
        if name == "switch.after":
            scene.engine.fault = None
            scene.delete(6)

    scene.engine.fault = meanwhile
    scene.point_alias("c-filtered", "image-filtered")
    assert set(scene.engine.sources("image-filtered")) == {1, 2, 3, 4}


def test_with_a_refresh_that_is_given_up_goes_what_was_made_of_its_rows(scene: Asked) -> None:
    refresh = scene.with_filtered("b", range(1, 7))
    places = FakePlaces(scene.places.settings, scene.places.ledger, scene.places.upstream, scene.places.api, scene.engine)
    retirement.discard(places, scene.engine, scene.ledger, refresh)
    assert sorted(scene.engine.documents) == ["image-old", "image-old-filtered"]

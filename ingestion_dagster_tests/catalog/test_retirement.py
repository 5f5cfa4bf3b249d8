"""Retirement: old generations and what failed refreshes left go; what readers have, or a rollback needs, never does."""

from dataclasses import replace

import pytest

from ingestion_dagster.catalog import refreshes, retirement, standing, steps
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.retirement import Retired
from ingestion_dagster.engine import entries
from ingestion_dagster.engine import ledger as engine_ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, Scene


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger, rich=False)


def retire(scene: Scene) -> Retired:
    return retirement.retire(scene.places, scene.engine, scene.ledger, IMAGE, "run")


def search_is_away(_prefix: str) -> list[str]:
    raise Transient("search_unavailable", "away")


def fail(scene: Scene, suffix: str) -> None:
    refresh = refreshes.get(scene.ledger, "image", suffix)
    with refreshes.held(scene.places.ledger, scene.ledger, refresh, "run", Limits()) as load:
        refreshes.refuse(scene.ledger, load, (Problem("count_fell", "image", "look upstream"),), Limits(), "run")


def add_range(scene: Scene, suffix: str) -> None:
    """A range of ids that is to be filled."""
    now, key = engine_ledger.now(scene.ledger), f"{suffix}/1-6"
    seen = StoredObject(key=key, size=0, modified=now, version=suffix)
    entries.discover(scene.ledger, "catalog", "catalog:image_index", [entries.Arrival(seen, "image_index", suffix)], now)
    scene.ledger.execute(
        "INSERT INTO catalog.ranges (load_id, model, suffix, first_id, last_id) "
        "SELECT id, 'image', partition, 1, 6 FROM ledger.loads WHERE key = %s",
        [key],
    )


def test_what_a_rollback_needs_stays_and_what_is_older_goes(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    assert retire(scene) == Retired()
    scene.promote(scene.stage("two", range(1, 8)))
    scene.promote(scene.stage("three", range(1, 9)))
    gone = retire(scene)
    assert gone.tables == ("catalog_retired.image",)
    assert gone.indexes == ("image-one", "image-one-filtered")
    assert retire(scene) == Retired()
    assert sorted(scene.engine.documents) == [
        "image-old",
        "image-old-filtered",
        *(f"image-{suffix}{kind}" for suffix in ("three", "two") for kind in ("", "-filtered")),
    ]
    scene.rollback()
    assert scene.ids() == list(range(1, 8))
    assert retire(scene) == Retired()


def test_what_was_noted_row_by_row_goes_with_its_refresh(scene: Scene) -> None:
    for suffix in ("one", "two", "three"):
        scene.promote(scene.stage(suffix, range(1, 7)))
        names = [suffix, f"image-{suffix}"]
        scene.ledger.execute("INSERT INTO catalog.fixes VALUES ('image', %s, gen_random_uuid(), 'url', 'a', 'b', 'scheme')", names[:1])
        scene.ledger.execute(
            "INSERT INTO catalog.dead_letters (model, index_name, document_id, code, reason) VALUES ('image', %s, 1, 'x', 'y')", names[1:]
        )
        scene.ledger.execute("INSERT INTO catalog.carried VALUES ('image', %s, 1, true, true, true, true, true, true)", names[:1])
        scene.ledger.execute(
            "INSERT INTO catalog.ranges (load_id, model, suffix, first_id, last_id) "
            "SELECT load_id, model, suffix, 1, 6 FROM catalog.refreshes WHERE suffix = %s",
            names[:1],
        )
    retire(scene)
    for table in ("fixes", "carried", "ranges"):
        assert sorted(row[0] for row in scene.ledger.execute(f"SELECT suffix FROM catalog.{table}")) == ["three", "two"]
    assert sorted(row[0] for row in scene.ledger.execute("SELECT index_name FROM catalog.dead_letters")) == ["image-three", "image-two"]


def test_what_was_noted_of_indexes_that_no_refresh_bears_goes_with_them(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    keep, gone = ("image-one-filtered", "image-by-task"), ("image-rebuilt-filtered", "image-lost")
    scene.engine.put("image-by-task", {})
    for index in (*keep, *gone):
        scene.ledger.execute(
            "INSERT INTO catalog.dead_letters (model, index_name, document_id, code, reason) VALUES ('image', %s, 1, 'x', 'y')", [index]
        )
    for suffix in ("rebuilt", "by-task", "broken"):
        add_range(scene, suffix)
    scope = Scope("catalog", datasets=frozenset({"image_index"}), partitions=frozenset({"rebuilt", "by-task"}))
    for load in engine_ledger.claim(scene.ledger, scope, "run", count=2, size=2**62, lease_seconds=60):
        refreshes.set_aside(scene.ledger, load, Problem("x", "y", "z"), Limits(), "run")
    retire(scene)
    assert sorted(row[0] for row in scene.ledger.execute("SELECT index_name FROM catalog.dead_letters")) == sorted(keep)
    assert sorted(row[0] for row in scene.ledger.execute("SELECT suffix FROM catalog.ranges")) == ["broken", "by-task"]


def test_a_discard_that_was_broken_off_keeps_no_refresh_from_coming(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.stage("one", range(1, 7))
    refresh = refreshes.get(scene.ledger, "image", "one")
    with monkeypatch.context() as away:
        away.setattr(scene.engine, "indexes", search_is_away)
        with pytest.raises(Transient):
            retirement.discard(scene.places, scene.engine, scene.ledger, refresh)
    assert not steps.is_going(scene.ledger, refresh)
    assert "catalog discard image" in standing.on_its_way(scene.ledger, refresh)
    assert retire(scene).discarded == ("one",)
    assert refreshes.at_work(scene.ledger, "image") is None


def test_a_refresh_that_was_rolled_back_before_its_load_had_ended_is_ended(scene: Scene) -> None:
    for suffix in ("one", "two"):
        scene.promote(scene.stage(suffix, range(1, 7)))
    scene.rollback()
    assert [(each.suffix, each.state) for each in refreshes.of_model(scene.ledger, "image")] == [("two", "previous"), ("one", "live")]
    retire(scene)
    assert scene.ledger.execute("SELECT key, status FROM ledger.loads ORDER BY key").fetchall() == [("one", "ready"), ("two", "archived")]


def test_nothing_that_an_alias_leads_to_goes(scene: Scene) -> None:
    for suffix in ("one", "two", "three"):
        scene.promote(scene.stage(suffix, range(1, 7)))
    scene.engine.aliases["another"] = {"image-one"}
    assert retire(scene).indexes == ("image-one-filtered",)


def test_a_refresh_at_work_and_a_young_failure_stay(scene: Scene) -> None:
    scene.stage("one", range(1, 7))
    assert retire(scene) == Retired()
    fail(scene, "one")
    assert retire(scene) == Retired()
    scene.places = replace(scene.places, settings=scene.places.settings.model_copy(update={"catalog_keep_failed_days": 0}))
    assert retire(scene) == Retired(("catalog_next.image",), ("image-one", "image-one-filtered"), ("one",))
    assert scene.ids() == list(range(1, 6))
    assert refreshes.get(scene.ledger, "image", "one").state == "discarded"


def test_a_refresh_is_given_up_with_all_that_it_made(scene: Scene) -> None:
    refresh = scene.stage("one", range(1, 7))
    sync_datasets(scene.ledger, "catalog", ["image_index"])
    add_range(scene, "one")
    retirement.discard(scene.places, scene.engine, scene.ledger, refresh)
    assert scene.one("SELECT to_regclass('catalog_next.image')") is None
    assert sorted(scene.engine.documents) == ["image-old", "image-old-filtered"]
    assert scene.ledger.execute("SELECT DISTINCT status FROM ledger.loads").fetchall() == [("archived",)]
    assert refreshes.at_work(scene.ledger, "image") is None
    retirement.discard(scene.places, scene.engine, scene.ledger, refresh)


def test_what_somebody_works_on_or_readers_have_is_not_given_up(scene: Scene) -> None:
    refresh = scene.stage("one", range(1, 7))
    with refreshes.held(scene.places.ledger, scene.ledger, refresh, "run", Limits()), pytest.raises(Busy):
        retirement.discard(scene.places, scene.engine, scene.ledger, refresh)
    assert scene.ids("catalog_next.image") == list(range(1, 7))
    scene.promote(refresh)
    with pytest.raises(Refused, match="not_at_work"):
        retirement.discard(scene.places, scene.engine, scene.ledger, refresh)


def test_tables_and_indexes_of_others_stay(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    scene.do("CREATE TABLE catalog_next.image (id int)")
    scene.engine.put("image-theirs", {})
    assert retire(scene) == Retired()

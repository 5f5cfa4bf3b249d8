"""Retirement: old generations and what failed refreshes left go; what readers have, or a rollback needs, never does."""

from dataclasses import replace

import pytest

from ingestion_dagster.catalog import refreshes, retirement
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.retirement import Retired
from ingestion_dagster.engine import ledger as engine_ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, Scene


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger, rich=False)


def retire(scene: Scene) -> Retired:
    return retirement.retire(scene.places, scene.engine, scene.ledger, IMAGE, "run")


def fail(scene: Scene, suffix: str) -> None:
    refresh = refreshes.get(scene.ledger, "image", suffix)
    with refreshes.held(scene.places.ledger, scene.ledger, refresh, "run", Limits()) as load:
        refreshes.refuse(scene.ledger, load, (Problem("count_fell", "image", "look upstream"),), Limits(), "run")


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
    engine_ledger.sync_datasets(scene.ledger, "catalog", ["image_index"])
    now = engine_ledger.now(scene.ledger)
    seen = StoredObject(key="one/1-6", size=0, modified=now, version="one")
    engine_ledger.discover(scene.ledger, "catalog", "catalog:image_index", [engine_ledger.Arrival(seen, "image_index", "one")], now)
    scene.ledger.execute(
        "INSERT INTO catalog.ranges (load_id, model, suffix, first_id, last_id) SELECT id, 'image', 'one', 1, 6 FROM ledger.loads "
        "WHERE landing_zone = 'catalog:image_index'"
    )
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

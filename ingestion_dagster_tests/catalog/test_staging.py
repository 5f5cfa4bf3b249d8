"""Staged tables have every index and constraint of the live ones, under the same names, or it is said what is missing."""

import pytest

from ingestion_dagster.catalog import staging
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, LONG, Scene


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger)


def build(scene: Scene, refresh: Refresh) -> dict[str, bool]:
    built = staging.build(scene.places, IMAGE, refresh, "run", lambda _done, _of: None)
    return {one.name: one.is_new for one in built}


def differences(scene: Scene) -> tuple[Problem, ...]:
    with scene.places.api.connect() as api:
        return staging.differences(api, IMAGE)


def test_all_indexes_and_constraints_are_there_under_their_names(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8), build=False)
    missing = {
        problem.place.partition(": ")[2] for problem in differences(scene) if problem.code in ("missing_index", "missing_constraint")
    }
    expected = {"image_provider_idx", "image_odd", "Mixed Case", LONG, "image_pkey", "image_identifier_key", "image_url_unique"}
    assert missing == expected | {"image_category_fkey"}
    assert expected <= build(scene, refresh).keys()
    assert differences(scene) == ()
    assert scene.one("SELECT reltuples FROM pg_class WHERE oid = 'catalog_next.image'::regclass") == 7
    assert len(LONG) == 63


def test_what_was_built_is_kept_and_what_is_not_the_same_is_built_again(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    oid = scene.one("SELECT 'catalog_next.image_odd'::regclass::oid")
    scene.do(
        "DROP INDEX catalog_next.image_provider_idx; CREATE INDEX image_provider_idx ON catalog_next.image (provider, id); "
        "ALTER TABLE catalog_next.image DROP CONSTRAINT image_url_unique; "
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'catalog_next.\"Mixed Case\"'::regclass"
    )
    assert {problem.place for problem in differences(scene)} == {
        "catalog_next.image: image_provider_idx",
        "catalog_next.image: image_url_unique",
        "catalog_next.image: Mixed Case",
    }
    built = build(scene, refresh)
    assert {name for name, is_new in built.items() if is_new} == {"image_provider_idx", "image_url_unique", "Mixed Case"}
    assert differences(scene) == ()
    assert scene.one("SELECT 'catalog_next.image_odd'::regclass::oid") == oid


def test_rows_that_a_constraint_does_not_take_are_refused_without_a_value(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8), build=False)
    scene.do("UPDATE catalog_next.image SET url = 'https://example.org/secret'")
    with pytest.raises(Refused) as refused:
        build(scene, refresh)
    assert "secret" not in repr(refused.value.problems) + str(refused.value.__cause__)
    assert scene.ids() == [1, 2, 3, 4, 5]


def test_another_refresh_s_copy_or_a_half_one_is_not_built_on(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8), build=False)
    scene.do("""COMMENT ON TABLE catalog_next.image IS '{"refresh": "new", "state": "copying"}'""")
    with pytest.raises(Refused, match="not_staged"):
        build(scene, refresh)


def test_triggers_do_not_fire_before_readers_have_the_table(scene: Scene) -> None:
    scene.stage("new", range(1, 8))
    scene.do("UPDATE catalog_next.image SET title = 'shout' WHERE id = 1")
    assert scene.one("SELECT title FROM catalog_next.image WHERE id = 1") == "shout"

"""Rollback: what readers had before comes back, whole, and so does what was taken from others for its sake."""

import pytest

from ingestion_dagster.catalog import refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import Scene, number


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger)


def states(scene: Scene) -> dict[str, str]:
    return {refresh.suffix: refresh.state for refresh in refreshes.of_model(scene.ledger, "image")}


def test_nothing_to_roll_back_is_refused(scene: Scene) -> None:
    with pytest.raises(Refused, match="no_previous"):
        scene.rollback()


def test_the_first_promotion_can_be_rolled_back_and_that_too(scene: Scene) -> None:
    before = scene.shape(), scene.ids(), scene.behind(), sorted(scene.listed())
    scene.promote(scene.stage("new", range(2, 8)))
    after = scene.shape(), scene.ids(), scene.behind(), sorted(scene.listed())
    done = scene.rollback()
    assert (done.suffix, done.previous, done.restored) == (None, "new", 1)
    assert (scene.shape(), scene.ids(), scene.behind(), sorted(scene.listed())) == before
    assert states(scene) == {"new": "previous"}
    again = scene.rollback()
    assert (again.suffix, again.previous, again.archived) == ("new", None, 1)
    assert (scene.shape(), scene.ids(), scene.behind(), sorted(scene.listed())) == after
    assert states(scene) == {"new": "live"}


def test_the_generation_before_the_previous_one_makes_room_for_it(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    scene.promote(scene.stage("two", range(1, 8)))
    scene.promote(scene.stage("three", range(1, 9)))
    assert states(scene) == {"one": "retired", "two": "previous", "three": "live"}
    scene.rollback()
    assert (scene.ids(), scene.behind()) == (list(range(1, 8)), (("image-two",), ("image-two-filtered",)))
    assert states(scene) == {"one": "retired", "two": "live", "three": "previous"}
    scene.promote(scene.stage("four", range(1, 4)))
    assert states(scene) == {"one": "retired", "two": "previous", "three": "retired", "four": "live"}
    scene.rollback()
    assert scene.ids() == list(range(1, 8))


def test_a_refresh_at_work_is_not_touched(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    refresh = scene.stage("two", range(1, 8))
    scene.rollback()
    assert (scene.ids(), scene.ids("catalog_next.image")) == (list(range(1, 6)), list(range(1, 8)))
    scene.promote(refresh)
    assert states(scene) == {"one": "retired", "two": "live"}
    scene.rollback()
    assert scene.ids() == list(range(1, 6))


def test_an_index_that_is_gone_is_refused_before_anything(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    del scene.engine.documents["image-old"]
    with pytest.raises(Refused, match="no_such_index"):
        scene.rollback()
    assert scene.ids() == list(range(1, 7))


def test_a_failing_alias_call_leaves_the_new_generation(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    before = scene.shape(), scene.ids(), scene.behind()

    def fault(point: str, _arguments: object) -> None:
        if point == "switch.before":
            raise Transient("search_unavailable", "a test")

    scene.engine.fault = fault
    with pytest.raises(Transient):
        scene.rollback()
    assert (scene.shape(), scene.ids(), scene.behind()) == before
    scene.engine.fault = None
    scene.rollback()
    assert scene.ids() == list(range(1, 6))


def test_what_was_moderated_since_does_not_come_back(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    scene.do(f"INSERT INTO public.api_deletedimage VALUES ('{number(4)}'); DELETE FROM public.image WHERE id = 4")
    scene.do(f"INSERT INTO public.api_matureimage VALUES ('{number(3)}')")
    done = scene.rollback()
    assert scene.ids() == [1, 2, 3, 5]
    assert (done.deleted, done.mature) == (1, 1)
    assert 4 not in scene.engine.sources("image")
    assert scene.engine.sources("image")[3]["mature"] is True
    assert scene.engine.sources("image-filtered")[3]["mature"] is True


def test_rows_come_back_with_their_partner_at_whatever_swap_brings_it(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(2, 8)))
    assert [row[0] for row in scene.listed()] == [2, 5]
    done = scene.promote(scene.stage("two", range(1, 8)))
    assert (done.restored, sorted(row[0] for row in scene.listed())) == (1, [1, 2, 5])
    assert scene.one("SELECT count(*) FROM catalog_previous.archived_rows") == 0


def test_a_generation_is_known_though_somebody_has_written_over_its_comment(scene: Scene) -> None:
    scene.promote(scene.stage("one", range(1, 7)))
    scene.promote(scene.stage("two", range(1, 8)))
    scene.do("COMMENT ON TABLE catalog_previous.image IS 'by hand'; COMMENT ON TABLE public.image IS 'by a migration'")
    done = scene.rollback()
    assert (done.suffix, done.previous, scene.ids()) == ("one", "two", list(range(1, 7)))
    assert states(scene) == {"one": "live", "two": "previous"}
    scene.rollback()
    assert states(scene) == {"one": "previous", "two": "live"}

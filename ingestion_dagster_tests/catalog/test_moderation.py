"""Moderation during a refresh: what was deleted or flagged meanwhile does not come back with the new generation."""

from typing import Any

import pytest

from ingestion_dagster.catalog import moderation, staging
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, Scene, number


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger, rich=False)


def test_rows_moderated_during_the_refresh_are_gone_from_table_and_indexes(scene: Scene) -> None:
    scene.do(f"INSERT INTO public.api_matureimage VALUES ('{number(2)}'), ('{number(3)}')")
    refresh = scene.stage("new", range(1, 8))
    for one in (2, 3):
        scene.engine.update_documents("image-new", [one], {"mature": True})
    scene.do(f"INSERT INTO public.api_deletedimage VALUES ('{number(6)}')")
    scene.do(f"DELETE FROM public.api_matureimage WHERE identifier = '{number(2)}'")
    scene.do(f"INSERT INTO public.api_matureimage VALUES ('{number(1)}')")
    done = scene.promote(refresh)
    assert scene.ids() == [1, 2, 3, 4, 5, 7]
    found = scene.engine.sources("image")
    assert sorted(found) == [1, 2, 3, 4, 5, 7]
    assert [one for one, document in found.items() if document["mature"]] == [1, 3]
    assert (done.deleted, done.mature >= 1, done.no_longer_mature >= 1) == (1, True, True)


def test_moderation_between_the_last_look_and_the_lock_does_not_slip_through(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    moderated: list[int] = []

    def fault(point: str, _arguments: Any) -> None:
        # The last call before the tables are locked; then again in the pass that follows.
        if point == "update_documents.after" and len(moderated) < 2:
            moderated.append(6 + len(moderated))
            scene.do(f"INSERT INTO public.api_deletedimage VALUES ('{number(moderated[-1])}')")

    scene.do(f"INSERT INTO public.api_matureimage VALUES ('{number(1)}')")
    scene.engine.fault = fault
    scene.promote(refresh)
    assert moderated == [6, 7]
    assert scene.ids() == [1, 2, 3, 4, 5]
    assert sorted(scene.engine.sources("image")) == [1, 2, 3, 4, 5]


def test_moderation_between_the_swap_and_the_alias_does_not_slip_through(scene: Scene) -> None:
    """The API deletes the row, which is the new one, and the document behind the alias, which is still the old one."""
    refresh = scene.stage("new", range(1, 8))

    def fault(point: str, _arguments: Any) -> None:
        if point == "switch.before":
            scene.do(f"INSERT INTO public.api_deletedimage VALUES ('{number(4)}'); DELETE FROM public.image WHERE id = 4")
            scene.do(f"INSERT INTO public.api_matureimage VALUES ('{number(3)}')")

    scene.engine.fault = fault
    scene.promote(refresh)
    assert sorted(scene.engine.sources("image")) == [1, 2, 3, 5, 6, 7]
    assert sorted(scene.engine.sources("image-filtered")) == [1, 2, 3, 5, 6, 7]
    assert scene.engine.sources("image")[3]["mature"] is True


def test_a_flag_set_and_taken_back_between_two_passes_is_taken_back_in_the_index(scene: Scene) -> None:
    scene.stage("new", range(1, 8))
    indexes = ("image-new", "image-new-filtered")
    with staging.plain_names(scene.places) as api:
        scene.do(f"INSERT INTO public.api_matureimage VALUES ('{number(5)}')")
        assert moderation.reapply(api, scene.engine, IMAGE, "catalog_next", "new", indexes).mature == 1
        scene.do("DELETE FROM public.api_matureimage")
        assert moderation.reapply(api, scene.engine, IMAGE, "catalog_next", "new", indexes).no_longer_mature == 1
    assert scene.engine.sources("image-new")[5]["mature"] is False


def test_what_is_mature_of_itself_stays_so(scene: Scene) -> None:
    scene.do(f"INSERT INTO public.api_matureimage VALUES ('{number(5)}')")
    scene.stage("new", range(1, 8))
    scene.do("""UPDATE catalog_next.image SET meta_data = '{"mature": true}' WHERE id = 5; DELETE FROM public.api_matureimage""")
    with staging.plain_names(scene.places) as api:
        moderation.reapply(api, scene.engine, IMAGE, "catalog_next", "new", ("image-new",))
    assert scene.engine.sources("image-new")[5]["mature"] is True


def test_what_was_deleted_while_a_swap_was_reverted_does_not_come_back(scene: Scene) -> None:
    """The API has deleted the row in the new table, which then goes; the old one has it still."""
    refresh = scene.stage("new", range(1, 8))

    def fault(point: str, _arguments: Any) -> None:
        if point == "switch.before":
            scene.do(
                "DELETE FROM public.imagelist_images WHERE image_id = 2; DELETE FROM public.image WHERE id = 2; "
                f"INSERT INTO public.api_deletedimage VALUES ('{number(2)}') ON CONFLICT DO NOTHING"
            )
            raise Transient("search_unavailable", "a test")

    scene.engine.fault = fault
    with pytest.raises(Transient):
        scene.promote(refresh)
    assert scene.ids() == [1, 3, 4, 5]
    assert (sorted(scene.engine.sources("image")), scene.behind()[0]) == ([1, 3, 4, 5], ("image-old",))
    scene.engine.fault = None
    scene.promote(refresh)
    assert scene.ids() == [1, 3, 4, 5, 6, 7]


def test_batches_without_a_row_are_passed_over_and_what_is_older_is_not_looked_at_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moderation, "BATCH", 2)
    scene.stage("new", range(5, 8))
    scene.do("INSERT INTO public.api_deletedimage VALUES " + ", ".join(f"('{number(one)}')" for one in (1, 2, 3, 4, 6)))
    with staging.plain_names(scene.places) as api:
        assert not moderation.is_outdated(api, IMAGE, "catalog_next", moderation.now(api))
        assert moderation.is_outdated(api, IMAGE, "catalog_next")
        assert moderation.reapply(api, scene.engine, IMAGE, "catalog_next", "new", ("image-new",)).deleted == 1
        assert not moderation.is_outdated(api, IMAGE, "catalog_next")
    assert (scene.ids("catalog_next.image"), sorted(scene.engine.sources("image-new"))) == ([5, 7], [5, 7])


def test_what_moderation_has_deleted_is_looked_for_and_not_the_table_read(scene: Scene) -> None:
    """Most of what was deleted was never copied: whoever looks for a first match reads all rows."""
    scene.stage("new", range(1, 8))
    scene.do(
        "INSERT INTO catalog_next.image (id, identifier, url) SELECT n, gen_random_uuid(), n::text FROM generate_series(10, 30000) AS n"
    )
    scene.do("INSERT INTO public.api_deletedimage SELECT gen_random_uuid() FROM generate_series(1, 40)")
    scene.do("ANALYZE")
    with staging.plain_names(scene.places) as api:
        read = "SELECT sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid)) FROM pg_class WHERE oid = ANY(%s)"
        indexes = (
            "SELECT indexrelid FROM pg_index WHERE indrelid = 'catalog_next.image'::regclass UNION SELECT 'catalog_next.image'::regclass"
        )
        oids = [row[0] for row in api.execute(indexes)]
        with api.transaction():
            assert not moderation.is_outdated(api, IMAGE, "catalog_next")
            moderation.reapply(api, scene.engine, IMAGE, "catalog_next", "new", ())
            row = api.execute(read, [oids]).fetchone()
    assert row is not None
    assert row[0] < 1000

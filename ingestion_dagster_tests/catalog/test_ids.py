"""Ids: a row keeps the one it had, a new one gets one that nobody had, whatever came between."""

import uuid

import pytest

from ingestion_dagster.catalog import copy, ids, live_tables, refreshes
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster_tests.catalog.copy_scene import PAGE, CopyScene, databases, identifier, world

__all__ = ["databases", "world"]


def test_ids_outlive_refreshes_and_are_never_given_twice(world: CopyScene) -> None:
    world.fill(1, 20)
    world.copy(range_bytes=PAGE)
    first = world.ids()
    world.swap()
    world.change("DELETE FROM image WHERE foreign_identifier IN ('20', '5')")
    world.fill(21, 25)
    (copied,) = world.copy(range_bytes=PAGE)
    second = world.ids()
    assert (copied.kept_ids, copied.new_ids, copied.live_rows) == (18, 5, 20)
    assert all(second[key] == first[key] for key in second.keys() & first.keys())
    world.swap()
    world.fill(20, 20)
    world.fill(26, 30)
    (copied,) = world.copy(range_bytes=PAGE)
    third = world.ids()
    assert third[identifier(20)] == first[identifier(20)], "it is in the generation before, and has its id from there"
    assert all(third[key] == second[key] for key in second)
    world.swap()
    world.change("DELETE FROM image WHERE foreign_identifier::int > 25")
    world.copy()
    world.swap()
    world.copy()
    world.swap()
    world.fill(31, 35)
    world.copy()
    given = [set(ids.items()) for ids in (first, second, third, world.ids())]
    everything = set[tuple[uuid.UUID, int]]().union(*given)
    assert len({number for _, number in everything}) == len({key for key, _ in everything}), "one identity, one id"


def test_audio_sets_get_ids_and_times_and_keep_their_ids(world: CopyScene) -> None:
    world.fill(1, 6, "audio")
    world.change("UPDATE audio SET audio_set = jsonb_build_object('foreign_identifier', (foreign_identifier::int / 3)::text, 'title', 'x')")
    audio, sets = world.copy("audio")
    assert (audio.rows, sets.rows, sets.new_ids) == (6, 4, 4)
    rows = world.rows("SELECT id, foreign_identifier, provider, created_on FROM catalog_next.audioset")
    assert {row[3] for row in rows} == {sets.snapshot_at}
    with world.places.api.connect() as connection:
        connection.execute("INSERT INTO audioset SELECT * FROM catalog_next.audioset")
        connection.execute("UPDATE audioset SET id = id + 100")
    _, again = world.copy("audio")
    assert (again.kept_ids, again.new_ids) == (4, 0)
    moved = world.rows("SELECT id, foreign_identifier, provider FROM catalog_next.audioset")
    assert set(moved) == {(row[0] + 100, row[1], row[2]) for row in rows}


def test_a_new_attempt_of_a_copy_gives_the_ids_of_the_lost_one_again(world: CopyScene, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(1, 20)
    refresh = world.begin()
    with monkeypatch.context() as patched:
        patched.setattr(copy, "_label", lambda *_arguments: (_ for _ in ()).throw(Transient("unreachable", "away")))
        for _ in range(3):
            with pytest.raises(Transient):
                world.copy(refresh=refresh)
    world.copy(refresh=refresh)
    assert sorted(world.ids().values()) == list(range(1, 21))
    world.copy()
    assert sorted(world.ids().values()) == list(range(21, 41))
    with world.places.ledger.connect() as ledger:
        first = ids.reserve(ledger, "image", 5, 0)
        known = refreshes.at_work(ledger, "image")
        assert known is not None
    world.copy(refresh=known)
    assert min(world.ids().values()) == first + 5


def test_an_id_that_the_sequence_has_given_is_not_given_again(world: CopyScene) -> None:
    world.fill(1, 3)
    with world.places.api.connect() as api:
        live_tables.ensure(api, MEDIA_TYPES["image"])
        for number in range(7):
            insert = """
            INSERT INTO image (identifier, created_on, updated_on, license, removed_from_source, url)
            VALUES (gen_random_uuid(), now(), now(), 'by', false, %s)
            """
            api.execute(insert, [f"https://a.example/live/{number}"])
        api.execute("DELETE FROM image WHERE id > 5")
    world.copy()
    assert sorted(world.ids().values()) == [8, 9, 10]


def test_ids_that_the_column_cannot_hold_are_refused_by_name(world: CopyScene) -> None:
    world.fill(1, 10)
    with world.places.ledger.connect() as ledger:
        ledger.execute("INSERT INTO catalog.id_marks VALUES ('image', %s)", [2**31 - 5])
    with pytest.raises(Refused, match="ids_exhausted"):
        world.copy()

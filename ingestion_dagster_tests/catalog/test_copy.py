"""The copy: every row once, cleaned, as of one moment; whatever is odd about them."""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ingestion_dagster.catalog import copy, copy_range, host_probe, live_tables
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.catalog.copy_scene import PAGE, CopyScene, databases, identifier, world
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE
from ingestion_dagster_tests.catalog.test_documents import fast

__all__ = ["databases", "world"]


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_every_row_arrives_once_whatever_the_ranges(world: CopyScene, count: int) -> None:
    world.fill(1, count)
    world.change("DELETE FROM image WHERE foreign_identifier = '3'")
    world.change("VACUUM image")
    (copied,) = world.copy(range_bytes=PAGE)
    expected = count - (count > 2)
    assert (copied.rows, copied.upstream_rows, copied.new_ids, copied.kept_ids) == (expected, expected, expected, 0)
    assert len(world.ids()) == expected
    assert sorted(world.ids().values()) == list(range(1, expected + 1))
    assert sum(copied.by_provider.values()) == expected
    (label,) = world.rows("SELECT obj_description('catalog_next.image'::regclass)")
    assert json.loads(label[0]) == {"refresh": "image-0", "run": "run-1", "state": "copied"}


def test_values_pass_through_untouched(world: CopyScene) -> None:
    odd: dict[str, Any] = {"text": "ü € 𝄞 \u2028 \\ \" ' \t", "deep": [1, 0.10, 1e20, None, {"x": []}], "long": "y" * 100_000}
    genres = ["a,b", 'c"d', "é", "NULL"]
    statement = (
        "INSERT INTO audio (identifier, created_on, updated_on, license, removed_from_source, provider, title, url, meta_data, tags, "
        "genres, alt_files) VALUES (%s, '-infinity', 'infinity', 'by', true, %s, %s, %s, %s, %s, %s, %s)"
    )
    untouched = "not://cleaned.example"
    tags = [{"name": "cc0", "accuracy": 0.1}]
    world.change(statement, uuid.UUID(int=1), "jamendo", odd["text"], untouched, json.dumps(odd), json.dumps(tags), genres, "null")
    world.change(statement, uuid.UUID(int=2), None, None, None, None, None, None, None)
    copied, sets = world.copy("audio")
    assert (copied.rows, sets.rows, copied.cleaned) == (2, 0, 0)
    row, empty = world.rows(
        "SELECT provider, title, url, meta_data, tags, genres, alt_files::text FROM catalog_next.audio ORDER BY identifier"
    )
    assert row == ("jamendo", odd["text"], untouched, odd, tags, genres, "null")
    assert empty == (None,) * 7
    with world.upstream() as connection:
        theirs = connection.execute("SELECT meta_data::text, created_on::text FROM audio ORDER BY identifier").fetchall()
    assert world.rows("SELECT meta_data::text, created_on::text FROM catalog_next.audio ORDER BY identifier") == theirs


def test_rows_are_cleaned_on_the_way_and_what_was_changed_is_noted(world: CopyScene) -> None:
    world.fill(1, 300)
    world.change("UPDATE image SET url = 'www.flickr.com/it''s/' || foreign_identifier WHERE foreign_identifier::int % 100 = 0")
    world.change("UPDATE image SET creator_url = 'other.example:81' WHERE foreign_identifier = '7'")
    world.change("""UPDATE image SET tags = '[{"name": "cc0"}, {"name": "by", "accuracy": 1}]' WHERE foreign_identifier = '8'""")
    world.change("""UPDATE image SET tags = '[{"name": "cat"}, {"name": "x", "accuracy": "0.3"}]' WHERE foreign_identifier = '100'""")
    refresh = world.begin()
    for _ in range(2):
        (copied,) = world.copy(refresh=refresh, range_bytes=PAGE)
        assert copied.cleaned == 5
        assert copied.fixes == {"excluded_part_of_tag": 1, "excluded_tag": 1, "inaccurate_tag": 1, "scheme_http": 1, "scheme_https": 3}
        changed = dict(world.rows("SELECT foreign_identifier, url FROM catalog_next.image WHERE url LIKE '%flickr%'"))
        assert changed == {number: f"https://www.flickr.com/it's/{number}" for number in ("100", "200", "300")}
        tags = dict(world.rows("SELECT foreign_identifier, tags FROM catalog_next.image WHERE foreign_identifier IN ('8', '100', '9')"))
        assert tags == {"8": [], "100": [{"name": "cat"}], "9": [{"name": "cat", "accuracy": 0.95}]}
        assert world.rows("SELECT creator_url FROM catalog_next.image WHERE foreign_identifier = '7'") == [("http://other.example:81",)]
        with world.places.ledger.connect() as connection:
            fixes = connection.execute("SELECT field, old_value, new_value, rule FROM catalog.fixes WHERE identifier = %s", [identifier(7)])
            assert fixes.fetchall() == [("creator_url", "other.example:81", "http://other.example:81", "scheme_http")]
            assert connection.execute("SELECT count(*) FROM catalog.fixes").fetchone() == (7,)


def test_what_moderation_has_deleted_is_not_copied_and_mature_rows_are(world: CopyScene) -> None:
    world.fill(1, 10)
    with world.places.api.connect() as connection:
        live_tables.ensure(connection, MEDIA_TYPES["image"])
        connection.execute("INSERT INTO api_deletedimage (identifier) VALUES (%s), (%s)", [identifier(2), uuid.UUID(int=5)])
        connection.execute("INSERT INTO api_matureimage (identifier) VALUES (%s)", [identifier(3)])
    (copied,) = world.copy()
    assert (copied.rows, copied.upstream_rows, copied.deleted) == (9, 10, 1)
    assert identifier(2) not in world.ids()
    assert identifier(3) in world.ids()


def test_two_rows_of_one_identity_are_refused_before_anything_is_copied(world: CopyScene) -> None:
    world.fill(1, 3)
    world.change("ALTER TABLE image RENAME TO images")
    world.change("CREATE VIEW image AS SELECT * FROM images UNION ALL SELECT * FROM images WHERE foreign_identifier = '2'")
    with pytest.raises(Refused) as refused:
        world.copy()
    assert [problem.code for problem in refused.value.problems] == ["duplicate_identifier"]
    assert world.rows("SELECT to_regclass('catalog_next.image')") == [(None,)]


def test_a_view_is_copied_whole(world: CopyScene) -> None:
    world.fill(1, 30)
    world.change("ALTER TABLE image RENAME TO images")
    world.change("CREATE VIEW image AS SELECT * FROM images WHERE foreign_identifier <> '2'")
    (copied,) = world.copy(range_bytes=PAGE)
    assert copied.rows == 29


def test_a_limited_copy_is_a_stable_sample(world: CopyScene) -> None:
    world.fill(1, 50)
    world.places = replace(world.places, settings=world.places.settings.model_copy(update={"catalog_record_limit": 7}))
    (copied,) = world.copy(range_bytes=PAGE)
    first = set(world.ids())
    assert (copied.rows, len(first)) == (7, 7)
    world.change("UPDATE image SET title = 'moved'")
    world.copy()
    assert set(world.ids()) == first


def test_the_checksum_is_of_identities_and_changes_in_any_order(world: CopyScene) -> None:
    world.fill(1, 200)
    (first,) = world.copy(range_bytes=PAGE)
    world.change("UPDATE image SET title = 'x' WHERE foreign_identifier = '1'")
    (same,) = world.copy()
    world.change("UPDATE image SET updated_on = updated_on + interval '1 second' WHERE foreign_identifier = '1'")
    (other,) = world.copy()
    assert first.checksum == same.checksum != other.checksum
    assert (first.max_updated_on, first.by_provider) == (other.max_updated_on, {"met": 66, "flickr": 134})


def test_all_tables_are_of_one_moment(world: CopyScene, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(1, 6, "audio")
    original: Callable[..., int] = copy._prepare

    def prepare(*arguments: Any) -> int:
        world.fill(100 + arguments[2].table.name.count("set"), 100 + arguments[2].table.name.count("set"), "audio")
        world.change("UPDATE audio SET audio_set = jsonb_build_object('foreign_identifier', foreign_identifier)")
        return original(*arguments)

    monkeypatch.setattr(copy, "_prepare", prepare)
    audio, sets = world.copy("audio")
    assert (audio.rows, sets.rows) == (6, 0)


def test_what_the_copy_teaches_its_connection_no_other_connection_knows(database: Database, world: CopyScene) -> None:
    """Told to all of psycopg, it would take the place of how lists are written, in this process, for every pipeline."""
    world.fill(1, 3)
    world.copy("image")
    with database.connect() as connection:
        assert connection.execute("SELECT %b::text[]", [["a", "b"]]).fetchone() == (["a", "b"],)


@pytest.mark.parametrize("batch", [1, 2, 6, 7, 8])
@pytest.mark.parametrize("range_bytes", [PAGE, 4 * PAGE])
def test_the_copy_cleans_every_row_whatever_its_workers_ranges_and_batches(
    world: CopyScene, monkeypatch: pytest.MonkeyPatch, batch: int, range_bytes: int
) -> None:
    """Seven rows, a page each, over four workers."""
    monkeypatch.setattr(copy_range, "BATCH_ROWS", batch)
    world.places = replace(world.places, settings=world.places.settings.model_copy(update={"catalog_copy_workers": 4}))
    world.change("ALTER TABLE image ALTER title SET STORAGE PLAIN")
    world.fill(1, 7)
    world.change("UPDATE image SET title = repeat('x', 5000), url = 'a.example/' || foreign_identifier, tags = '[{\"name\": \"cc0\"}]'")
    world.change("VACUUM FULL image")
    with world.upstream() as connection:
        assert connection.execute("SELECT pg_relation_size('image')").fetchone() == (7 * PAGE,)
    (copied,) = world.copy(range_bytes=range_bytes)
    assert (copied.rows, copied.cleaned, copied.fixes) == (7, 7, {"excluded_part_of_tag": 7, "scheme_http": 7})
    assert world.rows("SELECT url, tags FROM catalog_next.image ORDER BY 1") == [(f"http://a.example/{n}", []) for n in range(1, 8)]


def test_what_hosts_answer_decides_the_scheme_and_they_are_asked_in_the_first_copy_only(
    world: CopyScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def probe(names: Any, _seconds: float, **_more: Any) -> dict[str, tuple[bool, str]]:
        asked.extend(names)
        return {name: (name == "works.example", "status 200" if name == "works.example" else "status 500") for name in names}

    monkeypatch.setattr(host_probe, "probe", probe)
    world.places = replace(world.places, settings=world.places.settings.model_copy(update={"catalog_probe_seconds": 1}))
    world.fill(1, 3)
    world.change("UPDATE image SET creator_url = 'works.example' WHERE foreign_identifier = '1'")
    world.change("UPDATE image SET creator_url = 'fails.example' WHERE foreign_identifier = '2'")
    for _ in range(2):
        world.copy()
        found = dict(world.rows("SELECT foreign_identifier, creator_url FROM catalog_next.image"))
        assert found == {"1": "https://works.example", "2": "http://fails.example", "3": None}
    assert sorted(asked) == ["fails.example", "works.example"]


def test_a_row_of_nulls_is_copied_and_has_a_document(world: CopyScene) -> None:
    world.change(
        "INSERT INTO image (identifier, created_on, updated_on, license, removed_from_source) "
        "VALUES (gen_random_uuid(), '2024-01-01', '2024-01-01', 'by', false)"
    )
    (copied,) = world.copy()
    assert (copied.rows, copied.cleaned) == (1, 0)
    with world.places.api.connect() as api:
        api.execute("INSERT INTO public.image TABLE catalog_next.image")
        (document,) = fast(api, IMAGE).values()
    assert document is not None
    assert document.keys() == {"id", "identifier", "created_on", "license", "mature", "max_boost", "min_boost"}

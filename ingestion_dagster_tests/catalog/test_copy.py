"""The copy: every row once, under the id that it had, as of one moment; whatever fails, nothing that readers see has changed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import copy, copy_errors, copy_plan, ids, live_tables, refreshes, upstream_types
from ingestion_dagster.catalog.copy import Copied
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.tables import AUDIO, AUDIOSET, IMAGE
from ingestion_dagster.catalog.upstream_types import Column
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.conftest import made

PAGE = 8192

UPSTREAM = """
CREATE TABLE {name} (
    identifier uuid PRIMARY KEY, created_on timestamptz NOT NULL, updated_on timestamptz NOT NULL, ingestion_type varchar(80),
    provider varchar(80), source varchar(80), foreign_identifier varchar(3000), foreign_landing_url varchar(1000), url varchar(3000),
    thumbnail varchar(3000), filesize integer, license varchar(50) NOT NULL, license_version varchar(25), creator varchar(2000),
    creator_url varchar(2000), title varchar(5000), meta_data jsonb, tags jsonb, watermarked boolean, last_synced_with_source timestamptz,
    removed_from_source boolean NOT NULL, filetype varchar(5), category varchar(80), standardized_popularity double precision{more});
"""
SOUND = ", duration integer, bit_rate integer, sample_rate integer, genres varchar(80)[], audio_set jsonb, alt_files jsonb"
AUDIOSET_VIEW = """
CREATE VIEW audioset_view AS
SELECT DISTINCT (audio_set ->> 'foreign_identifier')::varchar(1000) AS foreign_identifier, (audio_set ->> 'title')::varchar(2000) AS title,
       (audio_set ->> 'url')::varchar(1000) AS url, (audio_set ->> 'filesize')::integer AS filesize, provider
FROM audio WHERE audio_set IS NOT NULL;
"""
INSERT = """
INSERT INTO {name} (
    identifier, created_on, updated_on, provider, foreign_identifier, url, license, removed_from_source, title, meta_data, tags)
SELECT md5(n::text)::uuid, '2024-01-01', '2024-01-02'::timestamptz + n * interval '1 second',
       CASE WHEN n % 3 = 0 THEN 'met' ELSE 'flickr' END, n::text,
       'https://a.example/' || n, 'by', false, 'Title ' || n, jsonb_build_object('n', n), '[{{"name": "cat", "accuracy": 0.950}}]'
FROM generate_series({first}, {last}) AS n
"""


def identifier(number: int) -> uuid.UUID:
    return uuid.UUID(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest())


class World:
    """An upstream with `image` and `audio`, an API database, and refreshes between them."""

    def __init__(self, places: Places) -> None:
        self.places = places
        with self.upstream() as connection:
            connection.execute(UPSTREAM.format(name="image", more=", width integer, height integer"))
            connection.execute(UPSTREAM.format(name="audio", more=SOUND))
            connection.execute(AUDIOSET_VIEW)

    @contextmanager
    def upstream(self) -> Iterator[Connection]:
        with self.places.upstream.connect() as connection:
            yield connection

    def fill(self, first: int, last: int, name: str = "image") -> None:
        with self.upstream() as connection:
            connection.execute(INSERT.format(name=name, first=first, last=last))

    def change(self, statement: str, *parameters: object) -> None:
        with self.upstream() as connection:
            connection.execute(statement, parameters or None)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.places.api.connect() as connection:
            return connection.execute(statement).fetchall()

    def begin(self, model: str = "image") -> Refresh:
        with self.places.ledger.connect() as connection:
            if known := refreshes.at_work(connection, model):
                refreshes.advance(connection, known, "discarded")
            count = len(refreshes.of_model(connection, model))
            return refreshes.request(connection, model, f"{model}-{count}", asked_by="test")

    def copy(self, model: str = "image", refresh: Refresh | None = None, **options: Any) -> list[Copied]:
        with self.places.ledger.connect() as connection:
            said: list[tuple[int, int]] = []
            media = MEDIA_TYPES[model]
            result = copy.copy_tables(
                self.places, connection, media, refresh or self.begin(model), "run-1", lambda *told: said.append(told), **options
            )
            assert said == sorted(said)
            assert said[-1][0] == sum(each.upstream_rows for each in result)
            return result

    def swap(self, name: str = "image") -> None:
        """As a promotion leaves it."""
        with self.places.api.connect() as connection:
            connection.execute(f"DROP TABLE IF EXISTS catalog_previous.{name}")
            connection.execute(f"ALTER TABLE public.{name} SET SCHEMA catalog_previous")
            connection.execute(f"ALTER TABLE catalog_next.{name} ADD PRIMARY KEY (id), ADD UNIQUE (identifier)")
            connection.execute(f"ALTER TABLE catalog_next.{name} SET SCHEMA public")

    def ids(self, schema: str = "catalog_next") -> dict[uuid.UUID, int]:
        rows = self.rows(f"SELECT identifier, id FROM {schema}.image")
        assert len({row[1] for row in rows}) == len(rows) == len({row[0] for row in rows})
        return dict(rows)


@pytest.fixture(scope="module")
def databases(server: EmbeddedServer) -> Iterator[tuple[Database, Database, Database]]:
    """A ledger's, an upstream and an API database for all tests of this module: dropping three for each test takes longer than the test."""
    with made(server, "ledger") as ledger, made(server, "upstream") as upstream, made(server, "api") as api:
        postgres.upgrade(ledger)
        yield ledger, upstream, api


@pytest.fixture
def world(databases: tuple[Database, Database, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The three of them, emptied."""
    ledger, upstream, api = databases
    for database in (upstream, api):
        with database.connect() as connection:
            connection.execute("DROP SCHEMA IF EXISTS public, catalog_next, catalog_previous CASCADE")
            connection.execute("CREATE SCHEMA public")
    with ledger.connect() as connection:
        connection.execute("TRUNCATE catalog.refreshes, catalog.fixes, catalog.hosts, catalog.id_marks, ledger.loads CASCADE")
    monkeypatch.setenv("INGESTION_HOME", str(tmp_path))
    monkeypatch.setenv("INGESTION_DATABASE_URL", ledger.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_UPSTREAM_URL", upstream.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_API_DATABASE_URL", api.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_PROBE_SECONDS", "0")
    monkeypatch.setenv("INGESTION_CATALOG_RECORD_LIMIT", "0")
    return World(Places(current(), ledger, upstream, api))


def test_a_new_attempt_of_a_copy_gives_the_ids_of_the_lost_one_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_ids_that_the_column_cannot_hold_are_refused_by_name(world: World) -> None:
    world.fill(1, 10)
    with world.places.ledger.connect() as ledger:
        ledger.execute("INSERT INTO catalog.id_marks VALUES ('image', %s)", [2**31 - 5])
    with pytest.raises(Refused, match="ids_exhausted"):
        world.copy()


def test_an_id_that_the_sequence_has_given_is_not_given_again(world: World) -> None:
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


def test_who_has_slept_past_its_lease_does_not_label_the_table_of_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(1, 20)
    refresh = world.begin()
    label = copy._label

    def begun_anew(*arguments: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(copy, "_copy", lambda *_arguments: (_ for _ in ()).throw(Transient("unreachable", "away")))
            with pytest.raises(Transient, match="away"):
                world.copy(refresh=refresh)
        label(*arguments)

    monkeypatch.setattr(copy, "_label", begun_anew)
    with pytest.raises(Transient, match="overtaken"):
        world.copy(refresh=refresh)
    ((said,),) = world.rows("SELECT obj_description('catalog_next.image'::regclass)")
    assert json.loads(said)["state"] == "copying"


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_every_row_arrives_once_whatever_the_ranges(world: World, count: int) -> None:
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


def test_values_pass_through_untouched(world: World) -> None:
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


def test_rows_are_cleaned_on_the_way_and_what_was_changed_is_noted(world: World) -> None:
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


def test_what_moderation_has_deleted_is_not_copied_and_mature_rows_are(world: World) -> None:
    world.fill(1, 10)
    with world.places.api.connect() as connection:
        live_tables.ensure(connection, MEDIA_TYPES["image"])
        connection.execute("INSERT INTO api_deletedimage (identifier) VALUES (%s), (%s)", [identifier(2), uuid.UUID(int=5)])
        connection.execute("INSERT INTO api_matureimage (identifier) VALUES (%s)", [identifier(3)])
    (copied,) = world.copy()
    assert (copied.rows, copied.upstream_rows, copied.deleted) == (9, 10, 1)
    assert identifier(2) not in world.ids()
    assert identifier(3) in world.ids()


def test_ids_outlive_refreshes_and_are_never_given_twice(world: World) -> None:
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


def test_audio_sets_get_ids_and_times_and_keep_their_ids(world: World) -> None:
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


def test_two_rows_of_one_identity_are_refused_before_anything_is_copied(world: World) -> None:
    world.fill(1, 3)
    world.change("ALTER TABLE image RENAME TO images")
    world.change("CREATE VIEW image AS SELECT * FROM images UNION ALL SELECT * FROM images WHERE foreign_identifier = '2'")
    with pytest.raises(Refused) as refused:
        world.copy()
    assert [problem.code for problem in refused.value.problems] == ["duplicate_identifier"]
    assert world.rows("SELECT to_regclass('catalog_next.image')") == [(None,)]


def test_a_view_is_copied_whole(world: World) -> None:
    world.fill(1, 30)
    world.change("ALTER TABLE image RENAME TO images")
    world.change("CREATE VIEW image AS SELECT * FROM images WHERE foreign_identifier <> '2'")
    (copied,) = world.copy(range_bytes=PAGE)
    assert copied.rows == 29


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER TABLE image ALTER created_on TYPE timestamp", ("type_mismatch", "image.created_on")),
        ("ALTER TABLE image ALTER filesize TYPE bigint", ("type_mismatch", "image.filesize")),
        ("ALTER TABLE image DROP COLUMN license", ("unfilled_column", "image.license")),
        ("ALTER TABLE image RENAME TO images", ("no_upstream_relation", "image")),
        ("ALTER TABLE image DROP COLUMN identifier", ("no_identity", "image.identifier")),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_copied(world: World, change: str, problem: tuple[str, str]) -> None:
    world.fill(1, 3)
    world.change(change)
    with pytest.raises(Refused) as refused:
        world.copy()
    assert [(found.code, found.place) for found in refused.value.problems] == [problem]
    assert world.rows("SELECT to_regclass('catalog_next.image')") == [(None,)]


def test_columns_of_one_side_only_and_wider_types_are_no_obstacle(world: World) -> None:
    world.change(
        "ALTER TABLE image ALTER filesize TYPE smallint, ALTER title TYPE text, ALTER meta_data TYPE json, ADD id text DEFAULT 'x'"
    )
    world.fill(1, 3)
    (copied,) = world.copy()
    assert copied.rows == 3
    assert world.rows("SELECT DISTINCT view_count, title LIKE 'Title _', meta_data ? 'n' FROM catalog_next.image") == [(0, True, True)]


@pytest.mark.parametrize(
    ("definition", "code"),
    [
        ("CREATE TABLE image (identifier uuid PRIMARY KEY, id integer)", "no_integer_id"),
        ("CREATE TABLE image (id text PRIMARY KEY, identifier uuid UNIQUE)", "no_integer_id"),
        ("CREATE TABLE image (id integer PRIMARY KEY, identifier uuid)", "no_unique_identity"),
        (
            "CREATE TABLE image (id integer PRIMARY KEY, identifier uuid UNIQUE); CREATE MATERIALIZED VIEW m AS TABLE image",
            "cannot_follow",
        ),
        ("CREATE TABLE image (id integer PRIMARY KEY, identifier uuid UNIQUE, x text NOT NULL)", "unfilled_column"),
    ],
)
def test_a_live_table_that_cannot_be_refreshed_is_named(world: World, definition: str, code: str) -> None:
    with world.upstream() as upstream, world.places.api.connect() as api:
        api.execute(definition)
        assert [problem.code for problem in copy.check_upstream(upstream, api, MEDIA_TYPES["image"])] == [code]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE image SET url = 'https://' || repeat('x', 1000) WHERE foreign_identifier = '2'", "value_too_long"),
        ("ALTER TABLE image ALTER license DROP NOT NULL; UPDATE image SET license = NULL WHERE foreign_identifier = '2'", "null_value"),
    ],
)
def test_values_that_the_api_does_not_take_are_refused_by_column(world: World, change: str, code: str) -> None:
    world.fill(1, 3)
    with world.upstream() as connection:
        for statement in change.split(";"):
            connection.execute(statement)
    with pytest.raises(Refused) as refused:
        world.copy()
    assert [problem.code for problem in refused.value.problems] == [code]
    assert "image" in refused.value.problems[0].place
    assert "xxxx" not in str(refused.value.problems)
    assert refused.value.__cause__ is None


COLUMNS = tuple(Column(name, "text", False, False, False) for name in ("identifier", "title"))


@pytest.mark.parametrize("table", [IMAGE, AUDIO, AUDIOSET])
@pytest.mark.parametrize("limit", [None, 5])
def test_a_limit_takes_the_same_rows_each_time_where_it_can(table: Any, limit: int | None) -> None:
    columns = COLUMNS if table is not AUDIOSET else COLUMNS[1:]
    statement = copy_plan.source(table, columns, {"identifier": "text", "title": "text"}, limit, datetime.now(UTC)).as_string()
    assert ("LIMIT 5" in statement) is (limit is not None)
    assert ("ORDER BY identifier" in statement) is (limit is not None and table is not AUDIOSET)


def test_a_limited_copy_is_a_stable_sample(world: World) -> None:
    world.fill(1, 50)
    world.places = replace(world.places, settings=world.places.settings.model_copy(update={"catalog_record_limit": 7}))
    (copied,) = world.copy(range_bytes=PAGE)
    first = set(world.ids())
    assert (copied.rows, len(first)) == (7, 7)
    world.change("UPDATE image SET title = 'moved'")
    world.copy()
    assert set(world.ids()) == first


def test_the_checksum_is_of_identities_and_changes_in_any_order(world: World) -> None:
    world.fill(1, 200)
    (first,) = world.copy(range_bytes=PAGE)
    world.change("UPDATE image SET title = 'x' WHERE foreign_identifier = '1'")
    (same,) = world.copy()
    world.change("UPDATE image SET updated_on = updated_on + interval '1 second' WHERE foreign_identifier = '1'")
    (other,) = world.copy()
    assert first.checksum == same.checksum != other.checksum
    assert (first.max_updated_on, first.by_provider) == (other.max_updated_on, {"met": 66, "flickr": 134})


def test_a_table_that_is_not_ours_is_not_dropped(world: World) -> None:
    world.fill(1, 3)
    with world.places.api.connect() as connection:
        live_tables.ensure(connection, MEDIA_TYPES["image"])
        connection.execute("CREATE TABLE catalog_next.image AS SELECT 1 AS precious")
    with pytest.raises(Refused) as refused:
        world.copy()
    assert refused.value.problems[0].code == "staged_table_not_ours"
    assert world.rows("SELECT precious FROM catalog_next.image") == [(1,)]


def test_the_table_of_a_refresh_that_is_live_is_not_dropped(world: World) -> None:
    world.fill(1, 3)
    refresh = world.begin()
    world.copy(refresh=refresh)
    with world.places.ledger.connect() as connection:
        refreshes.advance(connection, refresh, "live")
    with pytest.raises(Refused) as refused:
        world.copy()
    assert refused.value.problems[0].code == "staged_table_in_use"


def test_all_tables_are_of_one_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(1, 6, "audio")
    original: Callable[..., int] = copy._prepare

    def prepare(*arguments: Any) -> int:
        world.fill(100 + arguments[2].table.name.count("set"), 100 + arguments[2].table.name.count("set"), "audio")
        world.change("UPDATE audio SET audio_set = jsonb_build_object('foreign_identifier', foreign_identifier)")
        return original(*arguments)

    monkeypatch.setattr(copy, "_prepare", prepare)
    audio, sets = world.copy("audio")
    assert (audio.rows, sets.rows) == (6, 0)


def test_a_run_that_was_overtaken_writes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(1, 6)
    refresh = world.begin()
    original: Callable[..., int] = copy._prepare

    def prepare(*arguments: Any) -> int:
        mine = original(*arguments)
        monkeypatch.setattr(copy, "_prepare", original)
        world.copy(refresh=refresh)
        return mine

    monkeypatch.setattr(copy, "_prepare", prepare)
    with pytest.raises(Transient, match="overtaken"):
        world.copy(refresh=refresh)
    assert len(world.ids()) == 6


@pytest.mark.parametrize("side", ["upstream", "api"])
def test_a_lost_connection_can_be_tried_again(world: World, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(1, 2000)
    database = getattr(world.places, side)
    name = psycopg.conninfo.conninfo_to_dict(database.conninfo)["dbname"]

    def cut(point: str) -> None:
        if point == "catalog.copy.range.before":
            with psycopg.connect(world.places.ledger.conninfo, autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    refresh = world.begin()
    with monkeypatch.context() as patched:
        patched.setattr("ingestion_dagster.catalog.copy_range.fault_point", cut)
        with pytest.raises(Transient, match="connection_lost"):
            world.copy(refresh=refresh, range_bytes=PAGE)
    assert world.rows("SELECT count(*) FROM public.image") == [(0,)]
    (copied,) = world.copy(refresh=refresh)
    assert copied.rows == 2000


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("53100", Transient, "disk_full"),
        ("25006", Transient, "database_read_only"),
        ("57014", Transient, "query_cancelled"),
        ("57P01", Transient, "connection_lost"),
        ("40001", Transient, "database_conflict"),
        ("42501", ConfigurationError, "INGESTION_CATALOG_UPSTREAM_URL"),
        ("22P05", Refused, "unsupported_character"),
        ("0A000", Refused, "copy_failed"),
    ],
)
def test_errors_say_what_to_do_and_no_value(state: str, kind: type[Exception], code: str) -> None:
    error = psycopg.errors.lookup(state)("secret value")
    outcome = copy_errors.outcome(error, copy_errors.UPSTREAM, "image")
    assert isinstance(outcome, kind)
    assert code in str(outcome)
    assert "secret" not in str(outcome)


@pytest.mark.parametrize(
    ("upstream", "live", "fits"), [("smallint", "bigint", True), ("text[]", "character varying[]", True), ("bigint", "integer", False)]
)
def test_only_types_that_lose_nothing_fit(upstream: str, live: str, fits: bool) -> None:
    assert upstream_types.fits(upstream, live) is fits


KILLED = """
import sys
from ingestion_dagster.catalog import copy, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.settings import current
places = Places.of(current())
with places.ledger.connect() as ledger:
    refresh = refreshes.get(ledger, "image", sys.argv[1])
    copy.copy_tables(places, ledger, MEDIA_TYPES["image"], refresh, "run-1", lambda *_: None, range_bytes=8192)
"""


@pytest.mark.parametrize("point", ["prepare.after", "range.before:3", "range.after:3", "fixes.after", "done.before", "done.after"])
def test_a_copy_that_was_killed_begins_anew(world: World, point: str) -> None:
    world.fill(1, 200)
    world.change("UPDATE image SET url = 'x.example/' || foreign_identifier WHERE foreign_identifier::int % 10 = 0")
    refresh = world.begin()
    surroundings = os.environ | {"INGESTION_TEST_FAULT": f"catalog.copy.{point}"}
    ended = subprocess.run([sys.executable, "-c", KILLED, refresh.suffix], env=surroundings, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert world.rows("SELECT count(*) FROM public.image") == [(0,)]
    (copied,) = world.copy(refresh=refresh, range_bytes=PAGE)
    assert (copied.rows, copied.cleaned, len(world.ids())) == (200, 20, 200)
    with world.places.ledger.connect() as connection:
        assert connection.execute("SELECT count(*) FROM catalog.fixes").fetchone() == (20,)


def test_what_the_copy_teaches_its_connection_no_other_connection_knows(database: Database, world: World) -> None:
    """Told to all of psycopg, it would take the place of how lists are written, in this process, for every pipeline."""
    world.fill(1, 3)
    world.copy("image")
    with database.connect() as connection:
        assert connection.execute("SELECT %b::text[]", [["a", "b"]]).fetchone() == (["a", "b"],)

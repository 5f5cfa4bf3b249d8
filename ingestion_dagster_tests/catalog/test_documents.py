"""Documents: field by field what they must be, by both ways of making them."""

import json
import math
import uuid
from datetime import UTC
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row

from ingestion_dagster.catalog import documents, live_tables
from ingestion_dagster.catalog.documents import AUDIO, IMAGE
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES, MediaType
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.scenes import insert, live_table, row

DATA = Path(__file__).with_name("data")
ALL = {"first": -(2**63), "last": 2**63 - 1, "limit": 10_000}
DAGGERS = {
    "image": ("foreign_landing_url", "creator_url", "license_version", "thumbnail", "license_url", "meta_data"),
    "audio": ("license_url", "bit_rate", "sample_rate", "genres", "duration", "meta_data", "creator_url"),
}


def golden(model: str) -> list[dict[str, Any]]:
    return json.loads((DATA / f"golden_{model}.json").read_text(encoding="utf-8"))


def fast(connection: Connection, media: MediaType, fields: tuple[str, ...] = (), **query: Any) -> dict[int, dict[str, Any] | None]:
    """Documents by id, by SQL."""
    relation = sql.Identifier(LIVE, media.table.name)
    statement = media.documents.query(relation, deleted=media.table.deleted, mature=media.table.mature, fields=fields, **query)
    rows = connection.cursor(binary=True).execute(statement, ALL | {"ids": [1, 3]}).fetchall()
    return {number: orjson.loads(source) if source else None for number, source, _ in media.documents.documents(rows)}


def plain(connection: Connection, media: MediaType, fields: tuple[str, ...] = ()) -> dict[int, dict[str, Any] | None]:
    """Documents by id, by Python."""
    statement = media.documents.plain_rows(sql.Identifier(LIVE, media.table.name), deleted=media.table.deleted, mature=media.table.mature)
    rows = connection.cursor(row_factory=dict_row).execute(statement, {"ids": list(range(100))}).fetchall()
    return {each["id"]: documents.plain(media.documents, each, fields) for each in rows}


@pytest.fixture
def golden_table(places: Places, request: pytest.FixtureRequest) -> tuple[Places, MediaType]:
    media = MEDIA_TYPES[request.param]
    with places.api.connect() as api:
        live_tables.ensure(api, media)
        for case in golden(media.name):
            insert(api, (LIVE, media.table.name), [case["row"] | {"updated_on": "2023-01-01"}])
            if case["moderated"]:
                table = media.table.deleted if case["moderated"] == "deleted" else media.table.mature
                assert table is not None
                insert(api, (LIVE, table), [{"identifier": case["row"]["identifier"]}])
    return places, media


@pytest.mark.parametrize("golden_table", ["image", "audio"], indirect=True)
def test_documents_are_what_they_must_be_field_by_field(golden_table: tuple[Places, MediaType]) -> None:
    places, media = golden_table
    wanted = {case["row"]["id"]: case["document"] for case in golden(media.name)}
    assert len(wanted) == 20
    with places.api.connect() as api:
        assert fast(api, media) == wanted
        assert plain(api, media) == wanted
        assert fast(api, media, ids=True) == {number: wanted[number] for number in (1, 3)}
        columns = documents.columns_of(api, LIVE, media.table.name)
        assert fast(api, media, columns=columns) == wanted
        count = media.documents.expected(sql.Identifier(LIVE, media.table.name), deleted=media.table.deleted)
        assert api.execute(count).fetchone() == (sum(document is not None for document in wanted.values()),)


@pytest.mark.parametrize("golden_table", ["image", "audio"], indirect=True)
def test_fields_that_are_asked_for_come_besides(golden_table: tuple[Places, MediaType]) -> None:
    places, media = golden_table
    with places.api.connect() as api:
        made = fast(api, media, DAGGERS[media.name])
        assert made == plain(api, media, DAGGERS[media.name])
    first = made[1]
    assert first is not None
    assert first["license_url"] == "https://l.example/by"
    assert first["meta_data"]["views"] == "9"
    assert first["creator_url"] == "https://a.example/zoe"
    if media.name == "audio":
        assert (first["genres"], first["bit_rate"], first["duration"]) == (["rock", "folk"], 128000, 200000)
        assert "genres" not in (made[15] or {})
    assert "meta_data" not in (made[2] or {})


def test_a_field_that_documents_cannot_have_is_said_by_name() -> None:
    with pytest.raises(ConfigurationError, match="bit_rate"):
        IMAGE.query(sql.SQL("t"), deleted=None, mature=None, fields=("bit_rate",))
    with pytest.raises(ConfigurationError, match="nonsense"):
        AUDIO.plain({"id": 1}, ("nonsense",))


def test_a_column_that_the_table_lacks_counts_as_null(places: Places) -> None:
    media = MEDIA_TYPES["image"]
    with places.api.connect() as api:
        live_tables.ensure(api, media)
        insert(api, (LIVE, "image"), [row("image", 1, title="A title", standardized_popularity=0.5)])
        api.execute("ALTER TABLE image DROP COLUMN category, DROP COLUMN standardized_popularity, DROP COLUMN meta_data, DROP COLUMN tags")
        made = fast(api, media, columns=documents.columns_of(api, LIVE, "image"))[1]
        assert made == plain(api, media)[1]
        assert made is not None
        assert made["title"] == "A title"
        assert "standardized_popularity" not in made


def test_the_text_for_sensitive_terms_has_every_value_apart(places: Places) -> None:
    media = MEDIA_TYPES["image"]
    with places.api.connect() as api:
        live_tables.ensure(api, media)
        tags = [{"name": "one"}, {"name": "two"}]
        insert(api, (LIVE, "image"), [row("image", 1, title="T", meta_data={"description": "D"}, tags=tags), row("image", 2)])
        statement = IMAGE.query(sql.Identifier("image"), deleted=None, mature=None)
        rows = api.cursor(binary=True).execute(statement, ALL).fetchall()
    assert [text for _, _, text in IMAGE.documents(rows)] == ["T\0D\0one\0two", ""]


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**30), 10**30), st.sampled_from([0, -0.0, 150, 1e308])
)
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
scalars = st.one_of(
    st.none(), st.booleans(), numbers, texts, st.sampled_from(["1e2", " 7 ", "abc", "nan", "inf", "true", "false", "1e999"])
)
tag_lists = st.one_of(
    scalars,
    st.lists(st.one_of(scalars, st.fixed_dictionaries({}, optional={"name": scalars, "accuracy": scalars, "provider": texts})), max_size=4),
)
metas = st.one_of(
    scalars,
    st.lists(texts, max_size=2),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("mature", "description", "authority_boost", "license_url", "other"), scalars)),
)
rows_of_images = st.fixed_dictionaries(
    {
        "identifier": st.just(uuid.UUID(int=7)),
        "created_on": st.datetimes(timezones=st.just(UTC)),
        "provider": st.one_of(st.none(), texts, st.sampled_from(["flickr", "met", "stocksnap", "svgsilh"])),
        "source": st.one_of(st.none(), texts),
        "creator": st.one_of(st.none(), texts),
        "license": st.one_of(st.none(), st.sampled_from(["BY", "by-NC", "İ"])),
        "category": st.one_of(st.none(), texts),
        "title": st.one_of(st.none(), texts),
        "url": st.one_of(st.none(), st.text("ab./?#:Aİé", max_size=12)),
        "meta_data": metas,
        "tags": tag_lists,
        "removed_from_source": st.sampled_from([False, False, False, True]),
        "standardized_popularity": st.one_of(st.none(), st.floats(), st.floats(0, 1), st.just(1e-40)),
        "width": st.one_of(st.none(), st.integers(0, 2**31 - 1), st.sampled_from([640, 1600])),
        "height": st.one_of(st.none(), st.integers(0, 2**31 - 1), st.sampled_from([480, 900])),
    }
)
TYPES = {
    "identifier": "uuid", "created_on": "timestamptz", "meta_data": "jsonb", "tags": "jsonb", "removed_from_source": "boolean",
    "standardized_popularity": "float8", "width": "int", "height": "int",
}  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal, with no more than a float's last digits between numbers."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-12)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_both_ways_make_the_same_document_of_any_row(server: EmbeddedServer) -> None:
    with psycopg.connect(server.conninfo("postgres"), autocommit=True, options="-c timezone=UTC") as connection:
        columns = ", ".join(f"{name} {TYPES.get(name, 'text')}" for name in ("identifier", *COLUMNS))
        connection.execute(f"CREATE TEMP TABLE pictures (id int, {columns})".encode())
        relation = sql.Identifier("pg_temp", "pictures")
        fast_query = IMAGE.query(relation, deleted=None, mature=None, fields=("license_url", "meta_data"))
        plain_query = IMAGE.plain_rows(relation, deleted=None, mature=None)

        @settings(max_examples=40, deadline=None, database=None, derandomize=True)
        @given(st.lists(rows_of_images, min_size=1, max_size=8))
        def check(made: list[dict[str, Any]]) -> None:
            connection.execute("TRUNCATE pictures")
            insert(connection, ("pg_temp", "pictures"), [{"id": number, **each} for number, each in enumerate(made)])
            rows = connection.cursor(binary=True).execute(fast_query, ALL).fetchall()
            plain_rows = connection.cursor(row_factory=dict_row).execute(plain_query, {"ids": list(range(8))}).fetchall()
            wanted = [IMAGE.plain(each, ("license_url", "meta_data")) for each in plain_rows]
            found = [source and json.loads(source) for _, source, _ in IMAGE.documents(rows)]
            assert len(found) == len(wanted) == len(made)
            for one, other in zip(found, wanted, strict=True):
                assert same(one, other), (one, other)

        check()


COLUMNS = (
    "created_on", "provider", "source", "creator", "license", "category", "title", "url", "meta_data", "tags", "removed_from_source",
    "standardized_popularity", "width", "height", "foreign_landing_url", "creator_url", "license_version", "thumbnail",
)  # fmt: skip


IMAGES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"height": 600, "width": 300}, {"size": "small", "aspect_ratio": "tall"}),
    ({"height": 4096, "width": 4096}, {"size": "large", "aspect_ratio": "square"}),
    ({"height": 480, "width": 640}, {"size": "medium", "aspect_ratio": "wide"}),
    ({"height": 900, "width": 1600}, {"size": "large", "aspect_ratio": "wide"}),
    ({"height": 300, "width": 300}, {"aspect_ratio": "square"}),
    ({"height": 500, "width": 200}, {"aspect_ratio": "tall"}),
    ({"height": 200, "width": 500}, {"aspect_ratio": "wide"}),
    ({"standardized_popularity": 200}, {"standardized_popularity": 100}),
    ({"standardized_popularity": 0}, {"standardized_popularity": None}),
    ({"standardized_popularity": 0.5}, {"standardized_popularity": 50}),
    ({"meta_data": {"description": "x" * 2001}}, {"description": "x" * 2000}),
    ({"url": "https://a.example/b"}, {"extension": None}),
    ({"url": "https://a.example/b.jpg?c.d"}, {"extension": "jpg"}),
)


RECORDINGS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    *(
        ({"duration": milliseconds}, {"length": length})
        for milliseconds, length in ((29_999, "shortest"), (30_000, "short"), (119_999, "short"), (120_000, "medium"), (600_000, "long"))
    ),
    ({"filetype": "mp3"}, {"extension": "mp3"}),
    ({"filetype": "mp3", "alt_files": [{"filetype": "m4a"}]}, {"extension": ["m4a"]}),
)


@pytest.mark.parametrize(("model", "cases"), [("image", IMAGES), ("audio", RECORDINGS)])
def test_documents_at_the_bounds_of_their_classes(
    places: Places, model: str, cases: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
) -> None:
    media = MEDIA_TYPES[model]
    live_table(
        places, media, [row(model, number, **{"url": f"https://a.example/{number}"} | given) for number, (given, _) in enumerate(cases)]
    )
    with places.api.connect() as api:
        for made in (fast(api, media), plain(api, media)):
            found = [{name: (made[number] or {}).get(name) for name in wanted} for number, (_, wanted) in enumerate(cases)]
            assert found == [wanted for _, wanted in cases]

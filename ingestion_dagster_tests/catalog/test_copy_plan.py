"""What fits and what does not is said before the first row is copied."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ingestion_dagster.catalog import copy, copy_plan, upstream_types
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.tables import AUDIO, AUDIOSET, IMAGE
from ingestion_dagster.catalog.upstream_types import Column
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster_tests.catalog.copy_scene import CopyScene, databases, world

__all__ = ["databases", "world"]


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
def test_what_does_not_fit_is_named_before_anything_is_copied(world: CopyScene, change: str, problem: tuple[str, str]) -> None:
    world.fill(1, 3)
    world.change(change)
    with pytest.raises(Refused) as refused:
        world.copy()
    assert [(found.code, found.place) for found in refused.value.problems] == [problem]
    assert world.rows("SELECT to_regclass('catalog_next.image')") == [(None,)]


def test_columns_of_one_side_only_and_wider_types_are_no_obstacle(world: CopyScene) -> None:
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
def test_a_live_table_that_cannot_be_refreshed_is_named(world: CopyScene, definition: str, code: str) -> None:
    with world.upstream() as upstream, world.places.api.connect() as api:
        api.execute(definition)
        assert [problem.code for problem in copy.check_upstream(upstream, api, MEDIA_TYPES["image"])] == [code]


COLUMNS = tuple(Column(name, "text", False, False, False) for name in ("identifier", "title"))


@pytest.mark.parametrize("table", [IMAGE, AUDIO, AUDIOSET])
@pytest.mark.parametrize("limit", [None, 5])
def test_a_limit_takes_the_same_rows_each_time_where_it_can(table: Any, limit: int | None) -> None:
    columns = COLUMNS if table is not AUDIOSET else COLUMNS[1:]
    statement = copy_plan.source(table, columns, {"identifier": "text", "title": "text"}, limit, datetime.now(UTC)).as_string()
    assert ("LIMIT 5" in statement) is (limit is not None)
    assert ("ORDER BY identifier" in statement) is (limit is not None and table is not AUDIOSET)


@pytest.mark.parametrize(
    ("upstream", "live", "fits"), [("smallint", "bigint", True), ("text[]", "character varying[]", True), ("bigint", "integer", False)]
)
def test_only_types_that_lose_nothing_fit(upstream: str, live: str, fits: bool) -> None:
    assert upstream_types.fits(upstream, live) is fits

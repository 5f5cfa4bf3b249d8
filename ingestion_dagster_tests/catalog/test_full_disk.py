"""The disk of the API's database runs full under a refresh: the run ends and says so, readers notice nothing, the next run goes on."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import refreshes, retirement, steps
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster_tests.catalog import driver, pictures, worlds
from ingestion_dagster_tests.catalog.small_disk import Disk, small_disk
from ingestion_dagster_tests.catalog.worlds import World
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences

ROOM = 24 * 1024
"""Bytes for a first page or two, and not for all rows, nor for all indexes."""

Stage = tuple[World, Disk]


@pytest.fixture
def stage(server: EmbeddedServer, one: World, tmp_path: Path) -> Iterator[Stage]:
    """A world before its refresh, and the disk that its API database writes to."""
    with worlds.copied(server, one) as world, small_disk(server, tmp_path / "disk", world.places.api) as disk:
        yield world, disk


def label(world: World) -> str | None:
    """What the staged table says of itself; None if there is none."""
    ((said,),) = world.query(world.places.api, "SELECT obj_description(to_regclass('catalog_next.image'), 'pg_class')")
    return said


def fails_for_want_of_room(world: World) -> None:
    with pytest.raises(Transient) as failed:
        driver.refresh(world.settings)
    assert failed.value.code == "disk_full"


@pytest.mark.parametrize("done", [(), (steps.copy,)], ids=["copy", "indexes"])
def test_a_run_without_room_fails_unseen_by_readers_and_the_next_goes_on_once_there_is_some(
    done: tuple[Any, ...], stage: Stage, old: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    world, disk = stage
    if done:
        driver.refresh(world.settings, todo=done)
    disk.run_full(ROOM)
    for _ in range(2):
        fails_for_want_of_room(world)
        assert differences(pictures.picture(world), old) == []
        assert ('"copied"' in (label(world) or "")) is bool(done), "half a table that is taken for a whole one would be promoted"
    assert (label(world) is not None) == (disk.is_real or bool(done)), "it was to run full while rows came, not before"
    disk.make_room()
    world.finish()
    assert differences(pictures.left_behind(world), undisturbed) == []
    assert_history_is_legal(world.settings)


def test_a_refresh_that_is_given_up_leaves_nothing_on_the_full_disk(stage: Stage, old: dict[str, Any]) -> None:
    world, disk = stage
    before = disk.used()
    disk.run_full(ROOM)
    fails_for_want_of_room(world)
    assert (disk.used() > before) is disk.is_real
    with world.places.ledger.connect() as ledger, closing(world.places.search()) as engine:
        retirement.discard(world.places, engine, ledger, refreshes.get(ledger, "image", driver.SUFFIX))
        assert list(engine.indexes("image-third")) == []
    assert (label(world), disk.used()) == (None, before)
    assert world.query(world.places.api, "SELECT tablename FROM pg_tables WHERE schemaname = 'catalog_next'") == []
    assert differences(pictures.picture(world), old) == []
    disk.make_room()
    driver.refresh(world.settings, "fourth")
    assert pictures.generations(world) == ("third", "third", "third")

"""A copy that is killed, cut off, overtaken or in the way of others: it begins anew, and takes nothing from anybody."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import copy, live_tables, refreshes
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster_tests.catalog.copy_scene import PAGE, CopyScene, databases, world
from ingestion_dagster_tests.engine.processes import run_until_killed

__all__ = ["databases", "world"]


def test_who_has_slept_past_its_lease_does_not_label_the_table_of_another(world: CopyScene, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_run_that_was_overtaken_writes_nothing(world: CopyScene, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_table_that_is_not_ours_is_not_dropped(world: CopyScene) -> None:
    world.fill(1, 3)
    with world.places.api.connect() as connection:
        live_tables.ensure(connection, MEDIA_TYPES["image"])
        connection.execute("CREATE TABLE catalog_next.image AS SELECT 1 AS precious")
    with pytest.raises(Refused) as refused:
        world.copy()
    assert refused.value.problems[0].code == "staged_table_not_ours"
    assert world.rows("SELECT precious FROM catalog_next.image") == [(1,)]


def test_the_table_of_a_refresh_that_is_live_is_not_dropped(world: CopyScene) -> None:
    world.fill(1, 3)
    refresh = world.begin()
    world.copy(refresh=refresh)
    with world.places.ledger.connect() as connection:
        refreshes.advance(connection, refresh, "live")
    with pytest.raises(Refused) as refused:
        world.copy()
    assert refused.value.problems[0].code == "staged_table_in_use"


@pytest.mark.parametrize("side", ["upstream", "api"])
def test_a_lost_connection_can_be_tried_again(world: CopyScene, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_copy_that_was_killed_begins_anew(world: CopyScene, point: str) -> None:
    world.fill(1, 200)
    world.change("UPDATE image SET url = 'x.example/' || foreign_identifier WHERE foreign_identifier::int % 10 = 0")
    refresh = world.begin()
    run_until_killed(KILLED, f"catalog.copy.{point}", refresh.suffix)
    assert world.rows("SELECT count(*) FROM public.image") == [(0,)]
    (copied,) = world.copy(refresh=refresh, range_bytes=PAGE)
    assert (copied.rows, copied.cleaned, len(world.ids())) == (200, 20, 200)
    with world.places.ledger.connect() as connection:
        assert connection.execute("SELECT count(*) FROM catalog.fixes").fetchone() == (20,)

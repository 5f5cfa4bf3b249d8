"""Several processes at once on one media type, and one that sleeps past its lease: no reader notices, nothing is done twice or undone."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from ingestion_dagster.catalog import readers, refreshes, steps
from ingestion_dagster.catalog.search import Query
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster_tests.catalog import driver
from ingestion_dagster_tests.catalog.driver import World
from ingestion_dagster_tests.catalog.test_crashes import old, one, undisturbed
from ingestion_dagster_tests.metrics.driver import assert_history_is_legal, differences

__all__ = ["old", "one", "undisturbed"]

ASLEEP = [
    "catalog.copy.prepare.before:1",
    "catalog.copy.fixes.before:1",
    "catalog.copy.range.before:2",
    "catalog.copy.range.after:2",
    "catalog.copy.done.before:1",
    "catalog.copy.done.after:1",
    "catalog.stage.index.before:3",
    "catalog.stage.index.after:3",
    "catalog.fill.create.before:1",
    "catalog.fill.bulk.before:2",
    "catalog.fill.commit.before:2",
    "catalog.fill.settle.before:1",
]


@pytest.mark.parametrize("point", ASLEEP)
def test_a_run_that_wakes_up_after_its_lease_can_do_no_harm(
    point: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    """Its successor does all of the refresh meanwhile, while the sleeper holds what it held."""
    with driver.copied(server, one, lease_seconds=1) as world:
        sleeper = driver.start(world.settings, fault=f"{point}:SIGSTOP")
        try:
            sleeper.await_sleep()
            world.query(world.places.ledger, "SELECT pg_sleep_until(max(lease_until) + interval '10 ms') FROM ledger.loads")
            code, complaint = driver.start(world.settings.model_copy(update={"lease_seconds": 60})).end(40)
            assert code == 0, f"the run that takes over is held up by the sleeper: {complaint[-3000:]}"
            left = driver.left_behind(world)
            assert differences(left, undisturbed) == []
            sleeper.send(signal.SIGCONT)
            code, complaint = sleeper.end(30)
            assert code in {0, 1}, complaint
        finally:
            driver.kill_quietly(sleeper)
        assert differences(driver.left_behind(world), left) == []
        assert_history_is_legal(world.settings)


@pytest.mark.parametrize("point", ["catalog.copy.prepare.before:1", "catalog.copy.fixes.before:2", "catalog.copy.done.before:1"])
def test_a_copier_that_wakes_up_while_its_successor_copies_changes_nothing_of_it(
    point: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    """A label that says `copied` over half a table would let half a table be promoted, if the successor died then."""
    with driver.copied(server, one, lease_seconds=1) as world:
        sleeper = driver.start(world.settings, fault=f"{point}:SIGSTOP")
        successor = None
        try:
            sleeper.await_sleep()
            world.query(world.places.ledger, "SELECT pg_sleep_until(max(lease_until) + interval '10 ms') FROM ledger.loads")
            patient = world.settings.model_copy(update={"lease_seconds": 60})
            successor = driver.start(patient, fault="catalog.copy.range.after:2:SIGSTOP")
            successor.await_sleep()
            label, rows = half(world)
            assert '"copying"' in label
            sleeper.send(signal.SIGCONT)
            assert sleeper.end(30)[0] == 1
            assert half(world) == (label, rows)
            successor.send(signal.SIGCONT)
            code, complaint = successor.end(30)
            assert code == 0, complaint
        finally:
            for process in (sleeper, successor):
                if process:
                    driver.kill_quietly(process)
        assert differences(driver.left_behind(world), undisturbed) == []


def half(world: World) -> tuple[str, int]:
    """Label and rows of the staged table."""
    ((label,),) = world.query(world.places.api, "SELECT obj_description('catalog_next.image'::regclass, 'pg_class')")
    ((rows,),) = world.query(world.places.api, "SELECT count(*) FROM catalog_next.image")
    return str(label), int(rows)


@pytest.mark.parametrize("point", ["catalog.swap.journal.before", "catalog.swap.tables.after", "catalog.swap.alias.after"])
def test_whoever_promotes_is_left_alone_while_it_sleeps_and_ends_what_it_began(
    point: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    with driver.copied(server, one, lease_seconds=1) as world:
        sleeper = driver.start(world.settings, fault=f"{point}:1:SIGSTOP")
        try:
            sleeper.await_sleep()
            world.query(world.places.ledger, "SELECT pg_sleep_until(max(lease_until) + interval '10 ms') FROM ledger.loads")
            code, complaint = driver.start(world.settings).end(30)
            assert code == 1
            assert "Busy" in complaint
            sleeper.send(signal.SIGCONT)
            sleeper.end(30)
        finally:
            driver.kill_quietly(sleeper)
        world.let_leases_run_out()
        world.finish()
        assert differences(driver.left_behind(world), undisturbed) == []


def test_a_swap_that_falls_asleep_lets_readers_in_again(server: EmbeddedServer, one: World, undisturbed: dict[str, Any]) -> None:
    with driver.copied(server, one) as world:
        sleeper = driver.start(world.settings, fault="catalog.swap.tables.before:1:SIGSTOP")
        try:
            sleeper.await_sleep()
            with world.places.api.connect() as api:
                api.execute("SET lock_timeout = '20s'")
                assert driver.table_generation(api) == "second"
            sleeper.send(signal.SIGCONT)
            assert sleeper.end(30)[0] == 1
        finally:
            driver.kill_quietly(sleeper)
        assert world.generations() == ("second", "second", "second")
        world.finish()
        assert differences(driver.left_behind(world), undisturbed) == []

"""A process that dies anywhere on a refresh's way leaves readers what they had or the new, and nothing that the next run does not put right."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster_tests.catalog import driver, test_embedded_search, test_promotion_faults, test_updates
from ingestion_dagster_tests.catalog.driver import World
from ingestion_dagster_tests.metrics.driver import assert_history_is_legal, differences
from ingestion_dagster_tests.residents.test_crashes import fault_points

MIXED_AT = ("catalog.swap.tables.after", "catalog.swap.alias.before", "catalog.embedded_switch.before")
"""Where tables are new and aliases old until the next run, which completes or reverts that before all else."""


@dataclass(frozen=True)
class Case:
    """Where processes are killed, one after the other, each in what the one before it has left."""

    name: str
    faults: tuple[str, ...]
    recovers: bool = True
    """Whether what was broken off is put right before the next process begins; else that one is killed while it does so."""


def _around(stem: str, *passages: int) -> tuple[str, ...]:
    return tuple(f"catalog.{stem}.{when}:{passage}" for passage in passages or (1,) for when in ("before", "after"))


CASES = [
    Case("copy", (*_around("copy.prepare"), *_around("copy.fixes"), *_around("copy.range", 1, 2), *_around("copy.done"))),
    Case("late copy", ("transition.ready.ingesting.after", "catalog.copy.done.before", "catalog.copy.range.after:3")),
    Case("indexes", (*_around("stage.index"), "catalog.stage.index.after:5", "catalog.stage.index.before:9")),
    Case(
        "fill",
        (
            *("catalog.fill.create.before", *_around("embedded_create"), "catalog.fill.create.after:2"),
            *("catalog.fill.bulk.before", *_around("embedded_commit"), "catalog.fill.bulk.after", *_around("fill.commit")),
            *("catalog.fill.settle.before", "catalog.fill.commit.after", "catalog.fill.settle.after", "catalog.embedded_commit.after:3"),
        ),
    ),
    Case("reverted, then completed", (*_around("swap.journal"), "catalog.swap.tables.before", "catalog.swap.tables.after")),
    Case(
        "before the aliases", ("catalog.swap.alias.before", "catalog.swap.validate.before", "catalog.swap.validate.after"), recovers=False
    ),
    Case("at the aliases", ("catalog.embedded_switch.before", "catalog.embedded_switch.after", "catalog.swap.done.before"), recovers=False),
    Case(
        "behind the aliases",
        ("catalog.swap.alias.after", "catalog.swap.done.after", "transition.archiving.archived.before"),
        recovers=False,
    ),
    Case(
        "retirement",
        (
            *("catalog.retire.table.before", "catalog.retire.table.after", "catalog.retire.index.before"),
            *("catalog.embedded_delete.before", "catalog.embedded_delete.after", "catalog.retire.index.after"),
        ),
    ),
]


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[World]:
    """The world before the refresh."""
    with driver.prepared(server) as world:
        yield world


@pytest.fixture(scope="module")
def old(one: World) -> dict[str, Any]:
    """What readers see before it."""
    return driver.picture(one)


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, one: World) -> dict[str, Any]:
    """What is left behind when nobody dies."""
    with driver.copied(server, one) as world:
        driver.refresh(world.settings)
        return driver.left_behind(world)


def test_the_story_has_a_row_of_every_fate(old: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """Without these the comparisons below would compare little."""
    before, after = ({row[1]: row for row in found["rows"]} for found in (old, undisturbed))
    assert (len(before), len(after), len(before.keys() - after.keys()), len(after.keys() - before.keys())) == (30, 30, 2, 2)
    assert [row[0] for row in after.values()].count("new") == 2
    assert {row[2] for row in undisturbed["fixes"]} == {"url", "tags"}
    assert [row[1] for row in undisturbed["archived"]] == ["note 6", "note 9"]
    assert [row[1] for row in undisturbed["refreshes"]] == ["retired", "previous", "live"]
    assert [document[2] for document in undisturbed["image documents"]].count(True) == 1
    assert sorted(undisturbed["indexes"]) == ["image-second", "image-second-filtered", "image-third", "image-third-filtered"]
    assert undisturbed["tables"] == [f"catalog_previous.{name}" for name in ("archived_rows", "image", "pending_keys", "seen_flags")]
    assert any("catalog_reader" in str(row) for row in undisturbed["shape"])


def look(world: World, old: dict[str, Any], new: dict[str, Any], fault: str, *, recovers: bool) -> None:
    """Readers have the one or the other before anybody has put anything right, and the one or the other altogether afterwards."""
    names = old.keys()
    generations = [driver.halves({name: found[name] for name in names}) for found in (old, new)]
    seen = driver.halves(driver.picture(world))
    for half in (0, 1):
        assert any(seen[half] == each[half] for each in generations), driver_differences(seen[half], generations, half)
    assert seen in generations or fault in MIXED_AT, fault
    if not recovers:
        return
    world.recover()
    seen = driver.halves(driver.picture(world))
    assert seen in generations, fault


def driver_differences(seen: dict[str, Any], generations: Sequence[Any], half: int) -> list[str]:
    return min((differences(seen, each[half]) for each in generations), key=len)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(
    case: Case, server: EmbeddedServer, one: World, old: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    with driver.copied(server, one, max_attempts=100) as world:
        for fault in case.faults:
            driver.killed(world, fault)
            look(world, old, undisturbed, fault.partition(":")[0], recovers=case.recovers)
        world.finish()
        assert differences(driver.left_behind(world), undisturbed) == []
        assert_history_is_legal(world.settings)

"""A process that dies anywhere on a refresh's way leaves readers the old or the new, and nothing that the next run does not put right."""

import inspect
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster_tests.api import test_catalog_processes
from ingestion_dagster_tests.catalog import driver, pictures, slack_server, test_promotion_faults, worlds
from ingestion_dagster_tests.catalog.worlds import World
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences
from ingestion_dagster_tests.engine.processes import quick_folder
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
    Case("changes on the way", (*_around("carry.table"), *_around("carry.index"))),
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


def test_the_story_has_a_row_of_every_fate(old: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """Without these the comparisons below would compare little."""
    before, after = ({row[1]: row for row in found["rows"]} for found in (old, undisturbed))
    assert (len(before), len(after), len(before.keys() - after.keys()), len(after.keys() - before.keys())) == (29, 30, 1, 2)
    assert [row[0] for row in after.values()].count("new") == 2
    assert {row[2] for row in undisturbed["fixes"]} == {"url", "tags"}
    assert [row[1] for row in undisturbed["archived"]] == ["note 6"]
    assert [row[1] for row in undisturbed["refreshes"]] == ["retired", "previous", "live"]
    assert [document[2] for document in undisturbed["image documents"]].count(True) == 1
    assert sorted(undisturbed["indexes"]) == ["image-second", "image-second-filtered", "image-third", "image-third-filtered"]
    assert "catalog_previous.image" in undisturbed["tables"]
    assert [table for table in undisturbed["tables"] if not table.startswith("catalog_previous.")] == []
    assert any("catalog_reader" in str(row) for row in undisturbed["shape"])


def look(world: World, old: dict[str, Any], new: dict[str, Any], fault: str, *, recovers: bool) -> None:
    """Readers have the one or the other before anybody has put anything right, and the one or the other altogether afterwards."""
    names = old.keys()
    generations = [pictures.halves({name: found[name] for name in names}) for found in (old, new)]
    seen = pictures.halves(pictures.picture(world))
    for half in (0, 1):
        assert any(seen[half] == each[half] for each in generations), driver_differences(seen[half], generations, half)
    assert seen in generations or fault in MIXED_AT, fault
    if not recovers:
        return
    world.recover()
    seen = pictures.halves(pictures.picture(world))
    assert seen in generations, fault


def driver_differences(seen: dict[str, Any], generations: Sequence[Any], half: int) -> list[str]:
    return min((differences(seen, each[half]) for each in generations), key=len)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(
    case: Case, server: EmbeddedServer, one: World, old: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    with worlds.copied(server, one, max_attempts=100) as world:
        for fault in case.faults:
            worlds.killed(world, fault)
            look(world, old, undisturbed, fault.partition(":")[0], recovers=case.recovers)
        world.finish()
        assert differences(pictures.left_behind(world), undisturbed) == []
        assert_history_is_legal(world.settings)


LIVE_CASES = {
    "update": ("update.table", "update.index", "update.watermark"),
    "rebuild": ("filtered.alias",),
}
"""Changes of what is live, by the command that makes them, and where they are killed."""


@pytest.mark.parametrize("name", LIVE_CASES)
def test_a_change_of_what_is_live_that_was_killed_is_made_again(
    name: str, server: EmbeddedServer, one: World, undisturbed: dict[str, Any]
) -> None:
    with worlds.copied(server, one) as world, worlds.copied(server, one) as other:
        for each in (world, other):
            worlds.touch(each)
        for fault in (fault for stem in LIVE_CASES[name] for fault in _around(stem)):
            worlds.killed(world, fault, name)
        for each in (world, other):
            again(each, name)
        seen, expected = pictures.picture(world), pictures.picture(other)
        assert name != "update" or sum(row[2].endswith("third") for row in seen["rows"]) > 25
        if name == "rebuild":
            seen.pop("image-filtered")
            expected.pop("image-filtered")
        assert differences(seen, expected) == []
        for each in (world, other):
            each.finish()
        assert differences(pictures.picture(world), pictures.picture(other)) == []


def again(world: World, name: str) -> None:
    """Whoever asked for it asks again. The server may not have noticed yet that the connection which held the lock is gone."""
    deadline = time.monotonic() + 20
    while True:
        try:
            driver.COMMANDS[name](world.settings)
            return
        except Busy:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_message_that_was_broken_off_stops_no_refresh(server: EmbeddedServer, one: World, undisturbed: dict[str, Any]) -> None:
    with slack_server.slack_server() as chat, worlds.copied(server, one, slack_webhook_url=chat.webhook_url) as world:
        for fault in _around("message.post"):
            worlds.killed(world, fault)
        world.finish()
        assert differences(pictures.left_behind(world), undisturbed) == []
        assert 2 <= len(chat.messages) <= 4


ON_A_CLUSTER = [fault for stem in ("index_create", "bulk", "index_finish", "alias_switch", "index_delete") for fault in _around(stem)]
"""Where a refresh is killed that fills a real cluster."""


def test_after_crashes_a_cluster_holds_what_an_undisturbed_run_puts_there(
    server: EmbeddedServer, opensearch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of the test's own: other tests use the cluster too."""
    own = f"p{uuid.uuid4().hex[:8]}"
    with worlds.databases_of(server) as databases, quick_folder() as home:
        settings = worlds.settings_for(databases, home, catalog_search_url=opensearch, max_attempts=100, catalog_index_workers=1)
        world = World(settings)
        worlds.set_up(world, own, alias=own)
        for fault in ON_A_CLUSTER:
            worlds.killed(world, fault, f"refresh:{own}third:{own}")
            assert pictures.seen_titles(world, own) in ({"second"}, {"third"})
        driver.refresh(settings, f"{own}third", alias=own)
        assert pictures.seen_titles(world, own) == {"third"}
        with closing(world.places.search()) as engine:
            made = [f"image-{own}{suffix}{kind}" for suffix in ("second", "third") for kind in ("", "-filtered")]
            assert list(engine.indexes(f"image-{own}")) == made
            assert [engine.count(index) for index in made] == [29, 29, 30, 30]
        worlds.clean_cluster(world, own)


ELSEWHERE: dict[Callable[..., object], Sequence[str]] = {
    test_promotion_faults.test_a_killed_reversal_is_gone_on_with: ("catalog.swap.revert.before", "catalog.swap.revert.after"),
    test_catalog_processes.test_a_server_that_is_killed_keeps_a_task_or_knows_nothing_of_it: (
        "catalog.task.enter.before",
        "catalog.task.enter.after",
        "catalog.task.launch.before",
        "catalog.task.launch.after",
    ),
    test_catalog_processes.test_a_process_that_is_killed_at_its_end_leaves_one_end_and_one_callback_on_record: (
        "catalog.task.end.before",
        "catalog.task.end.after",
        "catalog.callback.before",
        "catalog.callback.after",
    ),
}
"""Where the other steps are killed, by the test that does it."""

CRASHES = sorted(
    {fault.partition(":")[0] for case in CASES for fault in case.faults}
    | {fault.partition(":")[0] for stems in LIVE_CASES.values() for stem in stems for fault in _around(stem)}
    | {fault.partition(":")[0] for fault in (*_around("message.post"), *ON_A_CLUSTER)}
)
"""The fault points at which this module kills."""


def test_no_fault_point_of_the_catalogue_is_without_a_crash() -> None:
    points = fault_points("catalog")
    assert len(points) > 50
    assert points - {*CRASHES, *(point for points in ELSEWHERE.values() for point in points)} == set()


def test_what_is_said_to_be_killed_elsewhere_is() -> None:
    for test, points in ELSEWHERE.items():
        source = inspect.getsource(sys.modules[test.__module__])
        assert [point for point in points if point not in source] == []

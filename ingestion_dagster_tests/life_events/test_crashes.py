"""A process that dies anywhere on a file's way leaves nothing that the next run does not put right: every event is there once."""

import inspect
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out, query
from ingestion_dagster_tests.life_events import driver, loading, stores, test_notify, test_publish, test_requests, test_sftp, test_upkeep
from ingestion_dagster_tests.life_events.loading import group, numbered, registration
from ingestion_dagster_tests.metrics.driver import copy_of_template
from ingestion_dagster_tests.residents.test_crashes import fault_points

one, installation = loading.one, loading.installation
dynamodb_server, aws_environment, dynamo = stores.dynamodb_server, stores.aws_environment, stores.dynamo


def land_backlog(settings: Settings) -> None:
    """Files of every fate; records that come again in their own file, chunks away, and in others."""
    driver.drop(settings, "a.xml", numbered(*range(1, 9)), 1)
    driver.drop(settings, "b.xml", numbered(7, 9, 10, 11, 9, 1, 12, dress="plain"), 2)
    driver.drop(settings, "c.xml", group(registration(13), registration(14, bad=True), registration(2), registration(15)), 3)
    driver.drop(settings, "d.xml", numbered(16, 17, 18, 19, count=5), 4)
    driver.drop(settings, "e.xml", numbered(*range(1, 9), dress="spread"), 5)
    driver.drop(settings, "f.xml", numbered(*range(20, 27))[:-30], 6)


@dataclass(frozen=True)
class Case:
    """Where processes are killed, one after the other, each in what the one before it has left."""

    faults: tuple[str, ...]

    @property
    def id(self) -> str:
        return " then ".join(self.faults)


def cases() -> Iterator[Case]:
    # Each process dies one chunk further than the one before it, or in another file.
    yield Case(("life_events.stage.before", "life_events.stage.after", "life_events.stage.before:3", "life_events.stage.after:5"))
    yield Case(("life_events.stage.within", "life_events.stage.within:2", "life_events.stage.within:6"))
    yield Case(("life_events.stage.after:3", "life_events.stage.within:7", "life_events.stage.before:4"))
    yield Case(("transition.ready.ingesting.before", "transition.ready.ingesting.after", "transition.ready.ingesting.after:3"))
    for when in ("before", "after"):
        yield Case((f"transition.ingesting.ready_for_archiving.{when}", f"transition.ingesting.ready_for_archiving.{when}:2"))
        yield Case((f"transition.ready_for_archiving.archiving.{when}", f"transition.archiving.ready_for_archiving.{when}"))
        yield Case((f"transition.archiving.archived.{when}:2", f"transition.archiving.archived.{when}:2"))
        yield Case((f"transition.ingesting.ready_for_erroring.{when}", f"transition.ready_for_erroring.erroring.{when}"))
        yield Case((f"transition.ready_for_erroring.erroring.{when}", f"transition.erroring.ready_for_erroring.{when}"))
        yield Case((f"transition.erroring.errored.{when}", f"transition.erroring.errored.{when}"))
        yield Case(("life_events.stage.after:2", f"transition.ingesting.ready.{when}"))
        yield Case((f"landing.report.{when}", f"landing.report.{when}:2"))
        yield Case((f"object_store.copy.{when}_write", f"object_store.copy.{when}_write:2"))
    # A file is loaded and deleted; what was refused is removed once it stands in quarantine.
    yield Case(("object_store.remove.aside", "object_store.remove.aside:3", "object_store.remove.aside"))
    yield Case(("object_store.remove.unlinked", "object_store.remove.unlinked:3", "object_store.remove.unlinked"))


CASES = [*cases()]
ON_DYNAMODB = ["life_events.stage.before:2", "life_events.stage.within", "life_events.stage.within:2", "life_events.stage.after:3"]

REKEYING = ["life_events.rekey.before", "life_events.rekey.after"]

CRASHES = sorted({fault.partition(":")[0] for case in CASES for fault in case.faults} | {*REKEYING})
"""The fault points at which a load, or a rekeying, is killed."""

ELSEWHERE: dict[Callable[..., object], Sequence[str]] = {
    test_publish.test_a_run_that_is_killed_leaves_what_the_next_one_puts_right: test_publish.KILLED,
    test_notify.test_a_run_that_is_killed_loses_no_document: ("life_events.notify.before", "life_events.notify.after"),
    test_sftp.test_a_pull_that_is_killed_lands_the_file_whole_or_not_at_all_and_leaves_nothing: (
        "life_events.pull.before",
        "life_events.pull.after",
    ),
    test_requests.test_a_release_that_was_killed_is_made_good_by_a_repeat: (
        test_requests.STORE_BEFORE,
        test_requests.STORE_AFTER,
        test_requests.COMMIT_BEFORE,
        test_requests.COMMIT_AFTER,
    ),
    test_upkeep.test_a_sweep_that_is_killed_is_finished_by_the_next: (
        "life_events.sweep.before",
        "life_events.sweep.within",
        "life_events.sweep.after",
    ),
    test_upkeep.test_an_expiry_that_is_killed_is_finished_by_the_next: (
        "life_events.expire.before",
        "life_events.expire.within",
        "life_events.expire.after",
    ),
}
"""Where the other steps of the pipeline are killed, by the test that does it."""

ON_THE_WAY = ("life_events/load.py", "engine/local_removal.py", "engine/object_store.py")


@pytest.mark.parametrize("place", ON_THE_WAY)
def test_no_fault_point_on_a_files_way_is_without_a_crash(place: str) -> None:
    points = fault_points(place)
    assert points
    assert points - set(CRASHES) == set()


def test_what_is_said_to_be_killed_elsewhere_is() -> None:
    for test, points in ELSEWHERE.items():
        source = inspect.getsource(sys.modules[test.__module__])
        for point in points:
            stem, _, when = point.partition(":")[0].rpartition(".")
            assert f"{stem}.{when}" in source or (f"{stem}.{{" in source and f'"{when}"' in source), point


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer) -> dict[str, Any]:
    """What is left behind when nobody dies."""
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "undisturbed_life_events"), home)
        land_backlog(settings)
        driver.finish(settings)
        return driver.left_behind(settings)


def test_the_backlog_has_a_file_and_a_record_of_every_fate(undisturbed: dict[str, Any]) -> None:
    """Without these the comparisons below would compare little."""
    fates = {row[0]: (row[1], row[2], *row[11:14]) for row in undisturbed["loads"]}
    assert fates == {
        "a.xml": ("archived", None, 8, 0, 0),
        "b.xml": ("archived", None, 4, 3, 0),
        "c.xml": ("archived", "missing_timestamp", 2, 1, 1),
        "d.xml": ("errored", "record_count_mismatch", 0, 0, 4),
        "e.xml": ("archived", None, 0, 8, 0),
        "f.xml": ("errored", "not_well_formed", 0, 0, 7),
    }
    assert len(undisturbed["records"]) == len(undisturbed["outbox"]) == 14
    assert Counter(row[0] for row in undisturbed["staged"]) == {"RECORD_STAGED": 14, "RECORD_REJECTED": 1}
    assert Counter(row[0] for row in undisturbed["files"]) == {"FILE_RECEIVED": 6, "FILE_DELETED": 4}
    assert undisturbed["incoming"] == []
    assert len(undisturbed["refused"]) == 5


def killed(settings: Settings, fault: str, command: str = "run") -> None:
    """Run a driver until it is killed there."""
    code, complaint = driver.start(settings, command, fault=fault).end()
    assert code == -signal.SIGKILL, f"was not killed at {fault}: {complaint}"
    let_leases_run_out(settings)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(case: Case, installation: Settings, undisturbed: dict[str, Any]) -> None:
    land_backlog(installation)
    for fault in case.faults:
        killed(installation, fault)
    driver.finish(installation)
    assert differences(driver.left_behind(installation), undisturbed) == []
    assert len(loading.everything_opened(installation)) == 14
    assert_history_is_legal(installation)


@pytest.mark.parametrize("fault", ON_DYNAMODB)
def test_after_a_crash_a_rerun_has_every_event_in_a_store_outside_the_database(
    fault: str, installation: Settings, undisturbed: dict[str, Any], dynamo: Any
) -> None:
    """What was put there before the transaction was lost is put there again, and nothing is there that nobody knows."""
    table = stores.new_table(dynamo)
    settings = installation.model_copy(update={"life_events_store_url": f"dynamodb://{table}"})
    land_backlog(settings)
    killed(settings, fault)
    driver.finish(settings)
    found, expected = driver.left_behind(settings), {**undisturbed}
    expected["records"] = [[*row[:-1], False] for row in expected["records"]]
    assert differences(found, expected) == []
    known = {row[0] for row in found["records"]}
    assert {item["hash"]["S"] for item in dynamo.scan(TableName=table)["Items"]} == known
    assert {content["hash"] for content in loading.everything_opened(settings).values()} == known


def test_a_file_that_kills_every_run_is_given_up_and_only_it_is_charged(installation: Settings) -> None:
    """Every process of this test dies when it has refused the poison, however often it is started."""
    driver.drop(installation, "a.xml", numbered(1, 2), 1)
    driver.drop(installation, "poison.xml", numbered(3, count=2), 2)
    driver.drop(installation, "z.xml", numbered(4), 3)
    for _ in range(1 + installation.max_attempts):
        killed(installation, "transition.ingesting.ready_for_erroring.before")
    driver.finish(installation)
    assert query(installation, "SELECT key, status, error_code, attempts FROM ledger.loads ORDER BY key") == [
        ("a.xml", "archived", None, 0),
        ("poison.xml", "errored", "crashed_repeatedly", installation.max_attempts),
        ("z.xml", "archived", None, 0),
    ]
    assert loading.states(installation) == {"pending": 3}


def test_a_rekeying_that_is_killed_goes_on_and_loses_no_event(installation: Settings) -> None:
    driver.drop(installation, "a.xml", numbered(*range(1, 9)))
    driver.run(installation)
    before = loading.everything_opened(installation)
    newer = f"e2:{'ab' * 32}"
    both = installation.model_copy(update={"life_events_encryption_keys": SecretStr(f"{newer},{driver.ENCRYPTION_KEYS}")})
    for fault in REKEYING:
        killed(both, fault, "rekey")
        assert loading.everything_opened(both) == before
    driver.rekey(both)
    assert loading.everything_opened(both.model_copy(update={"life_events_encryption_keys": SecretStr(newer)})) == before


def test_a_retry_that_is_killed_is_a_retry_or_none(installation: Settings) -> None:
    driver.drop(installation, "a.xml", numbered(1, 2))
    driver.run(installation.model_copy(update={"life_events_max_file_bytes": 10}))
    for fault in ("transition.errored.ready.before", "transition.errored.ready.after"):
        killed(installation, fault, "retry")
    killed(installation, "object_store.remove.unlinked")
    driver.finish(installation)
    assert loading.loads(installation) == [("a.xml", "archived", None, 2, 2, 0, 0)]
    assert [*driver.quarantine(installation).iterdir()] == []
    assert loading.states(installation) == {"pending": 2}

"""Several real processes over the same files and the same records: nothing lost, nothing doubled, nothing undone by one that wakes late."""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic.test_concurrency import held_at_the_start
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out, query
from ingestion_dagster_tests.life_events import driver, loading
from ingestion_dagster_tests.life_events.loading import numbered
from ingestion_dagster_tests.life_events.test_crashes import land_backlog
from ingestion_dagster_tests.metrics.driver import copy_of_template

one, installation = loading.one, loading.installation


def race(settings: Settings, database: Database, processes: int) -> list[tuple[int, str]]:
    """How so many runs end that have begun at the same moment."""
    driver.discover(settings)
    with held_at_the_start(database, processes):
        started = [driver.start(settings) for _ in range(processes)]
    return [process.end() for process in started]


def claimants(settings: Settings) -> int:
    return int(query(settings, "SELECT count(DISTINCT run_id) FROM ledger.load_events WHERE to_status = 'ingesting'")[0][0])


@pytest.fixture(scope="module")
def alone(server: EmbeddedServer) -> dict[str, Any]:
    """What a single run leaves behind of the backlog."""
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "life_events_alone"), home)
        land_backlog(settings)
        driver.finish(settings)
        return driver.left_behind(settings)


def whoever_was_first(left: dict[str, Any]) -> dict[str, Any]:
    """What is left behind, but for which of several files has brought a record that is in all of them."""
    records = [[row[0], row[1], *row[4:]] for row in left["records"]]
    files = [[row[0], row[1], row[3], row[11] + row[12], row[13]] if row[1] == "archived" else row for row in left["loads"]]
    return {**left, "records": records, "loads": files}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_over_one_backlog_lose_nothing_and_double_nothing(
    processes: int, installation: Settings, one: Database, alone: dict[str, Any]
) -> None:
    settings = installation.model_copy(update={"batch_files": 1})
    land_backlog(settings)
    ended = race(settings, one, processes)
    assert [code for code, _ in ended] == [0] * processes, "\n".join(said for _, said in ended)
    assert claimants(settings) == processes
    driver.finish(settings)
    assert differences(whoever_was_first(driver.left_behind(settings)), whoever_was_first(alone)) == []
    assert query(settings, "SELECT sum(accepted) FROM life_events.files") == [(14,)]
    assert_history_is_legal(settings)


def test_processes_over_one_file_are_one_and_some_that_go_home(installation: Settings, one: Database) -> None:
    driver.drop(installation, "a.xml", numbered(*range(1, 30)))
    ended = race(installation, one, 3)
    assert [code for code, _ in ended] == [0] * 3, "\n".join(said for _, said in ended)
    assert claimants(installation) == 1
    assert loading.loads(installation) == [("a.xml", "archived", None, 29, 29, 0, 0)]


def test_files_with_the_same_records_at_once_bring_each_record_once(installation: Settings, one: Database) -> None:
    """In opposite orders, so that whoever locked rows in the order of the file would wait for the other in a circle."""
    settings = installation.model_copy(update={"batch_files": 1})
    numbers = range(1, 400)
    driver.drop(settings, "a.xml", numbered(*numbers))
    driver.drop(settings, "b.xml", numbered(*reversed(numbers)))
    ended = race(settings, one, 2)
    assert [code for code, _ in ended] == [0] * 2, "\n".join(said for _, said in ended)
    assert claimants(settings) == 2
    assert loading.states(settings) == {"pending": len(numbers)}
    assert query(settings, "SELECT count(*) FROM ledger.outbox") == [(len(numbers),)]
    assert query(settings, "SELECT sum(accepted), sum(duplicates) FROM life_events.files") == [(len(numbers), len(numbers))]
    assert Counter(row[0] for row in driver.left_behind(settings)["staged"]) == {"RECORD_STAGED": len(numbers)}


# In the midst of a file of three chunks, and of one that is refused.
SLEEPING = [
    "transition.ready.ingesting.after",
    "life_events.stage.before",
    "life_events.stage.within",
    "life_events.stage.after",
    "life_events.stage.before:3",
    "life_events.stage.within:3",
    "transition.ingesting.ready_for_archiving.before",
    "transition.ingesting.ready_for_archiving.after",
    "transition.ready_for_archiving.archiving.before",
    "transition.archiving.archived.before",
    "transition.ingesting.ready_for_erroring.before",
    "object_store.copy.before_write",
    "landing.report.before",
    "transition.erroring.errored.before",
]


def land_few(settings: Settings) -> None:
    driver.drop(settings, "a.xml", numbered(*range(1, 9)), 1)
    driver.drop(settings, "b.xml", numbered(9, count=2), 2)


@pytest.fixture(scope="module")
def awake(server: EmbeddedServer) -> dict[str, Any]:
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "life_events_awake"), home)
        land_few(settings)
        driver.finish(settings)
        return driver.left_behind(settings)


@contextmanager
def asleep(settings: Settings, fault: str) -> Iterator[driver.Process]:
    """A run that has fallen asleep there, and whose leases and session have run out; it is gone in the end."""
    name, _, passage = fault.partition(":")
    sleeper = driver.start(settings, fault=f"{name}:{passage or 1}:SIGSTOP")
    try:
        sleeper.await_sleep()
        let_time_pass(settings)
        yield sleeper
    finally:
        sleeper.send(signal.SIGKILL)
        sleeper.end(10)


def let_time_pass(settings: Settings) -> None:
    """What a minute or two do: leases run out, and the database ends sessions that are idle in a transaction."""
    idle = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    query(settings, idle)
    processes.await_end_of_idle_transactions(Database.at(settings.database_url or ""), 10)
    let_leases_run_out(settings)


def wake(sleeper: driver.Process) -> None:
    sleeper.send(signal.SIGCONT)
    code, said = sleeper.end(30)
    assert code in {0, 1}, said
    assert "PLACEHOLDER" not in said


def history(settings: Settings) -> list[tuple[Any, ...]]:
    return query(settings, "SELECT load_id, from_status, to_status, run_id, why FROM ledger.load_events ORDER BY id")


@pytest.mark.parametrize("point", SLEEPING)
def test_a_run_that_wakes_up_after_its_lease_changes_nothing(point: str, installation: Settings, awake: dict[str, Any]) -> None:
    land_few(installation)
    with asleep(installation, point) as sleeper:
        driver.finish(installation, 20)
        left, told = driver.left_behind(installation), history(installation)
        assert differences(left, awake) == []
        wake(sleeper)
    assert differences(driver.left_behind(installation), left) == []
    assert history(installation) == told
    assert_history_is_legal(installation)


@pytest.mark.parametrize("point", ["life_events.stage.before:2", "life_events.stage.within:2"])
def test_a_run_that_wakes_up_when_its_file_has_been_given_up_stages_nothing_more(point: str, installation: Settings) -> None:
    path = driver.drop(installation, "a.xml", numbered(*range(1, 9)))
    with asleep(installation, point) as sleeper:
        path.unlink()
        driver.finish(installation, 20)
        assert loading.loads(installation) == [("a.xml", "errored", "object_missing", 3, 3, 0, 0)]
        wake(sleeper)
    assert loading.states(installation) == {"pending": 3}
    assert loading.loads(installation) == [("a.xml", "errored", "object_missing", 3, 3, 0, 0)]


def test_the_database_itself_ends_the_session_of_a_run_that_sleeps(installation: Settings, awake: dict[str, Any]) -> None:
    """What `let_time_pass` does at once, in the time that it takes."""
    settings = installation.model_copy(update={"lease_seconds": 1})
    land_few(settings)
    sleeper = driver.start(settings, fault="life_events.stage.within:2:SIGSTOP")
    try:
        sleeper.await_sleep()
        processes.await_end_of_idle_transactions(Database.at(settings.database_url or ""), 10)
        processes.await_leases(Database.at(settings.database_url or ""))
        assert driver.start(settings).end(30)[0] == 0
        assert differences(driver.left_behind(settings), awake) == []
        wake(sleeper)
    finally:
        sleeper.send(signal.SIGKILL)
    assert differences(driver.left_behind(settings), awake) == []

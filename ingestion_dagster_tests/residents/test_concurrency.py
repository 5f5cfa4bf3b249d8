"""Several real processes over files that share people and rows: nothing lost, nothing doubled, nothing undone by one that wakes late."""

import signal
import time
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
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, query
from ingestion_dagster_tests.metrics.driver import copy_of_template
from ingestion_dagster_tests.residents import driver
from ingestion_dagster_tests.residents.conftest import LETTER, SUPERMARKET, Somebody, as_csv
from ingestion_dagster_tests.residents.driver import Api
from ingestion_dagster_tests.residents.test_crashes import AWKWARD

PEOPLE = 18


def land_many(settings: Settings) -> None:
    """The same people in files of four datasets, of each dataset two files that have two thirds of their rows in common."""
    everybody = [Somebody(number) for number in range(1, PEOPLE + 1)]
    for part, people in enumerate((everybody[: PEOPLE * 5 // 6], everybody[PEOPLE // 6 :][::-1])):
        for dataset, more in {
            "nsss": {SUPERMARKET: AWKWARD},
            "spl": {},
            "contact_tracing": {"Comments": AWKWARD},
            "generic": {"Case Note 1": "first", "Case Note 3": AWKWARD},
        }.items():
            driver.drop(settings, dataset, f"{part}.csv", as_csv(dataset, [each.row(dataset, **more) for each in people]), part)
    others = [Somebody(number) for number in range(501, 501 + PEOPLE // 2)]
    for part in range(2):
        rows = [each.row("self_isolation", **{LETTER: "1", "Day 4 Outcome": AWKWARD}) for each in others]
        driver.drop(settings, "self_isolation", f"{part}.csv", as_csv("self_isolation", rows if part else rows[::-1]), part)


@pytest.fixture(scope="module")
def alone(server: EmbeddedServer, api_process: Api) -> dict[str, Any]:
    """What a single run leaves behind that nobody disturbs."""
    api_process.reset()
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "residents_alone"), home, api_process.url)
        land_many(settings)
        driver.run(settings)
        found = driver.left_behind(settings, api_process)
    kept = found["api"]
    requests = 4 * PEOPLE + 2 * (PEOPLE // 2)
    assert (len(kept["residents"]), len(kept["help_requests"]), len(kept["case_notes"])) == (PEOPLE * 3 // 2, requests, requests + PEOPLE)
    assert Counter(load[1] for load in found["loads"]) == {"archived": 10}
    return found


def race(settings: Settings, database: Database, processes: int) -> list[tuple[int, str]]:
    """How so many runs end that have begun at the same moment."""
    driver.discover(settings)
    with held_at_the_start(database, processes):
        started = [driver.start(settings) for _ in range(processes)]
    ended = [process.end() for process in started]
    claimants = query(settings, "SELECT count(DISTINCT run_id) FROM ledger.load_events WHERE to_status = 'ingesting'")
    assert claimants[0][0] == processes
    return ended


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_over_one_backlog_lose_nothing_and_double_nothing(
    processes: int, installation: Settings, one: Database, api: Api, alone: dict[str, Any]
) -> None:
    api.set(race_ms=5, latency_ms=3)
    land_many(installation)
    ended = race(installation, one, processes)
    assert [code for code, _ in ended] == [0] * processes, "\n".join(said for _, said in ended)
    driver.finish(installation)
    assert differences(driver.left_behind(installation, api), alone) == []
    assert_history_is_legal(installation)


def test_a_run_that_enters_rows_does_not_deadlock_one_that_sends_them(installation: Settings, api: Api) -> None:
    """Each holds rows of the ledger that the other wants; who loses fails, and has to be run again."""
    rows = [Somebody(number).row("nsss") for number in range(1, 600)]
    driver.drop(installation, "nsss", "a.csv", as_csv("nsss", rows))
    sends = driver.start(installation)
    for number in range(3):
        await_calls(api, 120 * (number + 1))
        driver.drop(installation, "nsss", f"{number}.csv", as_csv("nsss", rows))
        enters = driver.start(installation, fault="residents.enter.after")
        assert enters.end()[0] == -signal.SIGKILL
    code, said = sends.end()
    assert code == 0, said


def await_calls(api: Api, count: int) -> None:
    """Wait until so many create calls have been made."""
    deadline = time.monotonic() + 30
    while sum(api.calls().get("create", {}).values()) < count:
        assert time.monotonic() < deadline, "nobody sends"
        time.sleep(0.01)


SLEEPING = [
    "residents.enter.before",
    "residents.create.before",
    "residents.create.after:2",
    "residents.journal.before:2",
    "residents.journal.after:3",
    "residents.note.before",
    "residents.note.after:3",
    "residents.shielding.before",
    "residents.shielding.after",
    "residents.report.before",
    "drop_folder.put_answer.before",
    "transition.ingesting.ready_for_archiving.before",
]


def land_one(settings: Settings) -> None:
    a, b = Somebody(1), Somebody(2)
    rows = [
        a.row("self_isolation", **{LETTER: "1", "Day 4 Outcome": AWKWARD, "Comments": "x"}),
        b.row("self_isolation", **{LETTER: "1", "Day 7 Outcome": "spoke"}),
        a.row("self_isolation", **{LETTER: "1", "Day 4 Outcome": AWKWARD, "Comments": "y"}),
    ]
    driver.drop(settings, "self_isolation", "a.csv", as_csv("self_isolation", rows))


@pytest.fixture(scope="module")
def awake(server: EmbeddedServer, api_process: Api) -> dict[str, Any]:
    api_process.reset()
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "residents_awake"), home, api_process.url)
        land_one(settings)
        driver.finish(settings)
        return driver.left_behind(settings, api_process)


@contextmanager
def asleep(settings: Settings, fault: str) -> Iterator[driver.Process]:
    """A run that has fallen asleep there, and whose leases and locks have run out; it is gone in the end."""
    name, _, passage = fault.partition(":")
    sleeper = driver.start(settings, fault=f"{name}:{passage or 1}:SIGSTOP")
    try:
        sleeper.await_sleep()
        processes.await_leases(Database.at(settings.database_url or ""))
        driver.await_lost_sessions(settings, 1.5)
        processes.await_end_of_idle_transactions(Database.at(settings.database_url or ""))
        yield sleeper
    finally:
        sleeper.send(signal.SIGKILL)
        sleeper.end(10)


def wake(sleeper: driver.Process) -> str:
    sleeper.send(signal.SIGCONT)
    code, said = sleeper.end(30)
    assert code in {0, 1}, said
    return said


@pytest.mark.parametrize("point", SLEEPING)
def test_a_run_that_wakes_up_after_its_lease_changes_nothing(point: str, installation: Settings, api: Api, awake: dict[str, Any]) -> None:
    settings = installation.model_copy(update={"lease_seconds": 1})
    land_one(settings)
    with asleep(settings, point) as sleeper:
        code, said = driver.start(settings).end(30)
        assert code == 0, f"the run beside it is held up by the sleeper, or failed: {said}"
        left = driver.left_behind(settings, api)
        wake(sleeper)
    assert differences(left, awake) == []
    assert differences(driver.left_behind(settings, api), left) == []
    assert_history_is_legal(settings)


def test_a_run_that_has_lost_its_file_while_it_sent_ends_without_a_defect(installation: Settings) -> None:
    settings = installation.model_copy(update={"lease_seconds": 1})
    land_one(settings)
    with asleep(settings, "residents.create.before") as sleeper:
        assert driver.start(settings).end(30)[0] == 0
        said = wake(sleeper)
    assert "ClaimLost" not in said, said

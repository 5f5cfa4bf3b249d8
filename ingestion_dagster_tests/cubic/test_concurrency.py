"""Several real processes over one backlog of cubic files: nothing lost, nothing doubled, nothing overwritten by one that comes late."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic import driver
from ingestion_dagster_tests.cubic import test_crashes as crashes
from ingestion_dagster_tests.cubic.conftest import TAPS, csv, metadata
from ingestion_dagster_tests.cubic.test_crashes import (
    EVENTS,
    FARES,
    GATES,
    LOOSE,
    TYPES,
    changes,
    land,
    land_backlog,
    land_first,
    land_rest,
    records,
)
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.metrics.driver import copy_of_template

registry_file = crashes.registry_file
one = crashes.one

COUNT = 12
REISSUED = f"{FARES}/reissued.csv.gz"


def land_many(settings: Settings) -> None:
    """A dozen files of each of six tables, every sixth bad; data sets that are issued three times; batches that overlap."""
    for number in range(1, COUNT + 1):
        at = f"{number:02}"
        content = csv(f"{number},x,1.00", f"{number + 100},y,1.00")
        land(settings, f"{TAPS}/LOAD{number:08}.csv.gz", content[:-5] if number % 6 == 0 else content, f"06:00:{at}", metadata(TYPES, 2))
        land(settings, f"{TAPS}__ct/20260102-0700{at}000.csv.gz", changes(f"U,{number},z,2.00"), f"07:00:{at}")
        land(settings, f"{GATES}/LOAD{number:08}.csv.gz", csv(f"{number},x", header="GATE,NAME"), f"06:30:{at}")
        land(settings, f"cubic/dmap/kept/{number}.csv", b"whatever", f"06:40:{at}")
        land(settings, f"{FARES}/{number}.csv.gz", csv(f"2026-01-{at},{number}", header="day,count"), f"06:50:{at}")
    for number in range(6):
        land(settings, f"{EVENTS}/{number}.json.gz", records(*range(10 * number, 10 * number + 15)), f"08:00:{number:02}")


def land_issues(settings: Settings) -> None:
    """Each of these is entered before the next one takes its place: on a disk the two that are overwritten are superseded."""
    for issue in range(3):
        land(settings, REISSUED, csv(*[f"2026-01-0{day},{issue}" for day in range(1, issue + 2)], header="day,count"), f"0{issue}:00:00")
        driver.discover(settings)


@pytest.fixture
def settings(one: Database, registry_file: Path) -> Iterator[Settings]:
    """Small batches, so that processes meet often."""
    with driver.quick_folder() as home:
        yield driver.settings_for(driver.emptied(one), home, registry_file, cubic_batch_files=3)


def outcome(settings: Settings) -> dict[str, Any]:
    """What is left behind, but for which of two files has written a record, or named a column, that both hold: the one that came first."""
    found = driver.left_behind(settings)
    events = [load for load in found["loads"].values() if load["dataset"] == "events"]
    return {
        "fates": [(load["key"], load["number"], load["status"], load["error_code"], load["location"]) for load in found["loads"].values()],
        "records": sorted((row["partition"], row["offset"]) for row in table(settings, EVENTS)),
        "counted": (sum(load["rows_in"] for load in events), sum(load["rows_written"] for load in events)),
        "schemas": [row[:-1] for row in found["schemas"]],
        "files": {
            place: [(key, "" if key.endswith(".report.json") else digest) for key, digest in there if EVENTS not in key]
            for place, there in found["files"].items()
        },
    }


def table(settings: Settings, folder: str) -> list[dict[str, Any]]:
    """All rows of a typed table, or of one of its folders."""
    below = Path(settings.storage.removeprefix("file://")) / "cubic/springboard" / folder
    return [row for path in sorted(below.rglob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.fixture(scope="module")
def alone(server: EmbeddedServer, registry_file: Path) -> dict[str, Any]:
    """What a single run leaves behind that nobody disturbs."""
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "cubic_alone"), home, registry_file, cubic_batch_files=3)
        land_issues(settings)
        land_many(settings)
        driver.run(settings)
        found = outcome(settings)
    assert Counter(fate[2] for fate in found["fates"]) == {"archived": 5 * COUNT + 6 + 3 - 2, "errored": 2}
    assert found["records"] == sorted({(offset % 2, offset) for offset in range(65)})
    assert found["counted"] == (90, 65)
    assert found["files"]["incoming"] == []
    return found


@contextmanager
def held_at_the_start(database: Database, processes: int) -> Iterator[None]:
    """Whoever starts in here waits until all have started."""
    with database.connect() as holder, holder.transaction():
        holder.execute("LOCK TABLE ledger.datasets IN ACCESS EXCLUSIVE MODE")
        yield
        deadline = time.monotonic() + 60
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with database.connect() as watch:
            while watch.execute(waiting).fetchone() != (processes,):
                assert time.monotonic() < deadline, "they do not get as far as that"
                time.sleep(0.02)


def claimants(database: Database) -> int:
    """How many runs have claimed something."""
    with database.connect() as connection:
        row = connection.execute("SELECT count(DISTINCT run_id) FROM ledger.load_events WHERE to_status = 'ingesting'").fetchone()
    assert row is not None
    return int(row[0])


def race(settings: Settings, database: Database, processes: int) -> list[tuple[int, str]]:
    """How so many runs end that have begun at the same moment."""
    driver.discover(settings)
    with held_at_the_start(database, processes):
        started = [driver.start(settings) for _ in range(processes)]
    ended = [process.end() for process in started]
    assert claimants(database) >= processes
    return ended


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_over_one_backlog_lose_nothing_and_double_nothing(
    processes: int, settings: Settings, one: Database, alone: dict[str, Any]
) -> None:
    land_issues(settings)
    land_many(settings)
    race(settings, one, processes)
    driver.finish(settings)
    assert differences(outcome(settings), alone) == []
    assert_history_is_legal(settings)


SLEEPING = [
    "transition.ready.ingesting.after",
    "cubic.publish.before",
    "cubic.publish.after:3",
    "transition.ingesting.ready_for_archiving.before",
    "transition.ingesting.ready_for_archiving.after",
    "transition.ready_for_archiving.archiving.before",
    "object_store.copy.before_write:2",
    "object_store.copy.after_write:2",
    "transition.archiving.archived.before",
    "landing.report.before",
    "transition.erroring.errored.before",
]


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, registry_file: Path) -> dict[str, Any]:
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "cubic_awake"), home, registry_file)
        land_backlog(settings)
        driver.finish(settings)
        return outcome(settings)


@contextmanager
def asleep(settings: Settings, fault: str) -> Iterator[driver.Process]:
    """A run that has fallen asleep there, and whose leases have run out; it is gone in the end."""
    name, _, passage = fault.partition(":")
    sleeper = driver.start(settings, fault=f"{name}:{passage or 1}:SIGSTOP")
    try:
        sleeper.await_sleep()
        processes.await_leases(Database.at(settings.database_url or ""))
        processes.await_end_of_idle_transactions(Database.at(settings.database_url or ""))
        yield sleeper
    finally:
        sleeper.send(signal.SIGKILL)
        sleeper.end(10)


def wake(sleeper: driver.Process) -> None:
    sleeper.send(signal.SIGCONT)
    code, said = sleeper.end(30)
    assert code in {0, 1}, said


@pytest.mark.parametrize("point", SLEEPING)
def test_a_run_that_wakes_up_after_its_lease_changes_nothing(point: str, settings: Settings, undisturbed: dict[str, Any]) -> None:
    settings = settings.model_copy(update={"lease_seconds": 1, "cubic_batch_files": 64})
    land_first(settings)
    driver.run(settings)
    land_rest(settings)
    with asleep(settings, point) as sleeper:
        code, said = driver.start(settings).end(30)
        assert code == 0, f"the run beside it is held up by the sleeper, or failed: {said}"
        wake(sleeper)
    driver.finish(settings)
    assert differences(outcome(settings), undisturbed) == []
    assert_history_is_legal(settings)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(
            "cubic.publish.before",
        ),
        "cubic.publish.after:2",
        "transition.ingesting.ready_for_archiving.before",
    ],
)
def test_a_dataset_issued_again_is_not_overwritten_by_a_run_that_slept_over_the_issue_before(point: str, settings: Settings) -> None:
    settings = settings.model_copy(update={"lease_seconds": 1})
    land(settings, REISSUED, csv("2026-01-01,1", header="day,count"), "01:00:00")
    with asleep(settings, point) as sleeper:
        land(settings, REISSUED, csv("2026-01-01,2", "2026-01-02,3", header="day,count"), "02:00:00")
        driver.start(settings).end(30)
        wake(sleeper)
    driver.finish(settings)
    assert [row["count"] for row in table(settings, FARES)] == [2, 3], "the issue before has come back"


def test_records_of_a_run_that_slept_are_not_doubled(settings: Settings) -> None:
    settings = settings.model_copy(update={"lease_seconds": 1})
    land(settings, f"{EVENTS}/a.json.gz", records(*range(10)), "01:00:00")
    with asleep(settings, "cubic.publish.before") as sleeper:
        land(settings, f"{EVENTS}/b.json.gz", records(*range(5, 15)), "01:00:01")
        driver.start(settings).end(30)
        wake(sleeper)
    driver.finish(settings)
    assert sorted(row["offset"] for row in table(settings, EVENTS)) == [*range(15)]


def test_a_topic_that_another_run_decides_about_is_left_to_it_and_other_tables_are_loaded(settings: Settings, one: Database) -> None:
    land(settings, f"{EVENTS}/a.json.gz", records(*range(10)), "01:00:00")
    land(settings, f"{FARES}/other.csv.gz", csv("2026-01-01,1", header="day,count"), "02:00:00")
    with one.connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('cubic offsets events', 0))")
        code, said = driver.start(settings).end()
        fates = {load["key"]: load["status"] for load in driver.loads(settings)}
    assert fates == {f"{EVENTS}/a.json.gz": "ready", f"{FARES}/other.csv.gz": "archived"}
    assert code == 0, said


def test_columns_that_two_runs_add_at_once_are_all_kept(settings: Settings) -> None:
    def loose(number: int, *names: str) -> None:
        dfm = metadata(dict.fromkeys(names, "STRING"), 1, ("A",))
        land(
            settings,
            f"{LOOSE}/LOAD0000000{number}.csv.gz",
            csv(",".join("x" * len(names)), header=",".join(names)),
            f"06:00:0{number}",
            dfm,
        )

    loose(1, "A")
    driver.run(settings)
    loose(2, "A", "B")
    sleeper = driver.start(settings, fault="cubic.publish.before:1:SIGSTOP")
    sleeper.await_sleep()
    loose(3, "A", "B", "C")
    driver.start(settings).end(10)
    wake(sleeper)
    let_leases_run_out(settings)
    driver.run(settings)
    with Database.at(settings.database_url or "").connect() as connection:
        newest = connection.execute("SELECT columns FROM cubic.schemas ORDER BY version DESC LIMIT 1").fetchone()
    assert newest is not None
    assert {name for name, _ in newest[0]} == {"a", "b", "c"}


def test_a_file_that_kills_every_run_keeps_no_other_table_from_loading(settings: Settings) -> None:
    land(settings, f"{FARES}/poison.csv.gz", csv("2026-01-01,1", header="day,count"), "01:00:00")
    land(settings, f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), "06:00:00")
    codes = []
    for _ in range(2):
        codes.append(driver.start(settings, poison="poison").end()[0])
        let_leases_run_out(settings)
    assert codes == [-9, -9]
    assert {load["key"]: load["status"] for load in driver.loads(settings)}[f"{TAPS}/LOAD00000001.csv.gz"] == "archived", (
        "a file that a run has died with comes last, whichever table it is of"
    )


def test_a_file_that_kills_every_run_is_given_up_and_only_it_is_charged(settings: Settings, one: Database) -> None:
    for name, at in (("a", "01:00:00"), ("poison", "02:00:00"), ("z", "03:00:00")):
        land(settings, f"{FARES}/{name}.csv.gz", csv("2026-01-01,1", header="day,count"), at)
    land(settings, f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), "06:00:00")
    deaths = 0
    while (ended := driver.start(settings, poison="poison").end())[0] == -signal.SIGKILL:
        deaths += 1
        assert deaths <= 1 + settings.max_attempts, "the poison is never given up"
        let_leases_run_out(settings)
    assert ended[0] == 0, ended[1]
    found = {load["key"].rpartition("/")[2]: (load["status"], load["error_code"]) for load in driver.loads(settings)}
    assert found.pop("poison.csv.gz") == ("errored", "crashed_repeatedly")
    assert {*found.values()} == {("archived", None)}
    with one.connect() as connection:
        charged = connection.execute("SELECT key, attempts FROM ledger.loads WHERE attempts > 0").fetchall()
    assert charged == [(f"{FARES}/poison.csv.gz", settings.max_attempts)]

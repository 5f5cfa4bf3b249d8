"""Several real processes over one backlog: nothing lost, nothing doubled, nothing half-seen."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.engine import entries, ledger
from ingestion_dagster.engine.claims import Limits, put_off
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.ledger import Scope, Status, Step, Verdict
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics import files
from ingestion_dagster.metrics.files import MetricFile
from ingestion_dagster.metrics.interface import MetricsAPIInterface
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.metrics import driver
from ingestion_dagster_tests.metrics.conftest import headline_payload, time_series_payload

File = tuple[str, Mapping[str, Any] | bytes]

SERIES, REFRESHES, KEYS, VERSIONS = 60, 3, 40, 3
EARLIEST = datetime(2024, 1, 1, tzinfo=UTC)


def same_series() -> Iterator[File]:
    """Three refreshes of each of sixty series, under keys of their own: another value for every known date, and one date more.

    Each is the complete series, as its producer delivers it: whichever comes first, the newest decides in the end. Every tenth series
    shares its age, stratum and metric, new to the tables, with the others of its kind.
    """
    # Ten series at a time, so that two processes have the same series in hand.
    for first, refresh, place in product(range(0, SERIES, 10), range(REFRESHES), range(10)):
        number = first + place
        kind = number % 10
        days = range(20, 24 + refresh)
        yield (
            f"series {kind}/{number}-{refresh}.json",
            time_series_payload(
                [(f"2023-06-{day}", 1000 * refresh + number + day / 100) for day in days],
                metric=f"COVID-19_deaths_kind{kind}",
                age=f"{10 + kind}-{20 + kind}",
                stratum=f"stratum {kind}",
                geography_type="Lower Tier Local Authority",
                geography=f"Place {number}",
                geography_code=f"E07{number:06}",
                refresh_date=f"2023-10-1{refresh}",
            ),
        )


def headlines_and_bad() -> Iterator[File]:
    for number in range(30):
        refreshed = {"stratum": f"stratum {number % 10}", "refresh_date": f"2023-10-1{number // 10}"}
        yield f"headline {number}.json", headline_payload([("2023-10-01", "2023-10-07", number)], **refreshed)
        if number % 3 == 0:
            yield f"bad {number}.json", time_series_payload(sex="banana")
    # The same file under two keys: two loads, and one set of rows.
    yield "twin a.json", headline_payload(age="01-02")
    yield "twin b.json", headline_payload(age="01-02")


def versions_of_a_key(version: int) -> Iterator[File]:
    """One version of each of forty keys; a file has three points."""
    for number in range(KEYS):
        yield (
            f"key {number}.json",
            time_series_payload(
                [(f"2023-0{month}-20", 100 * version + number + month) for month in (1, 2, 3)],
                metric_group="cases",
                metric="COVID-19_cases_versions",
                geography_type="Lower Tier Local Authority",
                geography=f"Place {number}",
                geography_code=f"E07{number:06}",
                refresh_date=f"2023-11-0{version + 1}",
            ),
        )


def land(settings: Settings, landed: Sequence[File], *, hour: int) -> None:
    landing = zone(settings).landing
    for number, (key, content) in enumerate(landed):
        landing.write(key, driver.as_bytes(content), modified=EARLIEST + timedelta(hours=hour, seconds=number))


def land_versions(settings: Settings) -> None:
    """Versions that are overwritten before they are read: loads all the same."""
    for version in range(VERSIONS):
        land(settings, [*versions_of_a_key(version)], hour=version)
        driver.discover(settings)


FILES = [*same_series(), *headlines_and_bad()]
LOADS = len(FILES) + KEYS * VERSIONS


def settings_for(database: Database, home: Path) -> Settings:
    """Small batches, so that processes meet often."""
    return Settings(home=home, database_url=database.sqlalchemy_url, settle_seconds=0, batch_files=8)


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    return settings_for(database, tmp_path / "home")


@pytest.fixture(scope="module")
def alone(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a single run leaves behind that nobody disturbs."""
    settings = settings_for(driver.copy_of_template(server, "alone"), tmp_path_factory.mktemp("alone"))
    land_versions(settings)
    land(settings, FILES, hour=10)
    driver.run(settings)
    found = outcome(settings)
    assert len(found["loads"]) == LOADS
    assert Counter(load[2] for load in found["loads"]) == {"errored": 10, "archived": LOADS - 10}
    assert len(found["tables"]["core_time_series"]) == len(found["tables"]["api_time_series"]) == SERIES * 6 + KEYS * 3
    assert len(found["tables"]["series"]) == SERIES + KEYS + 11
    assert found["files"]["in"] == []
    return found


def outcome(settings: Settings) -> dict[str, Any]:
    """What is left behind, but for how many rows each of two files of one series has written: that depends on which came first."""
    found = driver.left_behind(settings)
    fates = [(load["key"], load["number"], load["status"], load["dataset"], load["error_code"]) for load in found["loads"].values()]
    return {"tables": found["tables"], "loads": fates, "files": found["files"]}


@contextmanager
def held_at_the_start(database: Database, processes: int) -> Iterator[None]:
    """Whoever starts in here waits until all have started."""
    with database.connect() as holder, holder.transaction():
        holder.execute("LOCK TABLE ledger.datasets IN ACCESS EXCLUSIVE MODE")
        yield
        await_waiting(database, processes)


def await_waiting(database: Database, count: int) -> None:
    """Return when so many connections wait for locks."""
    deadline = time.monotonic() + 60
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.connect() as watch:
        while watch.execute(waiting).fetchone() != (count,):
            assert time.monotonic() < deadline, "they do not get as far as that"
            time.sleep(0.02)


def deadlocks(database: Database) -> int:
    with database.connect() as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def assert_worked_side_by_side(database: Database, processes: int) -> None:
    """Each process has claimed something while another one was at work."""
    with database.connect() as connection:
        runs = connection.execute(
            "SELECT run_id, min(at), max(at) FROM ledger.load_events WHERE from_status = 'ready' AND run_id LIKE 'driver-%' GROUP BY 1"
        ).fetchall()
    assert len(runs) >= processes
    assert max(row[1] for row in runs) < min(row[2] for row in runs)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_over_one_backlog_lose_nothing_and_double_nothing(
    processes: int, settings: Settings, database: Database, alone: dict[str, Any]
) -> None:
    land_versions(settings)
    land(settings, FILES, hour=10)
    driver.discover(settings)
    with held_at_the_start(database, processes):
        started = [driver.start(settings) for _ in range(processes)]
    for process in started:
        code, said = process.end()
        assert code == 0, said
        assert "by the database" not in said
    assert_worked_side_by_side(database, processes)
    driver.finish(settings)
    assert differences(outcome(settings), alone) == []
    assert deadlocks(database) == 0
    assert_history_is_legal(settings)


class Reader(threading.Thread):
    """Looks at the tables again and again, each time in a snapshot of its own, for what no reader may see."""

    TORN = """
        SELECT (SELECT count(*) FROM metrics.core_time_series), (SELECT count(*) FROM metrics.api_time_series),
               (SELECT count(*) FROM (
                   (SELECT series_id, date, refresh_date, metric_value::float8 FROM metrics.core_time_series
                    EXCEPT SELECT series_id, date, refresh_date, metric_value FROM metrics.api_time_series)
                   UNION ALL
                   (SELECT series_id, date, refresh_date, metric_value FROM metrics.api_time_series
                    EXCEPT SELECT series_id, date, refresh_date, metric_value::float8 FROM metrics.core_time_series)) AS differing),
               (SELECT count(*) FROM (
                   SELECT s.id FROM metrics.series AS s JOIN metrics.metric AS m ON m.id = s.metric_id
                   LEFT JOIN metrics.core_time_series AS t ON t.series_id = s.id
                   WHERE m.name = 'COVID-19_cases_versions' GROUP BY s.id HAVING count(t.id) <> 3) AS torn),
               (SELECT count(*) FROM metrics.series WHERE newest_refresh_date IS NULL)
    """

    def __init__(self, database: Database) -> None:
        super().__init__(name="reader")
        self._database = database
        self._done = threading.Event()
        self.seen: list[tuple[int, ...]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._database.connect() as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                while not self._done.is_set():
                    with connection.transaction():
                        row = connection.execute(self.TORN).fetchone()
                        again = connection.execute(self.TORN).fetchone()
                    assert row is not None
                    assert row == again, "a snapshot changed under its reader"
                    self.seen.append(row)
                    time.sleep(0.005)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            self.error = error

    def stop(self) -> None:
        self._done.set()
        self.join()
        if self.error is not None:
            raise self.error


def test_readers_never_see_half_a_file(settings: Settings, database: Database, alone: dict[str, Any]) -> None:
    land_versions(settings)
    land(settings, FILES, hour=10)
    reader = Reader(database)
    reader.start()
    try:
        with held_at_the_start(database, 2):
            started = [driver.start(settings) for _ in range(2)]
        assert [process.end()[0] for process in started] == [0, 0]
    finally:
        reader.stop()
    core = [seen[0] for seen in reader.seen]
    assert len({*core}) >= 5, "the reader has seen too little"
    assert [seen for seen in reader.seen if seen[0] != seen[1] or any(seen[2:])] == []
    driver.finish(settings)
    assert differences(outcome(settings), alone) == []


def test_files_that_arrive_while_two_processes_load_are_all_loaded(settings: Settings, database: Database, alone: dict[str, Any]) -> None:
    """The drivers sweep and load; this process lands: new series, and newer refreshes of series that are being written."""
    land_versions(settings)
    land(settings, FILES[::2], hour=10)
    with held_at_the_start(database, 2):
        started = [driver.start(settings) for _ in range(2)]
    arriving = FILES[1::2]
    for begin in range(0, len(arriving), 10):
        land(settings, arriving[begin : begin + 10], hour=11 + begin)
        driver.discover(settings)
    for process in started:
        code, said = process.end()
        assert code == 0, said
    driver.finish(settings)
    assert differences(outcome(settings), alone) == []
    assert deadlocks(database) == 0
    assert_history_is_legal(settings)


def test_a_database_that_drops_every_connection_loses_and_doubles_nothing(
    settings: Settings, database: Database, alone: dict[str, Any]
) -> None:
    land_versions(settings)
    land(settings, FILES, hour=10)
    driver.discover(settings)
    dropped = 0
    with database.connect() as connection:
        for share in (0.1, 0.5, 0.8):
            with held_at_the_start(database, 2):
                started = [driver.start(settings) for _ in range(2)]
            deadline = time.monotonic() + 60
            committed = "SELECT count(*) FROM ledger.loads WHERE status NOT IN ('ready', 'ingesting')"
            while (row := connection.execute(committed).fetchone()) is not None and row[0] < share * LOADS:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            gone = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
            assert gone is not None
            dropped += gone[0]
            assert {process.end()[0] for process in started} <= {0, 1}
            let_leases_run_out(settings)
    assert dropped >= 4
    driver.finish(settings)
    assert differences(outcome(settings), alone) == []
    assert_history_is_legal(settings)


def test_renewing_leases_never_gets_in_the_way_of_moving_loads_on(database: Database) -> None:
    """A run settles and moves a thousand loads in an order of its own, while its other thread renews their leases all the time."""
    count = 1000
    objects = [StoredObject(f"{number}.json", 1, EARLIEST + timedelta(seconds=number), f"v{number}") for number in range(count)]
    limits = Limits()
    done = threading.Event()
    failures: list[BaseException] = []
    renewals = Counter[str]()

    def renew(claim: int) -> None:
        try:
            with database.connect() as connection:
                while not done.is_set():
                    put_off(connection, [claim], limits.lease_seconds)
                    renewals["made"] += 1
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failures.append(error)

    with database.connect() as connection:
        entries.discover(connection, PIPELINE, "file:///nowhere", list(map(Arrival, objects)), EARLIEST)
        batch = ledger.claim(connection, Scope(PIPELINE), "run", count=count, size=10**9, lease_seconds=60)
        assert len(batch) == count
        renewers = [threading.Thread(target=renew, args=(batch[0].claim,)) for _ in range(2)]
        for renewer in renewers:
            renewer.start()
        try:
            backwards = batch[::-1]
            with connection.transaction():
                for begin in range(0, count, 50):
                    verdicts = [Verdict(load, Status.READY_FOR_ARCHIVING) for load in backwards[begin : begin + 50]]
                    ledger.settle(connection, verdicts)
                    time.sleep(0.01)
            for was, to in ((Status.READY_FOR_ARCHIVING, Status.ARCHIVING), (Status.ARCHIVING, Status.READY_FOR_ARCHIVING)) * 3:
                moved = ledger.transition(connection, [Step(load) for load in backwards], was, to, lease_seconds=60)
                assert len(moved) == count
        finally:
            done.set()
            for renewer in renewers:
                renewer.join()
    assert failures == []
    assert renewals["made"] > 5
    assert deadlocks(database) == 0


HOLD = {
    "known series": "SELECT FROM metrics.series JOIN metrics.stratum AS t ON t.id = stratum_id WHERE t.name = 'stratum 25' FOR UPDATE",
    "new names": "INSERT INTO metrics.stratum (name) VALUES ('stratum 25')",
}
"""What a third party holds, so that two merges stop half-way through the same rows: in another order each would wait for the other."""


@pytest.mark.parametrize("held", HOLD)
def test_two_merges_of_the_same_files_in_opposite_orders_never_deadlock(held: str, database: Database) -> None:
    failures: list[BaseException] = []

    def batch(refreshed: str, first: int, last: int) -> list[MetricFile]:
        strata = [f"stratum {number}" for number in range(first, last + 1)]
        return [files.judge(headline_payload(stratum=stratum, refresh_date=refreshed), "any.json") for stratum in strata]

    def merge(judged: list[MetricFile]) -> None:
        try:
            with database.connect() as connection, connection.transaction():
                interface = MetricsAPIInterface(connection)
                with interface.staging() as staging:
                    for file in judged:
                        staging.add(file)
                interface.merge(driver.NOW)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failures.append(error)

    merge(batch("2023-10-10", 9, 39 if held == "known series" else 9))
    newer = batch("2023-10-11", 10, 39)
    threads = [threading.Thread(target=merge, args=(judged,)) for judged in (newer, newer[::-1])]
    with database.connect() as holder:
        with holder.transaction():
            holder.execute(HOLD[held].encode())
            for thread in threads:
                thread.start()
            await_waiting(database, 2)
        for thread in threads:
            thread.join()
    assert failures == []
    assert deadlocks(database) == 0
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM metrics.core_headline").fetchone() == (31,)

"""Boot: readers see the facts of before or those of the folder, nobody's references break, and dying in the midst changes nothing."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.engine import landing, moving
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics import boot as boot_module
from ingestion_dagster.metrics import interface
from ingestion_dagster.metrics.interface import FACT_TABLES, SUPPORTING_TABLES, Merged, MetricsAPIInterface
from ingestion_dagster.metrics.places import zone
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests import test_cli
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.metrics import boot_driver, driver
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.driver import settings_for
from ingestion_dagster_tests.metrics.one_database import empty

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket
ingestion = test_cli.ingestion

EARLIEST = datetime(2024, 1, 1, tzinfo=UTC)
CASES: dict[str, Any] = {"metric_group": "cases", "metric": "COVID-19_cases_casesByDay"}
OLD: dict[str, Any] = {
    "a.json": time_series_payload([("2023-06-20", 1), ("2023-06-21", 2)]),
    "gone.json": time_series_payload([("2023-06-20", 3)], **CASES),
    "headline.json": headline_payload([("2023-10-01", "2023-10-07", 4)]),
}
NEW: dict[str, Any] = {
    "a.json": time_series_payload([("2023-06-21", 1001), ("2023-06-22", 1002)], refresh_date="2023-10-05"),
    "b/again.json": time_series_payload([("2023-06-22", 1003), ("2023-06-23", 1004)], refresh_date="2023-10-06"),
    "bad.json": time_series_payload(sex="banana"),
    "headline.json": headline_payload([("2023-09-01", "2023-09-07", 1005)], refresh_date="2023-09-10"),
    "other.json": time_series_payload([("2023-06-20", 1006)], age="05-14"),
}
"""Refresh dates of before those of OLD: nothing of it would win against them."""
OLD_VALUES, NEW_VALUES = [1, 2, 3, 4], [1001, 1003, 1004, 1005, 1006]
VALUES = """
SELECT metric_value::float FROM public.data_apitimeseries
UNION ALL SELECT metric_value::float FROM public.data_coreheadline ORDER BY 1
"""
CORE_VALUES = VALUES.replace("apitimeseries", "coretimeseries")


@pytest.fixture
def database(shared: Database) -> Database:
    """That database, emptied."""
    return empty(shared)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of NEW."""
    return write(tmp_path / "new", NEW)


@pytest.fixture
def loaded(metrics: Metrics) -> Metrics:
    """A pipeline whose facts are those of OLD."""
    return load_old(metrics)


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    """Files in a folder, each a second younger than the one before."""
    for number, (name, content) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(driver.as_bytes(content))
        modified = (EARLIEST + timedelta(seconds=number)).timestamp()
        os.utime(path, (modified, modified))
    return folder


def load_old(metrics: Metrics) -> Metrics:
    for key, content in OLD.items():
        metrics.land_key(key, content)
    metrics.run()
    assert values(metrics) == OLD_VALUES
    return metrics


def values(metrics: Metrics) -> list[float]:
    return [row[0] for row in metrics.query(VALUES)]


def facts(settings: Settings) -> dict[str, list[str]]:
    return {name: rows for name, rows in driver.tables(settings).items() if name in FACT_TABLES}


# What others see and hold


def test_readers_see_the_old_facts_until_the_new_ones_are_there(loaded: Metrics, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every point of the boot: the owner, a read-only role, somebody's view, and a transaction that began before."""
    reader = f"reader_{os.getpid()}"
    loaded.query(f"CREATE ROLE {reader}; GRANT metrics_public_reader TO {reader}; CREATE SCHEMA IF NOT EXISTS theirs")
    loaded.query("CREATE VIEW theirs.facts AS SELECT metric_value::float FROM public.data_apitimeseries")
    seen: dict[str, list[list[float]]] = {}

    def look(point: str) -> None:
        with loaded.database.connect() as role:
            role.execute(f"SET ROLE {reader}")
            found = [role.execute(VALUES).fetchall(), old.execute(VALUES).fetchall(), loaded.query(CORE_VALUES), loaded.query(VALUES)]
        seen[point] = [[row[0] for row in rows] for rows in found]
        seen[point].append(sorted(row[0] for row in loaded.query("SELECT * FROM theirs.facts")))

    try:
        with loaded.database.connect() as old, old.transaction():
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT 1")
            for module in (boot_module, interface):
                monkeypatch.setattr(module, "fault_point", look)
            boot_driver.boot(loaded.settings, folder)
    finally:
        loaded.query(f"DROP SCHEMA theirs CASCADE; DROP ROLE {reader}")
    of_view = ([1, 2, 3], [1001, 1003, 1004, 1006])
    points = ["metrics.boot.landed", "metrics.cleared", "metrics.staged", "metrics.merged", "metrics.boot.replaced"]
    assert seen == dict.fromkeys(points, [OLD_VALUES] * 4 + [of_view[0]]) | {
        "metrics.boot.committed": [NEW_VALUES, OLD_VALUES, NEW_VALUES, NEW_VALUES, of_view[1]]
    }


def test_ids_foreign_keys_and_grants_of_others_stay_valid(loaded: Metrics, folder: Path) -> None:
    supporting = {table: loaded.query(f"SELECT to_jsonb(t)::text FROM metrics.{table} AS t") for table in (*SUPPORTING_TABLES, "series")}
    loaded.query("""
        CREATE TABLE public.rbac_permissions (
            id int PRIMARY KEY, theme_id int REFERENCES metrics.theme ON DELETE CASCADE, topic_id int REFERENCES metrics.topic,
            metric_id int REFERENCES metrics.metric ON DELETE CASCADE, geography_id int REFERENCES metrics.geography ON DELETE SET NULL);
        INSERT INTO public.rbac_permissions SELECT 1, th.id, t.id, m.id, g.id
        FROM metrics.theme AS th, metrics.topic AS t, metrics.metric AS m, metrics.geography AS g WHERE m.name = 'COVID-19_cases_casesByDay'
    """)
    permitted = """
        SELECT th.name, t.name, m.name, g.name FROM public.rbac_permissions AS p JOIN metrics.theme AS th ON th.id = p.theme_id
        JOIN metrics.topic AS t ON t.id = p.topic_id JOIN metrics.metric AS m ON m.id = p.metric_id
        JOIN metrics.geography AS g ON g.id = p.geography_id
    """
    try:
        before = loaded.query(permitted)
        assert before == [("infectious_disease", "COVID-19", "COVID-19_cases_casesByDay", "England")]
        boot_driver.boot(loaded.settings, folder)
        assert loaded.query(permitted) == before
    finally:
        loaded.query("DROP TABLE public.rbac_permissions")
    for table, rows in supporting.items():
        if table != "series":  # whose newest refresh date is that of the new files
            assert set(rows) <= set(loaded.query(f"SELECT to_jsonb(t)::text FROM metrics.{table} AS t"))
    assert loaded.rows("metrics.series") == len(supporting["series"]) + 1


def test_the_facts_are_those_of_a_fresh_database_and_a_bad_file_is_reported(
    loaded: Metrics, folder: Path, server: EmbeddedServer, tmp_path: Path
) -> None:
    fresh = Metrics(
        Settings(home=tmp_path / "fresh", database_url=driver.copy_of_template(server, "fresh_boot").sqlalchemy_url, settle_seconds=0),
        Database.at(server.url("fresh_boot")),
    )
    for number, (key, content) in enumerate(NEW.items()):
        landed = zone(fresh.settings).landing
        landed.write(key, driver.as_bytes(content), modified=EARLIEST + timedelta(seconds=number))
    driver.run(fresh.settings)
    outcome = boot_driver.boot(loaded.settings, folder)
    assert differences(facts(loaded.settings), facts(fresh.settings)) == []
    assert (outcome.total().loads_archived, outcome.total().loads_errored, outcome.moves_pending) == (4, 1, 0)
    assert loaded.report("bad")["problems"][0]["code"] == "unknown_sex"
    assert loaded.keys("boot") == loaded.keys("in") == []
    assert set(NEW) - {"bad.json"} < set(loaded.keys("processed"))


def test_what_was_loaded_before_is_no_duplicate_afterwards(loaded: Metrics, folder: Path) -> None:
    boot_driver.boot(loaded.settings, folder)
    for duplicates in (0, 1):
        loaded.land(gone=OLD["gone.json"])
        assert loaded.run().total().loads_duplicate == duplicates
        assert values(loaded) == [3, *NEW_VALUES]


# What is refused


def test_what_would_take_facts_away_by_mistake_is_refused(
    ingestion: test_cli.Command, loaded: Metrics, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing in it").mkdir()
    assert "there is no file" in ingestion("metrics", "boot", tmp_path / "nothing in it").err
    assert ingestion("metrics", "boot", tmp_path / "missing").code == 2
    ingestion("pause", "metrics", "cases")
    assert "'ingestion resume' cases" in ingestion("metrics", "boot", folder).err
    ingestion("resume", "metrics", "cases")
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "production")
    refused = ingestion("metrics", "boot", folder)
    assert (refused.code, values(loaded)) == (1, OLD_VALUES)
    assert "--yes" in refused.err
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "local")
    done = ingestion("metrics", "boot", folder)
    assert (done.code, values(loaded)) == (2, NEW_VALUES), "one file is refused"
    assert "5 loads: 4 loaded (0 duplicates), 1 refused" in done.out


def test_a_second_boot_at_once_is_refused_and_the_first_one_unharmed(
    loaded: Metrics, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other", {"x.json": time_series_payload([("2023-06-20", 5000)])})
    refused: list[str] = []

    def second(point: str) -> None:
        with pytest.raises(ConfigurationError, match="another boot is running"):
            boot_driver.boot(loaded.settings, other)
        refused.append(point)

    monkeypatch.setattr(boot_module, "fault_point", second)
    boot_driver.boot(loaded.settings, folder)
    assert refused == ["metrics.boot.landed", "metrics.boot.replaced", "metrics.boot.committed"]
    assert values(loaded) == NEW_VALUES
    monkeypatch.undo()
    boot_driver.boot(loaded.settings, other)
    assert values(loaded) == [5000]


# Other runs at the same time


Start = Callable[..., processes.Process]


@pytest.mark.parametrize("stopped_at", ["metrics.cleared", "metrics.merged", "metrics.boot.replaced"])
def test_a_run_that_comes_during_a_boot_waits_and_loses_nothing(loaded: Metrics, folder: Path, start: Start, stopped_at: str) -> None:
    booting = start(boot_driver, "boot", folder, fault=f"{stopped_at}:1:SIGSTOP")
    booting.await_sleep()
    loaded.land(fresh=time_series_payload([("2023-06-21", 7)], age="15-44"))
    running = start(driver)
    await_lock(loaded)
    booting.send(signal.SIGCONT)
    assert booting.end()[0] == 0
    assert running.end() == (0, "")
    assert values(loaded) == [7, *NEW_VALUES]
    assert_history_is_legal(loaded.settings)


def test_a_boot_that_comes_during_a_run_waits_for_its_merge(loaded: Metrics, folder: Path, start: Start) -> None:
    loaded.land(fresh=time_series_payload([("2023-06-21", 7)], age="15-44"))
    running = start(driver, fault="metrics.merged:1:SIGSTOP")
    running.await_sleep()
    booting = start(boot_driver, "boot", folder)
    await_lock(loaded)
    running.send(signal.SIGCONT)
    assert running.end() == (0, "")
    assert booting.end()[0] == 0
    assert values(loaded) == NEW_VALUES
    loaded.land(fresh=time_series_payload([("2023-06-21", 7)], age="15-44"))
    loaded.run()
    assert values(loaded) == [7, *NEW_VALUES]


@pytest.fixture
def start(metrics: Metrics) -> Iterator[Start]:
    """Starts a process of a driver; none outlives the test, for its locks would."""
    started: list[processes.Process] = []

    def keep(of: Any, *command: str | Path, fault: str | None = None) -> processes.Process:
        started.append(of.start(metrics.settings, *command, fault=fault))
        return started[-1]

    yield keep
    for process in started:
        process.send(signal.SIGKILL)


def await_lock(metrics: Metrics) -> None:
    """Wait until some backend waits for a lock."""
    deadline = time.monotonic() + 30
    while not metrics.query("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.05)


# Deaths and failures


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a boot leaves behind when nobody dies."""
    home = tmp_path_factory.mktemp("undisturbed")
    settings = settings_for(driver.copy_of_template(server, "undisturbed_boot"), home)
    load_old(Metrics(settings, Database.at(settings.database_url or "")))
    boot_driver.boot(settings, write(home / "new", NEW))
    return dict(driver.left_behind(settings))


BEFORE_COMMIT = [
    "metrics.boot.landed",
    "metrics.cleared",
    "metrics.merged",
    "transition.ingesting.ready_for_archiving.after",
    "metrics.boot.replaced",
]
AFTER_COMMIT = [
    "metrics.boot.committed",
    "transition.ready_for_archiving.archiving.after",
    "object_store.copy.after_write:2",
    "object_store.remove.unlinked",
    "transition.archiving.archived.before",
    "landing.report.before",
]


@pytest.mark.parametrize("point", BEFORE_COMMIT)
def test_killed_before_its_commit_a_boot_has_changed_nothing(
    loaded: Metrics, folder: Path, point: str, undisturbed: dict[str, Any]
) -> None:
    killed(loaded.settings, folder, point)
    before = driver.loads(loaded.settings)
    assert values(loaded) == OLD_VALUES
    assert loaded.keys("boot") != []
    driver.finish(loaded.settings)
    assert (values(loaded), driver.loads(loaded.settings)) == (OLD_VALUES, before), "an ordinary run loads nothing of it"
    boot_driver.boot(loaded.settings, folder)
    assert loaded.keys("boot") == []
    assert differences(driver.left_behind(loaded.settings), undisturbed) == []
    assert_history_is_legal(loaded.settings)


@pytest.mark.parametrize("point", AFTER_COMMIT)
def test_killed_after_its_commit_a_boot_is_finished_by_the_next_run(
    loaded: Metrics, folder: Path, point: str, undisturbed: dict[str, Any]
) -> None:
    killed(loaded.settings, folder, point)
    assert values(loaded) == NEW_VALUES
    let_leases_run_out(loaded.settings)
    driver.finish(loaded.settings)
    assert loaded.keys("boot") == []
    assert differences(driver.left_behind(loaded.settings), undisturbed) == []
    assert_history_is_legal(loaded.settings)


def test_a_store_that_answers_nobody_leaves_the_old_facts(loaded: Metrics, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> bytes:
        raise Transient("object_store_unavailable", "SlowDown")

    with monkeypatch.context() as patch:
        patch.setattr(landing, "read", unavailable)
        with pytest.raises(Transient):
            boot_driver.boot(loaded.settings, folder)
    assert values(loaded) == OLD_VALUES
    boot_driver.boot(loaded.settings, folder)
    assert values(loaded) == NEW_VALUES
    assert loaded.keys("boot") == []


def test_a_file_that_the_database_refuses_does_not_hold_up_the_rest(loaded: Metrics, folder: Path) -> None:
    loaded.query("ALTER TABLE metrics.api_time_series ADD CONSTRAINT refuses CHECK (metric_value <> 1006) NOT VALID")
    try:
        outcome = boot_driver.boot(loaded.settings, folder)
    finally:
        loaded.query("ALTER TABLE metrics.api_time_series DROP CONSTRAINT refuses")
    assert dict(outcome.codes) == {"unknown_sex": 1, "database_refused": 1}
    assert values(loaded) == NEW_VALUES[:-1]


@pytest.mark.parametrize("point", ["metrics.boot.replaced", "metrics.boot.committed"])
def test_on_s3_a_boot_and_the_one_after_a_death_do_the_same(
    database: Database, tmp_path: Path, folder: Path, new_bucket: Callable[..., str], point: str
) -> None:
    settings = Settings(home=tmp_path, database_url=database.sqlalchemy_url, settle_seconds=0, storage_url=f"s3://{new_bucket()}/here")
    metrics = load_old(Metrics(settings, database))
    killed(settings, folder, point)
    assert values(metrics) == (NEW_VALUES if point == "metrics.boot.committed" else OLD_VALUES)
    let_leases_run_out(settings)
    boot_driver.boot(settings, folder)
    assert (values(metrics), metrics.keys("boot")) == (NEW_VALUES, [])
    assert {load["status"] for load in driver.loads(settings)} == {"archived", "errored"}
    assert_history_is_legal(settings)


def killed(settings: Settings, folder: Path, fault: str) -> None:
    """Boot until the process is killed there."""
    code, complaint = boot_driver.start(settings, "boot", folder, fault=fault).end()
    assert code == -signal.SIGKILL, f"was not killed at {fault}: {complaint}"


def test_a_boot_that_cannot_read_every_file_changes_nothing(loaded: Metrics, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = landing.read

    def moody(place: Zone, load: Load) -> bytes:
        if load.key == "other.json":
            raise Transient("object_store_unavailable", "SlowDown")
        return read(place, load)

    monkeypatch.setattr(landing, "read", moody)
    with pytest.raises(Transient):
        boot_driver.boot(loaded.settings, folder)
    assert values(loaded) == OLD_VALUES


def test_a_folder_of_which_nothing_can_be_loaded_takes_no_fact_away(loaded: Metrics, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        boot_driver.boot(loaded.settings, write(tmp_path / "wrong", {"README.md": b"hello", "bad.json": NEW["bad.json"]}))
    assert values(loaded) == OLD_VALUES


def test_a_step_that_is_tried_again_after_the_commit_boots_no_second_time(
    loaded: Metrics, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost while the objects are moved, which the sweep makes good; the same run tries its step again."""

    def lost(*_: object, **__: object) -> list[Load]:
        raise psycopg.OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(moving, "move", lost)
        pending = boot_driver.boot(loaded.settings, folder, "the-same-run").moves_pending
    assert pending == len([state for state in loaded.states() if state["status"].startswith("ready_for")]) > 0
    assert values(loaded) == NEW_VALUES
    loaded.load("later.json", OLD["gone.json"])
    again = boot_driver.boot(loaded.settings, folder, "the-same-run")
    assert again.total().loads_archived == 0
    assert values(loaded) == [3, *NEW_VALUES], "what was loaded since stays"
    boot_driver.boot(loaded.settings, folder, "another-run")
    assert values(loaded) == NEW_VALUES


def test_a_boot_that_outlasts_its_leases_holds_them_when_it_commits(loaded: Metrics, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded.settings.model_copy(update={"lease_seconds": 1})
    merge = MetricsAPIInterface.merge
    held: list[tuple[Any, ...]] = []

    def slow(interface: MetricsAPIInterface, now: datetime) -> Merged:
        interface._connection.execute("SELECT pg_sleep(1.5)")
        return merge(interface, now)

    def look(*_: object, **__: object) -> list[Load]:
        held.extend(loaded.query("SELECT lease_until > clock_timestamp() FROM ledger.loads WHERE status LIKE 'ready_for%%'"))
        return []

    monkeypatch.setattr(MetricsAPIInterface, "merge", slow)
    monkeypatch.setattr(moving, "move", look)
    boot_driver.boot(settings, folder)
    assert set(held) == {(True,)}


def test_what_is_delivered_again_during_a_boot_is_no_duplicate_of_what_the_boot_takes_away(
    loaded: Metrics, folder: Path, start: Start
) -> None:
    booting = start(boot_driver, "boot", folder, fault="metrics.cleared:1:SIGSTOP")
    booting.await_sleep()
    loaded.land(gone=OLD["gone.json"])
    running = start(driver)
    await_lock(loaded)
    booting.send(signal.SIGCONT)
    assert booting.end()[0] == 0
    assert running.end() == (0, "")
    assert values(loaded) == [3, *NEW_VALUES]

"""A process that dies, or falls asleep, anywhere on a load's way leaves nothing that the next run does not put right."""

import ast
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ingestion_dagster
from ingestion_dagster.engine.datasets import pause_dataset, resume_dataset
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.ledger import LEGAL_MOVES
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.catalog import test_crashes as test_catalog_crashes
from ingestion_dagster_tests.cubic import test_adoption as test_cubic_adoption
from ingestion_dagster_tests.cubic import test_catalogue, test_consume, test_current, test_fetch, test_reconciliation
from ingestion_dagster_tests.cubic import test_crashes as test_cubic_crashes
from ingestion_dagster_tests.engine import processes, test_discovery, test_notifications
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.life_events import test_crashes as test_life_events_crashes
from ingestion_dagster_tests.metrics import driver, test_adoption, test_boot, test_stream
from ingestion_dagster_tests.metrics.conftest import headline_payload, time_series_payload
from ingestion_dagster_tests.operations import test_ledger_retention, test_run_retention
from ingestion_dagster_tests.residents import test_crashes as test_residents_crashes

CASES: dict[str, Any] = {"metric_group": "cases", "metric": "COVID-19_cases_casesByDay"}
AGAIN = time_series_payload()
EARLIEST = datetime(2024, 1, 1, tzinfo=UTC)


def land(settings: Settings, *files: tuple[str, Mapping[str, Any] | bytes], hour: int) -> None:
    """Put files into the landing zone, each a second younger than the one before, so that their order is known."""
    for number, (key, content) in enumerate(files):
        modified = EARLIEST + timedelta(hours=hour, seconds=number)
        zone(settings).landing.write(key, driver.as_bytes(content), modified=modified)


def land_backlog(settings: Settings) -> None:
    """Two files loaded before; then a version that nobody reads in time, and eight files of all fates."""
    land(settings, ("again.json", AGAIN), ("newer.json", time_series_payload([("2023-06-20", 1)], **CASES)), hour=0)
    driver.run(settings)
    land(settings, ("newer.json", time_series_payload([("2023-06-20", 2)], **CASES, refresh_date="2023-10-11")), hour=1)
    driver.discover(settings)
    off_sens = {"topic": "Influenza", "metric_group": "deaths", "metric": "OFF-SENS_Influenza_deaths_byDay"}
    private = time_series_payload([("2023-06-20", 5.5)], **off_sens)
    private["time_series"][0] |= {"is_public": False, "embargo": "2999-01-01 00:00:00"}
    land(
        settings,
        ("newer.json", time_series_payload([("2023-06-20", 3), ("2023-06-27", 4)], **CASES, refresh_date="2023-10-12")),
        ("headline.json", headline_payload()),
        ("a folder/OFF-SENS_private +1.json", private),
        ("bad.json", time_series_payload(sex="banana", age="5")),
        ("worse.json", b"{"),
        ("again.json", AGAIN),
        ("revised.json", time_series_payload([("2023-06-21", 12), ("2023-06-22", 13)], refresh_date="2023-10-11")),
        ("late.json", time_series_payload([("2023-06-19", 9), ("2023-06-21", 0)], refresh_date="2023-10-01")),
        hour=2,
    )


@dataclass(frozen=True)
class Story:
    """How a history begins, by which command it goes on (and is killed), and what somebody does once it has come back."""

    begin: Callable[[Settings], object] = land_backlog
    command: str = "run"
    then: Callable[[Settings], object] = lambda _settings: None


def land_with_cases_paused(settings: Settings) -> None:
    land_backlog(settings)
    with Database.at(settings.database_url or "").connect() as connection:
        assert pause_dataset(connection, PIPELINE, "cases", "for a test")


def resume_cases(settings: Settings) -> None:
    driver.run(settings)
    with Database.at(settings.database_url or "").connect() as connection:
        assert resume_dataset(connection, PIPELINE, "cases")


def finish_backlog(settings: Settings) -> None:
    land_backlog(settings)
    driver.finish(settings)


def finish_while_somebody_writes(settings: Settings) -> None:
    """Files that somebody has open for writing are loaded, but stay: once closed they have come back."""
    land_backlog(settings)
    folder = settings.home_folder / "storage/metrics/in"
    with ExitStack() as writers:
        for name in ("headline.json", "bad.json"):
            writers.enter_context((folder / name).open("r+b"))
        driver.run(settings)
    assert {path.name for path in folder.iterdir() if path.is_file()} == {"headline.json", "bad.json"}


STORIES = {
    "backlog": Story(),
    "paused": Story(land_with_cases_paused, then=resume_cases),
    "retry": Story(finish_backlog, "retry"),
    "replay": Story(finish_backlog, "replay"),
    "come back": Story(finish_while_somebody_writes),
}


@dataclass(frozen=True)
class Case:
    """Where a process is killed. `faults` are those of several processes, one after the other, if it takes more than one to get there."""

    point: str
    story: str = "backlog"
    faults: tuple[str, ...] = field(default=())

    @property
    def id(self) -> str:
        return " then ".join(self.killed_at) + ("" if self.story == "backlog" else f" ({self.story})")

    @property
    def killed_at(self) -> tuple[str, ...]:
        return self.faults or (self.point,)


def cases() -> Iterator[Case]:
    for when in ("before", "after"):
        for move in (
            "ready.ingesting",
            "ingesting.ready_for_archiving",
            "ingesting.ready_for_erroring",
            "ready_for_archiving.archiving",
            "ready_for_erroring.erroring",
            "archiving.archived",
            "erroring.errored",
        ):
            yield Case(f"transition.{move}.{when}")
        expired = f"transition.ingesting.ready.{when}"
        yield Case(expired, faults=("metrics.merged", expired))
        yield Case(expired, "paused", faults=(f"{expired}:2",))  # the first is the sweep's, the second gives back what is paused
        for moving in ("archiving", "erroring"):
            stranded = f"transition.{moving}.ready_for_{moving}.{when}"
            yield Case(stranded, faults=(f"transition.ready_for_{moving}.{moving}.after", stranded))
        yield Case(f"transition.errored.ready.{when}", "retry")
        yield Case(f"transition.archived.ready.{when}", "replay")
        yield Case(f"transition.archived.ready_for_archiving.{when}", "come back")
        yield Case(f"transition.errored.ready_for_erroring.{when}", "come back")
        yield Case(f"landing.report.{when}")
    for point in ("object_store.copy.before_write", "object_store.copy.after_write"):
        # The first load's copies for its readers and for the archive, one in the midst, and that of a refused file.
        for passage in (1, 2, 7, 13):
            yield Case(point, faults=(f"{point}:{passage}",))
    for point in ("object_store.remove.aside", "object_store.remove.unlinked"):
        for passage in (1, 3, 7):
            yield Case(point, faults=(f"{point}:{passage}",))
    yield Case("metrics.staged")
    yield Case("metrics.merged")
    # Death upon death: in the take-over, and in the take-over of that.
    yield Case("metrics.merged", faults=("metrics.merged", "metrics.staged", "object_store.copy.after_write"))
    yield Case("landing.report.after", faults=("object_store.remove.aside", "landing.report.after", "transition.erroring.errored.before"))


CRASHES = [*cases()]


def fault_points_of_the_package() -> set[str]:
    """Every name that the source passes to `fault_point`, as a regular expression where it is an f-string."""
    found = set()
    for path in Path(ingestion_dagster.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fault_point"):
                [name] = node.args
                if isinstance(name, ast.JoinedStr):
                    found.add("".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[a-z_]+" for part in name.values))
                else:
                    assert isinstance(name, ast.Constant), f"{path}: a fault point must be named where it stands: {ast.unparse(node)}"
                    found.add(re.escape(str(name.value)))
    return found


def test_no_fault_point_is_without_a_crash() -> None:
    elsewhere = [
        *test_notifications.KILLED_AT,
        *test_discovery.KILLED_AT,
        test_ledger_retention.KILLED_AT,
        test_run_retention.KILLED_AT,
        *test_adoption.FAULTS,
        *test_boot.BEFORE_COMMIT,
        *test_boot.AFTER_COMMIT,
        *test_stream.CRASHES,
        *test_cubic_crashes.CRASHES,
        *test_consume.CRASHES,
        *test_cubic_adoption.FAULTS,
        *test_reconciliation.FAULTS,
        *(f"cubic.fetch.{point}" for point in test_fetch.POINTS),
        *test_current.KILLED_AT,
        *test_catalogue.KILLED_AT,
        *test_residents_crashes.CRASHES,
        *test_life_events_crashes.CRASHES,
        *(point for points in test_life_events_crashes.ELSEWHERE.values() for point in points),
        *test_catalog_crashes.CRASHES,
        *(point for points in test_catalog_crashes.ELSEWHERE.values() for point in points),
    ]
    killed_at = {case.point for case in CRASHES} | {fault.partition(":")[0] for fault in elsewhere}
    points = fault_points_of_the_package()
    assert len(points) >= 18
    assert [point for point in points if not any(re.fullmatch(point, killed) for killed in killed_at)] == []
    assert [killed for killed in killed_at if not any(re.fullmatch(point, killed) for point in points)] == []


def test_no_transition_is_without_a_crash() -> None:
    killed_at = {case.point for case in CRASHES}
    needed = {f"transition.{was}.{to}.{when}" for was, to in LEGAL_MOVES for when in ("before", "after")}
    assert needed - killed_at == set()


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Mapping[str, Any]]]:
    """By story, what is left behind when nobody dies; each is told once."""
    told: dict[str, dict[str, Mapping[str, Any]]] = {}

    def tell(name: str) -> dict[str, Mapping[str, Any]]:
        if name not in told:
            database = driver.copy_of_template(server, f"undisturbed_{len(told)}")
            settings = driver.settings_for(database, tmp_path_factory.mktemp("undisturbed"))
            story = STORIES[name]
            story.begin(settings)
            driver.COMMANDS[story.command](settings)
            story.then(settings)
            driver.finish(settings)
            told[name] = driver.left_behind(settings)
        return told[name]

    return tell


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    return driver.settings_for(database, tmp_path / "home")


def killed(settings: Settings, command: str, fault: str) -> None:
    """Run a driver until it is killed there."""
    code, complaint = driver.start(settings, command, fault=fault).end()
    assert code == -signal.SIGKILL, f"was not killed at {fault}: {complaint}"


def test_the_backlog_has_a_file_of_every_fate(undisturbed: Callable[[str], dict[str, Mapping[str, Any]]]) -> None:
    """Without these the comparisons below would compare little."""
    left = undisturbed("backlog")
    fates = {key: (load["status"], load["error_code"], load["original"] is not None) for key, load in left["loads"].items()}
    assert fates == {
        "a folder/OFF-SENS_private +1.json #1": ("archived", None, False),
        "again.json #1": ("archived", None, False),
        "again.json #2": ("archived", None, True),
        "bad.json #1": ("errored", fates["bad.json #1"][1], False),
        "headline.json #1": ("archived", None, False),
        "late.json #1": ("archived", None, False),
        "newer.json #1": ("archived", None, False),
        "newer.json #2": ("archived", "superseded", False),
        "newer.json #3": ("archived", None, False),
        "revised.json #1": ("archived", None, False),
        "worse.json #1": ("errored", "unreadable_json", False),
    }
    assert len(left["tables"]["core_time_series"]) == len(left["tables"]["api_time_series"]) == 7
    assert len(left["tables"]["core_headline"]) == 1
    assert left["files"]["in"] == []
    assert [key for key, _ in left["files"]["failed"]] == [
        "bad.VERSION.json",
        "bad.VERSION.json.report.json",
        "worse.VERSION.json",
        "worse.VERSION.json.report.json",
    ]


@pytest.mark.parametrize("case", CRASHES, ids=lambda case: case.id)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(
    case: Case, settings: Settings, undisturbed: Callable[[str], dict[str, Mapping[str, Any]]]
) -> None:
    story = STORIES[case.story]
    expected = undisturbed(case.story)
    story.begin(settings)
    for fault in case.killed_at:
        killed(settings, story.command, fault)
        let_leases_run_out(settings)
    if story.command != "run":  # whoever typed it types it again
        driver.COMMANDS[story.command](settings)
    story.then(settings)
    driver.finish(settings)
    assert differences(driver.left_behind(settings), expected) == []
    assert_history_is_legal(settings)


def test_a_file_that_kills_every_run_is_given_up_and_only_it_is_charged(settings: Settings) -> None:
    """Every process of this test dies when it has judged the poison, however often it is started."""
    settings = settings.model_copy(update={"lease_seconds": 1})
    poison = "transition.ingesting.ready_for_erroring.before"
    land(
        settings,
        ("a.json", headline_payload()),
        ("poison.json", time_series_payload(sex="banana")),
        ("z.json", time_series_payload()),
        ("zz.json", time_series_payload(**CASES)),
        hour=0,
    )
    deaths = 0
    while (ended := driver.start(settings, fault=poison).end())[0] == -signal.SIGKILL:
        deaths += 1
        assert deaths <= 1 + settings.max_attempts, "the poison is never given up"
        processes.await_leases(Database.at(settings.database_url or ""))
    assert ended == (0, "")
    assert deaths == 1 + settings.max_attempts  # in a batch, then by itself
    found = {load["key"]: (load["status"], load["error_code"]) for load in driver.loads(settings)}
    archived = ("archived", None)
    assert found == {"a.json": archived, "poison.json": ("errored", "crashed_repeatedly"), "z.json": archived, "zz.json": archived}
    with Database.at(settings.database_url or "").connect() as connection:
        charged: dict[str, int] = dict(connection.execute("SELECT key, attempts FROM ledger.loads").fetchall())
    assert charged == {"a.json": 0, "poison.json": settings.max_attempts, "z.json": 0, "zz.json": 0}
    assert [key for key, _ in driver.files(settings)["failed"]] == ["poison.VERSION.json", "poison.VERSION.json.report.json"]
    assert_history_is_legal(settings)


SLEEPING = [
    "transition.ready.ingesting.after",
    "metrics.staged",
    "metrics.merged",
    "transition.ingesting.ready_for_archiving.after",
    "transition.ready_for_archiving.archiving.before",
    "object_store.copy.before_write:3",
    "object_store.copy.after_write:3",
    "transition.archiving.archived.before",
    "landing.report.before",
    "transition.erroring.errored.before",
]


@pytest.mark.parametrize("point", SLEEPING)
def test_a_run_that_wakes_up_after_its_lease_can_do_nothing(
    point: str, settings: Settings, undisturbed: Callable[[str], dict[str, Mapping[str, Any]]]
) -> None:
    settings = settings.model_copy(update={"lease_seconds": 1})
    expected = undisturbed("backlog")
    land_backlog(settings)
    name, _, passage = point.partition(":")
    sleeper = driver.start(settings, fault=f"{name}:{passage or 1}:SIGSTOP")
    try:
        sleeper.await_sleep()
        processes.await_leases(Database.at(settings.database_url or ""))
        code, complaint = driver.start(settings).end(30)
        assert code == 0, f"the run that takes over is held up by the sleeper's locks, or failed: {complaint}"
        driver.finish(settings, 20)
        left = driver.left_behind(settings)
        history = events(settings)
        assert differences(left, expected) == []
        sleeper.send(signal.SIGCONT)
        code, complaint = sleeper.end(30)
        assert code in {0, 1}, complaint
    finally:
        sleeper.send(signal.SIGKILL)
    assert differences(driver.left_behind(settings), left) == []
    assert events(settings) == history
    assert_history_is_legal(settings)


def events(settings: Settings) -> list[tuple[Any, ...]]:
    with Database.at(settings.database_url or "").connect() as connection:
        return connection.execute("SELECT load_id, from_status, to_status, why FROM ledger.load_events ORDER BY id").fetchall()

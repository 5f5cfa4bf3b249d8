"""A process that dies anywhere on a cubic file's way leaves nothing that the next run does not put right."""

import ast
import gzip
import json
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ingestion_dagster
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.ledger import LEGAL_MOVES
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic import driver
from ingestion_dagster_tests.cubic.conftest import REGISTRY, TAPS, csv, metadata, moment
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.metrics.driver import copy_of_template
from ingestion_dagster_tests.metrics.one_database import one_database

FARES = "cubic/dmap/agg_fares"
EVENTS = "cubic/kafka/events"
GATES = "cubic/ods_qlik/EDW.GATES"
LOOSE = "cubic/ods_qlik/EDW.LOOSE"
TYPES = {"TAP_ID": "INT8", "NOTE": "STRING", "FARE": "NUMERIC(10,2)"}
CHANGES = "header__change_seq,header__change_oper,header__timestamp,TAP_ID,NOTE,FARE"
CHANGE_TYPES = {"header__change_seq": "STRING", "header__change_oper": "STRING", "header__timestamp": "DATETIME", **TYPES}
PART = "part-0.parquet"


def records(*offsets: int, value: str = "") -> bytes:
    """A batch of Kafka records with these offsets, in two partitions."""
    lines = [
        {"topic": "events", "partition": n % 2, "offset": n, "timestamp": "2026-01-01T08:00:00Z", "key": None, "value": value or n}
        for n in offsets
    ]
    return gzip.compress("\n".join(map(json.dumps, lines)).encode(), mtime=0)


def changes(*operations: str) -> bytes:
    """Change rows: `U,1,uno,2.50`; each comes after the one before it."""
    rows = []
    for number, operation in enumerate(operations):
        oper, _, values = operation.partition(",")
        rows.append(f"2026010207000000000000000000000{number:04},{oper},2026-01-02 07:00:00.000000,{values}")
    return csv(*rows, header=CHANGES)


def land(settings: Settings, key: str, content: bytes, at: str, dfm: bytes | None = None) -> None:
    """Put a file into the landing zone, its `.dfm` before it."""
    landing = driver.store(settings, "incoming")
    if dfm is not None:
        landing.write(key.partition(".csv")[0] + ".dfm", dfm, modified=moment(at))
    landing.write(key, content, modified=moment(at))


def land_first(settings: Settings) -> None:
    """What has been loaded before the scene begins."""
    land(settings, f"{FARES}/reissued.csv.gz", csv("2026-01-01,1", header="day,count"), "01:00:00")
    land(settings, f"{FARES}/again.csv.gz", csv("2026-01-01,7", header="day,count"), "01:00:01")
    land(settings, f"{EVENTS}/a.json.gz", records(*range(6)), "01:00:02")


def land_rest(settings: Settings) -> None:
    """Files of all kinds and of every fate."""
    land(settings, f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40", '2,"a ""b"",\n🙂",'), "06:00:00", metadata(TYPES, 2, ("TAP_ID",)))
    land(settings, f"{TAPS}/LOAD00000002.csv.gz", csv("3,three,2.40", "four,4,1", "5,,1.00"), "06:00:01", metadata(TYPES, 3, ("TAP_ID",)))
    land(settings, f"{TAPS}/LOAD00000003.csv.gz", csv("6,six,2.40")[:-9], "06:00:02", metadata(TYPES, 1, ("TAP_ID",)))
    land(settings, f"{TAPS}__ct/20260102-070000000.csv.gz", changes("U,1,uno,2.50", "D,2,,"), "07:00:00", metadata(CHANGE_TYPES, 2))
    land(settings, f"{TAPS}__ct/20260102-070100000.csv.gz", changes("I,9,nine,1.00"), "07:01:00")
    land(settings, f"{GATES}/LOAD00000001.csv.gz", csv("1,x", header="GATE,NAME"), "06:10:00")
    land(settings, f"{GATES}/LOAD00000002.csv.gz", b"", "06:10:01")
    for number, names in enumerate((["A", "B"], ["A", "B", "C"], ["A", "B", "C"]), start=1):
        dfm = metadata(dict.fromkeys(names, "STRING"), 1, ("A",))
        land(
            settings,
            f"{LOOSE}/LOAD0000000{number}.csv.gz",
            csv(",".join("xyz"[: len(names)]), header=",".join(names)),
            f"06:20:0{number}",
            dfm,
        )
    land(settings, f"{FARES}/reissued.csv.gz", csv("2026-01-01,2", "2026-01-02,3", header="day,count"), "08:00:00")
    land(settings, f"{FARES}/again.csv.gz", csv("2026-01-01,7", header="day,count"), "08:00:01")
    land(settings, f"{FARES}/plain.csv", b"day,count\n2026-01-03,4\n", "08:00:02")
    land(settings, f"{EVENTS}/b.json.gz", records(*range(4, 12)), "08:00:03")
    land(settings, f"{EVENTS}/c.json", gzip.decompress(records(*range(10, 14), 13)), "08:00:04")
    land(settings, "cubic/dmap/kept/kept.csv.gz", b"no gzip at all", "08:00:05")
    land(settings, "cubic/dmap/nobodys/x.csv.gz", csv("1", header="a"), "08:00:06")


def land_backlog(settings: Settings) -> None:
    land_first(settings)
    driver.run(settings)
    land_rest(settings)


def finish_backlog(settings: Settings) -> None:
    land_backlog(settings)
    driver.finish(settings)


def finish_and_begin_again(settings: Settings) -> None:
    finish_backlog(settings)
    driver.replay(settings)
    driver.retry(settings)


def finish_while_somebody_writes(settings: Settings) -> None:
    """Files that somebody has open for writing are loaded, but stay: once closed they have come back."""
    land_backlog(settings)
    folder = settings.home_folder / "storage/cubic/incoming"
    with ExitStack() as writers:
        for key in (f"{TAPS}/LOAD00000001.csv.gz", f"{TAPS}/LOAD00000003.csv.gz"):
            writers.enter_context((folder / key).open("r+b"))
        driver.run(settings)
    assert {path.name for path in folder.rglob("*.gz")} == {"LOAD00000001.csv.gz", "LOAD00000003.csv.gz", "x.csv.gz"}


@dataclass(frozen=True)
class Story:
    """How a history begins, and by which command it goes on (and is killed)."""

    begin: Callable[[Settings], object] = land_backlog
    command: str = "run"


STORIES = {
    "backlog": Story(),
    "retry": Story(finish_backlog, "retry"),
    "replay": Story(finish_backlog, "replay"),
    "loaded again": Story(finish_and_begin_again),
    "come back": Story(finish_while_somebody_writes),
}


@dataclass(frozen=True)
class Case:
    """Where processes are killed, one after the other, each in what the one before it has left."""

    faults: tuple[str, ...]
    story: str = "backlog"

    @property
    def id(self) -> str:
        return " then ".join(self.faults) + ("" if self.story == "backlog" else f" ({self.story})")


def pair(name: str, story: str = "backlog", *, first: Sequence[str] = ()) -> Case:
    """Death before something is done, and the next one's death once it is."""
    return Case((*first, f"{name}.before", *first, f"{name}.after"), story)


def cases() -> Iterator[Case]:
    for move in (
        "ready.ingesting",
        "ingesting.ready_for_archiving",
        "ingesting.ready_for_erroring",
        "ready_for_archiving.archiving",
        "ready_for_erroring.erroring",
        "archiving.archived",
        "erroring.errored",
    ):
        yield pair(f"transition.{move}")
    yield pair("transition.ingesting.ready", first=("cubic.publish.after:2",))
    for moving in ("archiving", "erroring"):
        yield pair(f"transition.{moving}.ready_for_{moving}", first=(f"transition.ready_for_{moving}.{moving}.after",))
    yield pair("transition.errored.ready", "retry")
    yield pair("transition.archived.ready", "replay")
    yield pair("transition.archived.ready_for_archiving", "come back")
    yield pair("transition.errored.ready_for_erroring", "come back")
    yield pair("landing.report")
    # Copies of the first table's files and of their metadata, and one in the midst.
    yield Case(("object_store.copy.before_write:2", "object_store.copy.after_write:3"))
    yield Case(("object_store.copy.after_write:1", "object_store.copy.before_write:9"))
    yield pair("transition.archiving.archived", "loaded again")
    for passage in (1, 2, 5):
        yield Case((f"object_store.remove.aside:{passage}", f"object_store.remove.unlinked:{passage}"))
    yield Case(("cubic.assign.before", "cubic.assign.snapshots", "cubic.assign.after"))
    # Before the first part of a load, between its two parts, at a later load's, and with what is there already.
    yield Case(("cubic.publish.before:1", "cubic.publish.after:1", "cubic.publish.before:4", "cubic.publish.after:8"))
    yield Case(("cubic.publish.after:12",))
    yield Case(("cubic.publish.after:3", "cubic.publish.before:6"), "loaded again")
    # Death upon death: while converting, publishing, settling, moving, each in the rest of the other.
    yield Case(
        ("cubic.publish.after:5", "transition.ingesting.ready_for_archiving.after", "object_store.remove.aside:2", "landing.report.after")
    )


CASES = [*cases()]
ON_S3 = ["cubic.stage.before", "cubic.stage.after:3", "cubic.publish.before:2", "cubic.publish.after:2", "object_store.copy.after_write:4"]
"""Where processes are killed on S3 (`test_s3`): there files are staged, then copied into place."""

CRASHES = sorted({fault.partition(":")[0] for case in CASES for fault in case.faults} | {fault.partition(":")[0] for fault in ON_S3})
"""The fault points at which a cubic load is killed."""

ON_THE_WAY = (
    "cubic/load.py",
    "cubic/publication.py",
    "cubic/discovery.py",
    "engine/landing.py",
    "engine/ledger.py",
    "engine/object_store.py",
)


def fault_points(module: str) -> set[str]:
    """Every name that a module passes to `fault_point`, as a regular expression where it is an f-string."""
    found = set()
    for node in ast.walk(ast.parse((Path(ingestion_dagster.__path__[0]) / module).read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fault_point"):
            [name] = node.args
            if isinstance(name, ast.JoinedStr):
                found.add("".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[a-z_]+" for part in name.values))
            else:
                assert isinstance(name, ast.Constant), f"{module}: a fault point must be named where it stands: {ast.unparse(node)}"
                found.add(re.escape(str(name.value)))
    return found


@pytest.mark.parametrize("module", ON_THE_WAY)
def test_no_fault_point_on_a_files_way_is_without_a_crash(module: str) -> None:
    points = fault_points(module)
    assert points or module == "cubic/load.py"
    assert [point for point in points if not any(re.fullmatch(point, killed) for killed in CRASHES)] == []


def test_no_transition_is_without_a_crash() -> None:
    needed = {f"transition.{was}.{to}.{when}" for was, to in LEGAL_MOVES for when in ("before", "after")}
    assert needed - set(CRASHES) == set()


@pytest.fixture(scope="module")
def registry_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "tables.yaml"
    path.write_text(REGISTRY)
    return path


def left(settings: Settings) -> dict[str, Any]:
    """What is left behind; but the counts in a report beside an archived file differ as `test_defects` says."""
    found = driver.left_behind(settings)
    found["files"]["archive"] = [(key, "" if key.endswith(".report.json") else digest) for key, digest in found["files"]["archive"]]
    return found


Told = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, registry_file: Path) -> Told:
    """By story, what is left behind when nobody dies; each is told once."""
    told: dict[str, dict[str, Any]] = {}

    def tell(name: str) -> dict[str, Any]:
        if name not in told:
            story = STORIES[name]
            with driver.quick_folder() as home:
                settings = driver.settings_for(copy_of_template(server, f"undisturbed_cubic_{len(told)}"), home, registry_file)
                story.begin(settings)
                driver.COMMANDS[story.command](settings)
                driver.finish(settings)
                told[name] = left(settings)
        return told[name]

    return tell


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of this module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def settings(one: Database, registry_file: Path) -> Iterator[Settings]:
    with driver.quick_folder() as home:
        yield driver.settings_for(driver.emptied(one), home, registry_file)


def killed(settings: Settings, command: str, fault: str) -> None:
    """Run a driver until it is killed there."""
    code, complaint = driver.start(settings, command, fault=fault).end()
    assert code == -signal.SIGKILL, f"was not killed at {fault}: {complaint}"


def test_the_backlog_has_a_file_of_every_fate(undisturbed: Told) -> None:
    """Without these the comparisons below would compare little."""
    left = undisturbed("backlog")
    archived = ("archived", None)
    assert {key: (load["status"], load["error_code"] or load["waiting_for"]) for key, load in left["loads"].items()} == {
        f"{TAPS}/LOAD00000001.csv.gz #1": archived,
        f"{TAPS}/LOAD00000002.csv.gz #1": archived,
        f"{TAPS}/LOAD00000003.csv.gz #1": ("errored", "gzip_truncated"),
        f"{TAPS}__ct/20260102-070000000.csv.gz #1": archived,
        f"{TAPS}__ct/20260102-070100000.csv.gz #1": archived,
        f"{GATES}/LOAD00000001.csv.gz #1": archived,
        f"{GATES}/LOAD00000002.csv.gz #1": ("errored", "empty_file"),
        f"{LOOSE}/LOAD00000001.csv.gz #1": archived,
        f"{LOOSE}/LOAD00000002.csv.gz #1": archived,
        f"{LOOSE}/LOAD00000003.csv.gz #1": archived,
        f"{FARES}/reissued.csv.gz #1": archived,
        f"{FARES}/reissued.csv.gz #2": archived,
        f"{FARES}/again.csv.gz #1": archived,
        f"{FARES}/again.csv.gz #2": archived,
        f"{FARES}/plain.csv #1": archived,
        f"{EVENTS}/a.json.gz #1": archived,
        f"{EVENTS}/b.json.gz #1": archived,
        f"{EVENTS}/c.json #1": archived,
        "cubic/dmap/kept/kept.csv.gz #1": archived,
        "cubic/dmap/nobodys/x.csv.gz #1": ("ready", "dataset"),
    }
    assert left["loads"][f"{FARES}/again.csv.gz #2"]["original_number"] == 1
    assert left["loads"][f"{TAPS}/LOAD00000002.csv.gz #1"]["rows_rejected"] == 1
    assert {row[1]: row[4] for row in left["offsets"] if row[3] == 0} == {
        f"{EVENTS}/a.json.gz": "{[0,1),[2,3),[4,5)}",
        f"{EVENTS}/b.json.gz": "{[6,7),[8,9),[10,11)}",
        f"{EVENTS}/c.json": "{[12,13)}",
    }
    assert [row[1] for row in left["schemas"] if row[0] == "loose"] == [1, 2]
    places = left["files"]
    assert [key for key, _ in places["incoming"]] == ["cubic/dmap/nobodys/x.csv.gz"]
    assert len(places["error"]) == 2 * 2 + 1, "two refused files, two reports, one .dfm"
    assert f"{TAPS}/snapshot=20260102T060000Z/LOAD00000001.VERSION.dfm" in dict(places["archive"])
    assert f"rejects/{TAPS}/snapshot=20260102T060000Z/identifier=LOAD00000002.csv.gz/{PART}" in dict(places["springboard"])


def test_loading_again_writes_the_same_bytes(undisturbed: Told) -> None:
    first, again = undisturbed("backlog"), undisturbed("loaded again")
    assert differences(again["files"]["springboard"], first["files"]["springboard"]) == []
    assert again["offsets"] == first["offsets"]
    assert again["schemas"] == first["schemas"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(case: Case, settings: Settings, undisturbed: Told) -> None:
    story = STORIES[case.story]
    expected = undisturbed(case.story)
    story.begin(settings)
    for fault in case.faults:
        killed(settings, story.command, fault)
        let_leases_run_out(settings)
    if story.command != "run":  # whoever typed it types it again
        driver.COMMANDS[story.command](settings)
    driver.finish(settings)
    assert differences(left(settings), expected) == []
    assert_history_is_legal(settings)

"""A process that dies anywhere on a spreadsheet's way leaves nothing that the next run does not put right."""

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ingestion_dagster
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.drive_scene import on_drive
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.metrics.driver import copy_of_template
from ingestion_dagster_tests.residents import driver
from ingestion_dagster_tests.residents.conftest import LETTER, SUPERMARKET, Somebody, as_csv
from ingestion_dagster_tests.residents.driver import Api

AWKWARD = "says \"call\nlater\", \\ at 5, and 'soon'"


def land_backlog(settings: Settings) -> None:
    """Files of all datasets and of every fate; people who come again in a file, in others, and in other datasets."""
    a, b, c, d, e, f = map(Somebody, range(1, 7))
    nsss = [
        a.row("nsss"),
        b.row("nsss", **{SUPERMARKET: AWKWARD}),
        a.row("nsss", **{SUPERMARKET: "Yes"}, contact_number_calls="020 7946 0999"),
        a.row("nsss"),
    ]
    spl = [a.row("spl"), c.row("spl", DateOfDeath="20210221", category=AWKWARD), d.row("spl", DateOfBirth="31021990")]
    ct = [
        b.row("contact_tracing", Comments=AWKWARD),
        d.row("contact_tracing"),
        e.row("contact_tracing", UTLA="Elsewhere"),
        f.row("contact_tracing", **{"Date of Birth": "31/02/1990"}),
    ]
    si = [
        e.row("self_isolation", **{LETTER: "1", "Day 4 Outcome": AWKWARD, "Day 7 Outcome": "no answer", "Comments": "x"}),
        a.row("self_isolation", Comments="needs shopping"),
        e.row("self_isolation", **{LETTER: "1", "Day 4 Outcome": AWKWARD, "Day 7 Outcome": "spoke", "Comments": "x"}),
        f.row("self_isolation", **{LETTER: "1"}),
        f.row("self_isolation", **{"Status Report": "failed"}),
    ]
    generic = [
        a.row("generic", **{"Help Request Type": "EUSS", "Case Note 1": AWKWARD, "Case Note 2": "second"}),
        c.row("generic", **{"Case Note 4": "fourth"}),
        c.row("generic", **{"Help Request Type": "Gardening"}),
    ]
    driver.drop(settings, "nsss", "a.csv", as_csv("nsss", nsss), 1)
    driver.drop(settings, "nsss", "again.csv", as_csv("nsss", [nsss[1], c.row("nsss")]), 2)
    driver.drop(settings, "spl", "b.csv", as_csv("spl", spl), 3)
    driver.drop(settings, "contact_tracing", "c.csv", as_csv("contact_tracing", ct), 4)
    driver.drop(settings, "self_isolation", "d.csv", as_csv("self_isolation", si), 5)
    driver.drop(settings, "generic", "e.csv", as_csv("generic", generic), 6)
    driver.drop(settings, "generic", "refused.csv", as_csv("generic", generic).replace(b"d.o.b", b"born on"), 7)


@dataclass(frozen=True)
class Case:
    """Where processes are killed, one after the other, each in what the one before it has left."""

    faults: tuple[str, ...]

    @property
    def id(self) -> str:
        return " then ".join(self.faults)


def cases() -> Iterator[Case]:
    # Before it is done, then once it is: each process dies one passage further than the one before it.
    yield Case(("residents.enter.before", "residents.enter.after", "residents.enter.after:4"))
    yield Case(("residents.create.before", "residents.create.after", "residents.create.after:2"))
    # The third changes what is kept of somebody who is there already.
    yield Case(("residents.create.before:3",))
    yield Case(("residents.create.after:3", "residents.create.after:4"))
    yield Case(("residents.journal.before", "residents.journal.after", "residents.journal.before:3"))
    yield Case(("residents.journal.before:4", "residents.journal.before:7", "residents.journal.after:11"))
    yield Case(("residents.note.before", "residents.note.after:3"))
    yield Case(("residents.note.after:10", "residents.note.after:2"))
    yield Case(("residents.shielding.before", "residents.shielding.after"))
    yield Case(("residents.shielding.after:2", "residents.note.before", "residents.note.after"))
    yield Case(("residents.report.before", "drop_folder.put_answer.after", "residents.report.after:4"))
    yield Case(("drop_folder.put_answer.before", "drop_folder.put_answer.after:3"))
    # On a file's way in the ledger, which those of other pipelines go in the same way.
    yield Case(("transition.ready.ingesting.after:4", "transition.ingesting.ready.after"))
    yield Case(("transition.ingesting.ready_for_archiving.before", "transition.ingesting.ready_for_archiving.after:3"))
    yield Case(("transition.archiving.archived.before", "transition.archiving.ready_for_archiving.after"))
    yield Case(("transition.ingesting.ready_for_erroring.after", "transition.erroring.errored.before"))


CASES = [*cases()]
ON_DRIVE = ["drive_store.write.before", "drive_store.write.after"]
"""Where a process is killed that lands a file on Google Drive."""

CRASHES = sorted({fault.partition(":")[0] for case in CASES for fault in case.faults} | {*ON_DRIVE})
"""The fault points at which a load is killed."""

ON_THE_WAY = ("residents", "engine/local_drop_folder.py", "engine/drive_folder.py", "engine/drive_store.py")


def fault_points(place: str) -> set[str]:
    """Every name that a module, or those of a folder, pass to `fault_point`."""
    root = Path(ingestion_dagster.__path__[0]) / place
    found = set()
    for path in root.rglob("*.py") if root.is_dir() else [root]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fault_point"):
                [name] = node.args
                assert isinstance(name, ast.Constant), f"{path}: a fault point must be named where it stands: {ast.unparse(node)}"
                found.add(str(name.value))
    return found


@pytest.mark.parametrize("place", ON_THE_WAY)
def test_no_fault_point_on_a_spreadsheets_way_is_without_a_crash(place: str) -> None:
    points = fault_points(place)
    assert points
    assert points - set(CRASHES) == set()


def test_a_landing_on_drive_that_was_killed_has_left_a_whole_file_or_none(tmp_path: Path) -> None:
    """Whoever lands it again has it there twice, and each row is sent once."""
    with on_drive(tmp_path) as scene:
        pairs = {dataset: (sides["inbound"], sides["outbound"]) for dataset, sides in scene.folders.items()}
        code = (
            "from pathlib import Path\nfrom ingestion_dagster.engine.drop_folder import *\n"
            f"folders = {{name: FolderIds(*ids) for name, ids in {pairs!r}.items()}}\n"
            f"folder = open_drop_folder('gdrive:', folders=folders, credentials=Path({str(scene.credentials)!r}), api_url={scene.url!r})\n"
            "folder.inbound.write(folder.key_of('apples', 'a.csv'), b'content')"
        )
        for point, standing in zip(ON_DRIVE, (0, 1), strict=True):
            environment = {**os.environ, "INGESTION_TEST_FAULT": point}
            assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -signal.SIGKILL
            there = [*scene.folder.inbound.list()]
            assert [scene.folder.inbound.read(seen) for seen in there] == [b"content"] * standing


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, api_process: Api) -> dict[str, Any]:
    """What is left behind when nobody dies."""
    api_process.reset()
    with driver.quick_folder() as home:
        settings = driver.settings_for(copy_of_template(server, "undisturbed_residents"), home, api_process.url)
        land_backlog(settings)
        driver.finish(settings)
        return driver.left_behind(settings, api_process)


def killed(settings: Settings, fault: str) -> None:
    """Run a driver until it is killed there."""
    code, complaint = driver.start(settings, fault=fault).end()
    assert code == -signal.SIGKILL, f"was not killed at {fault}: {complaint}"


def test_the_backlog_has_a_row_of_every_fate(undisturbed: dict[str, Any]) -> None:
    """Without these the comparisons below would compare little."""
    kept = undisturbed["api"]
    assert (len(kept["residents"]), len(kept["help_requests"]), len(kept["case_notes"])) == (6, 14, 17)
    assert Counter(row[1] for row in undisturbed["loads"]) == {"archived": 6, "errored": 1}
    assert Counter(row[2] for row in undisturbed["file_rows"]) == {"pending": 16, "skipped": 3, "refused": 2}
    assert {row[5] for row in undisturbed["rows"]} == {"done"}
    assert sum(row[-1] for row in undisturbed["rows"]) == 2, "requests for shielding beside others"
    assert len(undisturbed["workbooks"]) == len(undisturbed["reports"]) == 8


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(
    case: Case, installation: Settings, api: Api, undisturbed: dict[str, Any]
) -> None:
    """But a row created by one that died may be `created` or `matched`, and have fewer `notes_added`: nobody has seen those that were."""
    land_backlog(installation)
    for fault in case.faults:
        killed(installation, fault)
        let_leases_run_out(installation)
    driver.finish(installation)
    assert differences(driver.left_behind(installation, api), undisturbed) == []
    assert_history_is_legal(installation)

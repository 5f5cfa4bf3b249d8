"""The whole residents pipeline over Google Drive: the real client library against the sandbox's server, from a drop to its report."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster import arrivals
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import drive_calls, landing, moving
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.engine.datasets import resume_dataset
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.residents import outbound, places, upkeep
from ingestion_dagster.residents.pipeline import RESIDENTS
from ingestion_dagster.residents.sensors import RESIDENTS_LOAD_JOB, residents_drive_sensor
from ingestion_dagster.sandbox.drive_faults import refused
from ingestion_dagster.sandbox.drive_files import NATIVE, SHEET, SHORTCUT, DriveFile, Refusal
from ingestion_dagster.sandbox.google_drive import GoogleDrive
from ingestion_dagster.sandbox.here_to_help import HereToHelp
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine.drive_scene import key_file, patient
from ingestion_dagster_tests.residents.driver import emptied
from ingestion_dagster_tests.residents.scene import (
    AS_OF,
    DATASET_NAMES,
    Residents,
    Row,
    Workbook,
    api,
    as_csv,
    as_xlsx,
    contact_tracing,
    generic,
    nsss,
)
from ingestion_dagster_tests.sandbox.running import running
from ingestion_dagster_tests.test_cli import Command, ingestion

__all__ = ["api", "ingestion"]

DAY = AS_OF.isoformat()
SIDES = ("inbound", "outbound")
WORD = "Zyxwquark"


def ago(**how_long: float) -> datetime:
    return datetime.now(UTC) - timedelta(**how_long)


@dataclass
class OnDrive(Residents):
    """The pipeline, and the Drive beside it."""

    server: GoogleDrive = field(default_factory=GoogleDrive)
    ids: dict[str, dict[str, str]] = field(default_factory=dict)
    scratch: Path = Path()
    pauses: list[float] = field(default_factory=list)

    def put(self, key: str, content: bytes | Sequence[Row], **more: Any) -> DriveFile:
        """Upload a file into an inbound folder: `put("nsss/a.csv", rows)`."""
        dataset, _, name = key.partition("/")
        if not isinstance(content, bytes):
            content = as_xlsx(content) if name.endswith(".xlsx") else as_csv(content)
        return self.server.put(name, content, parent=self.ids[dataset]["inbound"], **more)

    def type(self, key: str, rows: Sequence[Row], **more: Any) -> DriveFile:
        """A Google Sheet that nobody has typed into for a minute."""
        return self.put(key, as_csv(rows), mime_type=SHEET, **{"modified": ago(minutes=1), **more})

    def reports(self, dataset: str = "nsss") -> list[DriveFile]:
        """What stands in an outbound folder, by name."""
        return sorted((file for file in self.server.within(self.ids[dataset]["outbound"]) if not file.trashed), key=lambda file: file.name)

    def names(self, dataset: str = "nsss") -> list[str]:
        return [file.name for file in self.reports(dataset)]

    def book(self, file: DriveFile) -> Workbook:
        """A report as staff see it."""
        path = self.scratch / f"{file.id}.xlsx"
        path.write_bytes(file.content)
        return Workbook.read(path)

    def fault(self, at: str, kind: str, **more: Any) -> None:
        self.server.faults.add(kind, at, **more)

    def well(self) -> None:
        self.server.faults.clear()
        self.server.roles.clear()

    def close(self, dataset: str, side: str, role: str = "none") -> None:
        """Share a folder no longer, or only to read."""
        self.server.roles[self.ids[dataset][side]] = role

    def discover(self) -> None:
        """What a sensor's tick enters."""
        with self.database.connect() as connection:
            upkeep.sync(connection, self.settings)
            landing.discover(connection, places.zone(self.settings), datetime.now(UTC))

    def sweep(self) -> None:
        """What a sweep does once the leases of the dead have run out."""
        self.query("UPDATE ledger.loads SET lease_until = now() - interval '1 second' WHERE lease_until > now()")
        with self.database.connect() as connection:
            moving.sweep(connection, places.zone(self.settings), lease_seconds=60, max_attempts=3)

    def paused(self) -> list[str]:
        return [name for (name,) in self.query("SELECT name FROM ledger.datasets WHERE paused_at IS NOT NULL ORDER BY 1")]


@pytest.fixture
def database(one: Database) -> Database:
    """The module's database, emptied: to make one for each test takes longer than most of these."""
    return emptied(one)


@pytest.fixture
def on(database: Database, settings: Settings, api: HereToHelp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OnDrive]:
    """A fresh residents pipeline over a fresh Drive with folders on a shared drive."""
    drive = GoogleDrive()
    ids = {name: {side: drive.folder(f"{name} {side}", drive_id="0AShared") for side in SIDES} for name in DATASET_NAMES}
    pauses: list[float] = []
    monkeypatch.setattr(drive_calls, "Patience", partial(patient, pauses))
    with running(drive) as url:
        monkeypatch.setenv("INGESTION_DRIVE_URL", "gdrive:")
        monkeypatch.setenv("INGESTION_DRIVE_API_URL", url)
        monkeypatch.setenv("INGESTION_DRIVE_CREDENTIALS", str(key_file(drive, url, tmp_path / "key.json")))
        for name, sides in ids.items():
            for side, folder in sides.items():
                monkeypatch.setenv(variable(name, side), folder)
        (tmp_path / "read").mkdir()
        yield OnDrive(current(), database, api, server=drive, ids=ids, scratch=tmp_path / "read", pauses=pauses)


def variable(dataset: str, side: str) -> str:
    return f"INGESTION_RESIDENTS_{dataset.upper()}_{side.upper()}_FOLDER_ID"


Tick = Callable[[], Any]
Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def tick(on: OnDrive, instance: dg.DagsterInstance) -> Tick:
    """One evaluation of the drop folder's sensor, as the daemon makes it."""
    repository = defs.get_repository_def()

    def evaluate() -> Any:
        context = dg.build_sensor_context(
            instance=instance, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=residents_drive_sensor.name
        )
        return residents_drive_sensor.evaluate_tick(context)

    return evaluate


@pytest.fixture
def run(on: OnDrive, instance: dg.DagsterInstance) -> Run:
    """One run of the pipeline's job: somebody's, or a sensor's with the tags that its request has."""
    job = defs.resolve_job_def(RESIDENTS_LOAD_JOB.name)

    def execute(tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)

    return execute


def said(result: dg.ExecuteInProcessResult) -> str:
    """Why a run failed."""
    return "".join(str(event.step_failure_data.user_failure_data) for event in result.all_events if event.is_step_failure)


def at_fault_point(monkeypatch: pytest.MonkeyPatch, point: str, do: Callable[[], object]) -> None:
    """Do something whenever a report's writing passes a point."""

    def passed(name: str) -> None:
        if name == point:
            do()

    monkeypatch.setattr(outbound, "fault_point", passed)


def before_answering(monkeypatch: pytest.MonkeyPatch, on: OnDrive, at: str, do: Callable[[], object]) -> None:
    """Do something once, when Drive has been asked for the first thing of that kind and before it answers."""
    as_ever = on.server.damages
    left = [do]

    async def then(request: Any, where: str) -> Any:
        if where == at and left:
            left.pop()()
        return await as_ever(request, where)

    monkeypatch.setattr(on.server, "damages", then)


# What arrives, and how it is answered


def test_each_kind_of_spreadsheet_is_loaded_and_answered_with_a_google_sheet_of_the_old_name(on: OnDrive) -> None:
    on.put("nsss/a.xlsx", [nsss(1)])
    on.put("nsss/b.csv", [nsss(2)])
    on.type("nsss/week 1", [nsss(3)])
    on.run()
    assert on.counts == (3, 3, 3)
    assert on.statuses() == dict.fromkeys(("a.xlsx", "b.csv", "week 1"), "archived")
    assert on.names() == [f"PROCESSED_a.xlsx_{DAY}", f"PROCESSED_b.csv_{DAY}", f"PROCESSED_week 1_{DAY}"]
    assert {file.mime_type for file in on.reports()} == {SHEET}
    for number, file in enumerate(on.reports(), start=1):
        [row] = on.book(file).rows
        assert (row["ID"], row["status"], row["action"]) == (nsss(number)["ID"], "done", "created")
        assert row["resident_id"]
        assert row["help_request_id"]
    assert len(on.server.within(on.ids["nsss"]["inbound"])) == 3, "inbound files stay"


def test_a_google_sheet_and_the_same_rows_as_a_workbook_and_a_csv_file_cost_no_call_again(on: OnDrive) -> None:
    rows = [nsss(1), nsss(2)]
    on.type("nsss/week 1", rows)
    on.run()
    calls = on.calls()
    on.put("nsss/b.xlsx", rows)
    on.put("nsss/c.csv", rows)
    on.type("nsss/week 1", rows)
    on.run()
    assert on.calls() == calls
    assert on.counts == (2, 2, 2)
    assert on.names() == [
        f"PROCESSED_b.xlsx_{DAY}", f"PROCESSED_c.csv_{DAY}", f"PROCESSED_week 1_{DAY}", f"PROCESSED_week 1_{DAY} (2)",
    ]  # fmt: skip
    again = on.book(on.reports()[0])
    assert set(again.codes.values()) == {"already_done"}


def test_two_files_of_one_name_on_one_day_have_a_report_each(on: OnDrive) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    on.put("nsss/a.csv", [nsss(2)])
    on.run()
    assert on.names() == [f"PROCESSED_a.csv_{DAY}", f"PROCESSED_a.csv_{DAY} (2)"]
    assert {on.book(file).rows[0]["ID"] for file in on.reports()} == {nsss(1)["ID"], nsss(2)["ID"]}


def test_a_file_that_is_renamed_costs_no_call(on: OnDrive) -> None:
    file = on.put("nsss/a.csv", [nsss(1)])
    sheet = on.type("nsss/b", [nsss(2)])
    on.run()
    calls = on.calls()
    file.name, sheet.name, sheet.modified = "renamed.csv", "renamed", ago(seconds=40)
    on.run()
    assert on.calls() == calls
    assert on.counts == (2, 2, 2)


def test_an_old_file_that_is_moved_into_the_folder_is_found(on: OnDrive) -> None:
    elsewhere = on.server.folder("elsewhere", drive_id="0AShared")
    file = on.server.put("old.csv", as_csv([nsss(1)]), parent=elsewhere, modified=ago(days=500), created=ago(days=600))
    on.run()
    assert on.states() == []
    on.server.move(file, on.ids["nsss"]["inbound"])
    on.run()
    assert on.statuses() == {"old.csv": "archived"}
    assert on.names() == [f"PROCESSED_old.csv_{DAY}"]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("letter.pdf", b"%PDF-1.7 letter", "application/pdf"),
        ("a.xlsx", b"", SHORTCUT),
        ("minutes", b"", f"{NATIVE}document"),
    ],
    ids=["pdf", "shortcut", "document"],
)
def test_what_is_no_spreadsheet_is_answered_and_its_neighbours_are_loaded(on: OnDrive, name: str, content: bytes, kind: str) -> None:
    on.put(f"nsss/{name}", content, mime_type=kind, modified=ago(minutes=1))
    on.put("nsss/good.csv", [nsss(1)])
    on.run()
    assert on.names() == [f"PROCESSED_good.csv_{DAY}", f"REFUSED_{name}_{DAY}"]
    book = on.book(on.reports()[1])
    assert book.summary["status"] == "refused"
    assert book.tabs["problems"]
    assert sorted(on.statuses().values()) == ["archived", "errored"]
    assert on.tidy() == 0


def test_contact_tracing_has_both_its_workbooks(on: OnDrive) -> None:
    on.put("contact_tracing/extract.xlsx", [contact_tracing(1), contact_tracing(2, {"UTLA": "City of London"})])
    on.run()
    assert on.names("contact_tracing") == [f"Hackney_CT_FOR_UPLOAD_extract.xlsx_{DAY}", f"city_CT_FOR_UPLOAD_extract.xlsx_{DAY}"]
    hackney, city = map(on.book, on.reports("contact_tracing"))
    assert [row["Account ID"] for row in hackney.rows] == [contact_tracing(1)["Account ID"]]
    assert [row["Account ID"] for row in city.rows] == [contact_tracing(2)["Account ID"]]
    on.reports("contact_tracing")[1].trashed = True
    assert on.tidy() == 1
    assert len(on.names("contact_tracing")) == 2


def test_every_dataset_has_its_own_pair_of_folders(on: OnDrive) -> None:
    on.put("generic/a.csv", [generic(1)])
    on.put("nsss/a.csv", [nsss(2)])
    on.put("spl/a.csv", b"no,such file\n")
    on.run()
    assert {name: on.names(name) for name in DATASET_NAMES if on.names(name)} == {
        "generic": [f"PROCESSED_a.csv_{DAY}"],
        "nsss": [f"PROCESSED_a.csv_{DAY}"],
        "spl": [f"REFUSED_a.csv_{DAY}"],
    }


# Reports that are gone, that were answered for but not heard of, that a killed run has left


@pytest.mark.parametrize("kind", ["complete", "partial", "refused"])
def test_a_report_that_was_deleted_comes_back_once_and_without_a_call(on: OnDrive, kind: str) -> None:
    rows = [nsss(1), nsss(2, date_of_birth="31/02/1990")]
    contents: dict[str, bytes] = {"complete": as_csv(rows[:1]), "partial": as_csv(rows), "refused": b"no,such file\n"}
    on.put("nsss/a.csv", contents[kind])
    on.run()
    [before] = on.reports()
    calls = on.calls()
    before.trashed = True
    assert on.tidy() == 1
    [after] = on.reports()
    assert (after.name, after.mime_type, after.content) == (before.name, SHEET, before.content)
    assert on.calls() == calls
    on.run()
    assert on.tidy() == 0
    assert on.reports() == [after]


def test_a_report_that_was_deleted_comes_back_where_another_of_its_name_stands(on: OnDrive) -> None:
    """Drive takes two files of one name: the other system's report is none of ours."""
    other = on.server.put(f"PROCESSED_a.csv_{DAY}", b"another system's", parent=on.ids["nsss"]["outbound"])
    on.put("nsss/a.csv", [nsss(1)])
    on.run()
    [ours] = [file for file in on.reports() if file is not other]
    assert other.content == b"another system's"
    del on.server.files[ours.id]
    assert on.tidy() == 1
    assert len(on.reports()) == 2
    assert on.tidy() == 0


@pytest.mark.parametrize("kind", ["lost", "lost_503", "lost_session"])
def test_a_report_of_which_the_answer_was_lost_is_there_once(on: OnDrive, kind: str) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    on.fault("piece", kind)
    on.run()
    assert on.statuses() == {"a.csv": "archived"}
    assert on.names() == [f"PROCESSED_a.csv_{DAY}"]


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.mark.parametrize("gives_back", [True, False], ids=["unwound", "killed"])
@pytest.mark.parametrize("point", ["residents.report.before", "residents.report.after"])
def test_a_run_that_dies_with_the_report_in_hand_leaves_one_report_and_no_second_call(
    on: OnDrive, monkeypatch: pytest.MonkeyPatch, point: str, gives_back: bool
) -> None:
    def die() -> None:
        raise Killed

    on.put("nsss/a.csv", [nsss(1), nsss(2)])
    with monkeypatch.context() as patched:
        at_fault_point(patched, point, die)
        if not gives_back:
            patched.setattr(Claims, "_give_back", lambda _self: None)
        with pytest.raises(Killed):
            on.run()
    calls = on.calls()
    assert on.statuses() == {"a.csv": "ready" if gives_back else "ingesting"}
    on.sweep()
    on.run()
    assert on.statuses() == {"a.csv": "archived"}
    assert on.names() == [f"PROCESSED_a.csv_{DAY}"]
    assert {row["action"] for row in on.book(on.reports()[0]).rows} == {"created"}
    assert on.calls() == calls
    assert on.counts == (2, 2, 2)


# What goes wrong on Drive


@pytest.mark.parametrize("at", ["list", "get", "media", "export", "create", "piece"])
def test_what_passes_on_drive_is_waited_for_and_nobody_notices(on: OnDrive, at: str) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    on.type("nsss/b", [nsss(2)])
    on.fault(at, "429", retry_after="7")
    on.fault(at, "503")
    on.run()
    assert on.pauses[0] >= 7
    assert len(on.pauses) == 2
    assert set(on.statuses().values()) == {"archived"}
    assert on.names() == [f"PROCESSED_a.csv_{DAY}", f"PROCESSED_b_{DAY}"]
    assert on.counts == (2, 2, 2)


def test_a_drive_that_cannot_be_listed_fails_the_run_and_the_next_one_loads(on: OnDrive) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    on.fault("list", "503", times=1000)
    with pytest.raises(Transient) as raised:
        on.run()
    assert raised.value.code == "drive_unavailable"
    on.well()
    on.run()
    assert on.statuses() == {"a.csv": "archived"}


@pytest.mark.parametrize("at", ["media", "export"])
def test_a_short_outage_of_downloads_gives_up_no_file(on: OnDrive, at: str) -> None:
    """Metadata is still answered: that others can be asked for does not say that they could be read. Three ticks pass in no time."""
    on.put("nsss/a.csv", [nsss(1)]) if at == "media" else on.type("nsss/a.csv", [nsss(1)])
    on.fault(at, "503", times=1000)
    for _ in range(3):
        with suppress(Transient):
            on.run()
    assert on.statuses() == {"a.csv": "ready"}
    on.well()
    on.run()
    assert on.statuses() == {"a.csv": "archived"}
    assert on.names() == [f"PROCESSED_a.csv_{DAY}"]


@pytest.mark.parametrize("at", ["create", "piece"])
def test_an_outage_of_uploads_keeps_what_was_sent_and_the_next_run_only_reports(on: OnDrive, at: str) -> None:
    on.put("nsss/a.csv", [nsss(1), nsss(2)])
    on.fault(at, "500", times=1000)
    with pytest.raises(Transient):
        on.run()
    assert on.statuses() == {"a.csv": "ready"}
    calls = on.calls()
    on.well()
    on.run()
    assert on.calls() == calls
    assert on.names() == [f"PROCESSED_a.csv_{DAY}"]
    assert {row["action"] for row in on.book(on.reports()[0]).rows} == {"created"}


@pytest.mark.parametrize("at", ["list", "get", "media", "export", "create", "piece"])
def test_a_token_that_expires_meanwhile_is_renewed(on: OnDrive, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    on.type("nsss/b", [nsss(2)])
    before_answering(monkeypatch, on, at, on.server.tokens.clear)
    on.run()
    assert on.server.calls["token"] == 2
    assert on.pauses == []
    assert on.names() == [f"PROCESSED_a.csv_{DAY}", f"PROCESSED_b_{DAY}"]


def test_one_file_that_may_not_be_read_does_not_hold_up_its_neighbours(on: OnDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = on.put("nsss/a.csv", [nsss(1)], modified=ago(days=1))
    too_often = Refusal(403, "downloadQuotaExceeded", "The download quota for this file has been exceeded.")
    on.put("nsss/b.csv", [nsss(2)])
    as_ever = on.server.damages

    async def refuses_one(request: Any, at: str) -> Any:
        if at == "media" and request.match_info["id"] == bad.id:
            return refused(too_often), ""
        return await as_ever(request, at)

    monkeypatch.setattr(on.server, "damages", refuses_one)
    with suppress(Transient, ConfigurationError):
        on.run()
    assert on.statuses()["b.csv"] == "archived"
    assert on.counts[0] == 1


# Folders that are not there, or not open to us


def test_a_dataset_without_ids_is_left_out_while_others_load(on: OnDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in SIDES:
        monkeypatch.delenv(variable("generic", side))
    on.settings = current()
    on.put("generic/a.csv", [generic(1)])
    on.put("nsss/a.csv", [nsss(2)])
    on.run()
    assert [state["dataset"] for state in on.states()] == ["nsss"]
    assert on.tidy() == 0
    assert arrivals.adopt(RESIDENTS, on.settings, dry_run=True).files == 1


def test_a_dataset_whose_ids_are_taken_away_leaves_its_files_and_others_load(
    on: OnDrive, tick: Tick, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    on.put("generic/a.csv", [generic(1)])
    on.discover()
    for side in SIDES:
        monkeypatch.delenv(variable("generic", side))
    on.put("nsss/a.csv", [nsss(2)])
    [request] = tick().run_requests
    run(request.tags | {"dagster/sensor_name": residents_drive_sensor.name})
    assert on.query("SELECT key LIKE 'nsss/%%', status FROM ledger.loads ORDER BY 1") == [(False, "ready"), (True, "archived")]


def test_an_inbound_folder_that_is_not_shared_hides_no_other_and_a_run_by_hand_says_which(on: OnDrive, run: Run) -> None:
    on.close("generic", "inbound")
    on.put("nsss/a.csv", [nsss(1)])
    result = run()
    assert on.statuses() == {"a.csv": "archived"}
    assert not result.success
    assert "GENERIC_INBOUND_FOLDER_ID" in said(result)
    assert "drop-folder@sandbox.example.invalid" in said(result)
    assert "NSSS" not in said(result)


def test_an_inbound_folder_that_is_not_shared_keeps_no_tick_and_no_run_of_it_from_the_others(on: OnDrive, tick: Tick, run: Run) -> None:
    on.close("generic", "inbound")
    for number in range(2):
        on.put(f"nsss/{number}.csv", [nsss(number)])
        [request] = tick().run_requests
        assert run(request.tags | {"dagster/sensor_name": residents_drive_sensor.name}).success
    assert on.statuses() == {"0.csv": "archived", "1.csv": "archived"}
    assert tick().run_requests == []


@pytest.mark.parametrize("is_native", [False, True], ids=["csv", "sheet"])
def test_a_file_of_a_folder_that_is_shared_no_longer_waits_until_it_is_again(on: OnDrive, is_native: bool) -> None:
    (on.type if is_native else on.put)("nsss/a.csv", [nsss(1)])
    on.put("generic/b.csv", [generic(2)])
    on.discover()
    on.close("nsss", "inbound")
    with pytest.raises(ConfigurationError, match="NSSS_INBOUND_FOLDER_ID"):
        on.run()
    assert on.statuses() == {"a.csv": "ready", "b.csv": "archived"}
    on.well()
    on.run()
    assert on.statuses() == {"a.csv": "archived", "b.csv": "archived"}


def test_a_report_comes_back_though_its_inbound_folder_was_closed_meanwhile(on: OnDrive) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    on.run()
    [report] = on.reports()
    report.trashed = True
    on.close("nsss", "inbound")
    assert on.tidy() == 0
    on.well()
    assert on.tidy() == 1
    assert on.names() == [report.name]


@pytest.mark.parametrize("role", ["reader", "none"])
def test_an_outbound_folder_that_is_not_shared_gives_the_file_back_and_the_report_costs_no_call(on: OnDrive, role: str) -> None:
    on.put("nsss/a.csv", [nsss(1)], modified=ago(days=1))
    on.put("generic/b.csv", [generic(2)])
    on.close("nsss", "outbound", role)
    with pytest.raises(ConfigurationError) as raised:
        on.run()
    assert "NSSS_OUTBOUND_FOLDER_ID" in str(raised.value)
    assert on.statuses() == {"a.csv": "ready", "b.csv": "archived"}
    calls, counts = on.calls(), on.counts
    on.well()
    on.run()
    assert (on.calls(), on.counts) == (calls, counts)
    assert on.statuses() == {"a.csv": "archived", "b.csv": "archived"}
    assert on.names() == [f"PROCESSED_a.csv_{DAY}"]
    assert [row["action"] for row in on.book(on.reports()[0]).rows] == ["created"]


def test_an_outbound_folder_that_is_not_shared_does_not_put_off_the_files_of_others(on: OnDrive, tick: Tick, run: Run) -> None:
    """A failed run of the sensor's makes it wait before the next, longer each time; others' files need not wait for that."""
    on.close("generic", "outbound")
    on.put("generic/a.csv", [generic(1)])
    for number in range(2, 4):
        [request] = tick().run_requests
        run(request.tags | {"dagster/sensor_name": residents_drive_sensor.name})
        on.put(f"nsss/{number}.csv", [nsss(number)])
    assert len(tick().run_requests) == 1


# Files that change


def test_a_sheet_that_is_edited_between_listing_and_reading_is_loaded_as_it_is_now(on: OnDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = on.type("nsss/week 1", [nsss(1)])
    before_answering(monkeypatch, on, "export", lambda: on.server.change(sheet, as_csv([nsss(1), nsss(2)]), modified=ago(seconds=40)))
    on.run()
    assert on.calls() == 0
    assert [state["status"] for state in on.states()] == ["archived"]
    assert on.names() == []
    on.run()
    assert on.counts == (2, 2, 2)
    assert on.names() == [f"PROCESSED_week 1_{DAY}"]
    assert len(on.book(on.reports()[0]).rows) == 2


def test_a_file_that_is_replaced_between_listing_and_reading_is_loaded_as_it_is_now(on: OnDrive) -> None:
    file = on.put("nsss/a.csv", [nsss(1)])
    on.discover()
    on.server.change(file, as_csv([nsss(2)]))
    on.run()
    assert on.counts == (1, 1, 1)
    assert [on.book(report).rows[0]["ID"] for report in on.reports()] == [nsss(2)["ID"]]


def test_a_sheet_that_is_being_typed_into_is_left_alone(on: OnDrive) -> None:
    sheet = on.type("nsss/week 1", [nsss(1)], modified=ago(seconds=5))
    on.run()
    assert on.states() == []
    sheet.modified = ago(seconds=31)
    on.run()
    assert on.counts == (1, 1, 1)


def test_a_retry_writes_in_place_of_the_first_report(on: OnDrive) -> None:
    on.reject(2)
    on.put("nsss/a.csv", [nsss(1), nsss(2)])
    on.run()
    [first] = on.reports()
    assert on.book(first).summary["status"] == "partial"
    on.be_well()
    on.retry("a.csv")
    on.run(as_of=AS_OF + timedelta(days=1))
    [second] = on.reports()
    assert (second.id, second.name) == (first.id, first.name)
    assert on.book(second).summary["status"] == "complete"
    assert on.counts == (2, 2, 2)


def test_a_file_that_is_moved_to_another_dataset_before_it_is_read_is_of_that_one(on: OnDrive) -> None:
    file = on.put("spl/a.csv", [nsss(1)])
    on.discover()
    on.server.move(file, on.ids["nsss"]["inbound"])
    on.run()
    assert on.counts == (1, 1, 1)
    assert (on.names("spl"), on.names("nsss")) == ([], [f"PROCESSED_a.csv_{DAY}"])


# The first day, commands, the sensor


def test_adopt_marks_as_many_of_one_name_as_there_are_reports_of_it_the_oldest_first(on: OnDrive) -> None:
    files = [on.put("nsss/week 1", [nsss(number)], modified=ago(days=10 - number)) for number in range(4)]
    for day in ("2026-11-01", "2026-11-02"):
        on.server.put(f"PROCESSED_week 1_{day}", b"another system's", parent=on.ids["nsss"]["outbound"], mime_type=SHEET)
    assert arrivals.adopt(RESIDENTS, on.settings, dry_run=True).files == 2
    assert arrivals.adopt(RESIDENTS, on.settings).files == 2
    assert on.calls() == 0
    on.run()
    adopted = {key.split("/")[2] for (key,) in on.query("SELECT key FROM ledger.loads WHERE rows_in = 0")}
    assert adopted == {file.id for file in files[:2]}
    assert on.counts[0] == 2
    assert on.tidy() == 0


def test_the_first_look_is_one_of_each_folder(on: OnDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    on.settings = on.settings.model_copy(update={"residents_first_day_files": 2})
    for number in range(3):
        on.put(f"nsss/{number}.csv", [nsss(number)], modified=ago(days=3), created=ago(days=3))
    on.run()
    assert on.paused() == ["nsss"]
    assert on.calls() == 0
    with on.database.connect() as connection:
        resume_dataset(connection, "residents", "nsss")
    on.run()
    assert (on.paused(), on.counts[0]) == ([], 3)
    another = on.server.folder("another", drive_id="0AShared")
    on.settings = on.settings.model_copy(update={"residents_nsss_inbound_folder_id": another})
    for number in range(10, 13):
        on.server.put(f"{number}.csv", as_csv([nsss(number)]), parent=another, modified=ago(days=3))
    on.run()
    assert (on.paused(), on.counts[0]) == (["nsss"], 3)


def test_a_folder_that_is_closed_on_the_first_day_is_looked_at_when_it_is_open(on: OnDrive) -> None:
    on.settings = on.settings.model_copy(update={"residents_first_day_files": 2})
    for number in range(3):
        on.put(f"nsss/{number}.csv", [nsss(number)], modified=ago(days=3), created=ago(days=3))
    on.close("nsss", "inbound")
    on.run()
    assert on.paused() == []
    on.well()
    on.run()
    assert (on.paused(), on.counts) == (["nsss"], (0, 0, 0))


def test_land_puts_a_file_on_drive_and_the_next_run_loads_it(on: OnDrive, ingestion: Command, tmp_path: Path) -> None:
    path = tmp_path / "from my disk.csv"
    path.write_bytes(as_csv([nsss(1)]))
    result = ingestion("land", "residents", path, "--dataset", "nsss")
    assert result.code == 0, result
    [file] = on.server.within(on.ids["nsss"]["inbound"])
    assert (file.name, file.content) == (path.name, path.read_bytes())
    assert [state["status"] for state in on.states()] == ["ready"]
    on.run()
    assert [state["status"] for state in on.states()] == ["archived"]
    assert on.names() == [f"PROCESSED_from my disk.csv_{DAY}"]


@pytest.mark.parametrize("name", ["week 1.csv", "up to 5/6%2F.csv"], ids=["plain", "escaped"])
def test_run_says_how_it_went_and_retry_knows_a_file_by_its_name(on: OnDrive, ingestion: Command, name: str) -> None:
    on.put(f"nsss/{name}", b"no,such file\n")
    assert ingestion("run", "residents").code == 2
    [report] = on.reports()
    assert report.name.startswith(f"REFUSED_{name}_")
    assert "1 loads" in ingestion("retry", "residents", "--key", name).out
    assert len(on.retry(name)) == 1


def test_the_sensor_asks_for_a_run_that_loads_and_then_for_none(on: OnDrive, tick: Tick, run: Run) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    [request] = tick().run_requests
    assert run(request.tags | {"dagster/sensor_name": residents_drive_sensor.name}).success
    assert on.statuses() == {"a.csv": "archived"}
    assert tick().run_requests == []


def test_the_sensor_finds_what_comes_after_its_first_whole_listing(on: OnDrive, tick: Tick) -> None:
    on.put("nsss/old.csv", [nsss(1)], modified=ago(days=1), created=ago(days=1))
    tick()
    on.put("nsss/new.csv", [nsss(2)])
    on.put("nsss/older.csv", [nsss(3)], modified=ago(days=900))
    on.type("generic/typed", [generic(4)], modified=ago(seconds=45), created=ago(days=2))
    seen = tick()
    assert on.statuses() == dict.fromkeys(("old.csv", "new.csv", "older.csv", "typed"), "ready")
    assert len(seen.run_requests) == 1
    assert on.server.calls["get"] > 0


def test_the_sensor_finds_what_lay_in_a_folder_before_it_was_shared_with_us(on: OnDrive, tick: Tick) -> None:
    on.close("nsss", "inbound")
    on.put("nsss/old.csv", [nsss(1)], modified=ago(hours=2), created=ago(hours=2))
    assert tick().run_requests == []
    on.well()
    assert len(tick().run_requests) == 1
    assert on.statuses() == {"old.csv": "ready"}


def test_the_sensor_writes_a_report_again_that_was_deleted(on: OnDrive, tick: Tick) -> None:
    on.put("nsss/a.csv", [nsss(1)])
    on.run()
    [report] = on.reports()
    del on.server.files[report.id]
    calls = on.calls()
    assert tick().run_requests == []
    assert on.names() == [report.name]
    assert on.calls() == calls


# What is told


def test_no_record_of_our_log_has_the_name_of_a_file(on: OnDrive, run: Run, tick: Tick, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    on.put(f"nsss/{WORD} partial.csv", [nsss(1), nsss(2, date_of_birth="31/02/1990")])
    on.put(f"nsss/{WORD} refused.csv", b"no,such file\n")
    on.put(f"nsss/{WORD}.pdf", b"%PDF", mime_type="application/pdf")
    on.type(f"generic/{WORD}", [generic(3)])
    on.put(f"spl/{WORD}", b"", mime_type=SHORTCUT, modified=ago(minutes=1))
    gone = on.put(f"contact_tracing/{WORD} gone.csv", [contact_tracing(4)])
    on.discover()
    del on.server.files[gone.id]
    on.fault("media", "corrupt")
    on.fault("create", "429")
    on.fault("piece", "lost_session")
    on.close("self_isolation", "inbound")
    tick()
    run()
    for report in on.reports():
        report.trashed = True
    on.fault("media", "503", times=30)
    on.tidy()
    on.well()
    tick()
    run()
    ours = [record for record in caplog.records if record.name.startswith(("ingestion_dagster", "dagster", "googleapiclient", "google"))]
    assert any(record.name.startswith("ingestion_dagster.residents") for record in ours)
    assert [(record.name, record.getMessage()) for record in ours if WORD in record.getMessage() or WORD in str(record.exc_info)] == []

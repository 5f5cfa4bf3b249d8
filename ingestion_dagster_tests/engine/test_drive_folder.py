"""What only a drop folder on Google Drive can get wrong; Google's own client talks to the Drive of the sandbox."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine.drop_folder import DropFolder
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject, is_key
from ingestion_dagster.sandbox.drive_files import SHEET, SHORTCUT, DriveFile
from ingestion_dagster_tests.engine.drive_scene import DriveScene, on_drive, workbook

LONG_AGO = datetime(2020, 2, 29, 12, 30, 15, 123000, tzinfo=UTC)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[DriveScene]:
    with on_drive(tmp_path) as drive:
        yield drive


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    return workbook(tmp_path / "answer.xlsx", ("row_number", "status"), ("1", "done"))


def only(store: ObjectStore) -> StoredObject:
    (seen,) = store.list()
    return seen


def names(folder: DropFolder, store: ObjectStore | None = None) -> list[str]:
    return sorted(folder.file_name(seen.key) for seen in (store or folder.inbound).list())


# Listing


@pytest.mark.parametrize("empty_first_page", [False, True])
def test_every_page_of_a_listing_is_read(scene: DriveScene, empty_first_page: bool):
    scene.drive.largest_page, scene.drive.empty_first_page = 3, empty_first_page
    wanted = sorted(f"{number:02}.csv" for number in range(10))
    for name in wanted:
        scene.drop("apples", name, b"content")
    assert names(scene.folder) == wanted
    assert scene.drive.calls["list"] == 4 + empty_first_page + 1


def test_more_files_than_a_page_holds_are_all_listed(scene: DriveScene):
    for number in range(1001):
        scene.drop("apples", f"{number}.csv", b"content")
    assert len({seen.key for seen in scene.folder.inbound.list()}) == 1001
    assert scene.drive.calls["list"] == 3


def test_two_files_of_one_name_are_two_objects(scene: DriveScene):
    for content in (b"one", b"two"):
        scene.drop("apples", "a.csv", content)
    first, second = scene.folder.inbound.list()
    assert first.key != second.key
    assert names(scene.folder) == ["a.csv", "a.csv"]
    assert {scene.folder.inbound.read(first), scene.folder.inbound.read(second)} == {b"one", b"two"}


@pytest.mark.parametrize(
    "name", ["a/b.csv", "a/../../etc", "a\nb\x7f.csv", "50%2F50.csv", "%2e", " .csv", "é" * 250, "\ufffd\u2028 \u00a0"], ids=ascii
)
def test_any_name_makes_a_key_and_comes_back_from_it(scene: DriveScene, name: str):
    scene.drop("apples", name, b"content")
    seen = only(scene.folder.inbound)
    assert is_key(seen.key)
    assert len(seen.key.split("/")) == 4
    assert scene.folder.file_name(seen.key) == name
    assert scene.folder.inbound.find(seen.key) == seen


def test_a_name_of_any_length_makes_a_key_that_is_the_same_each_time(scene: DriveScene):
    for end in "ab":
        scene.drop("apples", "€" * 5000 + end, b"content")
    first, second = sorted(seen.key for seen in scene.folder.inbound.list())
    assert is_key(first)
    assert first.split("/")[3] != second.split("/")[3]
    assert sorted(seen.key for seen in scene.another().inbound.list()) == [first, second]


def test_what_lies_in_the_bin_is_not_listed(scene: DriveScene):
    scene.drive.files[scene.drop("apples", "a.csv", b"content")].trashed = True
    assert names(scene.folder) == []


def test_a_renamed_file_is_found_under_its_old_key(scene: DriveScene):
    file_id = scene.drop("apples", "a.csv", b"content")
    seen = only(scene.folder.inbound)
    scene.drive.files[file_id].name = "b.csv"
    assert scene.folder.inbound.find(seen.key) == seen
    assert scene.folder.inbound.read(seen) == b"content"
    assert names(scene.folder) == ["b.csv"]


def test_a_file_that_was_moved_away_is_missing(scene: DriveScene):
    file_id = scene.drop("apples", "a.csv", b"content")
    seen = only(scene.folder.inbound)
    scene.drive.move(scene.drive.files[file_id], scene.folders["pears"]["inbound"])
    assert scene.folder.inbound.find(seen.key) is None
    with pytest.raises(Missing):
        scene.folder.inbound.read(seen)
    assert only(scene.folder.inbound).key.startswith("pears/inbound/")


def test_times_are_of_drive_and_in_utc(scene: DriveScene):
    scene.drop("apples", "a.csv", b"content", modified=LONG_AGO)
    seen = only(scene.folder.inbound)
    assert (seen.modified, seen.modified.tzinfo) == (LONG_AGO, UTC)
    written = scene.folder.inbound.write(scene.folder.key_of("pears", "a.csv"), b"content", modified=LONG_AGO)
    assert written.modified == LONG_AGO


# Listing again and again


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **more: float) -> None:
        self.now += timedelta(**more)


@pytest.fixture
def clock(scene: DriveScene) -> Clock:
    clock = Clock()
    scene.drive.clock = clock
    return clock


def recent(scene: DriveScene, clock: Clock) -> ObjectStore:
    return scene.folder.recently(overlap=timedelta(minutes=5), full_every=timedelta(hours=1), clock=clock)


def test_a_recent_listing_shows_what_has_come_or_changed_since_the_last(scene: DriveScene, clock: Clock):
    store = recent(scene, clock)
    ids = [scene.drop("apples", name, b"content") for name in ("a.csv", "b.csv")]
    assert names(scene.folder, store) == ["a.csv", "b.csv"]
    clock.pass_(minutes=10)
    assert names(scene.folder, store) == ["a.csv", "b.csv"]
    clock.pass_(minutes=10)
    assert names(scene.folder, store) == []
    scene.drive.change(scene.drive.files[ids[1]], b"changed")
    scene.drop("pears", "c.csv", b"content")
    clock.pass_(minutes=1)
    assert names(scene.folder, store) == ["b.csv", "c.csv"]


def test_a_file_that_was_uploaded_with_an_old_date_is_found_at_once(scene: DriveScene, clock: Clock):
    store = recent(scene, clock)
    assert names(scene.folder, store) == []
    clock.pass_(minutes=10)
    scene.drop("apples", "old.csv", b"content", modified=LONG_AGO)
    assert names(scene.folder, store) == ["old.csv"]


def test_what_was_not_settled_at_the_last_listing_is_seen_at_the_next(scene: DriveScene, clock: Clock):
    store = recent(scene, clock)
    assert names(scene.folder, store) == []
    scene.type("apples", "typing", b"a,b\n")
    for _tick in range(4):
        clock.pass_(seconds=20)
        assert names(scene.folder, store) == ["typing"]
    assert store.settled(only(store), for_seconds=60, now=clock.now)


def test_an_old_file_that_was_moved_in_is_found_by_the_next_full_listing(scene: DriveScene, clock: Clock):
    store = recent(scene, clock)
    assert names(scene.folder, store) == []
    moved = scene.drive.put("moved.csv", b"content", modified=LONG_AGO, created=LONG_AGO)
    scene.drive.move(moved, scene.folders["apples"]["inbound"])
    clock.pass_(minutes=59)
    assert names(scene.folder, store) == []
    clock.pass_(minutes=2)
    assert names(scene.folder, store) == ["moved.csv"]
    clock.pass_(minutes=30)
    assert names(scene.folder, store) == []


def test_a_listing_that_broke_off_is_made_up_for(scene: DriveScene, clock: Clock):
    store = recent(scene, clock)
    assert names(scene.folder, store) == []
    clock.pass_(minutes=10)
    scene.drop("apples", "a.csv", b"content")
    scene.drop("pears", "b.csv", b"content")
    for _failing in range(3):
        clock.pass_(minutes=10)
        scene.fault("list", "503", times=5, skip=1)
        with pytest.raises(Transient):
            names(scene.folder, store)
    clock.pass_(minutes=10)
    next(iter(store.list()))
    assert names(scene.folder, store) == ["a.csv", "b.csv"]


# Reading


def test_a_large_file_is_read_in_pieces_and_as_it_was(scene: DriveScene):
    content = os.urandom(20 << 20)
    scene.drop("apples", "a.xlsx", content)
    pieces = [*scene.folder.inbound.stream(only(scene.folder.inbound))]
    assert b"".join(pieces) == content
    assert [len(piece) >> 20 for piece in pieces] == [8, 8, 4]


def test_a_file_that_changes_while_it_is_read_is_noticed(scene: DriveScene):
    file_id = scene.drop("apples", "a.csv", b"a" * (9 << 20))
    reading = scene.folder.inbound.stream(only(scene.folder.inbound))
    next(reading)
    scene.drive.files[file_id].content = b"b" * (9 << 20)
    with pytest.raises(Changed):
        list(reading)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(scene: DriveScene):
    file_id = scene.drop("apples", "a.csv", b"a" * (9 << 20))
    reading = scene.folder.inbound.stream(only(scene.folder.inbound))
    next(reading)
    scene.drive.files[file_id].content = b"b"
    with pytest.raises(Changed):
        list(reading)


def test_a_file_that_goes_while_it_is_read_is_missing(scene: DriveScene):
    file_id = scene.drop("apples", "a.csv", b"a" * (9 << 20))
    reading = scene.folder.inbound.stream(only(scene.folder.inbound))
    next(reading)
    del scene.drive.files[file_id]
    with pytest.raises(Missing):
        list(reading)


def test_bytes_that_were_damaged_on_the_way_are_not_taken(scene: DriveScene):
    scene.drop("apples", "a.csv", b"content")
    seen = only(scene.folder.inbound)
    scene.fault("media", "corrupt")
    with pytest.raises(Changed):
        scene.folder.inbound.read(seen)
    scene.fault("media", "truncated")
    assert scene.folder.inbound.read(seen) == b"content"
    assert scene.pauses == [1.0]


def test_a_google_sheet_is_read_as_csv(scene: DriveScene, tmp_path: Path):
    typed = scene.type("apples", "typed", "name,née\nZoë,07700 900123\n".encode())
    seen = only(scene.folder.inbound)
    assert (seen.size, seen.version) == (0, f"modified:{typed.shown()['modifiedTime']}")
    assert scene.folder.inbound.read(seen).decode() == "name,née\nZoë,07700 900123\n"
    made = scene.type("pears", "made", workbook(tmp_path / "a.xlsx", ("a", "b"), ("0123", "x,y")).read_bytes())
    found = scene.folder.inbound.find(f"pears/inbound/{made.id}/made")
    assert found is not None
    assert scene.folder.inbound.read(found) == b'a,b\r\n0123,"x,y"\r\n'


def test_a_sheet_that_is_edited_while_it_is_exported_is_not_taken(scene: DriveScene, monkeypatch: pytest.MonkeyPatch):
    typed = scene.type("apples", "typed", b"a,b\n1,2\n", modified=LONG_AGO)
    seen = only(scene.folder.inbound)
    exported = DriveFile.exported

    def edited(file: DriveFile) -> bytes:
        file.modified = datetime.now(UTC)
        return exported(file)

    monkeypatch.setattr(DriveFile, "exported", edited)
    with pytest.raises(Changed):
        scene.folder.inbound.read(seen)
    typed.modified = LONG_AGO + timedelta(milliseconds=1)
    with pytest.raises(Changed):
        scene.folder.inbound.read(seen)
    assert scene.drive.calls["export"] == 1


def test_a_sheet_that_is_too_large_to_export_is_refused_with_a_way_out(scene: DriveScene):
    scene.drive.export_limit = 10
    scene.type("apples", "typed", b"a,b\n" * 3)
    with pytest.raises(Refused) as raised:
        scene.folder.inbound.read(only(scene.folder.inbound))
    (problem,) = raised.value.problems
    assert problem.code == "too_large_to_export"
    assert "download it as an Excel workbook" in problem.message


@pytest.mark.parametrize("kind", [SHORTCUT, "application/vnd.google-apps.document", "application/vnd.google-apps.form"])
def test_what_is_no_spreadsheet_is_listed_and_refused(scene: DriveScene, kind: str):
    scene.drop("apples", "other", b"", mime_type=kind)
    with pytest.raises(Refused) as raised:
        scene.folder.inbound.read(only(scene.folder.inbound))
    assert [problem.code for problem in raised.value.problems] == ["unsupported_file_type"]


def test_a_file_that_may_not_be_downloaded_is_refused(scene: DriveScene):
    scene.drop("apples", "a.csv", b"content")
    scene.fault("media", "forbidden")
    with pytest.raises(Refused) as raised:
        scene.folder.inbound.read(only(scene.folder.inbound))
    assert [problem.code for problem in raised.value.problems] == ["download_not_allowed"]


def test_people_are_given_time_to_type(scene: DriveScene):
    now = datetime.now(UTC)
    scene.type("apples", "typed", b"", modified=now - timedelta(seconds=29))
    scene.drop("pears", "uploaded.csv", b"", modified=now)
    typed, uploaded = sorted(scene.folder.inbound.list(), key=lambda seen: seen.key)
    settled = scene.folder.inbound.settled
    assert settled(uploaded, for_seconds=1000, now=now)
    assert not settled(typed, for_seconds=0, now=now)
    assert settled(typed, for_seconds=0, now=now + timedelta(seconds=2))
    assert not settled(typed, for_seconds=60, now=now + timedelta(seconds=2))
    assert settled(typed, for_seconds=60, now=now + timedelta(seconds=32))


# Answers


def shown(scene: DriveScene) -> list[DriveFile]:
    return [each for each in scene.drive.within(scene.folders["apples"]["outbound"]) if not each.trashed]


def test_an_answer_is_a_google_sheet_with_a_link(scene: DriveScene, answer: Path):
    put = scene.folder.put_answer("apples", "PROCESSED_a/b.csv_2026-01-31", answer, "it's \\ a load")
    (file,) = shown(scene)
    assert (file.name, file.mime_type) == ("PROCESSED_a/b.csv_2026-01-31", SHEET)
    assert file.exported() == b"row_number,status\r\n1,done\r\n"
    assert put.url == f"https://docs.google.com/spreadsheets/d/{file.id}/edit"
    assert [*scene.another().answers("apples")] == [put]
    assert put.mark == "it's \\ a load"


def test_a_mark_and_a_name_stand_for_one_answer_each(scene: DriveScene, answer: Path):
    for name, mark in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")):
        scene.folder.put_answer("apples", name, answer, mark)
    assert sorted((each.name, each.app_properties["ingestion"]) for each in shown(scene)) == [("a", "1"), ("a", "2"), ("b", "1")]
    with pytest.raises(ValueError, match="100 bytes"):
        scene.folder.put_answer("apples", "a", answer, "é" * 51)


def test_an_answer_put_again_keeps_its_link(scene: DriveScene, answer: Path, tmp_path: Path):
    first = scene.folder.put_answer("apples", "a", answer, "1")
    newer = workbook(tmp_path / "newer.xlsx", ("newer",))
    assert scene.another().put_answer("apples", "a", newer, "1") == first
    assert [each.content for each in shown(scene)] == [newer.read_bytes()]


@pytest.mark.parametrize("kind", ["lost", "lost_503", "lost_session"])
@pytest.mark.parametrize("size", [0, 9 << 20])
def test_an_answer_whose_upload_got_no_reply_stands_there_once(scene: DriveScene, tmp_path: Path, kind: str, size: int):
    content = tmp_path / "answer.xlsx"
    content.write_bytes(b"PK" + os.urandom(size))
    scene.fault("piece", kind, skip=size > 8 << 20)
    put = scene.folder.put_answer("apples", "a", content, "1")
    assert [(each.name, each.content == content.read_bytes()) for each in shown(scene)] == [("a", True)]
    assert [*scene.folder.answers("apples")] == [put]


@pytest.mark.parametrize("at", ["list", "get", "create", "piece"])
@pytest.mark.parametrize("kind", ["429", "403", "500", "503", "reset", "html"])
def test_an_answer_gets_through_what_passes(scene: DriveScene, answer: Path, at: str, kind: str):
    scene.fault(at, kind, times=2)
    scene.folder.put_answer("apples", "a", answer, "1")
    assert [each.content for each in shown(scene)] == [answer.read_bytes()]


def test_an_answer_that_goes_away_while_it_is_replaced_is_put_anew(scene: DriveScene, answer: Path, monkeypatch: pytest.MonkeyPatch):
    scene.folder.put_answer("apples", "a", answer, "1")
    (file,) = shown(scene)
    writable = scene.drive.writable

    def going(file_id: str, **options: bool) -> DriveFile:
        if file_id == file.id:
            scene.drive.files.pop(file.id, None)
        return writable(file_id, **options)

    monkeypatch.setattr(scene.drive, "writable", going)
    scene.folder.put_answer("apples", "a", answer, "1")
    assert [each.content for each in shown(scene)] == [answer.read_bytes()]


def test_a_killed_process_leaves_one_answer_when_the_next_puts_it_again(scene: DriveScene, answer: Path):
    pairs = {dataset: (sides["inbound"], sides["outbound"]) for dataset, sides in scene.folders.items()}
    code = (
        "import sys\nfrom pathlib import Path\nfrom ingestion_dagster.engine.drop_folder import *\n"
        f"folders = {{name: FolderIds(*ids) for name, ids in {pairs!r}.items()}}\n"
        f"folder = open_drop_folder('gdrive:', folders=folders, credentials=Path({str(scene.credentials)!r}), api_url={scene.url!r})\n"
        f"folder.put_answer('apples', 'a', Path({str(answer)!r}), '1')"
    )
    for point, standing in (("before", 0), ("after", 1)):
        environment = {**os.environ, "INGESTION_TEST_FAULT": f"drop_folder.put_answer.{point}"}
        assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
        assert len(shown(scene)) == standing
    scene.folder.put_answer("apples", "a", answer, "1")
    assert len(shown(scene)) == 1


@pytest.mark.parametrize("kind", ["lost", "lost_503", "lost_session"])
def test_a_landed_file_whose_upload_got_no_reply_is_there_once(scene: DriveScene, kind: str):
    scene.fault("piece", kind)
    written = scene.folder.inbound.write(scene.folder.key_of("apples", "a.csv"), b"content")
    assert only(scene.folder.inbound) == written


def test_the_same_file_landed_twice_is_two_files(scene: DriveScene):
    key = scene.folder.key_of("apples", "a.csv")
    first, second = (scene.folder.inbound.write(key, b"content") for _time in range(2))
    assert {seen.key for seen in scene.folder.inbound.list()} == {first.key, second.key}
    with pytest.raises(ValueError, match="a new file"):
        scene.folder.inbound.write(first.key, b"content")


def test_inbound_files_cannot_be_taken_away(scene: DriveScene, tmp_path: Path):
    scene.drop("apples", "a.csv", b"content")
    store, seen = scene.folder.inbound, only(scene.folder.inbound)
    for ask in (lambda: store.remove(seen), lambda: store.receive(store, seen, "k"), lambda: store.take(tmp_path, "k"), store.scratch):
        with pytest.raises(NotImplementedError):
            ask()
    store.flush()
    assert only(store) == seen


# Patience


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        (at, kind)
        for at in ("list", "get", "media", "export")
        for kind in ("429", "403", "500", "503", "reset", "html")
        if (at, kind) != ("media", "html")  # which is a file like others, and told by its checksum
    ],
)
def test_what_passes_is_waited_out(scene: DriveScene, at: str, kind: str):
    scene.type("apples", "typed", b"a\n") if at == "export" else scene.drop("apples", "a.csv", b"a\n")
    scene.fault(at, kind, times=2)
    assert scene.folder.inbound.read(only(scene.folder.inbound)) == b"a\n"


def test_pauses_grow_and_end(scene: DriveScene):
    scene.fault("get", "503", times=100)
    with pytest.raises(Transient) as raised:
        names(scene.folder)
    assert raised.value.code == "drive_unavailable"
    assert scene.pauses == [1.0, 2.0, 4.0, 8.0]
    assert scene.drive.calls["get"] == 5


def test_retry_after_is_waited_for_on_top_and_not_for_ever(scene: DriveScene):
    scene.fault("get", "429", retry_after="20")
    assert names(scene.folder) == []
    assert scene.pauses == [21.0]
    scene.fault("get", "429", retry_after="3600")
    with pytest.raises(Transient):
        names(scene.folder)
    assert scene.pauses == [21.0]


def test_a_server_that_hangs_is_given_up_on(scene: DriveScene):
    scene.fault("get", "hang", times=2)
    with pytest.raises(Transient, match=r"2 attempts \(TimeoutError\)"):
        names(scene.another(timeout=0.2, attempts=2))


def test_a_server_that_is_not_there_is_transient(tmp_path: Path):
    with on_drive(tmp_path) as scene:
        pass
    with pytest.raises(Transient) as raised:
        names(scene.another(attempts=2))
    assert raised.value.code == "drive_unavailable"


def test_time_is_bounded_too(scene: DriveScene):
    moments = iter(range(0, 1000, 50))
    scene.fault("get", "503", times=100)
    with pytest.raises(Transient):
        names(scene.another(seconds=120, attempts=100, clock=lambda: float(next(moments))))
    assert scene.drive.calls["get"] == 3


def test_threads_do_not_share_a_connection(scene: DriveScene, answer: Path):
    for number in range(8):
        scene.drop("apples", f"{number}.csv", bytes([number]) * 100_000)
    found = [*scene.folder.inbound.list()]
    with ThreadPoolExecutor(8) as pool:
        contents = [*pool.map(scene.folder.inbound.read, found * 3)]
        put = [*pool.map(lambda number: scene.folder.put_answer("apples", str(number), answer, "1"), range(8))]
    assert [content[:1] + bytes([len(set(content))]) for content in contents[:8]] == [bytes([number, 1]) for number in range(8)]
    assert len(set(put)) == len(shown(scene)) == 8


# Who may do what


def test_nobody_is_asked_but_the_api_that_is_set(scene: DriveScene, answer: Path, monkeypatch: pytest.MonkeyPatch):
    asked: set[str] = set()
    find = socket.getaddrinfo

    def finding(host: str, *more: Any, **others: Any) -> Any:
        asked.add(host)
        return find(host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", finding)
    threads = threading.active_count()
    scene.folder.put_answer("apples", "a", answer, "1")
    assert asked == {"127.0.0.1"}
    assert threading.active_count() == threads


def test_a_token_that_expires_is_renewed(scene: DriveScene, answer: Path):
    scene.drop("apples", "a.csv", b"content")
    assert names(scene.folder) == ["a.csv"]
    scene.drive.tokens.clear()
    assert names(scene.folder) == ["a.csv"]
    scene.drive.tokens.clear()
    scene.folder.put_answer("apples", "a", answer, "1")
    assert scene.drive.calls["token"] == 3


@pytest.mark.parametrize("size", [3 << 20, 9 << 20])
def test_a_token_that_expires_between_pieces_loses_none(scene: DriveScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int):
    content = tmp_path / "answer.xlsx"
    content.write_bytes(b"PK" + os.urandom(size))
    allowed = scene.drive._allowed

    def expiring(*given: Any) -> None:
        allowed(*given)
        scene.drive.tokens.clear()

    monkeypatch.setattr(scene.drive, "_allowed", expiring)
    scene.folder.put_answer("apples", "a", content, "1")
    assert [each.content == content.read_bytes() for each in shown(scene)] == [True]
    assert scene.pauses == []


def test_a_key_that_google_does_not_know_says_what_to_do(scene: DriveScene):
    public = dict(scene.drive.accounts)
    scene.drive.accounts.clear()
    with pytest.raises(ConfigurationError, match="INGESTION_DRIVE_CREDENTIALS"):
        names(scene.folder)
    scene.drive.accounts.update(public)
    assert names(scene.folder) == []


def test_a_new_key_file_is_read_after_the_old_one_was_refused(scene: DriveScene):
    working = scene.credentials.read_text()
    scene.credentials.write_text(working.replace("drop-folder@", "gone@"))
    with pytest.raises(ConfigurationError):
        names(scene.folder)
    scene.credentials.write_text(working)
    assert names(scene.folder) == []


@pytest.mark.parametrize("side", ["inbound", "outbound"])
def test_a_folder_that_is_not_shared_names_its_setting_and_whom_to_share_it_with(scene: DriveScene, answer: Path, side: str):
    scene.drive.roles[scene.folders["apples"][side]] = "none"
    said = rf"APPLES_{side.upper()}_FOLDER_ID.*drop-folder@sandbox"
    if side == "inbound":
        assert names(scene.folder) == []
        assert re.search(said, scene.folder.closed()["apples"])
        return
    with pytest.raises(ConfigurationError, match=said):
        scene.folder.put_answer("apples", "a", answer, "1")


def test_a_folder_that_is_not_shared_does_not_hide_the_others_and_is_forgotten_once_it_is(scene: DriveScene):
    others = [dataset for dataset in scene.folders if dataset != "apples"]
    scene.drop(others[0], "there.csv", b"a")
    recent = scene.folder.recently()
    scene.drive.roles[scene.folders["apples"]["inbound"]] = "none"
    assert names(scene.folder) == names(scene.folder, recent) == ["there.csv"]
    assert scene.folder.closed().keys() == {"apples"}
    for dataset in others:
        scene.drive.roles[scene.folders[dataset]["inbound"]] = "none"
    with pytest.raises(ConfigurationError):
        names(scene.folder)
    scene.drive.roles.clear()
    assert names(scene.folder, recent) == ["there.csv"]
    assert scene.folder.closed() == {}


def test_a_folder_that_may_only_be_read_says_so(scene: DriveScene, answer: Path):
    scene.drive.roles[scene.folders["apples"]["outbound"]] = "reader"
    with pytest.raises(ConfigurationError, match=r"APPLES_OUTBOUND_FOLDER_ID.*drop-folder@sandbox.*content manager"):
        scene.folder.put_answer("apples", "a", answer, "1")


def test_a_folder_in_the_bin_and_one_that_is_a_file_are_not_taken_for_empty_ones(scene: DriveScene):
    folder = scene.drive.files[scene.folders["apples"]["inbound"]]
    folder.trashed = True
    assert names(scene.folder) == []
    assert "APPLES_INBOUND_FOLDER_ID names on Drive is in the bin" in scene.folder.closed()["apples"]
    folder.trashed, folder.mime_type = False, "text/csv"
    assert names(scene.folder) == []
    assert "APPLES_INBOUND_FOLDER_ID names on Drive is no folder" in scene.folder.closed()["apples"]


def test_an_account_without_storage_is_told_of_shared_drives(scene: DriveScene, answer: Path):
    scene.fault("create", "quota")
    with pytest.raises(ConfigurationError, match=r"APPLES_OUTBOUND_FOLDER_ID.*shared drive"):
        scene.folder.put_answer("apples", "a", answer, "1")


def test_a_folder_of_a_persons_own_drive_is_listed_too(scene: DriveScene):
    scene.drive.files[scene.folders["apples"]["inbound"]].drive_id = None
    scene.drop("apples", "a.csv", b"content")
    scene.drop("pears", "b.csv", b"content")
    assert names(scene.folder) == ["a.csv", "b.csv"]


def test_neither_log_nor_errors_tell_names_or_answers(scene: DriveScene, answer: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    name = "Testy Mcfictional 999 000 0018"
    file_id = scene.drop("apples", f"{name}.csv", b"content")
    seen = only(scene.folder.inbound)
    told: list[str] = []
    trials: list[Any] = [
        ("media", "forbidden", lambda: scene.folder.inbound.read(seen)),
        ("media", "corrupt", lambda: scene.folder.inbound.read(seen)),
        ("get", "503", lambda: scene.folder.inbound.read(seen)),
        ("create", "quota", lambda: scene.folder.put_answer("apples", name, answer, "1")),
        ("piece", "html", lambda: scene.folder.put_answer("apples", name, answer, "1")),
    ]
    for at, kind, ask in trials:
        scene.fault(at, kind, times=5)
        with pytest.raises((Refused, Changed, Transient, ConfigurationError)) as raised:
            ask()
        told += traceback.format_exception(raised.value)
        scene.drive.faults.clear()
    del scene.drive.files[file_id]
    with pytest.raises(Missing) as missing:
        scene.folder.inbound.read(seen)
    told += traceback.format_exception(missing.value)
    assert told
    for text in (*told, caplog.text):
        assert "Mcfictional" not in text
        assert "quota has been exceeded" not in text

"""One contract for a drop folder on a disk and on Google Drive; then how one is named, and what only a disk can do wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_dagster.engine.drive_folder import DriveFolder
from ingestion_dagster.engine.drop_folder import DropFolder, FolderIds, open_drop_folder
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster_tests.engine.drive_scene import DATASETS, DriveScene, on_drive, workbook

ODD_NAMES = [
    "a b&c=d#1?.csv",
    "é e\u0301 😀.csv",
    "100%.csv",
    "50%20off%.csv",
    'it\'s "quoted" \\ and (more) {x}.csv',
    " space before and after ",
    "no ending",
    "~tilde.csv",
]


@dataclass
class DiskScene:
    """A drop folder on a disk, and what people do with it."""

    root: Path
    folder: DropFolder

    def drop(self, dataset: str, name: str, content: bytes) -> None:
        self._put(dataset, "inbound", name, content)

    def overwrite(self, dataset: str, name: str, content: bytes) -> None:
        self._put(dataset, "inbound", name, content)

    def delete(self, dataset: str, side: str, name: str) -> None:
        (self.root / dataset / side / (name + ".xlsx" if side == "outbound" else name)).unlink()

    def clutter(self, dataset: str, side: str, name: str) -> None:
        self._put(dataset, side, name, b"clutter")

    def subfolder(self, dataset: str, name: str, content: bytes) -> None:
        self._put(dataset, "inbound/inner", name, content)

    def outbound(self, dataset: str) -> dict[str, bytes]:
        return {path.name.removesuffix(".xlsx"): path.read_bytes() for path in (self.root / dataset / "outbound").iterdir()}

    def _put(self, dataset: str, side: str, name: str, content: bytes) -> None:
        place = self.root / dataset / side
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


Scene = DiskScene | DriveScene


@pytest.fixture
def disk(tmp_path: Path) -> DiskScene:
    root = tmp_path / "a drive"
    return DiskScene(root, open_drop_folder(root.as_uri(), folders=dict.fromkeys(DATASETS, FolderIds())))


@pytest.fixture(params=["disk", "drive"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    if request.param == "disk":
        yield request.getfixturevalue("disk")
    else:
        with on_drive(tmp_path) as drive:
            yield drive


def names(folder: DropFolder) -> list[str]:
    return sorted(folder.file_name(seen.key) for seen in folder.inbound.list())


# Inbound


def test_an_empty_drop_folder_has_nothing_to_show(scene: Scene):
    assert [*scene.folder.inbound.list()] == []
    assert [*scene.folder.answers("apples")] == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_shown_as_people_wrote_it(scene: Scene, name: str):
    scene.drop("apples", name, b"content")
    (seen,) = scene.folder.inbound.list()
    assert seen.key.startswith("apples/inbound/")
    assert scene.folder.file_name(seen.key) == name
    assert seen.size == 7
    assert abs(seen.modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert scene.folder.inbound.read(seen) == b"content"
    assert scene.folder.inbound.find(seen.key) == seen


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_that_is_landed_keeps_its_name(scene: Scene, name: str):
    inbound = scene.folder.inbound
    written = inbound.write(scene.folder.key_of("apples", name), b"content")
    assert [*inbound.list()] == [written] == [inbound.find(written.key)]
    assert inbound.read(written) == b"content"
    assert scene.folder.file_name(written.key) == name


def test_answers_and_strangers_are_not_taken_for_files_to_load(scene: Scene, tmp_path: Path):
    scene.drop("apples", "a.csv", b"a")
    scene.clutter("apples", "outbound", "b.csv")
    scene.folder.put_answer("apples", "c", workbook(tmp_path / "c.xlsx"), "c")
    assert names(scene.folder) == ["a.csv"]


def test_locks_and_hidden_files_and_inner_folders_are_passed_over(scene: Scene):
    for name in ("a.xlsx", "~$a.xlsx", ".~lock.a.xlsx#", ".DS_Store"):
        scene.drop("apples", name, b"content")
    scene.subfolder("apples", "b.csv", b"content")
    assert names(scene.folder) == ["a.xlsx"]


def test_a_part_can_be_listed(scene: Scene):
    for dataset in DATASETS:
        scene.drop(dataset, f"{dataset}.csv", b"content")
    inbound = scene.folder.inbound
    assert {seen.key.split("/")[0] for seen in inbound.list()} == set(DATASETS)
    assert {seen.key.split("/")[0] for seen in inbound.list("pears")} == {"pears"}
    assert {seen.key.split("/")[0] for seen in inbound.list("pears/inbound/")} == {"pears"}
    assert [*inbound.list("pear")] == [*inbound.list("pears/outbound")] == []


def test_a_file_that_was_overwritten_is_another_version(scene: Scene):
    scene.drop("apples", "a.csv", b"one")
    (before,) = scene.folder.inbound.list()
    scene.overwrite("apples", "a.csv", b"two")
    (after,) = scene.folder.inbound.list()
    assert (before.key, before.version != after.version) == (after.key, True)
    with pytest.raises(Changed):
        scene.folder.inbound.read(before)
    assert scene.folder.inbound.read(after) == b"two"


def test_a_file_that_was_deleted_is_missing(scene: Scene):
    scene.drop("apples", "a.csv", b"one")
    (seen,) = scene.folder.inbound.list()
    scene.delete("apples", "inbound", "a.csv")
    assert scene.folder.inbound.find(seen.key) is None
    with pytest.raises(Missing):
        scene.folder.inbound.read(seen)


def test_an_empty_file_is_read_as_empty(scene: Scene):
    scene.drop("apples", "a.csv", b"")
    (seen,) = scene.folder.inbound.list()
    assert scene.folder.inbound.read(seen) == b""


def test_all_that_came_is_in_one_of_two_recent_listings(scene: Scene):
    recent = scene.folder.recently(overlap=timedelta(0), full_every=timedelta(hours=1))
    scene.drop("apples", "a.csv", b"one")
    assert {scene.folder.file_name(seen.key) for seen in recent.list()} == {"a.csv"}
    scene.drop("apples", "b.csv", b"two")
    assert "b.csv" in {scene.folder.file_name(seen.key) for seen in recent.list()}
    assert recent.url == scene.folder.inbound.url


# Outbound


def test_an_answer_appears_and_is_replaced_by_the_next_of_its_mark_and_name(scene: Scene, tmp_path: Path):
    first, second = workbook(tmp_path / "1.xlsx", ("1",)), workbook(tmp_path / "2.xlsx", ("2",))
    put = scene.folder.put_answer("apples", "PROCESSED_a.csv_2026-01-31", first, "load-1")
    assert put.name == "PROCESSED_a.csv_2026-01-31"
    assert scene.outbound("apples") == {put.name: first.read_bytes()}
    assert scene.folder.put_answer("apples", put.name, second, "load-1") == put
    assert scene.outbound("apples") == {put.name: second.read_bytes()}
    assert [*scene.folder.answers("apples")] == [put]
    assert [*scene.folder.answers("pears")] == []
    assert first.exists()


def test_an_answer_that_somebody_deleted_can_be_put_again(scene: Scene, tmp_path: Path):
    answer = workbook(tmp_path / "1.xlsx", ("1",))
    scene.folder.put_answer("apples", "a", answer, "load-1")
    scene.delete("apples", "outbound", "a")
    assert [*scene.folder.answers("apples")] == []
    scene.folder.put_answer("apples", "a", answer, "load-1")
    assert scene.outbound("apples") == {"a": answer.read_bytes()}


def test_what_others_put_into_outbound_is_seen_and_left_alone(scene: Scene, tmp_path: Path):
    scene.clutter("apples", "outbound", "notes")
    scene.clutter("apples", "outbound", "a")
    scene.folder.put_answer("apples", "b", workbook(tmp_path / "b.xlsx"), "load-1")
    found = {answer.name: answer.mark for answer in scene.folder.answers("apples")}
    assert set(found) == {"notes", "a", "b"}
    assert (found["notes"], found["a"]) == (None, None)
    assert scene.outbound("apples")["a"] == b"clutter"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_answer_has_the_name_that_it_was_given(scene: Scene, tmp_path: Path, name: str):
    assert scene.folder.put_answer("apples", name, workbook(tmp_path / "b.xlsx"), "load-1").name == name
    assert [answer.name for answer in scene.folder.answers("apples")] == [name]


def test_a_dataset_without_folders_is_refused(scene: Scene, tmp_path: Path):
    for ask in (
        lambda: scene.folder.key_of("plums", "a.csv"),
        lambda: scene.folder.put_answer("plums", "a", workbook(tmp_path / "b.xlsx"), "load-1"),
        lambda: [*scene.folder.answers("plums")],
    ):
        with pytest.raises(ConfigurationError, match="plums"):
            ask()


# On a disk


@pytest.mark.parametrize("name", ["a/b", "../../b", ".hidden", "a\nb", "é" * 200, "n" * 300, ""], ids=str)
def test_an_answer_whose_name_no_file_can_have_is_put_all_the_same(disk: DiskScene, tmp_path: Path, name: str):
    content = workbook(tmp_path / "b.xlsx", (name,))
    put = disk.folder.put_answer("apples", name, content, "load-1")
    assert disk.folder.put_answer("apples", name, content, "load-1") == put
    assert [*disk.folder.answers("apples")] == [put]
    (path,) = (disk.root / "apples/outbound").iterdir()
    assert path.read_bytes() == content.read_bytes()
    assert (path.name, put.url) == (f"{put.name}.xlsx", path.as_uri())


def test_long_names_that_begin_alike_do_not_overwrite_each_other(disk: DiskScene, tmp_path: Path):
    content = workbook(tmp_path / "b.xlsx")
    first, second = (disk.folder.put_answer("apples", "n" * 300 + end, content, "load-1") for end in "ab")
    assert {answer.name for answer in disk.folder.answers("apples")} == {first.name, second.name}
    assert first.name != second.name


def test_a_crash_leaves_the_answer_whole_or_not_there(disk: DiskScene, tmp_path: Path):
    content = workbook(tmp_path / "b.xlsx", ("1",))
    code = (
        "from pathlib import Path\nfrom ingestion_dagster.engine.drop_folder import *\n"
        f"folder = open_drop_folder({disk.root.as_uri()!r}, folders={{'apples': FolderIds()}})\n"
        f"folder.put_answer('apples', 'a', Path({str(content)!r}), 'm')"
    )
    for point, standing in (("before", False), ("after", True)):
        environment = {**os.environ, "INGESTION_TEST_FAULT": f"drop_folder.put_answer.{point}"}
        assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
        assert [answer.name for answer in disk.folder.answers("apples")] == ["a"] * standing
    assert [path.read_bytes() for path in (disk.root / "apples/outbound").iterdir()] == [content.read_bytes()]


def test_nothing_is_left_aside_on_the_disk(disk: DiskScene, tmp_path: Path):
    disk.folder.put_answer("apples", "a", workbook(tmp_path / "b.xlsx"), "load-1")
    assert sorted(str(path.relative_to(disk.root)) for path in disk.root.rglob("*") if path.is_file()) == ["apples/outbound/a.xlsx"]


def test_a_disk_on_which_a_file_stands_where_the_folder_should_be_says_so(disk: DiskScene, tmp_path: Path):
    (disk.root / "apples").mkdir(parents=True)
    (disk.root / "apples/outbound").write_text("a file")
    with pytest.raises(ConfigurationError):
        disk.folder.put_answer("apples", "a", workbook(tmp_path / "b.xlsx"), "load-1")


# Opening


@pytest.mark.parametrize(
    "url",
    [
        "",
        "drive",
        "gdrive:folder",
        "gdrive://x",
        "file://host/x",
        "file:///a/../b",
        "s3://user:secret@bucket",  # pragma: allowlist secret
        "/tmp/secret",
    ],
)
def test_another_url_is_refused_without_being_shown(url: str):
    with pytest.raises(ConfigurationError, match=r"file:///folder .* or gdrive:") as raised:
        open_drop_folder(url, folders={})
    assert "secret" not in str(raised.value)


def test_the_ledger_knows_the_drop_folder_by_its_own_url(tmp_path: Path):
    url = f"{(tmp_path / 'a drive').as_uri()}/"
    assert open_drop_folder(url, folders={}).inbound.url == url[:-1]
    pairs = {"apples": FolderIds("1", "2")}
    assert open_drop_folder("gdrive:", folders=pairs, credentials=tmp_path / "key.json").inbound.url == "gdrive:"


def test_a_drop_folder_is_opened_once_and_touches_nothing(tmp_path: Path):
    def opened(inbound: str) -> DropFolder:
        return open_drop_folder("gdrive:", folders={"apples": FolderIds(inbound, "2")}, credentials=tmp_path / "none.json")

    assert opened("1") is opened("1")
    assert opened("1") is not opened("3")
    assert isinstance(opened("1"), DriveFolder)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"apples": FolderIds("1", None)}, r"apples has only one .* …_APPLES_OUTBOUND_FOLDER_ID"),
        ({"apples": FolderIds("", "1")}, r"apples has only one .* …_APPLES_INBOUND_FOLDER_ID"),
        ({"apples": FolderIds("1", "1")}, r"APPLES_INBOUND_FOLDER_ID and …_APPLES_OUTBOUND_FOLDER_ID name the same"),
        ({"apples": FolderIds("1", "2"), "pears": FolderIds("2", "3")}, r"APPLES_OUTBOUND_FOLDER_ID and …_PEARS_INBOUND_FOLDER_ID"),
    ],
    ids=["half", "other-half", "both-the-same", "shared"],
)
def test_half_a_pair_and_a_folder_of_two_uses_are_refused(folders: dict[str, FolderIds], message: str, tmp_path: Path):
    with pytest.raises(ConfigurationError, match=message):
        open_drop_folder("gdrive:", folders=folders, credentials=tmp_path / "key.json")


def test_drive_without_credentials_names_the_setting():
    with pytest.raises(ConfigurationError, match="INGESTION_DRIVE_CREDENTIALS"):
        open_drop_folder("gdrive:", folders={})


@pytest.mark.parametrize(
    "content", [None, "no json", "[]", "{}", '{"type": "authorized_user"}'], ids=["missing", "text", "list", "empty", "other"]
)
def test_an_unusable_key_file_names_the_setting_and_shows_nothing(tmp_path: Path, content: str | None):
    place = tmp_path / "key.json"
    if content is not None:
        place.write_text(content)
    folder = open_drop_folder("gdrive:", folders={"apples": FolderIds("1", "2")}, credentials=place)
    with pytest.raises(ConfigurationError, match="INGESTION_DRIVE_CREDENTIALS") as raised:
        [*folder.inbound.list()]
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__

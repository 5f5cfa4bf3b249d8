"""A Google Drive of the sandbox with pairs of folders on a shared drive, and the drop folder that is told of them."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import xlsxwriter

from ingestion_dagster.engine.drive_calls import DriveCalls, Patience
from ingestion_dagster.engine.drive_folder import DriveFolder
from ingestion_dagster.engine.drive_pairs import DrivePairs
from ingestion_dagster.sandbox.drive_files import SHEET, DriveFile
from ingestion_dagster.sandbox.google_drive import GoogleDrive
from ingestion_dagster_tests.sandbox.running import running

DATASETS = ("apples", "pears")
EMAIL = "drop-folder@sandbox.example.invalid"


@dataclass
class DriveScene:
    """What there is on both sides of the wire."""

    drive: GoogleDrive
    url: str
    credentials: Path
    folders: dict[str, dict[str, str]]
    folder: DriveFolder
    pauses: list[float] = field(default_factory=list)

    def drop(self, dataset: str, name: str, content: bytes, **more: Any) -> str:
        return self.drive.put(name, content, parent=self.folders[dataset]["inbound"], **more).id

    def type(self, dataset: str, name: str, csv: bytes, **more: Any) -> DriveFile:
        """A Google Sheet, as somebody types it in."""
        return self.drive.put(name, csv, parent=self.folders[dataset]["inbound"], mime_type=SHEET, **more)

    def overwrite(self, dataset: str, name: str, content: bytes) -> None:
        self.drive.change(self._found(dataset, "inbound", name), content)

    def delete(self, dataset: str, side: str, name: str) -> None:
        self._found(dataset, side, name).trashed = True

    def clutter(self, dataset: str, side: str, name: str) -> None:
        self.drive.put(name, b"clutter", parent=self.folders[dataset][side])

    def subfolder(self, dataset: str, name: str, content: bytes) -> None:
        inner = self.drive.folder("inner")
        self.drive.files[inner].parents = [self.folders[dataset]["inbound"]]
        self.drive.put(name, content, parent=inner)

    def outbound(self, dataset: str) -> dict[str, bytes]:
        """What lies there: names, which are to be unique here, and contents."""
        found = [each for each in self.drive.within(self.folders[dataset]["outbound"]) if not each.trashed]
        assert len({each.name for each in found}) == len(found)
        return {each.name: each.content for each in found}

    def fault(self, at: str, kind: str, **more: Any) -> None:
        self.drive.faults.add(kind, at, **more)

    def another(self, **patience: Any) -> DriveFolder:
        """The drop folder as another process has it."""
        pairs = DrivePairs(self.folders, DriveCalls(self.credentials, self.url, replace(patient(self.pauses), **patience)))
        return DriveFolder("gdrive:", pairs)

    def _found(self, dataset: str, side: str, name: str) -> DriveFile:
        return next(each for each in self.drive.within(self.folders[dataset][side]) if each.name == name and not each.trashed)


@cache
def _account() -> tuple[dict[str, str], dict[str, str]]:
    """A key is dear to make; the server is asked for one per process."""
    made = GoogleDrive()
    return made.new_account("", EMAIL), made.accounts


def key_file(drive: GoogleDrive, url: str, place: Path) -> Path:
    key, public = _account()
    drive.accounts.update(public)
    place.write_text(json.dumps({**key, "token_uri": f"{url}/token"}))
    return place


def patient(pauses: list[float]) -> Patience:
    """Waits for nothing, and says what it would have waited for."""
    return Patience(timeout=10.0, sleep=pauses.append, chance=lambda: 1.0)


@contextmanager
def on_drive(place: Path) -> Iterator[DriveScene]:
    drive = GoogleDrive()
    folders = {
        dataset: {side: drive.folder(f"{dataset} {side}", drive_id="0AShared") for side in ("inbound", "outbound")} for dataset in DATASETS
    }
    with running(drive) as url:
        scene = DriveScene(drive, url, key_file(drive, url, place / "key.json"), folders, cast("Any", None))
        scene.folder = scene.another()
        yield scene


def workbook(place: Path, *rows: tuple[str, ...]) -> Path:
    """An xlsx file."""
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
    place.write_bytes(content.getvalue())
    return place

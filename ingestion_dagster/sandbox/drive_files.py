"""What lies on the sandbox's Google Drive: files of any name, folders, Google Sheets, who may do what in which folder."""

import csv
import hashlib
import io
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

FOLDER = "application/vnd.google-apps.folder"
SHEET = "application/vnd.google-apps.spreadsheet"
SHORTCUT = "application/vnd.google-apps.shortcut"
NATIVE = "application/vnd.google-apps."


class Refusal(Exception):
    """An error as the API answers it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def not_found(file_id: str) -> Refusal:
    """What is said of a file that is not there, or that is nobody's business."""
    return Refusal(404, "notFound", f"File not found: {file_id}.")


@dataclass
class DriveFile:
    """A file, or a folder. `content` is what was uploaded; a Google Sheet has `text` instead, or what was uploaded until it is exported."""

    id: str
    name: str
    mime_type: str
    parents: list[str]
    created: datetime
    modified: datetime
    content: bytes = b""
    text: bytes | None = None
    drive_id: str | None = None
    trashed: bool = False
    app_properties: dict[str, str] = field(default_factory=dict)

    @property
    def is_native(self) -> bool:
        """Whether Google's own editors keep it: it has no bytes."""
        return self.mime_type.startswith(NATIVE)

    def shown(self) -> dict[str, Any]:
        """Its metadata, as the API shows all of it."""
        shown: dict[str, Any] = {
            "kind": "drive#file",
            "id": self.id,
            "name": self.name,
            "mimeType": self.mime_type,
            "parents": list(self.parents),
            "trashed": self.trashed,
            "createdTime": _moment(self.created),
            "modifiedTime": _moment(self.modified),
            "appProperties": dict(self.app_properties),
            "webViewLink": f"https://docs.google.com/spreadsheets/d/{self.id}/edit",
        }
        if self.drive_id:
            shown["driveId"] = self.drive_id
        if not self.is_native:
            shown["md5Checksum"] = hashlib.md5(self.content, usedforsecurity=False).hexdigest()
            shown["size"] = str(len(self.content))
        return shown

    def exported(self) -> bytes:
        """The first worksheet as CSV."""
        if self.text is None:
            self.text = _first_sheet(self.content) if self.content.startswith(b"PK") else self.content
        return self.text


@dataclass
class Files:
    """All there is on it. A service account may write into folders that `roles` does not name; into the others as "reader" or "none"."""

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    files: dict[str, DriveFile] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    export_limit: int = 10 * 1024 * 1024

    def folder(self, name: str = "folder", *, drive_id: str | None = None) -> str:
        """Make a folder, on a shared drive if one is named; its id."""
        return self.put(name, b"", mime_type=FOLDER, drive_id=drive_id).id

    def put(
        self,
        name: str,
        content: bytes = b"",
        *,
        parent: str | None = None,
        mime_type: str = "text/csv",
        modified: datetime | None = None,
        created: datetime | None = None,
        drive_id: str | None = None,
        app_properties: Mapping[str, str] | None = None,
    ) -> DriveFile:
        """Put a file into a folder; what a Google Sheet is given is CSV, or a workbook."""
        now = self.clock()
        parents = [parent] if parent else []
        if parent in self.files:
            drive_id = self.files[parent].drive_id
        made = DriveFile(
            id=f"1{secrets.token_urlsafe(24)}",
            name=name,
            mime_type=mime_type,
            parents=parents,
            created=created or now,
            modified=modified or now,
            content=content,
            drive_id=drive_id,
            app_properties=dict(app_properties or {}),
        )
        self.files[made.id] = made
        return made

    def within(self, parent: str) -> list[DriveFile]:
        """What lies in a folder, in the bin or not."""
        return [each for each in self.files.values() if parent in each.parents]

    def move(self, file: DriveFile, parent: str) -> None:
        """Put a file into another folder, which leaves its times as they are."""
        file.parents, file.drive_id = [parent], self.files[parent].drive_id

    def change(self, file: DriveFile, content: bytes, modified: datetime | None = None) -> None:
        """Give a file another content."""
        file.content, file.text, file.modified = content, None, modified or self.clock()

    def readable(self, file_id: str, *, all_drives: bool) -> DriveFile:
        """A file that may be looked at. Raises `Refusal`."""
        found = self.files.get(file_id)
        if found is None or (found.drive_id and not all_drives) or self._role(found) == "none":
            raise not_found(file_id)
        return found

    def writable(self, file_id: str, *, all_drives: bool) -> DriveFile:
        """A file that may be changed, or a folder that may be written to. Raises `Refusal`."""
        found = self.readable(file_id, all_drives=all_drives)
        if self._role(found) == "reader":
            raise Refusal(403, "insufficientFilePermissions", "The user does not have sufficient permissions for this file.")
        return found

    def is_shown(self, file: DriveFile) -> bool:
        """Whether a search finds it."""
        return self._role(file) != "none"

    def _role(self, file: DriveFile) -> str:
        return next((self.roles[place] for place in (file.id, *file.parents) if place in self.roles), "writer")


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _first_sheet(workbook: bytes) -> bytes:
    from python_calamine import CalamineWorkbook

    rows = CalamineWorkbook.from_filelike(io.BytesIO(workbook)).get_sheet_by_index(0).to_python(skip_empty_area=False)
    text = io.StringIO()
    csv.writer(text).writerows([_displayed(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _displayed(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strftime("%d/%m/%Y") if isinstance(value, date) else str(value)

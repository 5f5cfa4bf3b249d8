"""The inbound folders on Google Drive as an object store, in which a name says nothing: an object is a file by its id.

Keys are `<dataset>/inbound/<file id>/<name>`. The version of an uploaded file is its MD5; of one that Google's own editors keep, and that
has no bytes until it is exported, the time when it was last modified.
"""

import hashlib
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, NoReturn
from urllib.parse import unquote

from ingestion_dagster.engine.drive_calls import Answered
from ingestion_dagster.engine.drive_media import SHEET, bytes_media
from ingestion_dagster.engine.drive_pairs import DriveFile, DrivePairs, stamp
from ingestion_dagster.engine.drop_folder import INBOUND, LONGEST_SEGMENT, as_segment, is_lock
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject, checked_key

_NATIVE = "application/vnd.google-apps."
_TIMED = "modified:"
_TYPING = 30.0
_CHUNK = 8 << 20
_NOT_ALLOWED = frozenset({"cannotDownloadFile", "cannotDownloadAbusiveFile", "cannotExportFile"})


class DriveStore(ObjectStore):
    """The files of all inbound folders. They stay where they are: nothing is removed or moved."""

    dated_by_arrival = True

    def __init__(self, url: str, pairs: DrivePairs) -> None:
        self.url = url
        self._pairs = pairs
        self.closed: dict[str, str] = {}
        """By dataset, why the last listing could not look into its folder."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See ObjectStore. Folders, hidden files and what lies in the bin are skipped.

        An inbound folder that is not open to us does not hide the others: `closed` says why. Raises `ConfigurationError` if none is open.
        """
        yield from self.listed(prefix)

    def listed(self, prefix: str = "", since: datetime | None = None, missed: AbstractSet[str] = frozenset()) -> Iterator[StoredObject]:
        """As `list`; with `since` only files that Drive says were modified or created after that, but of datasets `missed` all."""
        wanted = f"{checked_key(prefix.rstrip('/'))}/" if prefix else ""
        places = {dataset: f"{dataset}/{INBOUND}/" for dataset in self._pairs.datasets}
        asked = [dataset for dataset, place in places.items() if place.startswith(wanted) or wanted.startswith(place)]
        shut = 0
        for dataset in asked:
            try:
                for file in self._pairs.listed(dataset, INBOUND, since=None if dataset in missed else since):
                    key = f"{places[dataset]}{file['id']}/{as_segment(file['name'], LONGEST_SEGMENT, reversible=True)}"
                    if key.startswith(wanted) and not is_lock(file["name"]):
                        yield _stored(key, file)
            except ConfigurationError as error:
                self.closed[dataset] = str(error)
                shut += 1
                if shut == len(asked):
                    raise
            else:
                self.closed.pop(dataset, None)

    def find(self, key: str) -> StoredObject | None:
        """See ObjectStore. The id counts: a file that has been renamed is found under its old key too."""
        dataset, file_id = _parsed(key)
        file = self._pairs.find(dataset, INBOUND, file_id) if file_id else None
        return _stored(key, file) if file else None

    def stream(self, obj: StoredObject) -> Iterator[bytes]:
        """See ObjectStore. Of a Google Sheet it is the first worksheet as displayed, as CSV.

        Raises `Refused` for what has no content that can be read: `unsupported_file_type`, `too_large_to_export`, `download_not_allowed`.
        """
        dataset, file_id = _parsed(obj.key)
        file = self._standing(obj)
        kind = file["mimeType"]
        try:
            if kind == SHEET:
                yield self._pairs.calls.read(lambda files: files.export(fileId=file_id, mimeType="text/csv"))
            elif kind.startswith(_NATIVE):
                _refuse_type()
            else:
                yield from self._downloaded(obj, file_id, int(file.get("size", 0)))
        except Answered as answered:
            _raise_unreadable(answered, f"{dataset}/{INBOUND}/{file_id}")
        if obj.version.startswith(_TIMED):
            self._standing(obj)

    def write(self, key: str, data: bytes, *, modified: datetime | None = None, new: bool = False) -> StoredObject:  # noqa: ARG002 - always is
        """See ObjectStore. `key` is `<dataset>/inbound/<name>`, and every call makes another file, whose real key has its id."""
        dataset, _, name = checked_key(key).partition(f"/{INBOUND}/")
        if not name or "/" in name:
            raise ValueError(f"a new file on Drive has the key <dataset>/{INBOUND}/<name>")
        body = {"name": unquote(name)} | ({"modifiedTime": stamp(modified)} if modified else {})
        fault_point("drive_store.write.before")
        file = self._pairs.put(dataset, INBOUND, body, lambda: bytes_media(data, name), f"landed-{token_hex(8)}")
        fault_point("drive_store.write.after")
        if file.get("md5Checksum") != hashlib.md5(data, usedforsecurity=False).hexdigest():
            raise Transient("drive_unavailable", "what Google Drive has is not what was sent")
        return _stored(f"{dataset}/{INBOUND}/{file['id']}/{as_segment(body['name'], LONGEST_SEGMENT, reversible=True)}", file)

    def settled(self, obj: StoredObject, *, for_seconds: float, now: datetime) -> bool:
        """See ObjectStore. An uploaded file is complete when it appears; into another one people are typing."""
        return not obj.version.startswith(_TIMED) or now - obj.modified >= timedelta(seconds=max(for_seconds, _TYPING))

    def receive(self, source: ObjectStore, obj: StoredObject, key: str) -> StoredObject:
        """Not on Drive: nothing is copied into an inbound folder. Raises `NotImplementedError`."""
        raise NotImplementedError("nothing is copied into an inbound folder")

    def take(self, file: Path, key: str) -> None:
        """Not on Drive: nothing is moved into an inbound folder. Raises `NotImplementedError`."""
        raise NotImplementedError("nothing is moved into an inbound folder")

    def scratch(self) -> Path:
        """Not on Drive: there is nothing to take from it. Raises `NotImplementedError`."""
        raise NotImplementedError("nothing is moved into an inbound folder")

    def remove(self, obj: StoredObject) -> bool:
        """Not on Drive: inbound files stay. Raises `NotImplementedError`."""
        raise NotImplementedError("inbound files stay where they are")

    def flush(self) -> None:
        """See ObjectStore. Drive answers a write when it is durable."""

    def _standing(self, obj: StoredObject) -> DriveFile:
        """The file's metadata, if it is still that version. Without its name, which is people's business, in what is raised."""
        dataset, file_id = _parsed(obj.key)
        file = self._pairs.find(dataset, INBOUND, file_id) if file_id else None
        if file is None:
            raise Missing(f"{dataset}/{INBOUND}/{file_id}")
        if _version(file) != obj.version:
            raise Changed(f"{dataset}/{INBOUND}/{file_id}")
        return file

    def _downloaded(self, obj: StoredObject, file_id: str, size: int) -> Iterator[bytes]:
        digest = hashlib.md5(usedforsecurity=False)
        read = 0
        while read < size:
            piece = self._pairs.calls.read(partial(_ranged, file_id, read))
            if not piece:
                break
            read += len(piece)
            digest.update(piece)
            yield piece
        if not obj.version.startswith(_TIMED) and digest.hexdigest() != obj.version:
            raise Changed(f"{obj.key.split('/')[0]}/{INBOUND}/{file_id}")


class RecentDriveStore(DriveStore):
    """The same files; a listing of all of them shows those that have come since the last, as `DropFolder.recently` says."""

    def __init__(
        self, whole: DriveStore, pairs: DrivePairs, overlap: timedelta, full_every: timedelta, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(whole.url, pairs)
        self.closed = whole.closed
        self._overlap = overlap
        self._full_every = full_every
        self._clock = clock
        self._last: datetime | None = None
        self._last_full: datetime | None = None
        self._missed: AbstractSet[str] = frozenset()
        """Datasets whose folders the last listing could not look into: what lies there has old times."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See ObjectStore and DropFolder.recently. A listing that is broken off counts as none."""
        if prefix:
            yield from self.listed(prefix)
            return
        began = self._clock()
        is_full = self._last is None or self._last_full is None or not timedelta(0) <= began - self._last_full < self._full_every
        yield from self.listed(since=None if is_full or self._last is None else self._last - self._overlap, missed=self._missed)
        self._last, self._missed = began, frozenset(self.closed)
        if is_full:
            self._last_full = began


def _parsed(key: str) -> tuple[str, str]:
    """Dataset and file id; "" for an id that is not there: the key of a file that has not been written yet."""
    segments = checked_key(key).split("/")
    is_file = len(segments) == 4 and segments[1] == INBOUND
    return segments[0], segments[2] if is_file else ""


def _stored(key: str, file: DriveFile) -> StoredObject:
    modified = datetime.fromisoformat(file["modifiedTime"]).astimezone(UTC)
    return StoredObject(key, 0 if file["mimeType"].startswith(_NATIVE) else int(file.get("size", 0)), modified, _version(file))


def _version(file: DriveFile) -> str:
    checksum: str | None = file.get("md5Checksum")
    return checksum or f"{_TIMED}{file['modifiedTime']}"


def _ranged(file_id: str, start: int, files: Any) -> Any:
    request = files.get_media(fileId=file_id, supportsAllDrives=True)
    request.headers["range"] = f"bytes={start}-{start + _CHUNK - 1}"
    return request


def _raise_unreadable(answered: Answered, place: str) -> NoReturn:
    if answered.status == 404:
        raise Missing(place) from None
    if answered.status == 416:
        raise Changed(place) from None
    if answered.reason == "exportSizeLimitExceeded":
        message = "Google exports no Sheet of this size: download it as an Excel workbook (.xlsx), and upload that into the inbound folder"
        raise Refused(Problem("too_large_to_export", "file", message)) from None
    if answered.reason == "fileNotDownloadable":
        _refuse_type()
    if answered.reason in _NOT_ALLOWED:
        message = "its owner has forbidden to download it, or Google has: allow it in the file's sharing settings, or upload a copy"
        raise Refused(Problem("download_not_allowed", "file", message)) from None
    if answered.status == 403:
        # Its folder was open a moment ago: this one file is charged, its neighbours go on.
        raise Transient("drive_refused", f"Google Drive does not give a file out ({answered.reason or 403})") from None
    raise Transient("drive_unavailable", f"Google Drive answered {answered.status} {answered.reason}".rstrip()) from None


def _refuse_type() -> NoReturn:
    message = "it is no spreadsheet, or a shortcut to one: put the Google Sheet itself, an Excel workbook (.xlsx) or a CSV file here"
    raise Refused(Problem("unsupported_file_type", "file", message))

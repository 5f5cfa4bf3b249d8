"""Pairs of folders on Google Drive: what lies in them, page by page, and how a file is put into one of them just once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ingestion_dagster.engine.drive_calls import Answered, DriveCalls, Passing, Tries
from ingestion_dagster.engine.drop_folder import setting
from ingestion_dagster.engine.errors import ConfigurationError, Transient

FOLDER = "application/vnd.google-apps.folder"
LONGEST_MARK = 100
"""Bytes in UTF-8; Drive takes 124 with the property's name."""

_MARK = "ingestion"
_FIELDS = "id,name,mimeType,md5Checksum,modifiedTime,createdTime,size,webViewLink,appProperties,parents,trashed"
_PAGE = 1000
_FULL = frozenset({"storageQuotaExceeded", "quotaExceeded", "teamDriveFileLimitExceeded", "numChildrenInNonRootLimitExceeded"})

DriveFile = Mapping[str, Any]
"""A file's metadata, as the API has it."""


class DrivePairs:
    """The folders of each dataset, by side (`inbound`, `outbound`). Safe to share between threads.

    Raises `ConfigurationError` for a folder that is not there, or not open to the service account, and `Transient`.
    """

    def __init__(self, pairs: Mapping[str, Mapping[str, str]], calls: DriveCalls) -> None:
        self.datasets = tuple(pairs)
        self.calls = calls
        self._pairs = pairs
        self._corpora: dict[str, dict[str, str]] = {}

    def folder(self, dataset: str, side: str) -> str:
        """The id of a dataset's folder. Raises `ConfigurationError` for a dataset without one."""
        try:
            return self._pairs[dataset][side]
        except KeyError:
            raise ConfigurationError(
                f"{dataset} has no folders on Drive: set the variables …_{setting(dataset, side)} and its pair"
            ) from None

    def listed(self, dataset: str, side: str, *, since: datetime | None = None, mark: str | None = None) -> Iterator[DriveFile]:
        """The files that lie in a folder: all of them, those modified or created since then, or those put with a mark."""
        folder = self.folder(dataset, side)
        conditions = [f"'{_quoted(folder)}' in parents", "trashed = false", f"mimeType != '{FOLDER}'"]
        if since is not None:
            moment = stamp(since)
            conditions.append(f"(modifiedTime > '{moment}' or createdTime > '{moment}')")
        if mark is not None:
            conditions.append(f"appProperties has {{ key='{_MARK}' and value='{_quoted(mark)}' }}")
        # To the search a folder that is gone is an empty one.
        whole = since is None and mark is None
        corpora = (None if whole else self._corpora.get(folder)) or self._looked_at(dataset, side)
        query = {
            "q": " and ".join(conditions),
            "pageSize": _PAGE,
            "fields": f"nextPageToken,files({_FIELDS})",
            "supportsAllDrives": True,
            "includeItemsFromAllDrives": True,
            **corpora,
        }
        token: str | None = None
        while True:
            with self._open(dataset, side):
                page = self.calls.get(partial(_page, query, token))
            yield from page.get("files", ())
            token = page.get("nextPageToken")
            if not token:
                return

    def find(self, dataset: str, side: str, file_id: str) -> DriveFile | None:
        """A file of a folder, by its id; None if it is gone, in the bin, or elsewhere by now."""
        folder = self.folder(dataset, side)
        found: DriveFile | None = None
        with suppress(Answered), self._open(dataset, side, (404,)):
            found = self.calls.get(lambda files: files.get(fileId=file_id, fields=_FIELDS, supportsAllDrives=True))
        if found is not None and not found.get("trashed") and folder in found.get("parents", (folder,)):
            return found
        # In a folder that is not open to us any more, or in the bin, every file looks like one that is gone.
        self._looked_at(dataset, side)
        return None

    def put(
        self, dataset: str, side: str, body: Mapping[str, Any], media: Callable[[], Any], mark: str, *, passed: tuple[int, ...] = ()
    ) -> DriveFile:
        """Upload a file, in place of the one of the same mark and name if there is one; its metadata.

        Statuses that are `passed` are raised as `Answered`. After a lost answer it is looked for before it is made again. Raises
        ValueError for a mark that is too long.
        """
        if len(mark.encode()) > LONGEST_MARK:
            raise ValueError(f"a mark has {LONGEST_MARK} bytes at most")
        folder = self.folder(dataset, side)
        options = {"supportsAllDrives": True, "fields": _FIELDS}

        def ask(files: Any, tries: Tries) -> DriveFile:
            kept = [each for each in self.listed(dataset, side, mark=mark) if each["name"] == body["name"]]
            if not kept:
                made = {**body, "parents": [folder], "appProperties": {_MARK: mark}}
                done: DriveFile = self.calls.upload(files.create(body=made, media_body=media(), **options), tries)
                return done
            oldest = min(kept, key=lambda each: (each["createdTime"], each["id"]))
            try:
                done = self.calls.upload(files.update(fileId=oldest["id"], body=dict(body), media_body=media(), **options), tries)
            except Answered as answered:
                if answered.status != 404:
                    raise
                raise Passing("a file went away") from None
            return done

        with self._open(dataset, side, passed):
            return self.calls.call(ask)

    def _looked_at(self, dataset: str, side: str) -> dict[str, str]:
        """Where to search for what is in a folder, which has to be there."""
        folder = self.folder(dataset, side)
        fields = "mimeType,driveId,trashed"
        with self._open(dataset, side):
            found = self.calls.get(lambda files: files.get(fileId=folder, fields=fields, supportsAllDrives=True))
        if found.get("trashed") or found.get("mimeType") != FOLDER:
            what = "is in the bin" if found.get("trashed") else "is no folder"
            raise ConfigurationError(f"what the variable …_{setting(dataset, side)} names on Drive {what}: correct it")
        corpora = {"corpora": "drive", "driveId": found["driveId"]} if found.get("driveId") else {"corpora": "user"}
        self._corpora[folder] = corpora
        return corpora

    @contextmanager
    def _open(self, dataset: str, side: str, passed: tuple[int, ...] = ()) -> Iterator[None]:
        """Turns what Drive refuses into what this project says; statuses that are `passed` are the caller's own."""
        try:
            yield
        except Answered as answered:
            if answered.status in passed:
                raise
            variable, account = f"…_{setting(dataset, side)}", self.calls.account
            if answered.status == 404:
                raise ConfigurationError(
                    f"no Drive folder has the id in the variable {variable}, or it is not shared with {account}: correct one or the other"
                ) from None
            if answered.reason in _FULL:
                raise ConfigurationError(
                    f"the Drive folder in the variable {variable} takes no more files ({answered.reason}): a service account owns no "
                    "storage, so the folder has to be on a shared drive with room for them"
                ) from None
            if answered.status == 403:
                raise ConfigurationError(
                    f"the Drive folder in the variable {variable} is not open to us ({answered.reason or 403}): share it with {account}, "
                    f"{'to read' if side == 'inbound' else 'as a content manager'}"
                ) from None
            raise Transient("drive_unavailable", f"Google Drive answered {answered.status} {answered.reason}".rstrip()) from None


def marked(file: DriveFile) -> str | None:
    """The mark that a file was put with."""
    mark = file.get("appProperties", {}).get(_MARK)
    return mark if isinstance(mark, str) else None


def stamp(moment: datetime) -> str:
    """A time as the API takes it, in UTC and milliseconds."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _page(query: Mapping[str, Any], token: str | None, files: Any) -> Any:
    return files.list(pageToken=token, **query)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")

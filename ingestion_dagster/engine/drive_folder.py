"""A drop folder on Google Drive: a pair of folders for each dataset, answers as Google Sheets."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from ingestion_dagster.engine.drive_calls import Answered
from ingestion_dagster.engine.drive_media import SHEET, XLSX, file_media
from ingestion_dagster.engine.drive_pairs import DriveFile, DrivePairs, marked
from ingestion_dagster.engine.drive_store import DriveStore, RecentDriveStore
from ingestion_dagster.engine.drop_folder import INBOUND, LONGEST_SEGMENT, OUTBOUND, Answer, DropFolder, as_segment
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.object_store import ObjectStore

_NOT_CONVERTED = (400, 413)


class DriveFolder(DropFolder):
    """Folders that are shared with a service account, best on a shared drive: it owns no storage."""

    marks = True

    def __init__(self, url: str, pairs: DrivePairs) -> None:
        self._pairs = pairs
        self.inbound = self._inbound = DriveStore(url, pairs)

    def file_name(self, key: str) -> str:
        """See DropFolder."""
        return unquote(key.rpartition("/")[2])

    def key_of(self, dataset: str, name: str) -> str:
        """See DropFolder. The file gets another key when it is written, with its id."""
        self._pairs.folder(dataset, INBOUND)
        return f"{dataset}/{INBOUND}/{as_segment(name, LONGEST_SEGMENT, reversible=True)}"

    def place(self, dataset: str) -> str | None:
        """See DropFolder."""
        return f"{self._inbound.url}{self._pairs.folder(dataset, INBOUND)}" if dataset in self._pairs.datasets else None

    def put_answer(self, dataset: str, name: str, workbook: Path, mark: str) -> Answer:
        """See DropFolder. The workbook becomes a Google Sheet of exactly that name; one that is too large for that stays a workbook."""
        fault_point("drop_folder.put_answer.before")
        media = partial(file_media, workbook, XLSX)
        try:
            put = self._pairs.put(dataset, OUTBOUND, {"name": name, "mimeType": SHEET}, media, mark, passed=_NOT_CONVERTED)
        except Answered:
            put = self._pairs.put(dataset, OUTBOUND, {"name": name, "mimeType": XLSX}, media, mark)
        fault_point("drop_folder.put_answer.after")
        return _answer(put)

    def answers(self, dataset: str) -> Iterator[Answer]:
        """See DropFolder."""
        return map(_answer, self._pairs.listed(dataset, OUTBOUND))

    def recently(
        self,
        *,
        overlap: timedelta = timedelta(minutes=15),
        full_every: timedelta = timedelta(hours=1),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> ObjectStore:
        """See DropFolder."""
        return RecentDriveStore(self._inbound, self._pairs, overlap, full_every, clock)

    def closed(self) -> Mapping[str, str]:
        """See DropFolder."""
        return dict(self._inbound.closed)


def _answer(file: DriveFile) -> Answer:
    return Answer(file["name"], file.get("webViewLink", f"https://drive.google.com/open?id={file['id']}"), marked(file))

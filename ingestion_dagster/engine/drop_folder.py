"""Drop folders: people put files into `inbound`, answers appear in `outbound`; on Google Drive or a local disk, with the same behaviour.

A drop folder has a pair of folders for each dataset. What is inbound is listed and read as an object store, so that the ledger can keep
account of it; keys are `<dataset>/inbound/<name>` on a disk and `<dataset>/inbound/<file id>/<name>` on Drive, where names may repeat.
What lies in a folder below an inbound folder is not looked at.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.object_store import ObjectStore

INBOUND = "inbound"
OUTBOUND = "outbound"

LONGEST_SEGMENT = 600
"""Bytes of a name in a key on Drive."""

_UNFIT = re.compile(r"[/\x00-\x1f\x7f]|^\.")
_UNFIT_OR_ESCAPED = re.compile(rf"{_UNFIT.pattern}|%(?=[0-9A-Fa-f]{{2}})")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CUT_ESCAPE = re.compile(r"%[0-9A-F]?$")
_HASHED = 12


@dataclass(frozen=True, slots=True)
class Answer:
    """A workbook in an outbound folder: its name as people see it (without the ending a disk needs), and where it can be opened."""

    name: str
    url: str
    mark: str | None = None
    """What `put_answer` was told it is for; None if it was put by somebody else, or stands on a disk, where names are unique."""


@dataclass(frozen=True, slots=True)
class FolderIds:
    """The Drive ids of a dataset's pair of folders; both None for a dataset that is not on Drive."""

    inbound: str | None = None
    outbound: str | None = None


class DropFolder(ABC):
    """Pairs of folders. Methods raise `Transient` (`drive_unavailable`) or `ConfigurationError`, as an object store does.

    Those that are given a dataset raise `ConfigurationError` for one without folders. Safe to share between threads.
    """

    inbound: ObjectStore
    """Everything in the inbound folders. `remove` and `receive` are never needed: inbound files stay where they are.

    Hidden files, and those by which office programs lock a file that is open, are not listed.
    """

    marks: bool = False
    """Whether `answers` tells the marks: two may have one name, and one without a mark is somebody else's."""

    @abstractmethod
    def file_name(self, key: str) -> str:
        """The name of an inbound file as people see it. Asks nobody."""

    @abstractmethod
    def key_of(self, dataset: str, name: str) -> str:
        """The key under which a file of that name is to be written into a dataset's inbound folder."""

    @abstractmethod
    def put_answer(self, dataset: str, name: str, workbook: Path, mark: str) -> Answer:
        """Put an xlsx file into a dataset's outbound folder, at once; in place of the one put with the same mark and name.

        A mark has 100 bytes at most. On a disk the name alone counts, and one that no file can have is written with escapes.
        """

    @abstractmethod
    def answers(self, dataset: str) -> Iterator[Answer]:
        """What stands in a dataset's outbound folder now, all of it."""

    def recently(
        self,
        *,
        overlap: timedelta = timedelta(minutes=15),  # noqa: ARG002 - a listing of a disk is cheap
        full_every: timedelta = timedelta(hours=1),  # noqa: ARG002
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),  # noqa: ARG002
    ) -> ObjectStore:
        """A view of `inbound` for one who lists it again and again: where a whole listing is dear, it shows what has come since the last.

        The first listing shows everything, and one in every `full_every`: a file that was moved into a folder keeps its old times. Others
        go back to `overlap` before the last whole one began, which has to be longer than a file takes to settle. Keep the view: what it
        has listed is known to it alone.
        """
        return self.inbound

    @abstractmethod
    def place(self, dataset: str) -> str | None:
        """By what a dataset's inbound folder is told from any other there is or was; None for a dataset without one."""

    def shown(self, name: str) -> str:
        """How `answers` shows the name that `put_answer` was given: a disk cannot have every name."""
        return name

    def closed(self) -> Mapping[str, str]:
        """By dataset, why the last listing of `inbound` could not look into its folder; the others were listed all the same."""
        return {}


def open_drop_folder(
    url: str, *, folders: Mapping[str, FolderIds], credentials: Path | None = None, api_url: str | None = None
) -> DropFolder:
    """The drop folder at `file:///folder` or `gdrive:`, one per process for the same arguments. Touches neither disk nor network.

    `folders` names the datasets. On Drive those without ids are left out; `credentials` is the key file of a service account, and
    `api_url` stands in for Google's. Raises `ConfigurationError` for another URL, for half a pair of ids, and for an id that is used twice.
    """
    return _opened(url.rstrip("/"), tuple(folders.items()), credentials, api_url)


@cache
def _opened(url: str, folders: tuple[tuple[str, FolderIds], ...], credentials: Path | None, api_url: str | None) -> DropFolder:
    scheme, _, rest = url.partition(":")
    if (
        scheme == "file"
        and rest.startswith("///")
        and ".." not in (path := unquote(rest.removeprefix("//"))).split("/")
        and "\0" not in path
    ):
        from ingestion_dagster.engine.local_drop_folder import LocalDropFolder

        return LocalDropFolder(url, path, [name for name, _ids in folders])
    if url == "gdrive:":
        from ingestion_dagster.engine.drive_calls import DriveCalls
        from ingestion_dagster.engine.drive_folder import DriveFolder
        from ingestion_dagster.engine.drive_pairs import DrivePairs

        pairs = _pairs(folders)
        if credentials is None:
            raise ConfigurationError("Google Drive needs the key file of a service account: set INGESTION_DRIVE_CREDENTIALS to its path")
        return DriveFolder(url, DrivePairs(pairs, DriveCalls(credentials, api_url)))
    kind = f"a {scheme}: URL" if scheme.isalnum() and scheme != url else "no URL"
    raise ConfigurationError(
        f"a drop folder is file:///folder (an absolute path) or gdrive:; INGESTION_DRIVE_URL holds {kind} of another form"
    )


def setting(dataset: str, side: str) -> str:
    """How the variable ends that holds the id of a folder."""
    return f"{dataset.upper()}_{side.upper()}_FOLDER_ID"


def _pairs(folders: tuple[tuple[str, FolderIds], ...]) -> dict[str, dict[str, str]]:
    pairs: dict[str, dict[str, str]] = {}
    used: dict[str, str] = {}
    for dataset, ids in folders:
        sides = {INBOUND: ids.inbound, OUTBOUND: ids.outbound}
        if not any(sides.values()):
            continue
        pairs[dataset] = {}
        for side, folder in sides.items():
            variable = setting(dataset, side)
            if not folder:
                raise ConfigurationError(f"{dataset} has only one of its two Drive folders: set the variable …_{variable} too")
            if folder in used:
                raise ConfigurationError(f"the variables …_{used[folder]} and …_{variable} name the same Drive folder: each needs its own")
            used[folder] = variable
            pairs[dataset][side] = folder
    return pairs


def is_lock(name: str) -> bool:
    """Whether a name is hidden, or that of a file by which an office program marks another as open."""
    return name.startswith((".", "~$"))


def as_segment(name: str, longest: int, *, reversible: bool = False) -> str:
    """A name as one segment of a key and of a path, in at most so many bytes: what cannot stand there is escaped, as in `%2F`.

    One that is `reversible` is given back by `urllib.parse.unquote`, unless it had to be cut. It ends in a hash of the whole then.
    """
    unfit = _UNFIT_OR_ESCAPED if reversible else _UNFIT
    fit = unfit.sub(lambda found: f"%{ord(found[0]):02X}", _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", name)) or "%20"
    if len(fit.encode()) <= longest:
        return fit
    digest = hashlib.sha256(fit.encode()).hexdigest()[:_HASHED]
    cut = fit.encode()[: longest - _HASHED - 1].decode(errors="ignore")
    return f"{_CUT_ESCAPE.sub('', cut)}~{digest}"

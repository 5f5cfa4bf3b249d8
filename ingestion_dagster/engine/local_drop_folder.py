"""A drop folder on a local disk: `<dataset>/inbound` and `<dataset>/outbound` below one folder."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from ingestion_dagster.engine.drop_folder import INBOUND, OUTBOUND, Answer, DropFolder, as_segment, is_lock
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.object_store import StoredObject

_LONGEST_NAME = 255
_ENDING = ".xlsx"


class _Inbound(LocalStore):
    """The folder of which only the inbound files of known datasets are shown."""

    def __init__(self, url: str, root: str, datasets: Sequence[str]) -> None:
        super().__init__(url, root)
        self._datasets = datasets

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See ObjectStore."""
        wanted = f"{prefix.rstrip('/')}/" if prefix else ""
        for dataset in self._datasets:
            place = f"{dataset}/{INBOUND}/"
            if not place.startswith(wanted):
                continue
            for seen in super().list(place):
                name = seen.key.removeprefix(place)
                if "/" not in name and not is_lock(name):
                    yield seen


class LocalDropFolder(DropFolder):
    """Folders below `root`, which are made when something is put into them."""

    def __init__(self, url: str, root: str, datasets: Sequence[str]) -> None:
        self._root = Path(root)
        self._datasets = frozenset(datasets)
        self._files = LocalStore(url, root)
        self.inbound = _Inbound(url, root, datasets)

    def file_name(self, key: str) -> str:
        """See DropFolder."""
        return key.rpartition("/")[2]

    def key_of(self, dataset: str, name: str) -> str:
        """See DropFolder."""
        return f"{self._place(dataset, INBOUND)}/{as_segment(name, _LONGEST_NAME)}"

    def place(self, dataset: str) -> str | None:
        """See DropFolder."""
        return f"{self.inbound.url}/{dataset}/{INBOUND}" if dataset in self._datasets else None

    def shown(self, name: str) -> str:
        """See DropFolder."""
        return self.file_name(f"/{as_segment(name, _LONGEST_NAME - len(_ENDING))}")

    def put_answer(self, dataset: str, name: str, workbook: Path, mark: str) -> Answer:  # noqa: ARG002 - the name is the identity
        """See DropFolder."""
        shown = as_segment(name, _LONGEST_NAME - len(_ENDING))
        key = f"{self._place(dataset, OUTBOUND)}/{shown}{_ENDING}"
        fault_point("drop_folder.put_answer.before")
        aside = self._copied(workbook)
        try:
            self._files.take(aside, key)
            self._files.flush()
        except ValueError:
            raise ConfigurationError(f"something stands in the way of {dataset}/{OUTBOUND}, or of a report in it: take it away") from None
        finally:
            aside.unlink(missing_ok=True)
        fault_point("drop_folder.put_answer.after")
        return self._answer(key)

    def answers(self, dataset: str) -> Iterator[Answer]:
        """See DropFolder."""
        place = self._place(dataset, OUTBOUND)
        for seen in self._files.list(place):
            name = seen.key.removeprefix(f"{place}/")
            if "/" not in name and not is_lock(name):
                yield self._answer(seen.key)

    def _place(self, dataset: str, side: str) -> str:
        if dataset not in self._datasets:
            raise ConfigurationError(f"the drop folder has no folders for {dataset}")
        return f"{dataset}/{side}"

    def _answer(self, key: str) -> Answer:
        return Answer(self.file_name(key).removesuffix(_ENDING), (self._root / key).as_uri())

    def _copied(self, workbook: Path) -> Path:
        """A copy of the workbook on the folder's own disk, where no listing looks."""
        aside: Path | None = None
        try:
            aside = self._files.scratch() / token_hex(8)
            with workbook.open("rb") as source, aside.open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            if aside is not None:
                with suppress(OSError):
                    aside.unlink()
            if isinstance(error, PermissionError):
                raise ConfigurationError(f"{self._files.url}: {error.strerror}; check the folder and its permissions") from None
            raise Transient("drive_unavailable", f"an answer could not be written into the drop folder: {error.strerror}") from None
        return aside

"""Drop folders: people put files into `inbound`, answers appear in `outbound`; on Google Drive, or on a local disk, with the same behaviour.

A drop folder has a pair of folders for each dataset. What is inbound is listed and read as an object store, so that the ledger can keep
account of it; keys are `<dataset>/inbound/<name>` on a disk and `<dataset>/inbound/<file id>/<name>` on Drive, where names may repeat.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingestion_dagster.engine.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Answer:
    """A workbook in an outbound folder: its name as people see it (without the ending a disk needs), and where it can be opened."""

    name: str
    url: str
    mark: str | None = None
    """What `put_answer` was told it is for; None if it was put by somebody else, or stands on a disk, where names are unique."""


class DropFolder(ABC):
    """Pairs of folders. Methods raise `Transient` (`drive_unavailable`) or `ConfigurationError`, as an object store does."""

    inbound: ObjectStore
    """Everything below the inbound folders. `remove` and `receive` are never needed: inbound files stay where they are."""

    @abstractmethod
    def file_name(self, key: str) -> str:
        """The name of an inbound file as people see it."""

    @abstractmethod
    def key_of(self, dataset: str, name: str) -> str:
        """The key under which a file of that name is to be written into a dataset's inbound folder."""

    @abstractmethod
    def put_answer(self, dataset: str, name: str, workbook: Path, mark: str) -> Answer:
        """Put an xlsx file into a dataset's outbound folder, at once; in place of the one put with the same mark and name."""

    @abstractmethod
    def answers(self, dataset: str) -> Iterator[Answer]:
        """What stands in a dataset's outbound folder now, all of it."""

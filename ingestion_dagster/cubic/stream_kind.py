"""What a kind of stream decides: the one interface behind which ods, dmap and kafka differ."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import ClassVar

from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.places import PENDING, SNAPSHOT_FORMAT
from ingestion_dagster.cubic.registry import CubicTable, Kind
from ingestion_dagster.cubic.schemas import Accept, Fit
from ingestion_dagster.cubic.sink import Converted, Outputs, Tolerance
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.landing import versioned
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import StoredObject

Offsets = Mapping[tuple[str, int], Sequence[int]]
"""Records of a Kafka batch: offsets by (topic, partition)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be read: its name and bytes, the bytes of its `.dfm` if there is one, and the records that others have written."""

    key: str
    chunks: Iterator[bytes]
    companion: bytes | None = None
    written: Callable[[Offsets], Mapping[tuple[str, int], set[int]]] = lambda _offsets: {}


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a file: counts, and how it was written."""

    converted: Converted
    fit: Fit
    warnings: tuple[Problem, ...] = ()
    offsets: Offsets = field(default_factory=dict)


class StreamKind(ABC):
    """A kind of stream. Keys are those of the landing zone."""

    kind: ClassVar[Kind]
    suffixes: ClassVar[tuple[str, ...]]
    """What the names of its data files end with."""
    by_snapshot: ClassVar[bool] = False
    """Whether its partitions are snapshots; otherwise they are the days of landing."""
    one_by_one: ClassVar[bool] = False
    """Whether a file's content depends on what others of its table have written, so that none may be read beside another."""

    def is_data(self, key: str) -> bool:
        """Whether an object of this key can be read as a file of this kind."""
        return key.endswith(self.suffixes)

    def companions(self, key: str) -> tuple[str, ...]:  # noqa: ARG002 - most kinds have none
        """Keys of what travels with an object."""
        return ()

    def arrival(self, table: CubicTable, seen: StoredObject) -> Arrival | None:
        """What an object below a table's prefix is as a load; None: it belongs to another object."""
        return Arrival(seen, table.name)

    def repeats(self, table: CubicTable) -> bool:  # noqa: ARG002 - most kinds do not ask
        """Whether the same content under the same key again is a duplicate."""
        return True

    def archive_folder(self, load: Load) -> str:
        """Where below the archive a loaded file goes."""
        return load.key.rpartition("/")[0]

    def error_folder(self, load: Load) -> str:
        """Where below the error zone a refused file goes."""
        return load.key.rpartition("/")[0]

    @abstractmethod
    def read(self, source: Source, accept: Accept, columns: Sequence[Column] | None, outputs: Outputs, tolerance: Tolerance) -> Reading:
        """Convert a file into Parquet below a scratch folder. Raises `Refused`, and what reading its bytes raises."""


def versioned_name(load: Load) -> str:
    """The name of a load's file with its version before the suffixes: `LOAD1.csv.gz` → `LOAD1.3f9c02d41b7e.csv.gz`."""
    name = load.key.rpartition("/")[2]
    return versioned(name, load.version, suffixes=2 if name.endswith(".gz") else 1)


def timestamp_folder(load: Load) -> str:
    """`timestamp=20220101T204950Z`: when a refused file was modified."""
    return f"timestamp={load.modified.astimezone(UTC).strftime(SNAPSHOT_FORMAT)}"


def snapshot_folder(load: Load) -> str:
    """`snapshot=20220101T204950Z`, or `snapshot=pending` for what was dealt with before its snapshot came."""
    return f"snapshot={load.snapshot or PENDING}"

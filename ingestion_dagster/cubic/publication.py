"""Parquet that has been written aside, put in its place: each file at once, and only while its load is ours."""

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ingestion_dagster.cubic.places import identifier_of, part_key
from ingestion_dagster.cubic.registry import CubicTable
from ingestion_dagster.cubic.sink import Outputs
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import ObjectStore, StoredObject

STAGING = "_staging"
"""Where files for a store without renames lie until they are published; readers of a lake pass over names that begin so."""


@dataclass(frozen=True, slots=True)
class Part:
    """A finished file and the key in the springboard that it is for."""

    file: Path
    key: str


@contextmanager
def scratch(springboard: ObjectStore) -> Iterator[Path]:
    """A folder for unfinished files; gone afterwards."""
    folder = springboard.scratch() / f"cubic-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def outputs(folder: Path, table: CubicTable, load: Load) -> Outputs:
    """Where in a scratch folder a load is written to."""
    name = f"{load.id}.{load.claim}"
    return Outputs(
        raw=folder / f"{name}.raw" if table.raw else None,
        typed=folder / f"{name}.typed" if table.typed else None,
        rejects=folder / f"{name}.rejects",
    )


def parts(table: CubicTable, load: Load, written: Outputs) -> list[Part]:
    """What is to be published of a load; the rejects only if there are any."""
    identifier = identifier_of(table, load.key)
    areas = (("", written.typed), ("raw", written.raw), ("rejects", written.rejects if written.rejects.exists() else None))
    return [Part(file, part_key(table, load.snapshot, identifier, area)) for area, file in areas if file is not None]


def remove(springboard: ObjectStore, table: CubicTable, load: Load, areas: Iterable[str]) -> None:
    """Remove what an earlier reading of this file has left in these areas."""
    for area in areas:
        found = springboard.find(part_key(table, load.snapshot, identifier_of(table, load.key), area))
        if found is not None:
            springboard.remove(found)


class Publication:
    """Parts on their way: `stage` does what takes long, `publish` what readers see, `clear` what is left to tidy."""

    def __init__(self, springboard: ObjectStore, ready: list[Part]) -> None:
        self._springboard = springboard
        self._parts = ready
        self._staged: list[tuple[StoredObject, str]] = []

    def stage(self) -> None:
        """Bring the files to where publishing them is quick. Raises `Transient` or `ConfigurationError`."""
        if not self._springboard.url.startswith("s3://"):
            return
        for part in self._parts:
            key = f"{STAGING}/{uuid.uuid4().hex}"
            fault_point("cubic.stage.before")
            self._springboard.take(part.file, key)
            staged = self._springboard.find(key)
            assert staged is not None
            self._staged.append((staged, part.key))
            fault_point("cubic.stage.after")

    def publish(self, make_sure: Callable[[], object]) -> None:
        """Make every part what readers see. Repeatable by a later attempt: it replaces exactly what this one has put there.

        `make_sure` is called before each part, and raises if the loads are not held any longer.
        """
        if self._staged:
            for staged, key in self._staged:
                make_sure()
                fault_point("cubic.publish.before")
                self._springboard.copy(staged, self._springboard, key)
                fault_point("cubic.publish.after")
        else:
            for part in self._parts:
                make_sure()
                fault_point("cubic.publish.before")
                self._springboard.take(part.file, part.key)
                fault_point("cubic.publish.after")
        self._springboard.flush()

    def clear(self) -> None:
        """Remove what was staged; what cannot be removed now is cleared away at night."""
        for staged, _ in self._staged:
            with suppress(Transient, ConfigurationError):
                self._springboard.remove(staged)

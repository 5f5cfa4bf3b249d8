"""The folder of an embedded search engine: its indexes and aliases, and who may change them when, over any number of processes.

An index is there once its folder has its name; it is made, and deleted, under another. What a killed process leaves of either is removed
by the next that makes or deletes one. Locks are the kernel's: they end with the process that holds them.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from ingestion_dagster.catalog.search_refusals import index_exists, index_has_aliases, is_name, no_such_index
from ingestion_dagster.engine.faults import fault_point

DATA = "data"
_DEFINITION = "definition.json"


class SearchFolder:
    """Indexes and aliases under one folder, which is made when it is first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._indexes, self._making, self._gone = root / "indexes", root / "making", root / "gone"
        self._aliases = root / "aliases.json"

    def names(self) -> tuple[str, ...]:
        """The indexes, by name."""
        try:
            return tuple(sorted(folder.name for folder in self._indexes.iterdir() if is_name(folder.name)))
        except FileNotFoundError:
            return ()

    def has(self, index: str) -> bool:
        """Whether there is an index of this name."""
        return is_name(index) and (self._indexes / index / _DEFINITION).is_file()

    def data(self, index: str) -> Path:
        """Where the documents of an index are."""
        return self._indexes / index / DATA

    def definition(self, index: str) -> Mapping[str, Any]:
        """What an index was made with. Raises `Refused` (`no_such_index`)."""
        try:
            content: Mapping[str, Any] = orjson.loads((self._indexes / index / _DEFINITION).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise no_such_index(index) from None
        return content

    def aliases(self) -> dict[str, str]:
        """The index that each alias leads to."""
        try:
            aliases: dict[str, str] = orjson.loads(self._aliases.read_bytes())
        except FileNotFoundError:
            return {}
        return aliases

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The right to make and delete indexes, and to move aliases; waits for it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with _locked(self.root / ".lock"):
            yield

    @contextmanager
    def writing(self, index: str) -> Iterator[Path]:
        """The right to write to an index, and where its documents are; waits for it. Raises `Refused` (`no_such_index`)."""
        lock = self._indexes / index / ".lock"
        try:
            with _locked(lock, os.O_RDWR) as held:
                # While it was waited for the index may have been deleted, and made anew.
                if not os.path.samestat(held, lock.stat()):
                    raise FileNotFoundError
                yield lock.parent / DATA
        except FileNotFoundError:
            if self.has(index):
                raise
            raise no_such_index(index) from None

    @contextmanager
    def made(self, index: str, definition: Mapping[str, Any]) -> Iterator[Path]:
        """A folder for the documents of a new index, which is there if the body ends well. Raises `Refused` (`index_exists`)."""
        with self.changing():
            if self.has(index) or index in self.aliases():
                raise index_exists(index)
            self._sweep()
            folder = self._making / uuid.uuid4().hex
            (folder / DATA).mkdir(parents=True)
            (folder / ".lock").touch()
            yield folder / DATA
            _write(folder / _DEFINITION, orjson.dumps(definition))
            self._indexes.mkdir(exist_ok=True)
            fault_point("catalog.embedded_create.before")
            folder.rename(self._indexes / index)
            _sync(self._indexes)
            fault_point("catalog.embedded_create.after")

    def delete(self, index: str) -> bool:
        """Delete an index that no alias leads to; False if there is none. Raises `Refused` (`index_has_aliases`)."""
        with self.changing():
            if not self.has(index):
                return False
            aliases = tuple(sorted(alias for alias, behind in self.aliases().items() if behind == index))
            if aliases:
                raise index_has_aliases(index, aliases)
            self._sweep()
            with self.writing(index):
                self._gone.mkdir(exist_ok=True)
                fault_point("catalog.embedded_delete.before")
                (self._indexes / index).rename(self._gone / uuid.uuid4().hex)
                _sync(self._indexes)
                fault_point("catalog.embedded_delete.after")
            self._sweep()
            return True

    def set_aliases(self, aliases: Mapping[str, str]) -> None:
        """Have these aliases and no others; only while `changing`."""
        fault_point("catalog.embedded_switch.before")
        _write(self._aliases, orjson.dumps(aliases, option=orjson.OPT_SORT_KEYS))
        fault_point("catalog.embedded_switch.after")

    def _sweep(self) -> None:
        for folder in (self._making, self._gone):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[os.stat_result]:
    """Alone with a lock file among all threads and processes."""
    file = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield os.fstat(file)
    finally:
        os.close(file)


def _write(path: Path, content: bytes) -> None:
    """Replace a file, so that there is the one or the other whatever happens."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)

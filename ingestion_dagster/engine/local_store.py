"""A folder as an object store: a version is what the file system itself knows of a file.

Plain system calls, not obstore: its LocalStore percent-encodes names, copies by hard link and deletes without a condition.
Folders are opened step by step and never through a symbolic link, so that no key leads out of the root.
"""

import errno
import logging
import os
import stat
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_hex
from types import TracebackType

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.local_removal import ABSENT, FILE, FOLDER, ctime_of, entries, lstat, remove_version, version_of
from ingestion_dagster.engine.local_writing import (
    CHUNK,
    chunks,
    dated_anew,
    fsync,
    inner_folder,
    libc,
    name_file,
    nanoseconds,
    stored,
    write,
)
from ingestion_dagster.engine.object_store import LONGEST_KEY, Changed, Missing, ObjectStore, StoredObject, checked_key, is_key

log = logging.getLogger(__name__)

_WRITING = ".ingestion-writing-"
_IN_THE_WAY = {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST}
_CLOSED_TO_US = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_SYNC_AT_ONCE = 8  # from here on one syncfs() is cheaper than an fsync() for each file: 11 ms against 77 ms for 1,400
_syncfs = getattr(libc, "syncfs", None)


class LocalStore(ObjectStore):
    """Files below `root`. A missing root is an empty store, and is created by the first write.

    Removal takes an advisory lock on the object's folder, and is therefore for local disks.
    """

    dated_by_arrival = False

    def __init__(self, url: str, root: str) -> None:
        self.url = url
        self._root = root
        self._unsynced: dict[str, int] = {}
        self._noting = threading.Lock()
        self._flushing = threading.Lock()

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See ObjectStore. Also finishes removals that a crash has left half-done. Symbolic links are skipped."""
        folders = [checked_key(prefix.rstrip("/"))] if prefix else [""]
        unnameable = 0
        with self._faults():
            while folders:
                place = folders.pop()
                folder = self._folder(place.split("/") if place else [])
                if folder is None:
                    continue
                try:
                    for entry in entries(folder):
                        key = f"{place}/{entry.name}" if place else entry.name
                        if not is_key(entry.name) or len(key.encode()) > LONGEST_KEY:
                            unnameable += not entry.name.startswith(".")
                        elif entry.is_dir(follow_symlinks=False):
                            folders.append(key)
                        elif entry.is_file(follow_symlinks=False):
                            with suppress(FileNotFoundError):
                                yield stored(key, entry.stat(follow_symlinks=False))
                finally:
                    os.close(folder)
        if unnameable:
            log.warning(
                "%s: skipped %d names that are not UTF-8, hold control characters or make a key of over 1,024 bytes; rename them",
                self.url,
                unnameable,
            )

    def find(self, key: str) -> StoredObject | None:
        """See ObjectStore."""
        *parents, name = checked_key(key).split("/")
        with self._faults():
            folder = self._folder(parents)
            if folder is None:
                return None
            try:
                found = lstat(folder, name)
            finally:
                os.close(folder)
        return stored(key, found) if found and stat.S_ISREG(found.st_mode) else None

    def clear_unfinished(self, before: datetime) -> int:
        """See ObjectStore. By the time that nobody can set: a file that is being written may be dated back already."""
        cleared = 0
        with self._faults():
            for _, _, names, folder in os.fwalk(self._root) if Path(self._root).is_dir() else ():
                for name in names:
                    if name.startswith(_WRITING) and os.lstat(name, dir_fd=folder).st_ctime < before.timestamp():
                        with suppress(FileNotFoundError):
                            os.unlink(name, dir_fd=folder)
                            cleared += 1
        return cleared

    def read(self, obj: StoredObject) -> bytes:
        """See ObjectStore."""
        with self._faults(), _Opened(self._open(obj), obj) as file:
            data = os.read(file, obj.size)
            if len(data) < obj.size:
                data = b"".join((data, *chunks(file)))
        return data

    def stream(self, obj: StoredObject) -> Iterator[bytes]:
        """See ObjectStore."""
        with self._faults(), _Opened(self._open(obj), obj) as file:
            yield from chunks(file)

    def write(self, key: str, data: bytes, *, modified: datetime | None = None, new: bool = False) -> StoredObject:
        """See ObjectStore. Written aside under a hidden name in the same folder, then renamed.

        What stands there and is no object (a folder, a symbolic link) makes the key one that this store cannot hold, with `new`.
        """
        return self._place(key, (data,), modified=modified, size=len(data), durable=True, new=new)

    def receive(self, source: ObjectStore, obj: StoredObject, key: str) -> StoredObject:
        """See ObjectStore. The copy keeps the source's `modified`; it is durable after `flush`, which costs a fraction of syncing each.

        A small file that stands there with the same bytes already is left and dated anew: to write it again costs several times as much.
        """
        if obj.size > CHUNK:
            return self._place(key, source.stream(obj), modified=obj.modified, size=obj.size, durable=False)
        data = b"".join(source.stream(obj))
        return self._kept(key, data, obj.modified) or self._place(key, (data,), modified=obj.modified, size=obj.size, durable=False)

    def take(self, file: Path, key: str) -> None:
        """See ObjectStore: a rename, or from another file system a copy."""
        *parents, name = checked_key(key).split("/")
        with self._faults(key):
            folder = self._folder(parents, create=True, durable=False)
            assert folder is not None
            try:
                found = file.stat()
                if found.st_dev == os.fstat(folder).st_dev:
                    os.replace(file, name, dst_dir_fd=folder)
                    self._note(key, found)
                    return
            finally:
                os.close(folder)
        with file.open("rb") as source:
            self._place(key, chunks(source.fileno()), modified=None, size=found.st_size, durable=False)
        file.unlink()

    def scratch(self) -> Path:
        """See ObjectStore: hidden in the store itself, where no listing looks."""
        with self._faults():
            os.close(self._root_folder(create=True))
        folder = Path(self._root) / ".scratch"
        folder.mkdir(exist_ok=True)
        return folder

    def flush(self) -> None:
        """See ObjectStore."""
        # The lock is held to the end: whoever comes second must not return while the first is still writing their files out.
        with self._flushing, self._faults():
            with self._noting:
                unsynced, self._unsynced = self._unsynced, {}
            try:
                self._sync(unsynced)
            except BaseException:
                with self._noting:
                    self._unsynced = unsynced | self._unsynced
                raise

    def remove(self, obj: StoredObject) -> bool:
        """See ObjectStore. False also while a writer has the file open (on Linux, for root or the file's owner)."""
        *parents, name = checked_key(obj.key).split("/")
        with self._faults():
            folder = self._folder(parents)
            if folder is None:
                return True
            try:
                return remove_version(folder, name, obj.version)
            finally:
                os.close(folder)

    def settled(self, obj: StoredObject, *, for_seconds: float, now: datetime) -> bool:
        """See ObjectStore. ctime decides: no write can leave it behind, while an mtime may have been set, even to a day to come."""
        return ctime_of(obj.version) <= nanoseconds(now - timedelta(seconds=for_seconds))

    def _folder(self, names: Sequence[str], *, create: bool = False, durable: bool = True) -> int | None:
        """Descriptor of a folder below the root, for the caller to close; None if it is not there.

        A new folder that is not `durable` at once is made so by `flush`.
        """
        try:
            folder = self._root_folder(create=create)
            for name in names:
                try:
                    inner = inner_folder(folder, name, create=create, durable=durable)
                finally:
                    os.close(folder)
                folder = inner
        except OSError as error:
            if not create and error.errno in ABSENT:
                return None
            raise
        return folder

    def _root_folder(self, *, create: bool) -> int:
        try:
            return os.open(self._root, FOLDER)
        except FileNotFoundError:
            if not create:
                raise
        Path(self._root).mkdir(parents=True, exist_ok=True)
        os.sync()  # makes the new folders above the root durable, once in a store's life
        return os.open(self._root, FOLDER)

    def _open(self, obj: StoredObject) -> int:
        """Descriptor of the file, which is the object in that version, for the caller to close."""
        *parents, name = checked_key(obj.key).split("/")
        folder = self._folder(parents)
        if folder is None:
            raise Missing(obj.key)
        try:
            file = os.open(name, FILE, dir_fd=folder)
        except OSError as error:
            if error.errno in ABSENT:
                raise Missing(obj.key) from None
            raise
        finally:
            os.close(folder)
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and version_of(found) == obj.version:
            return file
        os.close(file)
        raise Changed(obj.key) if stat.S_ISREG(found.st_mode) else Missing(obj.key)

    def _kept(self, key: str, data: bytes, modified: datetime) -> StoredObject | None:
        """What stands under the key, dated anew, if it is a file with these very bytes and with no other name."""
        *parents, name = checked_key(key).split("/")
        # What is in the way here is told by the one who writes.
        with suppress(OSError):
            folder = self._folder(parents)
            if folder is None:
                return None
            try:
                placed = dated_anew(folder, name, data, modified)
            finally:
                os.close(folder)
            if placed is not None:
                self._note(key, placed)
                return stored(key, placed)
        return None

    def _place(
        self, key: str, chunks: Iterable[bytes], *, modified: datetime | None, size: int, durable: bool, new: bool = False
    ) -> StoredObject:
        *parents, name = checked_key(key).split("/")
        with self._faults(key):
            folder = self._folder(parents, create=True)
            assert folder is not None
            try:
                aside = f"{_WRITING}{token_hex(8)}"
                file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
                try:
                    written = write(file, chunks)
                    if modified is not None:
                        os.utime(file, ns=(nanoseconds(modified),) * 2)
                    if written != size:
                        raise Transient("object_store_unavailable", f"{self.url}/{key}: what was written is not what was read")
                    if durable:
                        os.fsync(file)
                    if new:
                        name_file(folder, aside, name, key)
                    else:
                        os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
                    placed = os.fstat(file)
                except BaseException:
                    with suppress(OSError):
                        os.unlink(aside, dir_fd=folder)
                    raise
                finally:
                    os.close(file)
                if durable:
                    os.fsync(folder)
                else:
                    self._note(key, placed)
            finally:
                os.close(folder)
        return stored(key, placed)

    def _note(self, key: str, placed: os.stat_result) -> None:
        with self._noting:
            self._unsynced[key] = placed.st_dev

    def _sync(self, keys: dict[str, int]) -> None:
        if _syncfs and len(keys) >= _SYNC_AT_ONCE:
            root = os.open(self._root, FOLDER)
            try:
                # A folder below the root can be a file system of its own.
                if set(keys.values()) == {os.fstat(root).st_dev} and _syncfs(root) == 0:
                    return
            finally:
                os.close(root)
        names: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for key in keys:
            *parents, name = key.split("/")
            names[tuple(parents)].add(name)
        for place in names:
            folder = self._folder(place)
            if folder is None:
                continue
            try:
                for name in names[place]:
                    with suppress(FileNotFoundError):
                        fsync(folder, name)
                os.fsync(folder)
            finally:
                os.close(folder)
        # A folder is durable when the one above it is.
        for place in {deep[:depth] for deep in names for depth in range(len(deep))}:
            folder = self._folder(place)
            if folder is not None:
                os.fsync(folder)
                os.close(folder)

    def _faults(self, key: str | None = None) -> "_Faults":
        return _Faults(self.url, key)


class _Faults:
    """Turns what the file system says into what this project says; `key` is what is being written."""

    __slots__ = ("_key", "_url")

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, OSError):
            return
        if self._key is not None and error.errno in _IN_THE_WAY:
            raise ValueError(f"{self._url} cannot hold the key {self._key!r}: {error.strerror}") from error
        if error.errno in _CLOSED_TO_US:
            raise ConfigurationError(f"{self._url}: {error.strerror}; check the folder and its permissions") from error
        raise Transient("object_store_unavailable", f"{self._url}: {error.strerror}") from error


class _Opened:
    """A file that was opened as a version of an object: whether it is that version still is looked at after use."""

    __slots__ = ("_file", "_obj")

    def __init__(self, file: int, obj: StoredObject) -> None:
        self._file = file
        self._obj = obj

    def __enter__(self) -> int:
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and version_of(os.fstat(self._file)) != self._obj.version:
                raise Changed(self._obj.key)
        finally:
            os.close(self._file)

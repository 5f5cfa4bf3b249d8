"""Files of an open folder: read, written aside and read back, named, dated and made durable. System calls, and no store."""

import ctypes
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from ingestion_dagster.engine.local_removal import FILE, FOLDER, lstat, version_of
from ingestion_dagster.engine.object_store import Changed, StoredObject

CHUNK = 1 << 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MICROSECOND = timedelta(microseconds=1)
libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(libc, "renameat2", None)
_NOREPLACE = 1


def inner_folder(folder: int, name: str, *, create: bool, durable: bool = True) -> int:
    """Descriptor of a folder in an open one, for the caller to close; never through a symbolic link."""
    try:
        return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
        if durable:
            os.fsync(folder)
    return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)


def fsync(folder: int, name: str) -> None:
    """Make a file of an open folder durable."""
    file = os.open(name, FILE, dir_fd=folder)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def chunks(file: int) -> Iterator[bytes]:
    """What is left to read of an open file, piece by piece."""
    while chunk := os.read(file, CHUNK):
        yield chunk


def write(file: int, chunks: Iterable[bytes]) -> int | None:
    """Bytes written to a new file; None if they do not read back as they were given."""
    size = 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(file, rest) :]
        if os.pread(file, len(chunk), size) != chunk:
            return None
        size += len(chunk)
    return size


def name_file(folder: int, aside: str, name: str, key: str) -> None:
    """Give a file written aside its name, unless that is taken. Raises Changed if an object has it, FileExistsError if anything else."""
    # A removal in this folder is over then: it may have put aside, for a moment, what belongs under this name.
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        _rename_without_replacing(folder, aside, name)
    except FileExistsError:
        found = lstat(folder, name)
        if found is None or stat.S_ISREG(found.st_mode):
            raise Changed(key) from None
        raise


def _rename_without_replacing(folder: int, aside: str, name: str) -> None:
    if _renameat2 and _renameat2(folder, os.fsencode(aside), folder, os.fsencode(name), _NOREPLACE) == 0:
        return
    # Not every file system can do that, and not every kernel. The link tells what is wrong, if it is something else.
    os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(aside, dir_fd=folder)


def dated_anew(folder: int, name: str, data: bytes, modified: datetime) -> os.stat_result | None:
    """The file of this name, with another date; None if it does not hold these very bytes, or has another name too."""
    file = os.open(name, FILE, dir_fd=folder)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size != len(data) or os.read(file, len(data) + 1) != data:
            return None
        os.utime(file, ns=(nanoseconds(modified),) * 2)
    finally:
        os.close(file)
    placed = lstat(folder, name)
    return placed if placed is not None and placed.st_ino == found.st_ino else None


def nanoseconds(moment: datetime) -> int:
    """A moment as file systems keep it: nanoseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND * 1000


def stored(key: str, found: os.stat_result) -> StoredObject:
    """A file as an object; a time that no calendar holds is the nearest one that it does."""
    try:
        modified = _EPOCH + found.st_mtime_ns // 1000 * _MICROSECOND
    except OverflowError:
        modified = datetime.max.replace(tzinfo=UTC) if found.st_mtime_ns > 0 else datetime.min.replace(tzinfo=UTC)
    return StoredObject(key, found.st_size, modified, version_of(found))

"""Versions of files on a local disk, and a removal that cannot take a newer version along.

A file to be removed is renamed aside, to a hidden name in the same folder which says what version is meant, and looked at again before
it is unlinked. One that turns out to be another version is put back, unless a newer one has come meanwhile: that one has overwritten it.
What a crash leaves aside is finished by the next removal of that file or the next listing of its folder.
"""

import errno
import fcntl
import os
import re
import signal
import stat
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b

from ingestion_dagster.engine.faults import fault_point

FOLDER = os.O_RDONLY | os.O_DIRECTORY
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a named pipe must not block the one who opens it
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}

_LONGEST_NAME = 255
# A name too long to be put behind the mark stands in a folder that has the mark alone: making one costs more than all the rest.
_MARKED = re.compile(r"(\.ingestion-removing-[0-9a-f]{16})(?:-(.+))?", re.DOTALL)


def version_of(found: os.stat_result) -> str:
    """`mtime-size-ctime-inode`, times in nanoseconds; a time before 1970 has a minus sign of its own.

    ctime is in it because nobody can set it: an inode that is used again under a kept time and size repeats all the rest.
    """
    return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ctime_ns}-{found.st_ino}"


def ctime_of(version: str) -> int:
    """Nanoseconds since 1970."""
    return int(version.rsplit("-", 3)[2])


def lstat(folder: int, name: str) -> os.stat_result | None:
    """What stands under a name in an open folder."""
    try:
        return os.lstat(name, dir_fd=folder)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise


def entries(folder: int) -> Sequence[os.DirEntry[str]]:
    """What stands in an open folder, after the removals that a crash has left there are finished."""
    with os.scandir(folder) as found:
        standing = [*found]
    left = [entry for entry in standing if _MARKED.fullmatch(entry.name)]
    if not left:
        return standing
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return standing  # the one who is removing is alive
    try:
        for entry in left:
            _finish_left(folder, entry)
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)
    with os.scandir(folder) as found:
        return [*found]


def remove_version(folder: int, name: str, version: str) -> bool:
    """Unlink the file if it is that version: True. False if it is another, or somebody has it open for writing; it stays as it is then.

    `folder` is locked and stays so until it is closed.
    """
    mtime, size, _, inode = version.rsplit("-", 3)
    mark = _mark(mtime, size, inode)
    beside = f"{mark}-{name}"
    aside = beside if len(os.fsencode(beside)) <= _LONGEST_NAME else f"{mark}/{name}"
    fcntl.flock(folder, fcntl.LOCK_EX)
    if _finish(folder, aside, mark, name):
        return True
    found = lstat(folder, name)
    if found is None:
        return True
    if not stat.S_ISREG(found.st_mode) or version_of(found) != version or _is_being_written(folder, name):
        return False
    if aside != beside:
        with suppress(FileExistsError):
            os.mkdir(mark, dir_fd=folder)
    with suppress(FileNotFoundError):
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
        fault_point("object_store.remove.aside")
    return _finish(folder, aside, mark, name) is not False


def _finish_left(folder: int, entry: os.DirEntry[str]) -> None:
    marked = _MARKED.fullmatch(entry.name)
    assert marked is not None
    mark, name = marked.groups()
    if name is not None:
        _finish(folder, entry.name, mark, name)
    elif entry.is_dir(follow_symlinks=False):
        inner = os.open(mark, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        try:
            with os.scandir(inner) as found:
                names = [inside.name for inside in found]
        finally:
            os.close(inner)
        for name in names:
            _finish(folder, f"{mark}/{name}", mark, name)
        with suppress(OSError):
            os.rmdir(mark, dir_fd=folder)


def _finish(folder: int, aside: str, mark: str, name: str) -> bool | None:
    """Unlink what stands aside if it is the version that was meant: True; else put it back: False. None if nothing stands there."""
    found = lstat(folder, aside)
    # The rename has changed ctime: the version is told by its other marks.
    meant = found is not None and _mark(found.st_mtime_ns, found.st_size, found.st_ino) == mark and not _is_being_written(folder, aside)
    if meant:
        os.unlink(aside, dir_fd=folder)
        fault_point("object_store.remove.unlinked")
    elif found is not None:
        _put_back(folder, aside, name)
    if "/" in aside:
        with suppress(OSError):
            os.rmdir(mark, dir_fd=folder)
    return None if found is None else meant


def _mark(mtime: int | str, size: int | str, inode: int | str) -> str:
    return f".ingestion-removing-{blake2b(f'{mtime}-{size}-{inode}'.encode(), digest_size=8).hexdigest()}"


def _put_back(folder: int, aside: str, name: str) -> None:
    try:
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        pass
    except PermissionError:
        # A file system without hard links, or a file of another user: a rename, which is safe but for the moment between these two lines.
        if lstat(folder, name) is None:
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
    os.unlink(aside, dir_fd=folder)


def _is_being_written(folder: int, name: str) -> bool:
    """Whether somebody has the file open for writing, as far as the kernel lets us know: it grants no read lease on such a file."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        file = os.open(name, FILE, dir_fd=folder)
    except OSError:
        return False
    try:
        # Whoever opens the file for writing while the lease lasts makes the kernel signal us; the default signal ends the process.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(file)
    return False

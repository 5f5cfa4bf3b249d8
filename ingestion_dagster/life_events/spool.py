"""Accepted records of a file whose end is yet to be seen: sealed, in a temporary file without a name, which goes with its process."""

import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from types import TracebackType

from ingestion_dagster.engine.errors import ConfigurationError

_IN_MEMORY = 4 * 1024 * 1024
_KEY_BYTES = 32
_HEAD = struct.Struct(">QI")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A record on its way into the store: its place in the file, what it is known by (under older keys, too), and its sealed payload."""

    ordinal: int
    record_key: bytes
    older: tuple[bytes, ...]
    payload: bytes


class Spool:
    """Holds records in the order in which they were added, in a few megabytes of memory and the rest on disk.

    Payloads come sealed, so that nothing of a person lies there in plain; the file has no name, so that a killed process leaves nothing.
    Raises `ConfigurationError` when the disk is full.
    """

    def __init__(self, older_keys: int) -> None:
        self._older_keys = older_keys
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by __exit__
        self.records = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # what it could not write is not needed any more
            self._file.close()

    def add(self, ordinal: int, record_key: bytes, older: list[bytes], payload: bytes) -> None:
        """Add a record; `older` holds as many keys as the spool was made for."""
        with _faults():
            self._file.write(b"".join((_HEAD.pack(ordinal, len(payload)), record_key, *older, payload)))
        self.records += 1

    def chunks(self, count: int) -> Iterator[list[Accepted]]:
        """All records from the first on, so many at a time."""
        with _faults():
            self._file.seek(0)  # which writes what is left in memory
        chunk: list[Accepted] = []
        while head := self._file.read(_HEAD.size):
            ordinal, length = _HEAD.unpack(head)
            keys = [self._file.read(_KEY_BYTES) for _ in range(1 + self._older_keys)]
            chunk.append(Accepted(ordinal, keys[0], tuple(keys[1:]), self._file.read(length)))
            if len(chunk) == count:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (ENOSPC, EDQUOT)
        what = "is full" if full else f"cannot be used ({error.strerror})"
        raise ConfigurationError(
            f"the folder for temporary files ({tempfile.gettempdir()}) {what}; a file of events needs about its own size there: "
            "make room, or set TMPDIR"
        ) from None

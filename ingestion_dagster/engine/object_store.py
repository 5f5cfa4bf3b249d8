"""Object stores by URL: a bucket or a folder whose objects have versions, and are read, copied and removed by them."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point

_SEGMENT = r"(?!\.)[^/\x00-\x1f\x7f\ud800-\udfff]+"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
LONGEST_KEY = 1024
"""Bytes of a key in UTF-8 that a listing shows: S3's limit, and the ledger's index takes a key of that length."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of an object. Rebuilt from a database row it is as good as new: read, copy and remove need nothing else.

    `key` is relative to the store's URL, `modified` is UTC, `version` identifies this content under this key.
    """

    key: str
    size: int
    modified: datetime
    version: str


class Missing(Exception):
    """Nothing stands under that key."""


class Changed(Exception):
    """Another version stands under that key, or any at all where none should."""


def is_key(key: str) -> bool:
    """Whether `key` can name an object: '/'-separated names, none empty, none with a leading dot, no control characters; 1,024 bytes.

    Names with a leading dot are nobody's data (.DS_Store, rsync's half-written files, '..'); control characters
    are legal in S3, but obstore refuses them. Listings skip such objects.
    """
    return _KEY.fullmatch(key) is not None and len(key.encode()) <= LONGEST_KEY


def checked_key(key: str) -> str:
    """The key itself; ValueError if it is none.

    How long it may be is the store's own affair: in an archive a key carries a day and a version on top.
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"not a key: {key!r} (empty, absolute, a name with a leading dot, or a control character)")
    return key


class ObjectStore(ABC):
    """The objects below one URL (`url`, no trailing slash). Safe to share between threads.

    Every method may raise Transient (`object_store_unavailable`) when the store does not answer as it should, ConfigurationError when
    it is not there or not open to us, and ValueError for a key that is none.
    """

    url: str
    dated_by_arrival: ClassVar[bool]
    """Whether `modified` is the store's own record of when a version arrived. A folder keeps whatever time its writer sets."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Newest versions of all objects in the folder `prefix` and below it, lazily and in no promised order.

        `prefix` is a folder, not the beginning of a name: "in" does not list "in_old/x".
        """

    def list_after(self, key: str) -> Iterator[StoredObject]:
        """Newest versions of all objects whose keys come after `key` (empty: of all), in the order of the bytes of their keys.

        Here all are listed for that, and kept meanwhile; a bucket gives them in this order.
        """
        yield from sorted((seen for seen in self.list() if seen.key > key), key=lambda seen: seen.key)

    @abstractmethod
    def find(self, key: str) -> StoredObject | None:
        """The object that stands under `key` now."""

    def find_all(self, keys: Sequence[str]) -> Sequence[StoredObject | None]:
        """What `find` says of each of these keys, in their order."""
        return [self.find(key) for key in keys]

    @abstractmethod
    def stream(self, obj: StoredObject) -> Iterator[bytes]:
        """The content of exactly this version, in chunks. Raises Missing or Changed, perhaps only after the last chunk."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, modified: datetime | None = None, new: bool = False) -> StoredObject:
        """Put `data` under `key`, at once, durably and in place of what stood there; what a listing shows of it.

        `modified` is kept by a folder only: S3 has its own time. With `new` nothing is replaced: raises Changed if an object stands there.
        """

    @abstractmethod
    def receive(self, source: "ObjectStore", obj: StoredObject, key: str) -> StoredObject:
        """The target's half of `copy`."""

    @abstractmethod
    def take(self, file: Path, key: str) -> None:
        """Make a finished file of `scratch` the object under `key`, at once and in place of what stood there; durable after `flush`."""

    @abstractmethod
    def scratch(self) -> Path:
        """A folder for unfinished files from which `take` is cheap. What is left in it by a crash is nobody's."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything that this process has copied into this store would survive a power failure."""

    @abstractmethod
    def remove(self, obj: StoredObject) -> bool:
        """Delete this version and no other. True: it is gone, by this call or an earlier one. False: another stands there, untouched."""

    @abstractmethod
    def settled(self, obj: StoredObject, *, for_seconds: float, now: datetime) -> bool:
        """Whether nobody has written to the object for so long that it can be taken as complete."""

    def clear_unfinished(self, before: datetime) -> int:
        """Remove what a killed process has begun to write and not named, if nobody has touched it since; how many files.

        A bucket shows nothing of it: its lifecycle rule ends unfinished uploads.
        """
        del before
        return 0

    def read(self, obj: StoredObject) -> bytes:
        """The content of exactly this version. Raises Missing or Changed."""
        return b"".join(self.stream(obj))

    def copy(self, obj: StoredObject, target: "ObjectStore", key: str) -> StoredObject:
        """Copy the bytes of exactly this version, compare what was written with what was read, and return what a listing shows of it.

        Repeatable: it replaces what an earlier attempt left. Call `target.flush()` before `remove(obj)`. Raises Missing or Changed.
        """
        fault_point("object_store.copy.before_write")
        copied = target.receive(self, obj, key)
        fault_point("object_store.copy.after_write")
        return copied


@cache
def open_store(url: str) -> ObjectStore:
    """The store at `s3://bucket[/prefix]` or `file:///folder`, one per process and URL. Touches neither disk nor network.

    A file URL may be percent-encoded; an S3 prefix is taken as it is. Any other URL is a ConfigurationError.
    """
    scheme, separator, rest = url.partition("://")
    place = rest.rstrip("/")
    if separator and scheme == "file":
        folder = unquote(place)
        if folder.startswith("/") and "\0" not in folder and ".." not in folder.split("/"):
            from ingestion_dagster.engine.local_store import LocalStore

            return LocalStore(f"file://{place}", folder)
    elif separator and scheme == "s3":
        bucket, _, prefix = place.partition("/")
        if _BUCKET.fullmatch(bucket) and (not prefix or is_key(prefix)):
            from ingestion_dagster.engine.s3_store import S3Store

            return S3Store(f"s3://{place}", bucket, prefix)
    # A URL that is wrong may hold a password: only its kind is shown.
    kind = f"a {scheme}:// URL" if separator and scheme.isalnum() else "no URL"
    raise ConfigurationError(
        f"an object store is s3://bucket[/prefix] or file:///folder (an absolute path); this is {kind} of another form"
    )

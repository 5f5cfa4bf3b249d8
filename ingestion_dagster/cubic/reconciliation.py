"""What stands in the zones against what the ledger says: nothing that has come was overlooked, all that was archived can be read."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from ingestion_dagster.cubic import gunzip, places, publication
from ingestion_dagster.cubic import reconciliation_sql as sql
from ingestion_dagster.cubic.ods import METADATA, ODS
from ingestion_dagster.cubic.registry import PIPELINE, UNCLASSIFIED, Registry
from ingestion_dagster.cubic.zone import companions
from ingestion_dagster.engine import archived
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.landing import Target, Zone
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject, open_store
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

GRACE_SECONDS = 900.0
"""How long after it was written an object may be in no load: sensors list the landing zone every few minutes."""

LATE_SECONDS = 3600.0
"""How long a `.dfm` may stand without its data file: until then that may be on its way."""

LEFTOVER_SECONDS = 24 * 3600.0
"""How old what a crash has left must be before it is removed: no run lasts so long."""

SHOWN = 20
_PAGE = 1000
_READERS = 8
_LONGEST_METADATA = 16 << 20
_SCRATCH = re.compile(r"cubic-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Unseen:
    """What stands in the landing zone and is not as it should be. Younger objects than the grace period are counted, not judged."""

    objects: int = 0
    unseen: int = 0
    """Objects that are in no load."""
    orphans: int = 0
    """`.dfm` without a data file: none has come, or the one that has gone came with another `.dfm`."""
    late: int = 0
    """`.dfm` whose data file has been moved: `tidy` puts them beside it."""
    datasets: Mapping[str, int] = field(default_factory=dict)
    """Of what is unseen, how many by table."""
    keys: tuple[str, ...] = ()
    """The first of the unseen ones and of the orphans."""


@dataclass(frozen=True, slots=True)
class Tidied:
    """What became of `.dfm` whose data file has been moved: put beside it, there already and removed, left because it changes now."""

    moved: int = 0
    removed: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What was found of archived loads."""

    checked: int = 0
    """Loads whose object was looked for."""
    missing: int = 0
    differing: int = 0
    """Whose object has another size."""
    read: int = 0
    """Of which every byte was read."""
    bytes: int = 0
    """Of these, their size together."""
    damaged: int = 0
    """Of these, how many could not be read to the end, or are no whole gzip any more."""
    elsewhere: int = 0
    """Loads that were archived in another place than the archive zone of today: not looked for."""
    unfinished: bool = False
    """Time was up before all of the share was read."""
    datasets: Mapping[str, int] = field(default_factory=dict)
    """Of the missing, differing and damaged ones, how many by table; of very many, the first."""
    keys: tuple[str, ...] = ()
    """Where the first of the missing, differing and damaged ones should stand."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """What crashes had left in the springboard and was removed."""

    staged: int = 0
    folders: int = 0


def unseen(
    connection: Connection, settings: Settings, registry: Registry, zone: Zone, *, seconds: float | None = None, now: datetime | None = None
) -> Unseen:
    """List all of the landing zone, page by page, and compare it with the ledger. Raises `Transient` or `ConfigurationError`.

    `seconds` is the grace period; without it, what an object needs to settle and be discovered.
    """
    grace = max(GRACE_SECONDS, settings.settle_seconds + settings.cubic_metadata_seconds) if seconds is None else seconds
    moment = now or datetime.now(UTC)
    counts: Counter[str] = Counter()
    datasets: Counter[str] = Counter()
    shown: list[str] = []
    for page in _pages(zone.landing.list()):
        counts["objects"] += len(page)
        data, metadata = _parted(zone, page, grace, moment)
        overlooked = _not_entered(connection, zone, data)
        datasets.update(_by_dataset(registry, overlooked))
        alone = _alone(connection, settings, registry, zone, metadata)
        orphans = [each.metadata.key for each in alone if each.beside is None]
        counts.update(unseen=len(overlooked), orphans=len(orphans), late=len(alone) - len(orphans))
        shown += [*overlooked, *orphans][: SHOWN - len(shown)]
    return Unseen(**counts, datasets=dict(datasets), keys=tuple(shown))


def tidy(
    connection: Connection,
    settings: Settings,
    registry: Registry,
    zone: Zone,
    *,
    seconds: float = LATE_SECONDS,
    now: datetime | None = None,
) -> Tidied:
    """Put each `.dfm` that came after its data file was moved beside that file. Raises `Transient` or `ConfigurationError`.

    Copied, verified, made durable, and only then removed from the landing zone: it may be repeated. One that is younger than `seconds`
    may have come before its data file, and stays.
    """
    moment = now or datetime.now(UTC)
    counts: Counter[str] = Counter()
    for page in _pages(zone.landing.list()):
        _, metadata = _parted(zone, page, seconds, moment)
        for each in _alone(connection, settings, registry, zone, metadata):
            if each.beside is not None:
                counts[_put_beside(zone, each.metadata, each.beside)] += 1
    return Tidied(**counts)


def unreadable(
    connection: Connection,
    settings: Settings,
    registry: Registry,
    zone: Zone,
    *,
    since: datetime | None = None,
    days: int | None = None,
    seconds: float | None = None,
    now: datetime | None = None,
) -> Unreadable:
    """Look for the object of every load that was archived (`since` then), by one listing of the archive.

    With `days`, of today's share of the loads every byte is read, too, as far as `seconds` last: in so many days, each was read once.
    Raises `Transient` or `ConfigurationError` when the archive cannot be listed or does not answer.
    """
    moment = now or datetime.now(UTC)
    archive = open_store(settings.zone(PIPELINE, "archive", "cubic/archive"))
    compared = archived.compare(connection, zone.pipeline, archive, since=since)
    share = _Share()
    if days is not None:
        day = moment.astimezone(UTC).toordinal() % days
        asked = archived.asked_of(connection, zone.pipeline, archive, since)
        share = _read_share(connection, archive, asked | {"days": days, "day": day}, seconds)
    return Unreadable(
        checked=compared.checked,
        missing=compared.missing,
        differing=compared.differing,
        read=share.read,
        bytes=share.bytes,
        damaged=len(share.damaged),
        elsewhere=compared.elsewhere,
        unfinished=share.unfinished,
        datasets=_by_dataset(registry, [*compared.keys, *share.damaged]),
        keys=tuple([*compared.keys, *share.damaged][:SHOWN]),
    )


def clear_leftovers(settings: Settings, now: datetime | None = None, *, seconds: float = LEFTOVER_SECONDS) -> Cleared:
    """Remove files that runs which died have left in the springboard, staged or unfinished. Raises `Transient` or `ConfigurationError`."""
    moment = now or datetime.now(UTC)
    springboard = places.springboard(settings)
    staged = 0
    for seen in springboard.list(publication.STAGING):
        if _is_older(springboard, seen, seconds, moment):
            fault_point("cubic.clear.before_remove")
            staged += springboard.remove(seen)
    folders = 0
    for folder in springboard.scratch().iterdir():
        if _SCRATCH.fullmatch(folder.name) and _last_written(folder) < (moment - timedelta(seconds=seconds)).timestamp():
            shutil.rmtree(folder, ignore_errors=True)
            folders += not folder.exists()
    return Cleared(staged, folders)


@dataclass(frozen=True, slots=True)
class _Alone:
    """A `.dfm` with no data file beside it, nor one on its way; and where it belongs, if that file has been moved."""

    metadata: StoredObject
    beside: Target | None


def _pages(listing: Iterator[StoredObject]) -> Iterator[list[StoredObject]]:
    while page := list(islice(listing, _PAGE)):
        yield page


def _parted(zone: Zone, page: Sequence[StoredObject], seconds: float, now: datetime) -> tuple[list[StoredObject], list[StoredObject]]:
    """Those that are old enough, as what is to be in a load and what travels with a load."""
    old = [seen for seen in page if _is_older(zone.landing, seen, seconds, now)]
    data = [seen for seen in old if zone.arrival(seen) is not None]
    entered = {seen.key for seen in data}
    return data, [seen for seen in old if seen.key not in entered]


def _by_dataset(registry: Registry, keys: Sequence[str]) -> dict[str, int]:
    """How many of these keys are of which table; archived and refused files lie below the same prefixes."""
    return dict(Counter(table.name if (table := registry.of_key(key)) else UNCLASSIFIED for key in keys))


def _is_older(store: ObjectStore, seen: StoredObject, seconds: float, now: datetime) -> bool:
    """Whether nobody has written an object for so long. A folder's own record of that is no time that a writer may set."""
    if store.dated_by_arrival:
        return seen.modified <= now - timedelta(seconds=seconds)
    return store.settled(seen, for_seconds=seconds, now=now)


def _not_entered(connection: Connection, zone: Zone, objects: Sequence[StoredObject]) -> list[str]:
    """Keys of those that are in no load in that very version."""
    parameters = {"landing": zone.landing.url, "keys": [seen.key for seen in objects], "versions": [seen.version for seen in objects]}
    return [row[0] for row in connection.execute(sql.NOT_ENTERED, parameters)] if objects else []


def _alone(connection: Connection, settings: Settings, registry: Registry, zone: Zone, metadata: Sequence[StoredObject]) -> list[_Alone]:
    if not metadata:
        return []
    pairs = [(seen.key, data) for seen in metadata for data in _data_keys(seen.key)]
    parameters = {"landing": zone.landing.url, "metadata": [key for key, _ in pairs], "data": [data for _, data in pairs]}
    loads: dict[str, list[tuple[bool, str | None]]] = {}
    for key, is_unfinished, location in connection.execute(sql.LOADS_OF, parameters):
        loads.setdefault(key, []).append((is_unfinished, location))
    alone = []
    for seen in metadata:
        of_data = loads.get(seen.key, [])
        if any(is_unfinished for is_unfinished, _ in of_data) or any(zone.landing.find(key) for key in _data_keys(seen.key)):
            continue
        location = next((location for _, location in of_data if location is not None), None)
        alone.append(_Alone(seen, _beside(settings, registry, zone, seen, location) if location else None))
    return alone


def _data_keys(key: str) -> list[str]:
    """Of what data files a `.dfm` can be."""
    return [f"{key.removesuffix(METADATA)}{ending}" for ending in ODS.suffixes]


def _beside(settings: Settings, registry: Registry, zone: Zone, metadata: StoredObject, location: str) -> Target | None:
    """Where a `.dfm` belongs whose data file was moved; None if that is no place of ours, or another `.dfm` is there."""
    for url in (settings.zone(PIPELINE, "archive", "cubic/archive"), settings.zone(PIPELINE, "error", "cubic/error")):
        store = open_store(url)
        if not location.startswith(f"{store.url}/"):
            continue
        for key in companions(registry, location.removeprefix(f"{store.url}/")):
            standing = store.find(key)
            if standing is None or _are_equal(zone.landing, metadata, store, standing):
                return Target(store, key)
    return None


def _are_equal(store: ObjectStore, one: StoredObject, other_store: ObjectStore, other: StoredObject) -> bool:
    try:
        return one.size == other.size <= _LONGEST_METADATA and store.read(one) == other_store.read(other)
    except (Missing, Changed):
        return False


def _put_beside(zone: Zone, metadata: StoredObject, target: Target) -> str:
    """Move a `.dfm`: what became of it, as `Tidied` counts it."""
    try:
        stood = target.store.find(target.key) is not None
        if not stood:
            fault_point("cubic.tidy.before_copy")
            zone.landing.copy(metadata, target.store, target.key)
        target.store.flush()
    except (Missing, Changed):
        return "left"
    fault_point("cubic.tidy.before_remove")
    removed = zone.landing.remove(metadata)
    fault_point("cubic.tidy.after_remove")
    return "left" if not removed else "removed" if stood else "moved"


@dataclass(slots=True)
class _Share:
    """What was read of a day's share."""

    read: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    unfinished: bool = False


def _read_share(connection: Connection, archive: ObjectStore, asked: Mapping[str, object], seconds: float | None) -> _Share:
    share = _Share()
    deadline = None if seconds is None else time.monotonic() + seconds
    loads = connection.execute(sql.SHARE, asked).fetchall()
    with ThreadPoolExecutor(_READERS if archive.dated_by_arrival else 1) as pool:
        for first in range(0, len(loads), _READERS * 4):
            if deadline is not None and time.monotonic() > deadline:
                share.unfinished = True
                return share
            window = [row[0] for row in loads[first : first + _READERS * 4]]
            for key, read in zip(window, pool.map(lambda key: _read(archive, key), window), strict=True):
                if read is not None:
                    share.read += 1
                    share.bytes += read.bytes
                    share.damaged += [] if read.is_whole else [key]
    return share


@dataclass(frozen=True, slots=True)
class _Read:
    """An object that was read to its end, or as far as it could be."""

    bytes: int
    is_whole: bool


def _read(archive: ObjectStore, key: str) -> _Read | None:
    """Read every byte of an object, and of a gzip compare its checksums; None if it has gone or been replaced meanwhile."""
    found = archive.find(key)
    if found is None:
        return None
    try:
        chunks = archive.stream(found)
        for _ in gunzip.gunzip(chunks) if key.endswith(".gz") else chunks:
            pass
    except (Missing, Changed):
        return None
    except Refused:
        return _Read(found.size, is_whole=False)
    return _Read(found.size, is_whole=True)


def _last_written(folder: Path) -> float:
    """When something was written in a folder last; now, if it goes away at this moment or is not ours to look at."""
    try:
        return max(each.lstat().st_mtime for each in (folder, *folder.iterdir()))
    except OSError:
        return time.time()

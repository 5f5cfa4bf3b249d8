"""The landing zone: discover what arrived, read it, and move it to where it belongs once the ledger says so."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from ingestion_dagster.engine import entries, ledger
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Load, Status
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject, open_store
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)


INCOMPLETE = "metadata"
"""What a load waits for whose object has arrived before what belongs to it."""

LISTING_SECONDS = 40.0
"""A sensor's evaluation ends at 60 s; what a listing has not reached by now is seen at the next tick."""

PAGE = 1000
"""Objects that are entered in one transaction, at most."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_LONGEST_NAME = 255  # bytes, on every file system in use
_ADDED = len(".3f9c02d41b7e") + len(".report.json")
_REMOTE_THREADS = 16


@dataclass(frozen=True, slots=True)
class Target:
    """A place an object is copied to."""

    store: ObjectStore
    key: str

    @property
    def location(self) -> str:
        """URL of the place, as the ledger shows it."""
        return f"{self.store.url}/{self.key}"


def _always(_seen: StoredObject, _now: datetime) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Zone:
    """A pipeline's landing zone and where its objects go from there. The last target is the one the ledger records."""

    pipeline: str
    landing: ObjectStore
    archive_targets: Callable[[Load], Sequence[Target]]
    """No target: what has been loaded is deleted, and the report of one that was loaded in part goes to where refused ones go."""
    error_targets: Callable[[Load], Sequence[Target]]
    settle_seconds: float = 2.0
    arrival: Callable[[StoredObject], Arrival | None] = Arrival
    """What an object is, by its key; None: no load (it belongs to another object)."""
    complete: Callable[[StoredObject, datetime], bool] = _always
    """Whether all that belongs to an object has arrived, or is not awaited any longer; until then its load waits, but is known."""
    assign: Callable[[Connection], None] = lambda _connection: None
    """Decide about loads that wait for others, after some have arrived."""
    companions: Callable[[str], tuple[str, ...]] = lambda _key: ()
    """Keys of the objects that travel with the one of this key."""
    decisive: Callable[[Connection], Sequence[str]] = lambda _connection: ()
    """Keys by which `assign` decides, if it has anything to decide about: looked for where the landing zone is not listed before."""
    queue: str | None = None
    """URL of an SQS queue that tells what arrives; None: it is listed."""
    stays: bool = False
    """Whether an object stays where it landed, loaded or refused, and what there is to say of it is told elsewhere."""

    def targets(self, load: Load) -> Sequence[Target]:
        """Where this load's object belongs, by its status."""
        return self.error_targets(load) if load.status in (Status.READY_FOR_ERRORING, Status.ERRORING) else self.archive_targets(load)


@dataclass(slots=True)
class Discovery:
    """What a listing saw: objects in all, loads that are new, objects still being written, objects that came back, and if it finished."""

    seen: int = 0
    new: int = 0
    settling: int = 0
    came_back: int = 0
    complete: bool = True


def discover(
    connection: Connection,
    zone: Zone,
    now: datetime,
    run_id: str | None = None,
    *,
    skip: int = 0,
    seconds: float | None = None,
) -> Discovery:
    """List the landing zone and enter what is there into the ledger, page by page.

    `skip` passes over objects an earlier, unfinished listing has entered, `seconds` bounds this one: a sensor goes on at its next tick
    after `skip + seen` objects. What has shifted meanwhile is seen by the listing after that.
    """
    found = Discovery()
    started = time.monotonic()
    listed_at = ledger.now(connection)
    listing = islice(zone.landing.list(), skip, None)
    while page := list(islice(listing, PAGE)):
        enter(connection, zone, page, found, Moment(now, listed_at, run_id))
        if seconds is not None and time.monotonic() - started > seconds:
            found.complete = False
            break
    if found.complete:
        # What a listing has not reached yet may be what others wait for.
        zone.assign(connection)
    return found


@dataclass(frozen=True, slots=True)
class Moment:
    """When objects are entered, and by whom: the run's clock, the ledger's clock before the landing zone was looked at, and the run."""

    now: datetime
    looked_at: datetime
    run_id: str | None = None


def enter(connection: Connection, zone: Zone, page: Sequence[StoredObject], found: Discovery, moment: Moment) -> None:
    """Enter objects that were seen in the landing zone into the ledger, in one transaction; adds to what was `found`."""
    now_by_clock = datetime.now(UTC)
    settled = [seen for seen in page if zone.landing.settled(seen, for_seconds=zone.settle_seconds, now=now_by_clock)]
    arrivals = [arrival for arrival in map(zone.arrival, settled) if arrival is not None]
    waiting = set(incomplete(zone, [arrival.object for arrival in arrivals], now_by_clock))
    arrivals = [replace(each, waiting_for=INCOMPLETE) if each.object in waiting else each for each in arrivals]
    found.seen += len(page)
    found.settling += len(page) - len(settled) + len(waiting)
    if not arrivals:
        return
    with connection.transaction():
        found.new += entries.discover(connection, zone.pipeline, zone.landing.url, arrivals, moment.now, moment.run_id)
        whole = [arrival.object for arrival in arrivals if arrival.object not in waiting]
        entries.completed(connection, zone.pipeline, zone.landing.url, whole)
        if not zone.stays:
            found.came_back += _come_back(connection, zone, [arrival.object for arrival in arrivals], moment.looked_at)


def incomplete(zone: Zone, objects: Sequence[StoredObject], now: datetime) -> list[StoredObject]:
    """Those of which not all has arrived that belongs to them."""
    if zone.complete is _always:
        return []
    complete = list(side_by_side(zone, lambda seen: zone.complete(seen, now), objects))
    return [seen for seen, is_complete in zip(objects, complete, strict=True) if not is_complete]


def _come_back(connection: Connection, zone: Zone, settled: Sequence[StoredObject], listed_at: datetime) -> int:
    fault_point("transition.archived.ready_for_archiving.before")
    fault_point("transition.errored.ready_for_erroring.before")
    came_back = ledger.come_back(connection, zone.landing.url, settled, listed_at)
    if came_back:
        fault_point("transition.archived.ready_for_archiving.after")
        fault_point("transition.errored.ready_for_erroring.after")
    return came_back


def read(zone: Zone, load: Load) -> bytes:
    """The bytes of a load: from the landing zone in the very version it stands for, or from where it was moved to.

    Raises `Missing`, `Changed` or `Transient`.
    """
    store, seen = source_of(zone, load)
    return store.read(seen)


def stream(zone: Zone, load: Load) -> Iterator[bytes]:
    """The bytes of a load in chunks; as `read`, but what it raises may come after the last chunk."""
    store, seen = source_of(zone, load)
    yield from store.stream(seen)


def is_newest(zone: Zone, load: Load) -> bool:
    """Whether no other version stands under a load's key: what travels with it is of the newest. Raises as `read`."""
    store, seen = source_of(zone, load)
    found = store.find(seen.key)
    return found is None or found.version == seen.version


def read_companion(zone: Zone, load: Load) -> bytes | None:
    """The first object that travels with a load's; None if it is not there. Raises `Missing`, `Changed` or `Transient`."""
    store, seen = source_of(zone, load)
    for key in zone.companions(seen.key):
        found = store.find(key)
        if found is not None:
            return store.read(found)
    return None


def read_ahead(zone: Zone, loads: Sequence[Load]) -> Iterator[tuple[Load, bytes | Exception]]:
    """Each load with its bytes, or with the exception that reading raised; remote objects are fetched side by side."""

    def fetch(load: Load) -> tuple[Load, bytes | Exception]:
        try:
            return load, read(zone, load)
        except (Missing, Changed, Transient, ConfigurationError) as error:
            return load, error

    yield from side_by_side(zone, fetch, loads)


def versioned(key: str, version: str, suffixes: int = 1) -> str:
    """A key that carries its version before the suffix, so that no version overwrites another: `a.json` → `a.3f9c02d41b7e.json`.

    With two suffixes `a.csv.gz` becomes `a.3f9c02d41b7e.csv.gz`.

    A name too long for a file system with that, and with `.report.json` behind it, is cut; two that are equal then differ in their digest.
    """
    folder, slash, name = key.rpartition("/")
    stem = name.rsplit(".", suffixes)[0] or name
    suffix = name[len(stem) :]
    room = _LONGEST_NAME - len(suffix.encode()) - _ADDED
    if len(stem.encode()) <= room:
        return f"{folder}{slash}{stem}.{_digest(version)}{suffix}"
    if room < 1:  # nothing but a suffix
        stem, suffix, room = name, "", _LONGEST_NAME - _ADDED
    return f"{folder}{slash}{stem.encode()[:room].decode(errors='ignore')}.{_digest(f'{key} {version}')}{suffix}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def source_of(zone: Zone, load: Load) -> tuple[ObjectStore, StoredObject]:
    """Where a load's object stands: where it was landed, or (retried, replayed) where it was moved to.

    Raises `Missing`, and `ConfigurationError` for a place that the settings do not name any more.
    """
    if load.location is None:
        return zone.landing if load.landing_zone == zone.landing.url else open_store(load.landing_zone), load.stored_object
    for target in (*zone.archive_targets(load), *zone.error_targets(load)):
        if target.location == load.location:
            found = target.store.find(target.key)
            if found is None:
                raise Missing(load.location)
            return target.store, found
    raise ConfigurationError(
        f"a load of {zone.pipeline} stands where the settings place no archive and no error zone; set the zones' URLs to where they were"
    )


def side_by_side(zone: Zone, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `work` to each item in order; against a remote store several at a time, a bounded number ahead."""
    if not zone.landing.url.startswith("s3://"):
        yield from map(work, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
        while window := list(islice(waiting, _REMOTE_THREADS * 4)):
            yield from pool.map(work, window)

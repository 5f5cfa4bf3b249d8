"""The landing zone: discover what arrived, read it, and move it to where it belongs once the ledger says so."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import MOVED, MOVING, Arrival, Load, Status, Step
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject, open_store
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

SOURCE_DELETED = "source_deleted"
"""What the history of a load says whose object was deleted, and not moved, once it was loaded."""

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
        found.new += ledger.discover(connection, zone.pipeline, zone.landing.url, arrivals, moment.now, moment.run_id)
        whole = [arrival.object for arrival in arrivals if arrival.object not in waiting]
        ledger.completed(connection, zone.pipeline, zone.landing.url, whole)
        if not zone.stays:
            found.came_back += _come_back(connection, zone, [arrival.object for arrival in arrivals], moment.looked_at)


def incomplete(zone: Zone, objects: Sequence[StoredObject], now: datetime) -> list[StoredObject]:
    """Those of which not all has arrived that belongs to them."""
    if zone.complete is _always:
        return []
    complete = list(_side_by_side(zone, lambda seen: zone.complete(seen, now), objects))
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
    store, seen = _source(zone, load)
    return store.read(seen)


def stream(zone: Zone, load: Load) -> Iterator[bytes]:
    """The bytes of a load in chunks; as `read`, but what it raises may come after the last chunk."""
    store, seen = _source(zone, load)
    yield from store.stream(seen)


def is_newest(zone: Zone, load: Load) -> bool:
    """Whether no other version stands under a load's key: what travels with it is of the newest. Raises as `read`."""
    store, seen = _source(zone, load)
    found = store.find(seen.key)
    return found is None or found.version == seen.version


def read_companion(zone: Zone, load: Load) -> bytes | None:
    """The first object that travels with a load's; None if it is not there. Raises `Missing`, `Changed` or `Transient`."""
    store, seen = _source(zone, load)
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

    yield from _side_by_side(zone, fetch, loads)


def move(connection: Connection, zone: Zone, loads: Sequence[Load], *, lease_seconds: float, run_id: str | None = None) -> list[Load]:
    """Move the objects of committed loads and finish them. Returns those that could not be moved now; the sweep tries again.

    Copy, verify, make durable, then remove that very version: killed anywhere, the same call may be made again.
    """
    return _move(connection, zone, [Step(load) for load in loads], lease_seconds, run_id)


def _move(connection: Connection, zone: Zone, steps: Sequence[Step], lease_seconds: float, run_id: str | None) -> list[Load]:
    pending: list[Load] = []
    for ready, moving in MOVING.items():
        due = [step for step in steps if step.load.status == ready]
        taken = ledger.transition(connection, due, ready, moving, lease_seconds=lease_seconds, run_id=run_id)
        copies = list(_side_by_side(zone, lambda load: _copy(zone, load), taken))
        finished: list[Step] = []
        if _flushed(copies):
            finished = [step for step in _side_by_side(zone, _remove, copies) if step is not None]
        moved = ledger.transition(connection, finished, moving, MOVED[moving], lease_seconds=lease_seconds, run_id=run_id)
        done = {load.id for load in moved}
        pending += [load for load in taken if load.id not in done]
    return pending


def sweep(
    connection: Connection, zone: Zone, *, lease_seconds: float, max_attempts: int, run_id: str | None = None, count: int = 5000
) -> tuple[int, int]:
    """Return what dead runs held to `ready`, and finish moves nobody works on. Returns both numbers."""
    returned = ledger.expire(connection, zone.pipeline, max_attempts)
    for ready, moving in MOVING.items():
        fault_point(f"transition.{moving}.{ready}.before")
    stranded = ledger.take_stranded(connection, zone.pipeline, count=count, lease_seconds=lease_seconds)
    for ready, moving in MOVING.items():
        fault_point(f"transition.{moving}.{ready}.after")
    pending = _move(connection, zone, stranded, lease_seconds, run_id)
    return returned, len(stranded) - len(pending)


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


@dataclass(frozen=True, slots=True)
class _Copy:
    """A load whose object has been copied, or of which there is nothing left to copy."""

    load: Load
    targets: Sequence[Target]
    source: tuple[ObjectStore, StoredObject] | None = None
    companions: Sequence[StoredObject] = ()
    location: str | None = None
    why: str | None = None
    failed: bool = False


def _source(zone: Zone, load: Load) -> tuple[ObjectStore, StoredObject]:
    """Where a load's object stands: where it was landed, or (retried, replayed) where it was moved to."""
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


def _copy(zone: Zone, load: Load) -> _Copy:
    """Copy a load's object and write its report. What a store cannot do now is this load's affair, not its neighbours'."""
    targets = zone.targets(load)
    try:
        copied = _copied(zone, load, targets)
        if not zone.stays and (load.status == Status.ERRORING or load.rows_rejected):
            target = (targets or zone.error_targets(load))[-1]
            fault_point("landing.report.before")
            target.store.write(f"{target.key}.report.json", _report(load))
            fault_point("landing.report.after")
    except (Transient, ConfigurationError, ValueError) as error:
        log.warning("load_id=%s error=%s: its object stays where it is for now", load.id, _kind(error))
        return _Copy(load, targets, failed=True)
    return copied


def _copied(zone: Zone, load: Load, targets: Sequence[Target]) -> _Copy:
    location = targets[-1].location if targets else None
    deleted = None if targets else SOURCE_DELETED
    try:
        store, seen = _source(zone, load)
        impossible = False
        for target in targets:
            if (target.store.url, target.key) == (store.url, seen.key):
                continue
            try:
                store.copy(seen, target.store, target.key)
            except ValueError:
                # `a` is a file there and this is `a/b`: what the ledger records is the last target, and the object is kept there.
                if target is targets[-1]:
                    raise
                impossible = True
    except Missing:
        if all(target.store.find(target.key) for target in targets):
            return _Copy(load, targets, location=location, why=deleted)
        return _Copy(load, targets, why="the object was gone before it could be moved")
    except Changed:
        return _Copy(load, targets, why="the object was overwritten before it could be moved")
    why = "its key is a folder among the processed objects" if impossible else deleted
    return _Copy(load, targets, (store, seen), _companions_copied(zone, store, seen, targets), location, why)


def _companions_copied(zone: Zone, store: ObjectStore, seen: StoredObject, targets: Sequence[Target]) -> list[StoredObject]:
    """What travels with an object, copied beside each of its copies."""
    found: list[StoredObject] = []
    newest = store.find(seen.key) if zone.companions(seen.key) else None
    if newest is not None and newest.version != seen.version:
        return found  # they are the newer version's
    for position, key in enumerate(zone.companions(seen.key)):
        companion = store.find(key)
        if companion is None:
            continue
        try:
            for target in targets:
                beside = zone.companions(target.key)[position]
                if (target.store.url, beside) != (store.url, key):
                    store.copy(companion, target.store, beside)
        except (Missing, Changed):
            raise Transient("object_changed", "what travels with an object was overwritten while it was copied") from None
        found.append(companion)
    return found


def _flushed(copies: Sequence[_Copy]) -> bool:
    """Whether what was copied is durable. If not, the sources stay."""
    try:
        for store in {id(target.store): target.store for copied in copies for target in copied.targets}.values():
            store.flush()
    except (Transient, ConfigurationError) as error:
        log.warning("loads=%s error=%s: their objects stay where they are for now", len(copies), _kind(error))
        return False
    return True


def _remove(copied: _Copy) -> Step | None:
    if copied.failed:
        return None
    if copied.source is not None:
        store, seen = copied.source
        kept = {(target.store.url, target.key) for target in copied.targets}
        if (store.url, seen.key) not in kept:
            try:
                if copied.load.location is not None and not (copied.load.rows_rejected and not copied.targets):
                    _remove_report(store, seen.key)
                # Last the object itself: as long as it stands, a repeated move finds what is left to do.
                for companion in copied.companions:
                    store.remove(companion)
                is_gone = store.remove(seen)
                if not copied.targets and _still_stands(store, seen):
                    raise Transient("object_not_deleted", "the store still shows an object that it has deleted")
                if not copied.targets and not is_gone:
                    return Step(copied.load, copied.location, "the object was overwritten before it could be deleted")
            except (Transient, ConfigurationError) as error:
                log.warning("load_id=%s error=%s: the source stays for now", copied.load.id, _kind(error))
                return None
    return Step(copied.load, copied.location, copied.why)


def _still_stands(store: ObjectStore, seen: StoredObject) -> bool:
    found = store.find(seen.key)
    return found is not None and found.version == seen.version


def _kind(error: Exception) -> str:
    """What may be logged of a store's error: its message quotes the key, and a file's name may tell something."""
    return error.code if isinstance(error, Transient) else type(error).__name__


def _remove_report(store: ObjectStore, key: str) -> None:
    """A retried load leaves the error zone: its old report goes first, so that a crash leaves none without its object."""
    report = store.find(f"{key}.report.json")
    if report is not None:
        store.remove(report)


def _report(load: Load) -> bytes:
    content = {
        "path": load.key,
        "ok": False,
        "problems": [problem.as_dict() for problem in load.problems],
        "rows_in": load.rows_in,
        "rows_written": load.rows_written,
        "rows_unchanged": load.rows_unchanged,
        "rows_rejected": load.rows_rejected,
    }
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def _side_by_side(zone: Zone, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `work` to each item in order; against a remote store several at a time, a bounded number ahead."""
    if not zone.landing.url.startswith("s3://"):
        yield from map(work, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
        while window := list(islice(waiting, _REMOTE_THREADS * 4)):
            yield from pool.map(work, window)

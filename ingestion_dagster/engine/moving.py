"""Objects of committed loads move to where they belong, and what dead runs have left is finished."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.landing import Target, Zone, side_by_side, source_of
from ingestion_dagster.engine.ledger import MOVED, MOVING, Load, Status, Step
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

SOURCE_DELETED = "source_deleted"
"""What the history of a load says whose object was deleted, and not moved, once it was loaded."""


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
        copies = list(side_by_side(zone, lambda load: _copy(zone, load), taken))
        finished: list[Step] = []
        if _flushed(copies):
            finished = [step for step in side_by_side(zone, _remove, copies) if step is not None]
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
        store, seen = source_of(zone, load)
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

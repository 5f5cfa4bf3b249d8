"""A landing zone on real folders, a ledger in a real Postgres, and the steps of a run by name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from ingestion_dagster.engine import entries, landing, ledger, moving
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.engine.landing import Discovery, Target, Zone, versioned
from ingestion_dagster.engine.ledger import Load, Scope, Status, Verdict
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.object_store import ObjectStore, StoredObject, open_store
from ingestion_dagster.engine.postgres import Connection, Database

PIPELINE = "parcels"
ZONE = "file:///landing"
NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
BAD = Problem("bad_weight", "row 3, column 'weight'", "write kilograms as a number")
UNAVAILABLE = Transient("object_store_unavailable", "the store does not answer")

_versions = count(1)


def seen(key: str, version: str | None = None, *, minutes: int = 0, size: int = 10) -> StoredObject:
    """An object as a listing shows it, modified so many minutes after noon; by default in a version of its own."""
    return StoredObject(key, size, NOON + timedelta(minutes=minutes), version or f"v{next(_versions)}")


class HookedStore(LocalStore):
    """A folder that calls `before[operation](key)` first: a test may raise there, or change what stands in the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.as_uri(), str(folder))
        self.folder = folder
        self.before: dict[str, Callable[[str], object]] = {}

    def fail(self, operation: str, *keys: str, error: Exception = UNAVAILABLE) -> None:
        """From now on this operation raises, for these keys only if any are given."""

        def raising(key: str) -> None:
            if not keys or key in keys:
                raise error

        self.before[operation] = raising

    def stream(self, obj: StoredObject) -> Iterator[bytes]:
        self._reached("stream", obj.key)
        return super().stream(obj)

    def read(self, obj: StoredObject) -> bytes:
        self._reached("read", obj.key)
        return super().read(obj)

    def find(self, key: str) -> StoredObject | None:
        self._reached("find", key)
        return super().find(key)

    def write(self, key: str, data: bytes, *, modified: datetime | None = None, new: bool = False) -> StoredObject:
        self._reached("write", key)
        return super().write(key, data, modified=modified, new=new)

    def receive(self, source: ObjectStore, obj: StoredObject, key: str) -> StoredObject:
        self._reached("receive", key)
        return super().receive(source, obj, key)

    def flush(self) -> None:
        self._reached("flush", "")
        super().flush()

    def remove(self, obj: StoredObject) -> bool:
        self._reached("remove", obj.key)
        return super().remove(obj)

    def _reached(self, operation: str, key: str) -> None:
        if operation in self.before:
            self.before[operation](key)


@dataclass
class Scene:
    """One pipeline with datasets `letters` and `boxes`; `settle`, `move` and `sweep` as a run makes them."""

    database: Database
    connection: Connection
    folder: Path
    stores: dict[str, HookedStore] = field(init=False)
    landing: HookedStore = field(init=False)
    processed: HookedStore = field(init=False)
    archive: HookedStore = field(init=False)
    error: HookedStore = field(init=False)
    zone: Zone = field(init=False)

    def __post_init__(self) -> None:
        self.stores = {name: HookedStore(self.folder / name) for name in ("in", "processed", "archive", "failed")}
        self.landing, self.processed, self.archive, self.error = self.stores.values()
        self.zone = Zone(
            PIPELINE,
            self.landing,
            archive_targets=lambda load: (
                Target(self.processed, load.key),
                Target(self.archive, f"{load.partition}/{versioned(load.key, load.version)}"),
            ),
            error_targets=lambda load: (Target(self.error, versioned(load.key, load.version)),),
            settle_seconds=0,
        )
        sync_datasets(self.connection, PIPELINE, ["letters", "boxes"])

    # Without objects

    def enter(self, *objects: StoredObject, now: datetime = NOON) -> int:
        """Enter objects that stand nowhere; returns how many are new loads."""
        return entries.discover(self.connection, PIPELINE, ZONE, list(map(Arrival, objects)), now)

    def claim(self, run_id: str = "run", *, count: int = 1000, size: int = 1 << 40, lease: float = 60, **scope: Any) -> list[Load]:
        """Claim a batch; a lease below zero has run out already."""
        return ledger.claim(self.connection, Scope(PIPELINE, **scope), run_id, count=count, size=size, lease_seconds=lease)

    def settle(self, loads: Sequence[Load], to: Status = Status.READY_FOR_ARCHIVING, **verdict: Any) -> list[Load]:
        """One verdict for all; returns the loads as they are to be moved."""
        if to == Status.READY_FOR_ERRORING:
            verdict.setdefault("problems", (BAD,))
        verdicts = [Verdict(load, to, **verdict) for load in loads]
        with self.connection.transaction():
            ledger.settle(self.connection, verdicts)
        return [verdict.settled for verdict in verdicts]

    def finish(self, loads: Sequence[Load]) -> None:
        """Move loads on to their end, objects or none."""
        for ready, under_way in ledger.MOVING.items():
            of_kind = [ledger.Step(load) for load in loads if load.status == ready]
            taken = ledger.transition(self.connection, of_kind, ready, under_way, lease_seconds=60)
            ledger.transition(self.connection, [ledger.Step(load) for load in taken], under_way, ledger.MOVED[under_way], lease_seconds=60)

    def expire(self, max_attempts: int = 3) -> int:
        """Return to `ready` what silent runs hold."""
        return ledger.expire(self.connection, PIPELINE, max_attempts)

    # With objects

    def land(self, key: str, content: bytes = b"content", *, minutes: int = 0) -> StoredObject:
        """Put an object into the landing zone."""
        return self.landing.write(key, content, modified=NOON + timedelta(minutes=minutes))

    def discover(self) -> Discovery:
        """List the landing zone."""
        return landing.discover(self.connection, self.zone, NOON)

    def committed(self, to: Status = Status.READY_FOR_ARCHIVING, *, lease: float = 60, **verdict: Any) -> list[Load]:
        """Discover, claim and settle all there is: what a run has committed and not moved."""
        self.discover()
        return self.settle(self.claim(lease=lease), to, **verdict)

    def move(self, loads: Sequence[Load], *, lease: float = 60, run_id: str = "run") -> list[Load]:
        """Move; returns what is pending."""
        return moving.move(self.connection, self.zone, loads, lease_seconds=lease, run_id=run_id)

    def sweep(self, *, max_attempts: int = 3) -> tuple[int, int]:
        """What the sweep does; returns its two numbers."""
        return moving.sweep(self.connection, self.zone, lease_seconds=60, max_attempts=max_attempts)

    # To look

    def rows(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, parameters).fetchall()

    def statuses(self) -> dict[str, list[str]]:
        """By key, the status of each version in order of discovery."""
        found: dict[str, list[str]] = {}
        for key, status in self.rows("SELECT key, status FROM ledger.loads ORDER BY id"):
            found.setdefault(key, []).append(status)
        return found

    def value(self, column: str, load: Load) -> Any:
        """One column of a load's row."""
        return self.rows(f"SELECT {column} FROM ledger.loads WHERE id = %s", [load.id])[0][0]

    def events(self, load: Load) -> list[tuple[str | None, str, str | None, str | None]]:
        """From, to, run and why, in order."""
        statement = "SELECT from_status, to_status, run_id, why FROM ledger.load_events WHERE load_id = %s ORDER BY id"
        return [(row[0], row[1], row[2], row[3]) for row in self.rows(statement, [load.id])]

    def contents(self, store: ObjectStore) -> dict[str, bytes]:
        """Everything in a store, by key, reports left out."""
        plain = open_store(store.url)  # without hooks
        return {found.key: plain.read(found) for found in plain.list() if not found.key.endswith(".report.json")}

    def reports(self, store: ObjectStore) -> list[str]:
        """Keys of the reports in a store."""
        return sorted(found.key for found in store.list() if found.key.endswith(".report.json"))


@contextmanager
def scene_in(database: Database, folder: Path) -> Iterator[Scene]:
    """A scene over a database and a folder of its own."""
    with database.connect() as connection:
        yield Scene(database, connection, folder)

"""A landing folder of one ods table and its neighbours, discovered into a real ledger, and what a run would make of its loads."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ingestion_dagster.cubic import discovery
from ingestion_dagster.cubic.registry import PIPELINE, Registry, parse_registry
from ingestion_dagster.engine import landing, ledger
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.landing import Discovery, Zone
from ingestion_dagster.engine.ledger import SUPERSEDED, Scope, Status, Verdict
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Connection

TAPS = "cubic/ods_qlik/EDW.TAPS/"
CHANGES = "cubic/ods_qlik/EDW.TAPS__ct/"
MARKER, PART = f"{TAPS}LOAD00000001.csv.gz", f"{TAPS}LOAD00000002.csv.gz"
TEN = datetime(2026, 1, 1, 10, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BAD = Problem("bad_gzip", "the whole file", "deliver it again")

TABLES = """
tables:
- {name: taps, prefix: cubic/ods_qlik/EDW.TAPS, kind: ods}
- {name: cards, prefix: cubic/ods_qlik/EDW.CARDS, kind: ods}
- {name: agg, prefix: cubic/dmap/agg, kind: dmap}
- {name: events, prefix: cubic/kafka/events, kind: kafka}
"""


def at(minutes: float, seconds: float = 0) -> datetime:
    """An instant so long after ten o'clock."""
    return TEN + timedelta(minutes=minutes, seconds=seconds)


def snapshot(minutes: float, seconds: float = 0) -> str:
    """The partition of the snapshot whose marker came then."""
    return at(minutes, seconds).strftime("%Y%m%dT%H%M%SZ")


@dataclass
class SnapshotScene:
    """Put files down, list them, decide about loads, and look where they belong."""

    connection: Connection
    folder: Path
    registry: Registry

    def __post_init__(self) -> None:
        self.use(self.registry)

    def use(self, registry: Registry | str) -> None:
        """Go by this registry from now on."""
        self.registry = parse_registry(registry) if isinstance(registry, str) else registry
        discovery.sync(self.connection, self.registry)

    @property
    def zone(self) -> Zone:
        return Zone(
            PIPELINE,
            open_store(self.folder.as_uri()),
            archive_targets=lambda _load: (),
            error_targets=lambda _load: (),
            settle_seconds=0,
            arrival=lambda seen: discovery.arrival(self.registry, seen),
        )

    def land(self, key: str, modified: datetime, content: bytes = b"x") -> None:
        """Put a file into the folder, as another version of what was there."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        stamp = (modified - EPOCH) // timedelta(microseconds=1) * 1000
        os.utime(path, ns=(stamp, stamp))

    def discover(self) -> Discovery:
        """List the folder, then assign, as a tick does."""
        found = landing.discover(self.connection, self.zone, datetime.now(UTC))
        self.assign()
        return found

    def assign(self) -> discovery.Assigned:
        return discovery.assign(self.connection, self.registry)

    def enter(self) -> None:
        """Enter what stands in the folder, and assign nothing."""
        landing.discover(self.connection, self.zone, datetime.now(UTC))

    def arrives(self, key: str, modified: datetime, content: bytes = b"x") -> None:
        """Land a file and list it."""
        self.land(key, modified, content)
        self.discover()

    def claimable(self, dataset: str | None = None) -> list[str]:
        """Names of the files that a run would claim now."""
        scope = Scope(PIPELINE, datasets=frozenset({dataset}) if dataset else None)
        return [load.key.rpartition("/")[2] for load in ledger.claimable_loads(self.connection, scope)]

    def take(self, key: str) -> list[ledger.Load]:
        """Claim the oldest load of a key that can be claimed."""
        ids = [load.id for load in ledger.claimable_loads(self.connection, Scope(PIPELINE)) if load.key == key][:1]
        assert ids, f"nothing to claim of {key}"
        return ledger.claim(self.connection, Scope(PIPELINE, ids=frozenset(ids)), "run", count=1, size=1, lease_seconds=60)

    def finish(self, key: str, to: Status = Status.ARCHIVED, problems: Sequence[Problem] = ()) -> None:
        """Claim the oldest claimable load of a key and take it to its end; its file leaves the folder."""
        [load] = self.take(key)
        errored = to == Status.ERRORED
        on_the_way = Status.READY_FOR_ERRORING if errored else Status.READY_FOR_ARCHIVING
        with self.connection.transaction():
            ledger.settle(self.connection, [Verdict(load, on_the_way, problems=(BAD,) if errored else tuple(problems))])
        moving = ledger.MOVING[on_the_way]
        step = ledger.Step(load)
        ledger.transition(self.connection, [step], on_the_way, moving, lease_seconds=60)
        ledger.transition(self.connection, [step], moving, to, lease_seconds=60)
        if not self.rows("SELECT FROM ledger.loads WHERE key = %s AND (modified, id) > (%s, %s)", key, load.modified, load.id):
            (self.folder / key).unlink(missing_ok=True)

    def load_all(self) -> None:
        """Archive whatever can be claimed, and assign, until nothing is left."""
        while found := ledger.claimable_loads(self.connection, Scope(PIPELINE)):
            for load in found:
                self.finish(load.key)
            self.assign()

    def overwritten(self, key: str) -> None:
        """The oldest claimable load of a key has been overwritten before it was read."""
        self.finish(key, problems=[SUPERSEDED])

    def places(self, key: str) -> list[tuple[str, str | None]]:
        """Partition, and what it waits for, of each version of a key, oldest first."""
        rows = self.rows("SELECT partition, waiting_for FROM ledger.loads WHERE key = %s ORDER BY modified, id", key)
        return [(partition, waiting) for partition, waiting in rows]

    def snapshots_of(self, key: str) -> list[str | None]:
        """The snapshot of each version of a key, oldest first; None: it waits for one."""
        return [partition if waiting is None else None for partition, waiting in self.places(key)]

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, parameters).fetchall()

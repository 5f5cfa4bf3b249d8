"""Which table an object belongs to, and which of its snapshots: decided in the ledger, whatever order things arrive in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingestion_dagster.cubic import discovery_sql as sql
from ingestion_dagster.cubic import ods
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.places import PENDING
from ingestion_dagster.cubic.registry import PIPELINE, UNCLASSIFIED, Registry
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection

METADATA = ods.METADATA

_LOCK = 0x1A6E5711
_BATCH = 50_000
"""Loads decided in one transaction, so that a tick that is cut short on a first day has got somewhere."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """What `assign` has found: new snapshots, and loads that now belong to one."""

    snapshots: int = 0
    loads: int = 0


def arrival(registry: Registry, obj: StoredObject) -> Arrival | None:
    """An object as a load: of which table, in which partition, waiting for what. None for a `.dfm`, which is part of another load."""
    table = registry.of_key(obj.key)
    if table is not None:
        return KINDS[table.kind].arrival(table, obj)
    return None if obj.key.endswith(METADATA) else Arrival(obj, UNCLASSIFIED, waiting_for="dataset")


def sync(connection: Connection, registry: Registry) -> None:
    """Enter the registry's tables into the ledger, and release what waited for an entry that is there now, or that has been changed.

    Tables that have left the registry stay, inactive. A load that waited for its dataset becomes what `arrival` says of it. Two at once
    take turns, and one that finds nothing to do only looks.
    """
    if _differing(connection, registry):
        with connection.transaction():
            connection.execute(sql.LOCK, {"lock": _LOCK})
            _rename(connection, registry)
            _enter(connection, _differing(connection, registry), registry)
    _classify(connection, registry)


@dataclass(frozen=True, slots=True)
class _Dataset:
    """A table as the ledger knows it."""

    prefix: str
    is_active: bool
    entry: dict[str, Any] | None


def _wanted(registry: Registry) -> dict[str, _Dataset]:
    tables = {table.name: _Dataset(table.prefix, table.is_active, table.as_entry()) for table in registry.tables.values()}
    return tables | {UNCLASSIFIED: _Dataset("", True, None)}


def _known(connection: Connection) -> dict[str, _Dataset]:
    return {name: _Dataset(*columns) for name, *columns in connection.execute(sql.DATASETS, {"pipeline": PIPELINE})}


@dataclass(frozen=True, slots=True)
class _Difference:
    """Between registry and ledger: tables to write, those of them whose entry is another than before, and whether any has gone."""

    write: Mapping[str, _Dataset]
    changed: Sequence[str]
    gone: bool

    def __bool__(self) -> bool:
        return bool(self.write) or self.gone


def _differing(connection: Connection, registry: Registry) -> _Difference:
    wanted, known = _wanted(registry), _known(connection)
    write = {name: dataset for name, dataset in wanted.items() if known.get(name) != dataset}
    changed = [name for name, dataset in write.items() if name in known and known[name].entry != dataset.entry]
    return _Difference(write, changed, any(known[name].is_active for name in known.keys() - wanted.keys()))


def _enter(connection: Connection, difference: _Difference, registry: Registry) -> None:
    connection.execute(sql.RELEASE_SCHEMA, {"pipeline": PIPELINE, "names": list(difference.changed)})
    datasets = difference.write
    connection.execute(
        sql.SYNC,
        {
            "pipeline": PIPELINE,
            "names": list(datasets),
            "prefixes": [dataset.prefix for dataset in datasets.values()],
            "active": [dataset.is_active for dataset in datasets.values()],
            "entries": [None if dataset.entry is None else json.dumps(dataset.entry) for dataset in datasets.values()],
        },
    )
    connection.execute(sql.DEACTIVATE, {"pipeline": PIPELINE, "names": list(registry.datasets)})


def _rename(connection: Connection, registry: Registry) -> None:
    """Give tables that have another name their loads and snapshots; their current tables are built again, at the new place."""
    parameters = {"pipeline": PIPELINE, "names": list(registry.tables), "prefixes": [table.prefix for table in registry.tables.values()]}
    renamed = [row[0] for row in connection.execute(sql.RENAME, parameters)]
    if renamed:
        connection.execute(sql.FORGET_CURRENT, {"datasets": renamed})


def _classify(connection: Connection, registry: Registry) -> None:
    """Give loads of no table to the one that has come for them. They are few folders, however many loads: those are compared."""
    found = connection.execute(sql.UNCLASSIFIED_FOLDERS, {"pipeline": PIPELINE})
    folders = [folder for (folder,) in found if registry.of_key(folder) is not None]
    parameters = {"pipeline": PIPELINE, "folders": folders, "batch": _BATCH}
    more = bool(folders)
    while more:
        with connection.transaction():
            connection.execute(sql.LOCK, {"lock": _LOCK})
            rows = connection.execute(sql.UNCLASSIFIED_LOADS, parameters).fetchall()
            arrivals = {load: arrival(registry, StoredObject(*columns)) for load, *columns in rows}
            known = {load: each for load, each in arrivals.items() if each is not None}
            classified = connection.execute(
                sql.CLASSIFY,
                {
                    "pipeline": PIPELINE,
                    "ids": list(known),
                    "datasets": [each.dataset for each in known.values()],
                    "partitions": [each.partition for each in known.values()],
                    "waiting": [each.waiting_for for each in known.values()],
                },
            )
        more = classified.rowcount == _BATCH


def assign(connection: Connection, registry: Registry) -> Assigned:
    """Start a snapshot for each marker that has come, and give loads of ods tables to the snapshots they belong to.

    A change belongs to the newest snapshot not after it (before the first: to the first). So does a part of a full load, unless its
    previous version in that snapshot was loaded: then a restart has begun whose marker is yet to come, and it belongs to the snapshot
    after it. While that previous version is undecided it waits; if it was refused, it takes its place. Times are compared by the second.
    A load that has a snapshot keeps it.

    Has to be called after a listing that is complete: of what was not listed no marker is known.
    """
    parameters = _ods_tables(registry) | {"pipeline": PIPELINE, "pending": PENDING, "batch": _BATCH}
    if connection.execute(sql.ANY_PENDING, parameters).fetchone() != (True,):
        return Assigned()
    found, assigned = Assigned(), 1
    while assigned:
        with connection.transaction():
            connection.execute(sql.LOCK, {"lock": _LOCK})
            fault_point("cubic.assign.before")
            started = connection.execute(sql.NEW_SNAPSHOTS, parameters).rowcount
            fault_point("cubic.assign.snapshots")
            destined = connection.execute(sql.DESTINED, parameters).fetchall()
            ids, snapshot_ids = [row[0] for row in destined], [row[1] for row in destined]
            assigned = connection.execute(sql.ASSIGN, {"ids": ids, "snapshots": snapshot_ids}).rowcount
        fault_point("cubic.assign.after")
        found = Assigned(found.snapshots + started, found.loads + assigned)
    return found


def markers(connection: Connection, registry: Registry) -> list[str]:
    """Keys of the markers by which `assign` decides, if loads wait for it; one may stand there and be in no load yet."""
    if connection.execute(sql.ANY_PENDING, {"pipeline": PIPELINE, "pending": PENDING}).fetchone() != (True,):
        return []
    return sorted({table.marker for table in registry.tables.values() if table.marker is not None})


def _ods_tables(registry: Registry) -> dict[str, Any]:
    tables = [table for table in registry.tables.values() if table.kind == "ods"]
    return {
        "names": [table.name for table in tables],
        "bases": [table.base or table.name for table in tables],
        "markers": [table.marker for table in tables],
        "data_files": [f"%{suffix}" for suffix in ods.ODS.suffixes],
    }


def snapshots(connection: Connection) -> list[str]:
    """Every snapshot of any table, as partitions name them, oldest first."""
    return [row[0] for row in connection.execute(sql.SNAPSHOTS, {"pipeline": PIPELINE})]

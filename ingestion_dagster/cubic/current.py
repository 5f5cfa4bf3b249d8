"""Current tables: of each ods table the newest state per key, as a Delta table that readers always see whole.

The newest row of a key is the one with the greatest change sequence over the newest snapshot and its changes; of equal ones, that of
the later file and line. Loads go in by a merge of the keys they touch. What a merge cannot express (a new snapshot, a load that was
loaded again, other columns) is built anew from the springboard, in one commit. DuckDB does the comparing, within a memory limit.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from ingestion_dagster.cubic import current_sql, places
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.current_state import Target, remember, target_of
from ingestion_dagster.cubic.current_work import APPLICATION, MEMORY, Work
from ingestion_dagster.cubic.delta_table import delta_faults, open_delta
from ingestion_dagster.cubic.registry import CubicTable, Registry
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable

_LOCK_SECONDS = 60
_WORK = "cubic-current-"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh has done. `rows` is what the table holds now; the counts of a rebuild are not known row by row, hence zero."""

    table: str
    snapshot: str
    rows: int
    inserted: int
    updated: int
    deleted: int
    rebuilt: bool
    loads: int
    """Loads that were not in the table before."""
    seconds: float
    version: int
    """Of the Delta table."""
    columns: tuple[Column, ...]


def refresh(
    connection: Connection, settings: Settings, registry: Registry, table: CubicTable, *, memory: str = MEMORY, rebuild: bool = False
) -> Refreshed | None:
    """Bring a current table up to date; None if nothing of the table can be shown yet (no snapshot, or no key).

    Repeatable: what was committed to Delta and not remembered in Postgres is built anew. Two at once take turns. With `rebuild` it is built
    anew in any case. Raises Transient (`current_busy`, `springboard_part_missing`, `springboard_changed`, `current_unavailable`).
    """
    with locked(connection, table):
        started = time.monotonic()
        target = target_of(connection, registry, table)
        if target is None:
            return None
        with delta_faults(table):
            delta = open_delta(settings, table)
            number = delta.transaction_version(APPLICATION) if delta else None
            if not target.is_behind and not rebuild and delta is not None and number == target.commit:
                return _result(target, delta, {}, started)
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_WORK)))
                work = Work(settings, target, folder, memory, commit=max(target.commit, number or 0) + 1)
                engine = stack.enter_context(work.engine())
                if delta is not None and number == target.commit and target.only_adds and not rebuild:
                    outcome, sequence = work.merge(engine, delta)
                else:
                    outcome, sequence = work.build(engine)
        delta = open_delta(settings, table)
        if delta is None:
            raise Transient("current_unavailable", f"the current table {table.name} is not where it was written")
        refreshed = _result(target, delta, outcome, started)
        fault_point("cubic.current.commit.after")
        remember(connection, target, work.commit, sequence, refreshed.rows)
        fault_point("cubic.current.remembered")
        return refreshed


def clear_leftovers(before: datetime) -> int:
    """Remove what refreshes that were killed have left in this machine's temporary folder, touched last before then; how many folders."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_WORK}*"):
        with suppress(OSError):
            if (
                folder.is_dir()
                and not folder.is_symlink()
                and folder.stat().st_uid == os.getuid()
                and _touched(folder) < before.timestamp()
            ):
                shutil.rmtree(folder)
                removed += 1
    return removed


def _touched(folder: Path) -> float:
    return max(each.lstat().st_mtime for each in (folder, *folder.rglob("*")))


@contextmanager
def locked(connection: Connection, table: CubicTable, *, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Nobody else works on a table's current table meanwhile. Raises Transient (`current_busy`) if somebody does for too long."""
    name = {"name": f"cubic current {table.name}"}
    connection.execute(current_sql.LOCK_TIMEOUT, {"milliseconds": str(int(seconds * 1000))})
    try:
        connection.execute(current_sql.LOCK, name)
    except psycopg.errors.LockNotAvailable:
        raise Transient("current_busy", f"another run works on the current table {table.name}") from None
    finally:
        connection.execute(current_sql.LOCK_TIMEOUT, {"milliseconds": "0"})
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(current_sql.UNLOCK, name)


def count_rows(connection: Connection, settings: Settings, registry: Registry, table: CubicTable, *, memory: str = MEMORY) -> int | None:
    """How many rows a current table must have, counted from the springboard; None if there is none to be had, or it is behind."""
    target = target_of(connection, registry, table)
    if target is None or target.is_behind:
        return None
    with ExitStack() as stack, delta_faults(table):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_WORK)))
        work = Work(settings, target, folder, memory, commit=0)
        engine = stack.enter_context(work.engine())
        return work.count(engine)


def _result(target: Target, delta: "DeltaTable", outcome: Mapping[str, int], started: float) -> Refreshed:
    return Refreshed(
        table=target.table.name,
        snapshot=places.format_snapshot(target.snapshot),
        rows=delta.count(),
        inserted=outcome.get("inserted", 0),
        updated=outcome.get("updated", 0),
        deleted=outcome.get("deleted", 0),
        rebuilt="rebuilt" in outcome,
        loads=len(target.new),
        seconds=time.monotonic() - started,
        version=delta.version(),
        columns=target.columns,
    )

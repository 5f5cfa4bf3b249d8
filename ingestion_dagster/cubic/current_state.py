"""Which state a current table should have by the ledger, and which it is known to have."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ingestion_dagster.cubic import current_sql
from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column, is_wider
from ingestion_dagster.cubic.registry import CubicTable, Registry
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection


@dataclass(frozen=True, slots=True)
class Load:
    """A load as far as the current table is concerned."""

    id: int
    is_change: bool
    key: str
    committed_at: datetime | None
    rows: int
    is_committed: bool
    is_held: bool
    merged_at: datetime | None

    @property
    def counts(self) -> bool:
        """Whether its Parquet belongs to the state."""
        return self.is_committed or self.is_held

    @property
    def is_new(self) -> bool:
        """It is committed, and not in the table as it is."""
        return self.is_committed and self.merged_at != self.committed_at

    @property
    def is_gone(self) -> bool:
        """It is in the table and should not be."""
        return not self.counts and self.merged_at is not None

    @property
    def part(self) -> tuple[bool, str]:
        """What its Parquet is known by. A file that is delivered again under its name has the place of the first."""
        return self.is_change, self.key


@dataclass(frozen=True, slots=True)
class Target:
    """The state that a current table should have, and what it is known to have."""

    table: CubicTable
    changes: CubicTable
    base_id: int
    changes_id: int | None
    snapshot_id: int
    snapshot: datetime
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    is_same_table: bool
    """Built before, of the same snapshot, with the same key and columns."""
    sequence: int
    commit: int
    loads: tuple[Load, ...]

    @property
    def new(self) -> list[Load]:
        """The loads that are not in the table."""
        return [load for load in self.loads if load.is_new]

    @property
    def is_behind(self) -> bool:
        """Whether it lacks something, or holds what it should not."""
        return not self.is_same_table or any(load.is_new or load.is_gone for load in self.loads)

    @property
    def only_adds(self) -> bool:
        """Whether the new loads only add to what is there: change files, none of which replaces one that has gone in."""
        merged = {load.part for load in self.loads if load.merged_at is not None}
        return self.is_same_table and not any(
            load.is_gone or (load.is_new and (load.merged_at is not None or not load.is_change or load.part in merged))
            for load in self.loads
        )


def tables(registry: Registry) -> list[CubicTable]:
    """The tables that may have a current table: typed ods tables. Whether one has a key, its first file may tell."""
    return [table for table in registry.tables.values() if table.has_changes and table.typed]


def behind(connection: Connection, registry: Registry) -> list[CubicTable]:
    """The tables whose current table lacks committed loads, or holds what it should not. One query, no look at the tables themselves."""
    asked = tables(registry)
    if not asked:
        return []
    found = connection.execute(current_sql.BEHIND, {"tables": _asked(registry, asked)}).fetchall()
    return [registry.tables[name] for (name,) in found]


def _asked(registry: Registry, asked: Sequence[CubicTable]) -> str:
    return json.dumps([{"base": table.name, "changes": registry.changes_of(table).name, "key": list(table.key)} for table in asked])


def target_of(connection: Connection, registry: Registry, table: CubicTable) -> Target | None:
    """The state that a table should have; None if nothing of it can be shown yet. Raises `ConfigurationError` for a key without columns."""
    found = connection.execute(current_sql.TARGET, {"tables": _asked(registry, [table])}).fetchone()
    if found is None or not found[4]:
        return None
    base_id, changes_id, snapshot_id, snapshot, key, base_columns, changes_columns, is_built, held_id, held_key, held_columns = found[:11]
    columns = columns_of(_columns(base_columns), _columns(changes_columns or []))
    missing = set(key) - {column.name for column in columns}
    if missing:
        raise ConfigurationError(f"table {table.name}: its key names no column: {', '.join(sorted(missing))}; correct it in the registry")
    names = [[column.name, column.type] for column in columns]
    loads = connection.execute(current_sql.LOADS, {"base": base_id, "changes": changes_id, "snapshot": snapshot_id}).fetchall()
    return Target(
        table,
        registry.changes_of(table),
        base_id,
        changes_id,
        snapshot_id,
        snapshot,
        tuple(key),
        columns,
        bool(is_built) and held_id == snapshot_id and held_key == key and held_columns == names,
        int(found[11] or 0),
        int(found[12] or 0),
        tuple(Load(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[8]) for row in loads),
    )


def columns_of(base: Sequence[Column], changes: Sequence[Column]) -> tuple[Column, ...]:
    """The columns of a current table: the table's, those that only its changes have so far, and the three of the change."""
    leading = {column.name for column in CHANGE_COLUMNS}
    of_changes = {column.name: column.type for column in changes if column.name not in leading}
    own = [Column(each.name, _wider(each.type, of_changes.pop(each.name, each.type))) for each in base if each.name not in leading]
    return (*own, *(Column(name, kind) for name, kind in of_changes.items()), *CHANGE_COLUMNS)


def _wider(one: str, other: str) -> str:
    """A type that holds the values of both."""
    return one if is_wider(one, other) else other if is_wider(other, one) else "string"


def _columns(stored: Sequence[Sequence[str]]) -> list[Column]:
    return [Column(name, kind) for name, kind in stored]


def remember(connection: Connection, target: Target, commit: int, sequence: int, rows: int) -> None:
    """Write down what the Delta table holds now. A load that is in the table while it is loaded again stays what it was."""
    counted = [load for load in target.loads if load.counts]
    with connection.transaction():
        connection.execute(
            current_sql.REMEMBER,
            {
                "base": target.base_id,
                "snapshot": target.snapshot_id,
                "key": list(target.key),
                "columns": json.dumps([[column.name, column.type] for column in target.columns]),
                "sequence": sequence,
                "commit": commit,
                "rows": rows,
            },
        )
        changed = counted if not target.is_same_table or any(load.is_gone for load in target.loads) else target.new
        if changed is counted:
            connection.execute(current_sql.FORGET_LOADS, {"base": target.base_id})
        connection.execute(
            current_sql.REMEMBER_LOADS,
            {
                "base": target.base_id,
                "loads": [load.id for load in changed],
                "committed": [load.committed_at if load.is_committed else load.merged_at for load in changed],
            },
        )

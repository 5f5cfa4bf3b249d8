"""A springboard and a ledger as loads leave them, and the plainest account of what a current table must hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingestion_dagster.cubic import current, delta_table, places
from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column, arrow_type
from ingestion_dagster.cubic.registry import CubicTable, Registry, parse_registry
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

NAME = "cubic__ods_qlik__edw_tap"
REGISTRY = parse_registry(f"""
tables:
  - {{name: {NAME}, prefix: cubic/ods_qlik/EDW.TAP, kind: ods}}
  - {{name: cubic__dmap__agg, prefix: cubic/dmap/agg, kind: dmap}}
""")
TAP = REGISTRY.tables[NAME]
TAP_CT = REGISTRY.changes_of(TAP)
COLUMNS = (Column("k1", "bigint"), Column("k2", "string"), Column("v", "string"))
KEY = ("k1", "k2")
FIRST = datetime(2026, 1, 1, 6, tzinfo=UTC)
SECOND = datetime(2026, 2, 1, 6, tzinfo=UTC)


def sequence(number: int, snapshot: datetime = FIRST) -> str:
    """The sequence of the number-th change after a snapshot."""
    return f"{snapshot + timedelta(seconds=number):%Y%m%d%H%M%S}".ljust(35, "0")


def change(oper: str, number: int, row: Mapping[str, Any], snapshot: datetime = FIRST) -> dict[str, Any]:
    """A row of a change file."""
    moment = (snapshot + timedelta(seconds=number)).replace(tzinfo=None)
    return {"header__change_seq": sequence(number, snapshot), "header__change_oper": oper, "header__timestamp": moment, **row}


@dataclass
class Lake:
    """Puts loads where a load step would have put them."""

    connection: Connection
    settings: Settings
    registry: Registry = REGISTRY
    moment: datetime = field(default_factory=lambda: datetime(2026, 3, 1, tzinfo=UTC))

    def dataset(self, name: str) -> int:
        self.connection.execute("INSERT INTO ledger.datasets (pipeline, name) VALUES ('cubic', %s) ON CONFLICT DO NOTHING", [name])
        return self._one("SELECT id FROM ledger.datasets WHERE pipeline = 'cubic' AND name = %s", name)

    def schema(self, table: CubicTable, columns: Sequence[Column], key: Sequence[str] = KEY) -> None:
        import json

        dataset = self.dataset(table.name)
        self.connection.execute(
            "INSERT INTO cubic.schemas (dataset_id, version, columns, key, registered)"
            " SELECT %s, coalesce(max(version), 0) + 1, %s, %s, false FROM cubic.schemas WHERE dataset_id = %s",
            [dataset, json.dumps([[column.name, column.type] for column in columns]), list(key), dataset],
        )

    def schemas(self, columns: Sequence[Column] = COLUMNS, key: Sequence[str] = KEY) -> None:
        """Of the table and of its changes."""
        self.schema(TAP, columns, key)
        self.schema(TAP_CT, (*CHANGE_COLUMNS, *columns), key)

    def snapshot(self, moment: datetime = FIRST, table: CubicTable = TAP) -> int:
        of = self.registry.tables[table.base or table.name]
        base = self.dataset(of.name)
        self.connection.execute(
            "INSERT INTO ledger.snapshots (dataset_id, snapshot, marker_key) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [base, moment, of.marker],
        )
        return self._one("SELECT id FROM ledger.snapshots WHERE dataset_id = %s AND snapshot = %s", base, moment)

    def enter(self, table: CubicTable, name: str, *, snapshot: datetime | None, status: str = "ready", version: str = "1") -> int:
        """A load that has been discovered."""
        return self._one(
            "INSERT INTO ledger.loads (pipeline, dataset_id, landing_zone, key, version, size, modified, partition, snapshot_id, status)"
            " VALUES ('cubic', %s, 'file:///in', %s, %s, 1, %s, %s, %s, %s) RETURNING id",
            self.dataset(table.name),
            f"{table.prefix}{name}",
            f"{version} {snapshot}",
            snapshot or FIRST,
            "2026-01-01" if snapshot is None else places.format_snapshot(snapshot),
            None if snapshot is None else self.snapshot(snapshot, table),
            status,
        )

    def publish(
        self,
        load: int,
        table: CubicTable,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        columns: Sequence[Column] = COLUMNS,
        *,
        snapshot: datetime | None = FIRST,
    ) -> None:
        """Its Parquet, and its commit."""
        own = (*CHANGE_COLUMNS, *columns) if table.base else tuple(columns)
        schema = pa.schema([(column.name, arrow_type(column.type)) for column in own])
        text = pa.schema([(column.name, pa.string()) for column in own])
        for area, data in (
            ("", pa.Table.from_pylist([{c.name: row.get(c.name) for c in own} for row in rows], schema=schema)),
            ("raw", pa.Table.from_pylist([{c.name: _text(row.get(c.name)) for c in own} for row in rows], schema=text)),
        ):
            key = places.part_key(table, places.format_snapshot(snapshot) if snapshot else None, name, area)
            sink = pa.BufferOutputStream()
            pq.write_table(data, sink, compression="zstd")
            places.springboard(self.settings).write(key, sink.getvalue().to_pybytes())
        self.commit(load, rows=len(rows))

    def commit(self, load: int, *, rows: int, status: str = "archived", error: str | None = None) -> None:
        self.moment += timedelta(seconds=1)
        self.connection.execute(
            "UPDATE ledger.loads SET status = %s, committed_at = %s, rows_written = %s, error_code = %s, content_hash = 'read'"
            " WHERE id = %s",
            [status, self.moment, rows, error, load],
        )

    def replay(self, load: int) -> None:
        self.connection.execute("UPDATE ledger.loads SET status = 'ready', committed_at = NULL, rows_written = 0 WHERE id = %s", [load])

    def load(
        self, table: CubicTable, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column] = COLUMNS, **where: Any
    ) -> int:
        """Entered, published, committed."""
        snapshot = where.get("snapshot", FIRST)
        load = self.enter(table, name, snapshot=snapshot, version=where.get("version", "1"))
        self.publish(load, table, name, rows, columns, snapshot=snapshot)
        return load

    def refresh(self, **options: Any) -> current.Refreshed:
        refreshed = current.refresh(self.connection, self.settings, self.registry, TAP, **options)
        assert refreshed is not None
        return refreshed

    def current(self) -> list[dict[str, Any]]:
        """What a reader of the Delta table sees."""
        delta = delta_table.open_delta(self.settings, TAP)
        assert delta is not None
        return [dict(row) for row in delta.to_pyarrow_table().to_pylist()]

    def state(self, key: Sequence[str] = KEY) -> dict[tuple[Any, ...], dict[str, Any]]:
        """The same by key. Fails if a key is there twice."""
        rows = self.current()
        found = {tuple(row[name] for name in key): row for row in rows}
        assert len(found) == len(rows)
        return found

    def part(self, table: CubicTable, name: str, snapshot: datetime = FIRST) -> Path:
        store = places.springboard(self.settings)
        return Path(store.url.removeprefix("file://")) / places.part_key(table, places.format_snapshot(snapshot), name)

    def _one(self, statement: str, *values: Any) -> int:
        row = self.connection.execute(statement, values).fetchone()
        assert row is not None
        return int(row[0])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)

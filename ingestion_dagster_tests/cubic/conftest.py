"""A cubic pipeline to drive by name: a registry, files with modification times, runs, and what they leave behind."""

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ingestion_dagster.cubic import query, schemas
from ingestion_dagster.cubic.load import CubicOutcome, load_cubic
from ingestion_dagster.cubic.registry import PIPELINE, Registry, parse_registry
from ingestion_dagster.cubic.table_batch import Job
from ingestion_dagster.cubic.zone import prepare, zone
from ingestion_dagster.engine import landing, ledger, whereabouts
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings

TAPS = "cubic/ods_qlik/EDW.TAPS"
COLUMNS = {"tap_id": "bigint", "note": "string", "fare": "decimal(10,2)"}

REGISTRY = """
tables:
  - {name: taps, prefix: cubic/ods_qlik/EDW.TAPS, kind: ods, key: [tap_id],
     columns: {tap_id: bigint, note: string, fare: 'decimal(10,2)'}}
  - {name: gates, prefix: cubic/ods_qlik/EDW.GATES, kind: ods}
  - {name: loose, prefix: cubic/ods_qlik/EDW.LOOSE, kind: ods, strict: false}
  - {name: fares, prefix: cubic/dmap/agg_fares, kind: dmap, columns: {day: date, count: int}}
  - {name: events, prefix: cubic/kafka/events, kind: kafka}
  - {name: kept, prefix: cubic/dmap/kept, kind: dmap, raw: false, typed: false}
"""


def moment(text: str) -> datetime:
    """An instant of 2 January 2026: `06:00:05`."""
    return datetime.fromisoformat(f"2026-01-02T{text}").replace(tzinfo=UTC)


def csv(*rows: str, header: str = "TAP_ID,NOTE,FARE") -> bytes:
    """A gzipped CSV with this header and these lines."""
    return gzip.compress("\n".join([header, *rows]).encode(), mtime=0)


def metadata(columns: Mapping[str, str], rows: int | None = None, key: Sequence[str] = ()) -> bytes:
    """A `.dfm`: columns by name and Qlik's type (`NUMERIC(10,2)`), how many rows, and the key."""
    described = []
    for position, (name, kind) in enumerate(columns.items(), start=1):
        word, _, size = kind.rstrip(")").partition("(")
        precision, _, scale = size.partition(",")
        described.append(
            {
                "ordinal": position,
                "name": name,
                "type": word,
                "length": 0,
                "precision": int(precision or 0),
                "scale": int(scale or 0),
                "primaryKeyPos": key.index(name) + 1 if name in key else 0,
            }
        )
    options = {"fieldDelimiter": ",", "recordDelimiter": "\n", "nullValue": "", "quoteChar": '"', "escapeChar": ""}
    file = {"recordCount": rows} if rows is not None else {}
    content = {"fileInfo": file, "formatInfo": {"options": options}, "dataInfo": {"columns": described}}
    return json.dumps(content).encode()


@dataclass
class Cubic:
    """The pipeline in this process, without Dagster, over a database and a folder of its own."""

    settings: Settings
    database: Database
    registry: Registry

    def land(self, key: str, content: bytes, modified: datetime | None = None, dfm: bytes | None = None) -> None:
        """Put one file under a key of the landing zone, its `.dfm` before it."""
        store = zone(self.settings, self.registry).landing
        if dfm is not None:
            store.write(key.partition(".csv")[0] + ".dfm", dfm, modified=modified)
        store.write(key, content, modified=modified)

    def run(self, *, run_id: str = "test-run", limits: Limits | None = None, **job: Any) -> CubicOutcome:
        """Discover and load all there is."""
        made = replace(Job.of(self.settings, self.registry), **job)
        with self.database.connect() as connection:
            prepare(connection, self.registry)
            landing.discover(connection, made.zone, datetime.now(UTC), run_id)
            with Claims(self.database, Scope(PIPELINE), run_id, limits or Limits()) as claims:
                return load_cubic(claims, made, connection)

    def retry(self) -> None:
        """Put every errored load back to ready."""
        with self.database.connect() as connection:
            ledger.retry(connection, Scope(PIPELINE))

    def states(self) -> list[dict[str, Any]]:
        """Every load as `status --loads --json` shows it."""
        with self.database.connect() as connection:
            return whereabouts.load_states(connection, PIPELINE)

    def state(self, key: str) -> dict[str, Any]:
        """The newest load of a key."""
        return [state for state in self.states() if state["key"] == key][-1]

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Rows of a statement over what was loaded."""
        with self.database.connect() as connection:
            return query.run(connection, self.settings, self.registry, statement)[1]

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement in the ledger's database."""
        with self.database.connect() as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def keys(self, place: str) -> list[str]:
        """What stands in `incoming`, `archive`, `error` or `springboard`, sorted."""
        return sorted(seen.key for seen in open_store(f"{self.settings.storage}/cubic/{place}").list())

    def parquet(self, key: str) -> list[dict[str, Any]]:
        """Rows of one Parquet file of the springboard."""
        path = Path(self.settings.storage.removeprefix("file://")) / "cubic" / "springboard" / key
        rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
        return rows

    def report(self, name: str) -> dict[str, Any]:
        """The report beside the refused file whose name begins like this."""
        store = open_store(f"{self.settings.storage}/cubic/error")
        [found] = [each for each in store.list() if each.key.rpartition("/")[2].startswith(name) and each.key.endswith(".report.json")]
        content: dict[str, Any] = json.loads(store.read(found))
        return content

    def columns(self, table: str) -> dict[str, str]:
        """The newest columns of a table, as they are recorded."""
        with self.database.connect() as connection:
            return {column.name: column.type for column in schemas.versions_of(connection, table)[-1].columns}


@pytest.fixture
def tables(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of a few tables, for this process and those it starts."""
    path = tmp_path / "tables.yaml"
    path.write_text(REGISTRY)
    monkeypatch.setenv("INGESTION_CUBIC_TABLES", os.fspath(path))
    return parse_registry(REGISTRY)


@pytest.fixture
def cubic(settings: Settings, database: Database, tables: Registry) -> Cubic:
    """A fresh cubic pipeline."""
    return Cubic(settings, database, tables)

"""One refresh of a current table: rows of the springboard into one commit, built anew or merged."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ingestion_dagster.cubic import places
from ingestion_dagster.cubic.columns import CHANGE_OPER, CHANGE_SEQ, CHANGE_TIMESTAMP
from ingestion_dagster.cubic.current_query import (
    ALIVE,
    OPERATION,
    PLACE,
    SEQUENCE,
    TOUCHED,
    greatest,
    least,
    literal,
    quoted,
    selected,
    snapshot_sequence,
    winners,
)
from ingestion_dagster.cubic.current_state import Load, Target
from ingestion_dagster.cubic.delta_table import delta_place, delta_schema
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.object_store import ObjectStore
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable

APPLICATION = "cubic"
"""Under this name each commit leaves its number in the Delta log."""

MEMORY = "256MB"
"""What DuckDB may hold of a table while it looks for the newest rows; the rest is on disk."""

_BATCH_ROWS = 32 * 1024
_GROUP_ROWS = 128 * 1024
_PLACE_BITS = 40
_DOWNLOADS = 8


@dataclass(frozen=True, slots=True)
class Parts:
    """Parquet files of a table, on this machine, in the order in which their rows count where sequences are equal."""

    base: tuple[str, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One refresh: what is to be reached, and where it may write meanwhile."""

    settings: Settings
    target: Target
    folder: Path
    memory: str
    commit: int

    @contextmanager
    def engine(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        """DuckDB within the memory limit; what does not fit spills into the folder."""
        import duckdb

        with duckdb.connect(config={"memory_limit": self.memory, "temp_directory": str(self.folder / "spill")}) as engine:
            engine.execute("SET preserve_insertion_order = false")
            engine.execute("SET enable_progress_bar = false")
            yield engine

    def build(self, engine: "duckdb.DuckDBPyConnection") -> tuple[dict[str, int], int]:
        """The whole table, in one commit."""
        from deltalake import WriterProperties, write_deltalake

        parts = self._parts([load for load in self.target.loads if load.counts])
        self._rows(engine, parts)
        engine.execute(winners(self.target.key, "rows"))
        place, options = delta_place(self.settings, self.target.table)
        with self._unchanged(parts) as check:
            stream = self._stream(engine, ALIVE, check)
            fault_point("cubic.current.commit.before")
            write_deltalake(
                place,
                stream,
                mode="overwrite",
                schema_mode="overwrite",
                storage_options=options,
                writer_properties=WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=_GROUP_ROWS),
                commit_properties=self._commit_properties(),
            )
        return {"rebuilt": 1}, greatest(engine, "rows")

    def merge(self, engine: "duckdb.DuckDBPyConnection", delta: "DeltaTable") -> tuple[dict[str, int], int]:
        """The keys that new change files touch, in one commit.

        Rows that are late are compared with all rows of their keys, so that none comes back that was deleted since.
        """
        from deltalake import WriterProperties

        new = self._parts(self.target.new)
        self._rows(engine, new)
        first, last = least(engine, "rows"), greatest(engine, "rows")
        parts = new
        if first is not None and first <= self.target.sequence:
            keys = ", ".join(map(quoted, self.target.key))
            engine.execute(f"CREATE TEMP TABLE touched AS SELECT DISTINCT {keys} FROM rows WHERE {OPERATION} <> 'B'")  # noqa: S608
            parts = self._parts([load for load in self.target.loads if load.counts])
            self._rows(engine, parts)
            same = " AND ".join(f"rows.{quoted(name)} IS NOT DISTINCT FROM touched.{quoted(name)}" for name in self.target.key)
            engine.execute(winners(self.target.key, f"(SELECT rows.* FROM rows SEMI JOIN touched ON {same})"))  # noqa: S608
        else:
            engine.execute(winners(self.target.key, "rows"))
        if not engine.execute("SELECT count(*) FROM winners").fetchone()[0]:  # type: ignore[index]
            return {}, max(last, self.target.sequence)
        matching = self._matching(engine)
        with self._unchanged(parts) as check:
            stream = self._stream(engine, TOUCHED, check)
            fault_point("cubic.current.commit.before")
            metrics = (
                delta.merge(
                    stream,
                    matching,
                    source_alias="source",
                    target_alias="target",
                    writer_properties=WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=_GROUP_ROWS),
                    commit_properties=self._commit_properties(),
                )
                .when_matched_delete(f"upper(source.{CHANGE_OPER}) = 'D'")
                .when_matched_update_all()
                .when_not_matched_insert_all(f"upper(source.{CHANGE_OPER}) <> 'D' OR source.{CHANGE_OPER} IS NULL")
                .execute()
            )
        counts = {name: int(metrics[f"num_target_rows_{name}"]) for name in ("inserted", "updated", "deleted")}
        return counts, max(last, self.target.sequence)

    def count(self, engine: "duckdb.DuckDBPyConnection") -> int:
        """Keys whose newest row is no deletion."""
        parts = self._parts([load for load in self.target.loads if load.counts])
        with self._unchanged(parts) as check:
            self._rows(engine, parts)
            engine.execute(winners(self.target.key, "rows"))
            check()
        (count,) = engine.execute("SELECT count(*) FROM winners WHERE NOT is_gone").fetchone() or (0,)
        return int(count)

    def _commit_properties(self) -> "CommitProperties":
        from deltalake import CommitProperties, Transaction

        return CommitProperties(
            custom_metadata={"cubic.snapshot": places.format_snapshot(self.target.snapshot), "cubic.loads": str(len(self.target.new))},
            app_transactions=[Transaction(APPLICATION, self.commit)],
        )

    def _matching(self, engine: "duckdb.DuckDBPyConnection") -> str:
        """The condition under which a row of the source replaces one of the target. Only where a key is NULL it costs a null-safe join."""
        nulls = ", ".join(f"coalesce(bool_or({quoted(name)} IS NULL), false)" for name in self.target.key)
        found = engine.execute(f"SELECT {nulls} FROM rows WHERE {PLACE} IN (SELECT {PLACE} FROM winners)").fetchone()  # noqa: S608
        assert found is not None
        terms = []
        for name, has_null in zip(self.target.key, found, strict=True):
            source, target = f"source.{quoted(name)}", f"target.{quoted(name)}"
            equal = f"{target} = {source}"
            terms.append(f"({equal} OR ({target} IS NULL AND {source} IS NULL))" if has_null else equal)
        return " AND ".join(terms)

    def _parts(self, loads: Sequence[Load]) -> Parts:
        """Their Parquet on this machine, each file once. Raises Transient (`springboard_part_missing`)."""
        snapshot = places.format_snapshot(self.target.snapshot)
        store = places.springboard(self.settings)
        rows = {load.part: 0 for load in sorted(loads, key=lambda load: load.part)}
        for load in loads:
            rows[load.part] = max(rows[load.part], load.rows)
        wanted: list[tuple[bool, str]] = []
        for (is_change, landed), expected in rows.items():
            table = self.target.changes if is_change else self.target.table
            key = places.part_key(table, snapshot, places.identifier_of(table, landed))
            wanted.append((is_change, key if expected else f"?{key}"))
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            paths = list(
                pool.map(lambda each: self._local(store, each[1].removeprefix("?"), is_needed=not each[1].startswith("?")), wanted)
            )
        found = [(is_change, path) for (is_change, _), path in zip(wanted, paths, strict=True) if path is not None]
        return Parts(tuple(path for is_change, path in found if not is_change), tuple(path for is_change, path in found if is_change))

    def _local(self, store: ObjectStore, key: str, *, is_needed: bool) -> str | None:
        """A file of the springboard as a path; one in a bucket is fetched, once. None for one that is missing and had no rows to hold."""
        if store.url.startswith("file://"):
            path = f"{unquote(urlsplit(store.url).path)}/{key}"
            if os.path.exists(path):  # noqa: PTH110 - thousands of them
                return path
        else:
            fetched = self.folder / "parts" / key
            if fetched.exists():
                return str(fetched)
            stored = store.find(key)
            if stored is not None:
                fetched.parent.mkdir(parents=True, exist_ok=True)
                with fetched.open("wb") as file:
                    file.writelines(store.stream(stored))
                return str(fetched)
        if is_needed:
            raise Transient("springboard_part_missing", f"{store.url} lacks {key}, which the ledger has as loaded: replay its partition")
        return None

    def _rows(self, engine: "duckdb.DuckDBPyConnection", parts: Parts) -> None:
        """The view `rows`: every row of the files with the table's columns, its sequence as a number, and its place."""
        selects = []
        stamp = self.target.snapshot.astimezone(UTC).replace(tzinfo=None)
        constants = {
            CHANGE_SEQ: f"'{snapshot_sequence(self.target.snapshot)}'",
            CHANGE_OPER: "'L'",
            CHANGE_TIMESTAMP: f"TIMESTAMP '{stamp.isoformat(sep=' ')}'",
        }
        for files, given, offset in ((parts.base, constants, 0), (parts.changes, {}, len(parts.base))):
            if not files:
                continue
            source = f"read_parquet([{', '.join(map(literal, files))}], union_by_name = true, hive_partitioning = false)"
            present = {name.lower() for name, *_ in engine.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}  # noqa: S608
            columns = [selected(column, given, present) for column in self.target.columns]
            oper = given.get(CHANGE_OPER) or f"coalesce(upper({quoted(CHANGE_OPER)}), 'U')"
            sequence = given.get(CHANGE_SEQ) or quoted(CHANGE_SEQ)
            selects.append(
                f"SELECT {', '.join(columns)}, {oper} AS {OPERATION}, coalesce(TRY_CAST({sequence} AS HUGEINT), 0) AS {SEQUENCE}, "  # noqa: S608
                f"((file_index::BIGINT + {offset}) << {_PLACE_BITS}) | file_row_number AS {PLACE} FROM {source}"
            )
        if not selects:
            columns = [selected(column, {}, set()) for column in self.target.columns]
            selects.append(f"SELECT {', '.join(columns)}, '' AS {OPERATION}, 0::HUGEINT AS {SEQUENCE}, 0::BIGINT AS {PLACE} WHERE false")
        engine.execute("CREATE OR REPLACE TEMP VIEW rows AS " + " UNION ALL ".join(selects))

    def _stream(self, engine: "duckdb.DuckDBPyConnection", query: str, check: Any) -> "pa.RecordBatchReader":
        """Rows as Delta takes them, batch by batch. The last thing before their end is the check that nothing has changed meanwhile."""
        import pyarrow as pa

        schema = delta_schema(self.target.columns)
        names = ", ".join(quoted(column.name) for column in self.target.columns)
        reader = engine.execute(query.format(columns=names)).to_arrow_reader(_BATCH_ROWS)

        def batches() -> Iterator["pa.RecordBatch"]:
            for batch in reader:
                yield batch.cast(schema)
            check()

        return pa.RecordBatchReader.from_batches(schema, batches())

    @contextmanager
    def _unchanged(self, parts: Parts) -> Iterator[Any]:
        """A check that the files are those that were there at the beginning, for their rows are read more than once."""
        before = _fingerprint(parts)
        differing: list[bool] = []

        def check() -> None:
            if _fingerprint(parts) != before:
                differing.append(True)
                raise RuntimeError("changed")  # arrives as some error of the library that reads the batches

        try:
            yield check
        except Exception:
            if differing:
                raise Transient(
                    "springboard_changed", f"files of {self.target.table.name} were loaded again meanwhile; the next refresh takes them"
                ) from None
            raise


def _fingerprint(parts: Parts) -> list[tuple[int, int, int]]:
    try:
        found = [os.stat(path) for path in (*parts.base, *parts.changes)]  # noqa: PTH116 - thousands of them
    except FileNotFoundError:
        return []
    return [(each.st_ino, each.st_mtime_ns, each.st_size) for each in found]

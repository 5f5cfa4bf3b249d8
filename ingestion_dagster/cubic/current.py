"""Current tables: of each ods table the newest state per key, as a Delta table that readers always see whole.

The newest row of a key is the one with the greatest change sequence over the newest snapshot and its changes; of equal ones, that of
the later file and line. Loads go in by a merge of the keys they touch. What a merge cannot express (a new snapshot, a load that was
loaded again, other columns) is built anew from the springboard, in one commit. DuckDB does the comparing, within a memory limit.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import psycopg

from ingestion_dagster.cubic import current_sql, places
from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, CHANGE_OPER, CHANGE_SEQ, CHANGE_TIMESTAMP, Column, is_wider
from ingestion_dagster.cubic.registry import CubicTable, Registry
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.object_store import ObjectStore
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable

log = logging.getLogger(__name__)

APPLICATION = "cubic"
"""Under this name each commit leaves its number in the Delta log."""

MEMORY = "256MB"
"""What DuckDB may hold of a table while it looks for the newest rows; the rest is on disk."""

_BATCH_ROWS = 32 * 1024
_GROUP_ROWS = 128 * 1024
_MERGE_BYTES = 256 * 1024 * 1024
_UNWRITABLE = frozenset("[]%?^|")  # deltalake 1.6 panics, or takes another folder
_LOCK_SECONDS = 60
_RETENTION_HOURS = 7 * 24
_OPERATION, _SEQUENCE, _PLACE = "cubic__operation", "cubic__sequence", "cubic__place"
_ALIVE = f"SELECT {{columns}} FROM rows WHERE {_PLACE} IN (SELECT {_PLACE} FROM winners WHERE NOT is_gone)"  # noqa: S608
_TOUCHED = f"SELECT {{columns}} FROM rows WHERE {_PLACE} IN (SELECT {_PLACE} FROM winners)"  # noqa: S608
_PLACE_BITS = 40
_DOWNLOADS = 8
_PERMANENT_CREDENTIALS = {"env", "explicit", "shared-credentials-file", "config-file", "custom-process", "assume-role", "sso", "login"}


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


@dataclass(frozen=True, slots=True)
class _Load:
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
class _Target:
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
    loads: tuple[_Load, ...]

    @property
    def new(self) -> list[_Load]:
        return [load for load in self.loads if load.is_new]

    @property
    def is_behind(self) -> bool:
        return not self.is_same_table or any(load.is_new or load.is_gone for load in self.loads)

    @property
    def only_adds(self) -> bool:
        """Whether the new loads only add to what is there: change files, none of which replaces one that has gone in."""
        merged = {load.part for load in self.loads if load.merged_at is not None}
        return self.is_same_table and not any(
            load.is_gone or (load.is_new and (load.merged_at is not None or not load.is_change or load.part in merged))
            for load in self.loads
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parquet files of a table, on this machine, in the order in which their rows count where sequences are equal."""

    base: tuple[str, ...]
    changes: tuple[str, ...]


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


def location(settings: Settings, table: CubicTable) -> str:
    """URL of a table's current table."""
    return f"{places.current(settings).url}/{table.name}"


def refresh(
    connection: Connection, settings: Settings, registry: Registry, table: CubicTable, *, memory: str = MEMORY, rebuild: bool = False
) -> Refreshed | None:
    """Bring a current table up to date; None if nothing of the table can be shown yet (no snapshot, or no key).

    Repeatable: what was committed to Delta and not remembered in Postgres is built anew. Two at once take turns. With `rebuild` it is built
    anew in any case. Raises Transient (`current_busy`, `springboard_part_missing`, `springboard_changed`, `current_unavailable`).
    """
    with locked(connection, table):
        started = time.monotonic()
        target = _target(connection, registry, table)
        if target is None:
            return None
        with _delta_faults(table):
            delta = open_delta(settings, table)
            number = delta.transaction_version(APPLICATION) if delta else None
            if not target.is_behind and not rebuild and delta is not None and number == target.commit:
                return _result(target, delta, {}, started)
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cubic-current-")))
                work = _Work(settings, target, folder, memory, commit=max(target.commit, number or 0) + 1)
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
        _remember(connection, target, work.commit, sequence, refreshed.rows)
        fault_point("cubic.current.remembered")
        return refreshed


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


def compact(settings: Settings, table: CubicTable) -> dict[str, int]:
    """Write small files of a current table together, in a commit that changes no row: files added and removed."""
    with _delta_faults(table):
        delta = open_delta(settings, table)
        if delta is None:
            return {"files_added": 0, "files_removed": 0}
        metrics = delta.optimize.compact()
        return {"files_added": int(metrics["numFilesAdded"]), "files_removed": int(metrics["numFilesRemoved"])}


def vacuum(settings: Settings, table: CubicTable, retention_hours: int = _RETENTION_HOURS) -> int:
    """Delete files that no version of the last `retention_hours` needs, so that a reader that has begun can end; how many."""
    with _delta_faults(table):
        delta = open_delta(settings, table)
        if delta is None:
            return 0
        return len(delta.vacuum(retention_hours, dry_run=False, enforce_retention_duration=False, full=True))


def count_rows(connection: Connection, settings: Settings, registry: Registry, table: CubicTable, *, memory: str = MEMORY) -> int | None:
    """How many rows a current table must have, counted from the springboard; None if there is none to be had, or it is behind."""
    target = _target(connection, registry, table)
    if target is None or target.is_behind:
        return None
    with ExitStack() as stack, _delta_faults(table):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cubic-current-")))
        work = _Work(settings, target, folder, memory, commit=0)
        engine = stack.enter_context(work.engine())
        return work.count(engine)


def open_delta(settings: Settings, table: CubicTable) -> "DeltaTable | None":
    """A table's current table as it stands now; None if there is none."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    place, options = delta_place(settings, table)
    if options is None and not Path(place).is_dir():
        return None
    try:
        return DeltaTable(place, storage_options=options)
    except TableNotFoundError:
        return None


def delta_place(settings: Settings, table: CubicTable) -> tuple[str, dict[str, str] | None]:
    """A current table as Delta's library takes it: a path, or a URL and its storage options. Raises `ConfigurationError`."""
    url = location(settings, table)
    if url.startswith("file://"):
        path = unquote(urlsplit(url).path)
        if not _UNWRITABLE.isdisjoint(path):
            raise ConfigurationError(f"Delta cannot write below {path}: choose an INGESTION_CUBIC_CURRENT_URL without []%?^| in it")
        return path, None
    return url, storage_options()


def storage_options() -> dict[str, str]:
    """S3 for Delta's library: endpoint, region and credentials of boto3's default chain.

    Credentials that expire by the hour (of a task or instance role) are left to the library, which renews them.
    """
    import boto3

    session = boto3.Session()
    client = session.client("s3", region_name=session.region_name or "eu-west-2")
    endpoint = client.meta.endpoint_url
    options = {"aws_region": client.meta.region_name, "conditional_put": "etag"}
    if "amazonaws.com" not in endpoint:
        options |= {"aws_endpoint": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    credentials = session.get_credentials()
    if credentials is not None and credentials.method in _PERMANENT_CREDENTIALS:
        frozen = credentials.get_frozen_credentials()
        options |= {"aws_access_key_id": frozen.access_key or "", "aws_secret_access_key": frozen.secret_key or ""}
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options


@dataclass(frozen=True, slots=True)
class _Work:
    """One refresh: what is to be reached, and where it may write meanwhile."""

    settings: Settings
    target: _Target
    folder: Path
    memory: str
    commit: int

    @contextmanager
    def engine(self) -> Iterator["duckdb.DuckDBPyConnection"]:
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
        engine.execute(_winners(self.target.key, "rows"))
        place, options = delta_place(self.settings, self.target.table)
        with self._unchanged(parts) as check:
            stream = self._stream(engine, _ALIVE, check)
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
        return {"rebuilt": 1}, _greatest(engine, "rows")

    def merge(self, engine: "duckdb.DuckDBPyConnection", delta: "DeltaTable") -> tuple[dict[str, int], int]:
        """The keys that new change files touch, in one commit.

        Rows that are late are compared with all rows of their keys, so that none comes back that was deleted since.
        """
        from deltalake import WriterProperties

        new = self._parts(self.target.new)
        self._rows(engine, new)
        least, greatest = _least(engine, "rows"), _greatest(engine, "rows")
        parts = new
        if least is not None and least <= self.target.sequence:
            keys = ", ".join(map(_quoted, self.target.key))
            engine.execute(f"CREATE TEMP TABLE touched AS SELECT DISTINCT {keys} FROM rows WHERE {_OPERATION} <> 'B'")  # noqa: S608
            parts = self._parts([load for load in self.target.loads if load.counts])
            self._rows(engine, parts)
            same = " AND ".join(f"rows.{_quoted(name)} IS NOT DISTINCT FROM touched.{_quoted(name)}" for name in self.target.key)
            engine.execute(_winners(self.target.key, f"(SELECT rows.* FROM rows SEMI JOIN touched ON {same})"))  # noqa: S608
        else:
            engine.execute(_winners(self.target.key, "rows"))
        if not engine.execute("SELECT count(*) FROM winners").fetchone()[0]:  # type: ignore[index]
            return {}, max(greatest, self.target.sequence)
        matching = self._matching(engine)
        with self._unchanged(parts) as check:
            stream = self._stream(engine, _TOUCHED, check)
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
        return counts, max(greatest, self.target.sequence)

    def count(self, engine: "duckdb.DuckDBPyConnection") -> int:
        """Keys whose newest row is no deletion."""
        parts = self._parts([load for load in self.target.loads if load.counts])
        with self._unchanged(parts) as check:
            self._rows(engine, parts)
            engine.execute(_winners(self.target.key, "rows"))
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
        nulls = ", ".join(f"coalesce(bool_or({_quoted(name)} IS NULL), false)" for name in self.target.key)
        found = engine.execute(f"SELECT {nulls} FROM rows WHERE {_PLACE} IN (SELECT {_PLACE} FROM winners)").fetchone()  # noqa: S608
        assert found is not None
        terms = []
        for name, has_null in zip(self.target.key, found, strict=True):
            source, target = f"source.{_quoted(name)}", f"target.{_quoted(name)}"
            equal = f"{target} = {source}"
            terms.append(f"({equal} OR ({target} IS NULL AND {source} IS NULL))" if has_null else equal)
        return " AND ".join(terms)

    def _parts(self, loads: Sequence[_Load]) -> _Parts:
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
        return _Parts(tuple(path for is_change, path in found if not is_change), tuple(path for is_change, path in found if is_change))

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

    def _rows(self, engine: "duckdb.DuckDBPyConnection", parts: _Parts) -> None:
        """The view `rows`: every row of the files with the table's columns, its sequence as a number, and its place."""
        selects = []
        stamp = self.target.snapshot.astimezone(UTC).replace(tzinfo=None)
        constants = {
            CHANGE_SEQ: f"'{_snapshot_sequence(self.target.snapshot)}'",
            CHANGE_OPER: "'L'",
            CHANGE_TIMESTAMP: f"TIMESTAMP '{stamp.isoformat(sep=' ')}'",
        }
        for files, given, offset in ((parts.base, constants, 0), (parts.changes, {}, len(parts.base))):
            if not files:
                continue
            source = f"read_parquet([{', '.join(map(_literal, files))}], union_by_name = true, hive_partitioning = false)"
            present = {name.lower() for name, *_ in engine.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}  # noqa: S608
            columns = [_selected(column, given, present) for column in self.target.columns]
            oper = given.get(CHANGE_OPER) or f"coalesce(upper({_quoted(CHANGE_OPER)}), 'U')"
            sequence = given.get(CHANGE_SEQ) or _quoted(CHANGE_SEQ)
            selects.append(
                f"SELECT {', '.join(columns)}, {oper} AS {_OPERATION}, coalesce(TRY_CAST({sequence} AS HUGEINT), 0) AS {_SEQUENCE}, "  # noqa: S608
                f"((file_index::BIGINT + {offset}) << {_PLACE_BITS}) | file_row_number AS {_PLACE} FROM {source}"
            )
        if not selects:
            columns = [_selected(column, {}, set()) for column in self.target.columns]
            selects.append(f"SELECT {', '.join(columns)}, '' AS {_OPERATION}, 0::HUGEINT AS {_SEQUENCE}, 0::BIGINT AS {_PLACE} WHERE false")
        engine.execute("CREATE OR REPLACE TEMP VIEW rows AS " + " UNION ALL ".join(selects))

    def _stream(self, engine: "duckdb.DuckDBPyConnection", query: str, check: Any) -> "pa.RecordBatchReader":
        """Rows as Delta takes them, batch by batch. The last thing before their end is the check that nothing has changed meanwhile."""
        import pyarrow as pa

        schema = delta_schema(self.target.columns)
        names = ", ".join(_quoted(column.name) for column in self.target.columns)
        reader = engine.execute(query.format(columns=names)).to_arrow_reader(_BATCH_ROWS)

        def batches() -> Iterator["pa.RecordBatch"]:
            for batch in reader:
                yield batch.cast(schema)
            check()

        return pa.RecordBatchReader.from_batches(schema, batches())

    @contextmanager
    def _unchanged(self, parts: _Parts) -> Iterator[Any]:
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


def delta_schema(columns: Sequence[Column]) -> "pa.Schema":
    """A current table's columns as Delta stores them. It knows no time of day: such a column is text there (`13:45:00.5`)."""
    import pyarrow as pa

    from ingestion_dagster.cubic.columns import arrow_type

    return pa.schema([pa.field(column.name, arrow_type("string" if column.type == "time" else column.type)) for column in columns])


def duckdb_type(kind: str) -> str:
    """A type of a column as DuckDB names it."""
    return {
        "int": "INTEGER",
        "bigint": "BIGINT",
        "float": "FLOAT",
        "double": "DOUBLE",
        "boolean": "BOOLEAN",
        "date": "DATE",
        "time": "TIME",
        "timestamp": "TIMESTAMP",
        "binary": "BLOB",
        "string": "VARCHAR",
    }.get(kind) or kind.upper()


def _selected(column: Column, constants: Mapping[str, str], present: set[str]) -> str:
    value = constants.get(column.name) or (_quoted(column.name) if column.name in present else "NULL")
    cast = f"CAST({value} AS {duckdb_type(column.type)})"
    return f"{f'CAST({cast} AS VARCHAR)' if column.type == 'time' else cast} AS {_quoted(column.name)}"


def _winners(key: Sequence[str], source: str) -> str:
    """A table of where the newest row of each key is. Of the rows only key, sequence and place are held for it."""
    keys = ", ".join(map(_quoted, key))
    newest = f"max({{'sequence': {_SEQUENCE}, 'place': {_PLACE}, 'is_gone': {_OPERATION} = 'D'}})"
    return (
        f"CREATE OR REPLACE TEMP TABLE winners AS SELECT newest.place AS {_PLACE}, newest.is_gone AS is_gone "  # noqa: S608
        f"FROM (SELECT {newest} AS newest FROM {source} WHERE {_OPERATION} <> 'B' GROUP BY {keys})"
    )


def _least(engine: "duckdb.DuckDBPyConnection", source: str) -> int | None:
    found = engine.execute(f"SELECT min({_SEQUENCE}) FROM {source} WHERE {_OPERATION} <> 'B'").fetchone()  # noqa: S608
    return None if found is None or found[0] is None else int(found[0])


def _greatest(engine: "duckdb.DuckDBPyConnection", source: str) -> int:
    found = engine.execute(f"SELECT max({_SEQUENCE}) FROM {source}").fetchone()  # noqa: S608
    return 0 if found is None or found[0] is None else int(found[0])


def _snapshot_sequence(snapshot: datetime) -> str:
    """The sequence of a snapshot's rows, as those of changes are written: its digits, filled up with zeros to 35."""
    return f"{snapshot.astimezone(UTC):%Y%m%d%H%M%S}".ljust(35, "0")


def _fingerprint(parts: _Parts) -> list[tuple[int, int, int]]:
    try:
        found = [os.stat(path) for path in (*parts.base, *parts.changes)]  # noqa: PTH116 - thousands of them
    except FileNotFoundError:
        return []
    return [(each.st_ino, each.st_mtime_ns, each.st_size) for each in found]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _asked(registry: Registry, asked: Sequence[CubicTable]) -> str:
    return json.dumps([{"base": table.name, "changes": registry.changes_of(table).name, "key": list(table.key)} for table in asked])


def _target(connection: Connection, registry: Registry, table: CubicTable) -> _Target | None:
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
    return _Target(
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
        tuple(_Load(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[8]) for row in loads),
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


def _result(target: _Target, delta: "DeltaTable", outcome: Mapping[str, int], started: float) -> Refreshed:
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


def _remember(connection: Connection, target: _Target, commit: int, sequence: int, rows: int) -> None:
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


@contextmanager
def _delta_faults(table: CubicTable) -> Iterator[None]:
    """Turns what Delta and DuckDB say into what this project says. Without the original: it may hold values, and a bucket's answers."""
    import duckdb
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise Transient("current_out_of_memory", f"the current table {table.name} needs more memory or disk to be built") from None
    except (DeltaError, duckdb.Error, pa.ArrowException, OSError) as error:
        raise Transient("current_unavailable", f"{table.name}: its current table could not be worked on ({type(error).__name__})") from None

"""SQL over what was loaded: DuckDB in memory, a view for each table that has files.

`<name>` and `raw_<name>` show the springboard with its partitions as text, `<name>__current` the newest state per key, `<name>__history`
every row of every snapshot (`L`) and of its changes. It only reads: one SELECT, no other files, no network, no extensions.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ingestion_dagster.cubic import delta_table, places
from ingestion_dagster.cubic.columns import CHANGE_OPER, CHANGE_SEQ, CHANGE_TIMESTAMP, Column, arrow_type
from ingestion_dagster.cubic.registry import CubicTable, Registry
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.object_store import ObjectStore
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    import duckdb
    from pyarrow.fs import FileSystem

CURRENT, HISTORY, RAW = "__current", "__history", "raw_"

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_MEMORY = "1GB"
_EXACT_DIGITS = 15
"""Decimal digits that a JSON number keeps whatever reads it."""

_SCHEMAS = """
SELECT DISTINCT ON (d.id) d.name, s.columns
FROM cubic.schemas AS s
JOIN ledger.datasets AS d ON d.id = s.dataset_id
ORDER BY d.id, s.version DESC
"""

_HISTORY = f"""
SELECT *, rpad(regexp_replace(snapshot, '[TZ]', '', 'g'), 35, '0') AS {CHANGE_SEQ}, 'L' AS {CHANGE_OPER},
       strptime(snapshot, '{places.SNAPSHOT_FORMAT}') AS {CHANGE_TIMESTAMP}
FROM {{base}}
"""  # noqa: S608 - names of our own

_CONSTRAINED = (
    "SET enable_progress_bar = false",  # it goes to stdout, where the answer goes
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET python_enable_replacements = false",
)


def run(connection: Connection, settings: Settings, registry: Registry, sql: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Column names and rows of one SELECT; every value is one that JSON has.

    Dates and times are ISO text, decimals numbers up to 15 digits and text beyond, bytes hexadecimal. Raises `ConfigurationError` for SQL
    that DuckDB does not take or that would do more than read; its message holds no data.
    """
    import duckdb

    with duckdb.connect(config={"memory_limit": _MEMORY}) as engine, _faults():
        statements = engine.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigurationError("a query is one SELECT statement")
        for statement in _CONSTRAINED:
            engine.execute(statement)
        _Views(connection, settings, registry, engine).create(_named(sql))
        _close(engine, settings)
        answer = engine.execute(sql)
        names = _distinct([str(column[0]) for column in answer.description or ()])
        return names, [dict(zip(names, map(as_json, row), strict=True)) for row in answer.fetchall()]


def as_json(value: Any) -> Any:
    """A value of DuckDB as one that JSON has."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() and len(value.as_tuple().digits) <= _EXACT_DIGITS else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return str(value)


class _Views:
    """The views of one connection, created as they are asked for."""

    def __init__(self, connection: Connection, settings: Settings, registry: Registry, engine: "duckdb.DuckDBPyConnection") -> None:
        self._settings = settings
        self._registry = registry
        self._engine = engine
        self._store = places.springboard(settings)
        self._connection = connection
        self._schemas: dict[str, list[Column]] | None = None

    def create(self, named: frozenset[str]) -> None:
        """Those that a statement names; all, if it names none: it may ask for a list of what there is."""
        offered = {view: table for table in self._registry.tables.values() for view in _views(table)}
        for view in [view for view in offered if view in named] or offered:
            self._create(view, offered[view])

    def _create(self, view: str, table: CubicTable) -> None:
        if view == f"{table.name}{CURRENT}":
            source = self._current(table, view)
        elif view == f"{table.name}{HISTORY}":
            source = self._history(table, view)
        else:
            source = self._springboard(table, view, "raw" if view.startswith(RAW) and view != table.name else "")
        if source:
            self._engine.execute(f"CREATE OR REPLACE VIEW {_quoted(view)} AS SELECT * FROM {source}")  # noqa: S608

    def _springboard(self, table: CubicTable, view: str, area: str) -> str | None:
        """What to select a table's rows from; None if it has no files."""
        folder = places.table_folder(table, area)
        partitions = ["snapshot", "identifier"] if table.kind == "ods" else ["identifier"]
        if self._store.url.startswith("file://"):
            pattern = f"{_escaped(_path(self._store))}/{_escaped(folder)}{'/*' * len(partitions)}/{places.PART}"
            if not self._engine.execute(f"SELECT count(*) FROM glob({_literal(pattern)})").fetchone()[0]:  # type: ignore[index]  # noqa: S608
                return None
            types = ", ".join(f"{name}: VARCHAR" for name in partitions)
            return f"read_parquet({_literal(pattern)}, hive_partitioning = true, hive_types = {{{types}}}, union_by_name = true)"
        keys = [found.key for found in self._store.list(folder) if found.key.endswith(f"/{places.PART}")]
        columns = self._columns(table)
        if not keys or columns is None:
            return None
        return self._dataset(view, keys, columns if area == "" else [Column(each.name, "string") for each in columns], partitions)

    def _dataset(self, view: str, keys: Sequence[str], columns: Sequence[Column], partitions: Sequence[str]) -> str:
        import pyarrow as pa
        from pyarrow import dataset

        bucket = self._store.url.removeprefix("s3://")
        typed = pa.schema([(each.name, arrow_type(each.type)) for each in columns if each.name not in partitions])
        by_path = pa.schema([(name, pa.string()) for name in partitions])
        found = dataset.dataset(
            [f"{bucket}/{key}" for key in keys],
            schema=pa.schema([*typed, *by_path]),
            format="parquet",
            filesystem=s3_files(),
            partitioning=dataset.partitioning(by_path, flavor="hive"),
        )
        self._engine.register(f"{view}__files", found)
        return _quoted(f"{view}__files")

    def _current(self, table: CubicTable, view: str) -> str | None:
        from deltalake.exceptions import DeltaError

        try:
            delta = delta_table.open_delta(self._settings, table)
        except (DeltaError, OSError) as error:
            raise Transient("current_unavailable", f"{table.name}: its current table cannot be read ({type(error).__name__})") from None
        if delta is None:
            return None
        import pyarrow as pa
        from pyarrow import dataset

        # Not `file_uris()`, which percent-encodes a folder's name. No file of ours has a name that would be encoded.
        root = delta_table.location(self._settings, table)
        files = [f"{root}/{path}" for path in pa.table(delta.get_add_actions())["path"].to_pylist()]
        schema = pa.schema(delta.schema().to_arrow())
        if not files:
            self._engine.register(f"{view}__files", schema.empty_table())
            return _quoted(f"{view}__files")
        if root.startswith("file://"):
            paths = [unquote(urlsplit(file).path) for file in files]
            return f"read_parquet([{', '.join(map(_literal, paths))}], hive_partitioning = false)"
        keys = [file.removeprefix("s3://") for file in files]
        self._engine.register(f"{view}__files", dataset.dataset(keys, schema=schema, format="parquet", filesystem=s3_files()))
        return _quoted(f"{view}__files")

    def _history(self, table: CubicTable, view: str) -> str | None:
        changes = self._registry.changes_of(table)
        sources = [self._springboard(table, f"{view}__base", ""), self._springboard(changes, f"{view}__changes", "")]
        selects = [] if sources[0] is None else [_HISTORY.format(base=sources[0])]
        selects += [] if sources[1] is None else [f"SELECT * FROM {sources[1]}"]  # noqa: S608
        return f"({' UNION ALL BY NAME '.join(selects)})" if selects else None

    def _columns(self, table: CubicTable) -> list[Column] | None:
        if self._schemas is None:
            found = self._connection.execute(_SCHEMAS).fetchall()
            self._schemas = {name: [Column(*each) for each in columns] for name, columns in found}
        return self._schemas.get(table.name)


def s3_files() -> "FileSystem":
    """S3 for Arrow's readers: endpoint, region and credentials of boto3's default chain."""
    from pyarrow.fs import S3FileSystem

    from ingestion_dagster.engine import aws

    session = aws.session()
    client = session.client("s3", region_name=session.region_name or aws.DEFAULT_REGION)
    endpoint = client.meta.endpoint_url
    credentials = session.get_credentials()
    frozen = credentials.get_frozen_credentials() if credentials is not None else None
    return S3FileSystem(
        region=client.meta.region_name,
        endpoint_override=None if "amazonaws.com" in endpoint else endpoint,
        access_key=frozen.access_key if frozen else None,
        secret_key=frozen.secret_key if frozen else None,
        session_token=frozen.token if frozen else None,
    )


def _views(table: CubicTable) -> list[str]:
    names = [table.name] if table.typed else []
    names += [f"{RAW}{table.name}"] if table.raw else []
    return names + ([f"{table.name}{CURRENT}", f"{table.name}{HISTORY}"] if table.has_changes and table.typed else [])


def _named(sql: str) -> frozenset[str]:
    """Whatever in a statement could be a table's name. Not as DuckDB parses it: it cannot before the views are there."""
    return frozenset(_NAME.findall(sql.lower()))


def _close(engine: "duckdb.DuckDBPyConnection", settings: Settings) -> None:
    """From here on a statement reaches the project's files, and nothing else outside."""
    local = [_path(store) for store in (places.springboard(settings), places.current(settings)) if store.url.startswith("file://")]
    engine.execute(f"SET allowed_directories = [{', '.join(map(_literal, local))}]")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET lock_configuration = true")


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that can be keys of an object: the second `a` is `a_1`."""
    taken: list[str] = []
    for name in names:
        number, free = 0, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        taken.append(free)
    return taken


@contextmanager
def _faults() -> Iterator[None]:
    """DuckDB quotes values where one cannot be converted; what it says of names, syntax and permissions is the user's own text."""
    import duckdb

    try:
        yield
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.PermissionException) as error:
        raise ConfigurationError(f"the query was not understood: {str(error).splitlines()[0]}") from None
    except duckdb.Error as error:
        raise ConfigurationError(f"the query failed ({type(error).__name__})") from None


def _path(store: ObjectStore) -> str:
    return unquote(urlsplit(store.url).path)


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

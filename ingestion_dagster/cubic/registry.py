"""The registry of cubic tables: one entry is a table, its assets, checks and catalogue entries."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column, parse_type
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.engine.object_store import is_key
from ingestion_dagster.settings import Settings

PIPELINE = "cubic"
UNCLASSIFIED = "unclassified"
"""The dataset of what lies under no registered prefix; it waits for an entry."""

Kind = Literal["ods", "dmap", "kafka"]
FOLDERS: dict[Kind, str] = {"ods": "ods_qlik", "dmap": "dmap", "kafka": "kafka"}
"""Where the streams arrive below `cubic/`, and how their assets are grouped."""

CHANGES = "__ct"
"""What a table's change files have behind its prefix, its name and its asset."""

MARKER = "LOAD00000001.csv.gz"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,199}")


class _Entry(BaseModel):
    """An entry of the registry as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=rf"^{_NAME.pattern}$")
    prefix: str = Field(min_length=1)
    kind: Kind
    snapshot_marker: str | None = None
    columns: dict[str, str] | None = None
    raw: bool = True
    typed: bool = True
    is_active: bool = True
    strict: bool = True
    key: tuple[str, ...] = ()

    @field_validator("columns")
    @classmethod
    def _known_types(cls, columns: dict[str, str] | None) -> dict[str, str] | None:
        if columns is None:
            return None
        if len({name.lower() for name in columns}) != len(columns) or not columns:
            raise ValueError("names at least one column, and each once, whatever its case")
        return {name.lower(): parse_type(kind) for name, kind in columns.items()}

    @field_validator("key")
    @classmethod
    def _lower(cls, key: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in key)

    @field_validator("prefix")
    @classmethod
    def _folder(cls, prefix: str) -> str:
        if not is_key(prefix.strip("/")):
            raise ValueError("a folder of the landing zone, such as cubic/ods_qlik/EDW.SAMPLE/")
        return prefix.strip("/") + "/"

    @model_validator(mode="after")
    def _possible_marker(self) -> "_Entry":
        if self.snapshot_marker is None:
            return self
        if self.kind != "ods":
            raise ValueError("snapshot_marker: only ods tables have snapshots")
        home = self.prefix.removesuffix(f"{CHANGES}/").rstrip("/") + "/"
        if "/" in self.snapshot_marker.lstrip("/") and not self.snapshot_marker.lstrip("/").startswith(home):
            raise ValueError("snapshot_marker: lies below another prefix, so that no snapshot would begin")
        if not self.snapshot_marker.endswith((".csv.gz", ".csv")):
            raise ValueError("snapshot_marker: names no .csv.gz or .csv file")
        return self


@dataclass(frozen=True, slots=True)
class CubicTable:
    """A table of the lake: where its files arrive, what they hold, and what is made of them. Change files have a table of their own."""

    name: str
    """In the catalogue, and the dataset in the ledger."""
    prefix: str
    """Below which its files arrive in the landing zone; ends with a slash."""
    kind: Kind
    columns: tuple[Column, ...] | None = None
    """As the registry says, change files' header columns among them; None: as the `.dfm` or the first file says."""
    key: tuple[str, ...] = ()
    """As the registry says; empty: as the `.dfm` says."""
    marker: str | None = None
    """The key whose arrival starts a new snapshot (ods only, the same for a table and its changes)."""
    raw: bool = True
    typed: bool = True
    is_active: bool = True
    strict: bool = True
    base: str | None = None
    """Of a table of changes, the name of the table whose changes it holds."""

    @property
    def has_changes(self) -> bool:
        """Whether it has a table of changes beside it."""
        return self.kind == "ods" and self.base is None

    @property
    def slug(self) -> str:
        """Its folder, as a name: `EDW.SAMPLE__ct` → `edw_sample__ct`."""
        return re.sub(r"[^a-z0-9_]", "_", self.prefix.rstrip("/").rpartition("/")[2].lower())

    @property
    def asset(self) -> tuple[str, ...]:
        """Key of its asset: `cubic/ods_qlik/edw_sample`."""
        return (PIPELINE, FOLDERS[self.kind], self.slug)

    def as_entry(self) -> dict[str, Any]:
        """What the ledger keeps of it, to notice when it is changed."""
        return {
            "prefix": self.prefix,
            "kind": self.kind,
            "columns": None if self.columns is None else [[column.name, column.type] for column in self.columns],
            "key": list(self.key),
            "marker": self.marker,
            "raw": self.raw,
            "typed": self.typed,
            "strict": self.strict,
            "base": self.base,
        }


class Registry:
    """The tables by name; change tables are among them, whether written down or not."""

    def __init__(self, tables: Iterable[CubicTable]) -> None:
        self.tables: Mapping[str, CubicTable] = {table.name: table for table in tables}

    @cached_property
    def _by_prefix(self) -> dict[str, CubicTable]:
        return {table.prefix: table for table in self.tables.values()}

    def of_key(self, key: str) -> CubicTable | None:
        """The table below whose prefix a key of the landing zone lies; of two, the longer prefix."""
        end = key.rfind("/")
        while end > 0:
            table = self._by_prefix.get(key[: end + 1])
            if table is not None:
                return table
            end = key.rfind("/", 0, end)
        return None

    def changes_of(self, table: CubicTable) -> CubicTable:
        """The table of changes of an ods table."""
        return next(other for other in self.tables.values() if other.base == table.name)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The ledger's datasets: every table, and where the unknown waits."""
        return (*self.tables, UNCLASSIFIED)


def registry(settings: Settings) -> Registry:
    """The registry that the settings name, read now. Raises `ConfigurationError`."""
    path = settings.cubic_tables or project_file("source_data") / "cubic" / "tables.yaml"
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"INGESTION_CUBIC_TABLES: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"INGESTION_CUBIC_TABLES: {path} is no text in UTF-8") from None
    return parse_registry(text, str(path))


def parse_registry(text: str, source: str = "the registry") -> Registry:
    """The registry that a YAML text holds. Raises `ConfigurationError`, which names every entry that is wrong."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source} is no YAML: {str(error).splitlines()[0]}") from None
    entries = content.get("tables") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ConfigurationError(f"{source} needs a list 'tables:'")
    read: list[_Entry] = []
    wrong: list[str] = []
    for position, entry in enumerate(entries, start=1):
        try:
            read.append(_Entry.model_validate(entry))
        except ValidationError as error:
            name = entry.get("name", position) if isinstance(entry, dict) else position
            wrong += [f"table {name}: {_told(each)}" for each in error.errors(include_input=False)]
    if wrong:
        raise ConfigurationError(f"{source}: {'; '.join(wrong)}")
    bases = {entry.prefix for entry in read if entry.kind == "ods"}
    for entry in read:
        base = entry.prefix.removesuffix(f"{CHANGES}/") + "/"
        if entry.kind == "ods" and base != f"{entry.prefix}/" and base not in bases:
            raise ConfigurationError(f"{source}: table {entry.name} holds changes of {base}, which has no entry")
    return Registry(_checked([*_tables(read)], source))


def _told(error: Any) -> str:
    """What pydantic found, led by the field if it is about one."""
    field = ".".join(map(str, error["loc"]))
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def _tables(entries: list[_Entry]) -> Iterable[CubicTable]:
    written_changes = {entry.prefix: entry for entry in entries if entry.kind == "ods" and entry.prefix.endswith(f"{CHANGES}/")}
    for entry in entries:
        if entry.prefix in written_changes:
            continue
        table = _table(entry)
        yield table
        if table.has_changes:
            prefix = f"{entry.prefix.rstrip('/')}{CHANGES}/"
            yield _changes(table, entry, written_changes.get(prefix))


def _table(entry: _Entry) -> CubicTable:
    marker = entry.snapshot_marker or MARKER
    return CubicTable(
        name=entry.name,
        prefix=entry.prefix,
        kind=entry.kind,
        columns=None if entry.columns is None else tuple(Column(name, kind) for name, kind in entry.columns.items()),
        key=entry.key,
        marker=None if entry.kind != "ods" else entry.prefix + marker.lstrip("/").removeprefix(entry.prefix),
        raw=entry.raw,
        typed=entry.typed,
        is_active=entry.is_active,
        strict=entry.strict,
    )


def _changes(table: CubicTable, base: _Entry, written: _Entry | None) -> CubicTable:
    """The table of changes of an ods table: as it, unless an entry of its own says otherwise."""
    own = written or base
    columns = own.columns if own.columns is not None else base.columns
    leading = () if columns is None else tuple(column for column in CHANGE_COLUMNS if column.name not in columns)
    return CubicTable(
        name=written.name if written else f"{table.name}{CHANGES}",
        prefix=f"{table.prefix.rstrip('/')}{CHANGES}/",
        kind="ods",
        columns=None if columns is None else (*leading, *(Column(name, kind) for name, kind in columns.items())),
        key=own.key or table.key,
        marker=table.marker,
        raw=own.raw,
        typed=own.typed,
        is_active=own.is_active,
        strict=own.strict,
        base=table.name,
    )


def _checked(tables: list[CubicTable], source: str) -> list[CubicTable]:
    for what, values in (
        ("name", [table.name for table in tables]),
        ("prefix", [table.prefix for table in tables]),
        ("asset", ["/".join(table.asset) for table in tables]),
    ):
        double = sorted({value for value in values if values.count(value) > 1})
        if double:
            raise ConfigurationError(f"{source}: two tables have the {what} {', '.join(double)}")
    for table in tables:
        unknown = set(table.key) - {column.name for column in table.columns or ()} if table.columns is not None else set()
        if unknown:
            raise ConfigurationError(f"{source}: table {table.name}: its key names no column: {', '.join(sorted(unknown))}")
        if table.name == UNCLASSIFIED:
            raise ConfigurationError(f"{source}: a table cannot be named {UNCLASSIFIED}")
    return tables

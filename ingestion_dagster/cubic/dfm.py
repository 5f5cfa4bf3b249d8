"""What Qlik writes beside each data file: names, types and key of its columns, how many rows it has, and how they are written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import yaml

from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column, of_dfm
from ingestion_dagster.cubic.registry import CHANGES, FOLDERS, PIPELINE
from ingestion_dagster.engine.errors import Problem, Refused

_MOST_COLUMNS = 2000


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file's records are written. A quote inside quotes is doubled; `escape` and `quote` may be empty: there is none."""

    delimiter: str = ","
    quote: str = '"'
    null: str = ""
    """How a null is written; never in quotes."""
    newline: str = "\n"
    escape: str = ""


@dataclass(frozen=True, slots=True)
class Dfm:
    """What a `.dfm` says of its data file. Names are in lower case, types as the registry names them."""

    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    """The columns of the primary key in its order. Oracle lets them be null."""
    record_count: int | None = None
    dialect: Dialect = Dialect()
    warnings: tuple[Problem, ...] = ()
    schema: str = ""
    table: str = ""
    """The source's, as they are written; empty when the file does not say."""


def parse(raw: bytes) -> Dfm:
    """Read a `.dfm`. Raises Refused with every `metadata_unreadable` there is; what is merely unknown becomes a warning."""
    content = _json(raw)
    info = _object(content, "dataInfo")
    columns, key, warnings, wrong = _columns(info.get("columns"))
    dialect, unusable = _dialect(content)
    wrong += unusable
    count = _object(content, "fileInfo").get("recordCount")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        warnings.append(_unreadable("fileInfo.recordCount", "is no number of rows; they are not compared", severity="warning"))
        count = None
    if wrong:
        raise Refused(*wrong)
    return Dfm(columns, key, count, dialect, tuple(warnings), _text(info.get("sourceSchema")), _text(info.get("sourceTable")))


def propose(dfm: Dfm) -> str:
    """The registry entry (YAML, an item of its list `tables:`) for the table that a `.dfm` describes, or whose changes it describes.

    Raises Refused when the `.dfm` does not say which table it is of.
    """
    table = dfm.table.removesuffix(CHANGES)
    if not (re.fullmatch(r"\w+", dfm.schema, re.ASCII) and re.fullmatch(r"[\w$#]+", table, re.ASCII)):
        raise Refused(_unreadable("dataInfo.sourceTable", "does not name the table; write the entry by hand"))
    name = re.sub(r"[^a-z0-9_]", "_", f"{PIPELINE}__{FOLDERS['ods']}__{dfm.schema}_{table}".lower())
    leading = {column.name for column in CHANGE_COLUMNS}
    entry: dict[str, Any] = {
        "name": name,
        "prefix": f"{PIPELINE}/{FOLDERS['ods']}/{dfm.schema}.{table}/",
        "kind": "ods",
        "columns": {column.name: column.type for column in dfm.columns if column.name not in leading},
    }
    if dfm.key:
        entry["key"] = list(dfm.key)
    return yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=140)


def _json(raw: bytes) -> Mapping[str, Any]:
    try:
        content = orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        raise Refused(_unreadable("file", "it is no JSON; deliver it again")) from None
    if not isinstance(content, dict):
        raise Refused(_unreadable("file", "it is no JSON object; deliver it again"))
    return content


def _object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _columns(listed: object) -> tuple[tuple[Column, ...], tuple[str, ...], list[Problem], list[Problem]]:
    """Columns, key, warnings and errors of a list of columns."""
    if not isinstance(listed, list) or not listed:
        return (), (), [], [_unreadable("dataInfo.columns", "names no columns; deliver the metadata again")]
    if len(listed) > _MOST_COLUMNS:
        return (), (), [], [_unreadable("dataInfo.columns", f"names more than {_MOST_COLUMNS} columns")]
    columns: list[Column] = []
    keys: list[tuple[int, int, str]] = []
    warnings: list[Problem] = []
    wrong: list[Problem] = []
    for position, one in enumerate(listed):
        place = f"dataInfo.columns[{position}]"
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or not name:
            wrong.append(_unreadable(place, "has no name; deliver the metadata again"))
            continue
        kind, doubt = of_dfm(one.get("type"), one.get("precision"), one.get("scale"))
        columns.append(Column(name.lower(), kind))
        if doubt:
            warnings.append(Problem("type_unknown", f"column {position + 1} of the .dfm", doubt, "warning"))
        order = one.get("primaryKeyPos")
        if isinstance(order, int) and not isinstance(order, bool) and order > 0:
            keys.append((order, position, name.lower()))
    if len({column.name for column in columns}) != len(columns):
        wrong.append(_unreadable("dataInfo.columns", "names a column twice; deliver the metadata again"))
    return tuple(columns), tuple(name for *_, name in sorted(keys)), warnings, wrong


def _dialect(content: Mapping[str, Any]) -> tuple[Dialect, list[Problem]]:
    options = _object(_object(content, "formatInfo"), "options")
    usual = Dialect()
    told = {
        "fieldDelimiter": usual.delimiter,
        "quoteChar": usual.quote,
        "nullValue": usual.null,
        "recordDelimiter": usual.newline,
        "escapeChar": usual.escape,
    }
    wrong: list[Problem] = []
    for name, otherwise in told.items():
        value = options.get(name)
        value = otherwise if value is None else value
        if not isinstance(value, str) or not _usable(name, value):
            wrong.append(_unreadable(f"formatInfo.options.{name}", "cannot be used; ask for commas, double quotes and line feeds"))
        else:
            told[name] = value
    if told["escapeChar"] == told["quoteChar"]:  # a way to say that quotes are doubled
        told["escapeChar"] = ""
    dialect = Dialect(*(told[name] for name in ("fieldDelimiter", "quoteChar", "nullValue", "recordDelimiter", "escapeChar")))
    marks = [mark for mark in (dialect.delimiter, dialect.quote, dialect.escape) if mark]
    if not wrong and (len(set(marks)) != len(marks) or set(marks) & set("\r\n")):
        wrong.append(_unreadable("formatInfo.options", "uses a character for two purposes; ask for commas, double quotes and line feeds"))
    return dialect, wrong


def _usable(name: str, value: str) -> bool:
    if name == "nullValue":
        return len(value) <= 100
    if name == "recordDelimiter":
        return value in {"\n", "\r\n"}
    return value.isascii() and (len(value) == 1 or (not value and name != "fieldDelimiter"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _unreadable(place: str, message: str, severity: Any = "error") -> Problem:
    return Problem("metadata_unreadable", place, message, severity)

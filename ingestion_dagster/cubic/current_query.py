"""The statements by which DuckDB finds the newest row of each key."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ingestion_dagster.cubic.columns import Column

if TYPE_CHECKING:
    import duckdb

OPERATION, SEQUENCE, PLACE = "cubic__operation", "cubic__sequence", "cubic__place"
ALIVE = f"SELECT {{columns}} FROM rows WHERE {PLACE} IN (SELECT {PLACE} FROM winners WHERE NOT is_gone)"  # noqa: S608
TOUCHED = f"SELECT {{columns}} FROM rows WHERE {PLACE} IN (SELECT {PLACE} FROM winners)"  # noqa: S608


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


def selected(column: Column, constants: Mapping[str, str], present: set[str]) -> str:
    """A column of a file, or the constant that stands for it, or NULL, with the type that it has in the table."""
    value = constants.get(column.name) or (quoted(column.name) if column.name in present else "NULL")
    cast = f"CAST({value} AS {duckdb_type(column.type)})"
    return f"{f'CAST({cast} AS VARCHAR)' if column.type == 'time' else cast} AS {quoted(column.name)}"


def winners(key: Sequence[str], source: str) -> str:
    """A table of where the newest row of each key is. Of the rows only key, sequence and place are held for it."""
    keys = ", ".join(map(quoted, key))
    newest = f"max({{'sequence': {SEQUENCE}, 'place': {PLACE}, 'is_gone': {OPERATION} = 'D'}})"
    return (
        f"CREATE OR REPLACE TEMP TABLE winners AS SELECT newest.place AS {PLACE}, newest.is_gone AS is_gone "  # noqa: S608
        f"FROM (SELECT {newest} AS newest FROM {source} WHERE {OPERATION} <> 'B' GROUP BY {keys})"
    )


def least(engine: "duckdb.DuckDBPyConnection", source: str) -> int | None:
    """The least change sequence of the rows, those before a change left out; None without rows."""
    found = engine.execute(f"SELECT min({SEQUENCE}) FROM {source} WHERE {OPERATION} <> 'B'").fetchone()  # noqa: S608
    return None if found is None or found[0] is None else int(found[0])


def greatest(engine: "duckdb.DuckDBPyConnection", source: str) -> int:
    """The greatest change sequence of the rows; 0 without rows."""
    found = engine.execute(f"SELECT max({SEQUENCE}) FROM {source}").fetchone()  # noqa: S608
    return 0 if found is None or found[0] is None else int(found[0])


def snapshot_sequence(snapshot: datetime) -> str:
    """The sequence of a snapshot's rows, as those of changes are written: its digits, filled up with zeros to 35."""
    return f"{snapshot.astimezone(UTC):%Y%m%d%H%M%S}".ljust(35, "0")


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text."""
    return "'" + text.replace("'", "''") + "'"

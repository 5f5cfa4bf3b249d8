"""Columns of cubic tables and their types: in the registry's words, as a `.dfm` names them, and as Arrow stores them."""

import re
from dataclasses import dataclass

import pyarrow as pa

_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")

_ARROW: dict[str, pa.DataType] = {
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "binary": pa.binary(),
    "string": pa.string(),
}

CHANGE_SEQ, CHANGE_OPER, CHANGE_TIMESTAMP = "header__change_seq", "header__change_oper", "header__timestamp"
"""The three columns that lead each row of a change file."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name in lower case, and its type as `parse_type` returns it."""

    name: str
    type: str


CHANGE_COLUMNS = (Column(CHANGE_SEQ, "string"), Column(CHANGE_OPER, "string"), Column(CHANGE_TIMESTAMP, "timestamp"))


def parse_type(text: str) -> str:
    """A type in the registry's words, normalised: `bigint`, `decimal(10,2)`, … Raises ValueError for any other."""
    word = text.strip().lower()
    if word in _ARROW:
        return word
    found = _DECIMAL.fullmatch(word)
    if found and 1 <= int(found[1]) <= 38 and int(found[2]) <= int(found[1]):
        return f"decimal({int(found[1])},{int(found[2])})"
    raise ValueError(f"no type of a column: {text!r}; known: {', '.join(_ARROW)}, decimal(p,s) with s <= p <= 38")


def arrow_type(text: str) -> pa.DataType:
    """How values of a type are stored in the typed area. A timestamp has microseconds and no zone."""
    found = _DECIMAL.fullmatch(text)
    return pa.decimal128(int(found[1]), int(found[2])) if found else _ARROW[text]

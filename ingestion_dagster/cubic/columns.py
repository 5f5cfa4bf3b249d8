"""Columns of cubic tables and their types: in the registry's words, as a `.dfm` names them, and as Arrow stores them."""

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")

_WORDS = ("int", "bigint", "float", "double", "boolean", "date", "time", "timestamp", "binary", "string")

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
    if word in _WORDS:
        return word
    found = _DECIMAL.fullmatch(word)
    if found and 1 <= int(found[1]) <= 38 and int(found[2]) <= int(found[1]):
        return f"decimal({int(found[1])},{int(found[2])})"
    raise ValueError(f"no type of a column: {text!r}; known: {', '.join(_WORDS)}, decimal(p,s) with s <= p <= 38")


@cache
def arrow_type(text: str) -> "pa.DataType":
    """How values of a type are stored in the typed area. A timestamp has microseconds and no zone."""
    import pyarrow as pa

    found = _DECIMAL.fullmatch(text)
    if found:
        return pa.decimal128(int(found[1]), int(found[2]))
    stored: dict[str, pa.DataType] = {
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
    return stored[text]


_DFM: dict[str, str] = {
    **dict.fromkeys(("INT1", "UINT1", "INT2", "UINT2", "INT3", "UINT3", "INT4"), "int"),
    "UINT4": "bigint",
    "INT8": "bigint",
    "UINT8": "decimal(20,0)",
    "REAL4": "float",
    "REAL8": "double",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIME": "time",
    "DATETIME": "timestamp",
    **dict.fromkeys(("BYTES", "BLOB"), "binary"),
    **dict.fromkeys(("STRING", "WSTRING", "CLOB", "NCLOB"), "string"),
}


def of_dfm(kind: object, precision: object, scale: object) -> tuple[str, str]:
    """The type for a column that a `.dfm` describes, and what is doubtful about it (mostly nothing).

    What is unknown, or a number without a precision, is stored as it is written: `string`.
    """
    word = kind.upper() if isinstance(kind, str) else ""
    if word == "NUMERIC":
        return _numeric(precision, scale)
    return (_DFM[word], "") if word in _DFM else ("string", "its type is unknown; it is stored as text until the registry names one")


def _numeric(precision: object, scale: object) -> tuple[str, str]:
    digits = precision if isinstance(precision, int) and not isinstance(precision, bool) else 0
    behind = scale if isinstance(scale, int) and not isinstance(scale, bool) else 0
    if behind == 0 and 1 <= digits <= 18:
        return "bigint", ""
    if 1 <= digits <= 38 and 0 <= behind <= digits:
        return f"decimal({digits},{behind})", ""
    return "string", "its number has no precision that can be stored; it is stored as text until the registry names a type"


_WHOLE = {"int": 10, "bigint": 19}
"""Whole numbers, with the digits that a decimal needs to hold them."""


def is_wider(new: str, old: str) -> bool:
    """Whether every value of the old type is one of the new type, too."""
    if new in (old, "string"):
        return True
    if (old, new) in {("int", "bigint"), ("int", "double"), ("float", "double"), ("date", "timestamp")}:
        return True
    decimal_new, decimal_old = _DECIMAL.fullmatch(new), _DECIMAL.fullmatch(old)
    if decimal_new is None:
        return False
    precision, scale = int(decimal_new[1]), int(decimal_new[2])
    if old in _WHOLE:
        return precision - scale >= _WHOLE[old]
    return decimal_old is not None and scale >= int(decimal_old[2]) and precision - scale >= int(decimal_old[1]) - int(decimal_old[2])

"""From text to the types of the typed area: strict, the same for good values wherever they stand, and fast for the usual forms.

A column is cast at once by Arrow. What Arrow refuses, or reads otherwise than it is meant, is cast value by value. Nothing but blanks
is null, for every type but `string`.
"""

import re
from binascii import Error as NotHex
from binascii import unhexlify
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_dagster.cubic.columns import arrow_type

Rows = np.ndarray[Any, np.dtype[np.int64]]
"""Positions of rows."""

NONE: Rows = np.empty(0, np.int64)
_PIECE = 512
"""Rows that are cast value by value when one of them is unusual."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,9}))?")
_DAY = re.compile(
    r"(?P<year>[0-9]{4})(?:"
    r"-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2}))?"
    r"|(?P<month2>[0-9]{2})(?P<day2>[0-9]{2})"
    r"|-?W(?P<week>[0-9]{2})(?:-?(?P<weekday>[0-9]))?"
    r"|-?(?P<ordinal>[0-9]{3})"
    r")?"
)
_CLOCK = re.compile(
    r"(?P<hour>[0-9]{2})(?:(?P<colon>:?)(?P<minute>[0-9]{2})(?:(?P=colon)(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?)?"
    r"(?:(?P<utc>[Zz])|(?P<sign>[+-])(?P<ahead>[0-9]{2})(?::?(?P<beyond>[0-9]{2}))?)?"
)
_BLANKS = " \t\n\v\f\r"
_DAYLONG = timedelta(days=1)
_SOME_DAY = datetime.combine(date(1970, 1, 1), time())
_INTEGERS = {"int": 2**31, "bigint": 2**63}


def code(kind: str) -> str:
    """The code of a value that is not of the type: `not_a_bigint`."""
    name = kind.partition("(")[0]
    return f"not_{'an' if name[0] in 'aeiou' else 'a'}_{name}"


def cast_column(texts: pa.Array, kind: str, most: int = 1 << 31) -> tuple[pa.Array, Rows]:
    """The values (null where there is none, and where one cannot be cast) and the rows that cannot be cast.

    Beyond `most` such rows, the others are not looked at.
    """
    if kind == "string":
        return texts, NONE
    quick = _QUICK[kind.partition("(")[0]]
    values = quick(texts, arrow_type(kind))
    if values is not None:
        return values, NONE
    trimmed = pc.ascii_trim_whitespace(texts)
    filled = pc.if_else(pc.equal(trimmed, ""), None, texts if kind in {"date", "time", "timestamp"} else trimmed)
    values = quick(filled, arrow_type(kind))
    return (values, NONE) if values is not None else _piecewise(filled, kind, quick, most)


def cast_value(text: str | None, kind: str) -> Any:
    """One value, as Python has it. Raises ValueError, which does not tell the value."""
    if text is None or kind == "string":
        return text
    if not text.strip():
        return None
    try:
        return _slow(kind)(text)
    except (ValueError, KeyError, ArithmeticError):
        raise ValueError(code(kind)) from None


def _piecewise(texts: pa.Array, kind: str, quick: "_Quick", most: int) -> tuple[pa.Array, Rows]:
    target = arrow_type(kind)
    pieces: list[pa.Array] = []
    bad: list[int] = []
    for start in range(0, len(texts), _PIECE):
        if len(bad) > most:
            pieces.append(pa.nulls(len(texts) - start, target))
            break
        piece = texts.slice(start, _PIECE)
        values = quick(piece, target)
        if values is None:
            converted = []
            for position, text in enumerate(piece.to_pylist(), start):
                try:
                    converted.append(cast_value(text, kind))
                except ValueError:
                    converted.append(None)
                    bad.append(position)
            values = pa.array(converted, target)
        pieces.append(values)
    return pa.concat_arrays(pieces) if pieces else pa.array([], target), np.array(bad, np.int64)


# The quick way: None when a value is not of the usual form.

_Quick = Callable[[pa.Array, pa.DataType], pa.Array | None]


def _plain(texts: pa.Array, target: pa.DataType) -> pa.Array | None:
    try:
        return pc.call_function("cast", [texts], _cast_options(target))
    except pa.ArrowInvalid:  # its text holds the value
        return None


@lru_cache
def _cast_options(target: pa.DataType) -> pc.CastOptions:
    return pc.CastOptions.safe(target)


def _integers(texts: pa.Array, target: pa.DataType) -> pa.Array | None:
    content = _content(texts)
    if ((content | 0x20) == ord("x")).any():  # Arrow reads 0x1F
        return None
    return _plain(texts, target)


def _floats(texts: pa.Array, target: pa.DataType) -> pa.Array | None:
    values = _plain(texts, target)
    if values is None:
        return None
    return values if np.isfinite(_numbers(values, "f4" if target.bit_width == 32 else "f8")).all() else None


def _dates(texts: pa.Array, target: pa.DataType) -> pa.Array | None:
    return _since_year_one(_plain(texts, target), "i4", -719_162)


def _timestamps(texts: pa.Array, target: pa.DataType) -> pa.Array | None:
    shortened = _microseconds(_without_utc(texts))
    return None if shortened is None else _since_year_one(_plain(shortened, target), "i8", -719_162 * 86_400_000_000)


def _since_year_one(values: pa.Array | None, width: str, first: int) -> pa.Array | None:
    """Arrow reads a year 0, which is none."""
    return None if values is None or (_numbers(values, width) < first).any() else values


def _numbers(values: pa.Array, width: str) -> np.ndarray[Any, Any]:
    """The values as numbers, with something in the place of each null: no reason to take the slow way, nor to fear it."""
    buffer = values.buffers()[1]
    return np.frombuffer(buffer, width, len(values)) if buffer is not None and len(values) else np.empty(0, width)


def _times(texts: pa.Array, target: pa.DataType) -> pa.Array | None:
    shortened = _microseconds(pc.binary_join_element_wise("1970-01-01 ", texts, ""))
    values = None if shortened is None else _plain(shortened, pa.timestamp("us"))
    return None if values is None else pc.cast(values, target)


def _microseconds(texts: pa.Array) -> pa.Array | None:
    """Timestamps without the digits of their fractions behind the sixth, if all have as many; None if something else stands there."""
    width = _width(texts)
    if not 26 < width <= 29:
        return texts
    content = _content(texts).reshape(-1, width)
    if ((content[:, 26:] - ord("0")) > 9).any():
        return None
    return _cut(texts, width, 26)


def _without_utc(texts: pa.Array) -> pa.Array:
    """Timestamps without the Z behind their seconds, if all have it at the same place."""
    width = _width(texts)
    if not 20 <= width <= 30 or (_content(texts).reshape(-1, width)[:, -1] != ord("Z")).any():
        return texts
    return _cut(texts, width, width - 1)


def _width(texts: pa.Array) -> int:
    """The number of bytes of each text, if all that have any have as many; else 0."""
    lengths = np.diff(_offsets(texts))
    width = int(lengths.max(initial=0))
    return width if ((lengths == width) | (lengths == 0)).all() else 0


def _cut(texts: pa.Array, width: int, kept: int) -> pa.Array:
    offsets = _offsets(texts)
    content = np.ascontiguousarray(_content(texts).reshape(-1, width)[:, :kept])
    shorter = ((offsets - offsets[0]) // width * kept).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(shorter), pa.py_buffer(content), _validity(texts), texts.null_count)


def _binaries(texts: pa.Array, _target: pa.DataType) -> pa.Array | None:
    offsets = _offsets(texts)
    if (offsets & 1).any() or offsets[0] or np.count_nonzero(np.diff(offsets) == 0) != texts.null_count:
        return None
    try:
        content = unhexlify(_content(texts).tobytes())
    except NotHex:
        return None
    validity = _validity(texts)
    return pa.Array.from_buffers(
        pa.binary(), len(texts), [validity, pa.py_buffer((offsets // 2).astype(np.int32)), pa.py_buffer(content)], texts.null_count
    )


_QUICK: dict[str, _Quick] = {
    "int": _integers,
    "bigint": _integers,
    "float": _floats,
    "double": _floats,
    "boolean": _plain,
    "date": _dates,
    "time": _times,
    "timestamp": _timestamps,
    "decimal": _plain,
    "binary": _binaries,
}


def _validity(texts: pa.Array) -> pa.Buffer | None:
    if not texts.null_count:
        return None
    if not texts.offset:
        return texts.buffers()[0]
    return pa.py_buffer(np.packbits(texts.is_valid().to_numpy(zero_copy_only=False), bitorder="little"))


def _offsets(texts: pa.Array) -> np.ndarray[Any, np.dtype[np.int32]]:
    buffer = texts.buffers()[1]
    if buffer is None or not len(texts):
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int32, len(texts) + 1, texts.offset * 4)


def _content(texts: pa.Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    offsets, buffer = _offsets(texts), texts.buffers()[2]
    if buffer is None:
        return np.empty(0, np.uint8)
    return np.frombuffer(buffer, np.uint8)[offsets[0] : offsets[-1]]


# The slow way: value by value.


@lru_cache
def _slow(kind: str) -> Callable[[str], Any]:
    if kind in _INTEGERS:
        return lambda text: _integer(text, _INTEGERS[kind])
    if kind in {"float", "double"}:
        return lambda text: _float(text, arrow_type(kind))
    if kind.startswith("decimal"):
        target = cast("pa.Decimal128Type", arrow_type(kind))
        return lambda text: _decimal(text, target.precision, target.scale)
    return {"boolean": _boolean, "date": _date, "time": _time, "timestamp": _timestamp, "binary": _binary}[kind]


def _integer(text: str, beyond: int) -> int:
    if not _INTEGER.fullmatch(text := text.strip(_BLANKS)):
        raise ValueError
    digits = text.lstrip("+-").lstrip("0") or "0"
    value = int(digits[:20]) * (-1 if text[0] == "-" else 1)
    if len(digits) > 19 or not -beyond <= value < beyond:
        raise ValueError
    return value


def _number(text: str) -> Sequence[str]:
    """Sign, digits before and behind the point, exponent."""
    found = _NUMBER.fullmatch(text.strip(_BLANKS))
    if not found or not (found[2] or found[3]):
        raise ValueError
    return cast("Sequence[str]", found.groups(""))


def _float(text: str, target: pa.DataType) -> float:
    _number(text)
    value = _floats(pa.array([text.strip(_BLANKS)]), target)
    if value is None:
        raise ValueError
    return cast("float", value[0].as_py())


def _decimal(text: str, precision: int, scale: int) -> Decimal:
    sign, before, behind, exponent = _number(text)
    digits = (before + behind).lstrip("0")
    power = int(exponent or 0) - len(behind)
    significant = digits.rstrip("0")
    power += len(digits) - len(significant)
    if not significant:
        return Decimal(0).scaleb(-scale)
    if power < -scale or len(significant) + power > precision - scale:
        raise ValueError
    return Decimal((1 if sign == "-" else 0, tuple(map(int, significant + "0" * (power + scale))), -scale))


def _boolean(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text.strip(_BLANKS).lower()]


def _binary(text: str) -> bytes:
    return unhexlify(text.strip(_BLANKS).encode("ascii"))


def _date(text: str) -> date:
    day, moment = _iso(text)
    return day + timedelta(days=1) if moment and moment[0] >= _DAYLONG else day


def _timestamp(text: str) -> datetime:
    day, moment = _iso(text)
    start = datetime.combine(day, time())
    if moment is None:
        return start
    since, ahead = moment
    return start + since - ahead


def _time(text: str) -> time:
    found = _CLOCK.fullmatch(text)
    if not found or found["utc"] or found["sign"]:
        raise ValueError
    since, _ahead = _moment(found)
    if since >= _DAYLONG:
        raise ValueError
    return (_SOME_DAY + since).time()


def _iso(text: str) -> tuple[date, tuple[timedelta, timedelta] | None]:
    """Day, and time since its midnight with what its zone is ahead of UTC, of an ISO 8601 text."""
    separator = next((mark for mark in "T " if mark in text), None)
    day, _, clock = text.partition(separator) if separator else (text, "", "")
    found = _DAY.fullmatch(day)
    if not found or (separator and not (moment := _CLOCK.fullmatch(clock))):
        raise ValueError
    return _day(found), _moment(moment) if separator and moment else None


def _day(found: re.Match[str]) -> date:
    year = int(found["year"])
    if found["week"]:
        return date.fromisocalendar(year, int(found["week"]), int(found["weekday"] or 1))
    if found["ordinal"]:
        day = date(year, 1, 1) + timedelta(days=int(found["ordinal"]) - 1)
        if day.year != year:
            raise ValueError
        return day
    return date(year, int(found["month"] or found["month2"] or 1), int(found["day"] or found["day2"] or 1))


def _moment(found: re.Match[str]) -> tuple[timedelta, timedelta]:
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    fraction = int((found["fraction"] or "")[:6].ljust(6, "0"))
    if hour == 24 and not (minute or second or fraction):
        since = _DAYLONG
    else:
        clock = time(hour, minute, second, fraction)
        since = timedelta(hours=clock.hour, minutes=clock.minute, seconds=clock.second, microseconds=clock.microsecond)
    ahead = time(int(found["ahead"] or 0), int(found["beyond"] or 0))
    offset = timedelta(hours=ahead.hour, minutes=ahead.minute)
    return since, -offset if found["sign"] == "-" else offset

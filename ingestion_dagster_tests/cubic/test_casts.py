"""Values that would be read as another value, or depend on their neighbours, compared with a slow reading written for itself."""

import calendar
import math
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion_dagster.cubic.casts import cast_column, cast_value, code

KINDS = ["int", "bigint", "float", "double", "decimal(10,2)", "decimal(38,0)", "boolean", "date", "time", "timestamp", "binary", "string"]
BAD = object()


def at(*parts: int) -> datetime:
    """Without a zone, as timestamps are stored."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


def read(text: str | None, kind: str) -> Any:
    """The value, alone in its column; BAD if it is rejected."""
    values, bad = cast_column(pa.array([text], pa.string()), kind)
    assert len(values) == 1
    return BAD if len(bad) else values[0].as_py()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blank", [None, "", " ", "\t", "\n", "\v", "\f", "\r", "  \t ", "\u00a0", "\u3000"])
def test_nothing_is_null_but_text_stays_as_it_is(kind: str, blank: str | None) -> None:
    assert read(blank, kind) == (blank if kind == "string" else None)


GOOD: list[tuple[str, str, Any]] = [
    ("bigint", "7", 7),
    ("bigint", "+7", 7),
    ("bigint", " -7\t", -7),
    ("bigint", "007", 7),
    ("bigint", "-0", 0),
    ("bigint", str(2**63 - 1), 2**63 - 1),
    ("bigint", str(-(2**63)), -(2**63)),
    ("bigint", "0" * 5000 + "1", 1),
    ("int", str(2**31 - 1), 2**31 - 1),
    ("int", str(-(2**31)), -(2**31)),
    ("double", "1e5", 1e5),
    ("double", "-1.5E-3", -0.0015),
    ("double", " +.5", 0.5),
    ("double", "1.", 1.0),
    ("double", "0.1", 0.1),
    ("float", "0.5", 0.5),
    ("decimal(10,2)", "2.40", Decimal("2.40")),
    ("decimal(10,2)", "2.4000", Decimal("2.40")),
    ("decimal(10,2)", "+2.4", Decimal("2.40")),
    ("decimal(10,2)", " -99999999.99 ", Decimal("-99999999.99")),
    ("decimal(10,2)", "1e2", Decimal("100.00")),
    ("decimal(38,0)", "9" * 38, Decimal("9" * 38)),
    ("decimal(38,0)", "0e999999999", Decimal(0)),
    ("boolean", "1", True),
    ("boolean", "FALSE", False),
    ("boolean", " true ", True),
    ("date", "2022-01-03", date(2022, 1, 3)),
    ("date", "20220102", date(2022, 1, 2)),
    ("date", "2022-01-03 23:34:56-04:00", date(2022, 1, 3)),
    ("date", "2022-01-03T00:00:00.0000000", date(2022, 1, 3)),
    ("date", "2022", date(2022, 1, 1)),
    ("date", "2022-05", date(2022, 5, 1)),
    ("date", "2022-W01-1", date(2022, 1, 3)),
    ("date", "2022W011", date(2022, 1, 3)),
    ("date", "2020-366", date(2020, 12, 31)),
    ("date", "0001-01-01", date(1, 1, 1)),
    ("date", "9999-12-31", date(9999, 12, 31)),
    ("timestamp", "2021-12-01 11:20:30.4444444", at(2021, 12, 1, 11, 20, 30, 444444)),
    ("timestamp", "2021-12-01T11:20:30.9999999", at(2021, 12, 1, 11, 20, 30, 999999)),
    ("timestamp", "1959-12-01 11:20:30.9999999", at(1959, 12, 1, 11, 20, 30, 999999)),
    ("timestamp", "2021-12-01 11:20:30.123456789", at(2021, 12, 1, 11, 20, 30, 123456)),
    ("timestamp", "2021-12-01 11:20:30.1234567891", at(2021, 12, 1, 11, 20, 30, 123456)),
    ("timestamp", "2021-12-01 11:20:30,5", at(2021, 12, 1, 11, 20, 30, 500000)),
    ("timestamp", "2021-12-01 11:20:30.12345678Z", at(2021, 12, 1, 11, 20, 30, 123456)),
    ("timestamp", "2021-12-01 11:20:30.123456-0400", at(2021, 12, 1, 15, 20, 30, 123456)),
    ("timestamp", "2022-01-03 12:34:56-04:00", at(2022, 1, 3, 16, 34, 56)),
    ("timestamp", "2022-01-03T12:34:56Z", at(2022, 1, 3, 12, 34, 56)),
    ("timestamp", "2022-01-03T12:34+02", at(2022, 1, 3, 10, 34)),
    ("timestamp", "20220103T123456", at(2022, 1, 3, 12, 34, 56)),
    ("timestamp", "2022-01-03", at(2022, 1, 3)),
    ("timestamp", "2022-01-03 24:00", at(2022, 1, 4)),
    ("timestamp", "2022-12-31 24:00:00.0000000", at(2023, 1, 1)),
    ("timestamp", "9999-12-31 23:59:59.9999999", at(9999, 12, 31, 23, 59, 59, 999999)),
    ("time", "10:11:12.1234567", time(10, 11, 12, 123456)),
    ("time", "23:59", time(23, 59)),
    ("binary", "00ffAB", b"\x00\xff\xab"),
    ("string", "  padded \u00a0", "  padded \u00a0"),
]


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_a_good_value_is_read(kind: str, text: str, value: Any) -> None:
    assert read(text, kind) == value


WRONG: list[tuple[str, str]] = [
    *(
        ("bigint", text)
        for text in ("1_000", "1.0", "1e3", "0x1F", "٣", "\uff11", "+", "- 1", "invalid", str(2**63), str(-(2**63) - 1), "9" * 5000)
    ),
    *(("int", text) for text in (str(2**31), str(-(2**31) - 1), "0x1F", "1_0")),
    *(
        ("double", text)
        for text in ("nan", "NaN", "inf", "-Infinity", "1_0.5", "1e400", "0x1p3", "1d5", ".", "e5", "1e", "\u0661.\u0665", "1,5")
    ),
    *(("float", text) for text in ("1e39", "nan", "inf")),
    *(("decimal(10,2)", text) for text in ("2.405", "100000000", "1e9", "1e-3", "nan", "inf", "1_0", "٣", ".", "0x1")),
    *(("boolean", text) for text in ("yes", "t", "2", "-1", "1.0")),
    *(("date", text) for text in ("2022-02-29", "2022-13-01", "0000-01-01", "202201", "2022/01/03", " 2022-01-03", "2022-1-3", "2021-366")),
    *(
        ("date", text)
        for text in (
            "2022-W54-1",
            "2022-W01-8",
            "10000-01-01",
            "2022-01-03x",
            "2022-01-03 ",
            "2022-01-03T",
            "\uff12\uff10\uff12\uff12-01-03",
        )
    ),
    *(("timestamp", text) for text in ("2022-01-03 25:00", "2022-01-03 24:00:01", "2022-01-03 12:60", "2022-01-03 12:34:60", "0000-01-01")),
    *(("timestamp", text) for text in ("2022-01-03_12:34:56", "2022-01-03 12:34:56+24:00", "2022-01-03 12:34:56.", "1735718400000")),
    *(("timestamp", text) for text in ("9999-12-31 24:00", "0001-01-01 00:00:00+01:00", "9999-12-31 23:00-02:00", "2022-01-03 12:3456")),
    *(("timestamp", text) for text in ("2021-12-01 11:20:30.444444x", "2021-12-01 11:20:30.444444٣")),
    *(("time", text) for text in ("24:00", "10:11:12Z", "10:60", "2022-01-03 10:11", "1:2:3")),
    *(("binary", text) for text in ("0", "0g", "0x00", "00 ff", "é")),
]


@pytest.mark.parametrize(("kind", "text"), WRONG)
def test_a_value_of_another_kind_is_rejected(kind: str, text: str) -> None:
    assert read(text, kind) is BAD
    with pytest.raises(ValueError, match=code(kind)) as error:
        cast_value(text, kind)
    assert str(error.value) == code(kind)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_codes_name_the_type() -> None:
    assert [code(kind) for kind in ("int", "bigint", "decimal(10,2)")] == ["not_an_int", "not_a_bigint", "not_a_decimal"]


# The reference: no Arrow, no regular expression in common, one value after the other.


def reference(text: str | None, kind: str) -> Any:
    if text is None or kind == "string":
        return text
    if text.strip() == "":
        return None
    try:
        return REFERENCES[kind.partition("(")[0]](text, kind)
    except (ValueError, OverflowError, InvalidOperation):
        return BAD


def only(text: str, letters: str) -> str:
    if set(text) - set(letters):
        raise ValueError
    return text


def ref_integer(text: str, kind: str) -> int:
    value = int(only(text.strip(" \t\n\v\f\r"), "+-0123456789"))
    bits = 31 if kind == "int" else 63
    if not -(2**bits) <= value < 2**bits:
        raise ValueError
    return value


def ref_double(text: str, kind: str) -> float:
    value = float(only(text.strip(" \t\n\v\f\r"), "+-0123456789.eE"))
    if not math.isfinite(value):
        raise ValueError
    return value


def ref_decimal(text: str, kind: str) -> Decimal:
    precision, scale = (int(number) for number in re.findall(r"\d+", kind))
    exact = Decimal(only(text.strip(" \t\n\v\f\r"), "+-0123456789.eE"))
    if exact == 0:
        return Decimal(0)
    if exact.adjusted() + 1 > precision - scale or exact.adjusted() < -scale:
        raise ValueError
    _sign, digits, exponent = exact.as_tuple()
    assert isinstance(exponent, int)
    whole = int("".join(map(str, digits)))
    while whole % 10 == 0:
        whole, exponent = whole // 10, exponent + 1
    if exponent < -scale:
        raise ValueError
    return exact


def ref_boolean(text: str, kind: str) -> bool:
    word = text.strip(" \t\n\v\f\r").lower()
    if word not in {"0", "1", "true", "false"}:
        raise ValueError
    return word in {"1", "true"}


def digits(text: str, count: int) -> int:
    if len(text) != count:
        raise ValueError
    return int(only(text, "0123456789"))


def ref_day(text: str) -> date:
    year, rest = digits(text[:4], 4), text[4:]
    compact = rest.replace("-", "")
    if "W" in rest:
        allowed = (
            {f"-W{compact[1:3]}", f"W{compact[1:3]}"}
            if len(compact) == 3
            else {f"{first}W{compact[1:3]}{second}{compact[3:]}" for first in ("", "-") for second in ("", "-")}
        )
        if rest not in allowed or len(compact) not in {3, 4}:
            raise ValueError
        week, weekday = digits(compact[1:3], 2), digits(compact[3:], 1) if len(compact) == 4 else 1
        if not 1 <= weekday <= 7 or not 1 <= week <= date(year, 12, 28).isocalendar().week:
            raise ValueError
        fourth = date(year, 1, 4)
        return fourth - timedelta(days=fourth.weekday()) + timedelta(weeks=week - 1, days=weekday - 1)
    if rest == "":
        return date(year, 1, 1)
    if len(compact) == 3 and rest in {compact, "-" + compact}:
        day = digits(compact, 3)
        if not 1 <= day <= 365 + calendar.isleap(year):
            raise ValueError
        return date(year, 1, 1) + timedelta(days=day - 1)
    if len(rest) == 3 and rest[0] == "-":
        return date(year, digits(rest[1:], 2), 1)
    if len(compact) == 4 and rest in {compact, f"-{compact[:2]}-{compact[2:]}"}:
        return date(year, digits(compact[:2], 2), digits(compact[2:], 2))
    raise ValueError


def ref_clock(text: str) -> tuple[bool, time]:
    """Whether it is the end of the day, and the time."""
    main, mark, fraction = text.partition("." if "." in text else ",")
    if mark and (not fraction or set(fraction) - set("0123456789")):
        raise ValueError
    parts = main.split(":") if ":" in main else [main[start : start + 2] for start in range(0, len(main), 2)]
    if not 1 <= len(parts) <= 3 or (mark and len(parts) < 3):
        raise ValueError
    hour, minute, second = ([digits(part, 2) for part in parts] + [0, 0])[:3]
    micro = int((fraction + "000000")[:6])
    if (hour, minute, second, micro) == (24, 0, 0, 0):
        return True, time()
    return False, time(hour, minute, second, micro)


def ref_moment(text: str) -> tuple[datetime, timezone]:
    cut = next((place for place, letter in enumerate(text) if letter in "T "), len(text))
    day, clock = ref_day(text[:cut]), text[cut + 1 :]
    if cut == len(text):
        return datetime.combine(day, time()), UTC
    zone = UTC
    if clock[-1:] in {"Z", "z"}:
        clock = clock[:-1]
    elif "+" in clock or "-" in clock:
        place = max(clock.rfind("+"), clock.rfind("-"))
        ahead = clock[place + 1 :]
        ahead = ahead[:2] + ahead[3:] if len(ahead) == 5 and ahead[2] == ":" else ahead
        hours, minutes = digits(ahead[:2], 2), digits(ahead[2:], 2) if len(ahead) > 2 else 0
        if hours > 23 or minutes > 59:
            raise ValueError
        offset = timedelta(hours=hours, minutes=minutes)
        zone = timezone(offset if clock[place] == "+" else -offset)
        clock = clock[:place]
    last, moment = ref_clock(clock)
    return datetime.combine(day, moment) + timedelta(days=int(last)), zone


def ref_timestamp(text: str, kind: str) -> datetime:
    naive, zone = ref_moment(text)
    offset = zone.utcoffset(None)
    assert offset is not None
    return naive - offset


def ref_date(text: str, kind: str) -> date:
    return ref_moment(text)[0].date()


def ref_time(text: str, kind: str) -> time:
    last, moment = ref_clock(text)
    if last:
        raise ValueError
    return moment


def ref_binary(text: str, kind: str) -> bytes:
    return bytes.fromhex(only(text.strip(" \t\n\v\f\r"), "0123456789abcdefABCDEF"))


REFERENCES = {
    "int": ref_integer,
    "bigint": ref_integer,
    "double": ref_double,
    "decimal": ref_decimal,
    "boolean": ref_boolean,
    "date": ref_date,
    "time": ref_time,
    "timestamp": ref_timestamp,
    "binary": ref_binary,
}

MOMENTS = st.datetimes(min_value=at(1, 1, 1), max_value=at(9999, 12, 31, 23, 59, 59, 999999))
USUAL = {
    "integer": st.integers(-(2**64), 2**64).map(str) | st.integers(-(2**31) - 3, 2**31 + 3).map(str),
    "number": st.decimals(allow_nan=False, allow_infinity=False).map(str) | st.floats().map(str),
    "money": st.decimals(-(10**9), 10**9, places=2).map(str),
    "day": st.dates().map(str),
    "moment": MOMENTS.map(str) | MOMENTS.map(lambda moment: f"{moment:%H:%M:%S.%f}7"),
    "seven": MOMENTS.map(lambda moment: moment.isoformat(" ", "microseconds") + "7"),
    "zoned": st.datetimes(timezones=st.timezones() | st.just(UTC)).map(lambda moment: moment.isoformat()),
    "hex": st.binary(max_size=8).map(bytes.hex),
    "words": st.sampled_from(
        ["true", "FALSE", "0", "1", "nan", "inf", "0x1f", "2022", "2022-W01-1", "2022W01", "24:00", " 7 ", "1_0", "5.", "1e5"]
    ),
}
ODD = st.text("0123456789+-:.,TZWeEx_ \t", max_size=30) | st.text(max_size=6)


def mixed(usual: st.SearchStrategy[str]) -> st.SearchStrategy[list[str | None]]:
    return st.lists(usual, max_size=12) | st.lists(usual | st.none() | st.just("") | ODD, max_size=12)  # type: ignore[return-value]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(USUAL)).flatmap(lambda name: mixed(USUAL[name])), st.sampled_from(sorted(REFERENCES)))
@example(["2022-01-01 00:00:00.1234567", "2022-01-01 00:00:00.123456Z"], "timestamp")
@example(["0x10", "10"], "int")
@example([None, "2022-01-01T00:00:00Z", ""], "timestamp")
@example(["", None, "00"], "binary")
@example(["10", "-", "1"], "time")
def test_any_column_is_read_as_by_the_reference(texts: list[str | None], name: str) -> None:
    kind = {"decimal": "decimal(12,3)"}.get(name, name)
    values, bad = cast_column(pa.array(texts, pa.string()), kind)
    expected = [reference(text, kind) for text in texts]
    assert [row for row, value in enumerate(expected) if value is BAD] == list(bad)
    assert values.to_pylist() == [None if value is BAD else value for value in expected]


@pytest.mark.parametrize(
    ("kind", "good", "bad"), [("bigint", "7", "x"), ("timestamp", "2022-01-01 00:00:00.1234567", "soon"), ("date", "2022-01-01", "-")]
)
def test_one_bad_value_spoils_no_other_in_a_long_column(kind: str, good: str, bad: str) -> None:
    texts = [good] * 5000
    texts[3], texts[4321] = bad, bad
    values, rows = cast_column(pa.array(texts), kind)
    assert list(rows) == [3, 4321]
    assert values.null_count == 2
    assert len(set(values.to_pylist())) == 2


@pytest.mark.parametrize("kind", ["bigint", "timestamp", "date", "binary", "boolean"])
def test_a_slice_is_read_as_itself(kind: str) -> None:
    texts = {"bigint": ["1", None, "2"], "timestamp": ["2022-01-01 00:00:00.1234567", None, "2023-01-01 00:00:00.1234567"]}
    column = (
        texts.get(kind) or {"date": ["2022-01-01", None, "2023-01-01"], "binary": ["00", None, "ff"], "boolean": ["1", None, "0"]}[kind]
    )
    whole = pa.array([column[0]] * 11 + column + column)
    assert cast_column(whole.slice(11), kind)[0].to_pylist() == [reference(text, kind) for text in column] * 2


def test_many_bad_values_are_given_up_early() -> None:
    values, rows = cast_column(pa.array(["x"] * 100_000), "bigint", most=1000)
    assert len(values) == 100_000
    assert 1000 < len(rows) < 2000


def test_float_is_the_nearest_single() -> None:
    assert read("0.1", "float") == pytest.approx(0.1, rel=1e-7)
    assert read(" 16777217 ", "float") == read("16777217", "float") == 16777216.0

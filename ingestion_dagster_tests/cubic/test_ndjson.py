"""Messages that would be written twice, dropped with a bad neighbour, or changed by reading and writing them again."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_dagster.cubic import records
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.ndjson import ENVELOPE, Offsets, convert_ndjson
from ingestion_dagster.cubic.sink import Converted, Outputs, Tolerance
from ingestion_dagster.engine.errors import Refused

LENIENT = Tolerance(rows=10**9, share=1.0)


def message(
    offset: object = 1000, *, partition: object = 0, topic: object = "tap", value: object = None, **members: object
) -> dict[str, Any]:
    return {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": "2026-01-01T08:00:00.000Z",
        "key": "k0",
        "value": value if value is not None else {"device": "DEV0001", "cents": 240},
        **members,
    }


def lines(*messages: object) -> bytes:
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages)


class Place:
    """Where one conversion writes, and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.outputs = Outputs(folder / "raw.parquet", folder / "typed.parquet", folder / "rejects.parquet")
        self.asked: list[Offsets] = []

    def convert(
        self,
        content: bytes,
        columns: Sequence[Column] | None = None,
        *,
        compressed: bool = False,
        tolerance: Tolerance = LENIENT,
        elsewhere: Mapping[tuple[str, int], set[int]] | None = None,
        size: int = 1 << 20,
    ) -> Converted:
        def wanted(offsets: Offsets) -> Mapping[tuple[str, int], set[int]]:
            self.asked.append(offsets)
            return elsewhere or {}

        pieces = (content[start : start + size] for start in range(0, len(content), size))
        return convert_ndjson(pieces, columns, self.outputs, compressed=compressed, tolerance=tolerance, wanted=wanted)

    def refused(self, content: bytes, **options: Any) -> list[str]:
        with pytest.raises(Refused) as refused:
            self.convert(content, **options)
        return [problem.code for problem in refused.value.problems]

    def rows(self, area: str = "typed") -> list[dict[str, Any]]:
        return pq.read_table(getattr(self.outputs, area)).to_pylist()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_envelope_is_written_with_its_value_as_json(place: Place) -> None:
    converted = place.convert(gzip.compress(lines(message(value={"note": "π 🚌", "a": [1, None]}))), compressed=True)
    assert converted.columns == ENVELOPE
    assert converted.offsets == {("tap", 0): (1000,)}
    assert place.rows() == [
        {
            "topic": "tap",
            "partition": 0,
            "offset": 1000,
            "timestamp": datetime.fromisoformat("2026-01-01 08:00:00"),
            "key": "k0",
            "value": '{"note":"π 🚌","a":[1,null]}',
        }
    ]
    assert place.rows("raw")[0]["offset"] == "1000"
    assert place.rows("raw")[0]["timestamp"] == "2026-01-01T08:00:00.000Z"


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        (b"null", None),
        (b'"text"', '"text"'),
        (b"2.40", "2.40"),
        (b"12345678901234567890123", "12345678901234567890123"),
        (b'{"a": 1.10, "b": [ 0.1000000000000000055511151231257827 ]}', '{"a":1.10,"b":[0.1000000000000000055511151231257827]}'),
        (b'{"a": 1E+2}', '{"a":1E+2}'),
        (b"true", "true"),
        (b"[]", "[]"),
    ],
)
def test_a_value_keeps_every_digit(place: Place, written: bytes, stored: str | None) -> None:
    place.convert(b'{"topic": "tap", "partition": 0, "offset": 1, "value": ' + written + b"}\n")
    assert place.rows()[0]["value"] == stored
    assert place.rows()[0]["timestamp"] is None


def test_members_of_the_value_are_columns_and_types_are_overridden(place: Place) -> None:
    columns = [
        Column("cents", "int"),
        Column("fare", "decimal(10,2)"),
        Column("key", "bigint"),
        Column("more", "string"),
        Column("no", "date"),
    ]
    place.convert(b'{"topic":"tap","partition":0,"offset":1,"key":"7","value":{"cents":240,"fare":2.40,"more":{"x":[1]}}}', columns)
    row = place.rows()[0]
    assert list(row) == ["topic", "partition", "offset", "timestamp", "key", "value", "cents", "fare", "more", "no"]
    assert (row["key"], row["cents"], row["fare"], row["more"], row["no"]) == (7, 240, Decimal("2.40"), '{"x":[1]}', None)


def test_what_was_sent_again_is_written_once(place: Place) -> None:
    content = lines(message(1), message(2), message(1), message(1, partition=1), message(3), message(2, topic="other"))
    converted = place.convert(content, elsewhere={("tap", 0): {3, 99}})
    assert (converted.rows_in, converted.rows_written, converted.rows_rejected) == (6, 4, 0)
    assert converted.offsets == {("tap", 0): (1, 2), ("tap", 1): (1,), ("other", 0): (2,)}
    assert place.asked == [{("tap", 0): [1, 2, 1, 3], ("tap", 1): [1], ("other", 0): [2]}]
    assert [(row["topic"], row["partition"], row["offset"]) for row in place.rows()] == [
        ("tap", 0, 1),
        ("tap", 0, 2),
        ("tap", 1, 1),
        ("other", 0, 2),
    ]


def test_repetitions_are_found_in_files_of_several_blocks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records.blocks, "__defaults__", (1000,))
    converted = place.convert(lines(*[message(number % 50) for number in range(200)]), elsewhere={("tap", 0): {7}})
    assert converted.offsets == {("tap", 0): tuple(number for number in range(50) if number != 7)}
    assert (converted.rows_in, converted.rows_written) == (200, 49)
    assert len(place.asked) > 5


@pytest.mark.parametrize(
    ("line", "column", "code"),
    [
        (b"{", None, "not_json"),
        (b"no json", None, "not_json"),
        (b"\xff", None, "not_json"),
        (b"[" * 5000 + b"]" * 5000, None, "not_json"),
        (b'{"topic":"tap","partition":0,"offset":1,"value":NaN}', None, "not_json"),
        (b"[]", None, "not_an_object"),
        (b"7", None, "not_an_object"),
        (message(topic=None), "topic", "not_a_string"),
        (message(topic=""), "topic", "not_a_string"),
        (message(partition="0"), "partition", "not_a_bigint"),
        (message(partition=True), "partition", "not_a_bigint"),
        (message(-1), "offset", "not_a_bigint"),
        (message(1.0), "offset", "not_a_bigint"),
        (message(2**63), "offset", "not_a_bigint"),
        (message(timestamp="soon"), "timestamp", "not_a_timestamp"),
        (message(value={"cents": "many"}), "cents", "not_an_int"),
        (b'{"topic":"tap","partition":0,"offset":1,"value":' + b"[" * 400 + b"]" * 400 + b"}", "value", "too_deep"),
    ],
)
def test_a_bad_line_is_rejected_and_its_neighbours_are_not(place: Place, line: object, column: str | None, code: str) -> None:
    converted = place.convert(lines(message(5), b"", line, message(6)), [Column("cents", "int")])
    assert (converted.rows_in, converted.rows_written, converted.rows_rejected) == (3, 2, 1)
    assert place.rows("rejects") == [{"line": 3, "column": column, "code": code}]
    assert [row["offset"] for row in place.rows()] == [5, 6]
    assert converted.offsets == {("tap", 0): (5, 6)}
    assert "too_many_rejected_rows" in place.refused(lines(line), columns=[Column("cents", "int")], tolerance=Tolerance())


def test_unreadable_files_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.refused(b"") == ["empty_file"]
    assert place.refused(gzip.compress(b""), compressed=True) == ["empty_file"]
    assert place.refused(gzip.compress(lines(message()))[:-3], compressed=True) == ["gzip_truncated"]
    assert place.refused(lines(message()), compressed=True) == ["not_gzip"]
    monkeypatch.setattr(records, "LONGEST", 1 << 20)
    monkeypatch.setattr(records.blocks, "__defaults__", (1 << 18,))
    assert place.refused(lines(message(value="x" * (3 << 20)))) == ["record_too_long"]


def test_what_others_raise_passes_through(place: Place) -> None:
    def unreachable(_offsets: Offsets) -> Mapping[tuple[str, int], set[int]]:
        raise TimeoutError

    def interrupted() -> Iterator[bytes]:
        yield lines(message())
        raise ConnectionResetError

    with pytest.raises(TimeoutError):
        convert_ndjson(iter([lines(message())]), None, place.outputs, compressed=False, tolerance=LENIENT, wanted=unreachable)
    with pytest.raises(ConnectionResetError):
        convert_ndjson(interrupted(), None, place.outputs, compressed=False, tolerance=LENIENT, wanted=lambda _offsets: {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 30), JSON), max_size=12), st.integers(1, 200))
def test_every_value_comes_back(tmp_path_factory: pytest.TempPathFactory, messages: list[tuple[int, Any]], size: int) -> None:
    place = Place(tmp_path_factory.mktemp("ndjson"))
    content = lines(*[{**message(offset), "value": value} for offset, value in messages]) + b"\n"
    place.convert(content, size=size)
    first: dict[int, Any] = {}
    for offset, value in messages:
        first.setdefault(offset, value)
    assert {row["offset"]: None if row["value"] is None else json.loads(row["value"]) for row in place.rows()} == first

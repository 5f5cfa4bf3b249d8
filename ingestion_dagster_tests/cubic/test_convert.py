"""Files that would lose rows, change values, or be believed although they are damaged."""

import gzip
import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestion_dagster.cubic import records
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.convert import convert_csv
from ingestion_dagster.cubic.dfm import Dialect
from ingestion_dagster.cubic.sink import Converted, Outputs, Tolerance
from ingestion_dagster.engine.errors import Problem, Refused

DATA = Path(__file__).parent / "data" / "convert"
TYPES = {
    "tap_id": "bigint",
    "device_id": "string",
    "tap_dtm": "timestamp",
    "fare_due": "decimal(10,2)",
    "note": "string",
    "valid_date": "date",
}
USUAL = Dialect()
LENIENT = Tolerance(rows=10**9, share=1.0)


def by_name(header: tuple[str, ...]) -> list[Column]:
    return [Column(name, TYPES.get(name, "string")) for name in header]


def columns(**types: str) -> Callable[[tuple[str, ...]], Sequence[Column]]:
    return lambda _header: [Column(name, kind) for name, kind in types.items()]


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


class Place:
    """Where one conversion writes, and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.outputs = Outputs(folder / "raw.parquet", folder / "typed.parquet", folder / "rejects.parquet")

    def convert(
        self,
        content: bytes,
        accept: Callable[[tuple[str, ...]], Sequence[Column]] = by_name,
        *,
        dialect: Dialect = USUAL,
        compressed: bool = False,
        expected: int | None = None,
        tolerance: Tolerance = LENIENT,
        size: int = 1 << 20,
    ) -> Converted:
        return convert_csv(
            cut(content, size), accept, self.outputs, dialect=dialect, compressed=compressed, expected_rows=expected, tolerance=tolerance
        )

    def refused(self, content: bytes, **options: Any) -> list[str]:
        return [problem.code for problem in self.problems(content, **options)]

    def problems(self, content: bytes, **options: Any) -> tuple[Problem, ...]:
        with pytest.raises(Refused) as refused:
            self.convert(content, **options)
        return refused.value.problems

    def rows(self, area: str = "typed") -> list[tuple[Any, ...]]:
        table = pq.read_table(getattr(self.outputs, area))
        return [tuple(row.values()) for row in table.to_pylist()]

    def bytes(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.outputs.raw, self.outputs.typed, self.outputs.rejects) if path and path.exists()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_values_are_kept_as_text_and_typed(place: Place) -> None:
    content = (DATA / "LOAD00000001.csv").read_bytes()
    packed = gzip.compress(content)
    converted = place.convert(packed, compressed=True, expected=6)
    assert (converted.rows_in, converted.rows_written, converted.rows_rejected, converted.problems) == (6, 6, 0, ())
    assert converted.bytes_read == len(packed)
    assert converted.content_hash == hashlib.sha256(packed).hexdigest()
    assert [column.name for column in converted.columns] == list(TYPES)
    assert place.rows("raw")[0] == ("1", "DEV0001", "2026-01-01 01:15:00.7654321", "2.40", 'double "quote" inside', "2026-01-01")
    assert place.rows()[0] == (
        1,
        "DEV0001",
        datetime.fromisoformat("2026-01-01 01:15:00.765432"),
        Decimal("2.40"),
        'double "quote" inside',
        date(2026, 1, 1),
    )
    assert [row[4] for row in place.rows()[1:]] == ["emoji 🚋 and ñ", None, "", "two\nlines, one value", "  padded  "]
    assert place.rows()[5] == (6, "NULL", None, None, "  padded  ", None)
    assert not place.outputs.rejects.exists()


def test_parquet_is_zstd_and_names_no_arrow_types(place: Place) -> None:
    place.convert(b"tap_id,note\n" + b"".join(b"%d,always the same\n" % number for number in range(5000)))
    for path in (place.outputs.raw, place.outputs.typed):
        metadata = pq.read_metadata(path)
        assert metadata.metadata is None
        group = metadata.row_group(0)
        assert {group.column(number).compression for number in range(2)} == {"ZSTD"}
        assert "RLE_DICTIONARY" not in group.column(0).encodings
        assert "RLE_DICTIONARY" in group.column(1).encodings


def test_columns_are_found_by_name_and_a_missing_one_is_null(place: Place) -> None:
    place.convert(b"NOTE,EXTRA,Tap_Id\nx,y,7\n", columns(tap_id="bigint", later="date", note="string"))
    assert place.rows() == [(7, None, "x")]
    assert place.rows("raw") == [("7", None, "x")]


def test_no_column_of_the_table_is_there(place: Place) -> None:
    place.convert(b"a\n1\n\n2\n", columns(b="int"))
    assert place.rows() == [(None,)] * 3


def test_a_header_alone_makes_an_empty_table(place: Place) -> None:
    converted = place.convert(b"TAP_ID,NOTE\n", expected=0, tolerance=Tolerance())
    assert converted.rows_in == 0
    assert pq.read_schema(place.outputs.typed).names == ["tap_id", "note"]
    assert place.rows() == place.rows("raw") == []


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.outputs = Outputs(None, place.outputs.typed, place.outputs.rejects)
    place.convert(b"tap_id\n1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["typed.parquet"]
    place.outputs = Outputs(tmp_path / "raw.parquet", None, place.outputs.rejects)
    assert place.convert(b"tap_id\nno number\n").rows_rejected == 0
    assert place.rows("raw") == [("no number",)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark_change_no_value(place: Place, end: bytes, last: bool, mark: bytes) -> None:
    content = mark + end.join([b"TAP_ID,NOTE", b"1,a", b'2,"b"', b"3,c"]) + (end if last else b"")
    place.convert(content, expected=3)
    assert place.rows() == [(1, "a"), (2, "b"), (3, "c")]


def test_another_dialect(place: Place) -> None:
    dialect = Dialect(delimiter="|", quote="'", null="\\N")
    place.convert(b"tap_id|note\n1|\\N\n2|'\\N'\n3|\n4|'it''s \"x\", ok'\n", dialect=dialect)
    assert place.rows() == [(1, None), (2, "\\N"), (3, ""), (4, 'it\'s "x", ok')]


def test_a_dialect_with_escapes_and_one_without_quotes(place: Place) -> None:
    place.convert(b'tap_id,note\n1,a\\,b\n2,"c\\"\n,d"\n', dialect=Dialect(escape="\\"))
    assert place.rows() == [(1, "a,b"), (2, 'c"\n,d')]
    place.convert(b'tap_id,note\n1,"a\n2,b"\n', dialect=Dialect(quote=""))
    assert place.rows() == [(1, '"a'), (2, 'b"')]


def test_blank_lines_are_no_rows_but_nulls_of_a_single_column(place: Place) -> None:
    assert place.convert(b"tap_id,note\n\n1,a\n\r\n2,b\n\n", expected=2).rows_rejected == 0
    assert place.convert(b'tap_id\n1\n\n""\n').rows_in == 3
    assert place.rows() == [(1,), (None,), (None,)]


def test_a_quote_in_the_middle_of_a_field_is_a_character(place: Place) -> None:
    place.convert(b'tap_id,note\n1,5" pipe\n2,"x\ny"\n3,6" pipe\n4,z\n')
    assert place.rows() == [(1, '5" pipe'), (2, "x\ny"), (3, '6" pipe'), (4, "z")]


# Rejected rows


def test_bad_rows_are_told_by_line_and_column_and_kept_out_of_both(place: Place) -> None:
    content = (
        b'tap_id,note,valid_date\n1,"two\nlines",2022-01-01\nx,a,2022-01-01\n\n3,b\ny,"c\n\nd",2022-02-30\n5,e,2022-01-01,more\n6,f,\n'
    )
    converted = place.convert(content, expected=6)
    assert (converted.rows_in, converted.rows_written, converted.rows_rejected) == (6, 2, 4)
    assert place.rows() == [(1, "two\nlines", date(2022, 1, 1)), (6, "f", None)]
    assert place.rows("raw") == [("1", "two\nlines", "2022-01-01"), ("6", "f", None)]
    assert sorted(place.rows("rejects")) == [
        (4, "tap_id", "not_a_bigint"),
        (6, None, "field_count"),
        (7, "tap_id", "not_a_bigint"),
        (7, "valid_date", "not_a_date"),
        (10, None, "field_count"),
    ]
    assert {(problem.code, problem.place, problem.severity) for problem in converted.problems} == {
        ("field_count", "row", "warning"),
        ("not_a_bigint", "column tap_id", "warning"),
        ("not_a_date", "column valid_date", "warning"),
    }
    assert "2 rejected, the first at line 4" in {problem.message for problem in converted.problems}


def test_lines_are_right_in_every_block(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records.blocks, "__defaults__", (300,))
    lines = [b'%d,"a\nb"' % number if number % 7 else b"x,c" for number in range(500)]
    place.convert(b"tap_id,note\n" + b"\n".join(lines))
    expected, line = [], 2
    for each in lines:
        if each == b"x,c":
            expected.append((line, "tap_id", "not_a_bigint"))
        line += 1 + each.count(b"\n")
    assert place.rows("rejects") == expected
    assert pq.read_metadata(place.outputs.typed).num_row_groups > 5


def test_no_value_is_told(place: Place) -> None:
    problems = place.problems(b"tap_id,valid_date\nSECRET,2022-99-77\nSECRET,SECRET,SECRET\n", tolerance=Tolerance(), expected=9)
    assert "SECRET" not in repr(problems)
    assert "2022-99" not in repr(problems)
    assert b"SECRET" not in place.outputs.rejects.read_bytes()
    assert [problem.code for problem in problems] == [
        "row_count_differs",
        "too_many_rejected_rows",
        "field_count",
        "not_a_bigint",
        "not_a_date",
    ]


@pytest.mark.parametrize(
    ("bad", "good", "tolerance", "accepted"),
    [
        (1, 4, Tolerance(), False),
        (1, 999, Tolerance(), True),
        (1, 998, Tolerance(), False),
        (3, 2997, Tolerance(rows=3), True),
        (4, 9996, Tolerance(rows=3), False),
        (1, 1, Tolerance(share=0.5), True),
        (0, 0, Tolerance(0, 0.0), True),
    ],
)
def test_too_many_bad_rows_refuse_the_file(place: Place, bad: int, good: int, tolerance: Tolerance, accepted: bool) -> None:
    content = b"tap_id,note\n" + b"x,a\n" * bad + b"1,a\n" * good
    if accepted:
        assert place.convert(content, tolerance=tolerance).rows_rejected == bad
    else:
        assert "too_many_rejected_rows" in place.refused(content, tolerance=tolerance)


@pytest.mark.parametrize("line", [b"x,y\n", b"1\n", b"1,2,3\n", b'"x","y"\n'])
def test_a_file_of_nothing_but_bad_rows_is_counted_without_being_kept(place: Place, line: bytes) -> None:
    codes = place.refused(b"tap_id,b\n" + line * 300_000, tolerance=Tolerance(), expected=300_000)
    assert codes[0] == "too_many_rejected_rows"
    assert "row_count_differs" not in codes
    assert pq.read_metadata(place.outputs.rejects).num_rows < 3000


# Refused files


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        (b"", ["empty_file"]),
        (b"\n", ["header_unreadable"]),
        (b"\xef\xbb\xbf", ["empty_file"]),
        (b"A,a\n1,2\n", ["header_unreadable"]),
        (b"A,,B\n1,2,3\n", ["header_unreadable"]),
        (b'A," "\n1,2\n', ["header_unreadable"]),
        (b'"A"x,B\n1,2\n', ["header_unreadable"]),
        (b"\xff\xfeA\n", ["header_unreadable"]),
        (b",".join(b"c%d" % number for number in range(2001)) + b"\n", ["header_unreadable"]),
        (b"tap_id,note\n1,\xff\n", ["not_utf8"]),
        (b'tap_id,note\n1,"never closed\n2,b\n', ["unclosed_quote"]),
        (b"tap_id,note\n1,a\n", ["row_count_differs"]),
    ],
)
def test_an_unreadable_file_is_refused(place: Place, content: bytes, codes: list[str]) -> None:
    assert place.refused(content, expected=3) == codes


def test_nothing_after_decompression_is_an_empty_file(place: Place) -> None:
    assert place.refused(gzip.compress(b""), compressed=True) == ["empty_file"]
    assert place.refused(b"", compressed=True) == ["empty_file"]
    assert place.refused(b"tap_id\n1\n", compressed=True) == ["not_gzip"]


def test_the_line_of_what_is_no_utf8_is_told(place: Place) -> None:
    (problem,) = place.problems(b'tap_id,note\n1,"a\nb"\n2,\xe9\n')
    assert (problem.code, problem.place) == ("not_utf8", "line 4")


def test_damage_at_the_end_is_told_beside_what_was_found_before(place: Place) -> None:
    content = b"tap_id,note\n" + b"".join(b"%d,%d\n" % (number, number * 7919 % 1000) for number in range(1_500_000))
    packed = gzip.compress(content.replace(b"tap_id,note", b"note,NOTE"), 1)
    assert len(content) > records.BLOCK
    assert place.refused(packed[:-4], compressed=True) == ["gzip_truncated", "header_unreadable"]
    damaged = bytearray(gzip.compress(content, 1))
    damaged[-6] ^= 1
    assert place.refused(bytes(damaged), compressed=True, expected=7) == ["gzip_corrupt"]


def test_what_the_store_or_the_caller_raises_passes_through(place: Place) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"tap_id\n1\n"
        raise ConnectionResetError

    def declined(_header: tuple[str, ...]) -> Sequence[Column]:
        raise LookupError

    changed = Problem("schema_changed", "header", "…")

    def refusing(_header: tuple[str, ...]) -> Sequence[Column]:
        raise Refused(changed)

    with pytest.raises(ConnectionResetError):
        convert_csv(interrupted(), by_name, place.outputs, dialect=Dialect(), compressed=False, expected_rows=None, tolerance=LENIENT)
    with pytest.raises(LookupError):
        place.convert(b"tap_id\n1\n", declined)
    assert place.problems(b"tap_id\n1\n", accept=refusing) == (changed,)


def test_a_record_too_long_is_refused_and_a_long_one_is_not(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LONGEST", 4 << 20)
    monkeypatch.setattr(records.blocks, "__defaults__", (1 << 20,))
    place.convert(b'tap_id,note\n1,"' + b"x\n" * (1 << 20) + b'"\n2,b\n')
    assert [len(row[1]) for row in place.rows()] == [2 << 20, 1]
    for content in (b"x" * (9 << 20), b'"' + b"x\n" * (5 << 20), b'"' * (9 << 20), b'5" pipe\n1,"' + b"x\n" * (5 << 20)):
        assert place.refused(b"tap_id,note\n1," + content) == ["record_too_long"]


# However it arrives

FIELDS = st.one_of(
    st.none(),
    st.just(""),
    st.text('ab",;\n\r é🚋', max_size=8),
    st.integers(-99, 99).map(str),
    st.sampled_from(["2022-01-01 00:00:00.1234567", "x\ny", '"', '""', "\n"]),
)


def quoted(value: str | None) -> str:
    if value is None:
        return ""
    return '"' + value.replace('"', '""') + '"' if value == "" or set(value) & set('",\n\r') else value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=30), st.integers(1, 60), st.integers(20, 200), st.sampled_from(["\n", "\r\n"]))
@example([("\r", "a", None), ('"', "\n", "")], 1, 20, "\n")
def test_every_value_comes_back_however_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, ...]], size: int, block: int, end: str
) -> None:
    content = "".join(",".join(map(quoted, row)) + end for row in [("a", "b", "c"), *rows]).encode()
    place = Place(tmp_path_factory.mktemp("cut"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.blocks, "__defaults__", (block,))
        place.convert(content, columns(a="string", b="string", c="string"), size=size, expected=len(rows))
        assert place.rows() == place.rows("raw") == rows
        assert place.convert(content, columns(a="string", b="timestamp", c="int"), size=size).rows_in == len(rows)
        once = place.bytes()
        place.convert(content, columns(a="string", b="timestamp", c="int"), size=size * 7 + 1)
        assert place.bytes() == once
        place.convert(gzip.compress(content), columns(a="string", b="timestamp", c="int"), size=size, compressed=True)
        assert place.bytes() == once


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(list('",\n\r1x')), max_size=80).map("".join), st.integers(8, 40))
@example('1"\n"x\n",1\n', 8)
@example('"x"1"\n\n"",""\n', 8)
def test_ill_quoted_records_are_cut_where_the_parser_ends_them(tmp_path_factory: pytest.TempPathFactory, body: str, block: int) -> None:
    content = b"a,b\n" + body.encode()
    found: list[Any] = []
    for size in (block, 1 << 20):
        place = Place(tmp_path_factory.mktemp("ill"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(records.blocks, "__defaults__", (size,))
            try:
                converted = place.convert(content, columns(a="string", b="int"))
            except Refused as refused:
                found.append(refused.problems[0])
                continue
            rejects = sorted(place.rows("rejects"), key=str) if place.outputs.rejects.exists() else []
            found.append((converted.rows_in, place.rows("raw"), rejects))
    assert found[0] == found[1]


def test_memory_does_not_grow_with_the_file(place: Place) -> None:
    """Measured as what Arrow holds, for the process holds what other tests left."""
    held = []

    def watched() -> Iterator[bytes]:
        yield b"tap_id,note\n"
        for block in range(30):
            held.append(pa.total_allocated_bytes())
            yield b"".join(b'%d,"some text, %d"\n' % (number, number % 50) for number in range(block * 30_000, (block + 1) * 30_000))

    start = pa.total_allocated_bytes()
    converted = convert_csv(
        watched(), by_name, place.outputs, dialect=Dialect(), compressed=False, expected_rows=900_000, tolerance=Tolerance()
    )
    assert converted.rows_written == 900_000
    assert max(held) - start < 30_000_000

"""Metadata that is broken, hostile, or says something that must not be guessed."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column
from ingestion_dagster.cubic.dfm import Dialect, parse, propose
from ingestion_dagster.cubic.registry import parse_registry
from ingestion_dagster.engine.errors import Refused


def column(name: str, kind: str, key: int = 0, precision: int = 0, scale: int = 0) -> dict[str, Any]:
    return {"ordinal": 1, "name": name, "type": kind, "length": 0, "precision": precision, "scale": scale, "primaryKeyPos": key}


def written(columns: object = None, count: object = 20, options: object = None, table: str = "DEMO_TAP") -> bytes:
    usual = [
        column("TAP_ID", "INT8", 2),
        column("REGION", "WSTRING", 1),
        column("FARE_DUE", "NUMERIC", 0, 10, 2),
        column("EDW_UPDATED_DTM", "DATETIME"),
    ]
    return json.dumps(
        {
            "dfmVersion": "1.1",
            "fileInfo": {"name": "LOAD1.csv", "recordCount": count},
            "formatInfo": {"format": "delimited", "options": options or {}},
            "dataInfo": {"sourceSchema": "EDW", "sourceTable": table, "columns": usual if columns is None else columns},
        }
    ).encode()


def problems(raw: bytes) -> list[str]:
    with pytest.raises(Refused) as refused:
        parse(raw)
    return [problem.code for problem in refused.value.problems]


def test_columns_types_key_and_count_are_read() -> None:
    dfm = parse(written())
    assert dfm.columns == (
        Column("tap_id", "bigint"),
        Column("region", "string"),
        Column("fare_due", "decimal(10,2)"),
        Column("edw_updated_dtm", "timestamp"),
    )
    assert dfm.key == ("region", "tap_id")
    assert (dfm.record_count, dfm.dialect, dfm.warnings) == (20, Dialect(), ())
    assert (dfm.schema, dfm.table) == ("EDW", "DEMO_TAP")
    assert parse(b"\xef\xbb\xbf" + written()) == dfm


def test_the_dialect_is_that_of_the_file() -> None:
    options = {"fieldDelimiter": "|", "quoteChar": "'", "nullValue": "\\N", "recordDelimiter": "\r\n", "escapeChar": "\\"}
    assert parse(written(options=options)).dialect == Dialect("|", "'", "\\N", "\r\n", "\\")
    assert parse(written(options={"escapeChar": '"'})).dialect == Dialect()
    assert parse(written(options={"quoteChar": ""})).dialect == Dialect(quote="")


@pytest.mark.parametrize(
    "options",
    [
        {"fieldDelimiter": ""},
        {"fieldDelimiter": ",,"},
        {"fieldDelimiter": "\n"},
        {"fieldDelimiter": "é"},
        {"fieldDelimiter": 7},
        {"fieldDelimiter": '"'},
        {"quoteChar": "''"},
        {"recordDelimiter": "\x01"},
        {"recordDelimiter": ""},
        {"nullValue": ["x"]},
        {"escapeChar": ","},
    ],
)
def test_a_dialect_that_cannot_be_parsed_is_refused(options: dict[str, object]) -> None:
    assert problems(written(options=options)) == ["metadata_unreadable"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b"<html>not found</html>",
        b"[" * 100_000,
        b'{"dataInfo":' * 2000,
        b'{"dataInfo": {"columns": "TAP_ID"}}',
        b'{"dataInfo": {"columns": []}}',
        b'{"dataInfo": [{"columns": []}]}',
        written([None]),
        written([{"type": "INT8"}]),
        written([{"name": ""}]),
        written([{"name": ["TAP_ID"]}]),
        written([column("TAP_ID", "INT8"), column("tap_id", "INT4")]),
        written([column(f"C{number}", "INT4") for number in range(2001)]),
    ],
)
def test_unreadable_metadata_is_refused(raw: bytes) -> None:
    assert set(problems(raw)) == {"metadata_unreadable"}


def test_every_nameless_column_is_told() -> None:
    assert problems(written([{}, column("A", "INT4"), {"name": 3}])) == ["metadata_unreadable"] * 2


@pytest.mark.parametrize("count", [None, "20", -1, True, 1.5, []])
def test_a_count_that_is_none_is_not_compared(count: object) -> None:
    assert parse(written(count=count)).record_count is None


def test_unknown_types_are_warned_of_by_position() -> None:
    dfm = parse(written([column("ID", "INT8", 1), column("PLACE", "GEOMETRY"), column("AMOUNT", "NUMERIC")]))
    assert [each.type for each in dfm.columns] == ["bigint", "string", "string"]
    assert [(warning.code, warning.severity) for warning in dfm.warnings] == [("type_unknown", "warning")] * 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["dataInfo", "columns", "name", "type", "precision", "scale", "primaryKeyPos", "formatInfo", "options", "fileInfo"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(JSON)
def test_whatever_it_holds_it_is_read_or_refused(content: object) -> None:
    with suppress(Refused):
        assert parse(json.dumps(content).encode()).columns


@given(st.binary(max_size=50))
def test_whatever_bytes_there_are_they_are_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        parse(raw)


def test_a_proposed_entry_is_accepted_by_the_registry() -> None:
    table = parse_registry("tables:\n" + propose(parse(written()))).tables["cubic__ods_qlik__edw_demo_tap"]
    assert table.prefix == "cubic/ods_qlik/EDW.DEMO_TAP/"
    assert table.columns == parse(written()).columns
    assert table.key == ("region", "tap_id")


def test_changes_propose_the_entry_of_their_table() -> None:
    header = [column("header__change_seq", "STRING"), column("header__change_oper", "STRING"), column("header__timestamp", "DATETIME")]
    dfm = parse(written([*header, column("TAP_ID", "INT8", 1)], table="DEMO_TAP__ct"))
    tables = parse_registry("tables:\n" + propose(dfm)).tables
    assert tables["cubic__ods_qlik__edw_demo_tap"].columns == (Column("tap_id", "bigint"),)
    assert tables["cubic__ods_qlik__edw_demo_tap__ct"].columns == (*CHANGE_COLUMNS, Column("tap_id", "bigint"))


def test_names_that_yaml_would_read_otherwise_stay_names() -> None:
    names = ["no", "1", "null", "a: b", "x'y\"z", "é"]
    table = parse_registry("tables:\n" + propose(parse(written([column(name, "INT4") for name in names])))).tables
    assert [each.name for each in table["cubic__ods_qlik__edw_demo_tap"].columns or ()] == names


@pytest.mark.parametrize("name", ["", "../X", "A/B", "A B", "A\n"])
def test_no_entry_is_proposed_for_a_table_without_a_usable_name(name: str) -> None:
    with pytest.raises(Refused):
        propose(parse(written(table=name)))

"""Queries: what each view shows, what a query may not do, and that values survive as JSON."""

import json
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from ingestion_dagster.cubic import query
from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster.settings import current as current_settings
from ingestion_dagster_tests.cubic.lake import COLUMNS, NAME, REGISTRY, SECOND, TAP, TAP_CT, Lake, change
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server, new_bucket

__all__ = ["aws_environment", "moto_server", "new_bucket"]


@pytest.fixture
def lake(database: Database, settings: Settings) -> Iterator[Lake]:
    with database.connect() as connection:
        made = Lake(connection, settings)
        made.schemas()
        yield made


def ask(lake: Lake, sql: str) -> list[dict[str, object]]:
    names, rows = query.run(lake.connection, lake.settings, REGISTRY, sql)
    json.dumps(rows, allow_nan=False)
    assert all(list(row) == names for row in rows)
    return rows


def filled(lake: Lake) -> None:
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1, "k2": "a", "v": "x"}, {"k1": 2, "k2": None, "v": "y"}])
    lake.load(TAP_CT, "a.csv.gz", [change("B", 1, {"k1": 1}), change("D", 1, {"k1": 1, "k2": "a"})])
    wide = (*COLUMNS, Column("added", "decimal(10,2)"))
    lake.load(TAP_CT, "b.csv.gz", [change("U", 2, {"k1": 2, "v": "z", "added": 7})], wide)
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 5, "k2": "q", "v": "next"}], snapshot=SECOND, version="2")


def test_each_table_is_there_under_its_names(lake: Lake):
    filled(lake)
    assert ask(lake, f"SELECT k1, v, snapshot, identifier FROM {NAME} ORDER BY snapshot, k1") == [
        {"k1": 1, "v": "x", "snapshot": "20260101T060000Z", "identifier": "LOAD00000001.csv.gz"},
        {"k1": 2, "v": "y", "snapshot": "20260101T060000Z", "identifier": "LOAD00000001.csv.gz"},
        {"k1": 5, "v": "next", "snapshot": "20260201T060000Z", "identifier": "LOAD00000001.csv.gz"},
    ]
    assert ask(lake, f"SELECT k1 FROM raw_{NAME} WHERE k1 = '5'") == [{"k1": "5"}]
    assert ask(lake, f"SELECT header__change_oper, added FROM {NAME}__ct ORDER BY ALL") == [
        {"header__change_oper": "B", "added": None},
        {"header__change_oper": "D", "added": None},
        {"header__change_oper": "U", "added": 7.0},
    ]
    history = ask(lake, f"SELECT snapshot, header__change_oper AS oper, count(*) AS rows FROM {NAME}__history GROUP BY ALL ORDER BY ALL")
    assert [(row["oper"], row["rows"]) for row in history] == [("B", 1), ("D", 1), ("L", 2), ("U", 1), ("L", 1)]
    lake.refresh()
    assert ask(lake, f"SELECT k1, v FROM {NAME}__current") == [{"k1": 5, "v": "next"}]


def test_a_list_of_tables_shows_only_those_with_files(lake: Lake):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1}])
    assert [row["name"] for row in ask(lake, "SHOW TABLES")] == [NAME, f"{NAME}__history", f"raw_{NAME}"]
    with pytest.raises(ConfigurationError, match="does not exist"):
        ask(lake, f"SELECT * FROM {NAME}__ct")


def test_a_table_without_snapshots_has_its_identifier(lake: Lake):
    table = REGISTRY.tables["cubic__dmap__agg"]
    columns = (Column("day", "date"), Column("riders", "bigint"))
    lake.schema(table, columns, ())
    lake.load(table, "agg_1.csv.gz", [{"day": date(2026, 1, 1), "riders": 5}], columns, snapshot=None)
    assert ask(lake, "SELECT * FROM cubic__dmap__agg") == [{"day": "2026-01-01", "riders": 5, "identifier": "agg_1.csv.gz"}]


def test_names_are_found_whatever_their_case_and_where_they_stand(lake: Lake):
    filled(lake)
    assert ask(lake, f"WITH t AS (SELECT * FROM {NAME.upper()}) SELECT count(*) AS n FROM t JOIN raw_{NAME} USING (snapshot)") == [{"n": 5}]


def test_a_home_with_a_space_in_its_name_can_be_asked(lake: Lake, tmp_path: Path):
    lake.settings = Settings(home=tmp_path / "my home")
    filled(lake)
    lake.refresh()
    assert ask(lake, f"SELECT count(*) AS n FROM {NAME}") == [{"n": 3}]
    assert ask(lake, f"SELECT v FROM {NAME}__current") == [{"v": "next"}]


def test_an_emptied_current_table_has_columns(lake: Lake):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1, "k2": "a", "v": "x"}])
    lake.load(TAP_CT, "a.csv.gz", [change("D", 1, {"k1": 1, "k2": "a"})])
    lake.refresh()
    assert ask(lake, f"SELECT k1, v FROM {NAME}__current") == []
    assert ask(lake, f"SELECT count(*) AS n FROM {NAME}__current WHERE k1 = 1") == [{"n": 0}]


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH 'x.db'",
        "COPY (SELECT 1) TO 'x.csv'",
        "INSTALL httpfs",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1; SELECT 2",
        "",
        "SET memory_limit = '1TB'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM 'https://127.0.0.1:9/x.parquet'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT getenv('HOME')",
        "SELEC 1",
    ],
)
def test_a_query_only_reads_what_was_loaded(lake: Lake, sql: str):
    with pytest.raises(ConfigurationError):
        ask(lake, sql)


def test_no_value_is_in_an_error(lake: Lake):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1, "v": "a secret"}])
    with pytest.raises(ConfigurationError, match="ConversionException") as told:
        ask(lake, f"SELECT v::INTEGER FROM {NAME}")
    assert "secret" not in str(told.value)


def test_values_survive_as_json(lake: Lake):
    (row,) = ask(
        lake,
        "SELECT 1.25::DECIMAL(10,2) AS short, 12345678901234567890.5::DECIMAL(38,1) AS long, DATE '2026-01-02' AS day,"
        " TIMESTAMP '2026-01-02 03:04:05.6' AS moment, TIME '03:04' AS hour, 'x'::BLOB AS bytes, 'nan'::DOUBLE AS nan,"
        " [1.5::DECIMAL(3,1)] AS list, {'a': NULL} AS struct, 9223372036854775807 AS big, true AS yes, 1 AS a, 2 AS a",
    )
    assert row == {
        "short": 1.25,
        "long": "12345678901234567890.5",
        "day": "2026-01-02",
        "moment": "2026-01-02T03:04:05.600000",
        "hour": "03:04:00",
        "bytes": "78",
        "nan": "nan",
        "list": [1.5],
        "struct": {"a": None},
        "big": 9223372036854775807,
        "yes": True,
        "a": 1,
        "a_1": 2,
    }


def test_on_s3_as_on_disk(database: Database, new_bucket: Callable[..., str], settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INGESTION_STORAGE_URL", f"s3://{new_bucket()}/some prefix")
    with database.connect() as connection:
        lake = Lake(connection, current_settings())
        lake.schemas()
        lake.schema(TAP_CT, (*CHANGE_COLUMNS, *COLUMNS, Column("added", "decimal(10,2)")))
        filled(lake)
        lake.refresh()
        assert ask(lake, f"SELECT k1, identifier FROM {NAME} WHERE snapshot = '20260201T060000Z'") == [
            {"k1": 5, "identifier": "LOAD00000001.csv.gz"}
        ]
        assert ask(lake, f"SELECT k1 FROM raw_{NAME} ORDER BY k1") == [{"k1": "1"}, {"k1": "2"}, {"k1": "5"}]
        assert ask(lake, f"SELECT count(*) AS n, max(added) AS most FROM {NAME}__history") == [{"n": 6, "most": 7.0}]
        assert ask(lake, f"SELECT v FROM {NAME}__current") == [{"v": "next"}]
        with pytest.raises(ConfigurationError):
            ask(lake, "SELECT * FROM read_csv('/etc/passwd')")

"""The target tables as the database holds them: the dashboard's names, columns and types, and what no statement can break."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.metrics.files import judge
from ingestion_dagster.metrics.interface import FACT_TABLES, SUPPORTING_TABLES, MetricsAPIInterface
from ingestion_dagster.metrics.registry import TABLES
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.one_database import empty, one_database

TARGET: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "target_schema.json").read_text(encoding="utf-8"))

COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
UNIQUE_KEYS = """
SELECT array_agg(a.attname::text ORDER BY a.attname)
FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = %s::regclass AND i.indisunique AND NOT i.indisprimary
GROUP BY i.indexrelid
"""
MANY_SERIES = """
INSERT INTO metrics.age (name) SELECT lpad(n::text, 2, '0') || '+' FROM generate_series(1, 99) AS n;
INSERT INTO metrics.series (metric_id, geography_id, stratum_id, age_id, sex, is_public)
SELECT s.metric_id, s.geography_id, s.stratum_id, a.id, s.sex, s.is_public FROM metrics.series AS s, metrics.age AS a WHERE a.name <> 'all';
INSERT INTO metrics.api_time_series (series_id, refresh_date, metric_value, date, epiweek, metric_frequency)
SELECT id, '2026-07-01', n, date '2020-01-01' + n, 1, 'D' FROM metrics.series, generate_series(1, 300) AS n;
INSERT INTO metrics.core_time_series (series_id, refresh_date, metric_value, date, epiweek, metric_frequency)
SELECT series_id, refresh_date, metric_value, date, epiweek, metric_frequency FROM metrics.api_time_series ORDER BY id;
INSERT INTO metrics.core_headline (series_id, refresh_date, metric_value, period_start, period_end)
SELECT series_id, refresh_date, metric_value, date, date FROM metrics.api_time_series ORDER BY id;
ANALYZE
"""


@pytest.fixture
def database(shared: Database) -> Database:
    """That database, emptied."""
    return empty(shared)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A connection of the owner of the tables."""
    with database.connect() as opened:
        yield opened


@pytest.fixture
def non_public(metrics: Metrics) -> int:
    """The id of an OFF-SENS_ metric whose series is loaded."""
    payload = time_series_payload(metric="OFF-SENS_COVID-19_deaths_ONSByDay")
    for point in payload["time_series"]:
        point["is_public"] = False
    metrics.load("OFF-SENS_a.json", payload)
    [(metric, is_public)] = metrics.query("SELECT metric_id, is_public FROM metrics.series")
    assert is_public is False
    return int(metric)


@pytest.mark.parametrize("view", TARGET)
def test_a_dashboards_query_finds_its_columns_by_name_and_type(connection: Connection, view: str) -> None:
    assert connection.execute(COLUMNS, [f"public.{view}"]).fetchall() == [
        (column["name"], column["type"]) for column in TARGET[view]["columns"]
    ]


def test_every_target_table_has_its_view_and_stands_in_the_registry() -> None:
    assert {table.view for table in TABLES.values()} == set(TARGET)
    assert {name for name, table in TABLES.items() if table.is_fact} == set(FACT_TABLES)
    assert set(TABLES) == {*FACT_TABLES, *SUPPORTING_TABLES}


@pytest.mark.parametrize("table", TABLES)
def test_the_columns_shown_in_the_catalogue_are_those_of_the_view(connection: Connection, table: str) -> None:
    described = {(name, kind) for name, kind, _ in TABLES[table].columns}
    assert described == set(connection.execute(COLUMNS, [f"public.{TABLES[table].view}"]))
    assert len(described) == len(TABLES[table].columns)


@pytest.mark.parametrize("table", FACT_TABLES)
def test_two_versions_of_a_row_may_differ_in_refresh_date_and_embargo_alone(connection: Connection, table: str) -> None:
    keys = [set(row[0]) for row in connection.execute(UNIQUE_KEYS, [f"metrics.{table}"])]
    assert len(keys) == 1
    assert keys[0] >= {"series_id", "refresh_date", "embargo", "metric_value"}


@pytest.mark.parametrize("table", FACT_TABLES)
def test_the_same_version_of_a_row_cannot_be_held_twice(metrics: Metrics, table: str) -> None:
    """Nor where the embargo is null, which a unique key of old takes for different each time."""
    metrics.land(series=time_series_payload(), headline=headline_payload())
    metrics.run()
    columns = [name for (name,) in metrics.query(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attname <> 'id'", [f"metrics.{table}"]
    )]  # fmt: skip
    assert metrics.query(f"SELECT DISTINCT embargo FROM metrics.{table}") == [(None,)]
    with metrics.database.connect() as connection, pytest.raises(errors.UniqueViolation):
        connection.execute(f"INSERT INTO metrics.{table} ({', '.join(columns)}) SELECT {', '.join(columns)} FROM metrics.{table}")


def test_a_series_of_a_non_public_metric_cannot_be_inserted_as_public(connection: Connection, non_public: int) -> None:
    with pytest.raises(errors.ForeignKeyViolation):
        connection.execute(
            "INSERT INTO metrics.series (metric_id, geography_id, stratum_id, age_id, sex, is_public) "
            "SELECT metric_id, geography_id, stratum_id, age_id, 'f', true FROM metrics.series"
        )


ANOTHER_METRIC = """
INSERT INTO metrics.metric (name, topic_id, metric_group_id)
SELECT %s, topic_id, metric_group_id FROM metrics.metric LIMIT 1 RETURNING is_public
"""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE metrics.series SET is_public = true",
        "UPDATE metrics.metric SET name = substr(name, 10)",
        "UPDATE metrics.metric SET is_public = true",
        "UPDATE metrics.series SET metric_id = (SELECT id FROM metrics.metric WHERE is_public)",
    ],
)
def test_no_statement_makes_a_non_public_series_public(connection: Connection, non_public: int, statement: str) -> None:
    connection.execute(ANOTHER_METRIC, ["COVID-19_deaths_other"])
    with pytest.raises((errors.ForeignKeyViolation, errors.GeneratedAlways)):
        connection.execute(statement)
    assert connection.execute("SELECT DISTINCT is_public FROM public.data_apitimeseries").fetchall() == [(False,)]


@pytest.mark.parametrize(
    ("name", "is_public"), [("OFF-SENS_a", False), ("off-sens_a", True), ("a_OFF-SENS_", True), ("OFF-SENSITIVE", True)]
)
def test_only_the_exact_prefix_marks_a_metric_as_non_public(connection: Connection, non_public: int, name: str, is_public: bool) -> None:
    assert connection.execute(ANOTHER_METRIC, [name]).fetchone() == (is_public,)


ONE_SERIES = {
    "public.data_apitimeseries": "metric = 'COVID-19_deaths_ONSByDay' AND geography = 'England' AND age = '07+'",
    "metrics.live_time_series": "metric = 'COVID-19_deaths_ONSByDay' AND geography = 'England' AND age = '07+'",
    "public.data_coretimeseries": "metric_id = %(metric)s AND age_id = %(age)s",
    "public.data_coreheadline": "metric_id = %(metric)s AND age_id = %(age)s",
}


@pytest.fixture(scope="module")
def crowded(server: EmbeddedServer) -> Iterator[Connection]:
    """A hundred series of 300 points and 300 headlines each."""
    with one_database(server) as database, database.connect() as connection:
        interface = MetricsAPIInterface(connection)
        with connection.transaction():
            with interface.staging() as staging:
                staging.add(judge(time_series_payload([]), "a.json"))
            interface.merge(datetime(2026, 7, 1, tzinfo=UTC))
        connection.execute(MANY_SERIES)
        yield connection


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan and all plans below it."""
    yield {key: value for key, value in plan.items() if key != "Plans"}
    for inner in plan.get("Plans", ()):
        yield from nodes_of(inner)


@pytest.mark.parametrize("role", [None, "metrics_public_reader"])
@pytest.mark.parametrize("relation", ONE_SERIES)
def test_a_read_of_one_series_does_not_scan_all_rows(crowded: Connection, relation: str, role: str | None) -> None:
    statement = f"SELECT * FROM {relation} WHERE {ONE_SERIES[relation]}"
    ids = "SELECT m.id, a.id FROM metrics.metric AS m, metrics.age AS a WHERE a.name = '07+'"
    with crowded.transaction(force_rollback=True):
        [(metric, age)] = crowded.execute(ids).fetchall()
        if role:
            crowded.execute(f"SET LOCAL ROLE {role}")
        cursor = psycopg.ClientCursor(crowded)
        assert len(cursor.execute(statement, {"metric": metric, "age": age}).fetchall()) == 300
        row = cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", {"metric": metric, "age": age}).fetchone()
    assert row is not None
    nodes = list(nodes_of(row[0][0]["Plan"]))
    assert any(node.get("Index Name") in {f"{table}_version" for table in FACT_TABLES} for node in nodes), nodes
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node["Relation Name"] in FACT_TABLES]

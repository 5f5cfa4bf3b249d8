"""What the role `metrics_public_reader` can see: public, released rows, through whatever it asks."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.metrics.registry import TABLES
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.one_database import empty, one_database

READER = "metrics_public_reader"
PUBLIC, EMBARGOED, SENSITIVE = 1.0, 2.0, 4711.0
SERIES = ["metrics.api_time_series", "metrics.core_time_series", "public.data_apitimeseries", "public.data_coretimeseries"]
HEADLINES = ["metrics.core_headline", "public.data_coreheadline"]
LIVE = ["metrics.live_time_series", "metrics.live_headlines"]
METRIC_NAMES = ["COVID-19_deaths_a", "COVID-19_headline_a"]


def time_series(refresh: datetime, value: float, embargo: datetime | None = None, **changes: Any) -> dict[str, Any]:
    point = {"date": "2026-06-01", "epiweek": 22, "metric_value": value, "embargo": embargo and embargo.isoformat()}
    return time_series_payload(refresh_date=refresh.isoformat(), time_series=[point], **({"metric": "COVID-19_deaths_a"} | changes))


def headline(refresh: datetime, value: float, embargo: datetime | None = None, **changes: Any) -> dict[str, Any]:
    point = {"period_start": "2026-06-01", "period_end": "2026-06-07", "metric_value": value, "embargo": embargo and embargo.isoformat()}
    return headline_payload(refresh_date=refresh.isoformat(), data=[point], **({"metric": "COVID-19_headline_a"} | changes))


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Database]:
    """One database for this module."""
    with one_database(server) as database:
        yield database


@pytest.fixture
def database(shared: Database) -> Database:
    """That database, emptied."""
    return empty(shared)


@pytest.fixture
def loaded(metrics: Metrics) -> Metrics:
    """Of time series and headlines each: a released row, an embargoed revision of it, a non-public row."""
    now = datetime.now(UTC)
    before, tomorrow = now - timedelta(days=2), now + timedelta(days=1)
    for kind, make in (("deaths", time_series), ("headline", headline)):
        metrics.land_key(f"{kind}-1.json", make(before, PUBLIC, before))
        metrics.land_key(f"{kind}-2.json", make(now, EMBARGOED, tomorrow))
        metrics.land_key(f"{kind}-3.json", make(now, EMBARGOED, tomorrow, age="05-09"))
        for embargo in (None, tomorrow):
            metrics.land_key(
                f"OFF-SENS_{kind}{embargo is None}.json",
                make(now, SENSITIVE, embargo, metric=f"OFF-SENS_COVID-19_{kind}_a", sex="f" if embargo else "m"),
            )
    assert metrics.run().total().loads_archived == 10
    assert values(metrics.query, "metrics.core_time_series") == [PUBLIC, EMBARGOED, EMBARGOED, SENSITIVE, SENSITIVE]
    assert values(metrics.query, "metrics.core_headline") == [PUBLIC, EMBARGOED, EMBARGOED, SENSITIVE, SENSITIVE]
    return metrics


def values(query: Any, relation: str) -> list[float]:
    return [row[0] for row in query(f"SELECT metric_value::float8 FROM {relation} ORDER BY 1")]


@contextmanager
def acting_as(metrics: Metrics, role: str) -> Iterator[Connection]:
    """A connection that has taken on a role."""
    with metrics.database.connect() as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        assert connection.execute("SELECT current_user").fetchone() == (role,)
        yield connection


@contextmanager
def a_role(metrics: Metrics, *grants: str) -> Iterator[str]:
    """A role of this test's own, with these grants (`{role}` stands for it)."""
    role = f"role_{uuid.uuid4().hex[:12]}"
    with metrics.database.connect() as connection:
        connection.execute(f"CREATE ROLE {role} NOLOGIN")
        try:
            for grant in grants:
                connection.execute(grant.format(role=role))
            yield role
        finally:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


READ_ALL = (
    "GRANT USAGE ON SCHEMA metrics TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA metrics TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
)


def assert_sees_public_and_released_only(connection: Connection) -> None:
    def query(statement: str) -> list[tuple[Any, ...]]:
        return connection.execute(statement).fetchall()

    for relation in (*SERIES, *HEADLINES, *LIVE):
        assert values(query, relation) == [PUBLIC], relation
    for relation in ("metrics.metric", "public.data_metric"):
        assert [row[0] for row in query(f"SELECT name FROM {relation} ORDER BY 1")] == METRIC_NAMES
    for relation in ("metrics.series", "metrics.series_labels"):
        assert [row[0] for row in query(f"SELECT DISTINCT is_public FROM {relation}")] == [True]
    assert [row[0] for row in query("SELECT DISTINCT metric FROM metrics.series_labels ORDER BY 1")] == METRIC_NAMES


def test_the_public_reader_sees_neither_non_public_nor_embargoed_rows(loaded: Metrics) -> None:
    with acting_as(loaded, READER) as connection:
        assert_sees_public_and_released_only(connection)


@pytest.mark.parametrize("grants", [(), READ_ALL], ids=["member", "member-with-grants-of-its-own"])
def test_a_member_of_the_public_reader_sees_no_more(loaded: Metrics, grants: tuple[str, ...]) -> None:
    with a_role(loaded, f"GRANT {READER} TO {{role}}", *grants) as role, acting_as(loaded, role) as connection:
        assert_sees_public_and_released_only(connection)


def test_a_member_that_logs_in_and_sets_zone_or_search_path_sees_no_more(loaded: Metrics) -> None:
    with a_role(loaded, f"GRANT {READER} TO {{role}}") as role, acting_as(loaded, role) as connection:
        connection.execute("SET timezone = 'Pacific/Kiritimati'; SET search_path = metrics, public")
        assert_sees_public_and_released_only(connection)
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("SET row_security = off; SELECT * FROM metrics.api_time_series")


def test_an_embargoed_row_comes_out_when_its_embargo_lapses(metrics: Metrics) -> None:
    now = datetime.now(UTC)
    metrics.load("a.json", time_series(now, PUBLIC, now + timedelta(days=1)))
    with acting_as(metrics, READER) as connection:
        assert connection.execute("SELECT count(*) FROM metrics.live_time_series").fetchone() == (0,)
        with metrics.database.connect() as owner:
            owner.execute("UPDATE metrics.api_time_series SET embargo = now()")
        assert connection.execute("SELECT count(*) FROM metrics.live_time_series").fetchone() == (1,)


def test_the_public_reader_can_write_nothing(loaded: Metrics) -> None:
    views = [f"public.{table.view}" for table in TABLES.values()]
    with acting_as(loaded, READER) as connection:
        for table in (*(f"metrics.{name}" for name in TABLES), "metrics.series", *views):
            for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET id = DEFAULT", f"INSERT INTO {table} DEFAULT VALUES"):
                with pytest.raises((errors.InsufficientPrivilege, errors.ObjectNotInPrerequisiteState)):
                    connection.execute(statement)
            if table not in views:
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(f"TRUNCATE {table}")
    assert values(loaded.query, "metrics.core_time_series") == [PUBLIC, EMBARGOED, EMBARGOED, SENSITIVE, SENSITIVE]


@pytest.mark.parametrize(
    "statement", ["SELECT * FROM ledger.loads", "CREATE TABLE metrics.mine (a int)", "CREATE TABLE public.mine (a int)"]
)
def test_the_public_reader_reaches_nothing_else(loaded: Metrics, statement: str) -> None:
    with acting_as(loaded, READER) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)


def test_column_statistics_give_no_hidden_value_away(loaded: Metrics) -> None:
    with loaded.database.connect() as owner:
        owner.execute("ANALYZE")
        assert "4711" in str(owner.execute("SELECT * FROM pg_stats WHERE schemaname = 'metrics'").fetchall())
    with acting_as(loaded, READER) as connection:
        shown = str(connection.execute("SELECT * FROM pg_stats WHERE schemaname = 'metrics'").fetchall())
        assert "4711" not in shown
        assert "OFF-SENS_" not in shown


def test_a_function_of_the_asker_is_shown_no_hidden_row(loaded: Metrics) -> None:
    """A condition that tells what it is asked must not run before the row is known to be visible."""
    tell = """
        CREATE FUNCTION pg_temp.tell(value float8) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
        $$ BEGIN RAISE NOTICE 'saw %', value; RETURN true; END $$
    """
    for relation in (*SERIES, *HEADLINES, *LIVE):
        seen: list[str | None] = []
        with acting_as(loaded, READER) as connection:
            connection.add_notice_handler(lambda notice, seen=seen: seen.append(notice.message_primary))  # type: ignore[misc]
            connection.execute(tell)
            connection.execute(f"SELECT * FROM {relation} WHERE pg_temp.tell(metric_value::float8)")
        assert set(seen) == {f"saw {PUBLIC:g}"}, relation


def test_an_ordinary_role_with_select_sees_all(loaded: Metrics) -> None:
    with a_role(loaded, *READ_ALL) as role, acting_as(loaded, role) as connection:

        def query(statement: str) -> list[tuple[Any, ...]]:
            return connection.execute(statement).fetchall()

        for relation in (*SERIES, *HEADLINES):
            assert values(query, relation) == [PUBLIC, EMBARGOED, EMBARGOED, SENSITIVE, SENSITIVE]
        for relation in LIVE:
            assert values(query, relation) == [PUBLIC, SENSITIVE]
        assert len(query("SELECT FROM public.data_metric")) == 4


def test_a_role_without_grants_sees_nothing(loaded: Metrics) -> None:
    with a_role(loaded) as role, acting_as(loaded, role) as connection:
        for relation in ("public.data_apitimeseries", "metrics.api_time_series", "public.data_metric"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {relation}")


@pytest.mark.parametrize("role", [None, READER])
def test_the_live_views_show_what_the_reader_contract_says(loaded: Metrics, role: str | None) -> None:
    """Released rows; per date those of the newest refresh, ties all; of headlines one, by period and then by refresh."""
    now = datetime.now(UTC)
    points = [
        {
            "date": f"2026-06-{day:02}",
            "epiweek": 22,
            "metric_value": value,
            "embargo": embargo and (now + timedelta(days=embargo)).isoformat(),
        }
        for day, value, embargo in ((1, 5, -1), (2, 6, None), (2, 7, None), (3, 8, 1))
    ]
    figures = [
        {"period_start": "2026-06-01", "period_end": f"2026-06-{day:02}", "metric_value": value, "embargo": None}
        for day, value in ((8, 5), (9, 6))
    ]
    loaded.land(more=time_series(now, 0, age="10-19") | {"time_series": points}, figures=headline(now, 0, age="10-19") | {"data": figures})
    loaded.run()
    with acting_as(loaded, role) if role else loaded.database.connect() as connection:
        series = connection.execute(
            """
            SELECT id FROM (
                SELECT id, is_public, rank() OVER (
                    PARTITION BY theme, sub_theme, topic, metric, geography_type, geography, geography_code, age, sex, stratum, date
                    ORDER BY refresh_date DESC) AS rank
                FROM public.data_apitimeseries WHERE embargo IS NULL OR embargo <= now()
            ) AS ranked WHERE rank = 1 ORDER BY 1
            """
        ).fetchall()
        headlines = connection.execute(
            """
            SELECT DISTINCT ON (metric_id, geography_id, stratum_id, age_id, sex) id FROM public.data_coreheadline
            WHERE embargo IS NULL OR embargo <= now()
            ORDER BY metric_id, geography_id, stratum_id, age_id, sex, period_end DESC, refresh_date DESC
            """
        ).fetchall()
        assert connection.execute("SELECT id FROM metrics.live_time_series ORDER BY 1").fetchall() == series
        assert connection.execute("SELECT id FROM metrics.live_headlines ORDER BY 1").fetchall() == sorted(headlines)
        assert (len(series), len(headlines)) == ((4, 2) if role else (5, 3))

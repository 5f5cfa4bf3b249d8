"""What the role `metrics_public_reader` can see: public, released rows, through whatever it asks."""

import time
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
from ingestion_dagster.metrics.files import judge
from ingestion_dagster.metrics.interface import MetricsAPIInterface
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


LABEL_TABLES = ("theme", "sub_theme", "topic", "metric_group", "metric", "geography_type", "geography", "stratum", "age")
HIDDEN_REFRESH = datetime(2024, 2, 3, tzinfo=UTC)
NAMES_SHARED_BY_ALL = {"headline"}
"""The group of every headline file: the name tells nothing, the row must not be seen all the same."""


def labels(path: str, group: str, place: str, mark: str, prefix: str = "") -> dict[str, Any]:
    """Header fields of a file that shares none of its labels with any other."""
    theme, sub_theme, topic = path.split("/")
    geography_type, code = place.split("/")
    return {
        "parent_theme": theme,
        "child_theme": sub_theme,
        "topic": topic,
        "metric_group": group,
        "metric": f"{prefix}{topic}_{group}_{mark}",
        "geography_type": geography_type,
        "geography": f"Geography {mark}",
        "geography_code": code,
        "age": f"{70 + len(mark)}-99",
        "stratum": f"stratum-{mark}",
    }


SECRET_SERIES = labels("extreme_event/mortality-report/Heat-mortality", "syndromic", "NHS Region/E40000099", "Xa", "OFF-SENS_")
SECRET_HEADLINE = labels("climate_and_environment/chemical_exposure/Lead", "headline", "UKHSA Region/E45000099", "Xbb", "OFF-SENS_")
COMING_SERIES = labels("medicines/antimicrobials/antibiotics", "consumption", "NHS Trust/RX1", "Xccc")
COMING_HEADLINE = labels("immunisation/childhood-vaccines/MMR1", "headline", "Government Office Region/E12000099", "Xdddd")


@pytest.fixture
def secrets(metrics: Metrics) -> Metrics:
    """An ordinary public time series and headline; of both kinds also a non-public and a wholly embargoed file, all labels their own."""
    now = datetime.now(UTC)
    tomorrow = now + timedelta(days=1)
    metrics.land(ordinary=time_series(now, PUBLIC), figure=headline(now, PUBLIC))
    metrics.land_key("OFF-SENS_series.json", time_series(HIDDEN_REFRESH, SENSITIVE, **SECRET_SERIES))
    metrics.land_key("OFF-SENS_headline.json", headline(HIDDEN_REFRESH, SENSITIVE, **SECRET_HEADLINE))
    metrics.land_key("coming-series.json", time_series(HIDDEN_REFRESH, SENSITIVE, tomorrow, **COMING_SERIES))
    metrics.land_key("coming-headline.json", headline(HIDDEN_REFRESH, SENSITIVE, tomorrow, **COMING_HEADLINE))
    assert metrics.run().total().loads_archived == 6, metrics.statuses()
    return metrics


READABLE = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), string_agg(quote_ident(a.attname) || '::text', ', ' ORDER BY a.attnum)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname IN ('metrics', 'public') AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
GROUP BY 1
"""


def all_it_reads(connection: Connection) -> dict[str, str]:
    """By relation, every row and column this connection may read, as text."""
    relations: dict[str, str] = dict(connection.execute(READABLE).fetchall())
    assert set(relations) >= {f"metrics.{name}" for name in TABLES} | {f"public.{table.view}" for table in TABLES.values()}
    assert set(relations) >= {"metrics.series", "metrics.series_labels", "metrics.released_series", *LIVE}
    return {name: str(connection.execute(f"SELECT {columns} FROM {name}").fetchall()) for name, columns in relations.items()}


def seen_in(texts: dict[str, str], header: dict[str, Any]) -> set[str]:
    """The labels of a file that stand anywhere in what was read."""
    return {f"{field} {label}" for field, label in header.items() for text in texts.values() if f"'{label}'" in text}


def names(connection: Connection, table: str) -> list[str]:
    """What a label table shows."""
    return [row[0] for row in connection.execute(f"SELECT name FROM metrics.{table} ORDER BY 1")]


def own(header: dict[str, Any]) -> set[str]:
    """The labels of a file that no other file bears."""
    return {f"{field} {label}" for field, label in header.items() if label not in NAMES_SHARED_BY_ALL}


@pytest.mark.parametrize("grants", [None, (), READ_ALL], ids=["reader", "member", "member-with-grants-of-its-own"])
def test_labels_that_only_hidden_files_brought_are_seen_nowhere(secrets: Metrics, grants: tuple[str, ...] | None) -> None:
    with secrets.database.connect() as owner:
        read = all_it_reads(owner)
        for header in (SECRET_SERIES, SECRET_HEADLINE, COMING_SERIES, COMING_HEADLINE):
            assert own(header) <= seen_in(read, header)
    grants_of_role = [] if grants is None else [f"GRANT {READER} TO {{role}}", *grants]
    with a_role(secrets, *grants_of_role) as role, acting_as(secrets, READER if grants is None else role) as connection:
        read = all_it_reads(connection)
        for header in (SECRET_SERIES, SECRET_HEADLINE, COMING_SERIES, COMING_HEADLINE):
            assert not seen_in(read, header) & own(header)
        for name, text in read.items():
            for trace in ("OFF-SENS_", "4711", "2024-02-03", "RX1", "Xa", "Xbb", "Xccc", "Xdddd"):
                assert trace not in text, name
        ordinary = {name: names(connection, name) for name in LABEL_TABLES}
        series = connection.execute("SELECT id FROM metrics.series ORDER BY 1").fetchall()
        assert connection.execute("SELECT id FROM metrics.released_series ORDER BY 1").fetchall() == series
    assert len(series) == 2
    assert ordinary == {
        "theme": ["infectious_disease"],
        "sub_theme": ["respiratory"],
        "topic": ["COVID-19"],
        "metric_group": ["deaths", "headline"],
        "metric": METRIC_NAMES,
        "geography_type": ["Nation"],
        "geography": ["England"],
        "stratum": ["default"],
        "age": ["all"],
    }


@pytest.mark.parametrize(
    ("table", "released", "coming"),
    [
        ("api_time_series", COMING_SERIES, COMING_HEADLINE),
        ("core_time_series", COMING_SERIES, COMING_HEADLINE),
        ("core_headline", COMING_HEADLINE, COMING_SERIES),
    ],
)
def test_labels_come_out_with_the_first_row_that_is_released(
    secrets: Metrics, table: str, released: dict[str, Any], coming: dict[str, Any]
) -> None:
    with acting_as(secrets, READER) as connection, secrets.database.connect() as owner:
        assert not seen_in(all_it_reads(connection), released) & own(released)
        owner.execute(f"UPDATE metrics.{table} SET embargo = now() - interval '1 second'")
        read = all_it_reads(connection)
        assert seen_in(read, released) >= own(released)
        assert not any(seen_in(read, header) & own(header) for header in (coming, SECRET_SERIES, SECRET_HEADLINE))
        assert len(names(connection, "metric")) == 3
        # And they go again with the last one.
        owner.execute(f"UPDATE metrics.{table} SET embargo = now() + interval '1 hour'")
        assert not seen_in(all_it_reads(connection), released) & own(released)


def test_a_label_that_public_and_hidden_files_share_is_seen(secrets: Metrics) -> None:
    now = datetime.now(UTC)
    shared_labels = {field: SECRET_SERIES[field] for field in ("geography_type", "geography", "geography_code", "age", "stratum")}
    secrets.load("b.json", time_series(now, PUBLIC, **shared_labels))
    with acting_as(secrets, READER) as connection:
        assert names(connection, "geography") == ["England", SECRET_SERIES["geography"]]
        assert connection.execute("SELECT count(*) FROM metrics.series").fetchone() == (3,)
        assert values(lambda statement: connection.execute(statement).fetchall(), "metrics.live_time_series") == [PUBLIC, PUBLIC]


def test_when_a_hidden_revision_came_in_is_not_told(loaded: Metrics) -> None:
    """The newest refresh date of a series may be that of a row under embargo."""
    with acting_as(loaded, READER) as connection:
        for statement in ("SELECT newest_refresh_date FROM metrics.series", "SELECT * FROM metrics.series"):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement)


# 240 series of 300 points, in two topics; of half of them all rows are under embargo.
MANY_ROWS = """
INSERT INTO metrics.age (name) SELECT lpad(n::text, 2, '0') || '+' FROM generate_series(1, 60) AS n;
INSERT INTO metrics.topic (name, sub_theme_id) SELECT n, t.sub_theme_id FROM metrics.topic AS t, unnest(ARRAY['A', 'B']) AS n;
INSERT INTO metrics.metric_group (name, topic_id) SELECT 'deaths', id FROM metrics.topic WHERE name IN ('A', 'B');
INSERT INTO metrics.metric (name, topic_id, metric_group_id)
SELECT t.name || '_deaths_' || n, t.id, g.id FROM metrics.topic AS t, metrics.metric_group AS g, generate_series(1, 2) AS n
WHERE t.name IN ('A', 'B') AND g.topic_id = t.id;
INSERT INTO metrics.series (metric_id, geography_id, stratum_id, age_id, sex, is_public)
SELECT m.id, g.id, s.id, a.id, 'all', true FROM metrics.metric AS m, metrics.geography AS g, metrics.stratum AS s, metrics.age AS a
WHERE m.name NOT LIKE 'COVID%' AND a.name <> 'all';
INSERT INTO metrics.api_time_series (series_id, refresh_date, metric_value, date, epiweek, metric_frequency, embargo)
SELECT s.id, '2026-07-01', n, date '2020-01-01' + n, 1, 'D', CASE WHEN s.age_id % 2 = 0 THEN now() + interval '1 day' END
FROM metrics.series AS s, generate_series(1, 300) AS n WHERE s.id NOT IN (SELECT series_id FROM metrics.api_time_series);
INSERT INTO metrics.core_time_series (series_id, refresh_date, metric_value, date, epiweek, metric_frequency, embargo)
SELECT series_id, refresh_date, metric_value, date, epiweek, metric_frequency, embargo FROM metrics.api_time_series
WHERE series_id NOT IN (SELECT series_id FROM metrics.core_time_series) ORDER BY id;
ANALYZE
"""


@pytest.fixture(scope="module")
def crowded(server: EmbeddedServer) -> Iterator[Database]:
    """A database with as many rows as the dashboard's larger topics have."""
    with one_database(server) as database, database.connect() as connection:
        interface = MetricsAPIInterface(connection)
        with connection.transaction():
            with interface.staging() as staging:
                staging.add(judge(time_series(datetime(2026, 7, 1, tzinfo=UTC), PUBLIC), "a.json"))
            interface.merge(datetime(2026, 7, 1, tzinfo=UTC))
        connection.execute(MANY_ROWS)
        assert connection.execute("SELECT count(*) FROM metrics.api_time_series").fetchone() == (72_001,)
        yield database


@pytest.mark.parametrize(
    ("relation", "condition", "rows"),
    [
        ("metrics.live_time_series", "topic = 'A'", 18_000),
        ("metrics.live_time_series", "metric = 'A_deaths_1' AND age = '02+'", 300),
        ("metrics.live_time_series", "true", 36_001),
        ("public.data_apitimeseries", "topic = 'A'", 18_000),
        ("public.data_coretimeseries", "true", 36_001),
        ("metrics.series_labels", "true", 121),
        ("public.data_age", "true", 31),
        ("public.data_theme", "true", 1),
    ],
)
def test_the_public_reader_does_not_wait(crowded: Database, relation: str, condition: str, rows: int) -> None:
    with crowded.connect() as connection:
        connection.execute(f"SET ROLE {READER}")
        if "age" in condition:
            # Which half is embargoed goes by the id of the age.
            [(age,)] = connection.execute("SELECT min(name) FROM metrics.age WHERE name <> 'all'").fetchall()
            condition = condition.replace("02+", age)
        started = time.monotonic()
        read = connection.execute(f"SELECT * FROM {relation} WHERE {condition}").fetchall()
        assert time.monotonic() - started < 10
    assert len(read) == rows


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

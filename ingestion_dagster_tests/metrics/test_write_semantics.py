"""Which rows a metric file writes, which it replaces, and which it leaves, by what is known of its series already."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.metrics.files import judge
from ingestion_dagster.metrics.interface import SUPPORTING_TABLES, Merged, MetricsAPIInterface
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.one_database import empty

Point = dict[str, Any]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BEFORE, LAPSED = NOW + timedelta(minutes=1), NOW + timedelta(days=30)
SOON, LATER = "2026-12-01T00:00:00Z", "2026-12-10T00:00:00Z"
RELEASED = "2026-01-01T00:00:00Z"
D1, D2, D3 = "2026-06-01", "2026-06-02", "2026-06-03"
R1, R2, R3, R4 = "2026-07-01T00:00:00Z", "2026-07-02T00:00:00Z", "2026-07-03T00:00:00Z", "2026-07-04T00:00:00Z"

LIVE_AT = """
SELECT date::text, metric_value FROM metrics.{table} AS t
WHERE (embargo IS NULL OR embargo <= %(at)s) AND NOT EXISTS (
    SELECT FROM metrics.{table} AS newer
    WHERE newer.series_id = t.series_id AND newer.date = t.date AND newer.refresh_date > t.refresh_date
      AND (newer.embargo IS NULL OR newer.embargo <= %(at)s))
ORDER BY 1, 2
"""
FACTS = """
SELECT l.metric, l.geography, l.geography_code, l.age, t.date::text, t.metric_value::float8, t.refresh_date, t.embargo, t.epiweek,
       t.metric_frequency, t.in_reporting_delay_period, t.force_write
FROM metrics.{table} AS t JOIN metrics.series_labels AS l USING (series_id) ORDER BY t.series_id, t.date, t.refresh_date, t.metric_value
"""


@pytest.fixture
def database(shared: Database) -> Database:
    """That database, emptied."""
    return empty(shared)


def point(day: str, value: float | None, embargo: str | None = None, **more: Any) -> Point:
    return {"date": day, "epiweek": 22, "metric_value": value, "embargo": embargo, "is_public": True} | more


def series(refresh: str, *points: Point, **changes: Any) -> dict[str, Any]:
    return time_series_payload(refresh_date=refresh, time_series=list(points), **changes)


def figure(end: str, value: float, embargo: str | None = None, start: str = "2026-01-01", **more: Any) -> Point:
    return {"period_start": start, "period_end": end, "metric_value": value, "embargo": embargo, "is_public": True} | more


def headline(refresh: str, *figures: Point, **changes: Any) -> dict[str, Any]:
    return headline_payload(refresh_date=refresh, data=list(figures), **changes)


def alert(refresh: str, *figures: Point) -> dict[str, Any]:
    where = {"parent_theme": "extreme_event", "child_theme": "weather_alert", "topic": "Heat-alert"}
    return headline(refresh, *figures, **where, metric="Heat-alert_headline_matrixNumber")


def facts(metrics: Metrics) -> list[tuple[Any, ...]]:
    """All points, which both tables hold alike."""
    core, api = (metrics.query(FACTS.format(table=table)) for table in ("core_time_series", "api_time_series"))
    assert core == api
    return api


def known(metrics: Metrics) -> list[tuple[str, float, str]]:
    """Date, value and refresh date of all points."""
    return [(row[4], row[5], row[6].strftime("%Y-%m-%dT%H:%M:%SZ")) for row in facts(metrics)]


def live(metrics: Metrics, at: datetime = BEFORE) -> list[tuple[str, float]]:
    """What readers see at an instant, in both tables alike."""
    core, api = (metrics.query(LIVE_AT.format(table=table), {"at": at}) for table in ("core_time_series", "api_time_series"))
    assert [(day, float(value)) for day, value in core] == api
    return api


def headlines(metrics: Metrics) -> list[tuple[str, float, str]]:
    """Period end, value and refresh date of all headlines."""
    rows = metrics.query("SELECT period_end, metric_value::float8, refresh_date FROM metrics.core_headline ORDER BY 1, 3, 2")
    london = ZoneInfo("Europe/London")
    return [(end.astimezone(london).strftime("%Y-%m-%d"), value, refresh.strftime("%Y-%m-%dT%H:%M:%SZ")) for end, value, refresh in rows]


def live_headline(metrics: Metrics, at: datetime = BEFORE, *, by_refresh: bool = False) -> float:
    order = "refresh_date DESC" if by_refresh else "period_end DESC, refresh_date DESC"
    [(value,)] = metrics.query(
        f"SELECT metric_value::float8 FROM metrics.core_headline WHERE embargo IS NULL OR embargo <= %s ORDER BY {order} LIMIT 1", [at]
    )
    return value


def everything(metrics: Metrics) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, with its identity."""
    tables = (*SUPPORTING_TABLES, "series", "core_time_series", "api_time_series", "core_headline")
    return {table: metrics.query(f"SELECT * FROM metrics.{table} ORDER BY id") for table in tables}


def load_each(metrics: Metrics, *payloads: dict[str, Any], **kwargs: Any) -> list[tuple[int, int]]:
    """Load files one after the other, each in a run of its own; returns rows written and unchanged of each."""
    counts = []
    for payload in payloads:
        total = metrics.load("a.json", payload, now=NOW, **kwargs).total()
        assert (total.loads_archived, total.loads_errored) == (1, 0)
        counts.append((total.rows_written, total.rows_unchanged))
    return counts


def land_batch(metrics: Metrics, *payloads: dict[str, Any], key: str = "b") -> None:
    """Land files that one batch takes in this order."""
    for number, payload in enumerate(payloads):
        metrics.land_key(f"{key}{number:02}.json", payload)


def whys(metrics: Metrics, key: str) -> list[str]:
    return [
        why
        for (why,) in metrics.query(
            "SELECT e.why FROM ledger.load_events AS e JOIN ledger.loads AS l ON l.id = e.load_id WHERE l.key = %s AND e.why IS NOT NULL",
            [key],
        )
    ]


def test_first_load_writes_exactly_what_the_file_says(metrics: Metrics) -> None:
    points = [point(D1, 1.5), point(D2, -2, SOON, epiweek=23), point(D3, 0.12345, RELEASED, in_reporting_delay_period=True)]
    metrics.load("a.json", series(R1, *points, metric_frequency="weekly", sex="Female"), now=NOW)
    columns = "date::text, metric_value::text, refresh_date, embargo, sex, metric_frequency, epiweek, year, month, "
    flags = "in_reporting_delay_period, force_write, is_public"
    refresh, soon, released = (datetime.fromisoformat(text) for text in (R1, SOON, RELEASED))
    common = (2026, 6, False, False, True)
    expected = [
        (D1, "1.5000", refresh, None, "f", "W", 22, *common),
        (D2, "-2.0000", refresh, soon, "f", "W", 23, *common),
        (D3, "0.1235", refresh, released, "f", "W", 22, 2026, 6, True, False, True),
    ]
    assert metrics.query(f"SELECT {columns}{flags} FROM public.data_coretimeseries ORDER BY date") == expected
    unrounded = [(row[0], value, *row[2:]) for row, value in zip(expected, ("1.5", "-2", "0.12345"), strict=True)]
    assert metrics.query(f"SELECT {columns}{flags} FROM public.data_apitimeseries ORDER BY date") == unrounded
    labels = metrics.query("SELECT DISTINCT theme, sub_theme, topic, metric_group, metric, geography_type, geography_code, age, stratum "
                           "FROM public.data_apitimeseries")  # fmt: skip
    assert labels == [
        ("infectious_disease", "respiratory", "COVID-19", "deaths", "COVID-19_deaths_ONSByDay", "Nation", "E92000001", "all", "default")
    ]
    assert {table: metrics.rows(f"metrics.{table}") for table in SUPPORTING_TABLES} == dict.fromkeys(SUPPORTING_TABLES, 1)


def test_first_load_of_a_headline_with_two_figures_keeps_both(metrics: Metrics) -> None:
    bounded = figure("2026-06-01", 1) | {"lower_confidence": 0.5, "upper_confidence": 1.5}
    metrics.load("a.json", headline(R1, bounded, figure("2026-06-08", 2, SOON)), now=NOW)
    assert metrics.query(
        "SELECT metric_value::text, lower_confidence::text, upper_confidence::text, embargo, force_write, is_public, sex "
        "FROM public.data_coreheadline ORDER BY period_end"
    ) == [
        ("1.0000", "0.5000", "1.5000", None, False, True, "all"),
        ("2.0000", None, None, datetime.fromisoformat(SOON), False, True, "all"),
    ]
    assert metrics.rows("metrics.api_time_series") == metrics.rows("metrics.core_time_series") == 0


REVISIONS = [
    series(R1, point(D1, 1), point(D2, 1), point(D3, 1, SOON)),
    series(R2, point(D1, 2), point(D2, 1, SOON), point(D3, 2, LATER)),
    series(R3, point(D1, 1), point(D3, 3, SOON), point("2026-06-04", 1)),
]


@pytest.mark.parametrize(
    "revisions",
    [REVISIONS[:2], REVISIONS, REVISIONS[::-1], [REVISIONS[1], REVISIONS[0], REVISIONS[2]], [REVISIONS[0], REVISIONS[1], REVISIONS[0]]],
    ids=["two", "three", "reverse", "mixed", "same-again"],
)
def test_revisions_in_one_batch_end_as_if_loaded_one_after_the_other(metrics: Metrics, revisions: list[dict[str, Any]]) -> None:
    land_batch(metrics, *(revision | {"age": "00-04"} for revision in revisions))
    batch = metrics.run(now=NOW)
    assert batch.total().loads_archived == len(revisions)
    single = load_each(metrics, *(revision | {"age": "05-09"} for revision in revisions))
    of_age = {age: [row[4:] for row in facts(metrics) if row[3] == age] for age in ("00-04", "05-09")}
    assert of_age["00-04"]
    assert of_age["00-04"] == of_age["05-09"]
    in_batch = [(load["rows_written"], load["rows_unchanged"]) for load in metrics.states() if load["key"].startswith("b")]
    assert in_batch == single
    assert len(set(metrics.query("SELECT newest_refresh_date FROM metrics.series"))) == 1


def test_headline_revisions_in_one_batch_end_as_if_loaded_one_after_the_other(metrics: Metrics) -> None:
    revisions = [headline(R1, figure(D1, 1)), headline(R3, figure(D2, 2, SOON)), headline(R2, figure(D3, 3)), headline(R4, figure(D1, 1))]
    land_batch(metrics, *(revision | {"age": "00-04"} for revision in revisions))
    metrics.run(now=NOW)
    single = load_each(metrics, *(revision | {"age": "05-09"} for revision in revisions))
    of_age = (
        "SELECT h.period_end, h.metric_value, h.refresh_date, h.embargo "
        "FROM metrics.core_headline AS h JOIN metrics.series_labels AS l USING (series_id) WHERE l.age = %s ORDER BY 1, 3"
    )
    rows = [metrics.query(of_age, [age]) for age in ("00-04", "05-09")]
    assert rows[0]
    assert rows[0] == rows[1]
    assert [(load["rows_written"], load["rows_unchanged"]) for load in metrics.states() if load["key"].startswith("b")] == single


def test_a_value_that_comes_back_is_live_again(metrics: Metrics) -> None:
    assert load_each(metrics, *(series(refresh, point(D1, value)) for refresh, value in ((R1, 1), (R2, 2), (R3, 1)))) == [(1, 0)] * 3
    assert known(metrics) == [(D1, 1.0, R3)]


def test_a_headline_that_comes_back_is_live_again(metrics: Metrics) -> None:
    load_each(metrics, *(headline(refresh, figure(D1, value)) for refresh, value in ((R1, 1), (R2, 2), (R3, 1))))
    assert headlines(metrics) == [(D1, 1.0, R3)]


@pytest.mark.parametrize(
    ("before", "after"), [(None, SOON), (SOON, None), (RELEASED, SOON), (SOON, LATER), (LATER, SOON), (None, RELEASED)]
)
def test_a_change_of_embargo_alone_is_stored(metrics: Metrics, before: str | None, after: str | None) -> None:
    load_each(metrics, series(R1, point(D1, 1, before)), series(R2, point(D1, 1, after)))
    newest = facts(metrics)[-1]
    assert newest[6:8] == (datetime.fromisoformat(R2), after and datetime.fromisoformat(after))


def test_a_change_of_a_headlines_embargo_or_bounds_alone_is_stored(metrics: Metrics) -> None:
    changed = [figure(D1, 1, SOON), figure(D1, 1), figure(D1, 1, lower_confidence=0, upper_confidence=2), figure(D1, 1)]
    for refresh, one in zip((R1, R2, R3, R4), changed, strict=True):
        assert load_each(metrics, headline(refresh, one)) == [(1, 0)]
    assert headlines(metrics) == [(D1, 1.0, R4)]
    assert metrics.query("SELECT embargo, lower_confidence FROM metrics.core_headline") == [(None, None)]


def test_an_embargoed_revision_that_was_taken_back_never_comes_out(metrics: Metrics) -> None:
    load_each(metrics, series(R1, point(D1, 1)), series(R2, point(D1, 2, SOON)))
    assert (live(metrics, BEFORE), live(metrics, LAPSED)) == ([(D1, 1.0)], [(D1, 2.0)])
    load_each(metrics, series(R3, point(D1, 1)))
    assert live(metrics, BEFORE) == live(metrics, LAPSED) == [(D1, 1.0)]


@pytest.mark.parametrize("taken_back_for", [figure(D1, 1, start="2026-01-01"), figure(D1, 1, RELEASED, start="2026-01-01")])
def test_an_embargoed_headline_that_was_taken_back_never_comes_out(metrics: Metrics, taken_back_for: Point) -> None:
    """Also where the revision was for another period: the figure that comes back equals an older row of its own period."""
    load_each(metrics, headline(R1, figure(D1, 1)), headline(R2, figure(D1, 2, SOON, start="2026-02-01")), headline(R3, taken_back_for))
    assert live_headline(metrics, BEFORE) == live_headline(metrics, LAPSED) == 1


def test_an_embargoed_alert_that_was_taken_back_never_comes_out(metrics: Metrics) -> None:
    load_each(metrics, alert(R1, figure(D1, 1)), alert(R2, figure(D2, 2, SOON)), alert(R3, figure(D1, 1)))
    assert live_headline(metrics, BEFORE, by_refresh=True) == live_headline(metrics, LAPSED, by_refresh=True) == 1


def test_embargoed_revisions_do_not_pile_up(metrics: Metrics) -> None:
    """A revision goes once a newer one is released no later; it stays where the newer one is released later."""
    load_each(metrics, series(R1, point(D1, 1, LATER)), series(R2, point(D1, 2, SOON)))
    assert known(metrics) == [(D1, 2.0, R2)]
    load_each(metrics, series(R3, point(D1, 3, SOON)))
    assert known(metrics) == [(D1, 3.0, R3)]
    load_each(metrics, series(R4, point(D1, 4, LATER)))
    assert known(metrics) == [(D1, 3.0, R3), (D1, 4.0, R4)]
    assert live(metrics, BEFORE) == []
    assert live(metrics, datetime.fromisoformat(SOON)) == [(D1, 3.0)]
    assert live(metrics, datetime.fromisoformat(LATER)) == [(D1, 4.0)]


def test_embargoed_headlines_do_not_pile_up(metrics: Metrics) -> None:
    load_each(metrics, headline(R1, figure(D1, 1, LATER)), headline(R2, figure(D1, 2, SOON)), headline(R3, figure(D2, 3, SOON)))
    assert headlines(metrics) == [(D2, 3.0, R3)]
    load_each(metrics, headline(R4, figure(D3, 4, LATER)))
    assert headlines(metrics) == [(D2, 3.0, R3), (D3, 4.0, R4)]


def test_a_row_whose_successor_was_released_meanwhile_goes_with_the_next_file(metrics: Metrics) -> None:
    load_each(metrics, series(R1, point(D1, 1), point(D2, 1)), series(R2, point(D1, 2, SOON)))
    assert known(metrics) == [(D1, 1.0, R1), (D1, 2.0, R2), (D2, 1.0, R1)]
    outcome = metrics.load("a.json", series(R3, point(D1, 2, SOON)), now=LAPSED)
    assert (outcome.total().rows_written, outcome.rows_superseded) == (0, 2)
    assert known(metrics) == [(D1, 2.0, R2), (D2, 1.0, R1)]


def test_a_late_file_writes_only_dates_the_series_does_not_hold(metrics: Metrics) -> None:
    load_each(metrics, series(R3, point(D1, 3)))
    outcome = metrics.load("late.json", series(R1, point(D1, 1), point(D2, 1)), now=NOW)
    assert (outcome.total().loads_late, outcome.total().rows_written, outcome.total().rows_unchanged) == (1, 1, 1)
    assert known(metrics) == [(D1, 3.0, R3), (D2, 1.0, R1)]
    assert whys(metrics, "late.json") == ["discovered", "late: a newer refresh date is known"]
    assert not any("late" in why for why in whys(metrics, "a.json"))
    assert metrics.query("SELECT newest_refresh_date FROM metrics.series") == [(datetime.fromisoformat(R3),)]


def test_a_late_file_does_not_bring_out_what_the_newest_holds_back(metrics: Metrics) -> None:
    load_each(metrics, series(R3, point(D1, 3, SOON)))
    load_each(metrics, series(R2, point(D1, 2)))
    assert known(metrics) == [(D1, 3.0, R3)]


def test_a_late_file_that_insists_is_late_all_the_same(metrics: Metrics) -> None:
    load_each(metrics, series(R3, point(D1, 3)), series(R1, point(D1, 1, force_write=True)))
    assert known(metrics) == [(D1, 3.0, R3)]


def test_a_file_between_two_that_said_the_same_is_late(metrics: Metrics) -> None:
    """The newer of the two wrote nothing; its refresh date is remembered all the same."""
    assert load_each(metrics, series(R1, point(D1, 1)), series(R3, point(D1, 1))) == [(1, 0), (0, 1)]
    outcome = metrics.load("between.json", series(R2, point(D1, 2)), now=NOW)
    assert outcome.total().loads_late == 1
    assert known(metrics) == [(D1, 1.0, R1)]


def test_a_late_headline_is_written_only_where_no_row_outranks_it(metrics: Metrics) -> None:
    load_each(metrics, headline(R3, figure(D2, 3)))
    assert metrics.load("late.json", headline(R1, figure(D1, 1)), now=NOW).total().loads_late == 1
    assert headlines(metrics) == [(D2, 3.0, R3)]
    assert load_each(metrics, headline(R2, figure(D2, 2))) == [(0, 1)]
    assert headlines(metrics) == [(D2, 3.0, R3)]
    assert load_each(metrics, headline(R2, figure(D3, 2))) == [(1, 0)]
    assert live_headline(metrics) == 2


def test_a_late_headline_fills_the_time_before_the_newest_is_released(metrics: Metrics) -> None:
    load_each(metrics, headline(R3, figure(D2, 3, SOON)), headline(R1, figure(D1, 1)))
    assert (live_headline(metrics, BEFORE), live_headline(metrics, LAPSED)) == (1, 3)
    assert load_each(metrics, headline(R2, figure("2026-05-01", 2, LATER))) == [(0, 1)]
    assert headlines(metrics) == [(D1, 1.0, R1), (D2, 3.0, R3)]


def test_a_late_alert_does_not_replace_a_newer_one_that_said_the_same_as_before(metrics: Metrics) -> None:
    load_each(metrics, alert(R1, figure(D1, 1)), alert(R3, figure(D1, 1)), alert(R2, figure(D2, 2)))
    assert headlines(metrics) == [(D1, 1.0, R1)]


def test_a_newer_file_that_says_the_same_writes_nothing(metrics: Metrics) -> None:
    load_each(metrics, series(R1, point(D1, 1), point(D2, 2, SOON)), headline(R1, figure(D1, 1), figure(D2, 2, SOON)))
    before = everything(metrics)
    assert load_each(metrics, series(R2, point(D1, 1), point(D2, 2, SOON))) == [(0, 2)]
    assert load_each(metrics, headline(R2, figure(D1, 1), figure(D2, 2, SOON))) == [(0, 2)]
    assert metrics.query("SELECT newest_refresh_date FROM metrics.series") == [(datetime.fromisoformat(R2),)] * 2
    before.pop("series")
    assert {table: rows for table, rows in everything(metrics).items() if table != "series"} == before


def test_a_correction_under_the_same_refresh_date_takes_the_place_of_the_row(metrics: Metrics) -> None:
    load_each(metrics, series(R1, point(D1, 1), point(D2, 1)), series(R1, point(D1, 2), point(D2, 1)))
    assert known(metrics) == [(D1, 2.0, R1), (D2, 1.0, R1)]
    load_each(metrics, headline(R1, figure(D1, 1)), headline(R1, figure(D1, 2)))
    assert headlines(metrics) == [(D1, 2.0, R1)]


def test_a_correction_of_an_embargoed_row_leaves_the_released_one(metrics: Metrics) -> None:
    load_each(metrics, series(R1, point(D1, 1)), series(R2, point(D1, 2, SOON)), series(R2, point(D1, 3, SOON)))
    assert (live(metrics, BEFORE), live(metrics, LAPSED)) == ([(D1, 1.0)], [(D1, 3.0)])
    assert known(metrics) == [(D1, 1.0, R1), (D1, 3.0, R2)]


def test_a_point_missing_from_a_newer_file_stays(metrics: Metrics) -> None:
    load_each(metrics, series(R1, point(D1, 1), point(D2, 2)), series(R2, point(D1, 3)))
    assert known(metrics) == [(D1, 3.0, R2), (D2, 2.0, R1)]
    load_each(metrics, series(R3))
    assert known(metrics) == [(D1, 3.0, R2), (D2, 2.0, R1)]


def test_four_rounds_leave_the_newest_of_each_date(metrics: Metrics) -> None:
    days = [(R1, (D1, D2, D3)), (R2, (D1, D2, D3)), (R3, (D3,)), (R4, (D1,))]
    load_each(metrics, *(series(refresh, *(point(day, number) for day in dates)) for number, (refresh, dates) in enumerate(days, 1)))
    assert known(metrics) == [(D1, 4.0, R4), (D2, 2.0, R2), (D3, 3.0, R3)]


@pytest.mark.parametrize(
    ("changes", "changed"), [({"in_reporting_delay_period": True}, (22, "D", True)), ({"epiweek": 23}, (23, "D", False))]
)
def test_a_change_of_delay_flag_or_week_alone_replaces_the_row(metrics: Metrics, changes: dict[str, Any], changed: tuple[Any, ...]) -> None:
    assert load_each(metrics, series(R1, point(D1, 1)), series(R2, point(D1, 1, **changes))) == [(1, 0)] * 2
    [row] = facts(metrics)
    assert (row[6], row[8:11]) == (datetime.fromisoformat(R2), changed)


def test_a_change_of_frequency_alone_replaces_the_row_under_either_refresh_date(metrics: Metrics) -> None:
    for refresh, frequency in ((R1, "daily"), (R2, "weekly"), (R2, "monthly")):
        assert load_each(metrics, series(refresh, point(D1, 1), metric_frequency=frequency)) == [(1, 0)]
    [row] = facts(metrics)
    assert (row[6], row[9]) == (datetime.fromisoformat(R2), "M")


def test_force_write_ten_times_over_writes_once(metrics: Metrics) -> None:
    """Also where an older row is still there, because the forced one is embargoed."""
    forced = series(R2, *(point(day, 2, embargo, force_write=True) for day, embargo in ((D1, None), (D2, SOON), (D3, None))))
    assert load_each(metrics, series(R1, point(D1, 1), point(D2, 1)), forced) == [(2, 0), (3, 0)]
    before = everything(metrics)
    for attempt in range(10):
        assert load_each(metrics, forced | {"delivery": attempt}) == [(0, 3)]
    assert everything(metrics) == before


def test_force_write_under_a_newer_refresh_date_writes_once(metrics: Metrics) -> None:
    load_each(metrics, series(R1, point(D1, 1), point(D2, 1)))
    forced = series(R2, point(D1, 1, force_write=True), point(D2, 1))
    assert load_each(metrics, forced, forced | {"delivery": 2}) == [(1, 1), (0, 2)]
    assert known(metrics) == [(D1, 1.0, R2), (D2, 1.0, R1)]
    assert [row[-1] for row in facts(metrics)] == [True, False]


def test_two_values_for_one_date_are_both_live_and_a_revision_replaces_both(metrics: Metrics) -> None:
    both = series(R1, point(D1, 1), point(D1, 2), point(D2, 1))
    assert load_each(metrics, both, both | {"refresh_date": R2}) == [(3, 0), (0, 3)]
    assert live(metrics) == [(D1, 1.0), (D1, 2.0), (D2, 1.0)]
    assert load_each(metrics, series(R3, point(D1, 1))) == [(1, 0)]
    assert known(metrics) == [(D1, 1.0, R3), (D2, 1.0, R1)]


def test_two_values_in_another_order_are_the_same(metrics: Metrics) -> None:
    values = [point(D1, 2), point(D1, 1, SOON), point(D1, 1, epiweek=23)]
    assert load_each(metrics, series(R1, *values), series(R2, *values[::-1])) == [(3, 0), (0, 3)]


def test_a_point_twice_in_one_file_is_one_row(metrics: Metrics) -> None:
    assert load_each(metrics, series(R1, point(D1, 1), point(D1, 1), point(D1, 1.0, force_write=True))) == [(1, 2)]
    assert known(metrics) == [(D1, 1.0, R1)]
    assert load_each(metrics, headline(R1, figure(D1, 1), figure(D1, 1))) == [(1, 1)]
    assert headlines(metrics) == [(D1, 1.0, R1)]


def test_an_alert_is_the_newest_refresh_whatever_its_period(metrics: Metrics) -> None:
    load_each(metrics, alert(R1, figure(D3, 1)), alert(R2, figure(D1, 2)))
    assert headlines(metrics) == [(D1, 2.0, R2)]
    assert metrics.query("SELECT metric_value FROM metrics.live_headlines") == [(2,)]


def test_a_headline_is_the_newest_period_whatever_its_refresh(metrics: Metrics) -> None:
    load_each(metrics, headline(R1, figure(D3, 1)), headline(R2, figure(D1, 2)))
    assert headlines(metrics) == [(D1, 2.0, R2), (D3, 1.0, R1)]
    assert metrics.query("SELECT metric_value FROM metrics.live_headlines") == [(1,)]
    load_each(metrics, headline(R3, figure(D3, 3)))
    assert headlines(metrics) == [(D3, 3.0, R3)]


def test_a_headline_file_does_not_lose_the_figure_that_stayed(metrics: Metrics) -> None:
    """The figure of the newer period supersedes older rows, and with them would go the equal figure of the older period."""
    load_each(metrics, headline(R1, figure(D1, 1)), headline(R2, figure(D1, 1), figure(D2, 2)))
    assert headlines(metrics) == [(D1, 1.0, R2), (D2, 2.0, R2)]
    assert load_each(metrics, headline(R3, figure(D1, 1), figure(D2, 2))) == [(0, 2)]


def test_an_alert_of_two_figures_does_not_change_when_nothing_did(metrics: Metrics) -> None:
    load_each(metrics, alert(R1, figure(D1, 1)), alert(R2, figure(D1, 1), figure(D2, 2)))
    assert metrics.query("SELECT metric_value FROM metrics.live_headlines") == [(2,)]
    assert load_each(metrics, alert(R3, figure(D1, 1), figure(D2, 2))) == [(0, 2)]
    assert metrics.query("SELECT metric_value FROM metrics.live_headlines") == [(2,)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("Southend", "E06000033"), ("Southend", "E06000099")),
        (("Southend", "E06000033"), ("Southend-on-Sea", "E06000033")),
    ],
    ids=["re-coded", "renamed"],
)
def test_a_geography_under_a_new_code_or_name_is_one_of_its_own(metrics: Metrics, first: tuple[str, str], second: tuple[str, str]) -> None:
    revisions = [
        series(refresh, point(D1, value), geography_type="Lower Tier Local Authority", geography=name, geography_code=code)
        for refresh, value, (name, code) in ((R1, 1, first), (R2, 2, second), (R3, 1, first))
    ]
    assert load_each(metrics, *revisions) == [(1, 0), (1, 0), (0, 1)]
    rows = [(*first, D1, 1.0), (*second, D1, 2.0)]
    assert metrics.query("SELECT geography, geography_code, date::text, metric_value FROM public.data_apitimeseries ORDER BY id") == rows
    assert metrics.query("SELECT geography, geography_code, date::text, metric_value FROM metrics.live_time_series ORDER BY id") == rows
    core = (
        "SELECT g.name, g.geography_code, t.date::text, t.metric_value::float8 FROM public.data_coretimeseries AS t "
        "JOIN public.data_geography AS g ON g.id = t.geography_id ORDER BY t.id"
    )
    assert metrics.query(core) == rows


HOMES = [
    {"child_theme": "respiratory", "topic": "COVID-19"},
    {"child_theme": "respiratory", "topic": "COVID-19-like"},
    {"parent_theme": "non-communicable", "child_theme": "respiratory", "topic": "COVID-19"},
    {"metric_group": "cases"},
]


@pytest.mark.parametrize("home", HOMES[1:], ids=["topic", "theme", "group"])
@pytest.mark.parametrize("in_one_batch", [False, True], ids=["known", "one-batch"])
def test_a_metric_that_moved_is_refused_whole_and_its_neighbours_are_loaded(
    metrics: Metrics, home: dict[str, str], in_one_batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    name = "COVID-19-like_deaths_and_cases"
    land_batch(metrics, series(R1, point(D1, 1), metric=name), key="a")
    if not in_one_batch:
        metrics.run(now=NOW)
    moved = series(R2, point(D1, 2), point(D2, 2), metric=name, age="05-09", stratum="moved") | home
    land_batch(metrics, moved, key="b")
    land_batch(metrics, series(R2, point(D3, 3), metric=name), series(R1, point(D1, 9)), key="c")
    outcome = metrics.run(now=NOW)
    assert "one by one" not in caplog.text, "seen only after the whole batch had failed"
    assert metrics.statuses() == {"a00.json": "archived", "b00.json": "errored", "c00.json": "archived", "c01.json": "archived"}
    [problem] = [problem for problem in metrics.report("b00")["problems"] if problem["severity"] == "error"]
    assert problem["code"] == "metric_rehomed"
    assert outcome.total().rows_rejected == 2
    assert sorted((row[0], *row[4:6]) for row in facts(metrics)) == [
        (name, D1, 1.0), (name, D3, 3.0), ("COVID-19_deaths_ONSByDay", D1, 9.0)
    ]  # fmt: skip
    assert {table: metrics.rows(f"metrics.{table}") for table in SUPPORTING_TABLES} == dict.fromkeys(SUPPORTING_TABLES, 1) | {"metric": 2}


def test_a_topic_of_two_themes_keeps_its_metrics_apart(metrics: Metrics) -> None:
    load_each(
        metrics,
        series(R1, point(D1, 1), child_theme="bloodstream_infection", topic="E-coli", metric="E-coli_deaths_a"),
        series(R1, point(D1, 2), child_theme="antimicrobial_resistance", topic="E-coli", metric="E-coli_deaths_b"),
    )
    assert metrics.query("SELECT sub_theme, topic, metric FROM public.data_apitimeseries ORDER BY metric") == [
        ("bloodstream_infection", "E-coli", "E-coli_deaths_a"),
        ("antimicrobial_resistance", "E-coli", "E-coli_deaths_b"),
    ]


@contextmanager
def refusing(metrics: Metrics, table: str) -> Iterator[None]:
    """A database that refuses to insert rows of stratum `refused` into a table."""
    known_by = "metrics.stratum WHERE id = NEW.stratum_id AND name" if table == "series" else (
        "metrics.series_labels WHERE series_id = NEW.series_id AND stratum"
    )  # fmt: skip
    with metrics.database.connect() as connection:
        connection.execute(
            f"""
            CREATE FUNCTION metrics.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF EXISTS (SELECT FROM {known_by} = 'refused') THEN
                    RAISE EXCEPTION 'value 4711 is refused' USING ERRCODE = 'check_violation';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON metrics.{table} FOR EACH ROW EXECUTE FUNCTION metrics.refuse()
            """
        )
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION metrics.refuse CASCADE")


@pytest.mark.parametrize("table", ["series", "core_time_series", "api_time_series", "core_headline"])
def test_a_file_the_database_refuses_is_in_no_table_and_its_neighbours_in_all(metrics: Metrics, table: str) -> None:
    make, told = (headline, figure) if table == "core_headline" else (series, point)
    load_each(metrics, make(R1, told(D1, 1)))
    wales = {"geography": "Wales", "geography_code": "W92000004"}
    land_batch(
        metrics,
        make(R2, told(D1, 2)),
        make(R2, told(D1, 4711), stratum="refused", age="05-09", **wales),
        series(R1, point(D1, 3), point(D2, 3), stratum="neighbour"),
    )
    with refusing(metrics, table):
        outcome = metrics.run(now=NOW)
    assert metrics.statuses() == {"a.json": "archived", "b00.json": "archived", "b01.json": "errored", "b02.json": "archived"}
    assert [problem["code"] for problem in metrics.report("b01")["problems"]] == ["database_refused"]
    assert "4711" not in json.dumps(metrics.report("b01"))
    assert outcome.codes == {"database_refused": 1}
    assert metrics.query("SELECT name FROM metrics.stratum ORDER BY 1") == [("default",), ("neighbour",)]
    assert metrics.query("SELECT name FROM metrics.age UNION ALL SELECT name FROM metrics.geography ORDER BY 1") == [("England",), ("all",)]
    assert sorted(row[5] for row in facts(metrics)) == ([3, 3] if make is headline else [2, 3, 3])
    assert [value for _, value, _ in headlines(metrics)] == ([2] if make is headline else [])


def test_every_row_of_every_load_is_accounted_for(metrics: Metrics) -> None:
    land_batch(
        metrics,
        series(R1, point(D1, 1), point(D1, 1), point(D2, None), point(D3, 3)),
        series(R2, point(D1, 1), point(D3, 4)),
        series(R1, point(D1, 9), point("2026-06-04", 9)),
        series(R1, point(D1, 1), point(D2, 2), sex="banana"),
        series(R1, point(D1, 1), topic="COVID-19-like", metric="COVID-19-like_deaths_x"),
        series(R1, point(D1, 1), point(D2, 1), metric_group="cases", metric="COVID-19-like_deaths_x"),
        headline(R1, figure(D1, 1), figure(D1, 1), figure(D2, 2)),
        headline(R2, figure(D1, 1), figure(D2, 2)),
        series(R1),
    )
    metrics.run(now=NOW)
    loads = {load["key"]: load for load in metrics.states()}
    counts = {key: (load["rows_in"], load["rows_written"], load["rows_unchanged"], load["rows_rejected"]) for key, load in loads.items()}
    assert counts == {
        "b00.json": (3, 2, 1, 0),
        "b01.json": (2, 1, 1, 0),
        "b02.json": (2, 1, 1, 0),
        "b03.json": (2, 0, 0, 2),
        "b04.json": (1, 1, 0, 0),
        "b05.json": (2, 0, 0, 2),
        "b06.json": (3, 2, 1, 0),
        "b07.json": (2, 0, 2, 0),
        "b08.json": (0, 0, 0, 0),
    }
    assert all(came == written + same + refused for came, written, same, refused in counts.values())


def test_a_point_without_a_value_writes_nothing_and_takes_nothing_away(metrics: Metrics) -> None:
    assert load_each(metrics, series(R1, point(D1, 1), point(D2, None)), series(R2, point(D1, None))) == [(1, 0), (0, 0)]
    assert known(metrics) == [(D1, 1.0, R1)]
    assert load_each(metrics, series(R3, point(D2, 2), point(D1, None))) == [(1, 0)]
    assert known(metrics) == [(D1, 1.0, R1), (D2, 2.0, R3)]


def test_what_was_not_asked_for_is_given_back_uncharged_and_loaded_once_later(metrics: Metrics) -> None:
    land_batch(metrics, series(R1, point(D1, 1)), headline(R1, figure(D1, 1)))
    first = metrics.run(now=NOW, run_id="headlines", datasets=frozenset({"headline"}))
    assert first.total().loads_archived == 1
    back = "SELECT count(*) FROM ledger.load_events WHERE from_status = 'ingesting' AND to_status = 'ready'"
    assert metrics.query(back) == [(1,)]
    given_back = {load["key"]: load for load in metrics.states()}["b00.json"]
    assert (given_back["status"], given_back["dataset"], given_back["attempts"]) == ("ready", "deaths", 0)
    assert (metrics.rows("metrics.core_time_series"), metrics.rows("metrics.core_headline")) == (0, 1)
    assert metrics.query("SELECT name FROM metrics.metric") == [("COVID-19_headline_7DayAdmissions",)]
    assert metrics.run(now=NOW, run_id="again", datasets=frozenset({"headline"})).total().loads_archived == 0
    assert metrics.query(back) == [(1,)]
    assert metrics.run(now=NOW, run_id="deaths", datasets=frozenset({"deaths"})).total().rows_written == 1
    assert metrics.run(now=NOW, run_id="all").total().loads_archived == 0
    assert known(metrics) == [(D1, 1.0, R1)]


@pytest.mark.parametrize("empty", [series(R3), series(R3, point(D1, None)), headline(R3)], ids=["series", "nulls", "headline"])
def test_a_file_without_points_creates_its_supporting_rows_and_is_remembered(metrics: Metrics, empty: dict[str, Any]) -> None:
    assert load_each(metrics, empty) == [(0, 0)]
    tables = (*SUPPORTING_TABLES, "series")
    assert {table: metrics.rows(f"metrics.{table}") for table in tables} == dict.fromkeys(tables, 1)
    assert facts(metrics) == headlines(metrics) == []
    assert metrics.query("SELECT newest_refresh_date FROM metrics.series") == [(datetime.fromisoformat(R3),)]


def test_a_replay_of_all_files_changes_nothing(metrics: Metrics) -> None:
    """In whatever order they come again, ten times over."""
    land_batch(metrics, *REVISIONS, headline(R1, figure(D1, 1)), headline(R2, figure(D2, 2, SOON)), alert(R1, figure(D1, 1)))
    metrics.run(now=NOW)
    before = everything(metrics)
    for time in range(10):
        again = [*REVISIONS, headline(R1, figure(D1, 1)), headline(R2, figure(D2, 2, SOON)), alert(R1, figure(D1, 1))]
        land_batch(metrics, *(payload | {"time": time} for payload in again[:: (-1) ** time]), key=f"again{time}-")
        total = metrics.run(now=NOW).total()
        assert (total.loads_archived, total.rows_written) == (len(again), 0)
        assert everything(metrics) == before


# ---- random histories ----

HORIZON = [NOW + timedelta(days=days) for days in range(7)]
Row = tuple[float, int, bool, datetime | None, str, bool]
Version = tuple[Row, ...]


@dataclass(frozen=True)
class Revision:
    """A file of one series: its refresh date as a day of July, and per date the rows it gives."""

    refresh: int
    dates: dict[int, Version]

    def payload(self, metric: str) -> dict[str, Any]:
        frequency = next((rows[0][4] for rows in self.dates.values()), "D")
        points = [
            point(f"2026-06-{day:02}", value, embargo.isoformat() if embargo else None, epiweek=week, force_write=force)
            | {"in_reporting_delay_period": delay}
            for day, rows in self.dates.items()
            for value, week, delay, embargo, _, force in rows
        ]
        points.sort(key=lambda one: bool(one["in_reporting_delay_period"]))
        names = {"D": "daily", "W": "weekly"}
        return series(f"2026-07-{self.refresh:02}T00:00:00Z", *points, metric=metric, metric_frequency=names[frequency])


@dataclass
class Known:
    """The rules in a few lines: what one series holds, per date and refresh date, and all it was ever told."""

    newest: int = 0
    held: dict[int, dict[int, Version]] = field(default_factory=dict)
    told: dict[int, dict[int, Version]] = field(default_factory=dict)

    def take(self, revision: Revision, now: datetime) -> None:
        late = revision.refresh < self.newest
        self.newest = max(self.newest, revision.refresh)
        for day, rows in revision.dates.items():
            held = self.held.setdefault(day, {})
            latest = max(held, default=0)
            insists = any(row[5] for row in rows) and latest < revision.refresh
            if not held or (not late and (insists or says(rows) != says(held[latest]))):
                held[revision.refresh] = rows
            if not late or day not in self.told:
                self.told.setdefault(day, {})[revision.refresh] = rows
            self.held[day] = {
                refresh: kept
                for refresh, rows in held.items()
                if (kept := tuple(row for row in rows if not any(out_by(new, row, now) for at in held if at > refresh for new in held[at])))
            }

    def rows(self) -> list[tuple[Any, ...]]:
        return sorted(((day, refresh, *row) for day, held in self.held.items() for refresh, rows in held.items() for row in rows), key=repr)

    def live(self, at: datetime) -> list[tuple[Any, ...]]:
        """By the reader contract, from all that was ever told: no row was deleted here."""
        shown = []
        for day, told in self.told.items():
            out = {refresh: [row for row in rows if row[3] is None or row[3] <= at] for refresh, rows in told.items()}
            newest = max((refresh for refresh, rows in out.items() if rows), default=None)
            shown += [(day, *row[:3], row[4]) for row in out.get(newest or 0, [])]
        return sorted(shown)


def says(rows: Version) -> Any:
    """What counts as a change: everything but the wish to be written."""
    return sorted((row[:5] for row in rows), key=repr)


def out_by(new: Row, old: Row, now: datetime) -> bool:
    """Whether a newer row is released already, or no later than the older one."""
    return new[3] is None or new[3] <= now or (old[3] is not None and new[3] <= old[3])


embargoes = st.none() | st.sampled_from([NOW - timedelta(days=9), *HORIZON[1:5]])


@st.composite
def versions(draw: st.DrawFn, frequency: str) -> Version:
    key = st.tuples(st.sampled_from([1.0, 2.0, 2.5]), st.sampled_from([22, 22, 23]), st.sampled_from([False, False, True]))
    forced = st.sampled_from([False, False, False, True])
    keys = draw(st.lists(key, min_size=1, max_size=draw(st.sampled_from([1, 1, 2])), unique=True))
    return tuple((*key, draw(embargoes), frequency, draw(forced)) for key in keys)


@st.composite
def revisions(draw: st.DrawFn, refresh: st.SearchStrategy[int]) -> Revision:
    frequency = draw(st.sampled_from(["D", "D", "D", "W"]))
    days = draw(st.lists(st.integers(1, 3), unique=True, max_size=3))
    return Revision(draw(refresh), {day: draw(versions(frequency)) for day in days})


histories = st.lists(st.lists(st.tuples(st.integers(0, 1), revisions(st.integers(1, 6))), min_size=1, max_size=3), min_size=1, max_size=4)


@st.composite
def without_corrections(draw: st.DrawFn) -> list[list[tuple[int, Revision]]]:
    """Histories in which no two files bear the same refresh date."""
    dates = draw(st.permutations(range(1, 9)))
    batches: list[list[tuple[int, Revision]]] = [[]]
    for number in dates[: draw(st.integers(2, 8))]:
        batches[-1].append((draw(st.integers(0, 1)), draw(revisions(st.just(number)))))
        if draw(st.booleans()):
            batches.append([])
    return [batch for batch in batches if batch]


class Tables:
    """The table side alone, over one connection, with metric names that no example shares."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._examples = 0

    def metric_names(self, prefix: str = "COVID-19_deaths_example") -> tuple[str, str]:
        self._examples += 1
        return f"{prefix}{self._examples}a", f"{prefix}{self._examples}b"

    def merge(self, payloads: Sequence[dict[str, Any]], now: datetime) -> Merged:
        interface = MetricsAPIInterface(self.connection)
        with self.connection.transaction():
            with interface.staging() as staging:
                for payload in payloads:
                    staging.add(judge(payload, "a.json"))
            assert interface.take_out_rehomed() == set()
            return interface.merge(now)

    def rows(self, metric: str) -> list[tuple[Any, ...]]:
        core, api = (
            self.connection.execute(
                f"""
                SELECT extract(day FROM t.date)::int, extract(day FROM t.refresh_date)::int, t.metric_value::float8, t.epiweek,
                       t.in_reporting_delay_period, t.embargo, t.metric_frequency, t.force_write
                FROM public.{view} AS t {join} WHERE {name} = %s
                """,
                [metric],
            ).fetchall()
            for view, join, name in (
                ("data_coretimeseries", "JOIN public.data_metric AS m ON m.id = t.metric_id", "m.name"),
                ("data_apitimeseries", "", "t.metric"),
            )
        )
        assert sorted(core, key=repr) == sorted(api, key=repr)
        return sorted(api, key=repr)

    def live(self, metric: str, instants: Sequence[datetime]) -> dict[datetime, list[tuple[Any, ...]]]:
        """The reader contract in SQL, as of each instant."""
        rows = self.connection.execute(
            """
            SELECT at, extract(day FROM date)::int, metric_value, epiweek, in_reporting_delay_period, metric_frequency
            FROM (
                SELECT *, rank() OVER (PARTITION BY at, age, sex, stratum, date ORDER BY refresh_date DESC) AS rank
                FROM public.data_apitimeseries, unnest(%s::timestamptz[]) AS at
                WHERE metric = %s AND (embargo IS NULL OR embargo <= at)
            ) AS ranked
            WHERE rank = 1 ORDER BY 1, 2, 3, 4, 5, 6
            """,
            [list(instants), metric],
        ).fetchall()
        return {at: [row[1:] for row in rows if row[0] == at] for at in instants}

    def live_headline(self, metric: str, instants: Sequence[datetime], order: str) -> dict[datetime, float]:
        """The headline that readers pick as of each instant, if any."""
        return dict(
            self.connection.execute(
                f"""
                SELECT DISTINCT ON (at) at, h.metric_value::float8
                FROM public.data_coreheadline AS h
                JOIN public.data_metric AS m ON m.id = h.metric_id
                JOIN unnest(%s::timestamptz[]) AS at ON h.embargo IS NULL OR h.embargo <= at
                WHERE m.name = %s
                ORDER BY at, {order}
                """,
                [list(instants), metric],
            ).fetchall()
        )


@pytest.fixture
def tables(database: Database) -> Iterator[Tables]:
    """The table side alone."""
    with database.connect() as connection:
        yield Tables(connection)


fast = examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def from_now_on(now: datetime) -> list[datetime]:
    """Instants between which the embargoes of the histories lapse."""
    return [now, *(instant for instant in HORIZON if instant > now)]


def replay(tables: Tables, history: list[list[tuple[int, Revision]]]) -> Iterator[tuple[int, str, Known]]:
    """Load a history batch by batch, half a day apart; after each, every series with what it should hold."""
    names, models = tables.metric_names(), (Known(), Known())
    for number, batch in enumerate(history):
        now = NOW + timedelta(hours=12 * number)
        merged = tables.merge([revision.payload(names[which]) for which, revision in batch], now)
        late = set()
        for position, (which, revision) in enumerate(batch):
            if revision.refresh < models[which].newest:
                late.add(position)
            models[which].take(revision, now)
        assert merged.late == late
        for name, model in zip(names, models, strict=True):
            yield number, name, model


@fast
@given(history=histories)
def test_any_history_leaves_the_rows_the_rules_leave_in_both_tables(tables: Tables, history: list[list[tuple[int, Revision]]]) -> None:
    for _, name, model in replay(tables, history):
        assert tables.rows(name) == model.rows()


@fast
@given(history=without_corrections())
def test_any_history_shows_what_it_would_if_nothing_were_ever_deleted(tables: Tables, history: list[list[tuple[int, Revision]]]) -> None:
    for number, name, model in replay(tables, history):
        instants = from_now_on(NOW + timedelta(hours=12 * number))
        assert tables.live(name, instants) == {at: model.live(at) for at in instants}


figures = st.tuples(st.sampled_from(["2026-04-01", "2026-05-01"]), st.integers(1, 3), st.integers(1, 2).map(float), embargoes)


@fast
@given(told=st.lists(figures, min_size=2, max_size=6), is_alert=st.booleans())
def test_any_history_of_headlines_shows_the_newest_that_is_released(
    tables: Tables, told: list[tuple[str, int, float, datetime | None]], is_alert: bool
) -> None:
    name = tables.metric_names("Heat-alert_headline_example" if is_alert else "COVID-19_headline_example")[0]
    for number, (start, day, value, embargo) in enumerate(told, 1):
        now = NOW + timedelta(hours=12 * number)
        make = alert if is_alert else headline
        one = figure(f"2026-06-{day:02}", value, embargo.isoformat() if embargo else None, start=start)
        tables.merge([make(f"2026-07-{number:02}T00:00:00Z", one) | {"metric": name}], now)
        shown = tables.live_headline(
            name, from_now_on(now), "h.refresh_date DESC" if is_alert else "h.period_end DESC, h.refresh_date DESC"
        )
        for at in from_now_on(now):
            out = [
                (0 if is_alert else day, position, value)
                for position, (_, day, value, embargo) in enumerate(told[:number])
                if embargo is None or embargo <= at
            ]
            assert shown.get(at) == (max(out)[2] if out else None)


def test_the_live_views_are_the_reader_contract_now(metrics: Metrics) -> None:
    today = datetime.now(UTC)
    past, future = ((today + timedelta(days=days)).isoformat() for days in (-1, 1))
    files = [
        series(R1, point(D1, 1), point(D2, 1, past), point(D3, 1, future)),
        series(R2, point(D1, 2, future), point(D2, 2), point(D2, 3)),
    ]
    load_each(metrics, *files)
    shown = metrics.query("SELECT date::text, metric_value FROM metrics.live_time_series ORDER BY 1, 2")
    assert shown == live(metrics, datetime.now(UTC)) == [(D1, 1.0), (D2, 2.0), (D2, 3.0)]
    load_each(metrics, headline(R1, figure(D1, 1)), headline(R2, figure(D2, 2, future)))
    assert metrics.query("SELECT metric_value FROM metrics.live_headlines") == [(1,)]


def test_dates_keep_their_day_in_every_zone(metrics: Metrics) -> None:
    metrics.load("a.json", series(R1, point(D1, 1)))
    with metrics.database.connect() as connection:
        for name in ("America/Los_Angeles", "Pacific/Auckland"):
            connection.execute(f"SET timezone = '{name}'")
            row = connection.execute("SELECT date, year, month FROM public.data_apitimeseries").fetchone()
            assert row == (date(2026, 6, 1), 2026, 6)

"""Metric files: what is accepted, what is refused and with which codes, and what an accepted file means."""

import copy
import json
import math
from datetime import UTC, datetime
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.metrics import rules
from ingestion_dagster.metrics.files import (
    UNCLASSIFIED,
    HeadlinePoint,
    MetricFile,
    TimeSeriesPoint,
    content_hash,
    dataset_of,
    decode,
    judge,
    parse,
)

VECTORS = json.loads((Path(__file__).parent / "data" / "behaviour_vectors.json").read_text(encoding="utf-8"))["vectors"]
STEPS = {step["step"]: step for vector in VECTORS for step in vector["steps"]}
FIRST_STEPS = {vector["steps"][0]["step"]: vector["steps"][0] for vector in VECTORS}
# Refused by the state of the database, not by the file: the tests of the tables have them.
NEEDS_DATABASE = {name for name, step in STEPS.items() if step["original_error_class"] == "IntegrityError"}
JUDGED = sorted(STEPS.keys() - NEEDS_DATABASE)
DELIBERATE = {"sex unknown": "an unknown sex is refused, not filed under all"}
DELIBERATE_STATE = {
    "OFF-SENS missing flags": "a missing flag follows from the prefix, not from a public default",
    "OFF-SENS one flag missing": "a missing flag follows from the prefix, not from a public default",
    "sex F": "F is female, not all",
}
REASONS = {
    "is_public mixed": "mixed_public_flags",
    "epiweek 54": "bad_epiweek",
    "epiweek 25.5": "bad_epiweek",
    "metric_value str bad": "wrong_type",
    "metric_value nan": "value_not_a_number",
    "metric_value 1e7": "value_out_of_range",
    "time_series None": "null_field",
    "time_series missing": "missing_field",
    "freq W": "unknown_frequency",
    "sex None": "null_field",
    "sex unknown": "unknown_sex",
    "age 5+": "bad_age",
    "age ALL": "bad_age",
    "age 100+": "bad_age",
    "age 15": "bad_age",
    "age ''": "bad_age",
    "stratum 51 chars": "text_too_long",
    "refresh bad": "bad_datetime",
    "parent theme bad": "unknown_theme",
    "child theme bad": "unknown_child_theme",
    "topic bad": "unknown_topic",
    "metric 2 parts": "bad_metric_name",
    "metric special": "bad_metric_name",
    "geo type bad": "unknown_geography_type",
    "OFF-SENS metric public file": "file_name_contradicts_prefix",
    "OFF-SENS lowercase file": "file_name_contradicts_prefix",
    "hl missing embargo": "missing_field",
}
SENSITIVE = "OFF-SENS_COVID-19_deaths_ONSByDay"


def with_floats(value: Any) -> Any:
    """The vectors write NaN and infinity as strings."""
    if isinstance(value, dict):
        return {key: with_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_floats(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def series(*points: dict[str, Any], **header: Any) -> dict[str, Any]:
    """A valid series of two points, with other header fields, and with one point per argument instead where there are any."""
    payload: dict[str, Any] = copy.deepcopy(STEPS["ts ok"]["payload"])
    if points:
        payload["time_series"] = [payload["time_series"][0] | point for point in points]
    return payload | header


def headline(*points: dict[str, Any], **header: Any) -> dict[str, Any]:
    """The same for a valid headline of one point with confidence bounds."""
    payload: dict[str, Any] = copy.deepcopy(STEPS["hl ci ok"]["payload"])
    if points:
        payload["data"] = [payload["data"][0] | point for point in points]
    return payload | header


def without(mapping: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {field: value for field, value in mapping.items() if field not in fields}


def problems(payload: Any, name: str = "a.json") -> list[tuple[str, str]]:
    """Code and place of everything wrong with a payload; empty where it is accepted."""
    try:
        judge(payload, name)
    except Refused as refused:
        return [(problem.code, problem.place) for problem in refused.problems]
    return []


def codes(payload: Any, name: str = "a.json") -> list[str]:
    return [code for code, _ in problems(payload, name)]


# The recorded behaviour


@pytest.mark.parametrize("name", JUDGED)
def test_verdict_differs_from_the_recorded_one_only_on_purpose(name: str) -> None:
    step = STEPS[name]
    expected = "accept" if not codes(with_floats(step["payload"]), step["filename"]) else "reject"
    assert (expected != step["outcome"]) is (name in DELIBERATE)


@pytest.mark.parametrize("name", [name for name in JUDGED if STEPS[name]["outcome"] == "reject" or name in DELIBERATE])
def test_refusal_gives_the_one_reason_there_is(name: str) -> None:
    assert codes(with_floats(STEPS[name]["payload"]), STEPS[name]["filename"]) == [REASONS[name]]


@pytest.mark.parametrize("name", [name for name in FIRST_STEPS if FIRST_STEPS[name]["outcome"] == "accept" and name not in DELIBERATE])
def test_rows_of_a_first_load_are_the_recorded_ones(name: str) -> None:
    step = FIRST_STEPS[name]
    file = judge(with_floats(step["payload"]), step["filename"])
    recorded = step["state"]["core_headline"] if file.is_headline else step["state"]["core_time_series"]
    assert (sorted(core_rows(file)) == sorted(map(json.dumps, recorded))) is (name not in DELIBERATE_STATE)


def core_rows(file: MetricFile) -> list[str]:
    """The points as the vectors record core rows."""
    rows: list[list[Any]] = []
    for point in file.points:
        if isinstance(point, HeadlinePoint):
            numbers = [four_places(number) for number in (point.scaled_value, point.scaled_lower, point.scaled_upper)]
            rows.append([zulu(point.period_start), zulu(point.period_end), *numbers, zulu(file.refresh_date), zulu(point.embargo)])
        else:
            moments = [zulu(file.refresh_date), zulu(point.embargo)]
            flags = [point.in_reporting_delay_period, point.force_write]
            value = four_places(point.scaled_value)
            rows.append([str(point.date), value, *moments, file.sex, file.metric_frequency, point.epiweek, *flags])
    return [json.dumps([*row, file.is_public]) for row in rows]


def four_places(number: int | None) -> str | None:
    return None if number is None else f"{number / 10_000:.4f}"


def zulu(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


# Every problem, with its place, and never a value


def test_five_faults_take_one_delivery_to_find() -> None:
    payload = series({}, {"epiweek": 54}, {"date": "someday"}, topic="Chess", age="5+", sex="banana")
    assert sorted(problems(payload)) == [
        ("bad_age", "age"),
        ("bad_date", "time_series[2].date"),
        ("bad_epiweek", "time_series[1].epiweek"),
        ("unknown_sex", "sex"),
        ("unknown_topic", "topic"),
    ]


def test_a_point_with_several_faults_hides_none_of_them() -> None:
    point: dict[str, Any] = {
        "period_start": "x",
        "period_end": None,
        "metric_value": [],
        "embargo": "y",
        "lower_confidence": "z",
        "is_public": "true",
    }
    assert sorted(problems(headline(point))) == [
        ("bad_datetime", "data[0].embargo"),
        ("bad_datetime", "data[0].period_start"),
        ("null_field", "data[0].period_end"),
        ("wrong_type", "data[0].is_public"),
        ("wrong_type", "data[0].lower_confidence"),
        ("wrong_type", "data[0].metric_value"),
    ]


def test_places_count_the_points_that_are_skipped() -> None:
    payload = series({"metric_value": None, "epiweek": 99}, {"metric_value": None}, {"epiweek": 99})
    assert problems(payload) == [("bad_epiweek", "time_series[2].epiweek")]


def test_rules_between_fields_still_run_beside_an_unreadable_field() -> None:
    delays: list[dict[str, Any]] = [{"in_reporting_delay_period": True}, {"epiweek": 0, "in_reporting_delay_period": "?"}, {}]
    assert sorted(codes(series(*delays))) == ["bad_epiweek", "delay_period_ended", "wrong_type"]
    point = {"embargo": "x", "period_end": "2023-09-30", "lower_confidence": 11}
    assert sorted(codes(headline(point))) == ["bad_datetime", "confidence_out_of_order", "period_out_of_order"]


def test_an_unreadable_bound_is_not_reported_as_missing_too() -> None:
    assert codes(headline({"lower_confidence": "x"})) == ["wrong_type"]


def test_points_are_judged_under_an_unknown_metric_group() -> None:
    assert sorted(codes(series({"epiweek": 54}, metric_group="x"))) == ["bad_epiweek", "unknown_metric_group"]
    assert sorted(codes(headline({"period_end": "x"}, metric_group="x"))) == ["bad_datetime", "unknown_metric_group"]


def test_thousands_of_problems_do_not_make_a_report_of_thousands_of_lines() -> None:
    with pytest.raises(Refused) as refused:
        judge(series(*[{"epiweek": 54}] * 5_000), "a.json")
    listed = refused.value.problems
    assert [problem.code for problem in listed] == ["bad_epiweek"] * 100 + ["too_many_problems"]
    assert "5000" in listed[-1].message


def test_a_hundred_problems_are_all_listed() -> None:
    assert codes(series(*[{"epiweek": 54}] * 100)) == ["bad_epiweek"] * 100


@pytest.mark.parametrize("field", sorted(without(series(), "time_series", "metric_group")))
@pytest.mark.parametrize(("value", "code"), [(..., "missing_field"), (None, "null_field"), (["x"], None)])
def test_top_level_field_that_is_absent_null_or_no_text_is_refused(field: str, value: Any, code: str | None) -> None:
    payload = without(series(), field) if value is ... else series(**{field: value})
    assert problems(payload) == [(code or ("bad_datetime" if field == "refresh_date" else "wrong_type"), field)]


@pytest.mark.parametrize("payload", [series(), headline()], ids=["time series", "headline"])
def test_point_field_that_is_absent_is_refused_unless_optional(payload: dict[str, Any]) -> None:
    points_field = "data" if "data" in payload else "time_series"
    optional = {"is_public", "in_reporting_delay_period", "force_write"}
    for field in payload[points_field][0]:
        broken = payload | {points_field: [without(payload[points_field][0], field)]}
        if field in ("lower_confidence", "upper_confidence"):
            assert problems(broken) == [("confidence_incomplete", f"data[0].{field}")]
        else:
            assert problems(broken) == ([] if field in optional else [("missing_field", f"{points_field}[0].{field}")])


@pytest.mark.parametrize("field", ["date", "epiweek", "is_public", "in_reporting_delay_period", "force_write"])
def test_null_where_a_point_needs_a_value_is_refused(field: str) -> None:
    assert problems(series({field: None})) == [("null_field", f"time_series[0].{field}")]


@pytest.mark.parametrize("field", ["data", "time_series"])
@pytest.mark.parametrize(
    ("value", "expected"), [([], []), (None, ["null_field"]), (..., ["missing_field"]), ({}, ["wrong_type"]), ("[]", ["wrong_type"])]
)
def test_list_of_points_may_be_empty_but_not_absent(field: str, value: Any, expected: list[str]) -> None:
    payload = headline() if field == "data" else series()
    payload = without(payload, field) if value is ... else payload | {field: value}
    assert problems(payload) == [(code, field) for code in expected]


def test_points_that_are_no_objects_are_refused_one_by_one() -> None:
    payload = series()
    payload["time_series"] += [None, 7, "is_public", ["is_public"]]
    assert problems(payload) == [("wrong_type", f"time_series[{index}]") for index in range(2, 6)]


# Themes, topics, metric names


@pytest.mark.parametrize(
    ("parent", "child", "topic", "group", "metric"),
    [
        ("infectious_disease", "vaccine_preventable", "Measles", "cases", "measles_cases_casesByOnsetWeek"),
        ("infectious_disease", "respiratory", "COVID-19", "headline", "COVID-19_headline_7DayAdmissions"),
        ("infectious_disease", "respiratory", "COVID-19", "deaths", "deaths_COVID-19_x"),
        ("infectious_disease", "respiratory", "COVID-19", "deaths", "covid-19_deaths_a_b__c"),
        ("infectious_disease", "respiratory", "RSV", "testing", "RSV_testing_Überblick"),
        ("non-communicable", "respiratory", "asthma", "syndromic", "asthma_syndromic_emergencyDepartment"),
        ("infectious_disease", "bloodstream_infection", "E-coli", "cases", "E-coli_cases_countsByMonth"),
        ("infectious_disease", "antimicrobial_resistance", "E-coli", "counts", "E-coli_counts_byYear"),
        ("infectious_disease", "contact", "mpox-clade-2b", "cases", "mpox-clade-2b_cases_byMonth"),
        ("extreme_event", "weather_alert", "Heat-alert", "headline", "heat-alert_headline_matrixNumber"),
        ("extreme_event", "mortality-report", "Heat-mortality", "deaths", "heat-mortality_deaths_byYear"),
        ("climate_and_environment", "vectors", "ticks", "counts", "ticks_counts_byMonth"),
        ("immunisation", "childhood-vaccines", "6-in-1", "coverage", "6-in-1_coverage_coverageByYear"),
        ("medicines", "antimicrobials", "antibiotics", "consumption", "antibiotics_consumption_byYear"),
    ],
)
def test_metric_of_the_lists_is_accepted(parent: str, child: str, topic: str, group: str, metric: str) -> None:
    make = headline if group == "headline" else series
    assert codes(make(parent_theme=parent, child_theme=child, topic=topic, metric_group=group, metric=metric)) == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"parent_theme": "Infectious_disease"}, ["unknown_theme"]),
        ({"parent_theme": "non_communicable"}, ["unknown_theme"]),
        ({"parent_theme": "extreme_event"}, ["unknown_child_theme"]),
        ({"child_theme": "Respiratory"}, ["unknown_child_theme"]),
        ({"parent_theme": "immunisation", "child_theme": "childhood_vaccines"}, ["unknown_child_theme"]),
        ({"child_theme": "childhood_illness"}, ["unknown_topic"]),
        ({"topic": "covid-19"}, ["unknown_topic"]),
        ({"topic": "Measles"}, ["unknown_topic"]),
        ({"parent_theme": "x", "topic": "Measles"}, ["unknown_theme", "unknown_topic"]),
        ({"child_theme": "x", "topic": "Measles"}, ["unknown_child_theme", "bad_metric_name"]),
        ({"metric_group": "Deaths"}, ["unknown_metric_group"]),
        ({"metric_group": "cases"}, ["bad_metric_name"]),
        ({"metric": "COVID-19_DEATHS_ONSByDay"}, ["bad_metric_name"]),
        ({"metric": "RSV_deaths_ONSByDay"}, ["bad_metric_name"]),
        ({"metric": "COVID-19_deaths_"}, ["bad_metric_name"]),
        ({"metric": "COVID-19_deaths_a b"}, ["bad_metric_name"]),
        ({"metric": "COVID-19_deaths_a-b"}, ["bad_metric_name"]),
        ({"metric": "COVID-19deaths"}, ["bad_metric_name"]),
        ({"metric": "x"}, ["bad_metric_name"] * 3),
    ],
)
def test_metric_outside_the_lists_is_refused(header: dict[str, str], expected: list[str]) -> None:
    assert codes(series(**header)) == expected


def test_all_eleven_metric_groups_and_57_topics_are_in_the_lists() -> None:
    lists = rules.reference().themes_topics
    assert len(rules.reference().metric_groups) == 11
    assert len(lists.child_themes) == 6
    assert sum(map(len, lists.child_themes.values())) == 18
    assert (len(lists.topics), sum(map(len, lists.topics.values()))) == (17, 57)


def test_message_names_the_list_and_its_version_but_not_the_offender() -> None:
    with pytest.raises(Refused) as refused:
        judge(series(topic="Kessel-run", metric="Kessel-run_deaths_x"), "a.json")
    version = rules.reference().themes_topics.version
    assert refused.value.problems[0].message == (
        f"not one of the topics of child theme 'respiratory' (reference list themes_topics, version {version})"
    )


# Geographies

GOOD_GEOGRAPHIES = {
    "Lower Tier Local Authority": ["E06000001", "E07000008", "E08000001", "E09000002", "E06", "E09zzz"],
    "Upper Tier Local Authority": ["E06000001", "E07000008", "E08000001", "E09000002", "E10000003"],
    "NHS Region": ["E40000003", "E40000012", "E40"],
    "UKHSA Region": ["E45000001", "E45000020"],
    "Region": ["E12000001", "E12ZZZ"],
    "Government Office Region": ["E12000009", "E12"],
    "NHS Trust": ["RAA", "NMJ45", "8CM63", "123", "r1k"],
    "Integrated Care Board": ["QHL", "T6Y0W", "q12", "E5400"],
    "Sub-Integrated Care Board": ["3TE", "H189A", "00L", "36j"],
    "UKHSA Super-Region": ["X25002", "X25009"],
}
BAD_GEOGRAPHIES = {
    "Lower Tier Local Authority": ["E10000003", "E05000001", "e06000001", "W06000001", " E06", "E0", ""],
    "Upper Tier Local Authority": ["E11000003", "E05000001", "S12000033"],
    "NHS Region": ["E41000003", "E4", "X40000003", "E400000031"],
    "UKHSA Region": ["E12000001", "E4500000001"],
    "Region": ["E13000001", "E92000001"],
    "Government Office Region": ["E45000001", "12E"],
    "NHS Trust": ["RV56", "!M3", "RA", "RV5678", "RA_", "R A"],
    "Integrated Care Board": ["1AB", "QH", "QHLX", "QH-12", "12345", "_AB"],
    "Sub-Integrated Care Board": ["SAB", "72A3N", "3T", "3T_", "H1-9A", "0000"],
    "UKHSA Super-Region": ["X2500A", "X2500", "X25012", "X250022", "Y25002"],
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, listed in GOOD_GEOGRAPHIES.items() for code in listed])
def test_code_of_its_geography_type_is_accepted(kind: str, code: str) -> None:
    assert codes(series(geography_type=kind, geography="Anywhere", geography_code=code)) == []


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, listed in BAD_GEOGRAPHIES.items() for code in listed])
def test_code_of_another_geography_type_is_refused(kind: str, code: str) -> None:
    payload = series(geography_type=kind, geography="Anywhere", geography_code=code)
    assert problems(payload) == [("bad_geography_code", "geography_code")]


@pytest.mark.parametrize(
    ("kind", "name", "code", "expected"),
    [
        ("Nation", "England", "E92000001", []),
        ("Nation", "Scotland", "S92000003", []),
        ("Nation", "Wales", "W92000004", []),
        ("Nation", "Northern Ireland", "N92000002", []),
        ("Nation", "England", "W92000004", ["geography_name_code_mismatch"]),
        ("Nation", "england", "E92000001", ["geography_name_code_mismatch"]),
        ("Nation", "United Kingdom", "K02000001", ["bad_geography_code", "geography_name_code_mismatch"]),
        ("Nation", "England", "E92000002", ["bad_geography_code"]),
        ("United Kingdom", "United Kingdom", "K02000001", []),
        ("United Kingdom", "UK", "K02000001", ["geography_name_code_mismatch"]),
        ("United Kingdom", "United Kingdom", "K02000002", ["bad_geography_code"]),
        ("nation", "England", "E92000001", ["unknown_geography_type"]),
        ("NHS Region", "Midlands", "E40000008", ["deprecated_geography"]),
        ("NHS Region", "Midlands", "E40000011", []),
        ("NHS Region", "North East and Yorkshire", "E40000009", ["deprecated_geography"]),
        ("NHS Region", "East of England", "E40000007", ["deprecated_geography"]),
        ("NHS Region", "North West", "E40000010", ["deprecated_geography"]),
        ("NHS Region", "London", "E40000010", []),
        ("NHS Trust", "St Helens and Knowsley Teaching Hospitals NHS Trust", "RBN", ["deprecated_geography"]),
        ("NHS Trust", "St Helens and Knowsley Teaching Hospitals NHS Trust", "RXX", ["deprecated_geography"]),
        ("NHS Trust", "Mersey and West Lancashire Teaching Hospitals NHS Trust", "RBN", []),
    ],
)
def test_geography_name_must_fit_its_code_and_not_be_replaced(kind: str, name: str, code: str, expected: list[str]) -> None:
    assert codes(series(geography_type=kind, geography=name, geography_code=code)) == expected


# Age, sex, frequency, texts


@pytest.mark.parametrize(
    ("age", "accepted"),
    [
        *[(age, True) for age in ("all", "00-04", "04-05", "10-99", "65+", "00+")],
        *[
            (age, False)
            for age in ("ALL", "0-4", "5+", "100+", "15", "04-00", "05-05", "00,04", "", "65 +", "65-", "00-04\n", "65+\n", "aa+")
        ],
    ],
)
def test_age_in_any_other_form_is_refused(age: str, accepted: bool) -> None:
    assert codes(series(age=age)) == ([] if accepted else ["bad_age"])


@pytest.mark.parametrize(
    ("sex", "stored"),
    [
        ("male", "m"),
        ("Female", "f"),
        ("ALL", "all"),
        ("f", "f"),
        ("F", "f"),
        ("m", "m"),
        ("M", "m"),
        ("banana", None),
        ("", None),
        ("a", None),
    ],
)
def test_female_data_is_never_filed_under_all(sex: str, stored: str | None) -> None:
    if stored is None:
        assert codes(series(sex=sex)) == ["unknown_sex"]
    else:
        assert judge(series(sex=sex), "a.json").sex == stored


@pytest.mark.parametrize(
    ("frequency", "letter"),
    [("annual", "A"), ("Quarterly", "Q"), ("MONTHLY", "M"), ("fortnightly", "F"), ("weekly", "W"), ("daily", "D"), ("D", None), ("", None)],
)
def test_frequency_is_a_name_and_not_a_letter(frequency: str, letter: str | None) -> None:
    if letter is None:
        assert codes(series(metric_frequency=frequency)) == ["unknown_frequency"]
    else:
        assert judge(series(metric_frequency=frequency), "a.json").metric_frequency == letter


@pytest.mark.parametrize(
    ("field", "limit"),
    [
        *[(field, 50) for field in ("parent_theme", "child_theme", "topic", "metric_group", "geography_type", "age", "stratum")],
        *[(field, 100) for field in ("metric", "geography")],
    ],
)
def test_text_longer_than_its_column_does_not_reach_the_database(field: str, limit: int) -> None:
    text = "COVID-19_deaths_".ljust(limit, "x")
    header = {"geography_type": "NHS Trust", "geography_code": "RAA"} | {field: text}
    assert "text_too_long" not in codes(series(**header))
    assert codes(series(**header | {field: text + "x"})) == ["text_too_long"]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfff"])
@pytest.mark.parametrize("field", sorted(without(series(), "time_series", "refresh_date")))
def test_text_that_postgres_cannot_store_is_refused(field: str, text: str) -> None:
    assert problems(series(**{field: text})) == [("bad_character", field)]


def test_text_outside_the_basic_plane_is_accepted() -> None:
    assert judge(series(stratum="\N{SYRINGE}é"), "a.json").stratum == "\N{SYRINGE}é"


# Points


@pytest.mark.parametrize("epiweek", [1, 53, "05", "25.0", 25.0, True])
def test_epiweek_in_the_forms_that_producers_send_is_accepted(epiweek: Any) -> None:
    (point,) = judge(series({"epiweek": epiweek}), "a.json").points
    assert isinstance(point, TimeSeriesPoint)
    assert point.epiweek == int(float(epiweek))
    assert type(point.epiweek) is int


@pytest.mark.parametrize("epiweek", [0, 54, -1, 25.5, "x", "", [], math.nan, math.inf, 10**30, "9" * 5_000])
def test_epiweek_outside_the_year_is_refused(epiweek: Any) -> None:
    assert codes(series({"epiweek": epiweek})) == ["bad_epiweek"]


@pytest.mark.parametrize(
    ("date", "stored"),
    [
        ("2023-06-20", "2023-06-20"),
        ("2023-06-20T00:00:00", "2023-06-20"),
        (1687219200, "2023-06-20"),
        ("0001-01-01", "0001-01-01"),
        ("9999-12-31", "9999-12-31"),
        ("2023-06-20T00:00:01", None),
        ("2023-02-29", None),
        ("20/06/2023", None),
        (1687219201, None),
        (math.nan, None),
        (1e300, None),
        ("0000-01-01", None),
        ("10000-01-01", None),
        (True, None),
    ],
)
def test_date_of_a_point_is_a_day(date: Any, stored: str | None) -> None:
    if stored is None:
        assert codes(series({"date": date})) == ["bad_date"]
    else:
        assert str(judge(series({"date": date}), "a.json").points[0][0]) == stored


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2023-10-10", "2023-10-09T23:00:00"),
        ("2023-01-10 11:00:53", "2023-01-10T11:00:53"),
        ("2023-07-10T12:00:00Z", "2023-07-10T12:00:00"),
        ("2023-07-10T12:00:00+05:30", "2023-07-10T06:30:00"),
        (1696896000, "2023-10-10T00:00:00"),
        ("2023-10-29 01:30:00", "2023-10-29T00:30:00"),
        ("2023-10-29 02:00:00", "2023-10-29T02:00:00"),
        ("2023-03-26 01:30:00", "2023-03-26T01:30:00"),
        ("2023-03-26 02:30:00", "2023-03-26T01:30:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00"),
        ("9999-12-31T23:59:59", "9999-12-31T23:59:59"),
        ("0001-01-01T00:00:00+05:00", None),
        ("9999-12-31T23:59:59-05:00", None),
        ("yesterday", None),
        ("", None),
        (True, None),
        (math.nan, None),
        (-1e300, None),
        (10**30, None),
    ],
)
def test_naive_time_is_london_time_and_no_time_crashes(written: Any, meant: str | None) -> None:
    payload = series({"embargo": written}, refresh_date=written)
    if meant is None:
        assert problems(payload) == [("bad_datetime", "refresh_date"), ("bad_datetime", "time_series[0].embargo")]
        assert problems(headline({"period_start": written, "period_end": written})) == [
            ("bad_datetime", "data[0].period_start"),
            ("bad_datetime", "data[0].period_end"),
        ]
        return
    expected = datetime.fromisoformat(meant).replace(tzinfo=UTC)
    file = judge(payload, "a.json")
    point = file.points[0]
    assert (file.refresh_date, point.embargo) == (expected, expected)
    assert file.refresh_date.tzinfo is UTC


@pytest.mark.parametrize(
    ("value", "scaled"),
    [
        (0.12345, 1235),
        (0.00005, 1),
        (-0.00005, -1),
        (0.00004999, 0),
        (123456.78905, 1234567891),
        (9_999_999.9999, 99_999_999_999),
        (-9_999_999.9999, -99_999_999_999),
        ("10.5", 105_000),
        (True, 10_000),
        (-38_928, -389_280_000),
        (5e-324, 0),
        (-0.0, 0),
    ],
)
def test_value_is_stored_as_the_dashboard_stores_it(value: Any, scaled: int) -> None:
    (point,) = judge(series({"metric_value": value}), "a.json").points
    assert isinstance(point, TimeSeriesPoint)
    assert (point.scaled_value, point.metric_value) == (scaled, float(value))
    (figure,) = judge(headline({"metric_value": value, "lower_confidence": value, "upper_confidence": value}), "a.json").points
    assert isinstance(figure, HeadlinePoint)
    assert (figure.scaled_value, figure.scaled_lower, figure.scaled_upper) == (scaled, scaled, scaled)


@pytest.mark.parametrize("field", ["metric_value", "lower_confidence", "upper_confidence"])
@pytest.mark.parametrize(
    ("value", "code"),
    [
        *[(value, "value_not_a_number") for value in (math.nan, math.inf, -math.inf, "nan", "Infinity", "1e999")],
        *[(value, "value_out_of_range") for value in (1e7, -1e7, 9_999_999.99996, 1e300, "-1e300")],
        *[(value, "wrong_type") for value in ["x", "", [], {}, 10**400]],
    ],
)
def test_value_the_database_cannot_hold_is_refused_before_it(field: str, value: Any, code: str) -> None:
    assert (code, f"data[0].{field}") in problems(headline({field: value}))
    if field == "metric_value":
        assert problems(series({}, {field: value})) == [(code, "time_series[1].metric_value")]


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (5, 12, []),
        (10, 10, []),
        (None, None, []),
        (5, None, ["confidence_incomplete"]),
        (None, 12, ["confidence_incomplete"]),
        (11, 12, ["confidence_out_of_order"]),
        (5, 9, ["confidence_out_of_order"]),
        (12, 5, ["confidence_out_of_order"]),
        (11, None, ["confidence_incomplete", "confidence_out_of_order"]),
    ],
)
def test_confidence_bounds_come_in_pairs_around_the_value(lower: Any, upper: Any, expected: list[str]) -> None:
    assert codes(headline({"lower_confidence": lower, "upper_confidence": upper})) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2024-01-01", "2024-01-01", []),
        ("2024-01-02", "2024-01-01", ["period_out_of_order"]),
        ("2024-07-01", "2024-06-30T23:00:00Z", []),
        ("2024-07-01", "2024-06-30T22:59:59Z", ["period_out_of_order"]),
    ],
)
def test_period_ends_when_it_starts_or_later(start: str, end: str, expected: list[str]) -> None:
    assert codes(headline({"period_start": start, "period_end": end})) == expected


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        ([False, False, True, True], []),
        ([True, True], []),
        ([True, False], [("delay_period_ended", "time_series[1].in_reporting_delay_period")]),
        ([False, True, True, False, False], [("delay_period_ended", "time_series[3].in_reporting_delay_period")]),
        ([True, ...], [("delay_period_ended", "time_series[1].in_reporting_delay_period")]),
    ],
)
def test_reporting_delay_period_lasts_to_the_end_of_the_list(delays: list[Any], expected: list[tuple[str, str]]) -> None:
    # Dates fall while the list goes on: the order of the list counts, not theirs.
    payload = series(*[{"date": f"2023-06-{20 - index}"} for index in range(len(delays))])
    for point, delay in zip(payload["time_series"], delays, strict=True):
        if delay is not ...:
            point["in_reporting_delay_period"] = delay
    assert problems(payload) == expected


def test_file_out_of_date_order_keeps_its_order() -> None:
    file = judge(series({"date": "2023-06-21"}, {"date": "2023-06-20"}), "a.json")
    assert [str(point[0]) for point in file.points] == ["2023-06-21", "2023-06-20"]


def test_points_without_a_value_are_counted_and_not_judged() -> None:
    file = judge(series({}, {"metric_value": None, "date": "x", "epiweek": "x", "embargo": "x"}), "a.json")
    assert (len(file.points), file.null_points, file.duplicates) == (1, 1, 0)
    figures = judge(headline({"metric_value": None, "period_end": "x"}), "a.json")
    assert (len(figures.points), figures.null_points) == (0, 1)


def test_equal_points_collapse_to_the_first_and_are_counted() -> None:
    force, twin = {"force_write": True, "embargo": None}, {"embargo": "2024-01-01", "metric_value": "10"}
    others: list[dict[str, Any]] = [{"metric_value": 11}, {"epiweek": 26}, {"date": "2023-06-22"}, {"in_reporting_delay_period": True}]
    file = judge(series(force, twin, *others), "a.json")
    assert (len(file.points), file.duplicates) == (5, 1)
    first = file.points[0]
    assert isinstance(first, TimeSeriesPoint)
    assert (first.embargo, first.force_write) == (None, True)


def test_equal_headlines_collapse_to_the_first_and_are_counted() -> None:
    file = judge(headline({"embargo": None}, {"metric_value": 10.000001}, {"metric_value": 11}, {"period_end": "2023-10-08"}), "a.json")
    assert (len(file.points), file.duplicates) == (3, 1)
    assert file.points[0].embargo is None


# Public and not public


@pytest.mark.parametrize("name", ["OFF-SENS_a.json", "in/2026/OFF-SENS_a.json", "OFF-SENS_"])
def test_sensitive_file_without_flags_is_not_public(name: str) -> None:
    payload = series(metric=SENSITIVE)
    payload["time_series"] = [without(point, "is_public") for point in payload["time_series"]]
    file = judge(payload, name)
    assert file.is_public is False
    assert [(problem.code, problem.severity) for problem in file.warnings] == [("public_flag_missing", "warning")]


def test_public_file_without_flags_is_public_and_warned_about_once() -> None:
    payload = series({}, {})
    del payload["time_series"][1]["is_public"]
    file = judge(payload, "a.json")
    assert file.is_public is True
    assert ["1 of 2" in problem.message for problem in file.warnings] == [True]
    assert judge(series(), "a.json").warnings == ()


@pytest.mark.parametrize("file_prefix", ["", "OFF-SENS_"])
@pytest.mark.parametrize("metric_prefix", ["", "OFF-SENS_"])
@pytest.mark.parametrize("flag", [True, False])
def test_file_name_metric_and_flag_must_agree(file_prefix: str, metric_prefix: str, flag: bool) -> None:
    payload = series({"is_public": flag}, metric=f"{metric_prefix}COVID-19_deaths_ONSByDay")
    expected = []
    if file_prefix != metric_prefix:
        expected.append("file_name_contradicts_prefix")
    if flag is bool(metric_prefix):
        expected.append("public_flag_contradicts_prefix")
    assert codes(payload, f"in/{file_prefix}a.json") == expected


@pytest.mark.parametrize("name", ["off-sens_a.json", "OFF-SENS_folder/a.json", "xOFF-SENS_a.json", ""])
def test_prefix_is_exact_and_on_the_base_name(name: str) -> None:
    assert codes(series({"is_public": False}, metric=SENSITIVE), name) == ["file_name_contradicts_prefix"]


def test_flag_of_a_point_without_value_counts() -> None:
    assert codes(series({}, {"metric_value": None, "is_public": False})) == ["mixed_public_flags"]
    assert codes(series({"metric_value": None, "is_public": False})) == ["public_flag_contradicts_prefix"]


@pytest.mark.parametrize("flag", ["true", 1, 0, 1.0, [], "false"])
def test_flag_that_is_no_boolean_is_refused(flag: Any) -> None:
    assert problems(series({}, {"is_public": flag})) == [("wrong_type", "time_series[1].is_public")]


def test_mixed_flags_beside_a_missing_one_are_refused() -> None:
    payload = series({}, {"is_public": False}, {})
    del payload["time_series"][2]["is_public"]
    assert codes(payload) == ["mixed_public_flags"]


# Bytes, dataset, identity


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        *[(raw, "unreadable_json") for raw in (b"", b"{", b"\xff{}", b'{"a":"\xff"}', b"{}x", "{}".encode("utf-16"), b"[" * 100_000, b"'")],
        (b'{"a":NaN,"b":' + b"9" * 5_000 + b"}", "unreadable_json"),
        *[(raw, "not_an_object") for raw in (b"[]", b"null", b"7", b'"x"', b"NaN")],
    ],
)
def test_bytes_that_are_no_json_object_are_refused(raw: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(raw, "a.json")
    assert [problem.code for problem in refused.value.problems] == [code]
    assert refused.value.__context__ is None


def test_nan_is_refused_with_its_place() -> None:
    raw = json.dumps(series({}, {"metric_value": math.nan})).encode()
    with pytest.raises(Refused) as refused:
        parse(raw, "a.json")
    assert [(problem.code, problem.place) for problem in refused.value.problems] == [("value_not_a_number", "time_series[1].metric_value")]


def test_byte_order_mark_does_not_make_a_file_unreadable() -> None:
    raw = json.dumps(series()).encode()
    assert parse(b"\xef\xbb\xbf" + raw, "a.json") == parse(raw, "a.json")


@pytest.mark.parametrize(
    ("group", "dataset"), [("headline", "headline"), ("cases", "cases"), ("Cases", UNCLASSIFIED), ([], UNCLASSIFIED), (None, UNCLASSIFIED)]
)
def test_dataset_is_the_metric_group_or_unclassified(group: Any, dataset: str) -> None:
    assert dataset_of({"metric_group": group}) == dataset
    assert dataset_of({}) == UNCLASSIFIED


def test_layout_does_not_make_another_file_but_every_value_does() -> None:
    raw = b'{"a": {"x": 1, "y": null}, "b": "\xc3\xa9"}'
    same = b'{ "b":"\\u00e9",\n"a":{"y":null,"x":1}}'
    assert content_hash(decode(raw)) == content_hash(decode(same)) == content_hash(decode(b"\xef\xbb\xbf" + raw))
    others = [b'{"a":{"x":1,"y":%s},"b":"\xc3\xa9"}' % value for value in (b"NaN", b"Infinity", b"-Infinity", b'"null"', b"0", b"false")]
    hashes = {content_hash(decode(other)) for other in [raw, *others]}
    assert len(hashes) == 7
    assert all(len(digest) == 64 for digest in hashes)


def test_broken_surrogates_and_huge_numbers_have_a_hash() -> None:
    assert content_hash(decode(b'{"a": "\\ud800"}')) != content_hash(decode(b'{"a": "\\ud801"}'))
    assert content_hash({"a": 10**30}) != content_hash({"a": 10**31})


def test_nesting_no_metric_file_has_is_refused_and_does_not_crash() -> None:
    payload: dict[str, Any] = {}
    for _ in range(100_000):
        payload = {"a": payload}
    with pytest.raises(Refused):
        content_hash(payload)
    assert "missing_field" in codes(payload)


def test_unknown_fields_are_ignored() -> None:
    assert codes(series({"foo": math.nan}, foo="\0")) == []


def test_representation_of_a_file_holds_no_points() -> None:
    assert "424242" not in repr(judge(series({"metric_value": 424242}), "a.json"))


# The reference lists


@pytest.mark.parametrize(
    ("kind", "name", "broken"),
    [
        (rules.ThemesTopics, "themes_topics", {"topics": {"respiratory": []}}),
        (rules.ThemesTopics, "themes_topics", {"child_themes": {"medicines": ["antimicrobials", "new"]}}),
        (rules.ThemesTopics, "themes_topics", {"version": ""}),
        (rules.GeographyRules, "geography_rules", {"types": {"Region": {"code_pattern": "("}}}),
        (rules.GeographyRules, "geography_rules", {"types": {"Region": {"code_pattern": "E12.*"}}}),
        (rules.GeographyRules, "geography_rules", {"types": {"Region": {}}}),
        (rules.GeographyRules, "geography_rules", {"types": {}}),
        (rules.GeographyRules, "geography_rules", {"code_length": {"min": 3, "max": 10}}),
        (rules.MetricGroups, "metric_groups", {"headlines": "headline"}),
        (rules.MetricGroups, "metric_groups", {"headline": "headlines"}),
        (rules.Frequencies, "frequencies", {"letters": {"daily": "DD"}}),
        (rules.Sexes, "sexes", {"stored": {"male": "male"}}),
    ],
)
def test_slip_in_a_reference_list_is_found_when_it_is_loaded(kind: type[Any], name: str, broken: dict[str, Any]) -> None:
    text = resources("ingestion_dagster.metrics").joinpath("reference", f"{name}.json").read_text(encoding="utf-8")
    kind.model_validate_json(text)
    with pytest.raises(ValidationError):
        kind.model_validate(json.loads(text) | broken)


@pytest.mark.parametrize(
    ("prefix", "warned"),
    [
        ("off-sens_", True),
        ("OFF SENS_", True),
        ("Off-Sens_", True),
        ("OFFSENS_", True),
        ("OFF-SENS_", False),
        ("", False),
        ("OFFICE_", False),
    ],
)
def test_a_metric_almost_marked_as_sensitive_is_loaded_with_a_warning(prefix: str, warned: bool) -> None:
    public = prefix != "OFF-SENS_"
    payload = series({"is_public": public}, metric=f"{prefix}COVID-19_deaths_ONSByDay")
    found = judge(payload, "a.json" if public else "OFF-SENS_a.json")
    assert found.is_public is public
    assert [problem.code for problem in found.warnings] == (["prefix_nearly_non_public"] if warned else [])


@pytest.mark.parametrize("flag", [None, False])
def test_a_metric_almost_marked_as_sensitive_is_refused_unless_it_says_that_it_is_public(flag: bool | None) -> None:
    payload = series({"is_public": True}, {"is_public": True}, metric="off-sens_COVID-19_deaths_ONSByDay")
    for point in payload["time_series"]:
        del point["is_public"]
        point.update({} if flag is None else {"is_public": flag})
    with pytest.raises(Refused) as refused:
        judge(payload, "a.json")
    assert "prefix_nearly_non_public" in {problem.code for problem in refused.value.problems}

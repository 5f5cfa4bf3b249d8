"""Metric files: what holds for every file, however broken."""

import copy
import json
import math
import traceback
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.metrics.files import HeadlinePoint, MetricFile, content_hash, decode, judge, parse
from ingestion_dagster.metrics.problems import Code
from ingestion_dagster.metrics.values import VALUE_LIMIT, scaled, scaled_exactly

VECTORS = json.loads((Path(__file__).parent / "data" / "behaviour_vectors.json").read_text(encoding="utf-8"))["vectors"]
PAYLOADS = {vector["name"]: vector["steps"][0]["payload"] for vector in VECTORS}
SERIES, HEADLINE = PAYLOADS["ts ok"], PAYLOADS["hl ci ok"]
HEADER = [field for field in SERIES if field != "time_series"]
POINTS = {"time_series": [*SERIES["time_series"][0], "in_reporting_delay_period", "force_write"], "data": list(HEADLINE["data"][0])}

texts = st.text(st.characters(exclude_categories=()), max_size=120)
near_misses = st.sampled_from(
    ["2023-06-20", "2023-10-29 01:30", "0001-01-01T00:00+23:59", "9999-12-31T23:59:59-23:59", "05", "nan", "all", ""]
)
leaves = st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | texts | near_misses
json_values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12)


def points_of(field: str) -> st.SearchStrategy[Any]:
    point = st.fixed_dictionaries({}, optional=dict.fromkeys(POINTS[field], json_values))
    return st.lists(point | json_values, max_size=5) | json_values


header_values = {field: st.just(SERIES[field]) | json_values for field in HEADER}
payloads = st.fixed_dictionaries({}, optional=header_values | {field: points_of(field) for field in POINTS})
names = st.sampled_from(["a.json", "in/OFF-SENS_a.json", ""]) | texts


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A valid file with one to three fields replaced or removed, at any level."""
    payload: dict[str, Any] = copy.deepcopy(draw(st.sampled_from([SERIES, HEADLINE])))
    points = payload.get("time_series") or payload["data"]
    for _ in range(draw(st.integers(1, 3))):
        target = draw(st.sampled_from([payload, *points]))
        field = draw(st.sampled_from(sorted(target))) if target else None
        if field is None or draw(st.integers(0, 4)) == 0:
            target.pop(field, None)
        else:
            target[field] = draw(json_values)
    return payload


def is_sound(file: MetricFile) -> bool:
    """Whether the tables can hold the file and it is public only where its metric is."""
    numbers: list[int | None] = []
    for point in file.points:
        if isinstance(point, HeadlinePoint):
            numbers += [point.scaled_value, point.scaled_lower, point.scaled_upper]
        else:
            numbers.append(point.scaled_value)
    moments = [file.refresh_date, *(point.embargo for point in file.points)]
    headers = [file.theme, file.sub_theme, file.topic, file.metric_group, file.geography_type, file.age, file.stratum]
    return (
        all(number is None or abs(number) < 10**11 for number in numbers)
        and all(moment is None or str(moment.tzinfo) == "UTC" for moment in moments)
        and all(len(text) <= 50 for text in headers)
        and bool("".join([*headers, file.metric, file.geography, file.geography_code, file.sex]).encode())
        and file.is_public is not file.metric.startswith("OFF-SENS_")
    )


def refused_or_sound(payload: Any, name: str) -> bool:
    """Judge a payload: either problems with a known code, a place and a message, or a sound file."""
    try:
        return is_sound(judge(payload, name))
    except Refused as refused:
        problems = refused.problems
    return bool(problems) and all(problem.code in set(Code) and problem.place and problem.message for problem in problems)


@settings(max_examples=300, deadline=None)
@given(payload=payloads | json_values, name=names)
def test_no_payload_crashes_the_judge(payload: Any, name: str) -> None:
    assert refused_or_sound(payload, name)


@settings(max_examples=500, deadline=None)
@given(payload=damaged(), name=names)
def test_no_damage_to_a_valid_file_crashes_the_judge_or_slips_through(payload: dict[str, Any], name: str) -> None:
    assert refused_or_sound(payload, name)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=200) | st.text().map(str.encode) | json_values.map(lambda value: json.dumps(value).encode()))
@example(raw=b"\xef\xbb\xbf")
@example(raw=b'{"a":' * 20_000)
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    with pytest.raises(Refused):
        parse(raw, "a.json")


@settings(max_examples=100, deadline=None)
@given(payload=damaged())
def test_no_decodable_file_is_without_a_hash(payload: dict[str, Any]) -> None:
    try:
        decoded = decode(json.dumps(payload).encode())
    except Refused:
        return
    assert len(content_hash(decoded)) == 64


def reordered(value: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key], draw) for key in draw(st.permutations(list(value)))}
    return [reordered(item, draw) for item in value] if isinstance(value, list) else value


@settings(max_examples=150, deadline=None)
@given(payload=st.dictionaries(texts, json_values, max_size=5), data=st.data())
def test_hash_does_not_depend_on_the_order_of_keys(payload: dict[str, Any], data: st.DataObject) -> None:
    assert content_hash(reordered(payload, data.draw)) == content_hash(payload)


@st.composite
def near_ties(draw: st.DrawFn) -> float:
    """Decimals with 4 to 7 places and their neighbours: where rounding twice and rounding once may differ."""
    places = draw(st.integers(4, 7))
    value = draw(st.integers(-(10 ** (7 + places)) + 10**places, 10 ** (7 + places) - 10**places)) / 10**places
    return draw(st.sampled_from([value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf), value + 0.00005]))


@settings(max_examples=3_000, deadline=None)
@given(value=near_ties() | st.floats(-VALUE_LIMIT, VALUE_LIMIT, exclude_min=True, exclude_max=True))
@example(value=0.00005)
@example(value=999_999.99995)
@example(value=math.nextafter(1e6, 0))
def test_fast_scaling_is_exact_scaling(value: float) -> None:
    assert scaled(value) == scaled_exactly(value)


@settings(max_examples=1_000, deadline=None)
@given(value=near_ties())
def test_exact_scaling_rounds_twice_as_the_dashboard_does(value: float) -> None:
    eleven_digits = Context(prec=11).create_decimal_from_float(value)
    assert scaled_exactly(value) == eleven_digits.quantize(Decimal("0.0001"), ROUND_HALF_UP) * 10_000


def test_limit_is_the_first_value_that_the_column_cannot_hold() -> None:
    assert scaled_exactly(VALUE_LIMIT) == 10**11
    assert scaled_exactly(math.nextafter(VALUE_LIMIT, 0)) == 10**11 - 1


@settings(max_examples=200, deadline=None)
@given(good=st.integers(0, 6), after=st.integers(0, 6), value=json_values, field=st.sampled_from(POINTS["time_series"]))
def test_a_bad_point_does_not_blame_its_neighbours(good: int, after: int, value: Any, field: str) -> None:
    valid = SERIES["time_series"][0]
    points = [valid | {"epiweek": index + 1, "in_reporting_delay_period": index >= good} for index in range(good + after)]
    points.insert(good, valid | {field: value})
    places = {f"time_series[{good}].{field}"} | ({"time_series"} if field == "is_public" else set())
    assert places_of_problems(SERIES | {"time_series": points}) <= places


def places_of_problems(payload: dict[str, Any]) -> set[str]:
    try:
        judge(payload, "a.json")
    except Refused as refused:
        return {problem.place for problem in refused.problems}
    return set()


MARKER = "Zanzibar"
NUMBER = 7_654_321.125


def planted() -> list[Any]:
    """Files that are bad in one field, which holds the marker, with the marker in all others that may hold anything."""
    texts_with_marker = [MARKER, f"{MARKER}\0", f"{MARKER}\ud800", MARKER * 40, [MARKER], {MARKER: MARKER}]
    cases = []
    for base in (SERIES, HEADLINE):
        list_field = "data" if "data" in base else "time_series"
        free = {"geography": MARKER, "stratum": MARKER, MARKER: MARKER}
        for field in base:
            cases += [base | free | {field: text} for text in texts_with_marker]
        for field in base[list_field][0]:
            point = {"metric_value": NUMBER, "embargo": "2031-07-08 09:10:11", MARKER: MARKER}
            values = [*texts_with_marker, NUMBER * 10, -NUMBER * 10, "2031-07-08T09:10:11", f"{MARKER}-{NUMBER}"]
            cases += [base | free | {list_field: [base[list_field][0] | point | {field: value}]} for value in values]
    return cases


def test_no_value_of_a_refused_file_shows_in_its_problems() -> None:
    cases = planted()
    for case in cases:
        with pytest.raises(Refused) as refused:
            judge(case, f"in/OFF-SENS_{MARKER}.json")
        assert_silent(refused.value)
    assert len(cases) > 150


@pytest.mark.parametrize(
    "raw", [MARKER.encode(), json.dumps(MARKER).encode(), f'{{"{MARKER}": {MARKER}}}'.encode(), MARKER.encode() + b"\xff"], ids=range(4)
)
def test_no_value_of_an_unreadable_file_shows_in_its_problems(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse(raw, f"{MARKER}.json")
    assert_silent(refused.value)


def assert_silent(refused: Refused) -> None:
    shown = [str(refused), repr(refused), repr(refused.args), repr(refused.problems), *traceback.format_exception(refused)]
    assert refused.__context__ is None
    for text in shown:
        assert MARKER not in text
        assert "765432" not in text.replace(",", "")
        assert "2031" not in text

"""Recorded behaviour of the UKHSA dashboard's own ingestion, replayed step by step through the real pipeline.

`data/behaviour_vectors.json` holds payloads with the table content that the original had after each. Ours is the same, or the
step stands in `DELIBERATE` with the reason, and then with what ours does instead.
"""

import json
import math
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.interface import SUPPORTING_TABLES
from ingestion_dagster_tests.metrics.conftest import Metrics
from ingestion_dagster_tests.metrics.one_database import empty

Rows = list[tuple[Any, ...]]
State = dict[str, Rows]

RECORDED = json.loads((Path(__file__).parent / "data" / "behaviour_vectors.json").read_text(encoding="utf-8"))
COLUMNS: dict[str, list[str]] = RECORDED["state_columns"]
VIEWS = {"core_time_series": "data_coretimeseries", "api_time_series": "data_apitimeseries", "core_headline": "data_coreheadline"}
INSTANTS = (datetime(2026, 11, 20, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC))
"""The day of the recording, and a day after which no embargo is left."""

SUPERSEDED = "superseded rows are removed at once: what is missing here is what no reader would see, now or later"
FLAG_FROM_PREFIX = "non-public follows from the OFF-SENS_ prefix; the original publishes such points by default"

DELIBERATE: dict[str, str] = {
    "retro update 1 pt": SUPERSEDED,
    "revert to old value 10 (stale row was deleted)": SUPERSEDED,
    "B": SUPERSEDED,
    "A again": SUPERSEDED,
    "e2": SUPERSEDED,
    "e3": SUPERSEDED,
    "d2": SUPERSEDED,
    "alert2 later refresh earlier period": SUPERSEDED,
    "alert3": SUPERSEDED,
    "OFF-SENS missing flags": FLAG_FROM_PREFIX,
    "OFF-SENS one flag missing": FLAG_FROM_PREFIX,
    "sex F": "f is taken for female; the original files it as all sexes",
    "sex unknown": "an unknown sex is refused; the original files it as all sexes",
    "geo code2 same name/type": "a geography under a new code is one of its own; the original refuses its files for good",
}


class Unlike(Exception):
    """A step of `DELIBERATE` that is none."""


@pytest.fixture
def database(shared: Database) -> Database:
    """That database, metrics."""
    return empty(shared)


def delivered(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload as it was: the recording writes NaN and infinities as text."""
    values = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    lists = {field: payload[field] for field in ("time_series", "data") if isinstance(payload.get(field), list)}
    return payload | {
        field: [
            {
                name: values.get(value, value) if isinstance(value, str) and name == "metric_value" else value
                for name, value in point.items()
            }
            for point in points
        ]
        for field, points in lists.items()
    }


def comparable(rows: list[Any], columns: list[str]) -> Rows:
    """Rows in an order of their own, with numbers and moments that compare by value."""

    def plain(column: str, value: Any) -> Any:
        if value is None:
            return None
        if column in ("metric_value", "lower_confidence", "upper_confidence"):
            return float(value)
        if column in ("refresh_date", "embargo", "period_start", "period_end"):
            return datetime.fromisoformat(value) if isinstance(value, str) else value.astimezone(UTC)
        return str(value) if column == "date" else value

    return sorted((tuple(plain(*pair) for pair in zip(columns, row, strict=True)) for row in rows), key=repr)


def recorded_state(step: dict[str, Any]) -> State:
    return {table: comparable(step["state"][table], columns) for table, columns in COLUMNS.items()}


def state(metrics: Metrics) -> State:
    """The facts as the dashboard's own queries read them."""
    return {
        table: comparable(metrics.query(f"SELECT {', '.join(columns)} FROM public.{VIEWS[table]}"), columns)
        for table, columns in COLUMNS.items()
    }


def everything(metrics: Metrics) -> dict[str, Rows]:
    """Every row of every table, supporting ones too, with its identity."""
    tables = (*SUPPORTING_TABLES, "series", *COLUMNS)
    return {table: metrics.query(f"SELECT * FROM metrics.{table} ORDER BY id") for table in tables}


def live(tables: State, alert: bool, instant: datetime) -> State:
    """What readers pick at an instant: released rows; per date the newest refresh, of headlines the newest one."""
    shown: State = {}
    for table, rows in tables.items():
        at = {name: index for index, name in enumerate(COLUMNS[table])}
        released = [row for row in rows if row[at["embargo"]] is None or row[at["embargo"]] <= instant]
        if table == "core_headline":
            ranked = sorted(released, key=lambda row: (() if alert else (row[at["period_end"]],)) + (row[at["refresh_date"]],))
            shown[table] = ranked[-1:]
        else:
            newest: dict[str, datetime] = defaultdict(lambda: datetime.min.replace(tzinfo=UTC))
            for row in released:
                newest[row[at["date"]]] = max(newest[row[at["date"]]], row[at["refresh_date"]])
            shown[table] = [row for row in released if row[at["refresh_date"]] == newest[row[at["date"]]]]
    return shown


def assert_differs_as_said(step: dict[str, Any], accepted: bool, ours: State) -> None:
    """What ours does instead, for a step of `DELIBERATE`."""
    name, reason, theirs = step["step"], DELIBERATE[step["step"]], recorded_state(step)
    if reason is SUPERSEDED:
        assert accepted
        assert step["outcome"] == "accept"
        alert = "alert" in step["payload"]["topic"]
        for instant in INSTANTS:
            assert live(ours, alert, instant) == live(theirs, alert, instant)
        for table, rows in ours.items():
            assert set(rows) <= set(theirs[table])
    elif reason is FLAG_FROM_PREFIX:
        assert accepted
        assert step["outcome"] == "accept"
        for table, columns in COLUMNS.items():
            flag = columns.index("is_public")
            assert ours[table] == sorted(((*row[:flag], False, *row[flag + 1 :]) for row in theirs[table]), key=repr)
    elif name == "sex F":
        assert accepted
        sexes = {table: columns.index("sex") for table, columns in COLUMNS.items() if "sex" in columns}
        for table, sex in sexes.items():
            assert ours[table] == sorted(((*row[:sex], "f", *row[sex + 1 :]) for row in theirs[table]), key=repr)
    elif name == "sex unknown":
        assert not accepted
        assert not any(ours.values())
    elif name == "geo code2 same name/type":
        assert accepted
        assert step["outcome"] == "reject"
        refreshed = comparable([[step["payload"]["refresh_date"] + "T00:00:00Z"]], ["refresh_date"])[0][0]
        for table in ("core_time_series", "api_time_series"):
            assert set(ours[table]) > set(theirs[table])
            added = set(ours[table]) - set(theirs[table])
            assert {row[COLUMNS[table].index("refresh_date")] for row in added} == {refreshed}
            assert len(added) == len(step["payload"]["time_series"])
    else:
        raise Unlike(name)


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"] or "unnamed") for vector in RECORDED["vectors"]])
def test_the_tables_are_as_recorded_after_every_step(metrics: Metrics, vector: dict[str, Any]) -> None:
    for step in vector["steps"]:
        before = everything(metrics)
        outcome = metrics.load(step["filename"], delivered(step["payload"]))
        total = outcome.total()
        accepted = (total.loads_archived, total.loads_errored) == (1, 0)
        assert accepted or (total.loads_archived, total.loads_errored) == (0, 1)
        if not accepted:
            assert everything(metrics) == before, "a refused file has written something"
        ours = state(metrics)
        as_recorded = (accepted, ours) == (step["outcome"] == "accept", recorded_state(step))
        if step["step"] not in DELIBERATE:
            assert accepted == (step["outcome"] == "accept")
            assert ours == recorded_state(step)
        else:
            assert not as_recorded, "this step is no deliberate difference any more; take it out of DELIBERATE"
            assert_differs_as_said(step, accepted, ours)


def test_every_deliberate_difference_is_a_recorded_step() -> None:
    names = [step["step"] for vector in RECORDED["vectors"] for step in vector["steps"]]
    assert set(DELIBERATE) <= set(names)
    assert len(names) == len(set(names)) == 74

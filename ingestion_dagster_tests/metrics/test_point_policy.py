"""The point policy: what a newer file means for points that it lacks, how that is undone, and that nothing else changes by it."""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.metrics.files import judge
from ingestion_dagster.metrics.interface import MetricsAPIInterface
from ingestion_dagster.metrics.policy import full_topics
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests import test_cli
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, let_leases_run_out
from ingestion_dagster_tests.metrics import boot_driver, driver
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.one_database import empty

ingestion = test_cli.ingestion

NOW = driver.NOW
PENDING = "2999-01-01 00:00:00"
FLU: dict[str, Any] = {"topic": "Influenza", "metric_group": "testing", "metric": "influenza_testing_positivityByWeek"}
KEEP, FULL = frozenset[str](), frozenset({"COVID-19"})

API = """
SELECT date::text, to_char(refresh_date AT TIME ZONE 'Europe/London', 'YYYY-MM-DD'), metric_value::float
FROM metrics.api_time_series ORDER BY 1, 2, 3
"""
CORE = API.replace("api_time_series", "core_time_series")
WITHDRAWN = "SELECT date::text FROM metrics.withdrawn_api_time_series ORDER BY 1"
WITH_IDS = """
SELECT 'core', id, series_id, to_jsonb(t)::text FROM metrics.core_time_series AS t
UNION ALL SELECT 'api', id, series_id, to_jsonb(t)::text FROM metrics.api_time_series AS t
UNION ALL SELECT 'headline', id, series_id, to_jsonb(t)::text FROM metrics.core_headline AS t ORDER BY 1, 2
"""


@pytest.fixture
def database(shared: Database) -> Database:
    """That database, emptied."""
    return empty(shared)


# Random histories of one series against a model of the rules


@dataclass(frozen=True)
class File:
    """A file as far as the rules know it: under which policy it is loaded, its refresh day, and a value (or none) by day."""

    full: bool
    refresh: int
    values: dict[int, int | None]

    @property
    def points(self) -> dict[int, int]:
        return {day: value for day, value in self.values.items() if value is not None}


@dataclass
class Model:
    """What the rules make of a series without embargoes: value and refresh day by day."""

    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    withdrawn: dict[int, tuple[int, int]] = field(default_factory=dict)
    newest: int | None = None

    def load(self, file: File) -> None:
        if not file.full:
            self.rows |= self.withdrawn
            self.withdrawn = {}
        late = self.newest is not None and file.refresh < self.newest
        if late and file.full:
            return
        for day, value in file.points.items():
            held = self.rows.get(day)
            if held is None or (not late and held[0] != value):
                self.rows[day] = (value, file.refresh)
        if file.full:
            self.withdrawn |= {day: row for day, row in self.rows.items() if day not in file.points}
            self.withdrawn = {day: row for day, row in self.withdrawn.items() if day not in file.points}
            self.rows = {day: row for day, row in self.rows.items() if day in file.points}
        self.newest = max(file.refresh, self.newest or 0)


FILES = st.builds(
    File,
    full=st.booleans(),
    refresh=st.integers(1, 4),
    values=st.dictionaries(st.integers(1, 4), st.one_of(st.none(), st.integers(1, 3)), max_size=4),
)


def merge(connection: Connection, full: frozenset[str], *payloads: dict[str, Any]) -> None:
    """Merge a batch of files in the caller's transaction."""
    merging = MetricsAPIInterface(connection, full)
    with merging.staging() as staging:
        for payload in payloads:
            staging.add(judge(payload, "a.json"))
    merging.merge(NOW)


def as_payload(file: File) -> dict[str, Any]:
    points = [(f"2023-06-{day:02}", value) for day, value in file.values.items()]
    return time_series_payload(points, refresh_date=f"2023-10-{file.refresh:02}")


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(st.lists(FILES, min_size=1, max_size=2), max_size=6))
def test_any_history_ends_as_the_rules_say(database: Database, history: list[list[File]]) -> None:
    """A batch has one policy, as a run has: that of its first file."""
    model = Model()
    with database.connect() as connection, connection.transaction(force_rollback=True):
        for batch in history:
            of_one_policy = [File(batch[0].full, file.refresh, file.values) for file in batch]
            merge(connection, FULL if batch[0].full else KEEP, *map(as_payload, of_one_policy))
            for file in of_one_policy:
                model.load(file)
            expected = [(f"2023-06-{day:02}", f"2023-10-{row[1]:02}", row[0]) for day, row in sorted(model.rows.items())]
            assert connection.execute(API).fetchall() == expected
            assert connection.execute(CORE).fetchall() == expected
            assert [row[0] for row in connection.execute(WITHDRAWN)] == [f"2023-06-{day:02}" for day in sorted(model.withdrawn)]


# The load's way under a policy


@pytest.fixture
def under(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """Sets the policy of COVID-19; the settings as they are then."""

    def set_policy(policy: str) -> Settings:
        monkeypatch.setenv("INGESTION_METRICS_POINT_POLICY", json.dumps({"COVID-19": policy}))
        return current()

    return set_policy


def deliver(metrics: Metrics, under: Settings, *files: tuple[str, dict[str, Any]]) -> Outcome:
    """Land files, one a second, and run."""
    for key, payload in files:
        metrics.land_key(key, payload)
    return boot_driver.load(under)


def replay(under: Settings) -> None:
    boot_driver.replay(under, f"{datetime.now(UTC):%Y-%m-%d}")


def series(days: Sequence[int], refresh: int, **changes: Any) -> dict[str, Any]:
    """A file whose value on each day is the day."""
    return time_series_payload([(f"2023-06-{day:02}", day) for day in days], refresh_date=f"2023-10-{refresh:02}", **changes)


def held(metrics: Metrics) -> list[int]:
    """Values of the dashboard's table, which core_time_series has likewise."""
    assert metrics.query(API) == metrics.query(CORE)
    return [int(row[2]) for row in metrics.query(API)]


def headlines(metrics: Metrics) -> list[float]:
    return [row[0] for row in metrics.query("SELECT metric_value::float FROM metrics.core_headline ORDER BY 1")]


def test_a_newer_full_file_withdraws_what_it_lacks_of_its_own_series_only_and_says_how_much(
    metrics: Metrics, under: Callable[[str], Settings]
) -> None:
    full = under("full")
    neighbours = [("age.json", series([11, 12], 1, age="05-14")), ("flu.json", series([21, 22], 1, **FLU))]
    old = headline_payload([("2023-10-01", "2023-10-07", 31), ("2023-10-01", "2023-10-08", 32)])
    deliver(metrics, full, ("a.json", series([1, 2, 3], 1)), ("h.json", old), *neighbours)
    less = headline_payload([("2023-10-01", "2023-10-07", 31)], refresh_date="2023-10-11")
    with_null = series([1], 2) | {
        "time_series": [*series([1], 2)["time_series"], series([2], 2)["time_series"][0] | {"metric_value": None}]
    }
    outcome = deliver(metrics, full, ("a.json", with_null), ("h.json", less), ("flu.json", series([21], 2, **FLU)))
    assert held(metrics) == [1, 11, 12, 21, 22]
    assert headlines(metrics) == [31]
    assert outcome.rows_withdrawn == 3
    told = "SELECT key, why FROM ledger.load_events AS e JOIN ledger.loads AS l ON l.id = load_id WHERE why LIKE 'withdrew%' ORDER BY 1"
    assert metrics.query(told) == [("a.json", "withdrew 2 points that it lacks"), ("h.json", "withdrew 1 points that it lacks")]
    assert metrics.query(WITHDRAWN) == [("2023-06-02",), ("2023-06-03",)]
    for table in ("core_time_series", "api_time_series", "core_headline"):
        by = metrics.query(f"SELECT DISTINCT withdrawn_by > '2023-10-01' FROM metrics.withdrawn_{table}")
        assert by == [(True,)], table


def test_set_back_to_keep_a_replay_of_the_newest_file_brings_the_points_back_as_they_were(
    metrics: Metrics, under: Callable[[str], Settings]
) -> None:
    full = under("full")
    deliver(metrics, full, ("a.json", series([1, 2, 3], 1)), ("h.json", headline_payload([("2023-10-01", "2023-10-07", 31)])))
    before = metrics.query(WITH_IDS)
    deliver(metrics, full, ("a.json", series([1], 2)), ("h.json", headline_payload([], refresh_date="2023-10-11")))
    assert held(metrics) == [1]
    assert headlines(metrics) == []
    withdrawn = metrics.query(WITH_IDS)
    replay(full)
    assert metrics.query(WITH_IDS) == withdrawn, "a replay under the same policy changes nothing"
    replay(under("keep"))
    assert metrics.query(WITH_IDS) == before
    assert metrics.query(WITHDRAWN) == []


@pytest.mark.parametrize(
    ("refresh", "days", "left"),
    [
        pytest.param(3, [1, 4], [1, 4], id="a same-refresh correction withdraws"),
        pytest.param(2, [1, 4], [1, 2, 3], id="a late file writes nothing and withdraws nothing"),
        pytest.param(4, [], [], id="an empty file withdraws all"),
        pytest.param(3, [], [], id="an empty correction withdraws all"),
    ],
)
def test_which_full_file_withdraws(
    metrics: Metrics, under: Callable[[str], Settings], refresh: int, days: list[int], left: list[int]
) -> None:
    full = under("full")
    deliver(metrics, full, ("a.json", series([1, 2, 3], 3)))
    outcome = deliver(metrics, full, ("b.json", series(days, refresh)))
    assert held(metrics) == left
    assert outcome.rows_withdrawn == len({1, 2, 3} - set(left))


def test_a_full_file_withdraws_once_any_of_its_points_is_released(metrics: Metrics, under: Callable[[str], Settings]) -> None:
    full = under("full")
    deliver(metrics, full, ("a.json", series([1, 2, 3], 1)))
    pending = series([1, 2], 2)
    for point in pending["time_series"]:
        point["embargo"] = PENDING
    assert deliver(metrics, full, ("a.json", pending)).rows_withdrawn == 0
    assert held(metrics) == [1, 1, 2, 2, 3]
    pending["time_series"][0]["embargo"] = None
    assert deliver(metrics, full, ("a.json", pending | {"refresh_date": "2023-10-03"})).rows_withdrawn == 1
    assert 3 not in held(metrics)
    assert 2 in held(metrics), "what it has under embargo it does not lack"


def test_a_withdrawn_date_that_is_delivered_again_is_written_and_not_doubled_by_keep(
    metrics: Metrics, under: Callable[[str], Settings]
) -> None:
    full = under("full")
    for refresh, days in enumerate(([1, 2], [1], [1, 2]), start=1):
        deliver(metrics, full, ("a.json", series(days, refresh)))
    assert held(metrics) == [1, 2]
    again = metrics.query(API)
    deliver(metrics, under("keep"), ("a.json", series([], 4)))
    assert metrics.query(API) == again


def test_versions_of_one_batch_withdraw_one_after_the_other(metrics: Metrics, under: Callable[[str], Settings]) -> None:
    full = under("full")
    outcome = deliver(
        metrics,
        full,
        ("a.json", series([1, 2, 3], 1)),
        ("b.json", series([2, 3, 4], 2)),
        ("c.json", series([4, 5], 3)),
        ("d.json", series([6], 2)),
    )
    assert held(metrics) == [4, 5]
    assert outcome.rows_withdrawn == 3
    assert metrics.query(WITHDRAWN) == [("2023-06-01",), ("2023-06-02",), ("2023-06-03",)]


@pytest.mark.parametrize("point", ["metrics.staged", "metrics.merged", "transition.ingesting.ready_for_archiving.after"])
def test_killed_in_the_midst_of_a_withdrawal_nothing_is_withdrawn_until_the_next_run(
    metrics: Metrics, under: Callable[[str], Settings], point: str
) -> None:
    full = under("full")
    deliver(metrics, full, ("a.json", series([1, 2], 1)))
    metrics.land_key("a.json", series([2], 2))
    code, complaint = boot_driver.start(full, "load", fault=point).end()
    assert code == -signal.SIGKILL, complaint
    assert held(metrics) == [1, 2]
    let_leases_run_out(full)
    assert boot_driver.load(full).rows_withdrawn == 1
    assert held(metrics) == [2]
    assert_history_is_legal(full)


@pytest.mark.parametrize("policy", ['{"Covid": "full"}', '{"COVID-19": "ful"}', '{"COVID-19": ', '["COVID-19"]'])
def test_a_policy_that_cannot_hold_stops_the_run_in_one_line(
    ingestion: test_cli.Command, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    metrics.land(a=time_series_payload())
    monkeypatch.setenv("INGESTION_METRICS_POINT_POLICY", policy)
    result = ingestion("run", "metrics")
    assert result.code == 1
    assert "INGESTION_METRICS_POINT_POLICY" in result.err
    assert "Traceback" not in result.err
    assert metrics.rows("metrics.core_time_series") == 0


def test_a_topic_that_no_list_knows_is_refused(settings: Settings) -> None:
    assert full_topics(Settings(metrics_point_policy={"COVID-19": "full", "Influenza": "keep"})) == FULL
    with pytest.raises(ConfigurationError, match="covid-19"):
        full_topics(Settings(metrics_point_policy={"covid-19": "keep"}))


LAPSED = datetime(3000, 1, 1, tzinfo=UTC)
LIVE = """
SELECT date::text, metric_value::float FROM metrics.api_time_series AS t
WHERE (embargo IS NULL OR embargo <= %(at)s) AND NOT EXISTS (
    SELECT FROM metrics.api_time_series AS newer
    WHERE newer.series_id = t.series_id AND newer.date = t.date AND newer.refresh_date > t.refresh_date
      AND (newer.embargo IS NULL OR newer.embargo <= %(at)s))
ORDER BY 1, 2
"""


Dated = dict[int, tuple[int, bool]]
"""Value, and whether it is under embargo, by day."""


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(
        st.tuples(st.booleans(), st.dictionaries(st.integers(1, 3), st.tuples(st.integers(1, 3), st.booleans()), max_size=3)),
        min_size=1,
        max_size=5,
    )
)
@example(history=[(True, {1: (1, False)}), (True, {}), (True, {1: (2, True)})])
@example(history=[(True, {1: (1, False)}), (True, {}), (True, {1: (2, True), 2: (1, False)})])
def test_set_back_to_keep_readers_see_now_and_later_what_they_would_have_seen_all_along(
    database: Database, history: list[tuple[bool, Dated]]
) -> None:
    """Ever newer files, some points under embargo; in the end the topic is set back and the newest file replayed."""
    payloads = [dated_payload(number, points) for number, (_, points) in enumerate(history)]
    seen = []
    for policies in ([*(full for full, _ in history), False], [False] * (len(history) + 1)):
        with database.connect() as connection, connection.transaction(force_rollback=True):
            for is_full, payload in zip(policies, [*payloads, payloads[-1]], strict=True):
                merge(connection, FULL if is_full else KEEP, payload)
                assert connection.execute(API).fetchall() == connection.execute(CORE).fetchall()
            assert connection.execute(WITHDRAWN).fetchall() == []
            seen.append([connection.execute(LIVE, {"at": at}).fetchall() for at in (NOW, LAPSED)])
    assert seen[0] == seen[1]


def dated_payload(number: int, points: Dated) -> dict[str, Any]:
    payload = time_series_payload(
        [(f"2023-06-{day:02}", value) for day, (value, _) in points.items()], refresh_date=f"2023-10-{number + 1:02}"
    )
    for point, (_, pending) in zip(payload["time_series"], points.values(), strict=True):
        point["embargo"] = PENDING if pending else None
    return payload


def test_points_are_counted_once_however_many_tables_they_stand_in(metrics: Metrics, under: Callable[[str], Settings]) -> None:
    full = under("full")
    deliver(metrics, full, ("a.json", series([1, 2, 3], 1)))
    assert deliver(metrics, full, ("a.json", series([1], 2))).rows_withdrawn == 2
    assert deliver(metrics, under("keep"), ("a.json", series([1], 3))).rows_restored == 2

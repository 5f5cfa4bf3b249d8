"""The checks of metrics, against tables and a ledger that have been tampered with."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.engine import landing, ledger
from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.metrics.checks import DAILY, STANDING, allowed_days, is_stale
from ingestion_dagster.metrics.definitions import defs
from ingestion_dagster.metrics.interface import MetricsAPIInterface, Refreshed
from ingestion_dagster.metrics.places import zone
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def daily(metrics: Metrics) -> dict[str, dg.AssetCheckEvaluation]:
    """One run of the daily checks, by name."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def(STANDING.job.name).execute_in_process(instance=instance)
    assert result.success
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def failed(metrics: Metrics) -> set[str]:
    return {name for name, evaluation in daily(metrics).items() if not evaluation.passed}


def value(evaluation: dg.AssetCheckEvaluation, name: str) -> Any:
    return evaluation.metadata[name].value


def records(evaluation: dg.AssetCheckEvaluation, name: str) -> list[dict[str, Any]]:
    table = evaluation.metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]


@pytest.fixture
def loaded(metrics: Metrics) -> Metrics:
    """Fresh files of a daily series and a headline, loaded."""
    today = datetime.now(UTC).date().isoformat()
    metrics.land(a=time_series_payload(refresh_date=today), b=headline_payload(refresh_date=today))
    metrics.run()
    return metrics


def test_all_is_well_after_a_load(loaded: Metrics) -> None:
    found = daily(loaded)
    assert set(found) == set(DAILY)
    assert {name for name, evaluation in found.items() if not evaluation.passed} == set()
    assert value(found["topics_are_fresh"], "topics") == 1
    assert value(found["row_counts_hold"], "rows") == 5


def test_a_refused_file_is_left_errored_until_it_is_dealt_with(loaded: Metrics) -> None:
    loaded.load("bad.json", time_series_payload(sex="banana"))
    found = daily(loaded)
    assert {name for name, evaluation in found.items() if not evaluation.passed} == {"nothing_left_errored"}
    [record] = records(found["nothing_left_errored"], "load_errors")
    assert record["code"] == "unknown_sex"
    assert "banana" not in str(found)


def test_a_refused_file_that_was_delivered_again_is_dealt_with(loaded: Metrics) -> None:
    bad = time_series_payload(sex="banana", refresh_date="2024-01-01")
    loaded.load("bad.json", bad)
    loaded.load("bad.json", bad | {"age": "5"})
    [record] = records(daily(loaded)["nothing_left_errored"], "load_errors")
    assert record["loads"] == 1, "the newest version stands for the file"
    loaded.load("bad.json", time_series_payload(refresh_date=f"{datetime.now(UTC):%Y-%m-%d}"))
    assert failed(loaded) == set()


def test_a_load_whose_rows_do_not_add_up_is_found_on_any_day(loaded: Metrics) -> None:
    loaded.query("UPDATE ledger.loads SET rows_unchanged = rows_unchanged + 1, partition = '2020-01-01' WHERE key = 'a.json'")
    found = daily(loaded)
    assert {name for name, evaluation in found.items() if not evaluation.passed} == {"rows_add_up"}
    assert value(found["rows_add_up"], "load_ids") == [1]


def test_a_file_that_nobody_claims_is_found_once_the_limit_has_passed(loaded: Metrics) -> None:
    loaded.land(c=time_series_payload())
    with loaded.database.connect() as connection:
        landing.discover(connection, zone(loaded.settings), datetime.now(UTC) - timedelta(minutes=59))
    assert failed(loaded) == set()
    loaded.query("UPDATE ledger.loads SET discovered_at = discovered_at - interval '2 minutes'")
    found = daily(loaded)["claimed_in_time"]
    assert not found.passed
    assert (value(found, "loads_claimable"), value(found, "limit_minutes")) == (1, 60)


def test_a_paused_file_waits_with_reason(loaded: Metrics) -> None:
    loaded.land(c=time_series_payload())
    loaded.query("UPDATE ledger.datasets SET paused_at = now() WHERE name = 'deaths'")
    loaded.run()
    loaded.query("UPDATE ledger.loads SET discovered_at = discovered_at - interval '1 day'")
    assert failed(loaded) == set()


@pytest.mark.parametrize("table", ["core_time_series", "api_time_series"])
@pytest.mark.parametrize(
    "tampering",
    [
        "DELETE FROM metrics.{table} WHERE date = '2023-06-20'",
        "UPDATE metrics.{table} SET metric_value = metric_value + 1 WHERE date = '2023-06-20'",
        "UPDATE metrics.{table} SET embargo = now() WHERE date = '2023-06-20'",
    ],
)
def test_core_and_api_do_not_agree_once_one_is_tampered_with(loaded: Metrics, table: str, tampering: str) -> None:
    loaded.query("UPDATE ledger.datasets SET paused_at = NULL")
    daily(loaded)
    loaded.query(tampering.format(table=table))
    found = daily(loaded)["core_and_api_agree"]
    assert not found.passed
    [topic] = records(found, "topics")
    assert topic["topic"] == "COVID-19"
    assert topic["only_in_core"] + topic["only_in_api"] == (1 if "DELETE" in tampering else 2)


def test_rounding_is_no_disagreement(metrics: Metrics) -> None:
    values = [0.12345, 0.00005, -38928.999951, 9999999.99994, 1 / 3, 123456.789012345]
    points = [(f"2023-06-{day:02d}", number) for day, number in enumerate(values, 1)]
    metrics.load("a.json", time_series_payload(points))
    assert metrics.rows("metrics.core_time_series") == len(values)
    with metrics.database.connect() as connection:
        assert MetricsAPIInterface(connection).disagreements() == {}


def test_a_topic_is_stale_after_twice_its_interval_and_a_weekend() -> None:
    daily_topic = Refreshed(("theme", "sub", "topic"), NOW, 1)
    assert [allowed_days(Refreshed((), NOW, days)) for days in (1, 7, 92, None)] == [4, 16, 186, 16]
    assert not is_stale(daily_topic, NOW + timedelta(days=4))
    assert is_stale(daily_topic, NOW + timedelta(days=4, seconds=1))
    assert not is_stale(daily_topic, NOW - timedelta(hours=23))
    assert is_stale(daily_topic, NOW - timedelta(days=2)), "a date in the future makes late files of all that comes"


def test_a_stale_topic_is_named_with_its_newest_refresh(metrics: Metrics) -> None:
    today = datetime.now(UTC).date()
    old = (today - timedelta(days=5)).isoformat()
    influenza = headline_payload(refresh_date=old, topic="Influenza", metric="Influenza_headline_byDay")
    metrics.land(a=time_series_payload(refresh_date=old), b=influenza)
    metrics.run()
    found = daily(metrics)["topics_are_fresh"]
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert (value(found, "topics"), value(found, "stale")) == (2, 1)
    [record] = records(found, "stale_topics")
    assert (record["topic"], record["allowed_days"]) == ("COVID-19", 4)


def test_a_topic_that_loses_rows_is_named_and_growth_is_no_loss(loaded: Metrics) -> None:
    assert failed(loaded) == set()
    loaded.load("more.json", time_series_payload([(f"2023-07-{day:02d}", day) for day in range(1, 9)], refresh_date="2024-01-01"))
    assert failed(loaded) == set()
    loaded.query("DELETE FROM metrics.core_time_series WHERE date IN ('2023-07-01', '2023-07-02')")
    loaded.query("DELETE FROM metrics.api_time_series WHERE date IN ('2023-07-01', '2023-07-02')")
    assert "row_counts_hold" not in failed(loaded), "a loss of 20 % is within the limit"
    for table in ("core_headline", "core_time_series", "api_time_series"):
        loaded.query(f"DELETE FROM metrics.{table} WHERE true")
    found = daily(loaded)["row_counts_hold"]
    assert not found.passed
    fallen = {record["table"]: (record["rows_before"], record["rows_now"]) for record in records(found, "fallen")}
    assert fallen == {"core_headline": (1, 0), "core_time_series": (8, 0), "api_time_series": (8, 0)}


def test_the_daily_checks_can_be_asked_for_one_by_one(loaded: Metrics) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [STANDING.checks],
            selection=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["metrics", "landing_zone"]), "claimed_in_time")),
            resources={"ingestion": INGESTION},
            instance=instance,
        )
    assert [evaluation.check_name for evaluation in result.get_asset_check_evaluations()] == ["claimed_in_time"]


def test_an_embargoed_revision_that_comes_and_goes_is_no_loss(metrics: Metrics) -> None:
    points = [(f"2023-06-{day:02d}", float(day)) for day in range(1, 21)]
    pending = time_series_payload([(date, value + 1) for date, value in points], refresh_date="2023-10-11")
    for point in pending["time_series"]:
        point["embargo"] = "2999-01-01 00:00:00"
    metrics.load("a.json", time_series_payload(points))
    metrics.load("b.json", pending)
    assert metrics.rows("metrics.core_time_series") == 40
    daily(metrics)
    metrics.load("c.json", time_series_payload(points, refresh_date="2023-10-12"))
    metrics.query("DELETE FROM metrics.core_time_series WHERE embargo IS NOT NULL")
    metrics.query("DELETE FROM metrics.api_time_series WHERE embargo IS NOT NULL")
    assert metrics.rows("metrics.core_time_series") < 40
    assert "row_counts_hold" not in failed(metrics)


def test_a_replayed_file_has_waited_since_it_was_put_back(loaded: Metrics) -> None:
    loaded.query("UPDATE ledger.loads SET discovered_at = discovered_at - interval '60 days'")
    with loaded.database.connect() as connection:
        ledger.replay(connection, Scope("metrics"))
    assert "claimed_in_time" not in failed(loaded)


def test_a_failed_check_is_alerted_to_with_its_name(loaded: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    with loaded.database.connect() as connection:
        connection.execute("ALTER TABLE metrics.series DROP CONSTRAINT series_metric_id_is_public_fkey")
    loaded.query("UPDATE metrics.metric SET name = 'OFF-SENS_' || name")
    daily(loaded)
    job = defs.resolve_job_def("metrics_load")
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance).success
    told = loaded.query("SELECT content ->> 'title', content ->> 'details' FROM ledger.alerts ORDER BY id")
    assert [title for title, _ in told] == ["1 checks failed", "3 checks failed"]
    assert all("public_flag_holds" in details for _, details in told)

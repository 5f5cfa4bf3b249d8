"""What is checked of metrics: after each load, by the load step itself, and once a day, whatever has been loaded."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from ingestion_dagster.engine.checks import (
    Finding,
    found_of_loads,
    load_check_specs,
    result,
    standing_checks,
    standing_findings,
    standing_specs,
    table,
)
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics.interface import MetricsAPIInterface, Refreshed
from ingestion_dagster.metrics.places import PIPELINE
from ingestion_dagster.metrics.registry import FILE_TYPES, TABLES
from ingestion_dagster.settings import Settings

PUBLIC_FLAG_HOLDS = "public_flag_holds"
CORE_AND_API_AGREE = "core_and_api_agree"
TOPICS_ARE_FRESH = "topics_are_fresh"
ROW_COUNTS_HOLD = "row_counts_hold"

FACTS = tuple(table.name for table in TABLES.values() if table.is_fact)
LANDING_ZONE_KEY = dg.AssetKey([PIPELINE, "landing_zone"])
DASHBOARD_KEY = dg.AssetKey([PIPELINE, "dashboard"])

DAYS_BETWEEN_HEADLINES = 7
"""Headlines carry no frequency; most are weekly."""

CHECK_SPECS = [
    *(spec for name in FILE_TYPES for spec in load_check_specs([PIPELINE, name])),
    *(
        dg.AssetCheckSpec(PUBLIC_FLAG_HOLDS, asset=[PIPELINE, name], description="No row of an OFF-SENS_ metric counts as public.")
        for name in FACTS
    ),
]
"""Of the load step: evaluated at the end of each of its runs."""

DAILY_SPECS = [
    *standing_specs(LANDING_ZONE_KEY),
    dg.AssetCheckSpec(PUBLIC_FLAG_HOLDS, asset=DASHBOARD_KEY, description="No row of an OFF-SENS_ metric counts as public."),
    dg.AssetCheckSpec(CORE_AND_API_AGREE, asset=DASHBOARD_KEY, description="core_time_series and api_time_series hold the same points."),
    dg.AssetCheckSpec(
        TOPICS_ARE_FRESH, asset=DASHBOARD_KEY, description="Each topic was refreshed within twice its interval and two days."
    ),
    dg.AssetCheckSpec(ROW_COUNTS_HOLD, asset=DASHBOARD_KEY, description="No topic has lost too many of its rows since the last count."),
]
"""Standing: evaluated by a run of their own; about what arrives and what is read, so that no load evaluates them."""


def check_results(selected: Iterable[dg.AssetCheckKey], connection: Connection, run_id: str) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of the load step, for what this run has loaded."""
    for check in sorted(selected):
        yield _result(check, connection, run_id)


def _result(check: dg.AssetCheckKey, connection: Connection, run_id: str) -> dg.AssetCheckResult:
    found = found_of_loads(check.name, connection, PIPELINE, check.asset_key.path[-1], run_id)
    return result(check, found or public_flag(connection))


def public_flag(connection: Connection) -> Finding:
    """No series of a metric that is not public counts as public."""
    found = MetricsAPIInterface(connection).wrongly_public_series()
    return found == 0, dg.AssetCheckSeverity.ERROR, {"found": found}


def _public_flag_holds(connection: Connection, _settings: Settings) -> Finding:
    return public_flag(connection)


def _core_and_api_agree(connection: Connection, _settings: Settings) -> Finding:
    topics = MetricsAPIInterface(connection).disagreements()
    columns = ("theme", "sub_theme", "topic", "only_in_core", "only_in_api")
    metadata = {
        "only_in_core": sum(core for core, _ in topics.values()),
        "only_in_api": sum(api for _, api in topics.values()),
        "topics": table(columns, ((*key, *counts) for key, counts in topics.items())),
    }
    return not topics, dg.AssetCheckSeverity.ERROR, metadata


def _topics_are_fresh(connection: Connection, _settings: Settings) -> Finding:
    topics = MetricsAPIInterface(connection).refreshed()
    stale = [topic for topic in topics if is_stale(topic, datetime.now(UTC))]
    columns = ("theme", "sub_theme", "topic", "newest_refresh", "allowed_days")
    rows = ((*topic.topic, topic.newest.isoformat(), allowed_days(topic)) for topic in stale)
    return not stale, dg.AssetCheckSeverity.WARN, {"topics": len(topics), "stale": len(stale), "stale_topics": table(columns, rows)}


def is_stale(topic: Refreshed, now: datetime) -> bool:
    """Whether a topic's newest refresh date is older than it should be, or lies in the future: what comes now is late, and left out."""
    return not -timedelta(days=1) < now - topic.newest <= timedelta(days=allowed_days(topic))


def allowed_days(topic: Refreshed) -> int:
    """How old the newest refresh date of a topic may be: twice the interval of its most frequent series, and a weekend."""
    return 2 * (topic.days or DAYS_BETWEEN_HEADLINES) + 2


def _row_counts_hold(connection: Connection, settings: Settings) -> Finding:
    last, now = MetricsAPIInterface(connection).count_rows()
    fallen = {
        key: (rows, now.get(key, 0)) for key, rows in last.items() if now.get(key, 0) < rows * (1 - settings.metrics_drift_percent / 100)
    }
    columns = ("theme", "sub_theme", "topic", "table", "rows_before", "rows_now")
    metadata = {
        "rows": sum(now.values()),
        "rows_before": sum(last.values()),
        "limit_percent": settings.metrics_drift_percent,
        "fallen": table(columns, ((*key, *counts) for key, counts in sorted(fallen.items()))),
    }
    return not fallen, dg.AssetCheckSeverity.ERROR, metadata


DAILY = {
    **standing_findings(PIPELINE, lambda settings: settings.metrics_claimable_minutes),
    PUBLIC_FLAG_HOLDS: _public_flag_holds,
    CORE_AND_API_AGREE: _core_and_api_agree,
    TOPICS_ARE_FRESH: _topics_are_fresh,
    ROW_COUNTS_HOLD: _row_counts_hold,
}


STANDING = standing_checks(
    PIPELINE,
    DAILY_SPECS,
    DAILY,
    word="daily",
    cron="0 7 * * *",
    timezone="Europe/London",
    description="Check what must hold whatever was loaded today.",
    before=lambda connection, _settings: sync_datasets(connection, PIPELINE, FILE_TYPES),
)

"""What starts runs of the life events pipeline, and what tidies up after dead ones."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ingestion_dagster.engine import outbox
from ingestion_dagster.engine.alerting import failure_sensor, state_alert, watch_sensor
from ingestion_dagster.engine.dagster import PIPELINE_TAG, QUEUE_TAG
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.sensors import Due, LoadingJob, due_sensor, landing_sensor, sweep_sensor
from ingestion_dagster.life_events import places
from ingestion_dagster.life_events.assets import life_events_events, life_events_files
from ingestion_dagster.life_events.checks import PUBLISHED_KEY, RELEASED_KEY
from ingestion_dagster.life_events.pipeline import LOAD_JOB, PUBLISH_JOB
from ingestion_dagster.life_events.registry import PIPELINE, PUBLISH
from ingestion_dagster.settings import Settings

LIFE_EVENTS_LOAD_JOB: Any = dg.define_asset_job(
    LOAD_JOB,
    selection=dg.AssetSelection.assets(life_events_files),
    description="Read every claimable file of death registrations, and stage its events.",
    tags={PIPELINE_TAG: PIPELINE, QUEUE_TAG: PIPELINE},
    executor_def=dg.in_process_executor,
)

LIFE_EVENTS_PUBLISH_JOB: Any = dg.define_asset_job(
    PUBLISH_JOB,
    selection=dg.AssetSelection.assets(life_events_events),
    description="Tell the platform of every event that is due, and delete what has outlived its time.",
    tags={PIPELINE_TAG: PIPELINE, QUEUE_TAG: PUBLISH_JOB},
    executor_def=dg.in_process_executor,
)

_SWEEP_EVERY = timedelta(minutes=10)

_NEWEST_END = "SELECT max(ended_at) FROM life_events.records WHERE ended_at IS NOT NULL"
_SOME_PAST = """
    SELECT EXISTS (SELECT FROM life_events.records WHERE state IN ('pending', 'published', 'dead') AND stored_at < %(before)s)
"""
_SOME_DUE = """
    SELECT EXISTS (SELECT FROM ledger.outbox
                    WHERE topic ^@ 'life_events.' AND dead_at IS NULL AND due_at <= clock_timestamp()
                      AND (claimed_until IS NULL OR claimed_until < clock_timestamp()))
"""


def _due(connection: Connection, settings: Settings, seen: dict[str, str]) -> Due:
    """What a run of the publishing job has to do now; `seen` is what the tick before this one has seen."""
    from ingestion_dagster.life_events import upkeep

    now = datetime.now(UTC)
    _tell(connection, settings, now)
    assets = [PUBLISHED_KEY] if connection.execute(_SOME_DUE).fetchone() == (True,) else []
    swept = seen.get("swept", "")
    if not _is_recent(swept, now):
        # By the ledger, not by the store: what a store has deleted by itself is to be noted, too.
        before = now - timedelta(days=settings.life_events_ttl_days)
        if connection.execute(_SOME_PAST, {"before": before}).fetchone() == (True,):
            assets.append(RELEASED_KEY)
        upkeep.expire_quarantine(connection, settings, now)
        swept = now.isoformat()
    row = connection.execute(_NEWEST_END).fetchone()
    ended = row[0].isoformat() if row and row[0] else ""
    if ended > seen.get("ended", "") and RELEASED_KEY not in assets:
        assets.append(RELEASED_KEY)
    lag = outbox.lag(connection, PUBLISH)
    says = f"{lag.due} events due, the oldest for {lag.oldest_seconds:.0f} s; {lag.later} to be tried again, {lag.dead} dead letters"
    return Due(assets, says, {"swept": swept, "ended": ended})


def _is_recent(swept: str, now: datetime) -> bool:
    """Whether it need not be swept yet. What is no time, or none that has been, costs a look."""
    with suppress(ValueError, TypeError):
        return now - _SWEEP_EVERY <= datetime.fromisoformat(swept) <= now
    return False


def _tell(connection: Connection, settings: Settings, now: datetime) -> None:
    """Alert to events that are due for too long, to dead letters, and to a daily file that has not come; each once a day."""
    from ingestion_dagster.life_events import expected

    lag = outbox.lag(connection, PUBLISH)
    if lag.oldest_seconds > settings.life_events_publish_minutes * 60:
        title = f"{lag.due + lag.later} events are due, the oldest for {lag.oldest_seconds / 60:.0f} minutes"
        next_step = "look at the last runs of life_events_publish: is the platform away, or our access to it refused?"
        state_alert(connection, settings, PIPELINE, f"life_events:lag:{now:%Y-%m-%d}", title, next_step)
    if lag.dead:
        title = f"the platform has refused {lag.dead} events"
        next_step = "mend what it refuses them for (codes: life_events.records), then 'ingestion life_events republish'"
        state_alert(connection, settings, PIPELINE, f"life_events:dead:{now:%Y-%m-%d}:{lag.dead}", title, next_step)
    if missing := expected.overdue(connection, settings, now):
        title = f"{missing.name} has not come; it was due by {missing.due_at:%H:%M on %d %B %Y}"
        next_step = "ask GRO for it, or pull it with 'ingestion life_events pull'"
        state_alert(connection, settings, PIPELINE, f"life_events:overdue:{missing.name}", title, next_step)


life_events_s3_sensor = landing_sensor("life_events_s3_sensor", PIPELINE, places.zone, [LoadingJob(LIFE_EVENTS_LOAD_JOB)])
life_events_outbox_sensor = due_sensor(
    "life_events_outbox_sensor",
    PIPELINE,
    LIFE_EVENTS_PUBLISH_JOB,
    _due,
    "Watches the outbox of life events. Asks for one run of publishing when events are due, or have been deleted, and none is in flight.",
)
life_events_sweep_sensor = sweep_sensor(PIPELINE, places.zone)
life_events_failure_sensor = failure_sensor(PIPELINE)


def watched(_settings: Settings) -> tuple[str, ...]:
    """The sensors that should tick."""
    return ("life_events_s3_sensor", "life_events_outbox_sensor", "life_events_sweep_sensor", "life_events_failure_sensor")


life_events_watch_sensor = watch_sensor(PIPELINE, watched, lambda settings: settings.life_events_claimable_minutes)

"""What starts runs of the life events pipeline."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from ingestion_dagster.engine import outbox
from ingestion_dagster.engine.alerting import state_alert
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.load_step import load_job
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.sensors import Due, LoadingJob, due_sensor, landing_sensor
from ingestion_dagster.life_events import places
from ingestion_dagster.life_events.assets import life_events_files
from ingestion_dagster.life_events.checks import PUBLISHED_KEY, RELEASED_KEY
from ingestion_dagster.life_events.pipeline import LOAD_JOB, PUBLISH_JOB
from ingestion_dagster.life_events.publish_assets import life_events_events
from ingestion_dagster.life_events.registry import PIPELINE, PUBLISH
from ingestion_dagster.life_events.topics import receiver, topics
from ingestion_dagster.settings import Settings

LIFE_EVENTS_LOAD_JOB = load_job(
    LOAD_JOB, PIPELINE, life_events_files, "Read every claimable file of death registrations, and stage its events."
)
LIFE_EVENTS_PUBLISH_JOB = load_job(
    PUBLISH_JOB,
    PIPELINE,
    life_events_events,
    "Tell the platform of every event that is due, and delete what has outlived its time.",
    queue=PUBLISH_JOB,
)

_SWEEP_EVERY = timedelta(minutes=10)
_TELL_EVERY = timedelta(minutes=2)
"""How often a run is asked for to tell of what was deleted since."""

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
    swept, told, ended = (seen.get(name, "") for name in ("swept", "told", "ended"))
    row = connection.execute(_NEWEST_END).fetchone()
    newest = row[0].isoformat() if row and row[0] else ""
    is_past = False
    if not _is_recent(swept, now, _SWEEP_EVERY):
        # By the ledger, not by the store: what a store has deleted by itself is to be noted, too.
        before = now - timedelta(days=settings.life_events_ttl_days)
        is_past = connection.execute(_SOME_PAST, {"before": before}).fetchone() == (True,)
        upkeep.expire_quarantine(connection, settings, now)
        swept = now.isoformat()
    if is_past or (newest > ended and not _is_recent(told, now, _TELL_EVERY)):
        assets.append(RELEASED_KEY)
        told, ended = now.isoformat(), newest
    lag = outbox.lag(connection, PUBLISH)
    says = f"{lag.due} events due, the oldest for {lag.oldest_seconds:.0f} s; {lag.later} to be tried again, {lag.dead} dead letters"
    return Due(assets, says, {"swept": swept, "told": told, "ended": ended})


def _is_recent(moment: str, now: datetime, within: timedelta) -> bool:
    """Whether that was a moment ago. What is no time, or none that has been, was not."""
    with suppress(ValueError, TypeError):
        return now - within <= datetime.fromisoformat(moment) <= now
    return False


def _tell(connection: Connection, settings: Settings, now: datetime) -> None:
    """Alert to what is due for too long (once an outage), to dead letters (once a day), and to a daily file that has not come."""
    from ingestion_dagster.life_events import expected

    for topic in topics(connection):
        lag = outbox.lag(connection, topic)
        whom = receiver(topic)
        if lag.oldest_seconds > settings.life_events_publish_minutes * 60:
            since = now - timedelta(seconds=lag.oldest_seconds)
            title = f"{lag.due + lag.later} events are due to {whom}, the oldest for {lag.oldest_seconds / 60:.0f} minutes"
            next_step = "look at the last runs of life_events_publish: is it away, or our access to it refused?"
            state_alert(connection, settings, PIPELINE, f"life_events:lag:{topic}:{since:%Y-%m-%dT%H}", title, next_step)
        if lag.dead:
            title = f"{lag.dead} events did not reach {whom}: refused, or expired before they could"
            next_step = "see the codes in ledger.outbox and docs/life_events.md, mend the cause, then 'ingestion life_events republish'"
            state_alert(connection, settings, PIPELINE, f"life_events:dead:{topic}:{now:%Y-%m-%d}", title, next_step)
    try:
        missing = expected.overdue(connection, settings, now)
    except ConfigurationError as error:
        state_alert(connection, settings, PIPELINE, f"life_events:expected:{now:%Y-%m-%d}", "no daily file can be awaited", str(error))
        return
    if missing:
        title = f"{missing.name} has not come; it was due by {missing.due_at:%H:%M on %d %B %Y} (UTC)"
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

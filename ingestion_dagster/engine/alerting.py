"""What people are alerted to: runs with errored loads, failed runs, sensors that fail or stand still, and a pipeline that does not run."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg
from dagster._core.events import JobFailureData
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData, TickStatus
from dagster_shared.error import SerializableErrorInfo

from ingestion_dagster.engine import channels, ledger, notifications, whereabouts
from ingestion_dagster.engine.alert import Alert, overview_link, run_link
from ingestion_dagster.engine.dagster import PIPELINE_TAG, Ingestion
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings, current

log = logging.getLogger(__name__)

FAILED_TICKS = 3
"""So many in a row are a sensor's trouble; one is a moment's."""

_TELLING = "ingestion_dagster.engine.errors."
_LONGEST_REASON = 300
_LOOK_BACK = timedelta(days=1)
_MOST_FAILED_RUNS = 50
_MOST_FILES = 20
_SHORTEST_SILENCE = timedelta(minutes=5)
_CURSOR_VERSION = 1


def errored_loads_alert(connection: Connection, settings: Settings, pipeline: str, run_id: str, *, files: Sequence[str] = ()) -> None:
    """Alert to what a run errored or rejected, at its end, if there is any. What hinders this does not fail the run.

    `files` are lines on single files, for people who know theirs by name. The watch sensor makes good what a crash, or such a hindrance,
    leaves out.
    """
    with _no_hindrance("errored loads", "the watch sensor alerts to them"):
        through = channels.channels(settings)
        alert = notifications.errored_loads(connection, settings, pipeline, run_id) if through else None
        if alert and files:
            more = (f"and {len(files) - _MOST_FILES} more files",) if len(files) > _MOST_FILES else ()
            alert = replace(alert, details=(*alert.details, *files[:_MOST_FILES], *more))
        if alert and notifications.raise_alert(connection, through, alert):
            notifications.deliver(connection, through)


def failed_checks_alert(connection: Connection, settings: Settings, pipeline: str, run_id: str, failed: Sequence[str]) -> None:
    """Alert to the checks that failed in a run, by name, if there is any. What hinders this does not fail the run."""
    if not failed:
        return
    with _no_hindrance("failed checks", "what is not in the outbox by now nobody alerts to; look at the run's checks in Dagster"):
        through = channels.channels(settings)
        alert = Alert(
            key=f"checks:{run_id}",
            environment=settings.environment,
            pipeline=pipeline,
            title=f"{len(failed)} checks failed",
            details=tuple(failed),
            run_id=run_id,
            link=run_link(settings, run_id),
        )
        if notifications.raise_alert(connection, through, alert):
            notifications.deliver(connection, through)


def state_alert(connection: Connection, settings: Settings, pipeline: str, key: str, title: str, *details: str) -> None:
    """Alert to a state that a run has brought about, once per `key`. What hinders this does not fail the run."""
    with _no_hindrance(title, "what is not in the outbox by now nobody alerts to; 'ingestion status' shows it"):
        through = channels.channels(settings)
        alert = Alert(key, settings.environment, pipeline, title, details=details, link=overview_link(settings))
        if notifications.raise_alert(connection, through, alert):
            notifications.deliver(connection, through)


@contextmanager
def _no_hindrance(subject: str, later: str) -> Iterator[None]:
    """Log what keeps an alert from being raised or sent, and what is done about it `later`; the run has done its work."""
    try:
        yield
    except ConfigurationError as error:
        log.error("the run's %s could not be alerted to: %s", subject, error)
    except psycopg.Error as error:
        log.warning("the run's %s could not be alerted to (%s): %s", subject, type(error).__name__, later)


def failure_sensor(pipeline: str) -> dg.SensorDefinition:
    """A sensor that alerts to each failed run of a pipeline, once; a run that is retried is a run of its own."""
    settings = current()

    @dg.run_failure_sensor(
        name=f"{pipeline}_failure_sensor",
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=_default_status(settings),
        description=f"Alerts to failed runs of {pipeline}.",
    )
    def report(context: dg.RunFailureSensorContext, ingestion: Ingestion) -> None:
        run = context.dagster_run
        settings = ingestion.settings()
        through = channels.channels(settings)
        if not through or not belongs_to(run, pipeline):
            return
        with ingestion.database().connect() as connection:
            notifications.raise_alert(connection, through, failed_run(connection, context.instance, settings, pipeline, run))
            notifications.deliver(connection, through)

    return report


def watch_sensor(
    pipeline: str, sensors: Callable[[Settings], Sequence[str]], limit_minutes: Callable[[Settings], int]
) -> dg.SensorDefinition:
    """A sensor that notices what does not happen, and delivers what is due.

    It alerts to the sensors that should be on by the settings if they fail or stand still, to loads that were claimable for longer than
    the limit while nothing ran, and to what a run or the failure sensor could not tell at its time. A state is alerted to if two ticks in
    a row have seen it: after a pause of the daemon, or of a dataset, the other sensors get time to act. Starts no runs.
    """
    settings = current()

    @dg.sensor(
        name=f"{pipeline}_watch_sensor",
        minimum_interval_seconds=max(60, 3 * settings.sensor_seconds),
        default_status=_default_status(settings),
        description=f"Alerts to sensors of {pipeline} that fail or stand still and to loads that nobody takes; delivers. Starts no runs.",
    )
    def watch(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SkipReason:
        settings = ingestion.settings()
        through = channels.channels(settings)
        seen_before = _read_cursor(context.cursor)
        place = Place(context.instance, settings, pipeline, datetime.now(UTC))
        with ingestion.database().connect() as connection:
            watched = sensors_of(context, sensors(settings))
            certain = failing_sensors(place, watched)
            states = silent_sensors(place, watched) + stalled(connection, place, timedelta(minutes=limit_minutes(settings)))
            new = left_out(connection, place) if through else []
            new += [*certain, *(alert for alert in states if alert.key in seen_before)]
            raised = sum(notifications.raise_alert(connection, through, alert) for alert in new)
            delivery = notifications.deliver(connection, through)
            in_doubt = notifications.uncertain(connection)
            due = notifications.due(connection)
        context.update_cursor(_write_cursor(alert.key for alert in states))
        for alert in in_doubt:
            context.log.warning("alert %s on %s may have been sent or not, at %s", alert.key, alert.channel, alert.since)
        wrong = "".join(f"; {alert.title}" for alert in (*certain, *states)) or "; sensors tick and loads are taken"
        outbox = f"{raised} alerts raised, {delivery.sent} sent, {due} due, {len(in_doubt)} uncertain"
        return dg.SkipReason((outbox if through else "no channel for alerts is set") + wrong)

    return watch


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a pipeline is looked at."""

    instance: dg.DagsterInstance
    settings: Settings
    pipeline: str
    now: datetime

    def alert(self, key: str, title: str, *details: str) -> Alert:
        """An alert about this pipeline that is about no run; links to the overview of sensors."""
        return Alert(key, self.settings.environment, self.pipeline, title, details=details, link=overview_link(self.settings))


def belongs_to(run: dg.DagsterRun, pipeline: str) -> bool:
    """Whether a run is one of a pipeline's: by its tag or, where it was materialized from the UI and has none, by its assets."""
    if PIPELINE_TAG in run.tags:
        return run.tags[PIPELINE_TAG] == pipeline
    return any(key.path[0] == pipeline for key in run.asset_selection or ())


def failed_run(connection: Connection, instance: dg.DagsterInstance, settings: Settings, pipeline: str, run: dg.DagsterRun) -> Alert:
    """The alert for a failed run: why, as far as that can be told, and what it had in hand."""
    return Alert(
        key=f"failed:{run.run_id}",
        environment=settings.environment,
        pipeline=pipeline,
        title="a run failed",
        datasets=notifications.datasets_of_run(connection, pipeline, run.run_id),
        details=(failure_reason(instance, run.run_id),),
        run_id=run.run_id,
        link=run_link(settings, run.run_id),
    )


def failure_reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed, in one line: words of ours or of Dagster's daemons. Of any other exception its type only: it may quote a record."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = [record.event_log_entry.dagster_event for record in instance.get_records_for_run(run_id, of_type=kinds).records]
    for event in events:
        if event and event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return _first_line(failure.user_failure_data.description)
            return error_reason(failure.error)
    for event in events:
        if event and event.is_job_failure:
            data = event.event_specific_data
            return error_reason(data.error) if isinstance(data, JobFailureData) and data.error else _first_line(event.message or "")
    return "no reason is recorded"


def error_reason(error: SerializableErrorInfo | None) -> str:
    """A recorded exception in one line: the message if it is one of ours, else the type of what caused it."""
    while error is not None:
        if error.message.startswith((f"{_TELLING}ConfigurationError: ", f"{_TELLING}Transient: ")):
            return _first_line(error.message.removeprefix(_TELLING))
        if error.cause is None:
            return error.cls_name or "an exception"
        error = error.cause
    return "an exception"


def left_out(connection: Connection, place: Place) -> list[Alert]:
    """Alerts that should have been raised within the last day and were not: the run or the sensor died, or the database was away."""
    alerts = []
    for run_id in notifications.unreported_runs(connection, place.pipeline):
        run = place.instance.get_run_by_id(run_id)
        if run.is_finished if run else _is_over(connection, place, run_id):
            alert = notifications.errored_loads(connection, place.settings, place.pipeline, run_id, known=run is not None)
            alerts += [alert] if alert else []
    failed = place.instance.get_runs(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=place.now - _LOOK_BACK), limit=_MOST_FAILED_RUNS
    )
    ours = {f"failed:{run.run_id}": run for run in failed if belongs_to(run, place.pipeline)}
    told = notifications.raised(connection, ours)
    alerts += [failed_run(connection, place.instance, place.settings, place.pipeline, run) for key, run in ours.items() if key not in told]
    return alerts


def _is_over(connection: Connection, place: Place, run_id: str) -> bool:
    """Whether what is no run of this Dagster, and holds nothing at the moment, claims no more.

    A run of another Dagster home, such as of `ingestion load`, may be between two batches. It claims none after `run_seconds`, so the
    newest of its claims is as old as that then. The counts of an alert are final from there on.
    """
    if run_id.startswith(whereabouts.NO_RUNS):
        return not whereabouts.is_at_work(connection, run_id)
    last = whereabouts.last_claim(connection, place.pipeline, run_id)
    return last is not None and place.now - last > timedelta(seconds=place.settings.run_seconds)


def sensors_of(context: dg.SensorEvaluationContext, names: Sequence[str]) -> list[InstigatorState]:
    """What the daemon has noted of these sensors of the context's code location; nothing of one that never was on."""
    location = context.code_location_origin.location_name if context.code_location_origin else None
    return [
        state
        for state in context.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.instigator_name in names
        and (location is None or state.repository_selector.location_name == location)
        and (context.repository_name is None or state.repository_selector.repository_name == context.repository_name)
    ]


def failing_sensors(place: Place, states: Sequence[InstigatorState]) -> list[Alert]:
    """An alert for each sensor whose last ticks failed, all of them. A streak is known by the tick before it."""
    alerts = []
    for state in states:
        if not _is_on(state, place.settings):
            continue
        ticks = place.instance.get_ticks(
            state.instigator_origin_id,
            state.selector_id,
            limit=FAILED_TICKS,
            statuses=[TickStatus.FAILURE, TickStatus.SUCCESS, TickStatus.SKIPPED],
        )
        if len(ticks) < FAILED_TICKS or any(tick.status != TickStatus.FAILURE for tick in ticks):
            continue
        good = place.instance.get_ticks(
            state.instigator_origin_id, state.selector_id, limit=1, statuses=[TickStatus.SUCCESS, TickStatus.SKIPPED]
        )
        since = f"since {_time(good[0].timestamp)}" if good else "ever"
        alerts.append(
            place.alert(
                f"ticks:{state.instigator_name}:{good[0].timestamp if good else 'ever'}",
                f"{state.instigator_name} fails",
                f"no tick has succeeded {since}; the last failed for: {error_reason(ticks[0].error)}",
                "look at the sensor's ticks in Dagster",
            )
        )
    return alerts


def silent_sensors(place: Place, states: Sequence[InstigatorState]) -> list[Alert]:
    """An alert for each sensor that is on and has not ticked for ten times its interval, and five minutes at least."""
    alerts = []
    for state in states:
        data = state.instigator_data
        if not _is_on(state, place.settings) or not isinstance(data, SensorInstigatorData):
            continue
        last = max(data.last_tick_timestamp or 0, data.last_tick_start_timestamp or 0, data.last_sensor_start_timestamp or 0)
        interval = timedelta(seconds=data.min_interval or place.settings.sensor_seconds)
        if last and place.now.timestamp() - last > max(10 * interval, _SHORTEST_SILENCE).total_seconds():
            alerts.append(
                place.alert(
                    f"silent:{state.instigator_name}:{last}",
                    f"{state.instigator_name} does not tick",
                    f"it is on, should tick every {interval.total_seconds():.0f} s, and last did at {_time(last)}",
                    "look at the daemon and at the code location in Dagster; restart the daemon if its ticks hang",
                )
            )
    return alerts


def stalled(connection: Connection, place: Place, limit: timedelta) -> list[Alert]:
    """An alert if loads have been claimable for longer than the limit, no run works, and none was asked for within the limit."""
    count, discovered = ledger.claimable(connection, Scope(place.pipeline))
    if discovered is None or place.now - discovered <= limit:
        return []
    # What was discovered long ago may have been put back this minute.
    oldest = ledger.waiting_since(connection, Scope(place.pipeline))
    if oldest is None or place.now - oldest <= limit:
        return []
    ours = {PIPELINE_TAG: place.pipeline}
    working = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    if place.instance.get_runs_count(dg.RunsFilter(tags=ours, statuses=working)) or place.instance.get_runs_count(
        dg.RunsFilter(tags=ours, created_after=place.now - limit)
    ):
        return []
    last = place.instance.get_run_records(dg.RunsFilter(tags=ours), limit=1)
    status = last[0].dagster_run.status.value.lower() if last else ""
    ran = f"the last run, of {_time(last[0].create_timestamp.timestamp())}, is {status}" if last else "there never was a run"
    loads = "1 load has" if count == 1 else f"{count} loads have"
    return [
        place.alert(
            f"stalled:{place.pipeline}:{oldest.isoformat()}",
            "nothing has run",
            f"{loads} been waiting since {_time(oldest.timestamp())} and could be loaded; {ran}",
            "look at whether the daemon runs, the landing sensor is switched on, its ticks succeed, and the run queue moves",
        )
    ]


def _is_on(state: InstigatorState, settings: Settings) -> bool:
    """Whether the daemon evaluates a sensor. Dagster passes over what was once on by default and is no more."""
    if state.status == InstigatorStatus.DECLARED_IN_CODE:
        return settings.sensors == "running"
    return state.status == InstigatorStatus.RUNNING


def _default_status(settings: Settings) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if settings.sensors == "running" else dg.DefaultSensorStatus.STOPPED


def _time(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:_LONGEST_REASON] or "no reason is recorded"


def _read_cursor(cursor: str | None) -> frozenset[str]:
    """The states that the last tick saw. An unreadable cursor costs a tick, no more."""
    try:
        content = json.loads(cursor or "{}")
        return frozenset(content["seen"]) if content["version"] == _CURSOR_VERSION else frozenset()
    except (ValueError, KeyError, TypeError):
        return frozenset()


def _write_cursor(keys: Iterable[str]) -> str:
    return json.dumps({"version": _CURSOR_VERSION, "seen": sorted(keys)})

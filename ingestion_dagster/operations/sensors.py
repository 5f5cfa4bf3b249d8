"""The sensors that no pipeline owns: what tidies up after dead runs, what tells of failed ones, and what notices that nothing happens."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from ingestion_dagster.engine import channels, notifications, whereabouts
from ingestion_dagster.engine.alert import Alert
from ingestion_dagster.engine.dagster import PIPELINE_TAG, Ingestion
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.sensors import default_status
from ingestion_dagster.operations import heartbeat, watch
from ingestion_dagster.operations.failures import failed_run, owner_of
from ingestion_dagster.operations.watch import Place
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings, current

OPERATIONS = "operations"

_CURSOR_VERSION = 1


def sweep_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """A sensor that tidies up after dead runs of a pipeline: leases, half-done moves, and runs that hold a slot without working.

    One for each pipeline: what one cannot do now, or does slowly, is nothing to the others. A dead run is reported failed also if the
    pipeline's own part of the sweep fails.
    """
    settings = current()

    @dg.sensor(
        name=f"{pipeline.name}_sweep_sensor",
        minimum_interval_seconds=max(30, settings.sensor_seconds),
        default_status=default_status(settings),
        description=f"Returns what dead runs of {pipeline.name} held, finishes what they left, reports them failed. Starts no runs.",
    )
    def sweep(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SkipReason:
        settings = ingestion.settings()
        with ingestion.database().connect() as connection:
            try:
                says = pipeline.sweep(connection, settings)
            finally:
                dead = _report_dead(context.instance, connection, pipeline.name)
            heartbeat.beat(connection, context.sensor_name)
        first, *more = says
        return dg.SkipReason("; ".join([f"{first}, {dead} dead runs reported failed", *more]))

    return sweep


def _report_dead(instance: dg.DagsterInstance, connection: Connection, pipeline: str) -> int:
    """Report the runs failed whose leases have all expired; how many there were."""
    started = instance.get_runs(dg.RunsFilter(tags={PIPELINE_TAG: pipeline}, statuses=[dg.DagsterRunStatus.STARTED]))
    dead = set(whereabouts.dead_runs(connection, pipeline, [run.run_id for run in started]))
    for run in started:
        if run.run_id in dead:
            instance.report_run_failed(run, "all its leases have expired: the process or machine is gone")
    return len(dead)


def failure_sensor(pipelines: Mapping[str, Pipeline]) -> dg.SensorDefinition:
    """A sensor that alerts to each failed run of these pipelines, and of operations, once, wherever their code is loaded.

    A run that is retried is a run of its own. Runs of other projects in the same Dagster are theirs to tell of.
    """
    settings = current()

    @dg.run_failure_sensor(
        name=f"{OPERATIONS}_failure_sensor",
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=default_status(settings),
        monitor_all_code_locations=True,
        description="Alerts to failed runs of every pipeline, in whatever code location.",
    )
    def report(context: dg.RunFailureSensorContext, ingestion: Ingestion) -> None:
        run = context.dagster_run
        settings = ingestion.settings()
        through = channels.channels(settings)
        owner = owner_of(run, (*pipelines, OPERATIONS))
        if not through or owner is None:
            return
        with ingestion.database().connect() as connection:
            notifications.raise_alert(connection, through, failed_run(connection, context.instance, settings, owner, run))
            notifications.deliver(connection, through)

    return report


def watch_sensor(pipelines: Mapping[str, Pipeline]) -> dg.SensorDefinition:
    """A sensor that notices what does not happen, and delivers what is due.

    It alerts to the sensors that should be on by the settings if they fail or stand still, also if their code location does not load; to
    loads that were claimable for longer than their pipeline's limit while nothing ran; and to what a run or the failure sensor could not
    tell at its time. A state is alerted to if two ticks in a row have seen it: after a pause of the daemon, or of a dataset, the other
    sensors get time to act. While nothing is wrong, a monitor outside is told so. Starts no runs.
    """
    settings = current()

    @dg.sensor(
        name=f"{OPERATIONS}_watch_sensor",
        minimum_interval_seconds=max(60, 3 * settings.sensor_seconds),
        default_status=default_status(settings),
        description="Alerts to sensors that fail or stand still and to loads that nobody takes; delivers. Starts no runs.",
    )
    def look(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SkipReason:
        settings = ingestion.settings()
        through = channels.channels(settings)
        seen_before = _read_cursor(context.cursor)
        now = datetime.now(UTC)
        certain: list[Alert] = []
        states: list[Alert] = []
        with ingestion.database().connect() as connection:
            new = watch.failed_before(connection, context.instance, settings, (*pipelines, OPERATIONS), now) if through else []
            for name, sensors in watched(pipelines, settings).items():
                place = Place(context.instance, settings, name, now)
                found = watch.sensors_of(context.instance, sensors)
                certain += watch.failing_sensors(place, found)
                states += watch.silent_sensors(place, found)
                states += watch.endless_sweeps(connection, place, found)
                if name in pipelines:
                    states += watch.stalled(connection, place, timedelta(minutes=pipelines[name].claimable_minutes(settings)))
                    new += watch.errored_before(connection, place) if through else []
            new += [*certain, *(alert for alert in states if alert.key in seen_before)]
            raised = sum(notifications.raise_alert(connection, through, alert) for alert in new)
            delivery = notifications.deliver(connection, through)
            in_doubt = notifications.uncertain(connection)
            due = notifications.due(connection)
            heartbeat.beat(connection, context.sensor_name)
        told = "off" if certain or states else heartbeat.ping(settings)
        context.update_cursor(_write_cursor(alert.key for alert in states))
        for alert in in_doubt:
            context.log.warning("alert %s on %s may have been sent or not, at %s", alert.key, alert.channel, alert.since)
        wrong = "".join(f"; {_named(alert)}" for alert in (*certain, *states)) or "; sensors tick and loads are taken"
        outbox = f"{raised} alerts raised, {delivery.sent} sent, {due} due, {len(in_doubt)} uncertain"
        outside = "" if told == "off" else f"; monitor {told}"
        return dg.SkipReason((outbox if through else "no channel for alerts is set") + outside + wrong)

    return look


def watched(pipelines: Mapping[str, Pipeline], settings: Settings) -> dict[str, tuple[str, ...]]:
    """The sensors that should tick by the settings, by whom an alert about them names."""
    own = {name: (*pipeline.sensors(settings), f"{name}_sweep_sensor") for name, pipeline in pipelines.items()}
    return own | {OPERATIONS: (f"{OPERATIONS}_failure_sensor",)}


def _named(alert: Alert) -> str:
    """An alert in a few words; of what is no sensor's, whose pipeline it is."""
    return alert.title if "_sensor" in alert.title else f"{alert.pipeline}: {alert.title}"


def _read_cursor(cursor: str | None) -> frozenset[str]:
    """The states that the last tick saw. An unreadable cursor costs a tick, no more."""
    try:
        content = json.loads(cursor or "{}")
        return frozenset(content["seen"]) if content["version"] == _CURSOR_VERSION else frozenset()
    except (ValueError, KeyError, TypeError):
        return frozenset()


def _write_cursor(keys: Iterable[str]) -> str:
    return json.dumps({"version": _CURSOR_VERSION, "seen": sorted(keys)})


SWEEPS = {name: sweep_sensor(pipeline) for name, pipeline in PIPELINES.items()}
FAILURE = failure_sensor(PIPELINES)
WATCH = watch_sensor(PIPELINES)

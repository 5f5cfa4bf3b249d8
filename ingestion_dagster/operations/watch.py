"""What does not happen and should: sensors that tick, loads that are taken, alerts that are raised; for any pipeline, by its name."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData, TickStatus

from ingestion_dagster.engine import ledger, notifications, whereabouts
from ingestion_dagster.engine.alert import Alert, overview_link
from ingestion_dagster.engine.dagster import PIPELINE_TAG
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.operations import heartbeat
from ingestion_dagster.operations.failures import error_reason, failed_run, owner_of
from ingestion_dagster.settings import Settings

FAILED_TICKS = 3
"""So many in a row are a sensor's trouble; one is a moment's."""

_LOOK_BACK = timedelta(days=1)
_MOST_FAILED_RUNS = 50
_SHORTEST_SILENCE = timedelta(minutes=5)


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


def errored_before(connection: Connection, place: Place) -> list[Alert]:
    """Alerts to what runs of the last day errored and have not told: they died, or the database was away."""
    alerts = []
    for run_id in notifications.unreported_runs(connection, place.pipeline):
        run = place.instance.get_run_by_id(run_id)
        if run.is_finished if run else _is_over(connection, place, run_id):
            alert = notifications.errored_loads(connection, place.settings, place.pipeline, run_id, known=run is not None)
            alerts += [alert] if alert else []
    return alerts


def failed_before(
    connection: Connection, instance: dg.DagsterInstance, settings: Settings, names: Collection[str], now: datetime
) -> list[Alert]:
    """Alerts to runs of these pipelines that failed within the last day and were not told of: the failure sensor was not there."""
    failed = instance.get_runs(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=now - _LOOK_BACK), limit=_MOST_FAILED_RUNS
    )
    ours = {f"failed:{run.run_id}": (owner, run) for run in failed if (owner := owner_of(run, names))}
    told = notifications.raised(connection, ours)
    return [failed_run(connection, instance, settings, owner, run) for key, (owner, run) in ours.items() if key not in told]


def _is_over(connection: Connection, place: Place, run_id: str) -> bool:
    """Whether what is no run of this Dagster, and holds nothing at the moment, claims no more.

    A run of another Dagster home, such as of `ingestion load`, may be between two batches. It claims none after `run_seconds`, so the
    newest of its claims is as old as that then. The counts of an alert are final from there on.
    """
    if run_id.startswith(whereabouts.NO_RUNS):
        return not whereabouts.is_at_work(connection, run_id)
    last = whereabouts.last_claim(connection, place.pipeline, run_id)
    return last is not None and place.now - last > timedelta(seconds=place.settings.run_seconds)


def sensors_of(instance: dg.DagsterInstance, names: Collection[str]) -> list[InstigatorState]:
    """What the daemon has noted of these sensors, in whatever code location; nothing of one that never was on.

    Of one that has been in several (a location was renamed, or is of a branch) it is the state of where it ticked last.
    """
    newest: dict[str, InstigatorState] = {}
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        name = state.instigator_name
        if name in names and (name not in newest or _last_sign(state) > _last_sign(newest[name])):
            newest[name] = state
    return [newest[name] for name in sorted(newest)]


def _last_sign(state: InstigatorState) -> float:
    """When a sensor ticked last, or was switched on; 0: never."""
    data = state.instigator_data
    if not isinstance(data, SensorInstigatorData):
        return 0
    return max(data.last_tick_timestamp or 0, data.last_tick_start_timestamp or 0, data.last_sensor_start_timestamp or 0)


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
        last = _last_sign(state)
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


def endless_sweeps(connection: Connection, place: Place, states: Sequence[InstigatorState]) -> list[Alert]:
    """An alert for each sweep that is on and ticks, and has not come to its end for longer than the setting allows."""
    on = [state.instigator_name for state in states if _is_on(state, place.settings)]
    return [
        place.alert(
            f"endless:{name}:{since.isoformat()}",
            f"{name} does not finish",
            f"it last came to its end at {_time(since.timestamp())}; until it does, nobody takes back what dead runs hold",
            "look at its ticks in Dagster: what it waits for, or fails for, is told there",
        )
        for name, since in heartbeat.silent(connection, on, place.settings).items()
    ]


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


def _time(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"

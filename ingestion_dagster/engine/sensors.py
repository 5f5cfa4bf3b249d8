"""Sensor factories: what discovers, and what starts runs."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ingestion_dagster.engine import discovery, landing, ledger, whereabouts
from ingestion_dagster.engine.alerting import state_alert
from ingestion_dagster.engine.dagster import PIPELINE_TAG, Ingestion, run_tags
from ingestion_dagster.engine.discovery import Heard
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings, current

STREAM_SECONDS = 20.0
"""How long a tick reads a stream; the listing after it has what is left of its own time."""

FAILED_TICKS = 3
"""A queue that was away for so many ticks in a row is alerted to; one is a moment's."""

_CURSOR_VERSION = 1
_COUNTED = 10_000
"""Loads that a tick counts: to look at each of a million would take it longer than it has."""
_IN_FLIGHT = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
_LONGEST_BACK_OFF = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class LoadingJob:
    """A job that loads what a landing zone holds: of which datasets (None: all)."""

    job: Any
    """What `define_asset_job` returned; Dagster does not export its type."""
    datasets: Callable[[], frozenset[str] | None] = lambda: None
    asset_of: Callable[[str], Sequence[str]] | None = None
    """The asset key of a dataset, where a run is to be told to load only those of which there is something to load."""
    new_at_once: bool = False
    """Whether what has just come is loaded though the last runs failed: they may have failed at another dataset's folder."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a pipeline's ledger needs besides, at each tick: before the listing, and, after it, the partitions that have come up."""

    before: Callable[[Connection, Settings], None] = lambda _connection, _settings: None
    partitions: Callable[[Connection], list[str]] = lambda _connection: []
    definition: dg.DynamicPartitionsDefinition | None = None

    def requests(self, context: dg.SensorEvaluationContext, connection: Connection) -> list[dg.AddDynamicPartitionsRequest]:
        """What Dagster is to add to its dynamic partitions."""
        if self.definition is None:
            return []
        known = set(self.definition.get_partition_keys(dynamic_partitions_store=context.instance))
        new = [key for key in self.partitions(connection) if key not in known]
        return [self.definition.build_add_request(new)] if new else []


NO_UPKEEP = Upkeep()


def landing_sensor(
    name: str, pipeline: str, place: Callable[[Settings], Zone], jobs: Sequence[LoadingJob], upkeep: Upkeep = NO_UPKEEP
) -> dg.SensorDefinition:
    """A sensor that watches a landing zone: enters what it sees into the ledger, and asks for runs of the jobs that could claim of it."""
    settings = current()

    @dg.sensor(
        name=name,
        jobs=[each.job for each in jobs],
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=default_status(settings),
        description=f"Watches the landing zone of {pipeline}. Asks for one run of a job when it could claim loads and none is in flight.",
    )
    def watch(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SensorResult | dg.SkipReason:
        settings = ingestion.settings()
        with ingestion.database().connect() as connection:
            upkeep.before(connection, settings)
            result = _discover_and_ask(context, connection, settings, place(settings), jobs, landing.LISTING_SECONDS)
            partitions = upkeep.requests(context, connection)
        if not partitions:
            return result
        if isinstance(result, dg.SkipReason):
            return dg.SensorResult(skip_reason=result, dynamic_partitions_requests=partitions)
        return dg.SensorResult(run_requests=result.run_requests, dynamic_partitions_requests=partitions)

    return watch


@dataclass(frozen=True, slots=True)
class StreamSource:
    """A stream that brings files to a landing zone: which variable names it, what it says, and what takes its records.

    `take` brings what is new there to the landing zone, in so many seconds at most, and returns what a tick says of it.
    """

    variable: str
    stream: Callable[[Settings], str | None]
    take: Callable[[Connection, Settings, float], str]


def stream_sensor(
    name: str,
    pipeline: str,
    place: Callable[[Settings], Zone],
    source: StreamSource,
    jobs: Sequence[LoadingJob],
) -> dg.SensorDefinition:
    """A sensor that brings a stream's records to the landing zone, and then does what `landing_sensor` does. Idle without a stream."""
    settings = current()

    @dg.sensor(
        name=name,
        jobs=[each.job for each in jobs],
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=default_status(settings) if source.stream(settings) else dg.DefaultSensorStatus.STOPPED,
        description=f"Writes the records of a stream to the landing zone of {pipeline}, and watches that. Set {source.variable}.",
    )
    def watch(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SensorResult | dg.SkipReason:
        settings = ingestion.settings()
        if not source.stream(settings):
            return dg.SkipReason(f"no stream is read: set {source.variable} to the name or ARN of one")
        started = time.monotonic()
        gave_way: Transient | None = None
        with ingestion.database().connect() as connection:
            try:
                saw = source.take(connection, settings, STREAM_SECONDS)
            except Transient as error:
                # What was written by then is asked for all the same.
                saw, gave_way = f"the stream was left for now ({error.code})", error
            left = landing.LISTING_SECONDS - (time.monotonic() - started)
            result = _discover_and_ask(context, connection, settings, place(settings), jobs, left, saw)
        if gave_way is not None and isinstance(result, dg.SkipReason):
            raise gave_way
        return result

    return watch


def _discover_and_ask(
    context: dg.SensorEvaluationContext,
    connection: Connection,
    settings: Settings,
    zone: Zone,
    jobs: Sequence[LoadingJob],
    seconds: float,
    saw: str | None = None,
) -> dg.SensorResult | dg.SkipReason:
    """List a landing zone for so long, and ask for a run of each job that could claim something and of which none is in flight.

    `saw` leads what is said of it.
    """
    cursor = _read_cursor(context)
    found = discovery.discover(connection, zone, datetime.now(UTC), skip=cursor.skip, seconds=seconds)
    away = _told_of_queue(connection, settings, zone.pipeline, found, cursor.away) if isinstance(found, Heard) else 0
    claimable, oldest = ledger.claimable(connection, Scope(zone.pipeline), most=_COUNTED + 1)
    held_back = whereabouts.held_back(connection, zone.pipeline)
    listed = 0 if found.complete or isinstance(found, Heard) else cursor.skip + found.seen
    context.update_cursor(_write_cursor(_Cursor(listed, away)))
    counted = f"over {_COUNTED}" if claimable > _COUNTED else claimable
    seen = f"{found.seen} objects in {zone.landing.url}: {found.new} new, {found.settling} being written; {counted} loads claimable"
    seen += "".join(f"; {count} of {dataset} {why}" for dataset, why, count in held_back)
    seen += f"; {found}" if isinstance(found, Heard) else ""
    saw = f"{saw}; {seen}" if saw else seen
    if not claimable:
        return dg.SkipReason(saw)
    requests = []
    reasons = []
    for each in jobs:
        scope = Scope(zone.pipeline, each.datasets())
        assets = None
        if each.asset_of is not None:
            assets = [dg.AssetKey(each.asset_of(dataset)) for dataset in ledger.claimable_datasets(connection, scope)]
        if assets == [] or (assets is None and not ledger.claimable(connection, scope, most=1)[0]):
            continue
        is_new = each.new_at_once and found.new > 0
        reason = not_now(context.instance, zone.pipeline, each.job.name, settings.runs_per_pipeline, datetime.now(UTC), is_new=is_new)
        if reason:
            reasons.append(reason)
        else:
            queue = zone.pipeline if len(jobs) == 1 else each.job.name
            tags = run_tags(zone.pipeline, settings, queue)
            requests.append(dg.RunRequest(job_name=each.job.name, tags=tags, asset_selection=assets))
    if not requests:
        return dg.SkipReason("; ".join([saw, *reasons]))
    context.log.info("%s, the oldest since %s", saw, oldest)
    return dg.SensorResult(run_requests=requests)


@dataclass(frozen=True, slots=True)
class Due:
    """What a job has to do now: which assets to materialize, if any; what a tick says of it; and what the next tick should know."""

    assets: Sequence[dg.AssetKey]
    says: str
    seen: dict[str, str]


def due_sensor(
    name: str, pipeline: str, job: Any, find: Callable[[Connection, Settings, dict[str, str]], Due], description: str
) -> dg.SensorDefinition:
    """A sensor that asks for a run of a job when `find` says that something is due, and none is in flight.

    `find` is given what the tick before has left in `Due.seen`; nothing, if that is lost.
    """
    settings = current()

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=default_status(settings),
        description=description,
    )
    def watch(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SensorResult | dg.SkipReason:
        settings = ingestion.settings()
        with ingestion.database().connect() as connection:
            due = find(connection, settings, _read_seen(context))
        if not due.assets:
            context.update_cursor(_write_seen(due.seen))
            return dg.SkipReason(due.says)
        if reason := not_now(context.instance, pipeline, job.name, settings.runs_per_pipeline, datetime.now(UTC)):
            return dg.SkipReason(f"{due.says}; {reason}")
        context.update_cursor(_write_seen(due.seen))
        context.log.info("%s", due.says)
        tags = run_tags(pipeline, settings, job.name)
        return dg.SensorResult(run_requests=[dg.RunRequest(job_name=job.name, tags=tags, asset_selection=list(due.assets))])

    return watch


def _read_seen(context: dg.SensorEvaluationContext) -> dict[str, str]:
    """What the tick before has left; nothing if it cannot be read."""
    try:
        cursor: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"version": _CURSOR_VERSION, "seen": {}}
        if cursor["version"] != _CURSOR_VERSION:
            raise ValueError("not a cursor of ours")
        return {str(name): str(value) for name, value in cursor["seen"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        context.log.warning("the cursor could not be read; looking anew")
        return {}


def _write_seen(seen: dict[str, str]) -> str:
    return json.dumps({"version": _CURSOR_VERSION, "seen": seen})


def default_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Whether a sensor runs as soon as its code is loaded."""
    return dg.DefaultSensorStatus.RUNNING if settings.sensors == "running" else dg.DefaultSensorStatus.STOPPED


def not_now(instance: dg.DagsterInstance, pipeline: str, job: str, limit: int, now: datetime, *, is_new: bool = False) -> str | None:
    """Why a sensor should not ask for a run of a job yet: enough in flight, or the last ones failed a moment ago.

    What `is_new` does not wait for the latter.
    """
    tags = {PIPELINE_TAG: pipeline}
    in_flight = instance.get_runs(dg.RunsFilter(job_name=job, tags=tags, statuses=_IN_FLIGHT), limit=limit)
    if len(in_flight) >= limit:
        return f"run {in_flight[0].run_id[:8]} is {in_flight[0].status.value.lower()}"
    if is_new:
        return None
    failures = 0
    last_failure: datetime | None = None
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags), limit=8):
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        failures += 1
        last_failure = last_failure or record.update_timestamp
    if last_failure is None:
        return None
    back_off = min(timedelta(seconds=30) * 2 ** (failures - 1), _LONGEST_BACK_OFF)
    elapsed = now - last_failure.astimezone(UTC)
    if elapsed >= back_off:
        return None
    return f"the last {failures} runs failed; the next attempt is due in {int((back_off - elapsed).total_seconds())} s"


@dataclass(frozen=True, slots=True)
class _Cursor:
    """How many objects an unfinished listing has entered, and for how many ticks in a row the queue has been away."""

    skip: int = 0
    away: int = 0


def _read_cursor(context: dg.SensorEvaluationContext) -> _Cursor:
    """What the tick before has left. An unreadable cursor costs a re-listing, no more."""
    if not context.cursor:
        return _Cursor()
    try:
        content = json.loads(context.cursor)
        cursor = _Cursor(int(content["skip"]), int(content.get("away", 0)))
        if content["version"] != _CURSOR_VERSION or cursor.skip < 0:
            raise ValueError("not a cursor of ours")
        return cursor
    except (ValueError, KeyError, TypeError, AttributeError):
        context.log.warning("the cursor could not be read; listing from the start")
        return _Cursor()


def _write_cursor(cursor: _Cursor) -> str:
    return json.dumps({"version": _CURSOR_VERSION, "skip": cursor.skip} | ({"away": cursor.away} if cursor.away else {}))


def _told_of_queue(connection: Connection, settings: Settings, pipeline: str, heard: Heard, away: int) -> int:
    """Alert to a queue that stays away, once an hour, and to messages that nobody could read, once a day. For how many ticks it is away."""
    now = datetime.now(UTC)
    if heard.dead:
        title = f"{heard.dead} messages of its queue could not be read, or not be deleted"
        next_step = "look at them in its dead-letter queue (docs/operations.md); what they told of is found by the nightly listing"
        state_alert(connection, settings, pipeline, f"queue_dead:{pipeline}:{now:%Y-%m-%d}", title, next_step)
    if heard.trouble is None:
        return 0
    if away + 1 >= FAILED_TICKS:
        state_alert(connection, settings, pipeline, f"queue_away:{pipeline}:{now:%Y-%m-%dT%H}", "its queue cannot be read", heard.trouble)
    return away + 1

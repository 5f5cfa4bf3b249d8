"""The only Dagster in the engine: the resource, launchpad configuration, sensor factories and the metadata vocabulary."""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from ingestion_dagster.engine import landing, ledger, postgres, whereabouts
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.outcome import Tally
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current

PIPELINE_TAG = "ingestion/pipeline"
ENVIRONMENT_TAG = "ingestion/environment"
OWNERS = ["team:data-engineering"]

LANDING_DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC", end_offset=1)
"""The day on which a load was discovered, UTC; today exists from its first second."""

_CURSOR_VERSION = 1
_IN_FLIGHT = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
_LONGEST_BACK_OFF = timedelta(minutes=15)


class Ingestion(dg.ConfigurableResource[object]):
    """What a pipeline needs of the outside world, from this process's environment; nothing is opened before it is asked for."""

    def settings(self) -> Settings:
        """The settings of the environment, read now."""
        return current()

    def database(self) -> Database:
        """The ledger's and targets' database, schema up to date; the embedded server is started if it is the one in use."""
        return postgres.ready(self.settings())


INGESTION = Ingestion()
"""The one instance every pipeline's definitions share: merging them refuses two under one name."""


class LoadConfig(dg.Config):
    """What the launchpad offers for a load step."""

    only_errored: bool = False
    """Load again what is errored in the selection, and nothing else."""
    as_of: str | None = None
    """ISO date. Load only what had been discovered by the end of that day, and judge embargoes by it."""
    dry_run: bool = False
    """Judge what would be loaded and report it; claim and write nothing."""

    def clock(self) -> datetime:
        """The instant a run goes by: now, or the end of the day named by `as_of`."""
        now = datetime.now(UTC)
        if self.as_of is None:
            return now
        try:
            day = date.fromisoformat(self.as_of)
        except ValueError:
            raise ConfigurationError(f"as_of must be an ISO date such as {now:%Y-%m-%d}") from None
        if day > now.date():
            raise ConfigurationError("as_of lies in the future")
        return min(now, datetime.combine(day, time.max, UTC))


def partitions_asked_for(context: dg.AssetExecutionContext) -> frozenset[str] | None:
    """The partition keys of this run; None in a run without any, which takes whatever is claimable."""
    if context.has_partition_key or context.has_partition_key_range:
        return frozenset(context.partition_keys)
    return None


RETRY_STEP = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
"""For a load step: what a client's own retries did not outlast. A mistake of set-up is not retried (`no_retry_of_mistakes`)."""


@contextmanager
def no_retry_of_mistakes() -> Iterator[None]:
    """Fail the step for good when the project is set up in a way that cannot work: trying again would not change it."""
    try:
        yield
    except ConfigurationError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def load_metadata(
    tally: Tally,
    seconds: float,
    statuses: Sequence[Mapping[str, Any]],
    errors: Sequence[tuple[str, str, int]] = (),
    *,
    row_count: int | None = None,
) -> dict[str, Any]:
    """The vocabulary every materialization carries: counts and codes only; the statuses of the partition's loads, and what is wrong."""
    return {
        "dagster/row_count": tally.rows_written if row_count is None else row_count,
        "dagster/partition_row_count": tally.rows_written,
        "loads_archived": tally.loads_archived,
        "loads_errored": tally.loads_errored,
        "loads_duplicate": tally.loads_duplicate,
        "loads_late": tally.loads_late,
        "rows_in": tally.rows_in,
        "rows_written": tally.rows_written,
        "rows_unchanged": tally.rows_unchanged,
        "rows_rejected": tally.rows_rejected,
        "bytes": tally.bytes,
        "seconds": round(seconds, 3),
        "load_statuses": status_table(statuses),
    } | ({"load_errors": error_table(errors)} if errors else {})


def status_table(statuses: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Status counts of loads as a table for the UI."""
    fields = ("dataset", "partition", "status", "loads", "rows_written", "rows_unchanged", "rows_rejected")
    schema = dg.TableSchema(
        columns=[dg.TableColumn(name, "string" if name in ("dataset", "partition", "status") else "int") for name in fields]
    )
    return dg.TableMetadataValue(records=[dg.TableRecord({name: row[name] for name in fields}) for row in statuses], schema=schema)


def error_table(errors: Iterable[tuple[str, str, int]]) -> dg.TableMetadataValue:
    """What loads of a partition stand refused for: code, the message of one of them, how many."""
    schema = dg.TableSchema(columns=[dg.TableColumn("code"), dg.TableColumn("for example"), dg.TableColumn("loads", "int")])
    records = [dg.TableRecord({"code": code, "for example": message, "loads": loads}) for code, message, loads in errors]
    return dg.TableMetadataValue(records=records, schema=schema)


def column_schema(columns: Iterable[tuple[str, str, str]]) -> dg.TableSchema:
    """A `dagster/column_schema` from (name, type, description)."""
    return dg.TableSchema(columns=[dg.TableColumn(name, kind, description) for name, kind, description in columns])


def landing_sensor(name: str, pipeline: str, place: Callable[[Settings], Zone], job: dg.job) -> dg.SensorDefinition:  # type: ignore[valid-type]
    """A sensor that watches a landing zone: enters what it sees into the ledger, and asks for a run if anything is claimable."""
    settings = current()

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.sensors == "running" else dg.DefaultSensorStatus.STOPPED,
        description=f"Watches the landing zone of {pipeline}. Asks for one run when loads are claimable and none is in flight.",
    )
    def watch(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SensorResult | dg.SkipReason:
        settings = ingestion.settings()
        zone = place(settings)
        skip = _read_cursor(context)
        with ingestion.database().connect() as connection:
            found = landing.discover(connection, zone, datetime.now(UTC), skip=skip, seconds=landing.LISTING_SECONDS)
            claimable, oldest = ledger.claimable(connection, Scope(pipeline))
            held_back = whereabouts.held_back(connection, pipeline)
        context.update_cursor(_write_cursor(0 if found.complete else skip + found.seen))
        saw = f"{found.seen} objects in {zone.landing.url}: {found.new} new, {found.settling} being written; {claimable} loads claimable"
        saw += "".join(f"; {count} of {dataset} {why}" for dataset, why, count in held_back)
        if not claimable:
            return dg.SkipReason(saw)
        if reason := _not_now(context.instance, pipeline, settings.runs_per_pipeline, datetime.now(UTC)):
            return dg.SkipReason(f"{saw}; {reason}")
        context.log.info("%s, the oldest since %s", saw, oldest)
        return dg.SensorResult(run_requests=[dg.RunRequest(tags=run_tags(pipeline, settings))])

    return watch


def sweep_sensor(pipeline: str, place: Callable[[Settings], Zone]) -> dg.SensorDefinition:
    """A sensor that tidies up after dead runs: leases, half-done moves, and runs that hold a slot without working."""
    settings = current()

    @dg.sensor(
        name=f"{pipeline}_sweep_sensor",
        minimum_interval_seconds=max(30, settings.sensor_seconds),
        default_status=dg.DefaultSensorStatus.RUNNING if settings.sensors == "running" else dg.DefaultSensorStatus.STOPPED,
        description=f"Returns what dead runs of {pipeline} held, finishes their moves, reports them failed. Starts no runs.",
    )
    def sweep(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SkipReason:
        settings = ingestion.settings()
        with ingestion.database().connect() as connection:
            returned, moved = landing.sweep(
                connection, place(settings), lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts
            )
            started = context.instance.get_runs(dg.RunsFilter(tags={PIPELINE_TAG: pipeline}, statuses=[dg.DagsterRunStatus.STARTED]))
            dead = set(whereabouts.dead_runs(connection, pipeline, [run.run_id for run in started]))
        for run in started:
            if run.run_id in dead:
                context.instance.report_run_failed(run, "all its leases have expired: the process or machine is gone")
        return dg.SkipReason(f"{returned} loads returned to ready, {moved} moves finished, {len(dead)} dead runs reported failed")

    return sweep


def open_instance() -> dg.DagsterInstance:
    """The instance of this process's Dagster home. Two that open a new one take turns: Dagster creates its SQLite files without a lock."""
    with (Path(os.environ["DAGSTER_HOME"]) / ".opening").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        instance = dg.DagsterInstance.get()
        instance.get_runs(limit=1)
        instance.all_asset_keys()
        instance.get_ticks("", "", limit=1)
        return instance


def run_tags(pipeline: str, settings: Settings) -> dict[str, str]:
    """The tags every run of a pipeline carries: queue limits and alerts go by them."""
    return {PIPELINE_TAG: pipeline, ENVIRONMENT_TAG: settings.environment}


def _not_now(instance: dg.DagsterInstance, pipeline: str, limit: int, now: datetime) -> str | None:
    """Why a sensor should not ask for a run yet: enough in flight, or the last ones failed a moment ago."""
    tags = {PIPELINE_TAG: pipeline}
    in_flight = instance.get_runs(dg.RunsFilter(tags=tags, statuses=_IN_FLIGHT), limit=limit)
    if len(in_flight) >= limit:
        return f"run {in_flight[0].run_id[:8]} is {in_flight[0].status.value.lower()}"
    failures = 0
    last_failure: datetime | None = None
    for record in instance.get_run_records(dg.RunsFilter(tags=tags), limit=8):
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


def _read_cursor(context: dg.SensorEvaluationContext) -> int:
    """How many objects an unfinished listing has entered. An unreadable cursor costs a re-listing, no more."""
    if not context.cursor:
        return 0
    try:
        cursor = json.loads(context.cursor)
        skip = int(cursor["skip"])
        if cursor["version"] != _CURSOR_VERSION or skip < 0:
            raise ValueError("not a cursor of ours")
        return skip
    except (ValueError, KeyError, TypeError):
        context.log.warning("the cursor could not be read; listing from the start")
        return 0


def _write_cursor(skip: int) -> str:
    return json.dumps({"version": _CURSOR_VERSION, "skip": skip})

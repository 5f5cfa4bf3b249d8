"""What operations does each night, as assets: each tells of every pipeline what it did, and one pipeline's trouble stops no other's."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import dagster as dg

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.alerting import state_alert
from ingestion_dagster.engine.checks import table
from ingestion_dagster.engine.dagster import OWNERS, PIPELINE_TAG, QUEUE_TAG, Ingestion, add_partitions
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.scheduled import schedule_status
from ingestion_dagster.operations import heartbeat, ledger_retention, leftovers, reconciliation, run_retention
from ingestion_dagster.operations.sensors import OPERATIONS, SWEEPS
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings, current

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Told = Iterator[dg.MaterializeResult[None]]
"""What each asset yields: once."""

ALL_SEEN_TO = "every_pipeline_was_seen_to"
"""Of each of these assets: no pipeline was left out for a trouble of its own."""


class MaintenanceConfig(dg.Config):
    """What the launchpad offers."""

    dry_run: bool = False
    """Say what would be done, and do nothing."""


def _key(name: str) -> dg.AssetKey:
    return dg.AssetKey([OPERATIONS, name])


def _spec(name: str, check: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(check, asset=_key(name), description=description, blocking=blocking)


def _seen_to(name: str) -> dg.AssetCheckSpec:
    return _spec(name, ALL_SEEN_TO, "No pipeline was left out for a trouble of its own; the others' went on.")


def _each(pipelines: Mapping[str, Pipeline], work: Callable[[Pipeline], Result]) -> tuple[dict[str, Result], dict[str, str]]:
    """The result of each pipeline, and why there is none of the others: words of ours, of any other exception its type only."""
    results: dict[str, Result] = {}
    troubles: dict[str, str] = {}
    for name, pipeline in pipelines.items():
        try:
            results[name] = work(pipeline)
        except (ConfigurationError, Transient) as error:
            troubles[name] = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other pipelines go on
            troubles[name] = type(error).__name__
            log.error("pipeline=%s error=%s: left out of this run of operations", name, type(error).__name__)
    return results, troubles


def _checked(asset: str, check: str, passed: bool, metadata: Mapping[str, Any], *, warns: bool = False) -> dg.AssetCheckResult:
    severity = dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(asset_key=_key(asset), check_name=check, passed=passed, severity=severity, metadata=dict(metadata))


def _all_seen_to(asset: str, troubles: Mapping[str, str]) -> dg.AssetCheckResult:
    return _checked(asset, ALL_SEEN_TO, not troubles, {"left_out": table(("pipeline", "why"), sorted(troubles.items()))})


@contextmanager
def _at_work(ingestion: Ingestion) -> Iterator[tuple[Connection, Settings, datetime]]:
    settings = ingestion.settings()
    with ingestion.database().connect() as connection:
        yield connection, settings, datetime.now(UTC)


def _told(
    connection: Connection, settings: Settings, run_id: str, metadata: Mapping[str, Any], checks: Sequence[dg.AssetCheckResult]
) -> dg.MaterializeResult[None]:
    """What a run of an asset did; its checks that failed are alerted to, once a run."""
    failed = [check.check_name or "" for check in checks if not check.passed]
    asset = (checks[0].asset_key or _key("")).path[-1]
    if failed:
        title = f"{', '.join(failed)} of {asset} failed"
        state_alert(connection, settings, OPERATIONS, f"{OPERATIONS}:{asset}:{run_id}", title, "look at the asset's checks in Dagster")
    return dg.MaterializeResult(asset_key=_key(asset), metadata=dict(metadata), check_results=checks)


@dg.asset(
    key=_key("run_history"),
    group_name=OPERATIONS,
    owners=OWNERS,
    kinds={"dagster"},
    description="Runs past INGESTION_RUN_HISTORY_DAYS leave Dagster with their events and logs. What an asset, a partition or a check "
    "shows as its latest stays, and the last run of each job.",
    check_specs=[_spec("run_history", "nothing_is_left_over", "Every run past its term was looked at.")],
)
def run_history(context: dg.AssetExecutionContext, config: MaintenanceConfig, ingestion: Ingestion) -> Told:
    """Prune runs of every pipeline and of operations."""
    with _at_work(ingestion) as (connection, settings, now):
        pruned = run_retention.prune(context.instance, settings, (*PIPELINES, OPERATIONS), now, dry_run=config.dry_run)
        metadata = {"runs_deleted": pruned.runs, "runs_kept_as_latest": pruned.latest, "runs_kept_as_last": pruned.last}
        check = _checked("run_history", "nothing_is_left_over", not pruned.unfinished, metadata, warns=True)
        yield _told(connection, settings, context.run.run_id, metadata | {"dry_run": config.dry_run}, [check])


@dg.asset(
    key=_key("ledger_history"),
    group_name=OPERATIONS,
    owners=OWNERS,
    kinds={"postgres"},
    description="Loads past INGESTION_LEDGER_DAYS leave the ledger, the steps of others after INGESTION_LOAD_HISTORY_DAYS. Never a load "
    "whose object could be listed, or replayed, nor one that a record within its own term refers to.",
    check_specs=[_seen_to("ledger_history")],
)
def ledger_history(context: dg.AssetExecutionContext, config: MaintenanceConfig, ingestion: Ingestion) -> Told:
    """Let the ledger forget, pipeline by pipeline."""
    with _at_work(ingestion) as (connection, settings, now):
        results, troubles = _each(
            PIPELINES, lambda pipeline: ledger_retention.forget(connection, pipeline, settings, now, dry_run=config.dry_run)
        )
        total = sum(results.values(), start=ledger_retention.Forgotten())
        columns = ("pipeline", "loads_deleted", "kept_listed", "kept_stored", "kept_referred", "kept_unsure")
        rows = [(name, each.loads, each.listed, each.stored, each.referred, each.unsure) for name, each in results.items()]
        metadata = {
            "loads_deleted": total.loads,
            "loads_kept": total.listed + total.stored + total.referred + total.unsure,
            "history_deleted": ledger_retention.shorten(connection, settings, now, dry_run=config.dry_run),
            "alerts_deleted": ledger_retention.forget_alerts(connection, settings, now, dry_run=config.dry_run),
            "by_pipeline": table(columns, rows),
            "dry_run": config.dry_run,
        }
        yield _told(connection, settings, context.run.run_id, metadata, [_all_seen_to("ledger_history", troubles)])


@dg.asset(
    key=_key("partitions"),
    group_name=OPERATIONS,
    owners=OWNERS,
    kinds={"dagster"},
    description="Partitions that the ledger knows and Dagster does not (snapshots of cubic, refreshes of catalog) are added. Days are "
    "there by themselves.",
    check_specs=[_seen_to("partitions")],
)
def partitions(context: dg.AssetExecutionContext, config: MaintenanceConfig, ingestion: Ingestion) -> Told:
    """Add the missing ones."""
    with _at_work(ingestion) as (connection, settings, _):

        def add(pipeline: Pipeline) -> Mapping[str, int]:
            wanted = pipeline.dynamic_partitions(connection) if pipeline.dynamic_partitions else {}
            return add_partitions(context.instance, wanted, dry_run=config.dry_run)

        results, troubles = _each(PIPELINES, add)
        rows = [(definition, count) for each in results.values() for definition, count in each.items()]
        metadata = {
            "partitions_added": sum(count for _, count in rows),
            "by_definition": table(("definition", "added"), rows),
            "dry_run": config.dry_run,
        }
        yield _told(connection, settings, context.run.run_id, metadata, [_all_seen_to("partitions", troubles)])


@dg.asset(
    key=_key("leftovers"),
    group_name=OPERATIONS,
    owners=OWNERS,
    kinds={"file"},
    description="What killed processes have left half-written, staged or built, and is older than INGESTION_LEFTOVER_HOURS, is removed.",
    check_specs=[_seen_to("leftovers")],
)
def leftovers_asset(context: dg.AssetExecutionContext, config: MaintenanceConfig, ingestion: Ingestion) -> Told:
    """Collect orphans, pipeline by pipeline."""
    with _at_work(ingestion) as (connection, settings, now):
        before = now - timedelta(hours=settings.leftover_hours)
        pipelines = {} if config.dry_run else PIPELINES
        results, troubles = _each(pipelines, lambda pipeline: leftovers.clear(connection, pipeline, settings, before))
        rows = [(name, what, count) for name, found in results.items() for what, count in found.items()]
        metadata = {
            "removed": sum(count for *_, count in rows),
            "by_kind": table(("pipeline", "what", "removed"), rows),
            "dry_run": config.dry_run,
        }
        yield _told(connection, settings, context.run.run_id, metadata, [_all_seen_to("leftovers", troubles)])


_RECONCILED = {
    "nothing_was_overlooked": "Nothing had stood in a landing zone for an hour that no sensor and no message had told of.",
    "nothing_waits_for_what_is_gone": "Every load that waits for a run has its object.",
    "archives_are_complete": "The object of every archived load stands in its place, in its size.",
    "targets_agree": "What readers have is what the ledger says: the catalogue's aliases lead to the live refresh.",
}


@dg.asset(
    key=_key("reconciliation"),
    group_name=OPERATIONS,
    owners=OWNERS,
    kinds={"postgres"},
    description="Everything in every landing zone and archive against the ledger: what was passed over is entered, what is gone is told.",
    check_specs=[_seen_to("reconciliation"), *(_spec("reconciliation", name, why) for name, why in _RECONCILED.items())],
)
def reconciled(context: dg.AssetExecutionContext, config: MaintenanceConfig, ingestion: Ingestion) -> Told:
    """Reconcile, pipeline by pipeline."""
    with _at_work(ingestion) as (connection, settings, _):
        results, troubles = _each(
            PIPELINES,
            lambda pipeline: reconciliation.reconcile(connection, pipeline, settings, context.run.run_id, dry_run=config.dry_run),
        )
        rows = [
            (name, r.objects, r.new, r.late, sum(r.gone.values()), r.archive.checked, r.archive.missing, r.archive.differing)
            for name, r in results.items()
        ]
        numbers = [row[1:] for row in rows]
        columns = ("pipeline", "objects", "new", "late", "ready_and_gone", "archived", "archive_missing", "archive_differs")
        metadata = {
            **{column: sum(row[number] for row in numbers) for number, column in enumerate(columns[1:])},
            "by_pipeline": table(columns, rows),
            "dry_run": config.dry_run,
        }
        gone = [(name, dataset, count) for name, found in results.items() for dataset, count in found.gone.items()]
        ids = [load_id for found in results.values() for load_id in found.gone_ids]
        keys = [(name, key) for name, found in results.items() for key in found.archive.keys[: reconciliation.SHOWN]]
        amiss = [(name, line) for name, found in results.items() for line in found.amiss]
        late = [(name, found.late) for name, found in results.items() if found.late]
        checks = [
            _all_seen_to("reconciliation", troubles),
            _checked("reconciliation", "nothing_was_overlooked", not late, {"late": table(("pipeline", "loads"), late)}, warns=True),
            _checked(
                "reconciliation",
                "nothing_waits_for_what_is_gone",
                not gone,
                {"gone": table(("pipeline", "dataset", "loads"), gone), "load_ids": ids},
                warns=True,
            ),
            _checked("reconciliation", "archives_are_complete", not keys, {"examples": table(("pipeline", "object"), keys)}),
            _checked("reconciliation", "targets_agree", not amiss, {"amiss": table(("pipeline", "what"), amiss)}),
        ]
        yield _told(connection, settings, context.run.run_id, metadata, checks)


@dg.asset(
    key=_key("heartbeats"),
    group_name=OPERATIONS,
    owners=OWNERS,
    kinds={"postgres"},
    description="When the sweep of each pipeline last came to its end. Watched each minute; outside, by INGESTION_HEARTBEAT_URL.",
    check_specs=[_spec("heartbeats", "sweeps_finish", "Every sweep has finished within INGESTION_SILENCE_MINUTES.")],
)
def heartbeats(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Told:
    """Tell of them. Where sensors are switched off nothing beats, and that is no trouble."""
    with _at_work(ingestion) as (connection, settings, _):
        names = [sensor.name for sensor in SWEEPS.values()]
        now = ledger.now(connection)
        last = heartbeat.last(connection, names)
        silent = heartbeat.silent(connection, names, settings) if settings.sensors == "running" else {}
        ages = {name: round((now - at).total_seconds()) for name, at in last.items()}
        rows = [(name, ages.get(name, "never")) for name in sorted(names)]
        metadata = {
            "oldest_seconds": max(ages.values(), default=0),
            "by_sensor": table(("sensor", "seconds_ago"), rows),
        }
        check = _checked("heartbeats", "sweeps_finish", not silent, {"silent": ", ".join(sorted(silent))})
        yield _told(connection, settings, context.run.run_id, metadata, [check])


MAINTENANCE = [run_history, ledger_history, partitions, leftovers_asset, reconciled, heartbeats]

MAINTENANCE_JOB: Any = dg.define_asset_job(
    f"{OPERATIONS}_maintenance",
    selection=dg.AssetSelection.assets(*MAINTENANCE),
    description="Let go of what is old, remove what was left half done, and reconcile every pipeline with its places.",
    tags={PIPELINE_TAG: OPERATIONS, QUEUE_TAG: OPERATIONS, "dagster/max_runtime": str(6 * 3600)},
    executor_def=dg.in_process_executor,
)

MAINTENANCE_SCHEDULE = dg.ScheduleDefinition(
    name=f"{OPERATIONS}_maintenance_schedule",
    job=MAINTENANCE_JOB,
    cron_schedule=current().maintenance_schedule,
    execution_timezone="UTC",
    description="Tidies up and reconciles at INGESTION_MAINTENANCE_SCHEDULE.",
    default_status=schedule_status(current()),
)

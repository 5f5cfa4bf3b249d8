"""Files of registrations, and the events that they become: one load step, and where files arrive."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import dagster as dg
import psycopg

from ingestion_dagster.engine import landing, ledger, whereabouts
from ingestion_dagster.engine.alerting import errored_loads_alert, failed_checks_alert
from ingestion_dagster.engine.checks import evaluated, failed_names, table
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.dagster import (
    LANDING_DAYS,
    OWNERS,
    RETRY_STEP,
    Ingestion,
    LoadConfig,
    column_schema,
    load_metadata,
    narrowed,
    no_retry_of_mistakes,
    partitions_asked_for,
    summary,
)
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import counts, places
from ingestion_dagster.life_events.checks import (
    LANDING_KEY,
    LOAD_CHECK_SPECS,
    SOURCE_KEY,
    STAGED_KEY,
    load_check_results,
)
from ingestion_dagster.life_events.load import Job, load_life_events
from ingestion_dagster.life_events.pipeline import refuse_replay
from ingestion_dagster.life_events.reading import Reading
from ingestion_dagster.life_events.registry import DATASET, PIPELINE
from ingestion_dagster.settings import Settings

LANDING_ZONE = dg.AssetSpec(
    key=LANDING_KEY,
    description="Where GRO's daily extract of death registrations arrives, pushed or pulled. A file is deleted once its events are stored.",
    group_name=PIPELINE,
    kinds={"s3", "xml"},
    owners=OWNERS,
    metadata={"setting": "INGESTION_LIFE_EVENTS_LANDING_URL"},
)

_SOURCE_COLUMNS = [
    ("ordinal", "bigint", "place of the record in its file, from 1"),
    ("record_key", "bytea", "keyed hash of the record; in hex the id of its event"),
]

RECORD_COLUMNS = [
    ("record_key", "bytea", "keyed hash of the record; in hex the id of its event"),
    ("hmac_key", "text", "id of the key that it was hashed with"),
    ("load_id", "bigint", "the file that brought it"),
    ("ordinal", "bigint", "its place in that file"),
    ("state", "text", "pending, published, dead, released or expired"),
    ("code", "text", "why the platform refused it"),
    ("stored_at", "timestamptz", "when its event was stored"),
    ("published_at", "timestamptz", "when the platform was told"),
    ("ended_at", "timestamptz", "when its event was deleted"),
    ("seen_at", "timestamptz", "when it came last"),
]

LOAD_SPECS = [
    dg.AssetSpec(
        key=SOURCE_KEY,
        deps=[LANDING_ZONE.key],
        description="Files of death registrations (XML), read to their end before anything is stored. What is refused goes to quarantine.",
        group_name=PIPELINE,
        kinds={"xml"},
        owners=OWNERS,
        skippable=True,
        metadata={"dagster/column_schema": column_schema(_SOURCE_COLUMNS)},
    ),
    dg.AssetSpec(
        key=STAGED_KEY,
        deps=[SOURCE_KEY],
        description="One event per registration, sealed, in the event store, and due in the outbox. What has come before is only counted.",
        group_name=PIPELINE,
        kinds={"postgres", "table"},
        owners=OWNERS,
        skippable=True,
        metadata={"dagster/table_name": "life_events.records", "dagster/column_schema": column_schema(RECORD_COLUMNS)},
    ),
]


class LifeEventsConfig(LoadConfig):
    """What the launchpad offers for files of registrations. `replay` is refused: the source is deleted."""


@dg.multi_asset(
    name="life_events_load_step",
    specs=LOAD_SPECS,
    check_specs=LOAD_CHECK_SPECS,
    partitions_def=LANDING_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRY_STEP,
    can_subset=True,
)
def life_events_files(context: dg.AssetExecutionContext, config: LifeEventsConfig, ingestion: Ingestion) -> Iterator[Any]:
    """Files of registrations: claims, reads to the end, stages, settles and deletes."""
    with no_retry_of_mistakes():
        yield from load_step(context, config, ingestion)


def load_step(context: dg.AssetExecutionContext, config: LifeEventsConfig, ingestion: Ingestion) -> Iterator[Any]:
    """One run of the load step: what it is narrowed to, the load, and what there is to tell about it."""
    if config.replay:
        refuse_replay()
    settings = ingestion.settings()
    now = config.clock()
    partitions = partitions_asked_for(context)
    scope = Scope(PIPELINE, partitions=partitions, not_after=now if config.as_of else None)
    job = Job.of(settings)
    limits = Limits.of(settings)
    database = ingestion.database()
    with database.connect() as connection:
        if config.dry_run:
            yield from dry_run(connection, scope, job, config)
            return
        run_id = context.run.run_id
        ledger.sync_datasets(connection, PIPELINE, [DATASET])
        landing.sweep(connection, job.zone, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        outcome = Outcome()
        try:
            with Claims(database, narrowed(connection, scope, job.zone, config, run_id), run_id, limits) as claims:
                load_life_events(claims, job, connection, outcome)
        except Exception as error:
            yield from committed(context, database, outcome, settings)
            if isinstance(error, Transient):
                raise dg.Failure(f"{error}; nothing is lost, the next run goes on", allow_retries=True) from None
            raise
        context.log.info("%s", summary(outcome))
        told = list(materializations(context, connection, outcome, partitions, settings))
        yield from told
        results = list(load_check_results(context.selected_asset_check_keys, connection, run_id, [each.metadata for each in told]))
        for each in results:
            yield from [each] if context.has_partition_key else evaluated(each)
        errored_loads_alert(connection, settings, PIPELINE, run_id)
        failed_checks_alert(connection, settings, PIPELINE, run_id, failed_names(results))


def dry_run(connection: Connection, scope: Scope, job: Job, config: LoadConfig) -> Iterator[dg.AssetObservation]:
    """Judge what a run would load, as an observation of the landing zone. What has to be entered to see it is rolled back."""
    with connection.transaction(force_rollback=True):
        ledger.sync_datasets(connection, PIPELINE, [DATASET])
        loads = ledger.claimable_loads(connection, narrowed(connection, scope, job.zone, config))
    errored = rows_in = rejected = 0
    for load in loads:
        reading = Reading(job.rules)
        try:
            if load.size > job.rules.max_file_bytes:
                raise Refused(job.rules.too_large)
            reading.read(landing.stream(job.zone, load))
            is_refused = reading.too_bad() is not None
        except (Missing, Changed):
            continue
        except Refused:
            is_refused = True
        errored += is_refused
        rows_in += reading.records
        rejected += reading.records if is_refused else reading.bad
    yield dg.AssetObservation(
        LANDING_ZONE.key,
        description=f"dry run: {len(loads)} files, {errored} of them would be refused; {rows_in} records, {rejected} would be rejected",
        metadata={"loads": len(loads), "errored": errored, "rows_in": rows_in, "rows_rejected": rejected},
    )


def materializations(
    context: dg.AssetExecutionContext, connection: Connection, outcome: Outcome, partitions: frozenset[str] | None, settings: Settings
) -> Iterator[Any]:
    """One materialization per selected asset (and, in a run without partition key, per partition it touched)."""
    touched = outcome.partitions([DATASET]) if partitions is None else sorted(partitions)
    statuses = whereabouts.status_counts(connection, PIPELINE, touched)
    for key in (SOURCE_KEY, STAGED_KEY):
        if key not in context.selected_asset_keys:
            continue
        if partitions is not None:
            yield dg.MaterializeResult(key, metadata=_metadata(connection, outcome, key, statuses, touched, settings))
            continue
        for partition in touched:
            metadata = _metadata(connection, outcome, key, statuses, [partition], settings)
            yield dg.AssetMaterialization(key, partition=partition, metadata=metadata)


def committed(context: dg.AssetExecutionContext, database: Database, outcome: Outcome, settings: Settings) -> Iterator[Any]:
    """In a run that fails: its settled files stay loaded, so they are materialized all the same, as events, whatever the run's key."""
    with suppress(ConfigurationError, psycopg.Error), database.connect() as connection:
        yield from materializations(context, connection, outcome, None, settings)


def _metadata(
    connection: Connection,
    outcome: Outcome,
    key: dg.AssetKey,
    statuses: list[dict[str, Any]],
    partitions: list[str],
    settings: Settings,
) -> dict[str, Any]:
    tally = outcome.total([DATASET], partitions[0] if len(partitions) == 1 else None)
    own = [row for row in statuses if row["partition"] in partitions]
    errors = whereabouts.errors(connection, PIPELINE, [DATASET], partitions) if any(row["status"] == "errored" for row in own) else []
    if key == SOURCE_KEY:
        common = load_metadata(tally, outcome.seconds, own, errors, row_count=tally.rows_in)
        of_files = counts.files(connection, partitions)
        return common | {
            "dagster/uri": places.quarantine_url(settings),
            "records_expected": of_files.expected,
            "records_accepted": of_files.accepted,
            "records_duplicate": of_files.duplicates,
            "records_quarantined": of_files.quarantined,
            "ingest_lag_seconds": of_files.ingest_lag_seconds,
            "bad_records": table(("code", "field", "records"), counts.bad_records(connection, partitions)),
        }
    return load_metadata(tally, outcome.seconds, own, errors) | {
        "dagster/table_name": "life_events.records",
        "records": table(("state", "records"), counts.states(connection, partitions)),
    }

"""Cubic tables: one load step for those that go by snapshots, one for those that go by days, and what arrives from outside."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import dagster as dg
import psycopg

from ingestion_dagster.cubic import schemas
from ingestion_dagster.cubic.checks import ARCHIVE_KEY, LANDING_ZONE_KEY, check_results, check_specs
from ingestion_dagster.cubic.feeds import feeds_of
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.load import CubicOutcome, Job, judge_loads, load_cubic
from ingestion_dagster.cubic.partitions import DAYS, SNAPSHOTS
from ingestion_dagster.cubic.places import PENDING, springboard, table_folder
from ingestion_dagster.cubic.registry import PIPELINE, CubicTable, Registry, registry
from ingestion_dagster.cubic.zone import prepare
from ingestion_dagster.engine import landing, ledger, whereabouts
from ingestion_dagster.engine.alerting import errored_loads_alert, failed_checks_alert, state_alert
from ingestion_dagster.engine.checks import evaluated, failed_names
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.dagster import (
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
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.verdicts import OUR_FAULT
from ingestion_dagster.settings import Settings, current

TABLES = registry(current())
_FETCHED = {feed.table.name for feed in feeds_of(TABLES)}

LANDING_ZONE = dg.AssetSpec(
    key=LANDING_ZONE_KEY,
    description="Where Qlik, the DMAP fetch and the Kafka consumer put files: `cubic/ods_qlik/…`, `cubic/dmap/…`, `cubic/kafka/…`.",
    group_name=PIPELINE,
    kinds={"s3", "csv", "json"},
    owners=OWNERS,
)

KINESIS_STREAM = dg.AssetSpec(
    key=[PIPELINE, "kinesis_stream"],
    description="Where Cubic's Kafka topics come out; 'ingestion cubic consume' writes its records to the landing zone, in batches.",
    group_name=PIPELINE,
    kinds={"kinesis", "json"},
    owners=OWNERS,
    metadata={"setting": "INGESTION_CUBIC_KINESIS_STREAM"},
)

ARCHIVE = dg.AssetSpec(
    key=ARCHIVE_KEY,
    deps=[dg.AssetKey(list(table.asset)) for table in TABLES.tables.values()],
    description="Every loaded file as it came, each version under a key of its own; a replay reads from here.",
    group_name=PIPELINE,
    kinds={"s3"},
    owners=OWNERS,
)

_ARRIVE = {
    "ods": "Rows of `{folder}` as Qlik replicates them: the parts of each snapshot.",
    "dmap": "Data sets of the DMAP feed `{slug}`; one that is issued again replaces the one before.",
    "kafka": "Records of the Kafka topic `{slug}`, each once.",
}


def specs_of(tables: Sequence[CubicTable]) -> list[dg.AssetSpec]:
    """An asset for each table."""
    return [_spec(table) for table in tables]


def _spec(table: CubicTable) -> dg.AssetSpec:
    folder = table.prefix.rstrip("/").rpartition("/")[2]
    text = _ARRIVE[table.kind].format(folder=folder, slug=table.slug)
    if table.base is not None:
        text = f"Changes of `{folder.removesuffix('__ct')}` since each of its snapshots."
    areas = [area for area, wanted in (("typed", table.typed), ("all strings", table.raw)) if wanted]
    text += f" Parquet, {' and '.join(areas)}." if areas else " Archived only."
    metadata: dict[str, Any] = {"table": table.name, "prefix": table.prefix, "strict": table.strict}
    if table.columns is not None:
        metadata["dagster/column_schema"] = column_schema(schemas.described(table.columns))
    return dg.AssetSpec(
        key=list(table.asset),
        deps=[LANDING_ZONE.key, *([dg.AssetKey([PIPELINE, "dmap_feed", table.slug])] if table.name in _FETCHED else [])],
        description=text,
        group_name=PIPELINE,
        kinds={"parquet"} if areas else {"s3"},
        owners=OWNERS,
        skippable=True,
        metadata=metadata,
    )


class CubicConfig(LoadConfig):
    """What the launchpad offers for cubic files."""


def tables_of(tables: Registry, *, by_snapshot: bool) -> list[CubicTable]:
    """The tables whose partitions are snapshots, or days."""
    return [table for table in tables.tables.values() if KINDS[table.kind].by_snapshot == by_snapshot]


def load_step(name: str, tables: Sequence[CubicTable], partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition | None:
    """The load step of some tables; None if there are none."""
    if not tables:
        return None

    @dg.multi_asset(
        name=name,
        specs=specs_of(tables),
        check_specs=check_specs(tables),
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY_STEP,
        can_subset=True,
    )
    def step(context: dg.AssetExecutionContext, config: CubicConfig, ingestion: Ingestion) -> Iterator[Any]:
        """Claims, converts, publishes, settles and moves."""
        with no_retry_of_mistakes():
            yield from load(context, config, ingestion, tables)

    return step


def load(context: dg.AssetExecutionContext, config: CubicConfig, ingestion: Ingestion, tables: Sequence[CubicTable]) -> Iterator[Any]:
    """One run of a load step: what it is narrowed to, the load, and what there is to tell about it."""
    settings = ingestion.settings()
    now = config.clock()
    of_step = {dg.AssetKey(list(table.asset)): table for table in tables}
    selected = [of_step[key] for key in of_step if key in context.selected_asset_keys]
    partitions = partitions_asked_for(context)
    if config.replay and partitions is None:
        raise ConfigurationError("replay needs a partition: without one it would load the whole archive again")
    if config.replay and config.only_errored:
        raise ConfigurationError("replay loads what is archived, only_errored what is errored: ask for one of them")
    scope = Scope(PIPELINE, frozenset(table.name for table in selected), partitions, now if config.as_of else None)
    job = Job.of(settings, registry(settings))
    limits = Limits.of(settings)
    database = ingestion.database()
    with database.connect() as connection:
        if config.dry_run:
            yield from dry_run(connection, scope, job, config)
            return
        run_id = context.run.run_id
        prepare(connection, job.registry)
        landing.sweep(connection, job.zone, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        outcome = CubicOutcome()
        outcome.paused += ledger.pause_faulty(connection, PIPELINE, OUR_FAULT, job.fault_limit)
        try:
            with Claims(database, narrowed(connection, scope, job.zone, config, run_id), run_id, limits) as claims:
                load_cubic(claims, job, connection, outcome)
        except Exception:
            yield from committed(context, database, outcome, selected, settings)
            tell_of_tables(connection, settings, outcome, run_id)
            raise
        context.log.info("%s", summary(outcome))
        yield from materializations(context, connection, outcome, selected, partitions, settings)
        results = list(check_results(context.selected_asset_check_keys, tables, connection, run_id))
        for each in results:
            yield from [each] if context.has_partition_key else evaluated(each)
        errored_loads_alert(connection, settings, PIPELINE, run_id)
        failed_checks_alert(connection, settings, PIPELINE, run_id, failed_names(results))
        tell_of_tables(connection, settings, outcome, run_id)


def dry_run(connection: Connection, scope: Scope, job: Job, config: LoadConfig) -> Iterator[dg.AssetObservation]:
    """Judge what a run would load, as an observation of the landing zone. What has to be entered to see it is rolled back."""
    with connection.transaction(force_rollback=True):
        prepare(connection, job.registry)
        loads = ledger.claimable_loads(connection, narrowed(connection, scope, job.zone, config))
        versions = {name: schemas.versions_of(connection, name) for name in {load.dataset for load in loads} if name}
    # Not in there: nobody else could discover anything meanwhile.
    outcome = judge_loads(job, connection, loads, versions)
    total = outcome.total()
    yield dg.AssetObservation(
        LANDING_ZONE.key,
        description=f"dry run: {summary(outcome)}",
        metadata={
            "loads": total.loads_archived + total.loads_errored,
            "errored": total.loads_errored,
            "rows_in": total.rows_in,
            "rows_rejected": total.rows_rejected,
        },
    )


def materializations(
    context: dg.AssetExecutionContext,
    connection: Connection,
    outcome: CubicOutcome,
    tables: Sequence[CubicTable],
    partitions: frozenset[str] | None,
    settings: Settings,
) -> Iterator[Any]:
    """One materialization per selected table (and, in a run without partition key, per partition it touched)."""
    names = [table.name for table in tables]
    touched = outcome.partitions(names) if partitions is None else sorted(partitions)
    statuses = whereabouts.status_counts(connection, PIPELINE, touched)
    if tables and KINDS[tables[0].kind].by_snapshot:
        context.instance.add_dynamic_partitions(str(SNAPSHOTS.name), [partition for partition in touched if partition != PENDING])
    for table in tables:
        key = dg.AssetKey(list(table.asset))
        if partitions is not None:
            yield dg.MaterializeResult(key, metadata=_metadata(connection, outcome, table, statuses, touched, settings))
            continue
        for partition in outcome.partitions([table.name]):
            metadata = _metadata(connection, outcome, table, statuses, [partition], settings)
            if partition == PENDING:
                yield dg.AssetObservation(key, description="refused before a snapshot had come", metadata=metadata)
            else:
                yield dg.AssetMaterialization(key, partition=partition, metadata=metadata)


def committed(
    context: dg.AssetExecutionContext, database: Database, outcome: CubicOutcome, tables: Sequence[CubicTable], settings: Settings
) -> Iterator[Any]:
    """In a run that fails: its committed batches stay loaded, so they are materialized all the same, as events, whatever the run's key."""
    with suppress(ConfigurationError, psycopg.Error), database.connect() as connection:
        yield from materializations(context, connection, outcome, tables, None, settings)


def tell_of_tables(connection: Connection, settings: Settings, outcome: CubicOutcome, run_id: str) -> None:
    """Alert to tables that this run has paused, and to those that wait for a decision about their columns."""
    for name in outcome.paused:
        state_alert(
            connection,
            settings,
            PIPELINE,
            f"paused:{name}:{run_id}",
            f"{name} is paused",
            f"its last {settings.cubic_fault_limit} loads in a row ended in a fault of ours; other tables go on",
            f"mend what the run's log says, then 'ingestion resume {PIPELINE} {name}'",
        )
    for name, problem in outcome.held.items():
        state_alert(
            connection,
            settings,
            PIPELINE,
            f"schema:{name}:{hashlib.sha256(problem.message.encode()).hexdigest()[:16]}",
            f"{name} waits for a decision about its columns",
            problem.message,
            *(f"proposed: {line}" for line in outcome.proposed.get(name, "").splitlines()),
        )


def _metadata(
    connection: Connection,
    outcome: CubicOutcome,
    table: CubicTable,
    statuses: list[dict[str, Any]],
    partitions: list[str],
    settings: Settings,
) -> dict[str, Any]:
    tally = outcome.total([table.name], partitions[0] if len(partitions) == 1 else None)
    own = [row for row in statuses if row["dataset"] == table.name and row["partition"] in partitions]
    errors = whereabouts.errors(connection, PIPELINE, [table.name], partitions) if any(row["status"] == "errored" for row in own) else []
    versions = schemas.versions_of(connection, table.name)
    return load_metadata(tally, outcome.seconds, own, errors) | {
        "dagster/table_name": table.name,
        "dagster/uri": f"{springboard(settings).url}/{table_folder(table)}",
        **({"dagster/column_schema": column_schema(schemas.described(versions[-1].columns))} if versions else {}),
    }


SNAPSHOT_TABLES = tables_of(TABLES, by_snapshot=True)
DAILY_TABLES = tables_of(TABLES, by_snapshot=False)
cubic_ods = load_step("cubic_ods_load_step", SNAPSHOT_TABLES, SNAPSHOTS)
cubic_daily = load_step("cubic_daily_load_step", DAILY_TABLES, DAYS)

"""Cubic tables: one load step for those that go by snapshots, one for those that go by days, and what arrives from outside."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dagster as dg

from ingestion_dagster.cubic import schemas
from ingestion_dagster.cubic.checks import ARCHIVE_KEY, LANDING_ZONE_KEY, check_results, check_specs
from ingestion_dagster.cubic.feeds import feeds_of
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.load import CubicOutcome, judge_loads, load_cubic
from ingestion_dagster.cubic.partitions import DAYS, SNAPSHOTS
from ingestion_dagster.cubic.places import PENDING, springboard, table_folder
from ingestion_dagster.cubic.registry import PIPELINE, CubicTable, Registry, registry
from ingestion_dagster.cubic.table_batch import Job
from ingestion_dagster.cubic.zone import prepare
from ingestion_dagster.engine.alerting import state_alert
from ingestion_dagster.engine.dagster import OWNERS, Ingestion, LoadConfig, column_schema
from ingestion_dagster.engine.datasets import pause_faulty_datasets
from ingestion_dagster.engine.ledger import Load, Scope
from ingestion_dagster.engine.load_step import Claim, Loading, Part, foretold, load_step, run_load_step
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.verdicts import OUR_FAULT
from ingestion_dagster.settings import Settings, current

TABLES = registry(current())
_FETCHED = {feed.table.name for feed in feeds_of(TABLES)}

KINESIS_STREAM = dg.AssetSpec(
    key=[PIPELINE, "kinesis_stream"],
    description="Where Cubic's Kafka topics come out; 'ingestion cubic consume' writes its records to the landing zone, in batches.",
    group_name=PIPELINE,
    kinds={"kinesis", "json"},
    owners=OWNERS,
    metadata={"setting": "INGESTION_CUBIC_KINESIS_STREAM"},
)

LANDING_ZONE = dg.AssetSpec(
    key=LANDING_ZONE_KEY,
    deps=[KINESIS_STREAM],
    description="Where Qlik, the DMAP fetch and the Kafka consumer put files: `cubic/ods_qlik/…`, `cubic/dmap/…`, `cubic/kafka/…`.",
    group_name=PIPELINE,
    kinds={"s3", "csv", "json"},
    owners=OWNERS,
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


def load_step_of(name: str, tables: Sequence[CubicTable], partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition | None:
    """The load step of some tables; None if there are none."""
    if not tables:
        return None

    @load_step(name, specs_of(tables), check_specs(tables), partitions)
    def step(context: dg.AssetExecutionContext, config: CubicConfig, ingestion: Ingestion) -> Iterator[Any]:
        """Claims, converts, publishes, settles and moves."""
        yield from run_load_step(context, config, ingestion, partial(loading, context, config, tables))

    return step


def loading(
    context: dg.AssetExecutionContext,
    config: CubicConfig,
    tables: Sequence[CubicTable],
    settings: Settings,
    partitions: frozenset[str] | None,
) -> Loading:
    """What one run does."""
    selected = [table for table in tables if dg.AssetKey(list(table.asset)) in context.selected_asset_keys]
    job, run_id = Job.of(settings, registry(settings)), context.run.run_id
    outcome = CubicOutcome()

    def load(connection: Connection, claim: Claim) -> None:
        outcome.paused += pause_faulty_datasets(connection, PIPELINE, OUR_FAULT, job.fault_limit)
        with claim() as claims:
            load_cubic(claims, job, connection, outcome)

    def judge(connection: Connection, loads: Sequence[Load]) -> dg.AssetObservation:
        versions = {name: schemas.versions_of(connection, name) for name in {load.dataset for load in loads} if name}
        return foretold(LANDING_ZONE.key, judge_loads(job, connection, loads, versions))

    return Loading(
        pipeline=PIPELINE,
        zone=job.zone,
        scope=Scope(PIPELINE, frozenset(table.name for table in selected), partitions, config.clock() if config.as_of else None),
        parts=[part(table, settings) for table in selected],
        outcome=outcome,
        enter=lambda connection: prepare(connection, job.registry),
        judge=judge,
        load=load,
        checks=lambda connection, _outcome, _told: check_results(context.selected_asset_check_keys, tables, connection, run_id),
        add_partitions=partial(context.instance.add_dynamic_partitions, str(SNAPSHOTS.name)) if _by_snapshot(tables) else None,
        tell=lambda connection, _outcome: tell_of_tables(connection, settings, outcome, run_id),
    )


def _by_snapshot(tables: Sequence[CubicTable]) -> bool:
    return KINDS[tables[0].kind].by_snapshot


def part(table: CubicTable, settings: Settings) -> Part:
    """A table, and what is told of it."""

    def more(connection: Connection, _outcome: Outcome, _partitions: list[str]) -> dict[str, Any]:
        versions = schemas.versions_of(connection, table.name)
        return {
            "dagster/table_name": table.name,
            "dagster/uri": f"{springboard(settings).url}/{table_folder(table)}",
            **({"dagster/column_schema": column_schema(schemas.described(versions[-1].columns))} if versions else {}),
        }

    return Part(dg.AssetKey(list(table.asset)), (table.name,), more, is_pending=PENDING.__eq__)


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


SNAPSHOT_TABLES = tables_of(TABLES, by_snapshot=True)
DAILY_TABLES = tables_of(TABLES, by_snapshot=False)
cubic_ods = load_step_of("cubic_ods_load_step", SNAPSHOT_TABLES, SNAPSHOTS)
cubic_daily = load_step_of("cubic_daily_load_step", DAILY_TABLES, DAYS)

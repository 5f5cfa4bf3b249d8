"""Metric file types and the tables they feed: one load step, and what arrives from outside."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from ingestion_dagster.engine import postgres, whereabouts
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.dagster import (
    OWNERS,
    Ingestion,
    LoadConfig,
    column_lineage,
    column_schema,
    error_table,
)
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.load_step import Claim, Loading, Part, foretold, load_step, run_load_step
from ingestion_dagster.engine.local_files import distinct
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.outcome import Outcome, Tally
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics.boot import boot
from ingestion_dagster.metrics.checks import CHECK_SPECS, check_results
from ingestion_dagster.metrics.files import UNCLASSIFIED
from ingestion_dagster.metrics.interface import MetricsAPIInterface
from ingestion_dagster.metrics.load import Job, judge_loads, load_metrics
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, boot_folder, boot_zone, processed_url, zone
from ingestion_dagster.metrics.policy import full_topics
from ingestion_dagster.metrics.registry import FIELDS, FILE_TYPES, TABLES, Columns, TargetTable
from ingestion_dagster.settings import Settings

KINESIS_STREAM = dg.AssetSpec(
    key=[PIPELINE, "kinesis_stream"],
    description="Where producers put metric files as records {name, data}; each becomes a file in the landing zone. Off unless set.",
    group_name=PIPELINE,
    kinds={"kinesis", "json"},
    owners=OWNERS,
    metadata={"setting": "INGESTION_METRICS_KINESIS_STREAM"},
)

LANDING_ZONE = dg.AssetSpec(
    key=[PIPELINE, "landing_zone"],
    deps=[KINESIS_STREAM],
    description="Where the UKHSA producers put metric files: one JSON file is the complete known series of one metric, place and group.",
    group_name=PIPELINE,
    kinds={"s3", "json"},
    owners=OWNERS,
    metadata={
        "format": dg.MetadataValue.md("JSON, `[OFF-SENS_]<metric>_<GEOTYPE>_<code>_<age>_<sex>_<stratum>.json`"),
        "dagster/column_schema": column_schema(dict.fromkeys(field for fields in FIELDS.values() for field in fields)),
    },
)

DASHBOARD = dg.AssetSpec(
    key=[PIPELINE, "dashboard"],
    deps=[dg.AssetKey([PIPELINE, name]) for name in TABLES],
    description="The UKHSA data dashboard: reads the views in schema public, released and public rows only where the public looks on.",
    group_name=PIPELINE,
    kinds={"postgres"},
    owners=OWNERS,
    metadata={"link": dg.MetadataValue.url("https://ukhsa-dashboard.data.gov.uk")},
)

FILE_TYPE_SPECS = [
    dg.AssetSpec(
        key=[PIPELINE, name],
        deps=[LANDING_ZONE.key],
        description=description,
        group_name=PIPELINE,
        kinds={"json"},
        owners=OWNERS,
        skippable=True,
        metadata={
            "dagster/column_schema": column_schema(FIELDS[name]),
            "dagster/column_lineage": column_lineage({field: [(LANDING_ZONE.key, field)] for field, _, _ in FIELDS[name]}),
        },
    )
    for name, description in FILE_TYPES.items()
]


def described(table: TargetTable) -> Columns:
    """A table's columns; what each means, and which fields of a file it comes from (the open-source UI shows no column lineage)."""
    return tuple(
        (name, kind, f"{meaning} From {' and '.join(table.sources(name))}." if table.sources(name) else meaning)
        for name, kind, meaning in table.columns
    )


def table_lineage(table: TargetTable) -> dg.TableColumnLineage:
    """The fields of the file types that feed a table's columns; for references between supporting tables, the row referred to."""
    lineage: dict[str, list[tuple[dg.AssetKey, str]]] = {}
    for column, _, _ in table.columns:
        fields = set(table.sources(column))
        known = [(dg.AssetKey([PIPELINE, name]), field) for name in table.fed_by for field, _, _ in FIELDS[name] if field in fields]
        refers = not known and column.endswith("_id")
        lineage[column] = [(dg.AssetKey([PIPELINE, column.removesuffix("_id")]), "id")] if refers else known
    return column_lineage(lineage)


LOADED_WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8), warn_window=timedelta(days=2))
"""Some metric is refreshed on every working day: two days of silence are odd, more than a week of it means that nothing arrives."""

TABLE_SPECS = [
    dg.AssetSpec(
        key=[PIPELINE, table.name],
        deps=[dg.AssetKey([PIPELINE, name]) for name in ([table.parent] if table.parent else table.fed_by)],
        description=f"{table.description} Stored in `metrics.{table.name}`, read as `public.{table.view}`.",
        group_name=PIPELINE,
        kinds={"postgres", "table"},
        owners=OWNERS,
        skippable=True,
        freshness_policy=LOADED_WEEKLY if table.is_fact else None,
        metadata={
            "dagster/table_name": f"public.{table.view}",
            "dagster/column_schema": column_schema(described(table)),
            "dagster/column_lineage": table_lineage(table),
        },
    )
    for table in TABLES.values()
]


SPECS = {spec.key.path[-1]: spec for spec in (*FILE_TYPE_SPECS, *TABLE_SPECS)}


def asset_key(name: str) -> dg.AssetKey:
    """The key of a file type or table."""
    return dg.AssetKey([PIPELINE, name])


class MetricsConfig(LoadConfig):
    """What the launchpad offers for metric files."""

    boot_from: str | None = None
    """A folder on the machine that runs this. Every fact is replaced by what its files say, in one transaction."""
    boot_in_production: bool = False
    """Without it, `boot_from` is refused in production."""


@load_step("metrics_load_step", [*FILE_TYPE_SPECS, *TABLE_SPECS], CHECK_SPECS)
def metrics_files(context: dg.AssetExecutionContext, config: MetricsConfig, ingestion: Ingestion) -> Iterator[Any]:
    """Metric files, and the tables they feed: claims, reads, judges, stages, merges, commits and moves."""
    yield from run_load_step(context, config, ingestion, partial(loading, context, config))


def loading(context: dg.AssetExecutionContext, config: MetricsConfig, settings: Settings, partitions: frozenset[str] | None) -> Loading:
    """What one run does."""
    now = config.clock()
    selected = datasets_selected(context.selected_asset_keys)
    refuse_contradictions(config, partitions, selected, settings)
    job = Job(zone(settings), datasets=selected, now=now, max_load_bytes=settings.max_load_bytes, full_topics=full_topics(settings))
    outcome, run_id = Outcome(), context.run.run_id

    def load(connection: Connection, claim: Claim) -> Outcome:
        if config.boot_from:
            booting = replace(job, zone=boot_zone(settings, boot_id(context.run)))
            files = distinct([Path(config.boot_from)])
            return boot(postgres.ready(settings), booting, open_store(boot_folder(settings)), files, run_id, Limits.of(settings))
        with claim() as claims:
            load_metrics(claims, job, connection, outcome)
        return outcome

    return Loading(
        pipeline=PIPELINE,
        zone=job.zone,
        scope=Scope(
            PIPELINE,
            datasets=None if selected == frozenset(FILE_TYPES) else selected,
            partitions=partitions,
            not_after=now if config.as_of else None,
        ),
        parts=[part(name, settings) for name in (*FILE_TYPES, *TABLES) if asset_key(name) in context.selected_asset_keys],
        outcome=outcome,
        enter=lambda connection: sync_datasets(connection, PIPELINE, DATASETS),
        judge=lambda _connection, loads: foretold(LANDING_ZONE.key, judge_loads(job, loads)),
        load=load,
        checks=lambda connection, _outcome, _told: check_results(context.selected_asset_check_keys, connection, run_id),
        observe=unclassified,
    )


def boot_id(run: dg.DagsterRun) -> str:
    """What a boot is known by: its run. An automatic retry of a run is the same boot; one that a person starts again is another."""
    return run.root_run_id or run.run_id if "dagster/retry_number" in run.tags else run.run_id


def refuse_contradictions(config: MetricsConfig, partitions: frozenset[str] | None, selected: frozenset[str], settings: Settings) -> None:
    """Raise `ConfigurationError` for a request that cannot mean what it says."""
    if config.boot_from and (partitions is not None or selected != frozenset(FILE_TYPES)):
        raise ConfigurationError("boot_from replaces every fact: start it without a partition, on all assets of metrics")
    if config.boot_from and (config.replay or config.only_errored or config.dry_run or config.as_of):
        raise ConfigurationError("boot_from goes with no other option")
    if config.boot_from and settings.environment == "production" and not config.boot_in_production:
        raise ConfigurationError("this replaces every fact of production by what the folder holds; confirm with boot_in_production")


def datasets_selected(keys: Any) -> frozenset[str]:
    """The file types a selection of assets means: those selected, and those that feed a selected table."""
    names = {key.path[-1] for key in keys}
    return frozenset(
        name for name in FILE_TYPES if name in names or any(name in table.fed_by for table in TABLES.values() if table.name in names)
    )


def part(name: str, settings: Settings) -> Part:
    """A file type, or a table, and what is told of it."""
    schema = {"dagster/column_schema": SPECS[name].metadata["dagster/column_schema"]}
    if name not in TABLES:
        place = {"dagster/uri": processed_url(settings)}
        return Part(asset_key(name), (name,), lambda _connection, _outcome, _partitions: schema | place)

    def of_table(_connection: Connection, outcome: Outcome, _partitions: list[str]) -> dict[str, Any]:
        return schema | {
            "dagster/table_name": f"public.{TABLES[name].view}",
            "rows_superseded": outcome.rows_superseded,
            "rows_withdrawn": outcome.rows_withdrawn,
            "rows_restored": outcome.rows_restored,
        }

    def rows(connection: Connection, _tally: Tally) -> int:
        return MetricsAPIInterface(connection).row_count(name)

    return Part(asset_key(name), TABLES[name].fed_by, of_table, rows)


def unclassified(connection: Connection, outcome: Outcome) -> Iterator[dg.AssetObservation]:
    """Files that belong to no file type, because they cannot be read so far, are observed where they arrived."""
    total = outcome.total([UNCLASSIFIED])
    if not total.loads_errored:
        return
    errors = whereabouts.errors(connection, PIPELINE, [UNCLASSIFIED], outcome.partitions([UNCLASSIFIED]))
    yield dg.AssetObservation(
        LANDING_ZONE.key,
        description=f"{total.loads_errored} files could not be read far enough to tell their type",
        metadata={"loads_errored": total.loads_errored, "bytes": total.bytes, "load_errors": error_table(errors)},
    )

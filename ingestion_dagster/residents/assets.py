"""Spreadsheets of residents: one load step for the five datasets, what arrives from outside, and what is fed there."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import dagster as dg
import psycopg

from ingestion_dagster.engine import landing, ledger, whereabouts
from ingestion_dagster.engine.alerting import errored_loads_alert, failed_checks_alert, state_alert
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
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.residents import row_ledger, upkeep
from ingestion_dagster.residents.checks import API_KEY, CHECK_SPECS, DROP_FOLDER_KEY, check_results
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.load import Job, ResidentsOutcome, day_asked_for, load_residents
from ingestion_dagster.residents.model import OUTAGE
from ingestion_dagster.residents.places import drop_folder
from ingestion_dagster.residents.registry import PIPELINE, Dataset
from ingestion_dagster.settings import Settings

DROP_FOLDER = dg.AssetSpec(
    key=DROP_FOLDER_KEY,
    description="Where people drop spreadsheets: a folder `inbound` for each dataset, on Google Drive or on a disk. Files stay there.",
    group_name=PIPELINE,
    kinds={"googledrive", "excel"},
    owners=OWNERS,
    metadata={"setting": "INGESTION_DRIVE_URL"},
)

HERE_TO_HELP_API = dg.AssetSpec(
    key=API_KEY,
    deps=[dg.AssetKey([PIPELINE, name]) for name in DATASETS],
    description="The Here to Help API: residents, their help requests and notes. Each row sent is one request, found again or created.",
    group_name=PIPELINE,
    kinds={"api"},
    owners=OWNERS,
    metadata={
        "setting": "INGESTION_RESIDENTS_API_URL",
        "link": dg.MetadataValue.url("https://github.com/LBHackney-IT/cv-19-res-support-v3"),
    },
)

OUTBOUND_FOLDER = dg.AssetSpec(
    key=[PIPELINE, "outbound_folder"],
    deps=[dg.AssetKey([PIPELINE, name]) for name in DATASETS],
    description="Where the reports appear: a folder `outbound` for each dataset, a workbook for each file, a line for each row.",
    group_name=PIPELINE,
    kinds={"googledrive", "excel"},
    owners=OWNERS,
)


def _spec(dataset: Dataset) -> dg.AssetSpec:
    columns = [(name, "string", dataset.explanations.get(name, "")) for name in (*dataset.required, *dataset.expected)]
    return dg.AssetSpec(
        key=[PIPELINE, dataset.name],
        deps=[DROP_FOLDER.key],
        description=f"{dataset.title}. {dataset.description}",
        group_name=PIPELINE,
        kinds={"excel", "csv", "api"},
        owners=OWNERS,
        skippable=True,
        metadata={
            "dagster/column_schema": column_schema(columns),
            "inbound": f"{dataset.name}/inbound",
            "outbound": f"{dataset.name}/outbound",
        },
    )


SPECS = [_spec(dataset) for dataset in DATASETS.values()]


class ResidentsConfig(LoadConfig):
    """What the launchpad offers for spreadsheets. `as_of` is the day, in London, by which rows are judged, and narrows nothing."""


@dg.multi_asset(
    name="residents_load_step",
    specs=SPECS,
    check_specs=CHECK_SPECS,
    partitions_def=LANDING_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRY_STEP,
    can_subset=True,
)
def residents_files(context: dg.AssetExecutionContext, config: ResidentsConfig, ingestion: Ingestion) -> Iterator[Any]:
    """Spreadsheets: claims, reads, judges, sends row by row, reports and settles."""
    with no_retry_of_mistakes():
        yield from load_step(context, config, ingestion)


def load_step(context: dg.AssetExecutionContext, config: ResidentsConfig, ingestion: Ingestion) -> Iterator[Any]:
    """One run of the load step: what it is narrowed to, the load, and what there is to tell about it."""
    settings = ingestion.settings()
    as_of = day_asked_for(config.as_of)
    selected = frozenset(key.path[-1] for key in context.selected_asset_keys)
    partitions = partitions_asked_for(context)
    if config.replay and partitions is None:
        raise ConfigurationError("replay needs a partition: without one it would load everything again")
    if config.replay and config.only_errored:
        raise ConfigurationError("replay loads what is archived, only_errored what is errored: ask for one of them")
    scope = Scope(PIPELINE, selected, partitions)
    job = Job.of(settings, as_of)
    limits = Limits.of(settings)
    database = ingestion.database()
    with database.connect() as connection:
        if config.dry_run:
            yield from dry_run(connection, scope, job, config)
            return
        run_id = context.run.run_id
        tell_of_pauses(connection, settings, upkeep.sync(connection, settings))
        landing.sweep(connection, job.zone, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        upkeep.write_missing_reports(connection, settings)
        outcome = ResidentsOutcome()
        try:
            with Claims(database, narrow(connection, scope, job, config, run_id), run_id, limits) as claims:
                load_residents(claims, job, connection, database, outcome)
            if "dagster/sensor_name" not in context.run.tags:
                # Nobody waits for a sensor's run: the alert and the daily check tell of it, and no dataset waits for another's folder.
                refuse_closed_folders(job, selected)
        except Exception as error:
            yield from committed(context, database, outcome, settings)
            tell_of_files(connection, settings, outcome, run_id)
            if isinstance(error, Transient) and (error.code in OUTAGE or error.code.startswith(("http_", "api_"))):
                # The run has been as patient as it is told to be; the next one goes on.
                who = "the database" if error.code == "database_gave_way" else "the Here to Help API (INGESTION_RESIDENTS_API_URL)"
                raise dg.Failure(f"{who}: {error}; nothing is lost, the next run goes on", allow_retries=False) from None
            raise
        context.log.info("%s", summary(outcome))
        yield from materializations(context, connection, outcome, partitions, settings)
        results = list(check_results(context.selected_asset_check_keys, connection, settings, outcome, run_id))
        for each in results:
            yield from [each] if context.has_partition_key else evaluated(each)
        tell_of_files(connection, settings, outcome, run_id)
        failed_checks_alert(connection, settings, PIPELINE, run_id, failed_names(results))


def narrow(connection: Connection, scope: Scope, job: Job, config: LoadConfig, run_id: str) -> Scope:
    """What a run may claim; `only_errored` means files that were refused, or not sent whole."""
    if config.only_errored:
        return replace(scope, ids=frozenset(row_ledger.retry(connection, scope).ready))
    if config.replay:
        row_ledger.replay(connection, scope, run_id)
        return scope
    return narrowed(connection, scope, job.zone, config, run_id)


def refuse_closed_folders(job: Job, selected: frozenset[str]) -> None:
    """Raise `ConfigurationError` for selected datasets whose folders are not open to us; what lies in the others is loaded by now."""
    if found := [f"{dataset}: {why}" for dataset, why in job.place.folder.closed().items() if dataset in selected]:
        raise ConfigurationError("; ".join(found))


def dry_run(connection: Connection, scope: Scope, job: Job, config: LoadConfig) -> Iterator[dg.AssetObservation]:
    """Foretell what a run would do, as an observation of the drop folder. What has to be entered to see it is rolled back."""
    from ingestion_dagster.residents.dry_run import REFUSED_FILES, ROWS, predict

    with connection.transaction(force_rollback=True):
        ledger.sync_datasets(connection, PIPELINE, DATASETS)
        loads = ledger.claimable_loads(connection, narrowed(connection, scope, job.zone, config))
    counts: Counter[str] = Counter()
    for load in loads:
        try:
            raw = job.zone.landing.read(load.stored_object)
        except (Missing, Changed):
            continue
        except Refused:
            counts[REFUSED_FILES] += 1
            continue
        name = job.place.folder.file_name(load.key)
        counts += predict(connection, job.settings, job.place.hasher, load.dataset or "", name, raw, job.as_of)
    yield dg.AssetObservation(
        DROP_FOLDER.key,
        description=f"dry run: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}",
        metadata={
            "loads": len(loads),
            "errored": counts[REFUSED_FILES],
            "rows_in": counts[ROWS],
            "rows_rejected": counts["refused"],
            "rows_created": counts["created"],
            "rows_matched": counts["matched"],
            "rows_skipped": counts["skipped"],
        },
    )


def materializations(
    context: dg.AssetExecutionContext,
    connection: Connection,
    outcome: ResidentsOutcome,
    partitions: frozenset[str] | None,
    settings: Settings,
) -> Iterator[Any]:
    """One materialization per selected dataset (and, in a run without partition key, per partition it touched)."""
    touched = outcome.partitions(DATASETS) if partitions is None else sorted(partitions)
    statuses = whereabouts.status_counts(connection, PIPELINE, touched)
    for name in DATASETS:
        key = dg.AssetKey([PIPELINE, name])
        if key not in context.selected_asset_keys:
            continue
        if partitions is not None:
            yield dg.MaterializeResult(key, metadata=_metadata(connection, outcome, name, statuses, touched, settings))
            continue
        for partition in outcome.partitions([name]):
            yield dg.AssetMaterialization(
                key, partition=partition, metadata=_metadata(connection, outcome, name, statuses, [partition], settings)
            )


def committed(context: dg.AssetExecutionContext, database: Database, outcome: ResidentsOutcome, settings: Settings) -> Iterator[Any]:
    """In a run that fails: its finished files stay loaded, so they are materialized all the same, as events, whatever the run's key."""
    with suppress(ConfigurationError, psycopg.Error), database.connect() as connection:
        yield from materializations(context, connection, outcome, None, settings)


def tell_of_files(connection: Connection, settings: Settings, outcome: ResidentsOutcome, run_id: str) -> None:
    """Alert to the files of this run that were refused or not sent whole, by name; and by itself to another person's record."""
    errored_loads_alert(connection, settings, PIPELINE, run_id, files=outcome.troubled)
    for key, line in outcome.quarantined.items():
        state_alert(
            connection,
            settings,
            PIPELINE,
            f"quarantined:{key}",
            "HIGH SEVERITY: the API answered with another person's record",
            line,
            "no note was written; the report names the rows and the help requests: have both people's records looked at",
        )


def tell_of_closed_folders(connection: Connection, settings: Settings) -> None:
    """Alert to folders that the last listing could not look into."""
    for name, why in drop_folder(settings).closed().items():
        key = f"closed:{name}:{hashlib.sha256(why.encode()).hexdigest()[:16]}"
        state_alert(connection, settings, PIPELINE, key, f"the folder of {name} is not open to us; other datasets go on", why)


def tell_of_pauses(connection: Connection, settings: Settings, paused: Sequence[str]) -> None:
    """Alert to datasets that were paused at the first look at their folders."""
    for name in paused:
        state_alert(
            connection,
            settings,
            PIPELINE,
            f"first_day:{name}",
            f"{name} is paused: its folder held many old files at the first look",
            f"'ingestion adopt {PIPELINE}' marks files with a report as done, 'ingestion resume {PIPELINE} {name}' loads the others",
        )


def _metadata(
    connection: Connection,
    outcome: ResidentsOutcome,
    name: str,
    statuses: list[dict[str, Any]],
    partitions: list[str],
    settings: Settings,
) -> dict[str, Any]:
    tally = outcome.total([name], partitions[0] if len(partitions) == 1 else None)
    own = [row for row in statuses if row["dataset"] == name and row["partition"] in partitions]
    errors = whereabouts.errors(connection, PIPELINE, [name], partitions) if any(row["status"] == "errored" for row in own) else []
    return load_metadata(tally, outcome.seconds, own, errors) | {
        "dagster/uri": f"{settings.drive}/{name}/outbound",
        "rows": table(("status", "reason", "rows"), row_ledger.counts(connection, name, partitions)),
    }

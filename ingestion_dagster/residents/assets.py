"""Spreadsheets of residents: one load step for the five datasets, what arrives from outside, and what is fed there."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dagster as dg

from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.alerting import errored_loads_alert, state_alert
from ingestion_dagster.engine.checks import table
from ingestion_dagster.engine.dagster import OWNERS, Ingestion, LoadConfig, column_schema, narrowed
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.ledger import Load, Scope
from ingestion_dagster.engine.load_step import Claim, Loading, Part, load_step, run_load_step
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import row_ledger, upkeep
from ingestion_dagster.residents.checks import API_KEY, CHECK_SPECS, DROP_FOLDER_KEY, check_results
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.job import Job, ResidentsOutcome, day_asked_for
from ingestion_dagster.residents.load import load_residents
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


@load_step("residents_load_step", SPECS, CHECK_SPECS)
def residents_files(context: dg.AssetExecutionContext, config: ResidentsConfig, ingestion: Ingestion) -> Iterator[Any]:
    """Spreadsheets: claims, reads, judges, sends row by row, reports and settles."""
    yield from run_load_step(context, config, ingestion, partial(loading, context, config))


def loading(context: dg.AssetExecutionContext, config: ResidentsConfig, settings: Settings, partitions: frozenset[str] | None) -> Loading:
    """What one run does."""
    selected = frozenset(key.path[-1] for key in context.selected_asset_keys)
    job, run_id = Job.of(settings, day_asked_for(config.as_of)), context.run.run_id
    outcome = ResidentsOutcome()

    def load(connection: Connection, claim: Claim) -> None:
        upkeep.write_missing_reports(connection, settings)
        with claim() as claims:
            load_residents(claims, job, connection, postgres.ready(settings), outcome)
        if "dagster/sensor_name" not in context.run.tags:
            # Nobody waits for a sensor's run: the alert and the daily check tell of it, and no dataset waits for another's folder.
            refuse_closed_folders(job, selected)

    return Loading(
        pipeline=PIPELINE,
        zone=job.zone,
        scope=Scope(PIPELINE, selected, partitions),
        parts=[part(name, settings) for name in DATASETS if name in selected],
        outcome=outcome,
        enter=lambda connection: sync_datasets(connection, PIPELINE, DATASETS),
        before=lambda connection: tell_of_pauses(connection, settings, upkeep.sync(connection, settings)),
        judge=partial(foretell, job),
        load=load,
        narrow=lambda connection, scope, run_id: narrow(connection, scope, job, config, run_id),
        checks=lambda connection, _outcome, _told: check_results(context.selected_asset_check_keys, connection, settings, outcome, run_id),
        tell=lambda connection, _outcome: tell_of_files(connection, settings, outcome, run_id),
        explain=explained,
    )


def explained(error: Exception) -> Exception | None:
    """For an outage, what people should see: the run has been as patient as it is told to be."""
    if not isinstance(error, Transient) or not (error.code in OUTAGE or error.code.startswith(("http_", "api_"))):
        return None
    who = "the database" if error.code == "database_gave_way" else "the Here to Help API (INGESTION_RESIDENTS_API_URL)"
    return dg.Failure(f"{who}: {error}; nothing is lost, the next run goes on", allow_retries=False)


def part(name: str, settings: Settings) -> Part:
    """A dataset, and what is told of it."""

    def more(connection: Connection, _outcome: Outcome, partitions: list[str]) -> dict[str, Any]:
        return {
            "dagster/uri": f"{settings.drive}/{name}/outbound",
            "rows": table(("status", "reason", "rows"), row_ledger.counts(connection, name, partitions)),
        }

    return Part(dg.AssetKey([PIPELINE, name]), (name,), more)


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


def foretell(job: Job, connection: Connection, loads: Sequence[Load]) -> dg.AssetObservation:
    """Foretell what a run would do, as an observation of the drop folder."""
    from ingestion_dagster.residents.dry_run import REFUSED_FILES, ROWS, predict

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
    return dg.AssetObservation(
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

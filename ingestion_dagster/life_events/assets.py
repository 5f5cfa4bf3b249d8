"""Files of registrations, and the events that they become: one load step, and where files arrive."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dagster as dg

from ingestion_dagster.engine import landing
from ingestion_dagster.engine.checks import table
from ingestion_dagster.engine.dagster import OWNERS, Ingestion, LoadConfig, column_schema
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.ledger import Load, Scope
from ingestion_dagster.engine.load_step import Claim, Loading, Part, load_step, run_load_step
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events import counts, places
from ingestion_dagster.life_events.checks import (
    LANDING_ZONE_KEY,
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
    key=LANDING_ZONE_KEY,
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


@load_step("life_events_load_step", LOAD_SPECS, LOAD_CHECK_SPECS)
def life_events_files(context: dg.AssetExecutionContext, config: LifeEventsConfig, ingestion: Ingestion) -> Iterator[Any]:
    """Files of registrations: claims, reads to the end, stages, settles and deletes."""
    yield from run_load_step(context, config, ingestion, partial(loading, context, config))


def loading(context: dg.AssetExecutionContext, config: LifeEventsConfig, settings: Settings, partitions: frozenset[str] | None) -> Loading:
    """What one run does."""
    if config.replay:
        refuse_replay()
    job, run_id = Job.of(settings), context.run.run_id
    outcome = Outcome()

    def load(connection: Connection, claim: Claim) -> None:
        with claim() as claims:
            load_life_events(claims, job, connection, outcome)

    def checks(connection: Connection, _outcome: Outcome, told: Sequence[Any]) -> Iterator[dg.AssetCheckResult]:
        yield from load_check_results(context.selected_asset_check_keys, connection, run_id, [each.metadata for each in told])

    return Loading(
        pipeline=PIPELINE,
        zone=job.zone,
        scope=Scope(PIPELINE, partitions=partitions, not_after=config.clock() if config.as_of else None),
        parts=[each for each in (_source(settings), _STAGED) if each.key in context.selected_asset_keys],
        outcome=outcome,
        enter=lambda connection: sync_datasets(connection, PIPELINE, [DATASET]),
        judge=partial(foretell, job),
        load=load,
        checks=checks,
        explain=explained,
    )


def explained(error: Exception) -> Exception | None:
    """For what passes, what people should see."""
    return dg.Failure(f"{error}; nothing is lost, the next run goes on", allow_retries=True) if isinstance(error, Transient) else None


def foretell(job: Job, _connection: Connection, loads: Sequence[Load]) -> dg.AssetObservation:
    """Judge what a run would load, as an observation of the landing zone."""
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
    return dg.AssetObservation(
        LANDING_ZONE.key,
        description=f"dry run: {len(loads)} files, {errored} of them would be refused; {rows_in} records, {rejected} would be rejected",
        metadata={"loads": len(loads), "errored": errored, "rows_in": rows_in, "rows_rejected": rejected},
    )


def _source(settings: Settings) -> Part:
    def more(connection: Connection, _outcome: Outcome, partitions: list[str]) -> dict[str, Any]:
        of_files = counts.files(connection, partitions)
        return {
            "dagster/uri": places.quarantine_url(settings),
            "records_expected": of_files.expected,
            "records_accepted": of_files.accepted,
            "records_duplicate": of_files.duplicates,
            "records_quarantined": of_files.quarantined,
            "ingest_lag_seconds": of_files.ingest_lag_seconds,
            "bad_records": table(("code", "field", "records"), counts.bad_records(connection, partitions)),
        }

    return Part(SOURCE_KEY, (DATASET,), more, lambda _connection, tally: tally.rows_in)


def _of_staged(connection: Connection, _outcome: Outcome, partitions: list[str]) -> dict[str, Any]:
    records = table(("state", "records"), counts.states(connection, partitions))
    return {"dagster/table_name": "life_events.records", "records": records}


_STAGED = Part(STAGED_KEY, (DATASET,), _of_staged)

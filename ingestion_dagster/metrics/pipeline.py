"""The metrics pipeline as the command line sees it."""

from ingestion_dagster.engine.pipeline import STREAM_DAYS, LoadJob, Pipeline
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.engine.zones import usual_places
from ingestion_dagster.metrics.adoption import adopt_tables, describe
from ingestion_dagster.metrics.load import check_file
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, boot_folder, processed_url, zone
from ingestion_dagster.metrics.registry import FILE_TYPES, TABLES


def take_over(database: Database, dry_run: bool) -> tuple[str, ...]:
    """Take over the dashboard's own twelve tables; lines that tell of it, none if they are not there."""
    adopted = adopt_tables(database, dry_run=dry_run)
    return () if adopted is None else tuple(describe(adopted))


METRICS = Pipeline(
    name=PIPELINE,
    known=lambda: DATASETS,
    zone=zone,
    check=lambda _settings, key, raw, _beside: check_file(key, raw),
    jobs=(LoadJob("metrics_load"),),
    asset_of=lambda dataset: (PIPELINE, dataset) if dataset in FILE_TYPES else None,
    places=lambda settings: (("loaded", processed_url(settings)), *usual_places(settings, PIPELINE)),
    tables=tuple(f"metrics.{table.name}" for table in TABLES.values() if table.is_fact),
    take_over=take_over,
    # Without a stream Dagster passes over the one of streams.
    sensors=lambda settings: ("metrics_s3_sensor", *(("metrics_kinesis_sensor",) if settings.metrics_kinesis_stream else ())),
    # What a stream has brought is known by its load for as long as the stream may bring it again.
    remembers=lambda settings: STREAM_DAYS if settings.metrics_kinesis_stream else 0,
    stores=lambda settings: (boot_folder(settings),),
    claimable_minutes=lambda settings: settings.metrics_claimable_minutes,
)

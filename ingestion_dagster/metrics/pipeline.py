"""The metrics pipeline as the command line sees it."""

from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.metrics.load import check_file
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, zone
from ingestion_dagster.metrics.registry import FILE_TYPES, TABLES

METRICS = Pipeline(
    name=PIPELINE,
    datasets=DATASETS,
    zone=zone,
    check=check_file,
    job="metrics_load",
    asset_of=lambda dataset: (PIPELINE, dataset) if dataset in FILE_TYPES else None,
    places=lambda settings: (
        ("loaded", settings.zone(PIPELINE, "processed", "metrics/processed")),
        ("archived", settings.zone(PIPELINE, "archive", "metrics/archive")),
        ("refused", settings.zone(PIPELINE, "error", "metrics/failed")),
    ),
    tables=tuple(f"metrics.{table.name}" for table in TABLES.values() if table.is_fact),
)

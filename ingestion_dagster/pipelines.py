"""The pipelines by name, as the command line sees them. A new one is an entry here."""

from ingestion_dagster.catalog.pipeline import CATALOG
from ingestion_dagster.cubic.pipeline import CUBIC
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.life_events.pipeline import LIFE_EVENTS
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.residents.pipeline import RESIDENTS

PIPELINES: dict[str, Pipeline] = {pipeline.name: pipeline for pipeline in (METRICS, CUBIC, RESIDENTS, LIFE_EVENTS, CATALOG)}

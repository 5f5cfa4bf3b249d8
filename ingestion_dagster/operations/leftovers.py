"""What killed processes have left half done, in every place that is ours; each kind is removed by the module that makes it."""

from collections.abc import Mapping
from datetime import datetime

from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

UNFINISHED = "unfinished_files"


def clear(connection: Connection, pipeline: Pipeline, settings: Settings, before: datetime) -> Mapping[str, int]:
    """Remove what is left of a pipeline and was last touched before that moment; how much of what. Repeatable.

    Raises as its places do, `Transient` or `ConfigurationError`; what was removed by then is gone.
    """
    stores = [open_store(url) for url in pipeline.written(settings)]
    if pipeline.keyed is None:
        stores.append(pipeline.zone(settings).landing)
    unfinished = sum(store.clear_unfinished(before) for store in stores)
    return {UNFINISHED: unfinished, **pipeline.leftovers(connection, settings, before)}

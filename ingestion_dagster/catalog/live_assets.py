"""What changes the live generation between refreshes: hourly updates, the filtered index made anew, and tasks of the private API."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ingestion_dagster.catalog import admission, failures
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES, PIPELINE, MediaType
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.dagster import OWNERS, RETRY_STEP, Ingestion
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection

UPDATES, FILTERED_REBUILD, OPERATION = "updates", "filtered_rebuild", "operation"


class OperationConfig(dg.Config):
    """Which task of the private API is to be done."""

    task_id: str


@dataclass(frozen=True, slots=True)
class LiveAssets:
    """The assets of one media type that have no partitions."""

    updates: dg.AssetsDefinition
    rebuild: dg.AssetsDefinition
    operation: dg.AssetsDefinition


@contextmanager
def _connected(ingestion: Ingestion) -> Iterator[tuple[Places, Connection]]:
    """The places, and a connection to the ledger. What cannot be now fails the step."""
    with failures.shown(busy="; the next run does it", then="nothing is lost, the next run goes on"):
        places = Places.of(ingestion.settings())
        with places.ledger.connect() as connection:
            yield places, connection


def live_assets(media: MediaType) -> LiveAssets:
    """The assets of a media type."""
    model = media.name
    alias = dg.AssetKey([PIPELINE, model, "public_alias"])
    upstream = dg.AssetKey([PIPELINE, "upstream", media.table.upstream])

    @dg.asset(
        key=[PIPELINE, model, UPDATES],
        deps=[upstream, alias],
        description="What has changed upstream since the refresh that is live, in the live table and index: written, and deleted.",
        group_name=PIPELINE,
        kinds={"postgres", "opensearch"},
        owners=OWNERS,
        retry_policy=RETRY_STEP,
    )
    def updates(context: dg.AssetExecutionContext, ingestion: Ingestion) -> dg.MaterializeResult[None]:
        from ingestion_dagster.catalog import refreshes, updates

        with _connected(ingestion) as (places, connection), closing(places.search()) as engine:
            admission.refuse_paused(connection, model)
            if refreshes.live(connection, model) is None:
                return dg.MaterializeResult(metadata={"rows_written": 0, "why": "nothing is live yet"})
            done = updates.update_live(places, engine, connection, media, context.run.run_id, None)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": done.upserted,
                "rows_in": done.rows_in,
                "rows_written": done.upserted,
                "documents_deleted": done.deleted,
                "seconds": round(done.seconds, 3),
                "watermark": done.watermark.isoformat(),
            }
        )

    @dg.asset(
        key=[PIPELINE, model, FILTERED_REBUILD],
        deps=[alias],
        description="The filtered index, made anew from the live table because the sensitive terms have changed.",
        group_name=PIPELINE,
        kinds={"opensearch"},
        owners=OWNERS,
        retry_policy=RETRY_STEP,
    )
    def rebuild(context: dg.AssetExecutionContext, ingestion: Ingestion) -> dg.MaterializeResult[None]:
        from ingestion_dagster.catalog import filtered

        with _connected(ingestion) as (places, connection):
            limits = Limits.of(places.settings)
            done = filtered.rebuild(places, connection, media, context.run.run_id, limits, lambda _done, _of: None)
        return dg.MaterializeResult(metadata={"dagster/row_count": done.documents, "index": done.index, "seconds": round(done.seconds, 3)})

    @dg.asset(
        key=[PIPELINE, model, OPERATION],
        deps=[alias],
        description="A task of the private API on the indexes or aliases of this media type, such as POINT_ALIAS or REINDEX.",
        group_name=PIPELINE,
        kinds={"opensearch"},
        owners=OWNERS,
    )
    def operation(context: dg.AssetExecutionContext, config: OperationConfig, ingestion: Ingestion) -> dg.MaterializeResult[None]:
        from ingestion_dagster.catalog import index_operations, tasks

        with _connected(ingestion) as (places, connection), closing(places.search()) as engine:
            try:
                task = tasks.get(connection, config.task_id)
            except tasks.NoSuchTask:
                raise ConfigurationError("no task has this id: 'POST /task' of the private API enters one, and runs it") from None
            limits = Limits.of(places.settings)
            told = index_operations.execute(places, engine, connection, task, context.run.run_id, limits)
        counts: dict[str, Any] = {name: value for name, value in told.items() if isinstance(value, bool | int | float | str)}
        return dg.MaterializeResult(metadata={"action": task.action, "task": task.id} | counts)

    return LiveAssets(updates, rebuild, operation)


LIVE_ASSETS = {model: live_assets(media) for model, media in MEDIA_TYPES.items()}
"""By media type."""

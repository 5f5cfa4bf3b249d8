"""What becomes of events once they are staged: a publishing step, the store that they wait in, and the platform."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.alerting import failed_checks_alert, state_alert
from ingestion_dagster.engine.checks import evaluated, failed_names, table
from ingestion_dagster.engine.dagster import (
    LANDING_DAYS,
    OWNERS,
    RETRY_STEP,
    Ingestion,
    column_schema,
    no_retry_of_mistakes,
    partitions_asked_for,
    status_table,
)
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import counts
from ingestion_dagster.life_events.assets import RECORD_COLUMNS
from ingestion_dagster.life_events.checks import (
    PLATFORM_KEY,
    PUBLISH_CHECK_SPECS,
    PUBLISHED_KEY,
    RELEASED_KEY,
    STAGED_KEY,
    STORE_KEY,
    publish_check_results,
)
from ingestion_dagster.life_events.registry import EVENT_TYPE, PIPELINE
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    from ingestion_dagster.life_events.publish import Published

EVENT_STORE = dg.AssetSpec(
    key=STORE_KEY,
    deps=[STAGED_KEY],
    description="Events, sealed, until everybody has consumed them, and the outbox of those that the platform is yet to be told of.",
    group_name=PIPELINE,
    kinds={"postgres", "dynamodb"},
    owners=OWNERS,
    metadata={"setting": "INGESTION_LIFE_EVENTS_STORE_URL"},
)
"""Without partitions, so that what follows can run without a partition key: Dagster refuses that below a partitioned asset."""

EVENTS_PLATFORM = dg.AssetSpec(
    key=PLATFORM_KEY,
    deps=[PUBLISHED_KEY],
    description=f"The events platform: told of each {EVENT_TYPE} by its id alone. It asks for the rest when somebody consumes the event.",
    group_name=PIPELINE,
    kinds={"api"},
    owners=OWNERS,
    metadata={
        "setting": "INGESTION_LIFE_EVENTS_PLATFORM_URL",
        "link": dg.MetadataValue.url("https://github.com/alphagov/di-life-events-platform"),
    },
)

PUBLISH_SPECS = [
    dg.AssetSpec(
        key=PUBLISHED_KEY,
        deps=[STORE_KEY],
        description="Events that the platform has been told of, by id and time of registration, in the order in which they were staged.",
        group_name=PIPELINE,
        kinds={"api"},
        owners=OWNERS,
        skippable=True,
        metadata={"dagster/column_schema": column_schema(RECORD_COLUMNS)},
    ),
    dg.AssetSpec(
        key=RELEASED_KEY,
        deps=[PLATFORM_KEY],
        description="Events deleted from the store: on the platform's request once all have consumed them, or because their time was up.",
        group_name=PIPELINE,
        kinds={"postgres", "table"},
        owners=OWNERS,
        skippable=True,
        metadata={"dagster/column_schema": column_schema(RECORD_COLUMNS)},
    ),
]


NOTIFY_SECONDS = 60.0
"""How long a run sends documents to acquirers before it gives way to the next, which publishes first."""


@dg.multi_asset(
    name="life_events_publish_step",
    specs=PUBLISH_SPECS,
    check_specs=PUBLISH_CHECK_SPECS,
    partitions_def=LANDING_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRY_STEP,
    can_subset=True,
)
def life_events_events(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
    """Events: publishes what is due, deletes what has outlived its time, and tells what has been released."""
    with no_retry_of_mistakes():
        yield from publish_step(context, ingestion)


def publish_step(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
    """One run of the publishing step. What has outlived its time is deleted whether the platform is there or not."""
    from ingestion_dagster.life_events import publish, upkeep  # aiohttp comes with them: not while definitions are loaded
    from ingestion_dagster.life_events.store import open_store

    settings = ingestion.settings()
    partitions = partitions_asked_for(context)
    database = ingestion.database()
    run_id = context.run.run_id
    published = publish.Published()
    trouble = []
    now = datetime.now(UTC)
    if RELEASED_KEY in context.selected_asset_keys:
        swept = upkeep.sweep(database, open_store(settings), now, run_id, ttl=timedelta(days=settings.life_events_ttl_days))
        context.log.info("%s events deleted whose time was up", swept)
    if PUBLISHED_KEY in context.selected_asset_keys:
        trouble = told_of_events(database, settings, run_id, partitions, published)
        context.log.info("%s events published, %s dead letters, %s left", published.sent, published.dead, published.left)
    with database.connect() as connection:
        yield from publications(context, connection, partitions, published, is_failing=bool(trouble))
        if trouble:
            raise dg.Failure("; ".join(trouble), allow_retries=False)
        results = list(publish_check_results(context.selected_asset_check_keys, connection, settings, now))
        for each in results:
            yield from [each] if context.has_partition_key else evaluated(each)
        failed_checks_alert(connection, settings, PIPELINE, run_id, failed_names(results))


def told_of_events(
    database: Database, settings: Settings, run_id: str, partitions: frozenset[str] | None, published: "Published"
) -> list[str]:
    """Tell the platform and the acquirers what is due. Why the platform could not be told, if so.

    An acquirer's queue does not hold up the platform: it gets a short time, and what keeps it from being told is an alert.
    """
    from ingestion_dagster.life_events import notify, publish

    wanted, trouble = sorted(partitions) if partitions else None, []
    try:
        publish.publish(database, settings, run_id, partitions=wanted, seconds=settings.run_seconds, outcome=published)
    except Transient as error:
        trouble.append(f"the events platform (INGESTION_LIFE_EVENTS_PLATFORM_URL): {error}; nothing is lost, the next run goes on")
    except ConfigurationError as error:
        trouble.append(str(error))
    try:
        notify.deliver(database, settings, run_id, partitions=wanted, seconds=NOTIFY_SECONDS)
    except (Transient, ConfigurationError) as error:
        key = f"life_events:acquirers:{datetime.now(UTC):%Y-%m-%d}"
        with database.connect() as connection:
            state_alert(connection, settings, PIPELINE, key, "queues of acquirers (INGESTION_LIFE_EVENTS_ACQUIRERS)", str(error))
    return trouble


def publications(
    context: dg.AssetExecutionContext,
    connection: Connection,
    partitions: frozenset[str] | None,
    published: "Published",
    *,
    is_failing: bool,
) -> Iterator[Any]:
    """One materialization per selected asset (and, without partition key, per partition the run touched); as events in a run that fails."""
    sent = published.by_partition.keys()
    touched = {PUBLISHED_KEY: sent, RELEASED_KEY: sent | published.dead_by_partition.keys() | counts.partitions_ended(connection)}
    for key in (PUBLISHED_KEY, RELEASED_KEY):
        if key not in context.selected_asset_keys:
            continue
        if partitions is not None and not is_failing:
            yield dg.MaterializeResult(key, metadata=event_metadata(connection, key, sorted(partitions), published))
            continue
        for partition in sorted(touched[key] & (partitions or touched[key])):
            yield dg.AssetMaterialization(key, partition=partition, metadata=event_metadata(connection, key, [partition], published))


def event_metadata(connection: Connection, key: dg.AssetKey, partitions: list[str], published: "Published") -> dict[str, Any]:
    """What is told of the events of some landing days: how many are in which state, and how long they take."""
    states = dict(counts.states(connection, partitions))
    times = counts.times(connection, partitions)
    common = {
        "dagster/table_name": "life_events.records",
        "rows_in": sum(states.values()),
        "records": table(("state", "records"), sorted(states.items())),
        "load_statuses": status_table(whereabouts.status_counts(connection, PIPELINE, partitions)),
    }
    if key == PUBLISHED_KEY:
        return common | {
            "dagster/row_count": sum(states.values()),
            "dagster/partition_row_count": sum(published.by_partition[partition] for partition in partitions),
            "seconds": round(published.seconds, 3),
            "rows_written": sum(published.by_partition[partition] for partition in partitions),
            "rows_rejected": states.get("dead", 0),
            "dead_letters": states.get("dead", 0),
            "publish_lag_seconds": times.publish_p99,
        }
    return common | {
        "dagster/row_count": states.get("released", 0) + states.get("expired", 0),
        "rows_written": states.get("released", 0) + states.get("expired", 0),
        "rows_rejected": 0,
        "alive": sum(states.get(name, 0) for name in ("pending", "published", "dead")),
        "creation_to_deletion_seconds_median": times.lifetime_median,
        "creation_to_deletion_seconds_p99": times.lifetime_p99,
        "oldest_alive_seconds": times.oldest_alive,
    }

"""What the life events pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.engine.dagster import INGESTION, documented
from ingestion_dagster.life_events.assets import LANDING_ZONE, life_events_files
from ingestion_dagster.life_events.checks import STANDING
from ingestion_dagster.life_events.feed_assets import PULL
from ingestion_dagster.life_events.publish_assets import EVENT_STORE, EVENTS_PLATFORM, life_events_events
from ingestion_dagster.life_events.sensors import (
    LIFE_EVENTS_LOAD_JOB,
    LIFE_EVENTS_PUBLISH_JOB,
    life_events_outbox_sensor,
    life_events_s3_sensor,
)

defs = dg.Definitions(
    assets=dg.map_asset_specs(
        documented, [LANDING_ZONE, life_events_files, EVENT_STORE, life_events_events, EVENTS_PLATFORM, *PULL.assets]
    ),
    asset_checks=[STANDING.checks],
    jobs=[LIFE_EVENTS_LOAD_JOB, LIFE_EVENTS_PUBLISH_JOB, STANDING.job, *PULL.jobs],
    schedules=[STANDING.schedule, *PULL.schedules],
    sensors=[
        life_events_s3_sensor,
        life_events_outbox_sensor,
    ],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

"""What the cubic pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.cubic.assets import ARCHIVE, KINESIS_STREAM, LANDING_ZONE, cubic_daily, cubic_ods
from ingestion_dagster.cubic.checks import STANDING
from ingestion_dagster.cubic.current_assets import CURRENT_DEFINITIONS as CURRENT
from ingestion_dagster.cubic.feed_assets import FEED_DEFINITIONS as FEEDS
from ingestion_dagster.cubic.sensors import LOADING_JOBS, cubic_s3_sensor
from ingestion_dagster.engine.dagster import INGESTION, documented

defs = dg.Definitions(
    assets=dg.map_asset_specs(
        documented,
        [
            KINESIS_STREAM,
            LANDING_ZONE,
            ARCHIVE,
            *(step for step in (cubic_ods, cubic_daily) if step is not None),
            *FEEDS.assets,
            *CURRENT.assets,
        ],
    ),
    asset_checks=[STANDING.checks, *CURRENT.asset_checks],
    jobs=[*(loading.job for loading in LOADING_JOBS), STANDING.job, *FEEDS.jobs, *CURRENT.jobs],
    schedules=[STANDING.schedule, *FEEDS.schedules, *CURRENT.schedules],
    sensors=[cubic_s3_sensor, *CURRENT.sensors],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

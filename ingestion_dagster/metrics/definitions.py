"""What the metrics pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.engine.dagster import INGESTION, documented
from ingestion_dagster.metrics.assets import DASHBOARD, KINESIS_STREAM, LANDING_ZONE, metrics_files
from ingestion_dagster.metrics.checks import STANDING
from ingestion_dagster.metrics.sensors import (
    METRICS_JOB,
    metrics_kinesis_sensor,
    metrics_s3_sensor,
)

defs = dg.Definitions(
    assets=dg.map_asset_specs(documented, [KINESIS_STREAM, LANDING_ZONE, metrics_files, DASHBOARD]),
    asset_checks=[STANDING.checks],
    jobs=[METRICS_JOB, STANDING.job],
    schedules=[STANDING.schedule],
    sensors=[metrics_s3_sensor, metrics_kinesis_sensor],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

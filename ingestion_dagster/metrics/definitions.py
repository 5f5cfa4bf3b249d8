"""What the metrics pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.metrics.assets import DASHBOARD, KINESIS_STREAM, LANDING_ZONE, metrics_files
from ingestion_dagster.metrics.checks import METRICS_CHECKS_JOB, metrics_daily, metrics_daily_schedule
from ingestion_dagster.metrics.sensors import (
    METRICS_JOB,
    metrics_failure_sensor,
    metrics_kinesis_sensor,
    metrics_s3_sensor,
    metrics_sweep_sensor,
    metrics_watch_sensor,
)

defs = dg.Definitions(
    assets=[KINESIS_STREAM, LANDING_ZONE, metrics_files, DASHBOARD],
    asset_checks=[metrics_daily],
    jobs=[METRICS_JOB, METRICS_CHECKS_JOB],
    schedules=[metrics_daily_schedule],
    sensors=[metrics_s3_sensor, metrics_kinesis_sensor, metrics_sweep_sensor, metrics_failure_sensor, metrics_watch_sensor],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

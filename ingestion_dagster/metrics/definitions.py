"""What the metrics pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.metrics.assets import DASHBOARD, LANDING_ZONE, metrics_files
from ingestion_dagster.metrics.sensors import METRICS_JOB, metrics_s3_sensor, metrics_sweep_sensor

defs = dg.Definitions(
    assets=[LANDING_ZONE, metrics_files, DASHBOARD],
    jobs=[METRICS_JOB],
    sensors=[metrics_s3_sensor, metrics_sweep_sensor],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

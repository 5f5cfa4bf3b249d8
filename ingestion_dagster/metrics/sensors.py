"""What starts a run of the metrics pipeline, and what tidies up after a dead one."""

import dagster as dg

from ingestion_dagster.engine.dagster import PIPELINE_TAG
from ingestion_dagster.engine.sensors import landing_sensor, sweep_sensor
from ingestion_dagster.metrics.assets import metrics_files
from ingestion_dagster.metrics.places import PIPELINE, zone

METRICS_JOB = dg.define_asset_job(
    "metrics_load",
    selection=dg.AssetSelection.assets(metrics_files),
    description="Load every claimable metric file.",
    tags={PIPELINE_TAG: PIPELINE},
    executor_def=dg.in_process_executor,
)

metrics_s3_sensor = landing_sensor("metrics_s3_sensor", PIPELINE, zone, METRICS_JOB)
metrics_sweep_sensor = sweep_sensor(PIPELINE, zone)

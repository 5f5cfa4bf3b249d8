"""What starts a run of the metrics pipeline."""

import dagster as dg

from ingestion_dagster.engine.dagster import PIPELINE_TAG, QUEUE_TAG
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.sensors import LoadingJob, StreamSource, landing_sensor, stream_sensor
from ingestion_dagster.metrics.assets import metrics_files
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.settings import Settings

METRICS_JOB = dg.define_asset_job(
    "metrics_load",
    selection=dg.AssetSelection.assets(metrics_files),
    description="Load every claimable metric file.",
    tags={PIPELINE_TAG: PIPELINE, QUEUE_TAG: PIPELINE},
    executor_def=dg.in_process_executor,
)

metrics_s3_sensor = landing_sensor("metrics_s3_sensor", PIPELINE, zone, [LoadingJob(METRICS_JOB)])


def _take_records(connection: Connection, settings: Settings, seconds: float) -> str:
    from ingestion_dagster.metrics.stream import take  # boto3 comes with it: not while definitions are loaded

    stream = settings.metrics_kinesis_stream or ""
    return str(take(connection, zone(settings), stream, seconds=seconds, max_load_bytes=settings.max_load_bytes))


KINESIS = StreamSource("INGESTION_METRICS_KINESIS_STREAM", lambda settings: settings.metrics_kinesis_stream, _take_records)

metrics_kinesis_sensor = stream_sensor("metrics_kinesis_sensor", PIPELINE, zone, KINESIS, [LoadingJob(METRICS_JOB)])

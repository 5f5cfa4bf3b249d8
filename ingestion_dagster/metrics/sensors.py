"""What starts a run of the metrics pipeline."""

from ingestion_dagster.engine.load_step import load_job
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.sensors import LoadingJob, StreamSource, landing_sensor, stream_sensor
from ingestion_dagster.metrics.assets import metrics_files
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.settings import Settings

METRICS_JOB = load_job("metrics_load", PIPELINE, metrics_files, "Load every claimable metric file.")

metrics_s3_sensor = landing_sensor("metrics_s3_sensor", PIPELINE, zone, [LoadingJob(METRICS_JOB)])


def _take_records(connection: Connection, settings: Settings, seconds: float) -> str:
    from ingestion_dagster.metrics.stream import take  # boto3 comes with it: not while definitions are loaded

    stream = settings.metrics_kinesis_stream or ""
    return str(take(connection, zone(settings), stream, seconds=seconds, max_load_bytes=settings.max_load_bytes))


KINESIS = StreamSource("INGESTION_METRICS_KINESIS_STREAM", lambda settings: settings.metrics_kinesis_stream, _take_records)

metrics_kinesis_sensor = stream_sensor("metrics_kinesis_sensor", PIPELINE, zone, KINESIS, [LoadingJob(METRICS_JOB)])

"""What starts runs of the cubic pipeline."""

import dagster as dg

from ingestion_dagster.cubic import discovery
from ingestion_dagster.cubic.assets import DAILY_TABLES, SNAPSHOT_TABLES, cubic_daily, cubic_ods
from ingestion_dagster.cubic.partitions import SNAPSHOTS
from ingestion_dagster.cubic.registry import PIPELINE, CubicTable, registry
from ingestion_dagster.cubic.zone import prepare, zone
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.load_step import load_job
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.sensors import LoadingJob, Upkeep, landing_sensor
from ingestion_dagster.settings import Settings

ODS_JOB = "cubic_ods_load"
DAILY_JOB = "cubic_daily_load"


def _loading(name: str, step: dg.AssetsDefinition | None, tables: list[CubicTable], what: str) -> list[LoadingJob]:
    if step is None:
        return []
    job = load_job(name, PIPELINE, step, what, queue=name)
    assets = {table.name: table.asset for table in tables}
    return [LoadingJob(job, lambda: frozenset(assets), assets.__getitem__)]


LOADING_JOBS = [
    *_loading(ODS_JOB, cubic_ods, SNAPSHOT_TABLES, "Load every claimable file of an ods table, changes too."),
    *_loading(DAILY_JOB, cubic_daily, DAILY_TABLES, "Load every claimable DMAP file and Kafka batch."),
]


def _place(settings: Settings) -> Zone:
    return zone(settings, registry(settings))


def _prepare(connection: Connection, settings: Settings) -> None:
    prepare(connection, registry(settings))


cubic_s3_sensor = landing_sensor(
    "cubic_s3_sensor", PIPELINE, _place, LOADING_JOBS, Upkeep(before=_prepare, partitions=discovery.snapshots, definition=SNAPSHOTS)
)

"""What the residents pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.residents.assets import DROP_FOLDER, HERE_TO_HELP_API, OUTBOUND_FOLDER, residents_files
from ingestion_dagster.residents.checks import RESIDENTS_CHECKS_JOB, residents_daily, residents_daily_schedule
from ingestion_dagster.residents.sensors import (
    RESIDENTS_LOAD_JOB,
    residents_drive_sensor,
    residents_failure_sensor,
    residents_sweep_sensor,
    residents_watch_sensor,
)

defs = dg.Definitions(
    assets=[DROP_FOLDER, residents_files, HERE_TO_HELP_API, OUTBOUND_FOLDER],
    asset_checks=[residents_daily],
    jobs=[RESIDENTS_LOAD_JOB, RESIDENTS_CHECKS_JOB],
    schedules=[residents_daily_schedule],
    sensors=[residents_drive_sensor, residents_sweep_sensor, residents_failure_sensor, residents_watch_sensor],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

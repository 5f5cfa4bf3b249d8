"""What the residents pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.engine.dagster import INGESTION, documented
from ingestion_dagster.residents.assets import DROP_FOLDER, HERE_TO_HELP_API, OUTBOUND_FOLDER, residents_files
from ingestion_dagster.residents.checks import STANDING
from ingestion_dagster.residents.sensors import (
    RESIDENTS_LOAD_JOB,
    residents_drive_sensor,
)

defs = dg.Definitions(
    assets=dg.map_asset_specs(documented, [DROP_FOLDER, residents_files, HERE_TO_HELP_API, OUTBOUND_FOLDER]),
    asset_checks=[STANDING.checks],
    jobs=[RESIDENTS_LOAD_JOB, STANDING.job],
    schedules=[STANDING.schedule],
    sensors=[residents_drive_sensor],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

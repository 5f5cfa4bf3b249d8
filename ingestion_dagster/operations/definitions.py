"""What operations offers to Dagster. It loads whatever a pipeline's registry is like: nothing of it is read before a tick."""

import dagster as dg

from ingestion_dagster.engine.dagster import INGESTION, documented
from ingestion_dagster.operations.assets import MAINTENANCE, MAINTENANCE_JOB, MAINTENANCE_SCHEDULE
from ingestion_dagster.operations.sensors import FAILURE, SWEEPS, WATCH

defs = dg.Definitions(
    assets=dg.map_asset_specs(documented, MAINTENANCE),
    jobs=[MAINTENANCE_JOB],
    schedules=[MAINTENANCE_SCHEDULE],
    sensors=[*SWEEPS.values(), FAILURE, WATCH],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

"""What the catalogue pipeline offers to Dagster."""

import dagster as dg

from ingestion_dagster.catalog.assets import CHAINS
from ingestion_dagster.catalog.checks import STANDING
from ingestion_dagster.catalog.live_assets import LIVE_ASSETS
from ingestion_dagster.catalog.sensors import (
    FILTER_JOBS,
    HOURLY,
    OPERATION_JOBS,
    REFRESH_JOBS,
    UPDATE_JOBS,
    WEEKLY,
    catalog_terms_sensor,
    catalog_upstream_sensor,
)
from ingestion_dagster.engine.dagster import INGESTION, documented

_ASSETS: list[dg.AssetSpec | dg.AssetsDefinition] = []
for chain in CHAINS.values():
    _ASSETS += [*chain.upstream, chain.alias, *chain.steps]
for live in LIVE_ASSETS.values():
    _ASSETS += [live.updates, live.rebuild, live.operation]

defs = dg.Definitions(
    assets=dg.map_asset_specs(documented, _ASSETS),
    asset_checks=[STANDING.checks, *(chain.gates for chain in CHAINS.values())],
    jobs=[*REFRESH_JOBS.values(), *UPDATE_JOBS.values(), *FILTER_JOBS.values(), *OPERATION_JOBS.values(), STANDING.job],
    schedules=[*WEEKLY, *HOURLY, STANDING.schedule],
    sensors=[
        catalog_upstream_sensor,
        catalog_terms_sensor,
    ],
    resources={"ingestion": INGESTION},
    executor=dg.in_process_executor,
)

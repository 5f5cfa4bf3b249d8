"""What is checked after each load of metric files, in runs with and without a partition key alike."""

from collections.abc import Iterable, Iterator

import dagster as dg

from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics.interface import MetricsAPIInterface
from ingestion_dagster.metrics.places import PIPELINE
from ingestion_dagster.metrics.registry import FILE_TYPES, TABLES

ROWS_ADD_UP = "rows_add_up"
NOTHING_ERRORED = "nothing_errored"
PUBLIC_FLAG_HOLDS = "public_flag_holds"

FACTS = tuple(table.name for table in TABLES.values() if table.is_fact)

CHECK_SPECS = [
    *(
        dg.AssetCheckSpec(ROWS_ADD_UP, asset=[PIPELINE, name], description="Every row that came in was written, unchanged or rejected.")
        for name in FILE_TYPES
    ),
    *(
        dg.AssetCheckSpec(NOTHING_ERRORED, asset=[PIPELINE, name], description="No file of this type stands refused.")
        for name in FILE_TYPES
    ),
    *(
        dg.AssetCheckSpec(PUBLIC_FLAG_HOLDS, asset=[PIPELINE, name], description="No row of an OFF-SENS_ metric counts as public.")
        for name in FACTS
    ),
]


def check_results(selected: Iterable[dg.AssetCheckKey], connection: Connection) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of the load step."""
    for check in sorted(selected):
        yield _result(check, connection)


def _result(check: dg.AssetCheckKey, connection: Connection) -> dg.AssetCheckResult:
    dataset = check.asset_key.path[-1]
    if check.name == NOTHING_ERRORED:
        codes = {code: count for code, _, count in whereabouts.errors(connection, PIPELINE, [dataset])}
        return dg.AssetCheckResult(
            asset_key=check.asset_key,
            check_name=check.name,
            passed=not codes,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"loads_errored": sum(codes.values()), **codes},
        )
    if check.name == ROWS_ADD_UP:
        found = whereabouts.unaccounted(connection, PIPELINE, dataset)
    else:
        found = MetricsAPIInterface(connection).wrongly_public_series()
    return dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=found == 0, metadata={"found": found})

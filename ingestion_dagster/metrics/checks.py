"""What is checked after each load of metric files, in runs with and without a partition key alike."""

from collections.abc import Iterable, Iterator

import dagster as dg

from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics.places import PIPELINE
from ingestion_dagster.metrics.registry import FILE_TYPES, TABLES

UNACCOUNTED = """
SELECT count(*) FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND d.name = %(dataset)s AND l.status = 'archived'
  AND l.rows_in <> l.rows_written + l.rows_unchanged + l.rows_rejected
"""
ERRORED = """
SELECT l.error_code, count(*) FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND d.name = %(dataset)s AND l.status IN ('ready_for_erroring', 'erroring', 'errored')
GROUP BY 1 ORDER BY 1
"""
WRONGLY_PUBLIC = """
SELECT count(*) FROM metrics.series AS s JOIN metrics.metric AS m ON m.id = s.metric_id
WHERE s.is_public AND starts_with(m.name, 'OFF-SENS_')
"""

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
    parameters = {"pipeline": PIPELINE, "dataset": check.asset_key.path[-1]}
    if check.name == NOTHING_ERRORED:
        codes = {str(code): count for code, count in connection.execute(ERRORED, parameters)}
        return dg.AssetCheckResult(
            asset_key=check.asset_key,
            check_name=check.name,
            passed=not codes,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"loads_errored": sum(codes.values()), **codes},
        )
    row = connection.execute(UNACCOUNTED if check.name == ROWS_ADD_UP else WRONGLY_PUBLIC, parameters).fetchone()
    found = row[0] if row else 0
    return dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=found == 0, metadata={"found": found})

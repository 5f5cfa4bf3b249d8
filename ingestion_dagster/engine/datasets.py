"""The datasets of a pipeline: which there are, and which of them are paused."""

from collections.abc import Iterable

from ingestion_dagster.engine.postgres import Connection

_SYNC_DATASETS = """
INSERT INTO ledger.datasets (pipeline, name, landing_prefix)
SELECT %(pipeline)s, name, '' FROM unnest(%(names)s::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM ledger.datasets AS d WHERE d.pipeline = %(pipeline)s AND d.name = wanted.name)
ORDER BY name
ON CONFLICT (pipeline, name) DO NOTHING
"""

_REBUILT = "UPDATE ledger.datasets SET rebuilt_at = clock_timestamp() WHERE pipeline = %(pipeline)s"

_PAUSE = (
    "UPDATE ledger.datasets SET paused_at = now(), paused_why = %(why)s WHERE pipeline = %(pipeline)s AND name = %(dataset)s RETURNING id"
)

_RESUME = """
UPDATE ledger.datasets SET paused_at = NULL, paused_why = NULL, resumed_at = clock_timestamp()
WHERE pipeline = %(pipeline)s AND name = %(dataset)s RETURNING id
"""

_PAUSE_FAULTY = """
UPDATE ledger.datasets AS d SET paused_at = clock_timestamp(), paused_why = %(why)s
WHERE d.pipeline = %(pipeline)s AND d.paused_at IS NULL AND (
    SELECT count(*) FILTER (WHERE last.error_code = ANY(%(codes)s) AND last.status = 'errored')
    FROM (
        SELECT l.error_code, l.status FROM ledger.loads AS l
        WHERE l.dataset_id = d.id AND l.finished_at IS NOT NULL AND (d.resumed_at IS NULL OR l.finished_at > d.resumed_at)
        ORDER BY l.finished_at DESC, l.id DESC LIMIT %(limit)s) AS last) >= %(limit)s
RETURNING d.name
"""

_UNAVAILABLE = "SELECT name FROM ledger.datasets WHERE pipeline = %(pipeline)s AND (NOT is_active OR paused_at IS NOT NULL)"

_DATASETS = "SELECT name FROM ledger.datasets WHERE pipeline = %(pipeline)s AND is_active AND paused_at IS NULL"


def sync_datasets(connection: Connection, pipeline: str, names: Iterable[str]) -> None:
    """Enter the datasets a pipeline's registry knows; those already there keep their pause and activity."""
    connection.execute(_SYNC_DATASETS, {"pipeline": pipeline, "names": sorted(names)})


def available_datasets(connection: Connection, pipeline: str) -> frozenset[str]:
    """Datasets that are active and not paused."""
    return frozenset(row[0] for row in connection.execute(_DATASETS, {"pipeline": pipeline}))


def paused_datasets(connection: Connection, pipeline: str) -> list[str]:
    """Datasets that are paused or not active, by name."""
    return sorted(row[0] for row in connection.execute(_UNAVAILABLE, {"pipeline": pipeline}))


def pause_dataset(connection: Connection, pipeline: str, dataset: str, why: str) -> bool:
    """Stop claiming a dataset's loads; discovery goes on. False if there is no such dataset."""
    return connection.execute(_PAUSE, {"pipeline": pipeline, "dataset": dataset, "why": why}).fetchone() is not None


def pause_faulty_datasets(connection: Connection, pipeline: str, codes: Iterable[str], limit: int) -> list[str]:
    """Pause the datasets of which the last `limit` loads in a row ended with one of these codes. Returns which."""
    why = f"the last {limit} loads in a row ended in a fault of ours; mend it, then 'ingestion resume {pipeline} DATASET'"
    rows = connection.execute(_PAUSE_FAULTY, {"pipeline": pipeline, "codes": sorted(codes), "limit": limit, "why": why})
    return [row[0] for row in rows]


def resume_dataset(connection: Connection, pipeline: str, dataset: str) -> bool:
    """Claim a paused dataset's loads again. False if there is no such dataset."""
    return connection.execute(_RESUME, {"pipeline": pipeline, "dataset": dataset}).fetchone() is not None


def mark_rebuilt(connection: Connection, pipeline: str) -> None:
    """Note that all that was loaded before is replaced now: from here on, the same content as before is loaded again."""
    connection.execute(_REBUILT, {"pipeline": pipeline})

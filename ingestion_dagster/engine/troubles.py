"""What of a pipeline's loads asks for a person: refused ones by code, and those that no living run has."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.whereabouts import UNMENDED

STUCK_SECONDS = 600
"""A load whose lease ran out longer ago should have been given back by the sweep, which looks every minute."""

REFUSED: Final = f"""
SELECT DISTINCT ON (l.error_code) l.error_code, count(*) OVER each_code, l.key, coalesce(d.name, 'unknown'), l.error_message,
       coalesce(l.finished_at, l.claimed_at, l.discovered_at)
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND {UNMENDED}
  AND (%(dataset)s::text IS NULL OR d.name = %(dataset)s::text)
WINDOW each_code AS (PARTITION BY l.error_code)
ORDER BY l.error_code, 6 DESC, l.id DESC
"""  # noqa: S608 - of constants

STUCK = """
SELECT count(*), min(l.lease_until)
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = %(pipeline)s AND l.status NOT IN ('ready', 'archived', 'errored')
  AND (%(dataset)s::text IS NULL OR d.name = %(dataset)s::text)
  AND l.lease_until < now() - make_interval(secs => %(seconds)s)
"""


@dataclass(frozen=True, slots=True)
class RefusedLoads:
    """Loads that stand refused with one code, and the newest of them."""

    code: str
    loads: int
    key: str
    dataset: str
    message: str
    at: datetime


def refused(connection: Connection, pipeline: str, dataset: str | None = None) -> list[RefusedLoads]:
    """What loads stand refused for, the most frequent code first."""
    rows = connection.execute(REFUSED, {"pipeline": pipeline, "dataset": dataset}).fetchall()
    found = [RefusedLoads(row[0] or "unknown", row[1], row[2], row[3], row[4] or "", row[5]) for row in rows]
    return sorted(found, key=lambda group: (-group.loads, group.code))


def stuck(connection: Connection, pipeline: str, dataset: str | None = None) -> tuple[int, datetime | None]:
    """Loads that a dead run had and nobody has taken back, and since when the first of them could have been."""
    row = connection.execute(STUCK, {"pipeline": pipeline, "dataset": dataset, "seconds": STUCK_SECONDS}).fetchone()
    assert row is not None
    return int(row[0]), row[1]

"""What enters the ledger: objects that are seen in a landing zone, and loads whose objects are yet to be put there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection

AWAITED = "upload"
"""The version, and what it waits for, of a load whose object is yet to be put."""

_DISCOVER = """
WITH seen AS (
    SELECT * FROM unnest(%(keys)s::text[], %(versions)s::text[], %(sizes)s::bigint[], %(modified)s::timestamptz[], %(datasets)s::text[],
                         %(partitions)s::text[], %(waiting)s::text[])
        AS seen (key, version, size, modified, dataset, partition, waiting_for)
), added AS (
    INSERT INTO ledger.loads (pipeline, dataset_id, landing_zone, key, version, size, modified, partition, waiting_for, discovered_at)
    SELECT %(pipeline)s, d.id, %(landing_zone)s, key, version, size, modified, partition, waiting_for, %(now)s
    FROM seen
    LEFT JOIN ledger.datasets AS d ON d.pipeline = %(pipeline)s AND d.name = seen.dataset
    WHERE NOT EXISTS (
        SELECT FROM ledger.loads AS l
        WHERE l.landing_zone = %(landing_zone)s AND l.key = seen.key AND l.version = seen.version)
    ORDER BY modified, key
    ON CONFLICT (landing_zone, key, version) DO NOTHING
    RETURNING id
)
INSERT INTO ledger.load_events (load_id, from_status, to_status, run_id, why)
SELECT id, NULL, 'ready', %(run_id)s, 'discovered' FROM added
"""

_EXPECT = """
WITH known AS (
    SELECT id FROM ledger.loads WHERE landing_zone = %(landing_zone)s AND key = %(key)s
), added AS (
    INSERT INTO ledger.loads (pipeline, dataset_id, landing_zone, key, version, size, modified, partition, waiting_for, discovered_at)
    SELECT %(pipeline)s, (SELECT id FROM ledger.datasets WHERE pipeline = %(pipeline)s AND name = %(dataset)s), %(landing_zone)s, %(key)s,
           %(version)s, 0, %(modified)s, %(partition)s, 'upload', %(now)s
    WHERE NOT EXISTS (SELECT FROM known)
    RETURNING id
), told AS (
    INSERT INTO ledger.load_events (load_id, from_status, to_status, why) SELECT id, NULL, 'ready', 'expected' FROM added
)
SELECT id FROM added UNION ALL SELECT min(id) FROM known HAVING min(id) IS NOT NULL
"""

_UPLOADED = """
UPDATE ledger.loads AS l
SET version = seen.version, size = seen.size, modified = seen.modified,
    waiting_for = CASE WHEN d.id IS NULL OR d.name = 'unclassified' THEN 'dataset' END
FROM unnest(%(keys)s::text[], %(versions)s::text[], %(sizes)s::bigint[], %(modified)s::timestamptz[])
         AS seen (key, version, size, modified),
     ledger.loads AS awaited
LEFT JOIN ledger.datasets AS d ON d.id = awaited.dataset_id
WHERE l.id = awaited.id AND awaited.pipeline = %(pipeline)s AND awaited.waiting_for = 'upload' AND awaited.key = seen.key
  AND awaited.landing_zone = %(landing_zone)s
"""

_COMPLETED = """
UPDATE ledger.loads AS l SET waiting_for = CASE WHEN l.partition = 'pending' AND l.snapshot_id IS NULL THEN 'snapshot' END
FROM unnest(%(keys)s::text[], %(versions)s::text[]) AS seen (key, version)
WHERE l.pipeline = %(pipeline)s AND l.waiting_for = 'metadata' AND l.landing_zone = %(landing_zone)s
  AND l.key = seen.key AND l.version = seen.version
"""

_INCOMPLETE = """
SELECT key, size, modified, version FROM ledger.loads
WHERE pipeline = %(pipeline)s AND waiting_for = %(waits_for)s AND landing_zone = %(landing_zone)s
ORDER BY id LIMIT %(count)s
"""

_UNFINISHED = """
SELECT id, landing_zone || '/' || key FROM ledger.loads
WHERE unfinished AND (landing_zone = %(url)s OR starts_with(landing_zone, %(url)s || '/'))
"""

_ENTERED = "SELECT EXISTS (SELECT FROM ledger.loads WHERE landing_zone = %(url)s)"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An object that is a load: of which dataset, if its key tells; in which partition (None: today's); what it has to wait for."""

    object: StoredObject
    dataset: str | None = None
    partition: str | None = None
    waiting_for: str | None = None


def discover(
    connection: Connection, pipeline: str, landing_zone: str, arrivals: Sequence[Arrival], now: datetime, run_id: str | None = None
) -> int:
    """Enter what was seen in a landing zone as `ready` loads; known ones are left alone, awaited ones (`expect`) are filled in.

    Returns how many were new.
    """
    objects = [arrival.object for arrival in arrivals]
    if not objects:
        return 0
    filled = uploaded(connection, pipeline, landing_zone, objects)
    today = partition_of_day(now)
    new = connection.execute(
        _DISCOVER,
        {
            "pipeline": pipeline,
            "landing_zone": landing_zone,
            "keys": [seen.key for seen in objects],
            "versions": [seen.version for seen in objects],
            "sizes": [seen.size for seen in objects],
            "modified": [seen.modified for seen in objects],
            "datasets": [arrival.dataset for arrival in arrivals],
            "partitions": [arrival.partition or today for arrival in arrivals],
            "waiting": [arrival.waiting_for for arrival in arrivals],
            "now": now,
            "run_id": run_id,
        },
    )
    return new.rowcount + filled


def completed(connection: Connection, pipeline: str, landing_zone: str, objects: Sequence[StoredObject]) -> None:
    """Let loads go on whose object has become complete: what they had to wait for in order to be read is there."""
    parameters = {
        "pipeline": pipeline,
        "landing_zone": landing_zone,
        "keys": [seen.key for seen in objects],
        "versions": [seen.version for seen in objects],
    }
    connection.execute(_COMPLETED, parameters)


def incomplete(connection: Connection, pipeline: str, landing_zone: str, waits_for: str, count: int) -> list[StoredObject]:
    """Objects whose loads wait for what belongs to them, those entered first, at most so many."""
    parameters = {"pipeline": pipeline, "landing_zone": landing_zone, "waits_for": waits_for, "count": count}
    return [StoredObject(*row) for row in connection.execute(_INCOMPLETE, parameters)]


def partition_of_day(now: datetime) -> str:
    """The partition of what is discovered now: its day, UTC."""
    return now.astimezone(UTC).strftime("%Y-%m-%d")


def expect(connection: Connection, pipeline: str, landing_zone: str, key: str, *, dataset: str, modified: datetime, now: datetime) -> int:
    """Enter a load whose object is yet to be put under `key`: it waits for its upload, whose version it takes on. Returns its id.

    A key that is awaited already, or has been uploaded, is the same load again.
    """
    row = connection.execute(
        _EXPECT,
        {
            "pipeline": pipeline,
            "landing_zone": landing_zone,
            "key": key,
            "version": AWAITED,
            "dataset": dataset,
            "modified": modified,
            "partition": partition_of_day(now),
            "now": now,
        },
    ).fetchone()
    assert row is not None
    return int(row[0])


def uploaded(connection: Connection, pipeline: str, landing_zone: str, objects: Sequence[StoredObject]) -> int:
    """Fill in the versions of loads that waited for these objects to be put. Returns how many there were."""
    parameters = {
        "pipeline": pipeline,
        "landing_zone": landing_zone,
        "keys": [seen.key for seen in objects],
        "versions": [seen.version for seen in objects],
        "sizes": [seen.size for seen in objects],
        "modified": [seen.modified for seen in objects],
    }
    return connection.execute(_UPLOADED, parameters).rowcount


def unfinished(connection: Connection, url: str) -> dict[int, str]:
    """Loads that are neither archived nor errored, of the landing zone at `url` and those below it: where each was landed, by id."""
    return dict(connection.execute(_UNFINISHED, {"url": url}).fetchall())


def was_entered(connection: Connection, url: str) -> bool:
    """Whether there is any load from the landing zone at this URL."""
    return connection.execute(_ENTERED, {"url": url}).fetchone() == (True,)

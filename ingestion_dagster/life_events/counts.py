"""What the ledgers of files and records say in numbers, by landing day."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from ingestion_dagster.engine.postgres import Connection

_FILES = """
    SELECT coalesce(sum(file.record_count), 0)::bigint, coalesce(sum(file.accepted), 0)::bigint, coalesce(sum(file.duplicates), 0)::bigint,
           coalesce(sum(file.quarantined), 0)::bigint,
           extract(epoch FROM max(load.committed_at - load.discovered_at))::float8
      FROM life_events.files AS file
      JOIN ledger.loads AS load ON load.id = file.load_id
     WHERE load.partition = ANY(%(partitions)s)
"""

_BAD_RECORDS = """
    SELECT code, field, count(*)
      FROM life_events.quarantine
     WHERE load_id IN (SELECT id FROM ledger.loads WHERE pipeline = 'life_events' AND partition = ANY(%(partitions)s))
     GROUP BY code, field
     ORDER BY count(*) DESC, code, field
     LIMIT 50
"""

_STATES = """
    SELECT state, count(*)
      FROM life_events.records
     WHERE load_id IN (SELECT id FROM ledger.loads WHERE pipeline = 'life_events' AND partition = ANY(%(partitions)s))
     GROUP BY state
     ORDER BY state
"""

_TIMES = """
    SELECT extract(epoch FROM percentile_cont(0.99) WITHIN GROUP (ORDER BY published_at - stored_at))::float8,
           extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY ended_at - stored_at))::float8,
           extract(epoch FROM percentile_cont(0.99) WITHIN GROUP (ORDER BY ended_at - stored_at))::float8,
           extract(epoch FROM max(clock_timestamp() - stored_at) FILTER (WHERE state IN ('pending', 'published', 'dead')))::float8
      FROM life_events.records
     WHERE load_id IN (SELECT id FROM ledger.loads WHERE pipeline = 'life_events' AND partition = ANY(%(partitions)s))
"""

_PARTITIONS_ENDED = """
    SELECT DISTINCT load.partition
      FROM life_events.records AS record
      JOIN ledger.loads AS load ON load.id = record.load_id
     WHERE record.ended_at > clock_timestamp() - %(within)s
"""

_UNACCOUNTED = """
    SELECT file.load_id
      FROM life_events.files AS file
      JOIN ledger.loads AS load ON load.id = file.load_id
     WHERE file.code IS NULL AND file.finished_at IS NOT NULL
       AND file.accepted + file.duplicates + file.quarantined IS DISTINCT FROM file.record_count
       AND (%(run_id)s::text IS NULL OR load.run_id = %(run_id)s)
     ORDER BY file.load_id
"""


@dataclass(frozen=True, slots=True)
class OfFiles:
    """Records of some days' files: how many they said they held, what became of them, and how long the slowest file took, in seconds."""

    expected: int
    accepted: int
    duplicates: int
    quarantined: int
    ingest_lag_seconds: float


@dataclass(frozen=True, slots=True)
class Times:
    """How long events take, in seconds; 0 where there is none yet."""

    publish_p99: float
    lifetime_median: float
    lifetime_p99: float
    oldest_alive: float


def files(connection: Connection, partitions: Sequence[str]) -> OfFiles:
    """What the files of some days held."""
    row = connection.execute(_FILES, {"partitions": list(partitions)}).fetchone()
    assert row is not None
    return OfFiles(row[0], row[1], row[2], row[3], round(row[4] or 0.0, 3))


def bad_records(connection: Connection, partitions: Sequence[str]) -> list[tuple[str, str, str]]:
    """What is wrong with the bad records of some days: code, field, how many."""
    return [(code, field, str(count)) for code, field, count in connection.execute(_BAD_RECORDS, {"partitions": list(partitions)})]


def states(connection: Connection, partitions: Sequence[str]) -> list[tuple[str, int]]:
    """How many records of some days are in which state."""
    return [(state, int(count)) for state, count in connection.execute(_STATES, {"partitions": list(partitions)})]


def times(connection: Connection, partitions: Sequence[str]) -> Times:
    """How long the events of some days take."""
    row = connection.execute(_TIMES, {"partitions": list(partitions)}).fetchone()
    assert row is not None
    return Times(*(round(value or 0.0, 3) for value in row))


def partitions_ended(connection: Connection, within: timedelta = timedelta(days=1)) -> set[str]:
    """Landing days of which events have been deleted lately."""
    return {row[0] for row in connection.execute(_PARTITIONS_ENDED, {"within": within})}


def unaccounted(connection: Connection, run_id: str | None = None) -> list[int]:
    """Ids of loads whose records do not add up to what their file said, of one run or of all."""
    return [int(row[0]) for row in connection.execute(_UNACCOUNTED, {"run_id": run_id})]

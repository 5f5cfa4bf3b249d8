"""How all pipelines stand in numbers, for whoever watches over time: read in a few statements, whatever number of loads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, LiteralString

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.whereabouts import UNMENDED

LOADS = """
SELECT l.pipeline, coalesce(d.name, 'unknown'), l.status, count(*)::float8, sum(l.rows_in)::float8, sum(l.rows_written)::float8,
       sum(l.rows_unchanged)::float8, sum(l.rows_rejected)::float8
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
GROUP BY 1, 2, 3
"""

ERRORED: Final = f"""
SELECT l.pipeline, coalesce(l.error_code, 'unknown'), count(*)::float8
FROM ledger.loads AS l WHERE {UNMENDED} GROUP BY 1, 2
"""  # noqa: S608 - of constants

HELD_BACK = """
SELECT l.pipeline, CASE WHEN d.paused_at IS NOT NULL THEN 'paused' WHEN l.waiting_for IS NOT NULL THEN 'waiting' ELSE 'inactive' END,
       count(*)::float8
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.status = 'ready' AND (d.paused_at IS NOT NULL OR l.waiting_for IS NOT NULL OR NOT d.is_active)
GROUP BY 1, 2
"""

EXPIRED = """
SELECT pipeline, count(*)::float8 FROM ledger.loads
WHERE status NOT IN ('ready', 'archived', 'errored') AND lease_until < now() GROUP BY 1
"""

OUTBOX = """
SELECT topic, count(*) FILTER (WHERE dead_at IS NULL)::float8, count(*) FILTER (WHERE dead_at IS NOT NULL)::float8,
       coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE dead_at IS NULL)), 0)::float8
FROM ledger.outbox GROUP BY 1
"""

ALERTS = "SELECT status, count(*)::float8 FROM ledger.alerts WHERE status <> 'sent' GROUP BY 1"

STREAMS = """
SELECT stream, extract(epoch FROM now() - min(updated_at))::float8 FROM ledger.stream_checkpoints WHERE NOT finished GROUP BY 1
"""

HEARTBEATS = "SELECT name, extract(epoch FROM clock_timestamp() - at)::float8 FROM ledger.heartbeats ORDER BY 1"

NOW = "SELECT extract(epoch FROM now())::float8"

Row = tuple[tuple[str, ...], float]
"""The values of the labels, and the number."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number by labels. The labels' values are names of ours: pipelines, datasets, statuses, codes, topics."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)


def read(connection: Connection, pipelines: Sequence[str]) -> list[Figure]:
    """Every figure of the ledger, as of now. Ages are in seconds."""
    loads = connection.execute(LOADS).fetchall()
    outbox = connection.execute(OUTBOX).fetchall()
    return [
        Figure("loads", "Loads in the ledger.", ("pipeline", "dataset", "status"), [(row[:3], row[3]) for row in loads]),
        Figure("rows", "Rows of the loads in the ledger; a replay counts anew.", ("pipeline", "dataset", "kind"), _rows(loads)),
        Figure(
            "errored_loads",
            "Loads that stand refused, and of which no newer version came.",
            ("pipeline", "code"),
            _plain(connection, ERRORED),
        ),
        Figure("held_back_loads", "Loads that no run may claim.", ("pipeline", "why"), _plain(connection, HELD_BACK)),
        Figure("expired_leases", "Loads in hand whose lease has run out.", ("pipeline",), _plain(connection, EXPIRED)),
        *_claimable(connection, pipelines),
        Figure("outbox_messages", "Messages that are due.", ("topic",), [((row[0],), row[1]) for row in outbox]),
        Figure("outbox_dead_letters", "Messages that were given up.", ("topic",), [((row[0],), row[2]) for row in outbox]),
        Figure("outbox_oldest_seconds", "Age of the oldest message that is due.", ("topic",), [((row[0],), row[3]) for row in outbox]),
        Figure("alerts_open", "Alerts that have not been told.", ("status",), _plain(connection, ALERTS)),
        Figure("stream_silent_seconds", "Since when the stillest shard has not advanced.", ("stream",), _plain(connection, STREAMS)),
        Figure("heartbeat_seconds", "Since when a sweep, or the watch, has not finished.", ("sensor",), _plain(connection, HEARTBEATS)),
    ]


def _claimable(connection: Connection, pipelines: Sequence[str]) -> list[Figure]:
    counts: list[Row] = []
    ages: list[Row] = []
    now = connection.execute(NOW).fetchone()
    assert now is not None
    for name in pipelines:
        count, oldest = ledger.claimable(connection, Scope(name))
        counts.append(((name,), float(count)))
        ages.append(((name,), max(0.0, now[0] - oldest.timestamp()) if oldest else 0.0))
    return [
        Figure("claimable_loads", "Loads that a run could claim now.", ("pipeline",), counts),
        Figure("claimable_oldest_seconds", "Since when the oldest of them has been known; 0 without one.", ("pipeline",), ages),
    ]


def _rows(loads: Sequence[tuple[str, str, str, float, float, float, float, float]]) -> list[Row]:
    sums: dict[tuple[str, ...], float] = {}
    for pipeline, dataset, _, _, *numbers in loads:
        for kind, number in zip(("in", "written", "unchanged", "rejected"), numbers, strict=True):
            sums[pipeline, dataset, kind] = sums.get((pipeline, dataset, kind), 0.0) + number
    return list(sums.items())


def _plain(connection: Connection, query: LiteralString) -> list[Row]:
    """Rows whose last column is the number."""
    return [(tuple(row[:-1]), row[-1]) for row in connection.execute(query)]

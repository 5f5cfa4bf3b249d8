"""What waits for an entry in the registry, by the folder in which it arrived."""

from ingestion_dagster.engine.postgres import Connection

UNREGISTERED = """
SELECT regexp_replace(l.key, '[^/]*$', '') AS prefix, count(*)
FROM ledger.loads AS l
WHERE l.pipeline = 'cubic' AND l.waiting_for = 'dataset' AND l.status = 'ready'
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
"""


def unregistered(connection: Connection) -> list[tuple[str, int]]:
    """Folders of the landing zone below no registered prefix, and how many files wait there; the fullest 20."""
    return [(prefix, count) for prefix, count in connection.execute(UNREGISTERED)]

"""The archive against the ledger: whether the object of every load that was archived stands where it was moved to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.object_store import ObjectStore
from ingestion_dagster.engine.postgres import Connection

_LOOKED_AT_AGAIN = 1000

_STANDING = "CREATE TEMP TABLE archived_standing (key text NOT NULL, size bigint NOT NULL)"
_COPY_STANDING = "COPY archived_standing (key, size) FROM STDIN"
# Whatever the planner thinks of how many loads there are, none is compared with the whole listing.
_INDEX_STANDING = "CREATE INDEX ON archived_standing (key); ANALYZE archived_standing"
_NO_STANDING = "DROP TABLE IF EXISTS pg_temp.archived_standing"

# A load that finished after the listing began is not meant: the listing may have been past its place by then.
ARCHIVED = """
    SELECT l.id, l.key, l.size, l.location, substr(l.location, length(%(archive)s) + 2) AS standing_key,
           starts_with(l.location, %(archive)s || '/') AS is_here
    FROM ledger.loads AS l
    WHERE l.pipeline = %(pipeline)s AND l.status = 'archived' AND l.location IS NOT NULL AND l.finished_at < %(listed_at)s
      AND (%(since)s::timestamptz IS NULL OR l.finished_at >= %(since)s::timestamptz)
"""

_COUNTED = f"""
WITH archived AS ({ARCHIVED})
SELECT count(*) FILTER (WHERE is_here), count(*) FILTER (WHERE NOT is_here) FROM archived
"""  # noqa: S608 - a fragment of our own

_DIFFERING = f"""
WITH archived AS ({ARCHIVED})
SELECT a.id, a.standing_key, a.size, s.key IS NOT NULL, count(*) FILTER (WHERE s.key IS NULL) OVER (),
       count(*) FILTER (WHERE s.key IS NOT NULL) OVER ()
FROM archived AS a
LEFT JOIN archived_standing AS s ON s.key = a.standing_key
WHERE a.is_here AND s.size IS DISTINCT FROM a.size
ORDER BY a.id
LIMIT %(limit)s
"""  # noqa: S608 - a fragment of our own

_IS_ARCHIVED_AT = "SELECT id FROM ledger.loads WHERE id = %(id)s AND status = 'archived' AND location = %(location)s"


@dataclass(frozen=True, slots=True)
class Compared:
    """What a listing of the archive showed of archived loads."""

    checked: int = 0
    """Loads whose object was looked for."""
    missing: int = 0
    differing: int = 0
    """Whose object has another size."""
    elsewhere: int = 0
    """Loads that were archived in another place than this archive: not looked for."""
    keys: tuple[str, ...] = ()
    """Where those that are missing or differ should stand; of very many, the first."""


def compare(connection: Connection, pipeline: str, archive: ObjectStore, *, since: datetime | None = None) -> Compared:
    """Look for the object of every load of a pipeline that was archived (`since` then), by one listing of the archive.

    What the listing did not show is looked at again, and the load, too: both move. Raises `Transient` or `ConfigurationError`.
    """
    asked = asked_of(connection, pipeline, archive, since)
    with _standing(connection, archive):
        counted = connection.execute(_COUNTED, asked).fetchone()
        doubtful = connection.execute(_DIFFERING, asked | {"limit": _LOOKED_AT_AGAIN}).fetchall()
    assert counted is not None
    checked, elsewhere = counted
    missing, differing = doubtful[0][4:] if doubtful else (0, 0)
    keys: list[str] = []
    for load_id, key, size, stood, *_ in doubtful:
        found = archive.find(key)
        if (found is None or found.size != size) and _is_archived_at(connection, load_id, f"{archive.url}/{key}"):
            keys.append(key)
        elif stood:
            differing -= 1
        else:
            missing -= 1
    return Compared(checked, missing, differing, elsewhere, tuple(keys))


def asked_of(connection: Connection, pipeline: str, archive: ObjectStore, since: datetime | None) -> dict[str, object]:
    """The named parameters of `ARCHIVED`, as of now."""
    return {"pipeline": pipeline, "archive": archive.url, "since": since, "listed_at": ledger.now(connection)}


@contextmanager
def _standing(connection: Connection, archive: ObjectStore) -> Iterator[None]:
    """A table of what stands in the archive, filled as it is listed."""
    connection.execute(_NO_STANDING)
    connection.execute(_STANDING)
    try:
        with connection.cursor() as cursor, cursor.copy(_COPY_STANDING) as rows:
            for seen in archive.list():
                rows.write_row((seen.key, seen.size))
        connection.execute(_INDEX_STANDING)
        yield
    finally:
        if not connection.closed:
            connection.execute(_NO_STANDING)


def _is_archived_at(connection: Connection, load_id: int, location: str) -> bool:
    """Whether a load has not been moved on since."""
    return connection.execute(_IS_ARCHIVED_AT, {"id": load_id, "location": location}).fetchone() is not None

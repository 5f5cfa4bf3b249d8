"""One at a time per media type: what changes the live table or where its aliases lead."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg

from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.engine.postgres import Connection, Database

_TRY = "SELECT pg_try_advisory_lock(hashtextextended('catalog.' || %(model)s, 0))"
_LOCK = "SELECT pg_advisory_lock(hashtextextended('catalog.' || %(model)s, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('catalog.' || %(model)s, 0))"


@contextmanager
def model(ledger: Connection | Database, name: str, *, wait: bool = False, by: str = "a promotion or an update") -> Iterator[None]:
    """Hold a media type for as long as the block lasts, by a lock of a session of the ledger's database: it ends with the connection.

    Given a connection, its session has the lock, and may take it again; given the database, a session of the lock's own.
    If somebody else has it: raises `Busy`, or waits if told to.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(ledger.connect()) if isinstance(ledger, Database) else ledger
        row = connection.execute(_LOCK if wait else _TRY, {"model": name}).fetchone()
        if row is not None and row[0] is False:
            raise Busy(name, f"{by} is under way")
        try:
            yield
        finally:
            # A session that is lost has the lock no more; what ended the block is to be told, not that.
            if not connection.closed and not connection.broken:
                with suppress(psycopg.OperationalError):
                    connection.execute(_UNLOCK, {"model": name})

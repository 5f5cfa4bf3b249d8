"""Connections that are kept from one request to the next: a few, shared by threads, and opened anew after a loss."""

import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Connection, Database

UNAVAILABLE = "database_unavailable"

# A machine that has vanished says nothing: its connections end after seconds, not after libpq's quarter of an hour.
_VANISHED = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 10_000}


class Connections:
    """At most `most` connections to a database, for threads that each need one for a moment. Opened as they are needed.

    A statement that takes longer than `statement_seconds` is ended, one that waits for a lock half as long, and so is a transaction that is
    silent for as long: nobody who waits for an answer waits for ever, and nobody holds a lock for ever.
    """

    def __init__(self, database: Database, *, most: int = 16, patience_seconds: float = 5, statement_seconds: float = 10) -> None:
        self._database = replace(database, conninfo=make_conninfo(database.conninfo, **_VANISHED))
        self._patience_seconds = patience_seconds
        self._statement_seconds = statement_seconds
        self._free = threading.BoundedSemaphore(most)
        self._guard = threading.Lock()
        self._idle: list[Connection] = []
        self._is_closed = False

    @contextmanager
    def borrowed(self) -> Iterator[Connection]:
        """A connection in no transaction, until the block ends.

        Raises `Transient` (`database_unavailable`) if there is none to be had, and for every error of the database in the block; its text
        quotes nothing.
        """
        if not self._free.acquire(timeout=self._patience_seconds):
            raise Transient(UNAVAILABLE, "all connections to the database are in use")
        try:
            connection = self._kept() or self._opened()
            try:
                yield connection
            finally:
                self._take_back(connection)
        except psycopg.Error as error:
            raise Transient(UNAVAILABLE, f"the database has not done what it was asked ({type(error).__name__})") from None
        finally:
            self._free.release()

    def close(self) -> None:
        """Close what is idle now, and what is in use once it is given back."""
        with self._guard:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _kept(self) -> Connection | None:
        while True:
            with self._guard:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not _is_lost(connection):
                return connection
            connection.close()

    def _opened(self) -> Connection:
        try:
            connection = self._database.connect()
        except ConfigurationError:
            raise Transient(UNAVAILABLE, "the database cannot be reached") from None
        milliseconds = int(self._statement_seconds * 1000)
        connection.execute(
            "SELECT set_config('statement_timeout', %(whole)s, false), set_config('lock_timeout', %(half)s, false), "
            "set_config('idle_in_transaction_session_timeout', %(twice)s, false)",
            {"whole": str(milliseconds), "half": str(milliseconds // 2), "twice": str(milliseconds * 2)},
        )
        return connection

    def _take_back(self, connection: Connection) -> None:
        with self._guard:
            if not self._is_closed and connection.info.transaction_status == TransactionStatus.IDLE:
                self._idle.append(connection)
                return
        connection.close()


def _is_lost(connection: Connection) -> bool:
    """Whether the server has ended an idle connection: nothing else is there to be read from one."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))

"""What a run writes down of rows while it sends them: many tasks' steps in one commit, and the locks that keep people in order.

A person's rows are never sent by two at once, whatever file or process they come from: each row's keys are locked for as long as it is
sent. The locks belong to a session of their own; whoever has lost it must not write to the API any more (`Locks.still_held`).
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

import psycopg
from psycopg.rows import TupleRow

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import SESSION, Database
from ingestion_dagster.residents import row_ledger_sql as sql
from ingestion_dagster.residents.model import Action, Progress, Step

AsyncConnection = psycopg.AsyncConnection[TupleRow]

_TRY_EACH = "SELECT id FROM (SELECT id, pg_try_advisory_lock(id) AS had FROM unnest(%(ids)s::bigint[]) AS id OFFSET 0) AS tried WHERE had"
_UNLOCK = "SELECT pg_advisory_unlock(id) FROM unnest(%(ids)s::bigint[]) AS id"


@asynccontextmanager
async def _session(database: Database, *options: str) -> AsyncIterator[AsyncConnection]:
    settings = " ".join([SESSION, *(f"-c {option}" for option in options)])
    try:
        connection = await psycopg.AsyncConnection.connect(
            database.conninfo, autocommit=True, application_name="ingestion", connect_timeout=10, options=settings
        )
    except psycopg.OperationalError as error:
        raise Transient("database_gave_way", type(error).__name__) from None
    try:
        yield connection
    finally:
        with suppress(psycopg.Error):
            await connection.close()


class Journal:
    """Saves the progress of rows. Steps that come while one commit is under way go into the next together."""

    def __init__(self, connection: AsyncConnection, load_id: int) -> None:
        self._connection = connection
        self._load_id = load_id
        self._waiting: dict[int, Progress] = {}
        self._told = asyncio.get_running_loop().create_future()
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database, load_id: int) -> AsyncIterator["Journal"]:
        """A journal for the rows of one load. Raises `Transient` if the database gives way."""
        async with _session(database) as connection:
            journal = cls(connection, load_id)
            try:
                yield journal
            finally:
                if journal._writer is not None:
                    await asyncio.wait([journal._writer])

    async def save(self, row_id: int, progress: Progress) -> None:
        """Write down how far a row has come; durable when this returns. Raises `Transient`."""
        self._waiting[row_id] = progress
        told = self._told
        if self._writer is None or self._writer.done():
            # A task of its own: whoever waits may be cancelled, the others' steps are written all the same.
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(told)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            told, self._told = self._told, asyncio.get_running_loop().create_future()
            told.add_done_callback(_retrieved)
            try:
                await self._flush(batch)
            except BaseException as error:
                told.set_exception(Transient("database_gave_way", type(error).__name__))
                if not isinstance(error, psycopg.Error):
                    raise
            else:
                told.set_result(None)

    async def _flush(self, batch: dict[int, Progress]) -> None:
        steps = [{"id": row_id, **asdict(progress)} for row_id, progress in sorted(batch.items())]
        fault_point("residents.journal.before")
        await self._connection.execute(sql.SAVE, {"load_id": self._load_id, "progress": json.dumps(steps)})
        fault_point("residents.journal.after")


def _retrieved(future: asyncio.Future[None]) -> None:
    """A failure that nobody waits for any more is none of the event loop's business."""
    if not future.cancelled():
        future.exception()


class Locks:
    """Locks on the keys of people, in a session of their own."""

    def __init__(self, connection: AsyncConnection, lease_seconds: float) -> None:
        self._connection = connection
        self._lease_seconds = lease_seconds
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database, lease_seconds: float) -> AsyncIterator["Locks"]:
        """A session for locks. One that says nothing for as long as a lease is ended by the server: its process is taken to be gone."""
        async with _session(database, f"idle_session_timeout={int(lease_seconds * 1000)}") as connection:
            locks = cls(connection, lease_seconds)
            alive = asyncio.create_task(locks._stay_alive(lease_seconds / 3))
            try:
                yield locks
            finally:
                alive.cancel()
                with suppress(asyncio.CancelledError, Transient):
                    await alive

    async def take(self, ids: Sequence[int], row_id: int) -> Progress | None:
        """Lock all of these or none, and read how far the row has come by now; None: somebody else has one of them."""
        rows = await self._ask(_TRY_EACH, {"ids": list(ids)})
        had = [int(row[0]) for row in rows]
        if len(had) < len(ids):
            await self.give_back(had)
            return None
        found = await self._ask(sql.PROGRESS, {"id": row_id})
        if not found:
            await self.give_back(had)
            raise Transient("row_forgotten", "a row has left the ledger while it was to be sent")
        step, action, *rest = found[0]
        return Progress(Step(step), Action(action) if action else None, *rest)

    async def give_back(self, ids: Sequence[int]) -> None:
        """Release these."""
        if ids:
            await self._ask(_UNLOCK, {"ids": list(ids)})

    async def still_held(self) -> None:
        """Return if the session is there, and with it the locks. Raises `Transient` if not.

        An answer that was long on its way is no proof: this process may have slept while it lay there, and lost the session meanwhile.
        """
        while True:
            asked = time.monotonic()
            await self._ask("SELECT 1", {})
            if time.monotonic() - asked < self._lease_seconds / 4:
                return

    async def _ask(self, statement: str, parameters: dict[str, object]) -> list[TupleRow]:
        try:
            async with self._one_at_a_time:
                cursor = await self._connection.execute(statement, parameters)
                return await cursor.fetchall()
        except psycopg.Error as error:
            raise Transient("database_gave_way", type(error).__name__) from None

    async def _stay_alive(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self.still_held()

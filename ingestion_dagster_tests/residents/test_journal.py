"""The journal and the locks: steps are durable and cheap, nobody waits for ever, and a person's rows are one session's at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from ingestion_dagster.engine import landing, ledger
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import upkeep
from ingestion_dagster.residents.journal import Journal, Locks
from ingestion_dagster.residents.model import Progress, Step
from ingestion_dagster_tests.residents.scene import Residents, api, nsss, residents

__all__ = ["api", "residents"]

T = TypeVar("T")

ROWS = 200
CREATED = Progress(Step.CREATED, help_request_id=7)


def together(what: Callable[[], Awaitable[T]], seconds: float = 20) -> T:
    """What comes of it, in an event loop of its own; whoever hangs is a failure and not a time-out of the whole test run."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await what()

    return asyncio.run(bounded())


@pytest.fixture
def connection(residents: Residents) -> Iterator[Connection]:
    with residents.database.connect() as connection:
        yield connection


@pytest.fixture
def load_id(residents: Residents, connection: Connection) -> int:
    """A load with many rows that are about to be sent; their ids are 1, 2, 3 …"""
    residents.drop("nsss/a.csv", [nsss(1)])
    upkeep.sync(connection, residents.settings)
    landing.discover(connection, residents.job().zone, datetime.now(UTC))
    [load] = ledger.claimable_loads(connection, ledger.Scope("residents"))
    connection.execute(
        "INSERT INTO residents.rows (dataset_id, identity, row_hash) "
        "SELECT (SELECT id FROM ledger.datasets WHERE name = 'nsss' AND pipeline = 'residents'), int4send(n), int4send(n) "
        "FROM generate_series(1, %s) AS n ORDER BY n",
        [ROWS],
    )
    return load.id


def steps(connection: Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT step, count(*) FROM residents.rows GROUP BY 1").fetchall())


def end_session(connection: Connection, of: str) -> None:
    """What a failing server does to a session that has asked for something like this last."""
    ended = connection.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE %s",
        [of],
    ).fetchone()
    assert ended
    assert ended[0] >= 1


class Counting:
    """A session that counts what it is asked, and holds the first until it is let go."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def execute(self, *of: Any) -> Any:
        self.asked += 1
        self.begun.set()
        await self.gate.wait()
        return await self.session.execute(*of)


# The journal


def test_many_saves_go_into_few_commits_and_all_are_kept(residents: Residents, connection: Connection, load_id: int) -> None:
    async def save_all() -> int:
        async with Journal.open(residents.database, load_id) as journal:
            counting = Counting(journal._connection)
            journal._connection = counting  # type: ignore[assignment]
            await asyncio.gather(*(journal.save(number, CREATED) for number in range(1, ROWS + 1)))
            return counting.asked

    assert together(save_all) <= 3
    assert steps(connection) == {"created": ROWS}


def test_a_save_is_durable_when_it_returns(residents: Residents, connection: Connection, load_id: int) -> None:
    async def save() -> dict[str, int]:
        async with Journal.open(residents.database, load_id) as journal:
            await journal.save(3, CREATED)
            return await asyncio.to_thread(steps, connection)

    assert together(save) == {"created": 1, "validated": ROWS - 1}
    kept = connection.execute("SELECT help_request_id, load_id FROM residents.rows WHERE id = 3").fetchone()
    assert kept == (7, load_id)


def test_steps_that_come_during_a_commit_go_into_the_next(residents: Residents, connection: Connection, load_id: int) -> None:
    async def save_all() -> int:
        async with Journal.open(residents.database, load_id) as journal:
            counting = Counting(journal._connection)
            journal._connection = counting  # type: ignore[assignment]
            counting.gate.clear()
            first = asyncio.create_task(journal.save(1, CREATED))
            await counting.begun.wait()
            others = [asyncio.create_task(journal.save(number, CREATED)) for number in range(2, 50)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in (first, *others))
            counting.gate.set()
            await asyncio.gather(first, *others)
            return counting.asked

    assert together(save_all) == 2
    assert steps(connection)["created"] == 49


def test_a_commit_that_fails_fails_every_waiter_and_those_that_come_later(
    residents: Residents, connection: Connection, load_id: int
) -> None:
    async def save_all() -> list[Any]:
        async with Journal.open(residents.database, load_id) as journal:
            await journal.save(1, CREATED)
            await asyncio.to_thread(end_session, connection, "%UPDATE residents.rows%")
            at_once = await asyncio.gather(*(journal.save(number, CREATED) for number in range(2, 60)), return_exceptions=True)
            later = await asyncio.gather(*(journal.save(number, CREATED) for number in range(60, 80)), return_exceptions=True)
            return [*at_once, *later]

    found = together(save_all)
    assert {(type(error), getattr(error, "code", None)) for error in found} == {(Transient, "database_gave_way")}
    assert len(found) == 78
    assert steps(connection)["created"] == 1


def test_a_waiter_that_is_cancelled_does_not_leave_the_others_waiting(residents: Residents, connection: Connection, load_id: int) -> None:
    async def save_all() -> None:
        async with Journal.open(residents.database, load_id) as journal:
            counting = Counting(journal._connection)
            journal._connection = counting  # type: ignore[assignment]
            counting.gate.clear()
            under_way = asyncio.create_task(journal.save(1, CREATED))
            await counting.begun.wait()
            waiting = [asyncio.create_task(journal.save(number, CREATED)) for number in (2, 3, 4)]
            await asyncio.sleep(0.01)
            waiting[0].cancel()
            await asyncio.sleep(0.01)
            counting.gate.set()
            await under_way
            found = await asyncio.gather(*waiting[1:], return_exceptions=True)
            assert {type(each) for each in found} <= {type(None), Transient}
            await journal.save(5, CREATED)

    together(save_all, seconds=3)
    kept = connection.execute("SELECT id FROM residents.rows WHERE step = 'created'").fetchall()
    assert {(1,), (5,)} <= set(kept)


# The locks


def test_what_one_session_has_another_does_not_get(residents: Residents, load_id: int) -> None:
    async def both() -> list[Any]:
        async with Locks.open(residents.database, 60) as mine, Locks.open(residents.database, 60) as theirs:
            had = [await mine.take([1, 2], 1), await theirs.take([2, 3], 2), await theirs.take([3], 2)]
            await mine.give_back([1, 2])
            return [*had, await theirs.take([1, 2], 2)]

    first, second, third, fourth = together(both)
    assert (first, second, fourth) == (Progress(), None, Progress())
    assert third == Progress(), "of what could not be had whole nothing is kept"


def test_one_session_has_its_locks_as_often_as_it_takes_them(residents: Residents, load_id: int) -> None:
    async def both() -> list[Any]:
        async with Locks.open(residents.database, 60) as mine, Locks.open(residents.database, 60) as theirs:
            assert await mine.take([1], 1)
            assert await mine.take([1, 2], 2)
            await mine.give_back([1, 2])
            first = await theirs.take([1], 3)
            await mine.give_back([1])
            return [first, await theirs.take([1], 3)]

    assert together(both) == [None, Progress()]


def test_a_row_is_read_again_once_its_locks_are_had(residents: Residents, connection: Connection, load_id: int) -> None:
    async def read() -> Progress | None:
        async with Journal.open(residents.database, load_id) as journal, Locks.open(residents.database, 60) as locks:
            await journal.save(1, Progress(Step.FETCHED, resident_id=3, help_request_id=4, notes_added=2, attempts=1))
            return await locks.take([9], 1)

    assert together(read) == Progress(Step.FETCHED, resident_id=3, help_request_id=4, notes_added=2, attempts=1)


def test_a_row_that_was_forgotten_leaves_no_lock_behind(residents: Residents, load_id: int) -> None:
    async def both() -> Progress | None:
        async with Locks.open(residents.database, 60) as mine, Locks.open(residents.database, 60) as theirs:
            with pytest.raises(Transient, match="row_forgotten"):
                await mine.take([1], ROWS + 1)
            return await theirs.take([1], 1)

    assert together(both) == Progress()


def test_a_process_that_falls_silent_loses_its_locks_and_is_told(residents: Residents, load_id: int) -> None:
    async def silent() -> Progress | None:
        async with Locks.open(residents.database, 0.6) as mine, Locks.open(residents.database, 60) as theirs:
            assert await mine.take([1], 1)
            time.sleep(1.2)  # noqa: ASYNC251 - a process that is stopped
            with pytest.raises(Transient, match="database_gave_way"):
                await mine.still_held()
            return await theirs.take([1], 1)

    assert together(silent) == Progress()


def test_a_process_that_only_waits_keeps_its_locks(residents: Residents, load_id: int) -> None:
    async def waiting() -> Progress | None:
        async with Locks.open(residents.database, 0.6) as mine, Locks.open(residents.database, 60) as theirs:
            assert await mine.take([1], 1)
            await asyncio.sleep(1.5)
            await mine.still_held()
            return await theirs.take([1], 1)

    assert together(waiting) is None


def test_locks_end_with_their_session(residents: Residents, load_id: int) -> None:
    async def after() -> Progress | None:
        async with Locks.open(residents.database, 60) as mine:
            assert await mine.take([1], 1)
        async with Locks.open(residents.database, 60) as theirs:
            return await theirs.take([1], 1)

    assert together(after) == Progress()


def test_a_server_that_does_not_answer_is_trouble_that_passes(residents: Residents) -> None:
    nobody = residents.database.__class__.at("postgresql://nobody@127.0.0.1:1/nothing")

    async def ask() -> None:
        async with Journal.open(nobody, 1):
            pass

    with pytest.raises(Transient) as trouble:
        together(ask)
    assert trouble.value.code == "database_gave_way"
    assert "nobody" not in str(trouble.value)

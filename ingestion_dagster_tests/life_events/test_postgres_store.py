"""The event store in the ledger's database: it stands and falls with the caller's transaction, and takes rows in one order."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.postgres_store import PostgresStore
from ingestion_dagster_tests.life_events.stores import NOW, WEEK, connection, emptied_database, key_of, one, sealed

__all__ = ["connection", "emptied_database", "one"]

STORE = PostgresStore()
EVENTS = sorted((sealed(number) for number in range(40)), key=lambda event: event.record_key, reverse=True)
KEYS = [event.record_key for event in EVENTS]
LOCK = "SELECT FROM life_events.events WHERE record_key = %s FOR UPDATE"


def test_what_is_put_goes_with_the_transaction(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        STORE.put(connection, [sealed(1)])
        assert STORE.get(connection, [key_of(1)], NOW)
    assert STORE.get(connection, [key_of(1)], NOW) == {}


def test_several_puts_in_one_transaction_keep_apart(connection: Connection) -> None:
    with connection.transaction():
        STORE.put(connection, [sealed(1), sealed(2)])
        STORE.remove(connection, [key_of(1)])
        STORE.put(connection, [sealed(3)])
    assert STORE.get(connection, [key_of(1), key_of(2), key_of(3)], NOW).keys() == {key_of(2), key_of(3)}


def test_what_is_removed_comes_back_with_the_rollback(connection: Connection) -> None:
    STORE.put(connection, [sealed(1)])
    with connection.transaction(force_rollback=True):
        assert STORE.remove(connection, [key_of(1)]) == {key_of(1)}
    assert STORE.get(connection, [key_of(1)], NOW).keys() == {key_of(1)}


def test_nothing_of_a_put_is_left_in_its_scratch_table(connection: Connection) -> None:
    with connection.transaction():
        STORE.put(connection, [sealed(1)])
        assert connection.execute("SELECT count(*) FROM life_events_incoming").fetchone() == (0,)


OPERATIONS: dict[str, Callable[[Connection], object]] = {
    "put": lambda own: STORE.put(own, [replace(event, stored_at=NOW + WEEK, expires_at=NOW + 2 * WEEK) for event in EVENTS[::-1]]),
    "repeated put": lambda own: STORE.put(own, EVENTS[::-1]),
    "remove": lambda own: STORE.remove(own, KEYS),
    "remove expired": lambda own: STORE.remove(own, KEYS, expired_by=NOW + WEEK),
    "reseal": lambda own: STORE.reseal(own, [(event, replace(event, encryption_key="k2")) for event in EVENTS]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_rows_are_locked_in_the_order_of_their_keys(name: str, one: Database, connection: Connection) -> None:
    """Who has the first key and asks for the last one does not meet somebody who has the last and asks for the first."""
    for event in EVENTS:  # in the table they lie the other way round
        STORE.put(connection, [event])
    with ThreadPoolExecutor(1) as pool, one.connect() as other:
        pid = other.info.backend_pid
        with connection.transaction():
            connection.execute(LOCK, [KEYS[-1]])
            done = pool.submit(OPERATIONS[name], other)
            await_lock(one, pid)
            connection.execute("SET LOCAL lock_timeout = '5s'")
            for key in KEYS:
                connection.execute(LOCK, [key])
        done.result(30)


def await_lock(database: Database, pid: int) -> None:
    """Wait until that connection waits for a lock."""
    with database.connect() as watching:
        deadline = time.monotonic() + 20
        while watching.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() != ("Lock",):
            assert time.monotonic() < deadline, "waits for nothing"
            time.sleep(0.005)

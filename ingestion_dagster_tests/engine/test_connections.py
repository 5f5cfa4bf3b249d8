"""Connections that are kept: none is handed out that is lost, left in a transaction, or kept for ever by one who waits."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from ingestion_dagster.engine.connections import UNAVAILABLE, Connections
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection, Database

WORD = "zyxwquark"


@pytest.fixture
def kept(one: Database) -> Iterator[Connections]:
    made = Connections(one, most=2, patience_seconds=0.05, statement_seconds=0.4)
    yield made
    made.close()


def pid_of(connection: Connection) -> int:
    return connection.info.backend_pid


def borrow(kept: Connections) -> int:
    with kept.borrowed() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return pid_of(connection)


def test_a_connection_is_used_again(kept: Connections):
    assert borrow(kept) == borrow(kept)


def test_two_at_once_have_one_each_and_a_third_is_told_so_in_time(kept: Connections):
    with kept.borrowed() as one, kept.borrowed() as other:
        assert pid_of(one) != pid_of(other)
        with pytest.raises(Transient) as raised, kept.borrowed():
            pass
        assert raised.value.code == UNAVAILABLE
    borrow(kept)


def test_one_that_waits_gets_what_another_gives_back(one: Database):
    kept = Connections(one, most=1, patience_seconds=30)
    with kept.borrowed() as connection:
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.append(borrow(kept)))
        waiting.start()
        mine = pid_of(connection)
    waiting.join(30)
    kept.close()
    assert found == [mine]


def test_a_session_that_the_server_has_ended_is_replaced(kept: Connections, one: Database):
    before = borrow(kept)
    with one.connect() as other:
        assert other.execute("SELECT pg_terminate_backend(%s, 5000)", [before]).fetchone() == (True,)
    assert borrow(kept) != before


def test_a_session_that_ends_while_it_is_used_is_replaced_and_told_of(kept: Connections, one: Database):
    before = 0

    def lose_it() -> None:
        nonlocal before
        with kept.borrowed() as connection, one.connect() as other:
            before = pid_of(connection)
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [before])
            connection.execute("SELECT 1")

    with pytest.raises(Transient) as raised:
        lose_it()
    assert raised.value.code == UNAVAILABLE
    assert borrow(kept) != before


def test_what_the_database_complains_of_is_not_repeated(kept: Connections):
    with pytest.raises(Transient) as raised, kept.borrowed() as connection:
        connection.execute("SELECT %s::int", [WORD])
    assert WORD not in str(raised.value)
    assert raised.value.__suppress_context__
    borrow(kept)


def test_a_connection_left_in_a_transaction_is_handed_to_nobody(kept: Connections):
    with kept.borrowed() as connection:
        connection.execute("BEGIN")
        before = pid_of(connection)
    assert borrow(kept) != before


def test_what_is_no_error_of_the_database_goes_through_and_the_connection_is_kept(kept: Connections):
    before = borrow(kept)
    with pytest.raises(ValueError, match="mine"), kept.borrowed() as connection, connection.transaction():
        raise ValueError("mine")
    assert borrow(kept) == before


def test_a_database_that_is_not_there_is_told_of_without_its_address():
    kept = Connections(Database.at(f"postgresql://{WORD}@127.0.0.1:1/{WORD}"))
    with pytest.raises(Transient) as raised, kept.borrowed():
        pass
    assert raised.value.code == UNAVAILABLE
    assert WORD not in str(raised.value)


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(30)", "SELECT pg_advisory_lock(77)"], ids=["long", "lock"])
def test_nobody_waits_for_ever(kept: Connections, one: Database, statement: str):
    with one.connect() as other:
        other.execute("SELECT pg_advisory_lock(77)")
        begun = time.monotonic()
        with pytest.raises(Transient), kept.borrowed() as connection:
            connection.execute(statement)
        assert time.monotonic() - begun < 10


def test_a_transaction_in_which_nothing_happens_is_ended(kept: Connections, one: Database):
    def fall_asleep() -> None:
        with kept.borrowed() as connection, connection.transaction(), one.connect() as other:
            connection.execute("SELECT 1")
            deadline = time.monotonic() + 30
            query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
            while other.execute(query, [pid_of(connection)]).fetchone() != (0,) and time.monotonic() < deadline:
                time.sleep(0.02)
            connection.execute("SELECT 1")

    with pytest.raises(Transient):
        fall_asleep()


def test_what_is_given_back_after_the_end_is_closed(one: Database):
    kept = Connections(one)
    with kept.borrowed() as connection:
        kept.close()
    assert connection.closed


def test_a_connection_says_the_time_in_utc(kept: Connections):
    with kept.borrowed() as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        assert isinstance(connection, psycopg.Connection)

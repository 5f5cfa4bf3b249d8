"""The guard of HMAC keys: a rotation loses no record and doubles none, whoever works meanwhile."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.key_guard import guard
from ingestion_dagster.life_events.keys import Hasher, Key
from ingestion_dagster_tests.life_events.stores import connection, emptied_database, hashing, one

__all__ = ["connection", "emptied_database", "one"]

CANONICAL = b'{"RegistrationID":"900000001"}'


def known(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT id FROM life_events.hmac_keys ORDER BY position")]


def enter(connection: Connection, hasher: Hasher, canonical: bytes = CANONICAL) -> str:
    """Enter a record as a load does: under the key it is known by, or the current one; and by which."""
    older = dict(zip(hasher.older_of(canonical), hasher.older, strict=True))
    found = connection.execute("SELECT record_key FROM life_events.records WHERE record_key = ANY(%s)", [list(older)]).fetchone()
    key = older[bytes(found[0])] if found else hasher.current
    record_key = bytes(found[0]) if found else hasher.of(canonical)
    connection.execute(
        "INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal) VALUES (%s, %s, 1, 1) ON CONFLICT DO NOTHING",
        [record_key, key.id],
    )
    return key.id


def test_the_first_keys_are_entered_the_current_one_last(connection: Connection) -> None:
    guard(connection, hashing("c", "b", "a"))
    assert known(connection) == ["a", "b", "c"]
    guard(connection, hashing("c", "b", "a"))
    guard(connection, hashing("c"))
    assert known(connection) == ["a", "b", "c"]


def test_a_rotation_makes_the_new_key_the_newest(connection: Connection) -> None:
    guard(connection, hashing("a"))
    guard(connection, hashing("b", "a"))
    guard(connection, hashing("c", "b", "a"))
    assert known(connection) == ["a", "b", "c"]


def test_a_key_that_records_are_known_under_must_stay(connection: Connection) -> None:
    guard(connection, hashing("a"))
    enter(connection, hashing("a"))
    with pytest.raises(ConfigurationError, match=r"records are known under key a until they are forgotten: add it .* behind b"):
        guard(connection, hashing("b"))
    assert known(connection) == ["a"], "a rotation that was refused has left a trace"
    guard(connection, hashing("b", "a"))
    with pytest.raises(ConfigurationError, match="known under key a"):
        guard(connection, hashing("b"))
    connection.execute("DELETE FROM life_events.records")
    guard(connection, hashing("b"))
    guard(connection, hashing("c"))


def test_another_key_under_an_id_that_is_known_is_refused(connection: Connection) -> None:
    guard(connection, hashing("b", "a"))
    false_a, false_b = Key("a", b"something else" * 4), Key("b", b"something else" * 4)
    good_a, good_b = hashing("a").current, hashing("b").current
    for keys, named in (((false_b, good_a), "b"), ((good_b, false_a), "a"), ((hashing("c").current, good_b, false_a), "a")):
        with pytest.raises(ConfigurationError, match=f"key {named} is not the one that records are known by") as raised:
            guard(connection, Hasher(keys))
        assert "something else" not in str(raised.value)
    assert known(connection) == ["a", "b"]


def test_a_process_from_before_the_rotation_is_told_to_restart(connection: Connection) -> None:
    guard(connection, hashing("a"))
    guard(connection, hashing("b", "a"))
    for hasher in (hashing("a"), hashing("a", "b")):
        with pytest.raises(ConfigurationError, match="keys have been rotated to b: restart with the new settings"):
            guard(connection, hasher)


def test_an_older_key_that_was_never_used_may_be_set(connection: Connection) -> None:
    guard(connection, hashing("b"))
    guard(connection, hashing("b", "a"))
    guard(connection, hashing("c", "b", "a"))
    assert known(connection) == ["b", "c"]


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def await_lock(database: Database, waiting: Connection) -> None:
    with database.connect() as watching:
        deadline = time.monotonic() + 20
        pid = [waiting.info.backend_pid]
        while watching.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", pid).fetchone() != ("Lock",):
            assert time.monotonic() < deadline, "waits for nobody"
            time.sleep(0.005)


def work(own: Connection, hasher: Hasher) -> str:
    with own.transaction():
        guard(own, hasher)
        return enter(own, hasher)


def test_a_rotation_waits_for_who_still_works_under_the_key_before(
    one: Database, connection: Connection, aside: ThreadPoolExecutor
) -> None:
    """Else the same record, in a file of each, would enter under both keys: neither would see the other's row."""
    guard(connection, hashing("a"))
    with one.connect() as before, one.connect() as after:
        with before.transaction():
            guard(before, hashing("a"))
            rotated = aside.submit(work, after, hashing("b", "a"))
            await_lock(one, after)
            assert enter(before, hashing("a")) == "a"
        assert rotated.result(20) == "a", "the record that was entered meanwhile is not known"
        with pytest.raises(ConfigurationError, match="rotated"):
            work(before, hashing("a"))
    assert connection.execute("SELECT count(*) FROM life_events.records").fetchone() == (1,)


def test_who_begins_while_a_rotation_is_under_way_sees_it(one: Database, connection: Connection, aside: ThreadPoolExecutor) -> None:
    guard(connection, hashing("a"))
    with one.connect() as before, one.connect() as after:
        with after.transaction():
            guard(after, hashing("b", "a"))
            late = aside.submit(work, before, hashing("a"))
            await_lock(one, before)
            assert enter(after, hashing("b", "a")) == "b"
        with pytest.raises(ConfigurationError, match="rotated"):
            late.result(20)
    assert connection.execute("SELECT hmac_key FROM life_events.records").fetchall() == [("b",)]


def test_a_rotation_that_is_undone_was_none(one: Database, connection: Connection, aside: ThreadPoolExecutor) -> None:
    guard(connection, hashing("a"))
    with one.connect() as before, one.connect() as after:
        with after.transaction(force_rollback=True):
            guard(after, hashing("b", "a"))
            late = aside.submit(work, before, hashing("a"))
            await_lock(one, before)
        assert late.result(20) == "a"


def test_those_with_the_same_keys_do_not_wait_for_each_other(one: Database, connection: Connection) -> None:
    guard(connection, hashing("a"))
    with ExitStack() as stack:
        for _ in range(4):
            own = stack.enter_context(one.connect())
            own.execute("SET lock_timeout = '5s'")
            stack.enter_context(own.transaction())
            guard(own, hashing("a"))


@pytest.mark.parametrize("first", [None, "a"], ids=["first use", "rotation"])
def test_of_many_at_once_one_enters_the_key(first: str | None, one: Database, connection: Connection) -> None:
    if first:
        guard(connection, hashing(first))
    begin = threading.Barrier(6, timeout=20)

    def enter_it(_: int) -> None:
        with one.connect() as own:
            begin.wait()
            guard(own, hashing("b", "a"))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(enter_it, range(6)))
    assert known(connection) == ["a", "b"]


def test_of_two_different_rotations_at_once_one_is_refused(one: Database, connection: Connection) -> None:
    guard(connection, hashing("a"))
    enter(connection, hashing("a"))
    begin = threading.Barrier(2, timeout=20)

    def rotate(to: str) -> None:
        with one.connect() as own:
            begin.wait()
            with own.transaction():
                guard(own, hashing(to, "a"))
                enter(own, hashing(to, "a"), canonical=to.encode())

    with ThreadPoolExecutor(2) as pool:
        rotations: list[Future[None]] = [pool.submit(rotate, to) for to in ("b", "c")]
        failures = [each.exception(20) for each in rotations]
    (failure,) = [each for each in failures if each is not None]
    assert isinstance(failure, ConfigurationError)
    assert len(known(connection)) == 2

"""What every event store keeps to: one suite for Postgres and DynamoDB."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.dynamodb_store import DynamoStore
from ingestion_dagster.life_events.postgres_store import PostgresStore
from ingestion_dagster.life_events.store import EventStore, Sealed, open_store
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.life_events.stores import (
    NOW,
    WEEK,
    a_store,
    aws_environment,
    connection,
    dynamo,
    dynamodb_server,
    emptied_database,
    key_of,
    one,
    sealed,
)

__all__ = ["a_store", "aws_environment", "connection", "dynamo", "dynamodb_server", "emptied_database", "one"]

SECOND = timedelta(seconds=1)


def test_an_event_comes_back_as_it_was_put(a_store: EventStore, connection: Connection) -> None:
    events = [
        sealed(1),
        sealed(2, stored=NOW + timedelta(microseconds=123456), ttl=WEEK - timedelta(microseconds=123456), payload=bytes(range(256))),
    ]
    a_store.put(connection, events)
    assert a_store.get(connection, [key_of(1), key_of(2), key_of(3)], NOW) == {event.record_key: event for event in events}


def test_nothing_is_put_got_or_removed_without_keys(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [])
    assert a_store.get(connection, [], NOW) == {}
    assert a_store.remove(connection, []) == frozenset()
    assert a_store.reseal(connection, []) == frozenset()
    assert a_store.age(connection, NOW) == (0, None)


def test_a_repeated_put_leaves_what_is_there(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1, payload=b"first")])
    a_store.put(connection, [sealed(1, stored=NOW - SECOND, payload=b"older"), sealed(1, payload=b"second"), sealed(2)])
    assert a_store.get(connection, [key_of(1)], NOW) == {key_of(1): sealed(1, payload=b"first")}
    assert key_of(2) in a_store.get(connection, [key_of(2)], NOW)


def test_what_a_killed_attempt_has_left_does_not_shorten_an_event_s_life(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1, payload=b"left")])
    again = sealed(1, stored=NOW + WEEK - SECOND, payload=b"again")
    a_store.put(connection, [again])
    assert a_store.get(connection, [key_of(1)], NOW) == {key_of(1): again}


def test_of_two_under_one_key_the_first_is_kept(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1, payload=b"first"), sealed(2), sealed(1, payload=b"second")])
    assert a_store.get(connection, [key_of(1), key_of(1)], NOW)[key_of(1)].payload == b"first"


def test_an_expired_event_is_revived_by_a_put(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1, payload=b"old", key="k0")])
    again = sealed(1, stored=NOW + WEEK, payload=b"new")
    a_store.put(connection, [again])
    assert a_store.get(connection, [key_of(1)], NOW + WEEK) == {key_of(1): again}


def test_what_has_expired_is_not_there_though_nobody_swept(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1), sealed(2, ttl=WEEK + SECOND)])
    assert a_store.get(connection, [key_of(1), key_of(2)], NOW + WEEK - SECOND).keys() == {key_of(1), key_of(2)}
    assert a_store.get(connection, [key_of(1), key_of(2)], NOW + WEEK).keys() == {key_of(2)}


def test_remove_says_what_was_there_and_a_repeat_that_nothing_is(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1), sealed(2), sealed(3)])
    assert a_store.remove(connection, [key_of(1), key_of(2), key_of(9)]) == {key_of(1), key_of(2)}
    assert a_store.remove(connection, [key_of(1)]) == frozenset()
    assert a_store.get(connection, [key_of(1), key_of(2), key_of(3)], NOW).keys() == {key_of(3)}


def test_what_has_expired_can_be_removed(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1, stored=NOW - 2 * WEEK)])
    assert a_store.remove(connection, [key_of(1)]) == {key_of(1)}


def test_a_revived_event_is_not_removed_as_expired(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1), sealed(2)])
    a_store.put(connection, [sealed(1, stored=NOW + WEEK)])
    assert a_store.remove(connection, [key_of(1), key_of(2), key_of(3)], expired_by=NOW + WEEK) == {key_of(2)}
    assert a_store.get(connection, [key_of(1)], NOW + WEEK).keys() == {key_of(1)}


def test_expired_names_those_whose_time_is_up(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(number, ttl=WEEK + number * SECOND) for number in range(6)])
    assert a_store.expired(connection, NOW + WEEK - SECOND, 10) == []
    assert set(a_store.expired(connection, NOW + WEEK + 3 * SECOND, 10)) == {key_of(number) for number in range(4)}
    assert len(a_store.expired(connection, NOW + WEEK + 3 * SECOND, 2)) == 2


def test_age_counts_what_is_older_and_names_the_oldest(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1), sealed(2, stored=NOW - timedelta(days=3)), sealed(3, stored=NOW - 5 * WEEK)])
    assert a_store.age(connection, NOW) == (2, NOW - 5 * WEEK)
    assert a_store.age(connection, NOW - timedelta(days=3)) == (1, NOW - 5 * WEEK)


def test_events_under_other_keys_are_all_found(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(number, key=f"k{number % 3}") for number in range(20)])
    pages = list(a_store.under_other_keys(connection, "k0", 4))
    assert [len(page) for page in pages] == [4, 4, 4, 1]
    assert {event.record_key: event for page in pages for event in page} == {
        key_of(number): sealed(number, key=f"k{number % 3}") for number in range(20) if number % 3
    }


def resealed(event: Sealed) -> tuple[Sealed, Sealed]:
    return event, replace(event, encryption_key="k2", payload=b"again: " + event.payload)


def test_reseal_replaces_payload_and_key_and_nothing_else(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1), sealed(2)])
    before, after = resealed(sealed(1))
    assert a_store.reseal(connection, [(before, after)]) == {key_of(1)}
    assert a_store.get(connection, [key_of(1), key_of(2)], NOW) == {key_of(1): after, key_of(2): sealed(2)}
    assert a_store.reseal(connection, [(before, after)]) == frozenset()


def test_reseal_brings_nothing_deleted_back(a_store: EventStore, connection: Connection) -> None:
    a_store.put(connection, [sealed(1), sealed(2), sealed(3)])
    a_store.remove(connection, [key_of(1)])
    a_store.reseal(connection, [(sealed(2), replace(sealed(2), payload=b"by somebody else"))])
    assert a_store.reseal(connection, [resealed(sealed(number)) for number in (1, 2, 3)]) == {key_of(3)}
    found = a_store.get(connection, [key_of(1), key_of(2)], NOW)
    assert found == {key_of(2): replace(sealed(2), payload=b"by somebody else")}


@pytest.fixture
def at_once(one: Database) -> Callable[[list[Callable[[Connection], object]]], list[object]]:
    """Does things side by side, each in a transaction of its own connection; all begin together."""

    def run(works: list[Callable[[Connection], object]]) -> list[object]:
        begin = threading.Barrier(len(works), timeout=30)

        def alone(work: Callable[[Connection], object]) -> object:
            with one.connect() as own:
                begin.wait()
                with own.transaction():
                    return work(own)

        with ThreadPoolExecutor(len(works)) as pool:
            return list(pool.map(alone, works))

    return run


def shuffled(numbers: range, seed: int) -> list[Sealed]:
    events = [sealed(number, payload=f"by {seed}".encode()) for number in numbers]
    random.Random(seed).shuffle(events)
    return events


def many(store: EventStore) -> int:
    """So many that two who do not keep to one order wait for each other in a circle."""
    return 2000 if store.is_transactional else 20


def test_two_puts_at_once_neither_deadlock_nor_mix(a_store: EventStore, connection: Connection, at_once) -> None:
    numbers = range(many(a_store))
    at_once([lambda own, seed=seed: a_store.put(own, shuffled(numbers, seed)) for seed in range(3)])
    found = a_store.get(connection, [key_of(number) for number in numbers], NOW)
    assert len(found) == len(numbers)
    if a_store.is_transactional:
        assert len({event.payload for event in found.values()}) == 1


def test_removal_beside_resealing_and_putting_does_not_deadlock(a_store: EventStore, connection: Connection, at_once) -> None:
    numbers, fresh = range(many(a_store)), range(many(a_store), many(a_store) + 20)
    for at in numbers[::100]:  # as they lie in the table, their keys are in no order
        a_store.put(connection, shuffled(numbers[at : at + 100], 5))
    changes = [resealed(event) for event in shuffled(numbers, 5)]
    random.Random(7).shuffle(changes)
    removed, replaced, again, _ = at_once(
        [
            lambda own: a_store.remove(own, [key_of(number) for number in reversed(numbers)]),
            lambda own: a_store.reseal(own, changes),
            lambda own: a_store.reseal(own, changes[::-1]),
            lambda own: a_store.put(own, shuffled(fresh, 1)),
        ]
    )
    assert removed == {key_of(number) for number in numbers}
    assert not replaced & again
    left = a_store.get(connection, [key_of(number) for number in (*numbers, *fresh)], NOW)
    assert left.keys() == {key_of(number) for number in fresh}, "something that was deleted came back"


def test_two_removals_at_once_share_what_was_there(a_store: EventStore, connection: Connection, at_once) -> None:
    keys = [key_of(number) for number in range(24)]
    a_store.put(connection, [sealed(number) for number in range(24)])
    mine, theirs = at_once([lambda own: a_store.remove(own, keys), lambda own: a_store.remove(own, keys[::-1])])
    assert not mine & theirs
    assert mine | theirs == set(keys)


def test_the_store_is_the_one_of_the_settings() -> None:
    assert isinstance(open_store(Settings()), PostgresStore)
    found = open_store(Settings(life_events_store_url="dynamodb://deaths/"))
    assert isinstance(found, DynamoStore)
    assert found.table == "deaths"
    for url in ("dynamodb://", "dynamodb:/deaths", "postgresql://user:word@host/db", "deaths"):  # pragma: allowlist secret
        with pytest.raises(ConfigurationError, match="dynamodb://table") as raised:
            open_store(Settings(life_events_store_url=url))
        assert "word" not in str(raised.value)


def test_the_text_of_an_event_shows_nothing_of_its_payload() -> None:
    assert "PLACEHOLDER" not in repr(sealed(1, payload=b"PLACEHOLDER"))

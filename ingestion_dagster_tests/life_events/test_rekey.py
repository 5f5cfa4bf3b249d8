"""Rotation of encryption keys: everything that lives is sealed again, beside whatever else goes on."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import rekey as rekey_module
from ingestion_dagster.life_events.keys import Vault
from ingestion_dagster.life_events.rekey import Rekeyed, rekey
from ingestion_dagster.life_events.store import EventStore, Sealed
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
    vault_of,
)

__all__ = ["a_store", "aws_environment", "connection", "dynamo", "dynamodb_server", "emptied_database", "one"]

OLD, BOTH, NEW = vault_of("k1"), vault_of("k2", "k1"), vault_of("k2")


def locked_in(vault: Vault, number: int) -> Sealed:
    """An event that is really sealed."""
    event = sealed(number, key=vault.current.id)
    return replace(event, payload=vault.seal(event.record_key, event.payload))


def opened(store: EventStore, connection: Connection, vault: Vault, numbers: Sequence[int]) -> dict[int, bytes]:
    found = store.get(connection, [key_of(number) for number in numbers], NOW)
    return {
        number: vault.open(key_of(number), found[key_of(number)].encryption_key, found[key_of(number)].payload)
        for number in numbers
        if key_of(number) in found
    }


def payloads(numbers: Sequence[int]) -> dict[int, bytes]:
    return {number: f"payload of {number}".encode() for number in numbers}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekey_module, "_BATCH", 4)


class Beside(EventStore):
    """A store beside which something happens just before the first batch is sealed again, and another thing before the next."""

    def __init__(self, store: EventStore, *happens: Callable[[], object]) -> None:
        self._store = store
        self._happens = list(happens)
        self.is_transactional = store.is_transactional

    def reseal(self, connection: Connection, changes: Sequence[tuple[Sealed, Sealed]]) -> frozenset[bytes]:
        if self._happens:
            self._happens.pop(0)()
        return self._store.reseal(connection, changes)

    def put(self, *given: Any) -> Any:
        return self._store.put(*given)

    def get(self, *given: Any) -> Any:
        return self._store.get(*given)

    def remove(self, *given: Any, **more: Any) -> Any:
        return self._store.remove(*given, **more)

    def expired(self, *given: Any) -> Any:
        return self._store.expired(*given)

    def under_other_keys(self, *given: Any) -> Any:
        return self._store.under_other_keys(*given)

    def age(self, *given: Any) -> Any:
        return self._store.age(*given)


def test_everything_opens_with_the_new_key_alone_afterwards(a_store: EventStore, connection: Connection, one: Database) -> None:
    a_store.put(connection, [locked_in(OLD, number) for number in range(10)] + [locked_in(NEW, 10)])
    assert rekey(one, a_store, BOTH) == Rekeyed(resealed=10)
    assert opened(a_store, connection, NEW, range(11)) == payloads(range(11))
    kept = a_store.get(connection, [key_of(3)], NOW)[key_of(3)]
    assert (kept.stored_at, kept.expires_at) == (NOW, NOW + WEEK), "its time has changed"


def test_a_repeat_does_nothing(a_store: EventStore, connection: Connection, one: Database) -> None:
    a_store.put(connection, [locked_in(OLD, 1)])
    rekey(one, a_store, BOTH)
    before = a_store.get(connection, [key_of(1)], NOW)
    assert rekey(one, a_store, BOTH) == Rekeyed()
    assert a_store.get(connection, [key_of(1)], NOW) == before


def test_what_does_not_open_stays_and_is_counted(
    a_store: EventStore, connection: Connection, one: Database, caplog: pytest.LogCaptureFixture
) -> None:
    lost = locked_in(vault_of("k0"), 2)
    false = replace(locked_in(OLD, 3), payload=b"not what was sealed PLACEHOLDER")
    a_store.put(connection, [locked_in(OLD, 1), lost, false])
    with caplog.at_level(logging.WARNING):
        assert rekey(one, a_store, BOTH) == Rekeyed(resealed=1, undecipherable=2)
    assert a_store.get(connection, [key_of(2), key_of(3)], NOW) == {key_of(2): lost, key_of(3): false}
    assert "k0, k1" in caplog.text
    assert "PLACEHOLDER" not in caplog.text


def test_what_is_deleted_meanwhile_stays_deleted(a_store: EventStore, connection: Connection, one: Database) -> None:
    a_store.put(connection, [locked_in(OLD, number) for number in range(6)])
    beside = Beside(a_store, lambda: a_store.remove(connection, [key_of(number) for number in range(6)]))
    assert rekey(one, beside, BOTH) == Rekeyed(gone=4 if a_store.is_transactional else 6)
    assert opened(a_store, connection, BOTH, range(6)) == {}


def test_what_comes_in_under_the_old_key_meanwhile_is_sealed_again_too(a_store: EventStore, connection: Connection, one: Database) -> None:
    a_store.put(connection, [locked_in(OLD, number) for number in range(6)])
    late = range(6, 20)
    beside = Beside(a_store, lambda: a_store.put(connection, [locked_in(OLD, number) for number in late]))
    assert rekey(one, beside, BOTH).resealed == 20
    assert opened(a_store, connection, NEW, range(20)) == payloads(range(20))


def test_killed_between_two_batches_the_next_one_goes_on(a_store: EventStore, connection: Connection, one: Database) -> None:
    a_store.put(connection, [locked_in(OLD, number) for number in range(10)])

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        rekey(one, Beside(a_store, lambda: None, die), BOTH)
    assert opened(a_store, connection, BOTH, range(10)) == payloads(range(10))
    assert rekey(one, a_store, BOTH) == Rekeyed(resealed=6)


def test_two_at_once_seal_each_event_once(a_store: EventStore, connection: Connection, one: Database) -> None:
    a_store.put(connection, [locked_in(OLD, number) for number in range(24)])
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: rekey(one, a_store, BOTH), range(2)))
    assert sum(each.resealed for each in done) == 24
    assert opened(a_store, connection, NEW, range(24)) == payloads(range(24))

"""Records enter the ledger, the store, the outbox and the audit together or not at all, and each once."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import records
from ingestion_dagster.life_events.postgres_store import PostgresStore
from ingestion_dagster.life_events.registry import NOTIFY, PUBLISH
from ingestion_dagster.life_events.spool import Accepted
from ingestion_dagster.life_events.staging import Staging
from ingestion_dagster.life_events.store import Sealed
from ingestion_dagster_tests.life_events import stores
from ingestion_dagster_tests.life_events.stores import NOW, WEEK, hashing, vault_of

one, emptied_database, connection = stores.one, stores.emptied_database, stores.connection

FILE = b"f" * 32
VAULT = vault_of("e1")


def known_as(number: int, key: str) -> bytes:
    return hashlib.sha256(f"{key} {number}".encode()).digest()


def accepted(number: int, ordinal: int, *keys: str) -> Accepted:
    """A record with what it is known by under these keys, the current one first."""
    current, *older = (known_as(number, key) for key in keys or ("k1",))
    payload = VAULT.seal(current, orjson.dumps({"hash": current.hex(), "surname": f"PLACEHOLDER {number}"}))
    return Accepted(ordinal, current, tuple(older), payload)


def staging(*keys: str, topics: tuple[str, ...] = (PUBLISH,), store: Any = None) -> Staging:
    return Staging(store or PostgresStore(), hashing(*keys or ("k1",)), VAULT, WEEK, topics)


def enter(connection: Connection, chunk: Sequence[Accepted], load: int = 1, *, at: int = 0, to: Staging | None = None) -> int:
    """How many are new; `at` in seconds."""
    with connection.transaction():
        now = NOW + timedelta(seconds=at)
        return (to or staging()).enter(connection, chunk, load_id=load, file_hmac=FILE, correlation_id="run", now=now)


def rows(connection: Connection, columns: str, table: str = "life_events.records", order: str = "1") -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT {columns} FROM {table} ORDER BY {order}").fetchall()


def stored(connection: Connection) -> dict[bytes, tuple[str, str]]:
    """By record key, the id and the surname that the event says."""
    found = {}
    for key, encryption_key, payload in rows(connection, "record_key, encryption_key, payload", "life_events.events"):
        content = orjson.loads(VAULT.open(bytes(key), encryption_key, bytes(payload)))
        found[bytes(key)] = (content["hash"], content["surname"])
    return found


def test_a_new_record_is_in_ledger_store_outbox_and_audit(connection: Connection) -> None:
    assert enter(connection, [accepted(1, 1), accepted(2, 2)], load=7) == 2
    keys = {known_as(1, "k1"), known_as(2, "k1")}
    assert {(bytes(row[0]), *row[1:]) for row in rows(connection, "record_key, hmac_key, load_id, state, stored_at")} == {
        (key, "k1", 7, "pending", NOW) for key in keys
    }
    assert stored(connection) == {known_as(number, "k1"): (known_as(number, "k1").hex(), f"PLACEHOLDER {number}") for number in (1, 2)}
    assert rows(connection, "expires_at - stored_at", "life_events.events") == [(WEEK,)] * 2
    assert [row[0] for row in rows(connection, "key", "ledger.outbox", "id")] == [known_as(1, "k1").hex(), known_as(2, "k1").hex()]
    told = rows(connection, "component, event_name, correlation_id, file_hmac, outcome", "life_events.audit")
    assert told == [("load", "RECORD_STAGED", "run", FILE, "ok")] * 2
    assert staging().accepted(connection, 7) == 2


def test_a_record_that_is_known_only_counts_as_seen_again(connection: Connection) -> None:
    enter(connection, [accepted(1, 1)])
    before = rows(connection, "*", "life_events.events") + rows(connection, "*", "ledger.outbox")
    assert enter(connection, [accepted(1, 5), accepted(2, 6)], load=2, at=1) == 1
    assert rows(connection, "load_id, ordinal, seen_at", order="load_id") == [
        (1, 1, NOW + timedelta(seconds=1)),
        (2, 6, NOW + timedelta(seconds=1)),
    ]
    after = rows(connection, "*", "life_events.events") + rows(connection, "*", "ledger.outbox")
    assert set(before) < set(after)
    assert len(after) == len(before) + 2
    assert len(rows(connection, "*", "life_events.audit")) == 2


def test_the_same_attempt_again_counts_nothing_twice(connection: Connection) -> None:
    for at in (0, 1):
        enter(connection, [accepted(1, 1), accepted(2, 2)], at=at)
    assert rows(connection, "load_id, stored_at") == [(1, NOW)] * 2
    assert len(rows(connection, "*", "life_events.audit")) == 2


def test_of_several_in_one_chunk_the_first_counts(connection: Connection) -> None:
    assert enter(connection, [accepted(1, 3), accepted(2, 4), accepted(1, 5)]) == 2
    assert rows(connection, "ordinal") == [(3,), (4,)]
    assert len(stored(connection)) == 2


def test_a_transaction_that_is_lost_leaves_nothing(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        enter(connection, [accepted(1, 1)])
    for table in ("life_events.records", "life_events.events", "ledger.outbox", "life_events.audit"):
        assert rows(connection, "*", table) == []
    assert enter(connection, [accepted(1, 1)], at=1) == 1


def test_a_store_that_is_away_leaves_nothing(connection: Connection) -> None:
    class Away(PostgresStore):
        is_transactional = False

        def put(self, connection: Connection, events: Sequence[Sealed]) -> None:
            raise Transient("store_unavailable", "away")

    with pytest.raises(Transient):
        enter(connection, [accepted(1, 1)], to=staging(store=Away()))
    for table in ("life_events.records", "ledger.outbox", "life_events.audit"):
        assert rows(connection, "*", table) == []


def test_an_event_is_due_for_the_platform_and_each_acquirer(connection: Connection) -> None:
    enter(connection, [accepted(1, 1)], load=3, to=staging(topics=(PUBLISH, "life_events.notify.one")))
    assert rows(connection, "topic, key, load_id", "ledger.outbox") == [
        ("life_events.notify.one", known_as(1, "k1").hex(), 3),
        (PUBLISH, known_as(1, "k1").hex(), 3),
    ]


@pytest.mark.parametrize(
    ("state", "is_new"), [("pending", False), ("published", False), ("dead", False), ("released", False), ("expired", True)]
)
def test_only_what_has_expired_is_as_good_as_new(connection: Connection, state: str, is_new: bool) -> None:
    enter(connection, [accepted(1, 1)])
    connection.execute("DELETE FROM ledger.outbox")
    ended = state in ("released", "expired")
    if ended:
        connection.execute("DELETE FROM life_events.events")
    connection.execute("UPDATE life_events.records SET state = %s, ended_at = %s", [state, NOW if ended else None])
    assert enter(connection, [accepted(1, 9)], load=2, at=1) == int(is_new)
    now = NOW + timedelta(seconds=1)
    expected = (2, 9, "pending", now, None) if is_new else (1, 1, state, NOW, NOW if ended else None)
    assert rows(connection, "load_id, ordinal, state, stored_at, ended_at") == [expected]
    assert len(rows(connection, "*", "ledger.outbox")) == int(is_new)
    assert len(stored(connection)) == int(is_new or not ended)
    assert len(rows(connection, "*", "life_events.audit")) == 1 + int(is_new)


@pytest.mark.parametrize(("state", "becomes"), [("pending", "pending"), ("dead", "pending"), ("published", "published")])
def test_a_record_that_is_known_and_whose_event_is_gone_is_as_good_as_new(connection: Connection, state: str, becomes: str) -> None:
    """Its file is deleted once it is loaded: to count it as known would lose it."""
    enter(connection, [accepted(1, 1)])
    published_at = NOW if state == "published" else None
    connection.execute("UPDATE life_events.records SET state = %s, published_at = %s, code = 'event_gone'", [state, published_at])
    connection.execute("UPDATE ledger.outbox SET dead_at = now(), code = 'event_gone'")
    connection.execute("DELETE FROM life_events.events")
    assert enter(connection, [accepted(1, 4)], load=2, at=1) == 1
    assert rows(connection, "load_id, ordinal, state, code") == [(2, 4, becomes, None)]
    assert len(stored(connection)) == 1
    assert rows(connection, "dead_at, code", "ledger.outbox") == [(None, None)]


def test_an_acquirer_that_was_not_told_in_time_is_told_of_what_comes_again(connection: Connection) -> None:
    told, untold = f"{NOTIFY}told", f"{NOTIFY}untold"
    both = staging(topics=(PUBLISH, told, untold))
    enter(connection, [accepted(1, 1)], to=both)
    connection.execute("DELETE FROM ledger.outbox WHERE topic <> %s", [untold])
    connection.execute("UPDATE ledger.outbox SET dead_at = now(), code = 'event_expired'")
    connection.execute("UPDATE life_events.records SET published_at = %s", [NOW])
    records.mark_ended(connection, [known_as(1, "k1")], "expired", NOW)
    enter(connection, [accepted(1, 1)], load=2, at=1, to=both)
    assert rows(connection, "topic, dead_at", "ledger.outbox") == [(untold, None)]


def test_what_was_published_before_it_expired_is_not_due_again(connection: Connection) -> None:
    enter(connection, [accepted(1, 1)])
    connection.execute("DELETE FROM ledger.outbox")
    key = known_as(1, "k1")
    records.mark_published(connection, [key], NOW)
    PostgresStore().remove(connection, [key])
    records.mark_ended(connection, [key], "expired", NOW)
    assert enter(connection, [accepted(1, 1)], load=2, at=1) == 1
    assert rows(connection, "state, published_at", "life_events.records") == [("published", NOW)]
    assert rows(connection, "*", "ledger.outbox") == []
    assert len(stored(connection)) == 1


def test_an_expired_event_that_is_still_in_the_store_is_replaced(connection: Connection) -> None:
    """The ledger may have been told before a store outside the database."""
    enter(connection, [accepted(1, 1)])
    records.mark_ended(connection, [known_as(1, "k1")], "expired", NOW + WEEK)
    later = int(WEEK.total_seconds()) + 1
    assert enter(connection, [accepted(1, 1)], load=2, at=later) == 1
    assert rows(connection, "expires_at", "life_events.events") == [(NOW + timedelta(seconds=later) + WEEK,)]


def test_a_record_known_under_an_older_key_keeps_its_id(connection: Connection) -> None:
    enter(connection, [accepted(1, 1)])
    chunk = [accepted(1, 1, "k3", "k2", "k1"), accepted(2, 2, "k3", "k2", "k1")]
    assert enter(connection, chunk, load=2, at=1, to=staging("k3", "k2", "k1")) == 1
    assert {(bytes(key), name) for key, name in rows(connection, "record_key, hmac_key")} == {
        (known_as(1, "k1"), "k1"),
        (known_as(2, "k3"), "k3"),
    }


def test_one_that_has_expired_is_revived_under_its_older_key_and_says_that_id(connection: Connection) -> None:
    enter(connection, [accepted(1, 1)])
    PostgresStore().remove(connection, [known_as(1, "k1")])
    records.mark_ended(connection, [known_as(1, "k1")], "expired", NOW)
    chunk = [accepted(1, 4, "k2", "k1"), accepted(1, 5, "k2", "k1")]
    assert enter(connection, chunk, load=2, at=1, to=staging("k2", "k1")) == 1
    assert rows(connection, "hmac_key, load_id, ordinal, state") == [("k1", 2, 4, "pending")]
    assert stored(connection) == {known_as(1, "k1"): (known_as(1, "k1").hex(), "PLACEHOLDER 1")}


def test_an_empty_chunk_is_nothing(connection: Connection) -> None:
    assert enter(connection, []) == 0


def test_two_at_once_enter_a_record_once(connection: Connection, one: Database) -> None:
    """The second waits for the first, and finds it there, or not if the first has failed."""
    with one.connect() as other:
        with connection.transaction():
            enter(connection, [accepted(1, 1)])
            other.execute("SET lock_timeout = '50ms'")
            with pytest.raises(Exception, match="lock timeout"):
                enter(other, [accepted(1, 1)], load=2, at=1)
        assert enter(other, [accepted(1, 1)], load=2, at=2) == 0


@pytest.mark.parametrize("state", ["pending", "published", "dead"])
def test_an_event_that_is_gone_though_nobody_has_asked_for_that_comes_back(connection: Connection, state: str) -> None:
    enter(connection, [accepted(1, 1), accepted(2, 2)])
    published = NOW if state == "published" else None
    connection.execute("UPDATE life_events.records SET state = %s, published_at = %s", [state, published])
    PostgresStore().remove(connection, [known_as(1, "k1")])
    assert enter(connection, [accepted(2, 1), accepted(1, 2)], load=2, at=1) == 1
    assert set(stored(connection)) == {known_as(1, "k1"), known_as(2, "k1")}
    expected = "published" if published else "pending"
    assert rows(connection, "load_id, ordinal, state", order="load_id") == [(1, 2, state), (2, 2, expected)]

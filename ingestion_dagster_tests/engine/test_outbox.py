"""The outbox and its delivery on a real Postgres: nothing committed is forgotten, nobody settles what is another's."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest
from psycopg.errors import DeadlockDetected

from ingestion_dagster.engine import outbox
from ingestion_dagster.engine.delivery import Decided, Limits, NotNeeded, NotThisTime, Recipient, Tally, Undeliverable, deliver
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.outbox import Dead, Later, Message, Settlement
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster_tests.engine import processes

TOPIC, OTHER = "topic", "topic.other"


@pytest.fixture
def emptied(one: Database) -> Database:
    return processes.emptied(one, "ledger")


@pytest.fixture
def connection(emptied: Database) -> Iterator[Connection]:
    with emptied.connect() as connection:
        yield connection


@pytest.fixture
def beside(emptied: Database) -> Iterator[Connection]:
    """Somebody else's connection."""
    with emptied.connect() as connection:
        yield connection


def keys(count: int) -> list[str]:
    return [f"key {number:04}" for number in range(count)]


def mark_nothing(connection: Connection, settlement: Settlement) -> None:
    pass


def claim(connection: Connection, count: int = 100, *, lease: float = 60, partitions: Sequence[str] | None = None) -> list[Message]:
    return outbox.claim(connection, TOPIC, count=count, lease_seconds=lease, partitions=partitions)


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """Key, attempts, code, whether it is dead, due and claimed."""
    return connection.execute(
        """
        SELECT key, attempts, code, dead_at IS NOT NULL, due_at <= clock_timestamp(), claimed_until > clock_timestamp()
        FROM ledger.outbox ORDER BY key
        """
    ).fetchall()


def load(connection: Connection, partition: str) -> int:
    row = connection.execute(
        """
        INSERT INTO ledger.loads (pipeline, landing_zone, key, version, size, modified, partition)
        VALUES ('some', 'zone', %s, '1', 1, now(), %s) RETURNING id
        """,
        [partition, partition],
    ).fetchone()
    assert row is not None
    return int(row[0])


def let_claims_run_out(connection: Connection) -> None:
    connection.execute("UPDATE ledger.outbox SET claimed_until = now() - interval '1 second' WHERE claimed_until IS NOT NULL")


def test_a_message_is_put_in_once_and_with_its_transaction(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        outbox.put(connection, TOPIC, ["undone"])
    assert outbox.put(connection, TOPIC, ["a", "b"]) == 2
    assert outbox.put(connection, TOPIC, ["b", "c"]) == 1
    assert outbox.put(connection, OTHER, ["a"]) == 1
    assert outbox.put(connection, TOPIC, []) == 0
    assert [message.key for message in claim(connection)] == ["a", "b", "c"]


def test_the_longest_due_is_claimed_first_and_what_is_not_due_is_not(connection: Connection) -> None:
    outbox.put(connection, TOPIC, ["a", "b", "c", "d"])
    connection.execute("UPDATE ledger.outbox SET due_at = now() - interval '1 hour' WHERE key = 'c'")
    connection.execute("UPDATE ledger.outbox SET due_at = now() + interval '1 hour' WHERE key = 'b'")
    assert [message.key for message in claim(connection, 2)] == ["c", "a"]
    assert [message.key for message in claim(connection)] == ["d"]
    assert claim(connection) == []


def test_two_at_once_never_claim_the_same(connection: Connection, beside: Connection) -> None:
    outbox.put(connection, TOPIC, keys(10))
    with connection.transaction():
        first = claim(connection, 4)
        second = claim(beside, 4)
    assert not {each.id for each in first} & {each.id for each in second}
    assert {each.claim for each in first}.isdisjoint(each.claim for each in second)
    assert len({each.claim for each in first}) == 1
    assert len(claim(beside)) == 2


def test_claims_are_narrowed_to_partitions(connection: Connection) -> None:
    outbox.put(connection, TOPIC, ["a"], load(connection, "monday"))
    outbox.put(connection, TOPIC, ["b"], load(connection, "tuesday"))
    outbox.put(connection, TOPIC, ["c"])
    assert claim(connection, partitions=[]) == []
    assert [message.key for message in claim(connection, partitions=["tuesday"])] == ["b"]
    assert outbox.lag(connection, TOPIC, ["tuesday"]).due == 1
    assert [message.key for message in claim(connection)] == ["a", "c"]


def test_who_lost_a_claim_changes_nothing(connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(4))
    late = claim(connection)
    let_claims_run_out(connection)
    holder = claim(connection)
    before = rows(connection)
    told: list[Settlement] = []
    settlement = Settlement([late[0]], [late[1]], [Dead(late[2], "code")], [Later(late[3], "code", 60, charged=True)])
    settled = outbox.settle(connection, settlement, lambda _, each: told.append(each))
    assert len(settled) == 0
    assert [len(each) for each in told] == [0]
    assert outbox.renew(connection, late, 3600) == frozenset()
    assert outbox.give_back(connection, late) == 0
    assert rows(connection) == before
    assert outbox.renew(connection, holder, 60) == {each.id for each in holder}
    assert len(outbox.settle(connection, Settlement(holder), mark_nothing)) == 4
    assert rows(connection) == []


def test_settling_does_all_of_it(connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(4))
    sent, dropped, dead, later = claim(connection)
    settlement = Settlement([sent], [dropped], [Dead(dead, "refused")], [Later(later, "failed", 60, charged=True)])
    assert outbox.settle(connection, settlement, mark_nothing) == settlement
    assert rows(connection) == [(dead.key, 0, "refused", True, True, None), (later.key, 1, "failed", False, False, None)]
    assert claim(connection) == []


def test_what_is_marked_and_what_is_settled_are_one(connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(2))
    messages = claim(connection)
    before = rows(connection)

    def fails(inside: Connection, settlement: Settlement) -> None:
        outbox.put(inside, OTHER, ["marked"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outbox.settle(connection, Settlement(messages), fails)
    assert rows(connection) == before


def test_what_is_given_back_is_due_at_once_and_uncharged(connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(3))
    messages = claim(connection)
    assert outbox.give_back(connection, messages[:2]) == 2
    assert [(each.key, each.attempts) for each in claim(connection)] == [(each.key, 0) for each in messages[:2]]


def test_the_dead_wait_for_a_person(connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(3))
    messages = claim(connection)
    outbox.settle(connection, Settlement(dead=[Dead(each, "refused") for each in messages]), mark_nothing)
    assert claim(connection) == []
    assert outbox.put(connection, TOPIC, keys(3)) == 0
    assert outbox.retry(connection, OTHER) == []
    assert outbox.retry(connection, TOPIC, [messages[0].key]) == [messages[0].key]
    assert sorted(outbox.retry(connection, TOPIC)) == [each.key for each in messages[1:]]
    assert {row[1:] for row in rows(connection)} == {(0, None, False, True, None)}
    assert len(claim(connection)) == 3


def test_the_lag_tells_what_is_due_later_and_dead(connection: Connection) -> None:
    assert outbox.lag(connection, TOPIC) == outbox.Lag(0, 0, 0, 0.0)
    outbox.put(connection, OTHER, ["x"])
    outbox.put(connection, TOPIC, keys(4))
    connection.execute("UPDATE ledger.outbox SET created_at = now() - make_interval(mins => right(key, 1)::integer) WHERE topic = 'topic'")
    messages = claim(connection)
    outbox.settle(connection, Settlement(dead=[Dead(messages[3], "x")], later=[Later(messages[2], "x", 60, charged=False)]), mark_nothing)
    lag = outbox.lag(connection, TOPIC)
    assert (lag.due, lag.later, lag.dead) == (2, 1, 1)
    assert 120 <= lag.oldest_seconds < 180


@dataclass
class Told(Recipient[str]):
    """A receiver who does as he is told: for a key, an exception that he raises, or each in turn."""

    answers: dict[str, Exception | list[Exception | None]] = field(default_factory=dict)
    prepared: dict[str, Decided] = field(default_factory=dict)
    seconds: float = 0.0
    sent: Counter[str] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    threads: set[int] = field(default_factory=set)
    on_mark: Callable[[Connection, Settlement], None] = mark_nothing
    on_send: Callable[[Message], Awaitable[None]] | None = None
    always: Exception | None = None

    def prepare(self, connection: Connection, messages: Sequence[Message]) -> Mapping[int, str | Decided]:
        self.threads.add(threading.get_ident())
        return {message.id: self.prepared.get(message.key, message.key.upper()) for message in messages}

    async def send(self, message: Message, content: str) -> None:
        assert content == message.key.upper()
        self.asked.append(message.key)
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            await asyncio.sleep(self.seconds)
            if self.on_send is not None:
                await self.on_send(message)
        finally:
            self.in_flight -= 1
        answer = self.answers.get(message.key, self.always)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        if answer is not None:
            raise answer
        self.sent[message.key] += 1

    def mark(self, connection: Connection, settlement: Settlement) -> None:
        self.on_mark(connection, settlement)
        self.settled.append(settlement)


SMALL = Limits(in_flight=4, batch=10, group=5, group_seconds=0.02, refusals=3, first_pause=10)


def run(database: Database, told: Told, limits: Limits = SMALL, seconds: float = 60, tally: Tally | None = None, **more: Any) -> Tally:
    return asyncio.run(deliver(database, TOPIC, told, seconds=seconds, limits=limits, tally=tally, **more))


def test_everything_due_is_sent_with_a_bounded_number_in_flight(emptied: Database, connection: Connection) -> None:
    monday = load(connection, "monday")
    outbox.put(connection, TOPIC, keys(95), monday)
    outbox.put(connection, TOPIC, ["late"])
    outbox.put(connection, OTHER, ["other"])
    told = Told(seconds=0.002)
    tally = run(emptied, told)
    assert sorted(told.sent.elements()) == [*keys(95), "late"]
    assert tally == Tally(sent=Counter({monday: 95, None: 1}))
    assert told.most_in_flight == 4
    assert threading.get_ident() not in told.threads
    assert sum(len(each.sent) for each in told.settled) == 96
    assert len(told.settled) > 5
    assert [row[0] for row in rows(connection)] == ["other"]


def test_an_empty_outbox_ends_at_once(emptied: Database) -> None:
    told = Told()
    assert run(emptied, told) == Tally()
    assert told.settled == []


def test_what_takes_longer_than_a_lease_keeps_it(emptied: Database, connection: Connection, beside: Connection) -> None:
    outbox.put(connection, TOPIC, keys(8))
    told = Told(seconds=0.9)
    stolen: list[Message] = []

    async def steal(message: Message) -> None:
        stolen.extend(await asyncio.to_thread(claim, beside))

    told.on_send = steal
    run(emptied, told, replace(SMALL, lease_seconds=0.6))
    assert stolen == []
    assert set(told.sent.values()) == {1}
    assert len(told.sent) == 8


def test_what_a_lease_has_run_out_for_is_not_sent_under_it(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(6))
    told = Told()

    def clock() -> float:
        """The process sleeps for an hour after the first claim."""
        return 3600.0 if told.threads else 0.0

    # Nothing is settled before all have been looked at: with it, the claims would be renewed.
    at_the_end = replace(SMALL, in_flight=1, group=10, group_seconds=60)
    assert run(emptied, told, at_the_end, seconds=7200, clock=clock) == Tally()
    assert told.asked == []
    assert {row[1:] for row in rows(connection)} == {(0, None, False, True, None)}
    assert run(emptied, told).sent == {None: 6}


def test_a_message_of_another_claim_is_counted_as_lost(emptied: Database, connection: Connection, beside: Connection) -> None:
    outbox.put(connection, TOPIC, ["a"])

    async def take_over(_: Message) -> None:
        beside.execute("UPDATE ledger.outbox SET claim = nextval('ledger.outbox_claim')")

    tally = run(emptied, Told(on_send=take_over))
    assert tally == Tally(lost=1)
    assert rows(connection) == [("a", 0, None, False, True, True)]


def test_a_run_that_claims_again_what_it_holds_itself_ends_well(emptied: Database, connection: Connection, beside: Connection) -> None:
    outbox.put(connection, TOPIC, keys(30))
    told = Told(seconds=0.01)

    async def run_out(_: Message) -> None:
        if len(told.asked) == 1:
            let_claims_run_out(beside)

    told.on_send = run_out
    tally = run(emptied, told)
    assert rows(connection) == []
    assert len(told.sent) == 30
    assert tally.sent == {None: 30}
    assert tally.lost == sum(told.sent.values()) - 30


def test_an_error_gives_back_what_was_not_sent_and_keeps_what_was(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(40))
    tally = Tally()
    told = Told({keys(40)[12]: ConfigurationError("set something")})
    with pytest.raises(ConfigurationError, match="set something"):
        run(emptied, told, replace(SMALL, in_flight=1), tally=tally)
    assert sorted(told.sent) == keys(12)
    assert tally.sent == {None: 12}
    assert [row[0] for row in rows(connection)] == keys(40)[12:]
    assert {row[1:] for row in rows(connection)} == {(0, None, False, True, None)}


def test_an_error_of_preparing_gives_everything_back(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(4))

    class Broken(Told):
        def prepare(self, connection: Connection, messages: Sequence[Message]) -> Mapping[int, str | Decided]:
            raise Transient("store_unavailable", "the store does not answer")

    with pytest.raises(Transient, match="store_unavailable"):
        run(emptied, Broken())
    assert {row[1:] for row in rows(connection)} == {(0, None, False, True, None)}


def test_a_run_that_is_cancelled_keeps_what_it_has_sent(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(40))
    told = Told(seconds=0.01)

    async def cancelled() -> None:
        enough = asyncio.Event()

        async def look(_: Message) -> None:
            if len(told.sent) >= 9:
                enough.set()

        told.on_send = look
        running = asyncio.create_task(deliver(emptied, TOPIC, told, seconds=60, limits=replace(SMALL, group_seconds=60, group=1000)))
        await enough.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    left = rows(connection)
    assert len(left) == 40 - len(told.sent)
    assert {row[1:] for row in left} == {(0, None, False, True, None)}


def test_a_database_that_goes_away_costs_no_message(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(40))
    told = Told(seconds=0.01)

    async def cut(message: Message) -> None:
        if message.key == keys(40)[15]:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    told.on_send = cut
    with pytest.raises(Transient, match="database_gave_way") as raised:
        run(emptied, told)
    assert raised.value.__cause__ is None
    let_claims_run_out(connection)
    again = Told()
    run(emptied, again)
    assert set(told.sent) | set(again.sent) == set(keys(40))
    assert rows(connection) == []


def test_who_loses_a_deadlock_settles_again(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(3))
    tries: list[int] = []

    def deadlock(_: Connection, settlement: Settlement) -> None:
        tries.append(len(settlement))
        if len(tries) < 3:
            raise DeadlockDetected

    assert run(emptied, Told(on_mark=deadlock)).sent == {None: 3}
    assert tries[0] == tries[1]
    assert rows(connection) == []


def test_a_real_deadlock_is_settled_by_whoever_loses_it(emptied: Database, connection: Connection, beside: Connection) -> None:
    """The other one holds a row that marking wants, and wants what marking holds."""
    outbox.put(connection, TOPIC, ["a"])
    outbox.put(connection, OTHER, ["x", "y"])
    meets = threading.Barrier(2)
    lock = "SELECT FROM ledger.outbox WHERE key = %s FOR UPDATE"
    first = [True]

    def other() -> None:
        with suppress(DeadlockDetected), beside.transaction():
            beside.execute(lock, ["y"])
            meets.wait(10)
            beside.execute(lock, ["x"])

    def both(inside: Connection, _: Settlement) -> None:
        inside.execute("SET LOCAL deadlock_timeout = '50ms'")
        inside.execute(lock, ["x"])
        if first:
            first.clear()
            meets.wait(10)
        inside.execute(lock, ["y"])

    thread = threading.Thread(target=other)
    thread.start()
    assert run(emptied, Told(on_mark=both)).sent == {None: 1}
    thread.join(10)


def test_nobody_needs_it_any_more(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, ["a", "b", "c"])
    told = Told({"b": NotNeeded()}, prepared={"a": NotNeeded()})
    assert run(emptied, told) == Tally(sent=Counter({None: 1}), dropped=Counter({None: 2}))
    assert told.asked.count("a") == 0
    assert rows(connection) == []


def test_one_that_is_refused_does_not_hold_up_the_others(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(20))
    told = Told(dict.fromkeys(keys(7), Undeliverable("refused")), prepared={keys(20)[8]: Undeliverable("unreadable")})
    tally = run(emptied, told)
    assert (tally.sent[None], tally.dead[None], tally.codes) == (12, 8, {"refused": 7, "unreadable": 1})
    assert {row[1:] for row in rows(connection)} == {(0, "refused", True, True, None), (0, "unreadable", True, True, None)}


EVERYBODY = Undeliverable("forbidden", ConfigurationError("nobody is let in"))


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_refusal_of_everybody_is_no_message_s_trouble(emptied: Database, connection: Connection, in_flight: int) -> None:
    outbox.put(connection, TOPIC, keys(20))
    told = Told(always=EVERYBODY)
    with pytest.raises(ConfigurationError, match="nobody is let in"):
        run(emptied, told, replace(SMALL, in_flight=in_flight))
    assert {row[1:] for row in rows(connection)} == {(0, None, False, True, None)}
    assert len(rows(connection)) == 20
    assert len(told.asked) < 3 + in_flight


def test_refusals_with_others_between_them_are_their_own(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(20))
    told = Told({key: EVERYBODY for number, key in enumerate(keys(20)) if number % 3 != 2})
    tally = run(emptied, told, replace(SMALL, in_flight=1))
    assert (tally.sent[None], tally.dead[None]) == (6, 14)


def test_one_that_does_not_get_through_is_charged_if_others_do(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(3))
    told = Told({keys(3)[0]: NotThisTime("failed")})
    tally = run(emptied, told, replace(SMALL, in_flight=1), chance=lambda: 0.0)
    assert (tally.sent[None], tally.later[None], tally.codes) == (2, 1, {"failed": 1})
    assert rows(connection) == [(keys(1)[0], 1, "failed", False, False, None)]
    assert 4 < seconds_off(connection) <= 5


def test_the_last_one_that_does_not_get_through_is_not_charged(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(3))
    told = Told({keys(3)[2]: NotThisTime("failed")})
    assert run(emptied, told, replace(SMALL, in_flight=1)).later == {None: 1}
    assert rows(connection) == [(keys(3)[2], 0, "failed", False, False, None)]


def test_what_is_not_its_fault_is_never_charged(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(3))
    run(emptied, Told({keys(3)[0]: NotThisTime("throttled", blameless=True)}))
    assert rows(connection) == [(keys(3)[0], 0, "throttled", False, False, None)]


def test_an_outage_charges_nobody_and_is_raised(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(6))
    with pytest.raises(Transient, match=r"^failed: nothing got through"):
        run(emptied, Told(always=NotThisTime("failed")))
    assert {row[1:] for row in rows(connection)} == {(0, "failed", False, False, None)}


def test_an_outage_is_not_tried_on_every_message(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(200))
    told = Told(always=NotThisTime("failed"))
    with pytest.raises(Transient, match="nothing got through"):
        run(emptied, told)
    assert len(told.asked) <= 5 * SMALL.batch
    assert {row[1] for row in rows(connection)} == {0}


def test_pauses_grow_and_end_in_death(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, ["bad"])
    limits = replace(SMALL, in_flight=1, max_attempts=4, longest_pause=30)
    pauses = []
    for attempt in range(1, 5):
        connection.execute("UPDATE ledger.outbox SET due_at = now() - interval '1 minute'")
        outbox.put(connection, TOPIC, [f"good {attempt}"])
        tally = run(emptied, Told({"bad": NotThisTime("failed")}), limits, chance=lambda: 1.0)
        assert tally.sent == {None: 1}
        pauses.append(round(seconds_off(connection)))
    assert pauses[:3] == [10, 20, 30]
    assert (tally.dead, tally.later) == ({None: 1}, {})
    assert rows(connection) == [("bad", 3, "failed", True, True, None)]


def seconds_off(connection: Connection) -> float:
    row = connection.execute("SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM ledger.outbox").fetchone()
    assert row is not None
    return float(row[0])


def test_time_that_is_up_claims_and_sends_no_more(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(200))
    told = Told(seconds=0.02)
    began = time.monotonic()
    tally = run(emptied, told, seconds=0.2)
    assert time.monotonic() - began < 2
    assert 0 < tally.sent[None] < 200
    assert tally.sent[None] == len(told.sent)
    assert {row[1:] for row in rows(connection)} == {(0, None, False, True, None)}
    assert len(rows(connection)) == 200 - len(told.sent)


def test_a_slow_ledger_bounds_what_is_claimed_ahead(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, keys(200))
    most = []

    def slow(_: Connection, settlement: Settlement) -> None:
        claimed = connection.execute("SELECT count(*) FROM ledger.outbox WHERE claimed_until IS NOT NULL").fetchone()
        assert claimed is not None
        most.append(claimed[0])
        time.sleep(0.03)

    run(emptied, Told(on_mark=slow))
    assert max(most) <= 6 * SMALL.batch
    assert rows(connection) == []


def test_a_claim_that_sleeps_in_a_transaction_loses_its_connection(emptied: Database, connection: Connection) -> None:
    outbox.put(connection, TOPIC, ["a"])

    def sleeps(_: Connection, settlement: Settlement) -> None:
        if not woken:
            woken.append(True)
            time.sleep(1)

    woken: list[bool] = []
    told = Told(on_mark=sleeps)
    with pytest.raises(Transient, match="database_gave_way"):
        run(emptied, told, replace(SMALL, lease_seconds=0.4))
    assert isinstance(told.settled, list)
    with psycopg.connect(emptied.conninfo) as looking:
        assert looking.execute("SELECT count(*) FROM ledger.outbox").fetchone() == (0,)

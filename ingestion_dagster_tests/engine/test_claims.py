"""The batches of a run: how they end, and that their leases outlive slow work and a database that hiccups."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
import pytest

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.claims import Claims, Limits, put_off
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Load, Scope, Status
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.scene import PIPELINE, Scene, seen

SHORT = Limits(lease_seconds=0.9)
LONGER_THAN_A_LEASE = 1.0


def claims_of(scene: Scene, limits: Limits, database: Database | None = None, clock: Callable[[], float] | None = None) -> Claims:
    timed = {} if clock is None else {"clock": clock}
    return Claims(database or scene.database, Scope(PIPELINE), "run", limits, **timed)


def renewed(scene: Scene, load: Load) -> None:
    """Wait until the lease of this load has been put off."""
    lease = scene.value("lease_until", load)
    for _ in range(500):
        if scene.value("lease_until", load) > lease:
            return
        threading.Event().wait(0.01)
    pytest.fail("the lease was not renewed within five seconds")


def test_a_run_goes_on_until_nothing_is_claimable(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in "abcde"))
    with claims_of(scene, Limits(batch_files=2)) as claims:
        batches = []
        for batch in claims.batches(scene.connection):
            scene.settle(batch)
            batches.append([load.key for load in batch])
    assert batches == [["a", "b"], ["c", "d"], ["e"]]


def test_a_batch_is_bounded_by_bytes_too(scene: Scene) -> None:
    scene.enter(*(seen(name, size=60) for name in "abc"))
    with claims_of(scene, Limits(batch_bytes=120)) as claims:
        assert [len(batch) for batch in claims.batches(scene.connection)] == [2, 1]


def test_what_arrives_while_a_run_works_is_taken_by_the_same_run(scene: Scene) -> None:
    scene.enter(seen("a"))
    with claims_of(scene, Limits()) as claims:
        batches = claims.batches(scene.connection)
        next(batches)
        scene.enter(seen("b"))
        assert [load.key for load in next(batches)] == ["b"]


def test_a_run_whose_time_is_up_claims_no_more_and_leaves_the_rest_ready(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in "abcd"))
    ticks = count(0, 10)
    with claims_of(scene, Limits(batch_files=1, run_seconds=25), clock=lambda: next(ticks)) as claims:
        done = [scene.settle(batch)[0].key for batch in claims.batches(scene.connection)]
    assert done == ["a", "b"]
    assert scene.statuses() == {"a": ["ready_for_archiving"], "b": ["ready_for_archiving"], "c": ["ready"], "d": ["ready"]}


def test_a_load_that_meets_a_fault_each_time_does_not_keep_a_run_going_for_ever(scene: Scene) -> None:
    scene.enter(seen("a"))
    with claims_of(scene, Limits()) as claims:
        for number, batch in enumerate(claims.batches(scene.connection)):
            assert number == 0
            scene.settle(batch, Status.READY, charged=True)
    assert scene.statuses() == {"a": ["ready"]}


def test_a_batch_that_takes_longer_than_its_lease_stays_ours(scene: Scene) -> None:
    scene.enter(seen("a"), seen("b"))
    with claims_of(scene, SHORT) as claims:
        for batch in claims.batches(scene.connection):
            threading.Event().wait(LONGER_THAN_A_LEASE)
            assert scene.expire() == 0
            scene.settle(batch)
    assert scene.statuses() == {"a": ["ready_for_archiving"], "b": ["ready_for_archiving"]}


def test_a_move_that_takes_longer_than_its_lease_is_not_taken_over(scene: Scene) -> None:
    scene.enter(seen("a"))
    with claims_of(scene, SHORT) as claims:
        for batch in claims.batches(scene.connection):
            scene.settle(batch)
            threading.Event().wait(LONGER_THAN_A_LEASE)
            assert ledger.take_stranded(scene.connection, PIPELINE, count=1, lease_seconds=60) == []


def test_a_lease_that_nobody_renews_expires(scene: Scene) -> None:
    """The other half of the two tests before: without the renewal they would fail."""
    scene.enter(seen("a"))
    scene.claim(lease=SHORT.lease_seconds)
    threading.Event().wait(LONGER_THAN_A_LEASE)
    assert scene.expire() == 1


def test_the_leases_of_a_run_that_has_ended_are_not_renewed(scene: Scene) -> None:
    scene.enter(seen("a"))
    with pytest.raises(ZeroDivisionError), claims_of(scene, SHORT) as claims:  # noqa: PT012 - the whole run fails
        for batch in claims.batches(scene.connection):
            renewed(scene, batch[0])
            raise ZeroDivisionError
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-renewer"]


def test_what_a_batch_left_unmoved_is_free_for_the_sweep_while_the_run_goes_on(scene: Scene) -> None:
    scene.enter(seen("a"), seen("b"))
    with claims_of(scene, Limits(batch_files=1, lease_seconds=SHORT.lease_seconds)) as claims:
        batches = claims.batches(scene.connection)
        [a] = scene.settle(next(batches))
        [b] = next(batches)
        for _ in range(500):
            if taken := ledger.take_stranded(scene.connection, PIPELINE, count=9, lease_seconds=60):
                break
            threading.Event().wait(0.01)
        assert [step.load.id for step in taken] == [a.id]
        renewed(scene, b)


@dataclass(frozen=True)
class Hiccups(Database):
    """A database of which the first connections go wrong, each in its way."""

    faults: list[Callable[[Connection], object]] = field(default_factory=list)

    def connect(self) -> Connection:
        connection = super().connect()
        if self.faults:
            self.faults.pop(0)(connection)
        return connection


def refuse(connection: Connection) -> None:
    connection.close()
    raise ConfigurationError("the database cannot be reached")


def hang_up(connection: Connection) -> None:
    """What a restart of the server does to a session that has just begun."""
    with psycopg.connect(connection.info.dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])


def read_only(connection: Connection) -> None:
    """What a failover looks like from the server that was the primary."""
    connection.execute("SET default_transaction_read_only = on")


def lose_the_network(connection: Connection) -> None:
    connection.close()
    raise OSError("no route to host")


@pytest.mark.parametrize("fault", [refuse, hang_up, read_only, lose_the_network])
def test_renewal_survives_a_database_that_hiccups(scene: Scene, fault: Callable[[Connection], object]) -> None:
    database = Hiccups(scene.database.conninfo, scene.database.sqlalchemy_url, faults=[fault, fault])
    scene.enter(seen("a"))
    with claims_of(scene, Limits(lease_seconds=0.6), database) as claims:
        for batch in claims.batches(scene.connection):
            renewed(scene, batch[0])
            assert database.faults == []
            scene.settle(batch)


def test_a_renewal_that_would_wait_lets_go_of_what_it_holds_and_is_made_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever moves the loads on may be waiting for it in turn: it must not come to a deadlock, of which Postgres picks the victim."""
    scene.enter(seen("a"))
    [a] = scene.claim(lease=60)
    calls = 0
    original = ledger.renew

    def counted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        original(*arguments)

    monkeypatch.setattr(ledger, "renew", counted)
    with scene.database.connect() as renewer, ThreadPoolExecutor(1) as pool:
        with scene.connection.transaction():
            scene.connection.execute("LOCK TABLE ledger.loads")
            renewal = pool.submit(put_off, renewer, [a.claim], 3600)
            deadline = time.monotonic() + 10
            while calls < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
        renewal.result(10)
    assert calls >= 3
    assert scene.value("lease_until > now() + interval '50 minutes'", a)


def test_a_renewal_that_is_kept_waiting_gives_up_with_its_leases(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.enter(seen("a"))
    [a] = scene.claim(lease=60)
    with scene.database.connect() as renewer, scene.connection.transaction():
        scene.connection.execute("LOCK TABLE ledger.loads")
        put_off(renewer, [a.claim], 0.3)
    assert "locked by somebody else" in caplog.text
    assert scene.value("lease_until > now() + interval '50 seconds'", a), "what was not renewed is as it was"


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("BATCH_FILES", "BATCH_BYTES", "LEASE_SECONDS", "RUN_SECONDS", "MAX_ATTEMPTS"), start=11):
        monkeypatch.setenv(f"INGESTION_{name}", str(number))
    assert Limits.of(Settings()) == Limits(batch_files=11, batch_bytes=12, lease_seconds=13, run_seconds=14, max_attempts=15)


def test_the_limits_of_an_empty_environment_are_the_documented_ones() -> None:
    assert Limits.of(Settings()) == Limits()

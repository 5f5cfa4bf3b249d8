"""What life events lets go of in time, and that a kill in between, or somebody who works beside it, leaves nothing half done."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.engine import landing, ledger, moving, outbox
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.ledger import Scope, Status, Verdict
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import places, publish, records, upkeep
from ingestion_dagster.life_events.dynamodb_store import DynamoStore
from ingestion_dagster.life_events.postgres_store import PostgresStore
from ingestion_dagster.life_events.registry import DATASET, NOTIFY, PIPELINE, PUBLISH
from ingestion_dagster.life_events.store import EventStore
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.conftest import moto_server, new_bucket
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

__all__ = ["a_store", "aws_environment", "connection", "dynamo", "dynamodb_server", "emptied_database", "moto_server", "new_bucket", "one"]

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


class Killed(BaseException):
    """In place of a SIGKILL: nobody catches it, and the database undoes what was not committed."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Dies at a fault point of upkeep from now on; None: nowhere."""

    def at(point: str | None) -> None:
        def passed(name: str) -> None:
            if name == point:
                raise Killed

        monkeypatch.setattr(upkeep, "fault_point", passed)

    return at


def hold(connection: Connection, store: EventStore, *numbers: int, state: str = "pending", stored: datetime = NOW) -> None:
    """Events as loads leave them: record, event, message to the platform."""
    for number in numbers:
        connection.execute(
            "INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal, state, stored_at, seen_at, published_at) "
            "VALUES (%s, 'k1', 1, %s, %s, %s, %s, CASE WHEN %s = 'published' THEN %s::timestamptz END)",
            [key_of(number), number, state, stored, stored, state, stored],
        )
        if state == "pending":
            queue(connection, PUBLISH, number)
    store.put(connection, [sealed(number, stored=stored) for number in numbers])


def queue(connection: Connection, topic: str, number: int, created: datetime = NOW, *, dead: bool = False) -> None:
    connection.execute(
        "INSERT INTO ledger.outbox (topic, key, load_id, created_at, dead_at) VALUES (%s, %s, 1, %s, CASE WHEN %s THEN now() END)",
        [topic, key_of(number).hex(), created, dead],
    )


def states(connection: Connection) -> dict[bytes, str]:
    return dict(connection.execute("SELECT record_key, state FROM life_events.records").fetchall())


def waiting(connection: Connection) -> set[tuple[str, str]]:
    return set(connection.execute("SELECT topic, key FROM ledger.outbox WHERE dead_at IS NULL").fetchall())


def audited(connection: Connection, event_name: str = "EVENT_DELETED") -> list[tuple[str, str, str, bytes | None]]:
    rows = connection.execute(
        "SELECT component, correlation_id, outcome, record_key FROM life_events.audit WHERE event_name = %s ORDER BY record_key",
        [event_name],
    )
    return [tuple(row) for row in rows]


def in_store(store: EventStore, connection: Connection) -> int:
    """How many there are, expired or not."""
    return store.age(connection, datetime.max.replace(tzinfo=UTC))[0]


def test_what_has_outlived_its_time_is_deleted_everywhere(a_store: EventStore, connection: Connection, one: Database) -> None:
    hold(connection, a_store, 1)
    hold(connection, a_store, 2, state="published")
    hold(connection, a_store, 3, state="dead")
    hold(connection, a_store, 4, stored=NOW + SECOND)
    for number in (1, 2, 4):
        queue(connection, f"{NOTIFY}dwp", number, dead=number == 2)
    queue(connection, "somebody.else", 1)
    assert upkeep.sweep(one, a_store, NOW + WEEK, "run-1") == 3
    expired = {key_of(number): "expired" for number in (1, 2, 3)}
    assert states(connection) == expired | {key_of(4): "pending"}
    assert in_store(a_store, connection) == 1
    assert waiting(connection) == {(PUBLISH, key_of(4).hex()), (f"{NOTIFY}dwp", key_of(4).hex()), ("somebody.else", key_of(1).hex())}
    untold = {key_of(1)}
    assert audited(connection) == [
        ("sweep", "run-1", "expired_unpublished" if key in untold else "expired", key) for key in sorted(expired)
    ]
    assert connection.execute("SELECT DISTINCT ended_at FROM life_events.records WHERE state = 'expired'").fetchall() == [(NOW + WEEK,)]


def test_a_second_sweep_finds_nothing(a_store: EventStore, connection: Connection, one: Database) -> None:
    hold(connection, a_store, 1)
    upkeep.sweep(one, a_store, NOW + WEEK, "run-1")
    assert upkeep.sweep(one, a_store, NOW + WEEK, "run-2") == 0
    assert [row[1] for row in audited(connection)] == ["run-1"]


def test_more_than_a_batch_is_swept(a_store: EventStore, connection: Connection, one: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_BATCH", 3)
    hold(connection, a_store, *range(8))
    assert upkeep.sweep(one, a_store, NOW + WEEK, "run-1") == 8
    assert set(states(connection).values()) == {"expired"}


def test_an_event_that_nobody_knows_is_deleted_too(a_store: EventStore, connection: Connection, one: Database) -> None:
    """Put into a store outside by a load that was killed before it committed, and never came again."""
    a_store.put(connection, [sealed(1)])
    assert upkeep.sweep(one, a_store, NOW + WEEK, "run-1") == 1
    assert in_store(a_store, connection) == 0


def test_an_event_that_was_released_before_stays_released(a_store: EventStore, connection: Connection, one: Database) -> None:
    hold(connection, a_store, 1, state="published")
    records.mark_ended(connection, [key_of(1)], "released", NOW + SECOND)
    upkeep.sweep(one, a_store, NOW + WEEK, "run-1")
    assert states(connection) == {key_of(1): "released"}
    assert in_store(a_store, connection) == 0


@pytest.mark.parametrize("point", ["within", "before", "after"])
def test_a_sweep_that_is_killed_is_finished_by_the_next(
    point: str, a_store: EventStore, connection: Connection, one: Database, kill_at: Callable[[str | None], None]
) -> None:
    hold(connection, a_store, *range(4))
    kill_at(f"life_events.sweep.{point}")
    if a_store.is_transactional and point != "within":
        upkeep.sweep(one, a_store, NOW + WEEK, "run-1")  # it has no such step
    else:
        with pytest.raises(Killed):
            upkeep.sweep(one, a_store, NOW + WEEK, "run-1")
    kill_at(None)
    upkeep.sweep(one, a_store, NOW + WEEK, "run-2")
    assert set(states(connection).values()) == {"expired"}
    assert in_store(a_store, connection) == 0
    assert waiting(connection) == set()
    assert [row[3] for row in audited(connection)] == sorted(key_of(number) for number in range(4)), "audited twice, or not at all"


def test_what_a_store_has_deleted_by_itself_and_what_is_kept_for_less_by_now_end_by_their_age(
    a_store: EventStore, connection: Connection, one: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_BATCH", 2)
    hold(connection, a_store, *range(5))
    hold(connection, a_store, 9, stored=NOW + DAY)
    a_store.remove(connection, [key_of(number) for number in (0, 1, 3)])
    assert upkeep.sweep(one, a_store, NOW + SECOND, "run-1", ttl=WEEK) == 0
    assert upkeep.sweep(one, a_store, NOW + WEEK - SECOND, "run-1", ttl=6 * DAY + SECOND) == 5
    gone = {key_of(number) for number in range(5)}
    assert {key for key, state in states(connection).items() if state == "expired"} == gone
    assert {row[3] for row in audited(connection)} == gone
    assert set(a_store.get(connection, [*gone, key_of(9)], NOW + SECOND)) == {key_of(9)}
    assert len(waiting(connection)) == 1


def test_an_event_that_nobody_was_told_of_in_time_is_a_dead_letter_until_somebody_knows(
    a_store: EventStore, connection: Connection, one: Database
) -> None:
    hold(connection, a_store, 0, 1)
    upkeep.sweep(one, a_store, NOW + 2 * WEEK, "run-1", ttl=WEEK)
    assert outbox.lag(connection, PUBLISH).dead == 2
    assert {row[2] for row in audited(connection)} == {upkeep.EXPIRED_UNPUBLISHED}
    assert publish.retry(connection) == 0
    assert outbox.lag(connection, PUBLISH) == outbox.Lag(0, 0, 0, 0)


def test_an_event_that_comes_again_while_it_is_swept_lives(a_store: EventStore, connection: Connection, one: Database) -> None:
    """The load has the record's row, and a store outside has its new event by now, when the sweep comes to it."""
    hold(connection, a_store, 1, state="expired")
    hold(connection, a_store, 2)

    class Late(type(a_store)):  # type: ignore[misc]
        """Says that the event has expired; then it is revived."""

        def expired(self, own: Connection, now: datetime, count: int) -> list[bytes]:
            found: list[bytes] = super().expired(own, now, count)
            if key_of(1) in found:
                connection.execute(
                    "UPDATE life_events.records SET state = 'pending', stored_at = %s WHERE record_key = %s", [now, key_of(1)]
                )
                a_store.put(connection, [sealed(1, stored=now)])
            return found

    late = Late(a_store.table) if isinstance(a_store, DynamoStore) else Late()
    assert upkeep.sweep(one, late, NOW + WEEK, "run-1") == 1
    assert states(connection) == {key_of(1): "pending", key_of(2): "expired"}
    assert a_store.get(connection, [key_of(1)], NOW + WEEK).keys() == {key_of(1)}


def test_two_sweeps_at_once_tell_of_each_event_once(a_store: EventStore, connection: Connection, one: Database) -> None:
    hold(connection, a_store, *range(30))
    begin = threading.Barrier(2, timeout=20)

    def sweep(name: str) -> int:
        begin.wait()
        return upkeep.sweep(one, a_store, NOW + WEEK, name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(sweep, ("run-1", "run-2")))
    assert set(states(connection).values()) == {"expired"}
    assert in_store(a_store, connection) == 0
    assert [row[3] for row in audited(connection)] == sorted(key_of(number) for number in range(30))


def test_a_message_that_is_being_settled_does_not_hold_the_sweep_up(connection: Connection, one: Database) -> None:
    """The publisher has its messages' rows and asks for the records'; the sweep the other way round."""
    store = PostgresStore()
    hold(connection, store, 1)
    with ThreadPoolExecutor(1) as pool, one.connect() as publisher, publisher.transaction():
        publisher.execute("DELETE FROM ledger.outbox WHERE key = %s", [key_of(1).hex()])
        assert pool.submit(upkeep.sweep, one, store, NOW + WEEK, "run-1").result(20) == 1
        records.mark_published(publisher, [key_of(1)], NOW + WEEK)
    assert states(connection) == {key_of(1): "expired"}


def settings_of(tmp_path: Path, **values: Any) -> Settings:
    return Settings(home=tmp_path, settle_seconds=0, **values)


def ended(connection: Connection, number: int, state: str, *, seen: datetime, at: datetime | None) -> None:
    connection.execute(
        "INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal, state, stored_at, seen_at, ended_at) "
        "VALUES (%s, 'k1', 1, %s, %s, %s, %s, %s)",
        [key_of(number), number, state, seen, seen, at],
    )


def test_the_ledger_forgets_what_ended_and_did_not_come_again(connection: Connection, tmp_path: Path) -> None:
    now = NOW + 90 * DAY
    old, young = NOW - SECOND, NOW + SECOND
    ended(connection, 1, "released", seen=old, at=old)
    ended(connection, 2, "expired", seen=old, at=old)
    ended(connection, 3, "released", seen=young, at=old)
    ended(connection, 4, "released", seen=old, at=young)
    for number, state in enumerate(("pending", "published", "dead"), 5):
        ended(connection, number, state, seen=old, at=None)
    assert upkeep.forget(connection, settings_of(tmp_path), now) == upkeep.Forgotten(2, 0, 0)
    assert states(connection).keys() == {key_of(number) for number in range(3, 8)}
    assert upkeep.forget(connection, settings_of(tmp_path, life_events_ledger_days=80), now) == upkeep.Forgotten(2, 0, 0)


TELL = """
    INSERT INTO life_events.audit (at, component, event_name, correlation_id, outcome) VALUES (%s, 'load', 'FILE_RECEIVED', 'run', 'ok')
"""


def tell(connection: Connection, at: datetime) -> None:
    connection.execute(TELL, [at])


def test_the_audit_forgets_after_seven_years_and_not_before(connection: Connection, tmp_path: Path) -> None:
    years = timedelta(days=2557)
    for at in (NOW - SECOND, NOW, NOW + DAY):
        tell(connection, at)
    assert upkeep.forget(connection, settings_of(tmp_path), NOW + years) == upkeep.Forgotten(0, 1, 0)
    assert connection.execute("SELECT min(at), count(*) FROM life_events.audit").fetchone() == (NOW, 2)


def test_after_forgetting_the_audit_is_append_only_again(connection: Connection, tmp_path: Path) -> None:
    tell(connection, NOW)
    with connection.transaction():
        upkeep.forget(connection, settings_of(tmp_path), NOW)
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"), connection.transaction():
            connection.execute("DELETE FROM life_events.audit")
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        connection.execute("DELETE FROM life_events.audit")


class Files:
    """Files that are refused, or loaded, as a run leaves them."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self.connection = connection
        self.settings = settings
        self.zone = places.zone(settings)
        self.quarantine = open_store(places.quarantine_url(settings))
        sync_datasets(connection, PIPELINE, [DATASET])

    def land(self, key: str, to: Status = Status.READY_FOR_ERRORING) -> int:
        """Land a file, and settle it; its load."""
        self.zone.landing.write(key, f"<{key}/>".encode())
        landing.discover(self.connection, self.zone, datetime.now(UTC))
        return self.settle(to)

    def settle(self, to: Status = Status.READY_FOR_ERRORING) -> int:
        (load,) = ledger.claim(self.connection, Scope(PIPELINE), "run", count=10, size=10**9, lease_seconds=60)
        problems = (Problem("not_well_formed", "line 1", "mend it"),) if to == Status.READY_FOR_ERRORING else ()
        verdict = Verdict(load, to, problems=problems, dataset=DATASET)
        ledger.settle(self.connection, [verdict])
        (settled,) = ledger.loads(self.connection, [load.id])
        assert moving.move(self.connection, self.zone, [settled], lease_seconds=60) == []
        self.connection.execute(
            "INSERT INTO life_events.files (load_id, file_hmac, code) VALUES (%s, %s, %s) ON CONFLICT (load_id) DO NOTHING",
            [load.id, key_of("file"), "not_well_formed" if problems else None],
        )
        return load.id

    def kept(self) -> int:
        """How many objects there are in quarantine, reports among them."""
        return len(list(self.quarantine.list()))

    def expired(self) -> set[int]:
        rows = self.connection.execute("SELECT load_id FROM life_events.files WHERE expired_at IS NOT NULL")
        return {row[0] for row in rows}


@pytest.fixture
def files(connection: Connection, tmp_path: Path) -> Files:
    return Files(connection, settings_of(tmp_path))


def later(days: float = 7.001) -> datetime:
    """So many days from now: loads are dated by the database's clock."""
    return datetime.now(UTC) + timedelta(days=days)


def test_a_refused_file_and_its_report_are_deleted_in_time(files: Files) -> None:
    load_id = files.land("DI_D_20310204.xml")
    assert files.kept() == 2
    assert upkeep.expire_quarantine(files.connection, files.settings, later(6.9)) == 0
    assert files.kept() == 2
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 1
    assert files.kept() == 0
    assert files.expired() == {load_id}
    assert audited(files.connection, "FILE_DELETED") == [("sweep", f"load-{load_id}", "expired", None)]
    assert files.connection.execute("SELECT file_hmac FROM life_events.audit").fetchone() == (key_of("file"),)
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 0
    assert len(audited(files.connection, "FILE_DELETED")) == 1


def test_only_what_is_of_refused_loads_is_deleted(files: Files) -> None:
    files.quarantine.write("somebody_elses.xml", b"<kept/>")
    files.land("loaded.xml", Status.READY_FOR_ARCHIVING)
    files.land("refused.xml")
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 1
    assert [each.key for each in files.quarantine.list()] == ["somebody_elses.xml"]


@pytest.mark.parametrize("point", ["before", "within", "after"])
def test_an_expiry_that_is_killed_is_finished_by_the_next(point: str, files: Files, kill_at: Callable[[str | None], None]) -> None:
    load_id = files.land("refused.xml")
    kill_at(f"life_events.expire.{point}")
    with pytest.raises(Killed):
        upkeep.expire_quarantine(files.connection, files.settings, later())
    assert files.expired() == set()
    kill_at(None)
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 1
    assert files.kept() == 0
    assert files.expired() == {load_id}
    assert len(audited(files.connection, "FILE_DELETED")) == 1


def test_a_file_that_is_retried_is_left_alone(files: Files) -> None:
    load_id = files.land("refused.xml")
    ledger.retry(files.connection, Scope(PIPELINE))
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 0
    assert files.kept() == 2
    files.settle()
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 1
    assert (files.kept(), files.expired()) == (0, {load_id})


def test_a_file_that_is_retried_at_this_moment_is_left_alone(files: Files, one: Database) -> None:
    files.land("refused.xml")
    with one.connect() as other, other.transaction():
        ledger.retry(other, Scope(PIPELINE))
        assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 0
    assert files.kept() == 2


def test_a_refused_file_that_comes_back_expires_again(files: Files) -> None:
    """Deleted from quarantine, it is landed in the very same version: the same load is moved once more."""
    load_id = files.land("refused.xml")
    upkeep.expire_quarantine(files.connection, files.settings, later())
    files.connection.execute("UPDATE life_events.files SET expired_at = now() - interval '1 day'")
    files.connection.execute("UPDATE ledger.loads SET finished_at = now()")
    (load,) = ledger.loads(files.connection, [load_id])
    files.quarantine.write(places.quarantine_key(load), b"<again/>")
    assert upkeep.expire_quarantine(files.connection, files.settings, later(6.9)) == 0
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 1
    assert files.kept() == 0


def test_a_refused_file_that_was_never_moved_is_no_longer_looked_for(files: Files) -> None:
    load_id = files.land("refused.xml")
    files.connection.execute("UPDATE ledger.loads SET location = NULL")
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 0
    assert files.expired() == {load_id}
    assert audited(files.connection, "FILE_DELETED") == []


def test_a_file_that_was_refused_under_other_settings_expires_where_it_is(files: Files, tmp_path: Path) -> None:
    files.land("refused.xml")
    moved = settings_of(tmp_path, life_events_quarantine_url=(tmp_path / "elsewhere").as_uri())
    assert upkeep.expire_quarantine(files.connection, moved, later()) == 1
    assert files.kept() == 0


def test_a_refused_load_that_nothing_was_counted_of_expires_too(files: Files) -> None:
    load_id = files.land("refused.xml")
    files.connection.execute("DELETE FROM life_events.files")
    assert upkeep.expire_quarantine(files.connection, files.settings, later()) == 1
    assert (files.kept(), files.expired()) == (0, {load_id})


def test_no_earlier_version_of_a_refused_file_comes_to_light(
    connection: Connection, tmp_path: Path, new_bucket: Callable[..., str]
) -> None:
    """In a bucket with versioning, a file that was refused twice stands there twice under one key."""
    files = Files(connection, settings_of(tmp_path, life_events_quarantine_url=f"s3://{new_bucket(versioned=True)}/quarantine"))
    files.land("refused.xml")
    (kept, _report) = sorted(files.quarantine.list(), key=lambda each: len(each.key))
    files.quarantine.write(kept.key, b"<refused once more/>")
    assert upkeep.expire_quarantine(connection, files.settings, later()) == 1
    assert files.kept() == 0


def test_what_is_told_of_files_is_forgotten_with_the_ledger(files: Files) -> None:
    loaded, refused = files.land("loaded.xml", Status.READY_FOR_ARCHIVING), files.land("refused.xml")
    upkeep.expire_quarantine(files.connection, files.settings, later())
    for load_id in (loaded, refused):
        files.connection.execute(
            "INSERT INTO life_events.quarantine (load_id, ordinal, number, byte_offset, code, field) VALUES (%s, 1, 1, 9, 'code', 'field')",
            [load_id],
        )
    assert upkeep.forget(files.connection, files.settings, later(89)).quarantine == 0
    assert upkeep.forget(files.connection, files.settings, later(91)).quarantine == 3
    assert files.connection.execute("SELECT load_id FROM life_events.files").fetchall() == [(refused,)]
    assert upkeep.expire_quarantine(files.connection, files.settings, later(92)) == 0, "a file that is long deleted was looked for again"


def test_metrics_of_nothing(a_store: EventStore, connection: Connection) -> None:
    found = upkeep.metrics(connection, a_store, NOW)
    counts = ("events_alive", "events_unconsumed", "events_unpublished", "dead_letters", "quarantine_files", "events_older")
    assert {name: found[name] for name in counts} == dict.fromkeys(counts, 0)
    assert found["events_older_than_seconds"] == WEEK.total_seconds()
    assert {value for name, value in found.items() if name not in (*counts, "events_older_than_seconds")} == {None}


def test_metrics_say_how_events_stand(a_store: EventStore, connection: Connection) -> None:
    hold(connection, a_store, 1, 2, stored=NOW)
    hold(connection, a_store, 3, state="published", stored=NOW - 2 * DAY)
    hold(connection, a_store, 4, state="dead", stored=NOW - 8 * DAY)
    connection.execute("UPDATE ledger.outbox SET created_at = %s WHERE key = %s", [NOW - timedelta(minutes=4), key_of(2).hex()])
    queue(connection, PUBLISH, 4, NOW - 8 * DAY, dead=True)
    queue(connection, f"{NOTIFY}dwp", 4, NOW - 8 * DAY, dead=True)
    queue(connection, "somebody.else", 4, NOW - 8 * DAY, dead=True)
    for number, seconds in enumerate((10, 20, 30, 1000), 10):
        ended(connection, number, "released", seen=NOW - timedelta(seconds=seconds), at=NOW)
    ended(connection, 20, "released", seen=NOW - 9 * DAY, at=NOW - 2 * DAY)
    ended(connection, 21, "expired", seen=NOW - 7 * DAY, at=NOW)
    found = upkeep.metrics(connection, a_store, NOW, older_than=3 * DAY)
    assert found == {
        "events_alive": 4,
        "events_unconsumed": 1,
        "oldest_unconsumed_seconds": 2 * 86400.0,
        "events_unpublished": 2,
        "oldest_unpublished_seconds": 240.0,
        "dead_letters": 2,
        "quarantine_files": 0,
        "released_p50_seconds": 25.0,
        "released_p95_seconds": pytest.approx(854.5),
        "released_p99_seconds": pytest.approx(970.9),
        "events_older": 1,
        "events_older_than_seconds": 3 * 86400.0,
        "oldest_event_seconds": 8 * 86400.0,
    }


def test_metrics_count_files_in_quarantine_until_they_expire(files: Files) -> None:
    files.land("one.xml")
    files.land("two.xml")
    files.land("loaded.xml", Status.READY_FOR_ARCHIVING)
    assert upkeep.metrics(files.connection, PostgresStore(), NOW)["quarantine_files"] == 2
    upkeep.expire_quarantine(files.connection, files.settings, later())
    assert upkeep.metrics(files.connection, PostgresStore(), NOW)["quarantine_files"] == 0

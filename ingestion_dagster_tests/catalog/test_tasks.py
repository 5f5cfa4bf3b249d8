"""Tasks: begun by one process, ended once, known to be lost, and measured without ever falling back."""

import threading
import uuid
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import refreshes, tasks
from ingestion_dagster.catalog.tasks import KeyTaken, NewTask, NoSuchTask, Task
from ingestion_dagster.engine import entries, ledger
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster_tests.api.catalog_scene import database, module_database

__all__ = ["database", "module_database"]


def entered(connection: Connection, action: str = "REINDEX", model: str = "image", key: str | None = None, **request: Any) -> str:
    task_id = uuid.uuid4().hex
    tasks.enter(connection, NewTask(task_id, model, action, request, "test", key))
    return task_id


def seen(connection: Connection, task_id: str) -> Task:
    return tasks.get(connection, task_id)


def test_a_task_is_begun_by_one_process_and_by_no_other_afterwards(database: Database):
    with database.connect() as one, database.connect() as other:
        task_id = entered(one)
        assert seen(one, task_id).is_active
        with tasks.begun(one, task_id) as task:
            assert task is not None
            assert (task.state, task.is_held) == ("started", True)
            with tasks.begun(other, task_id) as second:
                assert second is None
            assert seen(other, task_id).is_active
        with tasks.begun(other, task_id) as third:
            assert third is None


def test_of_many_that_want_to_begin_a_task_one_does(database: Database):
    begun: list[int] = []
    gate = threading.Barrier(6)

    def begin(number: int) -> None:
        with database.connect() as connection:
            gate.wait(30)
            with tasks.begun(connection, task_id) as task:
                if task is not None:
                    begun.append(number)

    with database.connect() as connection:
        task_id = entered(connection)
    threads = [threading.Thread(target=begin, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(begun) == 1


def test_a_task_whose_process_is_gone_is_lost_and_ended_once(database: Database):
    with database.connect() as watching:
        task_id = entered(watching)
        with database.connect() as process:
            stack = tasks.begun(process, task_id)
            stack.__enter__()
            assert tasks.end_lost(watching) == []
            watching.execute("SELECT pg_terminate_backend(%s)", [process.info.backend_pid])
            with pytest.raises(psycopg.Error):
                process.execute("SELECT 1")
        task = seen(watching, task_id)
        assert (task.is_lost, task.is_active, task.has_failed) == (True, False, True)
        assert tasks.end_lost(watching) == [task_id]
        assert tasks.end_lost(watching) == []
        assert not tasks.end(watching, task_id)
        ended = seen(watching, task_id)
        assert (ended.state, ended.error, ended.is_lost) == ("failed", tasks.LOST, False)


def test_a_task_is_active_while_a_run_of_it_has_work_in_hand_without_its_process(database: Database):
    with database.connect() as connection:
        refresh = refreshes.request(connection, "image", "one", asked_by="test")
        task_id = entered(connection, index_suffix="one", fills="one")
        with tasks.begun(connection, task_id):
            tasks.running(connection, task_id, "run-1")
        assert seen(connection, task_id).is_lost
        lease = "UPDATE ledger.loads SET status = 'ingesting', run_id = 'run-1', lease_until = now() + %s * interval '1 s' WHERE id = %s"
        connection.execute(lease, [60, refresh.load_id])
        assert seen(connection, task_id).is_active
        assert tasks.end_lost(connection) == []
        connection.execute(lease, [-1, refresh.load_id])
        assert tasks.end_lost(connection) == [task_id]


def test_the_end_that_comes_first_is_the_end(database: Database):
    with database.connect() as connection:
        task_id = entered(connection)
        with tasks.begun(connection, task_id):
            assert tasks.end(connection, task_id)
            assert not tasks.end(connection, task_id, "too late")
        task = seen(connection, task_id)
        assert (task.state, task.progress, task.error) == ("succeeded", 100, None)
        failed = entered(connection)
        tasks.end(connection, failed, "why", is_bad_request=True)
        task = seen(connection, failed)
        assert (task.state, task.error, task.is_bad_request) == ("failed", "why", True)
        assert task.progress < 100


def test_the_list_has_those_that_run_first_then_the_others_as_they_ended(database: Database):
    with database.connect() as connection:
        assert tasks.listed(connection) == []
        first, second, third = (entered(connection) for _ in range(3))
        tasks.end(connection, third)
        tasks.end(connection, first)
        assert [task.id for task in tasks.listed(connection)] == [second, third, first]


def test_a_key_is_a_tasks_own(database: Database):
    with database.connect() as connection:
        task_id = entered(connection, key="a key")
        found = tasks.with_key(connection, "a key")
        assert found is not None
        assert found.id == task_id
        assert tasks.with_key(connection, "A key") is None
        with pytest.raises(KeyTaken):
            entered(connection, key="a key")
        with pytest.raises(NoSuchTask):
            seen(connection, "0" * 32)


def ranges(connection: Connection, suffix: str, firsts: list[int], width: int) -> list[int]:
    """Ranges of an index that is filled; ids of their loads."""
    sync_datasets(connection, "catalog", ["image_index"])
    now = ledger.now(connection)
    ids = []
    for first in firsts:
        stored = StoredObject(key=f"{suffix}/{first}", size=0, modified=now, version=suffix)
        entries.discover(connection, "catalog", "catalog:image_index", [Arrival(stored, "image_index", suffix)], now)
        row = connection.execute("SELECT id FROM ledger.loads WHERE key = %s", [stored.key]).fetchone()
        assert row is not None
        ids.append(row[0])
        insert = "INSERT INTO catalog.ranges (load_id, model, suffix, first_id, last_id) VALUES (%s, 'image', %s, %s, %s)"
        connection.execute(insert, [row[0], suffix, first, first + width - 1])
    return ids


def test_progress_grows_with_what_is_committed_and_never_falls(database: Database):
    def progress() -> float:
        tasks.measure(connection)
        return seen(connection, task_id).progress

    with database.connect() as connection:
        refresh = refreshes.request(connection, "image", "one", asked_by="test")
        task_id = entered(connection, "INGEST_UPSTREAM", index_suffix="one", fills="one")
        assert progress() == 0
        with tasks.begun(connection, task_id):
            found = [progress()]
            for state in ("copied", "indexed"):
                refresh = refreshes.advance(connection, refresh, state)
                found.append(progress())
            first, second = ranges(connection, "one", [1, 101], 100)
            connection.execute("UPDATE catalog.ranges SET committed_id = 50 WHERE load_id = %s", [first])
            found.append(progress())
            connection.execute("UPDATE ledger.loads SET status = 'archived' WHERE id = %s", [first])
            found.append(progress())
            connection.execute("UPDATE ledger.loads SET status = 'ready' WHERE id = %s", [first])
            connection.execute("UPDATE catalog.ranges SET committed_id = NULL")
            assert progress() == found[-1]
            assert not seen(connection, task_id).has_workers
            connection.execute(
                "UPDATE ledger.loads SET status = 'ingesting', lease_until = now() + interval '1 min' WHERE id = %s", [second]
            )
            assert seen(connection, task_id).has_workers
            refreshes.advance(connection, refresh, "filled")
            found.append(progress())
        assert found == sorted(set(found))
        assert found[3] == pytest.approx(40 + 59 / 4)
        assert found[4] == pytest.approx(40 + 59 / 2)
        assert found[5] == 99
        tasks.end(connection, task_id)
        assert progress() == 100


def test_tasks_are_known_for_a_while_and_forgotten_when_their_callback_is_settled(database: Database):
    with database.connect() as connection:
        old, called, running = entered(connection), entered(connection, callback_url="http://localhost/"), entered(connection)
        for task_id in (old, called):
            tasks.end(connection, task_id)
        connection.execute("UPDATE catalog.tasks SET finished_at = now() - interval '91 days' WHERE state = 'succeeded'")
        assert tasks.uncalled(connection) == [called]
        assert tasks.forget(connection) == 1
        assert tasks.called(connection, called, "delivered (200)")
        assert not tasks.called(connection, called, "failed")
        assert tasks.uncalled(connection) == []
        assert tasks.forget(connection) == 1
        assert [task.id for task in tasks.listed(connection)] == [running]

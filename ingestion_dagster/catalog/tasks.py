"""Tasks of the private API: kept in the database, worked on by one process each, and ended once."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
import psycopg
from psycopg import errors

from ingestion_dagster.catalog import tasks_sql as sql
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

State = Literal["queued", "started", "succeeded", "failed"]

LOST = "the process of this task has ended before the task was done; what it had committed stays, and the same task can be asked for again"
"""What is told of a task whose process was killed."""

TAG = "ingestion/task"
"""The tag by which the run of a task is known."""

KEPT_DAYS = 90
"""For how long tasks that have ended are known."""

_ID = re.compile(r"[0-9a-f]{32}")


class NoSuchTask(Exception):
    """No task has this id, or none has any more."""


class KeyTaken(Exception):
    """A task has this idempotency key already."""


@dataclass(frozen=True, slots=True)
class Task:
    """What was asked of the catalogue, and what has become of it.

    `request`: what the action needs, checked: `index_suffix`, `alias`, `since_date` (ISO, with zone), `force_delete`,
    `origin_index_suffix`, `destination_index_suffix`, `targets` (indexes to be deleted), `fills` (the suffix of the id ranges that it
    fills), `callback_url`, and `digest` (of the body).
    """

    id: str
    model: str
    action: str
    request: Mapping[str, Any]
    asked_by: str
    state: State
    run_id: str | None
    progress: float
    error: str | None
    is_bad_request: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    called_back_at: datetime | None
    callback_outcome: str | None
    is_held: bool
    """Whether the process of the task lives."""
    is_run: bool
    """Whether a run of the task has work in hand, its process or not."""
    has_workers: bool
    """Whether an index is being filled for it at this moment."""

    @property
    def is_active(self) -> bool:
        """Whether it waits for its process, or is being worked on."""
        return self.state == "queued" or (self.state == "started" and (self.is_held or self.is_run))

    @property
    def is_lost(self) -> bool:
        """Whether it was begun, and nobody works on it any more."""
        return self.state == "started" and not self.is_active

    @property
    def has_failed(self) -> bool:
        """Whether it has ended, or was given up, before it was done."""
        return self.state == "failed" or self.is_lost

    @property
    def suffix(self) -> str:
        """The suffix that it is about. Raises `KeyError` for an action without one."""
        return str(self.request["index_suffix"])

    @property
    def callback_url(self) -> str | None:
        """Who wants to know of its end."""
        return self.request.get("callback_url")


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be entered; `request` as in `Task`."""

    id: str
    model: str
    action: str
    request: Mapping[str, Any]
    asked_by: str
    idempotency_key: str | None = None


def enter(connection: Connection, task: NewTask) -> None:
    """Queue a task, in the caller's transaction if it has one. Raises `KeyTaken`."""
    values = {
        "id": task.id,
        "model": task.model,
        "action": task.action,
        "request": orjson.dumps(dict(task.request)).decode(),
        "key": task.idempotency_key,
        "asked_by": task.asked_by,
    }
    try:
        with connection.transaction():
            connection.execute(sql.ENTER, values)
    except errors.UniqueViolation:
        raise KeyTaken from None


def get(connection: Connection, task_id: str) -> Task:
    """The task with an id, as it stands now. Raises `NoSuchTask`."""
    row = connection.execute(sql.BY_ID, {"id": task_id}).fetchone() if _ID.fullmatch(task_id) else None
    if row is None:
        raise NoSuchTask
    return Task(*row)


def with_key(connection: Connection, key: str) -> Task | None:
    """The task that was asked for with an idempotency key."""
    row = connection.execute(sql.BY_KEY, {"key": key}).fetchone()
    return Task(*row) if row else None


def listed(connection: Connection) -> list[Task]:
    """All tasks: those that have not ended first, then in the order of their ends."""
    return [Task(*row) for row in connection.execute(sql.ALL)]


def open_of(connection: Connection, model: str) -> list[Task]:
    """The tasks of a media type that wait or are being worked on."""
    return [task for task in (Task(*row) for row in connection.execute(sql.OPEN_OF_MODEL, {"model": model})) if task.is_active]


def filling(connection: Connection, model: str) -> Task | None:
    """The task that fills an index of a media type, or is about to; None if there is none."""
    return next((task for task in (Task(*row) for row in connection.execute(sql.FILLING, {"model": model})) if task.is_active), None)


def take_turns(connection: Connection, model: str) -> None:
    """Wait until no other transaction enters a task of this media type, and keep others from it until the caller's transaction ends."""
    connection.execute(sql.MODEL_LOCK, {"model": model})


def queued(connection: Connection) -> list[str]:
    """Ids of tasks that no process has begun, the oldest first."""
    return [row[0] for row in connection.execute(sql.QUEUED)]


@contextmanager
def begun(connection: Connection, task_id: str) -> Iterator[Task | None]:
    """The task, begun now, in the hands of this process until the block ends or the connection is lost.

    None if another process has it or has had it: nobody begins a task twice.
    """
    with held(connection, task_id) as is_held:
        if not is_held or connection.execute(sql.START, {"id": task_id}).fetchone() is None:
            yield None
            return
        yield get(connection, task_id)


@contextmanager
def held(connection: Connection, task_id: str) -> Iterator[bool]:
    """Whether the task is in nobody's hands; then it is in the caller's until the block ends."""
    row = connection.execute(sql.TRY_LOCK, {"id": task_id}).fetchone()
    is_held = row is not None and bool(row[0])
    try:
        yield is_held
    finally:
        if is_held:
            with suppress(psycopg.Error):  # a connection that is lost has lost its locks
                connection.execute(sql.UNLOCK, {"id": task_id})


def running(connection: Connection, task_id: str, run_id: str) -> None:
    """Note which Dagster run does the work of a task: as long as that has loads in hand, the task is active."""
    connection.execute(sql.RUN, {"id": task_id, "run_id": run_id})


def end(connection: Connection, task_id: str, error: str | None = None, *, is_bad_request: bool = False) -> bool:
    """End a task, well or (`error`, without values or secrets) not; False if it has ended before."""
    state = "succeeded" if error is None else "failed"
    fault_point("catalog.task.end.before")
    row = connection.execute(sql.END, {"id": task_id, "state": state, "error": error, "is_bad_request": is_bad_request}).fetchone()
    fault_point("catalog.task.end.after")
    return row is not None


def end_lost(connection: Connection) -> list[str]:
    """End the tasks that were begun and that nobody works on any more, as failed; their ids."""
    ended = []
    for lost in [task for task in (Task(*row) for row in connection.execute(sql.STARTED)) if task.is_lost]:
        with held(connection, lost.id) as is_held:
            # It may have ended, and given up its lock, since it was looked at.
            if is_held and get(connection, lost.id).state == "started" and end(connection, lost.id, LOST):
                ended.append(lost.id)
    return ended


def measure(connection: Connection) -> None:
    """Note how far the tasks at work have come, in percent. It only ever grows; 100 is a task that has ended well."""
    connection.execute(sql.PROGRESS)


def uncalled(connection: Connection) -> list[str]:
    """Ids of tasks that have ended without anybody having tried to tell who wants to know."""
    return [row[0] for row in connection.execute(sql.UNCALLED)]


def called(connection: Connection, task_id: str, outcome: str) -> bool:
    """Note what has become of the callback of a task; False if somebody has noted that before."""
    return connection.execute(sql.CALLED, {"id": task_id, "outcome": outcome}).fetchone() is not None


def forget(connection: Connection, days: int = KEPT_DAYS) -> int:
    """Delete tasks that have ended so many days ago; how many."""
    return connection.execute(sql.FORGET, {"days": days}).rowcount

"""The process that does one task of the private API: `python -m ingestion_dagster.api.task_process TASK_ID`."""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psycopg

from ingestion_dagster.api import callbacks
from ingestion_dagster.catalog import tasks
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.tasks import Task
from ingestion_dagster.engine import logs, postgres
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current

log = logging.getLogger(__name__)

MODULE = "ingestion_dagster.api.task_process"
TOLD_TO_END = "the process of this task was told to end; what it had committed stays, and the same task can be asked for again"

Execute = Callable[[Settings, Task], None]
"""Does what a task asks for, and returns when it is done."""

_END_ATTEMPTS = 6


class Launcher:
    """Starts processes for tasks, each in a session of its own: they outlive who started them."""

    def __init__(self, home: Path, command: Sequence[str] = (sys.executable, "-m", MODULE)) -> None:
        self._folder = home / "api" / "tasks"
        self._command = tuple(command)
        self._guard = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._times: dict[str, int] = {}

    def launch(self, task_id: str) -> int:
        """Start a process for a task, unless one of ours is at it; how many have been started so far. Raises `OSError` if none can be."""
        with self._guard:
            running = self._processes.get(task_id)
            if running is not None and running.returncode is None:
                return self._times[task_id]
            self._times[task_id] = self._times.get(task_id, 0) + 1
            fault_point("catalog.task.launch.before")
            process = self._started(task_id)
            fault_point("catalog.task.launch.after")
            self._processes[task_id] = process
            times = self._times[task_id]
        threading.Thread(target=process.wait, name=f"task {task_id[:8]}", daemon=True).start()
        return times

    def times(self, task_id: str) -> int:
        """How many processes were started for a task; 0 while none of them lives is a task of somebody else's."""
        with self._guard:
            return self._times.get(task_id, 0)

    def is_running(self, task_id: str) -> bool:
        """Whether a process of ours is at it."""
        with self._guard:
            running = self._processes.get(task_id)
            return running is not None and running.returncode is None

    def log_file(self, task_id: str) -> Path:
        """Where a task's process writes what it has to say."""
        return self._folder / f"{task_id}.log"

    def _started(self, task_id: str) -> "subprocess.Popen[bytes]":
        self._folder.mkdir(parents=True, exist_ok=True)
        writing = os.open(self.log_file(task_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                [*self._command, task_id],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(writing)


def work(settings: Settings, task_id: str, execute: Execute) -> bool:
    """Do a task, end it, and tell who wants to know; False if it is or was in the hands of another process."""
    database = postgres.ready(settings)
    with database.connect() as connection, tasks.begun(connection, task_id) as task:
        if task is None:
            return False
        log.info("task %s: %s of %s begins", task.id, task.action, task.model)
        error, is_bad_request = _outcome(settings, task, execute)
        _end(database, task_id, error, is_bad_request=is_bad_request)
        log.info("task %s: %s", task.id, error or "done")
        with suppress(psycopg.Error, ConfigurationError):  # whoever looks next tells of it
            callbacks.tell(connection, callbacks.Caller.of(settings), task_id)
    return True


def _outcome(settings: Settings, task: Task, execute: Execute) -> tuple[str | None, bool]:
    """Why a task failed (None: it did not), and whether what was asked for was the reason."""
    from ingestion_dagster.in_process import RunFailed

    try:
        execute(settings, task)
    except Refused as error:
        return "; ".join(f"{problem.code}: {problem.place}: {problem.message}" for problem in error.problems), True
    except Busy as error:
        return str(error), True
    except (RunFailed, ConfigurationError, Transient) as error:
        return str(error), False
    except (SystemExit, KeyboardInterrupt):
        return TOLD_TO_END, False
    except Exception as error:  # noqa: BLE001 - its text may quote what was being handled
        return f"{type(error).__name__} at {_place(error)}: see the log of its run", False
    return None, False


def _end(database: Database, task_id: str, error: str | None, *, is_bad_request: bool) -> None:
    """End a task by a connection of its own: that of its lock may be lost after days."""
    for attempt in range(_END_ATTEMPTS):
        if attempt:
            time.sleep(2.0**attempt / 4)
        with suppress(psycopg.Error, ConfigurationError), database.connect() as connection:
            tasks.end(connection, task_id, error, is_bad_request=is_bad_request)
            return
    log.error("task %s has ended, and the database could not be told", task_id)


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def run_task(settings: Settings, task: Task) -> None:
    """Do a task through Dagster."""
    from ingestion_dagster import runs_catalog

    runs_catalog.run_task(settings, task)


def _told_to_end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def main(execute: Execute = run_task) -> None:
    """Do the task that the arguments name, under the settings of this environment."""
    parser = argparse.ArgumentParser(description="One task of the private API.")
    parser.add_argument("task_id")
    asked = parser.parse_args()
    logs.configure(current(), logs.DATED)
    logging.getLogger().setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _told_to_end)
    try:
        if not work(current(), asked.task_id, execute):
            log.info("task %s is in other hands, or was", asked.task_id)
    except ConfigurationError as error:
        sys.exit(f"task {asked.task_id} cannot be begun: {error}")


if __name__ == "__main__":
    main()

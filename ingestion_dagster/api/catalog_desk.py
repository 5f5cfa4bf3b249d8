"""Where requests about the catalogue are answered from: the tasks, the search engine, and what starts processes and looks after them."""

import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from ingestion_dagster.api import callbacks
from ingestion_dagster.api.callbacks import Caller, NotAllowed
from ingestion_dagster.api.task_process import Launcher
from ingestion_dagster.catalog import places, refreshes, steps, task_requests, tasks, tasks_sql
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.task_requests import Action, Declined, Standing, TaskRequest
from ingestion_dagster.catalog.tasks import KeyTaken, NewTask, Task
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.connections import Connections
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 3.0
"""How long a search engine that fails is waited for before a caller is told to ask again."""

LOOK_SECONDS = 5.0
"""Between two looks at tasks that nobody has begun, and at those that nobody works on any more."""

MOST_LAUNCHES = 3

_NEVER_BEGUN = "no process of this task has come as far as to begin it; its log is below INGESTION_HOME/api/tasks"
_IN_NOBODYS_WAY = {Action.LOAD_TEST_DATA}
_OF_ONE_INDEX = {Action.POINT_ALIAS, Action.UPDATE_INDEX, Action.DELETE_INDEX}
"""What these do is done soon, to indexes that they name, and is in the way of no task that names none of them."""
_OF_ALL = {Action.PROMOTE, Action.ROLLBACK}
_LONG = {Action.INGEST_UPSTREAM, Action.REINDEX, Action.CREATE_AND_POPULATE_FILTERED_INDEX}

_TURN_SECONDS = 5.0
"""How long an update may take until a caller is told to ask again."""


class CatalogDesk:
    """One for the whole server; safe to share between threads. Nothing but the ledger's database is touched before it is needed."""

    def __init__(self, settings: Settings, launcher: Launcher | None = None, engine: SearchEngine | None = None) -> None:
        self.settings = settings
        self.connections = Connections(postgres.ready(settings))
        self.caller = Caller.of(settings)
        self.launcher = launcher or Launcher(settings.home_folder)
        self._hurried = settings.model_copy(
            update={"catalog_search_patience_seconds": min(PATIENCE_SECONDS, settings.catalog_search_patience_seconds)}
        )
        self._guard = threading.Lock()
        self._engine = engine
        self._wake = threading.Event()
        self._is_closing = False
        self._wake_teller = threading.Event()
        self._threads = [
            threading.Thread(target=each, name=name, daemon=True) for each, name in ((self._keep, "tasks"), (self._tell, "callbacks"))
        ]

    def open(self) -> None:
        """Begin to look after tasks, those of before a restart first."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End that, and close connections. Tasks go on in their processes."""
        self._is_closing = True
        self._look_now()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(30)
        self.connections.close()
        if self._engine is not None:
            self._engine.close()

    def _look_now(self) -> None:
        self._wake.set()
        self._wake_teller.set()

    def engine(self) -> SearchEngine:
        """The search engine, asked without much patience. Raises `ConfigurationError`."""
        with self._guard:
            if self._engine is None:
                self._engine = places.search_engine(self._hurried)
            return self._engine

    def ask(self, asked: TaskRequest, key: str | None, client: str) -> Task:
        """Queue a task and start its process; the same task for the same idempotency key.

        Raises `Declined` and `Busy` for what is not done, `Transient` and `ConfigurationError` for what cannot be told now.
        """
        with self.connections.borrowed() as connection:
            task = self._known(connection, asked, key) or self._entered_or_known(connection, asked, key, client)
        if task.state == "queued":
            self.launch(task.id)
        return task

    def launch(self, task_id: str) -> None:
        """Start a process for a task. If none can be, it is tried again later."""
        try:
            self.launcher.launch(task_id)
        except OSError as error:
            log.warning("task %s: no process can be started now (%s)", task_id, type(error).__name__)

    def task(self, task_id: str) -> Task:
        """A task as it stands now. Raises `NoSuchTask`."""
        with self._measured() as connection:
            return tasks.get(connection, task_id)

    def listed(self) -> list[Task]:
        """All tasks."""
        with self._measured() as connection:
            return tasks.listed(connection)

    def settle(self) -> int:
        """End the tasks that nobody works on any more, and see to what else is left undone; how many were ended."""
        with self.connections.borrowed() as connection:
            ended = tasks.end_lost(connection)
        self._look_now()
        return len(ended)

    def dependencies(self) -> dict[str, list[str]]:
        """What is wrong with the search engine (`es`) and the databases (`db`), in short texts, each asked for 3 seconds at most."""
        try:
            search = list(self.engine().problems(PATIENCE_SECONDS))
        except (ConfigurationError, Transient) as error:
            search = [str(error)]
        return {"es": search, "db": [problem for problem in map(self._database_problem, ("upstream", "api")) if problem]}

    def _database_problem(self, which: str) -> str | None:
        found = places.upstream if which == "upstream" else places.api_database
        try:
            database: Database = found(self.settings)
            conninfo = make_conninfo(database.conninfo, connect_timeout=str(int(PATIENCE_SECONDS)))
            psycopg.connect(conninfo, autocommit=True, application_name="ingestion").close()
        except psycopg.Error:
            return f"the {which} database does not accept a connection"
        except ConfigurationError as error:
            return str(error)
        return None

    @contextmanager
    def _measured(self) -> Iterator[Connection]:
        with self.connections.borrowed() as connection:
            if tasks.end_lost(connection):
                self._look_now()
            tasks.measure(connection)
            yield connection

    def _known(self, connection: Connection, asked: TaskRequest, key: str | None) -> Task | None:
        task = tasks.with_key(connection, key) if key is not None else None
        if task is not None and task.request.get("digest") != asked.digest:
            raise Declined("unprocessable", "this Idempotency-Key was given to another request; take a new one")
        return task

    def _entered_or_known(self, connection: Connection, asked: TaskRequest, key: str | None, client: str) -> Task:
        """A new task, or the one that somebody else has entered with the same key meanwhile: that may be just what is in its way."""
        try:
            return self._entered(connection, asked, key, client)
        except (Busy, Declined, Refused):
            if (known := self._known(connection, asked, key)) is None:
                raise
            return known
        except KeyTaken:
            raise Declined("unprocessable", "this Idempotency-Key was given to another request; take a new one") from None

    def _entered(self, connection: Connection, asked: TaskRequest, key: str | None, client: str) -> Task:
        task_id = uuid.uuid4().hex
        self._check_callback(asked.callback_url)
        _demand_free(connection, asked)
        request = task_requests.check(Standing(connection, self.engine()), asked, task_id)
        if asked.callback_url is not None:
            request["callback_url"] = asked.callback_url
        new = NewTask(task_id, asked.model, asked.action, request, client, key)
        fault_point("catalog.task.enter.before")
        with _undisturbed(connection, asked), connection.transaction():
            tasks.take_turns(connection, asked.model)
            if (known := self._known(connection, asked, key)) is not None:
                return known
            _demand_free(connection, asked)
            _intend(connection, new)
            tasks.enter(connection, new)
        fault_point("catalog.task.enter.after")
        return tasks.get(connection, task_id)

    def _check_callback(self, url: str | None) -> None:
        if url is not None:
            try:
                callbacks.check_url(url, self.caller.allowed)
            except NotAllowed as error:
                raise Declined("unprocessable", f"callback_url is not called back: {error}") from None

    def _keep(self) -> None:
        while not self._is_closing:
            self._wake.clear()
            try:
                with self.connections.borrowed() as connection:
                    self._look(connection)
            except (Transient, ConfigurationError) as error:
                log.info("tasks could not be looked after: %s", error)
            self._wake.wait(LOOK_SECONDS)

    def _look(self, connection: Connection) -> None:
        for task_id in tasks.queued(connection):
            if self.launcher.is_running(task_id):
                continue
            if self.launcher.times(task_id) >= MOST_LAUNCHES:
                tasks.end(connection, task_id, _NEVER_BEGUN)
            else:
                self.launch(task_id)
        tasks.end_lost(connection)
        tasks.forget(connection)

    def _tell(self) -> None:
        """Send callbacks. Who is slow to answer keeps no task from being begun."""
        while not self._is_closing:
            self._wake_teller.clear()
            try:
                with self.connections.borrowed() as connection:
                    self._tell_all(connection)
            except (Transient, ConfigurationError) as error:
                log.info("callbacks could not be sent: %s", error)
            self._wake_teller.wait(LOOK_SECONDS)

    def _tell_all(self, connection: Connection) -> None:
        for task_id in tasks.uncalled(connection):
            if self._is_closing:
                return
            callbacks.tell(connection, self.caller, task_id)


@contextmanager
def _undisturbed(connection: Connection, asked: TaskRequest) -> Iterator[None]:
    """What makes a refresh, or reads rows for long, is not entered beside an update, a rebuild or a promotion. Raises `Busy`."""
    if asked.action not in _LONG:
        yield
        return
    with steps.undisturbed(connection, asked.model, _TURN_SECONDS):
        yield


def _demand_free(connection: Connection, asked: TaskRequest) -> None:
    """Raises `Busy` if another task changes what this one is about."""
    if asked.action in _IN_NOBODYS_WAY:
        return
    about = _about(asked.model, asked.model_dump(exclude_none=True))
    for other in tasks.open_of(connection, asked.model):
        if other.action in _IN_NOBODYS_WAY:
            continue
        is_apart = asked.action in _OF_ONE_INDEX or other.action in _OF_ONE_INDEX
        if not is_apart or {asked.action, other.action} & _OF_ALL or about & _about(other.model, other.request):
            raise Busy(asked.model, f"task {other.id}, {other.action}")


def _about(model: str, request: Mapping[str, Any]) -> set[str]:
    """The indexes and aliases that a task names, and those that it fills."""
    suffixes = [str(request[name]) for name in ("index_suffix", "origin_index_suffix", "fills") if name in request]
    if "destination_index_suffix" in request:
        suffixes.append(f"{request['destination_index_suffix']}-filtered")
    return {f"{model}-{suffix}" for suffix in suffixes} | {*request.get("targets", ()), *filter(None, [request.get("alias")])}


def _intend(connection: Connection, new: NewTask) -> None:
    """Enter the refresh that a task begins, or note what one is to be promoted to, in the transaction that enters the task.

    One that has failed, or that nobody wants promoted, gives way to it when the task is done: not before that is sure to be.
    """
    if new.action == Action.INGEST_UPSTREAM:
        asked_by, suffix = f"task {new.id}", str(new.request["index_suffix"])
        going = refreshes.at_work(connection, new.model)
        if going is None or (going.suffix != suffix and steps.is_going(connection, going)):
            refreshes.request(connection, new.model, suffix, asked_by=asked_by, filtered=False, promote=False)
        elif going.suffix == suffix:
            connection.execute(tasks_sql.TAKE_OVER, {"model": new.model, "suffix": suffix, "asked_by": asked_by})
    elif new.action == Action.PROMOTE:
        refreshes.let_promote(connection, new.model, str(new.request["index_suffix"]), str(new.request["alias"]))

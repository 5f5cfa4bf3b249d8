"""A catalogue for tests of its API: the ledger, a search engine in memory, and tasks that processes or threads of the test do."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.api.app import create_app
from ingestion_dagster.api.catalog_desk import CatalogDesk
from ingestion_dagster.api.task_process import Execute, Launcher, work
from ingestion_dagster.catalog import refreshes, tasks
from ingestion_dagster.catalog.refreshes import Refresh, State
from ingestion_dagster.catalog.search import AliasMove
from ingestion_dagster.catalog.tasks import Task
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.api.asking import Answer, Client, answering
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.engine.processes import emptied
from ingestion_dagster_tests.metrics.one_database import one_database

PATIENCE = 30.0


@pytest.fixture(scope="module")
def module_database(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def database(module_database: Database) -> Database:
    """The module's database, emptied."""
    return emptied(module_database, "catalog", "ledger")


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until something is so, and return what it is."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: never"
        time.sleep(0.01)
    return found


class InThreads(Launcher):
    """Does tasks in threads of this process, one after the other at `go`; until then they are launched and do nothing."""

    def __init__(self, settings: Settings, execute: Execute) -> None:
        super().__init__(Path(os.devnull))
        self.settings = settings
        self.execute = execute
        self.launched: list[str] = []
        self.holds = False
        self.fails = False
        self._threads: list[threading.Thread] = []
        self._waiting = threading.Event()

    def launch(self, task_id: str) -> int:
        if self.fails:
            raise OSError
        self.launched.append(task_id)
        if not self.holds:
            thread = threading.Thread(target=work, args=(self.settings, task_id, self.execute))
            self._threads.append(thread)
            thread.start()
        return 1

    def is_running(self, task_id: str) -> bool:
        return task_id in self.launched

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)


@dataclass
class Scene:
    """The API and what is behind it. `does`: what a task does when it is its turn; `did`: tasks that were done."""

    settings: Settings
    engine: FakeSearch = field(default_factory=FakeSearch)
    did: list[Task] = field(default_factory=list)
    does: Callable[[Settings, Task], None] = lambda _settings, _task: None

    def __post_init__(self) -> None:
        self.launcher = InThreads(self.settings, self._execute)

    def _execute(self, settings: Settings, task: Task) -> None:
        self.did.append(task)
        self.does(settings, task)

    def desk(self) -> CatalogDesk:
        """A desk of its own."""
        return CatalogDesk(self.settings, self.launcher, self.engine)

    @contextmanager
    def served(self, token: str | None = None) -> Iterator["Asked"]:
        """The API until the block ends."""
        try:
            with answering(create_app(self.settings, catalog_desk=self.desk()), token) as client:
                yield Asked(client, self)
        finally:
            self.launcher.join()

    def connect(self) -> Connection:
        """A connection to the ledger."""
        return postgres.locate(self.settings).connect()

    def refresh(self, model: str, suffix: str, state: State = "requested", asked_by: str = "test", **more: Any) -> Refresh:
        """A refresh that has come so far, with its index if it has got one."""
        with self.connect() as connection:
            made = refreshes.request(connection, model, suffix, asked_by=asked_by, filtered=False, **{"promote": False, **more})
            made = made if state == "requested" else refreshes.advance(connection, made, state)
        if made.reached("filled"):
            self.engine.put(f"{model}-{suffix}", {1: {"id": 1}})
        return made

    def index(self, name: str, *aliases: str) -> None:
        """An index with a document, behind aliases."""
        self.engine.put(name, {1: {"id": 1}})
        self.engine.switch([AliasMove(alias, name) for alias in aliases])

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A statement in the ledger."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def task(self, task_id: str) -> Task:
        """A task as it stands."""
        with self.connect() as connection:
            return tasks.get(connection, task_id)


@dataclass
class Asked:
    """Asks the API of a scene."""

    client: Client
    scene: Scene

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """One request."""
        return self.client.ask(method, path, body, **more)

    def post(self, model: str, action: str, *, key: str | None = None, **fields: Any) -> Answer:
        """Ask for a task."""
        headers = {"Idempotency_Key": key} if key is not None else {}
        return self.client.ask("POST", "/task", {"model": model, "action": action} | fields, **headers)

    def status(self, task_id: str) -> Any:
        """How a task stands, as the API tells."""
        answer = self.client.ask("GET", f"/task/{task_id}")
        assert answer.status == 200, answer
        return answer.json

    def ended(self, accepted: Answer) -> Any:
        """How a task that was accepted has ended."""
        assert accepted.status == 202, accepted
        task_id = accepted.json["task_id"]
        return until(lambda: (found := self.status(task_id)) and not found["active"] and found, "the task ends")

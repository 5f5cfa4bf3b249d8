"""Tasks as processes: killed wherever it hurts, none is lost silently, none is done twice, and the next request puts things right."""

import http.client
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.api import callbacks, catalog_desk
from ingestion_dagster.api.app import create_app
from ingestion_dagster.api.catalog_desk import CatalogDesk
from ingestion_dagster.api.task_process import TOLD_TO_END, Launcher
from ingestion_dagster.catalog import tasks
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.api.asking import Client, answering
from ingestion_dagster_tests.api.catalog_driver import COMMAND
from ingestion_dagster_tests.api.catalog_scene import database, module_database, until
from ingestion_dagster_tests.api.test_callbacks import listening
from ingestion_dagster_tests.catalog.fake_search import FakeSearch

__all__ = ["database", "module_database"]

_ROOT = Path(__file__).parents[2]
INGEST = {"model": "image", "action": "INGEST_UPSTREAM", "index_suffix": "init"}


class Installation:
    """The API, of which there may be several, one after the other: in this process, or in one of its own that is killed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.home = settings.home_folder
        self.home.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    @contextmanager
    def serving(self, fault: str | None = None, command: Sequence[str] = COMMAND) -> Iterator[Client]:
        """The API; processes of its tasks are killed at a point."""
        self.launcher = Launcher(self.home, ["env", f"INGESTION_TEST_FAULT={fault}", *command] if fault else command)
        desk = CatalogDesk(self.settings, self.launcher, FakeSearch())
        with answering(create_app(self.settings, catalog_desk=desk)) as client:
            yield client

    @contextmanager
    def killed(self, fault: str) -> Iterator[Client]:
        """The API in a process that is killed at a point, and must be by the end of the block."""
        file, log = self.folder / "port", self.folder / "server.log"
        with log.open("wb") as writing:
            environment = os.environ | {"INGESTION_TEST_FAULT": fault}
            started = subprocess.Popen([*COMMAND, "serve", str(file)], cwd=_ROOT, env=environment, stdout=writing, stderr=writing)
        try:
            until(lambda: file.exists() or started.poll() is not None, "it starts")
            assert file.exists(), log.read_text()
            yield Client(int(file.read_text()))
            assert started.wait(20) == -signal.SIGKILL
        finally:
            started.kill()
            started.wait(20)

    def does(self, what: str) -> None:
        """What tasks do from now on."""
        (self.home / "does").write_text(what)

    def done(self) -> list[tuple[str, int]]:
        """Tasks that were begun, and by which process."""
        file = self.home / "done"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]


@pytest.fixture
def installed(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(settings, tmp_path)
    yield installation
    for _, pid in installation.done():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def listed(client: Client) -> Any:
    return client.ask("GET", "/task").json


def ended(client: Client) -> Any:
    """The only task, when it has ended."""
    return until(lambda: (found := listed(client)) and not found[0]["active"] and found[0], "the task ends")


def over(client: Client, task_id: str) -> Any:
    """A task that has ended."""
    found = client.ask("GET", f"/task/{task_id}").json
    return None if found["active"] else found


def reached(found: Callable[[], list[Any]], number: int) -> list[Any]:
    """So many of what is found, or nothing."""
    return found() if len(found()) == number else []


def test_a_task_is_done_by_a_process_that_outlives_the_server(installed: Installation):
    installed.does("wait")
    with listening(200) as listener:
        with installed.serving() as client:
            task_id = client.ask("POST", "/task", INGEST | {"callback_url": listener.url}).json["task_id"]
            until(installed.done, "it begins")
            assert listed(client)[0]["active"]
        ((_, pid),) = installed.done()
        assert os.getsid(pid) == pid
        with installed.serving() as client:
            assert listed(client)[0]["active"]
            (installed.home / "go").touch()
            found = ended(client)
            assert (found["task_id"], found["error"], found["progress"]) == (task_id, False, 100)
            until(lambda: listed(client)[0]["callback"], "it is called back")
        assert len(listener.got) == 1
    assert len(installed.done()) == 1
    file = installed.home / "api" / "tasks" / f"{task_id}.log"
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"task {task_id}: INGEST_UPSTREAM of image begins" in file.read_text()


def test_a_process_that_is_killed_or_told_to_end_leaves_a_task_that_says_so(installed: Installation):
    installed.does("wait")
    with installed.serving() as client, listening(200) as listener:
        for number, (kind, told) in enumerate(((signal.SIGKILL, tasks.LOST), (signal.SIGTERM, TOLD_TO_END)), 1):
            asked = client.ask("POST", "/task", {"model": "image", "action": "REINDEX", "callback_url": listener.url})
            _, pid = until(partial(reached, installed.done, number), "it begins")[-1]
            os.kill(pid, kind)
            found = until(partial(over, client, asked.json["task_id"]), "it ends")
            assert (found["error"], found["error_message"]) == (True, told)
            assert found["progress"] < 100
            until(partial(reached, lambda: listener.got, number), "it is called back")
        assert b'"status":"failed"' in listener.got[0][2]


@pytest.mark.parametrize(("what", "told", "is_bad"), [
    ("refuse", "not_now: image: ask another time", True), ("break", "ValueError at catalog_driver.py:", False),
])  # fmt: skip
def test_what_a_process_fails_for_is_told_and_no_value(installed: Installation, what: str, told: str, is_bad: bool):
    installed.does(what)
    with installed.serving() as client:
        task_id = client.ask("POST", "/task", INGEST).json["task_id"]
        found = ended(client)
    assert (found["error"], found["is_bad_request"], found["error_message"][: len(told)]) == (True, is_bad, told)
    assert "a value of a row" not in str(found) + (installed.home / "api" / "tasks" / f"{task_id}.log").read_text()


@pytest.mark.parametrize(("fault", "is_kept"), [
    ("catalog.task.enter.before", False), ("catalog.task.enter.after", True), ("catalog.task.launch.before", True),
    ("catalog.task.launch.after", True),
])  # fmt: skip
def test_a_server_that_is_killed_keeps_a_task_or_knows_nothing_of_it(installed: Installation, fault: str, is_kept: bool):
    with installed.killed(fault) as client, pytest.raises((OSError, http.client.HTTPException)):
        client.ask("POST", "/task", INGEST, Idempotency_Key="mine")
    with installed.serving() as client:
        if is_kept:
            assert not ended(client)["error"]
        else:
            assert listed(client) == []
        again = client.ask("POST", "/task", INGEST, Idempotency_Key="mine")
        assert again.status == 202
        assert ended(client)["task_id"] == again.json["task_id"]
        assert len(listed(client)) == 1
    assert len(installed.done()) == 1


@pytest.mark.parametrize(("fault", "state", "heard"), [
    ("catalog.task.end.before", "failed", 1), ("catalog.task.end.after", "succeeded", 1), ("catalog.callback.before", "succeeded", 1),
    ("catalog.callback.after", "succeeded", 2),
])  # fmt: skip
def test_a_process_that_is_killed_at_its_end_leaves_one_end_and_one_callback_on_record(
    installed: Installation, fault: str, state: str, heard: int
):
    with listening(200) as listener:
        with installed.serving(fault) as client:
            task_id = client.ask("POST", "/task", INGEST | {"callback_url": listener.url}).json["task_id"]
            until(lambda: installed.done() and not installed.launcher.is_running(task_id), "it is killed")
            client.ask("DELETE", "/state")
            found = until(lambda: (now := listed(client)[0])["callback"] and now, "it is called back")
            assert (found["error"], found["callback"]) == (state == "failed", "delivered (200)")
        assert len(listener.got) == heard
        assert all(body == listener.got[0][2] for _, _, body in listener.got)
    assert len(installed.done()) == 1
    assert callbacks.SIGNATURE_HEADER in listener.got[0][1]


def test_a_task_whose_processes_never_come_to_begin_it_is_given_up(installed: Installation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog_desk, "LOOK_SECONDS", 0.01)
    with installed.serving(command=("false",)) as client:
        client.ask("POST", "/task", {"model": "image", "action": "LOAD_TEST_DATA"})
        found = ended(client)
    assert found["error"]
    assert "INGESTION_HOME/api/tasks" in found["error_message"]
    assert installed.launcher.times(found["task_id"]) == catalog_desk.MOST_LAUNCHES

"""Callbacks: signed, to allowed hosts at addresses that were looked at, tried again when that helps, and never in the way of a task."""

import hashlib
import hmac
import http.server
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ingestion_dagster.api import callbacks
from ingestion_dagster.api.callbacks import Caller, NotAllowed, allowed_hosts, check_url, may_be_at, signature
from ingestion_dagster.catalog import tasks
from ingestion_dagster.catalog.tasks import NewTask, Task
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.api.catalog_scene import database, module_database

__all__ = ["database", "module_database"]

KEY = "a key of the test's"  # pragma: allowlist secret


class Listener:
    """A server that writes down what it gets, and answers with the statuses it is given, the last one on and on; 0 hangs up."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.got.append((self.path, dict(self.headers), body))
                status = listener.statuses.pop(0) if len(listener.statuses) > 1 else listener.statuses[0]
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Location", "http://localhost:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/done?of=it"


@contextmanager
def listening(*statuses: int) -> Iterator[Listener]:
    listener = Listener(*statuses)
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield listener
    finally:
        listener.server.shutdown()
        listener.server.server_close()
        thread.join(30)


def caller(*allowed: str, resolve: callbacks.Resolve = callbacks.addresses) -> tuple[Caller, list[float]]:
    slept: list[float] = []
    return Caller(frozenset(allowed), KEY.encode(), resolve, slept.append, lambda: 1_700_000_000.9), slept


def ended(database: Database, url: str | None, error: str | None = None) -> Task:
    task_id = uuid.uuid4().hex
    with database.connect() as connection:
        request = {} if url is None else {"callback_url": url}
        tasks.enter(connection, NewTask(task_id, "image", "REINDEX", request, "test"))
        tasks.end(connection, task_id, error)
        return tasks.get(connection, task_id)


@pytest.mark.parametrize(("error", "status"), [(None, "succeeded"), ("it was not to be", "failed")])
def test_one_signed_post_tells_how_a_task_has_ended(database: Database, error: str | None, status: str):
    with listening(204) as listener, database.connect() as connection:
        task = ended(database, listener.url, error)
        assert callbacks.tell(connection, caller()[0], task.id) == "delivered (204)"
        assert callbacks.tell(connection, caller()[0], task.id) is None
        ((path, headers, body),) = listener.got
        assert path == "/done?of=it"
        assert json.loads(body) == {"task_id": task.id, "action": "REINDEX", "model": "image", "status": status, "error": error}
        assert headers["X-Ingestion-Timestamp"] == "1700000000"
        assert headers["X-Ingestion-Signature"] == signature(KEY.encode(), "1700000000", body)
        assert headers["Host"] == f"localhost:{listener.port}"
        told = tasks.get(connection, task.id)
        assert (told.callback_outcome, told.state) == ("delivered (204)", task.state)
        assert told.called_back_at is not None


def test_who_is_called_back_can_check_the_signature_as_the_documentation_says() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "catalog.md").read_text()
    (shown,) = re.findall(r"```python\n(def is_ours.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"hmac": hmac, "hashlib": hashlib, "Mapping": Mapping}
    exec(shown, names)
    headers = {"X-Ingestion-Timestamp": "1700000000", "X-Ingestion-Signature": signature(KEY.encode(), "1700000000", b"{}")}
    assert names["is_ours"](KEY, headers, b"{}")
    assert not names["is_ours"](KEY, headers, b"[]")
    assert not names["is_ours"](KEY, headers | {"X-Ingestion-Timestamp": "1700000001"}, b"{}")
    assert not names["is_ours"]("another", headers, b"{}")


def test_the_signature_is_of_time_and_body():
    # As `printf '1.{}' | openssl dgst -sha256 -hmac k` has it.
    assert signature(b"k", "1", b"{}") == "sha256=3dd49b2593d0f9a349e9e71c4bde3e2b862c2be4003fe9b4ba81332029310158"
    assert len({signature(key, at, body) for key in (b"k", b"l") for at in ("1", "2") for body in (b"{}", b"[]")}) == 8


@pytest.mark.parametrize(("statuses", "outcome", "asked"), [
    ((500, 503, 429, 200), "delivered (200)", 4),
    ((0, 200), "delivered (200)", 2),
    ((404,), "failed (answered 404)", 1),
    ((302,), "failed (answered 302)", 1),
    ((503,), "failed (answered 503, 5 times)", 5),
    ((0,), "failed (RemoteDisconnected, 5 times)", 5),
])  # fmt: skip
def test_what_may_pass_is_tried_again_and_what_will_not_is_not(database: Database, statuses: tuple[int, ...], outcome: str, asked: int):
    with listening(*statuses) as listener:
        calling, slept = caller()
        assert calling.send(listener.url, ended(database, listener.url)) == outcome
        assert len(listener.got) == asked
        assert len(slept) == asked - 1
        assert all(0.5 * 2**number <= pause <= 2**number for number, pause in enumerate(slept))


def test_nobody_there_fails_no_task(database: Database):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        task = ended(database, url)
        with database.connect() as connection:
            outcome = callbacks.tell(connection, caller()[0], task.id)
            assert outcome == "failed (ConnectionRefusedError, 5 times)"
            assert tasks.get(connection, task.id).state == "succeeded"


def test_who_has_the_task_in_hand_tells_of_it_and_nobody_else(database: Database):
    with listening(200) as listener, database.connect() as mine, database.connect() as other:
        task = ended(database, listener.url)
        with tasks.held(mine, task.id) as is_held:
            assert is_held
            assert callbacks.tell(other, caller()[0], task.id) is None
            assert callbacks.tell(mine, caller()[0], task.id) == "delivered (200)"
        assert callbacks.tell(other, caller()[0], task.id) is None
        assert len(listener.got) == 1


def test_a_task_that_goes_on_or_that_nobody_waits_for_is_not_told_of(database: Database):
    with database.connect() as connection:
        task_id = uuid.uuid4().hex
        tasks.enter(connection, NewTask(task_id, "image", "REINDEX", {"callback_url": "http://localhost:1/"}, "test"))
        assert callbacks.tell(connection, caller()[0], task_id) is None
        assert callbacks.tell(connection, caller()[0], ended(database, None).id) is None


BAD_URLS = [
    "", "localhost", "ftp://localhost/", "file:///etc/passwd", "http://", "http:///x", "http://user@localhost/", "http://u:p@localhost/",
    "http://10.0.0.1/", "http://169.254.169.254/latest", "http://example.org/", "http://localhost.example.org/", "http://[::1", "http://[::2]/",
    "http://localhost:99999/", "http://localhost:0/", "http://localhost:x/", "http://0.0.0.0/", "http://localhost/\r\nX: y",
    "http://localhost/a b",
    "http://localhost\\@example.org/", "http://ex\u0430mple.org/", "http://2130706433/", "http://127.1/", "http://localhost/" + "x" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS, ids=range(len(BAD_URLS)))
def test_without_a_list_loopback_alone_is_called_back(url: str):
    with pytest.raises(NotAllowed):
        check_url(url, frozenset())


@pytest.mark.parametrize(
    "url", ["http://localhost/", "http://127.0.0.1:8080/x?y=z", "http://[::1]:1/", "https://LOCALHOST/", "http://127.8.8.8"]
)
def test_loopback_is_called_back_without_a_list(url: str):
    assert check_url(url, frozenset()).hostname


def test_with_a_list_its_hosts_alone_are_called_back():
    allowed = allowed_hosts(Settings(api_callback_hosts="Airflow.internal , 10.1.2.3"))
    assert allowed == {"airflow.internal", "10.1.2.3"}
    for url in ("http://airflow.internal:8080/x", "https://AIRFLOW.internal/", "http://10.1.2.3/"):
        check_url(url, allowed)
    for url in ("http://localhost/", "http://sub.airflow.internal/", "http://airflow.internal.example/", "http://10.1.2.4/"):
        with pytest.raises(NotAllowed):
            check_url(url, allowed)


@pytest.mark.parametrize(("host", "address", "may"), [
    ("airflow.internal", "10.0.0.7", False), ("airflow.internal", "8.8.8.8", True), ("airflow.internal", "fd00::7", False),
    ("airflow.internal", "64:ff9b::a00:7", False), ("airflow.internal", "64:ff9b:1::7f00:1", False),
    ("airflow.internal", "100.64.0.1", False),
    ("airflow.internal", "2002:a00:7::", False), ("airflow.internal", "2001:4860:4860::8888", True), ("airflow.internal", "10.2.0.7", True),
    ("airflow.internal", "::ffff:10.2.0.7", True), ("airflow.internal", "192.168.1.1", True), ("airflow.internal", "192.168.1.2", False),
    ("192.168.1.1", "192.168.1.1", True),
    ("airflow.internal", "127.0.0.1", False), ("airflow.internal", "::1", False), ("airflow.internal", "::ffff:127.0.0.1", False),
    ("airflow.internal", "169.254.169.254", False), ("airflow.internal", "fe80::1%eth0", False), ("airflow.internal", "0.0.0.0", False),
    ("airflow.internal", "224.0.0.1", False), ("airflow.internal", "::ffff:169.254.169.254", False),
    ("localhost", "127.0.0.1", True), ("localhost", "::1", True), ("localhost", "10.0.0.7", False), ("127.0.0.1", "127.0.0.1", True),
])  # fmt: skip
def test_an_address_has_to_go_with_its_host(host: str, address: str, may: bool):
    assert may_be_at(host, address, frozenset({"airflow.internal", "10.2.0.0/16", "192.168.1.1", "169.254.0.0/16", "127.0.0.0/8"})) is may


def test_a_name_that_leads_elsewhere_is_not_followed(database: Database):
    with listening(200) as listener:
        url = f"http://airflow.internal:{listener.port}/"
        several: list[list[str]] = [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["10.0.0.1"], []]
        answers = iter(several)
        for _ in several:
            calling, slept = caller("airflow.internal", resolve=lambda _host, _port: next(answers))
            assert calling.send(url, ended(database, url)) == "failed (the host's address is one that is not called back)"
            assert slept == []
        assert listener.got == []


def test_the_address_that_was_looked_at_is_the_one_that_is_called(database: Database):
    with listening(200) as listener:
        found = iter([["127.0.0.2", "127.0.0.1"], ["10.9.9.9"]])
        calling, _ = caller(resolve=lambda _host, _port: next(found))
        assert calling.send(listener.url, ended(database, listener.url)) == "delivered (200)"
        assert len(listener.got) == 1


@pytest.mark.parametrize("tls", [False, True])
def test_an_answer_that_comes_in_drop_by_drop_is_not_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch, tls: bool):
    monkeypatch.setattr(callbacks, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(callbacks, "ATTEMPTS", 1)
    over = threading.Event()

    def drip(listening: socket.socket) -> None:
        asking, _ = listening.accept()
        with asking, suppress(OSError):
            # The head of an answer, or of a record of a handshake, of which more and more comes.
            asking.sendall(b"\x16\x03\x03\x3f\x00\x02\x00\x3e\x00" if tls else b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.05):
                asking.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        url = f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}/"
        begun = time.monotonic()
        outcome = caller()[0].send(url, ended(database, url))
        over.set()
        thread.join(30)
    assert outcome.startswith("failed")
    assert time.monotonic() - begun < callbacks.SECONDS


def test_the_key_is_the_settings_or_one_that_is_made_once(settings: Settings):
    made = Caller.of(settings).key
    assert made == Caller.of(settings).key
    assert len(made) == 64
    own = settings.model_copy(update={"api_callback_key": SecretStr(KEY)})
    assert Caller.of(own).key == KEY.encode()

"""The private API as a process: found by its address file, ended by a signal, and closed to others without a token."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from ingestion_dagster.api import server
from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.stand_ins import address_file
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.api.asking import Client
from ingestion_dagster_tests.engine.processes import environment_of
from ingestion_dagster_tests.life_events.held import MARKER, Held, held, held_in

__all__ = ["held", "held_in"]

TOKEN = "a token of the test's"  # pragma: allowlist secret
_ROOT = Path(__file__).parents[2]


@contextmanager
def process(settings: Settings, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    file = address_file(settings.home_folder, "api")
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ingestion_dagster.api.server", str(file), "--token", "a-word"]
    with log.open("wb") as writing:
        started = subprocess.Popen(command, cwd=_ROOT, env=environment_of(settings) | more, stdout=writing, stderr=subprocess.STDOUT)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(10)


def url_of(settings: Settings, started: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while (found := stand_ins.url(settings.home_folder, "api")) is None:
        assert started.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "it does not start"
        time.sleep(0.02)
    return found


def test_a_process_is_found_answers_and_ends_in_order(held: Held, tmp_path: Path):
    [event_id] = held.put(1)
    log = tmp_path / "api.log"
    with process(held.settings, log) as started:
        port = int(url_of(held.settings, started).rpartition(":")[2])
        client = Client(port)
        assert client.ask("GET", "/healthz").json == {"token": "a-word"}
        assert client.enrich(event_id).json == held.attributes(1)
        assert client.delete(event_id).status == 200
        assert client.ask("POST", "/life-events/delete", [MARKER]).status == 422
        assert client.ask("GET", "/healthz", Host="evil.example").status == 421
        with socket.create_connection(("127.0.0.1", port), timeout=30) as idle:
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.recv(1000).startswith(b"HTTP/1.1 200")
            started.send_signal(signal.SIGTERM)
            assert started.wait(10) == 0
    assert stand_ins.url(held.settings.home_folder, "api") is None
    assert log.read_text() == ""
    recorded = json.loads(address_file(held.settings.home_folder, "api").read_text())
    assert recorded == {"pid": started.pid, "url": f"http://127.0.0.1:{port}", "token": "a-word"}


def test_a_server_that_was_killed_within_a_release_leaves_nothing_that_the_next_does_not_put_right(held: Held, tmp_path: Path):
    [event_id] = held.put(1, state="pending")
    guarded = held.settings.model_copy(update={"api_token": SecretStr(TOKEN)})
    with process(guarded, tmp_path / "api.log", INGESTION_TEST_FAULT="life_events.release_commit.after") as started:
        client = Client(int(url_of(guarded, started).rpartition(":")[2]), TOKEN)
        with pytest.raises((OSError, http.client.HTTPException)):
            client.delete(event_id)
        assert started.wait(10) == -signal.SIGKILL
    with process(guarded, tmp_path / "api.log") as started:
        client = Client(int(url_of(guarded, started).rpartition(":")[2]), TOKEN)
        assert client.delete(event_id).status == 404
    assert (held.state(1), held.is_stored(1), held.outbox()) == ("released", False, [])


def test_a_server_that_cannot_start_says_why_and_no_address(held: Held, tmp_path: Path):
    lost = held.settings.model_copy(update={"life_events_hmac_keys": SecretStr("a:short")})
    log = tmp_path / "api.log"
    with process(lost, log) as started:
        assert started.wait(60) == 1
    assert "INGESTION_LIFE_EVENTS_HMAC_KEYS" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not address_file(held.settings.home_folder, "api").exists()


def test_others_are_not_let_in_without_a_token(held: Held):
    for host in ("0.0.0.0", "::", "10.1.2.3", "api.example"):
        with pytest.raises(ConfigurationError, match="INGESTION_API_TOKEN"):
            server.serve(held.settings.model_copy(update={"api_host": host}))


def test_an_address_that_is_taken_is_told_with_what_to_set(held: Held):
    with server.bound("127.0.0.1", 0) as taken:
        wanted = held.settings.model_copy(update={"api_port": taken.getsockname()[1]})
        with pytest.raises(ConfigurationError, match="INGESTION_API_PORT"):
            server.serve(wanted)


def test_serve_answers_where_the_settings_say_until_it_is_told_to_end(held: Held):
    """In a process of its own: signals are the main thread's."""
    code = (
        "from ingestion_dagster.api.server import serve\nfrom ingestion_dagster.settings import current\n"
        "serve(current(), lambda url: print(url, flush=True))\nprint('ended')"
    )
    guarded = held.settings.model_copy(update={"api_host": "0.0.0.0", "api_port": 0, "api_token": SecretStr(TOKEN)})
    environment = environment_of(guarded) | {"INGESTION_API_HOST": "0.0.0.0", "INGESTION_API_PORT": "0"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        url = started.stdout.readline().strip()
        try:
            port = int(url.rpartition(":")[2])
            assert url == f"http://0.0.0.0:{port}"
            assert Client(port, TOKEN).delete("0" * 64, Host="api.example").status == 404
            assert Client(port).delete("0" * 64).status == 401
        finally:
            os.kill(started.pid, signal.SIGINT)
        assert (started.stdout.read(), started.wait(10)) == ("ended\n", 0)

"""Starting and stopping the sandbox: once each, whatever was left behind, and nobody else's process."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.stand_ins import address_file, recorded
from ingestion_dagster.sandbox import servers
from ingestion_dagster_tests.sandbox.asking import Client

DMAP = ("dmap",)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "a home"
    servers.down(tmp_path / "a home")


def pid_of(home: Path) -> int:
    found = recorded(home, "dmap")
    assert found is not None
    return found.pid


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url.removesuffix('/api/')}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_up_answers_at_once_and_a_second_time_changes_nothing(home: Path):
    urls = servers.up(home, names=DMAP)
    assert answers(urls["dmap"])
    assert urls["dmap"].startswith("http://127.0.0.1:")
    assert servers.url(home, "dmap") == stand_ins.url(home, "dmap") == urls["dmap"]
    pid = pid_of(home)
    assert os.getsid(pid) == pid
    assert (servers.up(home, names=DMAP), pid_of(home)) == (urls, pid)


def test_down_stops_it_and_a_second_time_does_nothing(home: Path):
    assert servers.down(home) == []
    assert not home.exists()
    urls = servers.up(home, names=DMAP)
    pid = pid_of(home)
    assert servers.down(home) == ["dmap"]
    assert is_gone(pid)
    assert not answers(urls["dmap"])
    assert servers.url(home, "dmap") is None
    assert servers.down(home) == []


def test_it_outlives_the_process_that_started_it(home: Path):
    code = f"from pathlib import Path; from ingestion_dagster.sandbox import servers; servers.up(Path({str(home)!r}), names={DMAP!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    url = servers.url(home, "dmap")
    assert url is not None
    assert answers(url)
    assert servers.down(home) == ["dmap"]


def test_a_server_that_was_killed_is_started_anew(home: Path):
    servers.up(home, names=DMAP)
    pid = pid_of(home)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert servers.url(home, "dmap") is None
    urls = servers.up(home, names=DMAP)
    assert answers(urls["dmap"])
    assert pid_of(home) != pid


def test_a_server_that_no_longer_answers_is_replaced(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.2)
    servers.up(home, names=DMAP)
    pid = pid_of(home)
    os.kill(pid, signal.SIGSTOP)
    urls = servers.up(home, names=DMAP)
    assert answers(urls["dmap"])
    assert is_gone(pid)


def test_another_process_that_has_been_given_the_id_is_left_alone(home: Path):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        file = address_file(home, "dmap")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"pid": bystander.pid, "url": "http://127.0.0.1:9", "token": "a word of nobody's"}))
        assert servers.url(home, "dmap") is None
        assert servers.down(home) == []
        assert bystander.poll() is None
        file.write_text(json.dumps({"pid": bystander.pid, "url": "http://127.0.0.1:9", "token": "a word of nobody's"}))
        assert answers(servers.up(home, names=DMAP)["dmap"])
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_an_address_file_that_cannot_be_read_is_passed_over(home: Path, content: str):
    file = address_file(home, "dmap")
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert servers.url(home, "dmap") is None
    assert servers.down(home) == []


def test_two_that_start_it_at_once_share_one(home: Path):
    call = f"servers.up(Path({str(home)!r}), names={DMAP!r})['dmap']"
    code = f"from pathlib import Path; from ingestion_dagster.sandbox import servers; print({call})"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0] for process in both)
    assert first == second != ""


def test_a_server_that_cannot_start_is_told_of_at_once(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(servers.SERVERS, "dmap", "ingestion_dagster.sandbox.nothing_of_the_kind")
    with pytest.raises(ConfigurationError, match=r"dmap\.log"):
        servers.up(home, names=DMAP)
    assert "nothing_of_the_kind" in (home / "sandbox" / "dmap.log").read_text()
    assert servers.url(home, "dmap") is None


def test_production_has_no_sandbox(home: Path):
    with pytest.raises(ConfigurationError, match="production"):
        servers.up(home, "production")
    assert not home.exists()


def test_up_starts_all_that_there_are_and_down_stops_them(home: Path):
    urls = servers.up(home)
    assert set(urls) == set(servers.SERVERS) >= {"dmap", "here_to_help"}
    assert all(answers(url) for url in urls.values())
    assert set(servers.down(home)) == set(servers.SERVERS)
    assert not any(answers(url) for url in urls.values())


def test_up_starts_those_only_that_are_named(home: Path):
    assert set(servers.up(home, names=["here_to_help"])) == {"here_to_help"}
    assert servers.url(home, "dmap") is None
    assert servers.up(home, names=[]) == {}
    assert servers.down(home) == ["here_to_help"]


def test_a_name_that_no_server_has_is_told_and_nothing_is_started(home: Path):
    with pytest.raises(ConfigurationError, match="here_to_hlep; it has dmap, here_to_help"):
        servers.up(home, names=["dmap", "here_to_hlep"])
    assert servers.url(home, "dmap") is None


def test_here_to_help_keeps_what_it_was_given_whether_it_is_stopped_or_killed(home: Path):
    def client() -> Client:
        url = servers.up(home, names=["here_to_help"])["here_to_help"]
        assert url == stand_ins.url(home, "here_to_help")
        assert url.endswith("/api/")
        return Client(url)

    assert client().create(NhsNumber="9990000115") == 1
    assert servers.down(home) == ["here_to_help"]
    assert client().create(NhsNumber="9990000115") == 2
    running = recorded(home, "here_to_help")
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    os.waitpid(running.pid, 0)
    assert client().create(NhsNumber="9990000115") == 3
    assert client().counts() == (1, 3, 0)


def test_here_to_help_has_the_usage_plan_and_logs_nothing_of_anybody(home: Path):
    client = Client(servers.up(home, names=["here_to_help"])["here_to_help"])
    assert client.get("/admin/settings") == {"latency_ms": 0.0, "rate": 100.0, "burst": 200, "race_ms": 0.0}
    client.create(FirstName="Testy", LastName="McFictional")
    for kind in ("lost", "reset", "500", "partial", "bad_json"):
        client.fault(kind, "create")
        with suppress(OSError, http.client.HTTPException):
            client.ask("POST", "v3/help-requests", {"FirstName": "Testy", "LastName": "McFictional"})
    servers.down(home)
    assert (home / "sandbox" / "here_to_help.log").read_text() == ""

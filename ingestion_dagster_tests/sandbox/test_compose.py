"""Services as processes: each after those it needs, again when it dies, and with all that it has started at the end."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.sandbox import compose
from ingestion_dagster.sandbox.compose import Running, Service, Stack

STAYS = "import sys, time; open(sys.argv[1], 'a').write('x'); time.sleep(600)"
"""Says that it has been started, and stays."""
HAS_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""
DEAF = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'w').write('x'); time.sleep(600)"

Make = Callable[..., Running]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A service that runs a line of Python, which is given a file of its name; it is well once that file is there."""

    def make(name: str, code: str, needs: dict[str, bool] | None = None, *, stays: bool = True) -> Running:
        file = tmp_path / name
        command = [sys.executable, "-S", "-c", code, str(file)]
        service = Service(name, (), needs or {}, stays)
        is_well = lambda: file.exists() and file.stat().st_size > 0  # noqa: E731
        return Running(service, command, f"http://{name}", tmp_path / f"{name}.log", os.environ, is_well)

    return make


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stack]]:
    monkeypatch.setattr(compose, "_ASK_SECONDS", 0.01)
    monkeypatch.setattr(compose, "_LOOK_SECONDS", 0.01)
    made: list[Stack] = []

    def of(*running: Running) -> Stack:
        made.append(Stack(running, tmp_path / "state.json"))
        return made[-1]

    yield of
    for each in made:
        each.end()


def until_complete(stack: Stack) -> list[str]:
    return list(takewhile(lambda line: line != compose.COMPLETE, stack.run()))


def is_there(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_there, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_services_of_the_compose_file_without_a_command_are_left_to_others(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("""
services:
  postgres: {image: postgres, restart: unless-stopped}
  migrate: {command: [ingestion, db, upgrade], restart: "no", depends_on: {postgres: {condition: service_healthy}}}
  metrics: {command: [dagster], restart: unless-stopped, depends_on: {migrate: {condition: service_completed_successfully}}}
  daemon: {command: [dagster-daemon], restart: unless-stopped, depends_on: {metrics: {condition: service_healthy, required: false}}}
""")
    assert compose.read_services(file) == [
        Service("migrate", ("ingestion", "db", "upgrade"), {}, stays=False),
        Service("metrics", ("dagster",), {"migrate": True}),
        Service("daemon", ("dagster-daemon",), {"metrics": False}),
    ]


def test_command_is_moved_to_loopback_and_nothing_else_of_it_is_changed() -> None:
    asked = ("dagster-webserver", "--read-only", "-h", "0.0.0.0", "-p", "3000", "-w", "/opt/dagster/workspace.yaml")
    program, *words = compose.on_loopback(asked, 4711, Path("/here.yaml"))
    assert Path(program) == Path(sys.prefix) / "bin" / "dagster-webserver"
    assert words == ["--read-only", "-h", "127.0.0.1", "-p", "4711", "-w", "/here.yaml"]


def test_each_is_started_after_what_it_needs(make: Make, stack: Callable[..., Stack]) -> None:
    last = make("last", STAYS, {"first": True, "second": False})
    second = make("second", STAYS, {"first": True})
    first = make("first", "", stays=False)
    assert until_complete(stack(last, second, first)) == ["second is up", "last is up"]
    assert first.is_done
    assert first.started_at < second.started_at < last.started_at


def test_one_that_has_to_succeed_and_fails_ends_it(make: Make, stack: Callable[..., Stack]) -> None:
    with pytest.raises(ConfigurationError, match=r"migrate failed \(3\); .*migrate\.log tells why"):
        until_complete(stack(make("migrate", "raise SystemExit(3)", stays=False), make("daemon", STAYS, {"migrate": True})))


def test_one_that_can_be_done_without_is_not_waited_for_for_ever(
    make: Make, stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "PATIENCE_SECONDS", 0.1)
    broken, waits = make("broken", "raise SystemExit(1)"), make("waits", STAYS, {"broken": False})
    said = set(takewhile(lambda line: line != "waits is up", stack(broken, waits).run()))
    assert said == {"broken has ended (1) and is started again"}


def test_killed_one_is_started_again_with_nothing_left_of_it(make: Make, stack: Callable[..., Stack], tmp_path: Path) -> None:
    parent = make("parent", HAS_CHILD)
    both = stack(parent, make("other", STAYS))
    until_complete(both)
    other_before = (tmp_path / "other").read_text()
    assert parent.process is not None
    child = int((tmp_path / "parent").read_text())
    (tmp_path / "parent").unlink()
    os.kill(parent.process.pid, signal.SIGKILL)
    lines = (line for line in both.run() if line != compose.COMPLETE)
    assert next(lines) == "parent has ended (-9) and is started again"
    await_gone(child)
    assert next(lines) == "parent is up"
    assert int((tmp_path / "parent").read_text()) != child
    assert (tmp_path / "other").read_text() == other_before


def test_end_leaves_nothing_behind_not_even_what_does_not_listen(
    make: Make, stack: Callable[..., Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "STOP_SECONDS", 0.2)
    running = [make("deaf", DEAF), make("parent", HAS_CHILD)]
    all_of_it = stack(*running)
    until_complete(all_of_it)
    pids = [each.process.pid for each in running if each.process] + [int((tmp_path / "parent").read_text())]
    assert len(pids) == 3
    assert all(map(is_there, pids))
    assert set(json.loads((tmp_path / "state.json").read_text())) == {"deaf", "parent"}
    all_of_it.end()
    await_gone(*pids)
    assert not (tmp_path / "state.json").exists()

"""The services of deploy/compose.yaml as processes of this machine, on loopback: started in their order, watched, started again, ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ingestion_dagster import health
from ingestion_dagster.engine.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 60.0
"""How long a service is waited for without which others can do."""
STOP_SECONDS = 15.0
"""How long a service has to end when it is asked to."""

COMPLETE = "everything is up"
"""The line that `Stack.run` yields once every service has been up."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_LOOK_SECONDS = 0.1
_ASK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Service:
    """One of our own services, as the compose file names it."""

    name: str
    command: tuple[str, ...]
    needs: Mapping[str, bool] = field(default_factory=dict)
    """Which others it waits for; False: for a while, and is started without."""
    stays: bool = True
    """Whether it is started again when it ends. One that does not stay has to succeed, once."""


def read_services(file: Path) -> list[Service]:
    """The services of a compose file that run our own image: those that have a command. The others have stand-ins on a laptop."""
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    ours = {name: entry for name, entry in content.items() if "command" in entry}
    return [
        Service(
            name,
            tuple(entry["command"]),
            {other: need.get("required", True) for other, need in entry.get("depends_on", {}).items() if other in ours},
            entry["restart"] == "unless-stopped",
        )
        for name, entry in ours.items()
    ]


def on_loopback(command: Sequence[str], port: int, workspace: Path) -> list[str]:
    """A service's command as this machine's processes run it: beside this interpreter, at this port of loopback, with this workspace."""
    replaced = {"-h": LOOPBACK, "-p": str(port), "-w": str(workspace)}
    words = [replaced.get(before, word) for before, word in zip(["", *command], command, strict=False)]
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A service as a process: what is run, where it writes, how it is asked whether it is well, and what has become of it."""

    service: Service
    command: list[str]
    url: str
    log: Path
    environment: Mapping[str, str]
    probe: Callable[[], bool]
    process: "subprocess.Popen[bytes] | None" = None
    is_well: bool = False
    is_done: bool = False
    started_at: float = 0.0
    asked_at: float = 0.0
    due_at: float = 0.0
    pause: float = _FIRST_PAUSE

    def start(self, now: float) -> None:
        """Start its process, in a session of its own: its end takes with it what it has started."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.started_at, self.is_well = now, False

    def has_ended(self, now: float) -> int | None:
        """The exit code of a process that is over, which is forgotten then; None while there is none. When it is due again is noted."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.kill()
        self.process, self.is_well = None, False
        self.is_done = not self.service.stays and code == 0
        self.pause = _FIRST_PAUSE if now - self.started_at > self.pause * 4 + 10 else min(self.pause * 2, _LONGEST_PAUSE)
        self.due_at = now + self.pause
        return code

    def becomes_well(self, now: float) -> bool:
        """Whether it is well and was not before. Asked not too often."""
        if self.process is None or self.is_well or not self.service.stays or now - self.asked_at < _ASK_SECONDS:
            return False
        self.asked_at = now
        self.is_well = self.probe()
        return self.is_well

    def ask_to_end(self) -> None:
        """Send it, and what it has started, a signal that ends it in order."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End what is left of it, and wait for that."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Stack:
    """Services that run together. `state` is a file that names process and address of each, for whoever wants to know."""

    def __init__(self, running: Iterable[Running], state: Path) -> None:
        self._running = {each.service.name: each for each in running}
        self._state = state

    def run(self) -> Iterator[str]:
        """Start everything, keep it running for ever, and yield a line for whatever happens.

        Raises `ConfigurationError` if one that has to succeed does not.
        """
        complete = False
        while True:
            now = time.monotonic()
            for each in self._running.values():
                yield from self._attended(each, now)
            if not complete and all(each.is_done or each.is_well for each in self._running.values()):
                complete = True
                yield COMPLETE
            time.sleep(_LOOK_SECONDS)

    def addresses(self) -> dict[str, str]:
        """Where each service answers that does."""
        return {name: each.url for name, each in self._running.items() if each.url}

    def end(self) -> None:
        """End all of them, and what they have started."""
        for each in self._running.values():
            each.ask_to_end()
        deadline = time.monotonic() + STOP_SECONDS
        for each in self._running.values():
            if each.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    each.process.wait(max(0.0, deadline - time.monotonic()))
            each.kill()
        self._state.unlink(missing_ok=True)

    def _attended(self, each: Running, now: float) -> Iterator[str]:
        """What one service needs now: to be started, first or again; or to be asked how it is."""
        name = each.service.name
        if (code := each.has_ended(now)) is not None:
            self._note()
            if each.service.stays:
                yield f"{name} has ended ({code}) and is started again"
            elif code:
                raise ConfigurationError(f"{name} failed ({code}); {each.log} tells why")
        elif each.process is None and not each.is_done and now >= each.due_at and self._may_start(each, now):
            each.start(now)
            self._note()
        elif each.becomes_well(now):
            yield f"{name} is up"

    def _may_start(self, each: Running, now: float) -> bool:
        for name, is_required in each.service.needs.items():
            other = self._running[name]
            waited_enough = not is_required and other.started_at and now - other.started_at > PATIENCE_SECONDS
            if not (other.is_done or other.is_well or waited_enough):
                return False
        return True

    def _note(self) -> None:
        content = {name: {"pid": each.process.pid, "url": each.url} for name, each in self._running.items() if each.process}
        aside = self._state.with_suffix(".new")
        aside.write_text(json.dumps(content), encoding="utf-8")
        aside.replace(self._state)


def running(service: Service, environment: Mapping[str, str], port: int, folder: Path, workspace: Path) -> Running:
    """A service of ours as a process that listens on a port of loopback, and writes into `folder`."""
    command = on_loopback(service.command, port, workspace)
    listens = "-p" in service.command or "serve" in service.command
    scheme = "grpc" if "grpc" in service.command else "http"
    return Running(
        service,
        command,
        f"{scheme}://{LOOPBACK}:{port}" if listens else "",
        folder / f"{service.name}.log",
        environment,
        # The daemon's heartbeats are dear to ask for, and nobody waits for it.
        (lambda: True) if service.command[0] == "dagster-daemon" else lambda: health.is_well(command, port),
    )

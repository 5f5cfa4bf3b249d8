"""Processes of the sandbox's servers: started so that they outlive this one, asked whether they are who they should be, and ended."""

import fcntl
import http.client
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.stand_ins import StandIn


def spawn(command: list[str], log: Path, environment: Mapping[str, str]) -> int:
    """A process in a session of its own, which outlives this one and writes into `log`; its id."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, environment, file_actions=files, setsid=True)


def is_over(pid: int) -> bool | None:
    """Whether a process that this one has started has ended, which is taken note of, so that it leaves nothing behind; None: another's."""
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return None


def kill(server: StandIn, patience: float) -> signal.Signals | None:
    """End a process that is known to be the server's, and wait for that: at first it is asked, and has so many seconds.

    The signal that ended it; None if neither did.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(server.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            over = is_over(server.pid)
            if over or (over is None and not server.runs()):
                return number
            time.sleep(0.02)
    return None


def answer(server: StandIn, path: str, timeout: float) -> dict[str, Any]:
    """What a server says of itself there, as JSON; nothing if it does not answer, or with anything else."""
    parts = urlsplit(server.url)
    with suppress(OSError, ValueError, http.client.HTTPException):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        try:
            connection.request("GET", path)
            found = json.loads(connection.getresponse().read())
            return found if isinstance(found, dict) else {}
        finally:
            connection.close()
    return {}


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Alone among the processes that lock this file. Raises `ConfigurationError` if its folder cannot be used."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("a", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"{file.parent} cannot be used ({error.strerror}): correct that, or set INGESTION_HOME") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

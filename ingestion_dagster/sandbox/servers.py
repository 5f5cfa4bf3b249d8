"""Starting and stopping the sandbox's servers: processes of their own on loopback, known by an address file below the home."""

import os
import secrets
import sys
import time
from collections.abc import Collection
from pathlib import Path

from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.stand_ins import StandIn, address_file, recorded
from ingestion_dagster.sandbox import processes

SERVERS = {
    "dmap": "ingestion_dagster.sandbox.dmap_feed",
    "here_to_help": "ingestion_dagster.sandbox.here_to_help",
    "events_platform": "ingestion_dagster.sandbox.events_platform",
    "api": "ingestion_dagster.api.server",
}
"""The module of each server. It is run with its address file, which it writes once it answers, and with the word it is known by.

The last one is no stand-in, but our own private API, which the platform's stand-in calls back.
"""

OURS = frozenset({"api"})
"""Servers that have the settings of this environment, but for the token: on loopback the stand-in of the platform needs none."""

START_SECONDS = 30.0
STOP_SECONDS = 5.0


def up(home: Path, environment: str = "local", names: Collection[str] | None = None) -> dict[str, str]:
    """Start what does not run yet of the servers named (None: of all), and wait until it answers; the URL of each by its name.

    Raises `ConfigurationError` in production, where nothing stands in for anything, for a name that no server has, and if one does not
    start.
    """
    if environment == "production":
        raise ConfigurationError("production has no sandbox: set the URLs of what it stands in for")
    if unknown := set(names or ()) - set(SERVERS):
        raise ConfigurationError(f"the sandbox has no server {', '.join(sorted(unknown))}; it has {', '.join(SERVERS)}")
    with processes.locked(_lock(home)):
        return {name: _started(home, name, module) for name, module in SERVERS.items() if names is None or name in names}


def down(home: Path) -> list[str]:
    """Stop the servers that `up` has started for this home; their names. Other processes are left alone, whatever an address file says."""
    if not (home / "sandbox").is_dir():
        return []
    with processes.locked(_lock(home)):
        return [name for name in SERVERS if _stopped(home, name)]


def url(home: Path, name: str) -> str | None:
    """Where a server answers; None if it does not run."""
    return stand_ins.url(home, name)


def _started(home: Path, name: str, module: str) -> str:
    running = recorded(home, name)
    ours = _our_settings(home) if name in OURS else {}
    if running:
        if _answers(running) and (name not in OURS or running.settings() in (None, ours)):
            return running.url
        _end(running)
        running.file.unlink(missing_ok=True)
    file = address_file(home, name)
    token = secrets.token_hex(16)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INGESTION_")} | ours
    pid = processes.spawn([sys.executable, "-m", module, str(file), "--token", token], file.with_suffix(".log"), environment)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = recorded(home, name)
        if found and found.pid == pid and _answers(found):
            return found.url
        if processes.is_over(pid):
            break
        time.sleep(0.05)
    else:
        _end(StandIn(file, pid, "", token))
    raise ConfigurationError(f"the sandbox's server '{name}' did not start; {file.with_suffix('.log')} tells why")


def _stopped(home: Path, name: str) -> bool:
    running = recorded(home, name)
    if running is None:
        return False
    ended = _end(running)
    running.file.unlink(missing_ok=True)
    return ended


def _our_settings(home: Path) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name.startswith("INGESTION_") and name != "INGESTION_API_TOKEN"}
    return found | {"INGESTION_HOME": str(home.absolute())}


def _end(server: StandIn) -> bool:
    """End a server and wait for that. False if the process is gone, another's by now, or does not end."""
    if not server.runs() or not (stand_ins.LOOKS_AT_PROCESSES or _answers(server)):
        return False
    return processes.kill(server, STOP_SECONDS) is not None


def _answers(server: StandIn) -> bool:
    """Whether that very server answers there: ports, too, are given to others."""
    return processes.answer(server, "/healthz", timeout=2).get("token") == server.token


def _lock(home: Path) -> Path:
    return home.absolute() / "sandbox" / "lock"

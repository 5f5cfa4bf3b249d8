"""A real OpenSearch node per home folder, on loopback, for tests, laptops and benchmarks: no container, no root needed or refused.

By hand: `python -m ingestion_dagster.sandbox.opensearch start FOLDER` says its URL, `… stop FOLDER` stops it.
"""

import json
import os
import secrets
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.stand_ins import StandIn, address_file, recorded
from ingestion_dagster.sandbox import opensearch_jars, opensearch_node, processes

NAME = "opensearch"
"""What its address file and its folder below the home are called."""

START_SECONDS = 120.0
STOP_SECONDS = 10.0

_LOOK_SECONDS = 0.2  # how often a keeper looks whether the owner is still there


@dataclass(frozen=True, slots=True)
class SearchServer:
    """A node that answers: its base URL without a slash at the end, and its process."""

    url: str
    pid: int


def start(home: Path, *, heap_mb: int = 512, owned: bool = False) -> SearchServer:
    """The node of `home`: attached to if it answers, else started, with all that it keeps in `home/opensearch`.

    It outlives this process, but for one that is started `owned`: that ends soon after this process does, however that ends. `heap_mb` is
    the most that Java's heap takes, in MiB. Raises `ConfigurationError` without Java, if the jars cannot be fetched, or if it does not
    start.
    """
    with processes.locked(_lock(home)):
        running = recorded(home, NAME)
        if running and running.url and _answers(running):
            return SearchServer(running.url, running.pid)
        _ended(home)
        return _started(home, heap_mb, owned)


def stop(home: Path) -> bool:
    """Stop the node of `home`; False if none ran. Another process is left alone, whatever the address file says."""
    if not address_file(home, NAME).exists():
        return False
    with processes.locked(_lock(home)):
        return _ended(home)


def url(home: Path) -> str | None:
    """Where the node of `home` answers; None if it does not run."""
    return stand_ins.url(home, NAME) or None


def _started(home: Path, heap_mb: int, owned: bool) -> SearchServer:
    folder = home.absolute() / NAME
    jars = opensearch_jars.folder()
    archive = _class_archive(jars)
    shared = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
    for options in [shared, []] if shared else [[]]:
        server = _launched(folder, jars, heap_mb, *options)
        keeper = _keeper(server) if owned else None
        # Known from now on: if this process is killed while it waits, whoever comes next ends that node.
        _record(home, server, keeper)
        if answering := _awaited(folder, server):
            _record(home, answering, keeper)
            if options != shared:
                archive.unlink(missing_ok=True)
            return SearchServer(answering.url, answering.pid)
        _ended(home)
    log = folder / "log"
    raise ConfigurationError(f"OpenSearch did not start; the end of its log {log}:\n{_tail(log)}")


def _class_archive(jars: Path) -> Path:
    """What Java has made of the jars' classes, which halves the time and the work of each start. It is made by a first, short run.

    It is not there afterwards where Java cannot make one (before version 13). Java does not survive one that was damaged.
    """
    archive = opensearch_node.class_archive(jars)
    if archive.exists():
        return archive
    with opensearch_jars.locked(), tempfile.TemporaryDirectory(prefix="classes-", dir=jars.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        made = folder / "classes.jsa"
        if not archive.exists():
            server = _launched(folder, jars, 512, f"-XX:ArchiveClassesAtExit={made}")
            keeper = _keeper(server)
            _awaited(folder, server)
            # Killed while it writes, it leaves half a file.
            if _end(server) == signal.SIGTERM and made.exists():
                made.replace(archive)
            _end(keeper)
    return archive


def _launched(folder: Path, jars: Path, heap_mb: int, *options: str) -> StandIn:
    """A node that does not answer yet; its `file` is the log."""
    # By this word the process, and what answers at its port, is known to be this one.
    token = f"sandbox-{secrets.token_hex(16)}"
    opensearch_node.lay_out(folder)
    command = opensearch_node.command(folder, jars, token, heap_mb, *options)
    log = folder / "log"
    return StandIn(log, processes.spawn(command, log, opensearch_node.environment()), "", token)


def _awaited(folder: Path, server: StandIn) -> StandIn | None:
    """The node, once it answers; None if it has ended, or has not answered in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not processes.is_over(server.pid):
        found = StandIn(server.file, server.pid, opensearch_node.published_url(folder), server.token)
        if found.url and _answers(found):
            return found
        time.sleep(0.05)
    return None


def _keeper(server: StandIn) -> StandIn:
    """A process that ends the node when this one is no more."""
    command = [sys.executable, "-m", "ingestion_dagster.sandbox.opensearch", "keep", str(server.pid), server.token, str(os.getpid())]
    return StandIn(
        server.file, processes.spawn(command, server.file.with_name("keeper.log"), opensearch_node.environment()), "", server.token
    )


def _keep(server: StandIn, owner: int) -> None:
    """Wait until the node is gone or this process has lost its parent, the owner; then end the node."""
    while server.runs() and os.getppid() == owner:
        time.sleep(_LOOK_SECONDS)
    if server.runs():
        processes.kill(server, STOP_SECONDS)


def _record(home: Path, server: StandIn, keeper: StandIn | None) -> None:
    file = address_file(home, NAME)
    content = {"pid": server.pid, "url": server.url, "token": server.token, "keeper": keeper.pid if keeper else None}
    written = file.with_suffix(".new")
    written.write_text(json.dumps(content), encoding="utf-8")
    written.replace(file)


def _ended(home: Path) -> bool:
    """End what is on record, and its keeper, which has nothing to do then; False if the node was gone."""
    server = recorded(home, NAME)
    ended = server is not None and _end(server) is not None
    with suppress(OSError, ValueError, KeyError, TypeError):
        if server and (keeper := json.loads(server.file.read_text(encoding="utf-8"))["keeper"]):
            _end(StandIn(server.file, int(keeper), "", server.token))
    address_file(home, NAME).unlink(missing_ok=True)
    return ended


def _end(server: StandIn) -> signal.Signals | None:
    """End a process and wait for that. What ended it; None if it is gone, or another's by now, or does not end."""
    child = processes.is_over(server.pid) is False
    # Where processes cannot be looked at, an id alone is no proof: it is given to others.
    known = stand_ins.LOOKS_AT_PROCESSES or child or (bool(server.url) and _answers(server))
    return processes.kill(server, STOP_SECONDS) if known and server.runs() else None


def _answers(server: StandIn) -> bool:
    """Whether that very node answers there: ports, too, are given to others."""
    return processes.answer(server, "/_cluster/health", timeout=10).get("cluster_name") == server.token


def _tail(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
        return "\n".join(line[:400] for line in file.read().decode("utf-8", errors="replace").splitlines()[-15:])
    return ""


def _lock(home: Path) -> Path:
    return address_file(home, NAME).with_name(f"{NAME}.lock")


def main(arguments: list[str]) -> int:
    """Start or stop the node of a folder by hand; a keeper is started here, too."""
    match arguments:
        case ["start", home]:
            sys.stdout.write(f"{start(Path(home)).url}\n")
        case ["stop", home]:
            sys.stdout.write("stopped\n" if stop(Path(home)) else "none ran\n")
        case ["keep", pid, token, owner]:
            _keep(StandIn(Path(os.devnull), int(pid), "", token), int(owner))
        case _:
            sys.stderr.write("usage: python -m ingestion_dagster.sandbox.opensearch start|stop FOLDER\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

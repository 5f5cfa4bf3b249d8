"""Processes of a pipeline's driver, forked from a server that has imported everything: to be killed, stopped and raced."""

import atexit
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from psycopg import sql
from pydantic import SecretStr

from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings

_ROOT = Path(__file__).parents[2]
_ROOM = 4 * 1024**3


def serve(command: Callable[[str], object]) -> None:
    """Fork for each request on the standard input, and do `command` there; tell of a process once it has ended."""
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = _forked(command, **request)
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer


def _forked(command: Callable[[str], object], name: str, environment: dict[str, str], complaints: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for stream, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
            os.dup2(os.open(os.devnull, mode), stream)
        os.dup2(os.open(complaints, os.O_WRONLY | os.O_CREAT, 0o600), 2)
        os.environ.clear()
        os.environ.update(environment)
        command(name)
        code = 0
    except BaseException:  # noqa: BLE001 - told where this process tells things
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@cache
def _server(module: str) -> "subprocess.Popen[str]":
    server = subprocess.Popen([sys.executable, "-m", module, "serve"], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(_leave, server)
    return server


def _leave(server: "subprocess.Popen[str]") -> None:
    with suppress(OSError):
        server.stdin.close()  # type: ignore[union-attr]
    server.wait(10)
    server.stdout.close()  # type: ignore[union-attr]


def _ask(module: str, request: Mapping[str, Any]) -> Any:
    server = _server(module)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@dataclass
class Process:
    """A driver process: not a child of this one, so that its end is asked for."""

    module: str
    pid: int
    complaints: Path
    database: Database | None
    started: datetime
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that has killed it; None while it lives."""
        if self.code is None:
            self.code = _ask(self.module, {"ended": self.pid})
        return self.code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Wait for it, and for the end of its sessions if it is killed; its exit code and what it complained of.

        One that takes longer is killed.
        """
        deadline = time.monotonic() + seconds
        late = ""
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                late, deadline = f"has not ended after {seconds} s\n", time.monotonic() + 10
            time.sleep(0.01)
        if code < 0 and self.database is not None:
            await_end_of_sessions(self.database, self.started)
        return code, late + self.complaints.read_text()

    def await_sleep(self, seconds: float = 30) -> None:
        """Wait until it has fallen asleep."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return
            assert time.monotonic() < deadline, "does not fall asleep"
            time.sleep(0.01)
        raise AssertionError(f"ended ({self.code}) instead of falling asleep: {self.complaints.read_text()}")


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment in which a process finds these settings."""
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith("INGESTION_")}
    for variable, value in settings.model_dump(exclude_unset=True).items():
        environment[f"INGESTION_{variable.upper()}"] = _as_variable(value)
    return environment


def _as_variable(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def start(module: str, settings: Settings, name: str, *, fault: str | None = None, **more: str) -> Process:
    """A process of a driver module under these settings, and `more` variables.

    `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`.
    """
    environment = environment_of(settings) | more
    if fault is not None:
        environment["INGESTION_TEST_FAULT"] = fault
    complaints = Path(tempfile.gettempdir()) / f"driver-{uuid.uuid4().hex}"
    complaints.touch()
    atexit.register(complaints.unlink, missing_ok=True)
    url = environment.get("INGESTION_DATABASE_URL")
    started = datetime.now(UTC)
    pid = _ask(module, {"name": name, "environment": environment, "complaints": str(complaints)})
    return Process(module, pid, complaints, Database.at(url) if url else None, started)


def run_until_killed(script: str, fault: str, *arguments: str, environment: Mapping[str, str] = os.environ) -> None:
    """Run a script of Python on the database of this environment until it is killed at a fault point; wait for the end of its sessions."""
    started = datetime.now(UTC)
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**environment, "INGESTION_TEST_FAULT": fault},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    await_end_of_sessions(Database.at(environment["INGESTION_DATABASE_URL"]), started)


def await_end_of_sessions(database: Database, since: datetime, seconds: float = 1) -> None:
    """Wait until the server has noticed that a process that was started then is dead: until it has, it keeps the locks of the dead.

    What else has begun a session since then is waited for as well, no longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    sessions = """
        SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND backend_start >= %s AND pid <> pg_backend_pid()
    """
    with database.connect() as connection:
        while connection.execute(sessions, [since]).fetchone() != (0,) and time.monotonic() < deadline:
            time.sleep(0.01)


def await_leases(database: Database) -> None:
    """Wait until no load is leased any more, also by a renewal that was on its way when its sender fell asleep."""
    over = """
        SELECT pg_sleep_until(max(lease_until) + interval '10 ms') FROM ledger.loads
        WHERE status NOT IN ('archived', 'errored') HAVING max(lease_until) > clock_timestamp()
    """
    with database.connect() as connection:
        while connection.execute(over).rowcount:
            pass


def await_end_of_idle_transactions(database: Database, seconds: float = 1.5) -> None:
    """Wait until the server has ended what a sleeper has begun, if it does: rows that it has locked are passed over until then."""
    deadline = time.monotonic() + seconds
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    with database.connect() as connection:
        while connection.execute(idle).fetchone() != (0,) and time.monotonic() < deadline:
            time.sleep(0.05)


# Without triggers, foreign keys do not ask for an order. Where nothing was ever written, there is nothing to delete: most tables.
_EMPTY = sql.SQL("""
DO $$
DECLARE
    written regclass;
BEGIN
    PERFORM set_config('session_replication_role', 'replica', true);
    FOR written IN
        SELECT oid FROM pg_class
        WHERE relnamespace = ANY({schemas}::regnamespace[]) AND relkind = 'r' AND relname <> 'alembic_version' AND pg_relation_size(oid) > 0
    LOOP
        EXECUTE format('DELETE FROM %s', written);
    END LOOP;
END $$
""")


def emptied(database: Database, *schemas: str) -> Database:
    """The same database without a row in the tables of these schemas, which are all there."""
    with database.connect() as connection:
        connection.execute(_EMPTY.format(schemas=sql.Literal(list(schemas))))
    return database


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder for an installation; in memory where there is room, for waiting for the disk is most of a small load."""
    in_memory = Path("/dev/shm")
    room = os.access(in_memory, os.W_OK) and shutil.disk_usage(in_memory).free > _ROOM
    with tempfile.TemporaryDirectory(dir=in_memory if room else None, prefix="driver-") as folder:
        yield Path(folder)

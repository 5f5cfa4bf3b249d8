"""The daily file, pulled from an SFTP server into the landing zone: whole, once, and from nobody but the server that is meant."""

import asyncio
import hmac
import logging
import os
import posixpath
import re
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import asyncssh

from ingestion_dagster.engine import pauses
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.object_store import ObjectStore
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.expected import expected_on
from ingestion_dagster.life_events.registry import PIPELINE
from ingestion_dagster.settings import Settings

NOT_THERE_YET = "sftp_not_there_yet"
STILL_CHANGING = "sftp_still_changing"
IN_PROGRESS = "sftp_in_progress"
NOT_YET = frozenset({NOT_THERE_YET, STILL_CHANGING, IN_PROGRESS})
"""Codes of what another look, later, may find otherwise; nothing is wrong."""
UNAVAILABLE = "sftp_unavailable"
SCRATCH_UNUSABLE = "sftp_scratch_unusable"
TOO_LARGE = "file_too_large"

ATTEMPTS = 3
"""How often a pull is begun that breaks off."""

PAUSE_SECONDS = 2.0
"""Before the second attempt; doubled before each after it."""

_CONNECT_SECONDS = 15
_LOGIN_SECONDS = 30
_SILENCE_SECONDS = 60
_WHOLE_SECONDS = 3600
_WINDOW = 2 << 20
_ASIDE = "life-events-pull-"
_LEFT_SECONDS = 600
_LATEST = 253_402_300_799
_LOCK = 0x1A6E5711
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
# A server shows one host key of several, by what the client says it knows: the pinned one is asked for kind by kind.
_HOST_KEYS = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
_HAS_IT = """
SELECT EXISTS (
    SELECT FROM ledger.loads
     WHERE pipeline = %(pipeline)s AND landing_zone = %(zone)s AND key = %(key)s AND size = %(size)s
       AND (modified = %(modified)s OR (%(dated_by_arrival)s AND modified > %(modified)s))
)
"""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A file that has been put into the landing zone: its key there, and its size in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class _Server:
    host: str
    port: int
    user: str
    key: asyncssh.SSHKey = field(repr=False)
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file there, how it is made ours, and within which bounds."""

    path: str
    aside: Path
    max_bytes: int
    settle_seconds: float
    is_known: Callable[[int, datetime], bool]


@dataclass(frozen=True, slots=True)
class _Seen:
    size: int
    modified: datetime


class _Broken(Exception):
    """A connection failed in a way that another may not; its text is the kind of failure."""


class _Pinned(asyncssh.SSHClient):
    """A client that takes one host key for the server's, and no other."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002 - asyncssh's interface
        """Whether it is the pinned key. Asked before anything of us has been sent."""
        return hmac.compare_digest(key.get_fingerprint("sha256"), self._fingerprint)


def pull(connection: Connection, settings: Settings, day: date, landing: ObjectStore) -> Pulled | None:
    """Put the file of that day, as the server has it now, into the landing zone; the server's stays where it is.

    None if there is nothing to pull: no server is set, no file is due, or what is there has been landed before (same name, size and
    time; by the ledger and the landing zone, so that a file which has been loaded is not pulled again). Raises `Transient`
    (`sftp_not_there_yet`, `sftp_still_changing`, `sftp_in_progress`: another process is at it, `sftp_unavailable` after several attempts,
    `sftp_scratch_unusable`, and what the landing zone raises), `Refused` (`file_too_large`), and `ConfigurationError` if settings are
    missing or the server is another one or does not know us. None of their messages quotes the server.
    """
    expected = expected_on(settings, day)
    if settings.life_events_sftp_host is None or expected is None:
        return None
    server = _server(settings)
    # It tells of every connection and of what servers say, at a level that is shown.
    asyncssh.set_log_level(logging.WARNING)
    with _alone(connection), _scratch(landing) as aside:
        wanted = _Wanted(
            posixpath.join(settings.life_events_sftp_folder, expected.name),
            aside,
            settings.life_events_max_file_bytes,
            settings.settle_seconds,
            lambda size, modified: _is_known(connection, landing, expected.name, size, modified),
        )
        seen = asyncio.run(_fetch(server, wanted))
        if seen is None:
            return None
        fault_point("life_events.pull.before")
        landing.take(aside, expected.name)
        landing.flush()
        fault_point("life_events.pull.after")
        return Pulled(expected.name, seen.size)


def _server(settings: Settings) -> _Server:
    needed = ("user", "private_key", "host_fingerprint")
    if missing := [f"INGESTION_LIFE_EVENTS_SFTP_{name.upper()}" for name in needed if not getattr(settings, f"life_events_sftp_{name}")]:
        raise ConfigurationError(f"no file can be pulled from the SFTP server: set {', '.join(missing)}")
    assert settings.life_events_sftp_host
    assert settings.life_events_sftp_user
    assert settings.life_events_sftp_private_key
    assert settings.life_events_sftp_host_fingerprint
    fingerprint = settings.life_events_sftp_host_fingerprint.strip()
    if _FINGERPRINT.fullmatch(fingerprint) is None:
        raise ConfigurationError(
            "INGESTION_LIFE_EVENTS_SFTP_HOST_FINGERPRINT is no SHA256:… fingerprint; 'ssh-keygen -lf' shows it where the server runs"
        )
    try:
        # Where a variable cannot hold line breaks, they are written as \n.
        key = asyncssh.import_private_key(settings.life_events_sftp_private_key.get_secret_value().replace("\\n", "\n"))
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError):
        raise ConfigurationError(
            "INGESTION_LIFE_EVENTS_SFTP_PRIVATE_KEY is no private key (OpenSSH or PEM), or one with a passphrase"
        ) from None
    return _Server(
        settings.life_events_sftp_host,
        settings.life_events_sftp_port,
        settings.life_events_sftp_user,
        key,
        fingerprint.rstrip("="),
    )


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    if connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
        raise Transient(IN_PROGRESS, "another process is pulling from the SFTP server")
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


@contextmanager
def _scratch(landing: ObjectStore) -> Iterator[Path]:
    """A file aside that nobody else can read, and that is gone afterwards; so is what a pull that was killed has left behind."""
    folder = landing.scratch()
    for left in folder.glob(f"{_ASIDE}*"):
        with suppress(FileNotFoundError):
            # The folder may be shared with installations that pull on their own.
            if left.stat().st_ctime < time.time() - _WHOLE_SECONDS * ATTEMPTS - _LEFT_SECONDS:
                left.unlink()
    aside = folder / f"{_ASIDE}{token_hex(8)}"
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _is_known(connection: Connection, landing: ObjectStore, key: str, size: int, modified: datetime) -> bool:
    """Whether what is there has been landed: a folder keeps its time; a bucket dates by arrival, so that what is later holds the change."""
    standing = landing.find(key)
    if standing is not None and standing.size == size and _is_of(standing.modified, modified, by_arrival=landing.dated_by_arrival):
        return True
    parameters = {"pipeline": PIPELINE, "zone": landing.url, "key": key, "size": size, "modified": modified}
    row = connection.execute(_HAS_IT, parameters | {"dated_by_arrival": landing.dated_by_arrival}).fetchone()
    assert row is not None
    return bool(row[0])


def _is_of(landed: datetime, modified: datetime, *, by_arrival: bool) -> bool:
    return landed >= modified if by_arrival else landed == modified


async def _fetch(server: _Server, wanted: _Wanted) -> _Seen | None:
    """Write the file aside, with its time; None if it is known. Attempts that break off are repeated."""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(pauses.after(attempt, first=PAUSE_SECONDS))
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                return await _attempt(server, wanted)
        except _Broken as broken:
            kind = str(broken)
        except TimeoutError:
            kind = "it takes too long"
    raise Transient(UNAVAILABLE, f"the SFTP server {server.host}:{server.port} was asked {ATTEMPTS} times; the last time: {kind}")


async def _attempt(server: _Server, wanted: _Wanted) -> _Seen | None:
    clock = asyncio.get_running_loop().time
    with _faults():
        async with _connected(server) as connection:
            async with asyncio.timeout(_SILENCE_SECONDS):
                client = await connection.start_sftp_client()
                remote = await client.open(wanted.path, "rb")
                seen = _looked_at(await remote.stat())
            if seen.size > wanted.max_bytes:
                raise Refused(Problem(TOO_LARGE, "the whole file", "larger than INGESTION_LIFE_EVENTS_MAX_FILE_BYTES; not pulled"))
            if wanted.is_known(seen.size, seen.modified):
                return None
            begun = clock()
            await _download(remote, wanted.aside, seen)
            # A writer who pauses is given as long as one who drops files into a folder.
            await asyncio.sleep(max(0.0, wanted.settle_seconds - (clock() - begun)))
            async with asyncio.timeout(_SILENCE_SECONDS):
                if _looked_at(await client.stat(wanted.path)) != seen:
                    raise Transient(STILL_CHANGING, "the file has changed on the SFTP server while it was pulled; it is pulled again later")
            return seen


@asynccontextmanager
async def _connected(server: _Server) -> AsyncIterator[Any]:
    """A connection to the server with the pinned key. Raises `ConfigurationError` if there is none there."""
    for algorithms in _HOST_KEYS:
        try:
            connection = await asyncssh.connect(
                server.host,
                server.port,
                config=None,
                client_factory=lambda: _Pinned(server.fingerprint),
                known_hosts=lambda _host, _addr, _port: ([], [], []),
                server_host_key_algs=algorithms,
                username=server.user,
                client_keys=[server.key],
                agent_path=None,
                preferred_auth="publickey",
                gss_kex=False,
                gss_auth=False,
                connect_timeout=_CONNECT_SECONDS,
                login_timeout=_LOGIN_SECONDS,
                keepalive_interval=_SILENCE_SECONDS / 4,
                keepalive_count_max=3,
            )
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed):
            continue
        try:
            yield connection
        finally:
            connection.abort()
            await connection.wait_closed()
        return
    raise ConfigurationError(
        "the SFTP server shows no host key with INGESTION_LIFE_EVENTS_SFTP_HOST_FINGERPRINT, by no algorithm in use, and was told nothing: "
        "ask those who run it whether their key has changed, then set the new fingerprint"
    )


@contextmanager
def _faults() -> Iterator[None]:
    """Turns what asyncssh says into what this project says, without a word of the server's."""
    try:
        yield
    except asyncssh.PermissionDenied:
        raise ConfigurationError("the SFTP server does not let INGESTION_LIFE_EVENTS_SFTP_USER in with this private key") from None
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        raise Transient(NOT_THERE_YET, "the file is not there yet, or INGESTION_LIFE_EVENTS_SFTP_FOLDER is not") from None
    except asyncssh.SFTPPermissionDenied:
        raise ConfigurationError("the SFTP server does not let INGESTION_LIFE_EVENTS_SFTP_USER read the file") from None
    except (asyncssh.Error, OSError) as error:
        raise _Broken(type(error).__name__) from None


def _looked_at(attributes: Any) -> _Seen:
    if attributes.size is None or attributes.mtime is None or not stat.S_ISREG(attributes.permissions or stat.S_IFREG):
        raise ConfigurationError("what is under the file's name on the SFTP server is no file, or has no size and time")
    return _Seen(attributes.size, datetime.fromtimestamp(min(max(attributes.mtime, 0), _LATEST), UTC))


async def _download(remote: Any, aside: Path, seen: _Seen) -> None:
    """Write it aside, a window at a time, whose blocks asyncssh asks for side by side; memory does not go by the file's size."""
    received = 0
    with _writing():
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        while received < seen.size:
            async with asyncio.timeout(_SILENCE_SECONDS):
                window = await remote.read(min(_WINDOW, seen.size - received), received)
            if not window:
                break
            with _writing():
                received += _write(file, window)
        with _writing():
            os.utime(file, (seen.modified.timestamp(),) * 2)
    finally:
        os.close(file)
    if received != seen.size:
        raise Transient(STILL_CHANGING, "the file has become shorter on the SFTP server while it was pulled; it is pulled again later")


def _write(file: int, content: bytes) -> int:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
    return len(content)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Transient(SCRATCH_UNUSABLE, f"the landing zone's folder for unfinished files: {os.strerror(error.errno or 0)}") from None

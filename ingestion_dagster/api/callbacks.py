"""Telling whoever asked for a task of its end: one signed POST to a host that is allowed, at an address that was looked at."""

import hashlib
import hmac
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import orjson

from ingestion_dagster.api.access import is_loopback
from ingestion_dagster.catalog import tasks
from ingestion_dagster.catalog.tasks import Task
from ingestion_dagster.engine import pauses
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.own_key import own_key
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

TIMESTAMP_HEADER, SIGNATURE_HEADER = "X-Ingestion-Timestamp", "X-Ingestion-Signature"

ATTEMPTS = 5
SECONDS = 5.0
"""For each of connecting, and waiting for a part of the answer."""
LONGEST_SECONDS = 15.0
"""For one attempt in all, however slowly its answer comes in."""
MOST_URL_LENGTH = 2000

_AGAIN = {408, 425, 429}
_UNTOLD = "failed"

Resolve = Callable[[str, int], list[str]]
"""The addresses of a host. Raises `OSError` if it has none."""


class NotAllowed(Exception):
    """An address that is not called back; the message says why, without the address."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls back the hosts that settings allow, signed with their key."""

    allowed: frozenset[str]
    key: bytes
    resolve: Resolve
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time

    @classmethod
    def of(cls, settings: Settings) -> "Caller":
        """As the settings say; the key is made if there is none. Raises `ConfigurationError` for a key that cannot be read."""
        if settings.api_callback_key is not None:
            key = settings.api_callback_key.get_secret_value()
        else:
            key = own_key(settings.home_folder / "api-callback.key", "set INGESTION_API_CALLBACK_KEY")
        return cls(allowed_hosts(settings), key.encode(), addresses)

    def send(self, url: str, task: Task) -> str:
        """Tell of a task's end; what became of it, in words: `delivered (204)`, or `failed (…)`. Raises nothing."""
        body = orjson.dumps(
            {
                "task_id": task.id,
                "action": task.action,
                "model": task.model,
                "status": "failed" if task.has_failed else "succeeded",
                "error": task.error,
            }
        )
        why = "not tried"
        for attempt in range(ATTEMPTS):
            if attempt:
                self.sleep(pauses.after(attempt, first=1.0))
            try:
                status = self._post(url, body)
            except NotAllowed as error:
                return f"{_UNTOLD} ({error})"
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = type(error).__name__
                continue
            if 200 <= status < 300:
                return f"delivered ({status})"
            why = f"answered {status}"
            if status < 500 and status not in _AGAIN:
                return f"{_UNTOLD} ({why})"
        return f"{_UNTOLD} ({why}, {ATTEMPTS} times)"

    def _post(self, url: str, body: bytes) -> int:
        """The status of one POST. A redirect is an answer as any other: it is not followed."""
        parts = check_url(url, self.allowed)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = self.resolve(host, port)
        if not found or not all(may_be_at(host, address, self.allowed) for address in found):
            raise NotAllowed("the host's address is one that is not called back")
        timestamp = str(int(self.clock()))
        headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": "ingestion",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: signature(self.key, timestamp, body),
        }
        connection = _Pinned(host, found, port, tls=parts.scheme == "https")
        cut = threading.Timer(LONGEST_SECONDS, connection.cut)
        cut.start()
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body, headers)
            status = connection.getresponse().status
            if connection.is_cut:
                raise TimeoutError
            return status
        finally:
            cut.cancel()
            connection.close()


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """What the signature header holds: HMAC-SHA256 of the timestamp (seconds since 1970, decimal), a full stop, and the body."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Hosts that may be called back, and addresses or networks that they may have though these are not public, in small letters.

    None named: loopback alone, on any port.
    """
    named = (host.strip().lower() for host in (settings.api_callback_hosts or "").split(","))
    return frozenset(host for host in named if host)


def check_url(url: str, allowed: frozenset[str]) -> SplitResult:
    """The parts of a callback's address. Raises `NotAllowed` for one that is not called back."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NotAllowed("it is no address") from None
    is_plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url and len(url) <= MOST_URL_LENGTH
    if not is_plain or parts.scheme not in ("http", "https") or not host or port == 0:
        raise NotAllowed("it is no http or https address")
    if parts.username is not None or parts.password is not None:
        raise NotAllowed("it names a user: callbacks are signed instead")
    if not (host in allowed or (not allowed and is_loopback(host))):
        raise NotAllowed("its host is none that may be called back; INGESTION_API_CALLBACK_HOSTS names those")
    return parts


def addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system finds them."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def may_be_at(host: str, address: str, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether a host may have an address: a public one, or one that is allowed by itself or with its network.

    Loopback is for what is called so, and nobody is behind those of links and groups.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback or is_loopback(host):
        return found.is_loopback and is_loopback(host)
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        return False
    if any(found in network for network in _networks(allowed)):
        return True
    return found.is_global and not found.is_reserved and not any(found in wrapping for wrapping in _WRAPPING)


_WRAPPING = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""Networks whose addresses hold one of IPv4, of whatever kind (NAT64, 6to4, Teredo)."""


def _networks(allowed: frozenset[str]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for each in allowed:
        with suppress(ValueError):
            yield ipaddress.ip_network(each.strip("[]"), strict=False)


class _Pinned(http.client.HTTPConnection):
    """A connection to one of the addresses that were looked at, which answers to the name of its host."""

    def __init__(self, host: str, found: Sequence[str], port: int, *, tls: bool) -> None:
        super().__init__(host, port, timeout=SECONDS)
        self._addresses = found
        self._context = ssl.create_default_context() if tls else None
        self.is_cut = False

    def cut(self) -> None:
        """End it from another thread, whatever it waits for: then it fails."""
        self.is_cut = True
        if self.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def connect(self) -> None:
        """Connect to the first that answers, and to no other address."""
        self.sock = plain = self._connected()
        if self.is_cut:
            raise TimeoutError
        if self._context is None:
            return
        try:
            # Its handshake can be cut, too.
            self.sock = encrypted = self._context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
            encrypted.do_handshake()
        except BaseException:
            plain.close()
            raise

    def _connected(self) -> socket.socket:
        for address in self._addresses[:-1]:
            with suppress(OSError):
                return socket.create_connection((address, self.port), SECONDS)
        return socket.create_connection((self._addresses[-1], self.port), SECONDS)


def tell(connection: Connection, caller: Caller, task_id: str) -> str | None:
    """Tell of a task that has ended, unless that was done, or somebody else is at it; what became of it.

    A process that is killed between telling and noting it has the next one tell again: once is noted, twice may be heard.
    """
    with tasks.held(connection, task_id) as is_held:
        task = tasks.get(connection, task_id)
        if not is_held or task.state not in ("succeeded", "failed") or task.callback_url is None or task.called_back_at is not None:
            return None
        fault_point("catalog.callback.before")
        outcome = caller.send(task.callback_url, task)
        fault_point("catalog.callback.after")
        tasks.called(connection, task_id, outcome)
    log.info("task %s: callback %s", task_id, outcome)
    return outcome

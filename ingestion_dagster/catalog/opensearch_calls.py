"""Calls of a search cluster's API: tried again while that may help, and told apart by what the caller can do about a failure."""

import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import opensearchpy
import orjson
from opensearchpy.connection import Urllib3HttpConnection
from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import ImproperlyConfigured, SerializationError, TransportError

from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient

UNAVAILABLE, OVERLOADED, READ_ONLY = "search_unavailable", "search_overloaded", "index_read_only"

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 20.0
LONGEST_REQUEST = 60.0
"""Seconds."""

_CONNECTIONS = 16
_NDJSON = "application/x-ndjson"


class Failed(Exception):
    """A call came to nothing, and another may not. `code` is what it ends in when patience does."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class Answered(Exception):
    """The cluster has answered that it will not do it: HTTP status, and type and reason of its error. The reason may hold values."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(f"{status} {kind}")
        self.status = status
        self.kind = kind
        self.reason = reason

    def refused(self) -> Refused:
        """What to raise where it means nothing in particular."""
        message = f"the search cluster answered {self.status} ({self.kind}); its log says more"
        return Refused(Problem("search_refused", "search cluster", message))


class Patience:
    """How long the cluster is waited for: until it has got nothing done for so many seconds."""

    def __init__(self, waiting: "Waiting") -> None:
        self._waiting = waiting
        self.retries = 0
        self._in_a_row = 0
        self._since = waiting.clock()

    @property
    def left(self) -> float:
        """Seconds."""
        return self._since + self._waiting.seconds - self._waiting.clock()

    def progressed(self) -> None:
        """Something was done: it begins anew."""
        self._in_a_row = 0
        self._since = self._waiting.clock()

    def wait(self, failed: Failed) -> None:
        """Make a pause before another attempt. Raises `Transient` when it would be too long."""
        pause = self._waiting.chance() * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self._in_a_row)
        if pause >= self.left:
            raise Transient(failed.code, f"{failed.message}; nothing was done for {self._waiting.seconds:g} s") from None
        self.retries += 1
        self._in_a_row += 1
        self._waiting.sleep(pause)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How attempts are spread: patience in seconds, and the clock, the pauses and the chance behind it."""

    seconds: float = 120
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class Calls:
    """The API of a cluster. Safe to share between threads."""

    client: opensearchpy.OpenSearch = field(repr=False)
    waiting: Waiting

    @classmethod
    def at(cls, url: str, waiting: Waiting) -> "Calls":
        """The API at a URL, which may hold user and password. Nothing is asked yet. Raises `ConfigurationError`."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 9200)
        except ValueError:
            raise _no_url() from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise _no_url()
        host: dict[str, Any] = {"host": parts.hostname, "port": port, "use_ssl": parts.scheme == "https"}
        if parts.path.strip("/"):
            host["url_prefix"] = parts.path.strip("/")
        login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        options: dict[str, Any] = {"verify_certs": True} if parts.scheme == "https" else {}
        options |= {"connection_class": _Quiet, "max_retries": 0, "timeout": LONGEST_REQUEST, "pool_maxsize": _CONNECTIONS}
        try:
            client = opensearchpy.OpenSearch([host], http_auth=login, **options)
        except ImproperlyConfigured as error:
            raise ConfigurationError(f"the search cluster cannot be reached by TLS: {error}") from None
        return cls(client, waiting)

    def ask(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """The answer to a call that may be made twice: JSON, or for HEAD whether it is there.

        Raises `Answered` for what the cluster will not do, `Transient`, and `ConfigurationError` for keys that it does not take.
        """
        patience = self.patience()
        while True:
            try:
                return self.once(method, path, body, patience.left, **params)
            except Failed as failed:
                patience.wait(failed)

    def patience(self) -> Patience:
        """A fresh one."""
        return Patience(self.waiting)

    def once(self, method: str, path: str, body: Any = None, seconds: float = LONGEST_REQUEST, **params: Any) -> Any:
        """As `ask`, without another attempt: raises `Failed` for what one may help. A body of bytes is newline-delimited JSON as it is."""
        headers = {"content-type": _NDJSON if isinstance(body, bytes) else "application/json"}
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        timeout = max(1.0, min(LONGEST_REQUEST, seconds))
        try:
            return self.client.transport.perform_request(
                method, path, params={**params, "request_timeout": timeout}, body=data, headers=headers
            )
        except TransportError as error:
            raise _told_apart(error) from None
        except (SerializationError, UnicodeDecodeError):
            raise Failed(UNAVAILABLE, "the search cluster's answer cannot be read") from None

    def close(self) -> None:
        """Give back connections."""
        self.client.close()


class _Quiet(Urllib3HttpConnection):  # type: ignore[misc,unused-ignore]
    """Logs nothing of its own: its messages hold bodies, and so documents; who asked tells what failed."""

    def log_request_success(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def log_request_fail(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def path(*parts: str) -> str:
    """The path of an address out of names."""
    return "".join("/" + quote(part, safe="") for part in parts)


def reported(status: int, error: Any) -> Exception:
    """What an error of the API is, of a whole answer or of one item of it: `Failed`, `Answered`, `Transient` or `ConfigurationError`."""
    details: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    kind, reason = str(details.get("type") or "unknown"), str(details.get("reason") or "")
    if kind == "index_create_block_exception" or (kind == "cluster_block_exception" and status in (403, 429)):
        return Transient(
            READ_ONLY,
            "the search cluster takes no writes, most often because a disk is nearly full: free disk space, see that the blocks are gone "
            "(index.blocks, cluster.blocks), and run again",
        )
    if status == 429:
        return Failed(OVERLOADED, "the search cluster asks for fewer requests (429)")
    if status == 408 or status >= 500:
        return Failed(UNAVAILABLE, f"the search cluster answered {status} ({kind})")
    if status in (401, 403):
        return ConfigurationError(
            f"the search cluster does not let us ({status}): see user, password and rights in INGESTION_CATALOG_SEARCH_URL"
        )
    return Answered(status, kind, reason)


def _told_apart(error: TransportError) -> Exception:
    if isinstance(error, NoConnection):
        if any(isinstance(part, ssl.SSLCertVerificationError) for part in getattr(error.info, "args", ())):
            return ConfigurationError("the certificate of the search cluster is not one that this machine trusts")
        return Failed(UNAVAILABLE, f"the search cluster could not be reached, or broke off ({type(error.info).__name__})")
    status = error.status_code if isinstance(error.status_code, int) else 0
    info = error.info if isinstance(error.info, Mapping) else {}
    return reported(status, info.get("error"))


def _no_url() -> ConfigurationError:
    return ConfigurationError("INGESTION_CATALOG_SEARCH_URL names no search cluster; it reads https://host:9200")

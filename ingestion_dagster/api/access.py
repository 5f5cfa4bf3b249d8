"""Who may ask the private API, how often and how much: everything that is decided before a request is looked at."""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import math
import re
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.life_events.requests import Caller, correlation_id
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

HEALTH = "/healthz"
"""The one path that is open to everybody."""

MOST_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
CORRELATION_HEADERS = ("CorrelationID", "X-Correlation-ID")

_MOST_CLIENTS = 10_000
_SOON = 1e-6
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:\d{1,5})?")
"""What a Host header can be."""
_CATALOGUE = re.compile(r"/|/(task|stat)(/.*)?|/state|/worker_finished")

MESSAGES = {
    400: "the request cannot be read",
    401: "a bearer token is needed, and this is none",
    404: "nothing here goes by that name",
    405: "the path does not take that method",
    408: "the body did not come",
    413: f"a body has {MOST_BODY_BYTES} bytes at most",
    421: "this API answers on loopback only",
    422: 'the body has to be the JSON object {"id": "…"}, its type application/json',
    429: "too many requests; wait as long as Retry-After says",
    500: "the request was not answered, by our own fault",
    503: "the request cannot be answered now; ask again",
}
"""What callers are told, by status. It never depends on what they sent, nor on what went wrong here."""


def message_body(status: int, path: str = "") -> bytes:
    """The body of an answer that is none: `{"status", "userMessage"}`; of a route of the catalogue `{"message"}`."""
    message = MESSAGES.get(status, "the request was refused")
    if _CATALOGUE.fullmatch(path):
        return orjson.dumps({"message": message})
    return orjson.dumps({"status": status, "userMessage": message})


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_binding(settings: Settings, host: str) -> None:
    """Raises `ConfigurationError` if the API would be open to others, and has no token."""
    if settings.api_token is None and not is_loopback(host):
        raise ConfigurationError(
            f"without a token the private API listens on loopback only: set INGESTION_API_TOKEN, or INGESTION_API_HOST to 127.0.0.1 "
            f"instead of {host}"
        )


class RateLimit:
    """A bucket of tokens for each client: as many requests at once as it may make in a second, and as many each second."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When a client's bucket is full again; those longest unseen are forgotten first."""

    def take(self, client: str) -> float:
        """0 if the client may go on; else the seconds until it may."""
        now = self._clock()
        full_at = max(self._full_at.pop(client, now), now)
        wait = full_at - now - (self._burst - 1) / self._per_second
        if wait <= _SOON:
            wait = 0.0
            full_at += 1 / self._per_second
        self._full_at[client] = full_at
        if len(self._full_at) > _MOST_CLIENTS:
            self._full_at.popitem(last=False)
        return wait


@dataclass(frozen=True, slots=True)
class _No:
    """A request that is refused unread."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()


class Access:
    """The door: refuses what may not ask or asks too much, names who asks (`scope["state"]["caller"]`), and answers for what breaks behind.

    A body is read whole before anything is made of it. Every answer bears the request's correlation id.
    """

    def __init__(self, app: ASGIApp, token: SecretStr | None, limit: RateLimit) -> None:
        self._app = app
        self._token = _digest(token.get_secret_value().encode()) if token else None
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name, given = next(((name, headers[name]) for name in CORRELATION_HEADERS if name in headers), (CORRELATION_HEADERS[0], None))
        answer = _Answer(send, scope["path"], name, correlation_id(given))
        peer = str(scope["client"][0]) if scope.get("client") else "unknown"
        allowed = self._decide(scope, headers, peer)
        if isinstance(allowed, _No):
            await answer.refuse(allowed)
            return
        body = await _body(headers, receive)
        if isinstance(body, _No):
            await answer.refuse(body)
            return
        scope.setdefault("state", {})["caller"] = Caller(allowed, answer.correlation_id)
        try:
            await self._app(scope, _replayed(body, receive), answer.send)
        except Exception as error:  # noqa: BLE001 - its text may quote what was being handled
            log.error("request %s: %s at %s", answer.correlation_id, type(error).__name__, _place(error))
            if not answer.has_begun:
                await answer.refuse(_No(500))

    def _decide(self, scope: Scope, headers: Headers, peer: str) -> str | _No:
        """By what name a request may go on, or why not."""
        if self._token is None and not _is_for_loopback(headers):
            return _No(421)
        if scope["path"] == HEALTH:
            return peer
        known = self._token is not None and hmac.compare_digest(_digest(_bearer(headers)), self._token)
        client = "token" if known else peer
        wait = self._limit.take(client)
        if wait:
            return _No(429, (("Retry-After", str(math.ceil(wait))),))
        if self._token is not None and not known:
            return _No(401, (("WWW-Authenticate", "Bearer"),))
        return client


class _Answer:
    """What is sent back, with the correlation id."""

    def __init__(self, send: Send, path: str, header: str, correlation: str) -> None:
        self._send = send
        self._path = path
        self._header = header
        self.correlation_id = correlation
        self.has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers[self._header] = self.correlation_id
            headers["Cache-Control"] = "no-store"
            headers["X-Content-Type-Options"] = "nosniff"
        await self._send(message)

    async def refuse(self, no: _No) -> None:
        body = message_body(no.status, self._path)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **dict(no.headers)}
        if no.status in (408, 413):
            headers["Connection"] = "close"
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": no.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


async def _body(headers: Headers, receive: Receive) -> bytes | _No:
    """The whole body, if it is not too large and comes in time."""
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:12]) > MOST_BODY_BYTES:
        return _No(413)
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return _No(400)
                parts.append(message.get("body", b""))
                if sum(map(len, parts)) > MOST_BODY_BYTES:
                    return _No(413)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return _No(408)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body that was read, then goes on as before."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _is_for_loopback(headers: Headers) -> bool:
    """Whether a request names this machine as its host: a page from elsewhere that has its name lead here does not."""
    hosts = headers.getlist("host")
    parts = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return parts is not None and is_loopback(parts[1])


def _bearer(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _digest(token: bytes) -> bytes:
    """Of one length, whatever is given."""
    return hashlib.sha256(token).digest()


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"

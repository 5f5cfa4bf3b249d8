"""A pooled HTTP client: tries again what may pass, waits as long as it is asked to, and tells nobody addresses or keys.

Addresses may be signed and headers may hold keys, so what this module raises names neither: the caller knows whom it asked.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from ingestion_dagster.engine.breaker import UNAVAILABLE, Breaker
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.pauses import asked_for
from ingestion_dagster.engine.public_addresses import Forbidden, PublicResolver, may_be_asked
from ingestion_dagster.engine.rate import Rate

T = TypeVar("T")

Receive = Callable[[aiohttp.ClientResponse], Awaitable[T]]
"""Takes an answer, body and all. Raises `Transient` if it should be asked for once more, anything else if not."""

UNREACHABLE, TIMED_OUT, BROKEN = "http_unreachable", "http_timeout", "http_broken"
THROTTLED, SERVER_ERROR = "http_throttled", "http_server_error"
_NOT_PUBLIC = Problem("http_address_refused", "url", "it leads to an address that is not public, and is not asked")
TRANSPORT = frozenset({UNREACHABLE, TIMED_OUT, THROTTLED, SERVER_ERROR, BROKEN, UNAVAILABLE})
"""Codes of what says something about the server, and nothing about what it was asked for."""


class Lost(Transient):
    """No answer that can be relied on came to a request that must not be made twice: it may have been done, or not. Read first."""


@dataclass(frozen=True, slots=True)
class Http:
    """How requests are made; times are seconds.

    A pause is drawn from between 0 and `first_pause`, then twice that, and so on up to `longest_pause`. A server that asks for a longer
    one by Retry-After gets it, up to `longest_asked`; beyond that it is not waited for.
    """

    connections: int = 8
    retries: int = 3
    first_pause: float = 8.0
    longest_pause: float = 60.0
    longest_asked: float = 300.0
    connect_timeout: float = 10.0
    silence_timeout: float = 30.0
    """Between two pieces of an answer."""
    request_timeout: float = 3600.0
    """For a request from its beginning to the end of the answer."""
    rate: Rate | None = None
    """Shared by all requests. A server that asks for fewer makes all of them wait."""
    trusted: frozenset[str] | None = None
    """Hosts that may have any address; of all others only public addresses are asked. None: addresses are our own settings', not data."""
    breaker: Breaker | None = None
    """Shared by all requests. While it is open they wait, and what fails then is no attempt spent."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Client"]:
        """A client with a pool of its own, for the event loop that runs now."""
        timeout = aiohttp.ClientTimeout(total=self.request_timeout, sock_connect=self.connect_timeout, sock_read=self.silence_timeout)
        resolver = None if self.trusted is None else PublicResolver(trusted=self.trusted)
        connector = aiohttp.TCPConnector(limit=self.connections, resolver=resolver)
        # What is stored is what was sent: nothing is unpacked on the way, and no cookie is kept.
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield Client(self, session)

    def pause(self, attempt: int, asked: float | None) -> float | None:
        """How long to wait after so many attempts, and after what Retry-After asked for; None: too long to wait."""
        own = self.chance() * min(self.longest_pause, self.first_pause * 2.0 ** (attempt - 1))
        if asked is None:
            return own
        return None if asked > self.longest_asked else asked + self.chance() * min(1.0, self.first_pause)


class Client:
    """Asks servers, each question as often as `Http` says. Safe to share between the tasks of one event loop."""

    def __init__(self, http: Http, session: aiohttp.ClientSession) -> None:
        self._http = http
        self._session = session
        # Waiting for a connection must not count as waiting for an answer, nor use up the rate.
        self._slots = asyncio.Semaphore(http.connections)

    async def get(
        self, url: str, receive: Receive[T], *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> T:
        """What `receive` makes of the answer to a GET, whatever its status, except 408, 429 and 5xx, which are asked for again.

        So are connections that fail or break off, time-outs, and what `receive` raises `Transient` for. `url` is sent as it is, with
        `params` behind it. Redirects are not followed: they would carry the headers elsewhere. Raises `Transient` when all attempts
        are spent, `Refused` for an address that is none, or that must not be asked (`Http.trusted`).
        """
        return await self.request("GET", url, receive, params=params, headers=headers)

    async def request(
        self,
        method: str,
        url: str,
        receive: Receive[T],
        *,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool = True,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """As `get`, with any method, and `json`, or else `form`, as the body.

        `ready` is called when it is this request's turn and it has a connection, right before its body goes out; what it raises is
        raised, and the server gets no request that it could act upon.

        What must not be done twice is asked with `repeat=False`: it is asked again only if it certainly was not done (no connection
        came about, or 429). Raises `Lost` for all else that would be asked again.
        """
        asking = _Asking(method, url, params, {"Accept-Encoding": "identity", **(headers or {})}, None, ready)
        if json is not None:
            asking = replace(asking, headers={"Content-Type": "application/json", **asking.headers}, body=orjson.dumps(json))
        elif form is not None:
            encoded = {"Content-Type": "application/x-www-form-urlencoded", **asking.headers}
            asking = replace(asking, headers=encoded, body=urlencode(form).encode())
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(asking, receive)
            except _Failed as failed:
                failure = failed
            if not (repeat or failure.not_done):
                self._slow_down(failure, attempt)
                raise Lost(failure.code, failure.message) from None
            waits = self._http.breaker is not None and self._http.breaker.is_open
            if waits:
                attempt -= 1
            elif attempt > self._http.retries:
                raise Transient(failure.code, failure.message) from None
            pause = self._slow_down(failure, attempt + waits)
            if pause is None:
                raise Transient(failure.code, failure.message) from None
            await self._http.sleep(pause)

    async def pause(self, attempt: int) -> None:
        """Give the server time to end what it may still be doing: the longest pause that so many attempts may bring."""
        await self._http.sleep(min(self._http.longest_pause, self._http.first_pause * 2.0 ** (attempt - 1)))

    def _slow_down(self, failure: "_Failed", attempt: int) -> float | None:
        """The pause to make, unless it is made by all; None if the server asks for too long a one."""
        rate, breaker = self._http.rate, self._http.breaker
        pause = self._http.pause(attempt, failure.asked)
        if pause is None:
            if breaker is not None and failure.asked is not None:
                breaker.shut(failure.asked)
            return None
        if rate is not None and (failure.asked is not None or failure.code == THROTTLED):
            rate.pause(pause)
            return 0.0
        return 0.0 if breaker is not None and breaker.is_open else pause

    async def _attempt(self, asking: "_Asking", receive: Receive[T]) -> T:
        """Ask once, when it is this request's turn. Raises `_Failed` for what may pass."""
        rate, breaker = self._http.rate, self._http.breaker
        async with self._slots:
            was_probe = await breaker.enter() if breaker is not None else False
            try:
                if rate is not None:
                    await rate.take()
                try:
                    received = await self._once(asking, receive)
                except _NotReady as not_ready:
                    raise not_ready.error from None
                except aiohttp.InvalidURL:
                    raise Refused(Problem("http_bad_url", "url", "this is no address that can be asked")) from None
                except Exception as error:
                    failed = _failed(error)
                    if breaker is not None:
                        breaker.good() if failed is None else breaker.bad()
                    if failed is None:
                        raise
                    raise failed from None
                if breaker is not None:
                    breaker.good()
                return received
            finally:
                if breaker is not None:
                    breaker.leave(was_probe)

    async def _once(self, asking: "_Asking", receive: Receive[T]) -> T:
        # A signed address is signed letter by letter: it must not be quoted anew.
        address = URL(asking.url, encoded=True)
        trusted = self._http.trusted
        if trusted is not None and not may_be_asked(address.host or "", trusted):
            raise Refused(_NOT_PUBLIC)
        if asking.params:
            address = address.extend_query(dict(asking.params))
        data: bytes | AsyncIterator[bytes] | None = asking.body
        headers = dict(asking.headers)
        not_ready: list[Exception] = []
        if asking.ready is not None and asking.body is not None:
            data = _body(asking.body, asking.ready, not_ready)
            headers["Content-Length"] = str(len(asking.body))
        try:
            return await self._answered(asking, address, data, headers, receive)
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, Forbidden):
                raise Refused(_NOT_PUBLIC) from None
            if not_ready:
                raise _NotReady(not_ready[0]) from None
            raise

    async def _answered(
        self, asking: "_Asking", address: URL, data: bytes | AsyncIterator[bytes] | None, headers: Mapping[str, str], receive: Receive[T]
    ) -> T:
        async with self._session.request(asking.method, address, data=data, headers=headers, allow_redirects=False) as answer:
            if answer.status == 429:
                raise _Failed(
                    THROTTLED, "the server asks for fewer requests (429)", asked_for(answer.headers.get("Retry-After")), not_done=True
                )
            if answer.status == 408 or answer.status >= 500:
                raise _Failed(SERVER_ERROR, f"the server answered {answer.status}", asked_for(answer.headers.get("Retry-After")))
            return await receive(answer)


@dataclass(frozen=True, slots=True)
class _Asking:
    method: str
    url: str = field(repr=False)
    params: Mapping[str, str] | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    ready: Callable[[], Awaitable[None]] | None = None


class _NotReady(Exception):
    """What `ready` has raised; the request has not gone out."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


async def _body(body: bytes, ready: Callable[[], Awaitable[None]], not_ready: list[Exception]) -> AsyncIterator[bytes]:
    """A body that goes out when `ready` has returned, without giving way to anybody in between."""
    try:
        await ready()
    except Exception as error:
        not_ready.append(error)
        raise
    yield body


class _Failed(Exception):
    """One attempt came to nothing, and another may not."""

    def __init__(self, code: str, message: str, asked: float | None = None, *, not_done: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.asked = asked
        self.not_done = not_done


def _failed(error: Exception) -> _Failed | None:
    """What failed, if it says something about the server or the way to it; None for anything else."""
    kind = type(error).__name__
    if isinstance(error, _Failed):
        return error
    if isinstance(error, Transient):
        return _Failed(error.code, error.message)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _Failed(TIMED_OUT, "no connection came about in time", not_done=True)
    if isinstance(error, (TimeoutError, aiohttp.ServerTimeoutError)):
        return _Failed(TIMED_OUT, "the server did not answer in time")
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError)):
        return _Failed(BROKEN, f"the answer broke off or could not be read ({kind})")
    if isinstance(error, (aiohttp.ClientError, ConnectionError)):
        return _Failed(UNREACHABLE, f"the server could not be reached ({kind})", not_done=isinstance(error, aiohttp.ClientConnectorError))
    return None

"""A pooled HTTP client: tries again what may pass, waits as long as it is asked to, and tells nobody addresses or keys.

Addresses may be signed and headers may hold keys, so what this module raises names neither: the caller knows whom it asked.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
from yarl import URL

from ingestion_dagster.engine.errors import Problem, Refused, Transient

T = TypeVar("T")

Receive = Callable[[aiohttp.ClientResponse], Awaitable[T]]
"""Takes an answer, body and all. Raises `Transient` if it should be asked for once more, anything else if not."""

UNREACHABLE, TIMED_OUT, BROKEN = "http_unreachable", "http_timeout", "http_broken"
THROTTLED, SERVER_ERROR = "http_throttled", "http_server_error"
TRANSPORT = frozenset({UNREACHABLE, TIMED_OUT, THROTTLED, SERVER_ERROR, BROKEN})
"""Codes of what says something about the server, and nothing about what it was asked for."""


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
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Client"]:
        """A client with a pool of its own, for the event loop that runs now."""
        timeout = aiohttp.ClientTimeout(total=self.request_timeout, sock_connect=self.connect_timeout, sock_read=self.silence_timeout)
        connector = aiohttp.TCPConnector(limit=self.connections)
        # What is stored is what was sent: nothing is unpacked on the way, and no cookie is kept.
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
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

    async def get(
        self, url: str, receive: Receive[T], *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> T:
        """What `receive` makes of the answer to a GET, whatever its status, except 408, 429 and 5xx, which are asked for again.

        So are connections that fail or break off, time-outs, and what `receive` raises `Transient` for. `url` is sent as it is, with
        `params` behind it. Redirects are not followed: they would carry the headers elsewhere. Raises `Transient` when all attempts
        are spent, `Refused` for an address that is none.
        """
        attempt = 0
        while True:
            attempt += 1
            asked: float | None = None
            try:
                return await self._once(url, receive, params, headers)
            except _Later as later:
                failure, asked = Transient(later.code, later.message), later.asked
            except Transient as raised:
                failure = raised
            except (TimeoutError, aiohttp.ServerTimeoutError):
                failure = Transient(TIMED_OUT, "the server did not answer in time")
            except aiohttp.InvalidURL:
                raise Refused(Problem("http_bad_url", "url", "this is no address that can be asked")) from None
            except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError) as error:
                failure = Transient(BROKEN, f"the answer broke off or could not be read ({type(error).__name__})")
            except (aiohttp.ClientError, ConnectionError) as error:
                failure = Transient(UNREACHABLE, f"the server could not be reached ({type(error).__name__})")
            pause = self._http.pause(attempt, asked) if attempt <= self._http.retries else None
            if pause is None:
                raise failure from None
            await self._http.sleep(pause)

    async def _once(self, url: str, receive: Receive[T], params: Mapping[str, str] | None, headers: Mapping[str, str] | None) -> T:
        # A signed address is signed letter by letter: it must not be quoted anew.
        address = URL(url, encoded=True)
        if params:
            address = address.extend_query(dict(params))
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        async with self._session.get(address, headers=sent, allow_redirects=False) as answer:
            if answer.status == 429:
                raise _Later(THROTTLED, "the server asks for fewer requests (429)", _asked(answer))
            if answer.status == 408 or answer.status >= 500:
                raise _Later(SERVER_ERROR, f"the server answered {answer.status}", _asked(answer))
            return await receive(answer)


class _Later(Exception):
    """The server answers, but not now."""

    def __init__(self, code: str, message: str, asked: float | None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.asked = asked


def _asked(answer: aiohttp.ClientResponse) -> float | None:
    """The seconds that Retry-After asks for, which is a number or a date; None without one that can be read."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())

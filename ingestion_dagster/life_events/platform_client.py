"""What is asked of the events platform: an access token, and that it take an event; never what its answers say in a message."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from ingestion_dagster.engine.breaker import Breaker
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.http import Client, Http
from ingestion_dagster.engine.rate import Rate
from ingestion_dagster.life_events.places import PlatformAddress
from ingestion_dagster.life_events.registry import EVENT_TYPE

BAD_ANSWER = "platform_bad_answer"

_URL = "INGESTION_LIFE_EVENTS_PLATFORM_URL"
_TOKEN_URL = "INGESTION_LIFE_EVENTS_TOKEN_URL"  # noqa: S105 - the name of a setting
_CLIENT = "INGESTION_LIFE_EVENTS_CLIENT_ID and INGESTION_LIFE_EVENTS_CLIENT_SECRET"

_MAX_ANSWER = 64 * 1024
_CHUNK = 1 << 14
_EARLY = 60.0
"""Seconds before its end after which a token is not used any more; a tenth of its life, if that is less."""
_UNKNOWN_LIFE = 300.0
_TOKEN_PAUSE = 0.5
_ALL_AT_ONCE = 10_000.0
"""Requests a second: no limit of ours, but a server that asks for a pause makes all of them wait."""
_OF_EVERYBODY = {
    403: f"the platform lets this publisher publish nothing (403): it needs a live supplier subscription to {EVENT_TYPE}, and its client, "
    f"which INGESTION_LIFE_EVENTS_CLIENT_ID names, the scope events/publish",
    404: f"the platform has nothing at this address that takes events (404): set {_URL} to its base URL, without /events",
    405: f"what is at this address takes no events (405): set {_URL} to the platform's base URL, without /events",
    410: f"the platform has moved away (410): set {_URL} to its new base URL",
}
_OAUTH_CODES = frozenset(
    {"invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "unauthorized_client", "unsupported_grant_type"}
)


class Rejected(Exception):
    """The platform does not take an event: `platform_400`, or what else it answered.

    `if_everybody` is set if that may be no trouble of this event's, and is what to raise if it is everybody's.
    """

    def __init__(self, status: int) -> None:
        self.code = f"platform_{status}"
        super().__init__(self.code)
        self.if_everybody = ConfigurationError(_OF_EVERYBODY[status]) if status in _OF_EVERYBODY else None
        self.is_of_address = status in (404, 405, 410)
        """Whether it says something about the address, and nothing about the event, as long as nobody gets through."""


class NoToken(Transient):
    """The token endpoint is away or not well: no event can be published, whatever is in it."""


class _Unauthorised(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    good_until: float


@asynccontextmanager
async def open_platform(
    address: PlatformAddress,
    *,
    in_flight: int,
    patience_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator["Platform"]:
    """The platform at an address, for the event loop that runs now. Asks for nothing yet."""
    async with (
        _http(in_flight, Breaker(patience=patience_seconds), patience_seconds).open() as client,
        # All wait for one token: its endpoint is asked until patience is at an end, not so and so often.
        _http(1, Breaker(1, patience_seconds, first_pause=_TOKEN_PAUSE), patience_seconds).open() as token_client,
    ):
        yield Platform(client, Tokens(token_client, address, clock), address)


def _http(connections: int, breaker: Breaker, patience_seconds: float) -> Http:
    return Http(
        connections=connections,
        retries=5,
        first_pause=0.5,
        longest_pause=8.0,
        longest_asked=patience_seconds,
        silence_timeout=15.0,
        request_timeout=30.0,
        rate=Rate(_ALL_AT_ONCE),
        breaker=breaker,
    )


class Platform:
    """The platform. Safe to share between the tasks of one event loop."""

    def __init__(self, client: Client, tokens: "Tokens", address: PlatformAddress) -> None:
        if not address.url.startswith(("http://", "https://")):
            raise ConfigurationError(f"{_URL} is no address: it reads https://…, the platform's base URL, without /events")
        self._client = client
        self._tokens = tokens
        self._url = f"{address.url.rstrip('/')}/events"

    async def publish(self, event_id: str, event_time: str) -> None:
        """Tell the platform of an event; return once it has taken it. Asked twice, it is the same to it, which knows events by their ids.

        Raises `Rejected` if it does not take this one, `Transient` if it cannot be reached or is not well (`NoToken`: who gives tokens is
        not), and `ConfigurationError` if it does not let us in.
        """
        body = {"eventType": EVENT_TYPE, "eventTime": event_time, "id": event_id}
        token = await self._tokens.current()
        try:
            await self._post(body, token)
        except _Unauthorised:
            token = await self._tokens.another(token)
        else:
            return
        try:
            await self._post(body, token)
        except _Unauthorised:
            raise ConfigurationError(
                f"the platform does not know its own access tokens (401): check that {_URL} and {_TOKEN_URL} belong together, and {_CLIENT}"
            ) from None

    async def _post(self, body: dict[str, str], token: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json; charset=utf-8"}
        try:
            await self._client.request("POST", self._url, _taken, json=body, headers=headers)
        except Refused:
            raise ConfigurationError(f"{_URL} is no address: it reads https://…, the platform's base URL, without /events") from None


async def _taken(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 401:
        raise _Unauthorised
    if answer.status >= 400:
        raise Rejected(answer.status)
    if not 200 <= answer.status < 300:
        raise ConfigurationError(f"the platform is not at this address, which redirects elsewhere ({answer.status}): set {_URL}")
    if answer.content_type == "text/html":
        raise Transient(BAD_ANSWER, "a web page answers in place of the platform")
    # Read to its end, the connection is used again.
    await _body(answer)


class Tokens:
    """The access token that all requests share. One that is about to end is replaced, by one request at a time."""

    def __init__(self, client: Client, address: PlatformAddress, clock: Callable[[], float] = time.monotonic) -> None:
        if not address.token_url.startswith(("http://", "https://")):
            raise ConfigurationError(f"{_TOKEN_URL} is no address: it reads https://…/oauth2/token")
        self._client = client
        self._address = address
        self._clock = clock
        self._token: _Token | None = None
        self._unknown: ConfigurationError | None = None
        """Why there is none to be had, which asking again does not change."""
        self._turn = asyncio.Lock()

    async def current(self) -> str:
        """A token that is good by its own date. Raises `Transient`, or `ConfigurationError` if the client is not known."""
        token = self._token
        if token is None or self._clock() >= token.good_until:
            async with self._turn:
                token = self._token
                if token is None or self._clock() >= token.good_until:
                    token = self._token = await self._replaced()
        return token.text

    async def another(self, refused: str) -> str:
        """A token in place of one that was refused; asked for once, however many had it refused."""
        async with self._turn:
            if self._token is None or self._token.text == refused:
                self._token = None
                self._token = await self._replaced()
            return self._token.text

    async def _replaced(self) -> _Token:
        if self._unknown is not None:
            raise self._unknown
        try:
            return await self._ask()
        except ConfigurationError as error:
            self._unknown = error
            raise

    async def _ask(self) -> _Token:
        begun = self._clock()
        form = {
            "grant_type": "client_credentials",
            "client_id": self._address.client_id,
            "client_secret": self._address.client_secret,
        }
        try:
            text, life = await self._client.request("POST", self._address.token_url, _granted, form=form)
        except Refused:
            raise ConfigurationError(f"{_TOKEN_URL} is no address: it reads https://…/oauth2/token") from None
        except Transient as trouble:
            raise NoToken(trouble.code, f"no access token can be had (INGESTION_LIFE_EVENTS_TOKEN_URL): {trouble.message}") from None
        return _Token(text, begun + life - min(_EARLY, life / 10))


async def _granted(answer: aiohttp.ClientResponse) -> tuple[str, float]:
    """The token of an answer, and its life in seconds."""
    content = _object(await _body(answer))
    if answer.status != 200:
        said = content.get("error")
        code = said if isinstance(said, str) and said in _OAUTH_CODES else "no known code"
        raise ConfigurationError(
            f"no access token is given to this publisher ({answer.status}, {code}): check {_TOKEN_URL}, {_CLIENT}, and that the client may "
            "use the grant client_credentials"
        )
    token, life = content.get("access_token"), content.get("expires_in")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token or " " in token:
        raise Transient(BAD_ANSWER, "the token endpoint answers, and gives no token")
    return token, float(life) if isinstance(life, int | float) and life > 0 else _UNKNOWN_LIFE


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """An answer's body; what is more than anything that can be expected is left unread."""
    found = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK):
        found += chunk
        if len(found) > _MAX_ANSWER:
            break
    return bytes(found)


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}

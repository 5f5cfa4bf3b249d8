"""The events platform of the sandbox: an HTTP server that takes events from suppliers and hands them to acquirers, as the real one did.

It keeps who published what and who has consumed it, never what an event is about: that it asks its supplier for whenever an acquirer
wants to see it. What is below /sandbox takes no token: it makes the rest slow, scarce or faulty, and tells what is kept. State outlives
the process, in a file beside the address file.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from ingestion_dagster.engine import stand_ins
from ingestion_dagster.sandbox import events_platform_answers as answers
from ingestion_dagster.sandbox import serving
from ingestion_dagster.sandbox.events_platform_admin import Admin, uuid_of
from ingestion_dagster.sandbox.events_platform_callbacks import Address, DeleteJob, NoData, Supplier, Unavailable
from ingestion_dagster.sandbox.events_platform_database import Database
from ingestion_dagster.sandbox.events_platform_parties import Parties, Unknown
from ingestion_dagster.sandbox.events_platform_schema import (
    ADMIN,
    CONSUME,
    FIELDS,
    PUBLISH,
    Invalid,
    Unreadable,
    local_time,
    read_published,
)
from ingestion_dagster.sandbox.events_platform_store import Events, NotSubscribed
from ingestion_dagster.sandbox.events_platform_switches import KINDS, Settings, Switches, words
from ingestion_dagster.sandbox.events_platform_tokens import OAuthError, Tokens, grant
from ingestion_dagster.sandbox.faults import Faults
from ingestion_dagster.sandbox.serving import Handler
from ingestion_dagster.sandbox.switchboard import Switchboard

_SINCE = datetime(2000, 1, 1, 12, tzinfo=UTC)
_CLIENT = web.RequestKey("client", str)
_LARGEST = 2**31 - 1


class EventsPlatform:
    """The server: what it keeps in `file` (None: in memory), how it is set, and what is to go wrong.

    Suppliers are called back where it was switched to; without that, at the private API that runs for this `home`.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        home: Path | None = None,
        settings: Settings | None = None,
        token: str = "",
        clock: Callable[[], float] = time.time,
        signing_key: RSAPrivateKey | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.home = home
        self.token = token
        self.switchboard = Switchboard(Faults(KINDS, words), self.settings)
        self.database = Database(file)
        self.parties = Parties(self.database, clock)
        self.events = Events(self.database, clock)
        self.tokens = Tokens(self.database, clock, signing_key)
        self.supplier = Supplier(self.callback_address, self.settings)
        self.delete_job = DeleteJob(self.events, self.supplier, self.settings)

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def callback_address(self) -> Address | None:
        """Where suppliers are called back at this moment; None if nobody is there."""
        kept = self.database.switches()
        if "callback_url" in kept:
            return Address(kept["callback_url"], kept.get("callback_token"))
        found = stand_ins.url(self.home, "api") if self.home else None
        return Address(found) if found else None

    def app(self) -> web.Application:
        """The server."""
        app = web.Application(middlewares=[_in_its_words])
        routes: list[tuple[str, str, str, str | None, Handler]] = [
            ("POST", "/oauth2/token", "token", None, self._token),
            ("POST", "/events", "publish", PUBLISH, self._publish),
            ("GET", "/events", "list", CONSUME, self._list),
            ("GET", "/events/{id}", "get", CONSUME, self._get),
            ("DELETE", "/events/{id}", "consume", CONSUME, self._consume),
            *((method, path, "admin", ADMIN, handler) for method, path, handler in Admin(self.parties).routes()),
        ]
        for method, path, operation, scope, handler in routes:
            app.router.add_route(method, path, self._gate(operation, scope, handler))
        app.router.add_get("/.well-known/jwks.json", self._keys)
        app.router.add_get("/healthz", self._health)
        Switches(self).add_to(app.router)
        app.cleanup_ctx.append(self._job)
        return app

    async def _job(self, _app: web.Application) -> AsyncIterator[None]:
        turns = asyncio.create_task(self.delete_job.turns())
        yield
        turns.cancel()
        await asyncio.wait([turns])
        await self.supplier.close()

    def _gate(self, operation: str, scope: str | None, handler: Handler) -> Handler:
        """What every call goes through, the token last."""

        async def answer(request: web.Request) -> web.StreamResponse:
            refusal = self._refusal(request, scope)
            return refusal if refusal is not None else await _answered(request, handler)

        return self.switchboard.gate(operation, answer)

    def _refusal(self, request: web.Request, scope: str | None) -> web.Response | None:
        """The answer to who may not do that; None for who may."""
        if scope is None:
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        bearer = self.tokens.bearer(token) if scheme.lower() == "bearer" else None
        if bearer is None:
            return answers.unauthorized()
        if scope not in bearer.scopes:
            return answers.error(403, "Forbidden: Access is denied")
        request[_CLIENT] = bearer.client_id
        return None

    async def _token(self, request: web.Request) -> web.Response:
        if request.content_type != "application/x-www-form-urlencoded":
            return answers.oauth_error("invalid_request")
        try:
            client, scopes = grant(self.parties, await request.read(), request.headers.get("Authorization"))
        except OAuthError as error:
            return answers.oauth_error(str(error))
        token = self.tokens.issue(client, scopes, self.settings.token_seconds)
        return answers.as_json({"access_token": token, "expires_in": int(self.settings.token_seconds), "token_type": "Bearer"})

    async def _publish(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return answers.error(415, "Unsupported Media Type")
        event = read_published(await request.read())
        try:
            self.events.publish(request[_CLIENT], event)
        except NotSubscribed:
            return answers.error(403, f"Forbidden: this client does not supply {event.event_type}")
        return web.Response(status=201, content_type="text/plain")

    async def _list(self, request: web.Request) -> web.Response:
        number, size = _number(request, "page[number]", answers.FIRST_PAGE, 0), _number(request, "page[size]", answers.PAGE_SIZE, 1)
        since, until = _time(request, "filter[fromTime]") or _SINCE, _time(request, "filter[toTime]")
        times = _micros(since), _micros(until) if until else self.events.now()
        found = self.events.listed(request[_CLIENT], _types(request), *times, number, size)
        # Callbacks for one page at a time, as there: a page with data costs as many as it has events.
        shown = [
            answers.listed(request.host, event, await self.supplier.enrich(event) if event.in_poll else None) for event in found.events
        ]
        filters = [(name, value) for name, value in request.query.items() if name.startswith("filter[")]
        return answers.as_json(answers.page(request.host, shown, filters, number, size, found.total), content_type=answers.JSON_API)

    async def _get(self, request: web.Request) -> web.Response:
        event = self.events.event(request[_CLIENT], uuid_of(request, "id"))
        if event is None:
            return _not_found()
        shown = answers.single(request.host, event, await self.supplier.enrich(event))
        return answers.as_json(shown, content_type=answers.JSON_API)

    async def _consume(self, request: web.Request) -> web.Response:
        if not self.events.consume(request[_CLIENT], uuid_of(request, "id")):
            return _not_found()
        return web.Response(status=204)

    async def _keys(self, _request: web.Request) -> web.Response:
        return answers.as_json(self.tokens.keys())

    async def _health(self, _request: web.Request) -> web.Response:
        return answers.as_json({"token": self.token})


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a handler answers, or the error it ends with in the platform's words."""
    try:
        return await handler(request)
    except Invalid as error:
        return answers.error(400, f"Validation failure: {error}")
    except Unknown as error:
        return answers.error(404, f"{error} Not Found")
    except NoData:
        return answers.error(404, "Not Found: there is no data for this event")
    except Unavailable:
        return answers.error(503, "The supplier of this event does not answer at present; the event is still there")
    except Unreadable:
        return answers.error(500, "Unexpected error: the body cannot be read")


@web.middleware
async def _in_its_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Words the errors of what there is no route for, and of what went wrong in here, as all others are worded."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return answers.error(error.status, error.reason)


def _not_found() -> web.Response:
    return answers.error(404, "Event Not Found: this client has no event of this id to consume")


def _types(request: web.Request) -> list[str] | None:
    given = request.query.getall("filter[eventType]", [])
    types = [each for value in given for each in value.split(",") if each]
    if not set(types) <= FIELDS.keys():
        raise Invalid("filter[eventType] names a type that there is not")
    return types or None


def _number(request: web.Request, name: str, default: int, least: int) -> int:
    text = request.query.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not least <= int(text) <= _LARGEST:
        raise Invalid(f"{name} is a number from {least}")
    return int(text)


def _time(request: web.Request, name: str) -> datetime | None:
    text = request.query.get(name)
    if not text:
        return None
    time_given = local_time(text)
    if time_given is None:
        raise Invalid(f"{name} is a time without a zone")
    return time_given


def _micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000 + at.microsecond


def main() -> None:
    """Serve until SIGTERM; where it answers stands in the address file from the moment on when it does."""
    parser = serving.arguments(__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--delete-seconds", type=float, default=10.0)
    asked = parser.parse_args()
    settings = Settings(latency_ms=asked.latency_ms, delete_seconds=asked.delete_seconds)
    file: Path = asked.address_file
    platform = EventsPlatform(file.with_suffix(".sqlite3"), home=file.absolute().parent.parent, settings=settings, token=asked.token)
    try:
        serving.run(platform.app(), asked)
    finally:
        platform.close()


if __name__ == "__main__":
    main()

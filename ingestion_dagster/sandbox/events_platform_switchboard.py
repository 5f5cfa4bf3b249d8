"""The calls below /sandbox of the events platform, which need no token: how it is set, what is to go wrong, what is kept."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ingestion_dagster.sandbox.events_platform_admin import body_of
from ingestion_dagster.sandbox.events_platform_answers import as_json
from ingestion_dagster.sandbox.events_platform_schema import Invalid
from ingestion_dagster.sandbox.events_platform_switches import Fault

if TYPE_CHECKING:
    from ingestion_dagster.sandbox.events_platform import EventsPlatform

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Switchboard:
    """The switches of a platform, and its answers to what a test or an operator wants to know."""

    def __init__(self, platform: "EventsPlatform") -> None:
        self._platform = platform

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer these calls."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "state", self._state),
            ("GET", "events", self._events),
            ("GET", "posts", self._posts),
            ("GET", "requests", self._requests),
            ("GET", "faults", self._faults),
            ("POST", "faults", self._add_fault),
            ("DELETE", "faults", self._clear_faults),
            ("GET", "settings", self._settings),
            ("POST", "settings", self._set),
            ("GET", "callbacks", self._callbacks),
            ("PUT", "callbacks", self._set_callbacks),
            ("DELETE", "callbacks", self._clear_callbacks),
            ("POST", "tokens/expire", self._expire),
            ("POST", "delete-job", self._turn),
            ("POST", "reset", self._reset),
        ]
        for method, path, handler in routes:
            router.add_route(method, f"/sandbox/{path}", _worded(handler))

    async def _state(self, _request: web.Request) -> web.Response:
        """Counts of events and posts, and how callbacks ended since the start."""
        counts: dict[str, Any] = dict(self._platform.events.counts(keep_unsubscribed=bool(self._platform.settings.keep_unsubscribed)))
        callbacks: dict[str, dict[str, int]] = {"enrich": {}, "delete": {}}
        for (operation, how), count in sorted(self._platform.supplier.answers.items()):
            callbacks[operation][how] = count
        return as_json(counts | {"callbacks": callbacks})

    async def _events(self, request: web.Request) -> web.Response:
        """The suppliers' ids of all events; with deleted=true or deleted=false only of those."""
        wanted = {"true": True, "false": False, None: None}
        asked = request.query.get("deleted")
        if asked not in wanted:
            raise Invalid("deleted is true or false")
        return as_json(self._platform.events.data_ids(deleted=wanted[asked]))

    async def _posts(self, _request: web.Request) -> web.Response:
        """How often each id was published."""
        return as_json(self._platform.events.posts())

    async def _requests(self, _request: web.Request) -> web.Response:
        """Which calls came and how they ended."""
        return as_json(self._platform.calls.told())

    async def _faults(self, _request: web.Request) -> web.Response:
        return as_json([asdict(fault) for fault in self._platform.faults])

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self._platform.faults.append(Fault(**await body_of(request)))
        except (TypeError, ValueError) as error:
            raise Invalid(str(error)) from None
        return as_json({})

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self._platform.faults.clear()
        return as_json({})

    async def _settings(self, _request: web.Request) -> web.Response:
        return as_json(asdict(self._platform.settings))

    async def _set(self, request: web.Request) -> web.Response:
        try:
            self._platform.settings.change(**await body_of(request))
        except (TypeError, ValueError) as error:
            raise Invalid(str(error)) from None
        self._platform.bucket.fill()
        return await self._settings(request)

    async def _callbacks(self, _request: web.Request) -> web.Response:
        """Where suppliers are called back; not with what token."""
        address = self._platform.callback_address()
        return as_json({"url": address.url if address else None})

    async def _set_callbacks(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        url, token = body.get("url"), body.get("token")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")) or not isinstance(token, str | None):
            raise Invalid("url is an HTTP address; token is text or left out")
        with self._platform.database.transaction():
            self._platform.database.switch("callback_url", url)
            self._platform.database.switch("callback_token", token)
        return as_json({})

    async def _clear_callbacks(self, _request: web.Request) -> web.Response:
        """Back to the private API of this home."""
        with self._platform.database.transaction():
            self._platform.database.switch("callback_url", None)
            self._platform.database.switch("callback_token", None)
        return as_json({})

    async def _expire(self, _request: web.Request) -> web.Response:
        """Whatever token has been handed out is worth nothing from now on."""
        self._platform.tokens.end_all()
        return as_json({})

    async def _turn(self, _request: web.Request) -> web.Response:
        """One turn of the delete job, now; answered when it is over."""
        return as_json(await self._platform.delete_job.turn())

    async def _reset(self, _request: web.Request) -> web.Response:
        """As at first start, but for the settings, and for tokens, which live on."""
        platform = self._platform
        platform.database.clear()
        platform.parties.seed()
        platform.tokens.keep()
        platform.faults.clear()
        platform.calls.clear()
        platform.supplier.answers.clear()
        platform.bucket.fill()
        return as_json({})


def _worded(handler: Handler) -> Handler:
    async def worded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Invalid as error:
            return as_json({"message": str(error)}, 400)

    return worded

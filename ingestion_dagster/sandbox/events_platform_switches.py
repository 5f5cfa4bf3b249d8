"""What can be set on the sandbox's events platform, what can go wrong with it, and the calls below /sandbox, which need no token."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ingestion_dagster.sandbox import usage
from ingestion_dagster.sandbox.events_platform_admin import body_of
from ingestion_dagster.sandbox.events_platform_answers import as_json, error, oauth_error
from ingestion_dagster.sandbox.events_platform_schema import Invalid
from ingestion_dagster.sandbox.faults import UNTOLD
from ingestion_dagster.sandbox.serving import Handler

if TYPE_CHECKING:
    from ingestion_dagster.sandbox.events_platform import EventsPlatform

STATUSES = frozenset({"400", "401", "403", "404", "429", "500", "502", "503", "504"})
_KINDS = UNTOLD | STATUSES | {"lost", "slow_then_ok", "bad_json"}
KINDS = dict.fromkeys(("token", "publish", "list", "get", "consume", "admin"), _KINDS)
"""Which faults there are, by operation."""


def words(operation: str, kind: str) -> web.Response | None:
    """The platform's answer with a status, none of it its own; None for what is no status."""
    if kind not in STATUSES:
        return None
    status = HTTPStatus(int(kind))
    return oauth_error("server_error", status) if operation == "token" else error(status, status.phrase)


@dataclass
class Settings(usage.Settings):
    """How long a call takes, how many are let through, how long a token lasts, and how the delete job goes about it."""

    rate: float = 0.0
    """Calls per second; 0: as many as come."""
    token_seconds: float = 3600.0
    delete_seconds: float = 10.0
    """How long the delete job waits between two turns, 60 in the real one; 0: it makes none by itself."""
    keep_unsubscribed: float = 0.0
    """1: what nobody has ever subscribed to is kept, while the real one has it deleted at once."""
    callback_seconds: float = 10.0
    """How long a supplier that is called back has to answer."""


class Switches:
    """The switches of a platform, and its answers to what a test or an operator wants to know."""

    def __init__(self, platform: "EventsPlatform") -> None:
        self._platform = platform

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer these calls."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "state", self._state),
            ("GET", "events", self._events),
            ("GET", "posts", self._posts),
            ("GET", "callbacks", self._callbacks),
            ("PUT", "callbacks", self._set_callbacks),
            ("DELETE", "callbacks", self._clear_callbacks),
            ("POST", "tokens/expire", self._expire),
            ("POST", "delete-job", self._turn),
            ("POST", "reset", self._reset),
            *self._platform.switchboard.routes(),
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
        platform.supplier.answers.clear()
        platform.switchboard.reset()
        return as_json({})


def _worded(handler: Handler) -> Handler:
    async def worded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Invalid as error:
            return as_json({"message": str(error)}, 400)

    return worded

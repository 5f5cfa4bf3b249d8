"""The admin API of the sandbox's events platform: acquirers, suppliers and their subscriptions.

Queues are registered by the real one's rules and named in the answers, but nothing is pushed to them: the events of a queue's
subscription stay open, and what they stand for is kept, until the subscription is deleted.
"""

from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from ingestion_dagster.sandbox.events_platform_answers import as_json
from ingestion_dagster.sandbox.events_platform_parties import Parties
from ingestion_dagster.sandbox.events_platform_schema import Invalid, read_client, read_event_type, read_name, read_wanted
from ingestion_dagster.sandbox.serving import Handler


def uuid_of(request: web.Request, name: str) -> str:
    """An id of the path. Raises `Invalid`."""
    text = request.match_info[name]
    try:
        parsed = UUID(text)
    except ValueError:
        raise Invalid(f"{name} is no UUID") from None
    if text.lower() != str(parsed):
        raise Invalid(f"{name} is no UUID")
    return str(parsed)


class Admin:
    """The calls that need the scope events/admin."""

    def __init__(self, parties: Parties) -> None:
        self._parties = parties

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and what answers. Fixed paths come first."""
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/admin/acquirer", self._create_acquirer),
            ("POST", "/admin/supplier", self._create_supplier),
            ("POST", "/acquirers/{id}/subscriptions", self._add_acquirer_subscription),
            ("PUT", "/acquirers/{id}/subscriptions/{sid}", self._change_acquirer_subscription),
            ("POST", "/suppliers/{id}/subscriptions", self._add_supplier_subscription),
            ("PUT", "/suppliers/{id}/subscriptions/{sid}", self._change_supplier_subscription),
        ]
        return routes + self._routes_of("acquirer") + self._routes_of("supplier")

    def _routes_of(self, kind: str) -> list[tuple[str, str, Handler]]:
        """What acquirers and suppliers have in common."""

        async def all_subscriptions(_request: web.Request) -> web.Response:
            return as_json(self._parties.subscriptions(kind))

        async def remove_subscription(request: web.Request) -> web.Response:
            self._parties.remove_subscription(kind, uuid_of(request, "sid"))
            return web.Response(status=204)

        async def subscriptions(request: web.Request) -> web.Response:
            return as_json(self._parties.subscriptions(kind, uuid_of(request, "id")))

        async def parties(_request: web.Request) -> web.Response:
            return as_json(self._parties.all(kind))

        async def add(request: web.Request) -> web.Response:
            return as_json(self._parties.add(kind, read_name(await body_of(request), "name")))

        async def remove(request: web.Request) -> web.Response:
            self._parties.remove(kind, uuid_of(request, "id"))
            return web.Response(status=204)

        return [
            ("GET", f"/{kind}s/subscriptions", all_subscriptions),
            ("DELETE", f"/{kind}s/subscriptions/{{sid}}", remove_subscription),
            ("GET", f"/{kind}s/{{id}}/subscriptions", subscriptions),
            ("GET", f"/{kind}s", parties),
            ("POST", f"/{kind}s", add),
            ("DELETE", f"/{kind}s/{{id}}", remove),
        ]

    async def _create_acquirer(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return as_json(self._parties.create_acquirer(read_name(body, "acquirerName"), read_wanted(body, makes_client=True)))

    async def _create_supplier(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return as_json(self._parties.create_supplier(read_name(body, "clientName"), read_event_type(body)))

    async def _add_acquirer_subscription(self, request: web.Request) -> web.Response:
        wanted = read_wanted(await body_of(request), makes_client=False)
        return as_json(self._parties.add_acquirer_subscription(uuid_of(request, "id"), wanted))

    async def _change_acquirer_subscription(self, request: web.Request) -> web.Response:
        wanted = read_wanted(await body_of(request), makes_client=False)
        return as_json(self._parties.change_acquirer_subscription(uuid_of(request, "id"), uuid_of(request, "sid"), wanted))

    async def _add_supplier_subscription(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return as_json(self._parties.add_supplier_subscription(uuid_of(request, "id"), read_client(body), read_event_type(body)))

    async def _change_supplier_subscription(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        ids = uuid_of(request, "id"), uuid_of(request, "sid")
        return as_json(self._parties.change_supplier_subscription(*ids, read_client(body), read_event_type(body)))


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON object that is sent. Raises `Invalid`."""
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise Invalid("the body is no JSON") from None
    if not isinstance(body, dict):
        raise Invalid("the body is no JSON object")
    return body

"""How the sandbox's events platform words its answers: JSON:API documents with links, errors, and OAuth's."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from ingestion_dagster.sandbox.events_platform_schema import SOURCE_ID
from ingestion_dagster.sandbox.events_platform_store import AcquirerEvent

JSON_API = "application/vnd.api+json"
FIRST_PAGE, PAGE_SIZE = 0, 100
_NUMBER, _SIZE = "page[number]", "page[size]"

EventData = Mapping[str, Any]


def as_json(value: Any, status: int = 200, content_type: str = "application/json") -> web.Response:
    """An answer that is a JSON value."""
    return web.Response(body=orjson.dumps(value), status=status, content_type=content_type)


def error(status: int, message: str, developer: str | None = None) -> web.Response:
    """The platform's error body. It never echoes what was sent."""
    return as_json({"status": status, "userMessage": message, "developerMessage": developer or message}, status)


def unauthorized() -> web.Response:
    """The answer to a call without a token that is worth something."""
    return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})


def oauth_error(code: str, status: int = 400) -> web.Response:
    """The token endpoint's error body."""
    return as_json({"error": code}, status)


def listed(host: str, event: AcquirerEvent, data: EventData | None) -> dict[str, Any]:
    """An event as an element of a list."""
    attributes = _attributes(event) | {"dataIncluded": event.in_poll} | ({} if data is None else {"eventData": data})
    return {
        "id": event.id,
        "type": "events",
        "attributes": attributes,
        "links": {"self": _event_link(host, event)},
        "meta": {"enrichmentFields": list(event.fields)},
    }


def single(host: str, event: AcquirerEvent, data: EventData) -> dict[str, Any]:
    """The document of one event."""
    return {
        "data": {"id": event.id, "type": "events", "attributes": _attributes(event) | {"eventData": data}, "meta": {}},
        "links": {"self": _event_link(host, event), "collection": _list_link(host, [(_NUMBER, FIRST_PAGE), (_SIZE, PAGE_SIZE)])},
    }


def page(host: str, events: Sequence[Any], filters: Sequence[tuple[str, str]], number: int, size: int, total: int) -> dict[str, Any]:
    """The document of a page of events. Links lead to the neighbours there are; all but the page's own name the size first."""
    pages = -(-total // size)

    def link(other: int) -> str:
        return _list_link(host, [*filters, (_SIZE, size), (_NUMBER, other)])

    links = {"self": _list_link(host, [*filters, (_NUMBER, number), (_SIZE, size)])}
    if number > 0:
        links |= {"first": link(0), "prev": link(number - 1)}
    if number < pages - 1:
        links |= {"next": link(number + 1), "last": link(pages - 1)}
    counted = {"size": size, "totalElements": total, "totalPages": pages, "number": number}
    return {"data": list(events), "links": links, "meta": {"page": counted}}


def _attributes(event: AcquirerEvent) -> dict[str, Any]:
    return {"eventType": event.event_type} | ({"sourceId": event.data_id} if SOURCE_ID in event.fields else {})


def _event_link(host: str, event: AcquirerEvent) -> str:
    return f"https://{host}/events/{event.id}"


def _list_link(host: str, query: Sequence[tuple[str, object]]) -> str:
    return f"https://{host}/events?{urlencode(query, safe=':')}"

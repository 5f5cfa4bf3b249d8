"""Routes of life events: what the events platform asks of an event's publisher."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from ingestion_dagster.api.access import message_body
from ingestion_dagster.api.asking import TheBody, TheCaller
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.life_events import requests
from ingestion_dagster.life_events.audit import EVENT_DELETED, EVENT_ENRICHED
from ingestion_dagster.life_events.requests import Caller, Desk

RETRY_SECONDS = 5
"""When to ask again what could not be answered."""


class EventId(BaseModel):
    """Which event is meant: its id, 64 hex digits. Nothing else may stand beside it: we would not do what it asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str


class Invalid(Exception):
    """A body that is not `EventId`."""


def desk_of(request: Request) -> Desk:
    """The desk of the application that is asked."""
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(desk_of)]

router = APIRouter(prefix="/life-events", tags=["life events"])

_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": EventId.model_json_schema()}}}}
_Described = dict[int | str, dict[str, Any]]
_ATTRIBUTES: _Described = {200: {"description": "The event's attributes"}}
_DELETED: _Described = {200: {"description": "The event is deleted"}}
_ANSWER: _Described = {
    401: {"description": "No token, or a wrong one"},
    404: {"description": "No such event, or none any more"},
    422: {"description": "The body is something else"},
    429: {"description": "Too many requests"},
    503: {"description": "It cannot be told now: ask again"},
}


@router.post("/enrich", openapi_extra=_BODY, responses=_ATTRIBUTES | _ANSWER)
def enrich(desk: TheDesk, caller: TheCaller, body: TheBody) -> Response:
    """The attributes of an event. 404 means that there are none; 503 that nobody knows at the moment."""
    event_id = _asked(desk, caller, body, EVENT_ENRICHED)
    try:
        found = requests.enrich(desk, event_id, caller)
    except Transient:
        return _json(503, message_body(503))
    return _json(404, message_body(404)) if found.body is None else _json(200, found.body)


@router.post("/delete", openapi_extra=_BODY, responses=_DELETED | _ANSWER)
def delete(desk: TheDesk, caller: TheCaller, body: TheBody) -> Response:
    """Delete an event. After 200 and after 404 it is not there; after 503 it may be: ask again."""
    event_id = _asked(desk, caller, body, EVENT_DELETED)
    try:
        status = 200 if requests.release(desk, event_id, caller).was_there else 404
    except Transient:
        status = 503
    return _json(status, orjson.dumps({"id": event_id}))


def _asked(desk: Desk, caller: Caller, body: bytes | None, event_name: str) -> str:
    try:
        return EventId.model_validate_json(body or b"").id
    except ValidationError:
        requests.tell_invalid(desk, event_name, caller)
        raise Invalid from None


def _json(status: int, body: bytes) -> Response:
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    return Response(body, status, headers, "application/json")

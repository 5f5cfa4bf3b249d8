"""Routes of the catalogue: tasks that change its indexes and tables, and how they stand."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ValidationError

from ingestion_dagster.api.access import HOST
from ingestion_dagster.api.asking import TheBody, TheCaller
from ingestion_dagster.api.catalog_answers import (
    Accepted,
    Descriptions,
    Health,
    Message,
    Stat,
    TaskAnswer,
    Unhealthy,
    described,
    stat,
    task_answer,
)
from ingestion_dagster.api.catalog_desk import CatalogDesk
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.task_requests import Declined, TaskRequest
from ingestion_dagster.catalog.tasks import NoSuchTask, Task
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.life_events.requests import Caller

log = logging.getLogger(__name__)
audit = logging.getLogger("ingestion_dagster.audit.catalog")
"""One line for every task that was asked for, done or not."""

RETRY_SECONDS = 5

NOBODY_FINISHES = (
    "no worker reports here any more: the ranges of an index are kept in the database, and whoever fills one notes it there; "
    "GET /task/{id} tells how far a task has come"
)

_STATUS = {"bad_request": 400, "not_found": 404, "conflict": 409, "unprocessable": 422}
_KEY = re.compile(r"[!-~]{1,255}")

_REFUSALS: Descriptions = {
    401: ("No token, or a wrong one", Message),
    421: ("A host that is not this machine, and no token", Message),
    429: ("Too many requests", Message),
    503: ("It cannot be told now: ask again", Message),
}
_BODY_REFUSALS: Descriptions = {
    400: ("The body is none that this route takes, or the index or alias is not one that is deleted so", Message),
    408: ("The body did not come", Message),
    413: ("The body is too large", Message),
}
_TASK_ANSWERS: Descriptions = {
    202: ("The task is queued, durably", Accepted),
    404: ("There is no such index, alias or refresh", Message),
    409: ("Other work on the media type is in its way", Message),
    422: ("It makes no sense: a suffix, date, alias, media type or callback that cannot be", Message),
    **_BODY_REFUSALS,
    **_REFUSALS,
}

router = APIRouter(tags=["catalogue"])


class Unanswered(Exception):
    """A request that is answered with a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def desk_of(request: Request) -> CatalogDesk:
    """The desk of the application that is asked."""
    desk: CatalogDesk = request.app.state.catalog
    return desk


TheDesk = Annotated[CatalogDesk, Depends(desk_of)]
TheKey = Annotated[str | None, Header(alias="Idempotency-Key", description="The same key and body again: the same task, not another")]


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body, all in one piece."""
    schema = model.model_json_schema()
    named = schema.pop("$defs", {})
    whole = {
        name: {**named[each["$ref"].rpartition("/")[2]], "description": each["description"]} if "$ref" in each else each
        for name, each in schema["properties"].items()
    }
    return {**schema, "properties": whole}


def _takes(model_schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model_schema}}}}


@router.get(
    "/",
    response_model=Health,
    responses=described({400: ("check_deps is neither true nor false", Message)} | _REFUSALS | {503: ("Something is wrong", Unhealthy)}),
)
def health(desk: TheDesk, check_deps: Annotated[bool, Query(description="Look at search engine and databases, too")] = False) -> Response:
    """Whether the server answers, and, if asked, whether what it depends on does."""
    if check_deps:
        problems = desk.dependencies()
        if any(problems.values()):
            return _json(503, {"status": "503 Service Unavailable", "dependencies": problems})
    return _json(200, {"status": "200 OK"})


@router.get("/stat/{name}", response_model=Stat, responses=described(_REFUSALS))
def stat_of(desk: TheDesk, name: str) -> Response:
    """Whether there is an index or alias of this name, and what else it is called."""
    with _answered():
        return _json(200, stat(desk.engine(), name))


@router.get("/task", response_model=list[TaskAnswer], responses=described(_REFUSALS))
def listed(desk: TheDesk) -> Response:
    """All tasks: those that are not over first, the others in the order of their ends."""
    with _answered():
        return _json(200, [task_answer(task).model_dump() for task in desk.listed()])


@router.get("/task/{task_id}", response_model=TaskAnswer, responses=described({404: ("No such task", Message)} | _REFUSALS))
def status_of(desk: TheDesk, task_id: str) -> Response:
    """How a task stands."""
    with _answered():
        return _json(200, task_answer(desk.task(task_id)))


@router.post("/task", status_code=202, responses=described(_TASK_ANSWERS), openapi_extra=_takes(_schema_of(TaskRequest)))
def ask(request: Request, desk: TheDesk, caller: TheCaller, body: TheBody, key: TheKey = None) -> Response:
    """Queue a task. What can be told to be impossible is refused at once; 202 means that the task is kept, come what may."""
    asked = _asked(body, caller)
    try:
        with _answered():
            if key is not None and not _KEY.fullmatch(key):
                raise Unanswered(400, "an Idempotency-Key has 1 to 255 visible characters of ASCII")
            task = desk.ask(asked, key, caller.client)
    except Unanswered as error:
        audit.info("%s asked for %s of %s: %d (%s)", caller.client, asked.action, asked.model, error.status, caller.correlation_id)
        raise
    audit.info("%s asked for %s of %s: 202, task %s (%s)", caller.client, asked.action, asked.model, task.id, caller.correlation_id)
    return _json(202, Accepted(message=_told(task), task_id=task.id, status_check=_status_check(request, task.id)))


@router.delete("/state", response_model=Message, responses=described(_REFUSALS))
def forget(desk: TheDesk) -> Response:
    """End the tasks that nobody works on any more. Nothing else is kept that could be in the way: the tasks stay to be read."""
    with _answered():
        return _json(200, Message(message=f"{desk.settle()} tasks were given up that nobody worked on any more"))


@router.post("/worker_finished", status_code=410, responses=described({410: ("No worker reports here any more", Message)} | _REFUSALS))
def worker_finished() -> Response:
    """Refused, always: there is no registry of workers that could be told."""
    return _json(410, Message(message=NOBODY_FINISHES))


def _asked(body: bytes | None, caller: Caller) -> TaskRequest:
    """The body, if it is a request for a task."""
    try:
        if body is None:
            raise Unanswered(400, "the body has to be a JSON object, its type application/json")
        return TaskRequest.model_validate_json(body)
    except ValidationError as error:
        message = "; ".join(_problem(found["loc"], found["msg"]) for found in error.errors(include_url=False, include_input=False))
        refused = Unanswered(400, message)
    except Unanswered as error:
        refused = error
    audit.info("%s asked for what is no task: 400 (%s)", caller.client, caller.correlation_id)
    raise refused


def _problem(place: tuple[int | str, ...], message: str) -> str:
    """One thing that is wrong with a body. Only names of our own are said again."""
    where = ".".join(str(part) for part in place if part in TaskRequest.model_fields)
    return f"{where}: {message}" if where else message.removeprefix("Value error, ")


@contextmanager
def _answered() -> Iterator[None]:
    """Turns what the catalogue raises into what callers are told."""
    try:
        yield
    except (Declined, Busy, NoSuchTask, Refused, Transient, ConfigurationError) as error:
        raise _answer(error) from None


def _answer(error: Exception) -> Unanswered:
    if isinstance(error, Declined):
        return Unanswered(_STATUS[error.kind], error.message)
    if isinstance(error, Busy):
        return Unanswered(409, str(error))
    if isinstance(error, NoSuchTask):
        return Unanswered(404, "there is no such task")
    if isinstance(error, Refused):
        code = {"suffix_in_use": 409, "no_such_index": 404}.get(error.problems[0].code, 422)
        return Unanswered(code, "; ".join(f"{problem.place}: {problem.message}" for problem in error.problems))
    log.warning("not answered: %s", error.code if isinstance(error, Transient) else error)
    return Unanswered(503, "this cannot be told now: ask again; the log of the server says why")


def _told(task: Task) -> str:
    if task.state == "succeeded":
        return "the task was done"
    return "the task has failed; status_check says why" if task.state == "failed" else "the task is scheduled"


def _status_check(request: Request, task_id: str) -> str:
    host = request.headers.get("host", "")
    if not HOST.fullmatch(host):
        address, port = request.scope.get("server") or ("127.0.0.1", None)
        host = f"{address}:{port}" if port else str(address)
    return f"{request.url.scheme}://{host}/task/{task_id}"


def unanswered(_request: Request, error: Exception) -> Response:
    """The answer to a request that is not done."""
    assert isinstance(error, Unanswered)
    return _json(error.status, Message(message=error.message))


def _json(status: int, content: BaseModel | Any) -> Response:
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    body = orjson.dumps(content.model_dump() if isinstance(content, BaseModel) else content)
    return Response(body, status, headers, "application/json")

"""How the sandbox's Here to Help API reads what is asked and words its answers, the wrong ones as well."""

from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from ingestion_dagster.sandbox.here_to_help_schema import Body, Malformed, read

_LARGEST = 2**31 - 1


class Answered(Exception):
    """The call ends here, with this answer."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__()
        self.answer = answer


def as_json(value: Any, status: int = 200, location: str | None = None) -> web.Response:
    """An answer that is a JSON value."""
    headers = {"Location": location} if location else None
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json", charset="utf-8")


def problem(status: int, title: str, **more: Any) -> web.Response:
    """An answer that describes a problem (RFC 7807)."""
    body = {"type": f"https://httpstatuses.io/{status}", "title": title, "status": status, **more}
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/problem+json", charset="utf-8")


def malformed(error: Malformed) -> web.Response:
    """The answer to what cannot be read."""
    return problem(400, "One or more validation errors occurred.", errors={error.field: [str(error)]})


def not_saved(what: str) -> web.Response:
    """The answer to what could be read and not be kept."""
    return as_json(f"{what}. An error occurred while saving the entity changes.", 400)


def path_id(request: web.Request, name: str) -> int:
    """An id of the path. Raises `Malformed`."""
    text = request.match_info[name]
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_LARGEST)) or int(text) > _LARGEST:
        raise Malformed(name, "The value is not valid.")
    return int(text)


async def body_of(request: web.Request, fields: dict[str, str]) -> Body:
    """The known fields of the body. Raises `Malformed`, and `Answered` for one that does not say it is JSON."""
    if request.content_type != "application/json":
        raise Answered(problem(415, "Unsupported Media Type"))
    return read(await request.read(), fields)


def words(_operation: str, kind: str) -> web.Response | None:
    """The answer of a gateway to a call that it does not let through; None for what is no status."""
    return as_json({"message": HTTPStatus(int(kind)).phrase}, int(kind)) if kind.isdigit() else None

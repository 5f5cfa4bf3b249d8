"""The private HTTP API: its routes, put together behind the door that `access` is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ingestion_dagster.api import life_events
from ingestion_dagster.api.access import HEALTH, Access, RateLimit, message_body
from ingestion_dagster.life_events.requests import Desk
from ingestion_dagster.settings import Settings


def create_app(settings: Settings, word: str = "") -> FastAPI:
    """The API under these settings; `word` is what `/healthz` answers, by which its starter knows it.

    Raises `ConfigurationError` for a database, a store or keys that cannot be used.
    """
    desk = Desk.of(settings)
    app = FastAPI(
        title="ingestion: private API",
        description="What the events platform asks of a publisher of life events: an event's attributes, and its deletion.",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.desk = desk
    app.state.word = word
    app.add_middleware(Access, token=settings.api_token, limit=RateLimit(settings.api_requests_per_second))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(life_events.Invalid, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_api_route(HEALTH, _health, methods=["GET"], tags=["operations"], summary="Whether it answers")
    app.include_router(life_events.metrics_router)
    app.include_router(life_events.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.desk.close()


async def _health(request: Request) -> dict[str, Any]:
    return {"token": request.app.state.word}


async def _invalid(_request: Request, _error: Exception) -> Response:
    # FastAPI's own answer quotes what was sent.
    return Response(message_body(422), 422, media_type="application/json")


async def _refused(_request: Request, error: Exception) -> Response:
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    return Response(message_body(status), status, dict(headers or {}), "application/json")

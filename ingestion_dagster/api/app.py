"""The private HTTP API: its routes, put together behind the door that `access` is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ingestion_dagster.api import catalog, life_events, metrics
from ingestion_dagster.api.access import HEALTH, Access, RateLimit, message_body
from ingestion_dagster.api.catalog_desk import CatalogDesk
from ingestion_dagster.life_events.requests import Desk
from ingestion_dagster.settings import Settings


def create_app(settings: Settings, word: str = "", catalog_desk: CatalogDesk | None = None) -> FastAPI:
    """The API under these settings; `word` is what `/healthz` answers, by which its starter knows it.

    Raises `ConfigurationError` for a database, a store or keys that cannot be used.
    """
    desk = Desk.of(settings)
    desk_of_catalogue = catalog_desk or CatalogDesk(settings)
    app = FastAPI(
        title="ingestion: private API",
        description="What the events platform asks of a publisher of life events: an event's attributes, and its deletion. "
        "And what is asked of the catalogue: refreshes, promotions, and work on its search indexes.",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.desk = desk
    app.state.catalog = desk_of_catalogue
    app.state.word = word
    app.state.scrapes = metrics.Scrapes()
    app.add_middleware(Access, token=settings.api_token, limit=RateLimit(settings.api_requests_per_second))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(life_events.Invalid, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(catalog.Unanswered, catalog.unanswered)
    app.add_api_route(HEALTH, _health, methods=["GET"], tags=["operations"], summary="Whether it answers")
    app.include_router(metrics.router)
    app.include_router(life_events.router)
    app.include_router(catalog.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.catalog.open()
    try:
        yield
    finally:
        app.state.catalog.close()
        app.state.desk.close()


async def _health(request: Request) -> dict[str, Any]:
    return {"token": request.app.state.word}


async def _invalid(request: Request, _error: Exception) -> Response:
    # FastAPI's own answer quotes what was sent.
    status = 422 if request.url.path.startswith(life_events.router.prefix) else 400
    return Response(message_body(status, request.url.path), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    more = dict(headers or {})
    if status == 405:
        # The router names the methods of the first route alone.
        more["Allow"] = ", ".join(sorted(_methods(request)))
    return Response(message_body(status, request.url.path), status, more, "application/json")


def _methods(request: Request) -> set[str]:
    """The methods that the path of a request takes."""
    found: set[str] = set()
    for route in life_events.router.routes + metrics.router.routes + catalog.router.routes + request.app.router.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found

"""`GET /metrics`: how everything stands, in Prometheus' text format. One scrape asks the database once, however many ask."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingestion_dagster.api import queues
from ingestion_dagster.api.access import message_body
from ingestion_dagster.api.asking import TheCaller
from ingestion_dagster.engine import figures
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.figures import Figure
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.life_events import upkeep
from ingestion_dagster.life_events.requests import Desk
from ingestion_dagster.pipelines import PIPELINES

log = logging.getLogger(__name__)

FRESH_SECONDS = 10.0
"""How old an answer may be: whoever scrapes more often gets the same."""

PREFIX = "ingestion_"
MOST_ROWS = 2000
"""Rows of one figure that are told: beyond that, the smallest are left out, and counted."""

_RETRY_SECONDS = 5
_UNFIT = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(slots=True)
class Scrapes:
    """The last answer, and who is asking for the next: one at a time."""

    clock: Callable[[], float] = time.monotonic
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _body: bytes = b""
    _until: float = 0.0

    def body(self, desk: Desk) -> bytes:
        """The exposition. Raises `Transient` and `ConfigurationError` for what could not be asked."""
        with self._turn:
            if self.clock() >= self._until:
                begun = self.clock()
                found = _read(desk)
                took = Figure("scrape_seconds", "How long reading all of this took.", (), [((), self.clock() - begun)])
                self._body = exposition([*found, took])
                self._until = self.clock() + FRESH_SECONDS
            return self._body


def scrapes_of(request: Request) -> Scrapes:
    """Those of the application that is asked."""
    scrapes: Scrapes = request.app.state.scrapes
    return scrapes


router = APIRouter(tags=["operations"])


@router.get("/metrics", response_class=PlainTextResponse, responses={503: {"description": "It cannot be told now: ask again"}})
def metrics(request: Request, scrapes: Annotated[Scrapes, Depends(scrapes_of)], caller: TheCaller) -> Response:
    """How loads, queues, the outbox and life events stand. Times are in seconds; what has no value at the moment is left out."""
    try:
        return Response(scrapes.body(request.app.state.desk), media_type=CONTENT_TYPE_PLAIN_0_0_4)
    except (Transient, ConfigurationError) as error:
        log.error("metrics %s: %s", caller.correlation_id, error)
        return Response(message_body(503), 503, {"Retry-After": str(_RETRY_SECONDS)}, "application/json")


def _read(desk: Desk) -> list[Figure]:
    older_than = timedelta(days=desk.settings.life_events_ttl_days)
    with desk.connections.borrowed() as connection:
        found = figures.read(connection, list(PIPELINES))
        of_life_events = upkeep.metrics(connection, desk.store, desk.now(), older_than=older_than)
    found += [
        Figure(f"life_events_{_UNFIT.sub('_', name)}", "Of life events.", (), [((), float(value))])
        for name, value in sorted(of_life_events.items())
        if value is not None
    ]
    try:
        found += queues.read(desk.settings)
        answers = 1.0
    except Transient as error:
        # What can be told of loads is told, whoever else is away.
        log.warning("metrics: %s", error)
        answers = 0.0
    return [*found, Figure("queues_answer", "Whether queues could be asked.", (), [((), answers)])]


class _Found(Collector):
    """What has been read, as Prometheus' client takes it."""

    def __init__(self, found: list[Figure]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        cut = 0
        for figure in self._found:
            family = GaugeMetricFamily(f"{PREFIX}{figure.name}", figure.meaning, labels=figure.labels)
            rows = sorted(figure.rows, key=lambda row: -row[1])
            cut += max(0, len(rows) - MOST_ROWS)
            for labels, value in rows[:MOST_ROWS]:
                family.add_metric([one_line(label) for label in labels], value)
            yield family
        yield GaugeMetricFamily(f"{PREFIX}rows_left_out", "Rows of figures that have too many to be told.", value=cut)


def exposition(found: list[Figure]) -> bytes:
    """The figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found(found))
    return generate_latest(registry)

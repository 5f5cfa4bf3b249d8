"""A node behind a proxy that has bad days, and time that only pauses move, for tests of the search cluster."""

import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.opensearch_calls import Waiting
from ingestion_dagster_tests.catalog import faulty_proxy
from ingestion_dagster_tests.catalog.faulty_proxy import FaultyProxy


class VirtualTime:
    """A clock that only pauses move; every pause is as long as it may be."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds

    def waiting(self, patience: float) -> Waiting:
        """So patient in this time."""
        return Waiting(patience, lambda: self.now, self.sleep, lambda: 1.0)


@pytest.fixture
def proxy(opensearch: str) -> Iterator[FaultyProxy]:
    """A proxy before the session's node."""
    with faulty_proxy.faulty_proxy(opensearch) as started:
        yield started


@pytest.fixture
def time() -> VirtualTime:
    """The time of the test."""
    return VirtualTime()


@pytest.fixture
def engine(proxy: FaultyProxy, time: VirtualTime) -> Iterator[OpenSearch]:
    """The node behind the proxy, in virtual time."""
    made = OpenSearch.at(proxy.url, bulk_documents=10, waiting=time.waiting(120))
    yield made
    made.close()


@pytest.fixture
def index(engine: OpenSearch) -> str:
    """An empty index."""
    name = f"faults-{uuid.uuid4().hex[:10]}"
    engine.create(name, mapping.AUDIO.definition({"refresh": "one"}))
    return name


DOCUMENTS = [(number, b'{"id":%d}' % number) for number in range(30)]


IDS = [number for number, _ in DOCUMENTS]


def ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """An answer of the node itself."""
    data = None if body is None else orjson.dumps(body)
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return orjson.loads(answer.read())


def in_index(engine: OpenSearch, index: str) -> int:
    """How many documents there are."""
    engine.refresh(index)
    return engine.count(index)

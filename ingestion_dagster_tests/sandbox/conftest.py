"""The sandbox's Here to Help API, empty, and a client of it."""

from collections.abc import Iterator

import pytest

from ingestion_dagster.sandbox.here_to_help import HereToHelp
from ingestion_dagster.sandbox.usage import Settings
from ingestion_dagster_tests.sandbox.asking import Client, answering


@pytest.fixture
def api() -> HereToHelp:
    return HereToHelp(settings=Settings(rate=0))


@pytest.fixture
def client(api: HereToHelp) -> Iterator[Client]:
    with answering(api) as client:
        yield client

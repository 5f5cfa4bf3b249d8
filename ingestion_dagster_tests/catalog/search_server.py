"""A real OpenSearch for the tests: one node a session, and so one a worker."""

from collections.abc import Iterator

import pytest

from ingestion_dagster.sandbox import opensearch as node


@pytest.fixture(scope="session")
def opensearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of this session's node, without a slash at the end. Tests share it: their index names are to be their own.

    Never skips: without Java or Maven it fails, and says what to install.
    """
    # Not a folder for each request: whichever modules import this fixture share one node.
    home = tmp_path_factory.getbasetemp() / "opensearch"
    started = node.start(home, owned=True)
    yield started.url
    node.stop(home)

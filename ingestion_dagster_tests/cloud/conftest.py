"""One stack for the tests of a worker."""

from collections.abc import Iterator

import pytest

from ingestion_dagster_tests.cloud.stack import Stack, deployed
from ingestion_dagster_tests.engine import conftest as s3

aws_environment = s3.aws_environment


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The template in moto."""
    with deployed() as made:
        yield made

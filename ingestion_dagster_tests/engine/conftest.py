"""An S3 server on loopback, and a bucket of its own for each test that asks for one."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.engine.scene import Scene, scene_in
from ingestion_dagster_tests.metrics.one_database import empty, one_database

_numbers = count(1)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """AWS settings of nobody: what this machine has of them is out of sight."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    open_store.cache_clear()
    yield monkeypatch
    open_store.cache_clear()


@pytest.fixture
def new_bucket(moto_server: str, aws_environment: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes buckets; returns their names."""
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    client = boto3.client("s3", region_name="eu-west-2")

    def new(*, versioned: bool = False) -> str:
        bucket = f"bucket-{next(_numbers)}"
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-2"})
        if versioned:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return bucket

    return new


@pytest.fixture
def s3_url(new_bucket: Callable[..., str]) -> str:
    return f"s3://{new_bucket()}/some prefix"


@pytest.fixture
def s3_versioned_url(new_bucket: Callable[..., str]) -> str:
    return f"s3://{new_bucket(versioned=True)}/some prefix"


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def scene(one: Database, tmp_path: Path) -> Iterator[Scene]:
    """The module's database, emptied, with a landing zone and its targets beside it."""
    with scene_in(empty(one), tmp_path) as made:
        yield made

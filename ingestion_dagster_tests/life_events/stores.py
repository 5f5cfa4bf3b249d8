"""Both event stores for tests: Postgres' table, and a DynamoDB table on moto's server; and events to keep there."""

import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.dynamodb_store import DynamoStore
from ingestion_dagster.life_events.keys import Hasher, Key, Vault
from ingestion_dagster.life_events.postgres_store import PostgresStore
from ingestion_dagster.life_events.store import EventStore, Sealed
from ingestion_dagster_tests.engine.conftest import aws_environment
from ingestion_dagster_tests.engine.processes import emptied
from ingestion_dagster_tests.metrics.one_database import one_database

__all__ = ["a_store", "aws_environment", "connection", "dynamo", "dynamodb_server", "emptied_database", "one"]

NOW = datetime(2031, 2, 4, 9, 30, tzinfo=UTC)
WEEK = timedelta(days=7)
_numbers = count(1)


def key_of(number: int | str) -> bytes:
    """A record key."""
    return hashlib.sha256(f"record {number}".encode()).digest()


def sealed(number: int | str, *, stored: datetime = NOW, ttl: timedelta = WEEK, key: str = "k1", payload: bytes | None = None) -> Sealed:
    """An event that is stored, by default, now."""
    return Sealed(key_of(number), key, payload or f"payload of {number}".encode(), stored, stored + ttl)


def hashing(*ids: str) -> Hasher:
    """A hasher with keys of these ids, the current one first; the same id is always the same key."""
    return Hasher(tuple(Key(each, f"hmac key {each}".encode() * 4) for each in ids))


def vault_of(*ids: str) -> Vault:
    """A vault, likewise."""
    return Vault(tuple(Key(each, hashlib.sha256(each.encode()).digest()) for each in ids))


def new_table(client: Any) -> str:
    """A DynamoDB table as the store needs it."""
    name = f"life-events-{next(_numbers)}"
    client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "hash", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "hash", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as made:
        yield made


@pytest.fixture
def emptied_database(one: Database) -> Database:
    return emptied(one, "life_events", "ledger")


@pytest.fixture
def connection(emptied_database: Database) -> Iterator[Connection]:
    with emptied_database.connect() as connected:
        yield connected


@pytest.fixture(scope="session")
def dynamodb_server() -> Iterator[str]:
    """Moto's server, one request at a time: else two of them can meet the same condition, which DynamoDB lets only one."""
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    server.log = lambda *_, **__: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def dynamo(dynamodb_server: str, aws_environment: pytest.MonkeyPatch) -> Any:
    """A client of DynamoDB as the stores find it."""
    aws_environment.setenv("AWS_ENDPOINT_URL", dynamodb_server)
    return boto3.client("dynamodb", region_name="eu-west-2")


@pytest.fixture(params=["postgres", "dynamodb"])
def a_store(request: pytest.FixtureRequest) -> EventStore:
    """Each of the stores, empty."""
    if request.param == "postgres":
        return PostgresStore()
    return DynamoStore(new_table(request.getfixturevalue("dynamo")))

"""Events as a load leaves them: a record in the ledger, the sealed payload in the store, the message to the platform in the outbox."""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import orjson
import psycopg
import pytest
from pydantic import SecretStr

from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.keys import vault
from ingestion_dagster.life_events.registry import PUBLISH
from ingestion_dagster.life_events.store import EventStore, Sealed, open_store
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.processes import emptied
from ingestion_dagster_tests.metrics.one_database import one_database

HMAC_KEYS = f"a:{'0123456789abcdef' * 4}"  # pragma: allowlist secret
ENCRYPTION_KEYS = f"a:{'fedcba9876543210' * 4}"  # pragma: allowlist secret
MARKER = "ZYXWQUARK"
ATTRIBUTES: Mapping[str, Any] = {
    "hash": None, "registrationId": "900000001", "eventTime": "2031-02-04T09:30:00", "dateOfDeath": "2031-02-01", "verificationLevel": "01",
    "partialMonthOfDeath": None, "partialYearOfDeath": None, "forenames": f"{MARKER} Ann", "surname": MARKER, "maidenSurname": None,
    "sex": "F", "dateOfBirth": "2030-01-01", "addressLine1": None, "addressLine2": f"1 {MARKER} Road", "addressLine3": None,
    "addressLine4": None, "postcode": "ZZ99 7QK",
    "aliases": [{"title": None, "forenames": MARKER, "surname": None, "suffix": None, "type": None}],
}  # fmt: skip
RECORD = {"RegistrationID": "900000001", "DeceasedName": {"PersonFamilyName": f"{MARKER} FOR ACQUIRERS"}}


def key_of(number: int) -> bytes:
    """The record key of the event of that number."""
    return hashlib.sha256(str(number).encode()).digest()


@dataclass
class Held:
    """What is held under these settings, to put events into and to look at."""

    settings: Settings

    @property
    def store(self) -> EventStore:
        """The event store, opened anew."""
        return open_store(self.settings)

    def connect(self) -> Connection:
        """A connection to the ledger's database."""
        return postgres.locate(self.settings).connect()

    def attributes(self, number: int) -> dict[str, Any]:
        """What has to be handed out of an event."""
        return {**ATTRIBUTES, "hash": key_of(number).hex()}

    def put(self, *numbers: int, state: str = "published", ttl: timedelta = timedelta(days=7), **payload: Any) -> list[str]:
        """Enter events; their ids."""
        now = datetime.now(UTC)
        keys = vault(self.settings)
        with self.connect() as connection, connection.transaction():
            for number in numbers:
                key = key_of(number)
                sealed = keys.seal(key, orjson.dumps({**self.attributes(number), **payload}))
                connection.execute(
                    "INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal, state, published_at) "
                    "VALUES (%s, 'a', 1, %s, %s, CASE WHEN %s <> 'pending' THEN now() END)",
                    [key, number, state, state],
                )
                if state == "pending":
                    self.queue(connection, PUBLISH, number)
                stored = now if ttl > timedelta() else now + ttl - timedelta(days=1)
                self.store.put(connection, [Sealed(key, keys.current.id, sealed, stored, now + ttl)])
        return [key_of(number).hex() for number in numbers]

    def queue(self, connection: Connection, topic: str, number: int) -> None:
        """Enter a message about an event into the outbox."""
        connection.execute("INSERT INTO ledger.outbox (topic, key, load_id) VALUES (%s, %s, 1)", [topic, key_of(number).hex()])

    def query(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a statement."""
        with self.connect() as connection:
            found = connection.execute(statement, parameters)
            return found.fetchall() if found.description else []

    def state(self, number: int) -> str:
        """The state of an event's record."""
        [(state,)] = self.query("SELECT state FROM life_events.records WHERE record_key = %(key)s", {"key": key_of(number)})
        return str(state)

    def is_stored(self, number: int) -> bool:
        """Whether the store holds the event, expired or not."""
        with self.connect() as connection:
            return bool(self.store.get(connection, [key_of(number)], datetime(2000, 1, 1, tzinfo=UTC)))

    def outbox(self) -> list[tuple[str, str]]:
        """Topic and key of what is in the outbox."""
        return [(topic, key) for topic, key in self.query("SELECT topic, key FROM ledger.outbox ORDER BY id")]

    def audit(self) -> list[dict[str, Any]]:
        """The rows of the audit, oldest first."""
        with self.connect() as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute("SELECT * FROM life_events.audit ORDER BY id").fetchall()

    def outcomes(self) -> list[tuple[str, str]]:
        """What was asked and how it ended, oldest first."""
        return [(row["event_name"], row["outcome"]) for row in self.audit()]

    def alerts(self) -> list[str]:
        """The keys of the alerts that were raised."""
        return [key for (key,) in self.query("SELECT DISTINCT key FROM ledger.alerts ORDER BY 1")]

    def everything(self) -> str:
        """All that stands in the database, as text; what is bytes there also as what they are."""
        names = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('ledger', 'life_events')"
        text = "\n".join(row for (name,) in self.query(names) for (row,) in self.query(f"SELECT t::text FROM {name} AS t"))
        return text + "\n".join(bytes.fromhex(found).decode("latin-1") for found in re.findall(r"\\x((?:[0-9a-f]{2})+)", text))


@pytest.fixture(scope="module")
def held_in(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


def installation(database: Database, home: Path, **more: Any) -> Settings:
    """Settings of a fresh installation, whose alerts go nowhere."""
    values = {
        "home": home,
        "database_url": emptied(database, "life_events", "ledger").sqlalchemy_url,
        "life_events_hmac_keys": SecretStr(HMAC_KEYS),
        "life_events_encryption_keys": SecretStr(ENCRYPTION_KEYS),
        "slack_webhook_url": "http://127.0.0.1:9/nowhere",
    }
    return Settings(**{**values, **more})


@pytest.fixture
def held(held_in: Database, tmp_path: Path) -> Held:
    """An installation that keeps events in Postgres, the module's database emptied."""
    return Held(installation(held_in, tmp_path / "home"))


@pytest.fixture
def held_in_dynamo(held_in: Database, tmp_path: Path, moto_server: str, aws_environment: pytest.MonkeyPatch) -> Held:
    """One that keeps them in a DynamoDB table of its own."""
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    table = f"events-{uuid.uuid4().hex[:12]}"
    boto3.client("dynamodb", region_name="eu-west-2").create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "hash", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "hash", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return Held(installation(held_in, tmp_path / "home", life_events_store_url=f"dynamodb://{table}"))

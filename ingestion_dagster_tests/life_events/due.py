"""Events that are due, as a load leaves them: in the ledger, in the store, in the outbox. Nobody of them has lived."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from ingestion_dagster.engine import outbox
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events.keys import vault
from ingestion_dagster.life_events.registry import PIPELINE, PUBLISH
from ingestion_dagster.life_events.store import Sealed, open_store
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.life_events.stand_in import CLIENT_ID, CLIENT_SECRET

ENCRYPTION_KEYS = f"tests:{'ab' * 32}"  # pragma: allowlist secret
HMAC_KEYS = f"tests:{'0123456789' * 4}"  # pragma: allowlist secret
DAY = "2031-02-05"

RECORD: dict[str, Any] = {
    "RegistrationID": "900000001",
    "RecordLockedDateTime": "2031-02-04T09:30:00",
    "DeceasedName": {"PersonGivenName": ["PLACEHOLDER"], "PersonFamilyName": "SYNTHÉTIC"},
    "DeceasedGender": "2",
    "DeceasedDeathDate": {"PersonDeathDate": "2031-02-01", "VerificationLevel": "01"},
    "DeceasedBirthDate": {"PersonBirthDate": "2030-01-01", "VerificationLevel": "00"},
    "DeceasedAddress": {"Building": "1 NOWHERE ROAD", "Postcode": "ZZ99 9ZZ"},
}


def settings_for(database: Database, home: Path, platform_url: str, **more: Any) -> Settings:
    """An installation over a database and a platform."""
    values: dict[str, Any] = {
        "home": home,
        "database_url": database.sqlalchemy_url,
        "life_events_platform_url": platform_url,
        "life_events_token_url": f"{platform_url}/oauth2/token",
        "life_events_client_id": CLIENT_ID,
        "life_events_client_secret": SecretStr(CLIENT_SECRET),
        "life_events_encryption_keys": SecretStr(ENCRYPTION_KEYS),
        "life_events_hmac_keys": SecretStr(HMAC_KEYS),
        "life_events_platform_patience_seconds": 1,
    }
    return Settings(**{**values, **more})


def record_key(number: int) -> bytes:
    """The key of a record of a number."""
    return hashlib.sha256(f"event {number}".encode()).digest()


def ids(count: int, first: int = 0) -> list[str]:
    """The ids of so many events."""
    return [record_key(number).hex() for number in range(first, first + count)]


def event_time(number: int) -> str:
    """When the record of a number was locked."""
    return f"2031-02-04T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"


def put_due(
    settings: Settings,
    count: int,
    *,
    first: int = 0,
    day: str = DAY,
    topics: Sequence[str] = (PUBLISH,),
    record: Mapping[str, Any] | None = None,
    stored_at: datetime | None = None,
) -> int:
    """Enter so many events with a load of their own; the load's id."""
    database, store, sealer = Database.at(settings.database_url or ""), open_store(settings), vault(settings)
    at = stored_at or datetime.now(UTC)
    events = []
    for number in range(first, first + count):
        content: dict[str, Any] = {"hash": record_key(number).hex(), "eventTime": event_time(number), "surname": "PLACEHOLDER"}
        if record is not None:
            content["record"] = dict(record)
        payload = sealer.seal(record_key(number), orjson.dumps(content))
        events.append(Sealed(record_key(number), sealer.current.id, payload, at, at + timedelta(days=7)))
    with database.connect() as connection, connection.transaction():
        row = connection.execute(
            """
            INSERT INTO ledger.loads (pipeline, landing_zone, key, version, size, modified, partition, status)
            VALUES (%s, 'zone', %s, '1', 1, now(), %s, 'archived') RETURNING id
            """,
            [PIPELINE, f"{first}.xml", day],
        ).fetchone()
        assert row is not None
        keys = [each.record_key for each in events]
        connection.execute(
            """
            INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal, stored_at)
            SELECT key, 'tests', %s, ordinal, %s FROM unnest(%s::bytea[]) WITH ORDINALITY AS given (key, ordinal)
            """,
            [row[0], at, keys],
        )
        store.put(connection, events)
        for topic in topics:
            outbox.put(connection, topic, [key.hex() for key in keys], row[0])
    return int(row[0])


def query(settings: Settings, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Rows of a statement in the ledger's database."""
    with Database.at(settings.database_url or "").connect() as connection:
        found = connection.execute(statement, list(parameters))
        return found.fetchall() if found.description else []


def states(settings: Settings) -> dict[str, int]:
    """How many records are in which state."""
    return dict(query(settings, "SELECT state, count(*) FROM life_events.records GROUP BY state"))


def outbox_rows(settings: Settings) -> list[tuple[Any, ...]]:
    """Key, attempts, code, and whether it is dead and claimed, of what is in the outbox."""
    return query(
        settings, "SELECT key, attempts, code, dead_at IS NOT NULL, claimed_until IS NOT NULL FROM ledger.outbox ORDER BY topic, id"
    )


def let_claims_run_out(settings: Settings) -> None:
    """Nobody holds a message any longer: what time does to the claims of the dead, at once."""
    query(settings, "UPDATE ledger.outbox SET claimed_until = now() - interval '1 second' WHERE claimed_until IS NOT NULL")

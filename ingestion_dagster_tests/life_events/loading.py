"""Files of registrations of nobody, in every dress; and an installation to load them into."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events.elements import NAMESPACES
from ingestion_dagster.life_events.keys import vault
from ingestion_dagster.life_events.store import open_store
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import query
from ingestion_dagster_tests.life_events import driver
from ingestion_dagster_tests.metrics.one_database import one_database

SAMPLES = Path(__file__).parent / "data"

_GROUP, _PERSON, _DETAILS, _ADDRESS, _NAMES = NAMESPACES
_PREFIXES = {"PersonDeathDate": "ns1", "VerificationLevel": "ns1", "Building": "ns3", "Postcode": "ns3", "PersonFamilyName": "ns4"}
_DECLARED = f' xmlns="{_GROUP}" xmlns:ns1="{_PERSON}" xmlns:ns3="{_ADDRESS}" xmlns:ns4="{_NAMES}"'
_DECLARED_OTHERWISE = f' xmlns:a="{_GROUP}" xmlns:b="{_PERSON}" xmlns:c="{_ADDRESS}" xmlns:d="{_NAMES}"'
_OTHER_PREFIXES = {"": "a", "ns1": "b", "ns3": "c", "ns4": "d"}


def registration(number: int, *, bad: bool = False, updated: str | None = None) -> list[Any]:
    """A registration as names and texts (or names and texts within); a bad one has no time."""
    times = [["RecordLockedDateTime", "2031-02-04T09:30:00"]] if updated is None else [["RecordUpdateDateTime", updated]]
    return [
        ["RegistrationID", str(900_000_000 + number)],
        *([] if bad else times),
        ["DeceasedName", [["PersonFamilyName", f"PLACEHOLDER {number}"]]],
        ["DeceasedGender", "2"],
        ["DeceasedDeathDate", [["PersonDeathDate", "2031-02-03"], ["VerificationLevel", "01"]]],
        ["DeceasedAddress", [["Building", "1 SYNTHETIC ROW"], ["Postcode", "ZZ1 1ZZ"]]],
    ]


def group(*records: list[Any], count: int | None = None, dress: str = "feed") -> bytes:
    """A file of these records. `dress`: `feed`, `plain` (no namespace), `prefixed` (other prefixes), `spread` (white space everywhere)."""
    declared = {"feed": _DECLARED, "spread": _DECLARED, "plain": "", "prefixed": _DECLARED_OTHERWISE}[dress]
    gap = "\n\t  " if dress == "spread" else ""

    def tag(name: str) -> str:
        prefix = "" if dress == "plain" else _PREFIXES.get(name, "")
        prefix = _OTHER_PREFIXES[prefix] if dress == "prefixed" else prefix
        return f"{prefix}:{name}" if prefix else name

    def text(content: Any) -> str:
        if isinstance(content, str):
            return f"{gap}{content}{gap}"
        return gap.join(f"{gap}<{tag(name)}>{text(inner)}</{tag(name)}{gap}>" for name, inner in content)

    content = [*(["DeathRegistration", record] for record in records), ["RecordCount", str(len(records) if count is None else count)]]
    return f"<{tag('DeathRegistrationGroup')}{declared}>{text(content)}</{tag('DeathRegistrationGroup')}>".encode()


def numbered(*numbers: int, **how: Any) -> bytes:
    """A file of the registrations of these numbers."""
    return group(*map(registration, numbers), **how)


def sample(name: str) -> bytes:
    """A sample file, by the beginning of its name."""
    [path] = SAMPLES.glob(f"{name}*.xml")
    return path.read_bytes()


def rows(settings: Settings, columns: str, table: str = "life_events.records", order: str = "1") -> list[tuple[Any, ...]]:
    """What stands in a table."""
    return query(settings, f"SELECT {columns} FROM {table} ORDER BY {order}")


def states(settings: Settings) -> dict[str, int]:
    """How many records are in which state."""
    return dict(query(settings, "SELECT state, count(*) FROM life_events.records GROUP BY state"))


def loads(settings: Settings) -> list[tuple[Any, ...]]:
    """Key, status, code, and rows in, written, unchanged and rejected of each load, in the order in which they came."""
    return rows(settings, "key, status, error_code, rows_in, rows_written, rows_unchanged, rows_rejected", "ledger.loads", "modified, id")


def opened(settings: Settings, record_keys: Sequence[bytes]) -> dict[bytes, dict[str, Any]]:
    """What is in the store under these keys, whether it has expired or not."""
    from datetime import UTC, datetime

    opener = vault(settings)
    with postgres.locate(settings).connect() as connection:
        found = open_store(settings).get(connection, record_keys, datetime(2000, 1, 1, tzinfo=UTC))
    return {key: orjson.loads(opener.open(key, event.encryption_key, event.payload)) for key, event in found.items()}


def everything_opened(settings: Settings) -> dict[bytes, dict[str, Any]]:
    """What is in the store of the records that the ledger knows."""
    return opened(settings, [bytes(row[0]) for row in rows(settings, "record_key")])


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def installation(one: Database) -> Iterator[Settings]:
    """A fresh installation over the module's database."""
    with driver.quick_folder() as folder:
        yield driver.settings_for(driver.emptied(one), folder)

"""Life events to drive by name through Dagster: a landing zone, a platform in a thread, and files of people who have never lived."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import landing, whereabouts
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events import places
from ingestion_dagster.life_events.pipeline import LOAD_JOB
from ingestion_dagster.life_events.registry import DATASET, PIPELINE
from ingestion_dagster.sandbox import servers
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine.processes import emptied
from ingestion_dagster_tests.life_events import driver
from ingestion_dagster_tests.life_events.stand_in import CLIENT_ID, CLIENT_SECRET, StandIn, standing_in
from ingestion_dagster_tests.metrics.one_database import one_database

TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
YESTERDAY = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
SAMPLES = Path(__file__).parent / "data"

Run = Callable[..., dg.ExecuteInProcessResult]

_ELEMENTS: Mapping[str, str] = {
    "RegistrationID": "{0}",
    "RecordLockedDateTime": "2031-02-04T09:30:00",
    "DeceasedName": "<PersonGivenName>Testy</PersonGivenName><PersonFamilyName>PLACEHOLDER</PersonFamilyName>",
    "DeceasedGender": "2",
    "DeceasedDeathDate": "<PersonDeathDate>2031-02-01</PersonDeathDate><VerificationLevel>01</VerificationLevel>",
    "DeceasedBirthDate": "<PersonBirthDate>2030-01-01</PersonBirthDate>",
    "DeceasedAddress": "<Flat>1</Flat><Line>Imaginary Row</Line><Postcode>ZZ99 9ZZ</Postcode>",
}


def registration(number: int, **changes: str | None) -> str:
    """A good registration of a number; the content of elements is replaced by `changes`, None leaves one out."""
    elements = {name: content.format(900_000_000 + number) for name, content in _ELEMENTS.items()} | changes
    inner = "".join(f"<{name}>{content}</{name}>" for name, content in elements.items() if content is not None)
    return f"<DeathRegistration>{inner}</DeathRegistration>"


def bad(number: int) -> str:
    """One that is not accepted: it has no time."""
    return registration(number, RecordLockedDateTime=None)


def file_of(*registrations: str | int, count: int | None = None) -> bytes:
    """A file of registrations, good ones where a number stands, that says how many they are, or `count`."""
    told = [registration(each) if isinstance(each, int) else each for each in registrations]
    inner = "\n".join([*told, f"<RecordCount>{len(told) if count is None else count}</RecordCount>"])
    return f"<DeathRegistrationGroup>{inner}</DeathRegistrationGroup>".encode()


@dataclass
class LifeEvents:
    """An installation, as files and the database show it."""

    database: Database

    @property
    def settings(self) -> Settings:
        """As the environment has them now."""
        return current()

    def drop(self, name: str, content: bytes, minute: int = 0) -> Path:
        """Put a file into the landing zone."""
        return driver.drop(self.settings, name, content, minute)

    def waiting(self) -> list[str]:
        """Names of what stands in the landing zone."""
        return sorted(path.name for path in driver.incoming(self.settings).rglob("*") if path.is_file())

    def quarantined(self) -> list[Path]:
        """What stands in quarantine."""
        return sorted(path for path in driver.quarantine(self.settings).rglob("*") if path.is_file())

    def query(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Rows of a statement."""
        with self.database.connect() as connection:
            found = connection.execute(statement, parameters)
            return found.fetchall() if found.description else []

    def loads(self) -> list[dict[str, Any]]:
        """Every load as `status --loads --json` shows it."""
        with self.database.connect() as connection:
            return whereabouts.load_states(connection, PIPELINE)

    def statuses(self) -> dict[str, str]:
        """Status by key, of the newest version."""
        return {load["key"]: load["status"] for load in self.loads()}

    def records(self) -> dict[str, int]:
        """How many records are in which state."""
        return dict(self.query("SELECT state, count(*) FROM life_events.records GROUP BY state"))

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.query(f"SELECT count(*) FROM {table}")[0][0])

    def alerts(self) -> list[str]:
        """Keys of the alerts that were raised, oldest first."""
        return [key for (key,) in self.query("SELECT key FROM ledger.alerts ORDER BY id")]

    def discovered_yesterday(self, *names: str) -> None:
        """Enter what stands in the landing zone, and date these files back."""
        with self.database.connect() as connection:
            sync_datasets(connection, PIPELINE, [DATASET])
            landing.discover(connection, places.zone(self.settings), datetime.now(UTC))
            connection.execute(
                "UPDATE ledger.loads SET partition = %s, discovered_at = discovered_at - interval '1 day' WHERE key = ANY(%s)",
                [YESTERDAY, list(names)],
            )

    def let_time_be_up(self) -> None:
        """Every event has outlived its time, at once."""
        self.query("UPDATE life_events.records SET stored_at = stored_at - interval '8 days'")
        self.query("UPDATE life_events.events SET stored_at = stored_at - interval '8 days', expires_at = now() - interval '1 minute'")


def set_environment(monkeypatch: pytest.MonkeyPatch, database: Database, home: Path) -> None:
    """The environment of a fresh installation, for this process and those it starts: keys of its own, nothing settles, no file is due."""
    for name, value in {
        "HOME": str(home),
        "DATABASE_URL": database.sqlalchemy_url,
        "SETTLE_SECONDS": "0",
        "LIFE_EVENTS_HMAC_KEYS": driver.HMAC_KEYS,
        "LIFE_EVENTS_ENCRYPTION_KEYS": driver.ENCRYPTION_KEYS,
        "LIFE_EVENTS_EXPECTED_FILE": "off",
        "LIFE_EVENTS_PLATFORM_PATIENCE_SECONDS": "1",
    }.items():
        monkeypatch.setenv(f"INGESTION_{name}", value)


def set_platform(monkeypatch: pytest.MonkeyPatch, url: str, client: tuple[str, str] = (CLIENT_ID, CLIENT_SECRET)) -> None:
    """Where events are published."""
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_PLATFORM_URL", url)
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_TOKEN_URL", f"{url}/oauth2/token")
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_CLIENT_ID", client[0])
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_CLIENT_SECRET", client[1])


@pytest.fixture(scope="module")
def one_of_module(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def life_events(one_of_module: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[LifeEvents]:
    """A fresh installation over the module's database, without a platform; what of the sandbox it has started is stopped."""
    with driver.quick_folder() as folder:
        home = folder / "home"
        set_environment(monkeypatch, emptied(one_of_module, "life_events", "ledger"), home)
        assert "INGESTION_STORAGE_URL" not in os.environ
        yield LifeEvents(one_of_module)
        servers.down(home)


@pytest.fixture(scope="module")
def stand_in_of_module() -> Iterator[StandIn]:
    """One platform for the tests of a module."""
    with standing_in() as made:
        yield made


@pytest.fixture
def platform(stand_in_of_module: StandIn, life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The platform of that installation, as if just started."""
    stand_in_of_module.forget()
    set_platform(monkeypatch, stand_in_of_module.url)
    return stand_in_of_module


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's memory, in memory."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def in_memory(life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Dagster home whose instances are in memory: SQLite waits for the disk a lot. The subprocesses of other tests have a real one."""
    home = life_events.settings.home_folder / "dagster"
    home.mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)


@pytest.fixture
def run(life_events: LifeEvents, instance: dg.DagsterInstance) -> Run:
    """One run of a job: `run("published_events", job=PUBLISH_JOB, partition_key=…)`; config is the load step's."""

    def execute(
        *names: str,
        job: str = LOAD_JOB,
        partition_key: str | None = None,
        tags: Mapping[str, str] | None = None,
        raise_on_error: bool = True,
        **config: Any,
    ) -> dg.ExecuteInProcessResult:
        definition = defs.resolve_job_def(job)
        return definition.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([PIPELINE, name]) for name in names] or None,
            partition_key=partition_key,
            tags=dict(tags or {}),
            run_config={"ops": {node.name: {"config": config} for node in definition.nodes}} if config else None,
            raise_on_error=raise_on_error,
        )

    return execute


def reason(result: dg.ExecuteInProcessResult) -> str:
    """What the one step that has failed says why."""
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data, failure
    return failure.user_failure_data.description or ""


def rows(table: Any) -> set[tuple[Any, ...]]:
    """The rows of a table in metadata."""
    return {tuple(record.data.values()) for record in (table.records if isinstance(table, dg.TableMetadataValue) else table)}


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.02)

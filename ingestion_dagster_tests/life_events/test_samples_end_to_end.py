"""Each sample file goes the whole way: landed, loaded, published, consumed, deleted; what the specification's table says becomes of it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ingestion_dagster.api.app import create_app
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.sandbox import events_consumer
from ingestion_dagster.sandbox.events_platform_parties import PUBLISHER
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.api.asking import answering as api_answering
from ingestion_dagster_tests.engine.histories import query
from ingestion_dagster_tests.life_events import driver
from ingestion_dagster_tests.life_events.scene import SAMPLES, until
from ingestion_dagster_tests.metrics.one_database import one_database
from ingestion_dagster_tests.sandbox.platform_asking import Everybody, platform
from ingestion_dagster_tests.sandbox.platform_asking import answering as platform_answering

ACCEPTED = {
    "01_valid_namespaced.xml": (4, 0, []),
    "02_valid_unnamespaced_single_record.xml": (1, 0, []),
    "03_duplicate_record_in_file.xml": (2, 1, []),
    "04_one_bad_record.xml": (2, 0, ["missing_timestamp"]),
}
"""Events, duplicates, and codes of bad records."""

REFUSED = {
    "06_record_count_mismatch.xml": "record_count_mismatch",
    "07_truncated_mid_record.xml": "not_well_formed",
    "09_empty_zero_bytes.xml": "empty",
    "12_entity_bomb_billion_laughs.xml": "doctype_forbidden",
    "14_xxe_external_entity.xml": "doctype_forbidden",
    "16_wrong_encoding_latin1_declared_utf8.xml": "bad_encoding",
    "20_wrong_root.xml": "wrong_root",
}


@dataclass
class Outside:
    """The platform with its parties, a database, and our API between them."""

    everybody: Everybody
    database: Database
    api_url: str = ""

    def as_just_started(self) -> None:
        """A platform that knows of no event, calls us back, and does not wait long between two turns of its delete job."""
        self.everybody.nobody.switch("reset")
        self.everybody.nobody.switch("callbacks", {"url": self.api_url}, "PUT")
        self.everybody.nobody.switch("settings", {"delete_seconds": 0.05})

    def installation(self, home: Any) -> Settings:
        url = self.everybody.nobody.url
        return driver.settings_for(
            driver.emptied(self.database),
            home,
            life_events_platform_url=url,
            life_events_token_url=f"{url}/oauth2/token",
            life_events_client_id=PUBLISHER[0],
            life_events_client_secret=PUBLISHER[1],
        )


@pytest.fixture(scope="module")
def outside(server: EmbeddedServer) -> Iterator[Outside]:
    with one_database(server) as database, platform_answering(platform()) as everybody, driver.quick_folder() as home:
        made = Outside(everybody, database)
        with api_answering(create_app(made.installation(home))) as api:
            made.api_url = f"http://127.0.0.1:{api.port}"
            yield made


@pytest.fixture
def settings(outside: Outside) -> Iterator[Settings]:
    with driver.quick_folder() as home:
        yield outside.installation(home)


def loaded(settings: Settings, name: str) -> tuple[Any, ...]:
    driver.drop(settings, name, (SAMPLES / name).read_bytes())
    driver.run(settings)
    [found] = query(
        settings,
        "SELECT l.status, l.error_code, f.accepted, f.duplicates, f.quarantined, f.record_count "
        "FROM ledger.loads AS l JOIN life_events.files AS f ON f.load_id = l.id WHERE l.id = (SELECT max(id) FROM ledger.loads)",
    )
    return found


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_event_of_a_good_file_reaches_its_consumer_and_is_gone_afterwards(outside: Outside, settings: Settings, name: str) -> None:
    events, duplicates, codes = ACCEPTED[name]
    outside.as_just_started()
    status, _, *counts = loaded(settings, name)
    assert (status, counts) == ("archived", [events, duplicates, len(codes), events + duplicates + len(codes)])
    assert [code for (code,) in query(settings, "SELECT code FROM life_events.quarantine")] == codes
    assert not list(driver.incoming(settings).iterdir())
    assert driver.publish(settings).sent == events
    url = outside.everybody.nobody.url
    pages = list(events_consumer.consume(url))
    assert (sum(page.enriched for page in pages), sum(page.consumed for page in pages)) == (events, events)
    assert events_consumer.await_deletion(url, 20) == events
    until(lambda: query(settings, "SELECT count(*) FROM life_events.events") == [(0,)])
    assert query(settings, "SELECT state, count(*) FROM life_events.records GROUP BY state") == [("released", events)]

    # The same file again, under another name: known, and nothing of it is told.
    again = loaded(settings, name)
    assert again[2:5] == (0, events + duplicates, len(codes))
    driver.drop(settings, f"renamed {name}", (SAMPLES / name).read_bytes())
    driver.run(settings)
    assert driver.publish(settings).sent == 0
    assert query(settings, "SELECT count(*) FROM life_events.events") == [(0,)]


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_of_a_refused_file_is_stored_and_it_stands_in_quarantine(settings: Settings, name: str) -> None:
    status, code, accepted, duplicates, *_ = loaded(settings, name)
    assert (status, code, accepted, duplicates) == ("errored", REFUSED[name], 0, 0)
    for table in ("life_events.events", "life_events.records", "ledger.outbox"):
        assert query(settings, f"SELECT count(*) FROM {table}") == [(0,)], table
    assert not list(driver.incoming(settings).iterdir())
    kept = [path for path in driver.quarantine(settings).rglob("*") if path.is_file()]
    assert len(kept) == 2
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    assert hashlib.sha256((SAMPLES / name).read_bytes()).hexdigest() in digests


def test_every_sample_has_its_line() -> None:
    assert {path.name for path in SAMPLES.iterdir()} == {*ACCEPTED, *REFUSED}

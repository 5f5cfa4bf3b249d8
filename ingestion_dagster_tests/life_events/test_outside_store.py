"""Loading into a store that is not in the ledger's database: what the one has and the other has not is put right, or never comes about."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import load, records
from ingestion_dagster.life_events.dynamodb_store import DynamoStore
from ingestion_dagster.life_events.load import Job
from ingestion_dagster.life_events.store import Sealed, open_store
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import let_leases_run_out, query
from ingestion_dagster_tests.life_events import driver, loading, stores
from ingestion_dagster_tests.life_events.driver import drop, run
from ingestion_dagster_tests.life_events.loading import loads, numbered, rows, states

one = loading.one
dynamodb_server, aws_environment, dynamo = stores.dynamodb_server, stores.aws_environment, stores.dynamo


@pytest.fixture
def settings(one: Database, dynamo: Any) -> Any:
    with driver.quick_folder() as folder:
        yield driver.settings_for(driver.emptied(one), folder, life_events_store_url=f"dynamodb://{stores.new_table(dynamo)}")


def standing(settings: Settings, dynamo: Any) -> set[str]:
    """Ids of all events in the table."""
    assert settings.life_events_store_url is not None
    table = settings.life_events_store_url.removeprefix("dynamodb://")
    return {item["hash"]["S"] for item in dynamo.scan(TableName=table)["Items"]}


def known(settings: Settings) -> set[str]:
    return {row[0] for row in rows(settings, "encode(record_key, 'hex')")}


def at_put(monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[Connection], object]) -> None:
    """Something happens when a run is about to put its n-th chunk."""
    put = DynamoStore.put
    puts = []

    def hooked(store: DynamoStore, connection: Connection, events: Sequence[Sealed]) -> None:
        puts.append(len(events))
        if len(puts) == number:
            happens(connection)
        put(store, connection, events)

    monkeypatch.setattr(DynamoStore, "put", hooked)


def test_a_store_that_goes_away_midway_fails_the_run_and_charges_no_file(
    settings: Settings, dynamo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Connection) -> None:
        raise Transient("store_unavailable", "away")

    drop(settings, "a.xml", numbered(*range(1, 9)))
    with monkeypatch.context() as patch:
        at_put(patch, 2, away)
        with pytest.raises(Transient, match="store_unavailable"):
            run(settings)
    assert rows(settings, "status, attempts", "ledger.loads") == [("ready", 0)]
    assert len(known(settings)) == query(settings, "SELECT count(*) FROM ledger.outbox")[0][0] == 3
    assert standing(settings, dynamo) == known(settings)
    run(settings)
    assert loads(settings) == [("a.xml", "archived", None, 8, 8, 0, 0)]
    assert standing(settings, dynamo) == known(settings)
    assert len(known(settings)) == 8


def lose_session(settings: Settings, connection: Connection) -> None:
    """What a database does to a run that has slept in a transaction, and time to its leases."""
    query(settings, f"SELECT pg_terminate_backend({connection.info.backend_pid}, 10000)")
    let_leases_run_out(settings)


def test_a_run_that_slept_while_its_events_came_and_went_does_not_bring_them_back(
    settings: Settings, dynamo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes when another run has loaded the file, and all have consumed what was in it: nobody would delete it a second time."""

    def meanwhile(connection: Connection) -> None:
        lose_session(settings, connection)
        run(settings)
        with driver.connect(settings) as other, other.transaction():
            keys = [bytes.fromhex(each) for each in known(settings)]
            open_store(settings).remove(other, keys[:6])
            records.mark_ended(other, keys[:6], "released", datetime.now(UTC))

    drop(settings, "a.xml", numbered(*range(1, 9)))
    with monkeypatch.context() as patch:
        at_put(patch, 1, meanwhile)
        with pytest.raises(Transient, match="database_gave_way"):
            run(settings)
    assert states(settings) == {"released": 6, "pending": 2}
    alive = {row[0] for row in rows(settings, "encode(record_key, 'hex'), state", order="2") if row[1] == "pending"}
    assert standing(settings, dynamo) == alive


def test_what_a_lost_transaction_has_put_is_there_for_the_run_that_goes_on(
    settings: Settings, dynamo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(settings, "a.xml", numbered(*range(1, 9)))
    with monkeypatch.context() as patch:
        at_put(patch, 2, lambda connection: lose_session(settings, connection))
        with pytest.raises(Transient):
            run(settings)
    assert len(known(settings)) == 3
    let_leases_run_out(settings)
    run(settings)
    assert standing(settings, dynamo) == known(settings)
    assert len(loading.everything_opened(settings)) == 8


def test_chunks_are_smaller_where_a_transaction_waits_for_a_store(settings: Settings) -> None:
    """While it does, it is idle to the database, which ends it after the time of a lease."""
    assert Job.of(settings).chunk_records < load.CHUNK_RECORDS
    assert Job.of(settings.model_copy(update={"life_events_store_url": None})).chunk_records == load.CHUNK_RECORDS

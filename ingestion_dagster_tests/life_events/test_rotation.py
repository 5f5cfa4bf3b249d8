"""Records that come again when much has happened since: released, expired, published, keys rotated. None comes twice."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from ingestion_dagster.engine import outbox, postgres
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.life_events import records, upkeep
from ingestion_dagster.life_events.registry import PUBLISH
from ingestion_dagster.life_events.store import open_store
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import let_leases_run_out, query
from ingestion_dagster_tests.life_events import driver, loading, stores
from ingestion_dagster_tests.life_events.driver import drop, run
from ingestion_dagster_tests.life_events.loading import numbered, rows, states

one = loading.one
dynamodb_server, aws_environment, dynamo = stores.dynamodb_server, stores.aws_environment, stores.dynamo

K2, K3 = (f"k{number}:{str(number) * 64}" for number in (2, 3))
E2 = f"e2:{'ab' * 32}"


@pytest.fixture(params=["postgres", "dynamodb"])
def settings(request: pytest.FixtureRequest, one: Any) -> Any:
    """An installation with each of the stores."""
    with driver.quick_folder() as folder:
        more = {}
        if request.param == "dynamodb":
            more = {"life_events_store_url": f"dynamodb://{stores.new_table(request.getfixturevalue('dynamo'))}"}
        yield driver.settings_for(driver.emptied(one), folder, **more)


def with_keys(settings: Settings, hmac: str | None = None, encryption: str | None = None) -> Settings:
    """With a newer key before the ones there are."""
    keys = {"life_events_hmac_keys": hmac, "life_events_encryption_keys": encryption}
    former = {name: getattr(settings, name).get_secret_value() for name in keys}
    return settings.model_copy(update={name: SecretStr(f"{new},{former[name]}") for name, new in keys.items() if new is not None})


def published(settings: Settings) -> None:
    """The platform has taken all that was due."""
    with postgres.locate(settings).connect() as connection, connection.transaction():
        keys = [bytes.fromhex(row[0]) for row in connection.execute("DELETE FROM ledger.outbox WHERE topic = %s RETURNING key", [PUBLISH])]
        records.mark_published(connection, keys, datetime.now(UTC))


def released(settings: Settings) -> None:
    """Everybody has consumed all events."""
    with postgres.locate(settings).connect() as connection, connection.transaction():
        keys = [bytes(row[0]) for row in connection.execute("SELECT record_key FROM life_events.records")]
        open_store(settings).remove(connection, keys)
        assert records.mark_ended(connection, keys, "released", datetime.now(UTC))


def expired(settings: Settings) -> None:
    """Their time is up."""
    later = datetime.now(UTC) + timedelta(days=settings.life_events_ttl_days, seconds=5)
    assert upkeep.sweep(postgres.locate(settings), open_store(settings), later, "later")
    assert set(states(settings)) == {"expired"}


def ledger_rows(settings: Settings) -> list[tuple[Any, ...]]:
    return rows(settings, "encode(record_key, 'hex'), hmac_key, load_id, ordinal, state, published_at, ended_at, stored_at")


def due(settings: Settings) -> list[str]:
    """Ids of events that the platform is yet to be told of."""
    return [row[0] for row in query(settings, "SELECT key FROM ledger.outbox WHERE dead_at IS NULL ORDER BY 1")]


def in_store(settings: Settings) -> dict[str, str]:
    """By record key, the surname of what opens with the keys that are set."""
    found = loading.everything_opened(settings)
    assert all(content["hash"] == key.hex() for key, content in found.items()), "an event is handed out under another id than its own"
    return {key.hex(): content["surname"] for key, content in found.items()}


def come_again(settings: Settings, *numbers: int, name: str = "again.xml", accepted: int = 0) -> None:
    drop(settings, name, numbered(*numbers))
    run(settings)
    found = query(settings, "SELECT status, rows_written, rows_unchanged FROM ledger.loads ORDER BY id DESC LIMIT 1")
    assert found == [("archived", accepted, len(numbers) - accepted)]


@pytest.mark.parametrize("rotated", [False, True])
def test_what_was_released_is_neither_stored_nor_published_again(settings: Settings, rotated: bool) -> None:
    come_again(settings, 1, 2, 3, 4, name="a.xml", accepted=4)
    published(settings)
    released(settings)
    before = ledger_rows(settings)
    settings = with_keys(settings, hmac=K2) if rotated else settings
    come_again(settings, 4, 3, 2, 1)
    assert ledger_rows(settings) == before
    assert due(settings) == []
    assert in_store(settings) == {}


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("was_published", [False, True])
def test_what_has_expired_is_stored_again_and_published_only_if_it_never_was(
    settings: Settings, rotated: bool, was_published: bool
) -> None:
    come_again(settings, 1, 2, 3, 4, name="a.xml", accepted=4)
    ids = [row[0] for row in ledger_rows(settings)]
    if was_published:
        published(settings)
    expired(settings)
    assert due(settings) == []
    assert in_store(settings) == {}
    settings = with_keys(settings, hmac=K2, encryption=E2) if rotated else settings
    come_again(settings, 4, 5, 3, 2, 1, accepted=5)
    ledgered = {row[0]: row for row in ledger_rows(settings)}
    [new] = set(ledgered) - set(ids)
    assert {ledgered[each][1] for each in ids} == {"k1"}, "an id changes with the key that it was made with"
    assert ledgered[new][1] == ("k2" if rotated else "k1")
    assert {ledgered[each][4] for each in ids} == {"published" if was_published else "pending"}
    assert {ledgered[each][6] for each in ids} == {None}
    assert due(settings) == sorted([new] if was_published else [new, *ids])
    assert in_store(settings).keys() == {new, *ids}
    assert sorted(in_store(settings).values()) == [f"PLACEHOLDER {number}" for number in range(1, 6)]


def test_a_delivery_after_two_rotations_brings_nothing_new(settings: Settings) -> None:
    come_again(settings, 1, 2, name="a.xml", accepted=2)
    second = with_keys(settings, hmac=K2)
    come_again(second, 1, 2, 3, name="b.xml", accepted=1)
    third = with_keys(second, hmac=K3)
    before = in_store(third)
    come_again(third, 3, 4, 2, 1, 2, accepted=1)
    assert [row[1] for row in sorted(ledger_rows(third), key=lambda row: row[1])] == ["k1", "k1", "k2", "k3"]
    assert before.items() <= in_store(third).items()
    assert len(due(third)) == 4


def test_a_record_that_comes_twice_in_a_file_after_a_rotation_is_stored_once_under_its_first_id(settings: Settings) -> None:
    """In one chunk, and in another."""
    come_again(settings, 1, name="a.xml", accepted=1)
    expired(settings)
    rotated = with_keys(settings, hmac=K2)
    come_again(rotated, 1, 1, 2, 3, 1, 4, accepted=4)
    assert [row[1] for row in sorted(ledger_rows(rotated), key=lambda row: row[1])] == ["k1", "k2", "k2", "k2"]
    assert len(in_store(rotated)) == len(due(rotated)) == 4


def test_a_run_that_is_killed_and_goes_on_under_a_new_key_stages_no_record_twice(settings: Settings) -> None:
    drop(settings, "a.xml", numbered(*range(1, 9)))
    assert driver.start(settings, fault="life_events.stage.after:2").end()[0] == -9
    let_leases_run_out(settings)
    rotated = with_keys(settings, hmac=K2, encryption=E2)
    run(rotated)
    assert loading.loads(rotated) == [("a.xml", "archived", None, 8, 8, 0, 0)]
    assert [row[1] for row in sorted(ledger_rows(rotated), key=lambda row: row[1])] == ["k1"] * 6 + ["k2"] * 2
    assert len(in_store(rotated)) == len(due(rotated)) == 8


def test_a_run_that_has_its_settings_from_before_a_rotation_stages_nothing_and_says_what_to_do(settings: Settings) -> None:
    run(settings)
    run(with_keys(settings, hmac=K2))
    drop(settings, "a.xml", numbered(1))
    with pytest.raises(ConfigurationError, match="rotated to k2"):
        run(settings)
    assert states(settings) == {}
    assert rows(settings, "status, attempts", "ledger.loads") == [("ready", 0)]


def test_an_older_key_that_records_are_known_by_may_not_be_left_out(settings: Settings) -> None:
    come_again(settings, 1, name="a.xml", accepted=1)
    forgetful = settings.model_copy(update={"life_events_hmac_keys": SecretStr(K2)})
    drop(settings, "b.xml", numbered(1))
    with pytest.raises(ConfigurationError, match="known under key k1"):
        run(forgetful)
    assert len(due(settings)) == 1


def test_events_are_sealed_with_the_newest_key_and_rekey_brings_the_others_there(settings: Settings) -> None:
    come_again(settings, 1, 2, name="a.xml", accepted=2)
    rotated = with_keys(settings, encryption=E2)
    come_again(rotated, 2, 3, accepted=1)
    before = in_store(rotated)
    driver.rekey(rotated)
    only_new = rotated.model_copy(update={"life_events_encryption_keys": SecretStr(E2)})
    assert in_store(only_new) == before


def test_a_dead_letter_that_comes_again_stays_one(settings: Settings) -> None:
    come_again(settings, 1, 2, name="a.xml", accepted=2)
    dead = bytes.fromhex(due(settings)[0])
    with postgres.locate(settings).connect() as connection, connection.transaction():
        records.mark_dead(connection, {dead: "platform_403"})
        connection.execute("UPDATE ledger.outbox SET dead_at = now(), code = 'platform_403' WHERE key = %s", [dead.hex()])
    come_again(settings, 1, 2)
    assert states(settings) == {"dead": 1, "pending": 1}
    with postgres.locate(settings).connect() as connection:
        assert outbox.lag(connection, PUBLISH).due == 1

"""Enrichment and deletion: nothing is told of who is gone, nothing is taken for gone that is not, and every request is in the audit."""

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from ingestion_dagster.engine.connections import Connections
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events import records, requests
from ingestion_dagster.life_events.audit import EVENT_DELETED, EVENT_ENRICHED
from ingestion_dagster.life_events.keys import hasher
from ingestion_dagster.life_events.registry import NOTIFY, PUBLISH
from ingestion_dagster.life_events.requests import Caller, Desk, delete_handler, enrich, enrich_handler, release
from ingestion_dagster.life_events.store import open_store
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server
from ingestion_dagster_tests.life_events.held import MARKER, RECORD, Held, held, held_in, held_in_dynamo, key_of
from ingestion_dagster_tests.life_events.requests_driver import MODULE

__all__ = ["aws_environment", "held", "held_in", "held_in_dynamo", "moto_server"]

CALLER = Caller("token", "11111111-2222-4333-8444-555555555555")
UNKNOWN = "0" * 64
NO_IDS = ("", "x", "0" * 63, "0" * 65, "Z" * 64, f"{'0' * 63}\n", f" {'0' * 63}", "٠" * 64, MARKER)  # noqa: RUF001


@pytest.fixture(params=["postgres", "dynamodb"])
def either(request: pytest.FixtureRequest) -> Held:
    """An installation of each kind of store."""
    made: Held = request.getfixturevalue("held" if request.param == "postgres" else "held_in_dynamo")
    return made


@contextmanager
def desk_of(held: Held, **more: Any) -> Iterator[Desk]:
    desk = replace(Desk.of(held.settings), **more)
    try:
        yield desk
    finally:
        desk.close()


@pytest.fixture
def desk(either: Held) -> Iterator[Desk]:
    with desk_of(either) as made:
        yield made


def code_of(ask: Callable[..., Any], desk: Desk, event_id: str) -> str:
    with pytest.raises(Transient) as raised:
        ask(desk, event_id, CALLER)
    assert MARKER not in str(raised.value)
    return raised.value.code


class Away:
    """A store that does not answer as it should."""

    is_transactional = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get(self, *_: object) -> dict[bytes, object]:
        raise self.error

    remove = get


def test_an_event_is_handed_out_whole_but_for_what_is_for_acquirers(either: Held, desk: Desk):
    [event_id] = either.put(1, record=RECORD)
    found = enrich(desk, event_id, CALLER)
    assert found.attributes == either.attributes(1)
    assert found.body == orjson.dumps(either.attributes(1))
    assert MARKER not in repr(found)


@pytest.mark.parametrize("state", ["pending", "published", "dead"])
def test_an_event_is_there_whatever_its_platform_knows(held: Held, state: str):
    [event_id] = held.put(1, state=state)
    with desk_of(held) as desk:
        assert enrich(desk, event_id, CALLER).attributes == held.attributes(1)


def test_the_audit_says_who_got_what_and_holds_nothing_of_it(held: Held):
    [event_id] = held.put(1)
    with desk_of(held) as desk:
        body = enrich(desk, event_id, CALLER).body
        enrich(desk, UNKNOWN, CALLER)
        release(desk, event_id, CALLER)
    assert body is not None
    given, missed, deleted = held.audit()
    assert given["component"] == "api"
    assert (given["event_name"], given["outcome"], given["client"]) == (EVENT_ENRICHED, "ok", "token")
    assert (given["correlation_id"], given["record_key"]) == (CALLER.correlation_id, key_of(1))
    assert given["fields"] == [*held.attributes(1)]
    assert given["payload_hmac"] == hasher(held.settings).of(body)
    assert (missed["outcome"], missed["record_key"], missed["fields"], missed["payload_hmac"]) == ("not_found", bytes(32), None, None)
    assert (deleted["event_name"], deleted["outcome"], deleted["record_key"]) == (EVENT_DELETED, "ok", key_of(1))
    assert MARKER not in held.everything()


@pytest.mark.parametrize("event_id", NO_IDS, ids=range(len(NO_IDS)))
def test_what_is_no_id_is_not_found_and_not_repeated_anywhere(held: Held, event_id: str):
    with desk_of(held) as desk:
        assert enrich(desk, event_id, CALLER).body is None
        assert release(desk, event_id, CALLER).was_there is False
    assert held.outcomes() == [(EVENT_ENRICHED, "not_found"), (EVENT_DELETED, "not_found")]
    assert {row["record_key"] for row in held.audit()} == {None}
    assert MARKER not in held.everything()


@pytest.mark.parametrize("state", ["released", "expired"])
def test_nothing_is_told_of_an_event_that_the_ledger_knows_to_be_gone(either: Held, desk: Desk, state: str):
    """Even if the store still holds it, as a store that is not the ledger's may after a crash."""
    [event_id] = either.put(1, state=state)
    assert either.is_stored(1)
    assert enrich(desk, event_id, CALLER).body is None


def test_nothing_is_told_of_an_event_whose_time_is_up(either: Held, desk: Desk):
    [event_id] = either.put(1, ttl=timedelta(seconds=-1))
    assert enrich(desk, event_id, CALLER).body is None


def test_a_store_without_the_event_has_no_data_and_that_is_no_fault(either: Held, desk: Desk):
    [event_id] = either.put(1)
    with either.connect() as connection:
        either.store.remove(connection, [key_of(1)])
    assert enrich(desk, event_id, CALLER).body is None
    assert release(desk, event_id, CALLER).was_there is True
    assert either.alerts() == []


def test_a_released_event_is_gone_and_a_repeat_does_no_harm(either: Held, desk: Desk):
    [event_id, other] = either.put(1, 2)
    assert release(desk, event_id, CALLER).was_there is True
    assert (either.state(1), either.is_stored(1)) == ("released", False)
    assert enrich(desk, event_id, CALLER).body is None
    assert release(desk, event_id, CALLER).was_there is False
    assert enrich(desk, other, CALLER).attributes == either.attributes(2)
    assert [outcome for _, outcome in either.outcomes()] == ["ok", "not_found", "not_found", "ok"]


def test_an_unknown_event_is_not_found_and_nothing_of_a_load_that_has_yet_to_commit_is_deleted(either: Held, desk: Desk):
    [event_id] = either.put(1)
    either.query("DELETE FROM life_events.records")
    assert release(desk, event_id, CALLER).was_there is False
    assert enrich(desk, event_id, CALLER).body is None
    assert either.is_stored(1)


def test_what_a_crash_has_left_of_an_ended_event_is_deleted_by_a_repeat(held_in_dynamo: Held):
    [event_id] = held_in_dynamo.put(1, state="released")
    with desk_of(held_in_dynamo) as desk:
        assert release(desk, event_id, CALLER).was_there is False
    assert (held_in_dynamo.state(1), held_in_dynamo.is_stored(1)) == ("released", False)


def test_an_event_released_before_it_was_published_is_not_published_any_more(either: Held, desk: Desk):
    event_id, other = either.put(1, 2, state="pending")
    release(desk, event_id, CALLER)
    assert either.outbox() == [(PUBLISH, other)]


def test_a_release_while_the_event_is_being_published_does_not_resurrect_it(held: Held):
    """Nor does it wait for whoever settles what was sent: he, in turn, would wait for it."""
    [event_id] = held.put(1, state="pending")
    with desk_of(held) as desk, held.connect() as publisher:
        with publisher.transaction():
            publisher.execute("DELETE FROM ledger.outbox WHERE key = %s", [event_id])
            assert release(desk, event_id, CALLER).was_there is True
            records.mark_published(publisher, [key_of(1)], datetime.now(UTC))
        assert (held.state(1), held.outbox()) == ("released", [])


def test_an_event_that_acquirers_are_yet_to_be_sent_stays_and_is_asked_for_again(either: Held, desk: Desk):
    event_id, _ = either.put(1, 2)
    with either.connect() as connection:
        for topic, number in ((f"{NOTIFY}dwp", 1), (f"{NOTIFY}dwp", 2), (f"{NOTIFY}hmpo", 1), ("a.other", 2), ("z.other", 1)):
            either.queue(connection, topic, number)
    assert code_of(release, desk, event_id) == "not_yet"
    assert (either.state(1), either.is_stored(1)) == ("published", True)
    either.query("DELETE FROM ledger.outbox WHERE topic = %(topic)s AND key = %(key)s", {"topic": f"{NOTIFY}dwp", "key": event_id})
    assert code_of(release, desk, event_id) == "not_yet"
    either.query("UPDATE ledger.outbox SET dead_at = now() WHERE topic = %(topic)s", {"topic": f"{NOTIFY}hmpo"})
    assert release(desk, event_id, CALLER).was_there is True
    assert [outcome for _, outcome in either.outcomes()] == ["not_yet", "not_yet", "ok"]
    assert either.alerts() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Transient("store_unavailable", "throttled"), "store_unavailable"),
        (ConfigurationError("no table"), "misconfigured"),
        (ValueError(MARKER), "failed"),
    ],
    ids=["away", "no table", "a defect"],
)
def test_a_store_that_fails_is_no_absence_and_people_are_told_once_an_hour(
    held: Held, error: Exception, code: str, caplog: pytest.LogCaptureFixture
):
    [event_id] = held.put(1)
    clock = [datetime(2031, 2, 4, 9, 58, tzinfo=UTC)]
    with desk_of(held, store=Away(error), now=lambda: clock[0]) as desk:
        for ask in (release, release, enrich):
            assert code_of(ask, desk, event_id) == code
        clock[0] += timedelta(minutes=3)
        assert code_of(release, desk, event_id) == code
    assert held.state(1) == "published"
    assert held.outcomes() == [(EVENT_DELETED, code)] * 2 + [(EVENT_ENRICHED, code), (EVENT_DELETED, code)]
    assert held.alerts() == sorted(
        f"life_events:requests:{what}:{code}:2031-02-04T{hour}" for what, hour in (("deleted", "09"), ("enriched", "09"), ("deleted", "10"))
    )
    assert MARKER not in caplog.text + held.everything()


def test_an_event_that_no_key_opens_is_not_taken_for_none(either: Held, caplog: pytest.LogCaptureFixture):
    """But it can be deleted."""
    [event_id] = either.put(1)
    lost = either.settings.model_copy(update={"life_events_encryption_keys": SecretStr(f"b:{'ab' * 32}")})
    with desk_of(Held(lost)) as desk:
        assert code_of(enrich, desk, event_id) == "undecipherable"
        assert "key a" in caplog.text
        assert release(desk, event_id, CALLER).was_there is True
    assert either.outcomes() == [(EVENT_ENRICHED, "undecipherable"), (EVENT_DELETED, "ok")]
    assert len(either.alerts()) == 1


def test_nothing_is_handed_out_that_the_audit_has_no_row_of(held: Held):
    event_id, other = held.put(1, 2)
    held.query("ALTER TABLE life_events.audit ADD CONSTRAINT closed CHECK (outcome = 'never') NOT VALID")
    try:
        with desk_of(held) as desk:
            assert code_of(enrich, desk, event_id) == "database_unavailable"
            assert code_of(release, desk, other) == "database_unavailable"
    finally:
        held.query("ALTER TABLE life_events.audit DROP CONSTRAINT closed")
    assert (held.state(2), held.is_stored(2)) == ("published", True)


def test_a_database_that_is_away_is_no_absence(held: Held):
    [event_id] = held.put(1)
    away = Connections(Database.at("postgresql://nobody@127.0.0.1:1/none"))
    with desk_of(held) as desk:
        without = replace(desk, connections=away)
        assert code_of(enrich, without, event_id) == code_of(release, without, event_id) == "database_unavailable"
        assert enrich(desk, event_id, CALLER).body is not None


def test_sessions_that_the_database_has_ended_are_replaced(held: Held):
    [event_id] = held.put(1)
    with desk_of(held) as desk:
        assert enrich(desk, event_id, CALLER).body is not None
        ended = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert held.query(ended) == [(True,)]
        assert enrich(desk, event_id, CALLER).body is not None
        assert release(desk, event_id, CALLER).was_there is True


def test_of_many_releases_at_once_one_finds_the_event(either: Held, desk: Desk):
    [event_id] = either.put(1)
    together = threading.Barrier(8)

    def ask(_: int) -> bool:
        together.wait(10)
        return release(desk, event_id, CALLER).was_there

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == [False] * 7 + [True]
    assert (either.state(1), either.is_stored(1)) == ("released", False)
    assert sorted(outcome for _, outcome in either.outcomes()) == ["not_found"] * 7 + ["ok"]


def test_an_event_is_told_whole_or_not_at_all_while_it_is_released(held: Held):
    ids = held.put(*range(40))
    wanted = {event_id: held.attributes(number) for number, event_id in enumerate(ids)}
    with desk_of(held) as desk, ThreadPoolExecutor(4) as pool:
        read = [pool.submit(enrich, desk, event_id, CALLER) for event_id in ids for _ in range(2)]
        gone = [pool.submit(release, desk, event_id, CALLER) for event_id in reversed(ids)]
        found = [(event_id, future.result().attributes) for event_id, future in zip((i for i in ids for _ in range(2)), read, strict=True)]
        assert all(future.result().was_there for future in gone)
    assert all(attributes in (None, wanted[event_id]) for event_id, attributes in found)
    assert len(held.audit()) == 120


def test_a_waiting_release_is_told_to_come_again_and_does_not_wait_for_ever(held: Held):
    [event_id] = held.put(1)
    with desk_of(held) as desk, held.connect() as other:
        impatient = replace(desk, connections=Connections(Database.at(held.settings.database_url or ""), statement_seconds=0.2))
        with other.transaction():
            records.lock(other, key_of(1))
            assert code_of(release, impatient, event_id) == "database_unavailable"
        assert release(impatient, event_id, CALLER).was_there is True
        impatient.close()


STORE_BEFORE, STORE_AFTER = "life_events.release_store.before", "life_events.release_store.after"
COMMIT_BEFORE, COMMIT_AFTER = "life_events.release_commit.before", "life_events.release_commit.after"


@pytest.mark.parametrize(("fault", "was_there"), [(STORE_BEFORE, True), (STORE_AFTER, True), (COMMIT_BEFORE, True), (COMMIT_AFTER, False)])
def test_a_release_that_was_killed_is_made_good_by_a_repeat(either: Held, fault: str, was_there: bool):
    [event_id] = either.put(1, state="pending")
    code, complaint = processes.start(MODULE, either.settings, "release:1", fault=fault).end()
    assert code == -signal.SIGKILL, complaint
    with desk_of(either) as desk:
        assert release(desk, event_id, CALLER).was_there is was_there
        assert release(desk, event_id, CALLER).was_there is False
    assert (either.state(1), either.is_stored(1), either.outbox()) == ("released", False, [])
    assert either.outcomes().count((EVENT_DELETED, "ok")) == 1


@pytest.fixture
def invoked(either: Held, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The handlers' process runs under the settings of an installation."""
    monkeypatch.setattr(requests, "current", lambda: either.settings)
    requests._warm.cache_clear()
    yield either
    if requests._warm.cache_info().currsize:
        requests._warm().close()
    requests._warm.cache_clear()


def test_the_functions_answer_as_the_platform_reads_them(invoked: Held):
    [event_id] = invoked.put(1, record=RECORD)
    context = SimpleNamespace(aws_request_id=CALLER.correlation_id)
    assert enrich_handler({"id": event_id}, context) == {"statusCode": 200, "payload": invoked.attributes(1)}
    assert enrich_handler({"id": UNKNOWN}, context) == {"statusCode": 404}
    assert delete_handler({"id": event_id}, context) == {"statusCode": 200, "payload": event_id}
    assert delete_handler({"id": event_id}, context) == {"statusCode": 404, "payload": event_id}
    assert enrich_handler({"id": event_id}, context) == {"statusCode": 404}
    assert {(row["client"], row["correlation_id"]) for row in invoked.audit()} == {("function", CALLER.correlation_id)}


@pytest.mark.parametrize("event", [{}, {"id": None}, {"id": 5}, {"id": [MARKER]}, [MARKER], None], ids=range(6))
def test_a_function_that_is_asked_for_nothing_says_so(invoked: Held, event: Any):
    assert enrich_handler(event, None) == {"statusCode": 422}
    assert delete_handler(event, None) == {"statusCode": 422, "payload": None}
    assert invoked.outcomes() == [(EVENT_ENRICHED, "invalid"), (EVENT_DELETED, "invalid")]
    assert MARKER not in invoked.everything()


def test_a_function_without_its_store_answers_500_and_the_event_stays(invoked: Held, monkeypatch: pytest.MonkeyPatch):
    [event_id] = invoked.put(1)
    store = Away(Transient("store_unavailable", "away"))
    monkeypatch.setattr(requests, "open_store", lambda _: store)
    assert enrich_handler({"id": event_id}, None) == {"statusCode": 500}
    assert delete_handler({"id": event_id}, None) == {"statusCode": 500, "payload": event_id}
    assert invoked.state(1) == "published"


def test_a_function_that_cannot_be_set_up_answers_500_and_is_set_up_later(held: Held, monkeypatch: pytest.MonkeyPatch):
    [event_id] = held.put(1)
    requests._warm.cache_clear()
    monkeypatch.setattr(requests, "current", lambda: held.settings.model_copy(update={"life_events_hmac_keys": SecretStr("short")}))
    assert enrich_handler({"id": event_id}, None) == {"statusCode": 500}
    assert delete_handler({"id": event_id}, None) == {"statusCode": 500, "payload": event_id}
    assert delete_handler({"id": 5}, None) == {"statusCode": 500, "payload": None}
    monkeypatch.setattr(requests, "current", lambda: held.settings)
    assert delete_handler({"id": event_id}, None)["statusCode"] == 200
    requests._warm().close()
    requests._warm.cache_clear()


@pytest.mark.parametrize("given", [None, "", "x", 5, f"{CALLER.correlation_id} {MARKER}", "0" * 100])
def test_only_a_uuid_is_taken_over_as_what_a_request_is_called(given: object):
    made = requests.correlation_id(given)
    assert made == str(uuid.UUID(made)) != requests.correlation_id(given)
    assert requests.correlation_id(CALLER.correlation_id.upper()) == CALLER.correlation_id
    assert requests.correlation_id(f"{{{CALLER.correlation_id}}}") == CALLER.correlation_id


def test_the_search_for_what_must_not_be_there_finds_it(held: Held):
    assert MARKER not in held.everything()
    audit = "INSERT INTO life_events.audit (component, event_name, correlation_id, outcome, payload_hmac)"
    held.query(f"{audit} VALUES ('x', 'EVENT_DELETED', 'x', 'x', convert_to(%(marker)s, 'UTF8'))", {"marker": f"in {MARKER} bytes"})
    assert MARKER in held.everything()


def test_the_stores_are_of_both_kinds(held: Held, held_in_dynamo: Held):
    assert open_store(held.settings).is_transactional
    assert not open_store(held_in_dynamo.settings).is_transactional

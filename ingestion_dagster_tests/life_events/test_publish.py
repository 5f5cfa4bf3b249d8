"""Publishing, against a platform that goes wrong as it is told: each event is taken once, and the ledger knows which."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from ingestion_dagster.engine import outbox, postgres
from ingestion_dagster.engine.delivery import Limits
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events import records
from ingestion_dagster.life_events.publish import EVENT_GONE, EVENT_UNREADABLE, Published, publish, retry
from ingestion_dagster.life_events.registry import EVENT_EXPIRED, PUBLISH
from ingestion_dagster.life_events.store import open_store
from ingestion_dagster.sandbox.events_platform_parties import PUBLISHER
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.life_events import due, publish_driver
from ingestion_dagster_tests.life_events.stand_in import StandIn, standing_in
from ingestion_dagster_tests.metrics.one_database import one_database
from ingestion_dagster_tests.sandbox import platform_asking

SMALL = Limits(in_flight=4, batch=8, group=4, group_seconds=0.05)


@pytest.fixture(scope="module")
def listening() -> Iterator[StandIn]:
    with standing_in() as stand_in:
        yield stand_in


@pytest.fixture
def platform(listening: StandIn) -> StandIn:
    listening.forget()
    return listening


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as made:
        yield made


@pytest.fixture
def settings(one: Database, platform: StandIn, tmp_path: Path) -> Settings:
    processes.emptied(one, "life_events", "ledger")
    return due.settings_for(one, tmp_path, platform.url)


def run(settings: Settings, limits: Limits = SMALL, **more: Any) -> Published:
    return publish(postgres.locate(settings), settings, "a run", **{"seconds": 60, "limits": limits, **more})


def audit(settings: Settings) -> list[tuple[Any, ...]]:
    return due.query(settings, "SELECT event_name, outcome, correlation_id, count(*) FROM life_events.audit GROUP BY 1, 2, 3 ORDER BY 2")


def assert_all_published(settings: Settings, platform: StandIn, count: int) -> None:
    """Every event is with the platform, once by its id, and nothing is left to be done."""
    assert sorted(platform.events) == sorted(due.ids(count))
    assert due.outbox_rows(settings) == []
    assert due.states(settings) == {"published": count}
    assert {row[:2] for row in audit(settings)} == {("EVENT_PUBLISHED", "ok")}
    assert sum(row[3] for row in audit(settings)) == count


def test_events_are_told_as_the_contract_says_and_noted(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 20)
    due.put_due(settings, 5, first=20, day="2031-02-06")
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.dropped, outcome.left) == (25, 0, 0, 0)
    assert outcome.by_partition == {due.DAY: 20, "2031-02-06": 5}
    assert outcome.seconds > 0
    expected = [
        b'{"eventType":"GRO_DEATH_NOTIFICATION","eventTime":"%s","id":"%s"}' % (due.event_time(number).encode(), event_id.encode())
        for number, event_id in enumerate(due.ids(25))
    ]
    assert sorted(platform.bodies) == sorted(expected)
    assert {(each["Authorization"], each["Content-Type"]) for each in platform.headers} == {
        ("Bearer token-1", "application/json; charset=utf-8")
    }
    assert len(platform.token_forms) == 1
    assert set(platform.events.values()) == {1}
    assert platform.most_in_flight <= SMALL.in_flight
    assert_all_published(settings, platform, 25)
    assert audit(settings) == [("EVENT_PUBLISHED", "ok", "a run", 25)]
    published = due.query(settings, "SELECT count(published_at) FROM life_events.records")
    assert published == [(25,)]


def test_what_is_due_for_longest_goes_first(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 12)
    due.query(settings, "UPDATE ledger.outbox SET due_at = due_at - make_interval(secs => id)")
    run(settings, Limits(in_flight=1, batch=3))
    assert [orjson.loads(body)["id"] for body in platform.bodies] == due.ids(12)[::-1]


def test_partitions_narrow_what_is_sent(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 3)
    due.put_due(settings, 4, first=3, day="2031-02-06")
    outcome = run(settings, partitions=["2031-02-06"])
    assert (outcome.sent, outcome.left, outcome.by_partition) == (4, 0, {"2031-02-06": 4})
    assert sorted(platform.events) == sorted(due.ids(4, 3))
    assert run(settings, partitions=["2031-02-07"]).sent == 0
    assert run(settings).by_partition == {due.DAY: 3}


def test_nothing_due_asks_the_platform_nothing(settings: Settings, platform: StandIn) -> None:
    assert run(settings).sent == 0
    assert platform.token_forms == []


def test_time_that_is_up_leaves_the_rest_to_the_next_run(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 60)
    platform.latency = 0.05
    first = run(settings, seconds=0.3)
    assert 0 < first.sent < 60
    assert first.left == 60 - first.sent
    assert {row[4] for row in due.outbox_rows(settings)} == {False}
    platform.latency = 0
    assert run(settings).sent == first.left
    assert_all_published(settings, platform, 60)
    assert set(platform.events.values()) == {1}


def test_one_event_that_is_refused_is_a_dead_letter_and_the_others_go_on(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 30)
    bad = due.ids(30)[7]
    platform.refused = {bad: 400}
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.left, outcome.dead_by_partition) == (29, 1, 0, {due.DAY: 1})
    assert outcome.codes == {"platform_400": 1}
    assert due.outbox_rows(settings) == [(bad, 0, "platform_400", True, False)]
    assert due.states(settings) == {"published": 29, "dead": 1}
    assert audit(settings) == [("EVENT_PUBLISHED", "ok", "a run", 29), ("EVENT_PUBLISHED", "platform_400", "a run", 1)]
    assert platform.bodies.count(platform.bodies[0]) == 1
    run(settings)
    assert len(platform.bodies) == 30


def test_dead_letters_can_be_sent_again(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 3)
    platform.refused = dict.fromkeys(due.ids(2), 400)
    run(settings)
    platform.refused = {}
    with postgres.locate(settings).connect() as connection:
        assert outbox.lag(connection, PUBLISH).dead == 2
        assert retry(connection) == 2
        assert outbox.lag(connection, PUBLISH).due == 2
        assert retry(connection) == 0
    assert due.states(settings) == {"published": 1, "pending": 2}
    assert run(settings).sent == 2
    assert due.states(settings) == {"published": 3}
    assert due.outbox_rows(settings) == []


@pytest.mark.parametrize("in_flight", [1, 4, 32])
def test_a_missing_subscription_buries_nobody(settings: Settings, platform: StandIn, in_flight: int) -> None:
    due.put_due(settings, 40)
    platform.always = 403
    outcome = Published()
    with pytest.raises(ConfigurationError, match=r"supplier subscription to GRO_DEATH_NOTIFICATION"):
        run(settings, Limits(in_flight=in_flight, batch=50), outcome=outcome)
    assert (outcome.sent, outcome.dead, outcome.left) == (0, 0, 40)
    assert {row[1:] for row in due.outbox_rows(settings)} == {(0, None, False, False)}
    assert due.states(settings) == {"pending": 40}
    assert len(platform.bodies) < 10 + in_flight
    platform.always = None
    assert run(settings).sent == 40


def test_a_subscription_that_ends_midway_buries_nobody(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 40)
    platform.refused = dict.fromkeys(due.ids(30, 10), 403)
    with pytest.raises(ConfigurationError, match="subscription"):
        run(settings, Limits(in_flight=1))
    assert due.states(settings) == {"published": 10, "pending": 30}


@pytest.mark.parametrize("in_flight", [1, 8])
def test_a_few_that_are_forbidden_are_dead_letters(settings: Settings, platform: StandIn, in_flight: int) -> None:
    due.put_due(settings, 30)
    platform.refused = dict.fromkeys(due.ids(9, 3), 403)
    outcome = run(settings, Limits(in_flight=in_flight))
    assert (outcome.sent, outcome.dead, outcome.codes) == (21, 9, {"platform_403": 9})


def test_the_last_one_that_is_forbidden_is_a_dead_letter(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 3)
    platform.refused = {due.ids(3)[2]: 403}
    assert run(settings, Limits(in_flight=1)).dead == 1


def test_an_outage_charges_nobody_and_is_told(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 50)
    platform.always = 503
    began = time.monotonic()
    with pytest.raises(Transient) as raised:
        run(settings, Limits(in_flight=16))
    assert raised.value.code == "http_unavailable"
    assert time.monotonic() - began < 10
    assert {row[1:] for row in due.outbox_rows(settings)} == {(0, None, False, False)}
    assert {body.count(b"PLACEHOLDER") for body in platform.bodies} == {0}
    platform.always = None
    assert run(settings).sent == 50
    assert_all_published(settings, platform, 50)


def test_an_outage_of_a_while_is_waited_for(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 40)
    platform.always, platform.until = 500, time.monotonic() + 0.3
    outcome = run(settings.model_copy(update={"life_events_platform_patience_seconds": 20}), Limits(in_flight=16))
    assert (outcome.sent, outcome.left) == (40, 0)
    assert_all_published(settings, platform, 40)


def test_a_single_event_in_an_outage_is_charged_with_nothing(settings: Settings, platform: StandIn, quick_retries: None) -> None:
    due.put_due(settings, 1)
    platform.always = 500
    with pytest.raises(Transient, match="nothing got through"):
        run(settings)
    assert due.outbox_rows(settings) == [(due.ids(1)[0], 0, "http_server_error", False, False)]
    assert due.states(settings) == {"pending": 1}


def test_one_event_the_platform_fails_at_is_charged_while_others_get_through(
    settings: Settings, platform: StandIn, quick_retries: None
) -> None:
    due.put_due(settings, 12)
    bad = due.ids(1)[0]
    platform.refused = {bad: 500}
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.left) == (11, 0, 1)
    assert due.outbox_rows(settings) == [(bad, 1, "http_server_error", False, False)]
    due.query(settings, "UPDATE ledger.outbox SET due_at = now(), attempts = 7")
    due.put_due(settings, 3, first=12)
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.left) == (3, 1, 0)
    assert due.outbox_rows(settings) == [(bad, 7, "http_server_error", True, False)]
    assert due.states(settings) == {"published": 14, "dead": 1}


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are made again without a pause."""
    monkeypatch.setattr("ingestion_dagster.engine.http.Http.pause", lambda self, attempt, asked: 0.01)


def test_replies_that_are_lost_are_asked_for_again(settings: Settings, platform: StandIn, quick_retries: None) -> None:
    due.put_due(settings, 20)
    platform.lost = 6
    assert run(settings).sent == 20
    assert sum(platform.events.values()) == 26
    assert_all_published(settings, platform, 20)


def test_a_platform_that_asks_for_fewer_gets_its_pause(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 30)
    platform.answers = [(429, {"Retry-After": "1"})]
    began = time.monotonic()
    assert run(settings).sent == 30
    assert time.monotonic() - began > 1
    assert len(platform.bodies) == 31
    assert_all_published(settings, platform, 30)


def test_a_platform_that_asks_for_too_long_a_pause_is_left_alone(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 30)
    platform.answers = [(429, {"Retry-After": "600"})]
    with pytest.raises(Transient):
        run(settings, Limits(in_flight=1))
    assert len(platform.bodies) == 1
    assert {row[1] for row in due.outbox_rows(settings)} == {0}


def test_a_token_that_ends_midway_is_replaced_once(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 40)
    platform.latency = 0.005
    with ended_after(platform, 10):
        assert run(settings, Limits(in_flight=8)).sent == 40
    assert len(platform.token_forms) == 2
    assert_all_published(settings, platform, 40)
    assert set(platform.events.values()) == {1}


@contextmanager
def ended_after(platform: StandIn, count: int) -> Iterator[None]:
    """The first token is not taken any more after so many events."""
    whole = platform._post

    async def post(request: Any) -> Any:
        if sum(platform.events.values()) >= count:
            platform.tokens.discard("token-1")
        return await whole(request)

    platform._post = post  # type: ignore[method-assign]
    try:
        yield
    finally:
        del platform._post


def test_a_client_that_is_not_known_is_told_and_nothing_is_charged(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 5)
    wrong = settings.model_copy(update={"life_events_client_secret": SecretStr("another")})  # pragma: allowlist secret
    with pytest.raises(ConfigurationError, match=r"\(400, invalid_client\): check INGESTION_LIFE_EVENTS_TOKEN_URL") as raised:
        run(wrong)
    assert "another" not in str(raised.value)
    assert platform.says not in str(raised.value)
    assert {row[1:] for row in due.outbox_rows(settings)} == {(0, None, False, False)}
    assert len(platform.token_forms) == 1


def test_a_token_endpoint_that_is_down_charges_nobody(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 5)
    platform.token_always = 503
    with pytest.raises(Transient, match="no access token"):
        run(settings)
    assert {row[1:] for row in due.outbox_rows(settings)} == {(0, None, False, False)}
    assert platform.bodies == []


def test_events_under_an_unknown_key_stay_due(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 5)
    other = settings.model_copy(update={"life_events_encryption_keys": SecretStr(f"other:{'cd' * 32}")})  # pragma: allowlist secret
    with pytest.raises(ConfigurationError, match="INGESTION_LIFE_EVENTS_ENCRYPTION_KEYS"):
        run(other)
    assert {row[1:] for row in due.outbox_rows(settings)} == {(0, None, False, False)}
    assert due.states(settings) == {"pending": 5}
    assert platform.bodies == []


def test_an_event_that_does_not_open_holds_up_no_other(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 4)
    with postgres.locate(settings).connect() as connection:
        connection.execute(
            "UPDATE life_events.events SET payload = set_byte(payload, 20, get_byte(payload, 20) # 1) WHERE record_key = %s",
            [due.record_key(0)],
        )
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.left, outcome.codes) == (3, 0, 1, {EVENT_UNREADABLE: 1})
    assert set(platform.events) == set(due.ids(3, 1))


@pytest.mark.parametrize("status", [404, 405, 410])
def test_an_address_that_takes_nothing_buries_nothing_however_little_is_due(settings: Settings, platform: StandIn, status: int) -> None:
    due.put_due(settings, 2)
    platform.always = status
    with pytest.raises(ConfigurationError, match="INGESTION_LIFE_EVENTS_PLATFORM_URL"):
        run(settings)
    assert due.states(settings) == {"pending": 2}
    platform.always = None
    assert run(settings).sent == 2


@pytest.mark.parametrize(("state", "dropped", "dead"), [("released", 1, 0), ("expired", 0, 1)])
def test_an_event_that_was_deleted_meanwhile_is_not_told(
    settings: Settings, platform: StandIn, state: str, dropped: int, dead: int
) -> None:
    due.put_due(settings, 4)
    with postgres.locate(settings).connect() as connection, connection.transaction():
        open_store(settings).remove(connection, [due.record_key(1)])
        records.mark_ended(connection, [due.record_key(1)], state, datetime.now(UTC))
    outcome = run(settings)
    assert (outcome.sent, outcome.dropped, outcome.dead, outcome.left) == (3, dropped, dead, 0)
    assert outcome.codes == ({EVENT_EXPIRED: 1} if dead else {})
    assert len(due.outbox_rows(settings)) == dead
    assert due.states(settings) == {"published": 3, state: 1}
    assert due.record_key(1).hex() not in platform.events


def test_an_event_that_nobody_has_deleted_and_that_is_not_there_is_a_dead_letter(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 4)
    with postgres.locate(settings).connect() as connection:
        open_store(settings).remove(connection, [due.record_key(1)])
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.codes) == (3, 1, {EVENT_GONE: 1})
    assert due.outbox_rows(settings) == [(due.ids(4)[1], 0, EVENT_GONE, True, False)]


def test_an_event_past_its_time_is_not_told(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 2, stored_at=datetime.now(UTC) - timedelta(days=8))
    assert run(settings).dead == 2
    assert platform.bodies == []


def test_an_event_that_was_deleted_while_it_was_sent_stays_deleted(settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 1)

    async def post(request: Any) -> Any:
        with postgres.locate(settings).connect() as connection, connection.transaction():
            open_store(settings).remove(connection, [due.record_key(0)])
            records.mark_ended(connection, [due.record_key(0)], "released", datetime.now(UTC))
        return await StandIn._post(platform, request)

    platform._post = post  # type: ignore[method-assign]
    try:
        assert run(settings).sent == 1
    finally:
        del platform._post
    assert due.states(settings) == {"released": 1}
    assert due.outbox_rows(settings) == []


def test_nothing_of_a_person_is_in_what_publishing_leaves(settings: Settings, platform: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    due.put_due(settings, 20)
    platform.refused = dict.fromkeys(due.ids(4), 400) | dict.fromkeys(due.ids(4, 4), 403)
    outcome = run(settings)
    tables = due.query(settings, "SELECT to_jsonb(o)::text FROM ledger.outbox AS o")
    tables += due.query(settings, "SELECT to_jsonb(a)::text FROM life_events.audit AS a")
    text = "".join([repr(outcome), caplog.text, *(row[0] for row in tables)])
    assert outcome.dead == 8
    assert "PLACEHOLDER" not in text
    assert not any(due.event_time(number) in text for number in range(20))


def test_the_sandbox_s_platform_has_every_event_once_whatever_goes_wrong(
    settings: Settings, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    due.put_due(settings, 120)
    with platform_asking.answering(platform_asking.platform()) as everybody:
        there = everybody.nobody
        there.switch("settings", {"token_seconds": 0.2})
        for number, kind in enumerate(("lost", "html", "503", "429", "reset", "bad_json")):
            there.fault(kind, "publish", times=3, skip=5 + 4 * number)
        there.fault("500", "token", times=1)
        client_id, secret = PUBLISHER
        found = settings.model_copy(
            update={
                "life_events_platform_url": there.url,
                "life_events_token_url": f"{there.url}/oauth2/token",
                "life_events_client_id": client_id,
                "life_events_client_secret": SecretStr(secret),
                "life_events_platform_patience_seconds": 20,
            }
        )
        first = run(found, seconds=0.4)
        there.switch("tokens/expire", {})
        outcome = run(found)
        events, posts = there.switch("events", method="GET"), there.switch("posts", method="GET")
    assert first.sent + outcome.sent == 120
    assert (outcome.dead, outcome.left) == (0, 0)
    assert sorted(events) == sorted(posts) == sorted(due.ids(120))
    assert due.states(settings) == {"published": 120}
    assert due.outbox_rows(settings) == []


KILLED = [
    "life_events.publish.before",
    "life_events.publish.before:7",
    "life_events.publish.after",
    "life_events.publish.after:9",
    "outbox.settle.before",
    "outbox.settle.before:3",
    "outbox.settle.after",
    "outbox.settle.after:3",
]


@pytest.mark.parametrize("point", KILLED)
def test_a_run_that_is_killed_leaves_what_the_next_one_puts_right(point: str, settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 20)
    platform.latency = 0.02
    process = publish_driver.start(settings, fault=point)
    code, said = process.end()
    assert code == -signal.SIGKILL, said
    due.let_claims_run_out(settings)
    run(settings)
    assert_all_published(settings, platform, 20)


@pytest.mark.parametrize("count", [2, 3])
def test_publishers_at_once_send_every_event_once(count: int, settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 200)
    platform.latency = 0.005
    ended = [process.end() for process in [publish_driver.start(settings) for _ in range(count)]]
    assert [code for code, _ in ended] == [0] * count, ended
    assert_all_published(settings, platform, 200)
    assert set(platform.events.values()) == {1}


SLEEPING = ["life_events.publish.before:3", "life_events.publish.after:3", "outbox.settle.before", "outbox.settle.after"]


@pytest.mark.parametrize("point", SLEEPING)
def test_a_publisher_that_wakes_up_after_its_lease_changes_nothing(point: str, settings: Settings, platform: StandIn) -> None:
    due.put_due(settings, 20)
    name, _, passage = point.partition(":")
    brief = settings.model_copy(update={"lease_seconds": 1})
    sleeper = publish_driver.start(brief, fault=f"{name}:{passage or 1}:SIGSTOP")
    try:
        sleeper.await_sleep()
        await_no_claims(settings)
        run(brief)
        left = leftovers(settings)
        assert_all_published(settings, platform, 20)
        sleeper.send(signal.SIGCONT)
        code, said = sleeper.end(30)
    finally:
        sleeper.send(signal.SIGKILL)
    assert code in {0, 1}, said
    assert leftovers(settings) == left
    assert len(platform.events) == 20


def leftovers(settings: Settings) -> Any:
    return (
        due.query(settings, "SELECT * FROM life_events.records ORDER BY record_key"),
        due.outbox_rows(settings),
        due.query(settings, "SELECT count(*) FROM life_events.audit"),
    )


def await_no_claims(settings: Settings) -> None:
    """Wait until claims have really run out, and the database has ended a session that sleeps in a transaction."""
    await_that(
        lambda: (
            due.query(
                settings,
                """
            SELECT (SELECT count(*) FROM ledger.outbox WHERE claimed_until > now()),
                   (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%%')
            """,
            )
            == [(0, 0)]
        )
    )


def await_that(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

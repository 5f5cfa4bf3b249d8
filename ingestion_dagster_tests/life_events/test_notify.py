"""Documents for acquirers, on moto's queues: each gets what is its own, once by its id, and an event waits until it is gone."""

import json
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ingestion_dagster.engine import outbox, postgres
from ingestion_dagster.engine.delivery import Limits
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events import notify
from ingestion_dagster.life_events.acquirers import Acquirer, acquirers, topics
from ingestion_dagster.life_events.notify import ACQUIRER_UNSET, NOT_KEPT, Notified
from ingestion_dagster.life_events.registry import NOTIFY, PUBLISH
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine import conftest as aws
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.life_events import due, publish_driver
from ingestion_dagster_tests.metrics.one_database import one_database

aws_environment = aws.aws_environment

SMALL = Limits(in_flight=12, batch=20, group=10, group_seconds=0.05)
_numbers = count(1)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Queues:
    """Queues of this test."""

    def __init__(self, url: str) -> None:
        self.client: Any = boto3.client("sqs", region_name="eu-west-2", endpoint_url=url)

    def new(self, *, ordered: bool = False) -> str:
        name = f"queue-{next(_numbers)}"
        attributes = {"FifoQueue": "true"} if ordered else {}
        return str(self.client.create_queue(QueueName=f"{name}.fifo" if ordered else name, Attributes=attributes)["QueueUrl"])

    def taken(self, queue: str) -> list[dict[str, Any]]:
        """What is in a queue, which is empty afterwards."""
        found: list[dict[str, Any]] = []
        while messages := self.client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"]))
                self.client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def queues(moto: str, aws_environment: pytest.MonkeyPatch) -> Queues:
    aws_environment.setenv("AWS_ENDPOINT_URL", moto)
    aws_environment.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    return Queues(moto)


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as made:
        yield made


@pytest.fixture
def installation(one: Database, tmp_path: Path) -> Settings:
    processes.emptied(one, "life_events", "ledger")
    return due.settings_for(one, tmp_path, "http://127.0.0.1:1")


def with_acquirers(settings: Settings, **given: Any) -> Settings:
    return settings.model_copy(update={"life_events_acquirers": given})


def run(settings: Settings, limits: Limits = SMALL, **more: Any) -> Notified:
    return notify.deliver(postgres.locate(settings), settings, "a run", **{"seconds": 60, "limits": limits, **more})


def is_outstanding(settings: Settings, number: int) -> bool:
    with postgres.locate(settings).connect() as connection:
        return outbox.is_waited_for(connection, outbox.topics(connection, NOTIFY), due.record_key(number).hex())


def test_each_acquirer_gets_what_is_its_own(installation: Settings, queues: Queues) -> None:
    first, second = queues.new(), queues.new()
    settings = with_acquirers(installation, dwp={"queue": first, "fields": ["NAME", "DEATH_DATE"]}, other={"queue": second, "fields": []})
    due.put_due(settings, 23, topics=(PUBLISH, *topics(settings)), record=due.RECORD)
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.left, outcome.unknown) == (46, 0, 0, ())
    assert outcome.by_acquirer == {"dwp": 23, "other": 23}
    named, bare = queues.taken(first), queues.taken(second)
    assert len({each["jti"] for each in named}) == len(named) == 23
    assert {each["jti"] for each in named} == {each["jti"] for each in bare}
    event = next(iter(named[0]["events"].values()))
    assert event["deathDate"]["value"] == "2031-02-01"
    assert "SYNTHÉTIC" in json.dumps(event["subject"]["name"], ensure_ascii=False)
    assert {"address", "birthDate", "sex"}.isdisjoint(event["subject"])
    text = json.dumps(bare, ensure_ascii=False)
    assert "PLACEHOLDER" not in text
    assert "ZZ99" not in text
    assert "2031-02-01" not in text
    assert [row[0] for row in due.query(settings, "SELECT DISTINCT topic FROM ledger.outbox")] == [PUBLISH]


def test_what_is_sent_twice_is_the_same_to_its_receiver(installation: Settings, queues: Queues) -> None:
    plain, ordered = queues.new(), queues.new(ordered=True)
    settings = with_acquirers(installation, a={"queue": plain, "fields": ["SEX"]}, b={"queue": ordered, "fields": ["SEX"]})
    due.put_due(settings, 2, topics=topics(settings), record=due.RECORD)
    for _ in range(2):
        assert run(settings).sent == 4
        for topic in topics(settings):
            due_again(settings, topic)
    twice = queues.taken(plain)
    assert len(twice) == 4
    assert len({json.dumps(each, sort_keys=True) for each in twice}) == 2
    assert len(queues.taken(ordered)) == 2


def due_again(settings: Settings, topic: str) -> None:
    with postgres.locate(settings).connect() as connection:
        outbox.put(connection, topic, due.ids(2))


def test_an_event_waits_until_its_documents_are_delivered(installation: Settings, queues: Queues) -> None:
    settings = with_acquirers(installation, dwp={"queue": queues.new(), "fields": []})
    due.put_due(settings, 1, topics=(PUBLISH, *topics(settings)), record=due.RECORD)
    due.put_due(settings, 1, first=1, topics=(PUBLISH, "life_events.other", "zzz"))
    assert [is_outstanding(settings, number) for number in (0, 1, 2)] == [True, False, False]
    run(settings)
    assert not is_outstanding(settings, 0)


def test_a_queue_that_is_not_there_does_not_stop_the_others(installation: Settings, queues: Queues) -> None:
    there = queues.new()
    settings = with_acquirers(installation, a={"queue": there.replace("queue-", "none-"), "fields": []}, b={"queue": there, "fields": []})
    due.put_due(settings, 3, topics=topics(settings), record=due.RECORD)
    outcome = Notified()
    with pytest.raises(ConfigurationError, match=r"the queue of a is not there.*INGESTION_LIFE_EVENTS_ACQUIRERS"):
        run(settings, outcome=outcome)
    assert (outcome.sent, outcome.left, outcome.dead) == (3, 3, 0)
    assert len(queues.taken(there)) == 3
    assert {row[1:] for row in due.outbox_rows(settings)} == {(0, None, False, False)}


def test_queues_that_are_away_charge_nobody(installation: Settings, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_acquirers(installation, a={"queue": queues.new(), "fields": []})
    due.put_due(settings, 3, topics=topics(settings), record=due.RECORD)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Transient, match="http_unavailable"):
        run(settings)
    assert {row[1:] for row in due.outbox_rows(settings)} == {(0, None, False, False)}


def test_an_event_stored_without_its_record_is_a_dead_letter(installation: Settings, queues: Queues) -> None:
    queue = queues.new()
    settings = with_acquirers(installation, a={"queue": queue, "fields": []})
    due.put_due(settings, 1, topics=topics(settings))
    due.put_due(settings, 2, first=1, topics=topics(settings), record=due.RECORD)
    outcome = run(settings)
    assert (outcome.sent, outcome.dead, outcome.codes) == (2, 1, {NOT_KEPT: 1})
    assert not is_outstanding(settings, 0)
    with postgres.locate(settings).connect() as connection:
        assert notify.retry(connection, settings) == 1
    assert is_outstanding(settings, 0)


def test_a_document_that_no_queue_takes_is_a_dead_letter_and_large_ones_go_alone(installation: Settings, queues: Queues) -> None:
    queue = queues.new()
    settings = with_acquirers(installation, a={"queue": queue, "fields": ["NAME"]})
    for number, length in enumerate((300_000, 100_000, 100_000, 100_000)):
        name = {"PersonGivenName": ["P" * length], "PersonFamilyName": "SYNTHETIC"}
        due.put_due(settings, 1, first=number, topics=topics(settings), record={**due.RECORD, "DeceasedName": name})
    outcome = run(settings)
    assert (outcome.sent, outcome.codes) == (3, {"notification_too_large": 1})
    assert len(queues.taken(queue)) == 3


def test_an_acquirer_that_is_not_set_any_more_is_told_of(installation: Settings, queues: Queues) -> None:
    settings = with_acquirers(installation, a={"queue": queues.new(), "fields": []})
    due.put_due(settings, 1, topics=topics(settings), record=due.RECORD)
    outcome = run(installation)
    assert (outcome.unknown, outcome.sent, outcome.dead) == (("a",), 0, 1)
    assert not is_outstanding(settings, 0), "its event could not be released before its time is up"
    with postgres.locate(settings).connect() as connection:
        assert outbox.dead_codes(connection, topics(settings)[0]) == [(ACQUIRER_UNSET, 1)]
        assert notify.retry(connection, installation) == 0
        assert outbox.topics(connection, NOTIFY) == []


def test_a_run_without_the_setting_loses_no_document_of_an_acquirer_that_is_set(installation: Settings, queues: Queues) -> None:
    """As when somebody starts one in a shell that lacks it."""
    queue = queues.new()
    settings = with_acquirers(installation, a={"queue": queue, "fields": []})
    due.put_due(settings, 3, topics=topics(settings), record=due.RECORD)
    assert run(installation).dead == 3
    with postgres.locate(settings).connect() as connection:
        assert notify.retry(connection, settings) == 3
    assert run(settings).sent == 3
    assert len(queues.taken(queue)) == 3


def test_a_run_that_is_killed_loses_no_document(installation: Settings, queues: Queues, moto: str) -> None:
    queue = queues.new()
    settings = with_acquirers(installation, a={"queue": queue, "fields": []})
    due.put_due(settings, 30, topics=topics(settings), record=due.RECORD)
    variables = {"INGESTION_LIFE_EVENTS_ACQUIRERS": json.dumps(settings.life_events_acquirers)}
    for point in ("life_events.notify.before:2", "life_events.notify.after", "outbox.settle.before", "outbox.settle.after"):
        code, said = publish_driver.start(settings, "notify", fault=point, **variables).end()
        assert code == -signal.SIGKILL, said
        due.let_claims_run_out(settings)
    run(settings)
    assert len({each["jti"] for each in queues.taken(queue)}) == 30
    assert due.outbox_rows(settings) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"a b": {"queue": "https://q/1", "fields": []}}, "a name has letters"),
    ({"a": {"queue": "https://q/1"}}, 'a has to have "queue" and "fields"'),
    ({"a": {"queue": "https://q/1", "fields": [], "more": 1}}, "nothing else"),
    ({"a": {"queue": "arn:aws:sqs:eu-west-2:1:q", "fields": []}}, "the queue of a is its URL"),
    ({"a": {"queue": 1, "fields": []}}, "the queue of a is its URL"),
    ({"a": {"queue": "https://q/1", "fields": "NAME"}}, "the fields of a are a list of NAME, SEX"),
    ({"a": {"queue": "https://q/1", "fields": ["name"]}}, "the fields of a are a list"),
    ({"a": {"queue": "https://q/1", "fields": [[]]}}, "the fields of a are a list"),
]


@pytest.mark.parametrize(("given", "told"), WRONG, ids=[told for _, told in WRONG])
def test_a_setting_that_cannot_be_meant_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"INGESTION_LIFE_EVENTS_ACQUIRERS.*{told}"):
        acquirers(Settings(life_events_acquirers=given))


def test_no_acquirer_is_nothing_to_do() -> None:
    assert acquirers(Settings()) == ()
    assert topics(Settings(life_events_acquirers={"a": {"queue": "https://q/1", "fields": []}})) == ("life_events.notify.a",)
    assert Acquirer("a", "https://q/1.fifo", frozenset()).is_ordered

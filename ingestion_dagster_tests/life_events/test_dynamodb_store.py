"""The event store in DynamoDB: what its tables hold, its limits of numbers and bytes, and what is said of its failures."""

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.life_events.dynamodb_store import DynamoStore
from ingestion_dagster_tests.life_events.stores import NOW, WEEK, aws_environment, dynamo, dynamodb_server, key_of, new_table, sealed

__all__ = ["aws_environment", "dynamo", "dynamodb_server"]

NONE: Any = None
"""No connection: this store needs none."""


def test_an_item_tells_dynamodb_when_it_expires(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    store.put(NONE, [sealed(1, ttl=WEEK - timedelta(milliseconds=1))])
    (item,) = dynamo.scan(TableName=store.table)["Items"]
    assert item == {
        "hash": {"S": key_of(1).hex()},
        "payload": {"B": b"payload of 1"},
        "encryption_key": {"S": "k1"},
        "stored_at": {"S": "2031-02-04T09:30:00+00:00"},
        "ttl": {"N": str(int((NOW + WEEK).timestamp()))},
    }


def test_an_event_does_not_expire_before_its_time(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    store.put(NONE, [sealed(1, ttl=timedelta(milliseconds=200))])
    assert store.get(NONE, [key_of(1)], NOW + timedelta(milliseconds=100))
    assert store.expired(NONE, NOW + timedelta(milliseconds=999), 1) == []
    assert store.expired(NONE, NOW + timedelta(seconds=1), 1) == [key_of(1)]


def test_more_keys_than_one_request_takes_are_all_read(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    store.put(NONE, [sealed(number) for number in range(0, 210, 3)])
    found = store.get(NONE, [key_of(number) for number in range(210)], NOW)
    assert found.keys() == {key_of(number) for number in range(0, 210, 3)}


def test_what_an_answer_has_no_room_for_is_asked_for_again(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    store.put(NONE, [sealed(number, payload=bytes([number]) * 390_000) for number in range(48)])
    found = store.get(NONE, [key_of(number) for number in range(48)], NOW)
    assert {event.payload[0] for event in found.values()} == set(range(48))


def test_all_pages_of_a_table_are_seen(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    store.put(NONE, [sealed(number, payload=bytes([number]) * 200_000) for number in range(16)])
    assert "LastEvaluatedKey" in dynamo.scan(TableName=store.table), "one page would be enough"
    assert len(store.expired(NONE, NOW + WEEK, 100)) == 16
    assert store.age(NONE, NOW + WEEK) == (16, NOW)
    assert sum(len(page) for page in store.under_other_keys(NONE, "k2", 3)) == 16


def test_an_event_that_no_item_can_hold_is_refused_by_its_key(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    with pytest.raises(Refused) as raised:
        store.put(NONE, [sealed(1), sealed(2, payload=b"PLACEHOLDER" * 40_000)])
    (problem,) = raised.value.problems
    assert (problem.code, problem.place) == ("record_too_large", f"record {key_of(2).hex()}")
    assert store.get(NONE, [key_of(1)], NOW) == {}, "some of it was put"


def test_one_store_serves_many_threads(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(NONE, [sealed(number)]), range(24)))
        found = list(pool.map(lambda number: store.get(NONE, [key_of(number)], NOW), range(24)))
    assert [list(each) for each in found] == [[key_of(number)] for number in range(24)]


def everything(store: DynamoStore) -> dict[str, Callable[[], object]]:
    """Each thing that can be asked of a store, of one event and of two."""
    two = [sealed(1), sealed(2)]
    keys = [event.record_key for event in two]
    return {
        "put": lambda: store.put(NONE, two[:1]),
        "put two": lambda: store.put(NONE, two),
        "get": lambda: store.get(NONE, keys, NOW),
        "remove": lambda: store.remove(NONE, keys),
        "remove expired": lambda: store.remove(NONE, keys[:1], expired_by=NOW),
        "expired": lambda: store.expired(NONE, NOW, 1),
        "others": lambda: list(store.under_other_keys(NONE, "k2", 5)),
        "reseal": lambda: store.reseal(NONE, [(two[0], two[1])]),
        "age": lambda: store.age(NONE, NOW),
    }


def test_a_table_that_is_not_there_is_said_with_what_it_needs(dynamo: Any) -> None:
    for name, ask in everything(DynamoStore("nowhere")).items():
        with pytest.raises(ConfigurationError) as raised:
            ask()
        said = str(raised.value)
        assert all(word in said for word in ("INGESTION_LIFE_EVENTS_STORE_URL", "nowhere", "'hash'", "'ttl'")), name


def test_a_table_of_another_form_is_said_to_be_one(dynamo: Any) -> None:
    dynamo.create_table(
        TableName="other-form",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    asked = everything(DynamoStore("other-form"))
    for name in ("put", "get", "remove", "reseal"):
        with pytest.raises(ConfigurationError, match=r"another form.*'hash'"):
            asked[name]()


def test_what_is_no_event_is_not_taken_for_one(dynamo: Any) -> None:
    store = DynamoStore(new_table(dynamo))
    dynamo.put_item(
        TableName=store.table,
        Item={"hash": {"S": "PLACEHOLDER"}, "ttl": {"N": "1"}, "stored_at": {"S": "PLACEHOLDER"}, "payload": {"S": ""}},
    )
    dynamo.put_item(TableName=store.table, Item={"hash": {"S": key_of(1).hex()}, "surname": {"S": "PLACEHOLDER"}})
    asked = everything(store)
    for name in ("get", "expired", "others", "age"):
        if name == "others":
            dynamo.update_item(
                TableName=store.table,
                Key={"hash": {"S": key_of(1).hex()}},
                UpdateExpression="SET encryption_key = :k1",
                ExpressionAttributeValues={":k1": {"S": "k1"}},
            )
        with pytest.raises(ConfigurationError, match="no event") as raised:
            asked[name]()
        assert "PLACEHOLDER" not in str(raised.value)


class _Answering(BaseHTTPRequestHandler):
    """Answers as it is told, and counts."""

    answers: list[tuple[int, dict[str, Any]]]
    asked: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.headers["X-Amz-Target"].rpartition(".")[2])
        status, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def answering(aws_environment: pytest.MonkeyPatch) -> Iterator[type[_Answering]]:
    """A server in place of DynamoDB."""
    handler = type("Handler", (_Answering,), {"answers": [], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    aws_environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fault(kind: str) -> dict[str, Any]:
    return {"__type": f"com.amazonaws.dynamodb.v20120810#{kind}", "message": "PLACEHOLDER, in so many words", "Item": {"S": "PLACEHOLDER"}}


TRANSIENT = [
    (400, "ThrottlingException"),
    (400, "ProvisionedThroughputExceededException"),
    (400, "RequestLimitExceeded"),
    (500, "InternalServerError"),
    (503, "ServiceUnavailable"),
]


@pytest.mark.parametrize(("status", "kind"), TRANSIENT, ids=[kind for _, kind in TRANSIENT])
def test_a_store_that_gives_way_is_transient_and_quotes_nothing(answering: type[_Answering], status: int, kind: str) -> None:
    answering.answers = [(status, fault(kind))]
    for name, ask in everything(DynamoStore("deaths", attempts=1)).items():
        with pytest.raises(Transient) as raised:
            ask()
        assert raised.value.code == "store_unavailable", name
        assert "PLACEHOLDER" not in "".join(traceback.format_exception(raised.value)), name


def test_a_request_that_fails_once_is_made_again(answering: type[_Answering]) -> None:
    answering.answers = [(500, fault("InternalServerError")), (200, {})]
    DynamoStore("deaths", attempts=2).put(NONE, [sealed(1)])
    assert answering.asked == ["PutItem", "PutItem"]


@pytest.mark.parametrize("kind", ["AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"])
def test_a_store_that_is_not_open_to_us_is_a_matter_of_settings(answering: type[_Answering], kind: str) -> None:
    answering.answers = [(400, fault(kind))]
    for name, ask in everything(DynamoStore("deaths", attempts=1)).items():
        with pytest.raises(ConfigurationError, match=f"deaths is not open to us .{kind}") as raised:
            ask()
        assert "PLACEHOLDER" not in str(raised.value), name


def test_keys_that_are_never_processed_are_not_asked_for_for_ever(answering: type[_Answering]) -> None:
    wanted = {"deaths": {"Keys": [{"hash": {"S": key_of(1).hex()}}], "ConsistentRead": True}}
    answering.answers = [(200, {"Responses": {}, "UnprocessedKeys": wanted})]
    with pytest.raises(Transient, match="UnprocessedKeys"):
        DynamoStore("deaths", attempts=2).get(NONE, [key_of(1)], NOW)
    assert answering.asked == ["BatchGetItem"] * 2


def test_a_store_that_nobody_answers_for_is_transient(aws_environment: pytest.MonkeyPatch) -> None:
    aws_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Transient) as raised:
        DynamoStore("deaths", attempts=1).get(NONE, [key_of(1)], NOW)
    assert raised.value.code == "store_unavailable"


def test_missing_credentials_are_a_matter_of_settings(aws_environment: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws_environment.delenv(name)
    with pytest.raises(ConfigurationError, match="check credentials"):
        DynamoStore("deaths", attempts=1).put(NONE, [sealed(1), sealed(2)])


def test_the_first_failure_calls_off_what_has_not_begun(answering: type[_Answering]) -> None:
    answering.answers = [(500, fault("InternalServerError"))]
    with pytest.raises(Transient):
        DynamoStore("deaths", attempts=1).put(NONE, [sealed(number) for number in range(1000)])
    assert len(answering.asked) < 500

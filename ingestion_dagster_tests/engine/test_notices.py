"""What is made of a message: any form in which S3's events arrive, and nothing of what is none."""

import json
from contextlib import suppress
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_dagster.engine import notices
from ingestion_dagster.engine.notices import Place, Told, Unreadable
from ingestion_dagster_tests.engine.notices_scene import eventbridge, sns


def event(key: Any, name: Any = "ObjectCreated:Put", bucket: Any = "b", source: Any = "aws:s3") -> dict[str, Any]:
    return {"Records": [{"eventSource": source, "eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]}


def read(content: Any) -> Told:
    return notices.read(json.dumps(content))


@pytest.mark.parametrize("envelope", [lambda told: told, sns, eventbridge, lambda told: sns(eventbridge(told))])
def test_the_same_event_is_read_whichever_way_it_came(envelope: Any) -> None:
    assert read(envelope(event("in/a+b%2Bc"))) == Told((Place("b", "in/a b+c"),))


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_key_is_read_as_it_was_written(key: str) -> None:
    assert read(event(quote_plus(key))) == Told((Place("b", key),))


def test_every_record_of_a_message_counts() -> None:
    records = [*event("a")["Records"], *event("b", "ObjectRemoved:Delete")["Records"], *event("c", "s3:ObjectCreated:Copy")["Records"]]
    assert read({"Records": records}) == Told((Place("b", "a"), Place("b", "c")), 1)


@pytest.mark.parametrize(
    "content",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2031-02-04T09:30:00.000Z", "Bucket": "b"},
        {**eventbridge(event("a")), "detail-type": "Object Deleted"},
        event("a", "ObjectTagging:Put"),
        event("a", "LifecycleExpiration:Delete"),
    ],
)
def test_what_creates_nothing_is_no_trouble(content: Any) -> None:
    assert read(content) == read(sns(content)) == Told((), 1)


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "[]", "7", '"text"', "{}", "no JSON", "[" * 100_000, "{" * 100_000, '{"Records": [' * 5_000, "\x00", "NaN",
        '{"a": 1e999}', '{"Records": []}', '{"Records": {}}', '{"Records": [1]}', '{"Records": [{}]}', '{"Records": [null]}',
        '{"Records": "x"}', json.dumps(event("a")).replace('"a"', '"\\ud800"'),
        *(json.dumps(content) for content in (
            event("a", source="aws:ec2"), event("a", source=None), event("a", name=7), event(7), event(""), event(None), event(["a"]),
            event({"a": 1}), event("a", bucket=None), event("a", bucket=["b"]), event("%zz"), event("100%"), event("%ff%fe"),
            event("%ED%A0%80"), sns(sns(event("a"))), sns("hello"), {"Type": "Notification", "Message": 7},
            {"Type": "SubscriptionConfirmation", "Message": "confirm", "SubscribeURL": "https://example.com"},
            {"detail-type": "Object Created", "source": "aws.ec2", "detail": {}}, {"detail-type": 7, "source": "aws.s3"},
            {"detail-type": "Object Created", "source": "aws.s3", "detail": []},
        )),
    ],
)  # fmt: skip
def test_what_is_no_event_is_unreadable_and_nothing_worse(body: str) -> None:
    with pytest.raises(Unreadable):
        notices.read(body)


NAMES = ["Records", "s3", "bucket", "object", "key", "name", "eventName", "eventSource", "Type", "Message", "detail-type", "detail"]
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["aws:s3", "ObjectCreated:Put", "Notification", "Object Created"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_no_body_is_the_end_of_a_reader(content: Any) -> None:
    with suppress(Unreadable):
        assert all(place.path and place.bucket for place in notices.read(json.dumps(content)).created)


def test_what_is_said_of_an_unreadable_message_quotes_nothing_of_it() -> None:
    for body in ("Jane Doe", '{"Records": [{"eventSource": "Jane Doe"}]}', json.dumps(event("%zz Jane Doe"))):
        with pytest.raises(Unreadable) as told:
            notices.read(body)
        assert "Jane" not in str(told.value)

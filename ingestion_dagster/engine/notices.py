"""What a message of a queue tells of a bucket: S3's own events, straight from S3, through an SNS topic or through EventBridge."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import orjson

_TEST = "s3:TestEvent"
_CREATED = "ObjectCreated:"
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

Json = dict[str, Any]


class Unreadable(Exception):
    """The message is none of the forms that are known; it can never be read. Says which part is not as it should be, and no value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object has come to stand: its bucket, and its path there."""

    bucket: str
    path: str


@dataclass(frozen=True, slots=True)
class Told:
    """What one message tells: where objects were created, and how many things besides that nobody here asks for."""

    created: tuple[Place, ...] = ()
    others: int = 0
    """Deletions, test events and the like."""


def read(body: str) -> Told:
    """What a message tells. Raises `Unreadable`.

    Only the place of an object is taken from it. Its version, size and date are asked of the bucket: an event says when S3 was done with
    the request, not how it dates the object, and it may be late, repeated, out of order, or not S3's at all.
    """
    content = _content(body, "the message")
    if "Type" in content and "Message" in content:
        if content["Type"] != "Notification":
            raise Unreadable("an SNS message that is no notification")
        content = _content(_text(content, "Message"), "the SNS notification")
    if content.get("Event") == _TEST:
        return Told(others=1)
    if "detail-type" in content:
        return _from_eventbridge(content)
    records = content.get("Records")
    if not isinstance(records, list) or not records:
        raise Unreadable("no list of records")
    found = [_from_s3(record) for record in records]
    created = tuple(place for place in found if place is not None)
    return Told(created, len(found) - len(created))


def _from_eventbridge(content: Json) -> Told:
    """EventBridge has events of its own form, in which keys are not encoded."""
    if content.get("source") != "aws.s3":
        raise Unreadable("an event of another service")
    if _text(content, "detail-type") != "Object Created":
        return Told(others=1)
    detail = _part(content, "detail")
    return Told((Place(_text(_part(detail, "bucket"), "name"), _text(_part(detail, "object"), "key")),))


def _from_s3(record: Any) -> Place | None:
    """The place that a record tells of; None if nothing was created. Stores that speak S3 name themselves in `eventSource`."""
    if not isinstance(record, dict):
        raise Unreadable("a record that is no object")
    if not _text(record, "eventSource").endswith(":s3"):
        raise Unreadable("an event of another service")
    if not _text(record, "eventName").removeprefix("s3:").startswith(_CREATED):
        return None
    told = _part(record, "s3")
    return Place(_text(_part(told, "bucket"), "name"), _decoded(_text(_part(told, "object"), "key")))


def _decoded(key: str) -> str:
    if _NO_ESCAPE.search(key):
        raise Unreadable("a key that is not URL-encoded")
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise Unreadable("a key that is not UTF-8") from None


def _content(text: str, what: str) -> Json:
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Unreadable(f"{what} is no JSON") from None
    if not isinstance(content, dict):
        raise Unreadable(f"{what} is no JSON object")
    return content


def _part(content: Json, name: str) -> Json:
    part = content.get(name)
    if not isinstance(part, dict):
        raise Unreadable(f"no object {name}")
    return part


def _text(content: Json, name: str) -> str:
    text = content.get(name)
    if not isinstance(text, str) or not text:
        raise Unreadable(f"no text {name}")
    return text

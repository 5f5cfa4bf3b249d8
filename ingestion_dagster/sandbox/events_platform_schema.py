"""What the sandbox's events platform takes: event types, the fields each can be enriched with, and the rules for bodies."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

GRO = "GRO_DEATH_NOTIFICATION"
"""The type of events that are enriched and deleted by calling their supplier back."""

SOURCE_ID = "sourceId"
"""The supplier's own id of an event: a field that can be subscribed to, but no part of the data."""

GRO_FIELDS = (
    SOURCE_ID,
    "sex",
    "dateOfBirth",
    "dateOfDeath",
    "registrationId",
    "eventTime",
    "verificationLevel",
    "partialMonthOfDeath",
    "partialYearOfDeath",
    "forenames",
    "surname",
    "maidenSurname",
    "addressLine1",
    "addressLine2",
    "addressLine3",
    "addressLine4",
    "postcode",
)

FIELDS: dict[str, tuple[str, ...]] = {
    GRO: GRO_FIELDS,
    "DEATH_NOTIFICATION": (
        SOURCE_ID,
        "sex",
        "dateOfBirth",
        "registrationDate",
        "firstNames",
        "lastName",
        "dateOfDeath",
        "birthPlace",
        "deathPlace",
        "maidenName",
        "occupation",
        "retired",
        "address",
    ),
    "LIFE_EVENT": (),
    "TEST_EVENT": (SOURCE_ID, "eventTime"),
}
"""The event types, and what a subscription to each may ask for."""

PUBLISH, CONSUME, ADMIN = "events/publish", "events/consume", "events/admin"
"""The scopes."""

LONGEST_ID = 80

_LOCAL_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?", re.ASCII)
_NAME = re.compile(r"[a-z0-9+=,.@-]{3,80}", re.ASCII)
_QUEUE = re.compile(r"acq_[A-Za-z0-9_-]{1,76}|acq_[A-Za-z0-9_-]{1,71}\.fifo", re.ASCII)


class Invalid(Exception):
    """What was asked breaks a rule: the answer is 400, and says which rule, not what was sent."""


class Unreadable(Exception):
    """A published event that cannot be read. The real platform falls over it: the answer is 500."""


@dataclass(frozen=True, slots=True)
class Published:
    """An event as a supplier publishes it."""

    event_type: str
    data_id: str
    event_time: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscription of an acquirer asks for."""

    event_type: str
    fields: tuple[str, ...]
    in_poll: bool
    client_id: str | None
    queue: str | None
    principal: str | None


def read_published(raw: bytes) -> Published:
    """The event of a POST; keys that are not known are left out. Raises `Unreadable`, and `Invalid` for an id that is too long."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Unreadable from None
    if not isinstance(body, dict):
        raise Unreadable
    event_type, data_id, event_time = body.get("eventType"), body.get("id"), body.get("eventTime")
    if isinstance(data_id, int | float) and not isinstance(data_id, bool):
        data_id = str(data_id)
    if not isinstance(event_type, str) or event_type not in FIELDS or not isinstance(data_id, str):
        raise Unreadable
    if event_time is not None and (not isinstance(event_time, str) or local_time(event_time) is None):
        raise Unreadable
    if len(data_id) > LONGEST_ID:
        raise Invalid(f"id has more than {LONGEST_ID} characters")
    return Published(event_type, data_id, event_time)


def local_time(text: str) -> datetime | None:
    """A time without a zone, which is taken as UTC; None for anything else."""
    if not _LOCAL_TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text[:26]).replace(tzinfo=UTC)
    except ValueError:
        return None


def read_wanted(body: Mapping[str, Any], *, makes_client: bool) -> Wanted:
    """A subscription: of a client that is named (`makes_client`: is yet to be made), or of a queue, never of both. Raises `Invalid`."""
    event_type = read_event_type(body)
    fields = body.get("enrichmentFields")
    if not isinstance(fields, list) or not all(isinstance(each, str) for each in fields):
        raise Invalid("enrichmentFields is a list of names")
    if not set(fields) <= set(FIELDS[event_type]):
        raise Invalid("enrichmentFields holds what events of this type do not have")
    in_poll = body.get("enrichmentFieldsIncludedInPoll")
    if not isinstance(in_poll, bool | None):
        raise Invalid("enrichmentFieldsIncludedInPoll is true or false")
    queue, principal = _text(body, "queueName"), _text(body, "principalArn")
    if (queue is None) != (principal is None):
        raise Invalid("queueName and principalArn come together")
    if queue is not None and not _QUEUE.fullmatch(queue):
        raise Invalid("queueName begins with acq_ and has at most 80 letters, digits, hyphens and underscores; it may end with .fifo")
    client_id = None if makes_client else _text(body, "oauthClientId")
    if not makes_client and (client_id is None) == (queue is None):
        raise Invalid("a subscription has exactly one of oauthClientId and queueName")
    return Wanted(event_type, tuple(dict.fromkeys(fields)), bool(in_poll), client_id, queue, principal)


def read_event_type(body: Mapping[str, Any]) -> str:
    """The event type of an admin call. Raises `Invalid`."""
    event_type = body.get("eventType")
    if not isinstance(event_type, str) or event_type not in FIELDS:
        raise Invalid(f"eventType is one of {', '.join(FIELDS)}")
    return event_type


def read_name(body: Mapping[str, Any], key: str) -> str:
    """The name of an acquirer, a supplier or a client. Raises `Invalid`."""
    name = body.get(key)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(f"{key} has 3 to 80 lower case letters, digits and + = , . @ -")
    return name


def read_client(body: Mapping[str, Any]) -> str:
    """The client of a supplier's subscription. Raises `Invalid`."""
    client_id = _text(body, "clientId")
    if client_id is None:
        raise Invalid("clientId is required")
    return client_id


def _text(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise Invalid(f"{key} is text")
    return value


def event_data(attributes: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """What an acquirer gets to see of the supplier's answer: the fields that are subscribed to and no others, null where there is none.

    Times are cut to their dates, as there. Raises `Unreadable` for a date that is none.
    """
    return {name: _SHOWN.get(name, _as_it_is)(attributes.get(name)) for name in GRO_FIELDS if name in fields and name != SOURCE_ID}


def _as_it_is(value: Any) -> Any:
    return value


def _date(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Unreadable
    day, _, rest = value.partition("T")
    try:
        parsed = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise Unreadable from None
    if rest and local_time(value) is None:
        raise Unreadable
    return parsed.date().isoformat()


_SHOWN: dict[str, Callable[[Any], Any]] = dict.fromkeys(("eventTime", "dateOfDeath", "dateOfBirth"), _date)

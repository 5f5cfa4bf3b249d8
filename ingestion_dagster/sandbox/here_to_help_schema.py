"""What the sandbox's Here to Help API takes and gives: fields with their types, read as strictly as the real one reads them.

Names of fields are matched whatever their case; nothing is coerced: a number is no text, and a text is no truth value.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

Body = dict[str, Any]
"""A body as it was read: the known fields it holds, by their names as the API writes them. What it does not hold is absent."""

STRING, BOOLEAN, DATE_TIME, ANYTHING = "string", "boolean", "date-time", "anything"

_DATE_OF_BIRTH = ("DobDay", "DobMonth", "DobYear")
ADDRESS = ("AddressFirstLine", "AddressSecondLine", "AddressThirdLine", "Postcode", "Uprn", "Ward")
PHONES = ("ContactTelephoneNumber", "ContactMobileNumber")

RESIDENT: dict[str, str] = {
    **dict.fromkeys(("FirstName", "LastName", *_DATE_OF_BIRTH, *PHONES, "EmailAddress", *ADDRESS), STRING),
    "IsPharmacistAbleToDeliver": BOOLEAN,
    "NameAddressPharmacist": STRING,
    "GpSurgeryDetails": STRING,
    "NumberOfChildrenUnder18": STRING,
    "ConsentToShare": BOOLEAN,
    "RecordStatus": STRING,
    "NhsNumber": STRING,
}
"""What is kept of a person."""

_HELP_WITH = (
    "AccessingFood",
    "AccessingSupermarketFood",
    "CompletingNssForm",
    "ShieldingGuidance",
    "NoNeedsIdentified",
    "AccessingMedicine",
    "AccessingOtherEssentials",
    "DebtAndMoney",
    "Health",
    "MentalHealth",
    "AccessingInternet",
    "Housing",
    "JobsOrTraining",
    "ChildrenAndSchools",
    "Disabilities",
    "SomethingElse",
)

REQUEST: dict[str, str] = {
    "IsOnBehalf": BOOLEAN,
    "ConsentToCompleteOnBehalf": BOOLEAN,
    "OnBehalfFirstName": STRING,
    "OnBehalfLastName": STRING,
    "OnBehalfEmailAddress": STRING,
    "OnBehalfContactNumber": STRING,
    "RelationshipWithResident": STRING,
    "GettingInTouchReason": STRING,
    **{f"HelpWith{each}": BOOLEAN for each in _HELP_WITH},
    "MedicineDeliveryHelpNeeded": BOOLEAN,
    "WhenIsMedicinesDelivered": STRING,
    "UrgentEssentials": STRING,
    "UrgentEssentialsAnythingElse": STRING,
    "CurrentSupport": STRING,
    "CurrentSupportFeedback": STRING,
    "DateTimeRecorded": DATE_TIME,
    "InitialCallbackCompleted": BOOLEAN,
    "CallbackRequired": BOOLEAN,
    "AdviceNotes": STRING,
    "HelpNeeded": STRING,
    "HelpNeededSubtype": STRING,
    "NhsCtasId": STRING,
}
"""What is kept of a request, besides its metadata and its notes."""

CREATE: dict[str, str] = {**RESIDENT, **REQUEST, "CaseNotes": STRING, "Metadata": ANYTHING}
"""The body of `POST v3/help-requests`: a person and what they ask for, side by side."""

ADD_REQUEST: dict[str, str] = {**REQUEST, "CaseNotes": STRING}
"""The body of `POST v4/residents/{rid}/help-requests`: no metadata."""

NOTE: dict[str, str] = {"CaseNote": STRING}

SEARCH = ("FirstName", "LastName", *_DATE_OF_BIRTH, "Postcode", "Uprn")
"""What residents are searched by."""


_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


class Malformed(ValueError):
    """A body that cannot be read; `field` is what is wrong with it, or "$" for the whole."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def read(raw: bytes, fields: Mapping[str, str]) -> Body:
    """The known fields of a body, under the API's own names; others are passed over. Raises `Malformed`."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Malformed("$", "The JSON value could not be converted.") from None
    if not isinstance(found, dict):
        raise Malformed("$", "A non-empty request body is required.")
    body: Body = {}
    for key, value in found.items():
        name = key if key in fields else next((each for each in fields if each.lower() == key.lower()), None)
        if name is not None:
            if not _fits(value, fields[name]):
                raise Malformed(name, f"The JSON value could not be converted to {fields[name]}.")
            body[name] = value
    return body


def _fits(value: Any, kind: str) -> bool:
    if value is None or kind == ANYTHING:
        return True
    if kind == BOOLEAN:
        return isinstance(value, bool)
    return isinstance(value, str) and (kind != DATE_TIME or _is_time(value))


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return _TIME.fullmatch(text) is not None

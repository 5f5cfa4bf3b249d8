"""The DeathNotificationSet: a death registration as the platform's second generation hands it out, and what of it an acquirer gets.

Specification §3 has its names and rules. Its times are UTC, as are those of the file.
"""

import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

NAME, SEX, DEATH_DATE, BIRTH_DATE, ADDRESS = "NAME", "SEX", "DEATH_DATE", "BIRTH_DATE", "ADDRESS"

FIELDS = (NAME, SEX, DEATH_DATE, BIRTH_DATE, ADDRESS)
"""What an acquirer can ask for; all else is in every document."""

REGISTERED = "https://vocab.account.gov.uk/v1/deathRegistered"
UPDATED = "https://vocab.account.gov.uk/v1/deathRegistrationUpdated"
"""The types of its one event: a new registration, and a change to one."""

BEFORE_MARRIAGE = "Name before marriage"

_URN = "urn:fdc:gro.gov.uk:2023:death:"
_DOCUMENTS = uuid.UUID("5ad2b6f4-6f0e-4a0f-9f62-0c6d8f1f5c11")
_SEX = {"1": "Male", "2": "Female", "9": "Indeterminate"}
_REASONS = {"1": "formal_correction", "2": "quality_assurance", "3": "typographical", "4": "cancelled", "5": "cancellation_removed"}
_NOT_PASSED_ON = (
    "addressCountry",
    "addressLocality",
    "buildingName",
    "buildingNumber",
    "departmentName",
    "dependentAddressLocality",
    "dependentStreetName",
    "doubleDependentAddressLocality",
    "organisationName",
    "streetName",
    "subBuildingName",
    "uprn",
    "validFrom",
    "validUntil",
)
_OF_EVENT = {DEATH_DATE: ("deathDate", "freeFormatDeathDate")}
_OF_SUBJECT = {NAME: ("name",), SEX: ("sex",), BIRTH_DATE: ("birthDate", "freeFormatBirthDate"), ADDRESS: ("address",)}


def document(fields: Mapping[str, Any], record_key_hex: str, issued_at: datetime, *, correlation_id: str | None = None) -> Json:
    """The document of a good record, given its parsed fields (`xml_reader.Found.fields`).

    `jti` is the same for a record however often it is sent, so that a receiver can tell a repetition: a UUID made from the record key,
    which is a keyed hash, so that it says no more about the person than a random one. `txn` is the correlation id, or else `jti`.
    """
    document_id = str(uuid.uuid5(_DOCUMENTS, record_key_hex))
    locked, updated = fields.get("RecordLockedDateTime"), fields.get("RecordUpdateDateTime")
    return {
        "aud": None,
        "events": {UPDATED if updated else REGISTERED: _event(fields, locked, updated)},
        "exp": None,
        "iat": int(issued_at.timestamp()),
        "iss": None,
        "jti": document_id,
        "nbf": None,
        "sub": None,
        "toe": _epoch(locked or updated),
        "txn": correlation_id or document_id,
    }


def minimise(whole: Json, fields: Collection[str]) -> Json:
    """The document with what `fields` names (see `FIELDS`) and what every acquirer gets; the rest is left out. `whole` stays as it is.

    Raises `ValueError` for a field there is not.
    """
    if not set(fields) <= set(FIELDS):
        raise ValueError(f"an acquirer can have {', '.join(FIELDS)}, and nothing else")
    from_event = _left_out(_OF_EVENT, fields)
    from_subject = _left_out(_OF_SUBJECT, fields)
    events = {}
    for kind, event in whole["events"].items():
        events[kind] = _without(event, from_event) | {"subject": _without(event["subject"], from_subject)}
    return whole | {"events": events}


def _event(fields: Mapping[str, Any], locked: str | None, updated: str | None) -> Json:
    event = {
        "deathDate": {
            "description": fields.get("QualifierText"),
            "value": _date(fields, "DeceasedDeathDate", "PersonDeathDate", "OfDeath"),
        },
        "deathRegistration": f"{_URN}{fields['RegistrationID']}",
        "freeFormatDeathDate": fields.get("FreeFormatDeathDate"),
        "subject": _subject(fields),
    }
    if updated:
        return event | {
            "recordUpdateTime": f"{updated}Z",
            "deathRegistrationUpdateReason": _REASONS.get(fields.get("RecordUpdateReason", "")),
        }
    return event | {"deathRegistrationTime": f"{locked}Z"}


def _subject(fields: Mapping[str, Any]) -> Json:
    return {
        "address": [dict.fromkeys(_NOT_PASSED_ON) | {"postalCode": fields.get("DeceasedAddress", {}).get("Postcode")}],
        "birthDate": [{"description": None, "value": _date(fields, "DeceasedBirthDate", "PersonBirthDate", "OfBirth")}],
        "name": _names(fields),
        "sex": [_SEX.get(fields.get("DeceasedGender", ""))],
        "freeFormatBirthDate": fields.get("FreeFormatBirthDate"),
    }


def _names(fields: Mapping[str, Any]) -> list[Json | None]:
    main = fields.get("DeceasedName") or {}
    names: list[Json | None] = [_name(None, main.get("PersonGivenName", ()), main.get("PersonFamilyName"))]
    types = fields.get("DeceasedAliasNameType", ())
    for place, alias in enumerate(fields.get("DeceasedAliasName", ())):
        given, family = (alias or {}).get("PersonGivenName", ()), (alias or {}).get("PersonFamilyName")
        description = types[place] if place < len(types) else None
        names.append(_name(description, given, family) if given or family else None)
    names.extend(_name(BEFORE_MARRIAGE, main.get("PersonGivenName") or [""], maiden) for maiden in fields.get("DeceasedMaidenName", ()))
    return names


def _name(description: str | None, given: Collection[str], family: str | None) -> Json:
    parts = [("GivenName", name) for name in given] + ([("FamilyName", family)] if family else [])
    return {
        "description": description,
        "nameParts": [{"type": kind, "value": value, "validFrom": None, "validUntil": None} for kind, value in parts],
        "validFrom": None,
        "validUntil": None,
    }


def _date(fields: Mapping[str, Any], structure: str, element: str, of: str) -> str | None:
    """The date, or as much of it as is known: `yyyy-MM-dd`, `yyyy-MM` or `yyyy`; a month without a year is nothing."""
    whole: str | None = (fields.get(structure) or {}).get(element)
    year, month = fields.get(f"PartialYear{of}"), fields.get(f"PartialMonth{of}")
    if whole or not year:
        return whole or None
    return f"{int(year):04}-{int(month):02}" if month else f"{int(year):04}"


def _epoch(time: str | None) -> int:
    if time is None:
        raise ValueError("a good record has a time")
    return int(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp())


def _without(content: Json, names: Collection[str]) -> Json:
    return {name: value for name, value in content.items() if name not in names}


def _left_out(names_by_field: Mapping[str, Collection[str]], fields: Collection[str]) -> set[str]:
    return {name for field, names in names_by_field.items() if field not in fields for name in names}

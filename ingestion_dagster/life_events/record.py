"""One registration: what is wrong with it, what it is known by, and the event that it becomes (specification §3, §9.2)."""

import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import orjson

from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.life_events import problems
from ingestion_dagster.life_events.xml_records import Found

Fields = Mapping[str, Any]
Faults = list[tuple[str, str]]
"""Codes, and the elements that are meant."""

_LONGEST_NAME = 128
_SEXES = {"1": "M", "2": "F", "9": "X"}
_REASONS = frozenset("12345")
_LEVELS = frozenset({"00", "01", "02", "03"})

_is_registration_id = re.compile(r"[A-Za-z0-9+=,.@_-]{1,80}").fullmatch
_DATE = (
    r"(?!0000)[0-9]{4}-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-9]))"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
_is_date = re.compile(_DATE).fullmatch
_is_timestamp = re.compile(f"{_DATE}T{_TIME}").fullmatch
_is_month = re.compile("0?[1-9]|1[0-2]").fullmatch
_is_year = re.compile("(?!0000)[0-9]{4}").fullmatch

_NOTHING: Fields = {}


def judge(found: Found) -> tuple[Problem, ...]:
    """Everything that is wrong with a record. Errors make it a bad one, warnings do not; of one that breaks a limit only that is known."""
    told = found.problems
    if told and any(problem.code in problems.LIMITS for problem in told):
        return told
    fields = found.fields
    faults: Faults = []
    _judge_registration(fields, faults)
    _judge_names(fields, faults)
    _judge_death(fields, faults)
    _judge_birth(fields, faults)
    if not faults:
        return told
    return (*told, *(problems.of_record(code, found.ordinal, found.offset, field) for code, field in faults))


def _judge_registration(fields: Fields, faults: Faults) -> None:
    registration_id = fields.get("RegistrationID")
    if registration_id is None:
        faults.append(("missing_registration_id", "RegistrationID"))
    elif not _is_registration_id(registration_id):
        faults.append(("bad_registration_id", "RegistrationID"))
    locked, updated = fields.get("RecordLockedDateTime"), fields.get("RecordUpdateDateTime")
    if locked is None and updated is None:
        faults.append(("missing_timestamp", "RecordLockedDateTime"))
    if locked is not None and not _is_time(locked):
        faults.append(("bad_timestamp", "RecordLockedDateTime"))
    if updated is not None and not _is_time(updated):
        faults.append(("bad_timestamp", "RecordUpdateDateTime"))
    if fields.get("RecordUpdateReason", "1") not in _REASONS:
        faults.append(("bad_update_reason", "RecordUpdateReason"))
    gender = fields.get("DeceasedGender")
    if gender not in _SEXES:
        faults.append(("missing_gender" if gender is None else "unknown_gender", "DeceasedGender"))


def _judge_names(fields: Fields, faults: Faults) -> None:
    name = fields.get("DeceasedName", _NOTHING)
    if "PersonFamilyName" not in name and "PersonGivenName" not in name:
        faults.append(("missing_name", "DeceasedName"))
    if _is_too_long(name):
        faults.append(("name_too_long", "DeceasedName"))
    if "DeceasedAliasName" in fields and any(alias and _is_too_long(alias) for alias in fields["DeceasedAliasName"]):
        faults.append(("name_too_long", "DeceasedAliasName"))
    if "DeceasedMaidenName" in fields and max(map(len, fields["DeceasedMaidenName"])) > _LONGEST_NAME:
        faults.append(("name_too_long", "DeceasedMaidenName"))


def _is_too_long(name: Fields) -> bool:
    lengths = [len(part) if part.__class__ is str else max(map(len, part)) for part in name.values()]
    return max(lengths, default=0) > _LONGEST_NAME


def _judge_death(fields: Fields, faults: Faults) -> None:
    whole = fields.get("DeceasedDeathDate", _NOTHING)
    date = whole.get("PersonDeathDate")
    if date is not None and not _is_day(date):
        faults.append(("bad_death_date", "PersonDeathDate"))
    if whole.get("VerificationLevel", "00") not in _LEVELS:
        faults.append(("bad_verification_level", "DeceasedDeathDate"))
    has_part = _judge_partial(fields, "Death", faults)
    if date is None and not has_part and "FreeFormatDeathDate" not in fields:
        faults.append(("no_death_date", "DeceasedDeathDate"))


def _judge_birth(fields: Fields, faults: Faults) -> None:
    whole = fields.get("DeceasedBirthDate", _NOTHING)
    date = whole.get("PersonBirthDate")
    if date is not None and not _is_day(date):
        faults.append(("bad_birth_date", "PersonBirthDate"))
    if whole.get("VerificationLevel", "00") not in _LEVELS:
        faults.append(("bad_verification_level", "DeceasedBirthDate"))
    _judge_partial(fields, "Birth", faults)


def _judge_partial(fields: Fields, of: str, faults: Faults) -> bool:
    """Whether there is a month or a year."""
    month, year = fields.get("PartialMonthOf" + of), fields.get("PartialYearOf" + of)
    if month is None and year is None:
        return False
    if month is not None and not _is_month(month):
        faults.append((f"bad_partial_month_of_{of.lower()}", f"PartialMonthOf{of}"))
    if year is None:
        faults.append(("month_without_year", f"PartialMonthOf{of}"))
    elif not _is_year(year):
        faults.append((f"bad_partial_year_of_{of.lower()}", f"PartialYearOf{of}"))
    return True


def _is_day(text: str) -> bool:
    return _is_date(text) is not None and (text[5:] != "02-29" or _is_leap(int(text[:4])))


def _is_time(text: str) -> bool:
    return _is_timestamp(text) is not None and (text[5:10] != "02-29" or _is_leap(int(text[:4])))


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def canonical(fields: Fields) -> bytes:
    """What a record is known by, once it is hashed under a key: its texts by local names, in one order.

    Prefixes, white space around texts, the order of elements of different names and the name of the file are no part of it.
    """
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def attributes(fields: Fields, record_key_hex: str, *, keep_record: bool = False) -> dict[str, Any]:
    """The event of a good record: the attributes of specification §3, None where absent, and what else the record has.

    With `keep_record` the parsed record goes with it, which the DeathNotificationSet is made of.
    """
    name = fields.get("DeceasedName", _NOTHING)
    death = fields.get("DeceasedDeathDate", _NOTHING)
    address = fields.get("DeceasedAddress", _NOTHING)
    given, maiden, lines = name.get("PersonGivenName"), fields.get("DeceasedMaidenName"), address.get("Line")
    event = {
        "hash": record_key_hex,
        "registrationId": fields["RegistrationID"],
        "eventTime": fields.get("RecordLockedDateTime") or fields["RecordUpdateDateTime"],
        "dateOfDeath": death.get("PersonDeathDate"),
        "verificationLevel": death.get("VerificationLevel"),
        "partialMonthOfDeath": _whole(fields.get("PartialMonthOfDeath")),
        "partialYearOfDeath": _whole(fields.get("PartialYearOfDeath")),
        "forenames": " ".join(given) if given else None,
        "surname": name.get("PersonFamilyName"),
        "maidenSurname": ", ".join(maiden) if maiden else None,
        "sex": _SEXES[fields["DeceasedGender"]],
        "dateOfBirth": fields.get("DeceasedBirthDate", _NOTHING).get("PersonBirthDate"),
        "addressLine1": address.get("Flat"),
        "addressLine2": address.get("Building"),
        "addressLine3": lines[0] if lines else None,
        "addressLine4": "\n".join(lines) if lines else None,
        "postcode": address.get("Postcode"),
    }
    if not _MORE.isdisjoint(fields):
        _add_more(event, fields)
    if keep_record:
        event["record"] = fields
    return event


_TEXTS = (
    ("QualifierText", "qualifierText"),
    ("FreeFormatDeathDate", "freeFormatDeathDate"),
    ("FreeFormatBirthDate", "freeFormatBirthDate"),
)
_NUMBERS = (("PartialMonthOfBirth", "partialMonthOfBirth"), ("PartialYearOfBirth", "partialYearOfBirth"))
_MORE = frozenset({"DeceasedAliasName", "DeceasedAliasNameType", *dict(_TEXTS), *dict(_NUMBERS)})


def _add_more(event: dict[str, Any], fields: Fields) -> None:
    """What the record has beyond the attributes of §3, which the first generation has lost."""
    pairs = zip_longest(fields.get("DeceasedAliasName", ()), fields.get("DeceasedAliasNameType", ()))
    aliases = [_alias(alias or _NOTHING, kind) for alias, kind in pairs]
    if aliases:
        event["aliases"] = aliases
    for source, target in _TEXTS:
        if source in fields:
            event[target] = fields[source]
    for source, target in _NUMBERS:
        if source in fields:
            event[target] = int(fields[source])


def _alias(alias: Fields, kind: str | None) -> dict[str, str | None]:
    given = alias.get("PersonGivenName")
    return {
        "title": alias.get("PersonNameTitle"),
        "forenames": " ".join(given) if given else None,
        "surname": alias.get("PersonFamilyName"),
        "suffix": alias.get("PersonNameSuffix"),
        "type": kind,
    }


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)

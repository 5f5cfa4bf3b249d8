"""Files of death registrations for tests of their reading: of invented persons, in any spelling that XML allows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.life_events import record
from ingestion_dagster.life_events.elements import NAMESPACES
from ingestion_dagster.life_events.xml_reader import Found, Limits, Reader

SAMPLES = Path(__file__).parent / "data"

ID = "<RegistrationID>900000001</RegistrationID>"
LOCKED = "<RecordLockedDateTime>2031-02-04T09:30:00</RecordLockedDateTime>"
NAME = "<DeceasedName><PersonGivenName>Testina</PersonGivenName><PersonFamilyName>PLACEHOLDER</PersonFamilyName></DeceasedName>"
GENDER = "<DeceasedGender>2</DeceasedGender>"
DEATH = "<DeceasedDeathDate><PersonDeathDate>2031-02-03</PersonDeathDate></DeceasedDeathDate>"
NAMESPACED = (
    f'<DeathRegistrationGroup xmlns="{NAMESPACES[0]}" xmlns:ns1="{NAMESPACES[1]}" xmlns:ns3="{NAMESPACES[3]}" xmlns:ns4="{NAMESPACES[4]}">'
)


def registration(*more: str, without: str = "", attributes: str = "") -> str:
    """A good record, with more elements, or without some of its own."""
    own = f"{ID}{LOCKED}{NAME}{GENDER}{DEATH}"
    if without:
        own = own.replace(without, "")
    return f"<DeathRegistration{attributes}>{own}{''.join(more)}</DeathRegistration>"


def group(*records: str, count: object = None, start: str = "<DeathRegistrationGroup>", end: str = "") -> bytes:
    """A file of records, with the right count unless another is named; `end` stands behind it."""
    number = len(records) if count is None else count
    return f"{start}{''.join(records)}<RecordCount>{number}</RecordCount>{end}</DeathRegistrationGroup>".encode()


def read(raw: bytes | Iterable[bytes], limits: Limits | None = None) -> list[Found]:
    """All records of a file."""
    chunks = [raw] if isinstance(raw, bytes) else raw
    return [found for batch in Reader(limits).read(chunks) for found in batch]


def only(raw: bytes | str, limits: Limits | None = None) -> Found:
    """The record of a file that has one."""
    [found] = read(raw if isinstance(raw, bytes) else group(raw), limits)
    return found


def problems(raw: bytes | Iterable[bytes], limits: Limits | None = None) -> tuple[Problem, ...]:
    """Why a file is refused."""
    with pytest.raises(Refused) as refused:
        read(raw, limits)
    return refused.value.problems


def codes(raw: bytes | Iterable[bytes], limits: Limits | None = None) -> list[str]:
    """Codes of why a file is refused."""
    return [problem.code for problem in problems(raw, limits)]


def judged(text: str, limits: Limits | None = None) -> list[tuple[str, str]]:
    """Codes of what is wrong with a record, and their elements."""
    return [(problem.code, problem.place.rpartition(", ")[2]) for problem in record.judge(only(text, limits))]


def identity(text: str | bytes) -> bytes:
    """What a record is known by."""
    return record.canonical(only(text).fields)


def event(text: str | bytes) -> dict[str, Any]:
    """The event that a record becomes."""
    return record.attributes(only(text).fields, "ab" * 32)

"""What the steps of a row hand to each other: as it was judged, as it goes to the API, and how far it has come."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from ingestion_dagster.engine.errors import Problem

OUTAGE = frozenset({"http_unavailable", "database_gave_way"})
"""Codes of trouble that is no row's own: sending stops."""


class RowStatus(StrEnum):
    """What is to become of a row of a file, or has become of it. All but `pending` are terminal."""

    PENDING = "pending"
    DONE = "done"
    SKIPPED = "skipped"
    """The dataset's own filters leave it out; nothing is wrong with it."""
    REFUSED = "refused"
    """It cannot be sent as it is: whoever made the file has to mend it."""
    FAILED = "failed"
    """The API did not take it, though it was asked more than once; `retry` asks again."""
    QUARANTINED = "quarantined"
    """The API answered with somebody else's record. A person has to look."""


class Action(StrEnum):
    """What a row meant for the API."""

    CREATED = "created"
    MATCHED = "matched"
    SKIPPED = "skipped"
    FAILED = "failed"


class Step(StrEnum):
    """How far a row has come, in order; the last three end it."""

    VALIDATED = "validated"
    CREATING = "creating"
    """The create call is about to be made, or its reply was lost: read before it is made again."""
    CREATED = "created"
    """The API has given the id of a help request."""
    FETCHED = "fetched"
    """The resident behind it has been compared with the row. Notes follow."""
    DONE = "done"
    FAILED = "failed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Note:
    """A case note: who it is from, and its text."""

    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Person:
    """What tells one person from another: trimmed names, an NHS number without blanks, an ISO date of birth; "" for what is unknown."""

    first_name: str = ""
    last_name: str = ""
    nhs_number: str = ""
    date_of_birth: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row as it goes to the API."""

    request: Mapping[str, Any]
    """Body of the create call; what is blank is left out."""
    person: Person
    dedupe_id: str
    """By which the API finds an earlier request, as it is sent."""
    notes: tuple[Note, ...] = ()
    shielding_note: Note | None = None
    """Set if the resident is to have a request for shielding, and the note it gets if there was none."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A row as it was judged: `pending` with what is to be sent, `skipped` or `refused` with the reason."""

    status: RowStatus
    prepared: Prepared | None = None
    reason: Problem | None = None
    problems: tuple[Problem, ...] = ()
    """All there is to say of it, the reason and warnings too. Places name row and column, messages no value."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What rows are judged by that is in no file: the day, in London, and account ids that are never sent."""

    as_of: date
    excluded_ctas_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a row has come, as the ledger keeps it: a later run, or another file, goes on from here."""

    step: Step = Step.VALIDATED
    action: Action | None = None
    resident_id: int | None = None
    help_request_id: int | None = None
    shielding_begun: bool = False
    """A request for shielding was about to be created: one that is found may be ours, and lack its note."""
    shielding_request_id: int | None = None
    notes_added: int = 0
    attempts: int = 0
    """Times that sending it has failed."""
    code: str | None = None
    """Why it failed or was quarantined."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.step in (Step.DONE, Step.FAILED, Step.QUARANTINED)


@dataclass(frozen=True, slots=True)
class RowReport:
    """What became of one row, as the report tells it. `number` counts rows below the header from 1."""

    number: int
    status: RowStatus
    action: Action | None = None
    reason_code: str | None = None
    message: str = ""
    resident_id: int | None = None
    help_request_id: int | None = None
    shielding_request_id: int | None = None
    notes_added: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file: its rows in order, what is said of the whole, and when."""

    dataset: str
    file_name: str
    day: date
    """In London; part of the report's name."""
    status: str
    """complete, partial or refused."""
    rows: tuple[RowReport, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Of the whole file, and warnings of its rows."""
    header_row: int | None = None
    content_hash: str = ""
    seconds: float = 0.0

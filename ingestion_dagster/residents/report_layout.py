"""What a report looks like: its names, the tabs of its workbooks, and which rows and columns stand in each.

Names, tabs and columns of old stay as staff know them; what became of each row comes after them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from ingestion_dagster.residents.contact_tracing import CITY, HACKNEY
from ingestion_dagster.residents.model import RowReport, RowStatus
from ingestion_dagster.residents.values import line_text

CONTACT_TRACING = "contact_tracing"
SELF_ISOLATION = "self_isolation"

FACTS: Mapping[str, Callable[[RowReport], str | int | None]] = {
    "row_number": lambda row: row.number,
    "status": lambda row: row.status.value,
    "action": lambda row: row.action.value if row.action else None,
    "reason_code": lambda row: row.reason_code,
    "message": lambda row: row.message,
    "resident_id": lambda row: row.resident_id,
    "help_request_id": lambda row: row.help_request_id,
    "cev_case_added_id": lambda row: row.shielding_request_id,
    "notes_added": lambda row: row.notes_added,
    "attempts": lambda row: row.attempts,
}
"""Columns of ours, and what of a row each shows."""

_IDS = ("resident_id", "help_request_id")
_BEFORE = ("row_number", "status", "action", "reason_code", "message")
_AFTER = ("notes_added", "attempts")
_NINE = (*_BEFORE, *_IDS, *_AFTER)

_LETTERS = ("Date Time Extracted", "Forename", "Surname")
_CASE_COLUMNS = (
    "Account ID",
    "NHS Number",
    "Forename",
    "Surname",
    "Gender",
    "Date of Birth",
    "House Number",
    "Postcode",
    "Email",
    "Phone",
    "Phone2",
    "First Symptomatic At",
    "Date Tested",
    "Comments",
    "Date Updated",
    "Date Time Extracted",
)

Takes = Callable[[Mapping[str, str], RowReport], bool]


class Column(NamedTuple):
    """A column that is copied: its name, and which of the file's columns it is; None if the file lacks it."""

    name: str
    position: int | None


@dataclass(frozen=True, slots=True)
class Tab:
    """A sheet of a workbook: facts of ours, columns of the file, facts of ours; and which rows it takes."""

    name: str
    before: tuple[str, ...]
    inbound: tuple["Column", ...]
    after: tuple[str, ...]
    takes: Takes


def names(dataset: str, file_name: str, day: date, *, refused: bool) -> tuple[str, ...]:
    """Names of a file's reports as people see them, without an ending: one workbook each, in the order in which `write` returns them."""
    ending = f"{file_name}_{day.isoformat()}"
    if refused:
        return (f"REFUSED_{ending}",)
    if dataset == CONTACT_TRACING:
        return (f"Hackney_CT_FOR_UPLOAD_{ending}", f"city_CT_FOR_UPLOAD_{ending}")
    return (f"PROCESSED_{ending}",)


def layouts(dataset: str, header: tuple[str, ...]) -> tuple[tuple[Tab, ...], ...]:
    """The tabs with rows, workbook by workbook, for a file with these columns; a summary comes after them."""
    whole = tuple(Column(name, position) for position, name in enumerate(header))

    def columns(*wanted: str) -> tuple[Column, ...]:
        return tuple(Column(name, header.index(name) if name in header else None) for name in wanted)

    if dataset == CONTACT_TRACING:
        hackney = (
            Tab("email_list", (), columns(*_LETTERS, "Email"), (), _by_mail),
            Tab("address_list", (), columns(*_LETTERS, "House Number", "Postcode"), (), _by_post),
            Tab("hackney_cases", (), columns(*_CASE_COLUMNS), _NINE, _is_hackney_case),
            Tab("other_rows", (), whole, _NINE, _is_no_case),
        )
        return hackney, (Tab("city_cases", (), whole, _NINE, _is_city_case),)
    ids = ("cev_case_added_id", *_IDS) if dataset == SELF_ISOLATION else _IDS
    return ((Tab("hackney_cases", ids, whole, (*_BEFORE, *_AFTER), lambda _cells, _row: True),),)


def _is_hackney_case(cells: Mapping[str, str], row: RowReport) -> bool:
    return row.status is not RowStatus.SKIPPED and _text(cells, "UTLA") in HACKNEY


def _is_city_case(cells: Mapping[str, str], row: RowReport) -> bool:
    return row.status is not RowStatus.SKIPPED and _text(cells, "UTLA") in CITY


def _is_no_case(cells: Mapping[str, str], row: RowReport) -> bool:
    return not (_is_hackney_case(cells, row) or _is_city_case(cells, row))


def _has_no_phone(cells: Mapping[str, str], row: RowReport) -> bool:
    return row.status is RowStatus.DONE and _is_hackney_case(cells, row) and not _text(cells, "Phone") and not _text(cells, "Phone2")


def _by_mail(cells: Mapping[str, str], row: RowReport) -> bool:
    return _has_no_phone(cells, row) and bool(_text(cells, "Email"))


def _by_post(cells: Mapping[str, str], row: RowReport) -> bool:
    return _has_no_phone(cells, row) and bool(_text(cells, "House Number")) and bool(_text(cells, "Postcode"))


def _text(cells: Mapping[str, str], column: str) -> str:
    return line_text(cells.get(column, ""))

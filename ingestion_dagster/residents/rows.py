"""One row while it is judged: its cells as clean text, the request that is made of them, and everything found on the way."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.residents import dates, values
from ingestion_dagster.residents.model import Judged, Note, Person, Prepared, RowStatus, Rules

BEYOND_HEADER = ""
"""The key under which a row has what stands to the right of the header's last cell."""
EARLIEST_BIRTH = date(1900, 1, 1)
EARLIEST_TEST = date(2020, 1, 1)

_IDENTIFYING = ("NhsCtasId", "Uprn", "ContactTelephoneNumber", "ContactMobileNumber", "EmailAddress")


class Row:
    """A row's cells, and what is said of them. Messages hold shapes, never values."""

    def __init__(self, cells: Mapping[str, str], number: int, *, day_first: bool = True) -> None:
        self._cells = cells
        self._number = number
        self._day_first = day_first
        self._problems: list[Problem] = []
        self._date_unreadable = False
        if cells.get(BEYOND_HEADER):
            self.refuse("row_too_long", None, "more cells than the header has; a text with a comma in it needs quotes around it")

    def __getitem__(self, column: str) -> str:
        """A cell's text on one line; "" if it is blank or the file has no such column."""
        return values.line_text(self._cells.get(column, ""))

    def place(self, column: str | None) -> str:
        """Where a problem is: the row, and the column if it is one's."""
        return f"row {self._number}, column '{column}'" if column else f"row {self._number}"

    def warn(self, code: str, column: str | None, message: str) -> None:
        """Say something of the row that keeps nobody from sending it."""
        self._problems.append(Problem(code, self.place(column), message, "warning"))

    def refuse(self, code: str, column: str | None, message: str) -> None:
        """Say why the row cannot be sent."""
        self._problems.append(Problem(code, self.place(column), message))

    def skipped(self, code: str, column: str, message: str) -> Judged:
        """The row is none of ours, whatever else may be wrong with it; unless its cells have shifted, so that nobody can tell."""
        if self._cells.get(BEYOND_HEADER):
            return Judged(RowStatus.REFUSED, reason=self._problems[0], problems=tuple(self._problems))
        reason = Problem(code, self.place(column), message, "warning")
        return Judged(RowStatus.SKIPPED, reason=reason, problems=(reason,))

    def name(self, column: str) -> str:
        """A name as it is to be sent."""
        return values.name(self[column])

    def fields(self, columns: Mapping[str, str]) -> dict[str, str]:
        """By field of the API's create call, the cell of its column, read as that field is: a name, a number to call, or plain text."""
        read = {
            "FirstName": self.name,
            "LastName": self.name,
            "NhsNumber": self.nhs_number,
            "Postcode": self.postcode,
            "ContactTelephoneNumber": self.phone,
            "ContactMobileNumber": self.phone,
        }
        return {field: read.get(field, self.__getitem__)(column) for field, column in columns.items()}

    def note(self, author: str, column: str, prefix: str = "") -> tuple[Note, ...]:
        """A note of a cell's text; none if it is blank."""
        text = values.note_text(self._cells.get(column, ""))
        return (Note(author, prefix + text),) if text else ()

    def date_of_birth(self, column: str, rules: Rules) -> date | None:
        """A plausible date of birth; None if the cell is blank or was refused."""
        found = self._date(column, EARLIEST_BIRTH, rules.as_of)
        self._date_unreadable = found is None and bool(self[column])
        return found

    def tested_too_long_ago(self, column: str, rules: Rules, days: int) -> Judged | None:
        """The row as skipped, if the test was that many days ago or more, or on no known day; what is no date is refused."""
        if not self[column]:
            return self.skipped("no_date_tested", column, "no date of the test; fill it in to have the row sent")
        tested = self._date(column, EARLIEST_TEST, None)
        if tested is None:
            return None
        if (rules.as_of - tested).days >= days:
            return self.skipped("tested_too_long_ago", column, f"tested {days} or more days before the file was read; nothing to do")
        if tested > rules.as_of:
            self.warn("future_date", column, "the test is in the future; sent nevertheless")
        return None

    def _date(self, column: str, earliest: date, latest: date | None) -> date | None:
        text = self[column]
        if not text:
            return None
        try:
            return dates.parse(text, day_first=self._day_first, earliest=earliest, latest=latest)
        except dates.BadDate as error:
            self.refuse(error.code, column, f"{error.message} (the cell reads {values.shape(text)})")
            return None

    def nhs_number(self, column: str) -> str:
        """An NHS number as it stands there; "" if it stands for none."""
        text = self[column]
        if text and values.is_placeholder_number(text):
            self.warn("nhs_number_left_out", column, "stands for no number, and others may have it too; sent without it")
            return ""
        if text and not values.has_nhs_check_digit(text):
            self.warn("nhs_check_digit", column, "not ten digits of which the last fits the others; compare it with its source")
        return text

    def phone(self, column: str) -> str:
        """A phone number as it stands there."""
        text = self[column]
        if text and (fault := values.phone_fault(text)):
            self.warn("odd_phone", column, f"an odd phone number: {fault}; sent as it is")
        return text

    def postcode(self, column: str) -> str:
        """A postcode in capitals."""
        text = self[column].upper()
        if text and not values.is_postcode(text):
            self.warn("odd_postcode", column, f"not a postcode (it reads {values.shape(text)}); sent as it is")
        return text

    def dedupe_id(self, column: str) -> str:
        """The id by which the API finds an earlier request; refused if it could find that of somebody else."""
        text = self[column]
        if not text:
            self.refuse("blank_dedupe_id", column, "blank, so that the row could end up with somebody else's request; fill it in")
        elif not values.is_safe_id(text):
            message = "not an id, or one with a %, _ or \\ in it, which finds the requests of others; correct it"
            self.refuse("unsafe_dedupe_id", column, message)
        return text

    def judged(
        self,
        request: Mapping[str, Any],
        born: date | None,
        dedupe_id: str,
        notes: Iterable[Note] = (),
        *,
        shielding_note: Note | None = None,
    ) -> Judged:
        """The row as it goes to the API without its blank fields; refused if anything refused it, or it names nobody."""
        body = {field: value for field, value in request.items() if value not in ("", None)}
        if born:
            body |= {"DobDay": str(born.day), "DobMonth": str(born.month), "DobYear": str(born.year)}
        if not (is_identifiable(body) or (self._date_unreadable and _has_names(body))):
            self.refuse(
                "not_identifiable",
                None,
                "an NHS number is needed, or first and last name with a date of birth, phone, e-mail, UPRN or account id; fill one in",
            )
        problems = tuple(self._problems)
        reason = next((problem for problem in problems if problem.severity == "error"), None)
        if reason:
            return Judged(RowStatus.REFUSED, reason=reason, problems=problems)
        person = Person(
            first_name=body.get("FirstName", ""),
            last_name=body.get("LastName", ""),
            nhs_number="".join(body.get("NhsNumber", "").split()),
            date_of_birth=born.isoformat() if born else "",
        )
        return Judged(RowStatus.PENDING, Prepared(body, person, dedupe_id, tuple(notes), shielding_note), problems=problems)


def is_identifiable(request: Mapping[str, Any]) -> bool:
    """Whether a request names a person: by NHS number, or by both names and a date of birth, an id or a way to reach them."""
    if request.get("NhsNumber"):
        return True
    return _has_names(request) and bool(request.get("DobDay") or any(request.get(field) for field in _IDENTIFYING))


def _has_names(request: Mapping[str, Any]) -> bool:
    return bool(request.get("FirstName") and request.get("LastName"))


def filled(entries: Mapping[str, str]) -> dict[str, str]:
    """Entries without the blank ones."""
    return {key: text for key, text in entries.items() if text}

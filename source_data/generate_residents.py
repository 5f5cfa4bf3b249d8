"""The synthetic spreadsheets in `residents/`: the same bytes on every machine, every day.

`python source_data/generate_residents.py` rewrites the folder; `--check` changes nothing and exits 1 if the folder is not what would be
written. `residents/expected.json` tells what is to become of every file and row on the day `AS_OF`, and what an empty API holds after
each good file, and after all of them. Nobody in these files exists: NHS numbers begin with 999, phone numbers are those kept free for
drama, postcodes begin with ZZ99. Files whose names begin with `bad_` are refused, or some of their rows are.
"""

import argparse
import csv
import io
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent / "residents"
AS_OF = date(2026, 11, 20)

Cell = str | int | float | date | None
Json = dict[str, Any]

_FIRST_NAMES = ("Testy", "Mocka", "Dummy", "Fixture", "Sampla", "Stubb", "Placid", "Exampla", "Imagina", "Fauxine")
_LAST_NAMES = (
    "McFictional",
    "Sampleton",
    "Placeholder-Jones",
    "O'Nullworth",
    "Testington",
    "Mockford",
    "Stubbs-Example",
    "Fauxley",
    "Nowherian",
)
_STREETS = ("Imaginary Road", "Pretend Street", "Notional Close", "Missing Lane", "Invented Walk")


@dataclass(frozen=True)
class Person:
    """Somebody who does not exist."""

    number: int

    @property
    def first_name(self) -> str:
        """Never their own."""
        return _FIRST_NAMES[self.number % len(_FIRST_NAMES)]

    @property
    def last_name(self) -> str:
        """With capitals and marks in the middle, now and then."""
        return _LAST_NAMES[(self.number // len(_FIRST_NAMES) + self.number) % len(_LAST_NAMES)]

    @property
    def nhs_number(self) -> str:
        """With the right last digit."""
        return _NHS_NUMBERS[self.number]

    @property
    def born(self) -> date:
        """Between 1940 and 2040."""
        return date(1940, 1, 5) + timedelta(days=409 * self.number)

    @property
    def house(self) -> str:
        """A number."""
        return str(3 + 7 * self.number)

    @property
    def street(self) -> str:
        """Found on no map."""
        return _STREETS[self.number % len(_STREETS)]

    @property
    def postcode(self) -> str:
        """In an area kept free."""
        return f"ZZ99 {self.number % 9 + 1}{'ABDEF'[self.number % 5]}{'LNPQR'[self.number % 3]}"

    @property
    def uprn(self) -> str:
        """Of no property."""
        return f"{900_000_000_000 + self.number}"

    @property
    def mobile(self) -> str:
        """Kept free for drama."""
        return f"07700900{100 + self.number}"

    @property
    def landline(self) -> str:
        """Kept free for drama."""
        return f"02079460{100 + self.number}"

    @property
    def email(self) -> str:
        """In a domain that cannot be."""
        return f"{self.first_name.lower()}{self.number}@example.invalid"


def _nhs_numbers() -> Iterator[str]:
    for number in count(100_100, 37):
        digits = f"999{number}"
        check = (11 - sum(int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=True)) % 11) % 11
        if check < 10:
            yield f"{digits}{check}"


_NHS_NUMBERS = [number for number, _ in zip(_nhs_numbers(), range(90), strict=False)]


@dataclass
class Row:
    """A row of a file by column, and what is to become of it."""

    cells: dict[str, Cell]
    status: str = "done"
    reason: str | None = None
    notes: int = 0
    """Added on an empty API."""
    shielding: bool = False
    """A request for shielding is made too."""
    warnings: tuple[str, ...] = ()

    def but(self, status: str = "done", reason: str | None = None, *, warnings: Sequence[str] = (), **cells: Cell) -> "Row":
        """It with other cells (columns with underscores for blanks) and another fate."""
        columns = {name.replace(" ", "_").replace(".", "_"): name for name in self.cells}
        changed = self.cells | {columns[name]: cell for name, cell in cells.items()}
        is_done = status == "done"
        return Row(changed, status, reason, self.notes * is_done, self.shielding and is_done, tuple(warnings))

    def noted(self, notes: int, *, shielding: bool = False) -> "Row":
        """It with another number of notes."""
        return Row(self.cells, self.status, self.reason, notes, shielding, self.warnings)


@dataclass
class File:
    """A file, and what is to become of it; no rows: it is refused."""

    path: str
    content: bytes
    rows: list[Row] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    """What is said of the whole file."""
    is_repeated: bool = False
    """All its rows are in a file before it."""

    @property
    def status(self) -> str:
        """What becomes of the whole."""
        if not self.rows:
            return "refused"
        return "partial" if any(row.status == "refused" for row in self.rows) else "complete"

    def expected(self) -> Json:
        """Its entry in `expected.json`."""
        warnings = sorted({warning for row in self.rows for warning in row.warnings})
        entry: Json = {
            "status": self.status,
            "codes": self.codes,
            "warnings": warnings,
            "rows": [[row.status, row.reason] for row in self.rows],
        }
        return entry | ({"api": api([self])} if self.is_good else {})

    @property
    def is_good(self) -> bool:
        """Whether nothing in it is refused."""
        return not Path(self.path).name.startswith("bad_")


def api(files: Iterable[File]) -> Json:
    """What an API that was empty holds after files: nobody comes twice, but in files that repeat others."""
    sent = [row for file in files if not file.is_repeated for row in file.rows if row.status == "done"]
    shielding = sum(row.shielding for row in sent)
    return {
        "residents": len(sent),
        "help_requests": len(sent) + shielding,
        "case_notes": sum(row.notes for row in sent) + shielding,
    }


def table(
    rows: Sequence[Row], more: Sequence[str] = (), preamble: Sequence[Sequence[Cell]] = (), *, renamed: Json | None = None
) -> list[list[Cell]]:
    """Header and rows, with further columns that are blank, and names that are not as they should be."""
    columns = [*rows[0].cells, *more]
    names: list[Cell] = [(renamed or {}).get(column, column) for column in columns]
    return [*map(list, preamble), names, *([row.cells.get(column) for column in columns] for row in rows)]


def text(cells: Iterable[Iterable[Cell]], encoding: str = "utf-8", separator: str = ",") -> bytes:
    """Separated values with the line ends that spreadsheet programs write."""
    lines = io.StringIO(newline="")
    csv.writer(lines, delimiter=separator).writerows([["" if cell is None else cell for cell in row] for row in cells])
    return lines.getvalue().encode(encoding)


_STYLES = (
    '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    '<fonts count="1"><font><sz val="11"/><name val="Calibri"/></font></fonts>'
    '<fills count="1"><fill><patternFill patternType="none"/></fill></fills><borders count="1"><border/></borders>'
    '<cellStyleXfs count="1"><xf numFmtId="0"/></cellStyleXfs>'
    '<cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/><xf numFmtId="22" applyNumberFormat="1"/></cellXfs>'
    "</styleSheet>"
)
_PARTS = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/styles.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>',
    "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" '
    'Target="worksheets/sheet1.xml"/>'
    '<Relationship Id="rId2" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" '
    'Target="styles.xml"/></Relationships>',
    "xl/styles.xml": _STYLES,
}


def workbook(cells: Iterable[Iterable[Cell]]) -> bytes:
    """A workbook with cells of the values' types. Nothing in it is compressed: what compresses differs from one zlib to the next."""
    rows = "".join(
        f'<row r="{down}">' + "".join(_cell(cell, f"{_letters(across)}{down}") for across, cell in enumerate(row)) + "</row>"
        for down, row in enumerate(cells, 1)
    )
    sheet = f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{rows}</sheetData></worksheet>'
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in (_PARTS | {"xl/worksheets/sheet1.xml": sheet}).items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n{content}')
    return raw.getvalue()


def _cell(cell: Cell, place: str) -> str:
    if cell is None or cell == "":
        return ""
    if isinstance(cell, str):
        return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(cell)}</t></is></c>'
    if isinstance(cell, datetime):
        return f'<c r="{place}" s="2"><v>{(cell - datetime(1899, 12, 30)) / timedelta(days=1)!r}</v></c>'  # noqa: DTZ001
    if isinstance(cell, date):
        return f'<c r="{place}" s="1"><v>{(cell - date(1899, 12, 30)).days}</v></c>'
    return f'<c r="{place}"><v>{cell}</v></c>'


def _letters(position: int) -> str:
    return chr(65 + position) if position < 26 else _letters(position // 26 - 1) + chr(65 + position % 26)


def day(moment: date) -> str:
    """As people write days."""
    return f"{moment:%d/%m/%Y}"


def ago(days: int) -> str:
    """A day before the day on which the files are looked at."""
    return day(AS_OF - timedelta(days=days))


_EXTRACT_HEADER = (
    "Category, ID, Account ID, CDR Specimen Request sk, Exposer ID, Exposure Group, Matched Person ID, Matched Exposer ID, Date Created, "
    "NHS Number, Forename, Surname, Gender, Date of Birth, Ethnicity, House Number, Postcode, Postcode Area ID, Email, Phone, Phone2, "
    "UTLA, UTLA Index, UTLA from Index, LTLA, LTLA Index, LTLA from Index, PHE Centre, PHE Centre Index, First Symptomatic At, "
    "Date Tested, Number of Contacts, Number of Occupations, Occupation, Occupation Type, Job Title, Job Postcode, Job Description, "
    "Activity Details, Care Home, Residence Type, HPT Code, Status, Status Report, Initial Tier, Final Tier, Call Centre Outcome, "
    "LA Support Required, LA Support Received, LA Support Letter Received, LA Support Filter, Comments, Day 4 Outcome, Day 7 Outcome, "
    "Day 10 Outcome, Day 13 Outcome, Isolation Follow Up, Isolation Start Date, Combined Date Completed, "
    "Delay Creation Completion Days, Date Failed Uncontactable, Date Updated, Date Time Extracted"
)


def case(number: int, **cells: Cell) -> Row:
    """A case of contact tracing that is sent."""
    who = Person(number)
    filled = {
        "Category": "case",
        "ID": str(5_270_000 + number),
        "Account ID": f"ct{number:04d}aa",
        "NHS Number": who.nhs_number,
        "Forename": who.first_name,
        "Surname": who.last_name,
        "Gender": "unknown",
        "Date of Birth": day(who.born),
        "House Number": who.house,
        "Postcode": who.postcode,
        "Email": who.email,
        "Phone": who.mobile,
        "Phone2": who.landline,
        "UTLA": "Hackney",
        "LTLA": "Hackney",
        "First Symptomatic At": ago(4),
        "Date Tested": ago(3),
        "Status": "local_follow_up",
        "Date Updated": ago(1),
        "Date Time Extracted": f"{day(AS_OF)} 03:53",
    }
    return Row({column: filled.get(column) for column in _EXTRACT_HEADER.split(", ")}).but(**cells)


def contact_tracing() -> Iterator[File]:
    folder = "contact_tracing/inbound"
    rows = [
        case(0, Comments="left voicemail").noted(1),
        case(1, UTLA="City of London", Comments='says "please call after 5", then\nring twice').noted(1),
        case(2, UTLA="CityofLondon", Postcode=Person(2).postcode.lower()),
        case(3, Date_Tested=ago(13), Date_of_Birth=None),
        case(4, Phone=None, Phone2=None),
        case(5).but("skipped", "other_utla", UTLA="Islington", Date_of_Birth="not known"),
        case(6).but("skipped", "tested_too_long_ago", Date_Tested=ago(14)),
        case(7).but("skipped", "no_date_tested", Date_Tested=None),
    ]
    preamble = [["Synthetic extract"], [f"Generated {day(AS_OF)}"]]
    yield File(f"{folder}/cases.csv", text(table(rows, preamble=preamble)), rows)
    who = Person(9)
    rows = [
        case(8, Forename=Person(8).first_name.upper(), Surname=Person(8).last_name.upper()),
        case(9, NHS_Number=int(who.nhs_number), Date_of_Birth=who.born, Date_Tested=datetime(2026, 11, 18, 7, 22, 45)),  # noqa: DTZ001
        case(10).but(warnings=["odd_phone"], Phone=int(Person(10).mobile), Email="", Phone2=None),
        case(11).but(warnings=["future_date"], Date_Tested=ago(-1)),
    ]
    yield File(f"{folder}/weekend cases.xlsx", workbook(table(rows)), rows)
    yield File(f"{folder}/bad_header.csv", text(table([case(12)], renamed={"Account ID": "AccountID"})), codes=["missing_header"])
    rows = [
        case(13),
        case(14).but("refused", "bad_date", Date_of_Birth="31/02/1990"),
        case(15).but("refused", "ambiguous_year", Date_of_Birth="02/05/83"),
        case(16).but("refused", "implausible_date", Date_of_Birth=ago(-1)),
        case(17).but("refused", "bad_date", Date_Tested="yesterday"),
    ]
    yield File(f"{folder}/bad_dates.csv", text(table(rows)), rows)
    rows = [
        case(18).but("refused", "unsafe_dedupe_id", Account_ID="ct%18aa"),
        case(19).but("refused", "blank_dedupe_id", Account_ID=None),
        case(20).but("refused", "unsafe_dedupe_id", Account_ID="inf"),
        case(21).but(warnings=["nhs_check_digit"], NHS_Number=f"{Person(21).nhs_number[:-1]}{(int(Person(21).nhs_number[-1]) + 1) % 10}"),
    ]
    yield File(f"{folder}/bad_ids.csv", text(table(rows)), rows)
    yield File(f"{folder}/bad_report.pdf", b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n", codes=["unsupported_file_type"])


def application(number: int, **cells: Cell) -> Row:
    """An application for shielding support that is sent."""
    who = Person(number)
    return Row(
        {
            "nhs_number": who.nhs_number,
            "ID": f"aaaa{number:04d}-synthetic",
            "first_name": who.first_name,
            "middle_name": None,
            "last_name": who.last_name,
            "date_of_birth": day(who.born),
            "address_line1": f"{who.house} {who.street}",
            "address_line2": None,
            "address_town_city": "Nowhere",
            "address_postcode": who.postcode,
            "address_uprn": who.uprn,
            "contact_number_calls": who.landline,
            "contact_number_texts": who.mobile,
            "contact_email": who.email,
            "submission_datetime": "2021-02-05T03:10:31Z",
            "do_you_want_supermarket_deliveries": "No",
            "do_you_need_someone_to_contact_you_about_local_support": "Yes",
            "do_you_have_someone_to_go_shopping_for_you": "No",
            "ladcode": None,
            "active_status": None,
        },
        notes=1,
    ).but(**cells)


def nsss() -> Iterator[File]:
    folder = "nsss/inbound"
    rows = [
        application(22),
        application(23, do_you_need_someone_to_contact_you_about_local_support="No", date_of_birth="12 Nov 1958"),
        application(
            24, date_of_birth=None, nhs_number=f"{Person(24).nhs_number[:3]} {Person(24).nhs_number[3:6]} {Person(24).nhs_number[6:]}"
        ),
        application(25, nhs_number=None, address_line2="Flat 2, upper floor"),
    ]
    yield File(f"{folder}/applications.csv", text(table(rows), "utf-8-sig"), rows)
    yield File(f"{folder}/applications again.xlsx", workbook(table(rows)), rows, is_repeated=True)
    rows = [
        application(26).but("refused", "bad_date", date_of_birth="not known"),
        application(27, date_of_birth="1958-11-12T00:00:00"),
        application(28).but("refused", "unsafe_dedupe_id", ID="aaaa_028"),
        application(29).but("refused", "not_identifiable", nhs_number=None, first_name=None),
    ]
    yield File(f"{folder}/bad_rows.csv", text(table(rows)), rows)
    renamed = {
        "address_postcode": "postcode",
        "nhs_number": "NHS Number",
        "date_of_birth": "DOB",
        "last_name": "lastname",
        "ID": "first_name",
    }
    codes = ["duplicate_header", "missing_header"]
    yield File(f"{folder}/bad_five_faults.csv", text(table([application(30)], renamed=renamed)), codes=codes)
    legacy = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504)
    yield File(f"{folder}/bad_legacy.xls", legacy, codes=["unsupported_file_type"])


def patient(number: int, **cells: Cell) -> Row:
    """Somebody on the Shielded Patient List who is sent."""
    who = Person(number)
    return Row(
        {
            "Traced_NHSNUMBER": who.nhs_number,
            "PatientFirstName": who.first_name,
            "PatientOtherName": None,
            "PatientSurname": who.last_name,
            "DateOfBirth": f"{who.born:%Y%m%d}",
            "PatientAddress_Line1": f"{who.house} {who.street}",
            "PatientAddress_Line2": None,
            "PatientAddress_Line3": "Nowhere",
            "PatientAddress_Line4": None,
            "PatientAddress_Line5": None,
            "PatientAddress_PostCode": who.postcode,
            "PatientEmailAddress": who.email,
            "mobile": who.mobile,
            "landline": who.landline,
            "DateOfDeath": None,
            "Flag_PDSInformallyDeceased": "0",
            "oslaua": "E09999999",
            "oscty": "E99999999",
            "Data_Source": "Synthetic",
            "category": "Added by GP",
            "InceptionDate": "44242",
            "SPL_Version": "44",
            "uprn": who.uprn,
        },
        notes=1,
    ).but(**cells)


def spl() -> Iterator[File]:
    folder = "spl/inbound"
    rows = [
        patient(31),
        patient(32).but(warnings=["deceased"], DateOfDeath="21-02-2021", category="Deceased"),
        patient(33, PatientFirstName=None, PatientSurname=None, DateOfBirth=None, PatientEmailAddress=None),
    ]
    yield File(f"{folder}/list.csv", text(table(rows)), rows)
    rows = [
        patient(34, DateOfBirth=Person(34).born, Traced_NHSNUMBER=int(Person(34).nhs_number), SPL_Version=44),
        patient(35, DateOfBirth=Person(35).born.isoformat()),
    ]
    for row in rows:
        del row.cells["PatientAddress_Line5"]
    yield File(f"{folder}/list of typed cells.xlsx", workbook(table(rows)), rows, codes=["missing_optional_header"])
    rows = [
        patient(36),
        patient(37).but("refused", "bad_date_format", DateOfBirth="02051983"),
        patient(38).but("refused", "bad_date_format", DateOfBirth="44242"),
        patient(39).but("refused", "bad_date", DateOfBirth="19630231"),
    ]
    yield File(f"{folder}/bad_dates.csv", text(table(rows)), rows)
    rows = [
        patient(40).but("refused", "blank_dedupe_id", Traced_NHSNUMBER=None),
        patient(41).but("refused", "unsafe_dedupe_id", Traced_NHSNUMBER="unknown"),
        patient(42).but("refused", "unsafe_dedupe_id", Traced_NHSNUMBER="9.99E+09"),
    ]
    rows[1].warnings = rows[2].warnings = ("nhs_number_left_out",)
    yield File(f"{folder}/bad_numbers.csv", text(table(rows)), rows)


def isolating(number: int, **cells: Cell) -> Row:
    """Somebody who asked for support with self-isolation and is sent."""
    who = Person(number)
    return Row(
        {
            "ID": f"si{number:06d}",
            "NHS Number": who.nhs_number,
            "Forename": who.first_name,
            "Surname": who.last_name,
            "Date of Birth": day(who.born),
            "House Number": who.house,
            "Address Line 1": who.street,
            "Address Line 2": None,
            "Town": "Nowhere",
            "Postcode": who.postcode,
            "UPRN": who.uprn,
            "Email": who.email,
            "Phone": who.mobile,
            "Phone2": who.landline,
            "LA Support Required": "1",
            "LA Support Letter Received": "0",
            "Day 4 Outcome": None,
            "Day 7 Outcome": None,
            "Day 10 Outcome": None,
            "Day 13 Outcome": None,
            "Comments": None,
            "Date Tested": ago(2),
            "Status Report": "Completed",
        }
    ).but(**cells)


def self_isolation() -> Iterator[File]:
    folder = "self_isolation/inbound"
    rows = [
        isolating(43),
        isolating(44, Day_4_Outcome="no answer", Day_7_Outcome="spoke to resident", Comments="needs shopping").noted(3),
        isolating(45, LA_Support_Letter_Received="1", Status_Report="completed").noted(0, shielding=True),
        isolating(46).but("skipped", "not_completed", Status_Report="failed"),
        isolating(47).but("skipped", "no_support_flag", LA_Support_Required="Yes"),
        isolating(48).but("skipped", "tested_too_long_ago", Date_Tested=ago(7), Date_of_Birth="30/02/1970"),
        isolating(49, Date_Tested=ago(6)),
    ]
    yield File(f"{folder}/support.csv", text(table(rows)), rows)
    rows = [
        isolating(50, LA_Support_Required=0, LA_Support_Letter_Received=1, Day_13_Outcome="finished").noted(1, shielding=True),
        isolating(51, LA_Support_Required=1, LA_Support_Letter_Received=0, Date_Tested=AS_OF, UPRN=int(Person(51).uprn)),
    ]
    yield File(f"{folder}/letters.xlsx", workbook(table(rows)), rows)
    yield File(
        f"{folder}/bad_header.csv", text(table([isolating(52)], renamed={"Day 10 Outcome": "Day10 Outcome"})), codes=["missing_header"]
    )
    rows = [
        isolating(53),
        isolating(54).but("refused", "bad_date", Date_Tested="yesterday"),
        isolating(55).but("refused", "bad_date", Date_of_Birth="30/02/1970"),
    ]
    yield File(f"{folder}/bad_dates.xlsx", workbook(table(rows)), rows)


def help_wanted(number: int, kind: str, subtype: str | None = None, **cells: Cell) -> Row:
    """A request of a list of any kind that is sent."""
    who = Person(number)
    return Row(
        {
            "First name": who.first_name,
            "Surname": who.last_name,
            "d.o.b": day(who.born),
            "Help Request Type": kind,
            "Address Line 1": f"{who.house} {who.street}",
            "Address Line 2": None,
            "City": "Nowhere",
            "Postcode": who.postcode,
            "Email": who.email,
            "Phone number": who.landline,
            "Phone number 2": who.mobile,
            "UPRN": who.uprn,
            "Subtype": subtype,
            "Case Note 1": None,
            "Case Note 2": None,
            "Case Note 3": None,
            "Case Note 4": None,
        }
    ).but(**cells)


def generic() -> Iterator[File]:
    folder = "generic/inbound"
    rows = [
        help_wanted(56, "EUSS", Case_Note_1="first", Case_Note_2="second").noted(2),
        help_wanted(57, "link work", "repairs"),
        help_wanted(58, "Link Work").but(warnings=["email_left_out"], Email="none"),
        help_wanted(59, "Shielding").but("skipped", "unknown_type"),
        help_wanted(60, "EUSS", "Plumbing").but("skipped", "unknown_subtype"),
    ]
    yield File(f"{folder}/requests.csv", text(table(rows), separator=";"), rows)
    rows = [help_wanted(61, "Link Work", Surname="Café-Example", Case_Note_4="prefers mornings \u2013 not Mondays").noted(1)]
    yield File(f"{folder}/link work.csv", text(table(rows), "cp1252"), rows, codes=["not_utf8"])
    rows = [help_wanted(62, "EUSS", "Repairs", d_o_b=Person(62).born), help_wanted(63, "EUSS", Case_Note_1=44).noted(1)]
    more = table(rows, ["Colour of the form"])
    yield File(f"{folder}/settled status.xlsx", workbook(more), rows, codes=["unexpected_header"])
    rows = [
        help_wanted(64, "EUSS"),
        help_wanted(65, "EUSS").but("refused", "bad_date", d_o_b="1983"),
        help_wanted(66, "EUSS").but("refused", "bad_date", d_o_b="12/13/14/15"),
        help_wanted(67, "EUSS").but("refused", "row_too_long", Address_Line_1="unquoted"),
    ]
    shifted = text(table(rows)).replace(b"unquoted", b"2, Invented Walk")
    yield File(f"{folder}/bad_rows.csv", shifted, rows, codes=["row_too_long"])
    open_quote = text(table([help_wanted(68, "EUSS"), help_wanted(69, "EUSS")])).replace(b"Nowhere", b'"Nowhere', 1)
    yield File(f"{folder}/bad_open_quote.csv", open_quote, codes=["broken_quotes"])
    image = bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(17)
    yield File(f"{folder}/bad_photo.xlsx", image, codes=["unsupported_file_type"])


def files() -> list[File]:
    """Every file, in a fixed order."""
    return [file for part in (contact_tracing, nsss, spl, self_isolation, generic) for file in part()]


def contents() -> dict[str, bytes]:
    """Every file of the folder by its path in it."""
    made = files()
    expected = {
        "as_of": AS_OF.isoformat(),
        "all_good_files": api(file for file in made if file.is_good),
        "files": {file.path: file.expected() for file in made},
    }
    found = {file.path: file.content for file in made}
    assert len(found) == len(made)
    return found | {"expected.json": json.dumps(expected, indent=1, ensure_ascii=False).encode() + b"\n"}


def main() -> int:
    """Write the folder, or with `--check` say what in it is not as it would be written; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the folder differs")
    asked = parser.parse_args()
    wanted = {FOLDER / name: content for name, content in contents().items()}
    present = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    differing = sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    for path in differing:
        print(f"{'differs' if asked.check else 'updated'}: {path.relative_to(FOLDER)}")
        if not asked.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[path]) if path in wanted else path.unlink()
    return 1 if asked.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())

"""Invented people in spreadsheets of every dataset, the sandbox's API as a process of its own, and a pipeline over it."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.one_database import one_database
from ingestion_dagster_tests.residents import driver
from ingestion_dagster_tests.residents.driver import Api

SUPERMARKET = "do_you_want_supermarket_deliveries"
SUPPORT = "do_you_need_someone_to_contact_you_about_local_support"
LETTER = "LA Support Letter Received"

_SYLLABLES = ("Ba", "ko", "mi", "ru", "sa", "te", "vo", "ny", "lo", "pe")


def nhs_number(number: int) -> str:
    """An NHS number of those that nobody has, with the check digit that it must have; not every number has one."""
    while True:
        nine = f"999{number:06}"
        check = 11 - sum(int(digit) * weight for digit, weight in zip(nine, range(10, 1, -1), strict=True)) % 11
        if check != 10:
            return f"{nine}{check % 11}"
        number += 500_000


@dataclass(frozen=True)
class Somebody:
    """An invented person: each number is somebody else."""

    number: int

    @property
    def first_name(self) -> str:
        return "".join(_SYLLABLES[int(digit)] for digit in f"{self.number:03}").capitalize()

    @property
    def last_name(self) -> str:
        return f"Mc{''.join(_SYLLABLES[int(digit)] for digit in f'{self.number * 7:05}').capitalize()}"

    @property
    def nhs(self) -> str:
        return nhs_number(self.number)

    def row(self, dataset: str, **more: str) -> dict[str, str]:
        """Their row in a spreadsheet of a dataset; keys with underscores stand for columns with blanks, too."""
        day, month, year = 1 + self.number % 28, 1 + self.number % 12, 1950 + self.number % 50
        phone, mobile = f"020 7946 0{self.number % 1000:03}", f"07700 900{self.number % 1000:03}"
        mail, street = f"p{self.number}@example.invalid", f"{self.number} Imaginary Road"
        person = {
            "nsss": {
                "ID": f"nsss-{self.number}", "nhs_number": self.nhs, "first_name": self.first_name, "last_name": self.last_name,
                "date_of_birth": f"{day:02}/{month:02}/{year}", "address_line1": street, "address_postcode": "ZZ99 3VZ",
                "contact_number_calls": phone, "contact_number_texts": mobile, "contact_email": mail,
                "submission_datetime": "2021-02-05T03:10:31Z", SUPERMARKET: "No", SUPPORT: "Yes",
                "do_you_have_someone_to_go_shopping_for_you": "No",
            },
            "spl": {
                "Traced_NHSNUMBER": self.nhs, "PatientFirstName": self.first_name, "PatientSurname": self.last_name,
                "DateOfBirth": f"{year}{month:02}{day:02}", "PatientAddress_Line1": street, "PatientAddress_PostCode": "ZZ99 3VZ",
                "PatientEmailAddress": mail, "mobile": mobile, "landline": phone, "category": "Added by GP",
            },
            "contact_tracing": {
                "Account ID": f"ct{self.number:06}", "NHS Number": self.nhs, "Forename": self.first_name, "Surname": self.last_name,
                "Date of Birth": f"{day:02}/{month:02}/{year}", "House Number": street, "Postcode": "ZZ99 3VZ", "Email": mail,
                "Phone": phone, "Phone2": mobile, "UTLA": "Hackney", "First Symptomatic At": "16/11/2026", "Date Tested": "17/11/2026",
            },
            "self_isolation": {
                "ID": f"si{self.number:06}", "NHS Number": self.nhs, "Forename": self.first_name, "Surname": self.last_name,
                "Date of Birth": f"{day:02}/{month:02}/{year}", "Address Line 1": street, "Postcode": "ZZ99 3VZ", "Email": mail,
                "Phone": mobile, "Phone2": phone, "LA Support Required": "1", LETTER: "0", "Date Tested": "18/11/2026",
                "Status Report": "Completed",
            },
            "generic": {
                "First name": self.first_name, "Surname": self.last_name, "d.o.b": f"{day:02}/{month:02}/{year}",
                "Help Request Type": "Link Work", "Address Line 1": street, "Postcode": "ZZ99 3VZ", "Email": mail,
                "Phone number": phone, "Phone number 2": mobile,
            },
        }[dataset]  # fmt: skip
        columns = {column.replace(" ", "_"): column for column in columns_of(dataset)}
        return person | {columns[name.replace(" ", "_")]: value for name, value in more.items()}


def columns_of(dataset: str) -> tuple[str, ...]:
    """The columns that a spreadsheet of this dataset has."""
    return (*DATASETS[dataset].required, *DATASETS[dataset].expected)


def as_csv(dataset: str, rows: Sequence[Mapping[str, str]]) -> bytes:
    """Such a spreadsheet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(dataset), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_xlsx(dataset: str, rows: Sequence[Mapping[str, str]], folder: Path) -> bytes:
    """The same as a workbook, every cell a text."""
    import xlsxwriter

    path = folder / f"{dataset}.xlsx"
    with xlsxwriter.Workbook(path, {"constant_memory": True}) as book:
        tab = book.add_worksheet()
        columns = columns_of(dataset)
        for place, column in enumerate(columns):
            tab.write_string(0, place, column)
        for number, row in enumerate(rows, start=1):
            for place, column in enumerate(columns):
                tab.write_string(number, place, row.get(column, ""))
    return path.read_bytes()


@pytest.fixture(scope="module")
def api_process() -> Iterator[Api]:
    """One API for the tests of a module; it outlives whoever is killed beside it."""
    with driver.api() as started:
        yield started


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def api(api_process: Api) -> Api:
    """The API without anybody in it, in a good mood, and as quick as it can be."""
    api_process.reset()
    return api_process


@pytest.fixture
def installation(one: Database, api: Api) -> Iterator[Settings]:
    """A fresh installation over the module's database and that API."""
    with driver.quick_folder() as folder:
        yield driver.settings_for(driver.emptied(one), folder, api.url)

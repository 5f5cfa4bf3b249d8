"""Rows to judge: a good one of each dataset, and what a judge says of it with other cells."""

from collections.abc import Mapping
from datetime import date

from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.model import Judged, Prepared, Rules

AS_OF = date(2026, 11, 20)
RULES = Rules(AS_OF, frozenset({"ct0000zz"}))

GOOD: Mapping[str, Mapping[str, str]] = {
    "contact_tracing": {
        "Account ID": "ct0000aa",
        "NHS Number": "9990000115",
        "Forename": "Testy",
        "Surname": "McFictional",
        "Date of Birth": "02/05/1983",
        "House Number": "45",
        "Postcode": "zz99 3vz",
        "Email": "testy@example.invalid",
        "Phone": "07700900101",
        "Phone2": "02079460101",
        "UTLA": "Hackney",
        "First Symptomatic At": "16/11/2026",
        "Date Tested": "17/11/2026",
        "Comments": "left voicemail",
    },
    "nsss": {
        "ID": "aaaa0001-synthetic",
        "nhs_number": "9990000115",
        "first_name": "Testy",
        "last_name": "McFictional",
        "date_of_birth": "22/02/1963",
        "address_line1": "45 Imaginary Road",
        "address_line2": "Flat 2",
        "address_town_city": "Nowhere",
        "address_postcode": "ZZ99 3VZ",
        "address_uprn": "010000000001",
        "contact_number_calls": "02079460101",
        "contact_number_texts": "07700900101",
        "contact_email": "testy@example.invalid",
        "submission_datetime": "2021-02-05T03:10:31Z",
        "do_you_want_supermarket_deliveries": "No",
        "do_you_have_someone_to_go_shopping_for_you": "Sometimes",
        "do_you_need_someone_to_contact_you_about_local_support": "yes",
    },
    "spl": {
        "Traced_NHSNUMBER": "9990000115",
        "PatientFirstName": "Testy",
        "PatientSurname": "McFictional",
        "DateOfBirth": "19560512",
        "PatientAddress_Line1": "45 Imaginary Road",
        "PatientAddress_Line2": "Flat 2",
        "PatientAddress_Line3": "Nowhere",
        "PatientAddress_Line4": "Elsewhere",
        "PatientAddress_PostCode": "ZZ99 3VZ",
        "PatientEmailAddress": "testy@example.invalid",
        "mobile": "07700900101",
        "landline": "02079460101",
        "DateOfDeath": "",
        "category": "Added by GP",
        "uprn": "900000000001",
    },
    "self_isolation": {
        "ID": "si000001",
        "NHS Number": "9990000115",
        "Forename": "Testy",
        "Surname": "McFictional",
        "Date of Birth": "22/02/1963",
        "House Number": "45",
        "Address Line 1": "Imaginary Road",
        "Address Line 2": "Flat 2",
        "Town": "Nowhere",
        "Postcode": "ZZ99 3VZ",
        "UPRN": "900000000001",
        "Email": "testy@example.invalid",
        "Phone": "07700900101",
        "Phone2": "02079460101",
        "LA Support Required": "1",
        "LA Support Letter Received": "0",
        "Date Tested": "18/11/2026",
        "Status Report": "Completed",
    },
    "generic": {
        "First name": "Testy",
        "Surname": "McFictional",
        "d.o.b": "22/02/1963",
        "Help Request Type": "link work",
        "Address Line 1": "45 Imaginary Road",
        "Address Line 2": "Flat 2",
        "City": "Nowhere",
        "Postcode": "ZZ99 3VZ",
        "Email": "testy@example.invalid",
        "Phone number": "02079460101",
        "Phone number 2": "07700900101",
        "UPRN": "900000000001",
        "Subtype": "repairs",
        "Case Note 1": "first",
        "Case Note 3": "third",
    },
}


def judged(dataset: str, other: Mapping[str, str] | None = None, /, **named: str) -> Judged:
    """A good row with other cells, judged as the second of its file."""
    return DATASETS[dataset].judge({**GOOD[dataset], **(other or {}), **named}, 2, RULES)


def prepared(dataset: str, other: Mapping[str, str] | None = None) -> Prepared:
    """What is sent for a good row with other cells."""
    found = judged(dataset, other).prepared
    assert found is not None
    return found


def said(row: Judged) -> list[tuple[str, str, str]]:
    """All that is said of a row: severity, code and place."""
    return [(problem.severity, problem.code, problem.place) for problem in row.problems]

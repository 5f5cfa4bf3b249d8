"""SPL: the request, the note, who has died, and dates in one form only."""

import pytest

from ingestion_dagster.residents.model import Note, RowStatus
from ingestion_dagster_tests.residents.rows_of import judged, prepared, said

NAME = "spl"
AUTHOR = "Data Ingestion: Shielding Patient List"


def test_request_is_the_one_the_api_has_always_got():
    row = prepared(NAME)
    assert row.request == {
        "HelpNeeded": "Shielding",
        "CallbackRequired": False,
        "HelpWithSomethingElse": True,
        "NhsNumber": "9990000115",
        "FirstName": "Testy",
        "LastName": "McFictional",
        "DobDay": "12",
        "DobMonth": "5",
        "DobYear": "1956",
        "Uprn": "900000000001",
        "AddressFirstLine": "45 Imaginary Road",
        "AddressSecondLine": "Flat 2",
        "AddressThirdLine": "Nowhere",
        "Postcode": "ZZ99 3VZ",
        "ContactTelephoneNumber": "02079460101",
        "ContactMobileNumber": "07700900101",
        "EmailAddress": "testy@example.invalid",
        "Metadata": {"spl_id": "9990000115"},
    }
    assert row.notes == (Note(AUTHOR, "SPL Category: Added by GP."),)


def test_date_of_death_is_in_the_note_and_warned_of():
    row = judged(NAME, {"DateOfDeath": "21-02-2021", "category": "Deceased"})
    assert row.status is RowStatus.PENDING
    assert said(row) == [("warning", "deceased", "row 2, column 'DateOfDeath'")]
    assert row.prepared is not None
    assert row.prepared.notes == (Note(AUTHOR, "SPL Category: Deceased. Date of death: 21-02-2021"),)


def test_a_row_of_number_and_category_alone_sends_nothing_that_erases():
    blank = dict.fromkeys(("PatientFirstName", "PatientSurname", "DateOfBirth", "PatientEmailAddress", "mobile", "landline", "uprn"), "")
    lines = {f"PatientAddress_{part}": "" for part in ("Line1", "Line2", "Line3", "PostCode")}
    request = prepared(NAME, blank | lines).request
    assert set(request) == {"HelpNeeded", "CallbackRequired", "HelpWithSomethingElse", "NhsNumber", "Metadata"}


@pytest.mark.parametrize(
    ("born", "code"),
    [("02051983", "bad_date_format"), ("44242", "bad_date_format"), ("22/02/1963", "bad_date_format"), ("19630231", "bad_date")],
)
def test_dates_of_birth_have_one_form(born: str, code: str):
    row = judged(NAME, {"DateOfBirth": born})
    assert said(row) == [("error", code, "row 2, column 'DateOfBirth'")]
    assert row.reason is not None
    assert "YYYYMMDD" in row.reason.message


@pytest.mark.parametrize("traced", ["unknown", "0000000000", "9999999999", "9.99E+09", "999%", "n/a"])
def test_number_that_others_may_have_is_no_id(traced: str):
    row = judged(NAME, {"Traced_NHSNUMBER": traced})
    assert row.reason is not None
    assert row.reason.code == "unsafe_dedupe_id"
    assert [code for severity, code, _ in said(row) if severity == "error"] == ["unsafe_dedupe_id"]


def test_blank_number_is_refused_since_another_persons_request_would_be_found():
    assert said(judged(NAME, {"Traced_NHSNUMBER": ""})) == [("error", "blank_dedupe_id", "row 2, column 'Traced_NHSNUMBER'")]

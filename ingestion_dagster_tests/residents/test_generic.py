"""Generic: types and subtypes, ids made of them, e-mail only if it is one, and four notes."""

import pytest

from ingestion_dagster.residents.model import Note, RowStatus
from ingestion_dagster_tests.residents.rows_of import judged, prepared, said

NAME = "generic"
AUTHOR = "Data Ingestion: Generic Ingestion"


def test_request_is_the_one_the_api_has_always_got():
    row = prepared(NAME)
    assert row.request == {
        "HelpNeeded": "Link Work",
        "HelpNeededSubtype": "Repairs",
        "CallbackRequired": True,
        "FirstName": "Testy",
        "LastName": "McFictional",
        "DobDay": "22",
        "DobMonth": "2",
        "DobYear": "1963",
        "Uprn": "900000000001",
        "AddressFirstLine": "45 Imaginary Road",
        "AddressSecondLine": "Flat 2",
        "AddressThirdLine": "Nowhere",
        "Postcode": "ZZ99 3VZ",
        "ContactTelephoneNumber": "02079460101",
        "ContactMobileNumber": "07700900101",
        "EmailAddress": "testy@example.invalid",
        "Metadata": {"Author": AUTHOR, "generic_ingestion_id": "LinkWorkRepairs"},
    }
    assert row.notes == (Note(AUTHOR, "Note from Data Ingestion: first"), Note(AUTHOR, "Note from Data Ingestion: third"))


@pytest.mark.parametrize(
    ("kind", "subtype", "ingestion_id"),
    [("EUSS", "", "EUSS"), ("euss", "Repairs", "EUSSRepairs"), ("Link Work", "", "LinkWork"), ("LINK WORK", "REPAIRS", "LinkWorkRepairs")],
)
def test_id_is_made_of_type_and_subtype(kind: str, subtype: str, ingestion_id: str):
    row = prepared(NAME, {"Help Request Type": kind, "Subtype": subtype})
    assert row.dedupe_id == row.request["Metadata"]["generic_ingestion_id"] == ingestion_id
    assert ("HelpNeededSubtype" in row.request) is bool(subtype)


@pytest.mark.parametrize(
    ("cells", "code", "column"),
    [
        ({"Help Request Type": "Shielding"}, "unknown_type", "Help Request Type"),
        ({"Help Request Type": ""}, "unknown_type", "Help Request Type"),
        ({"Help Request Type": "LinkWork"}, "unknown_type", "Help Request Type"),
        ({"Subtype": "Plumbing"}, "unknown_subtype", "Subtype"),
    ],
)
def test_unknown_kinds_are_skipped_with_a_reason(cells: dict[str, str], code: str, column: str):
    row = judged(NAME, {**cells, "d.o.b": "1983"})
    assert row.status is RowStatus.SKIPPED
    assert said(row) == [("warning", code, f"row 2, column '{column}'")]


def test_mail_address_without_an_at_sign_is_left_out_and_identifies_nobody():
    row = judged(NAME, {"Email": "none"})
    assert said(row) == [("warning", "email_left_out", "row 2, column 'Email'")]
    assert row.prepared is not None
    assert "EmailAddress" not in row.prepared.request
    alone = judged(NAME, {"Email": "none", "d.o.b": "", "UPRN": "", "Phone number": "", "Phone number 2": ""})
    assert alone.reason is not None
    assert alone.reason.code == "not_identifiable"


@pytest.mark.parametrize("born", ["1983", "12/13/14/15", "1/21/21 3:53", "44242"])
def test_dates_that_used_to_be_guessed_are_refused(born: str):
    assert judged(NAME, {"d.o.b": born}).status is RowStatus.REFUSED

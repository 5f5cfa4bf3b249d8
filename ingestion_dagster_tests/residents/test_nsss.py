"""NSSS: the request, the note that earlier imports are known by, and rows that cannot be sent."""

from ingestion_dagster.residents.model import Note, RowStatus
from ingestion_dagster_tests.residents.rows_of import judged, prepared, said

NAME = "nsss"
SUPPORT = "do_you_need_someone_to_contact_you_about_local_support"


def test_request_is_the_one_the_api_has_always_got():
    row = prepared(NAME)
    assert row.request == {
        "HelpNeeded": "Shielding",
        "CallbackRequired": True,
        "HelpWithSomethingElse": True,
        "NhsNumber": "9990000115",
        "FirstName": "Testy",
        "LastName": "McFictional",
        "DobDay": "22",
        "DobMonth": "2",
        "DobYear": "1963",
        "Uprn": "010000000001",
        "AddressFirstLine": "45 Imaginary Road",
        "AddressSecondLine": "Flat 2",
        "AddressThirdLine": "Nowhere",
        "Postcode": "ZZ99 3VZ",
        "ContactTelephoneNumber": "02079460101",
        "ContactMobileNumber": "07700900101",
        "EmailAddress": "testy@example.invalid",
        "Metadata": {"nsss_id": "aaaa0001-synthetic"},
    }
    assert row.dedupe_id == "aaaa0001-synthetic"


def test_note_is_byte_for_byte_the_one_that_duplicates_are_known_by():
    text = (
        "CEV: Dec 2020 Tier 4 NSSS Submitted on:  2021-02-05T03:10:31Z. Do you want supermarket deliveries? No. "
        "Do you have someone to go shopping for you? Sometimes. Do you need someone to contact you about local support? yes."
    )
    assert prepared(NAME).notes == (Note("Data Ingestion: National Shielding Service System", text),)


def test_only_yes_asks_for_a_call_back():
    answers = {"Yes": True, "YES": True, "yes": True, "No": False, "": False, "1": False, "yes please": False}
    assert {answer: prepared(NAME, {SUPPORT: answer}).request["CallbackRequired"] for answer in answers} == answers


def test_blank_date_of_birth_is_legal_and_a_named_month_is_read():
    assert "DobDay" not in prepared(NAME, {"date_of_birth": ""}).request
    assert prepared(NAME, {"date_of_birth": "12 Nov 1998"}).request["DobMonth"] == "11"


def test_unreadable_date_of_birth_is_the_only_reason_if_mending_it_mends_the_row():
    others = dict.fromkeys(("nhs_number", "address_uprn", "contact_number_calls", "contact_number_texts", "contact_email"), "")
    assert said(judged(NAME, {**others, "date_of_birth": "not known"})) == [("error", "bad_date", "row 2, column 'date_of_birth'")]
    nameless = judged(NAME, {**others, "date_of_birth": "not known", "first_name": ""})
    assert [code for _, code, _ in said(nameless)] == ["bad_date", "not_identifiable"]


def test_ids_that_mix_people_up_are_refused():
    assert said(judged(NAME, {"ID": ""})) == [("error", "blank_dedupe_id", "row 2, column 'ID'")]
    for unsafe in ("a%", "a_b", "a\\b", "nan", "INF"):
        row = judged(NAME, {"ID": unsafe})
        assert row.status is RowStatus.REFUSED
        assert said(row) == [("error", "unsafe_dedupe_id", "row 2, column 'ID'")]

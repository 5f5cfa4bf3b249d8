"""Contact tracing: who is sent, how, and why others are not."""

import pytest

from ingestion_dagster.residents.model import Note, Person, RowStatus
from ingestion_dagster_tests.residents.rows_of import judged, prepared, said

NAME = "contact_tracing"


def test_request_is_the_one_the_api_has_always_got_but_for_what_is_blank():
    row = prepared(NAME)
    assert row.request == {
        "HelpNeeded": "Contact Tracing",
        "CallbackRequired": True,
        "HelpWithSomethingElse": True,
        "NhsCtasId": "ct0000aa",
        "NhsNumber": "9990000115",
        "FirstName": "Testy",
        "LastName": "McFictional",
        "DobDay": "2",
        "DobMonth": "5",
        "DobYear": "1983",
        "AddressFirstLine": "45",
        "Postcode": "ZZ99 3VZ",
        "ContactTelephoneNumber": "07700900101",
        "ContactMobileNumber": "02079460101",
        "EmailAddress": "testy@example.invalid",
        "Metadata": {"first_symptomatic_at": "16/11/2026", "date_tested": "17/11/2026"},
    }
    assert row.person == Person("Testy", "McFictional", "9990000115", "1983-05-02")
    assert (row.dedupe_id, row.shielding_note) == ("ct0000aa", None)


def test_comment_is_a_note_of_its_own_and_never_part_of_the_request():
    row = prepared(NAME, {"Comments": 'says "no"\nand \\ more'})
    assert row.notes == (Note("Data Ingestion: Contact Tracing", 'says "no"\nand \\ more'),)
    assert "CaseNotes" not in row.request
    assert prepared(NAME, {"Comments": "  "}).notes == ()


def test_blank_cells_are_left_out_so_that_they_erase_nothing():
    blank = dict.fromkeys(("NHS Number", "Date of Birth", "House Number", "Postcode", "Phone", "Phone2", "First Symptomatic At"), "")
    row = prepared(NAME, blank)
    assert set(row.request) == {
        *("HelpNeeded", "CallbackRequired", "HelpWithSomethingElse", "NhsCtasId", "FirstName", "LastName", "EmailAddress", "Metadata")
    }
    assert row.request["Metadata"] == {"date_tested": "17/11/2026"}
    assert row.person == Person("Testy", "McFictional")


def test_leading_zeros_plus_signs_and_inner_blanks_stay():
    row = prepared(NAME, {"Account ID": "0012e345", "Phone": "+447700900123", "Phone2": "020 7946 0101", "House Number": "007"})
    assert row.request["NhsCtasId"] == "0012e345"
    assert (row.request["ContactTelephoneNumber"], row.request["ContactMobileNumber"]) == ("+447700900123", "020 7946 0101")
    assert row.request["AddressFirstLine"] == "007"


@pytest.mark.parametrize(
    ("cells", "code", "column"),
    [
        ({"Account ID": "ct0000zz"}, "excluded_account", "Account ID"),
        ({"UTLA": "Islington"}, "other_utla", "UTLA"),
        ({"UTLA": ""}, "other_utla", "UTLA"),
        ({"Date Tested": ""}, "no_date_tested", "Date Tested"),
        ({"Date Tested": "06/11/2026"}, "tested_too_long_ago", "Date Tested"),
        ({"Date Tested": "01/09/2026"}, "tested_too_long_ago", "Date Tested"),
    ],
)
def test_row_that_is_not_ours_is_skipped_whatever_else_is_wrong_with_it(cells: dict[str, str], code: str, column: str):
    for more in ({}, {"Date of Birth": "31/02/1990", "NHS Number": "x", "Phone": "x", "Forename": ""}):
        row = judged(NAME, {**cells, **more})
        assert row.status is RowStatus.SKIPPED
        assert row.prepared is None
        assert row.reason is not None
        assert (row.reason.code, row.reason.place, row.reason.severity) == (code, f"row 2, column '{column}'", "warning")
        assert row.problems == (row.reason,)


def test_excluded_and_other_authorities_are_skipped_even_without_a_readable_test():
    assert judged(NAME, {"UTLA": "Islington", "Date Tested": "soon"}).status is RowStatus.SKIPPED
    assert judged(NAME, {"Account ID": "ct0000zz", "Date Tested": "soon"}).status is RowStatus.SKIPPED


@pytest.mark.parametrize("tested", ["07/11/2026", "20/11/2026", "2026-11-07 23:59:59"])
def test_thirteen_days_are_not_too_long(tested: str):
    assert said(judged(NAME, {"Date Tested": tested})) == []


def test_test_in_the_future_is_sent_with_a_warning():
    row = judged(NAME, {"Date Tested": "01/12/2026"})
    assert row.status is RowStatus.PENDING
    assert said(row) == [("warning", "future_date", "row 2, column 'Date Tested'")]


@pytest.mark.parametrize("utla", ["Hackney", "City of London", "CityofLondon"])
def test_both_authorities_are_sent(utla: str):
    assert judged(NAME, {"UTLA": utla}).status is RowStatus.PENDING


@pytest.mark.parametrize(
    ("cells", "code", "column"),
    [
        ({"Date of Birth": "31/02/1990"}, "bad_date", "Date of Birth"),
        ({"Date of Birth": "02/05/83"}, "ambiguous_year", "Date of Birth"),
        ({"Date of Birth": "21/11/2026"}, "implausible_date", "Date of Birth"),
        ({"Date of Birth": "31/12/1899"}, "implausible_date", "Date of Birth"),
        ({"Date Tested": "yesterday"}, "bad_date", "Date Tested"),
        ({"Date Tested": "17/11/2016"}, "implausible_date", "Date Tested"),
        ({"Account ID": ""}, "blank_dedupe_id", "Account ID"),
        ({"Account ID": "ct%"}, "unsafe_dedupe_id", "Account ID"),
        ({"Account ID": "inf"}, "unsafe_dedupe_id", "Account ID"),
    ],
)
def test_row_that_cannot_be_sent_says_where_and_why_without_saying_what(cells: dict[str, str], code: str, column: str):
    row = judged(NAME, cells)
    assert (row.status, row.prepared) == (RowStatus.REFUSED, None)
    assert said(row) == [("error", code, f"row 2, column '{column}'")]
    assert row.reason == row.problems[0]
    (value,) = cells.values()
    assert not value or value not in row.reason.message


def test_every_fault_of_a_row_is_listed():
    row = judged(
        NAME,
        {"Date Tested": "soon", "Date of Birth": "1985", "Account ID": "a_b", "Phone": "x", "Postcode": "x", "NHS Number": "1234567890"},
    )
    assert [code for _, code, _ in said(row)] == [
        *("bad_date", "unsafe_dedupe_id", "bad_date", "nhs_check_digit", "odd_postcode", "odd_phone")
    ]
    assert row.reason == row.problems[0]


def test_doubtful_cells_are_sent_with_a_warning():
    row = judged(NAME, {"NHS Number": "9990000116", "Phone": "7700900101", "Postcode": "Nowhere"})
    assert row.status is RowStatus.PENDING
    assert said(row) == [
        ("warning", "nhs_check_digit", "row 2, column 'NHS Number'"),
        ("warning", "odd_postcode", "row 2, column 'Postcode'"),
        ("warning", "odd_phone", "row 2, column 'Phone'"),
    ]
    assert row.prepared is not None
    assert row.prepared.request["NhsNumber"] == "9990000116"


def test_number_that_stands_for_none_is_not_sent_since_others_have_it_too():
    row = judged(NAME, {"NHS Number": "unknown"})
    assert row.prepared is not None
    assert "NhsNumber" not in row.prepared.request
    assert row.prepared.person.nhs_number == ""
    assert said(row) == [("warning", "nhs_number_left_out", "row 2, column 'NHS Number'")]
    nobody = judged(NAME, {"NHS Number": "0000000000", "Forename": ""})
    assert nobody.reason is not None
    assert nobody.reason.code == "not_identifiable"


BARE = dict.fromkeys(("NHS Number", "Forename", "Surname", "Date of Birth", "Phone", "Phone2", "Email"), "")


@pytest.mark.parametrize(
    ("cells", "status"),
    [
        ({"NHS Number": "9990000115"}, RowStatus.PENDING),
        ({"Forename": "Testy", "Surname": "McFictional", "Date of Birth": "22/02/1963"}, RowStatus.PENDING),
        ({"Forename": "Testy", "Surname": "McFictional"}, RowStatus.PENDING),
        ({"Surname": "McFictional", "Date of Birth": "22/02/1963", "Phone": "07700900101"}, RowStatus.REFUSED),
        ({}, RowStatus.REFUSED),
    ],
)
def test_a_row_names_a_person_by_number_or_by_both_names_and_something_more(cells: dict[str, str], status: RowStatus):
    row = judged(NAME, {**BARE, **cells})
    assert row.status is status
    assert said(row) == ([("error", "not_identifiable", "row 2")] if status is RowStatus.REFUSED else [])


def test_row_that_runs_beyond_the_header_is_refused_since_its_cells_have_shifted():
    assert said(judged(NAME, {"": "Hackney"})) == [("error", "row_too_long", "row 2")]


def test_control_characters_and_breaks_do_not_reach_the_api():
    row = prepared(NAME, {"Forename": "Tes\x00ty\u200b", "Surname": "Mc\nFictional", "Comments": "one\x07\ntwo"})
    assert (row.request["FirstName"], row.request["LastName"]) == ("Testy", "Mc Fictional")
    assert row.notes[0].text == "one\ntwo"

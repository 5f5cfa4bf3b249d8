"""Self-isolation: filters in their order, phones the other way round, notes by column, and the request for shielding."""

import pytest

from ingestion_dagster.residents.model import Note, RowStatus
from ingestion_dagster.residents.self_isolation import first_line
from ingestion_dagster_tests.residents.rows_of import judged, prepared, said

NAME = "self_isolation"
AUTHOR = "Data Ingestion: Self Isolation"


def test_request_is_the_one_the_api_has_always_got():
    row = prepared(NAME)
    assert row.request == {
        "HelpNeeded": "Welfare Call",
        "CallbackRequired": True,
        "NhsCtasId": "si000001",
        "NhsNumber": "9990000115",
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
        "Metadata": {"LA_support_required": "1", "LA_support_letter_received": "0"},
    }
    assert (row.notes, row.shielding_note) == ((), None)


@pytest.mark.parametrize(
    ("house", "street", "line"),
    [("12", "A road", "12 A road"), ("A road", "A road", "A road"), ("", "A road", "A road"), ("12", "", "12"), ("", "", "")],
)
def test_house_and_street_make_one_line(house: str, street: str, line: str):
    assert first_line(house, street) == line


def test_every_outcome_and_the_comment_become_notes_that_name_their_column():
    cells = {
        "Day 4 Outcome": "no answer",
        "Day 7 Outcome": "",
        "Day 10 Outcome": "spoke",
        "Day 13 Outcome": "done",
        "Comments": "needs shopping",
    }
    assert prepared(NAME, cells).notes == (
        Note(AUTHOR, "Day 4 Outcome: no answer"),
        Note(AUTHOR, "Day 10 Outcome: spoke"),
        Note(AUTHOR, "Day 13 Outcome: done"),
        Note(AUTHOR, "Comments: needs shopping"),
    )


def test_a_letter_asks_for_shielding_with_a_note():
    note = Note(AUTHOR, "--- self-reported CEV resident identified through self-isolation support process ---")
    assert prepared(NAME, {"LA Support Letter Received": "1"}).shielding_note == note
    assert prepared(NAME, {"LA Support Letter Received": "1", "LA Support Required": ""}).shielding_note == note
    assert prepared(NAME, {"LA Support Letter Received": "Yes"}).shielding_note is None


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ({"Status Report": "failed"}, "not_completed"),
        ({"Status Report": ""}, "not_completed"),
        ({"LA Support Required": "0"}, "no_support_flag"),
        ({"LA Support Required": ""}, "no_support_flag"),
        ({"LA Support Required": "Yes"}, "no_support_flag"),
        ({"LA Support Required": "1.0"}, "no_support_flag"),
        ({"LA Support Required": "TRUE"}, "no_support_flag"),
        ({"Date Tested": ""}, "no_date_tested"),
        ({"Date Tested": "13/11/2026"}, "tested_too_long_ago"),
        ({"Date Tested": "01/09/2026"}, "tested_too_long_ago"),
        ({"Status Report": "failed", "Date Tested": "yesterday"}, "not_completed"),
        ({"LA Support Required": "0", "Date Tested": "yesterday"}, "no_support_flag"),
    ],
)
def test_row_that_is_not_ours_is_skipped_whatever_else_is_wrong_with_it(cells: dict[str, str], code: str):
    row = judged(NAME, {**cells, "Date of Birth": "30/02/1970"})
    assert row.status is RowStatus.SKIPPED
    assert row.reason is not None
    assert row.reason.code == code


def test_six_days_are_not_too_long_and_completed_is_read_in_any_case():
    assert judged(NAME, {"Date Tested": "14/11/2026", "Status Report": "COMPLETED"}).status is RowStatus.PENDING


@pytest.mark.parametrize(("column", "text"), [("Date Tested", "yesterday"), ("Date of Birth", "30/02/1970")])
def test_dates_that_cannot_be_read_are_refused(column: str, text: str):
    assert said(judged(NAME, {column: text})) == [("error", "bad_date", f"row 2, column '{column}'")]

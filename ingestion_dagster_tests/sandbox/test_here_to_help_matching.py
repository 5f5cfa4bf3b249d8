"""Whom a create call is found to be about, what it does to them, and which request it is found to be."""

from typing import Any

import pytest

from ingestion_dagster_tests.sandbox.asking import Client

NAMES = {"FirstName": "Testy", "LastName": "McFictional"}
BORN = {"DobDay": "2", "DobMonth": "5", "DobYear": "1963"}
NUMBER = {"NhsNumber": "9990000115"}

# What is kept, what comes in, and whether that is the same person.
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nhs_number_alone": (NUMBER, NUMBER),
    "nhs_number_with_spaces_comes_in": (NUMBER, {"NhsNumber": " 999 000 0115 "}),
    "nhs_number_with_spaces_is_kept": ({"NhsNumber": "999 000 0115"}, NUMBER),
    "nhs_number_though_all_else_differs": (NUMBER | NAMES | BORN, NUMBER | {"FirstName": "Other", "LastName": "Person", "DobYear": "1999"}),
    "names_and_uprn": (NAMES | {"Uprn": "900000000001"}, NAMES | {"Uprn": " 900000000001 "}),
    "names_in_other_case_and_untrimmed": (NAMES | BORN, {"FirstName": " TESTY ", "LastName": "mcfictional"} | BORN),
    "date_of_birth": (NAMES | BORN, NAMES | BORN),
    "date_of_birth_after_an_unknown_nhs_number": (NAMES | BORN, NAMES | BORN | NUMBER),
    "date_of_birth_after_another_uprn": (NAMES | BORN | {"Uprn": "1"}, NAMES | BORN | {"Uprn": "2"}),
    "leading_zeros_come_in": (NAMES | BORN, NAMES | {"DobDay": "02", "DobMonth": " 05", "DobYear": " 1963 "}),
    "leading_zeros_are_kept": (NAMES | {"DobDay": "02", "DobMonth": "05", "DobYear": "1963"}, NAMES | BORN),
    "month_names": (NAMES | BORN | {"DobMonth": "May"}, NAMES | BORN | {"DobMonth": "MAY "}),
    "ctas_id": (
        NAMES | {"NhsCtasId": "abcd1234", "HelpNeeded": "Welfare Call"},
        NAMES | {"NhsCtasId": " ABCD1234", "HelpNeeded": "Shielding"},
    ),
    "mail": (NAMES | {"EmailAddress": "testy@example.invalid"}, NAMES | {"EmailAddress": " TESTY@example.invalid"}),
    "mobile": (NAMES | {"ContactMobileNumber": "07700900101"}, NAMES | {"ContactMobileNumber": "07700900101"}),
    "telephone": (NAMES | {"ContactTelephoneNumber": "02079460101"}, NAMES | {"ContactTelephoneNumber": "02079460101"}),
    "mobile_that_is_kept_as_telephone": (NAMES | {"ContactTelephoneNumber": "07700900101"}, NAMES | {"ContactMobileNumber": "07700900101"}),
    "telephone_that_is_kept_as_mobile": (NAMES | {"ContactMobileNumber": "07700900101"}, NAMES | {"ContactTelephoneNumber": "07700900101"}),
}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "names_alone": (NAMES, NAMES),
    "another_nhs_number": (NUMBER, {"NhsNumber": "9990000123"}),
    "nhs_number_blank_on_both_sides": ({"NhsNumber": " "}, {"NhsNumber": ""}),
    "nhs_number_null_on_both_sides": ({"NhsNumber": None}, {"NhsNumber": None}),
    "uprn_blank_on_both_sides": (NAMES | {"Uprn": ""}, NAMES | {"Uprn": " "}),
    "uprn_of_a_house_shared_by_another": (NAMES | {"Uprn": "1"}, {"FirstName": "Other", "LastName": "McFictional", "Uprn": "1"}),
    "no_first_name": (NAMES | BORN, {"LastName": "McFictional"} | BORN),
    "blank_last_name": (NAMES | BORN, {"FirstName": "Testy", "LastName": " "} | BORN),
    "blank_names_on_both_sides": ({"FirstName": "", "LastName": ""} | BORN, {"FirstName": "", "LastName": ""} | BORN),
    "null_names_in_the_database": (BORN, NAMES | BORN),
    "day_missing_on_both_sides": (NAMES | BORN | {"DobDay": ""}, NAMES | BORN | {"DobDay": ""}),
    "null_date_of_birth_in_the_database": (NAMES, NAMES | BORN),
    "only_leading_zeros_are_stripped": (NAMES | BORN | {"DobDay": "1"}, NAMES | BORN | {"DobDay": "10"}),
    "another_year": (NAMES | BORN, NAMES | BORN | {"DobYear": "1964"}),
    "null_ctas_id_in_the_database": (NAMES | {"HelpNeeded": "Shielding"}, NAMES | {"NhsCtasId": "abcd1234", "HelpNeeded": "Shielding"}),
    "ctas_id_with_another_name": (
        NAMES | {"NhsCtasId": "abcd1234", "HelpNeeded": "Welfare Call"},
        {"FirstName": "Other", "LastName": "Person", "NhsCtasId": "abcd1234", "HelpNeeded": "Shielding"},
    ),
    "mail_blank_on_both_sides": (NAMES | {"EmailAddress": ""}, NAMES | {"EmailAddress": ""}),
    "phones_blank_on_both_sides": (
        NAMES | {"ContactMobileNumber": "", "ContactTelephoneNumber": ""},
        NAMES | {"ContactMobileNumber": "", "ContactTelephoneNumber": " "},
    ),
    "mail_shared_by_another": (
        NAMES | {"EmailAddress": "testy@example.invalid"},
        NAMES | {"FirstName": "Other", "EmailAddress": "testy@example.invalid"},
    ),
    "phone_shared_by_another": (
        NAMES | {"ContactMobileNumber": "07700900101", "ContactTelephoneNumber": "07700900101"},
        NAMES | {"LastName": "Other", "ContactMobileNumber": "07700900101", "ContactTelephoneNumber": "07700900101"},
    ),
    "born_on_the_same_day": (NAMES | BORN, NAMES | BORN | {"FirstName": "Other"}),
    "postcode_and_address": (
        NAMES | {"Postcode": "ZZ99 3VZ", "AddressFirstLine": "1 Imaginary Road"},
        NAMES | {"Postcode": "ZZ99 3VZ", "AddressFirstLine": "1 Imaginary Road"},
    ),
}


def metadata(**ids: Any) -> dict[str, Any]:
    return {"Metadata": ids, "HelpNeeded": "Shielding"}


@pytest.mark.parametrize("case", SAME)
def test_a_known_person_is_not_kept_twice(client: Client, case: str):
    kept, incoming = SAME[case]
    bystander = client.resident_of(FirstName="By", LastName="Stander", NhsNumber="9990000999", EmailAddress="by@example.invalid")
    person = client.resident_of(**kept)
    assert person != bystander
    assert client.resident_of(**incoming) == person
    assert client.counts()[0] == 2


@pytest.mark.parametrize("case", OTHERS)
def test_two_persons_are_not_taken_for_one(client: Client, case: str):
    kept, incoming = OTHERS[case]
    assert client.resident_of(**kept) != client.resident_of(**incoming)


def test_the_first_rule_decides_and_the_first_person_of_several(client: Client):
    by_number = client.resident_of(**NUMBER)
    by_uprn = client.resident_of(**NAMES, Uprn="1")
    by_birth = client.resident_of(**NAMES, **BORN)
    assert client.resident_of(FirstName="Twin", LastName="One", EmailAddress="twins@example.invalid") == by_birth + 1
    assert client.resident_of(FirstName="Twin", LastName="One", ContactMobileNumber="07700900101") == by_birth + 2
    assert client.resident_of(FirstName="Twin", LastName="One", ContactTelephoneNumber="07700900101") == by_birth + 2
    both = {"FirstName": "twin", "LastName": "one", "ContactMobileNumber": "07700900101", "EmailAddress": "twins@example.invalid"}
    assert client.resident_of(**both) == by_birth + 1
    assert client.resident_of(**NAMES, **BORN, Uprn="1") == by_uprn
    assert client.resident_of(**NUMBER, **NAMES, **BORN) == by_number


def test_a_blank_erases_and_a_null_does_not(client: Client):
    kept = NUMBER | NAMES | BORN | {"EmailAddress": "testy@example.invalid"}
    client.create(**kept)
    assert client.resident_of(NhsNumber="9990000115", FirstName="", EmailAddress=None) == 1
    found = client.get("v4/residents/1")
    assert (found["FirstName"], found["LastName"], found["EmailAddress"]) == ("", "McFictional", "testy@example.invalid")


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("123", "789", "123 / 789"),
        ("123", "123", "123"),
        ("123", "", "123"),
        ("123", " ", "123"),
        ("123", None, "123"),
        ("", "789", "789"),
        (None, "789", "789"),
        ("123 / 789", "789", "123 / 789"),
        ("123 / 789", "456", "123 / 789 / 456"),
    ],
    ids=["other", "same", "empty", "blank", "null", "none_yet_but_a_blank", "none_yet", "contained", "third"],
)
def test_phones_are_appended_and_never_lost(client: Client, old: str | None, new: str | None, kept: str):
    client.create(**NUMBER, ContactTelephoneNumber=old, ContactMobileNumber=old)
    client.create(**NUMBER, ContactTelephoneNumber=new, ContactMobileNumber=new)
    found = client.get("v4/residents/1")
    assert (found["ContactTelephoneNumber"], found["ContactMobileNumber"]) == (kept, kept)


def test_an_address_is_replaced_whole_or_not_at_all(client: Client):
    old = {"AddressFirstLine": "1 Old Road", "AddressSecondLine": "Flat 1", "Postcode": "ZZ99 3VZ", "Uprn": "1", "Ward": "W"}
    client.create(**NUMBER, **old)
    client.create(**NUMBER, AddressSecondLine="Flat 2", Uprn="2", Postcode="ZZ99 4VZ")
    assert old.items() <= client.get("v4/residents/1").items()
    client.create(**NUMBER, AddressFirstLine="2 New Road", Postcode="")
    gone = {"AddressSecondLine": None, "AddressThirdLine": None, "Uprn": None, "Ward": None, "Postcode": ""}
    assert (gone | {"AddressFirstLine": "2 New Road"}).items() <= client.get("v4/residents/1").items()


def test_a_ctas_id_finds_a_request_of_the_same_kind_only_and_exactly(client: Client):
    first = client.create(**NUMBER, NhsCtasId="abcd1234", HelpNeeded="Welfare Call")
    assert client.create(**NUMBER, NhsCtasId="abcd1234", HelpNeeded="WELFARE call") == first
    assert client.create(**NUMBER, NhsCtasId="ABCD1234", HelpNeeded="Welfare Call") != first
    assert client.create(**NUMBER, NhsCtasId="abcd1234", HelpNeeded="Contact Tracing") != first
    assert client.create(**NUMBER, NhsCtasId=None, HelpNeeded="Welfare Call") > first


def test_blank_ctas_ids_find_each_other_across_persons(client: Client):
    first = client.create(**NUMBER, NhsCtasId="", HelpNeeded="Contact Tracing")
    assert client.create(NhsNumber="9990000123", NhsCtasId="", HelpNeeded="Contact Tracing") == first
    assert client.counts() == (2, 1, 0)


def test_a_ctas_id_without_a_kind_of_help_is_refused_and_leaves_an_orphan(client: Client):
    answer = client.ask("POST", "v3/help-requests", NUMBER | {"NhsCtasId": "abcd1234"})
    assert answer.status == 400
    assert answer.json.startswith("Record not created. ")
    assert client.counts() == (1, 0, 0)


@pytest.mark.parametrize("name", ["nsss_id", "spl_id"])
def test_metadata_ids_find_requests_of_anybody(client: Client, name: str):
    first = client.create(**NUMBER, **metadata(**{name: "aaaa-1"}))
    assert client.create(NhsNumber="9990000123", **metadata(**{name: "aaaa-1"})) == first
    assert client.create(NhsNumber="9990000123", **metadata(**{name: "AAAA-1"})) != first
    assert client.create(NhsNumber="9990000123", **metadata(**{name: None})) > first + 1


def test_another_systems_metadata_id_is_not_taken_for_it(client: Client):
    first = client.create(**NUMBER, **metadata(nsss_id="1"))
    assert client.create(**NUMBER, **metadata(spl_id="1")) != first


def test_a_generic_id_finds_the_persons_own_requests_only(client: Client):
    first = client.create(**NUMBER, **metadata(generic_ingestion_id="EUSS"))
    other = client.create(NhsNumber="9990000123", **metadata(generic_ingestion_id="EUSS"))
    assert other != first
    assert client.create(**NUMBER, **metadata(generic_ingestion_id="EUSS")) == first
    assert client.create(**NUMBER, **metadata(generic_ingestion_id="EUSSRepairs")) not in {first, other}


@pytest.mark.parametrize(
    ("kept", "incoming", "found"),
    [
        ("abc", "a%", True),
        ("abc", "a_c", True),
        ("abc", "a_", False),
        ("a%", "abc", False),
        ("a%c", "a\\%c", True),
        ("abc", "a\\%c", False),
        ("a\nc", "a_c", True),
        ("", "", True),
        ("", "%", True),
        ("a.c", "a.c%", True),
        ("abc", "a.c%", False),
        ("5", 5, True),
    ],
    ids=[
        "percent",
        "underscore",
        "too_short",
        "kept_is_no_pattern",
        "escaped",
        "escaped_other",
        "line",
        "blank",
        "all",
        "dot",
        "nodot",
        "number",
    ],
)
def test_the_incoming_metadata_id_is_a_pattern(client: Client, kept: str, incoming: Any, found: bool):
    first = client.create(**NUMBER, **metadata(nsss_id=kept))
    assert (client.create(**NUMBER, **metadata(nsss_id=incoming)) == first) is found


def test_a_pattern_that_ends_in_the_middle_is_refused(client: Client):
    client.create(**NUMBER, **metadata(nsss_id="a"))
    assert client.ask("POST", "v3/help-requests", NUMBER | metadata(nsss_id="a\\")).status == 400
    assert client.ask("POST", "v3/help-requests", NUMBER | metadata(nsss_id="a\\\\")).status == 201


def test_a_request_that_is_found_is_left_as_it_is_but_for_one_more_note(client: Client):
    client.create(**NUMBER, **metadata(nsss_id="1"), CallbackRequired=False, CaseNotes="first")
    client.create(**NUMBER, Metadata={"nsss_id": "1", "more": 1}, HelpNeeded="EUSS", CallbackRequired=True, CaseNotes="")
    found = client.get("v3/help-requests/1")
    assert (found["CallbackRequired"], found["HelpNeeded"], found["Metadata"]) == (False, "Shielding", '{"nsss_id": "1"}')
    assert found["CaseNotes"] == "[first, ]"


def test_somebody_elses_blank_id_leaves_an_orphan_and_writes_the_note_on_the_first_persons_request(client: Client):
    assert client.create(**NUMBER, **metadata(spl_id=""), CaseNotes="one") == 1
    assert client.create(FirstName="Other", LastName="Person", **metadata(spl_id=""), CaseNotes="two") == 1
    assert client.counts() == (2, 1, 2)
    assert client.get("v3/help-requests/1")["FirstName"] is None
    assert client.get("v3/help-requests/1")["CaseNotes"] == "[one, two]"

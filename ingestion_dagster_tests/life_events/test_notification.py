"""The DeathNotificationSet has the names, the nesting and the nulls of specification §3, and an acquirer gets what it is to get."""

import copy
import uuid
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import orjson
import pytest

from ingestion_dagster.life_events import notification
from ingestion_dagster.life_events.notification import FIELDS, REGISTERED, UPDATED, document, minimise

KEY = "ab" * 32
ISSUED = datetime(2031, 2, 5, 6, 30, 0, 999_000, tzinfo=UTC)
NEW: dict[str, Any] = {
    "RegistrationID": "900000001",
    "RecordLockedDateTime": "2031-02-04T09:30:00",
    "DeceasedName": {
        "PersonNameTitle": "Mx",
        "PersonGivenName": ["Testina", "Fictia"],
        "PersonFamilyName": "PLACEHOLDER",
        "PersonNameSuffix": "Jr",
    },
    "DeceasedGender": "2",
    "DeceasedDeathDate": {"PersonDeathDate": "2031-02-03", "VerificationLevel": "03"},
    "DeceasedBirthDate": {"PersonBirthDate": "1951-06-07"},
    "DeceasedAddress": {"Flat": "2", "Building": "Mock House", "Line": ["1 Imaginary Row"], "Postcode": "ZZ1 1ZZ"},
}
LEAST = {
    "RegistrationID": "1",
    "RecordLockedDateTime": "2031-02-04T09:30:00",
    "DeceasedName": {"PersonFamilyName": "LONE"},
    "DeceasedGender": "9",
}


def event(**changes: Any) -> dict[str, Any]:
    fields = {name: value for name, value in (NEW | changes).items() if value is not None}
    (found,) = document(fields, KEY, ISSUED)["events"].values()
    return found


def subject(**changes: Any) -> dict[str, Any]:
    return event(**changes)["subject"]


def parts(name: dict[str, Any]) -> list[tuple[str, str]]:
    return [(part["type"], part["value"]) for part in name["nameParts"]]


def test_a_new_registration_whole():
    def part(kind: str, value: str) -> dict[str, Any]:
        return {"type": kind, "value": value, "validFrom": None, "validUntil": None}

    name = {
        "description": None,
        "nameParts": [part("GivenName", "Testina"), part("GivenName", "Fictia"), part("FamilyName", "PLACEHOLDER")],
        "validFrom": None,
        "validUntil": None,
    }
    nothing = (
        "addressCountry addressLocality buildingName buildingNumber departmentName dependentAddressLocality dependentStreetName "
        "doubleDependentAddressLocality organisationName streetName subBuildingName uprn validFrom validUntil"
    )
    found = document(NEW, KEY, ISSUED, correlation_id="6d4c1ab2-0000-4000-8000-000000000001")
    assert found == {
        "aud": None,
        "events": {
            "https://vocab.account.gov.uk/v1/deathRegistered": {
                "deathDate": {"description": None, "value": "2031-02-03"},
                "deathRegistration": "urn:fdc:gro.gov.uk:2023:death:900000001",
                "deathRegistrationTime": "2031-02-04T09:30:00Z",
                "freeFormatDeathDate": None,
                "subject": {
                    "address": [dict.fromkeys(nothing.split()) | {"postalCode": "ZZ1 1ZZ"}],
                    "birthDate": [{"description": None, "value": "1951-06-07"}],
                    "name": [name],
                    "sex": ["Female"],
                    "freeFormatBirthDate": None,
                },
            }
        },
        "exp": None,
        "iat": 1928039400,
        "iss": None,
        "jti": found["jti"],
        "nbf": None,
        "sub": None,
        "toe": 1927963800,
        "txn": "6d4c1ab2-0000-4000-8000-000000000001",
    }
    orjson.dumps(found)


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("1", "formal_correction"),
        ("2", "quality_assurance"),
        ("3", "typographical"),
        ("4", "cancelled"),
        ("5", "cancellation_removed"),
        (None, None),
    ],
)
def test_an_update_is_another_type_with_its_time_and_reason(reason: str | None, word: str | None):
    fields = {name: value for name, value in NEW.items() if name != "RecordLockedDateTime"}
    fields |= {"RecordUpdateDateTime": "2031-02-05T10:00:00.250"} | ({"RecordUpdateReason": reason} if reason else {})
    found = document(fields, KEY, ISSUED)
    assert list(found["events"]) == [UPDATED] == ["https://vocab.account.gov.uk/v1/deathRegistrationUpdated"]
    assert found["events"][UPDATED]["recordUpdateTime"] == "2031-02-05T10:00:00.250Z"
    assert found["events"][UPDATED]["deathRegistrationUpdateReason"] == word
    assert "deathRegistrationTime" not in found["events"][UPDATED]
    assert found["toe"] == 1928052000


def test_with_both_times_it_is_an_update_that_took_place_when_it_was_locked():
    found = document(NEW | {"RecordUpdateDateTime": "2031-02-05T10:00:00"}, KEY, ISSUED)
    assert list(found["events"]) == [UPDATED]
    assert found["events"][UPDATED]["recordUpdateTime"] == "2031-02-05T10:00:00Z"
    assert found["toe"] == 1927963800


def test_a_new_registration_says_nothing_of_updates():
    assert not {"recordUpdateTime", "deathRegistrationUpdateReason"} & set(document(NEW, KEY, ISSUED)["events"][REGISTERED])


def test_jti_is_a_uuid_that_is_the_same_for_a_record_however_often_it_is_sent():
    first, again = (document(NEW, KEY, at, correlation_id="x")["jti"] for at in (ISSUED, datetime(2032, 1, 1, tzinfo=UTC)))
    assert first == again == str(uuid.UUID(first))
    assert document(NEW, "cd" * 32, ISSUED)["jti"] != first
    assert KEY not in first


def test_txn_without_a_correlation_id_is_jti():
    found = document(NEW, KEY, ISSUED)
    assert found["txn"] == found["jti"]


@pytest.mark.parametrize(("code", "word"), [("1", "Male"), ("2", "Female"), ("9", "Indeterminate")])
def test_sex_is_a_word(code: str, word: str):
    assert subject(DeceasedGender=code)["sex"] == [word]


@pytest.mark.parametrize(
    ("known", "value"),
    [
        ({"Whole": "2031-02-03"}, "2031-02-03"),
        ({"Whole": "2031-02-03", "Year": "2030", "Month": "1"}, "2031-02-03"),
        ({"Year": "2030"}, "2030"),
        ({"Year": "2030", "Month": "4"}, "2030-04"),
        ({"Year": "2030", "Month": "12"}, "2030-12"),
        ({"Month": "12"}, None),
        ({}, None),
    ],
    ids=["day", "day and month", "year", "month", "two digits", "month alone", "nothing"],
)
@pytest.mark.parametrize("of", ["Death", "Birth"])
def test_a_date_is_told_as_far_as_it_is_known(of: str, known: dict[str, str], value: str | None):
    fields: dict[str, Any] = {f"Deceased{of}Date": {f"Person{of}Date": known["Whole"]} if "Whole" in known else None}
    fields |= {f"Partial{part}Of{of}": known[part] for part in ("Year", "Month") if part in known}
    found = event(**fields)
    assert (found["deathDate"] if of == "Death" else found["subject"]["birthDate"][0])["value"] == value


def test_what_qualifies_a_date_goes_with_it():
    found = event(QualifierText="On or about", FreeFormatDeathDate="Spring", FreeFormatBirthDate="Around 1960")
    assert found["deathDate"]["description"] == "On or about"
    assert found["freeFormatDeathDate"] == "Spring"
    assert found["subject"]["freeFormatBirthDate"] == "Around 1960"
    assert found["subject"]["birthDate"][0]["description"] is None


def test_every_alias_has_the_type_that_stands_at_its_place_or_none():
    names = [
        {"PersonGivenName": ["One"]},
        {"PersonGivenName": ["Two"], "PersonFamilyName": "SECOND"},
        {"PersonFamilyName": "THIRD"},
        {"PersonGivenName": ["Four"]},
    ]
    found = subject(DeceasedAliasName=names, DeceasedAliasNameType=["otherwise", None, "formerly known as"])["name"][1:]
    assert [(name["description"], parts(name)) for name in found] == [
        ("otherwise", [("GivenName", "One")]),
        (None, [("GivenName", "Two"), ("FamilyName", "SECOND")]),
        ("formerly known as", [("FamilyName", "THIRD")]),
        (None, [("GivenName", "Four")]),
    ]


@pytest.mark.parametrize(
    "alias", [None, {}, {"PersonNameTitle": "Dr"}, {"PersonNameSuffix": "PhD"}], ids=["empty", "bare", "title", "suffix"]
)
def test_an_alias_without_given_and_family_name_is_a_null_that_keeps_its_place(alias: dict[str, Any] | None):
    found = subject(DeceasedAliasName=[alias, {"PersonGivenName": ["Second"]}], DeceasedAliasNameType=["first", "second"])["name"]
    assert [name and name["description"] for name in found] == [None, None, "second"]
    assert found[1] is None


def test_every_maiden_name_has_the_given_names_of_the_main_name():
    found = subject(DeceasedMaidenName=["FIRST", "SECOND"])["name"][1:]
    given = [("GivenName", "Testina"), ("GivenName", "Fictia")]
    assert [name["description"] for name in found] == ["Name before marriage"] * 2
    assert [parts(name) for name in found] == [[*given, ("FamilyName", "FIRST")], [*given, ("FamilyName", "SECOND")]]


def test_a_maiden_name_without_given_names_has_an_empty_one():
    found = subject(DeceasedName={"PersonFamilyName": "LONE"}, DeceasedMaidenName=["FIRST"])["name"]
    assert parts(found[0]) == [("FamilyName", "LONE")]
    assert parts(found[1]) == [("GivenName", ""), ("FamilyName", "FIRST")]


def test_names_come_in_the_order_main_aliases_maiden_names():
    found = subject(DeceasedMaidenName=["M"], DeceasedAliasName=[{"PersonFamilyName": "A"}], DeceasedAliasNameType=["otherwise"])["name"]
    assert [name["description"] for name in found] == [None, "otherwise", "Name before marriage"]


def test_of_an_address_the_postcode_alone_is_passed_on():
    text = orjson.dumps(document(NEW, KEY, ISSUED)).decode()
    assert "ZZ1 1ZZ" in text
    assert not [word for word in ("Mock House", "1 Imaginary Row", "Mx", "Jr") if word in text]


def test_the_least_there_can_be_is_nulls_and_not_a_failure():
    found = document(LEAST, KEY, ISSUED)["events"][REGISTERED]
    assert found["deathDate"] == {"description": None, "value": None}
    assert found["subject"]["birthDate"] == [{"description": None, "value": None}]
    assert set(found["subject"]["address"][0].values()) == {None}


OF = {
    "NAME": {"name"},
    "SEX": {"sex"},
    "DEATH_DATE": {"deathDate", "freeFormatDeathDate"},
    "BIRTH_DATE": {"birthDate", "freeFormatBirthDate"},
    "ADDRESS": {"address"},
}
CHOICES = [choice for count in range(len(OF) + 1) for choice in combinations(OF, count)]


@pytest.mark.parametrize("kind", [REGISTERED, UPDATED], ids=["new", "update"])
def test_minimised_documents_have_what_is_listed_and_what_everybody_gets(kind: str):
    updated = {"RecordUpdateDateTime": "2031-02-05T10:00:00", "RecordUpdateReason": "1"} if kind == UPDATED else {}
    whole = document(NEW | updated, KEY, ISSUED)
    before = copy.deepcopy(whole)
    always = {"deathRegistration", "subject"} | (
        {"recordUpdateTime", "deathRegistrationUpdateReason"} if updated else {"deathRegistrationTime"}
    )
    assert tuple(OF) == FIELDS
    for choice in CHOICES:
        least = minimise(whole, choice)
        named = set().union(*(OF[field] for field in choice))
        found = least["events"][kind]
        assert set(found) == always | (named & OF["DEATH_DATE"])
        assert set(found["subject"]) == named - OF["DEATH_DATE"]
        assert {name: value for name, value in least.items() if name != "events"} == {
            name: value for name, value in whole.items() if name != "events"
        }
        assert all(value == whole["events"][kind][name] for name, value in found.items() if name != "subject")
        assert found["subject"].items() <= {name: whole["events"][kind]["subject"][name] for name in found["subject"]}.items()
    assert whole == before
    assert minimise(whole, FIELDS) == whole


def test_what_is_not_listed_is_nowhere_in_the_document():
    text = orjson.dumps(minimise(document(NEW | {"DeceasedMaidenName": ["HIDDEN"]}, KEY, ISSUED), [])).decode()
    assert not [word for word in ("Testina", "PLACEHOLDER", "HIDDEN", "Female", "2031-02-03", "1951", "ZZ1") if word in text]


def test_a_field_there_is_not_is_no_field_left_out():
    with pytest.raises(ValueError, match="NAME, SEX"):
        minimise(document(NEW, KEY, ISSUED), ["NAMES"])


def test_no_personal_value_goes_into_the_id():
    assert notification.document(LEAST, KEY, ISSUED)["jti"] == document(NEW, KEY, ISSUED)["jti"]

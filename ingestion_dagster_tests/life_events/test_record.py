"""One registration: every fault is told, with its field and without its value; what it is known by; and the event it becomes."""

import datetime
import json
import re

import pytest

from ingestion_dagster.life_events import record
from ingestion_dagster_tests.life_events.registrations import (
    DEATH,
    GENDER,
    ID,
    LOCKED,
    NAME,
    SAMPLES,
    event,
    group,
    identity,
    judged,
    only,
    read,
    registration,
)

GOOD = registration()
UPDATED = "<RecordUpdateDateTime>2031-02-05T10:00:00.000</RecordUpdateDateTime>"


def with_text(element: str, text: str, inside: str = "") -> str:
    whole = f"<{element}>{text}</{element}>"
    return registration(f"<{inside}>{whole}</{inside}>" if inside else whole)


# What makes a record bad


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (registration(without=ID), ("missing_registration_id", "RegistrationID")),
        (registration("<RegistrationID> </RegistrationID>", without=ID), ("missing_registration_id", "RegistrationID")),
        (registration(without=LOCKED), ("missing_timestamp", "RecordLockedDateTime")),
        (registration(without=NAME), ("missing_name", "DeceasedName")),
        (registration("<DeceasedName/>", without=NAME), ("missing_name", "DeceasedName")),
        (
            registration("<DeceasedName><PersonNameTitle>Mx</PersonNameTitle></DeceasedName>", without=NAME),
            ("missing_name", "DeceasedName"),
        ),
        (registration(without=GENDER), ("missing_gender", "DeceasedGender")),
        (registration("<DeceasedGender>0</DeceasedGender>", without=GENDER), ("unknown_gender", "DeceasedGender")),
        (registration("<DeceasedGender>M</DeceasedGender>", without=GENDER), ("unknown_gender", "DeceasedGender")),
        (with_text("RecordUpdateReason", "6"), ("bad_update_reason", "RecordUpdateReason")),
        (with_text("RecordUpdateReason", "01"), ("bad_update_reason", "RecordUpdateReason")),
        (with_text("VerificationLevel", "04", "DeceasedBirthDate"), ("bad_verification_level", "DeceasedBirthDate")),
        (
            GOOD.replace("</DeceasedDeathDate>", "<VerificationLevel>3</VerificationLevel></DeceasedDeathDate>"),
            ("bad_verification_level", "DeceasedDeathDate"),
        ),
        (with_text("RegistrationType", "1"), ()),
        (registration(GENDER), ("repeated_element", "DeceasedGender")),
        (registration("<DeceasedGender/>"), ()),
        (registration(NAME), ("repeated_element", "DeceasedName")),
        (registration("<DeceasedName/>"), ()),
        (GOOD.replace("Testina", "Tes<b>ti</b>na"), ("mixed_content", "PersonGivenName")),
        (GOOD.replace("<PersonGivenName>", "words<PersonGivenName>"), ("mixed_content", "DeceasedName")),
        (registration("words"), ("mixed_content", "DeathRegistration")),
        (registration("<Other>words</Other>"), ("unknown_element", "DeathRegistration")),
        (registration("<PersonFamilyName>X</PersonFamilyName>"), ("unknown_element", "DeathRegistration")),
        (registration(GOOD), ("unknown_element", "DeathRegistration")),
        (registration(attributes=" a='b'"), ("unknown_attribute", "DeathRegistration")),
        (GOOD.replace("<DeceasedGender", "<DeceasedGender a='b'"), ("unknown_attribute", "DeceasedGender")),
        (registration(without=DEATH), ("no_death_date", "DeceasedDeathDate")),
        (with_text("PartialMonthOfBirth", "4"), ("month_without_year", "PartialMonthOfBirth")),
    ],
    ids=map(str, range(28)),
)
def test_what_is_wrong_with_a_record_is_told(text: str, expected: tuple[str, ...]) -> None:
    assert judged(text) == ([expected] if expected else [])


WARNINGS = {"unknown_element", "unknown_attribute", "no_death_date", "month_without_year"}


def test_what_is_merely_odd_does_not_make_a_record_bad() -> None:
    text = registration("<Other a='b'/>", "<PartialMonthOfBirth>4</PartialMonthOfBirth>", without=DEATH, attributes=" a='b'")
    found = record.judge(only(text))
    assert {problem.code for problem in found} == WARNINGS
    assert {problem.severity for problem in found} == {"warning"}


def test_independent_faults_are_all_told() -> None:
    text = registration(
        "<DeceasedGender>7</DeceasedGender><DeceasedDeathDate><PersonDeathDate>2031-02-30</PersonDeathDate>"
        "<VerificationLevel>9</VerificationLevel></DeceasedDeathDate><DeceasedBirthDate><PersonBirthDate>1.2.1951</PersonBirthDate>"
        "</DeceasedBirthDate><PartialMonthOfDeath>13</PartialMonthOfDeath><PartialYearOfDeath>31</PartialYearOfDeath>"
        "<PartialMonthOfBirth>0</PartialMonthOfBirth><PartialYearOfBirth>later</PartialYearOfBirth>",
        without=f"{ID}{LOCKED}{NAME}{GENDER}{DEATH}",
    )
    assert {code for code, _ in judged(text)} == {
        "missing_registration_id",
        "missing_timestamp",
        "missing_name",
        "unknown_gender",
        "bad_death_date",
        "bad_verification_level",
        "bad_birth_date",
        "bad_partial_month_of_death",
        "bad_partial_year_of_death",
        "bad_partial_month_of_birth",
        "bad_partial_year_of_birth",
    }


def test_an_empty_record_is_told_all_that_it_lacks() -> None:
    codes = {code for code, _ in judged("<DeathRegistration/>")}
    assert codes == {"missing_registration_id", "missing_timestamp", "missing_name", "missing_gender", "no_death_date"}


@pytest.mark.parametrize(
    "text",
    ["1", "999999999", "00000000-0000-4000-8000-000000000001", "A+=,.@-_z", "x" * 80],
)
def test_a_registration_id_is_any_opaque_text(text: str) -> None:
    assert event(registration(f"<RegistrationID>{text}</RegistrationID>", without=ID))["registrationId"] == text
    assert judged(registration(f"<RegistrationID>{text}</RegistrationID>", without=ID)) == []


@pytest.mark.parametrize("text", ["x" * 81, "9 9", "9/9", "é", "9\n9", "٣"])
def test_a_registration_id_that_the_platform_cannot_take_is_bad(text: str) -> None:
    found = judged(registration(f"<RegistrationID>{text}</RegistrationID>", without=ID))
    assert found == [("bad_registration_id", "RegistrationID")]


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("2031-02-04T09:30:00", True),
        ("2031-02-04T09:30:00.123", True),
        ("2032-02-29T23:59:59", True),
        ("0001-01-01T00:00:00", True),
        ("2031-02-29T09:30:00", False),
        ("2031-02-04T24:00:00", False),
        ("2031-02-04T09:60:00", False),
        ("2031-02-04T09:30:60", False),
        ("2031-02-04T09:30", False),
        ("2031-02-04 09:30:00", False),
        ("2031-02-04T09:30:00Z", False),
        ("2031-02-04T09:30:00+00:00", False),
        ("2031-02-04T09:30:00.", False),
        ("2031-02-04", False),
        ("0000-02-04T09:30:00", False),
        ("2031-2-4T09:30:00", False),
    ],
)
def test_a_time_is_a_real_one_without_a_zone(text: str, is_good: bool) -> None:
    for element in ("RecordLockedDateTime", "RecordUpdateDateTime"):
        found = judged(registration(f"<{element}>{text}</{element}>", without=LOCKED))
        assert found == ([] if is_good else [("bad_timestamp", element)])


def test_a_date_is_good_exactly_if_the_calendar_has_it() -> None:
    for year in (1600, 1700, 1900, 2000, 2023, 2024, 2031):
        for month in range(14):
            for day in range(33):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    is_real = bool(datetime.date.fromisoformat(text))
                except ValueError:
                    is_real = False
                assert record._is_day(text) is is_real, text


@pytest.mark.parametrize("part", ["PersonNameTitle", "PersonGivenName", "PersonFamilyName", "PersonNameSuffix"])
@pytest.mark.parametrize("structure", ["DeceasedName", "DeceasedAliasName"])
@pytest.mark.parametrize("length", [128, 129])
def test_a_name_may_be_as_long_as_the_register_has_them(structure: str, part: str, length: int) -> None:
    family = "<PersonFamilyName>PLACEHOLDER</PersonFamilyName>" if part != "PersonFamilyName" else ""
    text = f"<{structure}>{family}<{part}>{'É' * length}</{part}></{structure}>"
    found = judged(registration(text, without=NAME if structure == "DeceasedName" else ""))
    assert found == ([] if length == 128 else [("name_too_long", structure)])


def test_a_maiden_name_may_be_as_long_as_others() -> None:
    assert judged(with_text("DeceasedMaidenName", "X" * 128)) == []
    assert judged(with_text("DeceasedMaidenName", "X" * 129)) == [("name_too_long", "DeceasedMaidenName")]


@pytest.mark.parametrize(
    "parts",
    [
        "<PartialYearOfDeath>2030</PartialYearOfDeath>",
        "<PartialYearOfDeath>2030</PartialYearOfDeath><PartialMonthOfDeath>04</PartialMonthOfDeath>",
        "<FreeFormatDeathDate>In winter</FreeFormatDeathDate>",
    ],
    ids=["year", "month", "words"],
)
def test_a_death_without_a_day_is_no_fault(parts: str) -> None:
    assert judged(registration(parts, without=DEATH)) == []


def test_no_problem_quotes_a_value() -> None:
    marked = (SAMPLES / "01_valid_namespaced.xml").read_text(encoding="utf-8")
    for value in ("900000001", "2031-02-04T09:30:00", "2031-02-03", "1951-06-07", ">2<", ">03<", "Testina"):
        marked = marked.replace(value, re.sub("[^<>]+", "MARKER &amp; \u00eb", value))
    marked = marked.replace("<DeceasedAddress>", "<MARKER MARKER='MARKER'>MARKER</MARKER><DeceasedAddress>MARKER")
    told = [problem for found in read(marked.encode()) for problem in record.judge(found)]
    assert len({problem.code for problem in told}) >= 7
    assert "MARKER" not in repr(told)


# What a record is known by

NAMESPACED = (SAMPLES / "01_valid_namespaced.xml").read_bytes()


def test_the_identity_is_the_parsed_record() -> None:
    assert json.loads(identity(GOOD)) == {
        "DeceasedDeathDate": {"PersonDeathDate": "2031-02-03"},
        "DeceasedGender": "2",
        "DeceasedName": {"PersonFamilyName": "PLACEHOLDER", "PersonGivenName": ["Testina"]},
        "RecordLockedDateTime": "2031-02-04T09:30:00",
        "RegistrationID": "900000001",
    }


@pytest.mark.parametrize(
    "other",
    [
        GOOD.replace("><", ">\n\t  <"),
        GOOD.replace(">Testina<", "> \r\n Testina\t<"),
        GOOD.replace("Testina", "<![CDATA[Test]]><!-- mock -->ina"),
        GOOD.replace("Testina", "Test&#105;n&#x61;"),
        registration(ID, LOCKED, without=f"{ID}{LOCKED}"),
        registration("<DeceasedAddress><Line/><Postcode> </Postcode></DeceasedAddress>", "<QualifierText/>"),
        registration("<DeceasedAliasName/>", "<DeceasedAliasNameType/>", "<DeceasedMaidenName/>"),
        registration(attributes=" xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:nil='false' xml:space='preserve'"),
        GOOD.replace("<DeathRegistration>", '<DeathRegistration xmlns="http://www.ons.gov.uk/gro/OGDDeathExtractDWP">'),
    ],
    ids=["layout", "padding", "sections", "references", "order", "empty", "empty_lists", "schema", "namespace"],
)
def test_spelling_is_no_part_of_the_identity(other: str) -> None:
    assert identity(other) == identity(GOOD)


def test_one_character_has_one_form() -> None:
    composed, apart = (registration(f"<QualifierText>Zo{form}</QualifierText>") for form in ("\u00eb", "e\u0308"))
    assert identity(composed) == identity(apart)
    assert only(apart).fields["QualifierText"] == "Zo\u00eb"


@pytest.mark.parametrize(
    "other",
    [
        registration(UPDATED),
        GOOD.replace("09:30:00", "09:30:01"),
        GOOD.replace("Testina", "TESTINA"),
        GOOD.replace("</PersonGivenName>", "</PersonGivenName><PersonGivenName>Fictia</PersonGivenName>"),
        GOOD.replace("<DeceasedGender>2", "<DeceasedGender>1"),
        registration("<Other/>"),
        registration("<Other>1</Other>"),
        registration("<Other><Inner/></Other>"),
        registration("<Other a='1'/>"),
        registration("<Inner/>"),
        registration(attributes=" a='1'"),
        registration(attributes=" a='2'"),
        registration("<DeceasedMaidenName>IMAGINARY</DeceasedMaidenName>"),
        registration("<DeceasedAliasNameType>IMAGINARY</DeceasedAliasNameType>"),
        registration("<DeceasedAliasName/><DeceasedAliasNameType>IMAGINARY</DeceasedAliasNameType>", GENDER),
    ],
    ids=map(str, range(15)),
)
def test_other_content_is_another_record(other: str) -> None:
    assert identity(other) != identity(GOOD)


def test_records_that_differ_in_what_is_not_known_differ() -> None:
    others = ["<O/>", "<O>1</O>", "<O><I/></O>", "<O/><I/>", "<O a='1'/>", "<O a='2'/>", "<O/><O/>", "<O xmlns='mock:a'/>"]
    others += ["<O><I/><I/></O>", "<O><I/></O><O><I/></O>", "<DeceasedAddress><O/></DeceasedAddress>", "<DeceasedAddress O='1'/>"]
    assert len({identity(registration(other)) for other in others}) == len(others)
    assert identity(registration("<O b='2' a='1'/>")) == identity(registration("<O a='1'  b='2'></O>"))


def test_repeats_are_in_order() -> None:
    lines = "<DeceasedAddress><Line>1</Line><Line>2</Line></DeceasedAddress>"
    assert identity(registration(lines)) != identity(registration(lines.replace("1", "3").replace("2", "1").replace("3", "2")))


def test_the_same_record_has_one_identity_in_files_of_both_kinds() -> None:
    plain = only((SAMPLES / "02_valid_unnamespaced_single_record.xml").read_bytes()).fields
    spelled = read(NAMESPACED)[0].fields
    assert record.canonical({name: plain[name] for name in spelled}) == record.canonical(spelled)
    assert set(plain) - set(spelled) == {"RegistrationType", "RecordUpdateDateTime"}


# The event


def test_the_event_has_the_attributes_of_the_specification() -> None:
    found = record.attributes(read(NAMESPACED)[0].fields, "ab" * 32, keep_record=False)
    assert list(found.items()) == [
        ("hash", "ab" * 32),
        ("registrationId", "900000001"),
        ("eventTime", "2031-02-04T09:30:00"),
        ("dateOfDeath", "2031-02-03"),
        ("verificationLevel", "03"),
        ("partialMonthOfDeath", None),
        ("partialYearOfDeath", None),
        ("forenames", "Testina Fictia"),
        ("surname", "PLACEHOLDER"),
        ("maidenSurname", "IMAGINARY"),
        ("sex", "F"),
        ("dateOfBirth", "1951-06-07"),
        ("addressLine1", None),
        ("addressLine2", None),
        ("addressLine3", "1 Imaginary Row"),
        ("addressLine4", "1 Imaginary Row\nFakeham"),
        ("postcode", "ZZ1 1ZZ"),
    ]


def test_what_the_first_generation_lost_is_kept() -> None:
    _, second, third, fourth = (record.attributes(found.fields, "ab" * 32) for found in read(NAMESPACED))
    nobody = {"title": None, "surname": None, "suffix": None}
    assert second["aliases"] == [
        nobody | {"forenames": "Mocky", "type": "otherwise"},
        nobody | {"forenames": "Mox", "type": "formerly known as"},
    ]
    assert (second["eventTime"], second["sex"]) == ("2031-02-05T10:00:00.000", "M")
    assert (third["sex"], third["partialMonthOfDeath"], third["partialYearOfDeath"], third["dateOfDeath"]) == ("X", 4, 2030, None)
    assert (third["qualifierText"], third["freeFormatBirthDate"], third["partialYearOfBirth"]) == ("On or about", "Around 1960", 1960)
    assert (third["forenames"], third["surname"], third["postcode"]) == ("Zoë-Ĺïne", "O'EXAMPLE", None)
    assert (fourth["maidenSurname"], fourth["surname"]) == ("FIRSTNAME, SECONDNAME", "NOTREAL & SONS")
    assert [fourth[f"addressLine{line}"] for line in (1, 2, 3, 4)] == ["2", "Mock House", "Only One Line", "Only One Line"]


def test_the_locked_time_comes_before_that_of_the_update() -> None:
    assert event(registration(UPDATED))["eventTime"] == "2031-02-04T09:30:00"
    assert event(registration(UPDATED, without=LOCKED))["eventTime"] == "2031-02-05T10:00:00.000"


def test_aliases_keep_their_types_when_some_are_empty() -> None:
    def alias(name: str) -> str:
        return f"<DeceasedAliasName><PersonFamilyName>{name}</PersonFamilyName></DeceasedAliasName>"

    def kind(text: str) -> str:
        return f"<DeceasedAliasNameType>{text}</DeceasedAliasNameType>"

    def pairs(*elements: str) -> list[tuple[str, str]]:
        return [(each["surname"], each["type"]) for each in event(registration(*elements)).get("aliases", [])]

    assert pairs(alias("ONE"), kind("a"), alias("TWO"), kind("b")) == [("ONE", "a"), ("TWO", "b")]
    assert pairs(alias("ONE"), alias("TWO"), kind("a"), kind("b")) == [("ONE", "a"), ("TWO", "b")]
    assert pairs(alias("ONE"), kind(""), alias("TWO"), kind("b")) == [("ONE", None), ("TWO", "b")]
    assert pairs("<DeceasedAliasName/>", kind("a"), alias("TWO"), kind("b")) == [(None, "a"), ("TWO", "b")]
    assert pairs(alias("ONE"), alias("TWO"), kind("a")) == [("ONE", "a"), ("TWO", None)]
    assert pairs(alias("ONE"), kind("a"), "<DeceasedAliasName/>", kind("")) == [("ONE", "a")]
    assert pairs("<DeceasedAliasName/>", "<DeceasedAliasNameType/>") == []


def test_the_parsed_record_goes_along_only_where_it_is_asked_for() -> None:
    fields = only(GOOD).fields
    assert "record" not in record.attributes(fields, "ab" * 32)
    assert record.attributes(fields, "ab" * 32, keep_record=True)["record"] == fields


def test_numbers_of_birth_and_words_of_death_are_kept() -> None:
    texts = {"PartialMonthOfBirth": "06", "PartialYearOfBirth": "1951", "FreeFormatDeathDate": "In winter"}
    found = event(registration(*(f"<{name}>{text}</{name}>" for name, text in texts.items())))
    assert (found["partialMonthOfBirth"], found["partialYearOfBirth"], found["freeFormatDeathDate"]) == (6, 1951, "In winter")


def test_a_record_of_the_largest_shape_is_kept_whole() -> None:
    maiden = [f"NAME{number}" for number in range(5)]
    lines = [f"{number} Imaginary Row" for number in range(6)]
    elements = [f"<DeceasedMaidenName>{name}</DeceasedMaidenName>" for name in maiden]
    elements += ["<DeceasedAddress>", *(f"<Line>{line}</Line>" for line in lines), "</DeceasedAddress>"]
    for number in range(4):
        elements.append(f"<DeceasedAliasName><PersonGivenName>A{number}</PersonGivenName></DeceasedAliasName>")
        elements.append(f"<DeceasedAliasNameType>kind {number}</DeceasedAliasNameType>")
    found = event(group(registration(*elements)))
    assert found["maidenSurname"] == ", ".join(maiden)
    assert found["addressLine4"] == "\n".join(lines)
    assert [(alias["forenames"], alias["type"]) for alias in found["aliases"]] == [(f"A{number}", f"kind {number}") for number in range(4)]

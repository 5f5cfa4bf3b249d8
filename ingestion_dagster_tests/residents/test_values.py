"""What is said of single cells: names keep their case, numbers and postcodes are doubted, shapes tell nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_dagster.residents import values

NAMES = {
    "McFictional": "McFictional",
    "McTesty": "McTesty",
    "MCFICTIONAL": "Mcfictional",
    "mcfictional": "Mcfictional",
    "o'nullworth": "O'Nullworth",
    "O'NULLWORTH": "O'Nullworth",
    "o\u2019nullworth": "O\u2019Nullworth",
    "placeholder-jones": "Placeholder-Jones",
    "Placeholder-Jones": "Placeholder-Jones",
    "de Pretend": "de Pretend",
    "VAN DER FAUX": "Van Der Faux",
    "nan": "Nan",
    "Nan": "Nan",
    "Infinity": "Infinity",
    "None": "None",
    "A": "A",
    "ÉLISE": "Élise",
    "李": "李",
    "": "",
}
PHONES = {
    "07700900123": None,
    "07700 900123": None,
    "+447700900123": None,
    "+44 (0)7700 900123": None,
    "00447700900123": None,
    "020 7946 0101": None,
    "(020) 7946-0101": None,
    "+353 1 700 0000": None,
    "7700900123": "leading zero",
    "2079460101": "leading zero",
    "447700900123": "no number of this country",
    "0770090012": None,
    "077009001": "too short",
    "077009001234": "too short or too long",
    "7.70E+09": "not only digits",
    "unknown": "not only digits",
    "07700900123 / 02079460101": "too short or too long",
    "٠٧٧٠٠٩٠٠١٢٣": "not only digits",
}


@pytest.mark.parametrize("written", NAMES, ids=repr)
def test_only_names_in_one_case_are_changed(written: str):
    assert values.name(written) == NAMES[written]


@pytest.mark.parametrize("written", PHONES, ids=ascii)
def test_phone_numbers_are_doubted_with_a_reason(written: str):
    fault = values.phone_fault(written)
    expected = PHONES[written]
    assert fault is None if expected is None else (fault is not None and expected in fault)


def test_nhs_numbers_are_judged_by_their_last_digit():
    assert all(map(values.has_nhs_check_digit, ("9990000115", "999 000 0484", "9990000859")))
    assert not any(map(values.has_nhs_check_digit, ("9990000116", "999000011", "99900001150", "٩٩٩٠٠٠٠١١٥", "", "none")))


@given(st.integers(0, 999_999))
def test_no_two_last_digits_fit(number: int):
    assert sum(values.has_nhs_check_digit(f"999{number:06d}{digit}") for digit in range(10)) <= 1


def test_numbers_that_many_people_have_are_told_from_those_that_are_theirs():
    assert all(map(values.is_placeholder_number, ("unknown", "N/A", "0000000000", "999 999 9999", "-", "9.99E+09")))
    assert not any(map(values.is_placeholder_number, ("9990000115", "9990000116", "990")))


def test_ids_that_find_the_requests_of_others_are_unsafe():
    unsafe = ("ct%01", "ct_01", "ct\\01", "nan", "NaN", "inf", "-Infinity", "None", "N/A", "#REF!", "unknown", "-", "??", "1.23E+11")
    assert [text for text in unsafe if values.is_safe_id(text)] == []
    safe = ("ct0000aa", "1234e567", "00123456", "aaaa0001-synthetic", "999 000 0115", "E05", "Nancy1")
    assert [text for text in safe if not values.is_safe_id(text)] == []


def test_postcodes_are_known_by_their_shape():
    assert all(map(values.is_postcode, ("ZZ99 3VZ", "zz99 4aa", "ZZ993VZ", "ZZ99  3VZ", "E1 1AA", "EC1A 1BB", "GIR 0AA")))
    assert not any(map(values.is_postcode, ("ZZ99", "3VZ ZZ99", "Nowhere", "ZZ99 3V", "12345", "ZZ99 3VZ England")))


def test_shapes_keep_no_letter_and_no_digit():
    assert values.shape("02/05/83") == "99/99/99"
    assert values.shape("12 Nov 1998") == "99 Aaa 9999"
    assert values.shape("Élise 李 ½\x00") == "Aaaaa a 9?"
    assert len(values.shape("x" * 500)) == 25


@given(st.text(min_size=1))
def test_shapes_never_tell_what_was_there(text: str):
    assert not {each for each in values.shape(text) if each.isalnum()} - {"a", "A", "9"}


def test_what_nobody_sees_is_taken_out_and_lines_stay_in_notes_only():
    assert values.line_text("\ufeffTesty\x00\x07\u200b ") == "Testy"
    assert values.line_text("Testy\r\nMac") == "Testy Mac"
    assert values.note_text(" first\nsecond\x0b\x1b ") == "first\nsecond"
    assert values.line_text("E8  1DY") == "E8  1DY"
    assert values.trimmed("\u200b\ufeff ID \u200b") == "ID"


@given(st.text())
def test_clean_text_holds_no_control_character_and_stays_as_it_is(text: str):
    line = values.line_text(text)
    assert values.line_text(line) == line
    assert all(character.isprintable() or not character.isascii() for character in line)

"""What can be wrong with a file of death registrations or with one record: codes, places and next steps, never a value."""

from ingestion_dagster.engine.errors import Problem

RECORD = "DeathRegistration"
"""Field of a problem that is of the record as a whole."""

LIMITS = frozenset({"record_too_large", "too_deep", "text_too_long", "too_many_repeats"})
"""Codes of records that were not read to their end, so that nothing more is known of them."""

WARNINGS = frozenset({"unknown_element", "unknown_attribute", "replacement_character", "no_death_date", "month_without_year"})
"""Codes that do not make a record bad."""

FILE_MESSAGES = {
    "empty": "the file has no bytes; have it sent again",
    "not_well_formed": "this is no well-formed XML; have the file sent again",
    "doctype_forbidden": "a file of registrations has no DOCTYPE, and none is ever read; have it sent without",
    "bad_encoding": "this is in no encoding that is accepted; have the file sent as UTF-8, or see INGESTION_LIFE_EVENTS_ENCODINGS",
    "wrong_root": "the root is not DeathRegistrationGroup, with its namespace or with none; this is another kind of file",
    "unexpected_element": "the group holds something else than DeathRegistration and RecordCount; this is another version of the format",
    "unexpected_text": "text stands between the records, where none belongs; have the file sent again",
    "record_count_missing": "there is no RecordCount, so that nobody can tell whether the file is whole; have it sent again",
    "record_count_not_last": "RecordCount is not the last element, so that it does not tell whether the file is whole; have it sent again",
    "record_count_invalid": "RecordCount is not a whole number; have the file sent again",
    "token_too_long": "a single tag, comment or instruction is longer than any of a file of registrations; have it sent again",
    "too_deep": "elements stand in one another deeper than in any file of registrations; have it sent again",
    "too_many_names": "there are more different names of elements, attributes and namespaces than in any file of registrations",
}
"""What is wrong with a file as a whole, and what to do."""

RECORD_MESSAGES = {
    "record_too_large": "the record is larger than any registration is",
    "too_deep": "elements stand in one another deeper than in any registration",
    "text_too_long": "a text is longer than any of a registration is",
    "too_many_repeats": "an element stands there more often than in any registration",
    "unknown_element": "an element that is not of this format stands there; it counts as part of the record, and is not passed on",
    "unknown_attribute": "an attribute that is not of this format stands there; it counts as part of the record, and is not passed on",
    "repeated_element": "an element that can be there once is there several times; which one holds is GRO's to say",
    "mixed_content": "text and elements stand beside each other where only one of them belongs",
    "replacement_character": "somebody before us has lost a character (U+FFFD stands for it)",
    "missing_registration_id": "the record has no RegistrationID",
    "bad_registration_id": "RegistrationID is longer than 80 characters or has others than letters, digits and + = , . @ - _",
    "missing_timestamp": "neither RecordLockedDateTime nor RecordUpdateDateTime is there",
    "bad_timestamp": "this is no time as yyyy-MM-ddTHH:mm:ss, with or without fractions of a second and without a zone",
    "bad_update_reason": "the reason is none of 1 to 5",
    "missing_name": "there is neither a given name nor a family name",
    "name_too_long": "a part of a name has more than 128 characters",
    "missing_gender": "the record has no DeceasedGender",
    "unknown_gender": "the code is none of 1, 2 and 9",
    "bad_death_date": "this is no date as yyyy-MM-dd",
    "bad_birth_date": "this is no date as yyyy-MM-dd",
    "bad_verification_level": "the level is none of 00 to 03",
    "bad_partial_month_of_death": "this is no month, 1 to 12",
    "bad_partial_year_of_death": "this is no year of four digits",
    "bad_partial_month_of_birth": "this is no month, 1 to 12",
    "bad_partial_year_of_birth": "this is no year of four digits",
    "no_death_date": "there is no date of death at all, not even in words",
    "month_without_year": "there is a month without a year, which says nothing",
}
"""What is wrong with a record. A bad one is kept out; what to do is always to have GRO deliver the record again, corrected."""

CODES = (*FILE_MESSAGES, *(code for code in RECORD_MESSAGES if code not in FILE_MESSAGES), "record_count_mismatch")
"""Every code there is."""


def of_file(code: str, place: str = "the whole file") -> Problem:
    """A problem of the file as a whole."""
    return Problem(code, place, FILE_MESSAGES[code])


def count_mismatch(expected: int, found: int) -> Problem:
    """RecordCount says another number than there are records."""
    message = f"expected {expected} records, found {found}: the file is not whole, or not right; have it sent again"
    return Problem("record_count_mismatch", "RecordCount", message)


def of_record(code: str, ordinal: int, offset: int, field: str = RECORD) -> Problem:
    """A problem of a record: its place in the file from 1, the byte that it begins at, and the element that is meant."""
    place, message = f"record {ordinal} (byte {offset}), {field}", RECORD_MESSAGES[code]
    if code in WARNINGS:
        return Problem(code, place, message, "warning")
    return Problem(code, place, f"{message}; have GRO deliver the record again")

"""Case notes: written so that nothing in them is lost, and known again however they are kept."""

from datetime import UTC, datetime

import orjson
import pytest

from ingestion_dagster.residents.model import Note
from ingestion_dagster.residents.notes import comparable, joined_texts, missing, note_date, stored_text, written


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2021, 2, 23, 15, 18, 33, tzinfo=UTC), "Tue, 23 Feb 2021 15:18:33 GMT"),
        (datetime(2021, 6, 5, 23, 30, 0, tzinfo=UTC), "Sun, 06 Jun 2021 00:30:00 BST"),
        (datetime(2021, 3, 28, 1, 0, 0, tzinfo=UTC), "Sun, 28 Mar 2021 02:00:00 BST"),
        (datetime(2021, 10, 31, 1, 0, 0, tzinfo=UTC), "Sun, 31 Oct 2021 01:00:00 GMT"),
    ],
)
def test_a_note_bears_londons_time_with_its_zone(moment: datetime, text: str):
    assert note_date(moment) == text


@pytest.mark.parametrize("text", ['says "no"', "back\\slash", "two\nlines\r\n", "\t", "[a], {b}", "\u2028\U0001f600", "it's None, null"])
def test_what_is_written_is_read_again_letter_by_letter(text: str):
    stored = written(Note('Data "Ingestion"', text), datetime(2021, 2, 23, tzinfo=UTC))
    assert list(orjson.loads(stored)) == ["author", "noteDate", "note"]
    assert stored_text(stored) == text
    assert joined_texts(f"[{stored}, {stored}]") == (text, text)


@pytest.mark.parametrize("nothing", [None, "", " ", "[]"])
def test_no_notes_are_no_texts(nothing: str | None):
    assert joined_texts(nothing) == ()


@pytest.mark.parametrize(
    "unclear",
    ["[, ]", "[raw]", '[{"note": "a"}, raw]', '["raw"]', "[1, 2]", "[null]", "[[]]", '{"note": "a"}', '[{"note": 5}]', '[{"text": "a"}]'],
)
def test_notes_that_cannot_be_told_apart_are_not_taken_for_none(unclear: str):
    assert joined_texts(unclear) is None


@pytest.mark.parametrize(
    "raw", ["plain", "", "5", '"quoted"', "{'note': 'python'}", '{"author": "a"}', '{"note": null}', "__import__('os')"]
)
def test_a_note_that_is_not_ours_is_its_whole_text(raw: str):
    assert stored_text(raw) == raw


def test_blanks_do_not_tell_notes_apart_but_case_does():
    assert comparable("  a \n\t b\u00a0c ") == "a b c"
    notes = [Note("x", "One  note"), Note("y", "one note"), Note("z", " One note\n"), Note("x", "two")]
    assert [note.text for note in missing(notes, ["two ", "other"])] == ["One  note", "one note"]


def test_a_note_of_another_author_counts_as_there():
    assert missing([Note("ours", "same")], ["same"]) == []

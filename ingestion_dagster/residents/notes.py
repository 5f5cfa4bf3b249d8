"""Case notes as the Here to Help API keeps them: how ours are written, and how those that are there are read."""

from collections.abc import Iterable
from datetime import datetime

import orjson

from ingestion_dagster.residents.dates import LONDON
from ingestion_dagster.residents.model import Note

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def written(note: Note, now: datetime) -> str:
    """The text that is stored for a note: JSON with author, noteDate and note. `now` has a zone."""
    return orjson.dumps({"author": note.author, "noteDate": note_date(now), "note": note.text}).decode()


def note_date(now: datetime) -> str:
    """A moment as notes bear it, on London's clock and in English whatever the locale: `Tue, 23 Feb 2021 15:18:33 GMT`."""
    local = now.astimezone(LONDON)
    day, month = _DAYS[local.weekday()], _MONTHS[local.month - 1]
    return f"{day}, {local.day:02d} {month} {local.year} {local:%H:%M:%S} {local.tzname()}"


def joined_texts(case_notes: str | None) -> tuple[str, ...] | None:
    """The texts of the notes of a request, from its field CaseNotes: what is stored, between brackets and with commas, not encoded anew.

    That is JSON if every note is; None if not, and then nothing can be told from it.
    """
    if case_notes is None or not case_notes.strip():
        return ()
    try:
        notes = orjson.loads(case_notes)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(notes, list):
        return None
    texts = tuple(_text(note) for note in notes)
    return None if None in texts else tuple(text for text in texts if text is not None)


def stored_text(stored: str) -> str:
    """The text of one stored note: that of a note which is JSON, otherwise all of it."""
    try:
        text = _text(orjson.loads(stored))
    except orjson.JSONDecodeError:
        return stored
    return stored if text is None else text


def comparable(text: str) -> str:
    """A note's text as it is compared: blanks, and ends of lines, count as one blank, and none at either end."""
    return " ".join(text.split())


def missing(notes: Iterable[Note], texts: Iterable[str]) -> list[Note]:
    """Those of the notes that are not among the texts; one text once."""
    known = {comparable(text) for text in texts}
    found = []
    for note in notes:
        text = comparable(note.text)
        if text not in known:
            known.add(text)
            found.append(note)
    return found


def _text(note: object) -> str | None:
    text = note.get("note") if isinstance(note, dict) else None
    return text if isinstance(text, str) else None

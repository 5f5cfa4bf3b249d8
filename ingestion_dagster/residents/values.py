"""What can be said of a single cell: its clean text, whether it looks like what its column holds, and its shape without its content."""

import re
import unicodedata

_UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_WORD = re.compile(r"[^\s'\u2019\-]+")
_SHAPE_LENGTH = 24
_PHONE_MARKS = re.compile(r"[\s().\-/]")
_POSTCODE = re.compile(r"(?:GIR ?0AA|[A-Z]{1,2}[0-9][A-Z0-9]? ?[0-9][A-Z]{2})")
_NOT_A_NUMBER = ("nan", "-nan", "inf", "-inf", "+inf", "infinity", "-infinity", "#n/a", "#ref!", "#value!", "#name?", "#null!", "#num!")
_NO_VALUE = frozenset((*_NOT_A_NUMBER, "none", "null", "na", "n/a", "n.a.", "unknown", "not known", "tbc"))
_ROUNDED = re.compile(r"[0-9](\.[0-9]+)?E\+[0-9]{2,}")
"""How a spreadsheet program shows a long number in a narrow column: many become the same."""
_WILDCARDS = frozenset("%_\\")


def trimmed(cell: str) -> str:
    """A text without the blanks at its ends, those that nobody sees too."""
    return cell.strip().strip(_UNSEEN).strip()


def note_text(cell: str) -> str:
    """A cell's text, trimmed, without the characters that nothing can show; lines stay lines."""
    if cell.isascii() and cell.isprintable():
        return cell.strip()
    kept = (each for each in cell if each in "\t\n\r" or not (unicodedata.category(each) == "Cc" or each in _UNSEEN))
    return trimmed("".join(kept))


def line_text(cell: str) -> str:
    """A cell's text as `note_text` has it, on one line."""
    if cell.isascii() and cell.isprintable():
        return cell.strip()
    return note_text(_BREAKS.sub(" ", cell))


def name(text: str) -> str:
    """A name as it is to be sent: as it was written, unless that was all in capitals or all in small letters."""
    if not (text.isupper() or text.islower()):
        return text
    return _WORD.sub(lambda word: word[0][:1].upper() + word[0][1:].lower(), text)


def shape(text: str) -> str:
    """What a text looks like without what it says: 99/99/9999, Aaaaa; long ones are cut."""
    cut = text[:_SHAPE_LENGTH]
    return "".join(map(_shape_of, cut)) + ("…" if len(text) > len(cut) else "")


def _shape_of(character: str) -> str:
    if character.isnumeric():
        return "9"
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return character if character.isascii() and character.isprintable() else "?"


def has_nhs_check_digit(text: str) -> bool:
    """Whether a text is ten digits of which the last fits the others (modulus 11, as NHS numbers have it); blanks do not count."""
    digits = "".join(text.split())
    if not (len(digits) == 10 and digits.isascii() and digits.isdigit()):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=False))
    return (11 - total % 11) % 11 == int(digits[9])


def is_placeholder_number(text: str) -> bool:
    """Whether a number stands for none: words, one digit all along, a rounded one. Two people can have it, and would be taken for one."""
    return len({each for each in text if each.isdigit()}) < 2 or bool(_ROUNDED.fullmatch(text))


def is_safe_id(text: str) -> bool:
    """Whether the API can look for an earlier request by this id: no wildcard of its search in it, nothing that others may have too."""
    if _WILDCARDS & set(text) or text.casefold() in _NO_VALUE or _ROUNDED.fullmatch(text):
        return False
    return any(each.isalnum() for each in text)


def phone_fault(text: str) -> str | None:
    """What is odd about a phone number, or None. British numbers, and those of other countries after a +, are not."""
    digits = _PHONE_MARKS.sub("", text)
    for prefix in ("+44", "0044"):
        if digits.startswith(prefix):
            digits = "0" + digits.removeprefix(prefix).removeprefix("0")
    if not re.fullmatch(r"\+?[0-9]+", digits):
        return "not only digits"
    if digits.startswith(("+", "00")):
        return None if 8 <= len(digits.lstrip("+").removeprefix("00")) <= 15 else "too short or too long"
    if digits.startswith("0"):
        return None if 10 <= len(digits) <= 11 else "too short or too long"
    if 9 <= len(digits) <= 10 and digits[0] in "123578":
        return "its leading zero is missing; give the column the format Text before typing or pasting"
    return "no number of this country"


def is_postcode(text: str) -> bool:
    """Whether a text looks like a British postcode, ZZ99 ones included."""
    return bool(_POSTCODE.fullmatch(" ".join(text.upper().split())))

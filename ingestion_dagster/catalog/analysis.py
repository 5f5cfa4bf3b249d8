"""The words of a text, for the embedded index: as OpenSearch's `standard` analyzer and the analyzer of English text find them.

Words end where Unicode's rules for word boundaries say so (Standard Annex 29, as Lucene's standard tokenizer has it); of emoji only the
plain sequences are known.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import NamedTuple

from ingestion_dagster.catalog.mapping import STEM_OVERRIDES
from ingestion_dagster.catalog.porter import stem

LONGEST = 255
"""Characters of a word; a longer one is cut into words of this length."""

STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "if",
        "in",
        "into",
        "is",
        "it",
        "no",
        "not",
        "of",
        "on",
        "or",
        "such",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "will",
        "with",
    ]
)
"""English words that are not looked for; Lucene's list."""

_MID_LETTER = ":\u00b7\u0387\u055f\u05f4\u2027\ufe13\ufe55\uff1a"
_MID_NUMBER = ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b"
_MID_BOTH = ".'\u2018\u2019\u2024\ufe52\uff07\uff0e"
_VARIANTS = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"
_PICTURES = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-\u23fa\u25aa\u25ab\u25b6\u25c0"
    "\u25fb-\u25fe\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d\u2721\u2728\u2733\u2734\u2744\u2747\u274c"
    "\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5"
    "\U0001f201-\U0001f20f\U0001f21a\U0001f22f\U0001f232-\U0001f23a\U0001f23c-\U0001f23f\U0001f249-\U0001f53d\U0001f546-\U0001f64f\U0001f680-\U0001f6ff"
    "\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff\U0001f90c-\U0001f93a\U0001f93c-\U0001f945\U0001f947-\U0001faff"
)
"""Characters that are emoji, or set aside for them."""

_BESIDES = {
    "letter": "\u02c2-\u02c5\u02d2-\u02d7\u02de\u02df\u02ed\u02ef-\u02ff\u055b\u055c\u055e\u05f3\ua720\ua721\ua789\ua78a\uab5b",
    "digit": "\u066b",
    "katakana": "\u3031-\u3035\u309b\u309c\u30a0\u32d0-\u32fe\u3300-\u3357",
    "single": "\u2e80-\u2e99\u2e9b-\u2ef3\u2f00-\u2fd5",
}
"""What the general category does not say."""

_SOUTH_EAST = ("THAI ", "LAO ", "MYANMAR ", "KHMER ", "TAI LE ", "NEW TAI LUE ", "TAI THAM ", "TAI VIET ", "AHOM ")
_LAST = 0x32000
_ASCII = re.compile("_*+[0-9a-z][0-9a-z_]*+(?:(?:(?<=[0-9])[,;.'](?=[0-9])|(?<=[a-z])[:.'](?=[a-z]))[0-9a-z_]++)*+")
_POSSESSIVES = ("'s", "\u2019s", "\uff07s")


class Word(NamedTuple):
    """A word as it is looked for, and its place among the words of the text; stop words have had theirs."""

    text: str
    position: int


def standard(text: str) -> list[Word]:
    """The words of a text in lower case."""
    return [Word(word, position) for position, word in enumerate(_words(text))]


def english(text: str) -> list[Word]:
    """The stems of the words of an English text, without stop words."""
    return [Word(found, position) for position, found in enumerate(map(_stem, _words(text))) if found]


def lowered(text: str) -> str:
    """A text in lower case, letter by letter: a letter stays one letter, and none is looked at with its neighbours."""
    return text.replace("\u0130", "i").replace("\u03a3", "\u03c3").lower()


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str | None:
    """What stands for a lower-case word; None for a stop word."""
    if word.endswith(_POSSESSIVES):
        word = word[:-2]
    kept = STEM_OVERRIDES.get(word)
    if kept is not None:
        return kept
    return None if word in STOP_WORDS else stem(word)


def _words(text: str) -> list[str]:
    """The words in lower case."""
    text = lowered(text)
    words: list[str] = (_ASCII if text.isascii() else _pattern()).findall(text)
    if len(text) <= LONGEST or all(len(word) <= LONGEST for word in words):
        return words
    return [word[start : start + LONGEST] for word in words for start in range(0, len(word), LONGEST)]


@cache
def _pattern() -> re.Pattern[str]:
    kinds = _kinds()
    extend = f"[{kinds['extend']}]*+"
    letter, digit, katakana = (f"(?:[{kinds[kind]}]{extend})" for kind in ("letter", "digit", "katakana"))
    joint = f"(?:[{kinds['joint']}]{extend})"
    between_letters = f"(?:[{re.escape(_MID_LETTER + _MID_BOTH)}]{extend})"
    between_digits = f"(?:[{re.escape(_MID_NUMBER + _MID_BOTH)}]{extend})"
    run = (
        f"(?:{katakana}(?:{joint}*+{katakana})*"
        f"|(?:{digit}(?:(?:{joint}*+|{between_digits}){digit})*|{letter}(?:(?:{joint}*+|{between_letters}){letter})*)+)"
    )
    return re.compile(
        f"{joint}*+{run}(?:{joint}++{run})*{joint}*+"
        f"|[{kinds['south_east']}](?:[{kinds['south_east']}{kinds['extend']}])*"
        f"|(?:[{kinds['single']}]{extend})"
        f"|{_emoji(kinds['extend'])}"
    )


def _emoji(extend: str) -> str:
    picture = f"[{_PICTURES}][{_VARIANTS}]*"
    return f"(?:[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|(?:{picture}(?:\u200d{picture})*))[{extend}]*"


@cache
def _kinds() -> dict[str, str]:
    """Characters by what they are in a word, each kind as the inside of a set of a regular expression."""
    found: dict[str, list[int]] = {kind: [] for kind in ("letter", "digit", "joint", "katakana", "single", "south_east", "extend")}
    for code in (*range(_LAST), *range(0xE0020, 0xE01F0)):
        kind = _kind(chr(code))
        if kind is not None:
            found[kind].append(code)
    return {kind: _ranges(codes) + _BESIDES.get(kind, "") for kind, codes in found.items()}


def _kind(letter: str) -> str | None:
    category = unicodedata.category(letter)
    if category in ("Mn", "Mc", "Me", "Cf") and letter != "\u200b":
        return "extend"
    if category == "Nd":
        return "digit"
    if category == "Pc" or letter == "\u202f":
        return "joint"
    if category[0] == "L" or category == "Nl" or 0x24B6 <= ord(letter) <= 0x24E9:
        return _script(unicodedata.name(letter, ""))
    return None


def _script(name: str) -> str:
    if name.startswith(("KATAKANA", "HALFWIDTH KATAKANA")):
        return "katakana"
    if name.startswith(("HIRAGANA", "CJK ", "IDEOGRAPHIC ", "HANGZHOU NUMERAL", "NUSHU", "TANGUT")):
        return "single"
    return "south_east" if name.startswith(_SOUTH_EAST) else "letter"


def _ranges(codes: list[int]) -> str:
    parts: list[str] = []
    start = before = codes[0]
    for code in [*codes[1:], -1]:
        if code != before + 1:
            parts.append(f"\\U{start:08x}-\\U{before:08x}")
            start = code
        before = code
    return "".join(parts)

"""A quick look at the JSON of many rows' tags at once, for those that a rule could object to: reading all of them would take too long."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from ahocorasick_rs import BytesAhoCorasick

from ingestion_dagster.catalog.tags import EXCLUDED, EXCLUDED_PARTS, UNVETTED

# Postgres writes JSONB in one way: `{"name": "x", "accuracy": 0.95}`, the shorter key first, one space behind a colon and a comma.
_NO_STRING = b"-0123456789tfn[{"
_TOKENS = sorted(
    {
        *(part.encode() for part in EXCLUDED_PARTS if part != ":"),
        *(b'"%b"' % name.encode() for name in EXCLUDED if ":" not in name),
        *(b'"%b"' % provider.encode() for provider in UNVETTED),
        *(b'"name": %c' % character for character in _NO_STRING),
        *(b'"accuracy": 0.%d' % digit for digit in range(9)),
        *(b'"accuracy": %b' % start for start in (b"0,", b"0}", b"-", b'"')),
        b"\\",  # an escape: a name that is not what it looks like
        b'": ": ',  # a colon that no key stands before
        "\u0130".encode(),  # the two letters beyond ASCII that become ASCII ones when they are made small
        "\u212a".encode(),
    }
)
_ANY = BytesAhoCorasick(_TOKENS)
_SEPARATOR = b"\n"


def suspects(texts: Sequence[bytes]) -> set[int]:
    """The places of those texts, JSONB arrays as Postgres writes them, of which `tags.rule_against` could leave out an entry.

    It may name too many. Texts in small letters (ASCII); anything but an array of objects is suspect.
    """
    joined = _SEPARATOR.join(texts)
    found: set[int] = set()
    hits = _ANY.find_matches_as_indexes(joined)
    if hits:
        starts = [0, *accumulate(len(text) + 1 for text in texts)]
        found.update(bisect_right(starts, start) - 1 for _, start, _ in hits)
    for is_regular in _REGULAR:
        if not is_regular(joined):
            found.update(place for place, text in enumerate(texts) if not is_regular(text))
    if joined.count(b"\n[{") + joined.startswith(b"[{") < len(texts):
        found.update(place for place, text in enumerate(texts) if not text.startswith(b"[{") and text not in _NO_ENTRIES)
    return found


def _colons_stand_behind_keys(text: bytes) -> bool:
    return text.count(b":") == text.count(b'": ')


def _objects_begin_with_names(text: bytes) -> bool:
    return text.count(b"{") == text.count(b'{"name": "')


def _objects_are_followed_by_objects(text: bytes) -> bool:
    return text.count(b"}, ") == text.count(b"}, {")


_NO_ENTRIES = (b"", b"[]")
_REGULAR = (_colons_stand_behind_keys, _objects_begin_with_names, _objects_are_followed_by_objects)
"""What holds for arrays of objects with a name and without a colon in any value. One side is never the smaller: what holds for texts
together holds for each."""

"""A quick look at the JSON of many rows' tags at once, for those that a rule could object to: reading all of them would take too long."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
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
    hits = {start for _, start, _ in _ANY.find_matches_as_indexes(joined)}
    for sign, regular, covered in _REGULAR:
        hits.update(_places(joined.replace(regular, covered), sign))
    starts = [0, *accumulate(len(text) + 1 for text in texts)]
    found = {bisect_right(starts, hit) - 1 for hit in hits}
    if joined.count(b"\n[{") + joined.startswith(b"[{") < len(texts):
        found.update(place for place, text in enumerate(texts) if not text.startswith(b"[{") and text not in _NO_ENTRIES)
    return found


def _places(text: bytes, sign: bytes) -> Iterator[int]:
    place = text.find(sign)
    while place >= 0:
        yield place
        place = text.find(sign, place + 1)


_NO_ENTRIES = (b"", b"[]")
_REGULAR = (
    (b":", b'": ', b'"  '),
    (b"{", b'{"name": "', b'."name": "'),
    (b"}, ", b"}, {", b"}. {"),
)
"""Signs, where they stand in arrays of objects with a name and without a colon in any value, and as long a text to cover them there with:
what is left of a sign then is suspect."""

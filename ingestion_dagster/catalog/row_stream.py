"""Rows on their way from COPY to COPY, in Postgres's binary form: read as far as needed, cleaned where needed, and given their ids."""

import struct
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import orjson

from ingestion_dagster.catalog import cleaning, tag_scan, tags, urls
from ingestion_dagster.catalog.cleaning import Fix, Rules

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER = SIGNATURE + bytes(8)
TRAILER = b"\xff\xff"
_LENGTH = struct.Struct(">i")
_ARRAY = struct.Struct(">iiIii")
_SAFE = (b"https://", b"http://")
_NULL = b"\xff\xff\xff\xff"
_READ = frozenset((*urls.FIELDS, "title", "provider"))


def first_row(message: bytes) -> bytes:
    """The first message without the header that stands before its row. Raises `ValueError` for a stream of another kind."""
    if not message.startswith(SIGNATURE):
        raise ValueError("no binary COPY")
    (extension,) = _LENGTH.unpack_from(message, 15)
    return message[19 + extension :]


def encoded_array(element_oid: int, elements: Sequence[bytes]) -> bytes:
    """A Postgres array in binary form of elements that have their lengths before them, as fields of rows do."""
    return _ARRAY.pack(1, 1, element_oid, len(elements), 1) + b"".join(elements)


def heads(row: bytes, count: int) -> list[bytes]:
    """The first fields of a row, each with its length before it."""
    result, start = [], 2
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(row, start)
        end = start + 4 + max(length, 0)
        result.append(row[start:end])
        start = end
    return result


def uuids(rows: Sequence[bytes]) -> list[bytes]:
    """The first field of each row, a UUID, with its length before it."""
    return [row[2:22] if row[5] == 16 else row[2:6] for row in rows]


class Sieve:
    """Which rows are cleaned, and how. `columns`: those of a row in order: `identifier`, what cleaning reads, the rest; `tags` last."""

    def __init__(self, columns: Sequence[str], rules: Rules) -> None:
        self._rules = rules
        self._titled = bool(rules.optional.intersection(("html_titles", "wikimedia_titles")))
        self._addresses = sum(column in urls.FIELDS for column in columns)
        self._tagged = columns[-1] == "tags"
        last = max((place for place, name in enumerate(columns) if name in _READ), default=0)
        self._head = tuple(columns[: last + 1])
        if columns[0] != "identifier" or ("tags" in columns and not self._tagged):
            raise ValueError("identifier comes first, tags last")

    def suspects(self, rows: Sequence[bytes]) -> list[int]:
        """The places of rows that cleaning could change, in order. It may name too many."""
        if self._titled:
            return list(range(len(rows)))
        count = self._addresses
        found = {place for place, row in enumerate(rows) if not _all_have_schemes(row, count)}
        if self._tagged:
            # JSON has no byte 1: the last one of a row is the version that JSONB begins with.
            texts = [b"" if row[-4:] == _NULL else row[row.rfind(b"\x01") + 1 :].lower() for row in rows]
            found |= tag_scan.suspects(texts)
            if "unescape_tags" in self._rules.optional:
                found.update(place for place, text in enumerate(texts) if tags.ESCAPED.search(text))
        return sorted(found)

    def clean(self, row: bytes) -> tuple[bytes, tuple[Fix, ...], UUID | None]:
        """The row cleaned, what was changed, and its identifier."""
        head = heads(row, len(self._head))
        readable: dict[str, Any] = {
            name: field[4:].decode(errors="surrogateescape")
            for name, field in zip(self._head, head, strict=True)
            if name in _READ and field != _NULL
        }
        end = len(row)
        if self._tagged:
            end = len(row) - 4 if row[-4:] == _NULL else row.rfind(b"\x01") - 4
            if row[-4:] != _NULL:
                readable["tags"] = orjson.loads(row[end + 5 :])
        cleaned, fixes = cleaning.clean_row(readable, self._rules)
        if not fixes:
            return row, (), None
        changed = {fix.field for fix in fixes}
        middle = row[2 + sum(map(len, head)) : end]
        new_head = [_field(cleaned[name]) if name in changed else field for name, field in zip(self._head, head, strict=True)]
        tail = _field(cleaned["tags"]) if "tags" in changed else row[end:]
        return b"".join((row[:2], *new_head, middle, tail)), fixes, UUID(bytes=head[0][4:]) if len(head[0]) == 20 else None


def _all_have_schemes(row: bytes, count: int, at: Callable[[bytes, int], tuple[int]] = _LENGTH.unpack_from) -> bool:
    """Whether the addresses, which stand behind the identifier, begin with http, or are empty."""
    start = 26 if row[5] == 16 else 10
    for _ in range(count):
        length = at(row, start - 4)[0]
        if length > 0:
            if not row.startswith(_SAFE, start, start + length):
                return False
            start += length
        start += 4
    return True


def _field(value: Any) -> bytes:
    """A cleaned value as a field: text, or JSONB."""
    encoded = value.encode(errors="surrogateescape") if isinstance(value, str) else b"\x01" + orjson.dumps(value)
    return _LENGTH.pack(len(encoded)) + encoded

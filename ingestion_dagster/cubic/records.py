"""Cuts a file's bytes into blocks that end where a record ends: each can be parsed for itself, and the file is never held whole."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ingestion_dagster.cubic.dfm import Dialect
from ingestion_dagster.engine.errors import Problem, Refused

BLOCK = 1 << 23
LONGEST = 1 << 25
"""Bytes of the longest record that is accepted."""

_TAIL = 1 << 16
_MOST_QUOTES = 1 << 22
"""Above which their positions would need too much memory; they are then looked at one by one."""

_FEED, _RETURN = b"\n\r"
_Bytes = np.ndarray[Any, np.dtype[np.uint8]]


_Positions = np.ndarray[Any, np.dtype[np.int64]]
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records, and the number of the line on which the first of them begins (from 1)."""

    content: memoryview
    line: int

    def after(self, size: int) -> "Block":
        """The block without its first bytes."""
        return Block(self.content[size:], self.line + line_feeds(self.content[:size]))


def blocks(pieces: Iterator[bytes], dialect: Dialect, size: int = BLOCK) -> Iterator[Block]:
    """The records of a file in blocks of about `size` bytes, the same however the pieces are cut. A byte order mark is left out.

    Raises Refused: `record_too_long` when a record is longer than 32 MB, `unclosed_quote` when the file ends within quotes.
    """
    line = 1
    begun = False
    wanted = size
    parts: list[bytes] = []
    held = 0
    for piece in pieces:
        parts.append(piece)
        held += len(piece)
        while held >= wanted:
            content = b"".join(parts)
            start = 0 if begun or not content.startswith(_BYTE_ORDER_MARK) else len(_BYTE_ORDER_MARK)
            block = memoryview(content)[start:wanted]
            end = start + last_end(block, dialect)
            if end > start:
                block = memoryview(content)[start:end]
                yield Block(block, line)
                line += line_feeds(block)
                content, begun, wanted = content[end:], True, size
            elif wanted >= LONGEST:
                raise Refused(
                    Problem("record_too_long", f"line {line}", "a record is longer than 32 MB; look for a quote that is not closed")
                )
            else:
                wanted *= 2
            parts, held = [content], len(content)
    content = b"".join(parts)
    block = memoryview(content if begun else content.removeprefix(_BYTE_ORDER_MARK))
    if not block:
        return
    if is_open(block, dialect):
        end = last_end(block, dialect)
        line += line_feeds(block[:end])
        raise Refused(Problem("unclosed_quote", f"line {line}", "the file ends within quotes that begin in this record; deliver it again"))
    yield Block(block, line)


def line_feeds(content: memoryview) -> int:
    """How many there are."""
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == _FEED))


def last_end(content: memoryview, dialect: Dialect) -> int:
    """Where the last record that ends within `content` ends, which begins with a record; 0: none does."""
    quotes = _quotes(content, dialect)
    if quotes is not None:
        for start in (max(0, len(content) - _TAIL), 0):
            ends = _even(content[start:], quotes - start, _FEED)
            if len(ends):
                return start + int(ends[-1])
        return 0
    ends = record_ends(content, dialect)
    return int(ends[-1]) if len(ends) else 0


def is_open(content: memoryview, dialect: Dialect) -> bool:
    """Whether `content`, which begins with a record, ends within quotes."""
    if not dialect.quote or dialect.quote.encode() not in content.obj:  # type: ignore[operator]
        return False
    quotes = _quotes(content, dialect)
    if quotes is not None:
        return len(quotes) % 2 == 1
    ends = record_ends(content, dialect)
    rest = content[int(ends[-1]) if len(ends) else 0 :]
    return bool(rest) and not _record(dialect).fullmatch(bytes(rest) + b"\n")


def record_ends(content: memoryview, dialect: Dialect) -> _Positions:
    """Where each record ends in `content`, line end included; a last one without a line end is left out."""
    quotes = _quotes(content, dialect)
    if quotes is None:
        return np.fromiter(_one_by_one(content, dialect), np.int64)
    ends = _even(content, quotes, _FEED)
    view = np.frombuffer(content, np.uint8)
    if _RETURN in view:
        returns = _even(content, quotes, _RETURN)
        alone = np.ones(len(returns), bool)
        alone[returns < len(view)] = view[returns[returns < len(view)]] != _FEED
        ends = np.union1d(ends, returns[alone])
    return ends


def _one_by_one(content: memoryview, dialect: Dialect) -> Iterator[int]:
    record, end = _record(dialect), 0
    while found := record.match(content, end):
        end = found.end()
        yield end


def _even(content: memoryview, quotes: _Positions, mark: int) -> _Positions:
    """Behind the marks that have an even number of quotes before them."""
    marks = np.flatnonzero(np.frombuffer(content, np.uint8) == mark)
    return (marks[np.searchsorted(quotes, marks) % 2 == 0] if len(quotes) else marks) + 1


def _quotes(content: memoryview, dialect: Dialect) -> _Positions | None:
    """Where the quotes are, if counting them is enough to know what is quoted.

    It is where quotes stand only at the start and the end of a field, or doubled within. None: one stands elsewhere, or there are
    too many of them.
    """
    if dialect.escape:
        return None
    if not dialect.quote:
        return np.empty(0, np.int64)
    view = np.frombuffer(content, np.uint8)
    marks = view == ord(dialect.quote)
    if np.count_nonzero(marks) > _MOST_QUOTES:
        return None
    quotes = np.flatnonzero(marks)
    opening, closing = quotes[0::2], quotes[1::2]
    follows = closing[: len(opening) - 1] + 1
    if not _around(view, opening[1:] - 1, dialect, opening[1:] == follows) or not _around(view, opening[:1] - 1, dialect, opening[:1] == 0):
        return None
    inner = closing[closing < len(view) - 1]
    return quotes if _around(view, inner + 1, dialect, view[inner + 1] == ord(dialect.quote)) else None


def _around(view: _Bytes, positions: _Positions, dialect: Dialect, otherwise: np.ndarray[Any, np.dtype[np.bool_]]) -> bool:
    """Whether there is a delimiter or the end of a line at each position, unless it is fine otherwise."""
    there = view[positions]
    return bool(((there == ord(dialect.delimiter)) | (there == _FEED) | (there == _RETURN) | otherwise).all())


@lru_cache
def _record(dialect: Dialect) -> re.Pattern[bytes]:
    """A record as the parser reads it: a quote that does not stand at the start of a field is a character like any other."""
    delimiter, quote, escape = (re.escape(mark.encode()) for mark in (dialect.delimiter, dialect.quote, dialect.escape))

    def run(beyond: bytes, besides: bytes) -> bytes:
        """Characters but those, and the others that are escaped or doubled."""
        others = b"|".join(part for part in (escape + b"(?s:.)" if escape else b"", besides) if part)
        plain = b"[^" + beyond + escape + b"]*+"
        return plain + (b"(?:(?:" + others + b")" + plain + b")*+" if others else b"")

    plain = run(delimiter + rb"\r\n", b"")
    field = b"(?:" + quote + run(quote, quote + quote) + quote + plain + b"|(?!" + quote + b")" + plain + b")" if quote else plain
    return re.compile(field + b"(?:" + delimiter + field + rb")*+(?:\r\n|\n|\r)")

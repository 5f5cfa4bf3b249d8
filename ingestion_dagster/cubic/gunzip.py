"""Gzip as it arrives, in bounded memory, and refused when its end is missing or its checksum is wrong, however late that shows."""

from collections.abc import Iterator
from typing import cast

from isal import isal_zlib

from ingestion_dagster.engine.errors import Problem, Refused

MAGIC = b"\x1f\x8b"
_INPUT, _OUTPUT = 1 << 16, 1 << 20
_WITH_HEADER = 31
_DAMAGED = cast("type[Exception]", isal_zlib.error)

NOT_GZIP = Problem("not_gzip", "file", "it does not begin as gzip does; deliver it compressed, or under a name without .gz")
TRUNCATED = Problem("gzip_truncated", "file", "the compressed data end too early; deliver the file again")
CORRUPT = Problem("gzip_corrupt", "file", "the compressed data are damaged (checksum, length or content); deliver the file again")


def gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """What the gzip members in `chunks` hold, in pieces of at most 1 MB; zeros behind the last member are padding.

    Raises Refused: `not_gzip`, `gzip_truncated` or `gzip_corrupt`, after the last piece that could be read. What `chunks` raises
    passes through. Nothing at all is no error here.
    """
    member = None
    several = False
    begun = b""
    for chunk in chunks:
        for start in range(0, len(chunk), _INPUT):
            data = chunk[start : start + _INPUT]
            while data:
                if member is None:
                    begun += data.lstrip(b"\0") if several and not begun else data
                    data = b""
                    if len(begun) < len(MAGIC):
                        break
                    if not begun.startswith(MAGIC):
                        raise Refused(CORRUPT if several else NOT_GZIP)
                    member, data, begun = isal_zlib.decompressobj(_WITH_HEADER), begun, b""
                yield from _inflated(member, data)
                data = member.unused_data
                if member.eof:
                    member, several = None, True
    if begun and not MAGIC.startswith(begun):
        raise Refused(CORRUPT if several else NOT_GZIP)
    if member is not None or begun:
        raise Refused(TRUNCATED)


def _inflated(member: "isal_zlib.Decompress", data: bytes) -> Iterator[bytes]:
    """What a member makes of some of its bytes."""
    while True:
        try:
            piece = member.decompress(data, _OUTPUT)
        except _DAMAGED:
            raise Refused(CORRUPT) from None
        if piece:
            yield piece
        data = member.unconsumed_tail
        if member.eof or not (data or len(piece) == _OUTPUT):
            return

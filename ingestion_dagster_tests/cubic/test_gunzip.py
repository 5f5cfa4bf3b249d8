"""Damage to compressed files that other readers do not notice, or notice too late."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_dagster.cubic.gunzip import gunzip
from ingestion_dagster.engine.errors import Refused

CONTENT = b"".join(b"%d,abc\n" % number for number in range(20_000))
PACKED = gzip.compress(CONTENT, mtime=0)


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def opened(content: bytes, size: int = 1 << 16) -> bytes:
    return b"".join(gunzip(iter(pieces(content, size))))


def flipped(position: int) -> bytes:
    damaged = bytearray(PACKED)
    damaged[position] ^= 0x10
    return bytes(damaged)


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"TAP_ID,NOTE\n1,x\n", "not_gzip"),
        (b"T", "not_gzip"),
        (b"\x1f", "gzip_truncated"),
        (PACKED[:5], "gzip_truncated"),
        (PACKED[: len(PACKED) // 2], "gzip_truncated"),
        (PACKED[:-1], "gzip_truncated"),
        (PACKED + PACKED[:100], "gzip_truncated"),
        (PACKED + b"\x1f", "gzip_truncated"),
        (flipped(-8), "gzip_corrupt"),
        (flipped(-1), "gzip_corrupt"),
        (flipped(len(PACKED) // 2), "gzip_corrupt"),
        (PACKED + b"rubbish", "gzip_corrupt"),
        (PACKED + b"\0\0rubbish", "gzip_corrupt"),
    ],
)
def test_damage_is_refused_even_after_rows_came_out(content: bytes, code: str, size: int) -> None:
    with pytest.raises(Refused) as refused:
        opened(content, size)
    assert [problem.code for problem in refused.value.problems] == [code]


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_several_members_and_padding_are_legal(size: int) -> None:
    assert opened(PACKED, size) == CONTENT
    assert opened(PACKED + b"\0" * 100 + PACKED + b"\0", size) == CONTENT * 2
    assert opened(gzip.compress(b"", mtime=0), size) == b""
    assert opened(b"") == b""


def test_a_bomb_comes_out_in_small_pieces() -> None:
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(100)) + bomb.flush()
    assert len(packed) < 1 << 18
    sizes = [len(piece) for piece in gunzip(iter([packed]))]
    assert sum(sizes) == 100 << 20
    assert max(sizes) <= 1 << 20


def test_what_the_store_raises_passes_through() -> None:
    def interrupted():
        yield PACKED[:50]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        list(gunzip(interrupted()))


@given(st.binary(max_size=5000), st.integers(1, 300))
def test_pieces_do_not_matter(content: bytes, size: int) -> None:
    assert opened(gzip.compress(content, mtime=0), size) == content

"""What is asked of a DMAP server: the pages of a listing, and files; each is proved to be what it should be before it is believed."""

import asyncio
import gzip
import hashlib
import zlib
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp

from ingestion_dagster.cubic.feeds import Feed, NotAListing, parse_page, question
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.http import Client

KEY_REFUSED = "dmap_key_refused"
FEED_UNKNOWN = "dmap_feed_unknown"
LISTING_FAILED = "dmap_listing_failed"
LINK_BROKEN = "dmap_link_broken"
NOT_WHOLE = "dmap_file_not_whole"
NO_DATA = "dmap_file_no_data"
TOO_LARGE = "dmap_file_too_large"

_MAX_PAGE_BYTES = 16 * 1024**2
_CHUNK = 1 << 18
_GZIP = b"\x1f\x8b"
_BEFORE_MARKUP = b"\xef\xbb\xbf \t\r\n"


@dataclass(frozen=True, slots=True)
class Source:
    """Where feeds are asked, and the key that is sent along, in a header and nowhere else; `variable` is where the key is set."""

    url: str
    key: str = field(repr=False)
    variable: str
    link_hosts: frozenset[str] = frozenset()
    """Hosts that links may lead to though their addresses are not public: what a listing says is not believed so far."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is whole."""

    bytes: int
    sha256: str


class Expired(Exception):
    """A link is no longer good: the feed gives a new one when it is listed again."""


async def page(client: Client, source: Source, feed: Feed, since: date | None, offset: int) -> list[Any]:
    """The records of one page of a listing, not judged yet. Raises `Refused` and `Transient`."""

    async def receive(answer: aiohttp.ClientResponse) -> list[Any]:
        if answer.status in (401, 403):
            message = f"the feed answered {answer.status}: it does not accept the key in {source.variable}"
            raise Refused(Problem(KEY_REFUSED, feed.path, message))
        if answer.status == 404:
            raise Refused(
                Problem(FEED_UNKNOWN, feed.path, "there is no such feed: correct the table's prefix, or INGESTION_CUBIC_DMAP_URL")
            )
        if answer.status != 200:
            raise Refused(Problem(LISTING_FAILED, feed.path, f"the feed answered {answer.status} where a listing was asked for"))
        body = bytearray()
        async for chunk in answer.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > _MAX_PAGE_BYTES:
                raise Refused(Problem(LISTING_FAILED, feed.path, f"a page of the listing is larger than {_MAX_PAGE_BYTES} bytes"))
        try:
            return parse_page(bytes(body))
        except NotAListing as reason:
            raise Transient(LISTING_FAILED, f"the answer is no page of a listing: {reason}") from None

    return await client.get(source.url + feed.path, receive, params=question(since, offset), headers={"apikey": source.key})


async def download(client: Client, url: str, path: Path, place: str, max_bytes: int) -> Download:
    """Write the file behind a link to `path`. It is gzip from its first byte to its last checksum, and it is no page of an error.

    No key is sent. Raises `Expired`, `Refused` for what another attempt would not change, and `Transient`.
    """
    with path.open("wb") as file:

        async def receive(answer: aiohttp.ClientResponse) -> Download:
            if answer.status == 403:
                raise Expired
            if answer.status != 200:
                raise Refused(Problem(LINK_BROKEN, place, f"its link answered {answer.status}; tell the provider"))
            return await _save(answer, file, path, place, max_bytes)

        return await client.get(url, receive)


async def _save(answer: aiohttp.ClientResponse, file: BinaryIO, path: Path, place: str, max_bytes: int) -> Download:
    file.seek(0)
    file.truncate()
    promised = answer.content_length
    size = 0
    digest = hashlib.sha256()
    if promised is not None and promised > max_bytes:
        raise Refused(_too_large(place, max_bytes))
    try:
        async for chunk in answer.content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise Refused(_too_large(place, max_bytes))
            file.write(chunk)
            digest.update(chunk)
    except aiohttp.ClientPayloadError:
        raise Transient(NOT_WHOLE, "the file broke off before its end") from None
    if promised is not None and size != promised:
        raise Transient(NOT_WHOLE, f"{size} bytes came where {promised} were promised")
    file.flush()
    await asyncio.to_thread(prove, path)
    return Download(size, digest.hexdigest())


def prove(path: Path) -> None:
    """Raise `Transient` unless a file is gzip, every member with its checksum and length, and what it holds does not begin as markup."""
    from isal import igzip, igzip_lib

    opened: Any = igzip.open
    damaged: Any = (EOFError, gzip.BadGzipFile, igzip_lib.IsalError, zlib.error)
    with path.open("rb") as file:
        head = file.read(512)
    if not head.startswith(_GZIP):
        what = "an XML or HTML page" if _is_markup(head) else "something else" if head else "nothing"
        raise Transient(NO_DATA, f"{what} came in place of a gzip file")
    try:
        with opened(path, "rb") as unpacked:
            if _is_markup(unpacked.read(512)):
                raise Transient(NO_DATA, "an XML or HTML page came in place of data")
            while unpacked.read(1 << 20):
                pass
    except damaged:
        raise Transient(NOT_WHOLE, "the gzip file is cut off or damaged: its checksum or length does not agree") from None


def _is_markup(head: bytes) -> bool:
    return head.lstrip(_BEFORE_MARKUP).startswith(b"<")


def _too_large(place: str, max_bytes: int) -> Problem:
    return Problem(TOO_LARGE, place, f"the file is larger than {max_bytes} bytes")

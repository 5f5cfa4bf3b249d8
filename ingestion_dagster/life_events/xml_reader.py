"""Files of death registrations, read once, block by block, in memory that does not depend on what the file holds.

Expat never sees what a DOCTYPE declares, so that there are no entities to expand or to fetch. It is told nothing but bytes, and nothing
that it says of them is repeated: its messages are replaced by codes and places.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol
from xml.parsers import expat

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.life_events import problems
from ingestion_dagster.life_events.elements import SEPARATOR
from ingestion_dagster.life_events.gathering import Limits
from ingestion_dagster.life_events.xml_records import Found, Records

__all__ = ["Digest", "Found", "Limits", "Reader"]

BLOCK = 64 * 1024
"""Bytes that the parser gets at a time, however they come: what is found does not depend on how a file is cut."""

_CODES = expat.errors.codes
_INVALID_TOKEN = _CODES[expat.errors.XML_ERROR_INVALID_TOKEN]
_OF_ENCODING = {_CODES[expat.errors.XML_ERROR_INCORRECT_ENCODING], _CODES[expat.errors.XML_ERROR_UNKNOWN_ENCODING]}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LONGEST_CHARACTER = 4


class Digest(Protocol):
    """What is fed all bytes of a file, such as an HMAC."""

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""


class Reader:
    """Reads one file. Nothing of it may be published before `read` has come to its end without an exception."""

    def __init__(self, limits: Limits | None = None, digest: Digest | None = None) -> None:
        self.bytes = 0
        """Bytes read so far."""
        self._limits = limits or Limits()
        self._digest = digest
        self._encoding = "utf-8"
        self._tail = b""
        self._parser = parser = expat.ParserCreate(namespace_separator=SEPARATOR, intern={})
        parser.buffer_text = True
        parser.buffer_size = BLOCK
        parser.ordered_attributes = True
        parser.XmlDeclHandler = self._declared
        parser.StartDoctypeDeclHandler = self._doctype
        # Without a handler the parser would not count the names of namespaces among those it remembers.
        parser.StartNamespaceDeclHandler = _ignore
        if hasattr(parser, "SetReparseDeferralEnabled"):
            # Blocks and the limit of a token bound what is parsed again; deferral would only blur where a fault stands.
            parser.SetReparseDeferralEnabled(False)
        self._records = Records(parser, self._limits)

    @property
    def records(self) -> int:
        """Records seen so far, good and bad."""
        return self._records.count

    @property
    def record_count(self) -> int | None:
        """How many records the file says that it holds; None if it has not come to that."""
        return self._records.record_count

    def read(self, chunks: Iterable[bytes]) -> Iterator[list[Found]]:
        """The records, some at a time. Raises `Refused` for a file that is not whole, not XML or no file of registrations, with all faults.

        Whatever `chunks` raises passes through.
        """
        for block in _blocks(chunks):
            if not self.bytes:
                self._look_at_start(block)
            if self._digest:
                self._digest.update(block)
            self._feed(block)
            batch = self._records.batch
            if batch:
                self._allow(self._encoding)
                self._records.batch = []
                yield batch
        if not self.bytes:
            raise Refused(problems.of_file("empty"))
        self._finish()

    def _feed(self, block: bytes) -> None:
        before = self.bytes
        self.bytes += len(block)
        try:
            self._parser.Parse(block, False)
        except expat.ExpatError as error:
            raise self._refused(error.code, self._tail + block, before - len(self._tail)) from None
        begun = max(self._parser.CurrentByteIndex, 0)
        if self.bytes - begun > self._limits.token_bytes:
            raise self._refusal(problems.of_file("token_too_long", f"byte {begun}"))
        if len(self._parser.intern) > self._limits.names:
            raise self._refusal(problems.of_file("too_many_names", f"before byte {self.bytes}"))
        self._records.check_size()
        self._tail = block[-_LONGEST_CHARACTER:]

    def _finish(self) -> None:
        try:
            self._parser.Parse(b"", True)
        except expat.ExpatError:
            place = f"byte {self.bytes}"
            raise self._refusal(Problem("not_well_formed", place, "the file breaks off there; have it sent again")) from None
        self._allow(self._encoding)
        counted, expected = self._records.count, self._records.record_count
        faults = self._records.faults
        if expected is None and "record_count_invalid" not in faults:
            self._records.fault("record_count_missing", f"before byte {self.bytes}")
        if expected is not None and expected != counted:
            raise self._refusal(problems.count_mismatch(expected, counted))
        if faults:
            raise self._refusal()

    def _refusal(self, *found: Problem) -> Refused:
        return Refused(*found, *self._records.faults.values())

    def _refused(self, code: int, near: bytes, begins: int) -> Refused:
        """Why the parser has stopped. `near` are the bytes around the place, which begin at that byte of the file."""
        at = self._parser.ErrorByteIndex
        place = f"line {self._parser.ErrorLineNumber}, byte {at}"
        is_encoding = code in _OF_ENCODING or (code == _INVALID_TOKEN and not self._is_character(near[max(at - begins, 0) :]))
        return self._refusal(problems.of_file("bad_encoding" if is_encoding else "not_well_formed", place))

    def _is_character(self, near: bytes) -> bool:
        """Whether these bytes begin with a character at all, if not with one that XML allows."""
        try:
            near[:_LONGEST_CHARACTER].decode(self._encoding)
        except UnicodeDecodeError as error:
            return error.start > 0
        return True

    def _look_at_start(self, block: bytes) -> None:
        """UTF-16 shows in the first two bytes; anything else declares itself, or is UTF-8."""
        if block.startswith(_UTF_16) or b"\0" in block[:2]:
            self._encoding = "utf-16-be" if block.startswith((_UTF_16[1], b"\0")) else "utf-16-le"
            self._allow(self._encoding)

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and not self._encoding.startswith("utf-16"):
            self._encoding = encoding.lower()
            self._allow(self._encoding)

    def _allow(self, encoding: str) -> None:
        named = "utf-16" if encoding in {"utf-16-le", "utf-16-be"} else encoding
        if named not in self._limits.encodings:
            raise Refused(problems.of_file("bad_encoding", "the start of the file"))

    def _doctype(self, *_parts: object) -> None:
        raise self._refusal(problems.of_file("doctype_forbidden", f"line {self._parser.CurrentLineNumber}"))


def _ignore(*_parts: object) -> None:
    pass


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending = bytearray()
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), BLOCK):
            pending += view[start : start + BLOCK]
            if len(pending) >= BLOCK:
                yield bytes(pending[:BLOCK])
                del pending[:BLOCK]
    if pending:
        yield bytes(pending)

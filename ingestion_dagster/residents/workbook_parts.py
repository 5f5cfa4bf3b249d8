"""What the parts of an Excel workbook unpack to, and how much room their cells take, found out before the native reader makes that room.

The reader believes what a workbook says of itself, and ends the process where memory does not suffice. So nothing is believed here: parts
are unpacked to their end, whatever size their directory gives, and a tag that could be read in two ways is not read at all.
"""

import io
import re
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

STRINGS = "xl/sharedstrings.xml"
"""Where the texts stand that cells have by number."""

_PIECE = 1 << 20
_LONGEST_TAG = 1 << 16
_OPEN = re.compile(rb"<(?:[^\s<>/:]+:)?(?:row|c)(?=[\s/>])")
_TAG = re.compile(
    rb"<(/)?(?:[^\s<>/:]+:)?(row|c)(?=[\s/>])((?:\s+[^\s=<>\"'/]+\s*=\s*(?:\"[^\"<]*\"|'[^'<]*'))*)\s*(/)?>",
)
_UNPREFIXED, _PREFIXED = re.compile(rb"<(?:row|c)[\s/>]"), re.compile(rb":(?:row|c)[\s/>]")
_USUAL_CELL = re.compile(rb'<c r="([A-Z]{1,3})([0-9]{1,7})"(?: (?!r=)[a-z]+="[^"<>]*")*(/?)>')
_USUAL_ROW = re.compile(rb'<row r="([0-9]{1,7})"(?: (?!r=)[A-Za-z0-9:]+="[^"<>]*")*/?>')
_REFERENCE = re.compile(rb"\sr\s*=\s*[\"']([^\"']*)[\"']")
_PLACE = re.compile(rb"([A-Za-z]{1,3})?([0-9]{1,7})?")
_SHEET = b"sheetData"
_STRING = re.compile(rb"<(?:[^\s<>/:]+:)?si(?=[\s/>])")
_VALUE = re.compile(rb"<(?:[^\s<>/:]+:)?v(?:\s[^<>]*)?>([^<]*)")


class Damaged(Exception):
    """A part is not what it should be, or could be read in two ways."""


class TooLarge(Exception):
    """It takes more room than may be taken."""


def listed(raw: bytes) -> dict[str, zipfile.ZipInfo]:
    """The parts by name in small letters: so the reader looks for them. Raises `Damaged` for a name that stands there twice."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        infos = archive.infolist()
    found = {info.filename.lower().replace("\\", "/").lstrip("/"): info for info in infos}
    if len(found) != len(infos):
        raise Damaged
    return found


def check(raw: bytes, parts: dict[str, zipfile.ZipInfo], *, max_unpacked_bytes: int, max_cells: int) -> None:
    """Unpack every part and measure it. Raises `TooLarge` and `Damaged`."""
    if sum(info.file_size for info in parts.values()) > max_unpacked_bytes:
        raise TooLarge
    lengths = _lengths(unpacked(raw, parts[STRINGS]), max_cells) if STRINGS in parts else array("L")
    longest = max(lengths, default=0)
    for name, info in parts.items():
        extent = Extent()
        for piece in _tags_whole(unpacked(raw, info)) if name != STRINGS else ():
            extent.add(piece)
        if not extent.is_sheet:
            continue
        if extent.is_odd:
            raise Damaged
        if extent.cells > max_cells:
            raise TooLarge
        if extent.values * longest > max_unpacked_bytes and _text_bytes(unpacked(raw, info), lengths, longest) > max_unpacked_bytes:
            # A text stands once in a workbook, and once for every cell that has it when the workbook is read.
            raise TooLarge


def unpacked(raw: bytes, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """A part, piece by piece. Raises `Damaged` as soon as it is larger than the archive says, and if it is smaller."""
    head = raw[info.header_offset : info.header_offset + 30]
    if len(head) < 30 or info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Damaged
    start = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    packed = memoryview(raw)[start : start + info.compress_size]
    size = 0
    for piece in _inflated(packed) if info.compress_type == zipfile.ZIP_DEFLATED else _cut(packed):
        size += len(piece)
        if size > info.file_size:
            raise Damaged
        yield piece
    if size != info.file_size:
        raise Damaged


def _cut(stored: memoryview) -> Iterator[bytes]:
    return (bytes(stored[start : start + _PIECE]) for start in range(0, len(stored), _PIECE))


def _inflated(packed: memoryview) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, len(packed), _PIECE):
        data = bytes(packed[start : start + _PIECE])
        while data and not inflate.eof:
            yield inflate.decompress(data, _PIECE)
            data = inflate.unconsumed_tail
    while not inflate.eof:
        piece = inflate.decompress(b"", _PIECE)
        if not piece:
            raise Damaged
        yield piece


def _tags_whole(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same, cut before tags; a tag that is longer than any should be is cut all the same."""
    kept = b""
    for piece in pieces:
        text = kept + piece
        end = max(text.rfind(b"<"), len(text) - _LONGEST_TAG, 0)
        yield text[:end]
        kept = text[end:]
    yield kept


@dataclass(slots=True)
class Extent:
    """How many cells lie between a sheet's first and its last, as it is read: the reader makes room for each, blank or not."""

    is_sheet: bool = False
    is_odd: bool = False
    """Whether a row or a cell is not written plainly: readers may differ about where it stands."""
    values: int = 0
    """Cells that may have a value; those that only have a format take no room."""
    _row: int = 1
    _column: int = 0
    _lowest: int = 0
    _widest: int = 0
    _numbers: dict[bytes, int] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """From the sheet's own first row and column on."""
        return self._lowest * self._widest

    def add(self, text: bytes) -> None:
        """Look at the next piece, cut before a tag."""
        self.is_sheet = self.is_sheet or _SHEET in text
        if not self._add_usual(text):
            self.is_odd = self._add_any(text) != len(_OPEN.findall(text)) or self.is_odd

    def _add_usual(self, text: bytes) -> bool:
        """The same for rows and cells as all programs write them, in a fraction of the time; nothing if one is written otherwise."""
        cells, rows = _USUAL_CELL.findall(text), _USUAL_ROW.findall(text)
        if len(cells) + len(rows) != len(_UNPREFIXED.findall(text)) or _PREFIXED.search(text):
            return False
        with_value = [(letters, digits) for letters, digits, empty in cells if not empty]
        if with_value:
            columns, lines = map(set, zip(*with_value, strict=True))
            self.values += len(with_value)
            self._widest = max(self._widest, *map(self._number, columns))
            self._lowest = max(self._lowest, *map(int, lines))
        # Where a cell would stand that does not say it: no higher than that.
        self._row = max(self._row, *map(int, rows), 0) + text.count(b"row>") + len(rows)
        self._column += len(cells)
        return True

    def _add_any(self, text: bytes) -> int:
        """How many rows and cells could be read."""
        opened = 0
        for closing, kind, attributes, empty in _TAG.findall(text):
            opened += not closing
            row, column = self._place(attributes)
            if kind == b"row":
                self._row = row or self._row
                if closing or empty:
                    self._row, self._column = self._row + 1, 0
            elif not closing:
                self._column = column or self._column + 1
                if not empty:
                    self.values += 1
                    self._lowest, self._widest = max(self._lowest, self._row, row), max(self._widest, self._column)
        return opened

    def _place(self, attributes: bytes) -> tuple[int, int]:
        """The row and the column, counted from 1, that a tag says; 0 where it does not; of several the farthest."""
        row = column = 0
        for reference in _REFERENCE.findall(attributes):
            parts = _PLACE.fullmatch(reference)
            if parts is None:
                self.is_odd = True
            else:
                letters, digits = parts.groups()
                row = max(row, int(digits or 0))
                column = max(column, self._number(letters) if letters else 0)
        return row, column

    def _number(self, letters: bytes) -> int:
        if letters not in self._numbers:
            number = 0
            for letter in letters.upper():
                number = number * 26 + letter - 64
            self._numbers[letters] = number
        return self._numbers[letters]


def _lengths(pieces: Iterator[bytes], most: int) -> "array[int]":
    """Of each text its length in bytes, its markup included."""
    starts = array("L")
    before = 0
    for text in _tags_whole(pieces):
        if b"<!" in text:
            raise Damaged
        starts.extend(before + found.start() for found in _STRING.finditer(text))
        if len(starts) > most:
            raise TooLarge
        before += len(text)
    starts.append(before)
    return array("L", (after - start for start, after in pairwise(starts)))


def _text_bytes(pieces: Iterator[bytes], lengths: "array[int]", longest: int) -> int:
    """How much text the cells of a sheet have that have theirs by number."""
    taken = 0
    for text in _tags_whole(pieces):
        if b"<!" in text:
            raise Damaged
        for value in _VALUE.findall(text):
            if value.isdigit():
                taken += lengths[int(value)] if len(value) < 10 and int(value) < len(lengths) else 0
            elif b"&" in value or value.startswith(b"+"):
                taken += longest
    return taken

"""Excel workbooks: whether a file is one that can be read safely, and the cells of its first worksheet as text."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import repeat
from typing import Any

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.residents import dates, workbook_parts

ZIP_MAGIC = b"PK\x03\x04"
_SAVE_AS = "open it and save it as an Excel workbook (.xlsx) or as CSV"

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_OTHER_KINDS = {
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"BM": "an image",
    b"II*\0": "an image",
    b"MM\0*": "an image",
    b"{\\rtf": "a text document",
    b"\x1f\x8b": "a compressed file",
    b"7z\xbc\xaf\x27\x1c": "a compressed file",
    b"Rar!": "a compressed file",
    b"PK\x05\x06": "an empty compressed file",
}
_MARKUP = re.compile(rb"\s*<(?:!doctype|html|\?xml|table|svg|head|meta)\b", re.IGNORECASE)


def refuse_other_kinds(raw: bytes) -> None:
    """Raises `Refused` (`empty_file`, `encrypted_workbook`, `unsupported_file_type`) for content that is no Excel workbook, and no text."""
    if not raw.strip(b"\xef\xbb\xbf\xff\xfe \t\r\n"):
        raise Refused(Problem("empty_file", "file", "there is nothing in it; upload it again"))
    if raw.startswith(_OLE):
        if _ENCRYPTED in raw:
            raise Refused(Problem("encrypted_workbook", "file", "it is protected by a password; save it without one"))
        raise _unsupported("a workbook or document in the format before 2007")
    for magic, kind in _OTHER_KINDS.items():
        if raw.startswith(magic) and (magic != b"BM" or b"\0" in raw[:64]):
            raise _unsupported(kind)
    if _MARKUP.match(raw.removeprefix(b"\xef\xbb\xbf")[:200]):
        raise _unsupported("a web page or XML, whatever its name ends in")


def _unsupported(kind: str) -> Refused:
    return Refused(Problem("unsupported_file_type", "file", f"this is {kind}; {_SAVE_AS}"))


def rows(raw: bytes, *, day_first: bool, max_unpacked_bytes: int, max_cells: int) -> Iterator[list[str]]:
    """The rows of the first worksheet from the sheet's first row and column on, all cells as text.

    Raises `Refused` on the first step: `unsupported_file_type` (a zip that is no workbook), `unreadable_workbook`, `too_large`.
    A cell that holds an error such as #N/A is blank.
    """
    _look_inside(raw, max_unpacked_bytes=max_unpacked_bytes, max_cells=max_cells)
    sheet = _first_sheet(raw)
    if sheet.start is None:
        return
    before = [""] * sheet.start[1]
    for cells in _guarded(iter(sheet.iter_rows())):
        yield before + [cell if type(cell) is str else _text(cell, day_first) for cell in cells]


def _text(cell: Any, day_first: bool) -> str:
    match cell:
        case bool():
            return "TRUE" if cell else "FALSE"
        case float():
            return str(int(cell)) if cell.is_integer() else repr(cell)
        case datetime() | date():
            return dates.written(cell, day_first=day_first)
        case time():
            return cell.strftime("%H:%M:%S")
        case timedelta():
            minutes, seconds = divmod(int(cell.total_seconds()), 60)
            return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
        case _:
            return str(cell)


def _unreadable() -> Refused:
    return Refused(Problem("unreadable_workbook", "file", f"the workbook is damaged or cut off; upload it again, or {_SAVE_AS}"))


_OTHER_BOOKS = {"xl/workbook.bin", "content.xml"}
"""By which the reader knows workbooks of other programs, which it would read instead where this one is damaged."""


def _look_inside(raw: bytes, *, max_unpacked_bytes: int, max_cells: int) -> None:
    try:
        parts = workbook_parts.listed(raw)
        if "xl/workbook.xml" not in parts or parts.keys() & _OTHER_BOOKS:
            raise _unsupported("a compressed file, or a workbook of another program")
        workbook_parts.check(raw, parts, max_unpacked_bytes=max_unpacked_bytes, max_cells=max_cells)
    except workbook_parts.TooLarge:
        raise _too_large() from None
    except (workbook_parts.Damaged, zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, zlib.error):
        raise _unreadable() from None


def _too_large() -> Refused:
    message = "it unpacks to more than can be read; remove what stands far outside the table, or save it as CSV, which may be of any length"
    return Refused(Problem("too_large", "file", message))


def _first_sheet(raw: bytes) -> Any:
    import pandas as pd

    def opened() -> Iterator[Any]:
        book: Any = pd.ExcelFile(io.BytesIO(raw), engine="calamine").book
        number = next(number for number, each in enumerate(book.sheets_metadata) if str(each.typ).endswith("WorkSheet"))
        yield book.get_sheet_by_index(number)

    for sheet in _guarded(opened()):
        return sheet
    raise _unreadable()


def _guarded(items: Iterator[Any]) -> Iterator[Any]:
    """The items; whatever the reader raises for a damaged workbook, a panic of its native part too, becomes `Refused`."""
    for step in repeat(items):
        try:
            item = next(step)
        except StopIteration:
            return
        except (MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:  # noqa: BLE001
            raise _unreadable() from None
        yield item

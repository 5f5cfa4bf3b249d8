"""Text files of separated values, as spreadsheet programs save them: whichever separator, in UTF-8, UTF-16 or the Windows code page."""

import codecs
import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ingestion_dagster.engine.errors import Problem, Refused

if TYPE_CHECKING:
    import _csv

_SEPARATORS = ",\t;"
_SAMPLED_ROWS = 10
_LONGEST_CELL = 1_000_000


def encoding_of(raw: bytes) -> tuple[str, tuple[Problem, ...]]:
    """How a text is encoded, and what there is to say of that. Raises `Refused` (`unsupported_file_type`) if it is no text."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        candidates = ["utf-16"]
    elif b"\0" in raw:
        candidates = []
    else:
        candidates = ["utf-8-sig", "cp1252"]
    for encoding in candidates:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        message = "not UTF-8, read as Windows-1252; if names look wrong, save it as 'CSV UTF-8' or as an Excel workbook"
        return encoding, (Problem("not_utf8", "file", message, "warning"),) if encoding == "cp1252" else ()
    raise Refused(Problem("unsupported_file_type", "file", "neither a workbook nor a text; save it as an Excel workbook (.xlsx) or as CSV"))


def rows(raw: bytes, encoding: str) -> Iterator[list[str]]:
    """The cells of every line. Raises `Refused` (`broken_quotes`) where quotes are not closed, since then lines run into each other."""
    separator, skipped = _separator(raw, encoding)
    reader = _reader(raw, encoding, separator, strict=True)
    limit = csv.field_size_limit(_LONGEST_CELL)
    begins = 0
    try:
        for row in islice(reader, skipped, None):
            begins = reader.line_num
            yield row
    except csv.Error:
        message = "a quote is not closed, or stands inside a quoted cell; double it, or save the sheet as an Excel workbook (.xlsx)"
        raise Refused(Problem("broken_quotes", f"line {begins + 1}", message)) from None
    finally:
        csv.field_size_limit(limit)


def _separator(raw: bytes, encoding: str) -> tuple[str, int]:
    """What stands between cells, and how many lines only tell that."""
    first = next(_lines(raw, encoding), "").rstrip("\r\n")
    if len(first) == 5 and first.lower().startswith("sep="):
        return first[4], 1
    widths = {each: _width(raw, encoding, each) for each in _SEPARATORS}
    return max(_SEPARATORS, key=lambda each: widths[each]), 0


def _width(raw: bytes, encoding: str, separator: str) -> int:
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        return max((len(row) for row in islice(_reader(raw, encoding, separator, strict=False), _SAMPLED_ROWS)), default=0)
    except csv.Error:
        return 0
    finally:
        csv.field_size_limit(limit)


def _reader(raw: bytes, encoding: str, separator: str, *, strict: bool) -> "_csv.Reader":
    return csv.reader(_lines(raw, encoding), delimiter=separator, strict=strict)


def _lines(raw: bytes, encoding: str) -> Iterator[str]:
    return io.TextIOWrapper(io.BytesIO(raw), encoding=encoding, newline="")

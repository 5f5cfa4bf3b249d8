"""Workbooks that say one thing and hold another: each is refused before the native reader makes room for what it believes.

That reader ends the process where memory does not suffice, and so everything here is read in a process of its own, in bounded memory.
"""

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion_dagster.residents.workbook_parts import Extent
from ingestion_dagster_tests.residents.books import table, workbook

SHEET, STRINGS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
GOOD = workbook(table("generic"))
CORNER = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
WIDE = b'<row r="3"><c r="XFD3"><v>1</v></c><c r="A3"><v>1</v></c></row>'
DOCTYPE = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><sst'
MEGABYTES = 600

READ = """
import json, resource, sys
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.residents import sheets
from ingestion_dagster.residents.datasets import DATASETS
import pandas, pyarrow, python_calamine
limit = int(open("/proc/self/statm").read().split()[0]) * 4096 + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[2:]:
    try:
        said = f"{len(sheets.read('x', open(path, 'rb').read(), DATASETS['generic']))} rows"
    except Refused as refused:
        said = refused.problems[0].code
    print(json.dumps([path, said]), flush=True)
"""


def with_parts(change: Callable[[str, bytes], bytes] = lambda _name, content: content, **more: bytes) -> bytes:
    """The good workbook with other parts."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as good, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as bad:
        for info in good.infolist():
            bad.writestr(info.filename, change(info.filename, good.read(info)))
        for name, content in more.items():
            bad.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return made.getvalue()


def with_rows(rows: bytes, closing: bytes = b"</row>") -> bytes:
    """The good workbook with rows below its own."""
    return with_parts(
        lambda name, content: (
            content.replace(b"</row>", closing).replace(b"</sheetData>", rows + b"</sheetData>") if name == SHEET else content
        )
    )


def moved() -> bytes:
    """Its worksheet stands where none does usually."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as good, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as bad:
        for info in good.infolist():
            content = (
                good.read(info).replace(b"worksheets/sheet1.xml", b"media/image1.png").replace(b"</sheetData>", CORNER + b"</sheetData>")
            )
            bad.writestr(info.filename.replace("worksheets/sheet1.xml", "media/image1.png"), content)
    return made.getvalue()


def small_in_its_directory(name: str, size: int) -> bytes:
    """A part that is much larger than the directory of the archive says."""
    raw = bytearray(
        with_parts(
            lambda each, content: content.replace(b"</sst>", b"<si><t>" + b"x" * size + b"</t></si></sst>") if each == name else content
        )
    )
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        at = archive.getinfo(name).header_offset
    raw[at + 22 : at + 26] = struct.pack("<I", 1000)
    entry = raw.find(b"PK\x01\x02")
    while raw[entry + 46 : entry + 46 + len(name)] != name.encode():
        entry = raw.find(b"PK\x01\x02", entry + 4)
    raw[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    return bytes(raw)


def one_text_in_many_cells() -> bytes:
    """Two thousand cells that have the same text of a megabyte."""
    cells = b"".join(b'<row r="%d"><c r="A%d" t="s"><v>0</v></c></row>' % (row, row) for row in range(3, 2003))

    def change(name: str, content: bytes) -> bytes:
        if name == STRINGS:
            start = content.index(b"<si>")
            return content[:start] + b"<si><t>" + b"x" * 2**20 + b"</t></si>" + content[start:]
        return content.replace(b"</sheetData>", cells + b"</sheetData>") if name == SHEET else content

    return with_parts(change)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "corner": (lambda: with_rows(CORNER), "too_large"),
    "other quotes": (lambda: with_rows(CORNER.replace(b'"', b"'")), "too_large"),
    "blanks in tags": (lambda: with_rows(CORNER.replace(b"r=", b"r  = "), b"</row >"), "too_large"),
    "small letters": (lambda: with_rows(CORNER.replace(b"XFD", b"xfd")), "too_large"),
    "wide row above": (lambda: with_rows(WIDE + b'<row r="1048576"><c r="A1048576"><v>1</v></c></row>'), "too_large"),
    "row alone": (lambda: with_rows(WIDE + b'<row r="1048576"><c><v>1</v></c></row>'), "too_large"),
    "rows that only end": (lambda: with_rows(WIDE + b"</row>" * 1_048_000 + b"<c><v>1</v></c>"), "too_large"),
    "prefix": (lambda: with_rows(CORNER.replace(b"<", b"<x:").replace(b"<x:/", b"</x:")), "too_large"),
    "in two ways": (lambda: with_rows(b'<row r="1048576"><c s=">" r="XFD1048576"><v>1</v></c></row>'), "too_large"),
    "tag in a tag": (lambda: with_rows(b'<row r="1048576"><c s="<" r="XFD1048576"><v>1</v></c></row>'), "unreadable_workbook"),
    "elsewhere": (moved, "too_large"),
    "wrong size": (lambda: small_in_its_directory(STRINGS, 900_000_000), "unreadable_workbook"),
    "one text": (one_text_in_many_cells, "too_large"),
    "other kind": (lambda: with_parts(content_dot_xml=b"<office/>"), "unsupported_file_type"),
    "binary kind": (lambda: with_parts(xl__workbook_dot_bin=b"x"), "unsupported_file_type"),
    "out of its folder": (lambda: with_parts(lambda _name, part: part, **{"..__..__..__etc__passwd": b"x"}), "1 rows"),
    "entities": (lambda: with_parts(lambda name, part: part.replace(b"<sst", DOCTYPE) if name == STRINGS else part), "unreadable_workbook"),
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each, read by one process one after the other."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = {str(folder / f"{number}.xlsx"): name for number, name in enumerate(BOMBS)}
    for path, name in paths.items():
        Path(path).write_bytes(BOMBS[name][0]())
    done = subprocess.run([sys.executable, "-c", READ, str(MEGABYTES), *paths], capture_output=True, text=True, check=False)
    return {paths[path]: code for path, code in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_bounded_memory(said: dict[str, str], name: str) -> None:
    assert said.get(name, "the process ended") == BOMBS[name][1]


def test_cells_written_as_usual_are_counted_like_any_others() -> None:
    book = workbook([*table("generic"), [], [None] * 40 + ["x"], ["x"]], at=(3, 2))
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        usual = archive.read(SHEET)
    counted = []
    for text in (usual, usual.replace(b'r="', b'r = "')):
        extent = Extent()
        extent.add(text)
        assert (extent.is_sheet, extent.is_odd) == (True, False)
        counted.append((extent.cells, extent.values))
    assert counted[0] == counted[1]
    assert counted[0][0] == 8 * 43, "from the sheet's own corner on"

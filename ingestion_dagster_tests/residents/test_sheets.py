"""Spreadsheets as text: nothing is guessed or lost, what cannot be read says so, and a row is found again where people see it."""

import gzip
import io
import json
import subprocess
import sys
import zipfile
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.residents import sheets
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.model import RowStatus
from ingestion_dagster.residents.sheets import Sheet, column_letters
from ingestion_dagster_tests.residents.books import header, row, table, text, workbook
from ingestion_dagster_tests.residents.rows_of import GOOD, RULES

SAMPLES = Path(__file__).parent / "data" / "samples"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def read(raw: bytes, dataset: str = "generic", **limits: int) -> Sheet:
    return sheets.read("people", raw, DATASETS[dataset], **limits)


def refused(raw: bytes, dataset: str = "generic", **limits: int) -> Problem:
    with pytest.raises(Refused) as caught:
        read(raw, dataset, **limits)
    (problem,) = caught.value.problems
    assert ";" in problem.message, "a next step follows"
    return problem


def cells(sheet: Sheet) -> list[dict[str, str]]:
    return [found for _, found in sheet.rows()]


OUTCOMES: dict[str, list[tuple[str, str | None]] | str] = {
    "contact_tracing/01_valid_with_preamble": [("pending", None)] * 4,
    "contact_tracing/02_bad_headers": "missing_header",
    "contact_tracing/03_bad_dob": [("pending", None), ("refused", "bad_date"), ("refused", "ambiguous_year"), ("pending", None)],
    "nsss/01_valid": [("pending", None)] * 3,
    "nsss/02_bad_headers": "missing_header",
    "nsss/03_bad_dob": [("pending", None), ("refused", "bad_date"), ("pending", None), ("pending", None)],
    "spl/01_valid": [("pending", None)] * 3,
    "spl/02_bad_headers": [("pending", None)],
    "spl/03_bad_dob": [("pending", None), ("refused", "bad_date_format"), ("refused", "bad_date_format"), ("pending", None)],
    "self_isolation/01_valid": [("pending", None)] * 3,
    "self_isolation/02_bad_headers": "missing_header",
    "self_isolation/03_bad_dates": [("pending", None), ("refused", "bad_date"), ("refused", "bad_date")],
    "generic/01_valid": [("pending", None)] * 3,
    "generic/02_bad_headers": "missing_header",
    "generic/03_bad_dob": [("pending", None), ("refused", "bad_date"), ("refused", "bad_date")],
}
FILES = sorted(path for path in SAMPLES.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_sample_is_judged_as_expected(path: Path):
    expected = OUTCOMES[f"{path.parent.name}/{path.stem}"]
    if isinstance(expected, str):
        assert refused(path.read_bytes(), path.parent.name).code == expected
        return
    dataset = DATASETS[path.parent.name]
    found = [dataset.judge(each, number, RULES) for number, each in read(path.read_bytes(), dataset.name).rows()]
    assert [(judged.status, judged.reason.code if judged.reason else None) for judged in found] == expected


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".xlsx"], ids=lambda path: path.parent.name)
def test_sample_workbook_and_text_have_equal_rows(path: Path):
    dataset = path.parent.name
    book, plain = read(path.read_bytes(), dataset), read(path.with_suffix(".csv").read_bytes(), dataset)
    assert (book.header, book.header_row, cells(book)) == (plain.header, plain.header_row, cells(plain))


LITERAL = [
    "None",
    "NA",
    "nan",
    "NaN",
    "1E5",
    "0012",
    "12_34",
    "Infinity",
    "07700900123",
    "+447700900123",
    "TRUE",
    "1.0",
    "010008326160",
    "#N/A",
]


@pytest.mark.parametrize("kind", ["text", "workbook"])
def test_text_cells_stay_as_they_are_whatever_they_look_like(kind: str):
    rows = table("generic", *(row("generic", City=literal) for literal in LITERAL))
    sheet = read(text(rows) if kind == "text" else workbook(rows))
    assert [each["City"] for each in cells(sheet)] == LITERAL
    assert sheet.frame["City"].tolist() == LITERAL


TYPED: list[tuple[Any, str, str]] = [
    (9990000115, "9990000115", "9990000115"),
    (9990000115.0, "9990000115", "9990000115"),
    (900000000001, "900000000001", "900000000001"),
    (1.5, "1.5", "1.5"),
    (-3, "-3", "-3"),
    (1e20, "100000000000000000000", "100000000000000000000"),
    (0.1, "0.1", "0.1"),
    (True, "TRUE", "TRUE"),
    (False, "FALSE", "FALSE"),
    (date(1963, 2, 22), "22/02/1963", "19630222"),
    (datetime(1963, 2, 22), "22/02/1963", "19630222"),  # noqa: DTZ001
    (datetime(1963, 2, 22, 7, 22, 45), "22/02/1963 07:22:45", "1963-02-22 07:22:45"),  # noqa: DTZ001
    (time(7, 22, 45), "07:22:45", "07:22:45"),
    (timedelta(days=1, hours=12, seconds=5), "36:00:05", "36:00:05"),
    (None, "", ""),
]


def test_typed_cells_of_a_workbook_are_written_as_people_see_them():
    for dataset, column, wanted in (("generic", "City", 1), ("spl", "oscty", 2)):
        sheet = read(workbook(table(dataset, *(row(dataset, **{column: each[0]}) for each in TYPED))), dataset)
        assert [found[column] for found in cells(sheet)] == [each[wanted] for each in TYPED]


def test_date_cells_are_judged_like_dates_that_were_typed():
    for dataset, column in (("generic", "d_o_b"), ("spl", "DateOfBirth")):
        sheet = read(workbook(table(dataset, row(dataset, **{column: date(1963, 2, 22)}))), dataset)
        (judged,) = (DATASETS[dataset].judge(found, number, RULES) for number, found in sheet.rows())
        assert judged.prepared is not None
        assert judged.prepared.person.date_of_birth == "1963-02-22"


def test_only_the_first_worksheet_counts():
    assert len(read(workbook(table("generic"), [["anything"], ["else"]]))) == 1
    assert refused(workbook([], table("generic"))).code == "empty_file"


def test_table_may_stand_anywhere_in_the_first_rows_of_contact_tracing():
    for at in ((0, 0), (3, 2), (9, 27)):
        sheet = read(workbook(table("contact_tracing"), at=at), "contact_tracing")
        assert (sheet.header_row, sheet.frame.index[0], sheet.header) == (at[0] + 1, at[0] + 2, tuple(header("contact_tracing")))
        assert cells(sheet)[0] == {**dict.fromkeys(header("contact_tracing"), ""), **GOOD["contact_tracing"]}


def test_blank_rows_have_no_number_and_rows_are_found_where_people_see_them():
    blank = ["", " ", *[""] * 15]
    rows = [header("generic"), blank, row("generic", City="A"), blank, [], row("generic", City="B")]
    for raw in (text(rows), workbook(rows)):
        sheet = read(raw)
        assert [(number, found["City"], sheet.frame.index[number - 1]) for number, found in sheet.rows()] == [(1, "A", 3), (2, "B", 6)]
        assert len(sheet) == 2


def test_header_alone_is_a_file_without_rows():
    for raw in (text([header("generic")]), workbook([header("generic")])):
        sheet = read(raw)
        assert (len(sheet), list(sheet.rows()), list(sheet.frame.columns)) == (0, [], header("generic"))


def test_cells_are_trimmed_for_judging_and_kept_for_the_report():
    sheet = read(text(table("generic", row("generic", City="  Nowhere \u00a0"))))
    assert (cells(sheet)[0]["City"], sheet.frame["City"].tolist()) == ("Nowhere", ["  Nowhere \u00a0"])


def test_apostrophe_that_our_reports_put_before_a_formula_is_taken_away():
    written = ["'=1+1", "'+447700900123", "'-", "'@x", "'Nowhere", "o'", "''=", "=1+1"]
    rows = table("generic", *(row("generic", City=each) for each in written))
    for raw in (text(rows), workbook(rows)):
        assert [found["City"] for found in cells(read(raw))] == ["=1+1", "+447700900123", "-", "@x", "'Nowhere", "o'", "''=", "=1+1"]


def test_column_that_the_file_lacks_is_blank_and_one_it_has_twice_is_the_first():
    names = [column for column in header("spl") if column != "SPL_Version"]
    values = [GOOD["spl"].get(column, "") for column in names]
    sheet = read(text([[*names, "Note", "Note"], [*values, "one", "two"]]), "spl")
    (found,) = cells(sheet)
    assert (found["SPL_Version"], found["Note"]) == ("", "one")
    assert list(sheet.frame.columns[-2:]) == ["Note", "Note (2)"]
    assert sheet.header[-2:] == ("Note", "Note")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_texts_are_read_in_whatever_way_they_were_saved(encoding: str, separator: str):
    city = 'Élsewhere, "quoted"; and\ttab\nsecond line 李'
    sheet = read(text(table("generic", row("generic", City=city)), encoding, separator))
    assert (sheet.problems, cells(sheet)[0]["City"]) == ((), city)


def test_windows_code_page_is_read_with_a_warning():
    sheet = read(text(table("generic", row("generic", City="Élsewhere \u2019s")), "cp1252"))
    assert cells(sheet)[0]["City"] == "Élsewhere \u2019s"
    assert [(problem.code, problem.severity) for problem in sheet.problems] == [("not_utf8", "warning")]


def test_line_that_tells_the_separator_is_no_row():
    assert len(read(b"sep=;\r\n" + text(table("generic"), separator=";"))) == 1


def test_old_line_ends_and_a_missing_last_one_do_no_harm():
    raw = text(table("generic", row("generic"), row("generic")))
    for ended in (raw.replace(b"\r\n", b"\n"), raw.replace(b"\r\n", b"\r"), raw.rstrip()):
        assert len(read(ended)) == 2


def test_short_rows_are_filled_up_and_long_ones_say_so():
    short, long = row("generic")[:3], [*row("generic"), "", "more"]
    shifted = [*row("generic")[:4], "2", *row("generic")[4:]]
    sheet = read(text(table("generic", short, long, shifted)))
    first, second, third = cells(sheet)
    assert (first["Surname"], first["Case Note 4"]) == ("McFictional", "")
    assert (second[""], "" in first, bool(third[""])) == ("more", False, True)
    assert [(problem.code, problem.severity) for problem in sheet.problems] == [("row_too_long", "warning")]
    assert {DATASETS["generic"].judge(each, 2, RULES).status for each in (second, third)} == {RowStatus.REFUSED}


def test_separators_at_the_end_of_every_row_are_no_cells():
    sheet = read(text([header("generic"), *([*row("generic"), "", ""] for _ in range(3)), [*[""] * 17, "", "total"]]))
    assert (len(sheet), sheet.problems, "" in cells(sheet)[0]) == (3, (), False)


def test_jottings_beside_the_table_are_left_out_with_a_warning():
    rows = [[*header("generic"), "", ""], [*row("generic"), "", "ask Jo"], [*[""] * 18, "total"]]
    for raw in (text(rows), workbook(rows)):
        sheet = read(raw)
        assert (len(sheet), sheet.header) == (1, tuple(header("generic")))
        (warning,) = sheet.problems
        assert (warning.code, warning.severity) == ("unnamed_column", "warning")
        assert "columns S " in warning.message


def test_quote_that_is_never_closed_is_refused_where_it_stands():
    raw = text(table("generic", *(row("generic") for _ in range(5)))).replace(b"Nowhere", b'"Nowhere', 1)
    problem = refused(raw)
    assert (problem.code, problem.place) == ("broken_quotes", "line 2")
    good = text(table("generic", *(row("generic", City=f"{number}") for number in range(5))))
    assert refused(good.replace(b",3,", b',"th"ree",')).place == "line 5"


def pdf() -> bytes:
    return b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"


def archive(**members: str) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/").replace("_xml", ".xml"), content)
    return raw.getvalue()


KINDS = {
    "empty": (b"", "empty_file"),
    "only blanks": (b"\r\n  \n", "empty_file"),
    "only commas": (b",,,\r\n,,,\r\n", "empty_file"),
    "byte order mark": (b"\xef\xbb\xbf", "empty_file"),
    "pdf": (pdf(), "unsupported_file_type"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "unsupported_file_type"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "unsupported_file_type"),
    "legacy workbook": (OLE + b"\0" * 600, "unsupported_file_type"),
    "protected workbook": (OLE + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le"), "encrypted_workbook"),
    "web page named xls": (b"<html><table><tr><td>ID</td></tr></table></html>", "unsupported_file_type"),
    "xml": (b'\xef\xbb\xbf<?xml version="1.0"?><Workbook/>', "unsupported_file_type"),
    "gzip": (gzip.compress(b"a,b\n"), "unsupported_file_type"),
    "zip of texts": (archive(people="a,b\n"), "unsupported_file_type"),
    "document": (archive(word__document_xml="<w/>"), "unsupported_file_type"),
    "zip without members": (archive(), "unsupported_file_type"),
    "null bytes": (b"a,b\0c\n", "unsupported_file_type"),
    "noise": (bytes(range(1, 256)) * 4, "unsupported_file_type"),
    "half a workbook": (workbook(table("generic"))[:3000], "unreadable_workbook"),
    "workbook without sheets": (archive(xl__workbook_xml="<workbook/>"), "unreadable_workbook"),
    "workbook of nothing": (workbook([]), "empty_file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_spreadsheet_is_refused_with_a_next_step(kind: str):
    raw, code = KINDS[kind]
    problem = refused(raw)
    assert (problem.code, problem.severity) == (code, "error")


def test_damaged_members_are_refused_without_a_trace_of_what_they_hold():
    good = workbook(table("generic"))
    with zipfile.ZipFile(io.BytesIO(good)) as book:
        members = {name: book.read(name) for name in book.namelist()}
    for name in ("xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/workbook.xml", "xl/styles.xml"):
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w") as spoiled:
            for member, content in members.items():
                spoiled.writestr(member, content[: len(content) // 2] if member == name else content)
        with pytest.raises(Refused) as caught:
            read(raw.getvalue())
        assert caught.value.__cause__ is None
        assert [problem.code for problem in caught.value.problems] == ["unreadable_workbook"]


def test_workbook_that_unpacks_to_too_much_is_refused_before_it_is_unpacked():
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("xl/workbook.xml", "<workbook/>")
        bomb.writestr("xl/worksheets/sheet1.xml", b" " * 30_000_000)
    assert refused(raw.getvalue(), max_unpacked_bytes=20_000_000).code == "too_large"


def test_cell_far_outside_the_table_is_refused_since_the_reader_makes_room_for_all_between():
    far = workbook([*table("generic"), *[[]] * 2000, [*[None] * 1000, "x"]])
    assert refused(far, max_cells=1_000_000).code == "too_large"
    assert len(read(far, max_cells=3_000_000)) == 1


def test_one_stray_cell_in_the_last_corner_does_not_end_the_process():
    import xlsxwriter

    raw = io.BytesIO()
    with xlsxwriter.Workbook(raw, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, header("generic"))
        sheet.write_string(1_048_575, 16_383, "x")
    assert refused(raw.getvalue()).code == "too_large"


def test_blank_cells_that_only_have_a_format_take_no_room():
    import xlsxwriter

    raw = io.BytesIO()
    with xlsxwriter.Workbook(raw, {"in_memory": True}) as book:
        sheet, bold = book.add_worksheet(), book.add_format({"bold": True})
        sheet.write_row(0, 0, header("generic"))
        sheet.write_row(1, 0, row("generic"))
        sheet.write_blank(1_048_575, 16_383, None, bold)
        sheet.write_blank(1, 16_383, None, bold)
    assert len(read(raw.getvalue(), max_cells=1000)) == 1


def test_letters_over_columns():
    assert [column_letters(position) for position in (0, 25, 26, 701, 702, 16383)] == ["A", "Z", "AA", "ZZ", "AAA", "XFD"]


content = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"], include_characters="\n"), max_size=12).filter(
    lambda cell: not cell.startswith(("'=", "'+", "'-", "'@")) and "_x" not in cell
)


@given(st.lists(st.lists(content, min_size=17, max_size=17), max_size=6), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_workbook_and_text_of_the_same_cells_have_equal_rows(rows: list[list[str]], encoding: str):
    plain = read(text([header("generic"), *rows], encoding))
    book = read(workbook([header("generic"), *rows]))
    expected = [[cell.strip() for cell in each] for each in rows if any(cell.strip() for cell in each)]
    assert [list(found.values()) for found in cells(plain)] == expected
    assert cells(book) == cells(plain)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_sheet_or_a_refusal(raw: bytes):
    for start in (b"", b"PK\x03\x04", b"\xff\xfe", OLE):
        problems: tuple[Problem, ...] = ()
        try:
            problems = read(start + raw).problems
        except Refused as caught:
            problems = caught.problems
        assert all(problem.code and problem.message for problem in problems)


PROBE = """
import json, resource, sys
import pandas, pyarrow
from ingestion_dagster.residents import sheets
from ingestion_dagster.residents.datasets import DATASETS
raw = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sheet = sheets.read("x", raw, DATASETS["contact_tracing"])
count = sum(1 for _ in sheet.rows())
print(json.dumps([count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]))
"""


def test_long_files_take_little_memory(tmp_path: Path):
    ours = DATASETS["contact_tracing"]
    columns = [*header("contact_tracing"), *ours.known]
    cells_of = [GOOD["contact_tracing"].get(column, "") for column in columns]
    path = tmp_path / "long.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        file.writelines(",".join([f"ct{number:06x}", *cells_of[1:]]) + "\n" for number in range(50_000))
    outcome = subprocess.run([sys.executable, "-c", PROBE, path], capture_output=True, text=True, check=True)
    count, megabytes = json.loads(outcome.stdout)
    assert count == 50_000
    assert megabytes < 150

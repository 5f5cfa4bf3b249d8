"""Reports: read back as a spreadsheet program reads them, and looked at as the XML they are."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from python_calamine import CalamineWorkbook

from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.residents import report as report_module
from ingestion_dagster.residents.model import Action, FileReport, RowReport, RowStatus
from ingestion_dagster.residents.report import names, safe, write
from ingestion_dagster.residents.sheets import Sheet

DAY = date(2026, 11, 20)
NINE = ["row_number", "status", "action", "reason_code", "message", "resident_id", "help_request_id", "notes_added", "attempts"]
CASES = [
    *("Account ID", "NHS Number", "Forename", "Surname", "Gender", "Date of Birth", "House Number", "Postcode", "Email", "Phone", "Phone2"),
    *("First Symptomatic At", "Date Tested", "Comments", "Date Updated", "Date Time Extracted"),
]


def read(header: Sequence[str], lines: Sequence[Sequence[str]] = (), kind: type[Sheet] = Sheet) -> Sheet:
    """A file as it was read."""
    return kind(tuple(header), 1, pd.DataFrame(list(lines), columns=range(len(header)), dtype="str"))


def reported(dataset: str = "generic", *rows: RowReport, **more: Any) -> FileReport:
    return replace(FileReport(dataset, "people.xlsx", DAY, "complete", rows, header_row=1, content_hash="ab" * 32, seconds=1.25), **more)


def done(number: int, **more: Any) -> RowReport:
    return replace(RowReport(number, RowStatus.DONE, Action.CREATED, None, "", 10 + number, 20 + number, None, 1, 0), **more)


def written(tmp_path: Path, report: FileReport, sheet: Sheet | None) -> list[Path]:
    return write(report, sheet, tmp_path)


def tabs(path: Path) -> dict[str, list[list[Any]]]:
    workbook = CalamineWorkbook.from_path(path)
    return {name: workbook.get_sheet_by_name(name).to_python() for name in workbook.sheet_names}


def column(rows: list[list[Any]], name: str) -> list[Any]:
    return [row[rows[0].index(name)] for row in rows[1:]]


def xml(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return "".join(archive.read(name).decode() for name in archive.namelist() if "worksheets/" in name)


def test_a_report_that_staff_look_for_has_the_name_it_always_had() -> None:
    assert names("contact_tracing", "extract 1.xlsx", DAY, refused=False) == (
        "Hackney_CT_FOR_UPLOAD_extract 1.xlsx_2026-11-20",
        "city_CT_FOR_UPLOAD_extract 1.xlsx_2026-11-20",
    )
    for dataset in ("nsss", "spl", "self_isolation", "generic"):
        assert names(dataset, "a", DAY, refused=False) == ("PROCESSED_a_2026-11-20",)
    assert names("contact_tracing", "a", DAY, refused=True) == ("REFUSED_a_2026-11-20",)


def test_legacy_columns_come_first_and_ours_after_those_of_the_file(tmp_path: Path) -> None:
    sheet = read(("First name", "status", "Surname"), (("Testy", "own", "McFictional"),))
    (path,) = written(tmp_path, reported("generic", done(1, shielding_request_id=5)), sheet)
    cases = tabs(path)["hackney_cases"]
    assert list(tabs(path)) == ["hackney_cases", "summary"]
    assert cases == [
        ["resident_id", "help_request_id", *sheet.header, *NINE[:5], *NINE[7:]],
        [11.0, 21.0, "Testy", "own", "McFictional", 1.0, "done", "created", "", "", 1.0, 0.0],
    ]


def test_columns_of_one_name_keep_each_its_own_cells(tmp_path: Path) -> None:
    (path,) = written(tmp_path, reported("generic", done(1)), read(("Comments", "a", "Comments"), (("one", "x", "two"),)))
    assert [row[2:5] for row in tabs(path)["hackney_cases"]] == [["Comments", "a", "Comments"], ["one", "x", "two"]]


def test_a_column_that_the_file_lacks_is_blank(tmp_path: Path) -> None:
    (path, _city) = written(tmp_path, reported("contact_tracing", done(1)), read(("Account ID", "UTLA"), (("a", "Hackney"),)))
    assert tabs(path)["hackney_cases"][0] == [*CASES, *NINE]
    assert tabs(path)["hackney_cases"][1] == ["a", *[""] * 15, 1.0, "done", "created", "", "", 11.0, 21.0, 1.0, 0.0]


def test_self_isolation_tells_of_the_shielding_request(tmp_path: Path) -> None:
    (path,) = written(tmp_path, reported("self_isolation", done(1, shielding_request_id=5), done(2)), read(("ID",), (("a",), ("b",))))
    cases = tabs(path)["hackney_cases"]
    assert cases[0][:4] == ["cev_case_added_id", "resident_id", "help_request_id", "ID"]
    assert [row[:4] for row in cases[1:]] == [[5.0, 11.0, 21.0, "a"], ["", 12.0, 22.0, "b"]]


HEADER = ("ID", *CASES, "UTLA")


def person(name: str, utla: str = "Hackney", **cells: str) -> tuple[str, ...]:
    known = {"Forename": name, "Surname": "Nullworth", "Date Time Extracted": "20/11/2026 03:53", "UTLA": utla} | cells
    return tuple(known.get(column, "") for column in HEADER)


@pytest.fixture
def contact_tracing(tmp_path: Path) -> tuple[dict[str, list[list[Any]]], dict[str, list[list[Any]]]]:
    address = {"House Number": "45", "Postcode": "ZZ99 3VZ"}
    mail = {"Email": "a@example.invalid"}
    rows = [
        (person("phone", Phone="07700900101", **mail, **address), RowStatus.DONE),
        (person("phone2", Phone2="07700900102", **mail, **address), RowStatus.DONE),
        (person("both", **mail, **address), RowStatus.DONE),
        (person("mail", Phone=" ", Phone2="\xa0", **mail), RowStatus.DONE),
        (person("house", **address), RowStatus.DONE),
        (person("no_house", Postcode="ZZ99 3VZ"), RowStatus.DONE),
        (person("neither"), RowStatus.DONE),
        (person("refused", **mail, **address), RowStatus.REFUSED),
        (person("failed", **mail, **address), RowStatus.FAILED),
        (person("quarantined", **mail, **address), RowStatus.QUARANTINED),
        (person("old", **mail, **address), RowStatus.SKIPPED),
        (person("city", "City of London", **mail, **address), RowStatus.DONE),
        (person("city2", " CityofLondon ", **address), RowStatus.FAILED),
        (person("city_old", "CityofLondon", **mail), RowStatus.SKIPPED),
        (person("elsewhere", "Camden", **mail), RowStatus.SKIPPED),
        (person("bad_elsewhere", "Camden", **mail), RowStatus.REFUSED),
    ]
    reports = [RowReport(number, status, resident_id=100 + number) for number, (_cells, status) in enumerate(rows, 1)]
    report = reported("contact_tracing", *reports)
    hackney, city = written(tmp_path, report, read(HEADER, tuple(cells for cells, _status in rows)))
    return tabs(hackney), tabs(city)


def test_contact_tracing_workbooks_have_their_tabs_in_order(contact_tracing: Any) -> None:
    hackney, city = contact_tracing
    assert list(hackney) == ["email_list", "address_list", "hackney_cases", "other_rows", "summary"]
    assert list(city) == ["city_cases", "summary"]
    assert hackney["hackney_cases"][0] == [*CASES, *NINE]
    assert hackney["other_rows"][0] == city["city_cases"][0] == [*HEADER, *NINE]


def test_letters_go_to_those_alone_who_were_sent_and_have_no_phone(contact_tracing: Any) -> None:
    hackney, _city = contact_tracing
    assert hackney["email_list"] == [
        ["Date Time Extracted", "Forename", "Surname", "Email"],
        ["20/11/2026 03:53", "both", "Nullworth", "a@example.invalid"],
        ["20/11/2026 03:53", "mail", "Nullworth", "a@example.invalid"],
    ]
    assert hackney["address_list"] == [
        ["Date Time Extracted", "Forename", "Surname", "House Number", "Postcode"],
        ["20/11/2026 03:53", "both", "Nullworth", "45", "ZZ99 3VZ"],
        ["20/11/2026 03:53", "house", "Nullworth", "45", "ZZ99 3VZ"],
    ]


def test_every_row_of_contact_tracing_stands_in_one_list_of_rows(contact_tracing: Any) -> None:
    hackney, city = contact_tracing
    assert column(hackney["hackney_cases"], "Forename") == [
        *("phone", "phone2", "both", "mail", "house", "no_house", "neither", "refused", "failed", "quarantined"),
    ]
    assert column(city["city_cases"], "Forename") == ["city", "city2"]
    assert column(hackney["other_rows"], "Forename") == ["old", "city_old", "elsewhere", "bad_elsewhere"]
    numbers = [
        number for rows in (hackney["hackney_cases"], hackney["other_rows"], city["city_cases"]) for number in column(rows, "row_number")
    ]
    assert sorted(numbers) == list(range(1, 17))
    assert column(hackney["hackney_cases"], "resident_id") == [100 + number for number in column(hackney["hackney_cases"], "row_number")]


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+447700900101", "-1", "@SUM(A1)", "  =1+1", "\t1", "\r=1", "\n=1", "\xa0=1", "\u200b=1", "\ufeff=1", "\uff1d1"),
        *("\x00=1", "\x1b\x01+1", "<r></is></c><c><f>1+1</f></c></r>"),
    ],
    ids=ascii,
)
def test_no_cell_is_calculated(tmp_path: Path, text: str) -> None:
    (path,) = written(tmp_path, reported("generic", done(1, message=text)), read(("a", text), (("x", text),)))
    header, row = tabs(path)["hackney_cases"]
    assert {cell[:1] for cell in (header[3], row[3], row[8])} == {"'"}
    assert "<f" not in xml(path)
    assert tabs(path)["hackney_cases"][1][5] == "done"


@pytest.mark.parametrize(
    "text",
    ["07700 900101", "ZZ99 3VZ", "O'Nullworth", "a = b", "12/11/1998", "<b>&\"'", "héllo 日本 🙂", "_x003D_1", " x ", "a\nb"],
    ids=ascii,
)
def test_a_text_that_does_no_harm_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    (path,) = written(tmp_path, reported("generic", done(1)), read(("a",), ((text,),)))
    assert tabs(path)["hackney_cases"][1][2] == text


def test_leading_zeros_and_long_numbers_stay_text(tmp_path: Path) -> None:
    sheet = read(("phone", "nhs", "id", "link"), (("07700900101", "9990000115", "1234e567", "https://example.invalid"),))
    (path,) = written(tmp_path, reported("generic", done(1)), sheet)
    assert tabs(path)["hackney_cases"][1][2:6] == list(sheet.frame.iloc[0])
    assert "<hyperlink" not in xml(path)


def test_characters_that_xml_forbids_do_not_break_the_workbook(tmp_path: Path) -> None:
    text = "a\x00b\x08c\x1fd\ufffee\ufffff\r\ng\rh"
    (path,) = written(tmp_path, reported("generic", done(1)), read(("a\x00b\ud800",), ((text,),)))
    header, row = tabs(path)["hackney_cases"]
    assert (header[2], row[2]) == ("ab", "abcdef\ng\nh")


@pytest.mark.parametrize("letter", ["x", "🙂"])
def test_a_cell_too_long_is_cut_and_shows_it(tmp_path: Path, letter: str) -> None:
    fits = letter * (32_767 // (len(letter.encode("utf-16-le")) // 2))
    (path,) = written(tmp_path, reported("generic", done(1), done(2)), read(("a",), ((fits,), (letter * 40_000,))))
    first, second = column(tabs(path)["hackney_cases"], "a")
    assert first == fits
    assert second == letter * len(second[:-1]) + "…"
    assert 32_765 <= len(second.encode("utf-16-le")) // 2 <= 32_767


def test_a_file_without_rows_has_its_report(tmp_path: Path) -> None:
    (path,) = written(tmp_path, reported("nsss"), read(("ID", "nhs_number")))
    assert tabs(path)["hackney_cases"] == [["resident_id", "help_request_id", "ID", "nhs_number", *NINE[:5], *NINE[7:]]]
    assert ["rows", 0.0] in tabs(path)["summary"]
    hackney, city = written(tmp_path, reported("contact_tracing"), read(HEADER))
    assert [len(rows) for name, rows in tabs(hackney).items() if name != "summary"] == [1, 1, 1, 1]
    assert len(tabs(city)["city_cases"]) == 1


def test_the_summary_counts_by_status_and_reason(tmp_path: Path) -> None:
    rows = (
        done(1),
        done(2, action=Action.MATCHED),
        RowReport(3, RowStatus.REFUSED, reason_code="bad_date"),
        RowReport(4, RowStatus.REFUSED, reason_code="bad_date"),
        RowReport(5, RowStatus.SKIPPED, Action.SKIPPED, "unknown_type"),
    )
    problems = (Problem("bad_date", "row 3, column 'd.o.b'", "it has the shape aaaa"), Problem("odd", "column 'a'", "=cmd", "warning"))
    report = reported("generic", *rows, status="partial", problems=problems, header_row=3)
    (path,) = written(tmp_path, report, read(("a",), (("x",),) * 5))
    summary = tabs(path)["summary"]
    known = {row[0]: row[1] for row in summary[1:] if row[0]}
    assert summary[0][:2] == ["what", "value"]
    assert known["file"] == "people.xlsx"
    assert (known["dataset"], known["status"], known["day"], known["seconds"]) == ("generic", "partial", "2026-11-20", 1.2)
    assert (known["rows"], known["rows done"], known["rows refused"], known["rows skipped"]) == (5, 2, 2, 1)
    assert (known["action created"], known["action matched"], known["reason bad_date"], known["reason unknown_type"]) == (1, 1, 2, 1)
    assert (known["notes added"], known["header found in row"], known["hash of the file"]) == (2, 3, "ab" * 32)
    assert summary[-3:] == [
        ["severity", "code", "place", "message"],
        ["error", "bad_date", "row 3, column 'd.o.b'", "it has the shape aaaa"],
        ["warning", "odd", "column 'a'", "'=cmd"],
    ]


def test_a_flood_of_problems_is_cut_and_counted_in_the_summary(tmp_path: Path) -> None:
    problems = tuple(Problem("bad_date", f"row {number}", "x") for number in range(1, 1251))
    (path,) = written(tmp_path, reported("generic", problems=problems), read(("a",)))
    summary = tabs(path)["summary"]
    assert [row for row in summary if row[1] == "bad_date"][-1][2] == "row 1000"
    assert summary[-1][0] == "and 250 more"
    assert ["problems", 1250.0] in [row[:2] for row in summary]


@pytest.mark.parametrize("dataset", ["contact_tracing", "nsss"])
@pytest.mark.parametrize("sheet", [None, read(("a",), (("secret",),))], ids=["unread", "read"])
def test_a_refused_file_gets_one_workbook_with_all_its_problems_and_none_of_its_rows(
    tmp_path: Path, dataset: str, sheet: Sheet | None
) -> None:
    problems = tuple(Problem("missing_header", f"column '{number}'", "x") for number in range(1250))
    (path,) = written(tmp_path, reported(dataset, status="refused", problems=problems, header_row=None), sheet)
    assert list(tabs(path)) == ["summary", "problems"]
    assert len(tabs(path)["problems"]) == 1251
    assert tabs(path)["problems"][:2] == [["severity", "code", "place", "message"], ["error", "missing_header", "column '0'", "x"]]
    assert "secret" not in xml(path)


def test_a_report_without_its_file_still_tells_of_every_row(tmp_path: Path) -> None:
    (path,) = written(tmp_path, reported("generic", done(1), done(2)), None)
    assert column(tabs(path)["hackney_cases"], "resident_id") == [11.0, 12.0]


def test_a_row_of_which_nothing_is_known_is_not_left_out(tmp_path: Path) -> None:
    (path,) = written(tmp_path, reported("generic", done(2)), read(("a",), (("x",), ("y",), ("z",))))
    assert column(tabs(path)["hackney_cases"], "status") == ["pending", "done", "pending"]


def test_a_report_written_again_is_the_same_to_the_byte(tmp_path: Path) -> None:
    kept = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (path,) = written(tmp_path / name, reported("generic", done(1)), read(("a",), (("x",),)))
        kept.append(path.read_bytes())
    assert kept[0] == kept[1]


def test_five_thousand_rows_are_all_there_once(tmp_path: Path) -> None:
    count = 5000
    header = tuple(f"column {number}" for number in range(10))
    sheet = read(header, tuple(tuple(f"{row}.{cell}" for cell in range(10)) for row in range(1, count + 1)))
    (path,) = written(tmp_path, reported("spl", *(done(number) for number in range(1, count + 1))), sheet)
    cases = tabs(path)["hackney_cases"]
    assert column(cases, "row_number") == list(range(1, count + 1))
    assert column(cases, "column 9") == [f"{row}.9" for row in range(1, count + 1)]
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_rows_beyond_what_a_sheet_holds_go_on_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "ROWS_OF_A_SHEET", 4)
    monkeypatch.setattr(report_module, "PROBLEMS_SHOWN", 0)
    (path,) = written(tmp_path, reported("generic", *(done(number) for number in range(1, 8))), read(("a",), (("x",),) * 7))
    found = tabs(path)
    cases = [name for name in found if name.startswith("hackney_cases")]
    assert cases == ["hackney_cases", "hackney_cases_2", "hackney_cases_3"]
    assert [number for name in cases for number in column(found[name], "row_number")] == list(range(1, 8))


def test_columns_beyond_what_a_sheet_holds_do_not_push_ours_out(tmp_path: Path) -> None:
    header = tuple(f"c{number}" for number in range(20_000))
    (path,) = written(tmp_path, reported("generic", done(1)), read(header, (header,)))
    cases = tabs(path)["hackney_cases"]
    assert len(cases[0]) == 16_384
    assert cases[0][-1] == "attempts"
    assert column(cases, "status") == ["done"]


def test_a_folder_that_cannot_be_written_fails_the_run_and_not_the_file(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="scratch_unusable"):
        written(tmp_path / "gone", reported("generic"), read(("a",)))


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    class Failing(Sheet):
        def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
            yield 1, {"a": "secret"}
            raise Transient("drive_unavailable", "gone")

    with pytest.raises(Transient, match="drive_unavailable"):
        written(tmp_path, reported("generic", done(1)), read(("a",), (("secret",), ("more",)), Failing))
    assert list(tmp_path.iterdir()) == []


def test_safe_keeps_what_is_short_and_plain() -> None:
    assert safe("Placeholder-Jones") == "Placeholder-Jones"
    assert safe("") == ""

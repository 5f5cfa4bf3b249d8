"""Headers: found where they are, and every fault of one told at once, with what was probably meant."""

from collections.abc import Sequence

import pytest

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.headers import SEARCHED_ROWS, find, near

CT = DATASETS["contact_tracing"]
NSSS = DATASETS["nsss"]
ALL = [*CT.required, *CT.expected]


def refused(rows: Sequence[Sequence[str]], dataset: str) -> tuple[Problem, ...]:
    with pytest.raises(Refused) as caught:
        find(rows, DATASETS[dataset])
    return caught.value.problems


def renamed(dataset: str, **names: str) -> list[str]:
    """A dataset's header with other names for some columns, whose blanks are written as underscores here."""
    every = DATASETS[dataset]
    return [names.get(column.replace(" ", "_").replace(".", "_"), column) for column in (*every.required, *every.expected)]


@pytest.mark.parametrize("dataset", DATASETS)
def test_header_of_each_dataset_is_complete_in_any_order(dataset: str):
    for header in (renamed(dataset), renamed(dataset)[::-1]):
        found = find([header], DATASETS[dataset])
        assert (found.cells, found.index, found.warnings) == (tuple(header), 0, ())


def test_header_is_found_below_a_preamble_and_right_of_the_margin():
    preamble = [["Extract", *[""] * 30]] * (SEARCHED_ROWS - 1)
    found = find([*preamble, ["", "", *ALL]], CT)
    assert (found.index, found.cells[2]) == (SEARCHED_ROWS - 1, "Account ID")


def test_header_below_the_searched_rows_is_not_found():
    assert [problem.code for problem in refused([["x"]] * SEARCHED_ROWS + [ALL], "contact_tracing")] == ["header_not_found"]


def test_header_that_lacks_an_anchor_is_told_by_its_near_miss():
    problems = refused([["Extract"], renamed("contact_tracing", Account_ID="AccountID")], "contact_tracing")
    assert [(problem.code, problem.place) for problem in problems] == [("missing_header", "column 'Account ID'")]
    assert "row 2" in problems[0].message
    assert "'AccountID'" in problems[0].message


@pytest.mark.parametrize(
    ("dataset", "column", "written"),
    [
        ("nsss", "address_postcode", "postcode"),
        ("self_isolation", "Day 10 Outcome", "Day10 Outcome"),
        ("generic", "d.o.b", "Date of Birth"),
        ("generic", "d.o.b", "DOB"),
        ("contact_tracing", "Date of Birth", "d.o.b"),
        ("contact_tracing", "Date of Birth", "Date Of Birth"),
        ("contact_tracing", "Surname", "Surnane"),
        ("contact_tracing", "Phone2", "Phone 2"),
        ("contact_tracing", "NHS Number", "nhs_number"),
        ("spl", "Traced_NHSNUMBER", "TracedNHSNumber"),
        ("nsss", "ID", "id"),
        ("self_isolation", "UPRN", "Uprn "),
    ],
)
def test_missing_column_names_the_one_that_was_meant(dataset: str, column: str, written: str):
    problems = refused([renamed(dataset, **{column.replace(" ", "_").replace(".", "_"): written})], dataset)
    assert [(problem.code, problem.place) for problem in problems] == [("missing_header", f"column '{column}'")]
    assert f"'{written.strip()}'" in problems[0].message


def test_numbers_in_names_are_never_taken_for_one_another():
    assert near(["Day 4 Outcome", "address_line1"], ["Day 14 Outcome", "address_line2"], {}) == {}
    assert near(["Phone", "Phone2"], ["phone", "PHONE2"], {}) == {"Phone": "phone", "Phone2": "PHONE2"}


def test_five_independent_faults_are_five_problems():
    header = renamed("nsss", nhs_number="NHS No", first_name="First Name", last_name="", date_of_birth="born", address_uprn="address_uprm")
    problems = refused([[*header, "ID"]], "nsss")
    assert [(problem.code, problem.place) for problem in problems] == [
        ("missing_header", "column 'nhs_number'"),
        ("missing_header", "column 'first_name'"),
        ("missing_header", "column 'last_name'"),
        ("missing_header", "column 'date_of_birth'"),
        ("missing_header", "column 'address_uprn'"),
        ("duplicate_header", "column 'ID'"),
    ]
    assert [problem.message.endswith("add it") for problem in problems] == [False, False, True, False, False, False]


def test_column_that_is_only_copied_may_be_missing():
    found = find([[column for column in renamed("spl") if column != "SPL_Version"]], DATASETS["spl"])
    (warning,) = found.warnings
    assert (warning.code, warning.place, warning.severity) == ("missing_optional_header", "column 'SPL_Version'", "warning")


def test_unexpected_columns_are_one_warning_and_known_ones_none():
    header = [*renamed("nsss"), "middle_name", "spl_address_line5", "Shoe size", "Colour"]
    (warning,) = find([header], NSSS).warnings
    assert (warning.code, warning.severity) == ("unexpected_header", "warning")
    assert "'Shoe size', 'Colour'" in warning.message


def test_name_that_is_there_twice_is_an_error_only_if_it_is_needed():
    (warning,) = find([[*renamed("nsss"), "middle_name", "middle_name"]], NSSS).warnings
    assert (warning.code, warning.severity) == ("duplicate_header", "warning")
    (error,) = refused([[*renamed("nsss"), "last_name"]], "nsss")
    assert (error.code, error.place, error.severity) == ("duplicate_header", "column 'last_name'", "error")


def test_rows_above_the_header_are_named_where_there_must_be_none():
    (problem,) = refused([["Report of today"], renamed("nsss")], "nsss")
    assert problem.code == "header_not_found"
    assert "row 2" in problem.message


def test_file_in_the_wrong_folder_is_told_where_it_belongs():
    (problem,) = refused([renamed("spl")], "nsss")
    assert problem.code == "header_not_found"
    assert "spl" in problem.message


def test_file_without_a_header_tells_nothing_of_the_people_in_it():
    person = ["9990000115", "Testy", "McFictional", "22/02/1963", "45 Imaginary Road", "ZZ99 3VZ", "testy@example.invalid"]
    for dataset in DATASETS:
        (problem,) = refused([person, person], dataset)
        assert problem.code == "header_not_found"
        assert not any(cell in problem.message for cell in person)


def test_names_are_trimmed_at_the_ends_only():
    assert find([[f" {column}\u200b\n" for column in renamed("nsss")]], NSSS).warnings == ()
    assert refused([renamed("nsss", last_name="last  _name")], "nsss")[0].place == "column 'last_name'"


def test_very_long_cells_are_cut_in_messages():
    (warning,) = find([[*renamed("nsss"), "x" * 5000]], NSSS).warnings
    assert len(warning.message) < 300

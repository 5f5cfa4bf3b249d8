"""What staff are told of a file before they upload it."""

import socket

import pytest

from ingestion_dagster.residents.check import check_file
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster_tests.residents.books import header, row, table, text
from ingestion_dagster_tests.residents.rows_of import RULES


def test_good_file_has_no_problem():
    assert check_file("people.csv", text(table("generic")), "generic", RULES) == ()


def test_faults_of_the_file_come_first_then_those_of_its_rows_in_order():
    bad = [row("generic", d_o_b="1983", Phone_number="x"), row("generic"), row("generic", Help_Request_Type="Other")]
    problems = check_file("people.csv", text([[*header("generic"), "Colour"], *bad]), "generic", RULES)
    assert [(problem.code, problem.place) for problem in problems] == [
        ("unexpected_header", "row 1"),
        ("bad_date", "row 1, column 'd.o.b'"),
        ("odd_phone", "row 1, column 'Phone number'"),
        ("unknown_type", "row 3, column 'Help Request Type'"),
    ]


def test_file_that_cannot_be_read_is_a_problem_not_an_exception():
    assert [problem.code for problem in check_file("people.pdf", b"%PDF-1.7", "spl", RULES)] == ["unsupported_file_type"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_nothing_that_is_said_holds_a_value(dataset: str):
    person = "Zebedee Xylophone 77/88/6655"
    cells = [person for _ in header(dataset)]
    problems = check_file("people.csv", text(table(dataset, cells, row(dataset, Date_of_Birth=person))), dataset, RULES)
    assert problems
    for problem in problems:
        assert not any(part in f"{problem.place} {problem.message}" for part in person.split())


def test_nobody_is_called(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert check_file("people.csv", text(table("spl")), "spl", RULES) == ()

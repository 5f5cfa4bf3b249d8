"""The tests that the catalogue's page names are there, and each thing that is asked of such a system has at least one."""

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "catalog.md"
NAMED = re.compile(r"((?:\w+/)*test_\w+\.py)::(\w+)")
ASKED = 40


@cache
def functions(path: Path) -> frozenset[str]:
    """The test functions of a file, without parameters."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_there(file: str, name: str) -> bool:
    """Whether a test is there; files are named from this folder, or from that of all tests."""
    paths = [path for path in (TESTS / "catalog" / file, TESTS / file) if path.is_file()]
    return any(name.startswith("test_") and name in functions(path) for path in paths)


def section() -> str:
    return PAGE.read_text(encoding="utf-8").partition("\n## Tests\n")[2].partition("\n## ")[0]


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert [f"{file}::{name}" for file, name in named if not is_there(file, name)] == []


def test_each_thing_that_is_asked_has_a_test() -> None:
    rows = {int(number): line for number, line in re.findall(r"^\| (\d+) (\|.*)$", section(), re.MULTILINE)}
    assert sorted(rows) == list(range(1, ASKED + 1))
    assert [number for number, line in rows.items() if not NAMED.search(line)] == []


def test_a_name_that_is_none_is_seen() -> None:
    assert is_there("test_docs_table.py", "test_a_name_that_is_none_is_seen")
    assert is_there("api/test_server.py", "test_others_are_not_let_in_without_a_token")
    for file, name in (("test_docs_table.py", "test_nothing"), ("test_nowhere.py", "test_nothing"), ("test_docs_table.py", "is_there")):
        assert not is_there(file, name)

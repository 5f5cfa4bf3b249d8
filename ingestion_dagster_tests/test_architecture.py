"""`docs/architecture.md` draws the code as it is."""

import re

import pytest

from ingestion_dagster.engine.ledger import LEGAL_MOVES
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.pipelines import PIPELINES
from tools import architecture


@pytest.fixture(scope="module")
def page() -> str:
    return architecture.PAGE.read_text(encoding="utf-8")


def test_the_drawings_are_not_behind_the_code(page: str, database: Database) -> None:
    with database.connect() as connection:
        assert architecture.written(page, connection) == page, "run: .venv/bin/python -m tools.architecture"


def test_every_pipeline_and_every_move_is_drawn(page: str) -> None:
    assert set(re.findall(r"assets of (\w+) -->", page)) == set(PIPELINES)
    for before, after in LEGAL_MOVES:
        assert f"    {before} --> {after}\n" in page


def test_a_drawing_is_renewed_and_nothing_else(page: str, database: Database) -> None:
    spoiled = page.replace("    ready --> ingesting\n", "").replace("    loads {\n", "    cargo {\n")
    assert spoiled != page
    with database.connect() as connection:
        assert architecture.written(spoiled, connection) == page
        with pytest.raises(KeyError):
            architecture.written("<!-- drawn by tools/architecture.py: nothing -->\n<!-- end -->", connection)

"""What the documentation says is there: links, commands, codes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from ingestion_dagster.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_leads_nowhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_codes_is_the_codes_own() -> None:
    assert subprocess.run([sys.executable, str(ROOT / "tools" / "metric_codes.py"), "--check"], check=False).returncode == 0, (
        "run .venv/bin/python tools/metric_codes.py"
    )


def test_every_code_an_operator_can_meet_is_explained() -> None:
    explained = "".join(
        (ROOT / "docs" / f"{page}.md").read_text() for page in ("metrics", "cubic", "residents", "life_events", "catalog", "operations")
    )
    source = "".join(path.read_text() for path in (ROOT / "ingestion_dagster").rglob("*.py"))
    codes = set(re.findall(r'Problem\(\s*"([a-z_]+)"', source))
    assert len(codes) >= 6
    assert {code for code in codes if f"`{code}`" not in explained} == set()


def test_the_commands_shown_exist() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"\bingestion ([a-z]+) (?:metrics|cubic|url|stop|upgrade)", text)) <= known, page.name
        assert set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE)) <= {
            pair for target in targets for pair in ((target, ""), ("", target))
        }, page.name

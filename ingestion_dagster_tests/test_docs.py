"""What the documentation says is there: links, commands, codes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from pymdownx.slugs import slugify

from ingestion_dagster.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
# Nothing asks these here, where there is no network: they are listed, so that a new one is looked at once by whoever adds it.
EXTERNAL_LINKS = {"https://dagster.io", "https://delta.io"}


def anchors(page: Path) -> set[str]:
    """Where links into a page may lead, as the site and GitHub name its headings."""
    named = slugify(case="lower")
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {named(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading), "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_leads_nowhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_anchor_leads_nowhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", CODE.sub("", page.read_text()))
    assert [(path, anchor) for path, anchor in links if anchor not in anchors(page.parent / path if path else page)] == []


def test_links_to_elsewhere_are_known_and_of_good_form() -> None:
    found = {link for page in PAGES for link in re.findall(r"\]\((\w+:[^)\s]+)", CODE.sub("", page.read_text()))}
    assert found == EXTERNAL_LINKS
    assert all(re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]{2,}(/[\w./#%-]*)?", link) for link in found)


def test_every_picture_is_shown_and_says_what_it_shows() -> None:
    shown = {
        (page.parent / path).resolve(): words for page in PAGES for words, path in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", page.read_text())
    }
    assert {path.name for path in (ROOT / "docs" / "images").iterdir()} == {path.name for path in shown}
    assert all(len(words) > 15 for words in shown.values())


def test_the_runbook_and_the_tables_of_codes_are_the_codes_own() -> None:
    assert subprocess.run([sys.executable, str(ROOT / "tools" / "runbook.py"), "--check"], check=False).returncode == 0, (
        "run .venv/bin/python tools/runbook.py"
    )


def test_the_commands_shown_exist() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"\bingestion ([a-z]+) (?:metrics|cubic|url|stop|upgrade)", text)) <= known, page.name
        assert set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE)) <= {
            pair for target in targets for pair in ((target, ""), ("", target))
        }, page.name

"""The pages that the docs site makes of the code and of benchmark figures, and that no reader's browser asks anybody else for anything.

The site itself is built strictly by `make docs`, which CI runs.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from mkdocs.config.defaults import MkDocsConfig

from benchmarks.results import Result, Row, met, record
from ingestion_dagster.cli import app
from ingestion_dagster.settings import Settings
from tools.docs_site import benchmarks_page, cli_reference, configuration, hooks, outside

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"case", "ours", "peer", "peer_name", "floor", "unit", "better", "limit", "note"}
FACTS = {"benchmark", "title", "date", "commit", "quick", "source", "machine", "rows"}
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_every_setting_is_told_once_in_a_group_of_its_own_with_its_meaning() -> None:
    page = configuration.render()
    told = re.findall(r"^\| `INGESTION_([A-Z0-9_]+)` \| (.+?) \| (.+?) \| (.+) \|$", page, re.MULTILINE)
    assert sorted(name.lower() for name, *_ in told) == sorted(Settings.model_fields)
    assert all("<" not in kind and "typing" not in kind for _, kind, *_ in told)
    assert {configuration.group_of(name) for name in Settings.model_fields} == set(configuration.GROUPS)


def test_no_secret_setting_shows_a_default() -> None:
    rows = re.findall(r"^\| `\w+` \| text, secret \| (.+?) \|", configuration.render(), re.MULTILINE)
    assert rows
    assert set(rows) == {"–"}


def test_every_command_is_told_with_its_options() -> None:
    page = cli_reference.render()
    group = typer.main.get_command(app)
    paths = [f"ingestion {name}" for name, command in group.commands.items() if not hasattr(command, "commands")]  # type: ignore[attr-defined]
    paths += [
        f"ingestion {name} {below}"
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        for below in getattr(command, "commands", {})
    ]
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [path for path, _ in cli_reference.walk()]
    assert set(paths) == {path for path, _ in cli_reference.walk()}
    for path, command in cli_reference.walk():
        section = page.partition(f"## {path}\n")[2].partition("\n## ")[0]
        for option in (name for each in command.params for name in each.opts if name.startswith("--") and each.name != "help"):
            assert option in section, (path, option)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_figures_have_the_form_that_is_told(path: Path) -> None:
    result = json.loads(path.read_text())
    assert set(result) == FACTS
    assert path.stem == result["benchmark"] + ("-quick" if result["quick"] else "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    assert set(result["machine"]) == {"cpu", "cores", "memory_gb", "system", "python", "load"}
    for row in result["rows"]:
        assert set(row) == COLUMNS
        assert row["better"] in ("less", "more")
        assert (row["peer"] is None) == (row["peer_name"] is None)
        assert isinstance(row["ours"], int | float)


def test_what_a_benchmark_records_is_drawn_and_a_miss_is_shown_as_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = met(Row("slow", 4.0, "s", 2.0, "peer", 1.0, limit=3.0))
    quick = met(Row("quick", 90.0, "rows/s", better="more", limit=80.0, note="of 100"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["MISSED", "met"]
    written = record("toy", Result("A toy", [slow, quick]), quick=True, load=0.25, folder=tmp_path)
    monkeypatch.setattr(benchmarks_page, "RESULTS", tmp_path)
    benchmarks_page.results.cache_clear()
    try:
        assert set(json.loads(written.read_text())) == FACTS
        page, plots = benchmarks_page.render(), benchmarks_page.plots()
        assert "| slow | 4 s | 2 (peer) | 1 | at most 3 | **missed** |" in page
        assert "| quick | 90 rows/s | – | – | at least 80 | met; of 100 |" in page
        assert "A quick run" in page
        assert list(plots) == ["images/benchmark-toy-1.svg"]
        assert all(text in plots["images/benchmark-toy-1.svg"] for text in ("ours 4, missed", "peer 2", "floor 1"))
        record("toy", Result("A toy", [quick]), quick=False, load=0.0, folder=tmp_path)
        benchmarks_page.results.cache_clear()
        assert "A quick run" not in benchmarks_page.render()
    finally:
        benchmarks_page.results.cache_clear()


@pytest.mark.parametrize(
    ("markdown", "at_root", "led"),
    [
        ("[a](docs/metrics.md#codes)", True, "[a](metrics.md#codes)"),
        ("![a](docs/images/a.png)", True, "![a](images/a.png)"),
        ("[a](.env.example)", True, "[a](configuration.md)"),
        ("[a](LICENSE)", True, "[a](files/LICENSE)"),
        ("[a](../README.md)", False, "[a](index.md)"),
        ("[a](../source_data/a.yaml)", False, "[a](files/source_data/a.yaml)"),
        ("[a](metrics.md)", False, "[a](metrics.md)"),
        ("[a](https://dagster.io/docs/x)", True, "[a](https://dagster.io/docs/x)"),
        ("[a](#here)", True, "[a](#here)"),
    ],
)
def test_links_out_of_the_docs_lead_to_where_things_are_in_the_site(markdown: str, at_root: bool, led: str) -> None:
    assert outside.relinked(markdown, at_root=at_root) == led


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("[a](nowhere.md)", "nowhere.md"),
        ("[a](index.md#nowhere)", "no such anchor"),
        ("![a](images/nowhere.png)", "images/nowhere.png"),
        ("[a](index.md)", None),
    ],
)
def test_make_docs_fails_for_what_leads_nowhere(page: str, says: str | None, tmp_path: Path) -> None:
    (flags,) = re.findall(r"-m mkdocs build (.*)", (ROOT / "Makefile").read_text())
    validation = (ROOT / "mkdocs.yml").read_text().partition("\nvalidation:\n")[2].partition("\n\n")[0]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: a toy\nplugins: []\nvalidation:\n{validation}\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# A toy\n\n{page}\n")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", *flags.split()]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (built.returncode, says is None or says in built.stderr) == (0 if says is None else 1, True), built.stderr


@pytest.mark.parametrize(
    "tag", ['<script src="https://a.example/x.js">', '<img alt="" src="//a.example/x.png">', '<link href="http://a.example">']
)
def test_a_site_that_asks_others_is_refused(tag: str, tmp_path: Path) -> None:
    config: Any = MkDocsConfig()
    config.site_dir = str(tmp_path)
    (tmp_path / "index.html").write_text('<a href="https://dagster.io">a link asks nobody</a><script src="assets/x.js"></script>')
    hooks.on_post_build(config)
    (tmp_path / "page.html").write_text(tag)
    with pytest.raises(RuntimeError, match=r"page\.html would ask"):
        hooks.on_post_build(config)

"""The demo's last screen: what it says of a pipeline, and that what it tells people to type works as printed."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from ingestion_dagster.cli import app
from ingestion_dagster.demo_screen import NEXT, SHOWN, Standing, show

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("line", NEXT)
def test_what_to_try_next_can_be_typed_as_printed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert program == ".venv/bin/ingestion"
    command = typer.main.get_command(app)
    while below := getattr(command, "commands", None):
        command = below[words.pop(0)]
    command.make_context(line, words)  # fails for an option, an argument or a path that is not there


def test_there_are_a_few_things_to_try_and_the_interface_is_the_first() -> None:
    assert 3 <= len(NEXT) <= 5
    assert next(iter(NEXT)) == "make dev"


def test_the_screen_tells_what_was_refused_and_why_and_where_things_are(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [(f"code_{number}", f"file [{number}]: mend it", 2) for number in range(SHOWN + 2)]
    filled = [(count, f"table_{count}") for count in range(SHOWN + 3)]
    place = "file:///" + "long/" * 18 + "place"
    show(
        [Standing("metrics", 7, 10, 1, errors, filled, [("refused", place)]), Standing("cubic", 3, 0, 0, [], [], [])],
        {"feed": "http://here"},
    )
    said = capsys.readouterr().out
    assert re.search(r"metrics +7 +10 +1 +10 are bad on purpose, 1 wait, as they should", said)
    assert re.search(r"cubic +3 +0 +0 *\n", said)
    assert f"{SHOWN + 2} rows in table_{SHOWN + 2}" in said
    assert "and 3 more" in said
    assert place in said
    assert "file [0]: mend it" in said
    assert re.search(r" 4 +2 other codes", said)
    assert "feed of the sandbox goes on answering at http://here" in said
    assert all(command in said for command in NEXT)

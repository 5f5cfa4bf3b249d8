"""The runbook knows every code that the source can produce, and none that it cannot; its commands are there."""

import re
import typing

import pytest
import typer.main

from ingestion_dagster.cli import app
from ingestion_dagster.engine.runbook import ENGINE, entries
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.produced_codes import produced

ALL = entries((ENGINE, *PIPELINES))


@pytest.mark.parametrize("owner", [ENGINE, *PIPELINES])
def test_every_code_that_can_be_produced_has_an_entry(owner: str) -> None:
    codes = produced()[owner]
    assert len(codes) > 20
    assert sorted(code for code in codes if not any(entry.matches(code) for entry in entries((owner, ENGINE)))) == []


@pytest.mark.parametrize("owner", [ENGINE, *PIPELINES])
def test_every_entry_is_produced_by_something(owner: str) -> None:
    codes = frozenset().union(*produced().values()) if owner == ENGINE else produced()[owner] | produced()[ENGINE]
    assert [entry.code for entry in entries((owner,)) if not any(entry.matches(code) for code in codes)] == []


def test_a_code_that_nobody_has_explained_is_noticed() -> None:
    assert "schema_changed" in produced()["cubic"]
    assert not any(entry.matches("never_heard_of") for entry in ALL)
    assert sum(map(len, produced().values())) > 300


@pytest.mark.parametrize("owner", [ENGINE, *PIPELINES])
def test_every_entry_is_whole_and_its_commands_are_there(owner: str) -> None:
    commands: typing.Any = typer.main.get_command(app)
    for entry in entries((owner,)):
        texts = (entry.means, entry.how_bad, entry.do, entry.supplier, entry.retry, *entry.operator)
        assert [text for text in texts if not text.endswith((".", "?")) or "{" in text] == []
        for verb, rest in re.findall(r"`ingestion (\w+)(?: (\w+))?", " ".join(texts)):
            assert verb in commands.commands, entry
            assert verb not in PIPELINES or rest in commands.commands[verb].commands, entry
        for variable in re.findall(r"INGESTION_([A-Z_]+)", " ".join(texts)):
            known = [name for name in Settings.model_fields if name.startswith(variable.lower())]
            assert known, (entry, variable)

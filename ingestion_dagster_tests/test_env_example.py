"""`.env.example` is what its generator writes, and copying it changes nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from ingestion_dagster.settings import Settings, current

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / ".env.example"


def entries() -> dict[str, str]:
    """The variables of the example, by what a person gets who removes every leading `# ` of an assignment."""
    lines = [line.removeprefix("# ") for line in EXAMPLE.read_text().splitlines() if line.startswith("# INGESTION_")]
    return dict(line.split("=", 1) for line in lines)


def test_example_is_not_behind_the_settings(tmp_path: Path) -> None:
    script = tmp_path / "tools" / "env_example.py"
    script.parent.mkdir()
    script.write_bytes((ROOT / "tools" / "env_example.py").read_bytes())
    subprocess.run([sys.executable, script], check=True, env=os.environ | {"INGESTION_ENVIRONMENT": "staging"}, capture_output=True)
    assert (tmp_path / ".env.example").read_text() == EXAMPLE.read_text(), "run: .venv/bin/python tools/env_example.py"


def test_every_setting_is_in_the_example_and_no_other() -> None:
    assert set(entries()) == {f"INGESTION_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_no_setting_goes_without_a_meaning(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description is not None
    assert description.endswith(".")


def test_a_copied_example_overrides_nothing(tmp_path: Path) -> None:
    copied = tmp_path / ".env"
    copied.write_bytes(EXAMPLE.read_bytes())
    assert dotenv_values(copied) == {}


def test_an_example_with_everything_uncommented_equals_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = current()
    for name, value in entries().items():
        monkeypatch.setenv(name, value)
    assert current() == defaults

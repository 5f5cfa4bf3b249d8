"""Fetching OpenSearch's jars: once, whole or not at all, and told plainly when it fails. Maven is played by a script."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.sandbox import opensearch_jars

FETCHES = """\
for argument; do case $argument in -DoutputDirectory=*) folder=${argument#*=};; esac; done
echo fetched >> "$HOME/calls"
touch "$folder/opensearch-2.jar"
"""


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that is called for Maven, with a cache of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "mvn"


def says(maven: Path, script: str) -> None:
    maven.write_text(f"#!/bin/sh\n{script}")
    maven.chmod(0o755)


def calls(maven: Path) -> int:
    return len((maven.parent / "calls").read_text().splitlines())


def test_jars_are_fetched_once_below_the_users_cache(maven: Path):
    says(maven, FETCHES)
    jars = opensearch_jars.folder()
    assert jars.parent == maven.parent / ".cache" / "ingestion_dagster"
    assert jars.name.startswith("opensearch-2.19.")
    assert [file.name for file in jars.iterdir()] == ["opensearch-2.jar"]
    assert opensearch_jars.folder() == jars
    assert calls(maven) == 1


def test_a_changed_pom_is_fetched_anew(maven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    says(maven, FETCHES)
    before = opensearch_jars.folder()
    changed = tmp_path / "pom.xml"
    changed.write_bytes(opensearch_jars.POM.read_bytes() + b"\n")
    monkeypatch.setattr(opensearch_jars, "POM", changed)
    assert opensearch_jars.folder() != before
    assert calls(maven) == 2


def test_two_processes_that_want_them_at_once_fetch_once(maven: Path):
    says(maven, f"sleep 0.5\n{FETCHES}")
    code = "from ingestion_dagster.sandbox import opensearch_jars; print(opensearch_jars.folder())"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=30)[0] for process in both)
    assert first == second != ""
    assert calls(maven) == 1


def test_an_interrupted_fetch_is_not_taken_for_a_whole_one(maven: Path):
    says(maven, f'{FETCHES}touch "$HOME/half"\nexec sleep 60')
    code = "from ingestion_dagster.sandbox import opensearch_jars; opensearch_jars.folder()"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as fetching:
        deadline = time.monotonic() + 30
        while not (maven.parent / "half").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(fetching.pid, 9)
    cache = maven.parent / ".cache" / "ingestion_dagster"
    assert list(cache.glob("opensearch-*")) == []
    says(maven, FETCHES)
    assert opensearch_jars.folder().is_dir()
    assert calls(maven) == 2
    assert list(cache.glob("fetching-*")) == []


def test_a_fetch_that_fails_is_told_with_the_last_lines_of_maven(maven: Path):
    error = r"printf '\033[0m[ERROR] Could not transfer artifact\033[0m\n\n' >&2"
    says(maven, f"i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; {error}; exit 1")
    with pytest.raises(ConfigurationError, match="could not fetch") as raised:
        opensearch_jars.folder()
    lines = str(raised.value).splitlines()
    assert lines[-1] == "[ERROR] Could not transfer artifact"
    assert len(lines) < 20
    assert [path.name for path in (maven.parent / ".cache" / "ingestion_dagster").iterdir()] == ["lock"]


def test_without_maven_it_says_what_to_install(maven: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(maven.parent))
    with pytest.raises(ConfigurationError, match="no mvn command: install both Java and Maven"):
        opensearch_jars.folder()


def test_without_the_pom_it_says_that_it_takes_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opensearch_jars, "POM", tmp_path / "pom.xml")
    with pytest.raises(ConfigurationError, match="from a checkout only"):
        opensearch_jars.folder()


def test_a_cache_that_cannot_be_written_is_told(maven: Path):
    (maven.parent / ".cache").write_text("a file, not a folder")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        opensearch_jars.folder()


def test_the_pom_pins_every_version_and_names_no_place_to_fetch_from():
    pom = opensearch_jars.POM.read_text()
    assert pom.count("<dependency>") == pom.count("</version>\n    </dependency>") + 1  # the runner's exclusions come after its version
    assert not any(word in pom for word in ("repositories", "<url>", "LATEST", "RELEASE", "SNAPSHOT"))

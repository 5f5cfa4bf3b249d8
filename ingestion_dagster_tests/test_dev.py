"""`make dev SEARCH=opensearch`: the cluster that the UI's processes are told of is there, and ends with the UI."""

import subprocess
import sys
import time
from pathlib import Path

from ingestion_dagster.sandbox import opensearch
from ingestion_dagster.settings import Settings

ROOT = Path(__file__).parent.parent
DEV = [sys.executable, "-W", "ignore", "-m", "ingestion_dagster.dev"]


def until(what):
    deadline = time.monotonic() + 90
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_search_is_started_for_the_ui_and_ends_with_it(settings: Settings):
    # Dagster's part of it says how it is used, and ends.
    with subprocess.Popen([*DEV, "--search", "opensearch", "--help"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as dev:
        process = Path("/proc") / str(dev.pid)
        until(lambda: b"workspace.yaml" in (process / "cmdline").read_bytes())
        url = opensearch.url(settings.home_folder)
        assert f"INGESTION_CATALOG_SEARCH_URL={url}".encode() in (process / "environ").read_bytes().split(b"\0")
        assert dev.stdout is not None
        assert f"OpenSearch of the sandbox answers at {url}" in dev.stdout.read()
        assert dev.wait(60) == 0
    until(lambda: opensearch.url(settings.home_folder) is None)


def test_another_search_is_refused_before_anything_is_started(tmp_path: Path):
    run = subprocess.run([*DEV, "--search", "solr"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 2
    assert "choose from 'opensearch'" in run.stderr or "choose from opensearch" in run.stderr
    assert list(tmp_path.iterdir()) == []

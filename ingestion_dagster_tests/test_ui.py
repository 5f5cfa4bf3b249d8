"""The UI as an operator meets it: `make dev` in a browser. The screenshots are kept in build/screenshots; the docs' come from there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

ROOT = Path(__file__).parent.parent
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--disable-background-networking", "--disable-component-update", "--disable-gpu", "--disable-quic", "--disable-sync",
    "--no-first-run", "--no-sandbox",
)  # fmt: skip
PATIENCE = 60_000  # milliseconds; a run is launched in a process of its own

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"),
]


@pytest.fixture
def metrics(settings: Settings, database: Database) -> Metrics:
    cases = time_series_payload(metric_group="cases", metric="COVID-19_cases_casesByDay")
    driven = Metrics(settings, database)
    driven.land(good=cases, bad=cases | {"sex": "banana"})
    return driven


@pytest.fixture
def address(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where `make dev` serves, on a free port; it is stopped as by Ctrl-C."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "ingestion_dagster.dev", "-p", str(port)]
    with (Path.cwd() / "dev.log").open("w") as log:
        dev = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=log, stderr=log, start_new_session=True)
        try:
            await_answer(f"http://127.0.0.1:{port}/server_info", dev)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(dev.pid, signal.SIGINT)
            try:
                dev.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(dev.pid, signal.SIGKILL)
                dev.wait()


def await_answer(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, f"ended with {process.returncode}: {(Path.cwd() / 'dev.log').read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, f"does not answer: {(Path.cwd() / 'dev.log').read_text()[-2000:]}"
            time.sleep(0.3)


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        opened = browser.new_page(base_url=address, viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        try:
            yield opened
        finally:
            opened.screenshot(path=SCREENSHOTS / "last.png")
            browser.close()


def test_an_operator_opens_the_graph_materializes_an_asset_and_sees_it_green(page: Page, metrics: Metrics) -> None:
    page.goto("/locations/__repository__@ingestion/asset-groups/metrics/lineage")
    for name in ("kinesis_stream", "landing_zone", "deaths", "core_time_series", "api_time_series", "dashboard"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()

    page.goto("/assets/metrics/cases")
    expect(page.get_by_text("Never materialized")).to_be_visible()
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Latest", exact=True).click()
    launch = page.get_by_role("button", name="Launch").last
    expect(launch).to_be_enabled()
    launch.click()

    expect(page.get_by_text("Never materialized")).to_be_hidden()
    assert metrics.statuses() == {"good.json": "archived", "bad.json": "errored"}
    page.goto("/assets/metrics/cases?view=events")
    expect(page.get_by_text("load_statuses")).to_be_visible()
    expect(page.get_by_text("unknown_sex")).to_be_visible()
    expect(page.get_by_text("banana")).to_have_count(0)
    page.screenshot(path=SCREENSHOTS / "partition.png")  # counts, statuses and codes of a day

    page.goto("/assets/metrics/cases?view=overview")
    page.get_by_role("button", name="Plots").click()
    expect(page.get_by_text("rows_written").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "plots.png", full_page=True)

    page.goto("/assets/metrics/cases?view=partitions")
    for count in ("Materialized (1)", "Failed (0)"):
        expect(page.get_by_text(count)).to_be_visible()

    page.set_viewport_size({"width": 2000, "height": 1900})
    page.goto("/locations/__repository__@ingestion/asset-groups/metrics/lineage")
    expect(page.get_by_text("dashboard", exact=True).first).to_be_visible()
    page.get_by_role("button", name="zoom_out").click()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=SCREENSHOTS / "asset-graph.png")

"""The UI as an operator meets it: `make dev` in a browser. What it looks like is kept in build/screenshots.

`make screenshots` puts the pictures into docs/images as well, with some days more of files, so that they show something.
"""

import io
import os
import pty
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
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from rich.console import Console
from rich.text import Text

from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics import driver
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

ROOT = Path(__file__).parent.parent
SCREENSHOTS = ROOT / "build" / "screenshots"
PICTURES = ROOT / "docs" / "images"
FOR_THE_DOCS = bool(os.environ.get("TAKE_SCREENSHOTS"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--disable-background-networking", "--disable-component-update", "--disable-gpu", "--disable-quic", "--disable-sync",
    "--no-first-run", "--no-sandbox",
)  # fmt: skip
PATIENCE = 240_000 if FOR_THE_DOCS else 60_000  # milliseconds; a run is launched in a process of its own

pytestmark = [
    pytest.mark.timeout(1800 if FOR_THE_DOCS else 300),
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
    deadline = time.monotonic() + (600 if FOR_THE_DOCS else 120)
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


def keep(page: Page, name: str, *, full_page: bool = False) -> None:
    """A screenshot of what is shown now, once it has come to rest."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=SCREENSHOTS / name, full_page=full_page)
    if FOR_THE_DOCS:
        shutil.copy(SCREENSHOTS / name, PICTURES / name)


def ask(page: Page, query: str, **variables: object) -> Any:
    """What Dagster's own API answers."""
    answer = page.request.post("/graphql", data={"query": query, "variables": variables}).json()
    assert "errors" not in answer, answer
    return answer["data"]


def on_a_terminal(*command: str, width: int = 132) -> str:
    """What a command shows on a terminal, as an SVG drawing."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=os.environ | {"COLUMNS": str(width)})
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # how the end of a terminal is told
        pass
    finally:
        os.close(ours)
        assert process.wait(60) == 0, said.decode()
    terminal = Console(record=True, width=width, file=io.StringIO())
    terminal.print(Text.from_ansi(said.decode().replace("\r\n", "\n")))
    return terminal.export_svg(title=" ".join(("ingestion", *command[1:])))


def some_days_of_files(metrics: Metrics) -> None:
    """What a week brings: files of several types, as if discovered day by day, for the plots and the partitions."""
    for days_ago in range(7, 0, -1):
        points = [(f"2023-06-{day:02}", float(day)) for day in range(1, 8 + 3 * days_ago)]
        for group in ("cases", "deaths", "healthcare"):
            for age in ("all", "65+", "00-04", "05-14")[: 2 + days_ago % 3]:
                changes = {
                    "metric_group": group,
                    "metric": f"COVID-19_{group}_byDay",
                    "age": age,
                    "refresh_date": f"2023-11-{20 - days_ago:02}",
                }
                metrics.land_key(f"{days_ago}/COVID-19_{group}_byDay_{age}.json", time_series_payload(points, **changes))
        if days_ago % 3 == 0:
            metrics.land_key(f"{days_ago}/odd.json", time_series_payload(metric_group="cases", metric="COVID-19_cases_byDay", age="5-9"))
    driver.discover(metrics.settings)
    metrics.query("UPDATE ledger.loads SET partition = (current_date - split_part(key, '/', 1)::int)::text WHERE status = 'ready'")
    loaded = subprocess.run([str(Path(sys.prefix) / "bin" / "ingestion"), "run", "metrics"], env=os.environ, check=False)
    assert loaded.returncode == 2, "some were refused"


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
    keep(page, "partition.png")  # counts, statuses and codes of a day
    if FOR_THE_DOCS:
        some_days_of_files(metrics)

    page.goto("/assets/metrics/cases?view=overview")
    page.get_by_role("button", name="Plots").click()
    expect(page.get_by_text("rows_written").first).to_be_visible()
    keep(page, "plots.png", full_page=True)

    page.goto("/assets/metrics/cases?view=partitions")
    for count in (f"Materialized ({8 if FOR_THE_DOCS else 1})", "Failed (0)"):
        expect(page.get_by_text(count)).to_be_visible()

    page.goto("/assets/metrics/cases?view=checks")
    expect(page.get_by_text("rows_add_up").first).to_be_visible()
    keep(page, "checks.png")

    (run,) = ask(page, "{ runsOrError(limit: 1) { ... on Runs { results { runId } } } }")["runsOrError"]["results"]
    page.goto(f"/runs/{run['runId']}")
    expect(page.get_by_text("metrics_load_step").first).to_be_visible()
    expect(page.get_by_text("Success").first).to_be_visible()
    expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible(timeout=2 * PATIENCE)
    keep(page, "run.png")

    if FOR_THE_DOCS:
        sensor = {"repositoryName": "__repository__", "repositoryLocationName": "ingestion", "sensorName": "metrics_s3_sensor"}
        ask(page, "mutation($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename } }", sensor=sensor)
    page.goto("/locations/__repository__@ingestion/sensors/metrics_s3_sensor")
    expect(page.get_by_text("Watches the landing zone of metrics")).to_be_visible()
    if FOR_THE_DOCS:
        expect(page.get_by_text("0 runs requested").first).to_be_visible(timeout=2 * PATIENCE)
        page.reload()  # its head is read once
        expect(page.get_by_text("0 runs requested").nth(1)).to_be_visible()
    keep(page, "sensor.png")

    page.set_viewport_size({"width": 2000, "height": 1900})
    page.goto("/locations/__repository__@ingestion/asset-groups/metrics/lineage")
    expect(page.get_by_text("dashboard", exact=True).first).to_be_visible()
    page.get_by_role("button", name="zoom_out").click()
    keep(page, "asset-graph.png")

    drawing = on_a_terminal(str(Path(sys.prefix) / "bin" / "ingestion"), "status", "metrics")
    page.set_viewport_size({"width": 1300, "height": 700})
    page.set_content(f"<body style='margin:0'>{drawing}</body>")
    expect(page.get_by_text("unknown_sex").first).to_be_visible()
    page.locator("svg").first.screenshot(path=SCREENSHOTS / "status.png")
    if FOR_THE_DOCS:
        shutil.copy(SCREENSHOTS / "status.png", PICTURES / "status.png")

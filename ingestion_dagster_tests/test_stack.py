"""`make stack`: what production runs as containers, as processes: it loads files, survives the death of a code server, and ends whole."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_dagster.engine import embedded_postgres
from ingestion_dagster_tests import stack_scene
from ingestion_dagster_tests.engine.processes import quick_folder
from ingestion_dagster_tests.metrics.conftest import time_series_payload
from ingestion_dagster_tests.stack_scene import LAUNCH, ROOT, Scene, stacked

LOCATIONS = [entry["grpc_server"]["location_name"] for entry in yaml.safe_load((ROOT / "deploy/workspace.yaml").read_text())["load_from"]]
CUBIC = ROOT / "source_data" / "cubic" / "good" / "cubic" / "dmap" / "agg_sample"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def stack() -> Iterator[Scene]:
    with quick_folder() as folder, stacked(folder / "home") as scene:
        yield scene


def put_metrics(stack: Scene, name: str, **changes: Any) -> None:
    stack.put(f"metrics/in/{name}", json.dumps(time_series_payload(**changes)).encode())


def put_cubic(stack: Scene, name: str) -> None:
    stack.put(f"cubic/incoming/cubic/dmap/agg_sample/{name}", (CUBIC / name).read_bytes())


def test_files_are_loaded_a_killed_code_server_comes_back_and_nothing_is_left_behind(stack: Scene) -> None:
    """One scene: it is dear to set up, and each part needs what the one before has left."""
    stack.until(lambda: stack.said("everything is up"), 150)
    everything = dict.fromkeys(LOCATIONS, True)
    stack.until(lambda: stack.locations("webserver") == everything)
    stack.until(lambda: stack.locations("viewer") == everything)

    # Both are there at once: the sensors' ticks and the runs go on side by side.
    put_metrics(stack, "deaths.json")
    put_cubic(stack, "agg_sample_20260103.csv.gz")
    stack.switch_on("metrics", "metrics_s3_sensor")
    stack.switch_on("cubic", "cubic_s3_sensor")
    stack.until(lambda: stack.statuses("metrics") == {"deaths.json": "archived"})
    stack.until(lambda: list(stack.statuses("cubic").values()) == ["archived"])
    stack.until(lambda: [run["status"] for run in stack.runs("metrics")] == ["SUCCESS"])
    stack.until(lambda: [run["status"] for run in stack.runs("cubic")] == ["SUCCESS"])
    assert stack.runs("metrics")[0]["dagster/sensor_name"] == "metrics_s3_sensor"

    job = {"repositoryLocationName": "metrics", "repositoryName": "__repository__", "jobName": "metrics_files_job"}
    refused = stack.asked("viewer", LAUNCH, job=job)
    assert refused["data"]["launchRun"]["__typename"] == "UnauthorizedError", refused
    assert len(stack.runs("metrics")) == 1

    # As long as another pipeline's run is under way, the killed one is killed again whenever it comes back.
    others = [name for name in LOCATIONS if name != "cubic"]
    dead = {stack.kill("cubic")}
    put_metrics(stack, "cases.json", metric_group="cases", metric="COVID-19_cases_casesByDay")
    put_cubic(stack, "agg_sample_20260104.csv.gz")

    def loaded_meanwhile() -> bool:
        dead.add(stack.kill("cubic"))
        return (
            stack.statuses("metrics").get("cases.json") == "archived"
            and [run["status"] for run in stack.runs("metrics")] == ["SUCCESS"] * 2
        )

    stack.until(loaded_meanwhile)
    assert all(stack.serves(name) for name in others)
    assert len(dead - {None}) >= 2, "it was started again, and did not stay away by itself"
    assert len(stack.runs("cubic")) == 1

    stack.until(lambda: len(stack.statuses("cubic")) == 2 and set(stack.statuses("cubic").values()) == {"archived"}, 120)
    stack.until(lambda: [run["status"] for run in stack.runs("cubic")] == ["SUCCESS"] * 2)
    assert stack.serves("cubic")

    started = stack_scene.of_home(stack.home)
    assert len(started) > len(LOCATIONS)
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0, stack.output.read_text()
    assert stack_scene.of_home(stack.home) == {}
    assert embedded_postgres.running(stack.home) is None
    assert not Path(stack.home / "stack" / "services.json").exists()

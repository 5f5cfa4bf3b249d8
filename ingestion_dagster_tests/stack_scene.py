"""`make stack` as a process of the test's own: what runs in it, what its web interfaces answer, what its ledger says."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ingestion_dagster import health
from ingestion_dagster.engine import embedded_postgres, whereabouts
from ingestion_dagster.engine.postgres import Database

ROOT = Path(__file__).parent.parent
T = TypeVar("T")

LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename
    ... on RepositoryLocation { repositories { name } } ... on PythonError { message } } } } } }"""
RUNS = """query Runs($pipeline: String!) { runsOrError(filter: {tags: [{key: "ingestion/pipeline", value: $pipeline}]}) {
    ... on Runs { results { status tags { key value } } } } }"""
START_SENSOR = """mutation Start($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename
    ... on PythonError { message } } }"""
LAUNCH = """mutation Launch($job: JobOrPipelineSelector!) { launchRun(executionParams: {selector: $job, mode: "default"}) { __typename
    ... on PythonError { message } } }"""


@dataclass
class Scene:
    """A stack that runs, and its home."""

    process: "subprocess.Popen[bytes]"
    home: Path
    output: Path

    @cached_property
    def database(self) -> Database:
        """Its ledger."""
        server = embedded_postgres.running(self.home)
        assert server is not None
        return Database.at(server.url())

    def until(self, what: Callable[[], T | None], seconds: float = 90) -> T:
        """Wait for something that is neither None nor false; fail with what the stack has said if it does not come."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            told = f"{self.output.read_text()}\n{self.logs()}"
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{told}"
            assert time.monotonic() < deadline, f"not seen within {seconds} s:\n{told}"
            time.sleep(0.2)
        return found

    def logs(self) -> str:
        """The ends of the services' logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted((self.home / "stack").glob("*.log")))

    def said(self, line: str) -> bool:
        """Whether the stack has printed a line."""
        return line in self.output.read_text().splitlines()

    def services(self) -> dict[str, dict[str, Any]]:
        """Process id and address of each service that runs."""
        content: dict[str, dict[str, Any]] = json.loads((self.home / "stack" / "services.json").read_text())
        return content

    def asked(self, service: str, query: str, **variables: Any) -> dict[str, Any]:
        """What a web interface answers to a question in GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"{self.services()[service]['url']}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def locations(self, service: str = "webserver") -> dict[str, bool]:
        """The code locations by name, and whether each is loaded."""
        entries = self.asked(service, LOCATIONS)["data"]["workspaceOrError"]["locationEntries"]
        return {
            entry["name"]: entry["loadStatus"] == "LOADED" and (entry["locationOrLoadError"] or {})["__typename"] == "RepositoryLocation"
            for entry in entries
        }

    def switch_on(self, location: str, sensor: str) -> None:
        """Start a sensor, as a person does in the UI."""
        selector = {"repositoryLocationName": location, "repositoryName": "__repository__", "sensorName": sensor}
        answer = self.asked("webserver", START_SENSOR, sensor=selector)
        assert answer["data"]["startSensor"]["__typename"] == "Sensor", answer

    def runs(self, pipeline: str) -> list[dict[str, Any]]:
        """Status of each run of a pipeline, newest first, and its tags."""
        results = self.asked("webserver", RUNS, pipeline=pipeline)["data"]["runsOrError"]["results"]
        return [{"status": run["status"]} | {tag["key"]: tag["value"] for tag in run["tags"]} for run in results]

    def statuses(self, pipeline: str) -> dict[str, str]:
        """Where the loads of a pipeline stand, by key, as the ledger says."""
        with self.database.connect() as connection:
            return {state["key"]: state["status"] for state in whereabouts.load_states(connection, pipeline)}

    def put(self, key: str, content: bytes) -> None:
        """Put a file into the storage."""
        file = self.home / "storage" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}")
        aside.write_bytes(content)
        aside.rename(file)

    def serves(self, location: str) -> bool:
        """Whether a code server answers."""
        service = self.services().get(location)
        return service is not None and health.is_well(["grpc", "-p", service["url"].rpartition(":")[2]])

    def kill(self, service: str) -> int | None:
        """End a service and all that it has started at once, as a container is killed; the process id, if there was one."""
        found = self.services().get(service)
        if found is None:
            return None
        try:
            os.killpg(found["pid"], signal.SIGKILL)
        except ProcessLookupError:
            return None
        return int(found["pid"])


def of_home(home: Path) -> dict[int, str]:
    """The processes, by id, that were started for this home: their commands."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"INGESTION_HOME={home}\0".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


@contextmanager
def stacked(home: Path) -> Iterator[Scene]:
    """A stack from its start until it is interrupted, whose pipelines need no stand-in and whose sensors are off."""
    environment = os.environ | {
        "INGESTION_HOME": str(home),
        "INGESTION_SENSORS": "stopped",
        "INGESTION_SENSOR_SECONDS": "5",
        "INGESTION_SETTLE_SECONDS": "0",
        "INGESTION_RESIDENTS_API_URL": "http://127.0.0.1:9/api/",
        "INGESTION_LIFE_EVENTS_PLATFORM_URL": "http://127.0.0.1:9",
    }
    output = home.with_suffix(".out")
    with output.open("wb") as out:
        command = [sys.executable, "-W", "ignore", "-m", "ingestion_dagster.stack", "--any-port"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
        scene = Scene(process, home, output)
        try:
            yield scene
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            finally:
                for left in of_home(home):
                    os.kill(left, signal.SIGKILL)

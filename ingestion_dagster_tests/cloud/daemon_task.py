"""This process as the daemon's task: the instance that the image has for ECS, and runs as the queue has them."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import psycopg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test

from ingestion_dagster.engine import embedded_postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster_tests.cloud.stack import ROOT, Stack, camel

LOCATIONS = ("metrics", "cubic", "residents", "life_events", "catalog", "operations")


@contextmanager
def metadata_of(task: dict[str, Any]) -> Iterator[str]:
    """What ECS tells a container of its own task."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps({"Cluster": task["clusterArn"], "TaskARN": task["taskArn"]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def daemon(stack: Stack, server: EmbeddedServer, aws_environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """This process as the daemon's task: its settings, credentials and instance. Returns the task, as ECS has it."""
    service = stack.resources["DaemonService"]["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    network = {"subnets": service["Subnets"][:1], "securityGroups": service["SecurityGroups"], "assignPublicIp": "DISABLED"}
    [task] = stack.client("ecs").run_task(
        cluster=stack.name,
        taskDefinition=f"{stack.name}-daemon",
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": network},
    )["tasks"]
    (tmp_path / "dagster.yaml").write_text("".join((ROOT / "deploy" / name).read_text() for name in ("dagster.yaml", "dagster-ecs.yaml")))
    embedded_postgres.ensure_database(server, "dagster_in_ecs")
    login = psycopg.conninfo.conninfo_to_dict(server.conninfo("dagster_in_ecs"))
    host = str(login.get("host", ""))
    environment = {
        "PGHOST": host,
        "DAGSTER_POSTGRES_HOST": "" if host.startswith("/") else host,
        "DAGSTER_POSTGRES_PORT": str(login.get("port", 5432)),
        "DAGSTER_POSTGRES_USER": str(login["user"]),
        "DAGSTER_POSTGRES_PASSWORD": str(login.get("password", "unused")),
        "DAGSTER_POSTGRES_DB": "dagster_in_ecs",
    }
    # The launcher's clients are of boto3's own session, which keeps the credentials that it has seen first.
    aws_environment.setattr(boto3, "DEFAULT_SESSION", None)
    with metadata_of(task) as url:
        for name, value in (stack.settings() | stack.credentials("DaemonRole") | environment).items():
            aws_environment.setenv(name, value)
        aws_environment.setenv("ECS_CONTAINER_METADATA_URI_V4", url)
        yield task


def run_of(instance: dg.DagsterInstance, stack: Stack, location: str) -> dg.DagsterRun:
    """A run as the queue has it: it knows what the code server of its location says of its container."""
    pointer = ModuleCodePointer(f"ingestion_dagster.{location}.definitions", "defs")
    context = json.loads(stack.environment(f"{camel(location)}Task")["DAGSTER_CONTAINER_CONTEXT"])
    repository = RepositoryPythonOrigin(sys.executable, pointer, entry_point=["dagster"], container_context=context)
    return create_run_for_test(instance, job_name="a_job", job_code_origin=JobPythonOrigin("a_job", repository))


def network_of(task: dict[str, Any]) -> str:
    """The subnet that a task is in."""
    [attachment] = task["attachments"]
    return next(each["value"] for each in attachment["details"] if each["name"] == "subnetId")

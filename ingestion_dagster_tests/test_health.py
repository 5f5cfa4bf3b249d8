"""The HEALTHCHECK asks the service that runs, by its own protocol, and believes nothing else that answers there."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from ingestion_dagster import health
from ingestion_dagster.sandbox.compose import free_port

GRPC = ["/opt/ingestion/bin/python", "/opt/ingestion/bin/dagster", "api", "grpc", "-h", "0.0.0.0", "-p"]


@contextmanager
def code_server(status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType") -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = HealthServicer()
    servicer.set("DagsterApi", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0).wait()


@pytest.fixture
def web_server() -> Iterator[int]:
    """Answers 200 to two paths, and 404 to every other."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in ("/healthz", "/server_info") else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_code_server_is_well_when_it_serves_and_not_before() -> None:
    with code_server(health_pb2.HealthCheckResponse.SERVING) as port:
        assert health.is_well([*GRPC, str(port)])
    with code_server(health_pb2.HealthCheckResponse.NOT_SERVING) as port:
        assert not health.is_well([*GRPC, str(port)])
    assert not health.is_well([*GRPC, str(free_port())])


def test_web_interface_and_api_are_asked_over_http_also_where_a_proxy_is_set(web_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert health.is_well(["dagster-webserver", "-h", "0.0.0.0", "-p", str(web_server)])
    assert health.is_well(["ingestion", "serve"], web_server)
    monkeypatch.setenv("INGESTION_API_PORT", str(web_server))
    assert health.is_well(["/sbin/docker-init", "--", "ingestion", "serve"])
    assert not health.is_well(["ingestion", "serve"], free_port())


def test_silent_port_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not health.is_well(["ingestion", "serve"], port)
        assert not health.is_well([*GRPC, str(port)])


def test_one_off_command_is_well_as_long_as_it_runs() -> None:
    assert health.is_well(["ingestion", "db", "upgrade"])
    assert health.is_well(["dagster", "instance", "migrate"])


def test_asking_a_code_server_loads_no_dagster() -> None:
    """It is asked twice a minute in every container: Dagster's own question takes two seconds of a CPU."""
    ask = f"import sys; from ingestion_dagster import health; health.is_well({[*GRPC, '9']!r}); sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], check=False).returncode == 0

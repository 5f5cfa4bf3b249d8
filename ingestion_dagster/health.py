"""Whether a service of the image is well: asked by its HEALTHCHECK, with the service's own command as the only thing that is known.

`python -m ingestion_dagster.health` looks at the command of process 1, the service of a container. Exit code 1: it is not well.
"""

import http.client
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

SECONDS = 5.0
"""How long a service may take to answer."""

_SERVICE = Path("/proc/1/cmdline")


def is_well(command: Sequence[str], api_port: int | None = None) -> bool:
    """Whether the service that was started by this command on this machine answers, by its own protocol.

    A one-off command, of which nothing can be asked, is well as long as it runs. `api_port`: where the private API listens; None: where
    the settings say.
    """
    names = [Path(word).name for word in command]
    if "grpc" in names:
        return _serves_code(port_of(command))
    if "dagster-webserver" in names:
        return _answers(port_of(command), "/server_info")
    if "dagster-daemon" in names:
        return _has_heartbeats()
    if "serve" in names:
        return _answers(_api_port() if api_port is None else api_port, "/healthz")
    return True


def port_of(command: Sequence[str]) -> int:
    """The port that a Dagster command is told to listen on. Raises `ValueError` if it is told none."""
    return int(command[list(command).index("-p") + 1])


def _api_port() -> int:
    from ingestion_dagster.settings import current

    return current().api_port


def _serves_code(port: int) -> bool:
    """The health protocol of gRPC, spoken without Dagster: its own command takes two seconds of a CPU, and is asked all day."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with suppress(grpc.RpcError), grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        asked = health_pb2.HealthCheckRequest(service="DagsterApi")
        found = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=SECONDS)
        return bool(found.status == health_pb2.HealthCheckResponse.SERVING)
    return False


def _answers(port: int, path: str) -> bool:
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection,
    ):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def _has_heartbeats() -> bool:
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "liveness-check"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def main() -> None:
    """Exit with 0 if the service of this container is well, else with 1."""
    command = [os.fsdecode(word) for word in _SERVICE.read_bytes().split(b"\0") if word]
    sys.exit(not is_well(command))


if __name__ == "__main__":
    main()

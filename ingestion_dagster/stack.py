"""`make stack`: the services of deploy/compose.yaml on this machine, without Docker; embedded parts stand for the outside world."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from dotenv import load_dotenv
from psycopg.conninfo import conninfo_to_dict

from ingestion_dagster import surroundings
from ingestion_dagster.engine import embedded_postgres, stand_ins
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.sandbox import compose, servers
from ingestion_dagster.sandbox.compose import Running, Service, Stack, free_port
from ingestion_dagster.settings import Settings, current

DAGSTER_DATABASE = "dagster"
BUCKET = "compute-logs"
REGION = "eu-west-2"
NOBODY = "nobody"
"""Whoever asks the S3 server in memory: it takes any name."""
PUBLISHED = {"webserver": 3000, "viewer": 3001}
"""Where people look for the web interfaces; the private API has a setting of its own, everything else any free port."""


def main() -> None:
    """Start the services, say where they answer, keep them running until interrupted, and end them."""
    parser = argparse.ArgumentParser(prog="python -m ingestion_dagster.stack", description=__doc__)
    parser.add_argument("--any-port", action="store_true", help="take free ports instead of 3000, 3001 and INGESTION_API_PORT")
    asked = parser.parse_args()
    load_dotenv(Path.cwd() / ".env", override=False)
    # In the background a shell starts us with interrupts ignored, which our processes would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = current()
    if settings.environment == "production":
        sys.exit("this is for a laptop: production runs the services of deploy/compose.yaml in containers (docs/deployment.md)")
    os.environ["INGESTION_HOME"] = str(settings.home_folder)
    try:
        _run(settings, any_port=asked.any_port)
    except ConfigurationError as error:
        sys.exit(str(error))


def _run(settings: Settings, *, any_port: bool) -> None:
    home = settings.home_folder
    was_there = embedded_postgres.running(home) is not None, any(stand_ins.url(home, name) for name in servers.SERVERS)
    stack: Stack | None = None
    try:
        for line in surroundings.prepare(settings):
            print(line, flush=True)
        stack = _stack(settings, _ports(settings, any_port=any_port))
        for line in stack.run():
            print(line, flush=True)
            if line == compose.COMPLETE:
                _say_where(stack)
    except KeyboardInterrupt:
        print("ending everything", flush=True)
    finally:
        if stack is not None:
            stack.end()
        # What ran before is somebody else's.
        if not was_there[1]:
            servers.down(home)
        if not was_there[0]:
            embedded_postgres.stop(home)


def _say_where(stack: Stack) -> None:
    for name, url in stack.addresses().items():
        print(f"  {name:<12} {url}", flush=True)
    print("end it with Ctrl-C; each service's log is in .ingestion/stack, or where INGESTION_HOME says", flush=True)


def _ports(settings: Settings, *, any_port: bool) -> dict[str, int]:
    return {} if any_port else PUBLISHED | {"api": settings.api_port}


def _stack(settings: Settings, ports: Mapping[str, int]) -> Stack:
    """The services with their places on this machine, none of them started."""
    folder = settings.home_folder / "stack"
    folder.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        log.unlink()
    deploy = project_file("deploy")
    services = compose.read_services(deploy / "compose.yaml")
    found = {service.name: ports.get(service.name) or free_port() for service in services}
    workspace = _workspace(deploy / "workspace.yaml", folder, found)
    logs, s3 = _log_store(folder)
    environment = os.environ | _dagster(deploy, folder, settings) | logs
    api = {"INGESTION_API_HOST": compose.LOOPBACK, "INGESTION_API_PORT": str(found["api"])}
    running = [compose.running(service, environment | api, found[service.name], folder, workspace) for service in services]
    return Stack([*s3, *running], folder / "services.json")


def _workspace(file: Path, folder: Path, ports: Mapping[str, int]) -> Path:
    """The workspace of production, with each code server where it is on this machine."""
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for entry in content["load_from"]:
        server = entry["grpc_server"]
        server["port"], server["host"] = ports[server["host"]], compose.LOOPBACK
    written = folder / "workspace.yaml"
    written.write_text(yaml.safe_dump(content), encoding="utf-8")
    return written


def _dagster(deploy: Path, folder: Path, settings: Settings) -> dict[str, str]:
    """The variables that deploy/dagster.yaml reads its database from: those that are set, or a database of the embedded server."""
    home = folder / "dagster"
    home.mkdir(exist_ok=True)
    shutil.copy(deploy / "dagster.yaml", home / "dagster.yaml")
    variables = {"DAGSTER_HOME": str(home)}
    if "DAGSTER_POSTGRES_DB" in os.environ:
        return variables
    server = embedded_postgres.start(settings.home_folder)
    embedded_postgres.ensure_database(server, DAGSTER_DATABASE)
    login = conninfo_to_dict(server.conninfo(DAGSTER_DATABASE))
    host = str(login["host"])
    # psycopg2 is given a URL, in which a socket's folder cannot stand for the host.
    by_socket = {"DAGSTER_POSTGRES_HOST": "", "PGHOST": host} if host.startswith("/") else {"DAGSTER_POSTGRES_HOST": host}
    return (
        variables
        | by_socket
        | {
            "DAGSTER_POSTGRES_PORT": str(login["port"]),
            "DAGSTER_POSTGRES_USER": str(login["user"]),
            "DAGSTER_POSTGRES_PASSWORD": str(login.get("password", "")),
            "DAGSTER_POSTGRES_DB": DAGSTER_DATABASE,
        }
    )


def _log_store(folder: Path) -> tuple[dict[str, str], list[Running]]:
    """Where stdout and stderr of runs go: the bucket that is set, or one of an S3 server in memory, which is a service more."""
    if "DAGSTER_COMPUTE_LOGS_BUCKET" in os.environ:
        return {}, []
    port = free_port()
    url = f"http://{compose.LOOPBACK}:{port}"
    nobody = {"AWS_ACCESS_KEY_ID": NOBODY, "AWS_SECRET_ACCESS_KEY": NOBODY, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
    variables = nobody | {"AWS_ENDPOINT_URL": url, "DAGSTER_COMPUTE_LOGS_BUCKET": BUCKET}
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", compose.LOOPBACK, "-p", str(port)]
    service = Service("s3", tuple(command))
    environment = os.environ | nobody
    return variables, [Running(service, command, url, folder / "s3.log", environment, lambda: _has_bucket(url))]


def _has_bucket(url: str) -> bool:
    """Whether the S3 server has the bucket, which it is told to make: what is in memory is gone with its process."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})
    client = boto3.client("s3", endpoint_url=url, region_name=REGION, aws_access_key_id=NOBODY, aws_secret_access_key=NOBODY, config=config)
    with suppress(BotoCoreError, ClientError):
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})  # type: ignore[typeddict-item]
        return True
    return False


if __name__ == "__main__":
    main()

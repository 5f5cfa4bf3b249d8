"""What `docs/adding-a-pipeline.md` tells a newcomer to do is done, and makes a pipeline that keeps the promise of the others."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.engine import ledger, whereabouts
from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.adding import blocks, followed
from ingestion_dagster_tests.edited import copied, imported

HEADING = "One more pipeline"
GOOD = b"n1,2026-01-31T05:00+00:00,0.4\nn1,2026-01-31T06:00+00:00,0\n"
BAD = b"n1,2026-01-31T05:00+00:00,0.4\nn1,yesterday,1\nn1,2026-01-31T05:00+00:00\n"


class Rain:
    """The pipeline of the page, under Dagster, over a database and a folder of its own."""

    def __init__(self, settings: Settings, database: Database, instance: dg.DagsterInstance) -> None:
        from ingestion_dagster.definitions import defs
        from ingestion_dagster.pipelines import PIPELINES

        self.defs, self.pipeline = defs, PIPELINES["rain"]
        self._settings, self._database, self._instance = settings, database, instance

    def land(self, name: str, raw: bytes) -> None:
        self.pipeline.zone(self._settings).landing.write(name, raw)

    def tick(self) -> list[str | None]:
        """The jobs that the sensor asks for runs of."""
        repository = self.defs.get_repository_def()
        context = dg.build_sensor_context(
            instance=self._instance, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name="rain_s3_sensor"
        )
        return [request.job_name for request in repository.get_sensor_def("rain_s3_sensor").evaluate_tick(context).run_requests or ()]

    def run(self, **config: Any) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_job_def("rain_load")
        return job.execute_in_process(
            instance=self._instance, run_config={"ops": {node.name: {"config": config} for node in job.nodes}}, raise_on_error=False
        )

    def loads(self) -> dict[str, tuple[Any, ...]]:
        with self._database.connect() as connection:
            states = whereabouts.load_states(connection, "rain")
        return {state["key"]: (state["status"], state["rows_in"], state["rows_written"], state["error_code"]) for state in states}

    def retry(self) -> None:
        with self._database.connect() as connection:
            assert ledger.retry(connection, Scope("rain")).ready

    def execute(self, statement: str) -> None:
        with self._database.connect() as connection:
            connection.execute(statement)

    def rows(self) -> list[Any]:
        with self._database.connect() as connection:
            return connection.execute("SELECT gauge, millimetres::float FROM rain.readings ORDER BY gauge, at").fetchall()

    def files(self) -> dict[str, bytes]:
        """What stands where, versions and days left out."""
        folder = Path(self._settings.storage.removeprefix("file://")) / "rain"
        found = {}
        for path in folder.rglob("*"):
            if path.is_file():
                place = path.relative_to(folder).parts[0]
                stem, _, suffix = path.name.partition(".")
                found[f"{place}/{stem}.{suffix.partition('.')[2] if place != 'in' else suffix}"] = path.read_bytes()
        return found


@pytest.fixture
def rain(settings: Settings, database: Database, tmp_path: Path) -> Iterator[Rain]:
    root = copied(tmp_path)
    followed(HEADING, root)
    with imported(root), dg.DagsterInstance.ephemeral() as instance:
        yield Rain(settings, database, instance)


def test_a_pipeline_takes_less_than_eighty_lines() -> None:
    lines = [line for block in blocks(HEADING) for line in block.added if line.strip()]
    assert len(lines) < 80, len(lines)


def test_the_code_of_the_page_passes_the_checks_of_style(tmp_path: Path) -> None:
    root = copied(tmp_path, "residents", "catalog")
    files = set()
    for heading in (HEADING, "residents: a dataset", "catalog: a media type"):
        followed(heading, root)
        files |= {block.file for block in blocks(heading) if block.file.endswith(".py")}
    # By the pyproject.toml that stands there now: the page has a line for it, too.
    for check in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", *sorted(files)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"})
        assert done.returncode == 0, done.stdout


def test_a_file_lands_is_loaded_and_a_bad_one_is_told_of(rain: Rain) -> None:
    rain.land("january.csv", GOOD)
    rain.land("february.csv", BAD)
    assert rain.tick() == ["rain_load"]
    assert rain.run().success
    assert rain.loads() == {"january.csv": ("archived", 2, 2, None), "february.csv": ("errored", 0, 0, "bad_reading")}
    files = rain.files()
    assert set(files) == {"archive/january.csv", "failed/february.csv", "failed/february.csv.report.json"}
    assert [each["place"] for each in json.loads(files["failed/february.csv.report.json"])["problems"]] == ["line 2", "line 3"]
    assert rain.rows() == [("n1", pytest.approx(0.4)), ("n1", 0)]
    assert rain.tick() == [], "there is nothing left to do"
    assert "rain_sweep_sensor" in {sensor.name for sensor in rain.defs.get_repository_def().sensor_defs}


def test_the_same_file_again_changes_nothing_and_a_correction_does(rain: Rain) -> None:
    for raw in (GOOD, GOOD, GOOD.replace(b"0.4", b"0.5")):
        rain.land("january.csv", raw)
        assert rain.run().success
    assert rain.loads() == {"january.csv": ("archived", 2, 1, None)}, "of the last version: one row was changed"
    assert rain.rows() == [("n1", pytest.approx(0.5)), ("n1", 0)]


def test_what_was_refused_is_loaded_by_a_retry_once_the_cause_is_mended(rain: Rain) -> None:
    rain.land("flood.csv", b"n1,2026-01-31T05:00+00:00,1e39\n")
    rain.land("january.csv", GOOD.replace(b"n1", b"n2"))
    assert rain.run().success
    assert rain.loads() == {"flood.csv": ("errored", 0, 0, "database_refused"), "january.csv": ("archived", 2, 2, None)}
    rain.execute("ALTER TABLE rain.readings ALTER millimetres TYPE double precision")
    rain.retry()
    assert rain.run().success
    assert rain.loads()["flood.csv"] == ("archived", 1, 1, None)
    assert set(rain.files()) == {"archive/january.csv", "archive/flood.csv"}


def test_a_dry_run_tells_what_a_run_would_do_and_does_nothing(rain: Rain) -> None:
    rain.land("january.csv", GOOD)
    rain.land("february.csv", BAD)
    [observed] = [
        event.asset_observation_data.asset_observation for event in rain.run(dry_run=True).all_events if event.is_asset_observation
    ]
    assert {name: observed.metadata[name].value for name in ("loads", "errored", "rows_in")} == {"loads": 2, "errored": 1, "rows_in": 2}
    assert rain.loads() == {}
    assert set(rain.files()) == {"in/january.csv", "in/february.csv"}


def test_the_checks_of_a_run_tell_of_its_loads(rain: Rain) -> None:
    rain.land("february.csv", BAD)
    checks = {each.check_name: each.passed for each in rain.run().get_asset_check_evaluations()}
    assert checks == {"rows_add_up": True, "nothing_errored": False}

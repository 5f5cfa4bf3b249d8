"""Nothing of a file's content is told: not in logs, Dagster's storage, metadata, the ledger, reports, nor what commands print.

Markers stand in every text and number of good and bad non-public files. The tables the files are loaded into are the one place
where they belong. A file's name is no content; it may stand in the ledger, the reports and what commands print.
"""

import json
import logging
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster import cli
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.rules import reference
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload

NUMBER = 7317.4242
WORD = "Zyxwquark"
METRIC = "OFF-SENS_COVID-19_deaths_ONSByDay"
HEADER = (
    "parent_theme", "child_theme", "topic", "metric_group", "metric", "metric_frequency", "geography_type", "geography",
    "geography_code", "age", "sex", "stratum", "refresh_date",
)  # fmt: skip
POINT = ("epiweek", "date", "metric_value", "embargo", "is_public", "in_reporting_delay_period", "force_write")
HEADLINE_POINT = ("period_start", "period_end", "metric_value", "lower_confidence", "upper_confidence", "embargo", "is_public")


def good(**changes: Any) -> dict[str, Any]:
    """A non-public file that is accepted: a marked value, and markers in fields nobody asked for."""
    payload = time_series_payload([("2023-06-20", NUMBER), ("2023-06-21", -NUMBER)], metric=METRIC, note=WORD, more={WORD: NUMBER})
    for point in payload["time_series"]:
        point |= {"is_public": False, "comment": WORD}
    return payload | changes


def good_headline() -> dict[str, Any]:
    payload = headline_payload([("2023-10-01", "2023-10-07", NUMBER)], metric="OFF-SENS_COVID-19_headline_7DayAdmissions", note=WORD)
    payload["data"][0] |= {"is_public": False, "lower_confidence": NUMBER - 1, "upper_confidence": NUMBER + 0.5, "comment": WORD}
    return payload


def marked(payload: dict[str, Any], list_field: str, field: str, value: Any) -> dict[str, Any]:
    payload[list_field][0][field] = value
    return payload


def files() -> dict[str, dict[str, Any] | bytes]:
    """Good and bad files by key: one for each field of header and points that holds a marker it may not hold."""
    contents: dict[str, dict[str, Any] | bytes] = {
        "OFF-SENS_good.json": good(),
        "OFF-SENS_freeText.json": good(
            stratum=WORD, geography=WORD, geography_type="Lower Tier Local Authority", geography_code="E06000001"
        ),
        "OFF-SENS_goodHeadline.json": good_headline(),
        "OFF-SENS_unreadable.json": f'{{"{WORD}": {NUMBER}, "x": {WORD}}}'.encode(),
        "OFF-SENS_truncated.json": json.dumps(good()).encode()[:-20],
        "OFF-SENS_list.json": json.dumps([WORD, NUMBER]).encode(),
        "OFF-SENS_undecodable.json": json.dumps(good()).encode() + WORD.encode() + b"\xff",
        "OFF-SENS_tooLong.json": good(stratum=WORD * 20),
        "OFF-SENS_nul.json": good(stratum=f"{WORD}\x00"),
        "public.json": good(),
    }
    for field in HEADER:
        contents[f"OFF-SENS_text_{field}.json"] = good(**{field: f"{WORD}_{WORD}!"})
        contents[f"OFF-SENS_number_{field}.json"] = good(**{field: NUMBER})
        contents[f"OFF-SENS_nested_{field}.json"] = good(**{field: {WORD: [NUMBER]}})
    for field in POINT:
        contents[f"OFF-SENS_point_{field}.json"] = marked(good(), "time_series", field, WORD)
        contents[f"OFF-SENS_pointNumber_{field}.json"] = marked(good(), "time_series", field, f"{NUMBER}{NUMBER}")
    for field in HEADLINE_POINT:
        contents[f"OFF-SENS_headline_{field}.json"] = marked(good_headline(), "data", field, WORD)
    contents["OFF-SENS_tooLarge.json"] = marked(good(), "time_series", "metric_value", 73174242e6)
    contents["OFF-SENS_outOfOrder.json"] = marked(good_headline(), "data", "upper_confidence", NUMBER - 0.5)
    return contents


def found_in(content: bytes | str) -> list[bytes]:
    """The markers that stand in this, with a little of what is around them. Digits within identifiers are no marker."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    # Ids and times are hexadecimal or microseconds: a marker stands by itself, as a number does.
    spots = [match.start() for match in re.finditer(rb"(?<![0-9a-f.:])7317(?:4242)?(?=[.,\s\"'}\]e]|$)", raw.lower())]
    spots += [match.start() for match in re.finditer(WORD.lower().encode(), raw.lower())]
    return [raw[max(0, spot - 60) : spot + 40] for spot in spots]


@pytest.fixture
def metrics(settings: Settings, database: Database) -> Metrics:
    return Metrics(settings, database)


@pytest.fixture
def dagster_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Dagster home with this project's configuration; in memory where there is such a folder, for SQLite waits for the disk a lot."""
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if os.access(in_memory, os.W_OK) else None) as folder:
        (Path(folder) / "dagster.yaml").write_bytes((Path(__file__).parent.parent / "dagster.yaml").read_bytes())
        monkeypatch.setenv("DAGSTER_HOME", folder)
        yield Path(folder)


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_the_search_finds_what_it_looks_for() -> None:
    for leak in (f"value {NUMBER}", "{'x': 7317.4242}", "x=73174242", f"is {WORD}", WORD.upper(), '"7317.4242"', "7.3e3 -7317.4242"):
        assert found_in(leak), leak
    for innocent in ("run 0a7317f2", "12:00:00.731742", "id 17317", "{}"):
        assert not found_in(innocent), innocent


def test_no_value_of_a_file_leaves_the_tables(
    metrics: Metrics,
    instance: dg.DagsterInstance,
    dagster_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    for key, content in files().items():
        metrics.land_key(key, content)
    job = defs.resolve_job_def("metrics_load")
    assert job.execute_in_process(instance=instance, run_config={"ops": {"metrics_load_step": {"config": {"dry_run": True}}}}).success
    assert job.execute_in_process(instance=instance).success
    # A batch that the database refuses is taken file by file; its error message would quote the row.
    with metrics.database.connect() as connection:
        connection.execute("ALTER TABLE metrics.api_time_series ADD CONSTRAINT refuses CHECK (metric_value < 0) NOT VALID")
    metrics.land_key("OFF-SENS_refusedByDatabase.json", good(age="07+"))
    assert job.execute_in_process(instance=instance).success
    assert defs.resolve_job_def("metrics_checks").execute_in_process(instance=instance).success

    statuses = metrics.statuses()
    assert statuses["OFF-SENS_good.json"] == statuses["OFF-SENS_freeText.json"] == statuses["OFF-SENS_goodHeadline.json"] == "archived"
    assert statuses["OFF-SENS_refusedByDatabase.json"] == statuses["public.json"] == "errored"
    assert sum(status == "errored" for status in statuses.values()) > 50
    assert metrics.query("SELECT count(*) FROM metrics.core_time_series WHERE metric_value = %s", [NUMBER])[0][0] >= 1

    capfd.readouterr()
    printed = _printed(monkeypatch, capfd, tmp_path)
    places: dict[str, bytes | str] = {"log": caplog.text, "commands": printed}
    for path in dagster_home.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
            if path.suffix == ".db":
                places[f"{path} as text"] = "\n".join(sqlite3.connect(path).iterdump())
    for run in instance.get_runs():
        places[f"run {run.run_id}"] = f"{run.tags} {run.run_config}"
        places[f"events of {run.run_id}"] = "\n".join(repr(record) for record in instance.all_logs(run.run_id))
    kinds = metrics.query("SELECT split_part(key, ':', 1) FROM ledger.alerts ORDER BY id")
    assert sorted(kinds) == [("checks",), ("errored",), ("errored",), ("errored",)], "of each load, the retry's too, and of the checks"
    for table in ("loads", "load_events", "datasets", "alerts"):
        places[f"ledger.{table}"] = "\n".join(row[0] for row in metrics.query(f"SELECT t::text FROM ledger.{table} AS t"))
    reports = list((metrics.settings.home_folder / "storage" / "metrics" / "failed").rglob("*.report.json"))
    assert len(reports) == sum(status == "errored" for status in statuses.values())
    places |= {str(path): path.read_text() for path in reports}
    assert len(places) > 60
    assert {place: leaks for place, content in places.items() if (leaks := found_in(content))} == {}


def _printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    """What the commands print about all of these files."""
    folder = tmp_path / "checked"
    folder.mkdir()
    for key, content in files().items():
        (folder / key).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    commands = (["status", "--loads", "--json"], ["status"], ["check", "metrics", str(folder)], ["retry", "metrics"])
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["ingestion", *command])
        with pytest.raises(SystemExit):
            cli.main()
    out, err = capfd.readouterr()
    assert len(out) > 10_000
    return out + err


def test_names_of_files_stay_out_of_dagster(metrics: Metrics, instance: dg.DagsterInstance, dagster_home: Path) -> None:
    metrics.land_key(f"OFF-SENS_{WORD}.json", good(note=None, more=None))
    metrics.land_key(f"OFF-SENS_{WORD}_bad.json", b"{")
    assert defs.resolve_job_def("metrics_load").execute_in_process(instance=instance).success
    assert metrics.statuses() == {f"OFF-SENS_{WORD}.json": "archived", f"OFF-SENS_{WORD}_bad.json": "errored"}
    for run in instance.get_runs():
        assert not found_in(f"{run.tags} {run.run_config}")
    leaks = {str(path): found_in(path.read_bytes()) for path in dagster_home.rglob("*") if path.is_file()}
    assert {path: found for path, found in leaks.items() if found} == {}


def test_markers_stand_in_every_field_that_the_reference_lists_do_not_fix() -> None:
    """A field added to the format without a marker here would go unsearched."""
    assert set(good()) - {"time_series", "note", "more"} == set(HEADER)
    assert {"epiweek", "date", "metric_value", "embargo", "is_public"} <= set(POINT)
    assert WORD not in str(reference())
    assert os.environ.get("PYTHON_DOTENV_DISABLED") == "1"

"""The `ingestion` command, called as the shell calls it: exit codes, what goes to stdout and what to stderr, and what each verb moves."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import create_engine, text

from ingestion_dagster import cli
from ingestion_dagster.engine import embedded_postgres, landing
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.test_adoption import living

__all__ = ["living"]

STATUS_FIELDS = [
    "pipeline", "dataset", "partition", "status", "waiting_for", "loads", "rows_written", "rows_unchanged", "rows_rejected", "bytes",
]  # fmt: skip
LOAD_FIELDS = [
    "pipeline", "dataset", "key", "version", "partition", "snapshot", "waiting_for", "status", "attempts", "rows_in", "rows_written",
    "rows_unchanged", "rows_rejected", "duplicate_of", "error_code", "error_message", "run_id", "discovered_at", "finished_at",
]  # fmt: skip
TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
YESTERDAY = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
GOOD = time_series_payload()
CASES = time_series_payload(metric_group="cases", metric="COVID-19_cases_casesByDay")
HEADLINE = headline_payload()
BAD = time_series_payload(sex="banana", age="5")


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


@pytest.fixture
def ingestion(settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Calls the entry point of the console script in this process; what it prints is caught at the file descriptors.

    Dagster's instance is one in memory: the subprocesses of test_dagster_commands.py have a real one.
    """
    (settings.home_folder / "dagster").mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", str(settings.home_folder / "dagster"))
    monkeypatch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)

    def call(*arguments: str | Path) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["ingestion", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capfd.readouterr()
        code = exit_.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    return call


@pytest.fixture
def metrics(settings: Settings, database: Database) -> Metrics:
    return Metrics(settings, database)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Writes files into a folder of its own and returns it: `files({"a.json": payload, "sub/b.json": b"raw"})`."""

    def write(contents: dict[str, dict[str, Any] | bytes]) -> Path:
        folder = tmp_path / f"files {len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return folder

    return write


def everything(metrics: Metrics) -> dict[str, Any]:
    """Ledger, tables and files as they are now."""
    tables = metrics.query(
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables "
        "WHERE table_schema IN ('ledger', 'metrics') AND table_type = 'BASE TABLE' ORDER BY 1"
    )
    rows = {table: metrics.query(f"SELECT t::text FROM {table} AS t ORDER BY 1") for (table,) in tables}
    storage = metrics.settings.home_folder / "storage"
    return rows | {str(path): path.stat().st_mtime_ns for path in storage.rglob("*") if path.is_file()}


# load and run


def test_good_files_are_loaded_and_the_command_says_so_in_one_line(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    result = ingestion("load", "metrics", files({"a.json": GOOD, "deep/b.json": CASES}))
    assert result.code == 0, result
    assert result.out == "2 loads: 2 loaded (0 duplicates), 0 refused; 4 rows in, 4 written, 0 unchanged, 0 rejected\n"
    assert result.err.splitlines() == [f"2 files landed in {metrics.settings.storage}/metrics/in"]
    assert metrics.statuses() == {"a.json": "archived", "deep/b.json": "archived"}


def test_a_command_that_ignores_interrupts_can_still_be_told_to_end_after_its_run(ingestion: Command, files: Callable[..., Path]) -> None:
    """So a script begins it with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert ingestion("load", "metrics", files({"a.json": GOOD})).code == 0
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_bad_files_do_not_hold_up_good_ones_and_make_exit_code_2(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    result = ingestion("load", "metrics", files({"a.json": GOOD, "h.json": HEADLINE, "bad/x.json": BAD, "bad/y.json": b"{not json"}))
    assert result.code == 2, result
    assert "2 refused" in result.out
    for table, rows in {"core_time_series": 2, "api_time_series": 2, "core_headline": 1}.items():
        assert metrics.rows(f"metrics.{table}") == rows
        assert metrics.rows(f"public.data_{table.replace('_', '')}") == rows
    assert metrics.keys("in") == []
    assert metrics.keys("processed") == ["a.json", "h.json"]
    objects = [key for key in metrics.keys("failed") if not key.endswith(".report.json")]
    assert metrics.keys("failed") == sorted([*objects, *(f"{key}.report.json" for key in objects)])
    assert [re.sub(r"\.[0-9a-f]{12}", "", key) for key in objects] == ["bad/x.json", "bad/y.json"]
    assert {problem["code"] for problem in metrics.report("bad/x")["problems"]} == {"unknown_sex", "bad_age"}
    assert {problem["code"] for problem in metrics.report("bad/y")["problems"]} == {"unreadable_json"}


def test_the_same_folder_again_changes_no_row_and_counts_as_loaded(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    folder = files({"a.json": GOOD, "b.json": CASES})
    ingestion("load", "metrics", folder)
    before = metrics.query("SELECT * FROM metrics.core_time_series ORDER BY id")
    again = ingestion("load", "metrics", folder)
    assert (again.code, again.out[:33]) == (0, "2 loads: 2 loaded (2 duplicates),")
    assert metrics.query("SELECT * FROM metrics.core_time_series ORDER BY id") == before


def test_one_file_lands_under_its_name_and_keeps_its_modification_time(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    path = files({"deep/a.json": GOOD}) / "deep" / "a.json"
    os.utime(path, (1_600_000_000, 1_600_000_000))
    assert ingestion("land", "metrics", path).code == 0
    assert metrics.keys("in") == ["a.json"]
    assert metrics.query("SELECT status, modified FROM ledger.loads") == [("ready", datetime.fromtimestamp(1_600_000_000, UTC))]


def test_run_waits_for_a_file_that_has_just_been_dropped(ingestion: Command, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_SETTLE_SECONDS", "0.7")
    metrics.land(dropped=GOOD)
    result = ingestion("run", "metrics")
    assert (result.code, metrics.statuses()) == (0, {"dropped.json": "archived"})


def test_run_over_nothing_is_no_failure(ingestion: Command) -> None:
    result = ingestion("run", "metrics")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("0 loads: 0 loaded")


def test_dataset_narrows_and_the_rest_stays_ready_uncharged(ingestion: Command, metrics: Metrics) -> None:
    metrics.land(deaths=GOOD, cases=CASES, headline=HEADLINE)
    result = ingestion("run", "metrics", "--dataset", "cases")
    assert (result.code, result.out[:8]) == (0, "1 loads:"), result
    assert metrics.statuses() == {"deaths.json": "ready", "cases.json": "archived", "headline.json": "ready"}
    assert {state["attempts"] for state in metrics.states()} == {0}
    assert metrics.keys("in") == ["deaths.json", "headline.json"]
    assert metrics.rows("metrics.core_headline") == 0
    assert ingestion("run", "metrics").code == 0
    assert set(metrics.statuses().values()) == {"archived"}


def test_partition_narrows_to_the_day_of_discovery(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    ingestion("land", "metrics", files({"old.json": GOOD, "new.json": CASES}))
    metrics.query("UPDATE ledger.loads SET partition = %s WHERE key = 'old.json' RETURNING id", [YESTERDAY])
    assert ingestion("run", "metrics", "--partition", YESTERDAY).code == 0
    assert metrics.statuses() == {"old.json": "archived", "new.json": "ready"}


def test_as_of_leaves_what_was_discovered_later(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    ingestion("land", "metrics", files({"old.json": GOOD, "new.json": CASES}))
    metrics.query("UPDATE ledger.loads SET discovered_at = discovered_at - interval '1 day' WHERE key = 'old.json' RETURNING id")
    assert ingestion("run", "metrics", "--as-of", YESTERDAY).code == 0
    assert metrics.statuses() == {"old.json": "archived", "new.json": "ready"}


def test_dry_run_changes_nothing_at_all_and_says_what_would_happen(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    ingestion("land", "metrics", files({"known.json": GOOD, "bad.json": BAD}))
    metrics.land(unseen=CASES, unreadable=b"[")
    before = everything(metrics)
    result = ingestion("run", "metrics", "--dry-run")
    assert everything(metrics) == before
    assert result.code == 2
    assert result.out == "dry run, nothing changed: 4 loads: 2 would be loaded, 2 refused; 6 rows in, 2 rejected\n"


def test_dry_run_of_load_lands_nothing(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    before = everything(metrics)
    result = ingestion("load", "metrics", files({"a.json": GOOD, "bad.json": BAD}), "--dry-run")
    assert everything(metrics) == before
    assert result.code == 2
    assert "unknown_sex" in result.out


def test_nothing_of_a_batch_is_forgotten_when_a_run_takes_it_in_several(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_BATCH_FILES", "2")
    result = ingestion("load", "metrics", files({f"{age:02}.json": GOOD | {"age": f"{age:02}+"} for age in range(5)}))
    assert (result.code, result.out[:18]) == (0, "5 loads: 5 loaded "), result
    assert metrics.rows("metrics.core_time_series") == 10


# names


def test_a_name_that_cannot_be_a_key_is_told_and_its_neighbours_are_loaded(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    result = ingestion(
        "load", "metrics", files({"good.json": GOOD, "new\nline.json": CASES, ".hidden.json": CASES, "sp ace+ü.json": CASES})
    )
    assert result.code == 2, result
    assert r"'new\nline.json'" in result.err
    assert metrics.statuses() == {"good.json": "archived", "sp ace+ü.json": "archived"}


def test_a_hidden_file_named_by_hand_is_not_passed_over_in_silence(ingestion: Command, files: Callable[..., Path]) -> None:
    result = ingestion("land", "metrics", files({".hidden.json": GOOD}) / ".hidden.json")
    assert result.code == 2
    assert ".hidden.json" in result.err


def test_a_name_that_is_no_text_breaks_neither_check_nor_load(ingestion: Command, metrics: Metrics, tmp_path: Path) -> None:
    folder = tmp_path / "undecodable"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.json")).write_text(json.dumps(BAD))
    assert "unknown_sex" in ingestion("check", "metrics", folder).out
    [report] = ingestion("check", "metrics", folder, "--json").json
    assert report["path"].endswith("caf\udce9.json")
    result = ingestion("load", "metrics", folder)
    assert (result.code, metrics.statuses()) == (2, {})
    assert r"'caf\udce9.json'" in result.err


# status


def test_status_adds_up_to_the_files_that_landed(ingestion: Command, files: Callable[..., Path]) -> None:
    contents = {"a.json": GOOD, "b.json": GOOD | {"sex": "M"}, "c.json": CASES, "bad.json": BAD, "bad2.json": b"", "h.json": HEADLINE}
    ingestion("load", "metrics", files(contents))
    ingestion("pause", "metrics", "headline")
    ingestion("load", "metrics", files({"late.json": HEADLINE, "a.json": GOOD}))
    rows = ingestion("status", "--json").json
    assert [list(row) for row in rows] == [STATUS_FIELDS] * len(rows)
    assert sum(row["loads"] for row in rows) == 8
    assert {(row["dataset"], row["status"]): row["loads"] for row in rows} == {
        ("deaths", "archived"): 3,
        ("deaths", "errored"): 1,
        ("cases", "archived"): 1,
        ("headline", "archived"): 1,
        ("headline", "ready"): 1,
        ("unclassified", "errored"): 1,
    }
    assert {(row["pipeline"], row["partition"]) for row in rows} == {("metrics", TODAY)}
    assert sum(row["rows_written"] for row in rows) == 2 + 2 + 2 + 1
    assert sum(row["rows_rejected"] for row in rows) == 2

    loads = ingestion("status", "metrics", "--loads", "--json").json
    assert [list(load) for load in loads] == [LOAD_FIELDS] * 8
    assert Counter((load["dataset"], load["status"]) for load in loads) == {(row["dataset"], row["status"]): row["loads"] for row in rows}
    [bad] = [load for load in loads if load["key"] == "bad.json"]
    assert (bad["error_code"], bad["rows_rejected"], bad["attempts"]) == ("bad_age", 2, 0)
    [again] = [load for load in loads if load["duplicate_of"] is not None]
    assert again["key"] == "a.json"


def test_status_for_people_names_what_waits_what_is_paused_and_why_things_failed(ingestion: Command, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"bad.json": BAD}))
    ingestion("pause", "metrics", "headline", "--why", "figures [under] review")
    ingestion("run", "metrics")
    ingestion("load", "metrics", files({"h.json": HEADLINE}))
    ingestion("land", "metrics", files({"c.json": CASES}))
    result = ingestion("status", "metrics")
    assert result.err == ""
    assert f"metrics\theadline\t{TODAY}\tready\t1\t0\t0\t0" in result.out.splitlines()
    lines = result.out.splitlines()
    assert lines[0] == "metrics: needs you: 1 errored with bad_age, and 1 more. Next: ingestion explain bad_age --pipeline metrics"
    at = lines.index("metrics: 1 errored with bad_age")
    assert re.fullmatch(r"    newest: bad.json of deaths, \d+ (second|minute)s? ago", lines[at + 1])
    assert lines[at + 3] == "    ingestion explain bad_age --pipeline metrics"
    at = lines.index("metrics: 1 load of headline paused: figures [under] review")
    assert lines[at + 1] == "    ingestion resume metrics headline"
    assert re.search(r"^metrics: 1 load claimable, the oldest for \d+ (second|minute)", result.out, re.MULTILINE)


def test_status_of_an_unused_installation_is_an_empty_list(ingestion: Command) -> None:
    assert ingestion("status", "--json").json == []
    assert ingestion("status", "--loads", "--json").json == []
    said = ingestion("status").out.splitlines()
    names = ("metrics", "cubic", "residents", "life_events", "catalog")
    assert said == [*(f"{name}: nothing has arrived yet" for name in names), *(f"{name}: 0 loads claimable" for name in names)]


# check


def test_check_names_every_problem_without_database_or_storage(
    ingestion: Command, files: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    folder = files({"five.json": BAD | {"metric_frequency": "now", "geography_code": "X", "refresh_date": "soon"}, "good.json": GOOD})
    result = ingestion("check", "metrics", folder, "--json")
    assert (result.code, result.err) == (2, "")
    bad, good = result.json
    assert list(bad) == ["path", "ok", "problems"]
    assert (bad["path"], bad["ok"]) == (str(folder / "five.json"), False)
    assert all(list(problem) == ["code", "place", "message", "severity"] for problem in bad["problems"])
    assert {problem["code"] for problem in bad["problems"]} == {
        "unknown_sex", "bad_age", "unknown_frequency", "bad_geography_code", "bad_datetime",
    }  # fmt: skip
    assert good == {"path": str(folder / "good.json"), "ok": True, "problems": []}
    for_people = ingestion("check", "metrics", folder)
    assert (for_people.code, for_people.err) == (2, "what a code in brackets means: ingestion explain CODE --pipeline metrics\n")
    assert [line.rpartition("[")[2] for line in for_people.out.splitlines()[:-1]] == [f"{problem['code']}]" for problem in bad["problems"]]
    assert for_people.out.splitlines()[-1] == "2 files checked, 1 have errors"


def test_warnings_alone_do_not_make_check_fail(ingestion: Command, files: Callable[..., Path]) -> None:
    unflagged = GOOD | {"time_series": [{"epiweek": 25, "date": "2023-06-20", "metric_value": 1, "embargo": None}]}
    result = ingestion("check", "metrics", files({"a.json": unflagged}), "--json")
    assert result.code == 0
    [report] = result.json
    assert report["ok"] is True
    assert [(problem["code"], problem["severity"]) for problem in report["problems"]] == [("public_flag_missing", "warning")]


def test_check_and_load_agree_on_every_sample_file(ingestion: Command) -> None:
    samples = Path(__file__).parent.parent / "source_data" / "metrics"
    result = ingestion("check", "metrics", samples, "--json")
    assert result.code == 2
    refused = {Path(report["path"]).parent.name for report in result.json if not report["ok"]}
    assert refused == {"bad"}
    assert all(not report["ok"] for report in result.json if Path(report["path"]).parent.name == "bad")


# pause, resume, retry


def test_a_paused_dataset_waits_is_named_on_stderr_and_fails_nothing(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    assert ingestion("pause", "metrics", "cases", "--why", "under review").out == "metrics cases is paused\n"
    result = ingestion("load", "metrics", files({"cases.json": CASES, "deaths.json": GOOD}))
    assert result.code == 0
    assert "not loaded: 1 loads of cases paused: under review" in result.err.splitlines()
    assert metrics.statuses() == {"cases.json": "ready", "deaths.json": "archived"}
    assert metrics.rows("metrics.core_time_series") == 2
    assert ingestion("resume", "metrics", "cases").out == "metrics cases is active\n"
    after = ingestion("run", "metrics")
    assert (after.code, after.err) == (0, "")
    assert metrics.statuses()["cases.json"] == "archived"


def test_retry_after_the_cause_is_mended_leaves_nothing_in_failed(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"deaths.json": GOOD, "cases.json": CASES}))
    move_home = (
        "UPDATE metrics.metric SET metric_group_id = (SELECT id FROM metrics.metric_group WHERE name = %s) WHERE name = %s RETURNING id"
    )
    metrics.query(move_home, ["cases", GOOD["metric"]])
    newer = time_series_payload([("2023-06-20", 12.0)], refresh_date="2023-11-11")
    refused = ingestion("load", "metrics", files({"deaths.json": newer}))
    assert refused.code == 2
    assert metrics.report("deaths")["problems"][0]["code"] == "metric_rehomed"
    assert ingestion("retry", "metrics", "--key", "deaths.json").code == 2
    assert len(metrics.keys("failed")) == 2

    metrics.query(move_home, ["deaths", GOOD["metric"]])
    retried = ingestion("retry", "metrics", "--key", "deaths.json")
    assert (retried.code, retried.out[:18]) == (0, "1 loads: 1 loaded "), retried
    assert metrics.keys("failed") == []
    assert metrics.keys("in") == []
    newest = metrics.states()[-1]
    assert (newest["key"], newest["status"], newest["error_code"], newest["rows_written"]) == ("deaths.json", "archived", None, 1)
    assert metrics.query("SELECT metric_value FROM metrics.live_time_series WHERE date = '2023-06-20' AND metric_value = 12") != []


def test_retry_takes_the_newest_version_and_names_the_one_it_supersedes(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    ingestion("load", "metrics", files({"a.json": BAD, "other.json": BAD}))
    ingestion("load", "metrics", files({"a.json": BAD | {"age": "all"}}))
    result = ingestion("retry", "metrics", "--key", "a.json")
    assert result.code == 2
    assert "superseded: a newer version of a.json is known; retry that one" in result.err.splitlines()
    assert result.out.startswith("1 loads: 0 loaded")
    events = metrics.query(
        "SELECT l.key, l.id = (SELECT max(id) FROM ledger.loads WHERE key = l.key) FROM ledger.load_events AS e "
        "JOIN ledger.loads AS l ON l.id = e.load_id WHERE e.from_status = 'errored' ORDER BY 1"
    )
    assert events == [("a.json", True)]


def test_retry_of_a_key_that_has_been_delivered_again_says_superseded_and_does_nothing(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path]
) -> None:
    ingestion("load", "metrics", files({"a.json": BAD}))
    ingestion("load", "metrics", files({"a.json": GOOD}))
    result = ingestion("retry", "metrics")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == ["superseded: a newer version of a.json is known; retry that one", "nothing to retry"]
    assert Counter(state["status"] for state in metrics.states()) == {"errored": 1, "archived": 1}


def test_retry_of_one_dataset_leaves_the_errors_of_others(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"d.json": BAD, "c.json": CASES | {"sex": "banana"}}))
    assert ingestion("retry", "metrics", "--dataset", "cases").code == 2
    retried = metrics.query("SELECT l.key FROM ledger.load_events AS e JOIN ledger.loads AS l ON l.id = e.load_id WHERE why = 'retry'")
    assert retried == [("c.json",)]


# mistakes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "metrix"], ["metrix", "metrics"]),
        (["run", "metrics", "--dataset", "case"], ["'case'", "cases"]),
        (["pause", "metrics", "case"], ["'case'", "cases"]),
        (["run", "metrics", "--dataset", "unclassified"], ["'unclassified'", "any run"]),
        (["run", "metrics", "--partition", "2019-01-01"], ["2019-01-01"]),
        (["run", "metrics", "--partition", "2999-01-01"], ["2999-01-01"]),
        (["run", "metrics", "--partition", "yesterday"], ["yesterday"]),
        (["run", "metrics", "--dry-run", "--partition", "yesterday"], ["yesterday"]),
        (["run", "metrics", "--as-of", "yesterday"], ["as_of", "ISO date"]),
        (["run", "metrics", "--as-of", "2999-01-01"], ["as_of", "future"]),
        (["land", "metrics", "nowhere"], ["nowhere"]),
    ],
)
def test_a_slip_of_the_hand_is_answered_with_what_is_known(ingestion: Command, arguments: list[str], named: list[str]) -> None:
    result = ingestion(*arguments)
    assert result.code in (1, 2)
    assert result.out == ""
    assert "Traceback" not in result.err
    assert all(word in result.err for word in named), result.err


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("INGESTION_DATABASE_URL", "mysql://me:hunter2@host/db", "only postgresql:// is supported"),  # pragma: allowlist secret
        ("INGESTION_DATABASE_URL", "hunter2", "INGESTION_DATABASE_URL is no database URL"),
        ("INGESTION_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/db", "the database cannot be reached"),  # pragma: allowlist secret
        ("INGESTION_STORAGE_URL", "ftp://me:hunter2@host/folder", "an object store is s3://"),  # pragma: allowlist secret
        ("INGESTION_SENSOR_SECONDS", "hunter2", "INGESTION_SENSOR_SECONDS: Input should be a valid integer"),
        ("INGESTION_ENVIRONMENT", "hunter2", "INGESTION_ENVIRONMENT: Input should be 'local'"),
    ],
)
def test_a_setup_mistake_ends_with_one_line_and_no_secret(
    ingestion: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = ingestion("run", "metrics")
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("ingestion: ")
    assert named in result.err
    assert "hunter2" not in result.err


def test_production_refuses_the_embedded_database(ingestion: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INGESTION_DATABASE_URL")
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "production")
    result = ingestion("status")
    assert result.code == 1
    assert result.err == "ingestion: production needs a database of its own: set INGESTION_DATABASE_URL\n"


def test_every_command_shows_an_example(ingestion: Command) -> None:
    groups = ((), cli.app), (("db",), cli.database_commands), (("metrics",), cli.metrics_commands)
    commands = [(*path, command.callback.__name__) for path, group in groups for command in group.registered_commands if command.callback]
    assert len(commands) == 18
    for command in commands:
        result = ingestion(*command, "--help")
        assert result.code == 0
        assert f"Example: ingestion {' '.join(command)}" in re.sub(r"\s+", " ", result.out), command


# db


def test_a_database_that_is_behind_is_refused_until_it_is_upgraded(
    ingestion: Command, database: Database, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.connect() as connection:
        connection.execute("CREATE DATABASE behind TEMPLATE template0")
    try:
        monkeypatch.setenv("INGESTION_DATABASE_URL", server.url("behind"))
        refused = ingestion("status")
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1
        assert "run 'ingestion db upgrade' once" in refused.err
        first, second = ingestion("db", "upgrade"), ingestion("db", "upgrade")
        assert (first.code, second.code) == (0, 0)
        assert first.out == second.out
        assert first.out.startswith("the schema is at revision 00")
        assert ingestion("status", "--json").json == []
    finally:
        with database.connect() as connection:
            connection.execute("DROP DATABASE behind WITH (FORCE)")


def test_db_url_prints_a_url_that_sqlalchemy_connects_to_and_nothing_else(ingestion: Command) -> None:
    result = ingestion("db", "url")
    engine = create_engine(result.out.removesuffix("\n"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ledger.loads")).scalar() == 0
    engine.dispose()


def test_db_stop_of_a_server_that_does_not_run_says_so(ingestion: Command) -> None:
    result = ingestion("db", "stop")
    assert (result.code, result.out) == (0, "it was not running\n")


# demo


@pytest.mark.timeout(240)  # one goes through all five pipelines, the search cluster's stand-in included
def test_demo_is_red_when_a_file_does_not_end_as_expected_and_green_over_what_it_has_left(ingestion: Command, metrics: Metrics) -> None:
    ingestion("pause", "metrics", "testing")
    red = ingestion("demo", "metrics")
    assert red.code == 1
    assert "residents" not in red.out
    assert re.search(r"NOT AS EXPECTED: \S+_testing_\S+ is ready", red.out)
    assert "NOT AS EXPECTED, see above: metrics" in red.out
    ingestion("resume", "metrics", "testing")
    green = ingestion("demo")
    assert green.code == 0, green
    assert "NOT AS EXPECTED" not in green.out
    rows = metrics.rows("metrics.core_time_series")
    assert rows > 10_000
    assert f"{rows} rows in metrics.core_time_series" in green.out
    bad = len(list((project_file("source_data") / "metrics" / "bad").iterdir()))
    assert re.search(rf"^metrics +\d+ +{bad} +\d+ +{bad} are bad on purpose", red.out, re.MULTILINE)


# .env


def test_dotenv_of_the_working_folder_is_read_and_the_shell_wins(
    ingestion: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("INGESTION_SENSOR_SECONDS=often\nINGESTION_DATABASE_URL=mysql://elsewhere/db\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INGESTION_SENSOR_SECONDS", "to be forgotten after the test")
    monkeypatch.delenv("INGESTION_SENSOR_SECONDS")
    monkeypatch.delenv("PYTHON_DOTENV_DISABLED")
    result = ingestion("status", "--json")
    assert result.code == 1
    assert result.err.startswith("ingestion: INGESTION_SENSOR_SECONDS: ")
    monkeypatch.setenv("INGESTION_SENSOR_SECONDS", "20")
    assert ingestion("status", "--json").json == []


def test_hostile_dotenv_reaches_neither_a_test_nor_the_commands_it_starts(ingestion: Command, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / ".env").write_text("INGESTION_SENSOR_SECONDS=often\nINGESTION_STORAGE_URL=ftp://elsewhere\n")
    command = Path(sys.prefix) / "bin" / "ingestion"
    started = subprocess.run([command, "status", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (started.returncode, started.stdout, started.stderr) == (0, "[]\n", "")
    read = subprocess.run(
        [command, "status", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHON_DOTENV_DISABLED"},
    )
    assert read.returncode == 1, "the .env above is not hostile: this test could not fail"


def test_two_files_of_one_name_are_not_landed_over_each_other(ingestion: Command, metrics: Metrics, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(json.dumps(GOOD))
    result = ingestion("load", "metrics", tmp_path / "one", tmp_path / "two")
    assert result.code == 1
    assert "both land as x.json" in result.err
    assert metrics.states() == []
    assert metrics.keys("in") == []


def test_a_path_named_twice_is_landed_once(ingestion: Command, metrics: Metrics, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.json").write_text(json.dumps(GOOD))
    assert ingestion("load", "metrics", tmp_path / "one", tmp_path / "one", tmp_path / "one" / "x.json").code == 0
    assert len(metrics.states()) == 1


def test_loads_that_are_left_are_no_success(ingestion: Command, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of two cannot be read now: the other is loaded, and the command does not say that all were."""
    read = landing.read

    def moody(place: Zone, load: Load) -> bytes:
        if load.key == "b.json":
            raise Transient("object_store_unavailable", "SlowDown")
        return read(place, load)

    monkeypatch.setattr(landing, "read", moody)
    metrics.land(a=GOOD, b=CASES)
    result = ingestion("run", "metrics")
    assert result.code == 1
    assert metrics.statuses() == {"a.json": "archived", "b.json": "ready"}


def test_a_store_that_answers_nobody_ends_in_one_line(ingestion: Command, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> bytes:
        raise Transient("object_store_unavailable", "SlowDown")

    monkeypatch.setattr(landing, "read", unavailable)
    metrics.land(a=GOOD)
    result = ingestion("run", "metrics")
    assert result.code == 1
    assert re.fullmatch(r"ingestion: run \S+ failed: Transient: object_store_unavailable: SlowDown", result.err.splitlines()[-1])
    assert metrics.statuses() == {"a.json": "ready"}


# replay, boot and adopt


def test_replay_loads_a_day_again_from_the_archive(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"a.json": GOOD, "b.json": CASES}))
    metrics.query("DELETE FROM metrics.core_time_series WHERE true")
    metrics.query("DELETE FROM metrics.api_time_series WHERE true")
    result = ingestion("replay", "metrics", "--partition", TODAY, "--dataset", "cases")
    assert (result.code, result.err) == (0, "")
    assert result.out == "1 loads: 1 loaded (0 duplicates), 0 refused; 2 rows in, 2 written, 0 unchanged, 0 rejected\n"
    assert metrics.query("SELECT DISTINCT metric_group FROM public.data_apitimeseries") == [("cases",)]
    again = ingestion("replay", "metrics", "-p", TODAY, "-d", "cases")
    assert again.out == "1 loads: 1 loaded (0 duplicates), 0 refused; 2 rows in, 0 written, 2 unchanged, 0 rejected\n"


def test_replay_names_what_is_superseded_and_what_is_not_there(ingestion: Command, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"a.json": GOOD}))
    ingestion("load", "metrics", files({"a.json": GOOD | {"refresh_date": "2024-01-01"}}))
    result = ingestion("replay", "metrics", "-p", TODAY)
    assert (result.code, result.err) == (0, "superseded: a newer version of a.json is known; replay that one\n")
    nothing = ingestion("replay", "metrics", "-p", YESTERDAY)
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing to replay\n")
    assert ingestion("replay", "metrics").code == 2, "without a partition it would be the whole archive"


def test_boot_replaces_every_fact_by_what_a_folder_holds(ingestion: Command, metrics: Metrics, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"a.json": GOOD, "b.json": HEADLINE}))
    result = ingestion("metrics", "boot", files({"c.json": CASES, "bad.json": BAD}))
    assert result.code == 2
    assert result.out == "2 loads: 1 loaded (0 duplicates), 1 refused; 4 rows in, 2 written, 0 unchanged, 2 rejected\n"
    assert metrics.query("SELECT DISTINCT metric_group FROM public.data_apitimeseries") == [("cases",)]
    assert metrics.rows("metrics.core_headline") == 0
    assert metrics.keys("boot") == metrics.keys("in") == []


def test_boot_in_production_wants_to_be_told_that_it_is_meant(
    ingestion: Command, metrics: Metrics, files: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "production")
    folder = files({"a.json": GOOD})
    refused = ingestion("metrics", "boot", folder)
    assert (refused.code, refused.out) == (1, "")
    assert "--yes" in refused.err
    assert metrics.states() == []
    assert ingestion("metrics", "boot", folder, "--yes").code == 0


def test_adopt_marks_files_that_are_there_as_done_and_loads_nothing(ingestion: Command, metrics: Metrics) -> None:
    metrics.land(old=GOOD, new=CASES)
    old = metrics.settings.home_folder / "storage/metrics/in/old.json"
    os.utime(old, (0, 0))
    before = everything(metrics)
    dry = ingestion("adopt", "metrics", "--before", "2000-01-01", "--dry-run")
    assert (dry.code, dry.out.splitlines()[-1]) == (0, "1 files in the landing zone would be marked as done; nothing is loaded")
    assert everything(metrics) == before
    result = ingestion("adopt", "metrics", "--before", "2000-01-01")
    assert (result.code, result.out.splitlines()[-1]) == (0, "1 files in the landing zone are marked as done; nothing is loaded")
    assert metrics.statuses() == {"old.json": "archived", "new.json": "ready"}
    assert metrics.rows("metrics.core_time_series") == 0
    assert metrics.keys("in") == ["new.json"]
    assert metrics.keys("processed") == ["old.json"]
    assert metrics.query("SELECT DISTINCT why FROM ledger.load_events WHERE why LIKE 'adopted%%'") == [("adopted: it was there before",)]
    assert ingestion("run", "metrics").code == 0
    metrics.land(old=GOOD)
    ingestion("run", "metrics")
    assert metrics.rows("metrics.core_time_series") == 4, "delivered again, it is loaded"


def test_adopt_takes_over_the_dashboards_own_tables(
    living: Database, settings: Settings, ingestion: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_DATABASE_URL", living.sqlalchemy_url)
    behind = ingestion("status", "metrics")
    assert behind.code == 1
    upgrade = ingestion("db", "upgrade")
    assert upgrade.code == 1
    assert "ingestion adopt metrics" in upgrade.err
    dry = ingestion("adopt", "metrics", "--dry-run")
    result = ingestion("adopt", "metrics")
    assert (dry.code, result.code) == (0, 0), result
    assert dry.out.replace("would take over", "took over").splitlines()[0] == result.out.splitlines()[0]
    assert "schema metrics_before" in result.out
    assert ingestion("status", "metrics").code == 0
    assert ingestion("adopt", "metrics").out.startswith("no tables of another system are here\n")


def test_adopt_tells_in_a_dry_run_too_that_a_database_was_never_upgraded(
    server: EmbeddedServer, ingestion: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_postgres.ensure_database(server, "never_upgraded")
    monkeypatch.setenv("INGESTION_DATABASE_URL", server.url("never_upgraded"))
    for arguments in (["--dry-run"], []):
        result = ingestion("adopt", "metrics", *arguments)
        assert (result.code, result.out) == (1, "")
        assert "ingestion db upgrade" in result.err


@pytest.mark.may_skip
@pytest.mark.skipif(not Path("/proc/1/mem").exists(), reason="no file here that nobody can read")
def test_what_cannot_be_read_is_named_in_one_line(ingestion: Command, tmp_path: Path) -> None:
    unreadable = Path("/proc/1/mem")
    for command in (["land", "metrics"], ["check", "metrics"]):
        result = ingestion(*command, unreadable)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("ingestion: /proc/1/mem cannot be read")
        assert len(result.err.splitlines()) == 1
    (tmp_path / "empty").mkdir()
    result = ingestion("metrics", "boot", tmp_path / "empty")
    assert (result.code, len(result.err.splitlines())) == (1, 1)


def test_a_late_file_is_counted_as_late(ingestion: Command, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"a.json": GOOD | {"refresh_date": "2024-01-01"}}))
    result = ingestion("load", "metrics", files({"b.json": GOOD | {"refresh_date": "2023-12-01"}}))
    assert result.out == "1 loads: 1 loaded (0 duplicates, 1 late), 0 refused; 2 rows in, 0 written, 2 unchanged, 0 rejected\n"

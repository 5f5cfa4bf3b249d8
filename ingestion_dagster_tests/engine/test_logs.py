"""A log that is read by machines stays one record a line, whatever a file is called; and tells no secret."""

import json
import logging
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from ingestion_dagster.engine import logs
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.settings import Settings

HOSTILE = "a\nERROR root: all is lost\r\x1b[2J\u2028\u202egpj.json"
SECRET = "hunter2hunter2"  # pragma: allowlist secret


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger that only the root handles; how this process logs is put back."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield logging.getLogger("tests.of.logs")
    for handler in [each for each in root.handlers if each not in before]:
        root.removeHandler(handler)
    logging.captureWarnings(False)


def settings_of(**wanted: object) -> Settings:
    return Settings().model_copy(update=wanted)


def test_a_hostile_name_stays_on_its_line_as_text(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(settings_of(log_format="text"), logs.DATED)
    log.warning("no table for %s", HOSTILE)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(r"WARNING tests.of.logs: no table for a\nERROR root: all is lost\r\x1b[2J\u2028\u202egpj.json")


def test_a_stack_trace_cannot_pass_for_a_record(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(settings_of(log_format="text"), logs.DATED)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("it broke")
    first, *trace = capsys.readouterr().err.splitlines()
    assert first.endswith("ERROR tests.of.logs: it broke")
    assert len(trace) >= 3
    assert all(line.startswith("  | ") for line in trace)


def test_json_is_one_object_a_line_with_the_exception_inside(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(settings_of(log_format="json"))
    log.warning("no table for %s", HOSTILE, extra={"load_id": 7})
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("it broke")
    first, second = map(json.loads, capsys.readouterr().err.split("\n")[:-1])
    assert {name: first[name] for name in ("level", "logger", "load_id")} == {"level": "WARNING", "logger": "tests.of.logs", "load_id": 7}
    assert first["message"] == f"no table for {HOSTILE}"
    assert first["timestamp"].startswith("20")
    assert second["message"] == "it broke"
    assert "ValueError" in second["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_of_the_settings_gets_into_a_log(log: logging.Logger, capsys: pytest.CaptureFixture[str], form: str) -> None:
    url = f"postgresql://me:{SECRET}@db/ledger"  # pragma: allowlist secret
    logs.configure(
        settings_of(
            log_format=form, database_url=url, residents_hash_key=SecretStr("k" * 32), life_events_hmac_keys=SecretStr(f"a:{'h' * 32}")
        )
    )
    try:
        raise ValueError(f"{url} {'h' * 32}")
    except ValueError:
        log.exception("%s with %s", url, "k" * 32)
    told = capsys.readouterr().err
    assert "***" in told
    assert not any(secret in told for secret in (SECRET, "k" * 32, "h" * 32))


def test_configured_twice_a_record_is_told_once(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(None)
    logs.configure(None)
    log.warning("once")
    assert capsys.readouterr().err == "once\n"


def test_dagsters_records_say_which_run_they_are_of() -> None:
    record = logging.LogRecord("dagster", logging.WARNING, "", 0, "job - run - load_id=3", (), None)
    record.dagster_meta = {"orig_message": "load_id=3", "run_id": "r1", "job_name": "j", "step_key": None, "dagster_event": object()}
    told = json.loads(logs.LineFormatter().format(record))
    assert (told["message"], told["run_id"], told["job_name"]) == ("load_id=3", "r1", "j")
    assert "dagster_meta" not in told
    assert "step_key" not in told


def test_what_people_write_in_other_scripts_stays_as_it_is() -> None:
    assert one_line("Übersicht – 名簿 (1).xlsx") == "Übersicht – 名簿 (1).xlsx"
    assert one_line("a\tb\x00c\ud800") == r"a\tb\x00c\ud800"

"""At three in the morning: what needs somebody is said first, with what to type next; a code is explained; the doctor tells."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.standing import age
from ingestion_dagster_tests.test_cli import BAD, GOOD, Command, files, ingestion

__all__ = ["files", "ingestion"]


def first(ingestion: Command, *arguments: str) -> str:
    return ingestion("status", *arguments).out.splitlines()[0]


def test_a_pipeline_that_has_loaded_everything_is_fine(ingestion: Command, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"a.json": GOOD}))
    assert first(ingestion) == "metrics: fine"


def test_what_a_dead_run_holds_is_named_before_refused_files(ingestion: Command, files: Callable[..., Path], database: Database) -> None:
    ingestion("load", "metrics", files({"a.json": GOOD, "bad.json": BAD}))
    with database.connect() as connection:
        connection.execute(
            "UPDATE ledger.loads SET status = 'ingesting', claim = 1, lease_until = %s WHERE key = 'a.json'",
            [datetime.now(UTC) - timedelta(hours=3)],
        )
    assert first(ingestion, "metrics") == (
        "metrics: needs you: 1 load stuck: a run died with them 3 hours ago, and no sweep has given them back, and 1 more. "
        "Next: ingestion doctor metrics"
    )


def test_files_that_no_run_takes_need_somebody_after_the_time_that_is_set(
    ingestion: Command, files: Callable[..., Path], database: Database
) -> None:
    ingestion("land", "metrics", files({"a.json": GOOD}))
    assert first(ingestion, "metrics") == "metrics: fine"
    with database.connect() as connection:
        connection.execute("UPDATE ledger.loads SET discovered_at = now() - interval '2 days'")
    assert first(ingestion, "metrics").startswith("metrics: needs you: nothing has run for 2 days")


def test_a_file_name_cannot_add_a_line(ingestion: Command, files: Callable[..., Path], database: Database) -> None:
    ingestion("load", "metrics", files({"bad.json": BAD}))
    with database.connect() as connection:
        connection.execute("UPDATE ledger.loads SET key = E'x\\nmetrics: fine', error_message = E'a\\x1b[2Jb'")
    for arguments in (("metrics",), ("metrics", "--loads")):
        told = ingestion("status", *arguments).out
        assert "metrics: fine" not in told.splitlines()
        assert "\x1b" not in told
        assert r"x\nmetrics: fine" in told


def test_one_dataset_can_be_asked_about(ingestion: Command, files: Callable[..., Path]) -> None:
    ingestion("load", "metrics", files({"a.json": GOOD, "bad.json": BAD}))
    assert first(ingestion, "metrics", "--dataset", "cases") == "metrics: nothing has arrived yet"
    assert first(ingestion, "metrics", "--dataset", "deaths").startswith("metrics: needs you")
    assert {row["dataset"] for row in ingestion("status", "metrics", "--dataset", "deaths", "--json").json} == {"deaths"}


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 seconds"), (1, "1 second"), (119, "1 minute"), (7300, "2 hours"), (86400, "1 day"), (-5, "0 seconds")]
)
def test_ages_are_words(seconds: int, words: str) -> None:
    assert age(timedelta(seconds=seconds)) == words


def test_retry_of_a_key_that_nobody_knows_is_a_mistake(ingestion: Command) -> None:
    missed = ingestion("retry", "metrics", "--key", "no\nsuch.json")
    assert (missed.code, missed.err) == (2, "no file that stands refused has the key no\\nsuch.json\n")
    assert ingestion("retry", "metrics").code == 0


def test_a_code_is_explained_without_database(ingestion: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    told = ingestion("explain", "schema_changed", "--pipeline", "cubic")
    assert told.code == 0
    assert told.out.startswith("schema_changed (cubic)\n")
    assert "ingestion cubic propose" in told.out
    assert "`" not in told.out
    [entry] = ingestion("explain", "crashed_repeatedly", "-p", "cubic", "--json").json
    assert set(entry) == {"code", "owner", "section", "means", "badness", "how_bad", "operator", "supplier", "retry"}
    assert "ingestion retry cubic" in entry["retry"]
    assert {entry["owner"] for entry in ingestion("explain", "bad_date", "--json").json} == {"metrics", "residents"}


def test_a_code_of_a_kind_is_explained_and_an_unknown_one_is_guessed(ingestion: Command) -> None:
    assert ingestion("explain", "platform_403").out.startswith("platform_* (life_events)\n")
    guessed = ingestion("explain", "schema_chnged")
    assert (guessed.code, guessed.out) == (2, "")
    assert "did you mean schema_changed" in guessed.err
    assert ingestion("explain", "zzz\nqqq").err == "there is no code 'zzz\\nqqq': 'ingestion explain' lists those there are\n"


def test_without_a_code_all_are_listed(ingestion: Command) -> None:
    lines = ingestion("explain").out.splitlines()
    assert len(lines) > 300
    assert all(len(line.split("\t")) == 3 for line in lines)


def test_the_doctor_says_by_its_exit_code_whether_there_is_a_problem(ingestion: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    well = ingestion("doctor", "metrics")
    assert (well.code, well.err) == (0, ""), well
    assert "database: Postgres" in well.out
    monkeypatch.setenv("INGESTION_METRICS_LANDING_URL", "file:///proc/none")
    found = ingestion("doctor", "metrics", "--json")
    assert found.code == 1
    assert [each["check"] for each in json.loads(found.out) if each["level"] == "problem"] == ["metrics landing"]
    assert set(found.json[0]) == {"check", "level", "what", "do"}


def test_settings_that_cannot_be_read_are_a_finding(ingestion: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_API_PORT", "hunter2")
    found = ingestion("doctor", "--json")
    assert found.code == 1
    assert found.json[0]["what"].startswith("INGESTION_API_PORT: ")
    assert "hunter2" not in found.out

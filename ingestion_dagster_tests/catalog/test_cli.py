"""The commands over the catalogue, called as the shell calls them: exit codes, and what is printed where."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion_dagster import cli
from ingestion_dagster.catalog import samples
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.cli_catalog import catalog_commands
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.test_cli import Result

Command = Callable[..., Result]

FEW = "DELETE FROM image WHERE identifier NOT IN (SELECT identifier FROM image ORDER BY title NULLS LAST, identifier LIMIT 50)"


@pytest.fixture
def ingestion(catalog_settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Calls the entry point of the console script in this process; what it prints is caught at the file descriptors."""

    def call(*arguments: str | Path) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["ingestion", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def few(upstream: Database) -> None:
    """Fifty images upstream, and all sample sounds."""
    samples.fill_upstream(upstream)
    with upstream.connect() as connection:
        connection.execute(FEW)


@pytest.mark.usefixtures("few")
def test_a_refresh_is_run_counted_searched_and_rolled_back(ingestion: Command, upstream: Database) -> None:
    before = ingestion("catalog", "count", "image", "--json")
    assert (before.code, json.loads(before.out)) == (0, {})
    unknown = ingestion("catalog", "search", "image", "anything")
    assert unknown.code == 1
    assert "no_such_index" in unknown.err

    first = ingestion("run", "catalog", "--dataset", "image")
    assert (first.code, first.out) == (
        0,
        "1 loads: 1 loaded (0 duplicates), 0 refused; 50 rows in, 50 written, 0 unchanged, 0 rejected\n",
    ), first.err
    counts = json.loads(ingestion("catalog", "count", "image", "--json").out)
    assert counts["table image"] == 50

    with upstream.connect() as connection:
        connection.execute("UPDATE image SET title = 'a wholly new zeppelin', removed_from_source = false, meta_data = NULL")
    assert ingestion("run", "catalog", "--dataset", "image").code == 0
    found = ingestion("catalog", "search", "image", "Zeppelins", "--json")
    assert json.loads(found.out)["total"] == 50
    assert "50 documents found, 3 shown" in ingestion("catalog", "search", "image", "zeppelin", "--limit", "3").out

    back = ingestion("catalog", "rollback", "image")
    assert back.code == 0
    assert re.fullmatch(r"image: readers have refresh \d{8}t\d+ again\n", back.out)
    assert json.loads(ingestion("catalog", "search", "image", "zeppelin", "--json").out)["total"] == 0
    assert json.loads(ingestion("catalog", "count", "image", "--json").out) == counts
    status = ingestion("status", "catalog")
    assert "image: readers get refresh" in status.out

    dry = ingestion("run", "catalog", "--dataset", "image", "--dry-run")
    assert (dry.code, dry.out) == (0, "dry run, nothing changed: 50 rows of image upstream\n")
    with upstream.connect() as connection:
        connection.execute("ALTER TABLE image ALTER COLUMN width TYPE text USING width::text")
    stopped = ingestion("run", "catalog", "--dataset", "image", "--dry-run")
    assert stopped.code == 2
    assert "type_mismatch" in stopped.out


@pytest.mark.usefixtures("few")
def test_what_is_refused_exits_2_and_retry_goes_on(ingestion: Command, upstream: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ingestion("run", "catalog", "--dataset", "image").code == 0
    with upstream.connect() as connection:
        connection.execute("DELETE FROM image WHERE identifier IN (SELECT identifier FROM image LIMIT 30)")
    refused = ingestion("run", "catalog", "--dataset", "image")
    assert refused.code == 2, refused.err
    assert "1 refused" in refused.out
    assert "errored with rows_fell" in ingestion("status", "catalog").out
    monkeypatch.setenv("INGESTION_CATALOG_FALL_PERCENT", "100")
    monkeypatch.setenv("INGESTION_CATALOG_PROVIDER_FALL_PERCENT", "100")
    retried = ingestion("retry", "catalog", "--dataset", "image")
    assert retried.code == 0, retried.err
    assert json.loads(ingestion("catalog", "count", "image", "--json").out)["table image"] == 20


@pytest.mark.usefixtures("few")
def test_an_update_and_a_new_filtered_index_need_no_refresh(
    ingestion: Command, upstream: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ingestion("run", "catalog", "--dataset", "image").code == 0
    with upstream.connect() as connection:
        connection.execute(
            "UPDATE image SET title = 'a wholly new zeppelin', updated_on = now(), removed_from_source = false, meta_data = NULL "
            "WHERE identifier = (SELECT identifier FROM image ORDER BY identifier::text LIMIT 1)"
        )
    updated = ingestion("catalog", "update", "image")
    assert updated.code == 0, updated.err
    assert json.loads(ingestion("catalog", "search", "image", "zeppelin", "--filtered", "--json").out)["total"] == 1
    terms = tmp_path / "terms.txt"
    terms.write_text("new zeppelin\n")
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", terms.as_uri())
    rebuilt = ingestion("catalog", "filter", "image")
    assert rebuilt.code == 0, rebuilt.err
    assert json.loads(ingestion("catalog", "search", "image", "zeppelin", "--filtered", "--json").out)["total"] == 0
    assert json.loads(ingestion("catalog", "search", "image", "zeppelin", "--json").out)["total"] == 1


def test_a_refresh_is_given_up(ingestion: Command, places: Places, upstream: Database) -> None:
    assert "no refresh of image is on its way" in ingestion("catalog", "discard", "image").err
    with upstream.connect() as connection:
        samples.make_tables(connection)
        connection.execute("DROP TABLE image")
    refused = ingestion("run", "catalog", "--dataset", "image")
    assert refused.code == 2, refused.err
    given_up = ingestion("catalog", "discard", "image")
    assert given_up.code == 0
    assert "is given up" in given_up.out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("land", "catalog", "."), "no landing zone"),
        (("check", "catalog", "."), "no landing zone"),
        (("adopt", "catalog"), "nothing to adopt"),
        (("replay", "catalog", "--partition", "x"), "catalog rollback"),
        (("run", "catalog", "--as-of", "2026-01-01"), "--as-of"),
        (("run", "catalog", "--partition", "never"), "no partition never"),
        (("catalog", "search", "video", "x"), "no media type 'video'"),
        (("catalog", "rollback", "image"), "image"),
    ],
)
def test_what_cannot_be_says_what_to_do_instead(ingestion: Command, command: tuple[str, ...], says: str) -> None:
    Path("a.txt").write_text("x")
    refused = ingestion(*command)
    assert refused.code == 1
    assert says in refused.err
    assert len(refused.err.splitlines()) == 1, refused.err


def test_every_command_shows_an_example(ingestion: Command) -> None:
    commands = [command.name or command.callback.__name__ for command in catalog_commands.registered_commands if command.callback]
    assert sorted(commands) == ["count", "discard", "filter", "rollback", "search", "update"]
    for command in commands:
        result = ingestion("catalog", command, "--help")
        assert f"Example: ingestion catalog {command}" in re.sub(r"\s+", " ", result.out), command

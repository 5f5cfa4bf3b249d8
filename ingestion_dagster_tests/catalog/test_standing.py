"""What a person is told who asks where things stand, or asks for what cannot be now: a line that names it, and says what to do."""

import pytest

from ingestion_dagster.catalog import checks, refreshes, standing, steps
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError, Problem
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.catalog.test_assets import connection
from ingestion_dagster_tests.catalog.test_cli import Command, ingestion

__all__ = ["connection", "ingestion"]

IMAGE, AUDIO = MEDIA_TYPES["image"], MEDIA_TYPES["audio"]


def refuse(places: Places, connection: Connection, refresh: refreshes.Refresh) -> None:
    """End a refresh as errored, as a check would."""
    limits = Limits.of(places.settings)
    with refreshes.held(places.ledger, connection, refresh, "run", limits) as load:
        refreshes.refuse(connection, load, (Problem("rows_fell", "image", "look upstream"),), limits, "run")


def test_how_far_a_refresh_is_and_why_it_does_not_go_on_is_a_line(places: Places, connection: Connection) -> None:
    assert standing.lines(connection) == []
    going = steps.begin(places, connection, IMAGE, "test", asked_by="test", suffix="one")
    [line] = standing.lines(connection)
    assert line.startswith("image: refresh one is requested, and nobody is at it: the next run goes on; next: copy")
    with refreshes.held(places.ledger, connection, going, "somerun-and-more", Limits.of(places.settings)):
        assert "is requested, in the hands of run somerun-" in standing.lines(connection)[0]
    refuse(places, connection, going)
    [line] = standing.lines(connection)
    assert line.startswith("image: refresh one is refused: rows_fell: ")
    assert line.endswith("mend the cause, then 'ingestion retry catalog --dataset image', or 'ingestion catalog discard image'")
    waiting = steps.begin(places, connection, AUDIO, "test", asked_by="test", suffix="two", promote=False)
    refreshes.advance(connection, waiting, "filled")
    with refreshes.held(places.ledger, connection, waiting, "run", Limits.of(places.settings)):
        pass
    assert "audio: refresh two is filled, and waits until somebody asks for its promotion" in standing.lines(connection)


def test_what_was_given_up_does_not_fail_the_daily_check_for_ever(places: Places, connection: Connection) -> None:
    going = steps.begin(places, connection, IMAGE, "test", asked_by="test", suffix="one")
    refuse(places, connection, going)
    passed, _, metadata = checks.nothing_left_refused(connection)
    assert (passed, metadata["loads_errored"]) == (False, 1)
    steps.give_up(places, connection, going)
    assert checks.nothing_left_refused(connection)[0]


def test_a_paused_media_type_is_named_and_can_be_given_up(ingestion: Command, places: Places, connection: Connection) -> None:
    steps.begin(places, connection, IMAGE, "test", asked_by="test", suffix="one")
    assert ingestion("pause", "catalog", "image", "--why", "figures under review").code == 0
    for command in (
        ("run", "catalog", "--dataset", "image"), ("run", "catalog", "--partition", "one"), ("catalog", "update", "image"),
    ):  # fmt: skip
        refused = ingestion(*command)
        assert refused.code == 1, command
        assert refused.err.splitlines() == [
            "ingestion: image is paused (figures under review): 'ingestion resume catalog image' lets it go on"
        ], command
    assert "image is paused (figures under review)" in ingestion("status", "catalog").out
    given_up = ingestion("catalog", "discard", "image")
    assert given_up.code == 0, given_up.err
    assert ingestion("resume", "catalog", "image").code == 0
    bygone = ingestion("run", "catalog", "--partition", "one")
    assert bygone.code == 1
    assert "refresh one of image is discarded: it was given up; 'ingestion run catalog --dataset image' begins a new one" in bygone.err


def test_a_retry_begins_nothing_that_was_not_refused(ingestion: Command, connection: Connection, upstream: Database) -> None:
    with upstream.connect() as changing:
        changing.execute("ALTER TABLE image ALTER COLUMN width TYPE text USING width::text")
    refused = ingestion("run", "catalog", "--dataset", "image")
    assert refused.code == 2
    assert "Traceback" not in refused.err
    assert "Stack Trace" not in refused.err
    assert [line for line in refused.err.splitlines() if "is refused: type_mismatch" in line], refused.err
    assert ingestion("retry", "catalog").code == 2
    assert refreshes.of_model(connection, "audio") == []
    assert len(refreshes.of_model(connection, "image")) == 1


def test_an_error_of_a_connection_names_the_variable_that_is_wrong(catalog_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, of in (("INGESTION_CATALOG_UPSTREAM_URL", "upstream"), ("INGESTION_CATALOG_API_DATABASE_URL", "api")):
        with monkeypatch.context() as away:
            away.setenv(variable, "postgresql://nobody@127.0.0.1:9/nowhere")
            database: Database = getattr(Places.of(current()), of)
            with pytest.raises(ConfigurationError, match=variable):
                database.connect()

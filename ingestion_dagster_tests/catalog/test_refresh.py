"""A refresh from end to end, through Dagster: promoted, resumed, refused, rolled back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingestion_dagster import arrivals, runs
from ingestion_dagster.catalog import copy, promotion, readers, refreshes, samples, staging, steps
from ingestion_dagster.catalog.pipeline import CATALOG
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine import ledger, whereabouts
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.in_process import RunFailed
from ingestion_dagster.settings import Settings

IMAGE = MEDIA_TYPES["image"]


@pytest.fixture
def filled(catalog_settings: Settings, upstream: Database) -> Settings:
    """An installation with the sample rows upstream, and nothing refreshed yet."""
    samples.fill_upstream(upstream)
    return catalog_settings


def refresh(settings: Settings, dataset: str = "image") -> whereabouts.RunSummary:
    return runs.run(CATALOG, settings, runs.Request(dataset=dataset))


def live_ids(api: Database) -> dict[str, int]:
    with api.connect() as connection:
        return dict(connection.execute("SELECT identifier::text, id FROM image").fetchall())


def test_a_refresh_gives_readers_what_upstream_holds(filled: Settings, api: Database) -> None:
    summary = refresh(filled)
    expected = samples.expected("image")
    assert (summary.loads, summary.errored, summary.rows_in, summary.rows_written) == (1, 0, expected["rows"], expected["rows"])
    assert readers.counts(filled, "image") == {
        "table image": expected["rows"],
        "index image": expected["documents"],
        "index image-filtered": expected["filtered"],
    }
    phrase = expected["phrase"]
    assert readers.search(filled, "image", f'"{phrase["term"]}"').total == phrase["documents"]
    with Places.of(filled).ledger.connect() as connection:
        live = refreshes.live(connection, "image")
        assert live is not None
        statuses = {(row["dataset"], row["status"]) for row in whereabouts.status_counts(connection, "catalog")}
        fixes = connection.execute("SELECT count(DISTINCT identifier) FROM catalog.fixes").fetchone()
    assert statuses == {("image", "archived"), ("image_index", "archived")}
    assert fixes == (expected["cleaned_rows"],)

    materialized = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "asset", "materialize", "-m", "ingestion_dagster.definitions"),
            *("--select", 'key:"catalog/image/search_index"', "--partition", live.suffix),
        ],
        env=os.environ | {"DAGSTER_HOME": str(filled.home_folder / "dagster")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert materialized.returncode == 0, materialized.stderr[-2000:]


def test_audio_and_its_sets_are_refreshed_together(filled: Settings, api: Database) -> None:
    refresh(filled, "audio")
    expected = samples.expected("audio")
    assert readers.counts(filled, "audio") == {
        "table audio": expected["rows"],
        "table audioset": expected["audiosets"],
        "index audio": expected["documents"],
        "index audio-filtered": expected["filtered"],
    }


def test_the_next_refresh_keeps_ids_and_a_rollback_brings_back_what_was(filled: Settings, upstream: Database, api: Database) -> None:
    refresh(filled)
    before = live_ids(api)
    with upstream.connect() as connection:
        connection.execute("DELETE FROM image WHERE identifier = (SELECT min(identifier::text)::uuid FROM image)")
        connection.execute(
            "UPDATE image SET title = 'a wholly new zeppelin' WHERE identifier = (SELECT max(identifier::text)::uuid FROM image)"
        )
    refresh(filled)
    after = live_ids(api)
    assert len(after) == len(before) - 1
    assert {key: after[key] for key in after} == {key: before[key] for key in after}
    assert readers.search(filled, "image", "zeppelin").total == 1

    places = Places.of(filled)
    with places.ledger.connect() as connection:
        newest = refreshes.live(connection, "image")
        back = steps.roll_back(places, connection, IMAGE, "test")
        assert newest is not None
        assert back is not None
        assert back.suffix != newest.suffix
    assert live_ids(api) == before
    assert readers.search(filled, "image", "zeppelin").total == 0
    with places.ledger.connect() as connection:
        again = steps.roll_back(places, connection, IMAGE, "test")
        assert again is not None
        assert again.suffix == newest.suffix
    assert live_ids(api) == after


@pytest.mark.parametrize(("module", "function"), [(copy, "copy_tables"), (staging, "build"), (promotion, "promote")])
def test_a_refresh_that_was_broken_off_goes_on_where_it_was(
    filled: Settings, monkeypatch: pytest.MonkeyPatch, module: object, function: str
) -> None:
    def away(*_arguments: object, **_named: object) -> None:
        raise Transient("database_unavailable", "the API's database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(module, function, away)
        with pytest.raises(RunFailed, match="database_unavailable"):
            refresh(filled)
    with Places.of(filled).ledger.connect() as connection:
        (going,) = refreshes.of_model(connection, "image")
        assert ledger.claimable(connection, ledger.Scope("catalog"))[0] == 1
    summary = refresh(filled)
    assert (summary.loads, summary.errored) == (1, 0)
    with Places.of(filled).ledger.connect() as connection:
        live = refreshes.live(connection, "image")
        assert live is not None
        assert live.suffix == going.suffix


def test_a_refresh_that_lost_too_many_rows_is_refused_and_the_next_takes_its_place(
    filled: Settings, upstream: Database, api: Database
) -> None:
    refresh(filled)
    before = live_ids(api)
    with upstream.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM image")
        connection.execute("DELETE FROM image WHERE provider = 'stocksnap'")
    summary = refresh(filled)
    assert (summary.loads, summary.errored) == (1, 1)
    assert live_ids(api) == before
    with Places.of(filled).ledger.connect() as connection:
        errors = {code for code, _, _ in whereabouts.errors(connection, "catalog")}
        refused = refreshes.at_work(connection, "image")
    assert errors == {"rows_fell"}
    assert refused is not None
    with upstream.connect() as connection:
        connection.execute("INSERT INTO image SELECT * FROM kept WHERE provider = 'stocksnap'")
    assert refresh(filled).errored == 0
    assert live_ids(api) == before


def test_two_refreshes_of_a_media_type_are_not_on_their_way_together(filled: Settings) -> None:
    places = Places.of(filled)
    with places.ledger.connect() as connection:
        first = steps.begin(places, connection, IMAGE, "test", asked_by="test")
        with pytest.raises(Busy, match=first.suffix):
            steps.begin(places, connection, IMAGE, "test", asked_by="test")


def test_a_dry_run_changes_nothing(filled: Settings, api: Database) -> None:
    assert CATALOG.foretell is not None
    assert CATALOG.foretell(filled, "image") == {"rows of image upstream": samples.expected("image")["rows"]}
    with Places.of(filled).ledger.connect() as connection:
        assert refreshes.of_model(connection, "image") == []


def test_what_has_no_landing_zone_says_so(filled: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no landing zone"):
        arrivals.land(CATALOG, filled, [tmp_path])
    with pytest.raises(ConfigurationError, match="catalog rollback"):
        CATALOG.replay(None, ledger.Scope("catalog"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="nothing to adopt"):
        CATALOG.take_over(Places.of(filled).ledger, True)

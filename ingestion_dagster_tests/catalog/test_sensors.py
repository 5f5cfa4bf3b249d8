"""The sensors and schedules of the catalogue: what makes them ask for a run, and what keeps them from it."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import instance_for_test

from ingestion_dagster.catalog import journal, refreshes, samples, sensitive, steps
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES, MediaType
from ingestion_dagster.catalog.search import AliasMove
from ingestion_dagster.catalog.sensors import WEEKLY, catalog_terms_sensor, catalog_upstream_sensor
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.dagster import INGESTION, QUEUE_TAG
from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.operations.sensors import SWEEPS
from ingestion_dagster.settings import Settings, current

IMAGE = MEDIA_TYPES["image"]

Tick = Callable[..., Any]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with instance_for_test() as instance:
        yield instance


@pytest.fixture
def connection(places: Places, upstream: Database) -> Iterator[Connection]:
    """To the ledger, of an installation whose upstream has its tables, empty."""
    with upstream.connect() as filling:
        samples.make_tables(filling)
    with places.ledger.connect() as connection:
        yield connection


@pytest.fixture
def tick(catalog_settings: Settings, connection: Connection, instance: dg.DagsterInstance) -> Tick:
    """One evaluation as the daemon makes it."""
    repository = defs.get_repository_def()

    def evaluate(sensor: dg.SensorDefinition = catalog_upstream_sensor, cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=sensor.name
        )
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            return sensor.evaluate_tick(context)

    return evaluate


def change_upstream(upstream: Database, rows: int) -> None:
    """Change so many rows, and have the counters of Postgres tell of them at once."""
    with upstream.connect() as connection:
        connection.execute(
            "INSERT INTO image (identifier, created_on, updated_on, url, license, removed_from_source) "
            "SELECT gen_random_uuid(), now(), now(), 'https://images.example.org/' || gen_random_uuid(), 'cc0', false "
            "FROM generate_series(1, %s)",
            [rows],
        )
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT 1")


def test_a_refresh_that_was_asked_for_is_run_with_its_suffix(
    tick: Tick, places: Places, connection: Connection, instance: dg.DagsterInstance
) -> None:
    refresh = steps.begin(places, connection, IMAGE, "test", asked_by="test")
    [request] = tick().run_requests
    assert (request.job_name, request.partition_key) == ("catalog_image_refresh", refresh.suffix)
    assert request.tags[QUEUE_TAG] == "catalog_image_refresh"
    assert instance.has_dynamic_partition("catalog_image_refreshes", refresh.suffix)


def test_a_refresh_in_hand_and_one_that_waits_for_its_promotion_are_left_alone(
    tick: Tick, places: Places, connection: Connection, catalog_settings: Settings
) -> None:
    refresh = steps.begin(places, connection, IMAGE, "test", asked_by="test", promote=False)
    work = steps.Work(places, connection, IMAGE, refresh.suffix, "run", Limits.of(catalog_settings))
    with work.in_hand():
        told = tick()
        assert told.run_requests == []
        assert f"refresh {refresh.suffix} is requested" in told.skip_message
        refreshes.advance(connection, refresh, "filled")
    assert tick().run_requests == []


def test_much_change_upstream_asks_for_a_refresh_and_little_does_not(
    tick: Tick, upstream: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_CATALOG_UPSTREAM_ROWS", "50")
    cursor = tick().cursor
    change_upstream(upstream, 49)
    few = tick(cursor=cursor)
    assert few.run_requests == []
    assert "49 changes upstream since" in few.skip_message
    change_upstream(upstream, 1)
    [request] = tick(cursor=cursor).run_requests
    assert request.job_name == "catalog_image_refresh"
    made = refreshes.at_work(connection, "image")
    assert made is not None
    assert (made.suffix, made.asked_by) == (request.partition_key, "upstream changes")


def test_a_refresh_that_is_not_a_day_old_is_not_made_again(
    tick: Tick, upstream: Database, places: Places, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_CATALOG_UPSTREAM_ROWS", "1")
    cursor = tick().cursor
    live = refreshes.advance(connection, steps.begin(places, connection, IMAGE, "test", asked_by="test"), "live")
    change_upstream(upstream, 5)
    finished(connection, live)
    assert "not a day old" in tick(cursor=cursor).skip_message
    connection.execute("UPDATE catalog.refreshes SET requested_at = %s", [datetime.now(UTC) - timedelta(hours=25)])
    assert len(tick(cursor=cursor).run_requests) == 1


def finished(connection: Connection, refresh: refreshes.Refresh) -> None:
    """End the load of a refresh that is live."""
    places = Places.of(current())
    limits = Limits()
    with refreshes.held(places.ledger, connection, refresh, "run", limits) as load:
        refreshes.finish(connection, load, refresh, limits, "run")


@pytest.mark.parametrize(
    "cursor", ["no json", json.dumps({"version": 1, "changes": []}), json.dumps({"version": 1, "changes": {"image": "x"}})]
)
def test_an_unreadable_cursor_costs_a_count_no_more(tick: Tick, cursor: str) -> None:
    assert "were counted so far" in tick(cursor=cursor).skip_message


def test_weekly_gives_way_to_a_refresh_that_is_on_its_way(
    places: Places, connection: Connection, instance: dg.DagsterInstance, catalog_settings: Settings
) -> None:
    (weekly,) = [schedule for schedule in WEEKLY if schedule.name == "catalog_image_weekly_schedule"]

    def evaluate() -> Any:
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            return weekly.evaluate_tick(
                dg.build_schedule_context(instance=instance, repository_def=defs.get_repository_def(), resources={"ingestion": INGESTION})
            )

    [request] = evaluate().run_requests
    made = refreshes.at_work(connection, "image")
    assert made is not None
    assert request.partition_key == made.suffix
    assert made.suffix in evaluate().skip_message


def test_a_refused_refresh_does_not_keep_the_next_from_coming(places: Places, connection: Connection, catalog_settings: Settings) -> None:
    refused = steps.begin(places, connection, IMAGE, "test", asked_by="test")
    limits = Limits.of(catalog_settings)
    with refreshes.held(places.ledger, connection, refused, "run", limits) as load:
        refreshes.refuse(connection, load, (Problem("rows_fell", "image", "look upstream"),), limits, "run")
    following = steps.begin(places, connection, IMAGE, "test", asked_by="test")
    assert following.suffix != refused.suffix
    assert refreshes.get(connection, "image", refused.suffix).state == "discarded"


def test_new_terms_have_the_filtered_index_made_anew(
    tick: Tick, places: Places, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nothing is live yet" in tick(catalog_terms_sensor).skip_message
    refreshes.advance(connection, refreshes.request(connection, "image", "one", asked_by="test"), "live")
    with closing(places.search()) as engine:
        for index, terms in (("image-one-filtered", sensitive.fingerprint_of(current())), ("image-older-filtered", "an older list")):
            engine.create(index, IMAGE.mapping.definition({"refresh": "one", "kind": "filtered", "terms": terms}))
        engine.switch([AliasMove("image-filtered", "image-one-filtered")])
    assert "image: the terms are those" in tick(catalog_terms_sensor).skip_message
    # A rollback brings back an index that was made with another list, and leaves the list as it is.
    with closing(places.search()) as engine:
        engine.switch([AliasMove("image-filtered", "image-older-filtered")])
    [request] = tick(catalog_terms_sensor).run_requests
    assert request.job_name == "catalog_image_filter"
    with closing(places.search()) as engine:
        engine.switch([AliasMove("image-filtered", "image-one-filtered")])
    listed = tmp_path / "terms.txt"
    listed.write_text("zeppelin\n")
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", listed.as_uri())
    [request] = tick(catalog_terms_sensor).run_requests
    assert request.job_name == "catalog_image_filter"
    refreshes.request(connection, "image", "two", asked_by="test")
    assert "image is being worked on: refresh two" in tick(catalog_terms_sensor).skip_message


def test_a_list_of_terms_that_cannot_be_had_is_said(tick: Tick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", (tmp_path / "none.txt").as_uri())
    told = tick(catalog_terms_sensor)
    assert told.run_requests == []
    assert told.skip_message


def test_the_sweep_returns_what_a_dead_run_held(tick: Tick, places: Places, connection: Connection) -> None:
    refresh = steps.begin(places, connection, IMAGE, "test", asked_by="test")
    ledger.claim(connection, ledger.Scope("catalog"), "gone", count=1, size=1, lease_seconds=-1)
    assert "1 loads returned to ready" in tick(SWEEPS["catalog"]).skip_message
    (load,) = ledger.loads(connection, [refresh.load_id])
    assert (load.status, load.attempts) == ("ready", 0)


def test_a_promotion_that_cannot_be_mended_keeps_no_other_from_it(
    tick: Tick, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("audio", "image"):
        journal.begin(connection, MEDIA_TYPES[model], "promote", "one", None, {}, {}, "run")
    mended = []

    def recover(_places: Places, _connection: Connection, media: MediaType, _run_id: str) -> str:
        if media.name == "audio":
            raise Transient("search_unavailable", "the search engine is away")
        mended.append(media.name)
        return "completed"

    monkeypatch.setattr(steps, "recover", recover)
    result = tick(SWEEPS["catalog"])
    assert mended == ["image"]
    assert (
        "audio: its promotion that was broken off could not be mended (search_unavailable: the search engine is away)"
        in result.skip_message
    )

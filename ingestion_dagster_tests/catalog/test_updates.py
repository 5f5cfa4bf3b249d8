"""Updates between refreshes: what has changed upstream is in the live table and indexes, and nothing else has moved."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import locks, refreshes, samples, updates
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.scenes import FakePlaces, go_live, identifier, insert, live_table, row, with_fake
from ingestion_dagster_tests.engine.processes import run_until_killed

IMAGE = MEDIA_TYPES["image"]
OLD = datetime(2023, 1, 1, tzinfo=UTC)
SNAPSHOT = datetime(2024, 1, 1, tzinfo=UTC)
NEW = datetime(2024, 2, 1, tzinfo=UTC)


def upstream_row(number: int, updated_on: datetime, **values: Any) -> dict[str, Any]:
    made = row("image", number, foreign_identifier=str(number), updated_on=updated_on, **values)
    del made["id"]
    return made


@pytest.fixture
def scene(places: Places) -> tuple[FakePlaces, FakeSearch]:
    """Ten rows, of which none has changed since the refresh that is live; all are documents."""
    faked, engine = with_fake(places)
    live_table(places, IMAGE, [row("image", number, foreign_identifier=str(number), title=f"Old {number}") for number in range(1, 11)])
    with places.upstream.connect() as upstream:
        samples.make_tables(upstream)
        insert(upstream, ("public", "image"), [upstream_row(number, OLD, title=f"Old {number}") for number in range(1, 11)])
    with places.ledger.connect() as ledger:
        go_live(ledger, engine, IMAGE, "one", snapshot_at=SNAPSHOT)
        updates.index_changes(faked, engine, ledger, IMAGE, "image-one", datetime(1999, 1, 1, tzinfo=UTC))
        updates.index_changes(faked, engine, ledger, IMAGE, "image-one-filtered", datetime(1999, 1, 1, tzinfo=UTC))
    assert set(engine.documents["image-one"]) == set(engine.documents["image-one-filtered"]) == set(range(1, 11))
    return faked, engine


def change(places: Places, statement: str, **values: Any) -> None:
    with places.upstream.connect() as upstream:
        upstream.execute(statement.encode(), values)


def update(places: Places, engine: FakeSearch, since: datetime | None = None) -> updates.Updated:
    with places.ledger.connect() as ledger:
        return updates.update_live(places, engine, ledger, IMAGE, "run", since)


def titles(connection: Connection) -> dict[int, str]:
    return dict(connection.execute("SELECT id, title FROM image ORDER BY id").fetchall())


def test_changed_and_new_rows_are_written_and_others_stay(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    change(places, "UPDATE image SET title = 'New 3', updated_on = %(new)s WHERE foreign_identifier = '3'", new=NEW)
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(11, NEW, title="A bird")])
    done = update(places, engine)
    with places.api.connect() as api:
        assert titles(api) == {number: f"Old {number}" for number in range(1, 11)} | {3: "New 3", 11: "A bird"}
    assert engine.sources("image-one")[3]["title"] == "New 3"
    assert engine.sources("image-one")[11]["identifier"] == identifier(11)
    assert engine.sources("image-one-filtered")[3]["title"] == "New 3"
    assert 11 not in engine.documents["image-one-filtered"]
    assert (done.rows_in, done.upserted, done.deleted, done.documents, done.skipped) == (2, 2, 0, 2, 0)
    assert done.watermark > datetime.now(UTC) - timedelta(minutes=5)
    with places.ledger.connect() as ledger:
        assert ledger.execute("SELECT suffix, updated_on FROM catalog.watermarks").fetchall() == [("one", done.watermark)]
        assert ledger.execute("SELECT last_id FROM catalog.id_marks WHERE table_name = 'image'").fetchone() == (11,)
    again = update(places, engine, NEW)
    assert (again.rows_in, again.upserted, again.documents) == (2, 0, 2)
    assert again.watermark == NEW


def test_what_is_removed_or_moderated_is_deleted_by_id(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    change(places, "UPDATE image SET removed_from_source = true, updated_on = %(new)s WHERE foreign_identifier = '2'", new=NEW)
    change(places, "UPDATE image SET title = 'changed', updated_on = %(new)s WHERE foreign_identifier = '4'", new=NEW)
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(12, NEW, title="never to be seen")])
    with places.api.connect() as api:
        insert(api, (LIVE, "api_deletedimage"), [{"identifier": identifier(number)} for number in (4, 5, 12)])
        insert(api, (LIVE, "api_matureimage"), [{"identifier": identifier(6)}])
    done = update(places, engine)
    for index in ("image-one", "image-one-filtered"):
        assert set(engine.documents[index]) == {1, 3, 6, 7, 8, 9, 10}
        assert engine.sources(index)[6]["mature"] is True
    assert done.deleted == 3
    with places.api.connect() as api:
        rows = titles(api)
        assert 12 not in rows
        assert len(rows) == 10
        assert rows[4] == "Old 4"


def test_a_row_that_becomes_sensitive_leaves_the_filtered_index(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    change(places, "UPDATE image SET title = 'Running water', updated_on = %(new)s WHERE foreign_identifier = '7'", new=NEW)
    update(places, engine)
    assert engine.sources("image-one")[7]["title"] == "Running water"
    assert 7 not in engine.documents["image-one-filtered"]
    change(places, "UPDATE image SET title = 'Dry', updated_on = now() WHERE foreign_identifier = '7'")
    update(places, engine)
    assert engine.sources("image-one-filtered")[7]["title"] == "Dry"


def test_rows_are_cleaned_as_the_copy_does(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with places.ledger.connect() as ledger:
        ledger.execute("INSERT INTO catalog.hosts (host, is_tls, why) VALUES ('tls.example', true, 'test')")
    change(
        places,
        """UPDATE image SET updated_on = %(new)s, creator_url = 'tls.example/people/1', foreign_landing_url = 'other.example/1',
           tags = '[{"name": "cc0"}, {"name": "valid", "accuracy": 0.99}]' WHERE foreign_identifier = '1'""",
        new=NEW,
    )
    update(places, engine)
    with places.api.connect() as api:
        found = api.execute("SELECT creator_url, foreign_landing_url, tags FROM image WHERE id = 1").fetchone()
    assert found == ("https://tls.example/people/1", "http://other.example/1", [{"name": "valid", "accuracy": 0.99}])
    assert engine.sources("image-one")[1]["tags"] == [{"name": "valid", "accuracy": 0.99}]


def test_an_id_of_another_generation_is_kept(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with places.api.connect() as api:
        for schema, number in (("catalog_previous", 13), ("catalog_next", 14)):
            api.execute(f"CREATE TABLE {schema}.image (LIKE image)".encode())
            insert(api, (schema, "image"), [row("image", 100 + number) | {"identifier": identifier(number)}])
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(number, NEW) for number in (13, 14, 15)])
    update(places, engine)
    with places.api.connect() as api:
        found: dict[str, int] = dict(api.execute("SELECT foreign_identifier, id FROM image WHERE id > 10").fetchall())
    assert found == {"13": 113, "14": 114, "15": 115}


def test_new_rows_wait_for_a_copy_to_give_them_their_ids(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    change(places, "UPDATE image SET title = 'New 3', updated_on = %(new)s WHERE foreign_identifier = '3'", new=NEW)
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(11, NEW)])
    with places.ledger.connect() as ledger:
        copying = refreshes.request(ledger, "image", "two", asked_by="test")
        with places.api.connect() as api:
            api.execute("CREATE TABLE catalog_next.image (LIKE image)")
            insert(api, ("catalog_next", "image"), [row("image", 99) | {"identifier": identifier(11)}])
        with refreshes.held(places.ledger, ledger, copying, "copying run", Limits()):
            done = update(places, engine)
        assert (done.deferred, done.upserted, done.watermark) == (1, 1, SNAPSHOT)
        assert ledger.execute("SELECT count(*) FROM catalog.watermarks").fetchone() == (0,)
        assert 11 not in engine.documents["image-one"]
        refreshes.advance(ledger, copying, "copied")
        assert update(places, engine).deferred == 0
    assert set(engine.documents["image-one"]) == {*range(1, 11), 99}


def test_new_rows_do_not_wait_for_a_copy_that_was_refused(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(11, NEW)])
    with places.ledger.connect() as ledger:
        copying = refreshes.request(ledger, "image", "two", asked_by="test")
        with refreshes.held(places.ledger, ledger, copying, "run", Limits()) as load:
            refreshes.refuse(ledger, load, (Problem("rows_fell", "image", "look upstream"),), Limits(), "run")
        done = update(places, engine)
    assert (done.deferred, done.upserted) == (0, 1)
    assert done.watermark > datetime.now(UTC) - timedelta(minutes=5)


def test_rows_get_ids_of_a_table_that_always_gives_them_itself(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with places.api.connect() as api:
        api.execute("ALTER TABLE image ALTER id DROP DEFAULT; ALTER TABLE image ALTER id ADD GENERATED ALWAYS AS IDENTITY (START 20)")
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(number, NEW) for number in (11, 12)])
    assert update(places, engine).upserted == 2
    with places.api.connect() as api:
        rows = {name: value for name, value in row("image", 13).items() if name != "id"}
        insert(api, (LIVE, "image"), [rows | {"foreign_identifier": "13"}])
        found = api.execute("SELECT foreign_identifier, id FROM image WHERE id > 10 ORDER BY id").fetchall()
    assert found == [("11", 20), ("12", 21), ("13", 22)]


def test_the_watermark_waits_for_transactions_that_may_add_older_rows(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with psycopg.connect(places.upstream.conninfo, application_name="a provider") as provider:
        ((begun,),) = provider.execute("SELECT now()").fetchall()
        made = upstream_row(11, NEW) | {"updated_on": begun}
        insert(provider, ("public", "image"), [made])
        done = update(places, engine)
        assert done.watermark == begun
        provider.commit()
        assert update(places, engine).upserted == 1


def test_a_row_that_the_table_refuses_does_not_hold_up_the_others(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with places.api.connect() as api:
        api.execute("UPDATE image SET url = 'https://a.example/taken' WHERE id = 9")
    change(places, "UPDATE image SET title = 'New 3', updated_on = %(new)s WHERE foreign_identifier = '3'", new=NEW)
    change(places, "UPDATE image SET url = 'https://a.example/taken', updated_on = %(new)s WHERE foreign_identifier = '4'", new=NEW)
    done = update(places, engine)
    assert (done.upserted, done.skipped) == (1, 1)
    with places.api.connect() as api:
        assert titles(api)[3] == "New 3"
    assert engine.sources("image-one")[4]["url"] == "https://a.example/4.jpg"


def test_the_record_limit_holds_for_updates_too(scene: tuple[FakePlaces, FakeSearch], monkeypatch: pytest.MonkeyPatch) -> None:
    places, engine = scene
    monkeypatch.setenv("INGESTION_CATALOG_RECORD_LIMIT", "11")
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(number, NEW) for number in (11, 12, 13)])
    update(replace(places, settings=current()), engine)
    with places.api.connect() as api:
        assert len(titles(api)) == 11


def test_the_watermark_stays_when_the_index_fails(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    change(places, "UPDATE image SET title = 'New 3', updated_on = %(new)s WHERE foreign_identifier = '3'", new=NEW)

    def down(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "bulk.before":
            raise Transient("search_unavailable", "down")

    engine.fault = down
    with pytest.raises(Transient):
        update(places, engine)
    with places.ledger.connect() as ledger:
        assert ledger.execute("SELECT count(*) FROM catalog.watermarks").fetchone() == (0,)
    engine.fault = None
    assert update(places, engine).documents == 1
    assert engine.sources("image-one")[3]["title"] == "New 3"


@pytest.mark.parametrize("point", ["table.before", "table.after", "watermark.after"])
def test_an_update_that_was_killed_is_made_again(
    scene: tuple[FakePlaces, FakeSearch], point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, engine = scene
    change(places, "UPDATE image SET title = 'New 3', updated_on = %(new)s WHERE foreign_identifier = '3'", new=NEW)
    with places.upstream.connect() as upstream:
        insert(upstream, ("public", "image"), [upstream_row(11, NEW)])
    script = """
from contextlib import closing
from ingestion_dagster.catalog import updates
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.scenes import with_fake

places, engine = with_fake(Places.of(current()))
for kind, name in (("main", "image-one"), ("filtered", "image-one-filtered")):
    engine.put(name, {}, {"refresh": "one", "kind": kind})
engine.aliases = {"image": {"image-one"}, "image-filtered": {"image-one-filtered"}}
with places.ledger.connect() as ledger:
    updates.update_live(places, engine, ledger, MEDIA_TYPES["image"], "run", None)
"""
    run_until_killed(script, f"catalog.update.{point}")
    moved = point == "watermark.after"
    update(places, engine, SNAPSHOT if moved else None)
    with places.api.connect() as api:
        assert titles(api)[3] == "New 3"
        # An id that was reserved by what was killed is given to nobody else.
        assert list(titles(api)) == [*range(1, 11), 12 if point == "table.before" else 11]
        assert set(engine.documents["image-one"]) == set(titles(api))


def test_an_update_gives_way_to_whoever_has_the_media_type(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with places.ledger.connect() as ledger:
        with locks.model(places.ledger, "image"), pytest.raises(Busy):
            updates.update_live(places, engine, ledger, IMAGE, "run", None)
        with locks.model(ledger, "image"), locks.model(ledger, "image"), locks.model(places.ledger, "audio"):
            pass
        updates.update_live(places, engine, ledger, IMAGE, "run", None)
        refreshes.advance(ledger, refreshes.request(ledger, "image", "two", asked_by="test"), "promoting")
        with pytest.raises(Busy, match="refresh two"):
            updates.update_live(places, engine, ledger, IMAGE, "run", None)


def test_before_the_first_refresh_there_is_nothing_to_update(places: Places) -> None:
    faked, engine = with_fake(places)
    with places.ledger.connect() as ledger, pytest.raises(Refused, match="nothing_live"):
        updates.update_live(faked, engine, ledger, IMAGE, "run", None)


def test_changes_of_the_live_table_go_into_an_index_by_name(scene: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = scene
    with places.api.connect() as api:
        api.execute("UPDATE image SET title = 'By hand', updated_on = %s WHERE id = 8", [NEW])
        api.execute("UPDATE image SET title = 'Not seen', updated_on = %s WHERE id = 9", [OLD])
        api.execute("UPDATE image SET removed_from_source = true, updated_on = %s WHERE id = 10", [NEW])
    with places.ledger.connect() as ledger:
        done = updates.index_changes(places, engine, ledger, IMAGE, "image-one", SNAPSHOT)
        with pytest.raises(Refused, match="no_such_index"):
            updates.index_changes(places, engine, ledger, IMAGE, "image-none", SNAPSHOT)
    assert (done.rows_in, done.upserted, done.deleted) == (2, 1, 1)
    found = engine.sources("image-one")
    assert (found[8]["title"], found[9]["title"], 10 in found) == ("By hand", "Old 9", False)
    assert 10 in engine.documents["image-one-filtered"]

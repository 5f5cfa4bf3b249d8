"""Carrying: what updates bring to readers while a refresh is made is in that refresh too, and its gates still count exactly."""

import threading
import uuid
from contextlib import closing
from typing import Any

import pytest

from ingestion_dagster import runs
from ingestion_dagster.catalog import carry, changes, gates, ids, locks, reindex, samples, steps, updates
from ingestion_dagster.catalog.gates import Gate
from ingestion_dagster.catalog.pipeline import CATALOG
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.catalog import scene

IMAGE = MEDIA_TYPES["image"]
NEW, SENSITIVE = uuid.UUID(int=1), uuid.UUID(int=2)

ADD = """
INSERT INTO image (identifier, created_on, updated_on, provider, source, foreign_identifier, url, license, removed_from_source, title)
VALUES (%(id)s, now(), now(), 'met', 'met', %(id)s, 'https://a.example/' || %(id)s, 'by', false, %(title)s)
"""

REMOVE = """
UPDATE image SET removed_from_source = true, updated_on = now()
WHERE identifier = (SELECT max(identifier::text)::uuid FROM image WHERE NOT removed_from_source)
"""
PUT = """
INSERT INTO image (id, identifier, created_on, updated_on, license, removed_from_source, url)
VALUES (%s, %s, now(), now(), 'by', false, 'https://a.example/')
"""
WAITS = """
SELECT 1 FROM pg_locks
WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def live(catalog_settings: Settings, upstream: Database) -> Settings:
    """The sample rows upstream, and readers have a refresh of them."""
    samples.fill_upstream(upstream)
    runs.run(CATALOG, catalog_settings, runs.Request(dataset="image"))
    return catalog_settings


def staged(places: Places, ledger: Connection) -> Work:
    """A refresh whose tables are copied and indexed."""
    steps.begin(places, ledger, IMAGE, "run", asked_by="test", suffix="next")
    work = Work(places, ledger, IMAGE, "next", "run", Limits.of(places.settings))
    steps.copy(work)
    steps.index_staged(work)
    return work


def change(places: Places, statement: str, **values: Any) -> None:
    with places.upstream.connect() as upstream:
        upstream.execute(statement.encode(), values)


def judged(work: Work) -> dict[str, Gate]:
    with closing(work.places.search()) as engine:
        return {gate.name: gate for gate in gates.judged(work.places, engine, work.connection, IMAGE, work.refresh)}


def shut(work: Work) -> dict[str, str]:
    return {name: gate.description for name, gate in judged(work).items() if not gate.passed}


def update(work: Work) -> updates.Updated:
    with closing(work.places.search()) as engine:
        return updates.update_live(work.places, engine, work.connection, IMAGE, "run")


def id_of(places: Places, identifier: uuid.UUID, schema: str = "public") -> int | None:
    with places.api.connect() as api:
        row = api.execute(f"SELECT id FROM {schema}.image WHERE identifier = %s", [identifier]).fetchone()
    return row[0] if row else None


def found(places: Places, alias: str, number: int | None) -> bool:
    assert number is not None
    with closing(places.search()) as engine:
        return number in engine.get(alias, [number])


def test_what_an_update_adds_during_a_refresh_stays_with_its_promotion(live: Settings, places: Places, ledger: Connection) -> None:
    work = staged(places, ledger)
    change(places, ADD, id=NEW, title="A lighthouse")
    change(places, REMOVE)
    assert update(work).upserted == 2
    first = id_of(places, NEW)
    steps.fill(work)
    assert work.refresh.counts["carried"]["upserted"] == 2
    assert shut(work) == {}
    # What comes after the gates were judged, while it waits.
    steps.note_gates(work, {})
    change(places, ADD, id=SENSITIVE, title="Running water")
    update(work)
    second = id_of(places, SENSITIVE)
    steps.promote(work)
    assert work.refresh.state == "live"
    assert (id_of(places, NEW), id_of(places, SENSITIVE)) == (first, second)
    assert found(places, "image", first)
    assert found(places, "image-filtered", first)
    assert found(places, "image", second)
    assert not found(places, "image-filtered", second)
    assert update(work).upserted == 0


def test_carrying_that_was_broken_off_is_counted_once(
    live: Settings, places: Places, ledger: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = staged(places, ledger)
    change(places, ADD, id=NEW, title="A lighthouse")
    change(places, ADD, id=SENSITIVE, title="Running water")
    for module, name in ((changes.Changes, "upsert"), (reindex.Reindexer, "rows")):
        with monkeypatch.context() as patched:
            original = getattr(module, name)

            def cut(*arguments: Any, original: Any = original) -> None:
                original(*arguments)
                raise Transient("unreachable", "away")

            patched.setattr(module, name, cut)
            with pytest.raises(Transient):
                steps.fill(work)
    steps.fill(work)
    told = judged(work)
    assert {name: gate.description for name, gate in told.items() if not gate.passed} == {}
    rows = work.refresh.counts["tables"]["image"]["rows"]
    assert told["staged_rows"].metadata["image"]["rows"] == rows + 2
    with closing(places.search()) as engine:
        number = id_of(places, NEW, "catalog_next")
        assert number is not None
        engine.delete_documents("image-next-filtered", [number])
        engine.refresh("image-next-filtered")
    assert "filtered_count" in shut(work)


def test_an_upstream_that_has_become_another_does_not_stop_a_whole_refresh(live: Settings, places: Places, ledger: Connection) -> None:
    work = staged(places, ledger)
    change(places, "ALTER TABLE image ALTER COLUMN filesize TYPE text")
    steps.fill(work)
    assert work.refresh.counts["carried"]["stopped_by"] == ["type_mismatch"]
    assert steps.promote(work).state == "live"


def test_a_deletion_taken_back_after_the_indexes_were_filled_shuts_no_gate(places: Places, ledger: Connection) -> None:
    with places.api.connect() as api, closing(places.search()) as engine:
        with places.upstream.connect() as upstream:
            samples.make_tables(upstream)
        scene.stage(api, IMAGE, "one", scene.rows(range(1, 11)))
        scene.moderate(api, IMAGE, "deleted", [3])
        scene.fill(engine, IMAGE, "one", {number: each for number, each in scene.documents(api, IMAGE).items() if number != 3})
        refresh = scene.entered(ledger, IMAGE, "one", state="filled", tables={"image": {"rows": 10}})
        scene.filled_range(ledger, refresh, 9, 9)
        api.execute("DELETE FROM api_deletedimage")
        assert document_gates(places, ledger, refresh) >= {"document_count", "documents_differ"}
        done = carry.carry(places, engine, ledger, IMAGE, refresh)
        assert (done.restored, done.rows_in) == (1, 0)
        assert document_gates(places, ledger, refresh) == set()
        engine.delete_documents("image-one", [5])
        engine.refresh("image-one")
        assert carry.carry(places, engine, ledger, IMAGE, refresh).restored == 0
        assert "document_count" in document_gates(places, ledger, refresh)


def document_gates(places: Places, ledger: Connection, refresh: Refresh) -> set[str]:
    with closing(places.search()) as engine:
        return {gate.name for gate in gates.judged(places, engine, ledger, IMAGE, refresh) if not gate.passed}


def test_a_copy_waits_for_an_update_that_is_giving_ids(live: Settings, places: Places, ledger: Connection) -> None:
    steps.begin(places, ledger, IMAGE, "run", asked_by="test", suffix="next")
    change(places, ADD, id=NEW, title="A lighthouse")
    ended: list[Refresh] = []

    def copy() -> None:
        with places.ledger.connect() as connection:
            ended.append(steps.copy(Work(places, connection, IMAGE, "next", "run", Limits.of(places.settings))))

    copier = threading.Thread(target=copy)
    with places.ledger.connect() as updater, locks.model(updater, "image"):
        copier.start()
        while not ledger.execute(WAITS).fetchone():
            assert copier.is_alive()
        number = ids.reserve(updater, "image", 1, 10_000)
        with places.api.connect() as api:
            api.execute(PUT, [number, NEW])
    copier.join()
    assert ended[0].state == "copied"
    assert id_of(places, NEW, "catalog_next") == number

"""Filling indexes: every document once, or it is said what is in the way."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import fill, sensitive
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.search import BulkResult, SearchEngine
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.fill_scene import IMAGE, LIMITS, TITLES, documents_of, sent, small, statuses, target
from ingestion_dagster_tests.catalog.scenes import FakePlaces, identifier, insert, live_table, with_fake

__all__ = ["small"]


def test_both_indexes_are_filled_in_one_pass(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    with places.api.connect() as api:
        insert(api, (LIVE, "api_deletedimage"), [{"identifier": identifier(1)}])
        insert(api, (LIVE, "api_matureimage"), [{"identifier": identifier(2)}])
    told: list[tuple[int, int]] = []
    filled = fill.fill(places, IMAGE, target(), "run", LIMITS, 1, lambda done, of: told.append((done, of)))
    main, filtered = documents_of(100)
    assert set(engine.documents["image-one"]) == main - {1}
    assert set(engine.documents["image-one-filtered"]) == filtered - {1}
    assert engine.sources("image-one")[2]["mature"] is True
    assert (filled.documents, filled.filtered, filled.dead) == (len(main) - 1, len(filtered - {1}), 0)
    assert (filled.expected, filled.rows_read, filled.ranges) == (len(main) - 1, 100, 4)
    assert engine.finished == {"image-one": 1, "image-one-filtered": 1}
    label = {"refresh": "one", "run": "run", "model": "image", "kind": "main", "mapping": 0, "origin": "one", "begun": 0}
    assert engine.labels["image-one"] | {"mapping": 0, "begun": 0} == label
    assert engine.labels["image-one-filtered"]["terms"] == filled.terms
    assert told[-1] == (100, 100)
    with places.ledger.connect() as connection:
        assert statuses(connection) == [("archived", 4)]
        (sums,) = connection.execute(
            "SELECT sum(rows_in), sum(rows_written), sum(rows_rejected), min(partition) FROM ledger.loads"
        ).fetchall()
        assert sums == (100, len(main) - 1, 0, "one")
    again = fill.fill(places, IMAGE, target(), "another run", LIMITS, 1)
    assert (again.documents, again.documents_per_second) == (filled.documents, 0)
    assert engine.seen()["create"] == 4


def test_no_rows_make_empty_indexes(places: Places) -> None:
    live_table(places, IMAGE, [])
    faked, engine = with_fake(places)
    filled = fill.fill(faked, IMAGE, target(), "run", LIMITS, 2)
    assert (filled.documents, filled.expected, filled.ranges) == (0, 0, 0)
    assert engine.documents == {"image-one": {}, "image-one-filtered": {}}
    assert engine.finished == {"image-one": 1, "image-one-filtered": 1}


def test_the_filtered_index_alone_is_filled(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    filled = fill.fill(places, IMAGE, target(index=None), "run", LIMITS, 1)
    assert set(engine.documents) == {"image-one-filtered"}
    assert set(engine.documents["image-one-filtered"]) == documents_of(100)[1]
    assert filled.filtered == len(documents_of(100)[1])
    other = replace(target("two"), index=None)
    fill.fill(places, IMAGE, other, "run", LIMITS, 1)
    assert set(engine.documents) == {"image-one-filtered", "image-two-filtered"}


def test_the_main_index_alone_needs_no_terms(small: tuple[FakePlaces, FakeSearch], monkeypatch: pytest.MonkeyPatch) -> None:
    places, engine = small
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", "file:///not/there")
    places = replace(places, settings=current())
    filled = fill.fill(places, IMAGE, target(filtered=None), "run", LIMITS, 1)
    assert (filled.documents, filled.filtered, filled.terms) == (len(documents_of(100)[0]), 0, None)
    with pytest.raises(Refused, match="sensitive_terms_unreadable"):
        fill.fill(places, IMAGE, target("two"), "run", LIMITS, 1)
    assert set(engine.documents) == {"image-one"} | ({"image-two"} & set(engine.documents))
    assert not engine.documents.get("image-two")


def test_an_index_of_somebody_else_is_refused(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    engine.put("image-one", {5: {"id": 5}}, {"refresh": "another"})
    with pytest.raises(Refused, match="index_exists"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    assert engine.sources("image-one") == {5: {"id": 5}}


def test_an_index_that_was_deleted_meanwhile_is_not_taken_for_full(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    engine.delete_index("image-one")
    with pytest.raises(Refused, match="index_lost"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    assert "image-one" not in engine.documents


def test_a_refused_document_is_one_dead_letter_and_all_others_are_put_once(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    engine.poison = {50}
    filled = fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    main, _ = documents_of(100)
    assert set(engine.documents["image-one"]) == main - {50}
    assert (filled.documents, filled.dead, filled.expected) == (len(main) - 1, 1, len(main))
    sent = [
        number
        for name, (index, numbers) in [call for call in engine.calls if call[0] == "bulk"]
        if index == "image-one"
        for number in numbers
    ]
    assert sorted(sent) == sorted(main)
    with places.ledger.connect() as connection:
        letters = connection.execute("SELECT index_name, document_id, code FROM catalog.dead_letters").fetchall()
        assert letters == [("image-one", 50, "document_refused")]
        assert connection.execute("SELECT sum(rows_rejected), sum(rows_in) FROM ledger.loads").fetchone() == (1, 100)


def test_too_many_refused_documents_stop_the_fill_soon(small: tuple[FakePlaces, FakeSearch], monkeypatch: pytest.MonkeyPatch) -> None:
    places, engine = small
    monkeypatch.setenv("INGESTION_CATALOG_DEAD_DOCUMENTS", "3")
    engine.poison = set(range(1, 101))
    places = replace(places, settings=current())
    with pytest.raises(Refused, match="too_many_dead_documents"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    assert engine.seen()["bulk"] <= 4
    with places.ledger.connect() as connection:
        assert statuses(connection) == [("ready", 4)]
    before = engine.seen()["bulk"]
    with pytest.raises(Refused, match="too_many_dead_documents"):
        fill.fill(places, IMAGE, target(), "run 2", LIMITS, 1)
    assert engine.seen()["bulk"] == before


def test_an_outage_gives_the_range_back_and_the_next_run_goes_on_behind_it(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    down = False

    def fault(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "bulk.before" and (down or engine.seen()["bulk"] > 12):
            raise Transient("search_unavailable", "down")

    engine.fault = fault
    with pytest.raises(Transient, match="search_unavailable"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    with places.ledger.connect() as connection:
        assert {status for status, _ in statuses(connection)} == {"archived", "ready"}
        assert connection.execute("SELECT max(attempts) FROM ledger.loads").fetchone() == (0,)
        (committed,) = connection.execute("SELECT sum(documents) FROM catalog.ranges").fetchone() or (0,)
    assert engine.finished == {}
    engine.fault = None
    engine.calls.clear()
    filled = fill.fill(places, IMAGE, target(), "run 2", LIMITS, 1)
    main, filtered = documents_of(100)
    assert set(engine.documents["image-one"]) == main
    assert (filled.documents, filled.filtered) == (len(main), len(filtered))
    assert len(sent(engine, "image-one")) == len(main) - committed


def test_a_run_whose_time_is_up_says_so(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, _ = small
    with pytest.raises(Transient, match="run_time_is_up"):
        fill.fill(places, IMAGE, target(), "run", replace(LIMITS, run_seconds=0), 1)


def test_a_fill_that_goes_on_is_not_ended_by_the_time_it_takes(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    engine.fault = lambda name, _arguments: time.sleep(0.02) if name == "bulk.before" else None
    filled = fill.fill(places, IMAGE, target(), "run", replace(LIMITS, run_seconds=0.1), 1)
    assert filled.seconds > 0.2
    assert (filled.ranges, filled.documents) == (4, len(documents_of(100)[0]))


@pytest.fixture
def terms(tmp_path: Path, small: tuple[FakePlaces, FakeSearch], monkeypatch: pytest.MonkeyPatch) -> tuple[FakePlaces, FakeSearch, Path]:
    """The same, with a list of terms that a test can write to."""
    places, engine = small
    listed = tmp_path / "terms.txt"
    listed.write_text("bird\nwater\n")
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", listed.as_uri())
    return replace(places, settings=current()), engine, listed


def without(*words: str) -> set[int]:
    return {number for number in documents_of(100)[0] if not any(word in TITLES[number % 5].lower().split() for word in words)}


def test_a_list_that_is_another_for_a_moment_filters_nothing(terms: tuple[FakePlaces, FakeSearch, Path]) -> None:
    places, engine, listed = terms

    def fault(name: str, _arguments: tuple[Any, ...]) -> None:
        if name == "create.after" and len(engine.documents) == 2:
            listed.write_text("bird\n")

    engine.fault = fault
    with pytest.raises(Transient, match="terms_changed"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    assert engine.documents["image-one-filtered"] == {}
    engine.fault = None
    listed.write_text("bird\nwater\n")
    filled = fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    assert filled.terms == sensitive.fingerprint_of(places.settings)
    assert set(engine.documents["image-one-filtered"]) == without("bird", "water")


def test_a_list_that_has_changed_since_the_last_run_begins_the_filtered_index_anew(terms: tuple[FakePlaces, FakeSearch, Path]) -> None:
    places, engine, listed = terms

    def fault(name: str, _arguments: tuple[Any, ...]) -> None:
        if name == "bulk.before" and engine.seen()["bulk"] > 12:
            raise Transient("search_unavailable", "down")

    engine.fault = fault
    with pytest.raises(Transient, match="search_unavailable"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    with places.ledger.connect() as connection:
        assert {status for status, _ in statuses(connection)} == {"archived", "ready"}
    engine.fault = None
    listed.write_text("bird\n")
    filled = fill.fill(places, IMAGE, target(), "run 2", LIMITS, 1)
    assert filled.terms == sensitive.fingerprint_of(places.settings)
    assert set(engine.documents["image-one-filtered"]) == without("bird")
    assert (filled.documents, filled.filtered, filled.rows_read) == (len(documents_of(100)[0]), len(without("bird")), 100)
    with places.ledger.connect() as connection:
        assert statuses(connection) == [("archived", 4)]


def test_what_cannot_be_claimed_is_not_waited_for(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    with places.ledger.connect() as connection:
        fill.prepare(engine, connection, places, IMAGE, target(), "run")
        fill.plan(connection, places, IMAGE, target(), 30)
        connection.execute("UPDATE ledger.datasets SET paused_at = now() WHERE name = 'image_index'")
    with pytest.raises(Transient, match="ranges_left"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)


def test_a_range_that_was_given_up_refuses_the_whole(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, engine = small
    with places.ledger.connect() as connection:
        fill.prepare(engine, connection, places, IMAGE, target(), "run")
        fill.plan(connection, places, IMAGE, target(), 30)
        connection.execute("UPDATE ledger.loads SET status = 'errored', finished_at = now() WHERE key = 'one/31-60'")
    with pytest.raises(Refused, match="range_errored"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)


def test_a_table_that_is_not_there_is_said_without_what_the_database_said(places: Places) -> None:
    live_table(places, IMAGE, [])
    faked, _ = with_fake(places)
    with pytest.raises(Refused, match="rows_unreadable"):
        fill.fill(faked, IMAGE, target(relation=("catalog_next", "image")), "run", LIMITS, 1)


class _Broken(FakeSearch):
    def bulk(self, index: str, documents: Any) -> BulkResult:
        raise Refused(Problem("no_such_index", index, "gone"))


def test_an_index_that_goes_away_refuses_and_gives_the_range_back(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, _ = small
    broken: SearchEngine = _Broken()
    places = replace(places, engine=broken)
    with pytest.raises(Refused, match="no_such_index"):
        fill.fill(places, IMAGE, target(), "run", LIMITS, 1)
    with places.ledger.connect() as connection:
        assert statuses(connection) == [("ready", 4)]

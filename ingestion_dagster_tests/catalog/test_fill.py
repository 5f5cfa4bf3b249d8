"""Filling indexes: every document once, whoever dies, sleeps or helps."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import fill, fill_worker, sensitive
from ingestion_dagster.catalog.fill import Target
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.search import BulkResult, SearchEngine
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.scenes import FakePlaces, identifier, insert, live_table, row, with_fake

IMAGE = MEDIA_TYPES["image"]
LIMITS = Limits(lease_seconds=60, run_seconds=60)
TITLES = ("A bird", "Two birds", "Running along", "Still Water", "Nothing of the kind")
SENSITIVE = {0, 2, 3}

WORK = """
import sys
from ingestion_dagster.catalog import fill
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.settings import current

suffix, run, workers = sys.argv[1:]
target = fill.Target("image", suffix, ("public", "image"), f"image-{suffix}", f"image-{suffix}-filtered")
filled = fill.fill(Places.of(current()), MEDIA_TYPES["image"], target, run, Limits(lease_seconds=2, run_seconds=60), int(workers))
print(filled.documents, filled.filtered, filled.dead, filled.expected, filled.rows_read)
"""


def target(suffix: str = "one", **changes: Any) -> Target:
    return replace(Target("image", suffix, (LIVE, "image"), f"image-{suffix}", f"image-{suffix}-filtered"), **changes)


def rows(count: int) -> list[dict[str, Any]]:
    """Every tenth is removed from the source."""
    return [row("image", number, title=TITLES[number % 5], removed_from_source=number % 10 == 9) for number in range(1, count + 1)]


def documents_of(count: int) -> tuple[set[int], set[int]]:
    main = {number for number in range(1, count + 1) if number % 10 != 9}
    return main, {number for number in main if number % 5 not in SENSITIVE}


def sent(engine: FakeSearch, index: str) -> list[int]:
    """Ids that were sent to an index, as often as they were."""
    return [number for name, arguments in engine.calls if name == "bulk" and arguments[0] == index for number in arguments[1]]


@pytest.fixture
def small(places: Places, monkeypatch: pytest.MonkeyPatch) -> tuple[FakePlaces, FakeSearch]:
    """100 rows in ranges of 30 ids, 7 documents at a time."""
    monkeypatch.setenv("INGESTION_CATALOG_RANGE_ROWS", "30")
    monkeypatch.setenv("INGESTION_CATALOG_BULK_DOCUMENTS", "7")
    live_table(places, IMAGE, rows(100))
    return with_fake(replace(places, settings=current()))


def statuses(connection: Connection) -> list[tuple[str, int]]:
    return connection.execute(
        "SELECT status, count(*) FROM ledger.loads AS l JOIN catalog.ranges AS r ON r.load_id = l.id GROUP BY 1 ORDER BY 1"
    ).fetchall()


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
    other = target("two", only_filtered=True)
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


def test_a_sleeper_sends_nothing_past_its_lease(small: tuple[FakePlaces, FakeSearch], caplog: pytest.LogCaptureFixture) -> None:
    places, engine = small
    caplog.set_level(logging.WARNING)
    stolen = threading.Event()

    def steal(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "bulk.after" and not stolen.is_set() and engine.seen()["bulk"] == 3:
            stolen.set()
            with places.ledger.connect() as connection:
                connection.execute("UPDATE ledger.loads SET claim = claim + 1000000 WHERE status = 'ingesting'")

    with places.ledger.connect() as connection, closing(places.search()) as used:
        fill.prepare(used, connection, places, IMAGE, target(), "run")
        fill.plan(connection, places, IMAGE, target(), 100)
    engine.fault = steal
    assert fill.work(places, IMAGE, target(), "run", LIMITS) == 0
    assert "went to another run" in caplog.text
    with places.ledger.connect() as connection:
        committed, documents = connection.execute("SELECT committed_id, documents FROM catalog.ranges").fetchone() or (0, 0)
    assert committed in (None, 7)
    assert documents in (0, 7)
    assert engine.seen()["bulk"] <= 5


def test_runs_at_once_share_the_ranges(small: tuple[FakePlaces, FakeSearch]) -> None:
    places, _ = small
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(fill.fill, places, IMAGE, target(), f"run {number}", LIMITS, 1) for number in range(3)]
        results = [run.result() for run in runs]
    main, filtered = documents_of(100)
    assert {(filled.documents, filled.filtered, filled.rows_read) for filled in results} == {(len(main), len(filtered), 100)}
    with places.ledger.connect() as connection:
        assert statuses(connection) == [("archived", 4)]
        # Claimed once each: nobody took what another had.
        claims = connection.execute("SELECT count(*) FROM ledger.load_events WHERE to_status = 'ingesting'").fetchone()
        assert claims == (4,)


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


@pytest.fixture
def node(places: Places, opensearch: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Places, str]]:
    """1,000 rows, ranges of 100, a real node, and a suffix of the test's own."""
    suffix = uuid.uuid4().hex[:12]
    monkeypatch.setenv("INGESTION_CATALOG_SEARCH_URL", opensearch)
    monkeypatch.setenv("INGESTION_CATALOG_RANGE_ROWS", "100")
    monkeypatch.setenv("INGESTION_CATALOG_BULK_DOCUMENTS", "20")
    live_table(places, IMAGE, rows(1000))
    with_node = replace(places, settings=current())
    yield with_node, suffix
    with closing(with_node.search()) as engine:
        for index in (f"image-{suffix}", f"image-{suffix}-filtered"):
            engine.delete_index(index)


def started(suffix: str, run: str, workers: int = 1, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, suffix, run, str(workers)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def whole(places: Places, suffix: str) -> None:
    main, filtered = documents_of(1000)
    with closing(places.search()) as engine:
        assert engine.count(f"image-{suffix}") == len(main)
        assert engine.count(f"image-{suffix}-filtered") == len(filtered)
        held = engine.get(f"image-{suffix}", sorted(main))
        assert set(held) == main
    with places.ledger.connect() as connection:
        assert statuses(connection) == [("archived", 10)]
        sums = connection.execute("SELECT sum(rows_read), sum(documents), sum(filtered) FROM catalog.ranges").fetchone()
        assert sums == (1000, len(main), len(filtered))


def test_after_a_kill_at_half_the_next_run_ends_with_the_exact_count(node: tuple[Places, str]) -> None:
    places, suffix = node
    killed = started(suffix, "run-1", INGESTION_TEST_FAULT="catalog.fill.commit.before:25")
    _, said = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, said
    with places.ledger.connect() as connection:
        (half,) = connection.execute("SELECT sum(rows_read) FROM catalog.ranges").fetchone() or (0,)
    assert 400 <= half < 1000
    finished = started(suffix, "run-2")
    out, said = finished.communicate(timeout=60)
    assert finished.returncode == 0, said
    main, filtered = documents_of(1000)
    assert out.split() == [str(len(main)), str(len(filtered)), "0", str(len(main)), "1000"]
    whole(places, suffix)


def test_two_processes_and_their_helpers_fill_one_target(node: tuple[Places, str]) -> None:
    places, suffix = node
    both = [started(suffix, f"run-{number}", workers=2) for number in (1, 2)]
    for process in both:
        out, said = process.communicate(timeout=90)
        assert process.returncode == 0, said
        assert out.split()[0] == str(len(documents_of(1000)[0]))
    whole(places, suffix)


def test_a_helper_ends_with_the_process_that_started_it() -> None:
    context = multiprocessing.get_context("spawn")
    waiting = context.Event()
    process = context.Process(target=_parent_of_a_helper, args=(waiting,))
    process.start()
    try:
        assert waiting.wait(30)
    finally:
        process.join(30)
    assert process.exitcode == 1


def _parent_of_a_helper(waiting: Any) -> None:
    """Watches a parent that ends at once: a pipe whose other end is closed."""
    reading, writing = os.pipe()
    waiting.set()
    os.close(writing)
    fill_worker._end_with(reading)

"""Who fills together, dies or sleeps meanwhile: every document once, and none of two."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import fill, fill_worker
from ingestion_dagster.catalog.fill import Target
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.fill_scene import IMAGE, LIMITS, documents_of, rows, small, statuses, target
from ingestion_dagster_tests.catalog.patience import PATIENCE, until
from ingestion_dagster_tests.catalog.scenes import FakePlaces, live_table, row

__all__ = ["small"]


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


def doomed(*arguments: Any) -> None:
    """A process that helps to fill an index, and is killed at its second commit."""
    os.environ["INGESTION_TEST_FAULT"] = "catalog.fill.commit.before:2"
    fill_worker.helper(*arguments)


def test_a_helper_that_is_killed_costs_no_document(
    places: Places, ledger: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("INGESTION_CATALOG_RANGE_ROWS", "20")
    monkeypatch.setenv("INGESTION_CATALOG_BULK_DOCUMENTS", "5")
    monkeypatch.setattr(fill_worker, "helper", doomed)
    monkeypatch.setattr(fill, "_others", lambda *_: 1)
    ended: list[int | None] = []

    def joined(helpers: Any, _patience: float) -> None:
        for helper in helpers:
            helper.join(PATIENCE)
            ended.append(helper.exitcode)

    monkeypatch.setattr(fill, "_end", joined)
    live_table(places, IMAGE, [row("image", number, title=f"Lantern {number}") for number in range(1, 101)])
    slow = replace(places, settings=current())
    original = fill_worker.work

    def waits(*arguments: Any) -> int:
        until(lambda: ledger.execute("SELECT count(*) FROM ledger.load_events WHERE to_status = 'ingesting'").fetchone() != (0,))
        return original(*arguments)

    monkeypatch.setattr(fill, "work", waits)
    target = Target("image", "one", (LIVE, "image"), "image-one", None)
    filled = fill.fill(slow, IMAGE, target, "run", Limits(lease_seconds=2, run_seconds=60), 2)
    assert ended == [-signal.SIGKILL]
    assert (filled.documents, filled.expected, filled.rows_read, filled.dead) == (100, 100, 100, 0)
    with closing(slow.search()) as engine:
        assert engine.count("image-one") == 100


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

"""What such a system has to withstand and no other test of these asks for: rows, readers, workers, terms and failures in their extremes."""

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import copy_range, fill, fill_worker, host_probe, messages, retirement, slack, steps, updates
from ingestion_dagster.catalog.fill import Target
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.slack import Level, Message
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.catalog import faulty_proxy
from ingestion_dagster_tests.catalog import scene as rows_of
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.faulty_proxy import Exchange
from ingestion_dagster_tests.catalog.promotion_scene import Scene
from ingestion_dagster_tests.catalog.scenes import FakePlaces, live_table, row, with_fake
from ingestion_dagster_tests.catalog.slack_server import slack_server
from ingestion_dagster_tests.catalog.test_copy import PAGE, World, databases, world
from ingestion_dagster_tests.catalog.test_documents import fast, plain
from ingestion_dagster_tests.catalog.test_opensearch import VirtualTime

__all__ = ["databases", "world"]

IMAGE = MEDIA_TYPES["image"]
PATIENCE = 30.0


def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def ledger(places: Places) -> Iterator[Connection]:
    with places.ledger.connect() as connection:
        yield connection


@pytest.mark.parametrize("batch", [1, 2, 6, 7, 8])
@pytest.mark.parametrize("range_bytes", [PAGE, 4 * PAGE])
def test_the_copy_cleans_every_row_whatever_its_workers_ranges_and_batches(
    world: World, monkeypatch: pytest.MonkeyPatch, batch: int, range_bytes: int
) -> None:
    """Seven rows, a page each, over four workers."""
    monkeypatch.setattr(copy_range, "BATCH_ROWS", batch)
    world.places = replace(world.places, settings=world.places.settings.model_copy(update={"catalog_copy_workers": 4}))
    world.change("ALTER TABLE image ALTER title SET STORAGE PLAIN")
    world.fill(1, 7)
    world.change("UPDATE image SET title = repeat('x', 5000), url = 'a.example/' || foreign_identifier, tags = '[{\"name\": \"cc0\"}]'")
    world.change("VACUUM FULL image")
    with world.upstream() as connection:
        assert connection.execute("SELECT pg_relation_size('image')").fetchone() == (7 * PAGE,)
    (copied,) = world.copy(range_bytes=range_bytes)
    assert (copied.rows, copied.cleaned, copied.fixes) == (7, 7, {"excluded_part_of_tag": 7, "scheme_http": 7})
    assert world.rows("SELECT url, tags FROM catalog_next.image ORDER BY 1") == [(f"http://a.example/{n}", []) for n in range(1, 8)]


def test_what_hosts_answer_decides_the_scheme_and_they_are_asked_in_the_first_copy_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def probe(names: Any, _seconds: float, **_more: Any) -> dict[str, tuple[bool, str]]:
        asked.extend(names)
        return {name: (name == "works.example", "status 200" if name == "works.example" else "status 500") for name in names}

    monkeypatch.setattr(host_probe, "probe", probe)
    world.places = replace(world.places, settings=world.places.settings.model_copy(update={"catalog_probe_seconds": 1}))
    world.fill(1, 3)
    world.change("UPDATE image SET creator_url = 'works.example' WHERE foreign_identifier = '1'")
    world.change("UPDATE image SET creator_url = 'fails.example' WHERE foreign_identifier = '2'")
    for _ in range(2):
        world.copy()
        found = dict(world.rows("SELECT foreign_identifier, creator_url FROM catalog_next.image"))
        assert found == {"1": "https://works.example", "2": "http://fails.example", "3": None}
    assert sorted(asked) == ["fails.example", "works.example"]


IMAGES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"height": 600, "width": 300}, {"size": "small", "aspect_ratio": "tall"}),
    ({"height": 4096, "width": 4096}, {"size": "large", "aspect_ratio": "square"}),
    ({"height": 480, "width": 640}, {"size": "medium", "aspect_ratio": "wide"}),
    ({"height": 900, "width": 1600}, {"size": "large", "aspect_ratio": "wide"}),
    ({"height": 300, "width": 300}, {"aspect_ratio": "square"}),
    ({"height": 500, "width": 200}, {"aspect_ratio": "tall"}),
    ({"height": 200, "width": 500}, {"aspect_ratio": "wide"}),
    ({"standardized_popularity": 200}, {"standardized_popularity": 100}),
    ({"standardized_popularity": 0}, {"standardized_popularity": None}),
    ({"standardized_popularity": 0.5}, {"standardized_popularity": 50}),
    ({"meta_data": {"description": "x" * 2001}}, {"description": "x" * 2000}),
    ({"url": "https://a.example/b"}, {"extension": None}),
    ({"url": "https://a.example/b.jpg?c.d"}, {"extension": "jpg"}),
)
RECORDINGS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    *(
        ({"duration": milliseconds}, {"length": length})
        for milliseconds, length in ((29_999, "shortest"), (30_000, "short"), (119_999, "short"), (120_000, "medium"), (600_000, "long"))
    ),
    ({"filetype": "mp3"}, {"extension": "mp3"}),
    ({"filetype": "mp3", "alt_files": [{"filetype": "m4a"}]}, {"extension": ["m4a"]}),
)


@pytest.mark.parametrize(("model", "cases"), [("image", IMAGES), ("audio", RECORDINGS)])
def test_documents_at_the_bounds_of_their_classes(
    places: Places, model: str, cases: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
) -> None:
    media = MEDIA_TYPES[model]
    live_table(
        places, media, [row(model, number, **{"url": f"https://a.example/{number}"} | given) for number, (given, _) in enumerate(cases)]
    )
    with places.api.connect() as api:
        for made in (fast(api, media), plain(api, media)):
            found = [{name: (made[number] or {}).get(name) for name in wanted} for number, (_, wanted) in enumerate(cases)]
            assert found == [wanted for _, wanted in cases]


def test_a_row_of_nulls_is_copied_and_has_a_document(world: World) -> None:
    world.change(
        "INSERT INTO image (identifier, created_on, updated_on, license, removed_from_source) "
        "VALUES (gen_random_uuid(), '2024-01-01', '2024-01-01', 'by', false)"
    )
    (copied,) = world.copy()
    assert (copied.rows, copied.cleaned) == (1, 0)
    with world.places.api.connect() as api:
        api.execute("INSERT INTO public.image TABLE catalog_next.image")
        (document,) = fast(api, IMAGE).values()
    assert document is not None
    assert document.keys() == {"id", "identifier", "created_on", "license", "mature", "max_boost", "min_boost"}


def test_json_that_the_table_cannot_hold_is_refused_by_name_and_all_other_unicode_is_kept(world: World) -> None:
    world.change("ALTER TABLE image ALTER meta_data TYPE json")
    world.fill(1, 2)
    world.change("""UPDATE image SET meta_data = '{"a": "\\ud83d\\ude00 \\u0001 é", "b": "\\\\u0000"}' WHERE foreign_identifier = '1'""")
    world.copy()
    assert world.rows("SELECT meta_data FROM catalog_next.image WHERE foreign_identifier = '1'") == [({"a": "😀 \x01 é", "b": "\\u0000"},)]
    world.change("""UPDATE image SET meta_data = '{"a": "marrow\\u0000fat"}' WHERE foreign_identifier = '2'""")
    with pytest.raises(Refused) as refused:
        world.copy()
    (problem,) = refused.value.problems
    assert (problem.code, "image" in problem.place) == ("unsupported_character", True)
    assert "marrow" not in str(problem) + str(refused.value.__cause__)
    assert world.rows("SELECT count(*) FROM public.image") == [(0,)]


def test_keys_between_other_tables_are_not_touched(places: Places, ledger: Connection) -> None:
    scene = Scene(places, ledger)
    scene.do(
        "CREATE TABLE public.image_tag (id int PRIMARY KEY); CREATE TABLE public.other_image (id int PRIMARY KEY); "
        "CREATE TABLE public.tagged (tag int REFERENCES public.image_tag (id), of int REFERENCES public.other_image); "
        "INSERT INTO public.image_tag VALUES (99); INSERT INTO public.other_image VALUES (98); INSERT INTO public.tagged VALUES (99, 98)"
    )
    keys = "SELECT array_agg(oid ORDER BY oid) FROM pg_constraint WHERE conrelid = 'public.tagged'::regclass AND contype = 'f'"
    check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.image'::regclass AND conname = 'width_positive'"
    before = scene.one(keys), scene.one(check)
    done = scene.promote(scene.stage("new", range(1, 6)))
    assert done.archived == 0
    assert (scene.one(keys), scene.one(check)) == before
    assert scene.one("SELECT count(*) FROM public.tagged") == 1
    with pytest.raises(psycopg.errors.CheckViolation):
        scene.do("UPDATE public.image SET width = -1")


def test_a_long_reader_holds_up_the_promotion_and_no_other_reader(
    places: Places, ledger: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables are locked in three ways in turn; each of them gives way."""
    caplog.set_level(logging.INFO, "ingestion_dagster.catalog.swap")
    changed = places.settings.model_copy(update={"catalog_lock_seconds": 0.2, "catalog_swap_seconds": PATIENCE})
    scene = Scene(replace(places, settings=changed), ledger, rich=False)
    refresh = scene.stage("new", range(1, 8))
    stop, took, promoted = threading.Event(), list[float](), list[Any]()

    def read() -> None:
        with scene.places.api.connect() as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute("SELECT count(*) FROM public.image").fetchone()
                took.append(time.monotonic() - began)

    threads = [threading.Thread(target=read), threading.Thread(target=lambda: promoted.append(scene.promote(refresh)))]
    with scene.places.api.connect() as long:
        long.autocommit = False
        long.execute("SELECT count(*) FROM public.image").fetchone()
        for thread in threads:
            thread.start()
        try:
            until(lambda: "attempt 4 to swap it gave way" in caplog.text)
            assert not promoted
            assert scene.ids() == [1, 2, 3, 4, 5]
        finally:
            long.rollback()
            threads[1].join(PATIENCE)
            stop.set()
            threads[0].join(PATIENCE)
    assert promoted[0].attempts > 4
    assert scene.ids() == list(range(1, 8))
    assert max(took) < 1.5, "a reader waited for as long as the promotion did"
    assert len(took) > 20


def down(code: str) -> Callable[[str, tuple[Any, ...]], None]:
    """The search engine fails every request that puts documents."""

    def fault(point: str, _arguments: tuple[Any, ...]) -> None:
        if point == "bulk.before":
            raise Transient(code, "a test")

    return fault


def bad_chunk(point: str, arguments: tuple[Any, ...]) -> None:
    """One chunk never gets through."""
    if point == "bulk.before" and 23 in arguments[1]:
        raise Transient("search_unavailable", "a test")


class Refreshed:
    """A refresh that readers have, and a second one that is on its way."""

    def __init__(self, places: FakePlaces, engine: FakeSearch, ledger: Connection) -> None:
        self.places = places
        self.engine = engine
        self.ledger = ledger
        self.steps: list[Callable[[Work], Any]] = [steps.copy, steps.index_staged, steps.fill, steps.promote]
        with places.upstream.connect() as upstream:
            rows_of.upstream_tables(upstream)
            rows_of.put_upstream(upstream, "image", rows_of.rows(range(1, 31)))
        self.through(self.begun("one"))
        with places.upstream.connect() as upstream:
            rows_of.put_upstream(upstream, "image", rows_of.rows(range(31, 41)))

    def begun(self, suffix: str) -> Work:
        steps.begin(self.places, self.ledger, IMAGE, "run", asked_by="test", suffix=suffix)
        return Work(self.places, self.ledger, IMAGE, suffix, "run", Limits())

    def through(self, work: Work) -> None:
        for step in self.steps:
            step(work)

    def readers_have(self) -> tuple[Any, ...]:
        with self.places.api.connect() as api:
            rows = api.execute("SELECT id, identifier, title FROM public.image ORDER BY id").fetchall()
            constraints = api.execute(
                "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint "
                "WHERE conrelid = 'public.image'::regclass ORDER BY 1"
            ).fetchall()
            indexes = api.execute(
                "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'image' ORDER BY 1"
            ).fetchall()
        targets = {alias: tuple(sorted(found)) for alias, found in self.engine.aliases.items()}
        return rows, constraints, indexes, targets, {alias: len(self.engine.sources(alias)) for alias in targets}

    def left_over(self) -> tuple[list[Any], list[str]]:
        """Staged tables, and indexes of the second refresh."""
        with self.places.api.connect() as api:
            tables = api.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'catalog_next'").fetchall()
        return tables, sorted(name for name in self.engine.documents if "two" in name)


@pytest.fixture
def refreshed(places: Places, ledger: Connection) -> Refreshed:
    return Refreshed(*with_fake(places), ledger)


def test_a_fill_that_fails_is_never_promoted_and_goes_on_afterwards(refreshed: Refreshed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_CATALOG_BULK_DOCUMENTS", "5")
    refreshed.places = replace(refreshed.places, settings=current())
    before = refreshed.readers_have()
    work = refreshed.begun("two")
    faults = [(code, down(code)) for code in ("search_overloaded", "index_read_only", "search_unavailable")]
    for code, fault in [*faults, ("search_unavailable", bad_chunk)]:
        refreshed.engine.fault = fault
        with pytest.raises(Transient, match=code):
            refreshed.through(work)
        assert work.refresh.state == "indexed"
        with pytest.raises(Busy, match="search_index"):
            steps.promote(work)
        assert refreshed.readers_have() == before
    assert 0 < len(refreshed.engine.sources("image-two")) < 40, "what was in the index before the bad chunk stays there"
    refreshed.engine.fault = None
    refreshed.through(work)
    assert work.refresh.state == "live"
    assert refreshed.readers_have()[3:] == (
        {"image": ("image-two",), "image-filtered": ("image-two-filtered",)},
        {"image": 40, "image-filtered": 40},
    )


def at(module: str, point: str) -> Callable[[Refreshed, pytest.MonkeyPatch], None]:
    """Break off at a fault point."""

    def broken(name: str) -> None:
        if name == point:
            raise Transient("a_test", name)

    return lambda _refreshed, patched: patched.setattr(f"ingestion_dagster.catalog.{module}.fault_point", broken)


def refuses_documents(refreshed: Refreshed, _patched: pytest.MonkeyPatch) -> None:
    refreshed.engine.poison = set(range(1, 200))


def loses_a_chunk(refreshed: Refreshed, _patched: pytest.MonkeyPatch) -> None:
    refreshed.engine.fault = bad_chunk


def moves_no_alias(refreshed: Refreshed, _patched: pytest.MonkeyPatch) -> None:
    def fault(point: str, _arguments: tuple[Any, ...]) -> None:
        if point == "switch.before":
            raise Transient("search_unavailable", "a test")

    refreshed.engine.fault = fault


FAILURES: tuple[tuple[Callable[[Refreshed, pytest.MonkeyPatch], None], set[str]], ...] = (
    (at("copy", "catalog.copy.done.before"), {"requested"}),
    (at("staging", "catalog.stage.index.before"), {"copied"}),
    (loses_a_chunk, {"indexed"}),
    (refuses_documents, {"indexed"}),
    (moves_no_alias, {"filled", "promoting"}),
)


def test_after_any_failure_readers_have_what_they_had_and_nothing_is_left_in_the_end(
    refreshed: Refreshed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = refreshed.readers_have()
    for number, (prepare, states) in enumerate(FAILURES):
        work = refreshed.begun(f"two-{number}")
        with monkeypatch.context() as patched:
            prepare(refreshed, patched)
            with pytest.raises((Transient, Refused)):
                refreshed.through(work)
        refreshed.engine.fault, refreshed.engine.poison = None, set()
        assert work.refresh.state in states
        assert refreshed.readers_have() == before
        assert refreshed.left_over()[0] == [("image",)]
        retirement.discard(refreshed.places, refreshed.engine, refreshed.ledger, work.refresh)
        assert refreshed.left_over() == ([], [])
        assert refreshed.readers_have() == before


def test_an_alias_that_could_not_be_moved_does_not_hold_up_updates(refreshed: Refreshed) -> None:
    work = refreshed.begun("two")
    moves_no_alias(refreshed, pytest.MonkeyPatch())
    with pytest.raises(Transient):
        refreshed.through(work)
    refreshed.engine.fault = None
    with refreshed.places.upstream.connect() as upstream:
        upstream.execute(
            "UPDATE image SET updated_on = clock_timestamp() WHERE ctid IN (SELECT ctid FROM image ORDER BY ctid DESC LIMIT 10)"
        )
    done = updates.update_live(refreshed.places, refreshed.engine, refreshed.ledger, IMAGE, "run", None)
    assert done.upserted == 10


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


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("threshold", [None, "verbose", "info", "error"])
def test_messages_of_every_level_at_every_threshold_and_at_the_default_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, level: Level, threshold: str | None
) -> None:
    assert "INGESTION_SLACK_LEVEL" not in os.environ
    if threshold is not None:
        monkeypatch.setenv("INGESTION_SLACK_LEVEL", threshold)
    is_sent = level >= messages.threshold(current())
    assert is_sent == (("verbose", "info", "error").index(threshold or "verbose") <= level)


def test_a_message_says_the_default_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "INGESTION_ENVIRONMENT" not in os.environ
    with slack_server() as chat:
        monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", chat.webhook_url)
        through = slack.through(current())
        assert through is not None
        through.post(Message("x"))
        assert chat.calls[0][1]["username"].endswith("| LOCAL")


def test_an_outage_of_200_seconds_ends_the_run_and_the_next_one_goes_on(places: Places, opensearch: str) -> None:
    """With the patience that is set by default, in virtual time."""
    index, clock = f"outage-{uuid.uuid4().hex[:10]}", VirtualTime()
    documents = [(number, b"{}") for number in range(5)]
    with faulty_proxy.faulty_proxy(opensearch) as proxy:
        engine = OpenSearch.at(proxy.url, waiting=clock.waiting(places.settings.catalog_search_patience_seconds))
        with closing(engine):
            engine.create(index, MEDIA_TYPES["audio"].mapping.definition({}))

            def away(exchange: Exchange) -> bool:
                if clock.now < 200:
                    exchange.drop()
                return clock.now < 200

            proxy.before = away
            with pytest.raises(Transient, match="search_unavailable"):
                engine.bulk(index, documents)
            assert clock.now < 200
            clock.sleep(200 - clock.now)
            assert engine.bulk(index, documents).accepted == 5
            engine.refresh(index)
            assert engine.count(index) == 5

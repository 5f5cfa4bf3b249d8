"""The steps of a refresh, one after the other: one that fails shows nothing to readers and is gone on with, or taken away."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ingestion_dagster.catalog import retirement, steps, updates
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog import scene as rows_of
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE
from ingestion_dagster_tests.catalog.scenes import FakePlaces, with_fake


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

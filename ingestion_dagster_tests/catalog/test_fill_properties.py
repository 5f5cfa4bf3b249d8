"""No row is lost and none is in two ranges, for any ids, ranges, chunks and workers."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ingestion_dagster.catalog import fill
from ingestion_dagster.catalog.fill import Target
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.scenes import FakePlaces, live_table

IMAGE = MEDIA_TYPES["image"]
numbers = itertools.count()
ADD = """
INSERT INTO image (id, created_on, updated_on, identifier, url, license, removed_from_source)
SELECT id, now(), now(), gen_random_uuid(), 'https://a.example/' || id, 'by', id %% 7 = 0 FROM unnest(%(ids)s::int[]) AS id
"""
ids_of_tables = st.one_of(
    st.sets(st.integers(-50, 200), max_size=80),
    st.sets(st.integers(-(2**31), 2**31 - 1), max_size=20),
    st.integers(0, 101).map(lambda count: set(range(1, count + 1))),
    st.sampled_from([set(), {1}, {-1}, {0}, {2**31 - 1}, {-(2**31), 2**31 - 1}, {1, 1_000_000, 2_000_000_000}]),
)


def fresh(places: Places, ids: set[int]) -> Target:
    with places.api.connect() as api:
        api.execute("TRUNCATE image")
        api.execute(ADD, {"ids": sorted(ids)})
    return Target("image", f"s{next(numbers)}", ("public", "image"), "image-x", None)


def ranges(connection: Connection, target: Target) -> list[tuple[int, int]]:
    return connection.execute(
        "SELECT first_id, last_id FROM catalog.ranges WHERE suffix = %s ORDER BY first_id", [target.suffix]
    ).fetchall()


def test_every_id_is_in_one_range(places: Places) -> None:
    live_table(places, IMAGE, [])
    with places.ledger.connect() as connection:

        @examples(max_examples=40, deadline=None, database=None, derandomize=True)
        @given(ids_of_tables, st.sampled_from([1, 2, 3, 7, 50, 55, 100, 10_000_000, 2**40]))
        def check(ids: set[int], range_rows: int) -> None:
            target = fresh(places, ids)
            count = fill.plan(connection, places, IMAGE, target, range_rows)
            made = ranges(connection, target)
            assert len(made) == count
            assert all(first <= last and last - first < range_rows for first, last in made)
            assert all(one[1] < other[0] for one, other in itertools.pairwise(made))
            for number in ids:
                assert sum(first <= number <= last for first, last in made) == 1
            # None is without an id: a gap costs nothing.
            assert all(any(first <= number <= last for number in ids) for first, last in made)
            assert fill.plan(connection, places, IMAGE, target, range_rows + 1) == count

        check()


def test_the_last_row_is_not_lost_whatever_the_division_leaves(places: Places) -> None:
    live_table(places, IMAGE, [])
    with places.ledger.connect() as connection:
        for rows, range_rows, wanted in ((100, 100, 1), (100, 50, 2), (100, 34, 3), (100, 55, 2), (100, 99, 2), (101, 50, 3)):
            target = fresh(places, set(range(1, rows + 1)))
            assert fill.plan(connection, places, IMAGE, target, range_rows) == wanted
            assert (ranges(connection, target)[0][0], ranges(connection, target)[-1][1]) == (1, rows)


def test_all_documents_arrive_for_any_rows_workers_and_chunks(places: Places) -> None:
    live_table(places, IMAGE, [])

    @examples(max_examples=8, deadline=None, database=None, derandomize=True)
    @given(ids_of_tables, st.integers(1, 3), st.integers(1, 60), st.sampled_from([1, 2, 9, 10, 11, 1000]))
    def check(ids: set[int], workers: int, range_rows: int, chunk: int) -> None:
        target = fresh(places, ids)
        engine = FakeSearch()
        # At most so many ranges: each is claimed and ended by itself.
        range_rows = max(range_rows, (max(ids) - min(ids)) // 6 if ids else 1)
        changed = places.settings.model_copy(update={"catalog_range_rows": range_rows, "catalog_bulk_documents": chunk})
        faked = FakePlaces(changed, places.ledger, places.upstream, places.api, engine)

        def run(number: int) -> Any:
            return fill.fill(faked, IMAGE, replace(target, index=f"image-{target.suffix}"), f"run {number}", Limits(), 1)

        with ThreadPoolExecutor(workers) as pool:
            results = list(pool.map(run, range(workers)))
        wanted = {number for number in ids if number % 7 != 0}
        assert set(engine.sources(f"image-{target.suffix}")) == wanted
        assert {(filled.documents, filled.expected, filled.rows_read) for filled in results} == {(len(wanted), len(wanted), len(ids))}

    check()

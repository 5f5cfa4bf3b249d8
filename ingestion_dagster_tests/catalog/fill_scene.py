"""A hundred rows and an engine in memory, or the numbers of more of them, for tests of filling."""

from dataclasses import replace
from typing import Any

import pytest

from ingestion_dagster.catalog.fill import Target
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.scenes import FakePlaces, live_table, row, with_fake

IMAGE = MEDIA_TYPES["image"]


LIMITS = Limits(lease_seconds=60, run_seconds=60)


TITLES = ("A bird", "Two birds", "Running along", "Still Water", "Nothing of the kind")


SENSITIVE = {0, 2, 3}


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

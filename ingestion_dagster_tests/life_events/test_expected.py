"""The daily file is missed when it is due, by the clock in London, and not before; nor is one missed that has come."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from ingestion_dagster.engine import entries
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.expected import Expected, Overdue, expected_on, has_come, overdue
from ingestion_dagster.settings import Settings

WINTER = datetime(2031, 2, 5, 5, 59, 59, tzinfo=UTC)
"""A second before the file is due."""


def arrive(connection: Connection, key: str, pipeline: str = "life_events") -> None:
    seen = StoredObject(key, 1, WINTER, "v1")
    sync_datasets(connection, pipeline, ["source_file"])
    entries.discover(connection, pipeline, f"file:///{pipeline}", [Arrival(seen, "source_file")], WINTER)


def settings(**changes: object) -> Settings:
    return Settings.model_validate(changes)


def test_the_file_of_a_day_is_named_for_it_and_due_in_the_morning():
    assert expected_on(settings(), date(2031, 2, 5)) == Expected("DI_D_20310205.xml", datetime(2031, 2, 5, 6, 0, tzinfo=UTC))


def test_in_summer_it_is_due_an_hour_earlier_by_utc():
    found = expected_on(settings(), date(2031, 7, 5))
    assert found is not None
    assert found.due_at == datetime(2031, 7, 5, 5, 0, tzinfo=UTC)


def test_the_day_is_that_of_london(database: Database):
    early = settings(life_events_expected_by="00:15")
    with database.connect() as connection:
        found = overdue(connection, early, datetime(2031, 7, 4, 23, 30, tzinfo=UTC))
    assert found is not None
    assert found.name == "DI_D_20310705.xml"


def test_where_none_is_due_none_is_missed(database: Database):
    off = settings(life_events_expected_file="Off")
    assert expected_on(off, WINTER.date()) is None
    with database.connect() as connection:
        assert overdue(connection, off, WINTER) is None


@pytest.mark.parametrize("pattern", ["daily.xml", "folder/DI_%Y%m%d.xml", "DI_%Y.xml", ".DI_%Y%m%d.xml"])
def test_a_name_that_cannot_be_told_from_another_days_is_refused(pattern: str):
    with pytest.raises(ConfigurationError, match="INGESTION_LIFE_EVENTS_EXPECTED_FILE"):
        expected_on(settings(life_events_expected_file=pattern), date(2031, 2, 5))


def test_yesterdays_counts_until_todays_is_due(database: Database):
    with database.connect() as connection:
        yesterday = overdue(connection, settings(), WINTER)
        assert yesterday == Overdue("DI_D_20310204.xml", datetime(2031, 2, 4, 6, 0, tzinfo=UTC), 86_399)
        arrive(connection, "DI_D_20310204.xml")
        assert overdue(connection, settings(), WINTER) is None
        today = overdue(connection, settings(), WINTER + timedelta(seconds=1))
        assert today == Overdue("DI_D_20310205.xml", datetime(2031, 2, 5, 6, 0, tzinfo=UTC), 0)
        arrive(connection, "DI_D_20310205.xml")
        assert overdue(connection, settings(), WINTER + timedelta(hours=9)) is None


def test_how_late_it_is_does_not_go_by_the_zone_of_the_clock(database: Database):
    with database.connect() as connection:
        # Clocks go forward on 30 March 2031 at one o'clock.
        now = datetime(2031, 3, 31, 4, 0, tzinfo=UTC)
        late = [overdue(connection, settings(), now.astimezone(zone)) for zone in (UTC, timezone(timedelta(hours=9)))]
        assert [each and each.seconds for each in late] == [23 * 3600, 23 * 3600]
        assert late[0] == late[1]


@pytest.mark.parametrize(
    ("key", "pipeline", "come"),
    [
        ("DI_D_20310205.xml", "life_events", True),
        ("sent/by hand/DI_D_20310205.xml", "life_events", True),
        ("OLD_DI_D_20310205.xml", "life_events", False),
        ("DI_D_20310205.xml.part", "life_events", False),
        ("DI_D_20310205.xml", "metrics", False),
    ],
    ids=["itself", "in a folder", "other beginning", "other end", "other pipeline"],
)
def test_a_file_has_come_under_its_own_name(database: Database, key: str, pipeline: str, come: bool):
    with database.connect() as connection:
        arrive(connection, key, pipeline)
        assert has_come(connection, "DI_D_20310205.xml") is come


def test_a_refused_file_has_come(database: Database):
    with database.connect() as connection:
        arrive(connection, "DI_D_20310205.xml")
        connection.execute("UPDATE ledger.loads SET status = 'errored'")
        assert has_come(connection, "DI_D_20310205.xml")

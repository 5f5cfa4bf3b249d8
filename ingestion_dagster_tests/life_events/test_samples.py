"""The sample files end as expected when they come for the first time and when they come again; what does not is told, file by file."""

import json
import shutil
from pathlib import Path

import psycopg
import pytest

from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.life_events import samples
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import query
from ingestion_dagster_tests.life_events import driver

FOLDER = Path(__file__).parents[2] / "source_data" / "life_events"
FILES = json.loads(FOLDER.with_suffix(".json").read_bytes())


def deliver(settings: Settings) -> None:
    samples.place(FOLDER, driver.incoming(settings))
    driver.run(settings)


def told(settings: Settings) -> list[str]:
    with postgres.locate(settings).connect() as connection:
        return samples.surprises(connection, FOLDER)


def test_files_that_have_not_come_are_told(settings: Settings):
    assert told(settings) == [f"{name}: has not been landed" for name in FILES]


def test_the_first_delivery_and_any_other_end_as_expected(settings: Settings):
    deliver(settings)
    assert told(settings) == []
    first = query(settings, "SELECT count(*) FROM life_events.records")
    deliver(settings)
    assert told(settings) == []
    assert query(settings, "SELECT count(*) FROM life_events.records") == first
    assert query(settings, "SELECT sum(accepted) FROM life_events.files JOIN ledger.loads ON id = load_id") == first
    assert not list(driver.incoming(settings).rglob("*.xml"))


def test_a_second_delivery_that_brings_new_records_is_told(settings: Settings):
    deliver(settings)
    # As if everything had been forgotten.
    query(settings, "TRUNCATE life_events.records, life_events.events")
    deliver(settings)
    assert "DI_D_20310205.xml: record count, accepted, duplicates and quarantined are [42, 42, 0, 0], expected [42, 0, 42, 0]" in told(
        settings
    )


CHANGES = {
    "another status": (
        "UPDATE ledger.loads SET status = 'archived' WHERE key = 'bad/empty.xml'",
        "bad/empty.xml: is archived, expected errored",
    ),
    "another reason": (
        "UPDATE life_events.files SET code = 'wrong_root' WHERE code = 'empty'",
        "bad/empty.xml: is refused for wrong_root, expected empty",
    ),
    "other problems": (
        "UPDATE ledger.loads SET problems = '[]' WHERE key = 'bad/root.xml'",
        "bad/root.xml: its problems are none, expected wrong_root",
    ),
    "fewer records": (
        "UPDATE life_events.files SET accepted = 41 WHERE record_count = 42",
        "DI_D_20310205.xml: record count, accepted, duplicates and quarantined are [42, 41, 0, 0], expected [42, 42, 0, 0]",
    ),
    "no count": (
        "DELETE FROM life_events.files WHERE record_count = 42",
        "DI_D_20310205.xml: record count, accepted, duplicates and quarantined are [None, None, None, None], expected [42, 42, 0, 0]",
    ),
}


def test_every_way_to_end_otherwise_is_told(settings: Settings):
    deliver(settings)
    with postgres.locate(settings).connect() as connection:
        for name, (statement, line) in CHANGES.items():
            with connection.transaction() as changed:
                connection.execute(statement)
                assert samples.surprises(connection, FOLDER) == [line], name
                raise psycopg.Rollback(changed)
        assert samples.surprises(connection, FOLDER) == []


def test_files_are_placed_so_that_they_are_loaded_in_order(tmp_path: Path):
    samples.place(FOLDER, tmp_path)
    times = [(tmp_path / name).stat().st_mtime for name in FILES]
    assert times == sorted(set(times))
    assert all((tmp_path / name).read_bytes() == (FOLDER / name).read_bytes() for name in FILES)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == len(FILES)


def test_a_folder_without_expectations_is_no_folder_of_samples(tmp_path: Path, settings: Settings):
    shutil.copytree(FOLDER, tmp_path / "life_events")
    with pytest.raises(ConfigurationError, match=r"life_events\.json"):
        samples.place(tmp_path / "life_events", tmp_path / "target")

"""Current tables: what a reader of the Delta table sees after loads, replays, late files, crashes and two at once."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ingestion_dagster.cubic import current, current_state, current_work, delta_table, places
from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster.settings import current as current_settings
from ingestion_dagster_tests.cubic.lake import COLUMNS, FIRST, NAME, REGISTRY, SECOND, TAP, TAP_CT, Lake, change, sequence
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server, new_bucket
from ingestion_dagster_tests.engine.processes import run_until_killed

__all__ = ["aws_environment", "moto_server", "new_bucket"]


@pytest.fixture
def lake(database: Database, settings: Settings) -> Iterator[Lake]:
    with database.connect() as connection:
        made = Lake(connection, settings)
        made.schemas()
        yield made


def loaded(lake: Lake, rows: int = 3) -> int:
    return lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": number, "k2": "a", "v": "loaded"} for number in range(rows)])


def values(lake: Lake) -> dict[object, object]:
    return {key[0]: row["v"] for key, row in lake.state().items()}


def test_a_snapshot_is_the_state(lake: Lake):
    loaded(lake)
    lake.load(TAP, "LOAD00000002.csv.gz", [{"k1": 7, "k2": None, "v": "second part"}])
    assert [table.name for table in current_state.behind(lake.connection, REGISTRY)] == [NAME]
    refreshed = lake.refresh()
    assert (refreshed.rows, refreshed.rebuilt, refreshed.loads, refreshed.snapshot) == (4, True, 2, "20260101T060000Z")
    row = lake.state()[7, None]
    assert row["v"] == "second part"
    assert row["header__change_oper"] == "L"
    assert row["header__change_seq"] == "20260101060000".ljust(35, "0")
    assert row["header__timestamp"] == datetime(2026, 1, 1, 6)  # noqa: DTZ001
    assert current_state.behind(lake.connection, REGISTRY) == []


def test_changes_are_merged_and_not_built_anew(lake: Lake):
    loaded(lake)
    lake.refresh()
    lake.load(
        TAP_CT,
        "a.csv.gz",
        [
            change("I", 1, {"k1": 9, "k2": "a", "v": "new"}),
            change("B", 2, {"k1": 0, "k2": "a", "v": "before"}),
            change("U", 2, {"k1": 0, "k2": "a", "v": "after"}),
            change("D", 3, {"k1": 1, "k2": "a", "v": "loaded"}),
        ],
    )
    refreshed = lake.refresh()
    assert (refreshed.inserted, refreshed.updated, refreshed.deleted, refreshed.rebuilt) == (1, 1, 1, False)
    assert values(lake) == {0: "after", 2: "loaded", 9: "new"}
    assert lake.refresh().loads == 0


def test_an_update_to_null_and_a_key_born_again_are_applied(lake: Lake):
    loaded(lake)
    lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": 0, "k2": "a"}), change("D", 1, {"k1": 1, "k2": "a"})])
    lake.refresh()
    lake.load(TAP_CT, "b.csv.gz", [change("I", 2, {"k1": 1, "k2": "a", "v": "reborn"})])
    assert not lake.refresh().rebuilt
    assert values(lake) == {0: None, 1: "reborn", 2: "loaded"}


def test_a_late_file_brings_no_deleted_key_back(lake: Lake):
    loaded(lake)
    lake.load(TAP_CT, "b.csv.gz", [change("D", 5, {"k1": 1, "k2": "a"}), change("U", 6, {"k1": 2, "k2": "a", "v": "newest"})])
    lake.refresh()
    lake.load(
        TAP_CT,
        "a.csv.gz",
        [
            change("U", 2, {"k1": 1, "k2": "a", "v": "late"}),
            change("U", 2, {"k1": 2, "k2": "a", "v": "late"}),
            change("U", 2, {"k1": 0, "k2": "a", "v": "late"}),
        ],
    )
    assert not lake.refresh().rebuilt
    assert values(lake) == {0: "late", 2: "newest"}


def test_null_keys_are_keys(lake: Lake):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": None, "k2": None, "v": "a"}, {"k1": None, "k2": "x", "v": "b"}])
    lake.refresh()
    lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": None, "k2": None, "v": "c"}), change("D", 2, {"k1": None, "k2": "x"})])
    assert lake.refresh().updated == 1
    assert {key: row["v"] for key, row in lake.state().items()} == {(None, None): "c"}


def test_a_new_snapshot_replaces_the_state_only_when_its_known_parts_are_loaded(lake: Lake):
    loaded(lake)
    lake.refresh()
    part = lake.enter(TAP, "LOAD00000002.csv.gz", snapshot=SECOND)
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 10, "k2": "a", "v": "next"}], snapshot=SECOND, version="2")
    lake.load(TAP_CT, "z.csv.gz", [change("U", 9, {"k1": 10, "k2": "a", "v": "changed"}, SECOND)], snapshot=SECOND)
    assert current_state.behind(lake.connection, REGISTRY) == []
    assert lake.refresh().snapshot == places.format_snapshot(FIRST)
    lake.publish(part, TAP, "LOAD00000002.csv.gz", [{"k1": 11, "k2": "a", "v": "part two"}], snapshot=SECOND)
    refreshed = lake.refresh()
    assert (refreshed.snapshot, refreshed.rebuilt, refreshed.loads) == (places.format_snapshot(SECOND), True, 3)
    assert values(lake) == {10: "changed", 11: "part two"}


def test_what_was_adopted_and_never_read_is_no_state(lake: Lake):
    marker, change_file = lake.enter(TAP, "LOAD00000001.csv.gz", snapshot=FIRST), lake.enter(TAP_CT, "a.csv.gz", snapshot=FIRST)
    lake.connection.execute("UPDATE ledger.loads SET status = 'archived', committed_at = now()")
    assert current_state.behind(lake.connection, REGISTRY) == []
    assert current.refresh(lake.connection, lake.settings, REGISTRY, TAP) is None
    lake.publish(marker, TAP, "LOAD00000001.csv.gz", [{"k1": 1, "k2": "a", "v": "replayed"}])
    assert current_state.behind(lake.connection, REGISTRY) == []
    lake.publish(change_file, TAP_CT, "a.csv.gz", [])
    assert lake.refresh().rows == 1


def test_a_replay_under_way_takes_nothing_out(lake: Lake):
    load = loaded(lake)
    lake.refresh()
    lake.replay(load)
    assert current_state.behind(lake.connection, REGISTRY) == []
    assert lake.refresh(rebuild=True).rows == 3
    lake.publish(load, TAP, "LOAD00000001.csv.gz", [{"k1": 1, "k2": "a", "v": "replayed"}])
    assert [table.name for table in current_state.behind(lake.connection, REGISTRY)] == [NAME]
    assert lake.refresh().rebuilt
    assert values(lake) == {1: "replayed"}


def test_what_was_refused_on_replay_leaves_the_state(lake: Lake):
    loaded(lake)
    load = lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": 0, "k2": "a", "v": "wrong"})])
    lake.refresh()
    lake.commit(load, rows=0, status="errored", error="gzip_damaged")
    assert lake.refresh().rebuilt
    assert values(lake)[0] == "loaded"


def test_a_file_delivered_again_replaces_its_rows(lake: Lake):
    loaded(lake)
    lake.load(TAP_CT, "a.csv.gz", [change("I", 5, {"k1": 50, "k2": "a", "v": "first delivery"})])
    lake.refresh()
    lake.load(TAP_CT, "a.csv.gz", [change("I", 6, {"k1": 60, "k2": "a", "v": "second delivery"})], version="2")
    assert lake.refresh().rebuilt
    assert set(values(lake)) == {0, 1, 2, 60}


def test_superseded_loads_and_duplicates_are_not_looked_for(lake: Lake):
    first = loaded(lake)
    for name, column in (("b.csv.gz", "error_code = 'superseded'"), ("c.csv.gz", f"duplicate_of = {first}")):
        load = lake.enter(TAP_CT, name, snapshot=FIRST)
        lake.commit(load, rows=5)
        lake.connection.execute(f"UPDATE ledger.loads SET {column} WHERE id = {load}")
    assert lake.refresh().loads == 1


def test_a_part_that_is_gone_is_told_and_changes_nothing(lake: Lake):
    loaded(lake)
    lake.refresh()
    lake.load(TAP_CT, "a.csv.gz", [change("D", 1, {"k1": 0, "k2": "a"})])
    lake.part(TAP_CT, "a.csv.gz").unlink()
    with pytest.raises(Transient, match=r"springboard_part_missing.*a\.csv\.gz"):
        lake.refresh()
    assert len(values(lake)) == 3


def test_a_column_added_in_mid_snapshot_is_null_before(lake: Lake):
    loaded(lake)
    lake.refresh()
    wide = (*COLUMNS, Column("fare", "decimal(10,2)"), Column("at", "time"))
    lake.schema(TAP_CT, (*CHANGE_COLUMNS, *wide))
    lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": 0, "k2": "a", "v": "x", "fare": 5, "at": None})], wide)
    refreshed = lake.refresh()
    assert refreshed.rebuilt
    assert [column.name for column in refreshed.columns][3:5] == ["fare", "at"]
    assert {key[0]: row["fare"] for key, row in lake.state().items()} == {0: 5, 1: None, 2: None}


def test_columns_with_names_of_all_kinds(lake: Lake):
    columns = (Column("select", "string"), Column("place of use", "bigint"), Column("sequence", "string"), Column("rows", "time"))
    lake.schema(TAP, columns, ("select", "place of use"))
    lake.schema(TAP_CT, (*CHANGE_COLUMNS, *columns), ("select", "place of use"))
    lake.load(TAP, "LOAD00000001.csv.gz", [{"select": "it's", "place of use": 1, "sequence": "s"}], columns)
    lake.refresh()
    lake.load(TAP_CT, "it's [a] *.csv.gz", [change("U", 1, {"select": "it's", "place of use": 1, "sequence": "t"})], columns)
    assert lake.refresh().updated == 1
    assert [row["sequence"] for row in lake.current()] == ["t"]


def test_a_key_that_names_no_column_is_a_mistake_of_setup(lake: Lake):
    lake.schema(TAP, COLUMNS, ("gone",))
    loaded(lake)
    with pytest.raises(ConfigurationError, match="gone"):
        lake.refresh()


def test_a_folder_that_delta_cannot_write_to_is_a_mistake_of_setup(lake: Lake, tmp_path: Path):
    lake.settings = Settings(home=tmp_path / "copy [1]")
    loaded(lake)
    with pytest.raises(ConfigurationError, match="INGESTION_CUBIC_CURRENT_URL"):
        lake.refresh()


def test_without_a_key_or_a_snapshot_there_is_nothing_to_show(lake: Lake):
    assert current.refresh(lake.connection, lake.settings, REGISTRY, TAP) is None
    lake.schema(TAP, COLUMNS, ())
    lake.schema(TAP_CT, COLUMNS, ())
    loaded(lake)
    assert current_state.behind(lake.connection, REGISTRY) == []
    assert current.refresh(lake.connection, lake.settings, REGISTRY, TAP) is None


def test_equal_sequences_go_by_file_and_line(lake: Lake):
    loaded(lake)
    rows = [change("U", 1, {"k1": 0, "k2": "a", "v": value}) for value in ("first line", "second line")]
    lake.load(TAP_CT, "b.csv.gz", rows)
    lake.refresh()
    lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": 0, "k2": "a", "v": "earlier file"})])
    lake.refresh()
    assert values(lake)[0] == "second line"
    at_the_snapshot = change("U", 0, {"k1": 1, "k2": "a", "v": "change"})
    assert at_the_snapshot["header__change_seq"] == sequence(0)
    lake.load(TAP_CT, "c.csv.gz", [at_the_snapshot])
    lake.refresh()
    assert values(lake)[1] == "change"


def test_a_state_whose_delta_table_was_removed_is_built_again(lake: Lake):
    import shutil

    loaded(lake)
    lake.refresh()
    shutil.rmtree(delta_table.location(lake.settings, TAP).removeprefix("file://"))
    assert lake.refresh().rebuilt
    assert len(values(lake)) == 3


def test_compaction_and_vacuum_change_no_row_and_leave_a_reader_alone(lake: Lake):
    loaded(lake)
    lake.refresh()
    for number in range(1, 5):
        lake.load(TAP_CT, f"{number}.csv.gz", [change("I", number, {"k1": 100 + number, "k2": "a", "v": "x"})])
        lake.refresh()
    before = lake.state()
    reader = delta_table.open_delta(lake.settings, TAP)
    assert reader is not None
    assert delta_table.compact(lake.settings, TAP)["files_removed"] > 1
    assert delta_table.vacuum(lake.settings, TAP) == 0
    assert reader.to_pyarrow_table().num_rows == len(before)
    assert lake.state() == before
    assert delta_table.vacuum(lake.settings, TAP, retention_hours=0) > 0
    lake.load(TAP_CT, "9.csv.gz", [change("I", 9, {"k1": 109, "k2": "a", "v": "x"})])
    assert not lake.refresh().rebuilt
    assert len(lake.state()) == len(before) + 1


def test_a_file_replaced_while_it_is_read_is_noticed(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    loaded(lake)
    lake.refresh()
    lake.load(TAP_CT, "a.csv.gz", [change("D", 1, {"k1": 0, "k2": "a"})])

    def replaced(name: str) -> None:
        if name == "cubic.current.commit.before":
            part = lake.part(TAP_CT, "a.csv.gz")
            other = part.with_name("other")
            other.write_bytes(part.read_bytes())
            other.replace(part)

    monkeypatch.setattr(current_work, "fault_point", replaced)
    with pytest.raises(Transient, match="springboard_changed"):
        lake.refresh()
    assert len(values(lake)) == 3


CRASHING = """
from ingestion_dagster.cubic import current
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import current as settings
from ingestion_dagster_tests.cubic.lake import REGISTRY, TAP

with Database.at(settings().database_url).connect() as connection:
    current.refresh(connection, settings(), REGISTRY, TAP)
"""


KILLED_AT = ["cubic.current.commit.before", "cubic.current.commit.after", "cubic.current.remembered"]


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed_around_a_commit_a_refresh_can_be_repeated(lake: Lake, point: str):
    loaded(lake)
    lake.refresh()
    lake.load(TAP_CT, "a.csv.gz", [change("D", 1, {"k1": 0, "k2": "a"}), change("I", 2, {"k1": 5, "k2": "a", "v": "new"})])
    run_until_killed(CRASHING, point)
    late = lake.load(TAP_CT, "b.csv.gz", [change("U", 1, {"k1": 2, "k2": "a", "v": "after the crash"})])
    refreshed = lake.refresh()
    assert refreshed.rebuilt == (point == "cubic.current.commit.after")
    assert values(lake) == {1: "loaded", 2: "after the crash", 5: "new"}
    assert late
    assert current_state.behind(lake.connection, REGISTRY) == []


def test_two_at_once_take_turns(lake: Lake, database: Database):
    loaded(lake)
    results: list[current.Refreshed | None] = []

    def refresh() -> None:
        with database.connect() as connection:
            results.append(current.refresh(connection, lake.settings, REGISTRY, TAP))

    threads = [threading.Thread(target=refresh) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.loads for each in results if each) == [0, 0, 1]
    assert len(values(lake)) == 3


def test_who_waits_too_long_for_another_gives_up(lake: Lake, database: Database):
    with (
        database.connect() as other,
        current.locked(other, TAP),
        pytest.raises(Transient, match="current_busy"),
        current.locked(lake.connection, TAP, seconds=0.1),
    ):
        pass
    with current.locked(lake.connection, TAP, seconds=0.1):
        pass


def test_no_value_is_in_what_is_told(lake: Lake):
    loaded(lake)
    lake.refresh()
    lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": 0, "k2": "a", "v": "a secret"})])
    lake.schema(TAP, (*COLUMNS[:2], Column("v", "bigint")))
    lake.schema(TAP_CT, (*CHANGE_COLUMNS, *COLUMNS[:2], Column("v", "bigint")))
    with pytest.raises(Transient) as told:
        lake.refresh()
    assert "secret" not in str(told.value)
    assert told.value.__cause__ is None
    assert len(values(lake)) == 3


def test_on_s3_as_on_disk(database: Database, new_bucket: Callable[..., str], settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INGESTION_STORAGE_URL", f"s3://{new_bucket()}/some prefix")
    with database.connect() as connection:
        lake = Lake(connection, current_settings())
        lake.schemas()
        loaded(lake)
        assert lake.refresh().rebuilt
        lake.load(TAP_CT, "a.csv.gz", [change("D", 1, {"k1": 0, "k2": "a"})])
        assert lake.refresh().deleted == 1
        assert set(lake.state()) == {(1, "a"), (2, "a")}
        assert delta_table.compact(lake.settings, TAP)["files_removed"] < 2

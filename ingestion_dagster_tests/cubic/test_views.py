"""Who asks the ledger by the names of the first metadata database finds its columns, its clock and no way to write."""

from datetime import datetime

import psycopg
import pytest

from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.cubic.conftest import TAPS, Cubic, csv, moment

LOAD = f"{TAPS}/LOAD00000001.csv.gz"
CHANGE = f"{TAPS}__ct/20260102-070000123.csv.gz"
LATER = "cubic/ods_qlik/EDW.GATES/LOAD00000002.csv.gz"
FARES = "cubic/dmap/agg_fares/agg_fares_20260101.csv.gz"

COLUMNS = {
    "cubic_tables": ["id", "name", "s3_prefix", "is_raw", "is_active", "deleted_at", "inserted_at", "updated_at"],
    "cubic_loads": [
        *("id", "table_id", "status", "s3_key", "s3_modified", "s3_size", "is_raw"),
        *("deleted_at", "inserted_at", "updated_at"),
    ],
    "cubic_table_ods_snapshots": ["id", "table_id", "snapshot", "snapshot_s3_key", "deleted_at", "inserted_at", "updated_at"],
    "cubic_load_ods_snapshots": ["id", "load_id", "snapshot", "deleted_at", "inserted_at", "updated_at"],
}


@pytest.fixture
def loaded(cubic: Cubic) -> Cubic:
    """A snapshot, a change, a part whose marker is yet to come, and a data set."""
    cubic.land(LOAD, csv("1,a,1.00"), moment("06:00:00"))
    header = "header__change_seq,header__change_oper,header__timestamp,TAP_ID,NOTE,FARE"
    cubic.land(CHANGE, csv("20260102070000000000000000000000001,I,2026-01-02 07:00:00.000001,2,b,2.00", header=header), moment("07:00:00"))
    cubic.land(LATER, csv("1", header="A"), moment("06:00:00"))
    cubic.land(FARES, csv("2026-01-01,3", header="day,count"), moment("15:00:00"))
    cubic.run()
    return cubic


def naive(text: str) -> datetime:
    return moment(text).replace(tzinfo=None)


def columns(connection: Connection, view: str) -> dict[str, str]:
    return dict(
        connection.execute(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass('ledger.' || %s) AND attnum > 0 ORDER BY attnum",
            [view],
        ).fetchall()
    )


def test_columns_are_those_of_before_and_times_have_no_zone(cubic: Cubic) -> None:
    with cubic.database.connect() as connection:
        for view, names in COLUMNS.items():
            found = columns(connection, view)
            assert list(found) == names
            assert {name: kind for name, kind in found.items() if name.endswith(("_at", "_modified")) or name == "snapshot"} == {
                name: "timestamp without time zone" for name in names if name.endswith(("_at", "_modified")) or name == "snapshot"
            }


def test_a_question_of_before_has_its_answer(loaded: Cubic) -> None:
    assert loaded.sql(
        """
        SELECT t.name, t.s3_prefix, l.status, l.s3_key, l.s3_modified, l.s3_size > 0, l.is_raw, s.snapshot
        FROM ledger.cubic_loads AS l
        JOIN ledger.cubic_tables AS t ON t.id = l.table_id AND t.deleted_at IS NULL
        LEFT JOIN ledger.cubic_load_ods_snapshots AS s ON s.load_id = l.id AND s.deleted_at IS NULL
        WHERE l.deleted_at IS NULL ORDER BY l.s3_key
        """
    ) == [
        ("fares", "cubic/dmap/agg_fares/", "archived", FARES, naive("15:00:00"), True, True, None),
        ("gates", "cubic/ods_qlik/EDW.GATES/", "ready", LATER, naive("06:00:00"), True, True, None),
        ("taps", f"{TAPS}/", "archived", LOAD, naive("06:00:00"), True, True, naive("06:00:00")),
        ("taps__ct", f"{TAPS}__ct/", "archived", CHANGE, naive("07:00:00"), True, True, naive("06:00:00")),
    ]


def test_every_dataset_and_every_load_is_shown_once(loaded: Cubic) -> None:
    for view, table in (("cubic_tables", "datasets"), ("cubic_loads", "loads")):
        [(shown, distinct)] = loaded.sql(f"SELECT count(*), count(DISTINCT id) FROM ledger.{view}")
        assert (shown, distinct) == (loaded.sql(f"SELECT count(*) FROM ledger.{table} WHERE pipeline = 'cubic'")[0][0],) * 2
    assert loaded.sql("SELECT name FROM ledger.cubic_tables WHERE NOT is_active") == []
    assert loaded.sql("SELECT is_raw FROM ledger.cubic_tables WHERE name = 'kept'") == [(False,)]


def test_a_table_shows_its_newest_snapshot_or_none_yet(loaded: Cubic) -> None:
    loaded.land(LOAD, csv("1,b,1.00"), moment("12:00:00"))
    loaded.run()
    shown = loaded.sql(
        "SELECT t.name, s.snapshot, s.snapshot_s3_key FROM ledger.cubic_table_ods_snapshots AS s"
        " JOIN ledger.cubic_tables AS t ON t.id = s.table_id ORDER BY t.name"
    )
    assert [row for row in shown if not row[0].startswith("loose")] == [
        ("gates", None, "cubic/ods_qlik/EDW.GATES/LOAD00000001.csv.gz"),
        ("gates__ct", None, "cubic/ods_qlik/EDW.GATES/LOAD00000001.csv.gz"),
        ("taps", naive("12:00:00"), LOAD),
        ("taps__ct", naive("12:00:00"), LOAD),
    ]
    assert loaded.sql("SELECT count(*) FROM ledger.snapshots") == [(2,)]


def test_loads_of_other_pipelines_are_not_shown(loaded: Cubic) -> None:
    before = loaded.sql("SELECT count(*) FROM ledger.cubic_loads")
    loaded.sql("INSERT INTO ledger.datasets (pipeline, name) VALUES ('metrics', 'time_series')")
    loaded.sql(
        "INSERT INTO ledger.loads (pipeline, landing_zone, key, version, size, modified, partition)"
        " VALUES ('metrics', 'file:///m', 'a.json', '1', 1, now(), '2026-01-02')"
    )
    assert loaded.sql("SELECT count(*) FROM ledger.cubic_loads") == before
    assert loaded.sql("SELECT count(*) FROM ledger.cubic_tables WHERE name = 'time_series'") == [(0,)]


@pytest.mark.parametrize("view", COLUMNS)
def test_nobody_can_write_through_a_view(loaded: Cubic, view: str) -> None:
    for statement in (f"UPDATE ledger.{view} SET id = id", f"DELETE FROM ledger.{view}"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            loaded.sql(statement)


def test_times_are_utc_whatever_the_session_is_told(loaded: Cubic) -> None:
    with loaded.database.connect() as connection:
        connection.execute("SET timezone = 'Asia/Tokyo'")
        row = connection.execute("SELECT s3_modified FROM ledger.cubic_loads WHERE s3_key = %s", [LOAD]).fetchone()
        assert row == (naive("06:00:00"),)
        newest = "SELECT max(updated_at) > timezone('UTC', now()) - interval '10 minutes' FROM ledger.cubic_loads"
        assert connection.execute(newest).fetchone() == (True,)

"""A metadata database of before is taken over as a whole or not at all, and nothing that it had done with is loaded again."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ingestion_dagster.cubic import adoption
from ingestion_dagster.cubic.adoption import LOST_BEFORE, REFUSED_BEFORE, take_over
from ingestion_dagster.cubic.registry import PIPELINE
from ingestion_dagster.cubic.zone import zone
from ingestion_dagster.engine import ledger, moving, postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer, ensure_database
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.outcome import Tally
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import current
from ingestion_dagster_tests.cubic.conftest import COLUMNS, TAPS, Cubic, csv, metadata, moment
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server, new_bucket
from ingestion_dagster_tests.engine.processes import run_until_killed
from ingestion_dagster_tests.metrics.one_database import one_database

__all__ = ["aws_environment", "moto_server", "new_bucket"]

FAULTS = sorted(re.findall(r'fault_point\("([^"]+)"\)', Path(adoption.__file__).read_text()))
FIRST, SECOND = moment("06:00:00"), moment("12:00:00")
CT = f"{TAPS}__ct"
FARES = "cubic/dmap/agg_fares"
DFM = metadata({name.upper(): "NUMERIC(10,0)" if name == "tap_id" else "WSTRING(50)" for name in COLUMNS}, key=["TAP_ID"])

# As the original's migrations leave them; and as its first ones made them, with the snapshot in the tables themselves.
TIMES = "deleted_at timestamp(0), inserted_at timestamp(0) NOT NULL, updated_at timestamp(0) NOT NULL"
TABLES = (
    "(id bigserial PRIMARY KEY, name varchar(500) NOT NULL UNIQUE, s3_prefix varchar(1000) NOT NULL UNIQUE, is_raw boolean, "
    f"is_active boolean, {TIMES})"
)
LOADS = (
    "(id bigserial PRIMARY KEY, table_id bigint NOT NULL, status varchar(100) NOT NULL, s3_key varchar(1000) NOT NULL, "
    f"s3_modified timestamp(0) NOT NULL, s3_size bigint NOT NULL, is_raw boolean, {TIMES})"
)
TABLE_SNAPSHOTS = (
    f"(id bigserial PRIMARY KEY, table_id bigint NOT NULL, snapshot timestamp(0), snapshot_s3_key varchar(1000) NOT NULL, {TIMES})"
)
LOAD_SNAPSHOTS = f"(id bigserial PRIMARY KEY, load_id bigint NOT NULL, snapshot timestamp(0), {TIMES})"
NEWEST = ("cubic_tables", "cubic_loads", "cubic_ods_table_snapshots", "cubic_ods_load_snapshots")
PLANNED = ("cubic_ods_tables", "cubic_ods_loads", "cubic_table_ods_snapshots", "cubic_load_ods_snapshots")


@dataclass
class Before:
    """The system before: its metadata database, beside ours, and what it left in the zones."""

    cubic: Cubic
    connection: Connection
    names: Sequence[str] = NEWEST
    schema: str = "public"

    def build(self) -> None:
        for name, columns in zip(self.names, (TABLES, LOADS, TABLE_SNAPSHOTS, LOAD_SNAPSHOTS), strict=True):
            self.connection.execute(sql.SQL("CREATE TABLE {} {}").format(sql.Identifier(self.schema, name), sql.SQL(columns)))

    def insert(self, part: int, **row: Any) -> int:
        times = {"inserted_at": moment("23:00:00").replace(tzinfo=None), "updated_at": moment("23:30:00").replace(tzinfo=None)}
        values = {name: value.replace(tzinfo=None) if isinstance(value, datetime) else value for name, value in (times | row).items()}
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            sql.Identifier(self.schema, self.names[part]),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Literal, values.values())),
        )
        found = self.connection.execute(statement).fetchone()
        assert found is not None
        return int(found[0])

    def table(self, name: str, prefix: str, *, snapshot: datetime | None = None, ods: bool = True, **row: Any) -> int:
        table = self.insert(0, name=name, s3_prefix=f"{prefix}/", **row)
        if ods:
            self.insert(2, table_id=table, snapshot=snapshot, snapshot_s3_key=f"{prefix}/LOAD00000001.csv.gz")
        return table

    def load(
        self,
        table: int,
        key: str,
        modified: datetime,
        status: str = "archived",
        *,
        snapshot: datetime | None = None,
        size: int = 10,
        **row: Any,
    ) -> int:
        load = self.insert(1, table_id=table, s3_key=key, s3_modified=modified, s3_size=size, status=status, **row)
        if key.startswith("cubic/ods_qlik"):
            self.insert(3, load_id=load, snapshot=snapshot)
        return load

    def put(self, place: str, key: str, content: bytes, modified: datetime | None = None) -> None:
        open_store(f"{self.cubic.settings.storage}/cubic/{place}").write(key, content, modified=modified)

    def archived(
        self, table: int, key: str, modified: datetime, snapshot: datetime | None, content: bytes, dfm: bytes | None = None
    ) -> int:
        """A load that was archived, and its object where it went."""
        folder, _, name = key.rpartition("/")
        place = f"{folder}/snapshot={snapshot:%Y%m%dT%H%M%SZ}/{name}" if snapshot else key
        self.put("archive", place, content)
        if dfm is not None:
            self.put("archive", place.partition(".csv")[0] + ".dfm", dfm)
        return self.load(table, key, modified, snapshot=snapshot, size=len(content))

    def take_over(self, **options: Any) -> tuple[str, ...]:
        return take_over(self.cubic.database, self.cubic.settings, self.cubic.registry, **options)


@pytest.fixture(scope="module")
def made(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as database:
        yield database


@pytest.fixture
def database(made: Database) -> Database:
    """The module's database as a fresh one: a copy of the template for each test would take most of the time."""
    with made.connect() as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
        connection.execute("DROP SCHEMA IF EXISTS lake CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute("TRUNCATE ledger.datasets, ledger.loads, ledger.load_events, ledger.snapshots CASCADE")
    return made


@pytest.fixture
def before(cubic: Cubic) -> Iterator[Before]:
    with cubic.database.connect() as connection:
        old = Before(cubic, connection)
        old.build()
        yield old


def ran(cubic: Cubic) -> tuple[int, int]:
    """Run; how many loads were archived and errored."""
    total = sum(cubic.run().tallies.values(), start=Tally())
    return total.loads_archived, total.loads_errored


def loads(cubic: Cubic) -> dict[str, tuple[Any, ...]]:
    """By key: dataset, status, partition, whether its place is known, error code."""
    return {
        row[0]: row[1:]
        for row in cubic.sql(
            "SELECT l.key, d.name, l.status, l.partition, l.location IS NOT NULL, l.error_code FROM ledger.loads AS l"
            " JOIN ledger.datasets AS d ON d.id = l.dataset_id ORDER BY l.id"
        )
    }


def test_what_was_archived_is_archived_here_in_its_snapshot_and_place(before: Before) -> None:
    taps = before.table("cubic_ods_qlik__edw_taps", TAPS, snapshot=SECOND)
    fares = before.table("cubic_dmap__agg_fares", FARES, ods=False)
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,old,1.00"))
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", SECOND, SECOND, csv("1,a,1.00"))
    before.archived(taps, f"{CT}/20260102-070000123.csv.gz", moment("07:00:00"), FIRST, csv("x"))
    before.archived(fares, f"{FARES}/agg_fares_20260101.csv.gz", moment("15:00:00"), None, csv("2026-01-01,3"))
    lines = before.take_over()
    assert lines[:2] == (
        "took over 4 loads of 3 tables (4 archived, 0 errored) and 2 snapshots",
        "4 of them stand in the archive or the error zone and can be replayed or retried",
    )
    assert before.cubic.sql(
        "SELECT d.name, l.key, s.snapshot, l.partition, l.status, l.error_code, l.committed_at, l.modified, l.discovered_at, l.finished_at"
        " FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id LEFT JOIN ledger.snapshots AS s ON s.id = l.snapshot_id"
        " ORDER BY l.modified"
    ) == [
        (name, key, snapshot, partition, "archived", None, None, modified, moment("23:00:00"), moment("23:30:00"))
        for name, key, snapshot, partition, modified in (
            ("taps", f"{TAPS}/LOAD00000001.csv.gz", FIRST, "20260102T060000Z", FIRST),
            ("taps__ct", f"{CT}/20260102-070000123.csv.gz", FIRST, "20260102T060000Z", moment("07:00:00")),
            ("taps", f"{TAPS}/LOAD00000001.csv.gz", SECOND, "20260102T120000Z", SECOND),
            ("fares", f"{FARES}/agg_fares_20260101.csv.gz", None, "2026-01-02", moment("15:00:00")),
        )
    ]
    archive = open_store(before.cubic.settings.zone(PIPELINE, "archive", "cubic/archive"))
    locations = [row[0] for row in before.cubic.sql("SELECT location FROM ledger.loads ORDER BY id")]
    assert sorted(locations) == [f"{archive.url}/{key}" for key in before.cubic.keys("archive")]
    assert before.cubic.sql("SELECT DISTINCT from_status, to_status, why FROM ledger.load_events") == [
        (None, "archived", "adopted: archived")
    ]


def test_a_second_adoption_finds_nothing_to_do(before: Before) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,a,1.00"))
    before.load(taps, f"{TAPS}/LOAD00000002.csv.gz", FIRST, "errored", snapshot=FIRST)
    before.take_over()
    everything = "SELECT * FROM ledger.loads ORDER BY id"
    entered = before.cubic.sql(everything)
    lines = before.take_over()
    assert lines[0].startswith("took over 0 loads of 0 tables")
    assert "2 loads had been taken over before" in lines
    assert before.cubic.sql(everything) == entered
    assert before.cubic.sql("SELECT count(*) FROM ledger.load_events") == [(2,)]


def test_a_dry_run_tells_the_same_and_changes_nothing(before: Before) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,a,1.00"))
    told = before.take_over(dry_run=True)
    assert before.cubic.sql("SELECT count(*) FROM ledger.loads") == [(0,)]
    assert before.cubic.sql("SELECT count(*) FROM ledger.datasets") == [(0,)]
    assert [line.replace("would take over", "took over") for line in told] == list(before.take_over())


def test_a_database_of_nobody_is_left_alone(cubic: Cubic) -> None:
    assert take_over(cubic.database, cubic.settings, cubic.registry) == ()
    assert cubic.sql("SELECT count(*) FROM ledger.datasets") == [(0,)]


def test_our_own_views_are_not_taken_for_the_system_before(cubic: Cubic) -> None:
    name = cubic.sql("SELECT current_database()")[0][0]
    with cubic.database.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = ledger, public").format(sql.Identifier(name)))
    assert take_over(cubic.database, cubic.settings, cubic.registry) == ()


@pytest.mark.parametrize(("names", "schema"), [(PLANNED, "public"), (NEWEST, "lake")])
def test_other_names_and_another_schema_on_the_search_path_are_found(cubic: Cubic, names: Sequence[str], schema: str) -> None:
    with cubic.database.connect() as connection:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        database = sql.Identifier(cubic.sql("SELECT current_database()")[0][0])
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = ledger, {}").format(database, sql.Identifier(schema)))
        before = Before(cubic, connection, names, schema)
        before.build()
        before.archived(before.table("t", TAPS, snapshot=FIRST), f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,a,1.00"))
        before.take_over()
    assert loads(cubic) == {f"{TAPS}/LOAD00000001.csv.gz": ("taps", "archived", "20260102T060000Z", True, None)}


def test_the_first_form_of_the_tables_has_its_snapshots_in_them(cubic: Cubic) -> None:
    with cubic.database.connect() as connection:
        connection.execute(
            f"CREATE TABLE public.cubic_ods_tables (id bigserial PRIMARY KEY, name varchar(500) NOT NULL, s3_prefix varchar(1000) NOT NULL,"
            f" snapshot timestamp(0), snapshot_s3_key varchar(1000) NOT NULL, {TIMES})"
        )
        connection.execute(
            f"CREATE TABLE public.cubic_ods_loads (id bigserial PRIMARY KEY, table_id bigint, status varchar(100) NOT NULL,"
            f" snapshot timestamp(0), is_cdc boolean, s3_key varchar(1000) NOT NULL, s3_modified timestamp(0) NOT NULL,"
            f" s3_size bigint NOT NULL, {TIMES})"
        )
        before = Before(cubic, connection, ("cubic_ods_tables", "cubic_ods_loads"))
        table = before.insert(0, name="t", s3_prefix=f"{TAPS}/", snapshot=SECOND, snapshot_s3_key=f"{TAPS}/LOAD00000001.csv.gz")
        key = f"{CT}/20260102-070000123.csv.gz"
        before.insert(1, table_id=table, s3_key=key, s3_modified=moment("07:00:00"), s3_size=1, status="archived", snapshot=FIRST)
        before.take_over()
    assert loads(cubic) == {key: ("taps__ct", "archived", "20260102T060000Z", False, LOST_BEFORE.code)}
    assert cubic.sql("SELECT snapshot FROM ledger.snapshots ORDER BY 1") == [(FIRST,), (SECOND,)]


def test_a_metadata_database_that_is_there_in_part_is_refused(before: Before) -> None:
    before.connection.execute("DROP TABLE cubic_ods_load_snapshots")
    with pytest.raises(ConfigurationError, match="lacks cubic_ods_load_snapshots or cubic_load_ods_snapshots"):
        before.take_over()
    before.connection.execute(sql.SQL("CREATE TABLE cubic_ods_load_snapshots {}").format(sql.SQL(LOAD_SNAPSHOTS)))
    before.connection.execute("ALTER TABLE cubic_loads DROP COLUMN s3_size")
    with pytest.raises(ConfigurationError, match=r"cubic_loads\.s3_size"):
        before.take_over()


def test_what_was_not_done_with_is_loaded_from_the_landing_zone_and_nothing_else_is(before: Before) -> None:
    cubic = before.cubic
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,a,1.00"), DFM)
    for name, status in (("LOAD00000002", "ready"), ("LOAD00000003", "ingesting"), ("LOAD00000004", "archived_unknown")):
        content = csv(f"{name[-1]},{status},1.00")
        before.put("incoming", f"{TAPS}/{name}.csv.gz", content, FIRST)
        before.load(taps, f"{TAPS}/{name}.csv.gz", FIRST, status, snapshot=FIRST, size=len(content))
    before.load(taps, f"{TAPS}/LOAD00000005.csv.gz", FIRST, "archiving", snapshot=FIRST)
    lines = before.take_over()
    assert "3 loads were not done with; they stand in the landing zone and are loaded from there" in lines
    assert "1 loads were not done with and stand in no zone: nothing can be loaded of them" in lines
    assert ran(cubic) == (3, 0)
    assert {key.rpartition("/")[2]: state[1:3] for key, state in loads(cubic).items()} == {
        f"LOAD0000000{number}.csv.gz": ("archived", "20260102T060000Z") for number in (1, 2, 3, 4)
    }
    assert sorted(row["tap_id"] for row in cubic.query("SELECT tap_id FROM taps")) == [2, 3, 4]


def test_a_source_that_was_not_removed_after_archiving_is_moved_and_not_loaded_again(before: Before) -> None:
    cubic = before.cubic
    fares = before.table("t", FARES, ods=False)
    key, content = f"{FARES}/agg_fares_20260101.csv.gz", csv("2026-01-01,3", header="day,count")
    arrived = moment("15:00:00") + timedelta(microseconds=250_000)
    before.put("incoming", key, content, arrived)
    before.put("archive", key, content)
    before.load(fares, key, moment("15:00:00"), "archived_unknown", size=len(content))
    lines = before.take_over()
    assert "1 of them stand in the landing zone still: they are moved to the archive, not loaded" in lines
    assert ran(cubic) == (0, 0)
    with cubic.database.connect() as connection:
        moving.sweep(connection, zone(cubic.settings, cubic.registry), lease_seconds=60, max_attempts=3)
    assert cubic.keys("incoming") == []
    assert [(state["key"], state["status"], state["rows_in"]) for state in cubic.states()] == [(key, "archived", 0)]
    assert cubic.keys("springboard") == []


def test_a_later_delivery_of_an_adopted_key_is_a_load_of_its_own(before: Before) -> None:
    fares = before.table("t", FARES, ods=False)
    key = f"{FARES}/agg_fares_20260101.csv.gz"
    before.archived(fares, key, moment("15:00:00"), None, csv("2026-01-01,3", header="day,count"))
    before.take_over()
    before.cubic.land(key, csv("2026-01-01,4", header="day,count"), moment("16:00:00"))
    assert ran(before.cubic) == (1, 0)
    assert [row["count"] for row in before.cubic.query("SELECT count FROM fares")] == [4]


def test_of_issues_under_one_key_only_the_first_was_kept_and_only_that_is_said_to_stand(before: Before) -> None:
    fares = before.table("t", FARES, ods=False)
    key, content = f"{FARES}/agg_fares_20260101.csv.gz", csv("2026-01-01,3", header="day,count")
    before.archived(fares, key, moment("15:00:00"), None, content)
    before.load(fares, key, moment("16:00:00"), size=len(content))
    before.load(fares, key, moment("17:00:00"), "archived_unknown", size=len(content))
    lines = before.take_over()
    assert any(line.startswith("1 of them stand neither there nor here (lost_before)") for line in lines)
    assert before.cubic.sql("SELECT modified, location IS NOT NULL, error_code FROM ledger.loads ORDER BY modified") == [
        (moment("15:00:00"), True, None),
        (moment("16:00:00"), False, LOST_BEFORE.code),
    ]


def test_an_archive_that_is_found_later_is_taken_note_of(before: Before) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    content = csv("1,a,1.00")
    before.load(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, snapshot=FIRST, size=len(content))
    before.load(taps, f"{CT}/1.csv.gz", FIRST, "errored", size=len(content))
    before.take_over()
    before.put("archive", f"{TAPS}/snapshot=20260102T060000Z/LOAD00000001.csv.gz", content)
    before.put("error", f"{CT}/timestamp=20260102T060000Z/1.csv.gz", content)
    assert "2 of these have been found since" in before.take_over()
    assert loads(before.cubic) == {
        f"{TAPS}/LOAD00000001.csv.gz": ("taps", "archived", "20260102T060000Z", True, None),
        f"{CT}/1.csv.gz": ("taps__ct", "errored", "pending", True, REFUSED_BEFORE.code),
    }


def test_an_object_of_another_size_is_not_the_one_that_was_archived(before: Before) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.load(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, snapshot=FIRST, size=3)
    before.put("archive", f"{TAPS}/snapshot=20260102T060000Z/LOAD00000001.csv.gz", b"four")
    before.take_over()
    assert loads(before.cubic)[f"{TAPS}/LOAD00000001.csv.gz"][3:] == (False, LOST_BEFORE.code)


def test_deleted_rows_and_unknown_tables_are_left_out_and_the_latter_named(before: Before) -> None:
    gone = moment("22:00:00")
    taps = before.table("t", TAPS, snapshot=FIRST)
    load = before.load(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, snapshot=FIRST)
    before.insert(3, load_id=load, snapshot=SECOND)
    before.insert(3, load_id=load, snapshot=moment("18:00:00"), deleted_at=gone)
    before.load(taps, f"{TAPS}/LOAD00000002.csv.gz", FIRST, snapshot=FIRST, deleted_at=gone)
    deleted = before.table("deleted", FARES, ods=False, deleted_at=gone)
    before.load(deleted, f"{FARES}/x.csv.gz", FIRST)
    strange = before.table("cubic_ods_qlik__edw_strange", "cubic/ods_qlik/EDW.STRANGE", snapshot=moment("19:00:00"))
    before.load(strange, "cubic/ods_qlik/EDW.STRANGE/LOAD00000001.csv.gz", FIRST, snapshot=FIRST)
    lines = before.take_over()
    assert [line for line in lines if line.startswith("left out")] == [
        "left out: cubic_ods_qlik__edw_strange with 1 loads; no table of the registry has the prefix cubic/ods_qlik/EDW.STRANGE/"
    ]
    # Of two snapshots of a load, the one that was entered last counts.
    assert loads(before.cubic) == {f"{TAPS}/LOAD00000001.csv.gz": ("taps", "archived", "20260102T120000Z", False, LOST_BEFORE.code)}
    assert before.cubic.sql("SELECT snapshot FROM ledger.snapshots ORDER BY 1") == [(FIRST,), (SECOND,)]


def test_what_the_ledger_has_discovered_by_itself_is_not_entered_twice(before: Before) -> None:
    fares = before.table("t", FARES, ods=False)
    key, content = f"{FARES}/agg_fares_20260101.csv.gz", csv("2026-01-01,3", header="day,count")
    before.cubic.land(key, content, moment("15:00:00"))
    before.cubic.run()
    before.load(fares, key, moment("15:00:00"), size=len(content))
    assert "1 loads were in the ledger already, discovered here; they are left as they are" in before.take_over()
    assert before.cubic.sql("SELECT count(*) FROM ledger.loads") == [(1,)]


def test_changes_after_the_adoption_go_into_the_snapshot_of_before(before: Before) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,a,1.00"))
    before.take_over()
    header = "header__change_seq,header__change_oper,header__timestamp,TAP_ID,NOTE,FARE"
    row = "20260102070000000000000000000000001,I,2026-01-02 07:00:00.000001,2,b,2.00"
    before.cubic.land(f"{CT}/20260102-070000123.csv.gz", csv(row, header=header), moment("07:00:00"))
    assert ran(before.cubic) == (1, 0)
    state = before.cubic.state(f"{CT}/20260102-070000123.csv.gz")
    assert (state["snapshot"], state["partition"]) == ("20260102T060000Z", "20260102T060000Z")


def test_a_replay_reads_what_stands_in_the_archive_of_before_and_leaves_it_there(before: Before) -> None:
    cubic = before.cubic
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,a,1.00"), DFM)
    before.load(taps, f"{TAPS}/LOAD00000002.csv.gz", FIRST, snapshot=FIRST)
    before.take_over()
    archive = cubic.keys("archive")
    with cubic.database.connect() as connection:
        again = ledger.replay(connection, Scope(PIPELINE, frozenset({"taps"}), frozenset({"20260102T060000Z"})))
    assert list(again.ready.values()) == [f"{TAPS}/LOAD00000001.csv.gz"]
    assert ran(cubic) == (1, 0)
    assert cubic.query("SELECT tap_id, note FROM taps") == [{"tap_id": 1, "note": "a"}]
    assert cubic.keys("archive") == archive


def test_a_retry_reads_what_stands_in_the_error_zone_of_before(before: Before) -> None:
    cubic = before.cubic
    fares = before.table("t", FARES, ods=False)
    key, content = f"{FARES}/agg_fares_20260101.csv.gz", csv("2026-01-01,3", header="day,count")
    before.put("error", key, content)
    before.load(fares, key, moment("15:00:00"), "errored", size=len(content))
    before.load(fares, f"{FARES}/lost.csv.gz", moment("15:00:00"), "errored", size=1)
    before.take_over()
    cubic.retry()
    assert ran(cubic) == (1, 0)
    assert [row["count"] for row in cubic.query("SELECT count FROM fares")] == [3]
    assert cubic.keys("error") == []


@pytest.mark.parametrize("versioned", [False, True])
def test_buckets_of_before_are_read_and_an_object_that_is_lost_there_is_missing_and_no_fault_of_the_store(
    before: Before, new_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch, versioned: bool
) -> None:
    monkeypatch.setenv("INGESTION_STORAGE_URL", f"s3://{new_bucket(versioned=versioned)}")
    before.cubic.settings = current()
    fares = before.table("t", FARES, ods=False)
    before.archived(fares, f"{FARES}/1.csv.gz", moment("15:00:00"), None, csv("2026-01-01,3", header="day,count"))
    before.load(fares, f"{FARES}/2.csv.gz", moment("15:00:00"), size=10)
    before.take_over()
    with before.cubic.database.connect() as connection:
        ledger.replay(connection, Scope(PIPELINE))
        connection.execute("UPDATE ledger.loads SET status = 'ready' WHERE location IS NULL")
    assert ran(before.cubic) == (1, 1)
    assert {state["key"]: state["error_code"] for state in before.cubic.states()} == {
        f"{FARES}/1.csv.gz": None,
        f"{FARES}/2.csv.gz": "object_missing",
    }


def test_a_database_without_our_schema_is_migrated_in_the_same_transaction(server: EmbeddedServer, before: Before) -> None:
    name = f"old_{os.getpid()}"
    ensure_database(server, name)
    database = Database.at(server.url(name))
    with database.connect() as connection:
        old = Before(before.cubic, connection)
        old.build()
        table = old.table("t", TAPS, snapshot=FIRST)
        old.load(table, f"{TAPS}/LOAD00000001.csv.gz", FIRST, snapshot=FIRST)
        take_over(database, before.cubic.settings, before.cubic.registry, dry_run=True)
        assert postgres.revision(database) is None
        take_over(database, before.cubic.settings, before.cubic.registry)
        assert connection.execute("SELECT status FROM ledger.cubic_loads").fetchall() == [("archived",)]
        # The names of before still are the tables of before.
        assert connection.execute("SELECT count(*) FROM cubic_loads WHERE is_raw IS NULL").fetchall() == [(1,)]


ADOPT = """
from ingestion_dagster.cubic import adoption
from ingestion_dagster.cubic.adoption import take_over
from ingestion_dagster.cubic.registry import registry
from ingestion_dagster.engine import postgres
from ingestion_dagster.settings import current
settings = current()
take_over(postgres.locate(settings), settings, registry(settings))
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_crash_leaves_nothing_and_the_next_adoption_does_it_all(before: Before, fault: str, tmp_path: Path) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.archived(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, FIRST, csv("1,a,1.00"))
    run_until_killed(ADOPT, fault)
    assert before.cubic.sql("SELECT count(*) FROM ledger.loads") == [(0,)]
    before.take_over()
    assert loads(before.cubic) == {f"{TAPS}/LOAD00000001.csv.gz": ("taps", "archived", "20260102T060000Z", True, None)}


def test_two_adoptions_at_once_enter_each_load_once(before: Before) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    for number in range(50):
        before.load(taps, f"{CT}/{number:08}.csv.gz", FIRST + timedelta(seconds=number), snapshot=FIRST)
    both = [subprocess.Popen([sys.executable, "-c", ADOPT]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert before.cubic.sql("SELECT count(*), count(DISTINCT key) FROM ledger.loads") == [(50, 50)]


def test_an_adopted_value_appears_in_no_message(before: Before) -> None:
    """What the database says of a row that it cannot take quotes it."""
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.load(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, snapshot=FIRST)
    before.connection.execute("ALTER TABLE cubic_loads ALTER COLUMN s3_modified TYPE text USING 'marker-value'")
    with pytest.raises(ConfigurationError) as refused:
        before.take_over()
    assert "marker-value" not in repr(refused.value)
    assert refused.value.__cause__ is None
    assert isinstance(refused.value.__context__, psycopg.Error)
    assert refused.value.__suppress_context__


def test_times_are_utc_whatever_the_session_is_told(before: Before) -> None:
    taps = before.table("t", TAPS, snapshot=FIRST)
    before.load(taps, f"{TAPS}/LOAD00000001.csv.gz", FIRST, snapshot=FIRST)
    name = sql.Identifier(before.cubic.sql("SELECT current_database()")[0][0])
    before.connection.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'America/New_York'").format(name))
    before.take_over()
    assert before.cubic.sql("SELECT modified FROM ledger.loads") == [(FIRST.astimezone(UTC),)]

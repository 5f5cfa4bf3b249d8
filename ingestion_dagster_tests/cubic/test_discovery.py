"""Discovery of cubic files: none is overlooked, and each part and change goes to the snapshot it was written for."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingestion_dagster.cubic import discovery
from ingestion_dagster.cubic.places import PENDING, format_snapshot
from ingestion_dagster.cubic.registry import Registry, parse_registry
from ingestion_dagster.engine import entries, ledger
from ingestion_dagster.engine.datasets import pause_dataset
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.ledger import Scope, Status
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster_tests.cubic.snapshot_scene import CHANGES, MARKER, PART, TABLES, TAPS, TEN, SnapshotScene, at, snapshot
from ingestion_dagster_tests.metrics.one_database import empty, one_database

WAITS = (PENDING, "snapshot")


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as made:
        yield made


@pytest.fixture
def scene(one: Database, tmp_path: Path) -> Iterator[SnapshotScene]:
    with empty(one).connect() as connection:
        (tmp_path / "in").mkdir()
        yield SnapshotScene(connection, tmp_path / "in", parse_registry(TABLES))


def change(minutes: float, seconds: float = 0) -> str:
    return f"{CHANGES}{at(minutes, seconds):%Y%m%d-%H%M%S}000.csv.gz"


# What an object is


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (MARKER, ("taps", PENDING, "snapshot")),
        (f"{TAPS}LOAD00000002.csv", ("taps", PENDING, "snapshot")),
        (f"{CHANGES}20260101-100000000.csv.gz", ("taps__ct", PENDING, "snapshot")),
        ("cubic/dmap/agg/agg_20260101.csv.gz", ("agg", None, None)),
        ("cubic/kafka/events/a.json", ("events", None, None)),
        ("cubic/kafka/events/a.json.gz", ("events", None, None)),
        ("cubic/ods_qlik/EDW.OTHER/LOAD00000001.csv.gz", ("unclassified", None, "dataset")),
        ("stray.csv", ("unclassified", None, "dataset")),
    ],
)
def test_an_object_is_a_load_of_the_table_below_whose_prefix_it_lies(key: str, expected: tuple[str, str | None, str | None]) -> None:
    seen = StoredObject(key, 1, TEN, "v")

    assert discovery.arrival(parse_registry(TABLES), seen) == Arrival(seen, *expected)


@pytest.mark.parametrize("key", [f"{TAPS}LOAD00000001.dfm", f"{CHANGES}20260101-100000000.dfm", "cubic/ods_qlik/EDW.OTHER/LOAD1.dfm"])
def test_a_dfm_is_no_load_of_its_own(key: str) -> None:
    assert discovery.arrival(parse_registry(TABLES), StoredObject(key, 1, TEN, "v")) is None


@pytest.mark.parametrize(
    ("key", "dataset", "partition"),
    [
        (f"{TAPS}notes.txt", "taps", PENDING),
        (f"{CHANGES}x.parquet", "taps__ct", PENDING),
        ("cubic/dmap/agg/agg.dfm", "agg", None),
        ("cubic/kafka/events/a.csv", "events", None),
    ],
)
def test_a_file_of_an_unknown_type_is_refused_without_waiting_for_a_snapshot(key: str, dataset: str, partition: str | None) -> None:
    seen = StoredObject(key, 1, TEN, "v")

    assert discovery.arrival(parse_registry(TABLES), seen) == Arrival(seen, dataset, partition, None)


# What the original lost


def test_a_file_of_the_same_second_as_the_newest_load_is_not_overlooked(scene: SnapshotScene) -> None:
    """Defect 1."""
    scene.arrives(MARKER, at(0, 0.1))
    scene.load_all()
    scene.arrives(PART, at(0, 0.1))
    scene.arrives(change(0, 0.2), at(0, 0.2))

    assert scene.snapshots_of(PART) == scene.snapshots_of(change(0, 0.2)) == [snapshot(0)]


def test_changes_not_newer_than_the_newest_load_file_are_not_overlooked(scene: SnapshotScene) -> None:
    """Defect 2."""
    scene.land(MARKER, at(0))
    scene.land(PART, at(30))
    scene.land(change(10), at(10))
    scene.land(change(30), at(30))
    scene.discover()

    assert scene.snapshots_of(change(10)) == scene.snapshots_of(change(30)) == [snapshot(0)]


def test_of_many_files_none_is_cut_off(scene: SnapshotScene) -> None:
    """Defect 3: the newest file comes first by name."""
    scene.land(MARKER, at(60))
    for number in range(2, 1102):
        scene.land(f"{TAPS}LOAD{number:08}.csv.gz", at(60, -1))
    assert scene.discover().new == 1101

    assert scene.discover().new == 0
    assert len(scene.claimable()) == 1101
    assert scene.rows("SELECT DISTINCT partition FROM ledger.loads") == [(snapshot(60),)]


def test_a_file_that_shows_late_with_an_old_time_is_not_overlooked(scene: SnapshotScene) -> None:
    """Defect 4."""
    scene.arrives(MARKER, at(0))
    scene.arrives(MARKER, at(60))
    scene.arrives(change(70), at(70))
    scene.load_all()
    scene.arrives(change(20), at(20))
    scene.arrives(PART, at(0, 30))

    assert scene.snapshots_of(change(20)) == scene.snapshots_of(PART) == [snapshot(0)], "of their time, not of when they were seen"


def test_a_part_that_is_there_before_its_first_marker_belongs_to_it(scene: SnapshotScene) -> None:
    """Defect 5, first load."""
    scene.arrives(PART, at(0))
    assert scene.places(PART) == [WAITS]
    scene.arrives(MARKER, at(0, 40))

    assert scene.snapshots_of(PART) == scene.snapshots_of(MARKER) == [snapshot(0, 40)]
    assert len(scene.claimable()) == 2


@pytest.mark.parametrize("seen_together", [True, False])
def test_a_part_of_a_restart_that_is_there_before_its_marker_belongs_to_it(scene: SnapshotScene, seen_together: bool) -> None:
    """Defect 5, restart."""
    scene.land(MARKER, at(0))
    scene.land(PART, at(0, 5))
    scene.discover()
    scene.load_all()
    scene.land(PART, at(60))
    if not seen_together:
        scene.discover()
        assert scene.places(PART)[1] == WAITS
        assert scene.claimable() == []
    scene.arrives(MARKER, at(60, 5))

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(60, 5)]
    assert scene.claimable() == ["LOAD00000002.csv.gz", "LOAD00000001.csv.gz"]


def test_changes_before_the_first_snapshot_wait_and_are_loaded_when_it_comes(scene: SnapshotScene) -> None:
    """Defect 6."""
    scene.arrives(change(0), at(0))
    assert scene.places(change(0)) == [WAITS]
    assert scene.claimable() == []
    assert scene.rows("SELECT status FROM ledger.loads") == [("ready",)]
    scene.arrives(MARKER, at(10))

    assert scene.snapshots_of(change(0)) == [snapshot(10)]
    assert len(scene.claimable()) == 2


def test_loads_of_an_inactive_table_stand_until_it_is_active_again(scene: SnapshotScene) -> None:
    """Defect 13."""
    inactive = TABLES.replace("EDW.TAPS, kind: ods", "EDW.TAPS, kind: ods, is_active: false")
    scene.arrives(MARKER, at(0))
    scene.use(inactive)
    scene.arrives(PART, at(0, 1))
    scene.arrives(change(1), at(1))

    assert ledger.claimable(scene.connection, Scope("cubic")) == (0, None)
    assert scene.snapshots_of(PART) == scene.snapshots_of(change(1)) == [snapshot(0)]
    scene.use(TABLES)
    assert len(scene.claimable("taps")) == 2
    assert len(scene.claimable("taps__ct")) == 1


def test_a_table_that_has_left_the_registry_keeps_its_loads_unclaimed(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.use("tables: []")

    assert scene.claimable() == []
    assert scene.rows("SELECT count(*) FROM ledger.datasets") == [(7,)], "nothing is deleted"
    assert scene.rows("SELECT name FROM ledger.datasets WHERE is_active") == [("unclassified",)]
    scene.use(TABLES)
    assert scene.claimable() == ["LOAD00000001.csv.gz"]


def test_a_file_of_no_registered_prefix_is_a_load_that_waits_and_can_be_seen(scene: SnapshotScene) -> None:
    """Defect 19."""
    scene.arrives("cubic/ods_qlik/EDW.NEW/LOAD00000001.csv.gz", at(0))

    seen = scene.rows("SELECT d.name, l.status, l.waiting_for FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id")
    assert seen == [("unclassified", "ready", "dataset")]
    assert scene.claimable() == []


def test_a_marker_without_a_byte_starts_no_snapshot_and_hides_nothing(scene: SnapshotScene) -> None:
    """Defect 20."""
    scene.land(MARKER, at(0))
    scene.land(PART, at(0, 5))
    scene.land(change(1), at(1))
    scene.discover()
    scene.arrives(MARKER, at(60), b"")
    scene.arrives(change(61), at(61))

    assert discovery.snapshots(scene.connection) == [snapshot(0)]
    assert scene.snapshots_of(MARKER) == [snapshot(0), snapshot(0)], "refused, and filed where it came"
    assert scene.snapshots_of(change(61)) == scene.snapshots_of(PART) == [snapshot(0)]
    assert len(scene.claimable()) == 4, "all but the empty marker, whose turn comes after the first"


# Markers and parts


def test_a_restart_starts_a_snapshot_of_its_own(scene: SnapshotScene) -> None:
    for minutes in (0, 60, 120):
        scene.arrives(MARKER, at(minutes))
        scene.arrives(PART, at(minutes, 5))
        scene.load_all()

    assert scene.snapshots_of(MARKER) == scene.snapshots_of(PART) == [snapshot(0), snapshot(60), snapshot(120)]
    assert discovery.snapshots(scene.connection) == [snapshot(0), snapshot(60), snapshot(120)]


def test_a_marker_of_another_name_starts_snapshots(scene: SnapshotScene) -> None:
    scene.use(TABLES.replace("EDW.TAPS, kind: ods", "EDW.TAPS, kind: ods, snapshot_marker: LOAD1.csv.gz"))
    scene.arrives(f"{TAPS}LOAD1.csv.gz", at(0))
    scene.arrives(MARKER, at(5))
    scene.arrives(change(9), at(9))

    assert discovery.snapshots(scene.connection) == [snapshot(0)]
    assert scene.snapshots_of(MARKER) == scene.snapshots_of(change(9)) == [snapshot(0)]


def test_two_tables_do_not_share_their_snapshots(scene: SnapshotScene) -> None:
    cards = MARKER.replace("TAPS", "CARDS")
    scene.land(cards, at(30))
    scene.land(MARKER, at(0))
    scene.land(change(40), at(40))
    scene.land(change(40).replace("TAPS", "CARDS"), at(20))
    scene.discover()

    assert scene.snapshots_of(change(40)) == [snapshot(0)]
    assert scene.snapshots_of(change(40).replace("TAPS", "CARDS")) == [snapshot(30)]


def test_tables_that_restart_in_the_same_second_share_a_partition(scene: SnapshotScene) -> None:
    scene.land(MARKER, at(0))
    scene.land(MARKER.replace("TAPS", "CARDS"), at(0))
    scene.discover()

    assert scene.rows("SELECT count(*) FROM ledger.snapshots") == [(2,)]
    assert discovery.snapshots(scene.connection) == [snapshot(0)]


def test_fractions_of_a_second_do_not_part_a_snapshot(scene: SnapshotScene) -> None:
    scene.arrives(PART, at(0, 0.1))
    scene.arrives(change(0), at(0, 0.2))
    scene.arrives(MARKER, at(0, 0.9))

    assert scene.snapshots_of(PART) == scene.snapshots_of(change(0)) == scene.snapshots_of(MARKER) == [snapshot(0)]
    assert scene.rows("SELECT snapshot, marker_key FROM ledger.snapshots") == [(TEN, MARKER)]


def test_a_marker_written_again_in_its_second_replaces_it_in_place(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0, 0.1))
    scene.load_all()
    scene.arrives(MARKER, at(0, 0.2))

    assert scene.snapshots_of(MARKER) == [snapshot(0), snapshot(0)]
    assert scene.claimable() == ["LOAD00000001.csv.gz"]
    assert discovery.snapshots(scene.connection) == [snapshot(0)]


def test_a_part_written_again_repairs_the_one_that_was_refused(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(1))
    scene.finish(PART, Status.ERRORED)
    scene.arrives(PART, at(2))

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(0)]


def test_a_part_written_after_one_without_a_byte_takes_its_place(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(1), b"")
    assert scene.snapshots_of(PART) == [snapshot(0)]
    scene.arrives(PART, at(2))

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(0)]


def test_an_empty_file_between_a_loaded_part_and_the_next_restart_changes_nothing(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(1))
    scene.load_all()
    scene.arrives(PART, at(59), b"")
    scene.finish(PART, Status.ERRORED)
    scene.arrives(PART, at(59, 30))
    assert scene.places(PART)[2] == WAITS, "what it repairs would be the part before, which is good"
    scene.arrives(MARKER, at(60))

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(0), snapshot(60)]


@pytest.mark.parametrize(("outcome", "expected"), [(Status.ARCHIVED, None), (Status.ERRORED, snapshot(0))])
def test_a_part_waits_until_the_one_before_is_decided(scene: SnapshotScene, outcome: Status, expected: str | None) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(1))
    scene.arrives(PART, at(2))
    assert scene.snapshots_of(PART) == [snapshot(0), None]
    scene.finish(PART, outcome)
    scene.discover()

    assert scene.snapshots_of(PART) == [snapshot(0), expected]


def test_a_part_that_is_being_archived_counts_as_loaded(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(1))
    [load] = scene.take(PART)
    with scene.connection.transaction():
        ledger.settle(scene.connection, [ledger.Verdict(load, Status.READY_FOR_ARCHIVING)])
    scene.land(MARKER, at(60))
    scene.land(PART, at(59))
    scene.discover()

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(60)]


def test_a_part_overwritten_before_it_was_read_is_replaced_in_its_snapshot(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(0, 5))
    scene.arrives(PART, at(0, 8))
    scene.overwritten(PART)
    scene.discover()

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(0)]


def test_a_backlog_of_two_restarts_of_which_only_the_second_can_be_read(scene: SnapshotScene) -> None:
    """The table was paused; the restart has overwritten what was never read, its second part before its marker."""
    scene.land(MARKER, at(0))
    scene.land(PART, at(0, 5))
    scene.discover()
    scene.land(PART, at(60))
    scene.arrives(MARKER, at(60, 5))
    scene.overwritten(MARKER)
    scene.overwritten(PART)
    scene.discover()

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(60, 5)]


def test_parts_of_three_restarts_each_before_its_marker_seen_at_once_keep_apart(scene: SnapshotScene) -> None:
    """Several versions of a key can only be listed where they came one by one; nobody assigned in between."""
    scene.land(MARKER, at(0))
    scene.land(PART, at(0, 5))
    scene.discover()
    scene.load_all()
    for minutes in (60, 120):
        scene.land(PART, at(minutes))
        scene.land(MARKER, at(minutes, 5))
        scene.enter()
    scene.discover()
    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(60, 5), None], "the third, as the second is not loaded yet"
    scene.load_all()

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(60, 5), snapshot(120, 5)]


def test_a_new_part_of_the_restart_before_is_no_part_of_the_one_after(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(MARKER, at(60))
    scene.arrives(f"{TAPS}LOAD00000003.csv.gz", at(59))

    assert scene.snapshots_of(f"{TAPS}LOAD00000003.csv.gz") == [snapshot(0)]


def test_a_part_that_shows_after_a_newer_one_of_its_key_does_not_wait_for_it(scene: SnapshotScene) -> None:
    """A bucket with versions shows the older one when the newer has been moved away."""
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(2))
    scene.load_all()
    scene.arrives(PART, at(1))

    assert scene.snapshots_of(PART) == [snapshot(0), snapshot(0)]


def test_changes_go_by_the_interval_between_markers_whenever_they_are_seen(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(MARKER, at(60))
    times = [at(-10), at(0), at(59, 59), at(60), at(90)]
    for moment in reversed(times):
        scene.arrives(f"{CHANGES}{moment:%H%M%S}.csv.gz", moment)

    found = [scene.snapshots_of(f"{CHANGES}{moment:%H%M%S}.csv.gz")[0] for moment in times]
    assert found == [snapshot(0), snapshot(0), snapshot(0), snapshot(60), snapshot(60)]


def test_a_change_delivered_again_goes_where_it_went_before(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(change(5), at(5))
    scene.load_all()
    scene.arrives(change(5), at(6))

    assert scene.snapshots_of(change(5)) == [snapshot(0), snapshot(0)]


def test_changes_of_a_table_without_a_marker_wait_and_hold_up_nothing(scene: SnapshotScene) -> None:
    scene.land(change(5).replace("TAPS", "CARDS"), at(5))
    scene.land(MARKER, at(0))
    scene.discover()

    assert scene.places(change(5).replace("TAPS", "CARDS")) == [WAITS]
    assert scene.claimable() == ["LOAD00000001.csv.gz"]


@pytest.mark.parametrize(("key", "content"), [(PART, b""), (change(0), b""), (f"{TAPS}notes.txt", b"x"), (MARKER, b"")])
def test_what_will_be_refused_does_not_wait_for_a_snapshot(scene: SnapshotScene, key: str, content: bytes) -> None:
    scene.arrives(key, at(0), content)
    assert scene.places(key) == [(PENDING, None)]
    assert scene.claimable() == [key.rpartition("/")[2]]
    scene.arrives(MARKER, at(10))

    if key != MARKER:
        assert scene.places(key) == [(snapshot(10), None)]


def test_a_refused_file_without_a_snapshot_finds_one_when_it_is_retried(scene: SnapshotScene) -> None:
    scene.arrives(PART, at(0), b"")
    scene.finish(PART, Status.ERRORED)
    scene.arrives(MARKER, at(10))
    assert scene.places(PART) == [(PENDING, None)]
    ledger.retry(scene.connection, Scope("cubic"))
    scene.assign()

    assert scene.places(PART) == [(snapshot(10), None)]


def test_a_load_keeps_its_snapshot_through_retry_and_replay(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    scene.arrives(PART, at(1))
    scene.arrives(change(2), at(2))
    scene.finish(PART, Status.ERRORED)
    scene.load_all()
    scene.arrives(MARKER, at(0, 30))
    ledger.retry(scene.connection, Scope("cubic"))
    ledger.replay(scene.connection, Scope("cubic"))
    scene.assign()

    assert scene.snapshots_of(PART) == scene.snapshots_of(change(2)) == [snapshot(0)]


def test_assigning_is_no_move_between_statuses_and_leaves_no_event(scene: SnapshotScene) -> None:
    scene.arrives(PART, at(0))
    scene.arrives(MARKER, at(1))

    assert scene.rows("SELECT why FROM ledger.load_events") == [("discovered",), ("discovered",)]


def test_assign_says_what_it_found_and_is_done_with_it(scene: SnapshotScene) -> None:
    scene.land(MARKER, at(0))
    scene.land(PART, at(1))
    scene.enter()

    assert scene.assign() == discovery.Assigned(snapshots=1, loads=2)
    assert scene.assign() == discovery.Assigned()


def test_a_backlog_larger_than_a_transaction_is_assigned_whole(scene: SnapshotScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_BATCH", 2)
    for number in range(2, 9):
        scene.land(f"{TAPS}LOAD{number:08}.csv.gz", at(1))
    scene.land(MARKER, at(0))
    scene.enter()

    assert scene.assign() == discovery.Assigned(snapshots=1, loads=8)


def test_the_partition_is_the_snapshot_as_it_is_written_everywhere_else(scene: SnapshotScene) -> None:
    scene.connection.execute("SET TimeZone = 'Asia/Kathmandu'")
    scene.arrives(MARKER, at(0))

    assert discovery.snapshots(scene.connection) == [format_snapshot(TEN)]
    assert scene.snapshots_of(MARKER) == discovery.snapshots(scene.connection)


def test_what_another_run_has_claimed_meanwhile_is_left_alone(scene: SnapshotScene) -> None:
    scene.arrives(f"{TAPS}notes.txt", at(0))
    scene.take(f"{TAPS}notes.txt")
    scene.arrives(MARKER, at(1))

    assert scene.rows("SELECT status, snapshot_id FROM ledger.loads WHERE key LIKE %s", "%txt") == [("ingesting", None)]


def test_what_is_claimed_while_it_is_being_assigned_is_left_alone(scene: SnapshotScene, one: Database) -> None:
    scene.arrives(f"{TAPS}notes.txt", at(0))
    scene.land(MARKER, at(1))
    scene.enter()
    with one.connect() as claiming, one.connect() as assigning, ThreadPoolExecutor(1) as pool:
        with claiming.transaction():
            claiming.execute("UPDATE ledger.loads SET status = 'ingesting' WHERE key = %s", [f"{TAPS}notes.txt"])
            assigned = pool.submit(discovery.assign, assigning, scene.registry)
            while not scene.rows("SELECT FROM pg_locks WHERE pid = %s AND NOT granted", assigning.info.backend_pid):
                assert not assigned.done()
        assert assigned.result() == discovery.Assigned(snapshots=1, loads=1)

    assert scene.snapshots_of(MARKER) == [snapshot(1)]
    assert scene.places(f"{TAPS}notes.txt") == [(PENDING, None)]


# The registry in the ledger


def test_sync_enters_tables_with_their_entries(scene: SnapshotScene) -> None:
    rows = scene.rows("SELECT name, landing_prefix, is_active, entry FROM ledger.datasets WHERE name IN ('taps__ct', 'unclassified')")

    taps_ct = scene.registry.tables["taps__ct"]
    assert sorted(rows) == [("taps__ct", CHANGES, True, taps_ct.as_entry()), ("unclassified", "", True, None)]


def test_sync_writes_nothing_when_nothing_has_changed(scene: SnapshotScene) -> None:
    before = scene.rows("SELECT xmin::text, name FROM ledger.datasets ORDER BY name")
    discovery.sync(scene.connection, scene.registry)

    assert scene.rows("SELECT xmin::text, name FROM ledger.datasets ORDER BY name") == before


def test_a_changed_entry_leaves_other_tables_and_a_pause_alone(scene: SnapshotScene) -> None:
    before = dict(scene.rows("SELECT name, xmin::text FROM ledger.datasets"))
    pause_dataset(scene.connection, "cubic", "agg", "by hand")
    scene.use(TABLES.replace("agg, kind: dmap", "agg, kind: dmap, strict: false"))

    after = dict(scene.rows("SELECT name, xmin::text FROM ledger.datasets"))
    assert [name for name in before if before[name] != after[name]] == ["agg"]
    assert scene.rows("SELECT paused_why FROM ledger.datasets WHERE name = 'agg'") == [("by hand",)]


def test_a_new_entry_releases_what_waited_for_it(scene: SnapshotScene) -> None:
    for key in ("ods_qlik/EDW.NEW/LOAD00000001.csv.gz", "ods_qlik/EDW.NEW__ct/1.csv.gz", "dmap/new/a.csv.gz", "dmap/other/a.csv.gz"):
        scene.land(f"cubic/{key}", at(0))
    scene.discover()
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    scene.use(
        f"{TABLES}- {{name: new, prefix: cubic/ods_qlik/EDW.NEW, kind: ods}}\n- {{name: fares, prefix: cubic/dmap/new, kind: dmap}}\n"
    )
    assert scene.claimable() == ["a.csv.gz"], "the others wait for the snapshot that the next tick finds"
    scene.discover()

    looked = "SELECT d.name, l.partition, l.waiting_for FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id ORDER BY 1"
    assert scene.rows(looked) == [
        ("fares", day, None),
        ("new", snapshot(0), None),
        ("new__ct", snapshot(0), None),
        ("unclassified", day, "dataset"),
    ]


def test_what_was_entered_by_an_older_registry_after_the_entry_came_is_released_too(scene: SnapshotScene) -> None:
    older = parse_registry("tables: []")
    seen = StoredObject(MARKER, 1, TEN, "v1")
    arrival = discovery.arrival(older, seen)
    assert arrival is not None
    entries.discover(scene.connection, "cubic", "file:///in", [arrival], TEN)
    scene.use(TABLES)

    assert scene.places(MARKER) == [WAITS]


def test_a_load_given_back_by_a_run_with_an_older_registry_keeps_its_snapshot(scene: SnapshotScene) -> None:
    scene.arrives(MARKER, at(0))
    [load] = scene.take(MARKER)
    with scene.connection.transaction():
        ledger.settle(scene.connection, [ledger.Verdict(load, Status.READY, waiting_for="dataset")])
    assert scene.claimable() == []
    scene.use(TABLES)

    assert scene.places(MARKER) == [(snapshot(0), None)]
    assert scene.claimable() == ["LOAD00000001.csv.gz"]


def test_more_unclassified_loads_than_a_transaction_takes_are_all_released(scene: SnapshotScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_BATCH", 2)
    for number in range(5):
        scene.land(f"cubic/dmap/new/{number}.csv.gz", at(0))
    scene.discover()
    scene.use(f"{TABLES}- {{name: fares, prefix: cubic/dmap/new, kind: dmap}}\n")

    assert len(scene.claimable("fares")) == 5


@pytest.mark.parametrize(
    ("edited", "released"),
    [
        (TABLES.replace("agg, kind: dmap", "agg, kind: dmap, columns: {a: bigint}"), True),
        (TABLES.replace("agg, kind: dmap", "agg, kind: dmap, strict: false"), True),
        (TABLES.replace("events, kind: kafka", "events, kind: kafka, strict: false"), False),
        (TABLES, False),
    ],
)
def test_a_changed_entry_releases_what_waited_for_its_schema(scene: SnapshotScene, edited: str, released: bool) -> None:
    scene.arrives("cubic/dmap/agg/a.csv.gz", at(0))
    [load] = scene.take("cubic/dmap/agg/a.csv.gz")
    with scene.connection.transaction():
        ledger.settle(scene.connection, [ledger.Verdict(load, Status.READY, waiting_for="schema")])
    scene.use(edited)

    assert scene.claimable() == (["a.csv.gz"] if released else [])


def test_a_hold_for_a_schema_outlives_the_assignment_of_a_snapshot(scene: SnapshotScene) -> None:
    scene.arrives(PART, at(0))
    scene.rows("UPDATE ledger.loads SET waiting_for = 'schema' RETURNING id")
    scene.arrives(MARKER, at(1))

    assert scene.places(PART) == [(snapshot(1), "schema")]


# Two at once


def test_two_that_assign_and_two_that_sync_at_once_neither_fail_nor_deadlock(scene: SnapshotScene, one: Database) -> None:
    tables = "".join(f"- {{name: t{number:02}, prefix: cubic/ods_qlik/EDW.T{number:02}, kind: ods}}\n" for number in range(20))
    registry = parse_registry(f"tables:\n{tables}")
    seen = [
        StoredObject(f"cubic/ods_qlik/EDW.T{number:02}/LOAD0000000{part}.csv.gz", 1, at(0, part), "v")
        for number in range(20)
        for part in range(1, 9)
    ]
    arrivals = [found for each in seen if (found := discovery.arrival(parse_registry("tables: []"), each))]
    entries.discover(scene.connection, "cubic", "file:///in", arrivals, TEN)
    start = threading.Barrier(4)

    def at_once(work: Callable[[Connection, Registry], object]) -> None:
        with one.connect() as connection:
            start.wait()
            work(connection, registry)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(at_once, (discovery.sync, discovery.assign, discovery.sync, discovery.assign)))
    discovery.assign(scene.connection, registry)

    assert scene.rows("SELECT count(*) FROM ledger.snapshots") == [(20,)]
    assert scene.rows("SELECT partition, count(*) FROM ledger.loads GROUP BY 1") == [(snapshot(0, 1), 160)]

"""What was overlooked, damaged or left lying about comes to light, and what is merely on its way does not."""

import gzip
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from ingestion_dagster.cubic import reconciliation
from ingestion_dagster.cubic.places import springboard
from ingestion_dagster.cubic.reconciliation import Cleared, Tidied, Unreadable, Unseen
from ingestion_dagster.cubic.registry import PIPELINE, Registry
from ingestion_dagster.cubic.zone import zone
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.object_store import ObjectStore, StoredObject, open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import current
from ingestion_dagster_tests.cubic.conftest import TAPS, Cubic, csv, metadata, moment
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server, new_bucket
from ingestion_dagster_tests.engine.processes import run_until_killed
from ingestion_dagster_tests.metrics.one_database import one_database

__all__ = ["aws_environment", "moto_server", "new_bucket"]

FAULTS = sorted(re.findall(r'fault_point\("([^"]+)"\)', Path(reconciliation.__file__).read_text()))
LOAD, DFM = f"{TAPS}/LOAD00000001.csv.gz", f"{TAPS}/LOAD00000001.dfm"
FARES = "cubic/dmap/agg_fares"
DESCRIBED = metadata({"TAP_ID": "NUMERIC(10,0)", "NOTE": "WSTRING(50)", "FARE": "NUMERIC(10,2)"}, key=["TAP_ID"])
DAY = csv("2026-01-01,3", header="day,count")


@pytest.fixture(scope="module")
def made(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as database:
        yield database


@pytest.fixture
def database(made: Database) -> Database:
    """The module's database as a fresh one."""
    with made.connect() as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('ledger', 'cubic') AND tablename <> 'alembic_version'"
        ).fetchall()
        names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
        connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(names))
    return made


class Reconciled:
    """Reconciliation of a pipeline, an hour and a bit later unless told otherwise."""

    def __init__(self, cubic: Cubic) -> None:
        self.cubic = cubic
        self.now = datetime.now(UTC) + timedelta(hours=2)

    def _call(self, function: Callable[..., Any], **options: Any) -> Any:
        cubic = self.cubic
        with cubic.database.connect() as connection:
            return function(
                connection, cubic.settings, cubic.registry, zone(cubic.settings, cubic.registry), **({"now": self.now} | options)
            )

    def unseen(self, **options: Any) -> Unseen:
        found: Unseen = self._call(reconciliation.unseen, **options)
        return found

    def tidy(self, **options: Any) -> Tidied:
        tidied: Tidied = self._call(reconciliation.tidy, **options)
        return tidied

    def unreadable(self, **options: Any) -> Unreadable:
        found: Unreadable = self._call(reconciliation.unreadable, **options)
        return found


@pytest.fixture
def reconciled(cubic: Cubic) -> Reconciled:
    return Reconciled(cubic)


def archive(cubic: Cubic) -> ObjectStore:
    return open_store(cubic.settings.zone(PIPELINE, "archive", "cubic/archive"))


def loaded(cubic: Cubic, *, days: int = 1) -> None:
    """A snapshot and so many data sets, loaded and archived."""
    cubic.land(LOAD, csv("1,a,1.00"), moment("06:00:00"))
    for day in range(days):
        cubic.land(f"{FARES}/agg_fares_{day}.csv.gz", csv(f"2026-01-01,{day}", header="day,count"), moment("15:00:00"))
    cubic.run()
    assert {state["status"] for state in cubic.states()} == {"archived"}


def test_what_is_in_no_load_is_found_and_what_is_in_one_is_not(reconciled: Reconciled) -> None:
    cubic = reconciled.cubic
    cubic.land(f"{TAPS}/LOAD00000002.csv.gz", csv("2,b,2.00"), moment("06:00:00"))
    cubic.run()
    assert cubic.state(f"{TAPS}/LOAD00000002.csv.gz")["waiting_for"] == "snapshot"
    assert reconciled.unseen() == Unseen(objects=1)
    cubic.land(f"{TAPS}/LOAD00000002.csv.gz", csv("2,c,2.00"), moment("07:00:00"))
    cubic.land(f"{FARES}/agg_fares_1.csv.gz", DAY)
    cubic.land("cubic/other/x.csv", b"x")
    found = reconciled.unseen()
    assert (found.objects, found.unseen, found.orphans, found.late) == (3, 3, 0, 0)
    assert found.datasets == {"taps": 1, "fares": 1, "unclassified": 1}
    assert sorted(found.keys) == [f"{FARES}/agg_fares_1.csv.gz", f"{TAPS}/LOAD00000002.csv.gz", "cubic/other/x.csv"]


def test_what_has_just_come_is_not_said_to_be_overlooked(reconciled: Reconciled) -> None:
    reconciled.cubic.land(f"{FARES}/agg_fares_1.csv.gz", DAY, moment("15:00:00"))
    assert reconciled.unseen(now=datetime.now(UTC)) == Unseen(objects=1)
    assert reconciled.unseen(now=datetime.now(UTC), seconds=0).unseen == 1


def test_more_than_a_page_is_counted_and_only_the_first_are_named(reconciled: Reconciled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "_PAGE", 7)
    for number in range(30):
        reconciled.cubic.land(f"{FARES}/{number}.csv.gz", DAY)
    found = reconciled.unseen()
    assert (found.objects, found.unseen, len(found.keys)) == (30, 30, reconciliation.SHOWN)


def test_metadata_without_a_data_file_is_an_orphan_unless_that_is_on_its_way(reconciled: Reconciled) -> None:
    cubic = reconciled.cubic
    cubic.land(f"{TAPS}/LOAD00000002.csv.gz", csv("2,b,2.00"), moment("06:00:00"), DESCRIBED)
    cubic.run()
    landing = zone(cubic.settings, cubic.registry).landing
    landing.write(DFM, DESCRIBED)
    landing.write("cubic/ods_qlik/EDW.NOBODY/LOAD1.dfm", DESCRIBED)
    cubic.land(f"{TAPS}/LOAD00000003.csv", b"TAP_ID,NOTE,FARE\n", dfm=DESCRIBED)
    found = reconciled.unseen()
    assert (found.objects, found.unseen, found.orphans, found.late) == (6, 1, 2, 0)
    assert set(found.keys) == {DFM, f"{TAPS}/LOAD00000003.csv", "cubic/ods_qlik/EDW.NOBODY/LOAD1.dfm"}


@pytest.mark.parametrize(("content", "place"), [(csv("1,a,1.00"), "archive"), (b"no gzip", "error")])
def test_late_metadata_follows_its_data_file(reconciled: Reconciled, content: bytes, place: str) -> None:
    cubic = reconciled.cubic
    cubic.land(LOAD, content, moment("06:00:00"))
    cubic.run()
    [standing] = [key for key in cubic.keys(place) if key.endswith(".gz")]
    zone(cubic.settings, cubic.registry).landing.write(DFM, DESCRIBED)
    assert reconciled.unseen() == Unseen(objects=1, late=1)
    assert reconciled.tidy(now=datetime.now(UTC)) == Tidied()
    assert reconciled.tidy() == Tidied(moved=1)
    assert cubic.keys("incoming") == []
    beside = standing.removesuffix(".csv.gz") + ".dfm"
    store = open_store(f"{cubic.settings.storage}/cubic/{place}")
    found = store.find(beside)
    assert found is not None
    assert store.read(found) == DESCRIBED
    assert reconciled.tidy() == Tidied()


def test_metadata_that_is_beside_its_data_file_already_is_removed_and_another_is_not_put_in_its_place(reconciled: Reconciled) -> None:
    cubic = reconciled.cubic
    cubic.land(LOAD, csv("1,a,1.00"), moment("06:00:00"), DESCRIBED)
    cubic.run()
    archived = cubic.keys("archive")
    landing = zone(cubic.settings, cubic.registry).landing
    landing.write(DFM, DESCRIBED)
    assert reconciled.tidy() == Tidied(removed=1)
    assert cubic.keys("incoming") == []
    # It may describe the next version of the file, which is yet to come.
    landing.write(DFM, DESCRIBED.replace(b"NOTE", b"MEMO"))
    assert reconciled.unseen() == Unseen(objects=1, orphans=1, keys=(DFM,))
    assert reconciled.tidy() == Tidied()
    assert cubic.keys("incoming") == [DFM]
    assert cubic.keys("archive") == archived


def test_metadata_stays_while_its_data_file_is_to_be_loaded_again(reconciled: Reconciled) -> None:
    cubic = reconciled.cubic
    loaded(cubic)
    zone(cubic.settings, cubic.registry).landing.write(DFM, DESCRIBED)
    with cubic.database.connect() as connection:
        ledger.replay(connection, Scope(PIPELINE))
    assert reconciled.unseen() == Unseen(objects=1)
    assert reconciled.tidy() == Tidied()
    assert cubic.keys("incoming") == [DFM]


TIDY = """
from datetime import UTC, datetime, timedelta
from ingestion_dagster.cubic import reconciliation
from ingestion_dagster.cubic.registry import registry
from ingestion_dagster.cubic.zone import zone
from ingestion_dagster.engine import postgres
from ingestion_dagster.settings import current
settings = current()
tables = registry(settings)
later = datetime.now(UTC) + timedelta(hours=25)
with postgres.locate(settings).connect() as connection:
    reconciliation.tidy(connection, settings, tables, zone(settings, tables), now=later)
    reconciliation.clear_leftovers(settings, later)
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_crash_while_things_are_put_in_order_loses_nothing(reconciled: Reconciled, fault: str) -> None:
    cubic = reconciled.cubic
    loaded(cubic)
    published = cubic.keys("springboard")
    zone(cubic.settings, cubic.registry).landing.write(DFM, DESCRIBED)
    springboard(cubic.settings).write("_staging/abc", b"x")
    run_until_killed(TIDY, fault)
    reconciled.tidy()
    reconciliation.clear_leftovers(cubic.settings, reconciled.now + timedelta(hours=25))
    assert cubic.keys("incoming") == []
    assert cubic.keys("springboard") == published
    [moved] = [seen for seen in archive(cubic).list() if seen.key.endswith(".dfm")]
    assert archive(cubic).read(moved) == DESCRIBED


def test_what_is_missing_or_has_another_size_in_the_archive_is_found(reconciled: Reconciled) -> None:
    cubic = reconciled.cubic
    loaded(cubic, days=3)
    assert reconciled.unreadable() == Unreadable(checked=4)
    first, second, *_ = [key for key in cubic.keys("archive") if key.startswith(FARES)]
    archive(cubic).remove(archive(cubic).find(first))  # type: ignore[arg-type]
    archive(cubic).write(second, b"shorter")
    found = reconciled.unreadable()
    assert (found.checked, found.missing, found.differing, found.damaged) == (4, 1, 1, 0)
    assert set(found.keys) == {first, second}
    assert found.datasets == {"fares": 2}


def test_a_damaged_object_of_the_same_size_is_found_once_it_is_read(reconciled: Reconciled) -> None:
    cubic = reconciled.cubic
    loaded(cubic, days=2)
    broken, *_ = [key for key in cubic.keys("archive") if key.startswith(FARES)]
    content = bytearray(archive(cubic).read(archive(cubic).find(broken)))  # type: ignore[arg-type]
    content[-5] ^= 1
    archive(cubic).write(broken, bytes(content))
    assert reconciled.unreadable() == Unreadable(checked=3)
    found = reconciled.unreadable(days=1)
    assert (found.checked, found.read, found.damaged, found.keys) == (3, 3, 1, (broken,))
    assert found.bytes == sum(seen.size for seen in archive(cubic).list())


def test_in_so_many_days_each_object_was_read_once(reconciled: Reconciled) -> None:
    loaded(reconciled.cubic, days=9)
    read = [reconciled.unreadable(days=3, now=reconciled.now + timedelta(days=day)).read for day in range(3)]
    assert sum(read) == 10
    assert max(read) - min(read) <= 1
    assert reconciled.unreadable(days=1, seconds=-1) == Unreadable(checked=10, unfinished=True)


def test_only_what_was_archived_since_is_looked_for(reconciled: Reconciled) -> None:
    loaded(reconciled.cubic)
    since = datetime.now(UTC)
    reconciled.cubic.land(f"{FARES}/later.csv.gz", csv("2026-01-01,9", header="day,count"), moment("16:00:00"))
    reconciled.cubic.run()
    assert reconciled.unreadable(since=since).checked == 1


def test_an_object_that_is_moved_while_the_archive_is_listed_is_not_missing(
    reconciled: Reconciled, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(reconciled.cubic)

    def partly(self: LocalStore, prefix: str = "") -> Iterator[StoredObject]:
        yield from ()

    monkeypatch.setattr(LocalStore, "list", partly)
    assert reconciled.unreadable() == Unreadable(checked=2)


def test_loads_archived_in_another_place_are_told_of(reconciled: Reconciled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded(reconciled.cubic)
    monkeypatch.setenv("INGESTION_CUBIC_ARCHIVE_URL", (tmp_path / "other").as_uri())
    reconciled.cubic.settings = current()
    assert reconciled.unreadable() == Unreadable(elsewhere=2)


def test_refused_and_superseded_loads_are_not_looked_for(reconciled: Reconciled) -> None:
    cubic = reconciled.cubic
    cubic.land(f"{FARES}/bad.csv.gz", b"no gzip")
    cubic.run()
    cubic.sql("UPDATE ledger.loads SET status = 'archived', location = NULL")
    assert reconciled.unreadable() == Unreadable()


def test_what_a_crash_left_in_the_springboard_goes_after_a_day(cubic: Cubic) -> None:
    loaded(cubic)
    store = springboard(cubic.settings)
    published = cubic.keys("springboard")
    old, young, other = (store.scratch() / name for name in ("cubic-" + "0" * 32, "cubic-" + "1" * 32, "someone-else"))
    day_before = (datetime.now(UTC) - timedelta(hours=25)).timestamp()
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "1.raw").write_bytes(b"x")
        os.utime(folder, (day_before, day_before))
    for folder in (old, other):
        os.utime(folder / "1.raw", (day_before, day_before))
    store.write("_staging/abc", b"x")
    assert reconciliation.clear_leftovers(cubic.settings) == Cleared(staged=0, folders=1)
    assert [folder.exists() for folder in (old, young, other)] == [False, True, True]
    assert reconciliation.clear_leftovers(cubic.settings, datetime.now(UTC) + timedelta(hours=25)) == Cleared(staged=1, folders=1)
    assert cubic.keys("springboard") == published


def test_on_s3_the_same_is_found(
    new_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch, settings: object, database: Database, tables: Registry
) -> None:
    monkeypatch.setenv("INGESTION_CUBIC_METADATA_SECONDS", "0")
    for versioned in (False, True):
        monkeypatch.setenv("INGESTION_STORAGE_URL", f"s3://{new_bucket(versioned=versioned)}/lake")
        with database.connect() as connection:
            connection.execute("TRUNCATE ledger.loads, ledger.snapshots CASCADE")
        cubic = Cubic(current(), database, tables)
        reconciled = Reconciled(cubic)
        landing = zone(cubic.settings, tables).landing
        landing.write(LOAD, csv("1,a,1.00"))
        landing.write(f"{FARES}/1.csv.gz", gzip.compress(b"day,count\n2026-01-01,1\n"))
        cubic.run()
        assert {state["status"] for state in cubic.states()} == {"archived"}
        landing.write(DFM, DESCRIBED)
        landing.write(f"{FARES}/2.csv.gz", DAY)
        assert reconciled.unseen(now=datetime.now(UTC)) == Unseen(objects=2)
        assert reconciled.unseen() == Unseen(objects=2, unseen=1, late=1, datasets={"fares": 1}, keys=(f"{FARES}/2.csv.gz",))
        assert reconciled.tidy() == Tidied(moved=1)
        assert [seen.key for seen in landing.list()] == [f"{FARES}/2.csv.gz"]
        assert reconciled.unreadable(days=1).read == 2
        [lost] = [seen for seen in archive(cubic).list() if seen.key.startswith(FARES)]
        archive(cubic).remove(lost)
        assert (reconciled.unreadable().missing, reconciled.unreadable().keys) == (1, (lost.key,))
        springboard(cubic.settings).write("_staging/abc", b"x")
        assert reconciliation.clear_leftovers(cubic.settings).staged == 0
        assert reconciliation.clear_leftovers(cubic.settings, datetime.now(UTC) + timedelta(hours=25)).staged == 1

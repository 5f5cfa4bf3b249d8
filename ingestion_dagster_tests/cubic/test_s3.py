"""The cubic pipeline on S3, from landing to archive: the same promises, other ways to break them."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion_dagster.cubic import publication
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.object_store import ObjectStore, StoredObject
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.engine.s3_store import S3Store
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic import driver
from ingestion_dagster_tests.cubic import test_crashes as crashes
from ingestion_dagster_tests.cubic.conftest import TAPS, csv, metadata
from ingestion_dagster_tests.cubic.test_crashes import CHANGE_TYPES, EVENTS, FARES, TYPES, changes, records
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, let_leases_run_out
from ingestion_dagster_tests.metrics.test_s3 import everything_below

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket
registry_file = crashes.registry_file
one = crashes.one

NewBucket = Callable[..., str]
LOAD1, LOAD2, LOAD3 = (f"{TAPS}/LOAD0000000{number}.csv.gz" for number in (1, 2, 3))
CHANGE = f"{TAPS}__ct/20260102-070000000.csv.gz"
FARE = f"{FARES}/a.csv.gz"


@pytest.fixture(params=["unversioned", "versioned"])
def settings(request: pytest.FixtureRequest, one: Database, registry_file: Any, new_bucket: NewBucket) -> Iterator[Settings]:
    """The pipeline in one bucket; nothing waits for a .dfm."""
    bucket = new_bucket(versioned=request.param == "versioned")
    with driver.quick_folder() as home:
        yield driver.settings_for(
            driver.emptied(one), home, registry_file, storage_url=f"s3://{bucket}/some prefix/in", cubic_metadata_seconds=0
        )


def land(settings: Settings, key: str, content: bytes, dfm: bytes | None = None) -> StoredObject:
    landing = driver.store(settings, "incoming")
    if dfm is not None:
        landing.write(key.partition(".csv")[0] + ".dfm", dfm)
    return landing.write(key, content)


def land_scene(settings: Settings) -> None:
    """A snapshot of three parts, one of them bad, its changes, a data set and a batch of records."""
    land(settings, LOAD1, csv("1,one,2.40", "2,two,"), metadata(TYPES, 2, ("TAP_ID",)))
    land(settings, LOAD2, csv("3,three,2.40"), metadata(TYPES, 1, ("TAP_ID",)))
    land(settings, LOAD3, csv("4,four,2.40")[:-9], metadata(TYPES, 1, ("TAP_ID",)))
    land(settings, CHANGE, changes("U,1,uno,2.50"), metadata(CHANGE_TYPES, 1))
    land(settings, FARE, csv("2026-01-01,1", header="day,count"))
    land(settings, f"{EVENTS}/a.json.gz", records(*range(4)))


def rows(settings: Settings, folder: str, column: str) -> list[Any]:
    springboard = driver.store(settings, "springboard")
    parts = [springboard.read(seen) for seen in springboard.list(folder)]
    return sorted(value for part in parts for value in pq.read_table(pa.BufferReader(part))[column].to_pylist())


def keys(settings: Settings, place: str) -> list[str]:
    """What stands there, without versions, snapshots and times."""
    return sorted(re.sub(r"=\d{8}T\d{6}Z", "=TIME", driver.plain(seen.key)) for seen in driver.store(settings, place).list())


def assert_scene(settings: Settings) -> None:
    """Each file of the scene is where it belongs, once, and its rows are."""
    assert rows(settings, TAPS, "tap_id") == [1, 2, 3]
    assert rows(settings, f"{TAPS}__ct", "note") == ["uno"]
    assert rows(settings, FARES, "count") == [1]
    assert rows(settings, EVENTS, "offset") == [0, 1, 2, 3]
    assert keys(settings, "archive") == [
        "cubic/dmap/agg_fares/a.VERSION.csv.gz",
        "cubic/kafka/events/a.VERSION.json.gz",
        f"{TAPS}/snapshot=TIME/LOAD00000001.VERSION.csv.gz",
        f"{TAPS}/snapshot=TIME/LOAD00000001.VERSION.dfm",
        f"{TAPS}/snapshot=TIME/LOAD00000002.VERSION.csv.gz",
        f"{TAPS}/snapshot=TIME/LOAD00000002.VERSION.dfm",
        f"{TAPS}__ct/snapshot=TIME/20260102-070000000.VERSION.csv.gz",
        f"{TAPS}__ct/snapshot=TIME/20260102-070000000.VERSION.dfm",
    ]
    assert keys(settings, "error") == [
        f"{TAPS}/timestamp=TIME/LOAD00000003.VERSION.csv.gz",
        f"{TAPS}/timestamp=TIME/LOAD00000003.VERSION.csv.gz.report.json",
        f"{TAPS}/timestamp=TIME/LOAD00000003.VERSION.dfm",
    ]
    assert everything_below(driver.store(settings, "incoming").url) == []
    published = [key for key in keys(settings, "springboard") if not key.startswith(publication.STAGING)]
    assert len(published) == len({*published}) == 2 * 5
    assert_history_is_legal(settings)


def staged(settings: Settings) -> list[str]:
    return [seen.key for seen in driver.store(settings, "springboard").list(publication.STAGING)]


def test_files_of_all_kinds_go_their_whole_way_and_nothing_is_left_staged(settings: Settings) -> None:
    land_scene(settings)
    driver.run(settings)
    assert_scene(settings)
    assert staged(settings) == []
    assert [key for key in everything_below(driver.store(settings, "springboard").url) if publication.STAGING in key] == []


@pytest.mark.parametrize("fault", crashes.ON_S3)
@pytest.mark.parametrize("settings", ["unversioned"], indirect=True)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(fault: str, settings: Settings) -> None:
    land_scene(settings)
    code, complaint = driver.start(settings, fault=fault).end()
    assert code == -signal.SIGKILL, complaint
    let_leases_run_out(settings)
    driver.finish(settings)
    assert_scene(settings)


def test_two_processes_over_one_bucket_lose_nothing_and_double_nothing(settings: Settings) -> None:
    settings = settings.model_copy(update={"cubic_batch_files": 1})
    land_scene(settings)
    driver.discover(settings)
    started = [driver.start(settings) for _ in range(2)]
    for process in started:
        process.end()
    driver.finish(settings)
    assert_scene(settings)


@pytest.mark.parametrize("settings", ["unversioned"], indirect=True)
def test_a_publication_that_fails_in_the_middle_leaves_nothing_staged_and_is_made_good(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, FARE, csv("2026-01-01,1", header="day,count"))
    copy = ObjectStore.copy
    copies = []

    def failing(store: ObjectStore, obj: StoredObject, target: ObjectStore, key: str) -> StoredObject:
        copies.append(key)
        if len(copies) == 2:
            raise Transient("object_store_unavailable", "away")
        return copy(store, obj, target, key)

    monkeypatch.setattr(ObjectStore, "copy", failing)
    with pytest.raises(Transient):
        driver.run(settings)
    assert len(copies) == 2
    assert staged(settings) == []
    assert [load["status"] for load in driver.loads(settings)] == ["ready"]
    driver.finish(settings)
    assert rows(settings, FARES, "count") == [1]


@pytest.mark.parametrize("settings", ["unversioned"], indirect=True)
def test_a_copy_that_differs_from_its_source_keeps_the_source(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    land(settings, LOAD1, csv("1,one,2.40"), metadata(TYPES, 1))
    receive = S3Store.receive

    def torn(store: S3Store, source: ObjectStore, obj: StoredObject, key: str) -> StoredObject:
        if "/archive" in store.url and key.endswith(".dfm"):
            raise Transient("object_store_unavailable", "the copy differs from its source")
        return receive(store, source, obj, key)

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "receive", torn)
        assert driver.run(settings).moves_pending == 1
    assert {seen.key for seen in driver.store(settings, "incoming").list()} == {LOAD1, LOAD1.replace(".csv.gz", ".dfm")}
    let_leases_run_out(settings)
    driver.finish(settings)
    assert len(keys(settings, "archive")) == 2
    assert rows(settings, TAPS, "tap_id") == [1]


def test_an_issue_that_nobody_listed_does_not_undo_the_one_that_replaced_it(settings: Settings) -> None:
    """A versioned bucket shows the first one again once the second has been moved away."""
    land(settings, FARE, csv("2026-01-01,1", header="day,count"))
    time.sleep(1.1)  # S3 tells times in seconds
    land(settings, FARE, csv("2026-01-01,2", header="day,count"))
    driver.finish(settings)
    assert rows(settings, FARES, "count") == [2]


def test_an_issue_that_was_overwritten_before_it_was_read_does_not_undo_the_one_that_replaced_it(settings: Settings) -> None:
    land(settings, FARE, csv("2026-01-01,1", header="day,count"))
    driver.discover(settings)
    time.sleep(1.1)
    land(settings, FARE, csv("2026-01-01,2", header="day,count"))
    driver.finish(settings)
    assert rows(settings, FARES, "count") == [2]


def test_a_part_that_was_overwritten_before_it_was_read_does_not_take_the_others_metadata_with_it(settings: Settings) -> None:
    """Qlik restarts between two runs: the same name again, with other rows, and a `.dfm` that counts them."""
    land(settings, LOAD1, csv("1,one,2.40"), metadata(TYPES, 1, ("TAP_ID",)))
    driver.discover(settings)
    time.sleep(1.1)
    land(settings, LOAD1, csv("1,one,2.40", "2,two,1.00"), metadata(TYPES, 2, ("TAP_ID",)))
    for _ in range(2):
        driver.run(settings)
    newest = driver.loads(settings)[-1]
    assert (newest["status"], newest["error_code"], newest["rows_written"], newest["problems"]) == ("archived", None, 2, None)


def test_a_file_that_is_landed_twice_is_a_duplicate_and_writes_nothing(settings: Settings) -> None:
    for _ in range(2):
        land(settings, FARE, csv("2026-01-01,1", header="day,count"))
        driver.run(settings)
        time.sleep(1.1)
    first, second = driver.loads(settings)
    assert (second["status"], second["original_number"], second["rows_written"]) == ("archived", 1, 0)
    assert first["original"] is None
    assert rows(settings, FARES, "count") == [1]


@pytest.mark.parametrize("settings", ["unversioned"], indirect=True)
def test_what_was_refused_is_loaded_from_the_error_zone_with_its_metadata(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a value of a record")

    land(settings, LOAD1, csv("1,one,2.40"), metadata(TYPES, 1))
    with monkeypatch.context() as patch:
        patch.setattr("ingestion_dagster.cubic.ods.convert_csv", broken)
        driver.run(settings)
    assert len(keys(settings, "error")) == 3
    driver.retry(settings)
    driver.finish(settings)
    assert keys(settings, "error") == []
    assert len(keys(settings, "archive")) == 2
    [load] = driver.loads(settings)
    assert (load["status"], load["problems"], load["dataset"]) == ("archived", None, "taps")

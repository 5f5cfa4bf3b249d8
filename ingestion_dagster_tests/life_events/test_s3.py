"""Files of registrations in a bucket, with versions and without: that very version is read and deleted, and no other."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.object_store import StoredObject, open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.engine.s3_store import S3Store
from ingestion_dagster.life_events.registry import PIPELINE
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, let_leases_run_out, query
from ingestion_dagster_tests.life_events import driver, loading
from ingestion_dagster_tests.life_events.loading import group, loads, numbered, registration, states
from ingestion_dagster_tests.metrics.test_s3 import everything_below

one = loading.one
moto_server, aws_environment, new_bucket = s3.moto_server, s3.aws_environment, s3.new_bucket

NewBucket = Callable[..., str]
UNVERSIONED = pytest.mark.parametrize("settings", ["unversioned"], indirect=True)
VERSIONED = pytest.mark.parametrize("settings", ["versioned"], indirect=True)


@pytest.fixture(params=["unversioned", "versioned"])
def settings(request: pytest.FixtureRequest, one: Database, new_bucket: NewBucket) -> Iterator[Settings]:
    """The pipeline in one bucket."""
    bucket = new_bucket(versioned=request.param == "versioned")
    with driver.quick_folder() as home:
        yield driver.settings_for(driver.emptied(one), home, storage_url=f"s3://{bucket}/some prefix")


def landing_url(settings: Settings) -> str:
    return settings.zone(PIPELINE, "landing", "life_events/incoming")


def land(settings: Settings, key: str, content: bytes) -> StoredObject:
    return open_store(landing_url(settings)).write(key, content)


def standing(settings: Settings) -> list[str]:
    return sorted(seen.key for seen in open_store(landing_url(settings)).list())


def in_quarantine(settings: Settings) -> list[str]:
    """What stands there, without versions."""
    url = settings.zone(PIPELINE, "quarantine", "life_events/quarantine")
    return sorted(".".join(part for number, part in enumerate(seen.key.split(".")) if number != 1) for seen in open_store(url).list())


def versions(settings: Settings) -> list[str]:
    """Versions of all objects in the bucket, delete markers too."""
    bucket = landing_url(settings).split("/")[2]
    answer = boto3.client("s3", region_name="eu-west-2").list_object_versions(Bucket=bucket)
    return sorted(each["Key"] for each in [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())])


def test_what_is_loaded_is_gone_in_every_version_and_what_is_refused_is_in_quarantine(settings: Settings) -> None:
    land(settings, "a b+é.xml", numbered(1, 2, 3, 4))
    land(settings, "bad.xml", numbered(5, count=2))
    land(settings, "partly.xml", group(registration(6), registration(7, bad=True)))
    driver.run(settings)
    assert [row[1] for row in sorted(loads(settings))] == ["archived", "errored", "archived"]
    assert states(settings) == {"pending": 5}
    assert everything_below(landing_url(settings)) == []
    assert in_quarantine(settings) == ["bad.xml", "bad.xml.report.json", "partly.xml.report.json"]
    assert [key for key in versions(settings) if "incoming" in key] == []
    assert_history_is_legal(settings)


@VERSIONED
def test_an_older_version_that_nobody_has_seen_is_read_once_the_newer_is_deleted(settings: Settings) -> None:
    land(settings, "a.xml", numbered(1, 2))
    time.sleep(1.1)  # S3 tells times in seconds
    land(settings, "a.xml", numbered(3))
    for _ in range(3):
        driver.run(settings)
    assert sorted(row[1:5] for row in loads(settings)) == [("archived", None, 1, 1), ("archived", None, 2, 2)]
    assert states(settings) == {"pending": 3}
    assert versions(settings) == []


@VERSIONED
def test_a_version_that_was_seen_and_overwritten_before_it_was_read_is_read_all_the_same(settings: Settings) -> None:
    land(settings, "a.xml", numbered(1, 2))
    driver.discover(settings)
    land(settings, "a.xml", numbered(3))
    for _ in range(2):
        driver.run(settings)
    assert states(settings) == {"pending": 3}
    assert versions(settings) == []


@UNVERSIONED
def test_a_file_overwritten_before_it_was_read_is_loaded_in_its_new_version(settings: Settings) -> None:
    land(settings, "a.xml", numbered(1, 2))
    driver.discover(settings)
    land(settings, "a.xml", numbered(3))
    driver.run(settings)
    assert [row[1:3] for row in loads(settings)] == [("archived", "superseded"), ("archived", None)]
    assert states(settings) == {"pending": 1}
    assert standing(settings) == []


def test_a_file_overwritten_while_it_was_staged_is_not_deleted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    land(settings, "a.xml", numbered(1, 2))
    remove = S3Store.remove
    late: list[StoredObject] = []

    def overwritten(store: S3Store, obj: StoredObject) -> bool:
        if not late:
            late.append(land(settings, "a.xml", numbered(3)))
        return remove(store, obj)

    monkeypatch.setattr(S3Store, "remove", overwritten)
    driver.run(settings)
    assert standing(settings) == ["a.xml"]
    driver.run(settings)
    assert standing(settings) == []
    assert states(settings) == {"pending": 3}
    assert versions(settings) == []


@UNVERSIONED
@pytest.mark.parametrize("lie", ["refuses", "forgets"])
def test_a_deletion_that_did_not_happen_is_repeated_before_the_load_is_done(
    settings: Settings, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, "a.xml", numbered(1))

    def failing(_store: S3Store, _obj: StoredObject) -> bool:
        if lie == "refuses":
            raise Transient("object_store_unavailable", "no")
        return True

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "remove", failing)
        assert driver.run(settings).moves_pending == 1
    assert query(settings, "SELECT status FROM ledger.loads") == [("archiving",)]
    assert query(settings, "SELECT count(*) FROM life_events.audit WHERE event_name = 'FILE_DELETED'") == [(0,)]
    let_leases_run_out(settings)
    driver.run(settings)
    assert query(settings, "SELECT status FROM ledger.loads") == [("archived",)]
    assert query(settings, "SELECT count(*) FROM life_events.audit WHERE event_name = 'FILE_DELETED'") == [(1,)]
    assert standing(settings) == []
    assert states(settings) == {"pending": 1}


@UNVERSIONED
def test_a_bucket_that_stops_answering_midway_fails_the_run_and_charges_nobody(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    land(settings, "a.xml", numbered(1))
    driver.discover(settings)

    def away(*_: Any) -> Any:
        raise Transient("object_store_unavailable", "away")

    def breaking(store: S3Store, obj: StoredObject) -> Iterator[bytes]:
        yield numbered(1)[:100]
        away()

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "stream", breaking)
        patch.setattr(S3Store, "find", away)
        with pytest.raises(Transient):
            driver.run(settings)
    assert query(settings, "SELECT status, attempts FROM ledger.loads") == [("ready", 0)]
    driver.run(settings)
    assert states(settings) == {"pending": 1}


@UNVERSIONED
def test_a_quarantined_file_is_retried_from_there_and_leaves_it(settings: Settings) -> None:
    land(settings, "a.xml", numbered(1, 2))
    driver.run(settings.model_copy(update={"life_events_max_file_bytes": 10}))
    assert in_quarantine(settings) == ["a.xml", "a.xml.report.json"]
    driver.retry(settings)
    driver.run(settings)
    assert in_quarantine(settings) == []
    assert states(settings) == {"pending": 2}


@pytest.mark.parametrize(
    "fault", ["life_events.stage.after", "transition.archiving.archived.before", "object_store.copy.after_write", "landing.report.after"]
)
@UNVERSIONED
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(settings: Settings, fault: str) -> None:
    land(settings, "a.xml", numbered(1, 2, 3, 4))
    land(settings, "bad.xml", numbered(5, count=2))
    code, complaint = driver.start(settings, fault=fault).end()
    assert code == -signal.SIGKILL, complaint
    let_leases_run_out(settings)
    driver.finish(settings)
    assert sorted(row[1] for row in loads(settings)) == ["archived", "errored"]
    assert states(settings) == {"pending": 4}
    assert standing(settings) == []
    assert in_quarantine(settings) == ["bad.xml", "bad.xml.report.json"]

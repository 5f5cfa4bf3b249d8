"""The metrics pipeline on S3, from landing to archive: the same promises, other ways to break them."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ingestion_dagster.engine import ledger, moving
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.engine.s3_store import S3Store
from ingestion_dagster.metrics.load import Job, load_metrics
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.metrics.registry import FILE_TYPES
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.metrics import driver
from ingestion_dagster_tests.metrics.conftest import headline_payload, time_series_payload

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket

NewBucket = Callable[..., str]


def in_one_storage(new_bucket: NewBucket, versioned: bool) -> dict[str, str]:
    return {"storage_url": f"s3://{new_bucket(versioned=versioned)}/some prefix/in"}


def in_buckets_of_their_own(new_bucket: NewBucket, versioned: bool) -> dict[str, str]:
    places = ("landing", "processed", "archive", "error")
    return {f"metrics_{place}_url": f"s3://{new_bucket(versioned=versioned)}" for place in places}


def settings_on(database: Database, home: Path, **urls: Any) -> Settings:
    return Settings(home=home, database_url=database.sqlalchemy_url, settle_seconds=0, **urls)


@pytest.fixture(params=["unversioned", "versioned"])
def settings(request: pytest.FixtureRequest, database: Database, tmp_path: Path, new_bucket: NewBucket) -> Settings:
    """The pipeline in one bucket."""
    return settings_on(database, tmp_path, **in_one_storage(new_bucket, request.param == "versioned"))


def land(settings: Settings, key: str, content: Mapping[str, Any] | bytes) -> StoredObject:
    return zone(settings).landing.write(key, driver.as_bytes(content))


def is_versioned(settings: Settings) -> bool:
    return not next(iter(known_versions(settings))).startswith("etag:")


def known_versions(settings: Settings) -> list[str]:
    with Database.at(settings.database_url or "").connect() as connection:
        return [row[0] for row in connection.execute("SELECT version FROM ledger.loads ORDER BY id")]


def values(settings: Settings) -> list[float]:
    """The live values of all series."""
    with Database.at(settings.database_url or "").connect() as connection:
        return [row[0] for row in connection.execute("SELECT metric_value FROM metrics.live_time_series ORDER BY 1")]


def statuses(settings: Settings) -> list[tuple[str, str, str | None]]:
    return [(load["key"], load["status"], load["error_code"]) for load in driver.loads(settings)]


def everything_below(url: str) -> list[str]:
    """Keys of all versions, and of delete markers, that a bucket holds below a URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    pages = boto3.client("s3", region_name="eu-west-2").get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
    return [found["Key"] for page in pages for found in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]]


ODD_KEYS = ["a b.json", "1+1=2.json", "é ü.json", "日本.json", "sub/folder/x.json", "in/in/in.json", "100%.json", "a%20b.json", "no suffix"]


@pytest.mark.parametrize("versioned", [False, True], ids=["unversioned", "versioned"])
@pytest.mark.parametrize("place", [in_one_storage, in_buckets_of_their_own])
def test_no_name_keeps_a_file_from_its_tables_and_its_place(
    place: Callable[[NewBucket, bool], dict[str, str]], versioned: bool, database: Database, tmp_path: Path, new_bucket: NewBucket
) -> None:
    settings = settings_on(database, tmp_path, **place(new_bucket, versioned))
    good = {key: driver.as_bytes(time_series_payload([("2023-06-20", 1)], stratum=key)) for key in ODD_KEYS}
    bad = {f"bad {key}": driver.as_bytes(time_series_payload(sex="banana", stratum=key)) for key in ODD_KEYS}
    for key, raw in (good | bad).items():
        land(settings, key, raw)
    driver.run(settings)
    assert {key: status for key, status, _ in statuses(settings)} == dict.fromkeys(good, "archived") | dict.fromkeys(bad, "errored")
    assert len(driver.tables(settings)["api_time_series"]) == len(ODD_KEYS)
    files = driver.files(settings)
    assert files["in"] == []
    assert everything_below(zone(settings).landing.url) == []
    assert dict(files["processed"]) == {key: raw.decode() for key, raw in good.items()}
    assert sorted(raw for _, raw in files["archive"]) == sorted(raw.decode() for raw in good.values())
    refused = dict(files["failed"])
    assert len(refused) == 2 * len(bad)
    for key, raw in bad.items():
        folder, slash, name = key.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        moved = f"{folder}{slash}{stem}.VERSION.{suffix}" if dot else f"{key}.VERSION"
        assert refused[moved] == raw.decode()
        assert "unknown_sex" in refused[f"{moved}.report.json"]
    assert_history_is_legal(settings)


def test_an_object_overwritten_between_discovery_and_reading_is_loaded_as_what_it_is_now(settings: Settings) -> None:
    land(settings, "a.json", time_series_payload([("2023-06-20", 1)]))
    driver.discover(settings)
    newer = time_series_payload([("2023-06-20", 2)])
    land(settings, "a.json", newer)
    driver.run(settings)
    assert values(settings) == [2]
    # A versioned bucket still has the version that was discovered.
    assert statuses(settings) == [("a.json", "archived", None if is_versioned(settings) else "superseded"), ("a.json", "archived", None)]
    assert driver.files(settings)["processed"] == [("a.json", driver.as_bytes(newer).decode())]
    assert everything_below(zone(settings).landing.url) == []
    assert len(driver.files(settings)["archive"]) == (2 if is_versioned(settings) else 1)


def test_a_version_that_nobody_listed_does_not_undo_the_correction_that_replaced_it(settings: Settings) -> None:
    """Two uploads between two listings. A versioned bucket shows the first one again once the second has been moved away."""
    land(settings, "a.json", time_series_payload([("2023-06-20", 1)]))
    time.sleep(1.1)  # S3 tells times in seconds
    newer = time_series_payload([("2023-06-20", 2)])
    land(settings, "a.json", newer)
    driver.finish(settings)
    assert values(settings) == [2]
    assert driver.files(settings)["processed"] == [("a.json", driver.as_bytes(newer).decode())]


def test_a_version_of_the_same_second_that_nobody_listed_does_not_undo_the_correction_either(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = S3Store._marks

    def within_one_second(store: S3Store, size: int, modified: datetime, etag: str, version: str) -> tuple[int, datetime, str]:
        size, _, found = marks(store, size, modified, etag, version)
        return size, datetime(2024, 5, 6, 12, tzinfo=UTC), found

    monkeypatch.setattr(S3Store, "_marks", within_one_second)
    land(settings, "a.json", time_series_payload([("2023-06-20", 1)]))
    newer = time_series_payload([("2023-06-20", 2)])
    land(settings, "a.json", newer)
    driver.finish(settings)
    assert values(settings) == [2]
    assert driver.files(settings)["processed"] == [("a.json", driver.as_bytes(newer).decode())]
    assert len(known_versions(settings)) == (2 if is_versioned(settings) else 1)


@pytest.mark.parametrize("moment", ["copy", "remove"])
def test_a_version_that_arrives_during_the_move_is_not_lost(moment: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = (time_series_payload([("2023-06-20", value)]) for value in (1, 2))
    original = getattr(S3Store, moment)
    arrived: list[StoredObject] = []

    def overtaken(store: S3Store, obj: StoredObject, *others: Any) -> Any:
        if not arrived:
            arrived.append(land(settings, "a.json", newer))
        return original(store, obj, *others)

    monkeypatch.setattr(S3Store, moment, overtaken)
    land(settings, "a.json", older)
    driver.run(settings)
    assert arrived
    assert [seen.version for seen in zone(settings).landing.list()] == [arrived[0].version], "the newer version was taken away unread"
    driver.finish(settings)
    assert values(settings) == [2]
    files = driver.files(settings)
    assert files["in"] == []
    assert files["processed"] == [("a.json", driver.as_bytes(newer).decode())]
    archived = [raw for _, raw in files["archive"]]
    assert driver.as_bytes(newer).decode() in archived
    if moment == "remove" or is_versioned(settings):
        assert driver.as_bytes(older).decode() in archived


def test_an_object_that_was_moved_and_stands_there_again_is_moved_again_and_not_loaded_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"good.json": time_series_payload(), "bad.json": time_series_payload(sex="banana")}
    for key, payload in content.items():
        land(settings, key, payload)
    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "remove", lambda store, obj: False)
        driver.run(settings)
    before = driver.left_behind(settings)
    assert {key for key, _ in before["files"]["in"]} == {*content}
    driver.run(settings)
    driver.run(settings)
    after = driver.left_behind(settings)
    assert after["files"]["in"] == []
    assert differences({**after, "files": {**after["files"], "in": None}}, {**before, "files": {**before["files"], "in": None}}) == []
    assert_history_is_legal(settings)


def test_a_file_that_is_landed_twice_is_a_duplicate_and_writes_nothing(settings: Settings) -> None:
    land(settings, "a.json", time_series_payload())
    driver.run(settings)
    before = driver.tables(settings)
    time.sleep(1.1)  # S3 tells times in seconds
    land(settings, "a.json", time_series_payload())
    driver.run(settings)
    first, second = driver.loads(settings)
    assert (second["status"], second["original"], second["original_number"], second["rows_written"]) == ("archived", "a.json", 1, 0)
    assert first["original"] is None
    assert driver.tables(settings) == before
    assert driver.files(settings)["in"] == []


def test_no_page_of_a_long_listing_is_missed(settings: Settings) -> None:
    client = boto3.client("s3", region_name="eu-west-2")
    bucket, _, prefix = zone(settings).landing.url.removeprefix("s3://").partition("/")
    keys = {f"folder {number % 7}/{number}.json" for number in range(1050)}

    def put(key: str) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"{}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, keys))
    driver.discover(settings)
    assert {key for key, _, _ in statuses(settings)} == keys
    driver.discover(settings)
    assert len(statuses(settings)) == len(keys)


def test_a_bucket_that_is_missing_is_named_and_nothing_is_claimed(database: Database, tmp_path: Path, new_bucket: NewBucket) -> None:
    urls = in_buckets_of_their_own(new_bucket, versioned=False)
    settings = settings_on(database, tmp_path, **urls | {"metrics_landing_url": "s3://bucket-that-is-missing"})
    with pytest.raises(ConfigurationError, match="bucket-that-is-missing"):
        driver.run(settings)
    assert driver.loads(settings) == []


def test_an_archive_that_is_missing_keeps_the_sources_where_they_are(
    database: Database, tmp_path: Path, new_bucket: NewBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "bucket-made-later"
    urls = in_buckets_of_their_own(new_bucket, versioned=False) | {"metrics_archive_url": f"s3://{missing}"}
    settings = settings_on(database, tmp_path, **urls)
    land(settings, "good.json", time_series_payload([("2023-06-20", 1)]))
    land(settings, "bad.json", time_series_payload(sex="banana"))
    outcome = driver.run(settings)
    assert outcome.moves_pending == 1
    assert [seen.key for seen in zone(settings).landing.list()] == ["good.json"]
    boto3.client("s3", region_name="eu-west-2").create_bucket(Bucket=missing, CreateBucketConfiguration={"LocationConstraint": "eu-west-2"})
    let_leases_run_out(settings)
    driver.finish(settings)
    assert statuses(settings) == [("bad.json", "errored", "unknown_sex"), ("good.json", "archived", None)]
    assert values(settings) == [1]
    assert len(driver.files(settings)["archive"]) == 1


class Outage:
    """A server that can go away and come back under the same address, with all it holds."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()

    def begin(self) -> None:
        self._server.stop()

    def end(self) -> None:
        self._server = ThreadedMotoServer(self.host, self.port, verbose=False)
        self._server.start()


@pytest.fixture
def outage(aws_environment: pytest.MonkeyPatch, new_bucket: NewBucket) -> Iterator[Outage]:
    """After `new_bucket`, whose server shares what it holds with this one."""
    server = Outage()
    aws_environment.setenv("AWS_ENDPOINT_URL", f"http://{server.host}:{server.port}")
    yield server
    server.begin()


@pytest.fixture
def away(outage: Outage, database: Database, tmp_path: Path, new_bucket: NewBucket) -> Settings:
    """Two files in a bucket of the server that goes away."""
    settings = settings_on(database, tmp_path, **in_one_storage(new_bucket, versioned=False))
    land(settings, "good.json", time_series_payload([("2023-06-20", 1)]))
    land(settings, "bad.json", time_series_payload(sex="banana"))
    return settings


ALL_WELL = [("bad.json", "errored", "unknown_sex"), ("good.json", "archived", None)]


def test_an_outage_before_discovery_loses_nothing(outage: Outage, away: Settings) -> None:
    driver.discover(away)
    outage.begin()
    with pytest.raises(Transient):
        driver.run(away)
    assert {status for _, status, _ in statuses(away)} == {"ready"}
    outage.end()
    driver.finish(away)
    assert statuses(away) == ALL_WELL
    assert values(away) == [1]


def test_an_outage_while_a_run_reads_ends_the_run_and_charges_no_load(outage: Outage, away: Settings, database: Database) -> None:
    driver.discover(away)
    outage.begin()
    run = Claims(database, Scope(PIPELINE), "in the outage", Limits())
    with pytest.raises(Transient), database.connect() as connection, run as claims:
        load_metrics(claims, Job(zone(away), frozenset(FILE_TYPES), driver.NOW), connection)
    with database.connect() as connection:
        assert connection.execute("SELECT attempts FROM ledger.loads").fetchall() == [(0,), (0,)]
    outage.end()
    let_leases_run_out(away)
    driver.finish(away)
    assert statuses(away) == ALL_WELL
    assert values(away) == [1]


def test_an_outage_between_commit_and_move_leaves_the_move_to_the_next_run(
    outage: Outage, away: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = moving.move

    def cut_off(*arguments: Any, **options: Any) -> list[ledger.Load]:
        outage.begin()
        return move(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(moving, "move", cut_off)
        assert driver.run(away).moves_pending == 2
    outage.end()
    assert len(list(zone(away).landing.list())) == 2
    let_leases_run_out(away)
    driver.finish(away)
    assert statuses(away) == ALL_WELL
    assert values(away) == [1]


def land_mixed(settings: Settings, count: int) -> None:
    """Files of as many series, of three types; every sixth bad."""
    kinds: list[Callable[[str], dict[str, Any]]] = [
        lambda stratum: time_series_payload(stratum=stratum),
        lambda stratum: headline_payload(stratum=stratum),
        lambda stratum: time_series_payload(stratum=stratum, metric_group="cases", metric="COVID-19_cases_casesByDay"),
    ]
    for number in range(count):
        payload = kinds[number % 3](f"stratum {number}")
        land(settings, f"folder {number % 2}/file +{number}.json", payload | ({"sex": "banana"} if number % 6 == 5 else {}))


@pytest.mark.parametrize(
    "point",
    [
        "object_store.copy.after_write:3",
        "landing.report.before",
        "landing.report.after",
        "transition.archiving.archived.before",
        "transition.erroring.errored.before",
    ],
)
def test_after_a_crash_a_rerun_ends_like_an_undisturbed_run(point: str, settings: Settings) -> None:
    land_mixed(settings, 6)
    code, complaint = driver.start(settings, fault=point).end()
    assert code == -signal.SIGKILL, complaint
    let_leases_run_out(settings)
    driver.finish(settings)
    assert_mixed(settings, 6)


def test_two_processes_over_one_bucket_lose_nothing_and_double_nothing(settings: Settings) -> None:
    settings = settings.model_copy(update={"batch_files": 4})
    land_mixed(settings, 36)
    driver.discover(settings)
    for process in [driver.start(settings), driver.start(settings)]:
        code, complaint = process.end()
        assert code == 0, complaint
    driver.finish(settings)
    assert_mixed(settings, 36)


def assert_mixed(settings: Settings, count: int) -> None:
    """Each file of `land_mixed` is where it belongs, once, and its rows are."""
    good, bad = count - count // 6, count // 6
    tables = driver.tables(settings)
    assert len(tables["series"]) == good
    assert len(tables["core_headline"]) == count // 3
    assert len(tables["core_time_series"]) == len(tables["api_time_series"]) == 2 * (good - count // 3)
    files = driver.files(settings)
    assert {place: len(found) for place, found in files.items()} == {"in": 0, "processed": good, "archive": good, "failed": 2 * bad}
    assert sorted(status for _, status, _ in statuses(settings)) == ["archived"] * good + ["errored"] * bad
    assert everything_below(zone(settings).landing.url) == []
    assert_history_is_legal(settings)

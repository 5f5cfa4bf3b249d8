"""Records that become metric files: one load whatever brings the content and however often, a place and a report for what is no file.

As a module it serves processes that take what is new in the stream once: to be killed, stopped and raced.
"""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest

from ingestion_dagster.engine import ledger, postgres, whereabouts
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.datasets import mark_rebuilt, pause_dataset, resume_dataset
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import Changed, open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics import stream as stream_module
from ingestion_dagster.metrics.payload import content_hash, decode
from ingestion_dagster.metrics.places import PIPELINE, zone
from ingestion_dagster.metrics.stream import Taken, key_of, read, take
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences
from ingestion_dagster_tests.metrics import driver
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket

NAME = "metric-files"
GOOD = time_series_payload()
CASES: dict[str, Any] = {"metric_group": "cases", "metric": "COVID-19_cases_casesByDay"}
LIMIT = 64 * 1024 * 1024


def version(value: float, **changes: Any) -> dict[str, Any]:
    """One of several contents of a file, told apart by its value only."""
    return time_series_payload([("2023-06-20", value)], **changes)


def taken_in(settings: Settings) -> Taken:
    """What one tick takes of the stream."""
    with postgres.locate(settings).connect() as connection:
        return take(connection, zone(settings), settings.metrics_kinesis_stream or NAME, seconds=60, max_load_bytes=settings.max_load_bytes)


def finish(settings: Settings, seconds: float = 60) -> None:
    """Ticks and runs in turn, until nothing is new and everything is loaded."""
    deadline = time.monotonic() + seconds
    while True:
        taken = taken_in(settings)
        driver.finish(settings)
        if not taken.drained.records and not taken.drained.waiting and not taken.drained.busy:
            return
        assert time.monotonic() < deadline, f"still reading after {seconds} s: {taken}"


@pytest.fixture
def kinesis(moto_server: str, aws_environment: pytest.MonkeyPatch) -> Any:
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    return boto3.client("kinesis", region_name="eu-west-2")


@pytest.fixture
def stream(kinesis: Any) -> Iterator["Producer"]:
    """A new stream of one shard, and who writes to it."""
    producer = Producer(kinesis)
    producer.begin(1)
    yield producer
    kinesis.delete_stream(StreamName=NAME)


class Producer:
    """Sends records."""

    def __init__(self, kinesis: Any) -> None:
        self.kinesis = kinesis

    def begin(self, shards: int) -> None:
        """A stream with nothing in it."""
        # Not looked for in a listing: that has ten names, and other tests' streams are there as well.
        with suppress(self.kinesis.exceptions.ResourceNotFoundException):
            self.kinesis.delete_stream(StreamName=NAME)
        self.kinesis.create_stream(StreamName=NAME, ShardCount=shards)

    def send(self, name: str, data: Mapping[str, Any]) -> None:
        """A good record."""
        self.send_raw(json.dumps({"name": name, "data": data}).encode(), name[:256])

    def send_raw(self, data: bytes, partition_key: str = "any") -> None:
        """Any record."""
        self.kinesis.put_record(StreamName=NAME, Data=data, PartitionKey=partition_key)


def in_a_folder(database: Database, home: Path, new_bucket: Callable[..., str]) -> Settings:
    return Settings(home=home, database_url=database.sqlalchemy_url, settle_seconds=0)


def on_s3(database: Database, home: Path, new_bucket: Callable[..., str]) -> Settings:
    return in_a_folder(database, home, new_bucket).model_copy(update={"storage_url": f"s3://{new_bucket()}/x"})


def on_s3_with_versions(database: Database, home: Path, new_bucket: Callable[..., str]) -> Settings:
    return in_a_folder(database, home, new_bucket).model_copy(update={"storage_url": f"s3://{new_bucket(versioned=True)}/x"})


@pytest.fixture(params=[in_a_folder, on_s3, on_s3_with_versions])
def settings(request: pytest.FixtureRequest, database: Database, tmp_path: Path, new_bucket: Callable[..., str]) -> Settings:
    """The pipeline over a store of each kind."""
    made: Settings = request.param(database, tmp_path / "home", new_bucket)
    return made


@pytest.fixture
def folder(database: Database, tmp_path: Path, new_bucket: Callable[..., str]) -> Settings:
    """The pipeline over a folder."""
    return in_a_folder(database, tmp_path / "home", new_bucket)


def metrics_of(settings: Settings) -> Metrics:
    return Metrics(settings, postgres.locate(settings))


def put(settings: Settings, key: str, content: Mapping[str, Any]) -> None:
    """Deliver by object."""
    zone(settings).landing.write(key, driver.as_bytes(content))


def value(settings: Settings) -> list[float]:
    """The values that readers of the dashboard see."""
    return [float(row[0]) for row in metrics_of(settings).query("SELECT metric_value FROM metrics.live_time_series ORDER BY 1")]


def loads(settings: Settings) -> list[tuple[str, str, int, bool, str | None]]:
    """Every load in order of discovery: key, status, rows written, whether a duplicate, error code."""
    rows = metrics_of(settings).query(
        "SELECT key, status, rows_written, duplicate_of IS NOT NULL, error_code FROM ledger.loads ORDER BY modified, id"
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]


def lose_checkpoints(settings: Settings) -> None:
    assert metrics_of(settings).query("DELETE FROM ledger.stream_checkpoints RETURNING shard")


# A record as a file


def test_record_becomes_a_file_and_then_a_load_like_any_other(settings: Settings, stream: Producer) -> None:
    stream.send("in/sub/a.json", GOOD)
    taken = taken_in(settings)
    assert (taken.drained.records, taken.written, taken.known, taken.poison) == (1, 1, 0, 0)
    assert driver.files(settings)["in"] == [("sub/a.json", orjson.dumps(GOOD).decode())]
    finish(settings)
    assert loads(settings) == [("sub/a.json", "archived", 2, False, None)]
    assert driver.files(settings)["processed"] == [("sub/a.json", orjson.dumps(GOOD).decode())]
    assert driver.files(settings)["in"] == []
    [history] = metrics_of(settings).query("SELECT run_id FROM ledger.load_events WHERE from_status IS NULL")
    assert history == (f"kinesis://{NAME}/shardId-000000000000/1",)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("in/abc.json", "abc.json"),
        ("abc.json", "abc.json"),
        ("in/2026/04/a.json", "2026/04/a.json"),
        ("in/main/a.json", "main/a.json"),
        ("main/a.json", "main/a.json"),
        ("other/in/a.json", "other/in/a.json"),
        ("in/in/a.json", "in/a.json"),
        ("inside/a.json", "inside/a.json"),
        ("in", "in"),
    ],
)
def test_only_the_leading_folder_in_is_taken_off_a_name(name: str, key: str) -> None:
    assert key_of(name) == key
    assert read(json.dumps({"name": name, "data": {}}).encode(), LIMIT).key == key


@pytest.mark.parametrize(
    "data",
    [
        b'{"z":1,"a":{"y":[1.0,1e2,0.1,-0.0,1.7976931348623157e308,5e-324,123456789.123456789]}}',
        b'{"value":NaN,"other":[Infinity,-Infinity,null]}',
        b'{"half":"\\ud800","whole":"\\ud83d\\ude00 \xc3\xa9"}',
        b'{"long":123456789012345678901234567890123456789}',
        b"{}",
    ],
)
def test_file_has_the_content_of_the_record_to_the_last_digit(data: bytes) -> None:
    delivery = read(b'{"name": "a.json", "data": ' + data + b"}", LIMIT)
    assert content_hash(decode(delivery.raw)) == content_hash(decode(data)) == delivery.content_hash
    assert list(decode(delivery.raw)) == list(decode(data)), "the order of the fields is kept"
    assert read(b'{"data": ' + data + b' ,"name": "a.json"}', LIMIT).raw == delivery.raw, "the same content is the same bytes"


# Poison


def deep(levels: int) -> bytes:
    return b'{"name": "a.json", "data": {"a": ' + b"[" * levels + b"]" * levels + b"}}"


POISON = {
    "no text": (b"\xff\xfe", ["record_not_json"]),
    "not json": (b"{", ["record_not_json"]),
    "empty": (b"", ["record_not_json"]),
    "a list": (b"[]", ["record_not_json"]),
    "too deep": (deep(100_000), ["record_not_json"]),
    "nothing": (b"{}", ["record_without_name", "record_without_data"]),
    "no name": (b'{"data": {}}', ["record_without_name"]),
    "name is no text": (b'{"name": 5, "data": {}}', ["record_without_name"]),
    "no data": (b'{"name": "a.json"}', ["record_without_data"]),
    "data is no object": (b'{"name": "a.json", "data": "{}"}', ["record_without_data"]),
    "empty name": (b'{"name": "", "data": {}}', ["unusable_name"]),
    "nothing but the folder": (b'{"name": "in/", "data": {}}', ["unusable_name"]),
    "from the root": (b'{"name": "/in/a.json", "data": {}}', ["unusable_name"]),
    "out of the folder": (b'{"name": "in/../../a.json", "data": {}}', ["unusable_name"]),
    "a folder": (b'{"name": "in/a/", "data": 7}', ["unusable_name", "record_without_data"]),
    "control character": (b'{"name": "a\\u0000.json", "data": {}}', ["unusable_name"]),
    "half a character": (b'{"name": "\\ud800.json", "data": {}}', ["unusable_name"]),
    "too long": (b'{"name": "' + b"x/" * 600 + b'", "data": {}}', ["unusable_name"]),
}


@pytest.mark.parametrize("kind", POISON)
def test_everything_wrong_with_a_record_is_told(kind: str) -> None:
    raw, codes = POISON[kind]
    with pytest.raises(Refused) as refused:
        read(raw, LIMIT)
    assert [problem.code for problem in refused.value.problems] == codes
    assert refused.value.__context__ is None or "x/x/" not in str(refused.value.__context__)


def test_record_larger_than_a_file_may_be_is_refused_unread() -> None:
    with pytest.raises(Refused) as refused:
        read(b"{" * 11, 10)
    assert [problem.code for problem in refused.value.problems] == ["record_too_large"]


def test_poison_record_goes_to_the_error_zone_and_blocks_nobody(settings: Settings, stream: Producer) -> None:
    stream.send("in/before.json", GOOD)
    stream.send_raw(b"{")
    stream.send_raw(b'{"name": "", "data": 5}')
    stream.send("in/after.json", headline_payload())
    taken = taken_in(settings)
    assert (taken.drained.records, taken.written, taken.poison) == (4, 2, 2)
    finish(settings)
    poison = [f"kinesis/{NAME}/shardId-000000000000/{number}.json" for number in (2, 3)]
    assert sorted(loads(settings)) == [
        ("after.json", "archived", 1, False, None),
        ("before.json", "archived", 2, False, None),
        (poison[0], "errored", 0, False, "record_not_json"),
        (poison[1], "errored", 0, False, "unusable_name"),
    ]
    failed = dict(driver.files(settings)["failed"])
    stem = f"kinesis/{NAME}/shardId-000000000000"
    assert failed.keys() == {f"{stem}/{number}.VERSION.json{end}" for number in (2, 3) for end in ("", ".report.json")}
    assert failed[f"{stem}/2.VERSION.json"] == "{"
    report = json.loads(failed[f"{stem}/3.VERSION.json.report.json"])
    assert (report["path"], report["ok"]) == (poison[1], False)
    assert [problem["code"] for problem in report["problems"]] == ["unusable_name", "record_without_data"]
    assert {name: report[name] for name in report if name.startswith("rows_")} == dict.fromkeys(
        ("rows_in", "rows_written", "rows_unchanged", "rows_rejected"), 0
    )
    rows = metrics_of(settings).query(
        "SELECT d.name, l.landing_zone, l.version, l.location, l.bytes FROM ledger.loads AS l "
        "JOIN ledger.datasets AS d ON d.id = dataset_id WHERE error_code = 'record_not_json'"
    )
    [(dataset, place, number, location, size)] = rows
    assert (dataset, place, number, size) == ("unclassified", f"kinesis://{NAME}", "2", 1)
    store, _, key = location.partition("/kinesis/")
    assert open_store(store).find(f"kinesis/{key}") is not None
    assert_history_is_legal(settings)


def test_poison_record_that_is_read_again_is_no_new_load(settings: Settings, stream: Producer) -> None:
    stream.send_raw(b"{")
    taken_in(settings)
    before = driver.left_behind(settings)
    lose_checkpoints(settings)
    assert taken_in(settings).poison == 1
    assert differences(driver.left_behind(settings), before) == []
    assert len(loads(settings)) == 1


def test_what_one_drain_refuses_is_claimed_by_it_and_discovered_by_its_records(folder: Settings, stream: Producer) -> None:
    for _ in range(30):
        stream.send_raw(b"{")
    taken_in(folder)
    stream.send_raw(b"{")
    taken_in(folder)
    metrics = metrics_of(folder)
    drains = metrics.query("SELECT run_id, count(*) FROM ledger.loads GROUP BY run_id ORDER BY 2")
    assert [count for _, count in drains] == [1, 30]
    assert all(re.fullmatch("stream-[0-9a-f]{8}", run_id) for run_id, _ in drains)
    origins = metrics.query("SELECT run_id FROM ledger.load_events WHERE from_status IS NULL ORDER BY id")
    assert origins == [(f"kinesis://{NAME}/shardId-000000000000/{number}",) for number in range(1, 32)]
    others = metrics.query(
        "SELECT count(*) FROM ledger.load_events AS e JOIN ledger.loads AS l ON l.id = e.load_id "
        "WHERE e.from_status IS NOT NULL AND e.run_id <> l.run_id"
    )
    assert others == [(0,)]


@pytest.mark.parametrize("ending", ["done", "failed"])
def test_drain_is_seen_to_be_at_work_as_long_as_it_is(
    folder: Settings, stream: Producer, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Meanwhile nobody alerts to what it has refused so far."""
    metrics = metrics_of(folder)

    def at_work() -> list[bool]:
        with metrics.database.connect() as connection:
            return [whereabouts.is_at_work(connection, run_id) for (run_id,) in metrics.query("SELECT run_id FROM ledger.loads")]

    def passing(point: str) -> None:
        if point == "metrics.stream.poison.entered":
            seen.append(at_work())
            if ending == "failed":
                raise Transient("object_store_unavailable", "away")

    seen: list[list[bool]] = []
    monkeypatch.setattr(stream_module, "fault_point", passing)
    stream.send_raw(b"{")
    with pytest.raises(Transient) if ending == "failed" else nullcontext(), metrics.database.connect() as connection:
        try:
            take(connection, zone(folder), NAME, seconds=60)
        finally:
            assert seen == [[True]]
            assert at_work() == [False], "though its connection is open still"


def test_retry_of_a_poison_record_refuses_it_as_the_file_that_it_is(settings: Settings, stream: Producer) -> None:
    stream.send_raw(b"{")
    stream.send_raw(b'{"name": "", "data": {}}')
    finish(settings)
    driver.retry(settings)
    driver.finish(settings)
    assert [(load[1], load[4]) for load in loads(settings)] == [("errored", "unreadable_json"), ("errored", "missing_field")]
    assert len(driver.files(settings)["failed"]) == 4
    assert_history_is_legal(settings)


def test_a_file_without_its_envelope_is_recovered_by_retry(settings: Settings, stream: Producer) -> None:
    """The sender forgot {name, data}: what stands in the error zone is a good metric file."""
    stream.send_raw(json.dumps(GOOD).encode())
    finish(settings)
    assert loads(settings)[0][4] == "record_without_name"
    driver.retry(settings)
    driver.finish(settings)
    assert [(load[1], load[2]) for load in loads(settings)] == [("archived", 2)]
    assert driver.files(settings)["failed"] == []


@pytest.mark.parametrize("name", ["x" * 300 + ".json", "taken.json/below.json"])
def test_name_that_this_store_cannot_hold_is_poison(name: str, folder: Settings, stream: Producer) -> None:
    put(folder, "taken.json", GOOD)
    stream.send(name, GOOD)
    assert taken_in(folder).poison == 1
    assert [(load[1], load[4]) for load in loads(folder)] == [("errored", "unusable_name")]


def test_no_value_of_a_record_is_told_in_its_load(folder: Settings, stream: Producer, caplog: pytest.LogCaptureFixture) -> None:
    marker = "MARKER-7c1f"
    for raw in (b'{"%s' % marker.encode(), json.dumps({"name": f"/{marker}", "data": marker, marker: marker}).encode()):
        stream.send_raw(raw)
    said = str(taken_in(folder))
    rows = metrics_of(folder).query(
        "SELECT to_jsonb(l)::text FROM ledger.loads AS l UNION ALL SELECT to_jsonb(e)::text FROM ledger.load_events AS e"
    )
    assert marker not in said + caplog.text + str(rows)


# By object and by record


def test_record_of_an_object_that_stands_unread_is_no_second_file(settings: Settings, stream: Producer) -> None:
    put(settings, "a.json", GOOD)
    before = zone(settings).landing.find("a.json")
    stream.send("in/a.json", dict(reversed(GOOD.items())))
    assert taken_in(settings).known == 1
    assert zone(settings).landing.find("a.json") == before
    finish(settings)
    assert loads(settings) == [("a.json", "archived", 2, False, None)]


@pytest.fixture
def at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done once, between a record's look at the landing zone and its write."""

    def arrange(what: Callable[[], object]) -> None:
        left = [what]

        def passing(point: str) -> None:
            fault_point(point)
            if point == "metrics.stream.landing.before" and left:
                left.pop()()

        monkeypatch.setattr(stream_module, "fault_point", passing)

    return arrange


AtTheLastMoment = Callable[[Callable[[], object]], None]


def test_object_put_at_the_last_moment_is_not_replaced_unread(
    settings: Settings, stream: Producer, at_the_last_moment: AtTheLastMoment
) -> None:
    stream.send("in/a.json", version(2))
    at_the_last_moment(lambda: put(settings, "a.json", version(1)))
    taken = taken_in(settings)
    assert (taken.written, taken.known, taken.drained.waiting) == (0, 0, 1)
    assert driver.files(settings)["in"] == [("a.json", json.dumps(version(1)))]
    finish(settings)
    assert [load[:4] for load in loads(settings)] == [("a.json", "archived", 1, False)] * 2
    assert value(settings) == [2]


def test_object_of_the_same_content_put_at_the_last_moment_is_the_one_load(
    settings: Settings, stream: Producer, at_the_last_moment: AtTheLastMoment
) -> None:
    stream.send("in/a.json", GOOD)
    at_the_last_moment(lambda: put(settings, "a.json", GOOD))
    taken = taken_in(settings)
    assert (taken.written, taken.known, taken.drained.waiting) == (0, 1, 0)
    finish(settings)
    assert loads(settings) == [("a.json", "archived", 2, False, None)]


def test_object_loaded_at_the_last_moment_leaves_the_record_its_turn(
    settings: Settings, stream: Producer, at_the_last_moment: AtTheLastMoment
) -> None:
    def put_and_load() -> None:
        put(settings, "a.json", version(1))
        driver.finish(settings)

    stream.send("in/a.json", version(2))
    at_the_last_moment(put_and_load)
    assert taken_in(settings).written == 1
    finish(settings)
    assert [load[1] for load in loads(settings)] == ["archived"] * 2


def test_name_that_is_taken_at_every_look_waits_and_ends_the_take(
    folder: Settings, stream: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_again(*_: Any, **__: Any) -> None:
        raise Changed("a.json")

    stream.send("in/a.json", GOOD)
    with monkeypatch.context() as patched:
        patched.setattr(type(zone(folder).landing), "write", taken_again)
        taken = taken_in(folder)
    assert (taken.written, taken.drained.waiting) == (0, 1)
    finish(folder)
    assert loads(folder) == [("a.json", "archived", 2, False, None)]


@pytest.mark.parametrize("kind", ["folder", "symbolic link"])
def test_name_under_which_no_object_stands_and_none_can_is_poison(kind: str, folder: Settings, stream: Producer) -> None:
    put(folder, "good.json", GOOD)
    path = folder.home_folder / "storage/metrics/in/a.json"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("good.json")
    stream.send("in/a.json", version(1))
    assert taken_in(folder).poison == 1
    assert loads(folder)[0][4] == "unusable_name"


def test_record_of_an_object_that_was_loaded_is_no_second_load(settings: Settings, stream: Producer) -> None:
    put(settings, "a.json", GOOD)
    driver.finish(settings)
    stream.send("in/a.json", GOOD)
    assert taken_in(settings).known == 1
    finish(settings)
    assert loads(settings) == [("a.json", "archived", 2, False, None)]


def test_object_of_a_record_that_was_loaded_is_a_duplicate_that_writes_nothing(settings: Settings, stream: Producer) -> None:
    stream.send("in/a.json", GOOD)
    finish(settings)
    put(settings, "a.json", GOOD)
    driver.finish(settings)
    assert loads(settings) == [("a.json", "archived", 2, False, None), ("a.json", "archived", 0, True, None)]
    assert metrics_of(settings).rows("metrics.core_time_series") == 2


def test_object_put_over_the_unread_file_of_its_record_is_loaded_once(settings: Settings, stream: Producer) -> None:
    stream.send("in/a.json", GOOD)
    taken_in(settings)
    put(settings, "a.json", GOOD)
    finish(settings)
    assert sum(load[2] for load in loads(settings)) == 2
    assert {load[1] for load in loads(settings)} == {"archived"}
    assert len([load for load in loads(settings) if not load[3] and load[4] is None]) == 1, "one load that counts"
    assert metrics_of(settings).rows("metrics.core_time_series") == 2


def test_records_that_lag_behind_their_objects_bring_no_old_content_back(settings: Settings, stream: Producer) -> None:
    """The stream was not read for a while; each version came by object in the meantime."""
    for number in (1, 2, 3):
        stream.send("in/a.json", version(number))
        time.sleep(1.1)  # S3 tells times in seconds
        put(settings, "a.json", version(number))
        driver.finish(settings)
    assert taken_in(settings).known == 3
    finish(settings)
    assert value(settings) == [3]
    assert len(loads(settings)) == 3


def test_by_object_and_by_record_at_once_every_file_is_written_once(settings: Settings, stream: Producer) -> None:
    # A copy that the store fails at, of what is replaced just then, is made again when its lease is over.
    settings = settings.model_copy(update={"lease_seconds": 10})
    files = {f"{number:02}.json": version(number, stratum=f"stratum {number}") for number in range(16)}
    failures: list[BaseException] = []
    sent = threading.Event()

    def guarded(work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told in the test's own thread
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def by_object() -> None:
        for key, content in files.items():
            with suppress(Changed):  # told of what was put, if the record's file took its place at once
                put(settings, key, content)

    def by_record() -> None:
        for key, content in reversed(files.items()):
            stream.send(f"in/{key}", content)
        sent.set()

    def tick() -> None:
        while not sent.is_set() or taken_in(settings).drained.records:
            taken_in(settings)

    def load() -> None:
        while not sent.is_set():
            driver.run(settings)

    for thread in [guarded(work) for work in (by_object, by_record, tick, load)]:
        thread.join(120)
    assert failures == []
    finish(settings)
    written = [load[0] for load in loads(settings) if load[2]]
    assert sorted(written) == sorted(files)
    assert all(load[1] == "archived" and (load[2] or load[3] or load[4] == "superseded") for load in loads(settings))
    assert value(settings) == [float(number) for number in range(16)]


# The same name again


def test_two_contents_of_one_name_in_one_batch_are_both_loaded_in_order(settings: Settings, stream: Producer) -> None:
    stream.send("in/a.json", version(1))
    stream.send("in/a.json", version(2))
    stream.send("in/b.json", headline_payload())
    first = taken_in(settings)
    assert (first.drained.records, first.written, first.drained.waiting) == (1, 1, 1)
    assert "wait until a file of the same name" in str(first)
    assert taken_in(settings).drained.records == 0, "nobody has read the first yet"
    finish(settings)
    assert value(settings) == [2]
    assert [load[:4] for load in loads(settings) if load[0] == "a.json"] == [("a.json", "archived", 1, False)] * 2
    assert [load[1] for load in loads(settings)] == ["archived"] * 3


def test_content_that_is_sent_again_after_another_is_loaded_again(folder: Settings, stream: Producer) -> None:
    """A, then B by mistake, then A to undo it; all wait on the stream before the first is read."""
    for number in (1, 2, 1):
        stream.send("in/a.json", version(number))
    finish(folder)
    assert value(folder) == [1]
    assert len(loads(folder)) == 3


def test_record_does_not_take_the_place_of_an_unread_object_of_another_content(settings: Settings, stream: Producer) -> None:
    put(settings, "a.json", version(1))
    stream.send("in/a.json", version(2))
    assert taken_in(settings).drained.waiting == 1
    finish(settings)
    assert value(settings) == [2]
    assert [load[2] for load in loads(settings)] == [1, 1]


def test_file_that_never_moves_holds_its_shard_and_no_other_and_goes_on_when_it_does(folder: Settings, stream: Producer) -> None:
    stream.begin(2)
    metrics = metrics_of(folder)
    driver.finish(folder)
    with metrics.database.connect() as connection:
        assert pause_dataset(connection, PIPELINE, "cases", "under review")
    explicit = {"0": str(0), "1": str(2**127)}
    for hash_key, name, content in (("0", "p.json", version(1, **CASES)), ("0", "p.json", version(2, **CASES)), ("1", "q.json", GOOD)):
        stream.kinesis.put_record(
            StreamName=NAME, Data=json.dumps({"name": name, "data": content}), PartitionKey="x", ExplicitHashKey=explicit[hash_key]
        )
    for _ in range(3):
        taken = taken_in(folder)
        driver.run(folder)
    assert taken.drained.waiting == 1
    assert metrics.statuses() == {"p.json": "ready", "q.json": "archived"}
    with metrics.database.connect() as connection:
        assert resume_dataset(connection, PIPELINE, "cases")
    finish(folder)
    assert value(folder)[0] == 2
    assert [load[1] for load in loads(folder)] == ["archived"] * 3


# A lost checkpoint


def test_lost_checkpoint_reads_all_again_and_doubles_nothing(settings: Settings, stream: Producer) -> None:
    """Every fate: several versions, undone versions, refused files, poison, what came by object too."""
    put(settings, "twin.json", headline_payload())
    for number in (1, 2, 3):
        stream.send("in/a.json", version(number))
        if number == 2:
            stream.send_raw(b"{")
            stream.send("in/bad.json", version(1, sex="banana"))
        stream.send("in/twin.json", headline_payload())
    finish(settings)
    before = driver.left_behind(settings)
    history = metrics_of(settings).query("SELECT count(*) FROM ledger.load_events")
    for _ in range(2):
        lose_checkpoints(settings)
        taken = taken_in(settings)
        assert (taken.drained.records, taken.written, taken.known, taken.poison) == (8, 0, 7, 1)
    finish(settings)
    assert differences(driver.left_behind(settings), before) == []
    assert metrics_of(settings).query("SELECT count(*) FROM ledger.load_events") == history
    stream.send("in/a.json", version(4))
    finish(settings)
    assert value(settings) == [4]


def test_lost_checkpoint_while_the_newest_stands_unread_writes_no_old_content(settings: Settings, stream: Producer) -> None:
    stream.send("in/a.json", version(1))
    finish(settings)
    stream.send("in/a.json", version(2))
    taken_in(settings)
    lose_checkpoints(settings)
    taken = taken_in(settings)
    assert (taken.known, taken.written, taken.drained.waiting) == (2, 0, 0)
    finish(settings)
    assert [load[2] for load in loads(settings)] == [1, 1]


def test_refused_content_comes_again_by_object_and_not_by_record(settings: Settings, stream: Producer) -> None:
    bad = version(1, sex="banana")
    for _ in range(2):
        stream.send("in/a.json", bad)
        finish(settings)
    assert [load[1] for load in loads(settings)] == ["errored"]
    time.sleep(1.1)  # without versions, S3 tells the same bytes apart by the second
    put(settings, "a.json", bad)
    driver.finish(settings)
    assert [load[1] for load in loads(settings)] == ["errored", "errored"]


def test_file_given_up_before_it_was_hashed_is_known_by_what_stands_in_the_error_zone(settings: Settings, stream: Producer) -> None:
    settings = settings.model_copy(update={"max_load_bytes": 10})
    metrics = metrics_of(settings)
    with metrics.database.connect() as connection:
        stream.send("in/a.json", GOOD)
        take(connection, zone(settings), NAME, seconds=60)
    metrics.run(limits=Limits.of(settings), max_load_bytes=10)
    assert [(load[1], load[4]) for load in loads(settings)] == [("errored", "file_too_large")]
    assert metrics.query("SELECT content_hash FROM ledger.loads") == [(None,)]
    stream.send("in/a.json", GOOD)
    with metrics.database.connect() as connection:
        assert take(connection, zone(settings), NAME, seconds=60).known == 1


def test_content_that_a_rebuild_has_replaced_is_loaded_when_it_is_sent_again(folder: Settings, stream: Producer) -> None:
    stream.send("in/a.json", GOOD)
    finish(folder)
    with metrics_of(folder).database.connect() as connection:
        mark_rebuilt(connection, PIPELINE)
    lose_checkpoints(folder)
    assert taken_in(folder).known == 1, "sent before the rebuild"
    time.sleep(0.01)
    stream.send("in/a.json", GOOD)
    assert taken_in(folder).written == 1
    finish(folder)
    assert [load[3] for load in loads(folder)] == [False, False]


# Processes that die, sleep and race


def tick_process(settings: Settings, fault: str | None = None) -> processes.Process:
    """One take in a process of its own."""
    return processes.start(__spec__.name, settings, "take", fault=fault, INGESTION_METRICS_KINESIS_STREAM=NAME)


def tell_story(settings: Settings, stream: Producer) -> None:
    """A stream of every fate, of which nothing has been read."""
    stream.begin(1)
    put(settings, "twin.json", headline_payload())
    stream.send("in/a.json", version(1))
    stream.send_raw(b"{")
    stream.send("in/twin.json", headline_payload())
    stream.send("in/bad.json", version(1, sex="banana"))
    stream.send_raw(b'{"name": "", "data": 5}')
    stream.send("in/b.json", version(5, **CASES))
    stream.send("in/a.json", version(2))
    stream.send("in/c.json", version(6, **CASES, stratum="other"))


CRASHES = [
    *(f"streams.checkpoint.{when}" for when in ("before", "after")),
    *(f"metrics.stream.landing.{when}:{passage}" for when in ("before", "after") for passage in (1, 2, 3)),
    *(f"metrics.stream.poison.{when}:{passage}" for when in ("before", "after", "entered") for passage in (1, 2)),
    "landing.report.before",
    "landing.report.after:2",
    "transition.ready.ingesting.after",
    "transition.ingesting.ready_for_erroring.after",
    "transition.erroring.errored.before",
    "transition.erroring.errored.after:2",
]
"""Every outside write of a take, and stations of a poison record's load, which goes its way in one transaction."""


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Producer], dict[str, Any]]:
    """What the story leaves behind when nobody dies."""
    told: list[dict[str, Any]] = []

    def tell(stream: Producer) -> dict[str, Any]:
        if not told:
            database = driver.copy_of_template(server, "undisturbed_stream")
            settings = Settings(home=tmp_path_factory.mktemp("undisturbed"), database_url=database.sqlalchemy_url, settle_seconds=0)
            tell_story(settings, stream)
            finish(settings)
            told.append(left_behind(settings))
        return told[0]

    return tell


def left_behind(settings: Settings) -> dict[str, Any]:
    checkpoints = metrics_of(settings).query("SELECT shard, sequence_number, finished FROM ledger.stream_checkpoints")
    return {**driver.left_behind(settings), "checkpoints": [list(row) for row in checkpoints]}


def test_the_story_has_every_fate(undisturbed: Callable[[Producer], dict[str, Any]], stream: Producer) -> None:
    fates = {key: (load["status"], load["error_code"]) for key, load in undisturbed(stream)["loads"].items()}
    shard = f"kinesis/{NAME}/shardId-000000000000"
    archived = ("archived", None)
    assert fates.pop("bad.json #1")[0] == "errored"
    assert fates == {
        **dict.fromkeys(("a.json #1", "a.json #2", "b.json #1", "c.json #1", "twin.json #1"), archived),
        f"{shard}/2.json #1": ("errored", "record_not_json"),
        f"{shard}/5.json #1": ("errored", "unusable_name"),
    }
    assert undisturbed(stream)["checkpoints"] == [["shardId-000000000000", "8", False]]


@pytest.mark.parametrize("fault", CRASHES)
def test_after_a_crash_reading_on_ends_like_an_undisturbed_reading(
    fault: str, folder: Settings, stream: Producer, undisturbed: Callable[[Producer], dict[str, Any]]
) -> None:
    expected = undisturbed(stream)
    tell_story(folder, stream)
    code, complaint = tick_process(folder, fault).end()
    assert code == -signal.SIGKILL, f"was not killed at {fault}: {complaint}"
    finish(folder)
    assert differences(left_behind(folder), expected) == []
    assert_history_is_legal(folder)


@pytest.mark.parametrize("fault", ["metrics.stream.landing.after:2", "metrics.stream.poison.after", "streams.checkpoint.before"])
def test_after_a_crash_over_a_bucket_nothing_is_lost_or_doubled(fault: str, settings: Settings, stream: Producer) -> None:
    tell_story(settings, stream)
    code, complaint = tick_process(settings, fault).end()
    assert code == -signal.SIGKILL, f"was not killed at {fault}: {complaint}"
    driver.run(settings)  # what was written is loaded before anybody reads on
    finish(settings)
    assert sorted((load[0], load[1], load[3]) for load in loads(settings) if not load[0].startswith("kinesis/")) == [
        ("a.json", "archived", False),
        ("a.json", "archived", False),
        ("b.json", "archived", False),
        ("bad.json", "errored", False),
        ("c.json", "archived", False),
        ("twin.json", "archived", False),
    ]
    assert value(settings) == [2, 5, 6]


def test_reader_that_sleeps_keeps_its_shard_and_its_death_frees_it(folder: Settings, stream: Producer) -> None:
    stream.send("in/a.json", GOOD)
    stream.send("in/b.json", headline_payload())
    sleeper = tick_process(folder, "metrics.stream.landing.after:1:SIGSTOP")
    try:
        sleeper.await_sleep()
        taken = taken_in(folder)
        assert (taken.drained.busy, taken.drained.records) == (1, 0)
        assert "being read by somebody else" in str(taken)
        driver.run(folder)
        sleeper.send(signal.SIGCONT)
        code, complaint = sleeper.end()
        assert code == 0, complaint
    finally:
        sleeper.send(signal.SIGKILL)
    finish(folder)
    assert sorted(load[:4] for load in loads(folder)) == [("a.json", "archived", 2, False), ("b.json", "archived", 1, False)]


def test_two_processes_at_once_lose_and_double_nothing(folder: Settings, stream: Producer) -> None:
    stream.begin(4)
    for number in range(60):
        stream.send(f"in/{number:02}.json", version(number, stratum=f"stratum {number}"))
        if number % 20 == 0:
            stream.send_raw(b"{", str(number))
    started = [tick_process(folder) for _ in range(2)]
    for process in started:
        code, complaint = process.end()
        assert code == 0, complaint
    finish(folder)
    assert [load[2] for load in loads(folder) if load[1] == "archived"] == [1] * 60
    assert [load[4] for load in loads(folder) if load[1] == "errored"] == ["record_not_json"] * 3
    assert value(folder) == [float(number) for number in range(60)]
    lose_checkpoints(folder)
    started = [tick_process(folder) for _ in range(2)]
    for process in started:
        assert process.end()[0] == 0
    finish(folder)
    assert len(loads(folder)) == 63
    assert_history_is_legal(folder)


def test_names_of_two_shards_are_looked_at_one_at_a_time(folder: Settings, stream: Producer) -> None:
    """The same name in every shard, read by two processes: each content is loaded, none is overwritten unread."""
    stream.begin(4)
    for number in range(4):
        content = json.dumps({"name": "same.json", "data": version(number)})
        stream.kinesis.put_record(StreamName=NAME, Data=content, PartitionKey="x", ExplicitHashKey=str(number * 2**126))
    for process in [tick_process(folder) for _ in range(2)]:
        assert process.end()[0] == 0
    finish(folder)
    assert [load[1:3] for load in loads(folder)] == [("archived", 1)] * 4


def test_scope_of_a_retry_holds_poison_records_too(folder: Settings, stream: Producer) -> None:
    stream.send_raw(b"{")
    taken_in(folder)
    with metrics_of(folder).database.connect() as connection:
        again = ledger.retry(connection, Scope(PIPELINE, frozenset({"unclassified"})))
    assert list(again.ready.values()) == [f"kinesis/{NAME}/shardId-000000000000/1.json"]


if __name__ == "__main__":
    processes.serve(lambda _name: taken_in(current()))

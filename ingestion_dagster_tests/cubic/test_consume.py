"""Files of a stream hold every record once, whoever dies, waits, comes second or takes too long.

Limits, times and resharding against shards in memory, with a clock that only pauses move on; deaths against moto's server, in processes.
"""

import gzip
import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest

from ingestion_dagster.cubic import batches, batches_sql
from ingestion_dagster.cubic.consume import Consumed, run
from ingestion_dagster.cubic.envelopes import read
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.kinesis import Record
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.object_store import StoredObject, open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic import consume_driver as driver
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine.histories import query
from ingestion_dagster_tests.engine.test_streams import Shard, Shards, refusal
from ingestion_dagster_tests.metrics.one_database import empty, one_database

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEGIN = ("cubic.consume.enter.before", "cubic.consume.enter.after", "cubic.consume.put.before", "cubic.consume.put.after")
MARKED = ("cubic.consume.mark.before", "cubic.consume.mark.after", "streams.checkpoint.before", "streams.checkpoint.after")
LOST = ("cubic.consume.lost.before", "cubic.consume.lost.after")
CRASHES = (*BEGIN, *MARKED, *LOST)
"""Fault points at which a consumer is killed here."""

_numbers = count(1)


def envelope(offset: int, topic: str = "tap", partition: int = 0, **more: Any) -> bytes:
    record = {"topic": topic, "partition": partition, "offset": offset, "timestamp": "2026-01-01T12:00:00.000Z", "key": "k", "value": {}}
    return json.dumps(record | more, ensure_ascii=False).encode()


def offsets(*numbers: int, topic: str = "tap") -> Counter[tuple[str, int, int]]:
    return Counter({(topic, 0, number): 1 for number in numbers})


# Shards in memory


@dataclass
class Kafka(Shards):
    """The stand-in, with times of arrival; a moment of it is what the clock says when a record is put."""

    arrivals: dict[int, datetime] = field(default_factory=dict)
    is_endless: bool = False
    now: Callable[[], datetime] = lambda: NOON

    def put(self, *data: bytes, shard: str = "shardId-0") -> None:
        super().put(*data, shard=shard)
        for number, _ in self.shards[shard].records[-len(data) :]:
            self.arrivals[number] = self.now()

    def get_shard_iterator(self, **request: Any) -> dict[str, str]:  # type: ignore[override]
        if request["ShardIteratorType"] == "AT_SEQUENCE_NUMBER":
            before = str(int(request["StartingSequenceNumber"]) - 1)
            request |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": before}
        return super().get_shard_iterator(**request)

    def get_records(self, **request: Any) -> dict[str, Any]:  # type: ignore[override]
        answer = super().get_records(**request)
        if self.is_endless:
            answer.setdefault("NextShardIterator", request["ShardIterator"])
        for found in answer["Records"]:
            found["ApproximateArrivalTimestamp"] = self.arrivals[int(found["SequenceNumber"])]
        if answer["MillisBehindLatest"]:
            name = request["ShardIterator"].partition(" ")[0]
            tip = self.arrivals[self.shards[name].records[-1][0]]
            answer["MillisBehindLatest"] = max(1, (tip - answer["Records"][-1]["ApproximateArrivalTimestamp"]) // timedelta(milliseconds=1))
        return answer


@dataclass
class Consumers:
    """Consumers, one after the other, over shards in memory; `standing` is what stood there when the last was told to stop."""

    settings: Settings
    kafka: Kafka = field(default_factory=Kafka)
    seconds: float = 0.0
    standing: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.kafka.now = self.clock

    def __call__(self, until: float, *then: tuple[float, Callable[[], object]], **limits: Any) -> Consumed:
        """Consume until so many seconds after noon, doing something else at other times."""
        to_do = sorted(then, key=lambda each: each[0])

        def stop() -> bool:
            while to_do and self.seconds >= to_do[0][0]:
                to_do.pop(0)[1]()
            if self.seconds >= until:
                self.standing = self.standing or self.written()
                return True
            return False

        def sleep(seconds: float) -> None:
            assert seconds > 0
            self.seconds += seconds

        self.standing = Counter()
        changed = {"cubic_kinesis_stream": "kafka"} | {f"cubic_consume_{name}": value for name, value in limits.items()}
        settings = self.settings.model_copy(update=changed)
        return run(
            settings,
            driver.registry(),
            stop=stop,
            clock=self.clock,
            monotonic=lambda: self.seconds,
            sleep=sleep,
            client=self.kafka,
        )

    def clock(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def written(self) -> Counter[tuple[str, int, int]]:
        return driver.written(self.settings)

    def sizes(self) -> list[int]:
        return sorted(len(lines) for lines in driver.files(self.settings).values())

    def put(self, *numbers: int, topic: str = "tap", shard: str = "shardId-0") -> None:
        self.kafka.put(*(envelope(number, topic) for number in numbers), shard=shard)

    def checkpoint(self) -> list[tuple[Any, ...]]:
        return query(self.settings, "SELECT shard, sequence_number, finished FROM ledger.stream_checkpoints ORDER BY shard")

    def die_at(self, point: str, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        """A consumer that dies at a fault point, as seen from outside: its connection ends, and nothing is done any more."""

        def die(name: str) -> None:
            if name == point:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(batches, "fault_point", die)
            with pytest.raises(Killed):
                self(self.seconds + 5, **limits)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def one(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as made:
        yield made


@pytest.fixture
def database(one: Database) -> Database:
    """The module's database, emptied."""
    with one.connect() as connection:
        connection.execute("DELETE FROM cubic.batches")
    return empty(one)


@pytest.fixture
def consumers(settings: Settings) -> Consumers:
    return Consumers(settings)


# When a file is written


@pytest.mark.parametrize(("records", "standing", "sizes"), [(9_999, 0, [9_999]), (10_000, 10_000, [10_000]), (10_001, 10_000, [1, 10_000])])
def test_file_is_written_at_its_number_of_records_to_the_record(
    records: int, standing: int, sizes: list[int], consumers: Consumers
) -> None:
    consumers.put(*range(records))
    consumed = consumers(60)
    assert consumers.standing.total() == standing
    assert consumers.sizes() == sizes
    assert consumers.written() == offsets(*range(records))
    assert (consumed.files, consumed.records, consumed.unwritten) == (len(sizes), records, 0)


def test_file_is_written_an_hour_after_its_first_record_arrived_and_not_before(consumers: Consumers) -> None:
    consumers.put(1)
    consumers(3599.9, (1800, lambda: consumers.put(2)), (3599, lambda: consumers.put(3)))
    assert consumers.standing == Counter()
    consumers.put(4)
    begun = consumers.seconds
    consumers(begun + 3602, (begun + 3598, lambda: consumers.put(5)), (begun + 3601.2, lambda: consumers.put(6)))
    assert consumers.standing - offsets(1, 2, 3) == offsets(4, 5)
    assert consumers.sizes() == [1, 2, 3]


@pytest.mark.parametrize(("second", "sizes"), [(3_599, [2]), (3_600, [1, 1])])
def test_record_that_comes_an_hour_after_the_first_belongs_to_the_next_file(second: int, sizes: list[int], consumers: Consumers) -> None:
    consumers.put(1)
    consumers.seconds = second
    consumers.put(2)
    consumers.seconds = 90_000
    consumers(90_060)
    assert consumers.sizes() == sizes
    assert consumers.standing == offsets(1, 2)


def test_backlog_of_days_is_not_cut_into_files_of_a_record(consumers: Consumers) -> None:
    """Every record of it is over an hour old when it is read."""
    consumers.kafka.page = 7
    for second in range(0, 7200, 100):
        consumers.seconds = second
        consumers.put(second)
    consumers.seconds = 200_000
    consumers(200_060)
    assert consumers.sizes() == [36, 36]


def test_file_is_written_at_its_bytes(consumers: Consumers) -> None:
    each = len(envelope(1)) + 1
    consumers.put(*range(1, 8))
    consumers(5, bytes=3 * each)
    assert consumers.standing == offsets(*range(1, 7))
    assert consumers.sizes() == [1, 3, 3]


def test_largest_buffer_is_written_when_all_of_them_hold_too_much(consumers: Consumers) -> None:
    each = len(envelope(1)) + 1
    consumers.put(1, 2, 3, topic="tap")
    consumers.put(1, 2, 3, 4, topic="visits")
    consumers.put(1, 2, topic="other")
    consumers(5, bytes=4 * each + 40)
    assert consumers.standing == offsets(1, 2, 3, 4, topic="visits")
    assert consumers.written() == offsets(1, 2, 3) + offsets(1, 2, 3, 4, topic="visits") + offsets(1, 2, topic="other")


def test_one_reader_has_many_topics_and_shards_and_each_pair_its_own_file(consumers: Consumers) -> None:
    consumers.kafka.shards = {"shardId-0": Shard(), "shardId-1": Shard()}
    for number in range(1, 7):
        consumers.put(number, topic=f"t{number % 3}", shard=f"shardId-{number % 2}")
    consumers(5)
    assert consumers.sizes() == [1] * 6


# The checkpoint


def test_checkpoint_stays_before_the_oldest_record_that_is_in_no_file(consumers: Consumers) -> None:
    consumers.put(1, 2)  # 1000, 1001
    consumers.put(1, topic="visits")  # 1002
    consumers.put(3, 4, 5)  # 1003 to 1005: a file with 1000 to 1003
    seen: list[Any] = []
    consumers(5, (4, lambda: seen.extend(consumers.checkpoint())), records=4)
    assert seen == [("shardId-0", "1001", False)]
    assert consumers.checkpoint() == [("shardId-0", "1005", False)]


def test_next_consumer_goes_on_where_the_last_was_told_to_stop(consumers: Consumers) -> None:
    consumers.put(1, 2, 3)
    consumers(5)
    consumers.put(4)
    consumed = consumers(10)
    assert (consumed.records, consumed.known) == (1, 0)
    assert consumers.written() == offsets(1, 2, 3, 4)


def test_lost_checkpoint_reads_all_again_and_writes_nothing_twice(consumers: Consumers) -> None:
    consumers.put(1, 2, 3)
    consumers.put(7, topic="visits")
    consumers.kafka.put(b"poison")
    consumers(5, records=2)
    query(consumers.settings, "DELETE FROM ledger.stream_checkpoints RETURNING shard")
    consumers.put(4)
    consumed = consumers(10)
    assert (consumed.records, consumed.known, consumed.dead_letters) == (1, 5, 0)
    assert consumers.written() == offsets(1, 2, 3, 4) + offsets(7, topic="visits")
    assert len(driver.dead_letters(consumers.settings)) == 1


def test_checkpoint_lost_under_way_reads_again_what_is_in_hand_and_no_more(consumers: Consumers) -> None:
    consumers.put(1, 2, 3)
    lose = lambda: query(consumers.settings, "DELETE FROM ledger.stream_checkpoints RETURNING shard")  # noqa: E731
    consumed = consumers(20, (4, lose), (5, lambda: consumers.put(4)), records=2)
    assert consumed.records == 4
    assert consumers.written() == offsets(1, 2, 3, 4)


def test_stream_made_again_under_the_same_name_is_read_although_it_counts_anew(consumers: Consumers) -> None:
    consumers.put(1, 2)
    consumers(5)
    consumers.seconds = 600
    consumers.kafka = Kafka()
    consumers.__post_init__()
    consumers.kafka.fail("get_shard_iterator", "InvalidArgumentException")
    consumers.put(3, 4)
    consumers(610)
    assert consumers.written() == offsets(1, 2, 3, 4)
    assert consumers.sizes() == [2, 2]


# What a file is


def test_file_holds_the_records_as_they_were_sent_under_a_name_that_follows_from_them(consumers: Consumers) -> None:
    exact = ' {"topic":"tap", "partition":0, "offset":1, "value":{"note":"π 🚌", "n": 1.10, "big": 123456789012345678901}} '.encode()
    broken = b'{"topic": "tap",\r\n "partition": 0,\n "offset": 2}'
    consumers.kafka.put(exact, broken)
    consumers(5)
    [seen] = open_store(f"{consumers.settings.storage}/cubic/incoming").list()
    content = open_store(f"{consumers.settings.storage}/cubic/incoming").read(seen)
    assert gzip.decompress(content).splitlines() == [exact.strip(), broken.replace(b"\n", b" ").replace(b"\r", b" ")]
    folder, name = seen.key.rsplit("/", 1)
    assert folder == "cubic/kafka/tap"
    assert len(name.removesuffix(".json.gz")) == 22
    assert not set(name.removesuffix(".json.gz")) & set("01IOl-_")
    wanted = batches.Range("kafka", "shardId-0", "tap", "1000", "1001", NOON, NOON, 2)
    assert seen.key == wanted.key
    assert content[4:8] == bytes(4), "a time in it would make another file of the same records"


def test_load_waits_for_its_upload_and_is_of_its_topics_table(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    consumers.put(1)
    statement = """
        SELECT d.name, l.status, l.waiting_for, l.partition, l.modified, l.version, b.topic, b.first_sequence, b.records, b.uploaded_at
        FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id JOIN cubic.batches AS b ON b.load_id = l.id ORDER BY l.id
    """
    consumers.die_at("cubic.consume.put.before", monkeypatch)
    assert query(consumers.settings, statement) == [("taps", "ready", "upload", "2026-01-01", NOON, "upload", "tap", 1000, 1, None)]
    consumers.put(1, topic="nobodys")
    consumers(10)
    found = query(consumers.settings, statement)
    assert [row[:3] for row in found] == [("taps", "ready", None), ("unclassified", "ready", "dataset")]
    versions = {seen.version for seen in open_store(f"{consumers.settings.storage}/cubic/incoming").list()}
    assert {row[5] for row in found} == versions
    assert all(row[9] for row in found)


def test_poison_goes_to_dead_letters_and_stops_nothing(consumers: Consumers, caplog: pytest.LogCaptureFixture) -> None:
    poison = {
        b"\xff\xfe": ["record_not_json"],
        b"[1]": ["record_not_json"],
        b"": ["record_not_json"],
        b"\xf3\x89\x9a\xc2\x0a": ["record_aggregated"],
        envelope(1, topic=".hidden"): ["record_without_topic"],
        envelope(1, topic="a/b"): ["record_without_topic"],
        envelope(1, topic="x" * 250): ["record_without_topic"],
        envelope(1, topic="tap\n"): ["record_without_topic"],
        envelope(-1): ["record_without_offset"],
        envelope(2**63 - 1): ["record_without_offset"],
        envelope(1, partition=True): ["record_without_partition"],
        b'{"topic": 1, "partition": "0", "secret": "marker-7781"}': [  # pragma: allowlist secret
            "record_without_topic",
            "record_without_partition",
            "record_without_offset",
        ],
    }
    consumers.put(1)
    for data in poison:
        consumers.kafka.put(data)
    consumers.put(2)
    with caplog.at_level(logging.DEBUG):
        consumed = consumers(5)
    assert (consumed.records, consumed.dead_letters) == (2, len(poison))
    letters = driver.dead_letters(consumers.settings)
    assert {letter["data"]: letter["codes"] for letter in letters} == poison
    assert (letters[0]["shard"], letters[0]["sequence_number"], letters[0]["arrived"]) == ("shardId-0", "1001", NOON.isoformat())
    assert "'record_aggregated': 1" in caplog.text
    assert "marker-7781" not in caplog.text
    [file] = open_store(f"{consumers.settings.storage}/cubic/error").list()
    assert file.key.startswith("cubic/kafka/_dead_letter/")
    assert consumers.checkpoint() == [("shardId-0", str(1001 + len(poison)), False)]


def test_dead_letters_hold_the_checkpoint_until_they_are_written(consumers: Consumers) -> None:
    consumers.kafka.put(b"poison")
    consumers.put(1, 2)
    seen: list[Any] = []
    consumers(5, (4, lambda: seen.extend(consumers.checkpoint())), records=2)
    assert seen == [("shardId-0", None, False)]
    assert len(driver.dead_letters(consumers.settings)) == 1


@pytest.mark.parametrize("topic", ["a", "A.b_c-9", "_dead_letter", "x" * 249])
def test_usable_topic_is_used(topic: str) -> None:
    assert read(Record("s", "1", envelope(1, topic=topic), NOON)).topic == topic


# Shards that end


def test_buffers_of_a_shard_that_ended_are_written_before_its_children_are_read(consumers: Consumers) -> None:
    consumers.put(1, 2)

    def split() -> None:
        consumers.kafka.close("shardId-0", children=["shardId-1", "shardId-2"])
        consumers.put(3, shard="shardId-1")
        consumers.put(4, shard="shardId-2")

    seen: list[Any] = []
    consumers(120, (60, split), (100, lambda: seen.append(consumers.written())))
    assert seen == [offsets(1, 2)]
    assert consumers.written() == offsets(1, 2, 3, 4)
    assert [(row[0], row[2]) for row in consumers.checkpoint()] == [("shardId-0", True), ("shardId-1", False), ("shardId-2", False)]


def test_child_of_a_merge_is_read_after_both_parents(consumers: Consumers) -> None:
    consumers.kafka.shards = {"shardId-0": Shard(), "shardId-1": Shard()}
    consumers.put(1)
    consumers.put(2, shard="shardId-1")
    consumers.kafka.close("shardId-0", "shardId-1", children=["shardId-2"])
    consumers.put(3, shard="shardId-2")
    consumers(60)
    assert consumers.standing == offsets(1, 2)
    assert consumers.written() == offsets(1, 2, 3)


def test_shard_that_expires_under_way_keeps_what_is_in_hand(consumers: Consumers) -> None:
    consumers.put(1)
    consumers.kafka.close("shardId-0", children=["shardId-1"])
    consumers.put(2, shard="shardId-1")
    answer = consumers.kafka.get_records

    def get_records(**request: Any) -> dict[str, Any]:
        if request["ShardIterator"].startswith("shardId-0") and consumers.kafka.shards.pop("shardId-0", None) is None:
            raise refusal("ResourceNotFoundException")
        if request["ShardIterator"].startswith("shardId-0"):
            return {
                "Records": [{"SequenceNumber": "1000", "Data": envelope(1), "ApproximateArrivalTimestamp": NOON}],
                "NextShardIterator": "shardId-0 1000",
                "MillisBehindLatest": 0,
            }
        return answer(**request)

    consumers.kafka.get_records = get_records  # type: ignore[method-assign]
    consumers(60)
    assert consumers.written() == offsets(1, 2)


def test_shard_that_is_closed_under_way_ends_although_the_stand_in_never_says_so(consumers: Consumers) -> None:
    consumers.kafka.is_endless = True
    consumers.put(1)

    def split() -> None:
        consumers.kafka.close("shardId-0", children=["shardId-1"])
        consumers.put(2, shard="shardId-1")

    consumers(120, (5, split))
    assert consumers.standing == offsets(1)
    assert consumers.written() == offsets(1, 2)


# What does not answer


def test_iterator_that_expires_is_replaced_where_reading_stands_and_not_at_the_checkpoint(consumers: Consumers) -> None:
    consumers.put(1)
    expire = lambda: consumers.kafka.fail("get_records", "ExpiredIteratorException")  # noqa: E731
    consumers(20, (4, expire), (8, lambda: consumers.put(2)))
    assert consumers.written() == offsets(1, 2)
    assert consumers.kafka.read("get_shard_iterator") == ["shardId-0 TRIM_HORIZON", "shardId-0 AFTER_SEQUENCE_NUMBER"]


@pytest.mark.parametrize("operation", ["list_shards", "get_shard_iterator", "get_records"])
def test_stream_that_does_not_answer_for_a_while_is_asked_again(operation: str, consumers: Consumers) -> None:
    consumers.put(1, 2)
    codes = ["ProvisionedThroughputExceededException", "InternalFailureException", "ThrottlingException", "ExpiredIteratorException"]
    consumers.kafka.fail(operation, *codes)
    consumed = consumers(60)
    assert consumed.records == 2
    assert consumers.kafka.failures[operation] == []


def test_store_that_does_not_take_files_for_a_while_loses_and_doubles_nothing(
    consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LocalStore.write
    failures = iter([True] * 6)

    def fail(self: LocalStore, key: str, data: bytes, **more: Any) -> StoredObject:
        if next(failures, False):
            raise Transient("object_store_unavailable", "away")
        return write(self, key, data, **more)

    monkeypatch.setattr(LocalStore, "write", fail)
    consumers.put(*range(10))
    consumed = consumers(120, records=3)
    assert (consumed.files, consumed.records) == (4, 10)
    assert consumers.written() == offsets(*range(10))
    assert consumers.kafka.read("get_shard_iterator") == ["shardId-0 TRIM_HORIZON"], "buffers are kept, nothing is read again"


def test_end_while_the_store_is_away_leaves_the_rest_in_the_stream(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    consumers.put(1, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "write", lambda *_, **__: (_ for _ in ()).throw(Transient("object_store_unavailable", "away")))
        consumed = consumers(5)
    assert (consumed.records, consumed.unwritten) == (0, 3)
    consumers.put(4)
    assert consumers(consumers.seconds + 5).records == 4
    assert consumers.written() == offsets(1, 2, 3, 4)
    assert consumers.sizes() == [1, 3]


def lose_connections(settings: Settings) -> None:
    query(settings, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")


def test_connection_that_is_lost_is_made_again_and_buffers_are_kept(consumers: Consumers) -> None:
    consumers.put(1, 2)
    consumed = consumers(20, (4, lambda: lose_connections(consumers.settings)), (6, lambda: consumers.put(3)))
    assert consumed.records == 3
    assert consumers.sizes() == [3]
    assert consumers.kafka.read("get_shard_iterator") == ["shardId-0 TRIM_HORIZON"]


def test_database_that_is_away_at_the_commit_of_a_batch_leaves_one_file(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a commit is lost: it may have been made, or not."""
    for point in ("cubic.consume.enter.before", "cubic.consume.enter.after", "cubic.consume.mark.before", "cubic.consume.mark.after"):
        todo = [point]

        def lose(name: str, todo: list[str] = todo) -> None:
            if name in todo:
                todo.remove(name)
                lose_connections(consumers.settings)

        with monkeypatch.context() as patch:
            patch.setattr(batches, "fault_point", lose)
            number = len(consumers.written())
            consumers.put(number)
            consumers(consumers.seconds + 60, records=1)
            assert todo == []
            assert consumers.written() == offsets(*range(number + 1))
    assert consumers.sizes() == [1, 1, 1, 1]


def test_connection_that_is_lost_for_long_leaves_its_shards_to_the_one_who_came(consumers: Consumers) -> None:
    consumers.put(1, 2)

    def take_over() -> None:
        lose_connections(consumers.settings)
        other = Consumers(consumers.settings, consumers.kafka)
        other.seconds = consumers.seconds
        other(consumers.seconds + 5)
        consumers.kafka.now = consumers.clock
        consumers.put(3)

    consumed = consumers(60, (4, take_over))
    assert consumed.records == 1
    assert consumers.written() == offsets(1, 2, 3)
    assert consumers.sizes() == [1, 2]


def test_batch_that_another_entered_while_the_connection_was_lost_is_seen(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died before the checkpoint moved, which tells nothing then."""
    consumers.put(1, 2)

    def enter_and_die() -> None:
        lose_connections(consumers.settings)
        other = Consumers(consumers.settings, consumers.kafka)
        other.seconds = consumers.seconds
        other.die_at("cubic.consume.enter.after", monkeypatch)
        consumers.kafka.now = consumers.clock
        consumers.put(3)

    assert consumers(60, (4, enter_and_die)).records == 3
    assert consumers.written() == offsets(1, 2, 3)
    assert consumers.sizes() == [1, 2]


def test_database_that_refuses_a_statement_ends_the_consumer_without_a_word_of_the_data(
    consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumers.put(1)
    monkeypatch.setattr(batches_sql, "ENTER", "SELECT 'a value'::int")
    with pytest.raises(ConfigurationError, match=r"InvalidTextRepresentation\).*db upgrade") as caught:
        consumers(20, records=1)
    assert "value'" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_file_in_the_way_of_a_folder_is_waited_for(consumers: Consumers) -> None:
    landing = open_store(f"{consumers.settings.storage}/cubic/incoming")
    in_the_way = landing.write("cubic/kafka/tap", gzip.compress(b""))
    consumers.put(1)
    consumers(60, (10, lambda: landing.remove(in_the_way)), records=1)
    assert consumers.standing == offsets(1)


def test_stream_that_is_gone_ends_the_consumer_and_what_is_in_hand_is_written(consumers: Consumers) -> None:
    consumers.put(1, 2)

    def remove() -> None:
        consumers.kafka.fail("get_records", "ResourceNotFoundException")
        consumers.kafka.fail("list_shards", *["ResourceNotFoundException"] * 9)

    with pytest.raises(ConfigurationError, match="there is no Kinesis stream 'kafka'"):
        consumers(60, (4, remove))
    assert consumers.written() == offsets(1, 2)


def test_consumer_without_a_stream_says_what_to_set(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_CUBIC_KINESIS_STREAM"):
        run(settings, driver.registry(), stop=threading.Event())


# Two at once


def test_consumers_at_once_share_the_shards_and_double_nothing(consumers: Consumers) -> None:
    consumers.kafka.shards = {f"shardId-{number}": Shard() for number in range(4)}
    for number in range(400):
        consumers.put(number, shard=f"shardId-{number % 4}")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(3):
                Consumers(consumers.settings, consumers.kafka)(5, records=30)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert consumers.written() == offsets(*range(400))


def test_second_consumer_takes_over_when_the_first_ends(consumers: Consumers) -> None:
    consumers.put(1)

    def wait_beside() -> None:
        other = Consumers(consumers.settings, consumers.kafka)
        assert other(40).records == 0
        consumers.kafka.now = consumers.clock

    consumers(5, (4, wait_beside))
    consumers.put(2)
    other = Consumers(consumers.settings, consumers.kafka)
    assert other(5).records == 1
    assert consumers.written() == offsets(1, 2)


# What was begun by one who died


@pytest.mark.parametrize("point", [*BEGIN, "cubic.consume.mark.before", "cubic.consume.mark.after"])
def test_file_that_was_begun_is_the_same_when_it_is_finished(point: str, consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 6):
        consumers.put(number)
        consumers.put(number, topic="visits")
    consumers.kafka.put(b"poison", b"poison")
    consumers.die_at(point, monkeypatch, records=3)
    consumers.put(6)
    consumers(consumers.seconds + 5, records=3)
    assert consumers.written() == offsets(*range(1, 7)) + offsets(*range(1, 6), topic="visits")
    assert consumers.sizes() == [2, 3, 3, 3]
    assert len(driver.dead_letters(consumers.settings)) == 2
    first = batches.Range("kafka", "shardId-0", "tap", "1000", "1004", NOON, NOON, 3)
    assert [line["offset"] for line in driver.files(consumers.settings)[first.key]] == [1, 2, 3]
    assert query(consumers.settings, "SELECT count(*) FROM cubic.batches WHERE uploaded_at IS NULL") == [(0,)]
    assert query(consumers.settings, "SELECT count(*) FROM ledger.loads WHERE waiting_for = 'upload'") == [(0,)]


def test_file_that_was_put_and_taken_away_by_a_run_is_not_put_again(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    consumers.put(1)
    consumers.die_at("cubic.consume.mark.before", monkeypatch)
    landing = open_store(f"{consumers.settings.storage}/cubic/incoming")
    [seen] = landing.list()
    query(consumers.settings, "UPDATE ledger.loads SET version = 'v', waiting_for = NULL, status = 'archived' RETURNING id")
    assert landing.remove(seen)
    consumed = consumers(10)
    assert consumed.records == 0
    assert driver.files(consumers.settings) == {}
    assert query(consumers.settings, "SELECT count(*) FROM cubic.batches WHERE uploaded_at IS NULL") == [(0,)]


def test_range_that_the_stream_has_let_go_of_is_told_and_goes_on(
    consumers: Consumers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumers.put(1, 2, 3)
    consumers.die_at("cubic.consume.put.before", monkeypatch, records=3)
    consumers.put(4)
    consumers.kafka.trim("shardId-0", 3)
    consumed = consumers(consumers.seconds + 5)
    assert (consumed.lost, consumed.records) == (3, 1)
    assert consumers.written() == offsets(4)
    assert [record.levelname for record in caplog.records if "batch_lost" in record.message] == ["ERROR"]
    assert query(consumers.settings, "SELECT status, error_code FROM ledger.loads ORDER BY id") == [
        ("ready_for_erroring", "batch_lost"),
        ("ready", None),
    ]
    assert consumers(consumers.seconds + 5).lost == 0


def test_half_a_range_that_is_still_kept_is_saved(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    consumers.put(1, 2, 3)
    consumers.die_at("cubic.consume.put.before", monkeypatch, records=3)
    consumers.kafka.trim("shardId-0", 1)
    consumed = consumers(consumers.seconds + 5)
    assert (consumed.lost, consumed.records) == (1, 2)
    assert consumers.written() == offsets(2, 3)
    assert query(consumers.settings, "SELECT lost, records, uploaded_at IS NULL FROM cubic.batches") == [(1, 3, False)]


def test_file_begun_of_a_shard_that_is_gone_is_told(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    consumers.put(1)
    consumers.kafka.put(b"poison")
    consumers.die_at("cubic.consume.put.before", monkeypatch)
    consumers.kafka.shards = {"shardId-9": Shard()}
    assert consumers(consumers.seconds + 65).lost == 1
    assert query(consumers.settings, "SELECT status FROM ledger.loads") == [("ready_for_erroring",)]


def test_lost_file_of_a_paused_table_waits_for_its_table(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    consumers.put(1)
    consumers.die_at("cubic.consume.put.before", monkeypatch)
    consumers.kafka.trim("shardId-0", 1)
    consumers.put(2)
    pause = "UPDATE ledger.datasets SET paused_at = {} WHERE name = 'taps' RETURNING id"
    query(consumers.settings, pause.format("now()"))
    consumers(consumers.seconds + 5)
    status = "SELECT status, waiting_for FROM ledger.loads ORDER BY id"
    assert query(consumers.settings, status) == [("ready", "upload"), ("ready", None)]
    query(consumers.settings, pause.format("NULL"))
    consumers(consumers.seconds + 5)
    assert query(consumers.settings, status)[0] == ("ready_for_erroring", None)


def test_other_file_under_the_key_is_not_replaced(consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    consumers.put(1)
    consumers.die_at("cubic.consume.put.before", monkeypatch)
    [(key,)] = query(consumers.settings, "SELECT key FROM cubic.batches")
    landing = open_store(f"{consumers.settings.storage}/cubic/incoming")
    other = landing.write(key, gzip.compress(envelope(99)))
    consumers(consumers.seconds + 5)
    assert consumers.written() == offsets(99)
    assert consumers.checkpoint() == [("shardId-0", None, False)]
    landing.remove(other)
    consumers(consumers.seconds + 5)
    assert consumers.written() == offsets(1)


# Moto's server


@pytest.fixture
def kinesis(moto_server: str, aws_environment: pytest.MonkeyPatch) -> Any:
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    return boto3.client("kinesis", region_name="eu-west-2")


@dataclass
class Producer:
    """Sends records to a stream of its own."""

    kinesis: Any
    stream: str

    def begin(self, shards: int = 1) -> None:
        self.kinesis.create_stream(StreamName=self.stream, ShardCount=shards)

    def begin_again(self) -> None:
        self.kinesis.delete_stream(StreamName=self.stream)
        self.begin()

    def send(self, *data: bytes) -> None:
        records = [{"Data": each, "PartitionKey": str(number)} for number, each in enumerate(data)]
        assert self.kinesis.put_records(StreamName=self.stream, Records=records)["FailedRecordCount"] == 0


@pytest.fixture
def producer(kinesis: Any) -> Producer:
    made = Producer(kinesis, f"kafka-{next(_numbers)}")
    made.begin()
    return made


def folder(database: Database, home: Path, stream: str, **more: Any) -> Settings:
    return Settings(home=home, database_url=database.sqlalchemy_url, cubic_kinesis_stream=stream, cubic_consume_records=3, **more)


@pytest.fixture
def small(database: Database, tmp_path: Path, producer: Producer) -> Settings:
    """Files of three records, in a folder."""
    return folder(database, tmp_path / "home", producer.stream)


def finish(settings: Settings, rounds: float = 4) -> Consumed:
    """Consume in this process what there is, by a clock that runs faster."""
    seconds = [0.0]

    def sleep(wait: float) -> None:
        seconds[0] += wait

    return run(settings, driver.registry(), stop=lambda: seconds[0] > rounds, monotonic=lambda: seconds[0], sleep=sleep)


def send_all(producer: Producer) -> Counter[tuple[str, int, int]]:
    """Two topics, one in the other, and a dead letter: two files of each are full, and a third is not."""
    for number in range(7):
        producer.send(envelope(number, note="π 🚌"), envelope(number, topic="visits"))
    producer.send(b"poison")
    return offsets(*range(7)) + offsets(*range(7), topic="visits")


def contents(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    return driver.files(settings)


@pytest.mark.parametrize("point", [*BEGIN, *MARKED])
def test_consumer_that_is_killed_loses_and_doubles_nothing(point: str, small: Settings, producer: Producer) -> None:
    expected = send_all(producer)
    code, said = driver.start(small, fault=point if point.startswith("streams.") else f"{point}:2").end()
    assert code == -signal.SIGKILL, said
    finish(small)
    assert driver.written(small) == expected
    assert sorted(map(len, contents(small).values())) == [1, 1, 3, 3, 3, 3]
    assert [letter["codes"] for letter in driver.dead_letters(small)] == [["record_not_json"]]
    query(small, "DELETE FROM ledger.stream_checkpoints RETURNING shard")
    assert finish(small).files == 0
    assert driver.written(small) == expected


@pytest.mark.parametrize("point", LOST)
def test_consumer_that_is_killed_when_it_gives_a_file_up_gives_it_up_once(point: str, small: Settings, producer: Producer) -> None:
    producer.send(*(envelope(number) for number in range(3)))
    assert driver.start(small, fault="cubic.consume.enter.after").end()[0] == -signal.SIGKILL
    producer.begin_again()
    assert driver.start(small, fault=point).end()[0] == -signal.SIGKILL
    finish(small)
    events = "SELECT to_status, count(*) FROM ledger.load_events GROUP BY 1 ORDER BY 1"
    assert query(small, events) == [("ingesting", 1), ("ready", 1), ("ready_for_erroring", 1)]


def test_signal_writes_what_is_in_hand_and_a_second_one_spoils_nothing(small: Settings, producer: Producer) -> None:
    expected = send_all(producer)
    process = driver.start(small)
    driver.await_(lambda: len(contents(small)) >= 4)
    process.send(signal.SIGTERM)
    process.send(signal.SIGINT)
    process.send(signal.SIGTERM)
    code, said = process.end()
    assert code == 0, said
    assert "6 files with 14 records written, 1 dead letters" in said
    assert driver.written(small) == expected
    assert finish(small).files == 0


def test_consumer_that_sleeps_while_another_takes_over_doubles_nothing(small: Settings, producer: Producer) -> None:
    """It has entered a batch when it falls asleep, and puts the file when it wakes up: the same one, under the same key."""
    expected = send_all(producer)
    process = driver.start(small, fault="cubic.consume.enter.after:2:SIGSTOP")
    process.await_sleep()
    lose_connections(small)
    finish(small)
    before = contents(small)
    process.send(signal.SIGCONT)
    process.send(signal.SIGTERM)
    code, said = process.end()
    assert code == 0, said
    assert contents(small) == before
    assert driver.written(small) == expected


def test_files_stand_in_a_bucket_as_well(database: Database, tmp_path: Path, producer: Producer, new_bucket: Callable[..., str]) -> None:
    settings = folder(database, tmp_path / "home", producer.stream, storage_url=f"s3://{new_bucket()}/x")
    expected = send_all(producer)
    assert driver.start(settings, fault="cubic.consume.put.after:2").end()[0] == -signal.SIGKILL
    finish(settings)
    assert driver.written(settings) == expected
    assert query(settings, "SELECT count(*) FROM ledger.loads WHERE waiting_for IS NULL AND version <> 'upload'") == [(6,)]

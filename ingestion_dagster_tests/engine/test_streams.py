"""Reading a Kinesis stream from checkpoints: nothing is lost, whoever dies, waits, reshards or refuses.

Against moto's server as far as it goes. Its shards never end, it puts records into closed shards, and knows neither expired iterators nor
throttling; for these a stand-in behaves as the API reference says (`Shards`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from ingestion_dagster.engine.drain import Drained, drain
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.kinesis import Record, Stream, pause_after
from ingestion_dagster.engine.postgres import Connection, Database

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
STREAM = Stream("parcels")

_numbers = count(1)


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "secret detail of account 123456789012"}}, "GetRecords")


@dataclass
class Shard:
    """One shard of the stand-in: its parents, what it holds, and whether it is closed."""

    parents: tuple[str, ...] = ()
    records: list[tuple[int, bytes]] = field(default_factory=list)
    end: int | None = None


@dataclass
class Shards:
    """A Kinesis client over shards in memory, as the API reference describes it; `fail` makes its calls fail."""

    shards: dict[str, Shard] = field(default_factory=lambda: {"shardId-0": Shard()})
    page: int = 1000
    listed_at_a_time: int = 100
    calls: list[tuple[str, str]] = field(default_factory=list)
    failures: dict[str, list[ClientError]] = field(default_factory=dict)
    _sequence: Iterator[int] = field(default_factory=lambda: count(1000))

    def put(self, *data: bytes, shard: str = "shardId-0") -> None:
        assert self.shards[shard].end is None, "Kinesis takes no record into a closed shard"
        self.shards[shard].records += [(next(self._sequence), each) for each in data]

    def close(self, *parents: str, children: Sequence[str]) -> None:
        """Split or merge: the parents take no more records."""
        for parent in parents:
            self.shards[parent].end = next(self._sequence)
        self.shards |= {child: Shard(parents) for child in children}

    def trim(self, shard: str, records: int) -> None:
        """Let the oldest records expire."""
        del self.shards[shard].records[:records]

    def fail(self, operation: str, *codes: str) -> None:
        """Let the next calls of an operation fail, one after the other."""
        self.failures.setdefault(operation, []).extend(refusal(code) for code in codes)

    def list_shards(self, StreamName: str = "", NextToken: str = "0") -> dict[str, Any]:  # noqa: N803 - AWS's names
        self._called("list_shards", StreamName or NextToken)
        begin = int(NextToken)
        names = list(self.shards)[begin : begin + self.listed_at_a_time]
        answer: dict[str, Any] = {"Shards": [self._description(name) for name in names]}
        if begin + self.listed_at_a_time < len(self.shards):
            answer["NextToken"] = str(begin + self.listed_at_a_time)
        return answer

    def get_shard_iterator(
        self,
        StreamName: str,  # noqa: N803
        ShardId: str,  # noqa: N803
        ShardIteratorType: str,  # noqa: N803
        StartingSequenceNumber: str = "0",  # noqa: N803
    ) -> dict[str, str]:
        self._called("get_shard_iterator", f"{ShardId} {ShardIteratorType}")
        return {"ShardIterator": f"{ShardId} {StartingSequenceNumber if ShardIteratorType == 'AFTER_SEQUENCE_NUMBER' else 0}"}

    def get_records(self, ShardIterator: str, Limit: int) -> dict[str, Any]:  # noqa: N803
        self._called("get_records", ShardIterator)
        name, _, after = ShardIterator.partition(" ")
        shard = self.shards[name]
        left = [(number, data) for number, data in shard.records if number > int(after)]
        page = left[: min(self.page, Limit)]
        last = page[-1][0] if page else int(after)
        over = shard.end is not None and len(page) == len(left)
        return {
            "Records": [
                {"SequenceNumber": str(number), "Data": data, "ApproximateArrivalTimestamp": NOON + timedelta(seconds=number)}
                for number, data in page
            ],
            "MillisBehindLatest": (len(left) - len(page)) * 1000,
            **({} if over else {"NextShardIterator": f"{name} {last}"}),
        }

    def read(self, operation: str = "get_records") -> list[str]:
        """The arguments of an operation's calls."""
        return [argument for called, argument in self.calls if called == operation]

    def _called(self, operation: str, argument: str) -> None:
        self.calls.append((operation, argument))
        if self.failures.get(operation):
            raise self.failures[operation].pop(0)

    def _description(self, name: str) -> dict[str, Any]:
        shard = self.shards[name]
        parents = dict(zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False))
        ending = {} if shard.end is None else {"EndingSequenceNumber": str(shard.end)}
        return {"ShardId": name, **parents, "SequenceNumberRange": {"StartingSequenceNumber": "1", **ending}}


class Clock:
    """A clock that only sleeping, and whoever is told to, moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@dataclass
class Reader:
    """Drains the stand-in and keeps what it is handed; `until` says at which record the handler stops."""

    connection: Connection
    client: Any
    clock: Clock = field(default_factory=Clock)
    got: list[bytes] = field(default_factory=list)
    until: bytes | None = None
    seconds_each: float = 0.0

    def __call__(self, seconds: float = 10, records: int = 1000, stream: Stream = STREAM) -> Drained:
        return drain(
            self.connection,
            stream,
            self.take,
            seconds=seconds,
            records=records,
            client=self.client,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def take(self, connection: Connection, records: Sequence[Record]) -> int:
        for number, record in enumerate(records):
            if record.data == self.until:
                return number
            self.clock.now += self.seconds_each
            self.got.append(record.data)
        return len(records)

    def checkpoints(self) -> dict[str, tuple[str | None, bool]]:
        rows = self.connection.execute("SELECT shard, sequence_number, finished FROM ledger.stream_checkpoints ORDER BY shard")
        return {row[0]: (row[1], row[2]) for row in rows}


@pytest.fixture
def shards() -> Shards:
    return Shards()


@pytest.fixture
def reader(database: Database, shards: Shards) -> Iterator[Reader]:
    with database.connect() as connection:
        yield Reader(connection, shards)


# Reading on


def test_records_are_read_once_in_order_and_reading_goes_on_where_it_ended(reader: Reader, shards: Shards) -> None:
    shards.put(b"a", b"b")
    drained = reader()
    assert (drained.records, drained.shards, drained.complete, drained.finished) == (2, 1, True, 0)
    shards.put(b"c")
    assert reader().records == 1
    assert reader().records == 0
    assert reader.got == [b"a", b"b", b"c"]
    assert reader.checkpoints() == {"shardId-0": ("1002", False)}
    assert shards.read("get_shard_iterator") == ["shardId-0 TRIM_HORIZON"] + ["shardId-0 AFTER_SEQUENCE_NUMBER"] * 2


def test_record_tells_its_shard_number_bytes_and_time(reader: Reader, shards: Shards) -> None:
    shards.put(b"a")
    seen: list[Record] = []

    def take(connection: Connection, records: Sequence[Record]) -> int:
        seen.extend(records)
        return len(records)

    drain(reader.connection, STREAM, take, seconds=10, client=shards)
    assert seen == [Record("shardId-0", "1000", b"a", NOON + timedelta(seconds=1000))]


def test_lost_checkpoint_reads_all_that_is_kept_again(reader: Reader, shards: Shards) -> None:
    shards.put(b"a", b"b", b"c")
    reader()
    reader.connection.execute("DELETE FROM ledger.stream_checkpoints")
    shards.trim("shardId-0", 1)
    reader()
    assert reader.got == [b"a", b"b", b"c", b"b", b"c"]


def test_empty_answer_of_a_shard_that_is_behind_is_not_its_end(reader: Reader, shards: Shards) -> None:
    """Kinesis answers with no records, and far from the tip, where a shard has gaps."""
    shards.put(b"a")
    answers = iter([{"Records": [], "MillisBehindLatest": 5000, "NextShardIterator": "shardId-0 0"}])
    of_shards = shards.get_records

    def get_records(**request: Any) -> dict[str, Any]:
        return next(answers, None) or of_shards(**request)

    shards.get_records = get_records  # type: ignore[method-assign, assignment]
    reader()
    assert reader.got == [b"a"]


def test_every_page_of_records_and_of_shards_is_read(reader: Reader, shards: Shards) -> None:
    shards.page, shards.listed_at_a_time = 3, 2
    shards.shards = {f"shardId-{number}": Shard() for number in range(7)}
    for name in shards.shards:
        shards.put(*(f"{name} {number}".encode() for number in range(10)), shard=name)
    drained = reader()
    assert (drained.records, drained.shards) == (70, 7)
    assert len(set(reader.got)) == 70
    for name in shards.shards:
        of_shard = [data for data in reader.got if data.startswith(name.encode() + b" ")]
        assert of_shard == [f"{name} {number}".encode() for number in range(10)]


# Budgets


def test_time_ends_a_drain_and_the_next_one_goes_on(reader: Reader, shards: Shards) -> None:
    data = [str(number).encode() for number in range(200)]
    shards.put(*data)
    reader.seconds_each = 0.1
    drained = reader(seconds=5)
    assert not drained.complete
    assert 50 <= drained.records <= 75
    while not reader(seconds=5).complete:
        pass
    assert reader.got == data


def test_number_of_records_ends_a_drain_to_the_record(reader: Reader, shards: Shards) -> None:
    shards.put(*(str(number).encode() for number in range(40)))
    assert reader(records=33).records == 33
    assert reader.checkpoints()["shardId-0"] == ("1032", False)
    assert reader().records == 7


def test_no_shard_waits_for_another_that_has_much(reader: Reader, shards: Shards) -> None:
    shards.shards = {"shardId-0": Shard(), "shardId-1": Shard()}
    shards.put(*[b"much"] * 1000, shard="shardId-0")
    shards.put(b"little", shard="shardId-1")
    reader.seconds_each = 0.1
    reader(seconds=5)
    assert b"little" in reader.got


def test_shards_that_had_no_turn_come_first_next_time(reader: Reader, shards: Shards) -> None:
    shards.shards = {f"shardId-{number}": Shard() for number in range(4)}
    for name in shards.shards:
        shards.put(*[name.encode()] * 1000, shard=name)
    reader.seconds_each = 1
    for _ in range(4):
        reader(seconds=1)
    assert set(reader.got) == {name.encode() for name in shards.shards}


# What the handler says


def test_record_that_the_handler_cannot_take_yet_holds_its_shard_and_no_other(reader: Reader, shards: Shards) -> None:
    shards.shards = {"shardId-0": Shard(), "shardId-1": Shard()}
    shards.put(b"a", b"not yet", b"c")
    shards.put(b"x", b"y", shard="shardId-1")
    reader.until = b"not yet"
    for _ in range(2):
        drained = reader()
        assert (drained.waiting, drained.complete) == (1, True)
    assert sorted(reader.got) == [b"a", b"x", b"y"]
    reader.until = None
    assert reader().waiting == 0
    assert reader.got[-2:] == [b"not yet", b"c"]


def test_handler_that_raises_loses_nothing(reader: Reader, shards: Shards) -> None:
    shards.put(*(str(number).encode() for number in range(60)))

    def give_way(connection: Connection, records: Sequence[Record]) -> int:
        if any(record.data == b"30" for record in records):
            raise Transient("object_store_unavailable", "away")
        return reader.take(connection, records)

    with pytest.raises(Transient):
        drain(reader.connection, STREAM, give_way, seconds=10, client=shards)
    reader()
    assert reader.got == [str(number).encode() for number in range(60)]


# Two at once


def test_shard_in_one_readers_hand_is_left_alone_by_another(reader: Reader, shards: Shards, database: Database) -> None:
    shards.put(b"a", b"b")
    with database.connect() as other_connection:
        other = Reader(other_connection, shards)
        seen: list[Drained] = []

        def meanwhile(connection: Connection, records: Sequence[Record]) -> int:
            seen.append(other())
            return reader.take(connection, records)

        drain(reader.connection, STREAM, meanwhile, seconds=10, client=shards)
        assert [(drained.busy, drained.records) for drained in seen] == [(1, 0)]
        shards.put(b"c")
        other()
    assert reader.got == [b"a", b"b"]
    assert other.got == [b"c"]


def test_reader_whose_checkpoint_was_moved_by_somebody_else_stops_and_never_takes_it_back(reader: Reader, shards: Shards) -> None:
    shards.put(*(str(number).encode() for number in range(60)))

    def overtaken(connection: Connection, records: Sequence[Record]) -> int:
        connection.execute("UPDATE ledger.stream_checkpoints SET sequence_number = '1049'")
        return reader.take(connection, records)

    drained = drain(reader.connection, STREAM, overtaken, seconds=10, client=shards)
    assert drained.records == 0
    assert len(reader.got) == 25
    assert reader.checkpoints() == {"shardId-0": ("1049", False)}


def test_checkpoint_lost_while_it_is_read_is_not_made_up(reader: Reader, shards: Shards) -> None:
    shards.put(b"a")

    def lose(connection: Connection, records: Sequence[Record]) -> int:
        connection.execute("DELETE FROM ledger.stream_checkpoints")
        return len(records)

    assert drain(reader.connection, STREAM, lose, seconds=10, client=shards).records == 0
    assert reader.checkpoints() == {}
    reader()
    assert reader.got == [b"a"]


def test_many_readers_at_once_read_every_record_once(database: Database, shards: Shards) -> None:
    shards.shards = {f"shardId-{number}": Shard() for number in range(4)}
    shards.page = 30
    for name in shards.shards:
        shards.put(*(f"{name} {number}".encode() for number in range(200)), shard=name)
    got: list[bytes] = []
    failures: list[BaseException] = []

    def read() -> None:
        try:
            with database.connect() as connection:
                reader = Reader(connection, shards)
                for _ in range(5):
                    reader()
                got.extend(reader.got)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(got) == sorted(data for shard in shards.shards.values() for _, data in shard.records)


# Resharding


def test_children_of_a_split_are_read_once_their_parent_is_at_its_end(reader: Reader, shards: Shards) -> None:
    shards.put(b"1", b"2")
    reader()
    shards.put(b"3")
    shards.close("shardId-0", children=["shardId-1", "shardId-2"])
    shards.put(b"4", shard="shardId-1")
    shards.put(b"5", shard="shardId-2")
    drained = reader()
    assert (drained.finished, drained.shards, drained.complete) == (1, 3, True)
    assert reader.got[:3] == [b"1", b"2", b"3"]
    assert sorted(reader.got[3:]) == [b"4", b"5"]
    assert reader.checkpoints()["shardId-0"][1]
    calls = len(shards.read())
    reader()
    assert not [argument for argument in shards.read()[calls:] if argument.startswith("shardId-0")], "a finished shard is read no more"


def test_child_of_a_merge_waits_for_both_parents(reader: Reader, shards: Shards) -> None:
    shards.shards = {"shardId-0": Shard(), "shardId-1": Shard()}
    shards.put(b"1")
    shards.put(b"held", b"2", shard="shardId-1")
    shards.close("shardId-0", "shardId-1", children=["shardId-2"])
    shards.put(b"3", shard="shardId-2")
    reader.until = b"held"
    assert reader().finished == 1
    assert reader.got == [b"1"]
    reader.until = None
    assert reader().finished == 1
    assert reader.got == [b"1", b"held", b"2", b"3"]


def test_generations_that_passed_between_two_drains_are_all_read_in_order(reader: Reader, shards: Shards) -> None:
    shards.put(b"1")
    shards.close("shardId-0", children=["shardId-1", "shardId-2"])
    shards.put(b"2", shard="shardId-1")
    shards.close("shardId-1", "shardId-2", children=["shardId-3"])
    shards.put(b"3", shard="shardId-3")
    shards.close("shardId-3", children=["shardId-4", "shardId-5"])
    shards.put(b"4", shard="shardId-5")
    drained = reader()
    assert reader.got == [b"1", b"2", b"3", b"4"]
    assert (drained.finished, drained.shards) == (4, 6)


def test_child_of_a_parent_that_has_expired_is_read(reader: Reader, shards: Shards) -> None:
    shards.close("shardId-0", children=["shardId-1"])
    shards.put(b"1", shard="shardId-1")
    del shards.shards["shardId-0"]
    reader()
    assert reader.got == [b"1"]


def test_time_that_ends_in_a_parent_keeps_its_children_back(reader: Reader, shards: Shards) -> None:
    shards.put(*[b"parent"] * 100)
    shards.close("shardId-0", children=["shardId-1"])
    shards.put(b"child", shard="shardId-1")
    reader.seconds_each = 1
    assert not reader(seconds=30).complete
    assert b"child" not in reader.got
    reader.seconds_each = 0
    reader()
    assert reader.got == [b"parent"] * 100 + [b"child"]


def test_shard_that_expires_while_it_is_read_ends_there(reader: Reader, shards: Shards) -> None:
    shards.put(b"1")
    shards.close("shardId-0", children=["shardId-1"])
    shards.put(b"2", shard="shardId-1")

    def expire(**request: Any) -> dict[str, Any]:
        del shards.shards["shardId-0"]
        shards.get_shard_iterator = of_shards  # type: ignore[method-assign]
        raise refusal("ResourceNotFoundException")

    of_shards = shards.get_shard_iterator
    shards.get_shard_iterator = expire  # type: ignore[method-assign, assignment]
    reader()
    reader()
    assert reader.got == [b"2"]


def test_stream_made_again_under_the_same_name_is_read_from_its_beginning(reader: Reader, shards: Shards) -> None:
    shards.put(b"old")
    shards.close("shardId-0", children=["shardId-1"])
    reader()
    shards.shards = {"shardId-0": Shard()}
    shards.put(b"new")
    shards.fail("get_shard_iterator", "InvalidArgumentException")
    reader()
    assert reader.got == [b"old", b"new"]


# What the stream says


def test_expired_iterator_is_replaced_where_the_reader_stands(reader: Reader, shards: Shards) -> None:
    shards.page = 2
    shards.put(b"1", b"2", b"3", b"4", b"5")
    of_shards = shards.get_records
    answered = count(1)

    def get_records(**request: Any) -> dict[str, Any]:
        if next(answered) == 2:
            raise refusal("ExpiredIteratorException")
        return of_shards(**request)

    shards.get_records = get_records  # type: ignore[method-assign, assignment]
    reader()
    assert reader.got == [b"1", b"2", b"3", b"4", b"5"]
    assert shards.read("get_shard_iterator") == ["shardId-0 TRIM_HORIZON", "shardId-0 AFTER_SEQUENCE_NUMBER"]


def test_checkpoint_that_the_stream_does_not_know_any_more_falls_back_on_the_oldest_record(reader: Reader, shards: Shards) -> None:
    shards.put(b"1", b"2", b"3")
    reader(records=1)
    shards.trim("shardId-0", 2)
    shards.fail("get_shard_iterator", "InvalidArgumentException")
    reader()
    assert reader.got == [b"1", b"3"]


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException"])
@pytest.mark.parametrize("operation", ["list_shards", "get_shard_iterator", "get_records"])
def test_throttled_call_is_made_again_after_a_pause(operation: str, code: str, reader: Reader, shards: Shards) -> None:
    shards.put(b"1")
    shards.fail(operation, code, code, code)
    drained = reader(seconds=60)
    assert reader.got == [b"1"]
    assert drained.throttled == 3
    assert reader.clock.now > 0


def test_throttling_that_outlasts_the_time_ends_the_drain_and_other_shards_are_read(reader: Reader, shards: Shards) -> None:
    shards.shards = {"shardId-0": Shard(), "shardId-1": Shard()}
    shards.put(b"1")
    shards.put(b"2", shard="shardId-1")
    of_shards = shards.get_records

    def get_records(**request: Any) -> dict[str, Any]:
        if request["ShardIterator"].startswith("shardId-0"):
            raise refusal("ProvisionedThroughputExceededException")
        return of_shards(**request)

    shards.get_records = get_records  # type: ignore[method-assign, assignment]
    drained = reader(seconds=20)
    assert reader.got == [b"2"]
    assert not drained.complete
    assert drained.throttled > 3
    assert reader.clock.now <= 25
    shards.fail("list_shards", *["LimitExceededException"] * 50)
    with pytest.raises(Transient, match="stream_unavailable"):
        reader(seconds=20)


def test_lag_is_that_of_the_shard_furthest_behind(reader: Reader, shards: Shards) -> None:
    shards.shards = {"shardId-0": Shard(), "shardId-1": Shard()}
    shards.page = 25
    shards.put(*[b"x"] * 100)
    shards.put(b"y", shard="shardId-1")
    reader.seconds_each = 1
    assert reader(seconds=26).seconds_behind == 75
    reader.seconds_each = 0
    assert reader().seconds_behind == 0


@pytest.mark.parametrize("code", ["AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"])
def test_stream_that_is_not_open_to_us_is_a_mistake_of_setup(code: str, reader: Reader, shards: Shards) -> None:
    shards.fail("get_records", code)
    with pytest.raises(ConfigurationError, match="kinesis:GetShardIterator") as caught:
        reader()
    assert "123456789012" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_closed_encryption_key_is_named(reader: Reader, shards: Shards) -> None:
    shards.fail("get_records", "KMSAccessDeniedException")
    with pytest.raises(ConfigurationError, match="kms:Decrypt"):
        reader()


def test_any_other_trouble_may_pass_and_the_next_reader_is_not_kept_out(reader: Reader, shards: Shards, database: Database) -> None:
    shards.put(b"1")
    shards.fail("get_records", "InternalFailureException")
    with pytest.raises(Transient, match="InternalFailureException"):
        reader()
    shards.list_shards = lambda **_: (_ for _ in ()).throw(EndpointConnectionError(endpoint_url="http://x"))  # type: ignore[method-assign]
    with pytest.raises(Transient, match="EndpointConnectionError"):
        reader()
    del shards.list_shards
    with database.connect() as connection:
        other = Reader(connection, shards)
        assert other().busy == 0
        assert other.got == [b"1"]


@pytest.mark.parametrize("given", ["", "a b", "s3://bucket", ".hidden", "x" * 129, "arn:aws:kinesis:eu-west-2:1:stream/x", "arn:aws:sqs:x"])
def test_what_is_no_stream_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match="by its name or as arn:aws:kinesis"):
        Stream.of(given)


def test_stream_is_called_by_its_name_however_it_is_given() -> None:
    arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/some.stream_1"
    assert Stream.of(arn) == Stream("some.stream_1", arn, "eu-west-1")
    assert Stream.of(arn).url == Stream.of("some.stream_1").url == "kinesis://some.stream_1"


# Moto's server


@pytest.fixture
def kinesis(moto_server: str, aws_environment: pytest.MonkeyPatch) -> Any:
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    return boto3.client("kinesis", region_name="eu-west-2")


@pytest.fixture
def new_stream(kinesis: Any) -> Callable[[int], str]:
    def new(shards: int) -> str:
        name = f"stream-{next(_numbers)}"
        kinesis.create_stream(StreamName=name, ShardCount=shards)
        return name

    return new


def put(kinesis: Any, stream: str, *data: bytes) -> None:
    answer = kinesis.put_records(StreamName=stream, Records=[{"Data": each, "PartitionKey": each.decode()} for each in data])
    assert answer["FailedRecordCount"] == 0


def read_all(reader: Reader, stream: str) -> Drained:
    return drain(reader.connection, Stream.of(stream), reader.take, seconds=30)


def test_stream_of_a_server_is_read_by_name_and_by_arn_and_not_twice(
    reader: Reader, kinesis: Any, new_stream: Callable[[int], str]
) -> None:
    name = new_stream(3)
    data = [f"record {number}".encode() for number in range(60)]
    put(kinesis, name, *data[:30])
    drained = read_all(reader, name)
    assert (drained.records, drained.shards, drained.complete) == (30, 3, True)
    put(kinesis, name, *data[30:])
    arn = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    assert read_all(reader, arn).records == 30
    assert sorted(reader.got) == sorted(data)


def test_split_and_merge_on_a_server_lose_nothing(reader: Reader, kinesis: Any, new_stream: Callable[[int], str]) -> None:
    name = new_stream(1)
    put(kinesis, name, b"1", b"2")
    read_all(reader, name)
    kinesis.split_shard(StreamName=name, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
    put(kinesis, name, b"3", b"4")
    read_all(reader, name)
    put(kinesis, name, b"5")
    read_all(reader, name)
    kinesis.merge_shards(StreamName=name, ShardToMerge="shardId-000000000001", AdjacentShardToMerge="shardId-000000000002")
    put(kinesis, name, b"6")
    drained = read_all(reader, name)
    assert drained.complete
    assert sorted(reader.got) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert read_all(reader, name).records == 0


def test_stream_that_is_not_there_is_named(reader: Reader, kinesis: Any) -> None:
    with pytest.raises(ConfigurationError, match="there is no Kinesis stream 'nowhere'; correct its name"):
        read_all(reader, "nowhere")


def test_no_credentials_are_a_mistake_of_setup(reader: Reader, kinesis: Any, aws_environment: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws_environment.delenv(name)
    with pytest.raises(ConfigurationError, match="check the AWS credentials and region"):
        read_all(reader, "any")


def test_server_that_is_away_may_come_back(reader: Reader, aws_environment: pytest.MonkeyPatch) -> None:
    aws_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Transient, match=r"stream_unavailable: kinesis://any: EndpointConnectionError"):
        read_all(reader, "any")


def test_pauses_grow_and_stay_short() -> None:
    assert all(0 < pause_after(attempt) <= 5 for attempt in range(1, 50))
    assert pause_after(1) < pause_after(5)

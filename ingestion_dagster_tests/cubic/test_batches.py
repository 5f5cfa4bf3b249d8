"""A batch is what its range says: the same name, the same bytes, one load, whoever makes it and however often."""

import hashlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from ingestion_dagster.cubic import batches
from ingestion_dagster.cubic.batches import Places, Range, short
from ingestion_dagster.cubic.registry import PIPELINE
from ingestion_dagster.engine import entries
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.kinesis import Record
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic.consume_driver import registry

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LINES = b'{"topic": "tap", "partition": 0, "offset": 1}\n'
TAPS = Range("kafka", "shardId-0", "tap", "1000", "1009", NOON, NOON, 1)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.connect() as connection:
        sync_datasets(connection, PIPELINE, registry().datasets)
        yield connection


@pytest.fixture
def places(settings: Settings) -> Places:
    return Places(open_store(f"{settings.storage}/cubic/incoming"), open_store(f"{settings.storage}/cubic/error"), registry())


def test_short_uuid_is_the_number_in_57_digits_and_always_22_of_them() -> None:
    assert short(uuid.UUID(int=0)) == "2" * 22
    assert short(uuid.UUID(int=1)) == "2" * 21 + "3"
    assert short(uuid.UUID(int=57)) == "2" * 20 + "32"
    assert re.fullmatch("[2-9A-HJ-NP-Za-km-z]{22}", short(uuid.UUID(int=2**128 - 1)))


@pytest.mark.parametrize(
    "other",
    [
        replace(TAPS, stream="kafka2"),
        replace(TAPS, shard="shardId-1"),
        replace(TAPS, topic="taps"),
        replace(TAPS, topic=None),
        replace(TAPS, first="1001"),
        replace(TAPS, last="1010"),
        replace(TAPS, first_arrived=NOON + timedelta(seconds=1)),
    ],
)
def test_every_other_range_has_another_name_and_the_same_one_the_same(other: Range) -> None:
    assert TAPS.key == replace(TAPS, last_arrived=NOON + timedelta(hours=1), records=5).key
    assert TAPS.key.rpartition("/")[2] != other.key.rpartition("/")[2]


@pytest.mark.parametrize(
    ("number", "later", "covered"),
    [("999", 0, False), ("1000", 0, True), ("1009", 60, True), ("1010", 0, False), ("10000", 0, False), ("1005", 61, False)],
)
def test_range_covers_its_numbers_and_no_younger_stream(number: str, later: int, covered: bool) -> None:
    assert TAPS.covers(Record("shardId-0", number, b"", NOON + timedelta(seconds=later))) is covered


def test_batch_that_is_put_twice_is_one_object_and_one_load(connection: Connection, places: Places) -> None:
    batch = batches.enter(connection, places, TAPS, LINES, NOON)
    assert batch.sha256 == hashlib.sha256(LINES).hexdigest()
    assert [found.id for found in batches.unfinished(connection, "kafka", "shardId-0")] == [batch.id]
    assert batches.unfinished(connection, "kafka", "shardId-0") == [batch]
    assert batches.unfinished_shards(connection, "kafka") == ["shardId-0"]
    assert not batches.is_there(connection, places, batch, NOON)
    for _ in range(2):
        batches.put(connection, places, batch, LINES, NOON)
    [seen] = places.landing.list()
    assert seen.modified == NOON
    assert batches.unfinished(connection, "kafka", "shardId-0") == []
    assert batches.unfinished_shards(connection, "kafka") == []
    rows = connection.execute("SELECT version, size, waiting_for FROM ledger.loads").fetchall()
    assert rows == [(seen.version, seen.size, None)]
    assert batches.newest_of_topics(connection, "kafka", "shardId-0") == {"tap": (1009, NOON)}


def test_same_records_cannot_begin_two_batches(connection: Connection, places: Places) -> None:
    for topic in ("tap", None):
        batches.enter(connection, places, replace(TAPS, topic=topic), LINES, NOON)
        with pytest.raises(psycopg.errors.UniqueViolation):
            batches.enter(connection, places, replace(TAPS, topic=topic, last="1010"), LINES, NOON)
    assert connection.execute("SELECT count(*) FROM ledger.loads").fetchone() == (1,), "the load goes with the batch that was not entered"


def test_object_that_discovery_saw_first_is_only_noted(connection: Connection, places: Places) -> None:
    batch = batches.enter(connection, places, TAPS, LINES, NOON)
    written = places.landing.write(batch.key, b"whatever stands there, discovery has taken it")
    entries.uploaded(connection, PIPELINE, places.landing.url, [written])
    assert batches.is_there(connection, places, batch, NOON)
    assert connection.execute("SELECT version FROM ledger.loads").fetchone() == (written.version,)
    assert batches.unfinished(connection, "kafka", "shardId-0") == []


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b\x08\x00"])
def test_what_is_no_file_of_ours_is_left_where_it_stands(content: bytes, connection: Connection, places: Places) -> None:
    batch = batches.enter(connection, places, TAPS, LINES, NOON)
    other = places.landing.write(batch.key, content)
    with pytest.raises(Transient, match="key_taken"):
        batches.put(connection, places, batch, LINES, NOON)
    assert places.landing.read(other) == content
    assert batches.unfinished(connection, "kafka", "shardId-0") == [batch]


def test_content_that_comes_out_differently_the_second_time_is_what_is_noted(connection: Connection, places: Places) -> None:
    """A newer version of this project may write lines differently; the range is what counts."""
    batch = batches.enter(connection, places, TAPS, LINES, NOON)
    batches.put_again(connection, places, batch, [LINES.replace(b" ", b"")], NOON)
    row = connection.execute("SELECT sha256, lost, bytes FROM cubic.batches").fetchone()
    assert row == (hashlib.sha256(LINES.replace(b" ", b"")).hexdigest(), 0, len(LINES.replace(b" ", b"")))


def test_history_of_a_lost_batch_is_legal(connection: Connection, places: Places, caplog: pytest.LogCaptureFixture) -> None:
    batch = batches.enter(connection, places, TAPS, LINES, NOON)
    batches.put_again(connection, places, batch, [], NOON)
    events = connection.execute("SELECT from_status, to_status FROM ledger.load_events ORDER BY id").fetchall()
    assert events == [(None, "ready"), ("ready", "ingesting"), ("ingesting", "ready_for_erroring")]
    assert connection.execute("SELECT lost, uploaded_at FROM cubic.batches").fetchone() == (1, None)
    assert batches.unfinished(connection, "kafka", "shardId-0") == []
    assert "batch_lost: 1 of 1 records" in caplog.text

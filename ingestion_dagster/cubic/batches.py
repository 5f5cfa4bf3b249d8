"""Files of a stream: each is entered with its range before it is put, so that whoever comes after a crash makes the very same one.

A batch is all that one topic has between two numbers of a shard, as one gzipped file of a line per record. Its key follows from its range.
Until its object stands, its load waits for the upload; discovery fills in the version if nobody else has.
"""

import gzip
import hashlib
import logging
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import psycopg

from ingestion_dagster.cubic import batches_sql as sql
from ingestion_dagster.cubic.registry import PIPELINE, UNCLASSIFIED, Registry
from ingestion_dagster.engine import entries, ledger
from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.kinesis import Record
from ingestion_dagster.engine.ledger import Scope, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

BATCH_LOST: Final = Problem(
    "batch_lost",
    "the whole file",
    "its records were entered, but the stream had let go of them before the file was put; have the producer send that range again",
)

ARRIVALS_AGREE = timedelta(minutes=1)
"""How much earlier than the record before it one may be said to have arrived: the stream says so approximately."""

_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # pragma: allowlist secret
_NAME_LENGTH = 22
_LEVEL = 6
_LOOKS = 3
_LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Range:
    """Which records a batch holds: those of a topic from one number of a shard to another; `topic` None: those that are of no topic."""

    stream: str
    shard: str
    topic: str | None
    first: str
    last: str
    first_arrived: datetime
    last_arrived: datetime
    records: int

    def covers(self, record: Record) -> bool:
        """Whether a record of its topic is one of its own. Those of a stream made again under the same name may be numbered alike."""
        is_between = int(self.first) <= int(record.sequence_number) <= int(self.last)
        return is_between and record.arrived <= self.last_arrived + ARRIVALS_AGREE

    @property
    def key(self) -> str:
        """Where its file belongs: in the landing zone below its topic, or with other dead letters in the error zone.

        A stream that is made again may count anew, so the time of arrival tells apart what the numbers do not.
        """
        place = "/".join([self.stream, self.shard, *([self.topic] if self.topic else []), f"{self.first}-{self.last}"])
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"kinesis://{place}@{self.first_arrived.isoformat()}")
        return f"cubic/kafka/{self.topic or '_dead_letter'}/{short(identity)}.json.gz"


@dataclass(frozen=True, slots=True)
class Batch:
    """A range that has been entered, its load if it is to be loaded, and what its file holds."""

    id: int
    load_id: int | None
    range: Range
    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where batches are put, and as what they are entered."""

    landing: ObjectStore
    error: ObjectStore
    registry: Registry

    def store(self, batch: Batch) -> ObjectStore:
        """Where the file of a batch belongs."""
        return self.error if batch.load_id is None else self.landing


def short(identity: uuid.UUID) -> str:
    """A UUID in 22 characters, of which none looks like another."""
    number, digits = identity.int, ""
    for _ in range(_NAME_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def enter(connection: Connection, places: Places, wanted: Range, lines: bytes, now: datetime) -> Batch:
    """Enter a batch, and the load that waits for it. From here on its records are read by nobody else as those of another."""
    key = wanted.key
    digest = hashlib.sha256(lines).hexdigest()
    fault_point("cubic.consume.enter.before")
    with connection.transaction():
        load_id = None
        if wanted.topic is not None:
            table = places.registry.of_key(key)
            dataset = UNCLASSIFIED if table is None else table.name
            load_id = entries.expect(connection, PIPELINE, places.landing.url, key, dataset=dataset, modified=wanted.last_arrived, now=now)
        row = connection.execute(
            sql.ENTER,
            {
                "load_id": load_id,
                "stream": wanted.stream,
                "shard": wanted.shard,
                "topic": wanted.topic,
                "first": wanted.first,
                "last": wanted.last,
                "first_arrived": wanted.first_arrived,
                "last_arrived": wanted.last_arrived,
                "key": key,
                "records": wanted.records,
                "bytes": len(lines),
                "sha256": digest,
                "now": now,
            },
        ).fetchone()
    fault_point("cubic.consume.enter.after")
    assert row is not None
    return Batch(int(row[0]), load_id, wanted, key, len(lines), digest)


def put(connection: Connection, places: Places, batch: Batch, lines: bytes, now: datetime) -> None:
    """Put the file of a batch, and note that it stands. Repeatable. Raises `Transient`, also while another file has its key."""
    store = places.store(batch)
    content = gzip.compress(lines, _LEVEL, mtime=0)
    for _ in range(_LOOKS):
        fault_point("cubic.consume.put.before")
        try:
            standing = store.write(batch.key, content, modified=batch.range.last_arrived, new=True)
        except Changed:
            if is_there(connection, places, batch, now):
                return
        except ValueError:  # a file stands where a folder would have to
            raise _taken(store, batch) from None
        else:
            fault_point("cubic.consume.put.after")
            _mark(connection, places, batch, standing, now)
            return
    raise Transient("object_store_unavailable", f"{store.url}: what stands under the key of batch {batch.id} comes and goes")


def is_there(connection: Connection, places: Places, batch: Batch, now: datetime) -> bool:
    """Whether the file of a batch has been put, which is noted then: it stands, or has been discovered and perhaps moved since.

    Raises `Transient`, also while another file has its key.
    """
    store = places.store(batch)
    standing = store.find(batch.key)
    # In this order: what is not found standing has been settled by whoever moved it.
    if batch.load_id is not None and connection.execute(sql.IS_AWAITED, {"load_id": batch.load_id}).fetchone() != (True,):
        _mark(connection, places, batch, None, now)
        return True
    if standing is None:
        return False
    try:
        digest = _digest(store.read(standing))
    except (Missing, Changed):
        return False
    if digest != batch.sha256:
        raise _taken(store, batch)
    _mark(connection, places, batch, standing, now)
    return True


def unfinished(connection: Connection, stream: str, shard: str) -> list[Batch]:
    """Batches of a shard that were entered and not put, or not noted to be; oldest first."""
    rows = connection.execute(sql.UNFINISHED, {"stream": stream, "shard": shard}).fetchall()
    return [Batch(row[0], row[1], Range(stream, shard, *row[2:8]), row[8], row[9], row[10]) for row in rows]


def unfinished_shards(connection: Connection, stream: str) -> list[str]:
    """Shards with batches that are `unfinished`."""
    return [row[0] for row in connection.execute(sql.UNFINISHED_SHARDS, {"stream": stream})]


def newest_of_topics(connection: Connection, stream: str, shard: str) -> dict[str | None, tuple[int, datetime]]:
    """By topic, the number of the last record of a shard that has been entered, and when that arrived."""
    rows = connection.execute(sql.NEWEST_OF_TOPICS, {"stream": stream, "shard": shard})
    return {row[0]: (int(row[1]), row[2]) for row in rows}


def newest(connection: Connection, stream: str, shard: str) -> int | None:
    """Id of the batch that was entered last for a shard: another one than before tells that somebody else reads it."""
    row = connection.execute(sql.NEWEST, {"stream": stream, "shard": shard}).fetchone()
    return row[0] if row else None


def put_again(connection: Connection, places: Places, batch: Batch, lines: Sequence[bytes], now: datetime) -> None:
    """Put the file of an unfinished batch from what the stream still has of it. If that is nothing, its load is errored (`batch_lost`).

    What is missing is logged as an error: nobody can bring it back but the producer.
    """
    missing = max(0, batch.range.records - len(lines))
    if missing:
        log.error(
            "batch_lost: %s of %s records of batch %s (shard %s, numbers %s to %s) are kept no more by the stream",
            missing,
            batch.range.records,
            batch.id,
            batch.range.shard,
            batch.range.first,
            batch.range.last,
        )
    if not lines:
        _give_up(connection, batch)
        return
    content = b"".join(lines)
    digest = hashlib.sha256(content).hexdigest()
    if digest != batch.sha256:
        batch = replace(batch, bytes=len(content), sha256=digest)
        connection.execute(sql.AMEND, {"id": batch.id, "bytes": batch.bytes, "sha256": digest, "lost": missing})
    put(connection, places, batch, content, now)


def _mark(connection: Connection, places: Places, batch: Batch, standing: StoredObject | None, now: datetime) -> None:
    fault_point("cubic.consume.mark.before")
    with connection.transaction():
        if batch.load_id is not None and standing is not None:
            entries.uploaded(connection, PIPELINE, places.landing.url, [standing])
        connection.execute(sql.UPLOADED, {"id": batch.id, "now": now})
    fault_point("cubic.consume.mark.after")


def _give_up(connection: Connection, batch: Batch) -> None:
    """Note that there will be no file, and refuse its load; the sweep writes its report.

    A load whose dataset is paused stays, and its batch with it, until a later start finds that it is not.
    """
    fault_point("cubic.consume.lost.before")
    with connection.transaction() as transaction:
        connection.execute(sql.LOST, {"id": batch.id})
        if batch.load_id is not None:
            connection.execute(sql.AWAIT_NO_MORE, {"load_id": batch.load_id})
            scope = Scope(PIPELINE, ids=frozenset({batch.load_id}))
            claimed = ledger.claim(connection, scope, f"batch-{batch.id}", count=1, size=1, lease_seconds=_LEASE_SECONDS)
            if not claimed:
                raise psycopg.Rollback(transaction)
            why = "the stream had let go of its records"
            ledger.settle(connection, [Verdict(load, Status.READY_FOR_ERRORING, why=why, problems=(BATCH_LOST,)) for load in claimed])
    fault_point("cubic.consume.lost.after")


def _taken(store: ObjectStore, batch: Batch) -> Transient:
    return Transient("key_taken", f"{store.url}: another file has the place of batch {batch.id}; move it out of the way")


def _digest(raw: bytes) -> str | None:
    """The digest of the lines of a file; None if it is no file of ours."""
    try:
        return hashlib.sha256(gzip.decompress(raw)).hexdigest()
    except (OSError, EOFError, zlib.error):
        return None

"""Which records of a topic have been written, and by which load: ranges of offsets per partition."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psycopg
from psycopg.types.multirange import Int8Multirange
from psycopg.types.range import Int8Range

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection

LOCK = "SELECT pg_try_advisory_lock(hashtextextended('cubic offsets ' || %(dataset)s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('cubic offsets ' || %(dataset)s, 0))"

WRITTEN = """
SELECT o.topic, o.partition, range_agg(o.offsets * asked.offsets)
FROM unnest(%(topics)s::text[], %(partitions)s::bigint[], %(offsets)s::int8multirange[]) AS asked (topic, partition, offsets)
JOIN cubic.kafka_offsets AS o ON o.topic = asked.topic AND o.partition = asked.partition AND o.offsets && asked.offsets
JOIN ledger.datasets AS d ON d.id = o.dataset_id
JOIN ledger.loads AS l ON l.id = o.load_id
JOIN ledger.loads AS own ON own.id = %(load_id)s
WHERE d.pipeline = 'cubic' AND d.name = %(dataset)s AND (l.landing_zone, l.key) <> (own.landing_zone, own.key)
GROUP BY 1, 2
"""

FORGET = """
DELETE FROM cubic.kafka_offsets AS o USING ledger.loads AS l, ledger.loads AS own
WHERE own.id = %(load_id)s AND l.landing_zone = own.landing_zone AND l.key = own.key AND o.load_id = l.id
"""

ENTER = """
INSERT INTO cubic.kafka_offsets (dataset_id, load_id, topic, partition, offsets)
SELECT d.id, %(load_id)s, written.topic, written.partition, written.offsets
FROM unnest(%(topics)s::text[], %(partitions)s::bigint[], %(offsets)s::int8multirange[]) AS written (topic, partition, offsets)
JOIN ledger.datasets AS d ON d.pipeline = 'cubic' AND d.name = %(dataset)s
"""


@contextmanager
def alone(connection: Connection, dataset: str) -> Iterator[bool]:
    """Be the only one who decides what of a topic is new, until the end or this process's death. False: somebody else is."""
    row = connection.execute(LOCK, {"dataset": dataset}).fetchone()
    ours = row == (True,)
    try:
        yield ours
    finally:
        if ours:
            with suppress(psycopg.OperationalError):  # a connection that is lost has let go already
                connection.execute(UNLOCK, {"dataset": dataset})


def written(
    connection: Connection, dataset: str, load_id: int, asked: Mapping[tuple[str, int], Sequence[int]]
) -> dict[tuple[str, int], set[int]]:
    """Which of these records other loads have written. Raises `Transient`."""
    try:
        rows = connection.execute(WRITTEN, {"dataset": dataset, "load_id": load_id} | _parameters(asked)).fetchall()
    except psycopg.Error as error:
        raise Transient("database_gave_way", type(error).__name__) from None
    return {(topic, partition): {offset for span in spans for offset in range(span.lower, span.upper)} for topic, partition, spans in rows}


def enter(connection: Connection, dataset: str, load_id: int, offsets: Mapping[tuple[str, int], Sequence[int]]) -> None:
    """Note what a load has written, in place of what it had; in the caller's transaction."""
    connection.execute(FORGET, {"load_id": load_id})
    connection.execute(ENTER, {"dataset": dataset, "load_id": load_id} | _parameters(offsets))


def _parameters(offsets: Mapping[tuple[str, int], Sequence[int]]) -> dict[str, object]:
    return {
        "topics": [topic for topic, _ in offsets],
        "partitions": [partition for _, partition in offsets],
        "offsets": [_ranges(numbers) for numbers in offsets.values()],
    }


def _ranges(numbers: Sequence[int]) -> Int8Multirange:
    """Numbers as ranges, each as long as can be."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] = number + 1
        else:
            ranges.append([number, number + 1])
    return Int8Multirange([Int8Range(lower, upper) for lower, upper in ranges])

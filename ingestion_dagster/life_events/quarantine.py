"""Bad records: where each stands and what is wrong with it, and never a value of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.postgres import Connection

_FORGET = "DELETE FROM life_events.quarantine WHERE load_id = %(load)s"

_COPY = """
    COPY life_events.quarantine (load_id, ordinal, number, byte_offset, code, field, record_key) FROM STDIN (FORMAT binary)
"""
_TYPES = ("int8", "int8", "int4", "int8", "text", "text", "bytea")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not accepted: its place in the file, what it is known by, and every problem of it."""

    ordinal: int
    offset: int
    record_key: bytes
    problems: tuple[Problem, ...]


def write(connection: Connection, load_id: int, rejected: Sequence[Rejected]) -> None:
    """Note the bad records of a file in place of what an earlier attempt has noted."""
    connection.execute(_FORGET, {"load": load_id})
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for each in rejected:
            for number, problem in enumerate(each.problems, 1):
                # The place of a problem ends with the field: "record 3 (byte 1234), RecordLockedDateTime".
                named = problem.place.rpartition(", ")[2]
                copy.write_row((load_id, each.ordinal, number, each.offset, problem.code, named, each.record_key))

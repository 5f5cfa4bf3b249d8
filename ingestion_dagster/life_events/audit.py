"""The audit: who did what to which event, append-only, without anything of a person."""

from collections.abc import Sequence
from dataclasses import dataclass

from ingestion_dagster.engine.postgres import Connection

FILE_RECEIVED, FILE_DELETED = "FILE_RECEIVED", "FILE_DELETED"
RECORD_STAGED, RECORD_REJECTED = "RECORD_STAGED", "RECORD_REJECTED"
EVENT_PUBLISHED, EVENT_ENRICHED, EVENT_DELETED = "EVENT_PUBLISHED", "EVENT_ENRICHED", "EVENT_DELETED"

_COPY = """
    COPY life_events.audit
         (component, event_name, correlation_id, file_hmac, record_key, outcome, client, fields, payload_hmac)
    FROM STDIN (FORMAT binary)
"""
_TYPES = ("text", "text", "text", "bytea", "bytea", "text", "text", "text[]", "bytea")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the audit, without its time."""

    component: str
    """`load`, `publish`, `api`, `sweep` …"""
    event_name: str
    correlation_id: str
    """What belongs together: a run's id, or a request's."""
    outcome: str
    """`ok`, or a code."""
    file_hmac: bytes | None = None
    record_key: bytes | None = None
    client: str | None = None
    fields: tuple[str, ...] | None = None
    """Names of what was handed out."""
    payload_hmac: bytes | None = None
    """Keyed hash of what was handed out."""


def write(connection: Connection, entries: Sequence[Entry]) -> None:
    """Add rows, in the caller's transaction."""
    if not entries:
        return
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for entry in entries:
            copy.write_row(
                (
                    entry.component,
                    entry.event_name,
                    entry.correlation_id,
                    entry.file_hmac,
                    entry.record_key,
                    entry.outcome,
                    entry.client,
                    list(entry.fields) if entry.fields is not None else None,
                    entry.payload_hmac,
                )
            )

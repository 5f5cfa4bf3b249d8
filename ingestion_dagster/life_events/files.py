"""What is counted in each file, and what the audit is told of its end."""

from dataclasses import dataclass

from ingestion_dagster.engine.postgres import Connection

_FINISH = """
    INSERT INTO life_events.files AS known (load_id, file_hmac, record_count, accepted, duplicates, quarantined, code, finished_at)
    VALUES (%(load)s, %(file_hmac)s, %(record_count)s, %(accepted)s, %(duplicates)s, %(quarantined)s, %(code)s, clock_timestamp())
    ON CONFLICT (load_id) DO UPDATE
       SET file_hmac = excluded.file_hmac, record_count = excluded.record_count, accepted = excluded.accepted,
           duplicates = excluded.duplicates, quarantined = excluded.quarantined, code = excluded.code,
           finished_at = excluded.finished_at, deleted_at = NULL
"""

_AUDIT_DELETED = """
    WITH deleted AS (
        UPDATE life_events.files AS file
           SET deleted_at = clock_timestamp()
          FROM ledger.loads AS load
         WHERE load.id = file.load_id AND load.status = 'archived' AND file.code IS NULL AND file.deleted_at IS NULL
        RETURNING file.file_hmac
    )
    INSERT INTO life_events.audit (component, event_name, correlation_id, file_hmac, outcome)
    SELECT 'load', 'FILE_DELETED', %(correlation)s, file_hmac, 'ok' FROM deleted
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a file held. Refused: `code`; else accepted + duplicates + quarantined = record_count."""

    file_hmac: bytes | None
    record_count: int | None
    accepted: int
    duplicates: int
    quarantined: int
    code: str | None = None


def finish(connection: Connection, load_id: int, counted: Counted) -> None:
    """Note what a file held, in the transaction that settles its load."""
    connection.execute(
        _FINISH,
        {
            "load": load_id,
            "file_hmac": counted.file_hmac,
            "record_count": counted.record_count,
            "accepted": counted.accepted,
            "duplicates": counted.duplicates,
            "quarantined": counted.quarantined,
            "code": counted.code,
        },
    )


def audit_deleted(connection: Connection, correlation_id: str) -> int:
    """Tell the audit of files that have been deleted since it was told last, whoever has deleted them. Returns how many."""
    return connection.execute(_AUDIT_DELETED, {"correlation": correlation_id}).rowcount

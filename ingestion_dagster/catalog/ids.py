"""Ids of the API's rows: numbers that nobody has had, whoever asks for them."""

from ingestion_dagster.engine.postgres import Connection

_RESERVE = """
INSERT INTO catalog.id_marks AS mark (table_name, last_id)
VALUES (%(table)s, %(floor)s::bigint + %(count)s)
ON CONFLICT (table_name) DO UPDATE SET last_id = greatest(mark.last_id, %(floor)s::bigint) + %(count)s
RETURNING last_id
"""


def reserve(ledger: Connection, table: str, count: int, floor: int) -> int:
    """The first of `count` ids in a row that belong to the caller from now on, all of them above `floor`, the highest in use.

    In the caller's transaction, if the ledger's connection is in one: it must be committed before anybody can see the ids.
    """
    row = ledger.execute(_RESERVE, {"table": table, "count": count, "floor": floor}).fetchone()
    assert row is not None
    return int(row[0]) - count + 1

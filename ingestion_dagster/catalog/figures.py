"""What gates count with: rows and documents that there are, and how many there should be."""

from psycopg import sql

from ingestion_dagster.catalog import carry_sql, comparison, gates_sql
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.tables import LIVE, NEXT, TableSpec
from ingestion_dagster.engine.postgres import Connection


def expected_documents(api: Connection, table: TableSpec) -> tuple[int, int]:
    """Rows of the staged table that have a document: at the most, and without those that were moderated since the copy."""
    parts = {"relation": sql.Identifier(NEXT, table.name), "deleted": comparison.moderated(api, table.deleted)}
    most, least = api.execute(gates_sql.EXPECTED.format(**parts)).fetchone() or (0, 0)
    return int(most), int(least)


def filled(connection: Connection, refresh: Refresh) -> dict[str, int] | None:
    """Documents that filling counted, and those carried in since, of both indexes; None if nothing was filled."""
    row = connection.execute(gates_sql.FILLED, {"model": refresh.model, "suffix": refresh.suffix}).fetchone()
    if row is None or row[0] is None:
        return None
    _, main, without_sensitive = carried(connection, refresh)
    return {"documents": int(row[0]) + main, "filtered": int(row[1]) + without_sensitive}


def carried(connection: Connection, refresh: Refresh) -> tuple[int, int, int]:
    """How much more there is since upstream changes were carried in: rows, documents, documents of the filtered index."""
    staged, main, filtered = connection.execute(carry_sql.MORE, {"model": refresh.model, "suffix": refresh.suffix}).fetchone() or (0, 0, 0)
    return int(staged), int(main), int(filtered)


def rows(api: Connection, table: TableSpec) -> int:
    """Rows of the staged table."""
    row = api.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(NEXT, table.name))).fetchone()
    return int(row[0]) if row else 0


def taken_at_most(api: Connection, connection: Connection, table: TableSpec, refresh: Refresh) -> int:
    """Rows and documents that moderation can have taken away: none before a promotion was tried."""
    name = comparison.if_there(api, table.deleted)
    tried = connection.execute(gates_sql.TRIED, {"model": refresh.model, "suffix": refresh.suffix}).fetchone()
    if name is None or tried is None:
        return 0
    row = api.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(LIVE, name))).fetchone()
    return int(row[0]) if row else 0


def refused_of(connection: Connection, index: str) -> frozenset[int]:
    """Ids of documents that an index has refused for good."""
    return frozenset(row[0] for row in connection.execute(gates_sql.DEAD, {"indexes": [index]}))


def dead_of(connection: Connection, index: str) -> int:
    """How many documents an index has refused for good."""
    return int((connection.execute(gates_sql.DEAD_DOCUMENTS, {"indexes": [index]}).fetchone() or (0,))[0])

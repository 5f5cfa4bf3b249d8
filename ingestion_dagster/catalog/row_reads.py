"""Reading rows of the API's database for documents."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.postgres import Connection


def moderation_table(api: Connection, table: str | None) -> str | None:
    """A moderation table, if there is one of this name."""
    if table is None or api.execute("SELECT to_regclass(%s)", [f"{LIVE}.{table}"]).fetchone() == (None,):
        return None
    return table


def in_turn(api: Connection, statement: sql.Composed, parameters: Mapping[str, Any]) -> list[Any]:
    """The rows of a statement of the API's database, in binary.

    Raises `Transient` if the database failed, `Refused` (`rows_unreadable`) if it never will answer that.
    """
    try:
        with api.cursor(binary=True) as cursor:
            return cursor.execute(statement, parameters, prepare=True).fetchall()
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Transient("api_database_failed", f"the API's database failed ({type(error).__name__})") from None
    except psycopg.Error as error:
        raise Refused(
            Problem(
                "rows_unreadable",
                "the API's database",
                f"a table cannot be read ({type(error).__name__}, {error.sqlstate}): look at its columns",
            )
        ) from None

"""Documents that an index has refused for good: kept, and too many of them are the end of a fill."""

from collections.abc import Collection, Sequence

from ingestion_dagster.catalog import fill_sql
from ingestion_dagster.catalog.search import Rejected
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings


def refuse_too_many(connection: Connection, settings: Settings, indexes: Collection[str]) -> None:
    """Raises `Refused` (`too_many_dead_documents`) if these indexes have refused more documents than is allowed."""
    row = connection.execute(fill_sql.DEAD, {"indexes": list(indexes)}).fetchone()
    count, code = row or (0, None)
    if count > settings.catalog_dead_documents:
        raise Refused(
            Problem(
                "too_many_dead_documents",
                " and ".join(indexes),
                f"{count} documents were refused for good ({code}), more than INGESTION_CATALOG_DEAD_DOCUMENTS="
                f"{settings.catalog_dead_documents}; catalog.dead_letters says why",
            )
        )


def bury(connection: Connection, model: str, index: str, rejected: Sequence[Rejected]) -> None:
    """Keep what an index has refused for good."""
    if rejected:
        parameters = {
            "model": model,
            "index": index,
            "ids": [dead.id for dead in rejected],
            "codes": [dead.code for dead in rejected],
            "reasons": [dead.reason for dead in rejected],
        }
        connection.execute(fill_sql.BURY, parameters)

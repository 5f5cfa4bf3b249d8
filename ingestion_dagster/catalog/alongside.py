"""The filtered index that goes with a refresh: its own, or one that a task of the private API has made of its rows."""

from ingestion_dagster.catalog import tasks_sql
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import filtered_name
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine.postgres import Connection


def filtered_index(engine: SearchEngine, ledger: Connection, refresh: Refresh) -> str | None:
    """Its name; None if there is none, or none that is whole."""
    name = filtered_name(refresh.model, refresh.suffix)
    if refresh.filtered:
        return name
    if not engine.exists(name) or engine.label(name).get("origin") != refresh.suffix:
        return None
    return None if is_unfinished(ledger, refresh.model, f"{refresh.suffix}-filtered") else name


def is_filtered(alias: str) -> bool:
    """Whether an alias is that of filtered indexes."""
    return alias.endswith(filtered_name("", ""))


def is_unfinished(ledger: Connection, model: str, fills: str) -> bool:
    """Whether what fills an index, by the suffix of its id ranges, has not come to its end."""
    row = ledger.execute(tasks_sql.IS_UNFINISHED, {"model": model, "fills": fills}).fetchone()
    return row is not None and bool(row[0])

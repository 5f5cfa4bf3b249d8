"""Whether a refresh may be worked on now: not while its media type is paused, and not when its time has passed; and what to do instead."""

from ingestion_dagster.catalog.refreshes import Refresh, State
from ingestion_dagster.catalog.registry import PIPELINE
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection

_WHY = """
SELECT coalesce(paused_why, 'by hand') FROM ledger.datasets
WHERE pipeline = %(pipeline)s AND name = %(model)s AND paused_at IS NOT NULL
"""

_BYGONE: dict[State, str] = {
    "previous": "a later one has taken its place; 'ingestion catalog rollback {model}' brings it back",
    "retired": "its tables and indexes are dropped; 'ingestion run catalog --dataset {model}' begins a new one",
    "discarded": "it was given up; 'ingestion run catalog --dataset {model}' begins a new one",
}


def paused(connection: Connection, model: str) -> str | None:
    """That a media type is paused, why, and what to do, in one line; None if it is not."""
    row = connection.execute(_WHY, {"pipeline": PIPELINE, "model": model}).fetchone()
    return f"{model} is paused ({row[0]}): 'ingestion resume {PIPELINE} {model}' lets it go on" if row else None


def refuse_paused(connection: Connection, model: str) -> None:
    """Raises `ConfigurationError` if a media type is paused."""
    if why := paused(connection, model):
        raise ConfigurationError(why)


def refuse_bygone(refresh: Refresh) -> None:
    """Raises `ConfigurationError` for a refresh that neither is on its way nor is what readers have."""
    if then := _BYGONE.get(refresh.state):
        raise ConfigurationError(f"refresh {refresh.suffix} of {refresh.model} is {refresh.state}: {then.format(model=refresh.model)}")

"""What the residents ledger needs besides loads: its datasets, a first look at their folders, reports that are gone, and forgetting."""

import logging
from datetime import UTC, datetime, timedelta

from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import first_day, outbound, row_ledger
from ingestion_dagster.residents.identity import hasher
from ingestion_dagster.residents.outbound import place
from ingestion_dagster.residents.places import NAMES, drop_folder, zone
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)


def sync(connection: Connection, settings: Settings) -> list[str]:
    """Enter the datasets; look at the folders of those that are new. Returns which of them are paused for it.

    Raises `ConfigurationError` if the ledger's hashes were made under another key: every row would be new.
    """
    if not row_ledger.known_by(connection, hasher(settings).fingerprint):
        raise ConfigurationError(
            "the ledger's rows were hashed under another key than this one, and all would be sent again: restore the key with "
            "INGESTION_RESIDENTS_HASH_KEY, or the file residents.key below INGESTION_HOME"
        )
    sync_datasets(connection, PIPELINE, NAMES)
    paused = first_day.look(connection, settings, datetime.now(UTC))
    for name in paused:
        log.warning("%s is paused: its folder held too many old files at the first look", name)
    return paused


def write_missing_reports(connection: Connection, settings: Settings, *, rows: int = 2**31 - 1) -> int:
    """Write again the reports that are gone, of files of at most so many rows; how many files' reports those were."""
    folder = drop_folder(settings)
    return outbound.write_missing(connection, place(settings, folder), zone(settings, folder), rows=rows)


def forget(connection: Connection, settings: Settings, now: datetime) -> tuple[int, int]:
    """Let go of what is older than the retention setting; how many rows of files, and rows."""
    return row_ledger.forget(connection, now - timedelta(days=settings.residents_retention_days))

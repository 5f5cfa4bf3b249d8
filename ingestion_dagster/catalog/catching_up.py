"""Bringing an index that nobody reads yet up to what has happened since it was begun, before and after readers are led to it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ingestion_dagster.catalog import copy_errors, moderation, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine.postgres import Connection

CLOCK_MARGIN = timedelta(hours=1)
"""How far the clocks of the API's moderation and of upstream may be off from ours."""

_EVER = datetime(1970, 1, 2, tzinfo=UTC)


def catch_up(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, index: str) -> None:
    """Delete the documents of what was deleted by moderation since the index was begun; of live rows, put what has changed since, too.

    What the index says of itself (`begun`, `since`, `origin`) tells of when it is, and of whose rows. Repeatable.
    """
    from ingestion_dagster.catalog import updates

    label = engine.label(index)
    since = _since(ledger, media, label)
    if since is not None:
        updates.index_changes(places, engine, ledger, media, index, since - CLOCK_MARGIN)
    begun = _moment(label.get("begun"))
    with copy_errors.told(copy_errors.API, media.name), places.api.connect() as api:
        moderation.sweep(api, engine, media, [index], begun - CLOCK_MARGIN if begun else _EVER)


def _since(ledger: Connection, media: MediaType, label: Mapping[str, Any]) -> datetime | None:
    """From when on changes of live rows are missing in an index; None for one that was not made of them."""
    live = refreshes.live(ledger, media.name)
    if live is None or live.suffix not in (label.get("origin"), label.get("refresh")):
        return None
    return _moment(label.get("since")) or live.snapshot_at


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None

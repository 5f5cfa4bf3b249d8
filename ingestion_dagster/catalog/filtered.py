"""Making the filtered index anew from the live table, when the sensitive terms have changed."""

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from ingestion_dagster.catalog import locks, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.registry import MediaType, filtered_name
from ingestion_dagster.catalog.search import AliasMove
from ingestion_dagster.catalog.steps import Progress, is_going
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

REMEMBER = """
INSERT INTO catalog.terms (model, suffix, fingerprint)
VALUES (%(model)s, %(suffix)s, %(fingerprint)s)
ON CONFLICT (model) DO UPDATE SET suffix = excluded.suffix, fingerprint = excluded.fingerprint, built_at = clock_timestamp()
"""

REMEMBERED = "SELECT fingerprint FROM catalog.terms WHERE model = %(model)s"


BY = "a promotion, an update, or a rebuild of the filtered index"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A filtered index that readers have now, how many documents it holds, and the one before it."""

    index: str
    documents: int
    before: tuple[str, ...]
    seconds: float


def rebuild(places: Places, connection: Connection, media: MediaType, run_id: str, limits: Limits, progress: Progress) -> Rebuilt:
    """Fill a new filtered index from the live table, and move its alias there.

    Raises `Busy` while a refresh, an update or another rebuild of the media type is at work, `ConfigurationError` before the first refresh.
    """
    from ingestion_dagster.catalog import fill, sensitive

    model = media.name
    with locks.model(connection, model, by=BY), closing(places.search()) as engine:
        live = refreshes.live(connection, model)
        if live is None:
            raise ConfigurationError(f"{model} has not been refreshed yet: 'ingestion run catalog --dataset {model}' makes both indexes")
        refuse_beside_refresh(connection, model)
        suffix = refreshes.new_suffix(datetime.now(UTC))
        index = filtered_name(model, suffix)
        target = fill.Target(
            model=model,
            suffix=suffix,
            relation=(LIVE, media.table.name),
            index=None,
            filtered=index,
            fields=tuple(places.settings.catalog_fields.get(model, ())),
        )
        terms = sensitive.fingerprint_of(places.settings)
        filled = fill.fill(places, media, target, run_id, limits, places.settings.catalog_index_workers, progress)
        alias = filtered_name(live.alias, "")
        before = engine.behind(alias)
        refreshes.note(connection, live, {"filtered_index": index})
        fault_point("catalog.filtered.alias.before")
        engine.switch([AliasMove(alias, index)])
        fault_point("catalog.filtered.alias.after")
        remember(connection, model, suffix, terms)
        for old in before:
            if old != index and not engine.aliases_of(old):
                engine.delete_index(old)
    return Rebuilt(index, filled.filtered, before, filled.seconds)


def refuse_beside_refresh(connection: Connection, model: str) -> None:
    """Raises `Busy` if a refresh of the media type is on its way; one that failed, or waits for its promotion, does not count."""
    other = refreshes.at_work(connection, model)
    if other is None:
        return
    if is_going(connection, other):
        raise Busy(model, f"refresh {other.suffix}")


def remember(connection: Connection, model: str, suffix: str, fingerprint: str) -> None:
    """Note with which list of terms the filtered index was made that readers have."""
    connection.execute(REMEMBER, {"model": model, "suffix": suffix, "fingerprint": fingerprint})


def remembered(connection: Connection, model: str) -> str | None:
    """The fingerprint of that list; None if it is not known."""
    row = connection.execute(REMEMBERED, {"model": model}).fetchone()
    return str(row[0]) if row else None

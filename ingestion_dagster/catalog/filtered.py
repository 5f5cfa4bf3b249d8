"""Making the filtered index anew from the live table, when the sensitive terms have changed."""

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from ingestion_dagster.catalog import journal, locks, refreshes, tasks
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, Refresh
from ingestion_dagster.catalog.registry import MediaType, filtered_name
from ingestion_dagster.catalog.search import AliasMove, SearchEngine
from ingestion_dagster.catalog.steps import Progress, is_going
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

BEGUN = """
INSERT INTO catalog.rebuilds (model, suffix, origin) VALUES (%(model)s, %(suffix)s, %(origin)s)
ON CONFLICT (model) DO UPDATE SET suffix = excluded.suffix, origin = excluded.origin, begun_at = clock_timestamp()
"""

BROKEN_OFF = "SELECT suffix FROM catalog.rebuilds WHERE model = %(model)s AND origin = %(origin)s"

ENDED = "DELETE FROM catalog.rebuilds WHERE model = %(model)s"

BY = "a promotion, an update, or a rebuild of the filtered index"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A filtered index that readers have now, how many documents it holds, and the one before it."""

    index: str
    documents: int
    before: tuple[str, ...]
    seconds: float


def rebuild(places: Places, connection: Connection, media: MediaType, run_id: str, limits: Limits, progress: Progress) -> Rebuilt:
    """Fill a new filtered index from the live table, and move its alias there. One that was broken off is gone on with.

    Raises `Busy` while a refresh, a task, an update, a swap or another rebuild of the media type has not ended, `ConfigurationError` before
    the first refresh, and what `fill.fill` raises.
    """
    from ingestion_dagster.catalog import catching_up, fill

    model = media.name
    with locks.model(connection, model, by=BY), closing(places.search()) as engine:
        journal.demand_ended(connection, model)
        live = refreshes.live(connection, model)
        if live is None:
            raise ConfigurationError(f"{model} has not been refreshed yet: 'ingestion run catalog --dataset {model}' makes both indexes")
        refuse_beside_others(connection, model)
        suffix = _begun(engine, connection, live)
        index = filtered_name(model, suffix)
        target = fill.Target(
            model=model,
            suffix=suffix,
            relation=(LIVE, media.table.name),
            index=None,
            filtered=index,
            fields=tuple(places.settings.catalog_fields.get(model, ())),
            origin=live.suffix,
        )
        filled = fill.fill(places, media, target, run_id, limits, places.settings.catalog_index_workers, progress)
        catching_up.catch_up(places, engine, connection, media, index)
        alias = filtered_name(live.alias, "")
        before = engine.behind(alias)
        refreshes.note(connection, live, {"filtered_index": index})
        fault_point("catalog.filtered.alias.before")
        engine.switch([AliasMove(alias, index)])
        fault_point("catalog.filtered.alias.after")
        connection.execute(ENDED, {"model": model})
        for old in before:
            if old != index and not engine.aliases_of(old):
                engine.delete_index(old)
    return Rebuilt(index, filled.filtered, before, filled.seconds)


def _begun(engine: SearchEngine, connection: Connection, live: Refresh) -> str:
    """The suffix of the rebuild that was broken off, or of a new one: never of an index that readers have already."""
    row = connection.execute(BROKEN_OFF, {"model": live.model, "origin": live.suffix}).fetchone()
    if row is not None and not engine.aliases_of(filtered_name(live.model, row[0])):
        return str(row[0])
    suffix = refreshes.new_suffix(datetime.now(UTC))
    connection.execute(BEGUN, {"model": live.model, "suffix": suffix, "origin": live.suffix})
    return suffix


def refuse_beside_others(connection: Connection, model: str) -> None:
    """Raises `Busy` if a refresh of the media type is on its way, or a task fills an index.

    A refresh that failed, or waits for its promotion, does not count.
    """
    other = refreshes.at_work(connection, model)
    if other is not None and is_going(connection, other):
        raise Busy(model, f"refresh {other.suffix}")
    if task := tasks.filling(connection, model):
        raise Busy(model, f"task {task.id}, {task.action}")


def made_with(engine: SearchEngine, alias: str) -> str | None:
    """The fingerprint of the list of terms that the filtered index was made with which readers have beside an alias.

    None if there is none, empty if there is one that does not say.
    """
    behind = engine.behind(filtered_name(alias, ""))
    said = {str(engine.label(index).get("terms", "")) for index in behind}
    return (said.pop() if len(said) == 1 else "") if behind else None

"""Whether aliases and promotions are as the ledger has them."""

from contextlib import closing

from ingestion_dagster.catalog import refreshes
from ingestion_dagster.catalog.places import search_engine
from ingestion_dagster.catalog.registry import filtered_name
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

_OPEN = "SELECT suffix FROM catalog.promotions WHERE model = %(model)s AND ended_at IS NULL"


def broken_off(connection: Connection, model: str) -> list[str]:
    """Suffixes of promotions of a media type that stand between their halves."""
    return [row[0] for row in connection.execute(_OPEN, {"model": model})]


def astray(connection: Connection, settings: Settings, model: str) -> tuple[list[str], dict[str, str]]:
    """Aliases of the live refresh that do not lead to one index which was made for it, or of its rows; and where each leads.

    Both are empty while nothing is live.
    """
    live = refreshes.live(connection, model)
    if live is None:
        return [], {}
    wrong, told = [], {"live": live.suffix}
    with closing(search_engine(settings)) as engine:
        for alias in (live.alias, filtered_name(live.alias, "")):
            behind = engine.behind(alias)
            told[alias] = ", ".join(behind)
            is_needed = alias == live.alias or live.filtered
            if len(behind) > 1 or (is_needed and not behind) or any(live.suffix not in _made_of(engine, index) for index in behind):
                wrong.append(alias)
    return wrong, told


def _made_of(engine: SearchEngine, index: str) -> tuple[object, ...]:
    """The refresh that has made an index, and the one whose rows it is of."""
    try:
        label = engine.label(index)
    except Refused:
        return ()
    return label.get("refresh"), label.get("origin")

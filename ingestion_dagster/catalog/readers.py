"""What readers of the API get now: rows and documents, found and counted."""

from collections.abc import Sequence
from contextlib import closing

from psycopg import sql

from ingestion_dagster.catalog.places import Places, api_database, search_engine
from ingestion_dagster.catalog.registry import MEDIA_TYPES, filtered_name
from ingestion_dagster.catalog.search import Found, Query
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.settings import Settings


def counts(settings: Settings, model: str) -> dict[str, int]:
    """Rows of each live table, and documents behind each alias, by what a person would call them; what is not there is left out."""
    found = {}
    with api_database(settings).connect() as api:
        for table in MEDIA_TYPES[model].tables:
            if api.execute("SELECT to_regclass(%s)", [f"{LIVE}.{table.name}"]).fetchone() != (None,):
                row = api.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(LIVE, table.name))).fetchone()
                found[f"table {table.name}"] = int(row[0]) if row else 0
    with closing(search_engine(settings)) as engine:
        for alias in (model, filtered_name(model, "")):
            if engine.behind(alias):
                found[f"index {alias}"] = engine.count(alias)
    return found


def search(settings: Settings, model: str, text: str, *, filtered: bool = False, limit: int = 20) -> Found:
    """What a reader finds who looks for a text. Raises `Refused` (`no_such_index`) before the first refresh."""
    with closing(search_engine(settings)) as engine:
        return engine.search(filtered_name(model, "") if filtered else model, Query(text=text, limit=limit))


def foretold(settings: Settings, models: Sequence[str]) -> dict[str, int]:
    """What refreshes would do: rows that upstream has, and problems that would stop them, by code. Changes nothing."""
    from ingestion_dagster.catalog import copy

    told: dict[str, int] = {}
    places = Places.of(settings)
    with places.upstream.connect() as upstream, places.api.connect() as api:
        for model in models:
            for problem in copy.check_upstream(upstream, api, MEDIA_TYPES[model]):
                if problem.code == "no_live_table":
                    continue  # the refresh makes it
                told[f"{model} refused: {problem.code} ({problem.place}: {problem.message})"] = 1
            for table in MEDIA_TYPES[model].tables:
                if upstream.execute("SELECT to_regclass(%s)", [table.upstream]).fetchone() != (None,):
                    row = upstream.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table.upstream))).fetchone()
                    told[f"rows of {table.upstream} upstream"] = int(row[0]) if row else 0
    return told

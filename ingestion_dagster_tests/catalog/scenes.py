"""Scenes for tests of the search documents: live tables with rows, a refresh that readers have, an engine in memory."""

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from ingestion_dagster.catalog import live_tables, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name
from ingestion_dagster.catalog.search import AliasMove, SearchEngine
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.fake_search import FakeSearch

JSON = frozenset({"meta_data", "tags", "alt_files"})
BASE: dict[str, dict[str, Any]] = {
    "image": {
        "created_on": "2023-04-05T06:07:08+00:00",
        "updated_on": "2023-04-05T06:07:08+00:00",
        "provider": "nobody",
        "source": "nobody",
        "license": "by",
        "removed_from_source": False,
    }
}
BASE["audio"] = BASE["image"]


def identifier(number: int) -> str:
    """The identifier of a row by its number."""
    return str(uuid.UUID(bytes=hashlib.sha256(b"row %d" % number).digest()[:16]))


def row(model: str, number: int, **values: Any) -> dict[str, Any]:
    """A row that has what every row must have."""
    return BASE[model] | {"id": number, "identifier": identifier(number), "url": f"https://a.example/{number}.jpg"} | values


def insert(connection: Connection, table: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> None:
    """Put rows into a table."""
    for each in rows:
        names = sql.SQL(", ").join(map(sql.Identifier, each))
        marks = sql.SQL(", ").join(map(sql.Placeholder, each))
        values = {name: Jsonb(value) if name in JSON and value is not None else value for name, value in each.items()}
        connection.execute(sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(*table), names, marks), values)


def live_table(places: Places, media: MediaType, rows: Iterable[Mapping[str, Any]]) -> None:
    """The live tables of a media type, and rows in the first."""
    with places.api.connect() as api:
        live_tables.ensure(api, media)
        insert(api, (LIVE, media.table.name), rows)


@dataclass(frozen=True)
class FakePlaces(Places):
    """Places whose search engine is one in memory."""

    engine: SearchEngine | None = None

    def search(self) -> SearchEngine:
        assert self.engine is not None
        return self.engine


def with_fake(places: Places) -> tuple[FakePlaces, FakeSearch]:
    """The places with an engine in memory, and that engine."""
    engine = FakeSearch()
    return FakePlaces(places.settings, places.ledger, places.upstream, places.api, engine), engine


def go_live(ledger: Connection, engine: SearchEngine, media: MediaType, suffix: str, *, snapshot_at: datetime | None = None) -> None:
    """A refresh that readers have: its row, and empty indexes behind both aliases."""
    refresh = refreshes.request(ledger, media.name, suffix, asked_by="test")
    moment = snapshot_at or datetime(2024, 1, 1, tzinfo=UTC)
    refreshes.advance(ledger, refresh, "live", {"snapshot_at": moment.isoformat()})
    for kind, name in (("main", index_name(media.name, suffix)), ("filtered", filtered_name(media.name, suffix))):
        engine.create(name, media.mapping.definition({"refresh": suffix, "run": "r", "model": media.name, "kind": kind}))
        alias = media.name if kind == "main" else filtered_name(media.name, "")
        engine.switch([AliasMove(alias, name)])

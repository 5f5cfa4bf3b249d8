"""A handful of rows upstream, live and staged, and documents of them in indexes: the scene that a test begins with."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ingestion_dagster.catalog import live_tables, refreshes, samples
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.tables import LIVE, NEXT, TableSpec
from ingestion_dagster.engine.postgres import Connection

Row = dict[str, Any]

DAY = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
_JSON = frozenset({"meta_data", "tags", "alt_files", "audio_set"})


def identifier(number: int) -> str:
    """The identifier of the row of a number."""
    return str(UUID(int=number))


def row(number: int, model: str = "image", **changes: Any) -> Row:
    """A row as upstream and the API's table both have it, without an id: that of an ordinary work, but for what is named."""
    provider = ("flickr", "stocksnap")[number % 2] if model == "image" else ("jamendo", "freesound")[number % 2]
    kind = {"width": 1200, "height": 800} if model == "image" else {"duration": 1000 * number, "bit_rate": 128_000, "sample_rate": 44_100}
    usual: Row = {
        "identifier": identifier(number),
        "created_on": DAY,
        "updated_on": DAY + timedelta(minutes=number),
        "provider": provider,
        "source": provider,
        "foreign_identifier": f"work-{number}",
        "foreign_landing_url": f"https://www.{provider}.example/works/{number}",
        "url": f"https://live.{provider}.example/{number}.{'jpg' if model == 'image' else 'mp3'}",
        "license": "by",
        "license_version": "4.0",
        "creator": "Nobody Inparticular",
        "creator_url": f"https://www.{provider}.example/people/nobody",
        "title": f"Harbour lantern {number}",
        "meta_data": {"description": f"Lantern number {number}"},
        "tags": [{"name": "lantern", "accuracy": 0.95, "provider": "clarifai"}],
        "removed_from_source": False,
        "filetype": "jpg" if model == "image" else "mp3",
        "standardized_popularity": 0.5,
        **kind,
    }
    assert changes.keys() <= usual.keys() | {
        *("ingestion_type", "thumbnail", "filesize", "watermarked", "last_synced_with_source", "category", "genres", "audio_set"),
        *("audio_set_position", "alt_files", "audio_set_foreign_identifier", "view_count", "id"),
    }
    return usual | changes


def rows(numbers: Iterable[int], model: str = "image", **changes: Any) -> list[Row]:
    """Ordinary rows of these numbers."""
    return [row(number, model, **changes) for number in numbers]


def upstream_tables(upstream: Connection) -> None:
    """Upstream's tables and view, empty."""
    samples.make_tables(upstream)


def put(connection: Connection, relation: tuple[str, str], found: Sequence[Row]) -> None:
    """Insert rows into a table, `id` among their columns or by its default."""
    for each in found:
        values = {name: Jsonb(value) if name in _JSON and value is not None else value for name, value in each.items()}
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(*relation),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Placeholder, values)),
        )
        connection.execute(statement, values)


def put_upstream(upstream: Connection, model: str, found: Sequence[Row]) -> None:
    """Insert rows upstream."""
    put(upstream, ("public", model), found)


def change_upstream(upstream: Connection, model: str, number: int, **changes: Any) -> None:
    """Change columns of a row upstream, and its `updated_on` to now if that is not among them."""
    values = {"updated_on": datetime.now(UTC), **changes}
    values = {name: Jsonb(value) if name in _JSON and value is not None else value for name, value in values.items()}
    assignments = (sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values)
    statement = sql.SQL("UPDATE {} SET {} WHERE identifier = %(key)s").format(sql.Identifier(model), sql.SQL(", ").join(assignments))
    upstream.execute(statement, values | {"key": identifier(number)})


def remove_upstream(upstream: Connection, model: str, numbers: Sequence[int]) -> None:
    """Delete rows upstream."""
    statement = sql.SQL("DELETE FROM {} WHERE identifier = ANY(%s::uuid[])").format(sql.Identifier(model))
    upstream.execute(statement, [[identifier(number) for number in numbers]])


def put_live(api: Connection, media: MediaType, found: Sequence[Row]) -> None:
    """Rows of the live table, with ids from 1 unless they have one; tables that are missing are made."""
    live_tables.ensure(api, media)
    put(api, (LIVE, media.table.name), [{"id": number, **each} for number, each in enumerate(found, 1)])


def stage(api: Connection, media: MediaType, suffix: str, found: Sequence[Row]) -> None:
    """Staged tables of a refresh, with every index and constraint of the live ones; the first has these rows."""
    live_tables.ensure(api, media)
    for table in media.tables:
        _staged(api, table, suffix)
    put(api, (NEXT, media.table.name), [{"id": number, **each} for number, each in enumerate(found, 1)])


def _staged(api: Connection, table: TableSpec, suffix: str) -> None:
    name, live = sql.Identifier(NEXT, table.name), sql.Identifier(LIVE, table.name)
    api.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    api.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES)").format(name, live))
    for constraint in table.constraints:
        api.execute(sql.SQL("ALTER TABLE {} ADD {}").format(name, sql.SQL(constraint)))
    for definition in table.indexes:
        api.execute(sql.SQL(definition).format(table=name))
    label = orjson.dumps({"refresh": suffix, "run": "scene", "state": "copied"}).decode()
    api.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(label)))


def moderate(api: Connection, media: MediaType, kind: str, numbers: Sequence[int]) -> None:
    """Enter rows into the moderation table of a kind, `deleted` or `mature`."""
    table = media.table.deleted if kind == "deleted" else media.table.mature
    assert table is not None
    statement = sql.SQL("INSERT INTO {} (identifier) SELECT unnest(%s::uuid[])").format(sql.Identifier(LIVE, table))
    api.execute(statement, [[identifier(number) for number in numbers]])


def table_rows(api: Connection, relation: tuple[str, str]) -> list[Row]:
    """All rows of a table, by id."""
    with api.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.SQL("SELECT * FROM {} ORDER BY id").format(sql.Identifier(*relation))).fetchall()


def ids(api: Connection, relation: tuple[str, str]) -> dict[int, int]:
    """Ids of a table by the number of the row."""
    return {UUID(str(each["identifier"])).int: each["id"] for each in table_rows(api, relation)}


def documents(api: Connection, media: MediaType, schema: str = NEXT) -> dict[int, Mapping[str, Any]]:
    """The documents of a table's rows, by id, computed the plain way."""
    made = {each["id"]: media.documents.plain(each) for each in table_rows(api, (schema, media.table.name))}
    return {number: document for number, document in made.items() if document is not None}


def fill(engine: SearchEngine, media: MediaType, suffix: str, found: Mapping[int, Mapping[str, Any]], left_out: Iterable[int] = ()) -> None:
    """Both indexes of a refresh, made and filled; the filtered one without what is `left_out`."""
    without = set(left_out)
    for kind, index in (("main", index_name(media.name, suffix)), ("filtered", filtered_name(media.name, suffix))):
        label = {"refresh": suffix, "run": "scene", "model": media.name, "kind": kind}
        engine.create(index, media.mapping.definition(label))
        held = [(number, orjson.dumps(source)) for number, source in found.items() if kind == "main" or number not in without]
        engine.bulk(index, held)
        engine.finish(index)


def entered(ledger: Connection, media: MediaType, suffix: str, *, state: refreshes.State = "requested", **counts: Any) -> Refresh:
    """A refresh that has come to a state."""
    refresh = refreshes.request(ledger, media.name, suffix, asked_by="scene")
    return refreshes.advance(ledger, refresh, state, counts) if state != "requested" else refresh


def filled_range(ledger: Connection, refresh: Refresh, held: int, filtered: int, dead: int = 0) -> None:
    """One range of a refresh that says that all its documents are in the indexes."""
    ledger.execute(
        "INSERT INTO catalog.ranges (load_id, model, suffix, first_id, last_id, committed_id, rows_read, documents, filtered, dead) "
        "VALUES (%s, %s, %s, 1, 1000, 1000, %s, %s, %s, %s) "
        "ON CONFLICT (load_id) DO UPDATE SET documents = excluded.documents, filtered = excluded.filtered, dead = excluded.dead",
        [refresh.load_id, refresh.model, refresh.suffix, held + dead, held, filtered, dead],
    )

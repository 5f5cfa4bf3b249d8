"""Moderation that happens while a refresh is made: what is deleted or flagged meanwhile is so in the new generation too.

Rows leave a table only after their documents have left its indexes, so that a run that is killed between finds them again. A generation's
documents know the flags of when it was filled; which those may be is kept, so that only what differs since is updated.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import orjson
from psycopg import sql as psql

from ingestion_dagster.catalog import moderation_sql as sql
from ingestion_dagster.catalog import swap_records
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.search import Query, SearchEngine
from ingestion_dagster.catalog.tables import LIVE, TableSpec
from ingestion_dagster.engine.postgres import Connection

Item = TypeVar("Item")

BATCH = 1000
"""Documents or identifiers in one call."""

CLOCK_MARGIN = timedelta(hours=1)
"""How far the clock by which moderation is dated may be off from ours, and how long its transactions may take."""


@dataclass(frozen=True, slots=True)
class Reapplied:
    """What a pass did: rows deleted of the table, and documents that were told they are mature, or no longer."""

    deleted: int = 0
    mature: int = 0
    no_longer_mature: int = 0

    def and_again(self, other: "Reapplied") -> "Reapplied":
        """With a later pass of the same generation: what is deleted is so once, flags are set in every pass."""
        return Reapplied(self.deleted + other.deleted, max(self.mature, other.mature), max(self.no_longer_mature, other.no_longer_mature))


def remember(api: Connection, media: MediaType, generation: str, *, at_fill: bool = False) -> None:
    """Note which flags a generation's documents may know of: `at_fill`: those that every document filled from now on does know of."""
    swap_records.ensure(api)
    for table in media.tables:
        if table.mature and _there(api, table.mature):
            statement = psql.SQL(sql.REMEMBER).format(flags=psql.Identifier(LIVE, table.mature))
            api.execute(statement, {"generation": generation, "table_name": table.name, "at_fill": at_fill})


def remember_outgoing(api: Connection, media: MediaType, generation: str) -> None:
    """Note the flags of now as those that the documents of the live generation know of: readers have had them set there."""
    swap_records.ensure(api)
    with api.transaction():
        for table in media.tables:
            api.execute(sql.FORGET, {"generation": generation, "table_name": table.name})
        remember(api, media, generation, at_fill=True)


def forget(api: Connection, media: MediaType, generation: str) -> None:
    """Drop what was noted of a generation."""
    swap_records.ensure(api)
    for table in media.tables:
        api.execute(sql.FORGET, {"generation": generation, "table_name": table.name})


def lock(api: Connection, media: MediaType) -> None:
    """In the caller's transaction: nobody moderates until it ends."""
    for table in media.tables:
        for flags in (table.deleted, table.mature):
            if flags and _there(api, flags):
                api.execute(psql.SQL(sql.LOCK).format(flags=psql.Identifier(LIVE, flags)))


def now(api: Connection) -> datetime:
    """The moment that it is, by the clock of the API's database."""
    row = api.execute(sql.NOW).fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def is_outdated(api: Connection, media: MediaType, schema: str, since: datetime | None = None) -> bool:
    """Whether a table in `schema` still has rows that were deleted by moderation, since a moment or ever."""
    return any(ids for table in media.tables for ids in _deleted_rows(api, table, schema, since))


def reapply(
    api: Connection,
    engine: SearchEngine,
    media: MediaType,
    schema: str,
    generation: str,
    indexes: Sequence[str],
    since: datetime | None = None,
) -> Reapplied:
    """Bring tables in `schema`, and the indexes made of them, up to the moderation tables of now. Repeatable; indexes are refreshed.

    `since`: rows that were deleted by moderation before it are known to be gone.
    """
    done = Reapplied()
    for table in media.tables:
        done = done.and_again(_delete_rows(api, engine, table, schema, indexes, since))
        done = done.and_again(_set_flags(api, engine, table, schema, generation, indexes))
    remember(api, media, generation)
    if done != Reapplied():
        for index in indexes:
            engine.refresh(index)
    return done


def follow_up(
    api: Connection, engine: SearchEngine, media: MediaType, generation: str, indexes: Sequence[str], since: datetime
) -> Reapplied:
    """Once readers have a generation: bring its indexes up to what was moderated while aliases still led elsewhere. Repeatable."""
    deleted = sweep(api, engine, media, indexes, since)
    done = Reapplied(deleted=deleted)
    for table in media.tables:
        done = done.and_again(_set_flags(api, engine, table, LIVE, generation, indexes))
    remember(api, media, generation)
    if done != Reapplied():
        for index in indexes:
            engine.refresh(index)
    return done


def sweep(api: Connection, engine: SearchEngine, media: MediaType, indexes: Sequence[str], since: datetime) -> int:
    """Delete documents whose rows moderation deleted since a moment, when they may have left the live table already.

    They are found by identifier in the index. Returns how many there were.
    """
    deleted = 0
    for table in media.tables:
        if not table.deleted or not _there(api, table.deleted):
            continue
        for chunk in _deleted(api, table.deleted, since):
            query = Query(filters={"identifier": [str(identifier) for identifier in chunk]}, mature=True, limit=BATCH)
            for index in indexes:
                ids = [hit.id for hit in engine.search(index, query).hits]
                if ids:
                    deleted += engine.delete_documents(index, ids)
                    engine.refresh(index)
    return deleted


def _delete_rows(
    api: Connection, engine: SearchEngine, table: TableSpec, schema: str, indexes: Sequence[str], since: datetime | None
) -> Reapplied:
    statement = psql.SQL(sql.DELETE).format(table=psql.Identifier(schema, table.name))
    done = 0
    for ids in _deleted_rows(api, table, schema, since):
        for index in indexes:
            engine.delete_documents(index, ids)
        with api.transaction():
            # Triggers of the live table are the API's own, and know its names.
            api.execute("SET LOCAL search_path TO DEFAULT")
            done += api.execute(statement, {"ids": ids}).rowcount
    return Reapplied(deleted=done)


def _deleted_rows(api: Connection, table: TableSpec, schema: str, since: datetime | None) -> Iterator[list[int]]:
    """Ids of rows in a table of `schema` that moderation has deleted, a batch at a time; none is empty."""
    if not table.deleted or not _there(api, table.deleted):
        return
    statement = psql.SQL(sql.ROWS_OF).format(table=psql.Identifier(schema, table.name))
    for identifiers in _deleted(api, table.deleted, since):
        ids = [row[0] for row in api.execute(statement, {"identifiers": identifiers})]
        if ids:
            yield ids


def _deleted(api: Connection, flags: str, since: datetime | None) -> Iterator[list[UUID]]:
    """Identifiers in a moderation table, a batch at a time; `since`: those entered since then, if the table says when."""
    has_date = since and api.execute(sql.HAS_COLUMN, {"schema": LIVE, "name": flags, "column": "created_on"}).fetchone() == (True,)
    recent = psql.SQL("d.created_on >= %(since)s") if has_date else psql.SQL("true")
    statement = psql.SQL(sql.DELETED).format(flags=psql.Identifier(LIVE, flags), recent=recent)
    parameters = {"after": None, "limit": BATCH, **({"since": since} if has_date else {})}
    while found := [row[0] for row in api.execute(statement, parameters)]:
        yield found
        parameters["after"] = found[-1]


def _set_flags(api: Connection, engine: SearchEngine, table: TableSpec, schema: str, generation: str, indexes: Sequence[str]) -> Reapplied:
    if not table.mature or not _there(api, table.mature):
        return Reapplied()
    names = {"table": psql.Identifier(schema, table.name), "flags": psql.Identifier(LIVE, table.mature)}
    parameters = {"generation": generation, "table_name": table.name}
    mature = [row[0] for row in api.execute(psql.SQL(sql.NOW_MATURE).format(**names), parameters)]
    has_own = api.execute(sql.HAS_COLUMN, {"schema": schema, "name": table.name, "column": "meta_data"}).fetchone() == (True,)
    statement = psql.SQL(sql.NO_LONGER_MATURE if has_own else sql.NO_LONGER_MATURE_PLAIN).format(**names)
    by_value: dict[bytes, list[int]] = defaultdict(list)
    for number, own in api.execute(statement, parameters):
        by_value[orjson.dumps(own)].append(number)
    _update(engine, indexes, mature, value=True)
    for value, ids in by_value.items():
        _update(engine, indexes, ids, value=orjson.loads(value))
    return Reapplied(mature=len(mature), no_longer_mature=sum(map(len, by_value.values())))


def _update(engine: SearchEngine, indexes: Sequence[str], ids: list[int], *, value: Any) -> None:
    for chunk in _chunks(ids):
        for index in indexes:
            engine.update_documents(index, chunk, {"mature": value})


def _chunks(values: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def _there(api: Connection, name: str) -> bool:
    return api.execute(sql.THERE, {"schema": LIVE, "name": name}).fetchone() == (True,)

"""Updates between refreshes: what has changed upstream, in the live table and in the live indexes."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql

from ingestion_dagster.catalog import copy_errors, journal, locks, refreshes, updates_sql
from ingestion_dagster.catalog.changes import Changes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, Refresh
from ingestion_dagster.catalog.registry import MediaType, filtered_name
from ingestion_dagster.catalog.reindex import Index, Reindexer
from ingestion_dagster.catalog.row_reads import moderation_table
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

OVERLAP = timedelta(minutes=15)
"""A row is dated when its transaction begins, and seen when that ends. Transactions that our role may see in upstream's `pg_stat_activity`
hold the watermark back for as long as they take; of one that it may not see, this is how long it may take without its rows being missed."""

BATCH_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update has done. `upserted`: rows of the table written, or in `index_changes` documents.

    `deferred`: new rows that wait for a copy of the same table to end. `skipped`: rows that the table refused, such as for a URL that
    another row has: the next refresh says more. `watermark`: upstream changes up to it are in.
    """

    rows_in: int
    upserted: int
    deleted: int
    documents: int
    dead: int
    deferred: int
    skipped: int
    seconds: float
    watermark: datetime


def update_live(
    places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, run_id: str, since: datetime | None = None
) -> Updated:
    """Bring upstream rows that have changed since the last update, or since a moment, into the live table and indexes. Repeatable.

    Documents of rows that are gone (removed from the source, deleted by moderation) are deleted. A row that upstream has deleted itself
    is not noticed: the next refresh does that. Raises `Busy` beside a promotion or another update, `Refused` (`nothing_live`, …),
    `Transient`; the watermark is moved when all is done, so that an update that was broken off is made again. It stays, too, while the
    filtered index is of another list of sensitive terms than there is now: it gets nothing new until it has been made anew.
    """
    started = time.monotonic()
    with locks.model(ledger, media.name):
        live = _live(ledger, media)
        behind = since or _watermark(ledger, live)
        with _connections(places, media.table.name) as (upstream, api):
            indexes = _live_indexes(engine, live)
            changes = Changes(places, ledger, upstream, api, media)
            watermark = changes.collect(behind - OVERLAP)
            changes.number()
            reindexer = Reindexer(places, engine, ledger, api, media, indexes)
            upserted, skipped = _apply(changes, reindexer)
            _by_moderation(api, media, behind - OVERLAP, reindexer)
        for index in indexes:
            engine.refresh(index.name)
        if since is None and not changes.deferred and not reindexer.terms_changed:
            fault_point("catalog.update.watermark.before")
            # What took long upstream may have begun before.
            watermark = max(watermark, behind)
            moved = {"model": media.name, "suffix": live.suffix, "updated_on": watermark}
            ledger.execute(updates_sql.MOVE_WATERMARK, moved)
            fault_point("catalog.update.watermark.after")
        else:
            watermark = behind
    put = reindexer.put
    log.info("%s: %d rows upstream, %d written, run %s", media.name, changes.rows, upserted, run_id[:8])
    seconds = round(time.monotonic() - started, 3)
    return Updated(changes.rows, upserted, put.deleted, put.written, put.dead, changes.deferred, skipped, seconds, watermark)


def index_changes(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, index: str, since: datetime) -> Updated:
    """Bring the documents of live rows that have changed since a moment into an index that is there. Repeatable.

    Raises `Refused` (`no_such_index`), `Transient` (`terms_changed`, …).
    """
    started = time.monotonic()
    table = sql.Identifier(LIVE, media.table.name)
    rows_in = 0
    with places.api.connect() as api:
        reindexer = Reindexer(places, engine, ledger, api, media, [Index.of(engine, index)])
        behind = -(2**63)
        while True:
            statement = sql.SQL(updates_sql.CHANGED).format(live=table)
            found = api.execute(statement, {"since": since, "behind": behind, "limit": BATCH_ROWS}).fetchall()
            ids = [int(row[0]) for row in found]
            if ids:
                _indexed(reindexer, ids)
                rows_in += len(ids)
                behind = ids[-1]
            if len(ids) < BATCH_ROWS:
                break
        _by_moderation(api, media, since, reindexer)
    engine.refresh(index)
    if reindexer.terms_changed:
        raise Transient("terms_changed", f"{index} was made with another list of terms than there is now: make it anew")
    put = reindexer.put
    return Updated(rows_in, put.written, put.deleted, put.written, put.dead, 0, 0, round(time.monotonic() - started, 3), since)


def _apply(changes: Changes, reindexer: Reindexer) -> tuple[int, int]:
    """Write what was collected, batch by batch, into the table and then into the indexes; rows written, and rows refused."""
    upserted = skipped = 0
    for batch in changes.batches(BATCH_ROWS):
        fault_point("catalog.update.table.before")
        written, refused = changes.upsert(batch)
        fault_point("catalog.update.table.after")
        upserted, skipped = upserted + written, skipped + len(refused)
        ids = [change.id for change in batch if change.number not in refused]
        if ids:
            _indexed(reindexer, ids)
    return upserted, skipped


def _indexed(reindexer: Reindexer, ids: Sequence[int]) -> None:
    # The lock of the media type is lost with the connection: then this fails, and nothing more is written.
    reindexer.ledger.execute("SELECT 1")
    fault_point("catalog.update.index.before")
    reindexer.rows(ids)
    fault_point("catalog.update.index.after")


def _by_moderation(api: Connection, media: MediaType, since: datetime, reindexer: Reindexer) -> None:
    """Bring documents up to date whose rows have stayed as they were, and were moderated."""
    for table, moment in ((media.table.deleted, "updated_on"), (media.table.mature, "created_on")):
        if (name := moderation_table(api, table)) is None:
            continue
        statement = sql.SQL(updates_sql.MODERATED).format(
            live=sql.Identifier(LIVE, media.table.name), moderation=sql.Identifier(LIVE, name), moment=sql.Identifier(moment)
        )
        ids = [int(row[0]) for row in api.execute(statement, {"since": since})]
        for start in range(0, len(ids), BATCH_ROWS):
            _indexed(reindexer, ids[start : start + BATCH_ROWS])


def _live(ledger: Connection, media: MediaType) -> Refresh:
    live = refreshes.live(ledger, media.name)
    if live is None:
        raise Refused(Problem("nothing_live", media.name, "it has not been refreshed yet: 'ingestion run catalog' does"))
    going = refreshes.at_work(ledger, media.name)
    if going is not None and going.state == "promoting":
        raise Busy(media.name, f"refresh {going.suffix} is being promoted")
    journal.demand_ended(ledger, media.name)
    return live


def _live_indexes(engine: SearchEngine, live: Refresh) -> list[Index]:
    """The indexes that readers have, the main one first."""
    found = []
    for alias in (live.alias, filtered_name(live.alias, "")):
        behind = engine.behind(alias)
        if len(behind) > 1 or (alias == live.alias and not behind):
            raise Refused(Problem("alias_unclear", alias, f"it leads to {len(behind)} indexes: point it to one"))
        found += [Index.of(engine, name) for name in behind]
    return found


def _watermark(ledger: Connection, live: Refresh) -> datetime:
    row = ledger.execute(updates_sql.WATERMARK, {"model": live.model, "suffix": live.suffix}).fetchone()
    moment: datetime | None = row[0] if row else complete_to(live)
    if moment is None:
        raise Refused(
            Problem("no_watermark", f"{live.model}-{live.suffix}", "it is not known of when its rows are; refresh it, or name a moment")
        )
    return moment


def complete_to(refresh: Refresh) -> datetime | None:
    """Up to which moment, by the clock of upstream, nothing is missing in a refresh, as far as its copy and what was carried into it go."""
    noted = refresh.counts.get("complete_to")
    return datetime.fromisoformat(noted) if noted else refresh.snapshot_at


@contextmanager
def _connections(places: Places, table: str) -> Iterator[tuple[Connection, Connection]]:
    """Upstream and API. What a database says when it fails is told without its words."""
    with copy_errors.told(copy_errors.API, table), places.upstream.connect() as upstream, places.api.connect() as api:
        yield upstream, api

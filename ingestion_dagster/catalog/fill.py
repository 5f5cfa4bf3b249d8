"""Filling the indexes of a table: ids in ranges that are loads of the ledger, worked off by as many processes and runs as there are."""

import logging
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from psycopg import sql

from ingestion_dagster.catalog import carry_sql, dead_letters, fill_sql, fill_worker
from ingestion_dagster.catalog.fill_worker import Progress, Target
from ingestion_dagster.catalog.places import Places, search_url
from ingestion_dagster.catalog.registry import PIPELINE, MediaType
from ingestion_dagster.catalog.row_reads import in_turn, moderation_table
from ingestion_dagster.catalog.search import IndexDefinition, SearchEngine
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine import entries, ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Scope, Status
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection

__all__ = ["Filled", "Target", "fill", "plan", "work"]

log = logging.getLogger(__name__)

work = fill_worker.work

_POLL_SECONDS = 0.5
_FORGOTTEN = 2000
"""Documents that are deleted in one call."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What is in the indexes of a target. `documents`: in the main one, or, if only the other is filled, in that.

    `expected`: rows that should have one, counted by SQL at the end; `documents` and `dead` together. `bytes`: sent to the engine.
    `seconds`, `documents_per_second`: of this call. `terms`: fingerprint of the sensitive terms that the filtered index is without.
    """

    documents: int
    filtered: int
    dead: int
    expected: int
    rows_read: int
    ranges: int
    retries: int
    bytes: int
    seconds: float
    documents_per_second: float
    terms: str | None


@dataclass(frozen=True, slots=True)
class _Totals:
    ranges: int
    rows_read: int
    documents: int
    filtered: int
    dead: int
    retries: int
    bytes: int
    archived: int
    errored: int
    ready: int
    done: int
    of: int

    @property
    def in_hand(self) -> int:
        return self.ranges - self.archived - self.errored - self.ready


def fill(
    places: Places,
    media: MediaType,
    target: Target,
    run_id: str,
    limits: Limits,
    workers: int,
    progress: Progress = lambda _done, _of: None,
) -> Filled:
    """Make the indexes of a target if they are not there, fill them from its relation, and have them replicated. Repeatable.

    This process works, and `workers` - 1 others; other runs may do the same at once, and are waited for. `progress`: ids done, and of
    how many. Raises `Refused` (`index_exists`, `index_lost`, `too_many_dead_documents`, `range_errored`, `no_sensitive_terms`, …),
    and `Transient` if something outside failed, the list of terms has changed, or nothing was done for as long as a run claims work:
    what is done stays done, the next run goes on behind it. It takes as long as it takes.
    """
    started = time.monotonic()
    with places.ledger.connect() as connection, closing(places.search()) as engine:
        prepare(engine, connection, places, media, target, run_id)
        ranges = plan(connection, places, media, target, places.settings.catalog_range_rows)
        before = _totals(connection, target)
        with _helpers(places, media, target, run_id, limits, _others(places, workers, ranges - before.archived)):
            _until_done(connection, places, media, target, run_id, limits, progress)
        for index in target.indexes.values():
            engine.finish(index)
        after, seconds = _totals(connection, target), time.monotonic() - started
        terms = engine.label(target.filtered).get("terms") if target.filtered else None
    return Filled(
        documents=after.documents,
        filtered=after.filtered,
        dead=after.dead,
        expected=expected(places, media, target),
        rows_read=after.rows_read,
        ranges=after.ranges,
        retries=after.retries,
        bytes=after.bytes,
        seconds=round(seconds, 3),
        documents_per_second=round((after.documents - before.documents) / seconds, 1),
        terms=terms,
    )


def prepare(engine: SearchEngine, connection: Connection, places: Places, media: MediaType, target: Target, run_id: str) -> None:
    """Make the indexes of a target; those that were made for it are kept.

    A filtered index that was begun with another list of sensitive terms is begun anew. Raises `Refused`: `index_exists` for an index of
    somebody else, `index_lost` for one that was deleted while it was being filled; `Transient` (`terms_changed`) while others fill it.
    """
    made = []
    # Looked at first: whoever is told that an index is there, while we still wait for its shards, may have filled some of it by then.
    was_filled = _planned(connection, target)[1] > 0
    begun = {"origin": target.origin or target.suffix, "begun": ledger.now(connection).isoformat()}
    if target.relation[0] == LIVE and (row := connection.execute(fill_sql.LIVE_SINCE, {"model": target.model}).fetchone()) and row[0]:
        begun["since"] = row[0].isoformat()
    for kind, index in target.indexes.items():
        label = {"refresh": target.suffix, "run": run_id, "model": target.model, "kind": kind} | begun
        if kind == "filtered":
            from ingestion_dagster.catalog import sensitive

            label["terms"] = sensitive.fingerprint_of(places.settings)
        definition = media.mapping.definition(label, target.fields)
        fault_point("catalog.fill.create.before")
        try:
            engine.create(index, definition)
            made.append(index)
        except Refused as error:
            if {problem.code for problem in error.problems} != {"index_exists"}:
                raise
            found = engine.label(index)
            if any(found.get(name) != definition.label.get(name) for name in ("refresh", "model", "kind", "mapping", "fields")):
                raise
            if found.get("terms") != definition.label.get("terms"):
                _begin_anew(engine, connection, target, index, definition, run_id)
        fault_point("catalog.fill.create.after")
    if made and was_filled:
        for index in made:
            engine.delete_index(index)
        raise Refused(Problem("index_lost", made[0], "it was deleted while it was being filled: discard this refresh and ask for another"))


def _begin_anew(engine: SearchEngine, connection: Connection, target: Target, index: str, definition: IndexDefinition, run_id: str) -> None:
    """Put all ranges back, and make a filtered index again, empty: a part of it would be without other terms than the rest.

    Nobody claims a range meanwhile. Killed in between, it is begun anew again: the ranges are empty before the index is.
    """
    names = {"model": target.model, "suffix": target.suffix}
    with connection.transaction():
        loads = _unclaimed(connection, names, index)
        connection.execute(fill_sql.BEGIN_ANEW, names)
        if archived := frozenset(load for load, status in loads if status == Status.ARCHIVED):
            again = ledger.replay(connection, Scope(PIPELINE, ids=archived), run_id)
            if len(again.ready) < len(archived):
                raise Refused(Problem("terms_changed", index, "its ranges cannot be filled again: discard it, and ask for another"))
        _forget_carried(engine, connection, target)
    with connection.transaction():
        _unclaimed(connection, names, index)
        if _planned(connection, target)[1]:
            raise Transient("terms_changed", f"others have begun to fill {index} again: the next run looks what it is without")
        engine.delete_index(index)
        engine.create(index, definition)
    log.warning("%s is begun anew: the list of sensitive terms is another than the one it was begun with", index)


def _unclaimed(connection: Connection, names: Mapping[str, str], index: str) -> list[tuple[int, str]]:
    """The loads of all ranges, and how they stand, kept from being claimed in the caller's transaction. Raises `Transient` if one is."""
    connection.execute(fill_sql.PLAN_LOCK, names)
    loads: list[tuple[int, str]] = connection.execute(fill_sql.LOADS, names).fetchall()
    if any(status not in (Status.READY, Status.ARCHIVED, Status.ERRORED) for _, status in loads):
        raise Transient("terms_changed", f"the list of terms has changed, and others still fill {index}: the next run begins it anew")
    return loads


def _forget_carried(engine: SearchEngine, connection: Connection, target: Target) -> None:
    """Documents of rows that were carried into ranges come and are counted with these; who carries the rows again counts from there."""
    found = connection.execute(carry_sql.COUNTED_ANEW, {"model": target.model, "suffix": target.suffix}).fetchall()
    ids = [int(row[0]) for row in found if row[0] is not None]
    for start in range(0, len(ids), _FORGOTTEN):
        for index in target.indexes.values():
            engine.delete_documents(index, ids[start : start + _FORGOTTEN])


def plan(connection: Connection, places: Places, media: MediaType, target: Target, range_rows: int) -> int:
    """Enter the ids of a target's relation as ranges of so many ids, each a load, once; how many ranges there are.

    Both ends of a range are in it. Every id is in one range and no other; of a gap in the ids none is made.
    """
    names = {"model": target.model, "suffix": target.suffix}
    with connection.transaction():
        connection.execute(fill_sql.PLAN_LOCK, names)
        if known := _planned(connection, target)[0]:
            return known
        sync_datasets(connection, PIPELINE, [media.index_dataset])
        with places.api.connect() as api:
            statement = sql.SQL(fill_sql.BOUNDS).format(relation=sql.Identifier(*target.relation))
            bounds = [(int(first), int(last)) for first, last in in_turn(api, statement, {"rows": range_rows})]
        now = ledger.now(connection)
        keys = [f"{target.suffix}/{first}-{last}" for first, last in bounds]
        arrivals = [
            Arrival(StoredObject(key=key, size=0, modified=now, version=target.suffix), media.index_dataset, target.suffix) for key in keys
        ]
        zone = f"{PIPELINE}:{media.index_dataset}"
        entries.discover(connection, PIPELINE, zone, arrivals, now)
        firsts, lasts = [first for first, _ in bounds], [last for _, last in bounds]
        connection.execute(fill_sql.ADD_RANGES, names | {"zone": zone, "keys": keys, "firsts": firsts, "lasts": lasts})
    return len(bounds)


def expected(places: Places, media: MediaType, target: Target) -> int:
    """How many documents the relation of a target gives now, exactly."""
    with places.api.connect() as api:
        deleted = moderation_table(api, media.table.deleted)
        ((count,),) = in_turn(api, media.documents.expected(sql.Identifier(*target.relation), deleted=deleted), {})
    return int(count)


def _until_done(
    connection: Connection, places: Places, media: MediaType, target: Target, run_id: str, limits: Limits, progress: Progress
) -> None:
    """Work, and wait for those who work too, until every range is in the index."""
    moved, done = time.monotonic(), -1
    while True:
        ledger.expire(connection, PIPELINE, limits.max_attempts)
        taken = work(places, media, target, run_id, limits, progress)
        totals = _totals(connection, target)
        progress(totals.done, totals.of)
        dead_letters.refuse_too_many(connection, places.settings, target.indexes.values())
        if totals.archived == totals.ranges:
            return
        if totals.errored:
            raise Refused(
                Problem(
                    "range_errored", f"{target.model}-{target.suffix}", f"{totals.errored} id ranges were given up; see 'ingestion status'"
                )
            )
        if totals.done != done:
            moved, done = time.monotonic(), totals.done
        if time.monotonic() - moved >= limits.run_seconds:
            raise Transient("run_time_is_up", f"{totals.archived} of {totals.ranges} id ranges are in the index; the next run goes on")
        if totals.ready and not totals.in_hand and not taken:
            raise Transient("ranges_left", f"{totals.ready} id ranges could not be claimed: paused, or this run died with them; try again")
        if not taken:
            time.sleep(_POLL_SECONDS)


def _planned(connection: Connection, target: Target) -> tuple[int, int]:
    row = connection.execute(fill_sql.PLANNED, {"model": target.model, "suffix": target.suffix}).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _totals(connection: Connection, target: Target) -> _Totals:
    row = connection.execute(fill_sql.TOTALS, {"model": target.model, "suffix": target.suffix}).fetchone()
    assert row is not None
    return _Totals(*map(int, row))


def _others(places: Places, workers: int, ranges: int) -> int:
    """How many processes besides this one are of use: the embedded index has one writer at a time."""
    return 0 if search_url(places.settings).startswith("file:") else max(0, min(workers, ranges) - 1)


@contextmanager
def _helpers(places: Places, media: MediaType, target: Target, run_id: str, limits: Limits, count: int) -> Iterator[None]:
    """So many other processes that fill the same target. They end by themselves when nothing is left, and with this one."""
    # Not forked: this process has threads and connections.
    context = multiprocessing.get_context("spawn")
    helpers = []
    patience = 0.0
    try:
        for number in range(count):
            helper = context.Process(
                target=fill_worker.helper, args=(places, media.name, target, run_id, limits), name=f"catalog-fill-{number}", daemon=True
            )
            helper.start()
            helpers.append(helper)
        yield
        patience = 5.0
    finally:
        _end(helpers, patience)


def _end(helpers: Sequence[BaseProcess], patience: float) -> None:
    """Let helpers end that have nothing left to do; those that still work give their ranges back when they are told to."""
    for helper in helpers:
        helper.join(patience)
        if helper.is_alive():
            helper.terminate()
    for helper in helpers:
        helper.join()

"""What goes when a newer generation is there: old tables and indexes, and what failed refreshes have left. Never what readers have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql as psql

from ingestion_dagster.catalog import copy_errors, journal, locks, moderation, refreshes, relations, staging, swap_records, tasks
from ingestion_dagster.catalog import retirement_sql as sql
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES, PIPELINE, MediaType, filtered_name, index_name
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.swap_records import RETIRED
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS
from ingestion_dagster.engine import ledger as engine_ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Scope, Status
from ingestion_dagster.engine.postgres import Connection

_SECONDS_PER_DAY = 86_400

_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class Retired:
    """What was dropped: tables (`schema.name`), indexes, and refreshes that were given up."""

    tables: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    discarded: tuple[str, ...] = ()


def retire(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, run_id: str) -> Retired:
    """Drop all generations but the live one, the previous one and those at work; give up refreshes that failed long ago. Repeatable.

    What an alias leads to, what a rollback needs and what is not labelled as ours stays. Raises `Busy` beside a promotion, an update or a
    rebuild, and `Transient`.
    """
    with locks.model(ledger, media.name):
        if journal.open_entry(ledger, media.name):
            raise Busy(media.name, "a promotion that was broken off: the next run completes or reverts it")
        seconds = places.settings.catalog_keep_failed_days * _SECONDS_PER_DAY
        given_up = [row[0] for row in ledger.execute(sql.GIVEN_UP, {"model": media.name, "seconds": seconds}).fetchall()]
        tables: tuple[str, ...] = ()
        indexes: tuple[str, ...] = ()
        _end_bygone(places, ledger, media, run_id)
        for suffix in given_up:
            gone = _discard(places, engine, ledger, media, refreshes.get(ledger, media.name, suffix), run_id)
            tables, indexes = tables + gone.tables, indexes + gone.indexes
        with copy_errors.told(copy_errors.API, media.name), staging.plain_names(places) as api:
            swap_records.ensure(api)
            tables += drop_tables(api, media, RETIRED)
            tables += _drop_staged(api, ledger, media)
            _forget(api, ledger, media)
        indexes += _drop_indexes(engine, ledger, media, seconds)
        _forget_counts(engine, ledger, media)
    return Retired(tables, indexes, tuple(given_up))


def discard(places: Places, engine: SearchEngine, ledger: Connection, refresh: Refresh) -> None:
    """Give up a refresh that is at work: drop its tables and indexes, end its loads with nothing to their name. Repeatable.

    Raises `Busy` if a run that lives has it in hand, `Refused` (`not_at_work`) for one that readers have, or had.
    """
    media = MEDIA_TYPES[refresh.model]
    with locks.model(ledger, media.name):
        refresh = refreshes.get(ledger, refresh.model, refresh.suffix)
        if refresh.state == "discarded":
            return
        if not refresh.is_at_work:
            raise Refused(
                Problem("not_at_work", f"{refresh.model}-{refresh.suffix}", f"it is {refresh.state}: only one at work is given up")
            )
        if journal.open_entry(ledger, media.name):
            raise Busy(media.name, "a promotion that was broken off: the next run completes or reverts it")
        _discard(places, engine, ledger, media, refresh, "discard")


def drop_tables(api: Connection, media: MediaType, schema: str, *, only: str | None = None) -> tuple[str, ...]:
    """Drop the tables of a media type in a schema of ours, in a transaction of their own; `only`: those of one refresh."""
    if schema == LIVE:
        raise ValueError(schema)
    found = [table for spec in media.tables if (table := relations.find(api, schema, spec.name))]
    gone = [table for table in found if only is None or relations.generation(api, schema, table.name) == only]
    if gone:
        fault_point("catalog.retire.table.before")
        names = psql.SQL(", ").join(table.identifier for table in gone)
        api.execute(psql.SQL("DROP TABLE {}").format(names))
        fault_point("catalog.retire.table.after")
    return tuple(table.shown for table in gone)


def _discard(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, refresh: Refresh, run_id: str) -> Retired:
    task = tasks.filling(ledger, media.name)
    if task is not None and task.request.get("origin_index_suffix") == refresh.suffix:
        raise Busy(media.name, f"task {task.id}, {task.action}")
    # With what a task has made of its rows.
    suffixes = [refresh.suffix, f"{refresh.suffix}-filtered"]
    open_ranges = ledger.execute(sql.OPEN_RANGES, {"model": media.name, "suffixes": suffixes}).fetchall()
    if any(is_held for _, is_held in open_ranges):
        raise Busy(media.name, f"refresh {refresh.suffix} is being indexed")
    _end_load(places, ledger, refresh, run_id)
    _end_ranges(ledger, [row[0] for row in open_ranges], _given_up(refresh), run_id)
    indexes = [
        index
        for index, label in _labelled(engine, media)
        if refresh.suffix in (label.get("refresh"), label.get("origin")) and not engine.aliases_of(index) and _drop_index(engine, index)
    ]
    with copy_errors.told(copy_errors.API, media.name), staging.plain_names(places) as api:
        swap_records.ensure(api)
        tables = drop_tables(api, media, NEXT, only=refresh.suffix)
        moderation.forget(api, media, refresh.suffix)
    refreshes.advance(ledger, refresh, "discarded")
    return Retired(tables, tuple(indexes))


def _end_load(places: Places, ledger: Connection, refresh: Refresh, run_id: str) -> None:
    row = ledger.execute(sql.STATUS, {"id": refresh.load_id}).fetchone()
    if row and row[0] == Status.ARCHIVED:
        return
    if row and row[0] == Status.ERRORED:
        engine_ledger.retry(ledger, Scope(PIPELINE, ids=frozenset({refresh.load_id})))
    limits = Limits.of(places.settings)
    with refreshes.held(places.ledger, ledger, refresh, run_id, limits) as load:
        refreshes.set_aside(ledger, load, _given_up(refresh), limits, run_id)


def _end_bygone(places: Places, ledger: Connection, media: MediaType, run_id: str) -> None:
    """End the loads of refreshes that readers have had, and whose promoter was killed before it could."""
    limits = Limits.of(places.settings)
    for (suffix,) in ledger.execute(sql.UNENDED, {"model": media.name}).fetchall():
        refresh = refreshes.get(ledger, media.name, suffix)
        with refreshes.held(places.ledger, ledger, refresh, run_id, limits) as load:
            refreshes.finish(ledger, load, refresh, limits, run_id)


def _end_ranges(ledger: Connection, ids: Sequence[int], why: Problem, run_id: str) -> None:
    limits = Limits()
    scope = Scope(PIPELINE, ids=frozenset(ids), waiting=True, paused=True)
    engine_ledger.expire(ledger, PIPELINE, limits.max_attempts)
    if ids:
        engine_ledger.retry(ledger, scope)
    while ids and (claimed := engine_ledger.claim(ledger, scope, run_id, count=100, size=_BYTES, lease_seconds=limits.lease_seconds)):
        for load in claimed:
            refreshes.set_aside(ledger, load, why, limits, run_id)


def _given_up(refresh: Refresh) -> Problem:
    return Problem("discarded", f"{refresh.model}-{refresh.suffix}", "it was given up; ask for a new refresh", severity="warning")


def _gone_stale(media: MediaType) -> Problem:
    return Problem("discarded", f"indexes of {media.name}", "it was broken off, and nobody went on with it", severity="warning")


def _drop_staged(api: Connection, ledger: Connection, media: MediaType) -> tuple[str, ...]:
    """Staged tables that a refresh has made which is not at work any more."""
    at_work = {refresh.suffix for refresh in refreshes.of_model(ledger, media.name) if refresh.is_at_work}
    made_by = {relations.generation(api, NEXT, table.name) for table in media.tables}
    gone: tuple[str, ...] = ()
    for suffix in made_by - at_work - {None}:
        gone += drop_tables(api, media, NEXT, only=suffix)
    return gone


def _drop_indexes(engine: SearchEngine, ledger: Connection, media: MediaType, seconds: float) -> tuple[str, ...]:
    states = {refresh.suffix: refresh.state for refresh in refreshes.of_model(ledger, media.name)}
    gone = {suffix for suffix, state in states.items() if state in ("retired", "discarded")}
    orphaned = [row[0] for row in ledger.execute(sql.ORPHANED, {"model": media.name, "seconds": seconds})]
    gone |= set(orphaned)
    standing = {suffix for suffix, state in states.items() if state not in ("retired", "discarded")}
    last = journal.last_done(ledger, media.name)
    needed = {*last.before.values(), *last.after.values()} if last else set()
    needed |= {filtered_name(media.name, suffix) for suffix in standing}
    dropped = tuple(
        index
        for index, label in _labelled(engine, media)
        if label.get("refresh") in gone and index not in needed and not engine.aliases_of(index) and _drop_index(engine, index)
    )
    _end_orphaned(ledger, media, orphaned)
    return dropped


def _end_orphaned(ledger: Connection, media: MediaType, suffixes: Sequence[str]) -> None:
    """End the ranges of indexes that were broken off, and that nobody goes on with."""
    left = ledger.execute(sql.OPEN_RANGES, {"model": media.name, "suffixes": list(suffixes)}).fetchall()
    _end_ranges(ledger, [row[0] for row in left], _gone_stale(media), "retire")
    ledger.execute(sql.FORGET_REBUILD, {"model": media.name, "suffixes": list(suffixes)})


def _labelled(engine: SearchEngine, media: MediaType) -> list[tuple[str, Mapping[str, Any]]]:
    """Indexes of a media type that a refresh of ours has made, with what they say of it."""
    found = [(index, engine.label(index)) for index in engine.indexes(f"{media.name}-")]
    return [(index, label) for index, label in found if "refresh" in label and label.get("model", media.name) == media.name]


def _drop_index(engine: SearchEngine, index: str) -> bool:
    fault_point("catalog.retire.index.before")
    done = engine.delete_index(index)
    fault_point("catalog.retire.index.after")
    return done


def _forget_counts(engine: SearchEngine, ledger: Connection, media: MediaType) -> None:
    """What the ledger's database has of refreshes and indexes that are gone, row by row; what they came to stays with their loads."""
    model, moment = media.name, engine_ledger.now(ledger)
    standing = set(engine.indexes(f"{model}-"))
    gone = [refresh.suffix for refresh in refreshes.of_model(ledger, model) if refresh.state in ("retired", "discarded")]
    for (suffix,) in ledger.execute(sql.FILLED_OF_NO_REFRESH, {"model": model}).fetchall():
        if standing.isdisjoint((index_name(model, suffix), filtered_name(model, suffix))):
            gone.append(suffix)
    with ledger.transaction():
        for statement in sql.FORGET_COUNTS:
            ledger.execute(statement, {"model": model, "suffixes": gone})
        ledger.execute(sql.FORGET_DEAD, {"model": model, "standing": list(standing), "moment": moment})


def _forget(api: Connection, ledger: Connection, media: MediaType) -> None:
    """What was noted of generations that are gone."""
    standing = [refresh.suffix for refresh in refreshes.of_model(ledger, media.name) if refresh.is_at_work]
    tables = [table.name for table in media.tables]
    kept = [*standing, *(relations.generation(api, schema, tables[0]) or "" for schema in (LIVE, PREVIOUS))]
    for (generation,) in api.execute(sql.GENERATIONS_SEEN, {"tables": tables, "kept": kept}).fetchall():
        moderation.forget(api, media, generation)

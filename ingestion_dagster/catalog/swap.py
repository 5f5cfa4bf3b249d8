"""The swap of tables: one transaction in which the live tables of a media type and others change places, with all that hangs on them."""

import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import orjson
from psycopg import errors
from psycopg import sql as psql

from ingestion_dagster.catalog import copy_errors, dependents, moderation, relations, swap_records, swap_sql
from ingestion_dagster.catalog import relations_sql as sql
from ingestion_dagster.catalog.dependents import OutwardKey, View
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.relations import Facet, Relation
from ingestion_dagster.catalog.swap_records import RETIRED
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.foreign_keys import ForeignKey
from ingestion_dagster.engine.postgres import Connection

LONGEST_PAUSE_SECONDS = 1.0

CANCEL_SECONDS = 2.0
"""How long autovacuum may take to go once it is told to."""

PAUSE_SECONDS = (0.002, 0.01)
"""Between two looks for a moment in which nobody has the tables."""

_log = logging.getLogger(__name__)


class Outdated(Exception):
    """Something was moderated since the tables that come in were brought up to date: do that again, and try again."""


@dataclass(frozen=True, slots=True)
class Moves:
    """Which tables change places: those of schema `incoming` become live, the live ones go to `outgoing`.

    `first` and `last`: others that make room before, or take the room that is left; from and to.
    """

    incoming: str
    outgoing: str
    first: tuple[str, str] | None = None
    last: tuple[str, str] | None = None
    heeds_moderation: bool = True


PROMOTE = Moves(NEXT, PREVIOUS, first=(PREVIOUS, RETIRED))
REVERT = Moves(PREVIOUS, NEXT, last=(RETIRED, PREVIOUS), heeds_moderation=False)
ROLL_BACK = Moves(PREVIOUS, RETIRED, last=(RETIRED, PREVIOUS))
REVERT_ROLL_BACK = Moves(PREVIOUS, RETIRED, last=(RETIRED, PREVIOUS), heeds_moderation=False)


@dataclass(frozen=True, slots=True)
class Swapped:
    """How often it was tried, and for how long readers had to wait in the attempt that went through, in seconds."""

    attempts: int
    seconds_locked: float


@dataclass(slots=True)
class _Table:
    """One live table, what it has, and the one that takes its place."""

    live: Relation
    incoming: Relation
    facets: list[Facet]
    owned: list[tuple[str, str, str]]
    statistics: dict[str, str]
    comment: str | None
    numbers: dict[str, int | None]
    outward: list[OutwardKey]


@dataclass(frozen=True, slots=True)
class _Scene:
    """All that the transaction has to do with, as it was before anything moved."""

    tables: list[_Table]
    views: list[View]
    keys: list[ForeignKey]

    @property
    def live(self) -> list[Relation]:
        return [table.live for table in self.tables]

    @property
    def others(self) -> set[tuple[str, str]]:
        """Tables that a foreign key leads from, or to."""
        referring = {(key.schema, key.table) for key in self.keys}
        return referring | {(key.schema, key.referenced) for table in self.tables for key in table.outward if key.may_lock}

    @property
    def shape(self) -> tuple[object, ...]:
        """What must not change between looking and locking."""
        return ([(table.live.oid, table.incoming.oid, table.outward) for table in self.tables], self.views, self.keys)


def swap(
    places: Places, media: MediaType, moves: Moves, marks: dict[str, int], holder: str, moderated_since: datetime | None = None
) -> Swapped:
    """Let the tables change places, trying again for so long as the settings say while somebody uses them.

    `marks`: by table, the highest id ever given: what numbers new rows goes on above it. `holder`: as whom we may (`swap_records.take`).
    `moderated_since`: what was deleted by moderation before it is gone from the tables that come in. Raises `Outdated`, `Refused` for what
    cannot be taken along, and `Transient` (`tables_in_use`, `overtaken`, …); if it is `connection_lost`, the swap may have been made.
    """
    deadline = time.monotonic() + places.settings.catalog_swap_seconds
    attempts = 0
    while True:
        attempts += 1
        try:
            with copy_errors.told(copy_errors.API, media.name):
                return Swapped(attempts, _attempt(places, media, moves, marks, attempts, holder, moderated_since))
        except Transient as error:
            if error.code not in ("lock_not_available", "database_conflict"):
                raise
            if time.monotonic() >= deadline:
                seconds = f"{places.settings.catalog_swap_seconds:g}"
                message = f"{media.name} could not be locked for {seconds} s in {attempts} attempts: "
                message += "somebody reads, writes or vacuums without end"
                raise Transient("tables_in_use", message) from None
        pause = random.uniform(0.02, min(LONGEST_PAUSE_SECONDS, 0.05 * 2 ** min(attempts, 10)))  # noqa: S311
        _log.info("%s is in use; attempt %d to swap it gave way", media.name, attempts)
        time.sleep(pause)


def _attempt(
    places: Places, media: MediaType, moves: Moves, marks: dict[str, int], number: int, holder: str, moderated_since: datetime | None
) -> float:
    with places.api.connect() as connection, connection.transaction():
        connection.execute(swap_sql.SESSION)
        deadlock_seconds = _deadlock_seconds(connection)
        # All locks together take less than a server takes to look for deadlocks, so no reader is ever the one to go.
        patience = min(places.settings.catalog_lock_seconds, deadlock_seconds / 2)
        _wait_at_most(connection, places.settings.catalog_lock_seconds)
        swap_records.demand(connection, media.name, holder)
        seen = _look(connection, media, moves)
        _end_autovacuum(connection, seen, media, moves, deadlock_seconds + CANCEL_SECONDS)
        _wait_at_most(connection, places.settings.catalog_lock_seconds)
        if moves.heeds_moderation:
            moderation.lock(connection, media)
            if moderation.is_outdated(connection, media, moves.incoming, moderated_since):
                raise Outdated
        since = _lock(connection, seen, patience, number)
        _wait_at_most(connection, patience)
        scene = _look(connection, media, moves)
        if scene.shape != seen.shape:
            raise Transient("database_conflict", "something that hangs on the tables was changed")
        _exchange(connection, scene, moves, marks)
        fault_point("catalog.swap.tables.before")
    fault_point("catalog.swap.tables.after")
    return time.monotonic() - since


def _deadlock_seconds(connection: Connection) -> float:
    """For how long somebody waits before the server looks for deadlocks."""
    row = connection.execute(swap_sql.DEADLOCK_SECONDS).fetchone()
    assert row is not None
    return float(row[0])


def _end_autovacuum(connection: Connection, scene: _Scene, media: MediaType, moves: Moves, seconds: float) -> None:
    """Get autovacuum away from all that is to be locked, and keep it away until the transaction ends; readers and writers pass meanwhile.

    The server cancels it for whoever waits longer than it takes to look for deadlocks, and we wait for no lock of readers for that long.
    """
    names = {(relation.schema, relation.name) for table in scene.tables for relation in (table.live, table.incoming)}
    names |= scene.others
    names |= {(schema, table.live.name) for room in (moves.first, moves.last) if room for schema in room for table in scene.tables}
    names |= {(LIVE, flags) for table in media.tables for flags in (table.deleted, table.mature) if flags and moves.heeds_moderation}
    schemas, tables = zip(*sorted(names), strict=True)
    found = connection.execute(swap_sql.VACUUMED, {"schemas": list(schemas), "tables": list(tables)}).fetchall()
    _wait_at_most(connection, seconds)
    for name in found:
        connection.execute(psql.SQL(swap_sql.LOCK_FROM_VACUUM).format(psql.Identifier(*name)))


def _wait_at_most(connection: Connection, seconds: float) -> None:
    connection.execute(swap_sql.LOCK_TIMEOUT, {"timeout": f"{max(1, round(seconds * 1000))}ms"})


def _look(connection: Connection, media: MediaType, moves: Moves) -> _Scene:
    live = [relations.need(connection, LIVE, spec.name) for spec in media.tables]
    tables = [_table(connection, table, live, moves) for table in live]
    return _Scene(tables, dependents.views(connection, live), dependents.foreign_keys(connection, live))


def _table(connection: Connection, live: Relation, group: Sequence[Relation], moves: Moves) -> _Table:
    incoming = relations.need(connection, moves.incoming, live.name)
    if relations.columns(connection, live) != relations.columns(connection, incoming):
        raise Refused(Problem("columns_differ", live.shown, f"it was altered since {incoming.shown} was made: begin a new refresh"))
    row = connection.execute(sql.LABEL, {"schema": LIVE, "name": live.name}).fetchone()
    return _Table(
        live=live,
        incoming=incoming,
        facets=relations.facets(connection, live, live),
        owned=[(row[0], row[1], row[2]) for row in connection.execute(swap_sql.OWNED_SEQUENCES, {"oid": live.oid})],
        statistics={row[0]: row[1] for row in connection.execute(sql.STATISTICS, {"oid": live.oid})},
        comment=row[0] if row else None,
        numbers={row[2]: row[3] for row in connection.execute(swap_sql.NUMBERING_SEQUENCES, {"oid": live.oid})},
        outward=dependents.outward_keys(connection, live, group),
    )


def _lock(connection: Connection, scene: _Scene, patience: float, number: int) -> float:
    """Lock all that is to be changed, in one of three ways in turn; since when readers have had to wait.

    First a moment is looked for in which nobody has any of it. Then it is waited for: but then readers queue, who may have another lock of
    these already, and nobody gets on until we give way. Views come before the tables that they read, as readers lock them; of a table and
    those that refer to it either may come first in a query, so both orders are tried.
    """
    deadline = time.monotonic() + patience
    views = [psql.SQL(swap_sql.LOCK_VIEW).format(view.identifier, psql.Identifier(view.owner)) for view in scene.views]
    relations_in_use = [relation for table in scene.tables for relation in (table.live, table.incoming)]
    tables = [psql.SQL(swap_sql.LOCK_TABLE).format(relation.identifier) for relation in relations_in_use]
    holders = [psql.SQL(swap_sql.LOCK_TABLE).format(psql.Identifier(*name)) for name in sorted(scene.others)]
    if number % 3 == 1:
        names = [*((view.schema, view.name) for view in scene.views), *((it.schema, it.name) for it in relations_in_use), *scene.others]
        return _catch(connection, [*views, *tables, *holders], names, deadline)
    since = time.monotonic()
    for statement in views + holders + tables if number % 3 == 2 else views + tables + holders:
        _wait_at_most(connection, deadline - time.monotonic())
        connection.execute(statement)
    return since


def _catch(connection: Connection, locks: Sequence[psql.Composed], names: Sequence[tuple[str, str]], deadline: float) -> float:
    """Get all locks, in one call to the server, in a moment in which they are free; nobody queues behind us for longer than a blink.

    What is in use is looked for first: a lock that is taken and given back again is in the server's log, which standbys follow.
    """
    _wait_at_most(connection, 0)
    at_once = psql.SQL("; ").join(locks)
    schemas, tables = [name[0] for name in names], [name[1] for name in names]
    while True:
        since = time.monotonic()
        if connection.execute(swap_sql.IN_USE, {"schemas": schemas, "tables": tables}).fetchone() != (True,):
            since = time.monotonic()
            with suppress(errors.LockNotAvailable), connection.transaction():
                connection.execute(at_once)
                return since
        if time.monotonic() > deadline:
            raise Transient("lock_not_available", "somebody had one of the tables in use whenever it was looked for")
        time.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311


def _exchange(connection: Connection, scene: _Scene, moves: Moves, marks: dict[str, int]) -> None:
    for key in scene.keys:
        connection.execute(psql.SQL(swap_sql.DROP_CONSTRAINT).format(key.holder, psql.Identifier(key.name)))
    for table in scene.tables:
        for schema, sequence, _ in table.owned:
            connection.execute(psql.SQL(swap_sql.OWNED_BY_NONE).format(psql.Identifier(schema, sequence)))
    if moves.first:
        _move_all(connection, scene, *moves.first)
    for table in scene.tables:
        _move(connection, table.live, moves.outgoing, {})
    for table in scene.tables:
        _move(connection, table.incoming, LIVE, table.statistics)
    news = [Relation(LIVE, table.live.name, table.incoming.oid) for table in scene.tables]
    olds = [Relation(moves.outgoing, table.live.name, table.live.oid) for table in scene.tables]
    for table, new, old in zip(scene.tables, news, olds, strict=True):
        _hand_over(connection, table, new, old)
    _repoint(connection, scene, olds)
    for table, new, old in zip(scene.tables, news, olds, strict=True):
        _take_outward(connection, table, new, old, moves)
    for table, new in zip(scene.tables, news, strict=True):
        _number_on(connection, table, new, marks.get(new.name, 0))
    if moves.last:
        _move_all(connection, scene, *moves.last)


def _move_all(connection: Connection, scene: _Scene, frm: str, to: str) -> None:
    for table in scene.tables:
        found = relations.find(connection, frm, table.live.name)
        if found:
            _move(connection, found, to, {})


def _move(connection: Connection, table: Relation, to: str, statistics: dict[str, str]) -> None:
    """Into another schema, indexes and all; its statistics objects too, each to where `statistics` says, or along with it."""
    objects = connection.execute(sql.STATISTICS, {"oid": table.oid}).fetchall()
    connection.execute(psql.SQL(swap_sql.SET_SCHEMA).format(table.identifier, psql.Identifier(to)))
    for name, schema, *_ in objects:
        place = statistics.get(name, to)
        if place != schema:
            connection.execute(psql.SQL(swap_sql.STATISTICS_SET_SCHEMA).format(psql.Identifier(schema, name), psql.Identifier(place)))


def _hand_over(connection: Connection, table: _Table, new: Relation, old: Relation) -> None:
    """Give the new live table what the old one had, and take from the old one what only a live table may have."""
    for facet in relations.facets(connection, old, old):
        if facet.kind == "publication" and facet.take:
            connection.execute(facet.take.encode())
    relations.match(connection, table.facets, new, relations.LIVE_ORDER)
    connection.execute(psql.SQL(swap_sql.DISABLE_TRIGGERS).format(old.identifier))
    for schema, sequence, column in table.owned:
        statement = psql.SQL(swap_sql.OWNED_BY).format(psql.Identifier(schema, sequence), psql.Identifier(LIVE, new.name, column))
        connection.execute(statement)
    label = relations.label(connection, LIVE, new.name)
    if "refresh" in label:
        connection.execute(swap_sql.GENERATION, {"oid": new.oid, "suffix": str(label["refresh"])})
    said = relations.read_label(table.comment)
    text = said.get("comment") if said else table.comment
    kept = {name: value for name, value in label.items() if name != "comment"} | ({"comment": text} if text else {})
    comment = orjson.dumps(kept).decode() if label else text
    connection.execute(psql.SQL(swap_sql.COMMENT).format(new.identifier, psql.Literal(comment)))


def _repoint(connection: Connection, scene: _Scene, olds: Sequence[Relation]) -> None:
    for view in scene.views:
        dependents.repoint(connection, view)
    left = dependents.readers_left(connection, olds)
    if left:
        message = "it would go on reading the old table: drop it, or make it a plain view"
        raise Refused(*(Problem("cannot_follow", name, message) for name in left))
    for key in scene.keys:
        name = psql.Identifier(key.name)
        definition = psql.SQL(key.definition.removesuffix(" NOT VALID"))
        connection.execute(psql.SQL(swap_sql.ADD_CONSTRAINT).format(key.holder, name, definition))
        if key.comment:
            connection.execute(psql.SQL(swap_sql.COMMENT_CONSTRAINT).format(name, key.holder, psql.Literal(key.comment)))
        if key.is_validated:
            parameters = {"referenced": key.referenced, "schema": key.schema, "table": key.table, "key": key.name}
            connection.execute(swap_sql.PENDING, parameters)


def _take_outward(connection: Connection, table: _Table, new: Relation, old: Relation, moves: Moves) -> None:
    """Foreign keys to others are the live table's alone: rows that nobody reads must not keep others from being deleted."""
    standing = {key.name for key in dependents.outward_keys(connection, new, [])}
    for key in table.outward:
        name = psql.Identifier(key.name)
        # What goes back to be promoted later has all that it was made with.
        if moves.outgoing != NEXT:
            connection.execute(psql.SQL(swap_sql.DROP_CONSTRAINT).format(old.identifier, name))
        if key.name in standing:
            continue
        definition = psql.SQL(key.definition.removesuffix(" NOT VALID"))
        connection.execute(psql.SQL(swap_sql.ADD_CONSTRAINT).format(new.identifier, name, definition))
        if key.comment:
            connection.execute(psql.SQL(swap_sql.COMMENT_CONSTRAINT).format(name, new.identifier, psql.Literal(key.comment)))
        if not key.definition.endswith(" NOT VALID"):
            parameters = {"referenced": new.name, "schema": LIVE, "table": new.name, "key": key.name}
            connection.execute(swap_sql.PENDING, parameters)


def _number_on(connection: Connection, table: _Table, new: Relation, mark: int) -> None:
    """What numbers new rows goes on above every id there is, and was."""
    for schema, sequence, column, _ in connection.execute(swap_sql.NUMBERING_SEQUENCES, {"oid": new.oid}).fetchall():
        # The index of `id` knows the highest one; for any other column all rows would be read, with readers waiting.
        is_id = column == "id"
        last = max(table.numbers.get(column) or 0, mark if is_id else 0)
        highest = psql.SQL(swap_sql.HIGHEST_ID if is_id else "{}").format(new.identifier if is_id else psql.Literal(0))
        statement = psql.SQL(swap_sql.NUMBER_ON).format(highest=highest)
        connection.execute(statement, {"schema": schema, "sequence": sequence, "last": last})

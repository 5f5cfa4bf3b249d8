"""Indexes and constraints of the staged tables: all that the live ones have, under the same names, before anybody reads them."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql as psql

from ingestion_dagster.catalog import copy_errors, copy_sql, moderation, relations, swap_records
from ingestion_dagster.catalog import relations_sql as sql
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.relations import Constraint, Index, Relation
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

MEMORY = "512MB"
"""Memory that all connections together may take for building indexes (maintenance_work_mem)."""

COMPARED = ("default", "trigger", "option", "replica")

_BY_INDEX = {"p": "PRIMARY KEY", "u": "UNIQUE"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class IndexBuilt:
    """An index or constraint of a staged table; `is_new`: it was built now, and took so many seconds."""

    table: str
    name: str
    is_new: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class _Pair:
    live: Relation
    staged: Relation


def build(places: Places, media: MediaType, refresh: Refresh, run_id: str, progress: Progress) -> tuple[IndexBuilt, ...]:
    """Put every index, constraint, default and trigger of the live tables on the staged ones, vacuum them and gather their statistics.

    What is there with the same definition is kept, all else built; triggers are there but do not fire yet. `progress` gets indexes done and
    in all. Raises `Refused` for rows that an index or constraint does not take, and `Transient`.
    """
    with copy_errors.told(copy_errors.API, media.name), plain_names(places) as connection:
        swap_records.ensure(connection)
        pairs = [_pair(connection, refresh, table.name) for table in media.tables]
        for pair in pairs:
            # A server goes on building the index of a run that was killed, and then it has the name.
            connection.execute(copy_sql.END_OTHERS, {"oid": pair.staged.oid})
            _clear_wrong(connection, pair)
            _let_owner_in(connection, pair)
            relations.match(connection, relations.facets(connection, pair.live, pair.staged), pair.staged, ("owner", "option"))
        built = list(_build_indexes(places, connection, pairs, progress))
        for pair in pairs:
            built += _add_constraints(connection, pair, pairs)
        for pair in pairs:
            _add_rest(connection, pair)
            # Or else autovacuum would be at it, for hours if it is large, just when it is to be swapped.
            connection.execute(psql.SQL("VACUUM (ANALYZE) {}").format(pair.staged.identifier))
        moderation.remember(connection, media, refresh.suffix, at_fill=True)
    _ = run_id
    return tuple(built)


def differences(api: Connection, media: MediaType) -> tuple[Problem, ...]:
    """What the live tables have and the staged ones lack, or have otherwise: indexes, constraints, defaults, triggers, settings."""
    problems: list[Problem] = []
    with api.transaction():
        api.execute("SET LOCAL search_path = ''")
        pairs = [_Pair(relations.need(api, LIVE, table.name), relations.need(api, NEXT, table.name)) for table in media.tables]
        for pair in pairs:
            problems += compare(api, pair.live, pair.staged, [other.live for other in pairs], [other.staged for other in pairs])
    return tuple(problems)


def compare(
    connection: Connection, live: Relation, other: Relation, live_group: Sequence[Relation], other_group: Sequence[Relation]
) -> list[Problem]:
    """What `live` has and `other`, which stands elsewhere and is to take its place, lacks or has otherwise."""
    there, wanted = relations.indexes(connection, other), relations.indexes(connection, live)
    wrong = [
        ("index", name)
        for name, index in wanted.items()
        if name not in there or there[name].what != index.what or not there[name].is_valid or there[name].constraint != index.constraint
    ]
    standing = relations.constraints(connection, other, other_group, other.schema)
    for name, constraint in relations.constraints(connection, live, live_group, other.schema).items():
        if name not in standing or not _same(standing[name], constraint):
            wrong.append(("constraint", name))
    problems = [
        Problem(f"missing_{what}", f"{other.shown}: {name}", f"the live table has this {what}, and here it is missing or not the same")
        for what, name in wrong
    ]
    lacking = relations.lacking(connection, relations.facets(connection, live, other), other, COMPARED)
    message = "the live table has this, and here it is missing"
    problems += [Problem(f"missing_{facet.kind}", f"{other.shown}: {facet.give}", message) for facet in lacking]
    if relations.columns(connection, live) != relations.columns(connection, other):
        problems.append(Problem("columns_differ", other.shown, "the live table was altered since the copy: begin a new refresh"))
    return problems


@contextmanager
def plain_names(places: Places) -> Iterator[Connection]:
    """A connection to the API's database on which every name comes out, and goes in, with its schema."""
    with places.api.connect() as connection:
        connection.execute("SET search_path = ''")
        connection.execute("SET idle_in_transaction_session_timeout = '60s'")
        yield connection


def _pair(connection: Connection, refresh: Refresh, table: str) -> _Pair:
    label = relations.label(connection, NEXT, table)
    if label.get("refresh") != refresh.suffix or label.get("state") != "copied":
        problem = Problem("not_staged", f"{NEXT}.{table}", f"it is no finished copy of refresh {refresh.suffix}: copy again")
        raise Refused(problem)
    return _Pair(relations.need(connection, LIVE, table), relations.need(connection, NEXT, table))


def _same(one: Constraint, other: Constraint) -> bool:
    return (one.type, one.definition.removesuffix(" NOT VALID")) == (other.type, other.definition.removesuffix(" NOT VALID"))


def _clear_wrong(connection: Connection, pair: _Pair) -> None:
    """Drop what stands under a live name with another definition, and indexes that were not finished."""
    wanted = relations.constraints(connection, pair.live, [], NEXT)
    for name, constraint in relations.constraints(connection, pair.staged, [], NEXT).items():
        if constraint.type in "pux" and (name not in wanted or not _same(constraint, wanted[name])):
            connection.execute(psql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(pair.staged.identifier, psql.Identifier(name)))
    indexes = relations.indexes(connection, pair.live)
    for name, index in relations.indexes(connection, pair.staged).items():
        same = name in indexes and indexes[name].what == index.what and index.is_valid
        if not same and not index.constraint:
            connection.execute(psql.SQL("DROP INDEX {}").format(psql.Identifier(NEXT, name)))


def _let_owner_in(connection: Connection, pair: _Pair) -> None:
    (owner, staged_by) = (connection.execute(sql.OWNER, {"oid": table.oid}).fetchone() for table in (pair.live, pair.staged))
    if not owner:
        return
    if owner != staged_by:
        schema = psql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(psql.Identifier(NEXT), psql.Identifier(owner[0]))
        connection.execute(schema)
    # Foreign keys of a table are looked after as its owner, wherever it is.
    for name in (PREVIOUS, swap_records.RETIRED):
        if connection.execute(sql.MAY_USE, {"role": owner[0], "schema": name}).fetchone() == (False,):
            connection.execute(psql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(psql.Identifier(name), psql.Identifier(owner[0])))


def _build_indexes(places: Places, connection: Connection, pairs: list[_Pair], progress: Progress) -> Iterator[IndexBuilt]:
    """One connection an index, so many at a time as there are workers; one that fails stops what has not begun."""
    todo: list[tuple[_Pair, Index]] = []
    for pair in pairs:
        there = relations.indexes(connection, pair.staged)
        for name, index in relations.indexes(connection, pair.live).items():
            if index.constraint_type == "x":
                continue
            if name in there:
                yield IndexBuilt(pair.live.name, name, is_new=False, seconds=0.0)
            else:
                todo.append((pair, index))
    workers = places.settings.catalog_copy_workers
    progress(0, len(todo))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_build_index, places, pair, index, workers) for pair, index in todo]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                yield future.result()
                progress(done, len(todo))
        finally:
            pool.shutdown(cancel_futures=True)


def _build_index(places: Places, pair: _Pair, index: Index, workers: int) -> IndexBuilt:
    started = time.monotonic()
    megabytes = int(MEMORY.removesuffix("MB")) // workers
    with copy_errors.told(copy_errors.API, pair.live.name), plain_names(places) as connection:
        connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", [f"{max(megabytes, 64)}MB"])
        fault_point("catalog.stage.index.before")
        # Prefix and rest are the server's own words, with its quoting.
        statement = psql.SQL("{}{}{}").format(psql.SQL(index.prefix), pair.staged.identifier, psql.SQL(index.rest))
        connection.execute(statement)
        fault_point("catalog.stage.index.after")
    return IndexBuilt(pair.live.name, index.name, is_new=True, seconds=round(time.monotonic() - started, 3))


def _add_constraints(connection: Connection, pair: _Pair, pairs: list[_Pair]) -> Iterator[IndexBuilt]:
    group, staged = [other.live for other in pairs], [other.staged for other in pairs]
    there = relations.constraints(connection, pair.staged, staged, NEXT)
    for name, constraint in relations.constraints(connection, pair.live, group, NEXT).items():
        if name in there and _same(there[name], constraint):
            continue
        started = time.monotonic()
        if name in there:
            connection.execute(psql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(pair.staged.identifier, psql.Identifier(name)))
        fault_point("catalog.stage.index.before")
        _add_constraint(connection, pair, constraint)
        fault_point("catalog.stage.index.after")
        yield IndexBuilt(pair.live.name, name, is_new=True, seconds=round(time.monotonic() - started, 3))


def _add_constraint(connection: Connection, pair: _Pair, constraint: Constraint) -> None:
    name = psql.Identifier(constraint.name)
    if constraint.type in _BY_INDEX and constraint.index and "WITHOUT OVERLAPS" not in constraint.definition:
        deferrable = " DEFERRABLE" if constraint.is_deferrable else ""
        deferred = " INITIALLY DEFERRED" if constraint.is_deferred else ""
        definition = psql.SQL("{} USING INDEX {}{}").format(
            psql.SQL(_BY_INDEX[constraint.type]),
            psql.Identifier(constraint.index),
            psql.SQL(deferrable + deferred),
        )
    else:
        # A foreign key's rows are looked at afterwards: so nobody who writes to the table it names has to wait.
        later = " NOT VALID" if constraint.type == "f" and not constraint.definition.endswith(" NOT VALID") else ""
        definition = psql.SQL("{}{}").format(psql.SQL(constraint.definition), psql.SQL(later))
    connection.execute(psql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(pair.staged.identifier, name, definition))
    if constraint.type == "f" and not constraint.definition.endswith(" NOT VALID"):
        connection.execute(psql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(pair.staged.identifier, name))


def _add_rest(connection: Connection, pair: _Pair) -> None:
    """Defaults, settings, comments, grants, and triggers, which wait; and statistics objects by their live names."""
    with connection.transaction():
        wanted = relations.facets(connection, pair.live, pair.staged)
        kinds = [kind for kind in relations.ORDER if kind not in ("row_security", "policy")]
        relations.match(connection, wanted, pair.staged, kinds)
        connection.execute(psql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(pair.staged.identifier))
        there = {row[0]: row for row in connection.execute(sql.STATISTICS, {"oid": pair.staged.oid})}
        live = {row[0]: row for row in connection.execute(sql.STATISTICS, {"oid": pair.live.oid})}
        for name in there.keys() - live.keys():
            connection.execute(psql.SQL("DROP STATISTICS {}").format(psql.Identifier(there[name][1], name)))
        for name, (_, _, definition, head, tail) in live.items():
            if name not in there:
                middle = definition.removeprefix(head).removesuffix(tail)
                statement = psql.SQL("CREATE STATISTICS {}{} FROM {}").format(
                    psql.Identifier(NEXT, name),
                    psql.SQL(middle),
                    pair.staged.identifier,
                )
                connection.execute(statement)

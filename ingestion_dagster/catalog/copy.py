"""The copy: the rows of upstream, as of one moment, into the staged tables of a refresh; nothing that readers see changes."""

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg import IsolationLevel, sql

from ingestion_dagster.catalog import cleaning, copy_plan, copy_sql, dependents, hosts, ids, live_tables, refreshes, upstream_types
from ingestion_dagster.catalog.cleaning import Rules
from ingestion_dagster.catalog.copy_errors import API, LEDGER, UPSTREAM, told
from ingestion_dagster.catalog.copy_plan import Plan
from ingestion_dagster.catalog.copy_range import Moved, Records, Writer, attempt_name
from ingestion_dagster.catalog.places import Places, record_limit
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.tables import LIVE, NEXT, TableSpec
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection, Database

RANGE_BYTES = 32 * 1024 * 1024
"""Bytes of the upstream table that are copied and committed at once."""

LOCK_SECONDS = 60
"""How long what an earlier attempt has left, and may still be writing to, is waited for."""

_ENDED = ("live", "previous", "retired")


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied into one staged table.

    `rows`: in it now. `upstream_rows`: read. `deleted`: left out, because moderation has deleted them. `cleaned`: rows that were changed;
    `fixes`: changes by rule. `by_provider`: rows by provider; `live_by_provider`: of the live table before. `checksum`: the same for the
    same identities and times of change, in whatever order. `complete_to`: every row dated before it is there; younger ones may be missing.
    """

    table: str
    rows: int
    upstream_rows: int
    deleted: int
    cleaned: int
    fixes: Mapping[str, int]
    new_ids: int
    kept_ids: int
    by_provider: Mapping[str, int]
    checksum: str
    bytes: int
    seconds: float
    snapshot_at: datetime
    max_updated_on: datetime | None
    live_rows: int = 0
    live_by_provider: Mapping[str, int] = field(default_factory=dict)
    complete_to: datetime | None = None


def check_upstream(upstream: Connection, api: Connection, media: MediaType) -> tuple[Problem, ...]:
    """What stands in the way of copying a media type; none: it can be copied. Reads only."""
    return (*upstream_types.problems(upstream, api, media), *dependents.unsupported(api, media))


def copy_tables(
    places: Places,
    ledger: Connection,
    media: MediaType,
    refresh: Refresh,
    run_id: str,
    progress: Callable[[int, int], None],
    *,
    range_bytes: int = RANGE_BYTES,
    hold: Callable[[], None] = lambda: None,
) -> list[Copied]:
    """Copy all tables of a media type, as of one moment, and label them `copied`. Begins anew if it was begun before.

    `ledger`: autocommitting. `progress` is told the rows so far, and how many there may be. `hold`, called in a transaction of `ledger`,
    keeps the refresh ours until that ends, or raises `ClaimLost`. Raises `Refused` (with what `check_upstream` finds,
    `duplicate_identifier`, `value_too_long`, `null_value`, `ids_exhausted`, `staged_table_not_ours` …), `Transient`, and
    `ConfigurationError` for a privilege that is missing. What readers see is untouched by all of them.
    """
    with ExitStack() as opened:
        upstream = opened.enter_context(_opened(places.upstream, UPSTREAM))
        api = opened.enter_context(_opened(places.api, API))
        with told(API, media.name):
            live_tables.ensure(api, media)
        snapshot, at, complete_to = opened.enter_context(_snapshot(upstream, media.name))
        with told(API, media.name), told(UPSTREAM, media.name):
            if problems := check_upstream(upstream, api, media):
                raise Refused(*problems)
            limit = record_limit(places.settings)
            plans = [copy_plan.make(upstream, api, table, at, limit, range_bytes) for table in media.tables]
        for plan in plans:
            _check_identities(upstream, plan)
        rules = _rules(places, ledger, upstream, plans)
        oids = [_prepare(api, ledger, plan, refresh, run_id, hold) for plan in plans]
        records = Records(ledger, media.name, refresh.suffix, hold)
        so_far = Progress(sum(plan.estimate for plan in plans), progress)
        task = Task(snapshot, at, complete_to, rules, records, so_far)
        copied = [_copy(places, plan, oid, task, api) for plan, oid in zip(plans, oids, strict=True)]
        _label(api, dict(zip([plan.table.name for plan in plans], oids, strict=True)), refresh, run_id, "copied")
        return copied


class Progress:
    """How far all tables together have come."""

    def __init__(self, estimate: int, tell: Callable[[int, int], None]) -> None:
        self._rows = 0
        self._estimate = estimate
        self._tell = tell

    def add(self, rows: int) -> None:
        """So many rows more."""
        self._rows += rows
        self._tell(self._rows, max(self._rows, self._estimate))


@dataclass(frozen=True, slots=True)
class Task:
    """What the copies of all tables of a refresh have in common."""

    snapshot: str
    at: datetime
    complete_to: datetime
    rules: Rules
    records: Records
    progress: Progress


@contextmanager
def _opened(database: Database, where: str) -> Iterator[Connection]:
    try:
        connection = database.connect()
    except ConfigurationError:
        raise Transient("unreachable", f"{where} cannot be reached, or does not let its role in") from None
    with closing(connection):
        with told(where, "a connection"):
            connection.execute(copy_sql.UTF8)
            connection.execute(copy_sql.PATIENT)
        yield connection


@contextmanager
def _snapshot(upstream: Connection, model: str) -> Iterator[tuple[str, datetime, datetime]]:
    """A transaction that shows one moment, for as long as the block lasts.

    What others need to see the same, which moment it is, and up to which moment nothing is to come any more.
    """
    _read_only(upstream)
    with told(UPSTREAM, model):
        # Asked before the snapshot is taken: what ends between the two is seen, and asked for once more.
        complete_to = upstream.execute(copy_sql.COMPLETE_TO).fetchone()
    with told(UPSTREAM, model), upstream.transaction():
        row = upstream.execute(copy_sql.EXPORT).fetchone()
        assert row is not None
        assert complete_to is not None
        yield row[0], row[1], complete_to[0]


def _read_only(upstream: Connection) -> None:
    upstream.isolation_level = IsolationLevel.REPEATABLE_READ
    upstream.read_only = True


def _check_identities(upstream: Connection, plan: Plan) -> None:
    """Raises `Refused` if upstream has two rows of one identity: which of them is meant nobody knows."""
    table = plan.table
    key = [sql.Identifier(name) for name in table.key]
    with told(UPSTREAM, table.name):
        if upstream_types.is_unique(upstream, upstream_types.qualified(upstream, table.upstream), table.key):
            return
        filled = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(name) for name in key)
        statement = sql.SQL(copy_sql.DUPLICATES).format(source=plan.keys, filled=filled, key=sql.SQL(", ").join(key))
        row = upstream.execute(statement).fetchone()
    if row and row[0]:
        count = f"{row[0]}" if row[0] < 1000 else "1000 or more"
        message = f"{count} values of ({', '.join(table.key)}) are there more than once: each may be one row only"
        raise Refused(Problem("duplicate_identifier", table.upstream, message))


def _rules(places: Places, ledger: Connection, upstream: Connection, plans: list[Plan]) -> Rules:
    optional = cleaning.optional_rules(places.settings)
    sources = [plan.addresses for plan in plans if plan.table.cleaned and plan.addresses is not None]
    if not sources:
        return Rules(optional=optional)
    return Rules(is_tls=hosts.answers(places.settings, ledger, upstream, sources), optional=optional)


def _prepare(api: Connection, ledger: Connection, plan: Plan, refresh: Refresh, run_id: str, hold: Callable[[], None]) -> int:
    """Make the staged table, empty, and return its oid; what an earlier attempt has left goes."""
    table, name, staged = plan.table, f"{NEXT}.{plan.table.name}", plan.staged
    fault_point("catalog.copy.prepare.before")
    with told(LEDGER, table.name), ledger.transaction(), told(API, table.name), api.transaction():
        # Who has slept past its lease must not take its successor's table away.
        hold()
        ledger.execute(copy_sql.FORGET_FIXES, {"model": refresh.model, "suffix": refresh.suffix})
        api.execute(copy_sql.BOUNDED_WAIT, {"milliseconds": str(LOCK_SECONDS * 1000)})
        oid, label = _one(api, copy_sql.LABEL, name)
        if oid is not None:
            _check_left_over(ledger, table, label, refresh)
            api.execute(copy_sql.END_OTHERS, {"oid": oid})
            api.execute(sql.SQL(copy_sql.DROP).format(table=staged))
        api.execute(sql.SQL(copy_sql.CREATE).format(staged=staged, live=sql.Identifier(LIVE, table.name)))
        _comment(api, staged, refresh, run_id, "copying")
        ids.take_back(ledger, table.name, plan.highest, attempt_name(refresh.model, refresh.suffix))
        ledger.execute(copy_sql.FORGET_CARRIED, {"model": refresh.model, "suffix": refresh.suffix})
        oid, _ = _one(api, copy_sql.LABEL, name)
    fault_point("catalog.copy.prepare.after")
    assert oid is not None
    return int(oid)


def _check_left_over(ledger: Connection, table: TableSpec, label: str | None, refresh: Refresh) -> None:
    try:
        suffix = json.loads(label or "")["refresh"]
    except (ValueError, KeyError, TypeError):
        message = f"schema {NEXT} has a table of this name that no refresh has made; move it elsewhere"
        raise Refused(Problem("staged_table_not_ours", table.name, message)) from None
    if suffix == refresh.suffix:
        return
    with told(LEDGER, "refreshes"):
        states = {known.suffix: known.state for known in refreshes.of_model(ledger, refresh.model)}
    if states.get(suffix) in _ENDED:
        message = f"schema {NEXT} has a table of refresh {suffix}, which is {states[suffix]}; see what a promotion has left undone"
        raise Refused(Problem("staged_table_in_use", table.name, message))


def _label(api: Connection, oids: Mapping[str, int], refresh: Refresh, run_id: str, state: str) -> None:
    fault_point("catalog.copy.done.before")
    with told(API, refresh.model), api.transaction():
        for table, oid in oids.items():
            _comment(api, sql.Identifier(NEXT, table), refresh, run_id, state)
            if _one(api, copy_sql.LABEL, f"{NEXT}.{table}")[0] != oid:
                raise Transient("overtaken", f"another run has begun the copy of {table} anew")
    fault_point("catalog.copy.done.after")


def _comment(api: Connection, staged: sql.Identifier, refresh: Refresh, run_id: str, state: str) -> None:
    label = json.dumps({"refresh": refresh.suffix, "run": run_id, "state": state})
    api.execute(sql.SQL(copy_sql.COMMENT).format(table=staged, label=sql.Literal(label)))


def _one(connection: Connection, statement: str, name: str) -> tuple[int | None, str | None]:
    row = connection.execute(statement, {"name": name}).fetchone()
    assert row is not None
    return row[0], row[1]


def _copy(places: Places, plan: Plan, oid: int, task: Task, api: Connection) -> Copied:
    """Copy one table with several workers, and count what came of it."""
    started = time.monotonic()
    before = _by_provider(api, plan, LIVE)
    total = Moved()
    with Crew(places, plan, oid, task) as crew:
        for moved in crew:
            total.add(moved)
            task.progress.add(moved.read)
    by_provider, checksum, latest = _figures(api, plan)
    return Copied(
        table=plan.table.name,
        rows=total.written,
        upstream_rows=total.read,
        deleted=total.deleted,
        cleaned=total.cleaned,
        fixes=dict(sorted(total.fixes.items())),
        new_ids=total.new,
        kept_ids=total.written - total.new,
        by_provider=by_provider,
        checksum=checksum,
        bytes=total.bytes,
        seconds=time.monotonic() - started,
        snapshot_at=task.at,
        max_updated_on=latest,
        live_rows=sum(before.values()),
        live_by_provider=before,
        complete_to=task.complete_to,
    )


class Crew:
    """The workers of one table, a thread each: iterate to get what became of each range, in the order they end.

    What one of them raises is raised here, and ends the others.
    """

    def __init__(self, places: Places, plan: Plan, oid: int, task: Task) -> None:
        self._places = places
        self._plan = plan
        self._oid = oid
        self._task = task
        self._waiting: queue.SimpleQueue[sql.Composed] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Moved | BaseException] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._connections: list[Connection] = []
        count = min(places.settings.catalog_copy_workers, len(plan.sources))
        self._threads = [
            threading.Thread(target=self._work, name=f"copy-{plan.table.name}-{number}", daemon=True) for number in range(count)
        ]

    def __enter__(self) -> "Crew":
        for source in self._plan.sources:
            self._waiting.put(source)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        if kind is not None:
            for connection in list(self._connections):
                _cancel(connection)
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Moved]:
        for _ in self._plan.sources:
            outcome = self._done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome

    def _work(self) -> None:
        try:
            with ExitStack() as opened:
                writer = self._writer(opened)
                while not self._stopped.is_set():
                    try:
                        source = self._waiting.get_nowait()
                    except queue.Empty:
                        return
                    self._done.put(writer.copy(source, self._task.rules))
        except BaseException as error:  # noqa: BLE001 - raised where the copy is waited for
            self._done.put(error)

    def _writer(self, opened: ExitStack) -> Writer:
        upstream = opened.enter_context(_opened(self._places.upstream, UPSTREAM))
        api = opened.enter_context(_opened(self._places.api, API))
        lookup = opened.enter_context(_opened(self._places.api, API))
        self._connections += (upstream, api, lookup)
        _read_only(upstream)
        with told(UPSTREAM, self._plan.table.name):
            opened.enter_context(upstream.transaction())
            upstream.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self._task.snapshot)))
        with told(API, self._plan.table.name):
            # What readers may see is made durable by the commit that labels the table.
            api.execute(copy_sql.UNSYNCHRONIZED)
            lookup.execute(copy_sql.BY_INDEX)
        return Writer(self._plan, self._oid, (upstream, api, lookup), self._task.records)


def _cancel(connection: Connection) -> None:
    try:
        connection.cancel_safe(timeout=5)
    except psycopg.Error:
        connection.close()


def _by_provider(api: Connection, plan: Plan, schema: str) -> dict[str, int]:
    statement = sql.SQL(copy_sql.BY_PROVIDER).format(table=sql.Identifier(schema, plan.table.name), provider=_provider(plan))
    with told(API, plan.table.name):
        return {row[0] or "": row[1] for row in api.execute(statement)}


def _figures(api: Connection, plan: Plan) -> tuple[dict[str, int], str, datetime | None]:
    """Rows by provider, a checksum of identities and times of change, and the latest of them."""
    hashed = [sql.Identifier(name) for name in plan.table.key]
    updated = sql.Identifier("updated_on") if plan.updated else sql.SQL("NULL::timestamptz")
    statement = sql.SQL(copy_sql.FIGURES).format(
        provider=_provider(plan),
        hash=sql.SQL("hash_record_extended(ROW({}), 0)").format(sql.SQL(", ").join([*hashed, updated])),
        updated=updated,
        staged=plan.staged,
    )
    with told(API, plan.table.name):
        rows = api.execute(statement).fetchall()
    checksum = sum(int(row[2]) for row in rows) % 2**64
    latest = max((row[3] for row in rows if row[3] is not None), default=None)
    return Counter({row[0] or "": row[1] for row in rows}), f"{checksum:016x}", latest


def _provider(plan: Plan) -> sql.Composable:
    return sql.Identifier("provider") if plan.has("provider") else sql.SQL("''::text")

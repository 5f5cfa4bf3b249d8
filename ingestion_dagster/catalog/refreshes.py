"""Refreshes: each is a load of the ledger and a row that says how far it has come; one at a time per media type."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from psycopg import errors

from ingestion_dagster.catalog import refreshes_sql as sql
from ingestion_dagster.catalog.registry import DATASETS, PIPELINE
from ingestion_dagster.engine import entries, ledger
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused
from ingestion_dagster.engine.ledger import ClaimLost, Load, Scope, Status, Verdict
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection, Database

State = Literal["requested", "copied", "indexed", "filled", "promoting", "live", "previous", "retired", "discarded"]

AT_WORK: tuple[State, ...] = ("requested", "copied", "indexed", "filled", "promoting")
"""States of a refresh that is not promoted yet: there is one of them per media type at most."""

ORDER: tuple[State, ...] = (*AT_WORK, "live", "previous", "retired")

PROMOTION = "promotion"
"""What a refresh waits for that was asked for without being promoted."""

_SUFFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")


class Busy(Exception):
    """Another refresh, or another task that changes the same index, is at work: try again when it has ended."""

    def __init__(self, model: str, by: str) -> None:
        super().__init__(f"{model} is being worked on: {by}")
        self.model = model
        self.by = by


@dataclass(frozen=True, slots=True)
class Refresh:
    """One refresh of a media type. `alias`: what it is promoted to. `filtered`: whether the filtered index belongs to it.

    `promote`: whether it is promoted as soon as its checks let it.
    """

    model: str
    suffix: str
    load_id: int
    state: State
    asked_by: str
    alias: str
    filtered: bool
    promote: bool
    run_id: str | None
    counts: Mapping[str, Any] = field(default_factory=dict)
    requested_at: datetime | None = None
    snapshot_at: datetime | None = None
    promoted_at: datetime | None = None

    @property
    def is_at_work(self) -> bool:
        """Whether it is on its way to being promoted."""
        return self.state in AT_WORK

    def reached(self, state: State) -> bool:
        """Whether it has come as far as a state."""
        return self.state in ORDER and state in ORDER and ORDER.index(self.state) >= ORDER.index(state)


def zone(model: str) -> str:
    """Where loads of a media type come from, as the ledger names landing zones."""
    return f"{PIPELINE}:{model}"


def check_suffix(suffix: str) -> str:
    """The suffix, if it can end the name of an index. Raises `ConfigurationError`."""
    if not _SUFFIX.fullmatch(suffix) or suffix.endswith("-filtered"):
        raise ConfigurationError(
            f"'{suffix[:80]}' cannot end the name of an index: a suffix has small letters, digits, - and _, begins with a letter or digit, "
            "has 80 characters at most, and does not end in -filtered"
        )
    return suffix


def new_suffix(now: datetime) -> str:
    """A suffix of its own for a refresh asked for now, to the microsecond."""
    return now.astimezone(UTC).strftime("%Y%m%dt%H%M%S%f")


def request(
    connection: Connection,
    model: str,
    suffix: str,
    *,
    asked_by: str,
    alias: str | None = None,
    filtered: bool = True,
    promote: bool = True,
) -> Refresh:
    """Enter a refresh. Raises `Busy` if another of the media type is at work, `Refused` (`suffix_in_use`) for a suffix that was used."""
    check_suffix(suffix)
    sync_datasets(connection, PIPELINE, DATASETS)
    now = ledger.now(connection)
    seen = StoredObject(key=suffix, size=0, modified=now, version=suffix)
    try:
        with connection.transaction():
            if connection.execute(sql.KNOWN, {"model": model, "suffix": suffix}).fetchone():
                raise Refused(Problem("suffix_in_use", f"{model}-{suffix}", "a refresh has had this suffix; take another"))
            entries.discover(connection, PIPELINE, zone(model), [Arrival(seen, model, suffix)], now)
            connection.execute(
                sql.REQUEST,
                {
                    "model": model,
                    "suffix": suffix,
                    "zone": zone(model),
                    "asked_by": asked_by,
                    "alias": alias or model,
                    "filtered": filtered,
                    "promote": promote,
                },
            )
    except errors.UniqueViolation:
        other = at_work(connection, model)
        raise Busy(model, f"refresh {other.suffix}" if other else "another refresh") from None
    return get(connection, model, suffix)


def get(connection: Connection, model: str, suffix: str) -> Refresh:
    """The refresh with a suffix. Raises `ConfigurationError` if there is none."""
    row = connection.execute(sql.SELECT + "WHERE model = %(model)s AND suffix = %(suffix)s", {"model": model, "suffix": suffix}).fetchone()
    if row is None:
        raise ConfigurationError(f"catalog has no refresh {suffix} of {model}; 'ingestion status catalog --loads' lists them")
    return _refresh(row)


def at_work(connection: Connection, model: str) -> Refresh | None:
    """The refresh of a media type that is on its way."""
    return _one(connection, model, AT_WORK)


def live(connection: Connection, model: str) -> Refresh | None:
    """The refresh that readers see."""
    return _one(connection, model, ("live",))


def previous(connection: Connection, model: str) -> Refresh | None:
    """The refresh that a rollback brings back."""
    return _one(connection, model, ("previous",))


def of_model(connection: Connection, model: str) -> list[Refresh]:
    """All refreshes of a media type, newest first."""
    return [
        _refresh(row) for row in connection.execute(sql.SELECT + "WHERE model = %(model)s ORDER BY requested_at DESC", {"model": model})
    ]


def definition(model: str) -> str:
    """The name of the dynamic partitions that a media type's refreshes are."""
    return f"catalog_{model}_refreshes"


def loads_of(connection: Connection, refresh: Refresh) -> list[int]:
    """Ids of the loads of a refresh: its own, and those of its ranges."""
    rows = connection.execute(sql.LOADS_OF, {"model": refresh.model, "suffix": refresh.suffix, "load_id": refresh.load_id})
    return [int(row[0]) for row in rows]


def resumable(connection: Connection, model: str) -> Refresh | None:
    """The refresh of a media type that can go on, and that nobody has in hand."""
    found = at_work(connection, model) or live(connection, model)
    if found is None or ledger.claimable(connection, Scope(PIPELINE, ids=frozenset({found.load_id})))[0] == 0:
        return None
    return found


def advance(connection: Connection, refresh: Refresh, state: State, counts: Mapping[str, Any] | None = None) -> Refresh:
    """Note that a refresh has come to a state, with what was counted on the way, in the caller's transaction if it has one.

    Going back (a discarded copy) is not meant: a refresh that is there already, or further, keeps its state. Raises `Busy` if it is no
    longer in the state that it was seen in: somebody else has it.
    """
    further = not refresh.reached(state) or state in ("discarded", "live", "previous")
    parameters = {
        "model": refresh.model,
        "suffix": refresh.suffix,
        "state": state if further else refresh.state,
        "seen": refresh.state,
        "counts": orjson.dumps(dict(counts or {})).decode(),
    }
    if not connection.execute(sql.ADVANCE, parameters).rowcount:
        raise Busy(refresh.model, f"refresh {refresh.suffix} is no longer {refresh.state}")
    return get(connection, refresh.model, refresh.suffix)


def let_promote(connection: Connection, model: str, suffix: str, alias: str) -> Refresh:
    """Have a refresh promoted, to this alias. Raises `ConfigurationError` if there is none of that suffix."""
    refresh = get(connection, model, suffix)
    if refresh.is_at_work:
        connection.execute(sql.LET_PROMOTE, {"model": model, "suffix": suffix, "alias": alias})
    return get(connection, model, suffix)


def note(connection: Connection, refresh: Refresh, counts: Mapping[str, Any]) -> None:
    """Add to what a refresh has counted."""
    connection.execute(sql.NOTE, {"model": refresh.model, "suffix": refresh.suffix, "counts": orjson.dumps(dict(counts)).decode()})


@contextmanager
def held(database: Database, connection: Connection, refresh: Refresh, run_id: str, limits: Limits) -> Iterator[Load]:
    """The load of a refresh, claimed by this run for as long as the block lasts; then, if the block has not ended it, back to `ready`.

    Raises `Busy` if a run that lives has it.
    """
    load = _claimed(connection, refresh, run_id, limits)
    scope = Scope(PIPELINE, ids=frozenset({load.id}))
    # Who falls asleep in a transaction must not keep the load from its successor for longer than the lease.
    connection.execute(sql.IDLE, {"milliseconds": str(int(limits.lease_seconds * 1000))})
    with Claims(database, scope, run_id, limits) as claims:
        claims.keep([load])
        yield load
        claims.keep([])
    # It has come a step further: that runs have died on the way says nothing against the next step.
    connection.execute(sql.FORGIVE, {"id": load.id, "claim": load.claim})
    with suppress(ClaimLost):
        give_back(connection, load, get(connection, refresh.model, refresh.suffix))


def _claimed(connection: Connection, refresh: Refresh, run_id: str, limits: Limits) -> Load:
    ledger.expire(connection, PIPELINE, limits.max_attempts)
    (load,) = ledger.loads(connection, [refresh.load_id])
    holder = connection.execute(sql.HOLDER, {"id": load.id}).fetchone()
    connection.execute(sql.GIVEN_BACK_BY_US, {"id": load.id, "run_id": run_id})
    # Also while the media type is paused: it can be given up then. That no step begins is seen to before (`admission`).
    scope = Scope(PIPELINE, ids=frozenset({load.id}), waiting=True, paused=True)
    claimed = ledger.claim(connection, scope, run_id, count=1, size=1, lease_seconds=limits.lease_seconds)
    if not claimed:
        by = f"run {holder[0][:8]} has it in hand" if holder and holder[0] and load.status is Status.INGESTING else f"it is {load.status}"
        raise Busy(refresh.model, f"refresh {refresh.suffix}: {by}")
    return claimed[0]


def give_back(connection: Connection, load: Load, refresh: Refresh) -> None:
    """Return a claimed refresh to `ready`, uncharged; one that is not to be promoted yet waits for that."""
    waits = refresh.reached("filled") and refresh.is_at_work and not refresh.promote
    with connection.transaction():
        ledger.settle(connection, [Verdict(load, Status.READY, why=f"{refresh.state}", waiting_for=PROMOTION if waits else None)])


def refuse(connection: Connection, load: Load, problems: tuple[Problem, ...], limits: Limits, run_id: str) -> None:
    """End a claimed refresh as errored: it cannot go on as it is; `retry` lets it try again from where it stands."""
    with connection.transaction():
        ledger.settle(connection, [Verdict(load, Status.READY_FOR_ERRORING, problems=problems, why=problems[0].code)])
        through(connection, load, Status.READY_FOR_ERRORING, Status.ERRORING, Status.ERRORED, limits, run_id)


def set_aside(connection: Connection, load: Load, why: Problem, limits: Limits, run_id: str) -> None:
    """End a claimed load of a refresh that was given up as archived, with nothing to its name: there is nothing to mend about it."""
    with connection.transaction():
        ledger.settle(connection, [Verdict(load, Status.READY_FOR_ARCHIVING, problems=(why,), why=why.code)])
        through(connection, load, Status.READY_FOR_ARCHIVING, Status.ARCHIVING, Status.ARCHIVED, limits, run_id)


def finish(connection: Connection, load: Load, refresh: Refresh, limits: Limits, run_id: str) -> None:
    """End the claimed load of a refresh that readers have, or had, as archived: nothing is to be moved.

    What moderation keeps from readers came in, and is not written; nobody refused it. In the caller's transaction if it has one.
    """
    tables = refresh.counts.get("tables", {}).values()
    rows, deleted, size = (sum(table[name] for table in tables) for name in ("rows", "deleted", "bytes"))
    verdict = Verdict(load, Status.READY_FOR_ARCHIVING, rows_in=rows + deleted, rows_written=rows, bytes=size, why="promoted")
    with connection.transaction():
        ledger.settle(connection, [verdict])
        through(connection, load, Status.READY_FOR_ARCHIVING, Status.ARCHIVING, Status.ARCHIVED, limits, run_id)


def through(connection: Connection, load: Load, frm: Status, over: Status, to: Status, limits: Limits, run_id: str) -> None:
    """Take a load that is ours from one status over another to its last one; of its object nothing is to be moved. Raises `ClaimLost`."""
    for before, after in ((frm, over), (over, to)):
        if not ledger.transition(connection, [ledger.Step(load)], before, after, lease_seconds=limits.lease_seconds, run_id=run_id):
            raise ClaimLost


def sweep(connection: Connection, limits: Limits, run_id: str | None = None) -> tuple[int, int]:
    """Return to `ready` what runs held that are gone, and finish half-done ends; how many of each. Repeatable."""
    returned = ledger.expire(connection, PIPELINE, limits.max_attempts)
    finished = 0
    for step in ledger.take_stranded(connection, PIPELINE, count=1000, lease_seconds=limits.lease_seconds):
        status = step.load.status
        over = ledger.MOVING.get(status)
        if over is not None:
            ledger.transition(connection, [step], status, over, lease_seconds=limits.lease_seconds, run_id=run_id)
            status = over
        ledger.transition(connection, [step], status, ledger.MOVED[status], lease_seconds=limits.lease_seconds, run_id=run_id)
        finished += 1
    return returned, finished


def _one(connection: Connection, model: str, states: tuple[State, ...]) -> Refresh | None:
    statement = sql.SELECT + "WHERE model = %(model)s AND state = ANY(%(states)s)"
    row = connection.execute(statement, {"model": model, "states": list(states)}).fetchone()
    return _refresh(row) if row else None


def _refresh(row: tuple[Any, ...]) -> Refresh:
    return Refresh(*row)

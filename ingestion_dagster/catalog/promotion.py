"""Promotion and rollback: tables and aliases change together, or neither does, whatever fails or is killed in between."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ingestion_dagster.catalog import (
    alongside,
    copy_errors,
    dependents,
    journal,
    locks,
    moderation,
    orphans,
    preconditions,
    refreshes,
    relations,
    staging,
    swap,
    swap_records,
    swap_sql,
)
from ingestion_dagster.catalog.journal import Entry
from ingestion_dagster.catalog.moderation import CLOCK_MARGIN, Reapplied
from ingestion_dagster.catalog.orphans import Settled
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.retirement import drop_tables
from ingestion_dagster.catalog.search import AliasMove, SearchEngine
from ingestion_dagster.catalog.swap import Moves, Outdated, Swapped
from ingestion_dagster.catalog.swap_records import RETIRED, ensure
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

_log = logging.getLogger(__name__)

UNLABELLED = ""
"""Stands for the generation of tables that no refresh made."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion or rollback did. `suffix`: the generation that readers have now, None for tables that no refresh made.

    `seconds_locked`: how long readers had to wait at most; `archived`, `restored`: rows of other tables; `deleted`, `mature`,
    `no_longer_mature`: documents that moderation had changed meanwhile; `warnings`: what is to be looked at.
    """

    suffix: str | None
    previous: str | None
    attempts: int
    seconds_locked: float
    seconds: float
    archived: int = 0
    restored: int = 0
    deleted: int = 0
    mature: int = 0
    no_longer_mature: int = 0
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    places: Places
    engine: SearchEngine
    ledger: Connection
    media: MediaType
    entry: Entry
    holder: str
    """As whom we may swap tables."""

    @property
    def indexes(self) -> tuple[str, ...]:
        """The indexes that readers are to have."""
        return tuple(name for name in self.wanted(self.entry.after).values() if name)

    def wanted(self, aliases: Mapping[str, str | None]) -> dict[str, str | None]:
        """Where aliases can lead: nowhere, if it was to a filtered index of before that somebody has deleted since."""
        return {alias: None if index and self._is_gone(alias, index) else index for alias, index in aliases.items()}

    def _is_gone(self, alias: str, index: str) -> bool:
        return alongside.is_filtered(alias) and index == self.entry.before.get(alias) and not self.engine.exists(index)

    @property
    def moves(self) -> Moves:
        return swap.PROMOTE if self.entry.kind == "promote" else swap.ROLL_BACK

    @property
    def back(self) -> Moves:
        return swap.REVERT if self.entry.kind == "promote" else swap.REVERT_ROLL_BACK


def is_open(ledger: Connection, model: str) -> bool:
    """Whether a swap of a media type was broken off."""
    return journal.open_entry(ledger, model) is not None


def promote(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, refresh: Refresh, run_id: str) -> Promotion:
    """Let readers have a refresh that is filled: its tables and its indexes, together.

    Raises `Busy`; `Refused` before anything is changed (`not_staged`, `no_such_index`, `alias_is_index`, `too_many_orphans`,
    `cannot_follow`, …); `Transient` or `Refused` with everything put back.
    """
    preconditions.await_copies(engine, ledger, refresh)
    with locks.model(ledger, media.name):
        _recover(places, engine, ledger, media)
        refresh = refreshes.get(ledger, media.name, refresh.suffix)
        if refresh.state not in ("filled", "promoting"):
            raise Refused(Problem("not_filled", f"{media.name}-{refresh.suffix}", f"it is {refresh.state}: fill its indexes first"))
        before, after = preconditions.destined(engine, ledger, refresh)
        with copy_errors.told(copy_errors.API, media.name), staging.plain_names(places) as api:
            ensure(api)
            preconditions.demand_staged(api, media, refresh.suffix)
            problems = dependents.unsupported(api, media) + staging.differences(api, media)
            if problems:
                raise Refused(*problems)
            orphans.refuse_too_many(api, media, NEXT, places.settings.catalog_orphan_rows)
            outgoing = relations.generation(api, LIVE, media.table.name)
            moderation.remember_outgoing(api, media, outgoing or UNLABELLED)
            drop_tables(api, media, RETIRED)
        return _swap(places, engine, ledger, media, run_id, "promote", refresh.suffix, outgoing, before, after)


def rollback(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, run_id: str) -> Promotion:
    """Let readers have the previous generation again, tables and aliases together; the live one becomes the previous one.

    Raises `Busy`; `Refused` if there is none (`no_previous`), or its index is gone (`no_such_index`); else as `promote`.
    """
    with locks.model(ledger, media.name):
        _recover(places, engine, ledger, media)
        last = journal.last_done(ledger, media.name)
        if last is None:
            raise Refused(Problem("no_previous", media.name, "nothing has been promoted yet"))
        preconditions.demand_generation(ledger, media, last)
        before, after, lacking = preconditions.restored(engine, media, last)
        with copy_errors.told(copy_errors.API, media.name), staging.plain_names(places) as api:
            ensure(api)
            warnings = preconditions.demand_previous(api, media, last)
            orphans.refuse_too_many(api, media, PREVIOUS, places.settings.catalog_orphan_rows)
            outgoing, incoming = (relations.generation(api, schema, media.table.name) for schema in (LIVE, PREVIOUS))
            moderation.remember_outgoing(api, media, outgoing or UNLABELLED)
            drop_tables(api, media, RETIRED)
        done = _swap(places, engine, ledger, media, run_id, "rollback", incoming, outgoing, before, after)
        return replace(done, warnings=(*lacking, *warnings, *done.warnings))


def recover(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType, run_id: str) -> str | None:
    """Complete or revert a swap that was broken off; what was done, None if none was open. Raises `Busy` if somebody is at it."""
    _ = run_id
    if not is_open(ledger, media.name):
        return None
    with locks.model(ledger, media.name):
        return _recover(places, engine, ledger, media)


def _recover(places: Places, engine: SearchEngine, ledger: Connection, media: MediaType) -> str | None:
    entry = journal.open_entry(ledger, media.name)
    if entry is None:
        return None
    work = _take_over(_Work(places, engine, ledger, media, entry, holder=""))
    what = f"{entry.kind} of {media.name} to {entry.incoming or 'the tables that no refresh made'}"
    if entry.table_state != "reverted" and _is_swapped(work) and all(engine.exists(index) for index in work.indexes):
        _complete(work)
        return f"completed the {what}"
    _revert(work)
    return f"reverted the {what}"


def _swap(
    places: Places,
    engine: SearchEngine,
    ledger: Connection,
    media: MediaType,
    run_id: str,
    kind: journal.Kind,
    incoming: str | None,
    outgoing: str | None,
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
) -> Promotion:
    started = time.monotonic()
    fault_point("catalog.swap.journal.before")
    # Before the entry: whoever finds that one takes over from us.
    holder = _taken(places, media)
    entry = journal.begin(ledger, media, kind, incoming, outgoing, before, after, run_id)
    fault_point("catalog.swap.journal.after")
    work = _Work(places, engine, ledger, media, entry, holder)
    try:
        swapped, moderated = _swap_tables(work)
        _move_aliases(work)
    except (Refused, Transient, ConfigurationError) as error:
        if not (isinstance(error, Transient) and error.code == "overtaken"):
            # The server may still be at a COMMIT of ours whose answer was lost: what is swapped is known once it has ended.
            _revert(_take_over(work))
        raise
    settled, late = _complete(work)
    return _said(work, swapped, moderated.and_again(late), settled, time.monotonic() - started)


def _said(work: _Work, swapped: Swapped, moderated: Reapplied, settled: Settled, seconds: float) -> Promotion:
    return Promotion(
        suffix=work.entry.incoming,
        previous=work.entry.outgoing,
        attempts=swapped.attempts,
        seconds_locked=round(swapped.seconds_locked, 3),
        seconds=round(seconds, 3),
        archived=settled.archived,
        restored=settled.restored,
        deleted=moderated.deleted,
        mature=moderated.mature,
        no_longer_mature=moderated.no_longer_mature,
        warnings=settled.problems,
    )


def _swap_tables(work: _Work) -> tuple[Swapped, Reapplied]:
    """With what was moderated meanwhile in it; again and again if somebody moderates just then."""
    moderated = Reapplied()
    since: datetime | None = None
    deadline = time.monotonic() + work.places.settings.catalog_swap_seconds
    marks = journal.marks(work.ledger, work.media)
    while True:
        with copy_errors.told(copy_errors.API, work.media.name), staging.plain_names(work.places) as api:
            generation, begun_at = work.entry.incoming or UNLABELLED, moderation.now(api)
            once_more = moderation.reapply(api, work.engine, work.media, work.moves.incoming, generation, work.indexes, since)
            moderated, since = moderated.and_again(once_more), begun_at - CLOCK_MARGIN
        try:
            swapped = swap.swap(work.places, work.media, work.moves, marks, work.holder, since)
        except Outdated:
            if time.monotonic() < deadline:
                continue
            raise Transient("tables_in_use", f"{work.media.name} is moderated without end") from None
        journal.tables(work.ledger, work.entry, "swapped")
        return swapped, moderated


def _move_aliases(work: _Work) -> None:
    """All in one call; if its answer is lost, what is true counts."""
    fault_point("catalog.swap.alias.before")
    journal.demand_open(work.ledger, work.entry)
    try:
        work.engine.switch([AliasMove(alias, index) for alias, index in work.wanted(work.entry.after).items()])
    except Transient:
        if not _leads(work, work.entry.after):
            raise
    if not _leads(work, work.entry.after):
        raise Transient("alias_not_moved", f"the search engine says it has moved {', '.join(work.entry.after)}, and they lead elsewhere")
    fault_point("catalog.swap.alias.after")
    journal.aliases(work.ledger, work.entry, "moved")


def _complete(work: _Work) -> tuple[Settled, Reapplied]:
    """What remains once the tables are swapped: aliases, what was moderated in between, foreign keys, and the states. Repeatable.

    Readers have the generation by then: what will never succeed of the rest is a warning, and does not keep the entry open.
    """
    if not _leads(work, work.entry.after):
        _move_aliases(work)
    entry, media = work.entry, work.media
    with copy_errors.told(copy_errors.API, media.name), staging.plain_names(work.places) as api:
        since = entry.begun_at - CLOCK_MARGIN
        generation = entry.incoming or UNLABELLED
        late, problems = _at_best(work, lambda: moderation.follow_up(api, work.engine, media, generation, work.indexes, since))
        settled = orphans.settle(api, media, entry.incoming)
        api.execute(swap_sql.FORGET_GENERATIONS)
    fault_point("catalog.swap.done.before")
    journal.end(work.ledger, media, entry, "done")
    fault_point("catalog.swap.done.after")
    return replace(settled, problems=(*settled.problems, *problems)), late


def _at_best(work: _Work, moderate: Callable[[], Reapplied]) -> tuple[Reapplied, tuple[Problem, ...]]:
    """What was moderated, and what was refused of it for good, as warnings."""
    try:
        with copy_errors.told(copy_errors.API, work.media.name):
            return moderate(), ()
    except Refused as error:
        problems = tuple(replace(problem, severity="warning") for problem in error.problems)
    except ConfigurationError as error:
        problems = (Problem("moderation_not_followed", work.media.name, str(error), "warning"),)
    for problem in problems:
        _log.warning("%s: what was moderated meanwhile is not in %s: %s", work.media.name, problem.place, problem.code)
    return Reapplied(), problems


def _revert(work: _Work) -> None:
    """Put back what was there, tables first. Repeatable; what fails here stays open in the journal, for `recover`."""
    fault_point("catalog.swap.revert.before")
    if _is_swapped(work):
        swap.swap(work.places, work.media, work.back, journal.marks(work.ledger, work.media), work.holder)
    journal.tables(work.ledger, work.entry, "reverted")
    with copy_errors.told(copy_errors.API, work.media.name), staging.plain_names(work.places) as api:
        orphans.settle(api, work.media, work.entry.outgoing)
    if not _leads(work, work.entry.before):
        work.engine.switch([AliasMove(alias, index) for alias, index in work.wanted(work.entry.before).items()])
    journal.aliases(work.ledger, work.entry, "reverted")
    _moderate_again(work)
    journal.end(work.ledger, work.media, work.entry, "reverted")
    fault_point("catalog.swap.revert.after")


def _moderate_again(work: _Work) -> None:
    """What was moderated while readers had the tables that came in is so in those that came back, and in their indexes."""
    indexes = [index for index in work.entry.before.values() if index and work.engine.exists(index)]
    generation, since = work.entry.outgoing or UNLABELLED, work.entry.begun_at - CLOCK_MARGIN
    with copy_errors.told(copy_errors.API, work.media.name), staging.plain_names(work.places) as api:
        _at_best(work, lambda: moderation.reapply(api, work.engine, work.media, LIVE, generation, indexes, since))


def _is_swapped(work: _Work) -> bool:
    """Whether readers have the tables that come in, whatever the journal says."""
    with copy_errors.told(copy_errors.API, work.media.name), staging.plain_names(work.places) as api:
        return relations.generation(api, LIVE, work.media.table.name) == work.entry.incoming


def _leads(work: _Work, wanted: Mapping[str, str | None]) -> bool:
    return all(work.engine.behind(alias) == ((index,) if index else ()) for alias, index in work.wanted(wanted).items())


def _take_over(work: _Work) -> _Work:
    """With the right to swap taken anew, once no swap is being made any more. Raises `Transient` (`overtaken`)."""
    holder = _taken(work.places, work.media)
    # Our session has the lock still, so whoever gets it after us takes over after us, too.
    journal.demand_open(work.ledger, work.entry)
    return replace(work, holder=holder)


def _taken(places: Places, media: MediaType) -> str:
    """Take over the right to swap, from whomever has it; as whom we have it."""
    with copy_errors.told(copy_errors.API, media.name), staging.plain_names(places) as api:
        ensure(api)
        return swap_records.take(api, media.name)

"""What has changed upstream since the copy of a refresh, carried into its staged table and its indexes before readers get them.

Updates bring it to the live table meanwhile; without this it would be gone with the promotion until the next one. What was where is noted
before anything is written, so that the gates can count exactly however often carrying was broken off.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg import sql

from ingestion_dagster.catalog import carry_sql, comparison, copy_errors, figures, locks, moderation, updates
from ingestion_dagster.catalog.changes import Changes, Misfit
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name
from ingestion_dagster.catalog.reindex import Index, Reindexer
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.tables import NEXT
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Carried:
    """What was carried. `rows_in`: rows that have changed upstream; `upserted`: written, the others were there as they are.

    `restored`: documents of rows that moderation deleted before the index was filled, and has let in again since. `skipped`: rows that the
    table refused. `complete_to`: upstream changes up to it are in. `stopped_by`: why nothing could be carried
    from upstream, the codes of problems; what there is then is from the live table.
    """

    rows_in: int
    upserted: int
    restored: int
    skipped: int
    seconds: float
    complete_to: datetime | None
    stopped_by: tuple[str, ...] = ()

    @property
    def has_changed(self) -> bool:
        """Whether the staged table or an index is not what it was."""
        return self.upserted + self.restored > 0


def carry(
    places: Places,
    engine: SearchEngine,
    ledger: Connection,
    media: MediaType,
    refresh: Refresh,
    *,
    hold: Callable[[], None] = lambda: None,
) -> Carried:
    """Bring upstream changes since the copy, or since the last time, into the staged table and the indexes of a refresh. Repeatable.

    New rows get their ids, and are written, while nobody else gives ids: what an update has numbered before is found, and one that comes
    later finds them. An upstream that has become another since the copy stops nothing: what updates have brought is taken from the live
    table then. `hold`: as for the copy. Raises `Refused` for a value upstream that can never be taken, `Transient`, and `ClaimLost` if the
    refresh is no longer ours.
    """
    started = time.monotonic()
    behind = updates.complete_to(refresh)
    complete_to = behind
    stopped_by: tuple[str, ...] = ()
    with copy_errors.told(copy_errors.API, media.table.name), places.upstream.connect() as upstream, places.api.connect() as api:
        moderation.remember(api, media, refresh.suffix)
        carrier = _Carrier(places, engine, ledger, api, media, refresh, hold)
        changes = Changes(places, ledger, upstream, api, media, NEXT)
        if behind is not None:
            try:
                moment = _collected(changes, behind)
            except Misfit as error:
                stopped_by = tuple(problem.code for problem in error.problems)
                log.warning("%s-%s: upstream changes cannot be carried: %s", media.name, refresh.suffix, ", ".join(stopped_by))
                if changes.collect_live(behind - updates.OVERLAP):
                    changes.find()
                    carrier.write(changes)
            else:
                changes.find()
                carrier.write(changes)
                if changes.new_rows():
                    with locks.model(ledger, media.name, wait=True):
                        changes.number()
                        carrier.write(changes)
                # What a filtered index has not got because of its terms comes with the first update once it was made anew.
                complete_to = behind if carrier.terms_changed else max(behind, moment)
        restored = carrier.restore()
    carrier.refresh()
    seconds = round(time.monotonic() - started, 3)
    return Carried(changes.rows, carrier.written, restored, carrier.skipped, seconds, complete_to, stopped_by)


def _collected(changes: Changes, behind: datetime) -> datetime:
    """As `Changes.collect`. What is refused says what to do: without it readers would lose what updates have brought."""
    try:
        return changes.collect(behind - updates.OVERLAP)
    except Misfit:
        raise
    except Refused as error:
        todo = "changes since the copy cannot be carried: correct it upstream, then 'ingestion retry catalog'"
        raise Refused(*(replace(problem, message=f"{problem.message}; {todo}") for problem in error.problems)) from None


class _Carrier:
    """Keeps the notes, and brings documents up to date."""

    def __init__(
        self,
        places: Places,
        engine: SearchEngine,
        ledger: Connection,
        api: Connection,
        media: MediaType,
        refresh: Refresh,
        hold: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._api = api
        self._media = media
        self._hold = hold
        self.written = 0
        self.skipped = 0
        self._names = {"model": refresh.model, "suffix": refresh.suffix}
        self._staged = sql.Identifier(NEXT, media.table.name)
        self._main, self._filtered = index_name(refresh.model, refresh.suffix), filtered_name(refresh.model, refresh.suffix)
        # One that was made apart from its refresh is kept up as well.
        there = [name for name in (self._main, self._filtered) if engine.exists(name)]
        self._reindexer = Reindexer(places, engine, ledger, api, media, [Index.of(engine, name) for name in there], schema=NEXT)
        self.refresh()

    def refresh(self) -> None:
        """Let everybody see what was put."""
        for index in self._reindexer.indexes:
            self._engine.refresh(index.name)

    @property
    def terms_changed(self) -> bool:
        """Whether the filtered index was made with another list of terms than there is now, and lacks something for that."""
        return self._reindexer.terms_changed

    def write(self, changes: Changes) -> None:
        """Write the changes that have an id into the staged table and the indexes, and count them."""
        for batch in changes.batches(updates.BATCH_ROWS):
            with self.noted([change.id for change in batch]):
                fault_point("catalog.carry.table.before")
                written, refused = changes.upsert(batch)
                fault_point("catalog.carry.table.after")
            self.written, self.skipped = self.written + written, self.skipped + len(refused)

    @contextmanager
    def noted(self, ids: Sequence[int]) -> Iterator[None]:
        """Note what there is of these ids, let the block write rows, then bring their documents up to date and note what there is now."""
        held = {index.name: list(self._engine.get(index.name, ids)) for index in self._reindexer.indexes}
        self._note(carry_sql.BEFORE, ids, held)
        yield
        fault_point("catalog.carry.index.before")
        put = self._reindexer.rows(ids)
        fault_point("catalog.carry.index.after")
        self._note(carry_sql.AFTER, ids, {name: list(numbers) for name, numbers in put.items()})

    def restore(self) -> int:
        """Put documents that are missing since their rows were deleted by moderation when the index was filled, and no longer are."""
        dead = figures.dead_of(self._ledger, self._main)
        _, least = figures.expected_documents(self._api, self._media.table)
        if self._main not in {index.name for index in self._reindexer.indexes} or least <= self._engine.count(self._main) + dead:
            return 0
        deleted = comparison.moderated(self._api, self._media.table.deleted)
        statement = carry_sql.WITH_DOCUMENT.format(staged=self._staged, deleted=deleted)
        refused, restored = figures.refused_of(self._ledger, self._main), 0
        for first, last, counted in self._ledger.execute(carry_sql.RANGES, self._names).fetchall():
            wanted = [int(row[0]) for row in self._api.execute(statement, {"first": first, "last": last})]
            # What the index itself has lost is no matter of moderation: a gate says so.
            if len(wanted) <= counted:
                continue
            for start in range(0, len(wanted), updates.BATCH_ROWS):
                some = wanted[start : start + updates.BATCH_ROWS]
                held = self._engine.get(self._main, some)
                missing = [number for number in some if number not in held and number not in refused]
                if missing:
                    with self.noted(missing):
                        pass
                    restored += len(missing)
        return restored

    def _note(self, statement: str, ids: Sequence[int], documents: dict[str, list[int]]) -> None:
        staged = [int(row[0]) for row in self._api.execute(carry_sql.STAGED.format(staged=self._staged), {"ids": list(ids)})]
        found = {"staged": staged, "main": documents.get(self._main, []), "filtered": documents.get(self._filtered, [])}
        with self._ledger.transaction():
            self._hold()
            self._ledger.execute(statement.encode(), self._names | {"ids": list(ids)} | found)

"""One worker of a fill: claims a range, puts its documents into the indexes chunk by chunk, notes how far it is, claims the next."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, Never

from psycopg import sql

from ingestion_dagster.catalog import dead_letters, documents, fill_sql, refreshes
from ingestion_dagster.catalog.documents import Row
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import PIPELINE, MediaType, media_type
from ingestion_dagster.catalog.row_reads import in_turn, moderation_table
from ingestion_dagster.catalog.search import BulkResult, SearchEngine
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import ClaimLost, Load, Scope, Status, Verdict
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """What is filled, and from what: schema and table, the main index and the filtered one (None: left out), and further fields.

    `suffix` is that of the ranges; indexes may be called anything.
    `origin`: the suffix whose rows these are, if it is another.
    """

    model: str
    suffix: str
    relation: tuple[str, str]
    index: str | None
    filtered: str | None = None
    fields: tuple[str, ...] = ()
    origin: str | None = None

    @property
    def indexes(self) -> dict[str, str]:
        """The indexes by kind: `main`, `filtered`."""
        named = (("main", self.index), ("filtered", self.filtered))
        return {kind: index for kind, index in named if index is not None}


@dataclass(slots=True)
class _Chunk:
    """Documents of some rows, on their way."""

    last: int
    rows: int
    main: list[tuple[int, bytes]] = field(default_factory=list)
    filtered: list[tuple[int, bytes]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        return sum(len(source) for documents in (self.main, self.filtered) for _, source in documents)


def work(
    places: Places, media: MediaType, target: Target, run_id: str, limits: Limits, progress: Progress = lambda _done, _of: None
) -> int:
    """Fill range by range until none can be claimed or the run's time is up; how many were filled.

    Raises what stops the whole: `Refused` (`too_many_dead_documents`, `no_such_index`, …), `Transient`. The range in hand is then given
    back, and is gone on with behind its last chunk.
    """
    scope = Scope(PIPELINE, datasets=frozenset({media.index_dataset}), partitions=frozenset({target.suffix}))
    filled = 0
    with places.ledger.connect() as connection:
        if not ledger.claimable(connection, scope)[0]:
            return 0
        dead_letters.refuse_too_many(connection, places.settings, target.indexes.values())
        with places.api.connect() as api, closing(places.search()) as engine:
            filler = _Filler(places.settings, media, target, connection, api, engine, progress, limits, run_id)
            with Claims(places.ledger, scope, run_id, replace(limits, batch_files=1)) as claims:
                for (load,) in claims.batches(connection):
                    filler.demand_terms()
                    try:
                        filler.fill_range(load)
                        filled += 1
                    except ClaimLost:
                        log.warning("a range of %s-%s went to another run: its lease had run out", target.model, target.suffix)
    return filled


def helper(places: Places, model: str, target: Target, run_id: str, limits: Limits) -> None:
    """`work` in a process of its own. What goes wrong is said in the log; the process that started this one goes on with what is left."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="parent-watch", daemon=True).start()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        # What works keeps its leases: it is no reason to end that it takes long.
        while work(places, media_type(model), target, run_id, limits):
            pass
    except (Refused, Transient, ConfigurationError) as error:
        log.warning("a process that filled %s-%s ended: %s", target.model, target.suffix, error)
        sys.exit(1)


class _Filler:
    """Fills ranges of one target, over connections of one worker."""

    def __init__(
        self,
        settings: Settings,
        media: MediaType,
        target: Target,
        connection: Connection,
        api: Connection,
        engine: SearchEngine,
        progress: Progress,
        limits: Limits,
        run_id: str,
    ) -> None:
        self._settings = settings
        self._target = target
        self._spec = media.documents
        self._connection = connection
        self._api = api
        self._engine = engine
        self._progress = progress
        self._progress_at = time.monotonic()
        self._limits = limits
        self._run_id = run_id
        self._fills_main = "main" in target.indexes
        self._terms: Any = None
        self._listed: str | None = None
        if target.filtered is not None:
            from ingestion_dagster.catalog import sensitive

            self._terms, self._listed = sensitive.loaded(settings)
        schema, table = target.relation
        self._query = self._spec.query(
            sql.Identifier(schema, table),
            deleted=moderation_table(api, media.table.deleted),
            mature=moderation_table(api, media.table.mature),
            fields=target.fields,
            columns=documents.columns_of(api, schema, table),
        )

    def demand_terms(self) -> None:
        """Raises `Transient` (`terms_changed`) if the filtered index was begun with another list of terms than this worker has read."""
        filtered = self._target.filtered
        if filtered is not None and self._engine.label(filtered).get("terms") != self._listed:
            raise Transient("terms_changed", f"{filtered} was begun with another list of terms than there is now")

    def fill_range(self, load: Load) -> None:
        """Put the documents of a range into the indexes, from where it was broken off. Raises `ClaimLost` if it is no longer ours."""
        row = self._connection.execute(fill_sql.RANGE, {"id": load.id}).fetchone()
        if row is None:
            raise Refused(Problem("no_such_range", load.key, "this load has no range of ids: discard the refresh that it is of"))
        first, last, committed = row
        # While a chunk is sent, the next one is read and built.
        with ThreadPoolExecutor(1, thread_name_prefix="catalog-bulk") as sender:
            on_its_way: tuple[_Chunk, Future[dict[str, BulkResult]]] | None = None
            for chunk in self._chunks(first if committed is None else committed + 1, last):
                if on_its_way is not None:
                    self._commit(load, *on_its_way)
                on_its_way = chunk, sender.submit(self._send, chunk, self._ours_until(load))
            if on_its_way is not None:
                self._commit(load, *on_its_way)
        self._settle(load)

    def _chunks(self, first: int, last: int) -> Iterator[_Chunk]:
        limit = self._settings.catalog_bulk_documents
        while first <= last:
            started = time.monotonic()
            rows: list[Row] = in_turn(self._api, self._query, {"first": first, "last": last, "limit": limit})
            chunk = _Chunk(rows[-1][0] if len(rows) == limit else last, len(rows))
            for number, source, text in self._spec.documents(rows):
                if source is None:
                    continue
                if self._fills_main:
                    chunk.main.append((number, source))
                if self._terms is not None and not self._terms.found_in(text):
                    chunk.filtered.append((number, source))
            chunk.seconds = time.monotonic() - started
            yield chunk
            first = chunk.last + 1

    def _ours_until(self, load: Load) -> float:
        """Until when a range is ours for sure, by the monotonic clock. Raises `ClaimLost` if it is not."""
        asked = time.monotonic()
        row = self._connection.execute(fill_sql.IS_OURS, {"id": load.id, "claim": load.claim}).fetchone()
        if row is None:
            raise ClaimLost
        return asked + float(row[0])

    def _send(self, chunk: _Chunk, ours_until: float) -> dict[str, BulkResult]:
        """What has slept past its lease sends nothing more: others may have gone on, and the index may be in readers' hands."""
        started = time.monotonic()
        fault_point("catalog.fill.bulk.before")
        sent = {}
        for kind, index in self._target.indexes.items():
            put = chunk.main if kind == "main" else chunk.filtered
            if time.monotonic() > ours_until:
                raise ClaimLost
            sent[kind] = self._engine.bulk(index, put) if put else BulkResult(0)
        fault_point("catalog.fill.bulk.after")
        chunk.seconds += time.monotonic() - started
        return sent

    def _commit(self, load: Load, chunk: _Chunk, sending: "Future[dict[str, BulkResult]]") -> None:
        sent = sending.result()
        main, filtered = sent.get("main"), sent.get("filtered", BulkResult(0))
        dead = {rejected.id for result in sent.values() for rejected in result.rejected}
        fault_point("catalog.fill.commit.before")
        with self._connection.transaction():
            ledger.hold(self._connection, [load])
            for kind, index in self._target.indexes.items():
                dead_letters.bury(self._connection, self._target.model, index, sent[kind].rejected)
            self._connection.execute(
                fill_sql.COMMIT,
                {
                    "id": load.id,
                    "committed": chunk.last,
                    "rows": chunk.rows,
                    "documents": main.accepted if main else filtered.accepted,
                    "filtered": filtered.accepted,
                    "dead": len(dead),
                    "retries": sum(result.retries for result in sent.values()),
                    "bytes": chunk.bytes,
                    "seconds": chunk.seconds,
                },
            )
        fault_point("catalog.fill.commit.after")
        if dead:
            dead_letters.refuse_too_many(self._connection, self._settings, self._target.indexes.values())
        self._tell()

    def _settle(self, load: Load) -> None:
        """End a range: nothing is to be moved, so that it is archived at once."""
        row = self._connection.execute(fill_sql.COUNTED, {"id": load.id}).fetchone()
        assert row is not None
        rows, written, dead, size = row
        verdict = Verdict(
            load,
            Status.READY_FOR_ARCHIVING,
            rows_in=rows,
            rows_written=written,
            rows_rejected=dead,
            bytes=size,
            why="in the index",
        )
        fault_point("catalog.fill.settle.before")
        with self._connection.transaction():
            ledger.settle(self._connection, [verdict])
            refreshes.through(
                self._connection, load, Status.READY_FOR_ARCHIVING, Status.ARCHIVING, Status.ARCHIVED, self._limits, self._run_id
            )
        fault_point("catalog.fill.settle.after")

    def _tell(self) -> None:
        if time.monotonic() - self._progress_at < _PROGRESS_SECONDS:
            return
        self._progress_at = time.monotonic()
        row = self._connection.execute(fill_sql.TOTALS, {"model": self._target.model, "suffix": self._target.suffix}).fetchone()
        if row is not None:
            self._progress(int(row[-2]), int(row[-1]))


def _terminated(_signal: int, _frame: FrameType | None) -> Never:
    """Ends the process by an exception, so that the range in hand is given back."""
    raise SystemExit(1)


def _end_with(sentinel: int) -> None:
    """A worker whose parent was killed ends too: nobody would know of it, or end it."""
    wait([sentinel])
    os._exit(1)

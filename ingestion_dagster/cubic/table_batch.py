"""Loads of one table, from claim to settlement: each converted aside, and all published in one transaction."""

import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from ingestion_dagster.cubic import offsets, publication, schemas
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.places import identifier_of, springboard
from ingestion_dagster.cubic.publication import Part, Publication
from ingestion_dagster.cubic.registry import CubicTable, Registry
from ingestion_dagster.cubic.schemas import Fit, Held, Offer, Version
from ingestion_dagster.cubic.sink import Outputs, Tolerance
from ingestion_dagster.cubic.stream_kind import Offsets, Reading, Source, StreamKind
from ingestion_dagster.cubic.zone import zone
from ingestion_dagster.engine import landing, ledger
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Previous, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.verdicts import internal_error, kind_of, superseded, unread
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

EMPTY = Problem("empty_file", "the whole file", "it has no byte; deliver it again")

UNKNOWN_TYPE = "unknown_file_type"

WAITS_FOR_SCHEMA = schemas.WAITS_FOR

_ASK_SECONDS = 0.2

_SMALL = 256 * 1024
"""Bytes: files of this size on average cost more side by side than one after the other."""

_LONGEST_IDENTIFIER = 240
"""Bytes: with `identifier=` before it, it is the name of a folder."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a run has been asked for: where from and to, by which registry, and how much at a time."""

    zone: Zone
    registry: Registry
    springboard: ObjectStore
    tolerance: Tolerance = field(default_factory=Tolerance)
    batch_files: int = 64
    batch_bytes: int = 256 * 1024 * 1024
    workers: int = 2
    """How many files of a table are converted side by side."""
    fault_limit: int = 10

    @classmethod
    def of(cls, settings: Settings, registry: Registry) -> "Job":
        """What the settings ask for."""
        return cls(
            zone=zone(settings, registry),
            registry=registry,
            springboard=springboard(settings),
            tolerance=Tolerance(settings.cubic_rejected_rows, settings.cubic_rejected_percent / 100),
            batch_files=settings.cubic_batch_files,
            batch_bytes=settings.cubic_batch_bytes,
            workers=min(4, os.cpu_count() or 1),
            fault_limit=settings.cubic_fault_limit,
        )


class Outdated(Exception):
    """Another run has changed the table's columns while this one converted by the old ones."""


class Unreadable(Exception):
    """Nothing of a batch can be read: that is the store's trouble, no file's."""

    def __init__(self, error: Transient | ConfigurationError) -> None:
        super().__init__(kind_of(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class _Done:
    """One load's verdict, and what is to be published and noted with it."""

    verdict: Verdict
    parts: tuple[Part, ...] = ()
    fit: Fit | None = None
    offsets: Offsets = field(default_factory=dict)


class TableBatch:
    """Loads of one table, from claim to settlement."""

    def __init__(
        self,
        connection: Connection,
        job: Job,
        table: CubicTable,
        folder: Path,
        loads: Sequence[Load],
        max_attempts: int,
        versions: list[Version] | None = None,
    ) -> None:
        self._connection = connection
        self._job = job
        self.table = table
        self._kind = KINDS[table.kind]
        self._folder = folder
        self._loads = loads
        self._max_attempts = max_attempts
        self._versions = schemas.versions_of(connection, table.name) if versions is None else versions
        self._known = len(self._versions)
        self._held_since = schemas.held_since(connection, table.name)
        self._previous: Mapping[int, Previous] = ledger.previous_versions(connection, loads)
        self._offsets: dict[tuple[str, int], set[int]] = {}
        self.kept = 0
        """How many replayed files were refused, and stay as they were."""
        self.proposed = ""
        """An entry for the registry, if this batch has met a file that asks for another."""
        self._overtaken = ledger.overtaken(connection, loads) if job.zone.landing.dated_by_arrival else frozenset()

    def convert(self) -> list[_Done]:
        """Convert each load aside, some side by side. Raises `Transient` if nothing at all can be read."""
        # Files that may change the table's columns are read in order, so that what they bring comes in the same order every time.
        in_order = self._kind.one_by_one or not self.table.strict or not self._versions
        small = sum(load.size for load in self._loads) < _SMALL * len(self._loads)
        workers = 1 if in_order or small else min(self._job.workers, len(self._loads))
        if workers == 1:
            done = [self._one(load) for load in self._loads]
        else:
            with ThreadPoolExecutor(workers) as pool:
                done = list(pool.map(self._one, self._loads))
        unreadable = [each for each in done if isinstance(each, Transient | ConfigurationError)]
        if unreadable and len(unreadable) == len(done) and not any(load.alone for load in self._loads):
            # A load that is claimed by itself is charged all the same.
            raise Unreadable(unreadable[0])
        judged = [
            _Done(unread(load, each, self._max_attempts)) if isinstance(each, Exception) else each
            for load, each in zip(self._loads, done, strict=True)
        ]
        self.kept = sum(each.verdict.to == Status.READY_FOR_ERRORING and each.verdict.load.replay for each in judged)
        return [_kept(each) for each in judged]

    def publish(self, done: Sequence[_Done]) -> list[Verdict]:
        """Publish what was converted and settle the loads, in one transaction. Raises `ClaimLost`, and then nothing is published."""
        publication_ = Publication(self._job.springboard, [part for each in done for part in each.parts])
        try:
            publication_.stage()
            with self._connection.transaction():
                # Who falls asleep in here keeps its loads: nothing is published over what another run would have made of them meanwhile.
                self._connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                ledger.hold(self._connection, self._loads)
                changed = any(each.fit is not None and each.fit.is_new for each in done)
                if changed and not schemas.stands_at(self._connection, self.table.name, self._known):
                    raise Outdated
                publication_.publish(self._still_held())
                self._note(done)
                ledger.settle(self._connection, [each.verdict for each in done])
        finally:
            publication_.clear()
        return [each.verdict for each in done]

    def _still_held(self) -> Callable[[], None]:
        """What fails if the transaction is gone; it asks now and then, and at once after a sleep."""
        asked = time.monotonic()

        def ask() -> None:
            nonlocal asked
            if time.monotonic() - asked > _ASK_SECONDS:
                self._connection.execute("SELECT 1")
                asked = time.monotonic()

        return ask

    def _note(self, done: Sequence[_Done]) -> None:
        """Enter new versions of the table's columns and the records written; remove rejects of an earlier reading."""
        if any(each.fit is not None and each.fit.is_new for each in done):
            known = schemas.versions_of(self._connection, self.table.name)
            for each in done:
                if each.fit is not None and each.fit.is_new and (not known or not known[-1].says_the_same(each.fit.version)):
                    schemas.add(self._connection, self.table.name, each.fit.version, load_id=each.verdict.load.id)
                    known.append(each.fit.version)
        for each in done:
            load = each.verdict.load
            if self._kind.one_by_one and each.fit is not None:
                offsets.enter(self._connection, self.table.name, load.id, each.offsets)
            was_read_before = load.attempts or load.location is not None or load.id in self._previous
            if each.parts and not each.verdict.rows_rejected and was_read_before:
                publication.remove(self._job.springboard, self.table, load, ("rejects",))

    def _one(self, load: Load) -> "_Done | Exception":
        """What one file is worth; an exception if it could not be read."""
        if load.id in self._overtaken:
            return _Done(superseded(load))
        if problem := refused_on_sight(self._kind, self.table, load.key, load.size):
            return _Done(Verdict(load, Status.READY_FOR_ERRORING, problems=(problem,), bytes=load.size))
        if not (self.table.raw or self.table.typed):
            return _Done(Verdict(load, Status.READY_FOR_ARCHIVING, bytes=load.size, why="archived only, as the registry says"))
        if self._held_since is not None and load.modified >= self._held_since:
            return _Done(_waiting(load, Problem(schemas.SCHEMA_CHANGED, "the table", "an earlier file waits for a decision")))
        written = publication.outputs(self._folder, self.table, load)
        try:
            reading = self._read(load, written)
        except Refused as refused:
            # What was counted before a file turned out to be broken is no fact.
            return _Done(Verdict(load, Status.READY_FOR_ERRORING, problems=refused.problems, bytes=load.size))
        except Held as held:
            self._held_since = load.modified
            self.proposed = held.proposed
            return _Done(_waiting(load, held.problem))
        except (Missing, Changed, Transient, ConfigurationError) as error:
            return error
        except psycopg.Error:
            raise
        except OSError as error:
            # Not of this file: there is no room, or no access, where converted files are written.
            raise Transient("scratch_unusable", f"{self._job.springboard.scratch()}: {error.strerror or kind_of(error)}") from None
        except Exception as error:  # noqa: BLE001 - a defect of ours must not take a file's neighbours down
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("load_id=%s dataset=%s error=%s\n%s", load.id, self.table.name, kind_of(error), frames)
            return _Done(Verdict(load, Status.READY_FOR_ERRORING, problems=(internal_error(error),), bytes=load.size))
        return self._accepted(load, reading, written)

    def _read(self, load: Load, written: Outputs) -> Reading:
        def accept(offer: Offer) -> Fit:
            return schemas.fit(self.table, self._versions, offer, load.modified)

        def others(asked: Offsets) -> Mapping[tuple[str, int], set[int]]:
            found = offsets.written(self._connection, self.table.name, load.id, asked)
            # Of those before it in this batch the database does not know yet.
            for record, numbers in self._offsets.items():
                if record in asked:
                    found.setdefault(record, set()).update(numbers)
            return found

        if self._kind.companions(load.key) and not landing.is_newest(self._job.zone, load):
            raise Changed(load.key)
        companion = landing.read_companion(self._job.zone, load) if self._kind.companions(load.key) else None
        source = Source(load.key, landing.stream(self._job.zone, load), companion, others)
        return self._kind.read(source, accept, self.table.columns, written, self._job.tolerance)

    def _accepted(self, load: Load, reading: Reading, written: Outputs) -> _Done:
        converted = reading.converted
        verdict = Verdict(load, Status.READY_FOR_ARCHIVING, bytes=converted.bytes_read, content_hash=converted.content_hash)
        previous = self._previous.get(load.id)
        if self._kind.repeats(self.table) and previous is not None and previous.content_hash == converted.content_hash:
            return _Done(replace(verdict, duplicate_of=previous.load_id, why="the same content as the version before"))
        fit = reading.fit
        if self._kind.one_by_one:
            fit = replace(fit, is_new=not self._versions or self._versions[-1].columns != fit.version.columns)
        if fit.is_new:
            self._versions.append(fit.version)
        for record, numbers in reading.offsets.items():
            self._offsets.setdefault(record, set()).update(numbers)
        verdict = replace(
            verdict,
            rows_in=converted.rows_in,
            rows_written=converted.rows_written,
            rows_rejected=converted.rows_rejected,
            problems=(*converted.problems, *reading.warnings),
        )
        return _Done(verdict, tuple(publication.parts(self.table, load, written)), fit, reading.offsets)


def _kept(done: _Done) -> _Done:
    """A replay that is refused takes nothing away: the load stays archived, with the rows it has loaded before."""
    load, verdict = done.verdict.load, done.verdict
    if not load.replay or verdict.to != Status.READY_FOR_ERRORING:
        return done
    why = "refused when it was replayed: what it had loaded before stands"
    return _Done(
        replace(
            verdict,
            to=Status.READY_FOR_ARCHIVING,
            why=why,
            rows_in=load.rows_in,
            rows_written=load.rows_written,
            rows_rejected=load.rows_rejected,
        )
    )


def refused_on_sight(kind: StreamKind, table: CubicTable, key: str, size: int) -> Problem | None:
    """What can be told of a file without reading it."""
    if size == 0:
        return EMPTY
    if len(identifier_of(table, key).encode()) > _LONGEST_IDENTIFIER:
        return Problem("name_too_long", "file name", f"longer than {_LONGEST_IDENTIFIER} bytes below its table's prefix; rename the file")
    if not kind.is_data(key):
        return Problem(UNKNOWN_TYPE, "file name", f"a file of this kind ends with {' or '.join(kind.suffixes)}; rename it, or take it away")
    return None


def _waiting(load: Load, problem: Problem) -> Verdict:
    return Verdict(load, Status.READY, why="its columns are to be decided about", waiting_for=WAITS_FOR_SCHEMA, problems=(problem,))

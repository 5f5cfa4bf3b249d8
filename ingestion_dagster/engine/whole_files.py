"""Files that stand for themselves: each is read whole, and its rows go into tables of the ledger's database."""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ingestion_dagster.engine import landing, ledger, verdicts, zones
from ingestion_dagster.engine.batches import Attempt, load_batches, set_aside
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Previous, Status, Verdict
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class WholeFiles(Generic[Row]):
    """The one dataset of a pipeline whose files fit into memory.

    `read` is pure: the rows of a file, given its bytes; it raises `Refused` with every problem there is. `write` is called in a
    transaction: it writes rows, one at least, and returns how many were new or changed. Written again they change nothing.
    """

    pipeline: str
    dataset: str
    read: Callable[[bytes], Sequence[Row]]
    write: Callable[[Connection, Sequence[Row]], int]

    def zone(self, settings: Settings) -> Zone:
        """Where the files arrive and go."""
        return zones.usual_zone(settings, self.pipeline, lambda seen: Arrival(seen, self.dataset))

    def places(self, settings: Settings) -> tuple[tuple[str, str], ...]:
        """Where they go, as `Pipeline.places` tells it."""
        return zones.usual_places(settings, self.pipeline)

    def check(self, raw: bytes) -> tuple[Problem, ...]:
        """Every problem of one file; no ledger, no database."""
        try:
            self.read(raw)
        except Refused as refused:
            return refused.problems
        return ()

    def judge(self, settings: Settings, loads: Sequence[Load]) -> Outcome:
        """Judge loads that nobody has claimed, and write nothing."""
        outcome, started = Outcome(), time.monotonic()
        outcome.count(self._judged(load, raw, None, 1)[0] for load, raw in landing.read_ahead(self.zone(settings), loads))
        outcome.seconds = time.monotonic() - started
        return outcome

    def load(
        self, settings: Settings, connection: Connection, claim: Callable[[], AbstractContextManager[Claims]], outcome: Outcome
    ) -> Outcome:
        """Load every claimable file, counting in `outcome`, which is returned. As `batches.load_batches`, also in what it raises."""
        zone = self.zone(settings)

        def work(batch: Sequence[Load]) -> Attempt:
            done, readable = set_aside(connection, zone, batch, settings.max_load_bytes)
            previous, found = ledger.previous_versions(connection, batch), list(landing.read_ahead(zone, readable))
            verdicts.demand_readable(found)
            for load, raw in found:
                verdict, rows = self._judged(load, raw, previous.get(load.id), claims.limits.max_attempts)
                done.append(replace(verdict, rows_written=self.write(connection, rows)) if rows else verdict)
            return Attempt(done)

        with claim() as claims:
            return load_batches(claims, zone, connection, work, outcome)

    def _judged(self, load: Load, raw: bytes | Exception, previous: Previous | None, max_attempts: int) -> tuple[Verdict, Sequence[Row]]:
        """What a file is worth, and the rows that are to be written of it."""
        if isinstance(raw, Exception):
            return verdicts.unread(load, raw, max_attempts), ()
        content_hash = hashlib.sha256(raw).hexdigest()
        accepted = Verdict(load, Status.READY_FOR_ARCHIVING, bytes=len(raw), content_hash=content_hash)
        if previous is not None and previous.content_hash == content_hash:
            return replace(accepted, duplicate_of=previous.load_id, why="the same content as the version before"), ()
        try:
            rows = self.read(raw)
        except Refused as refused:
            return verdicts.refused(accepted, refused.problems), ()
        except Exception as error:  # noqa: BLE001 - a defect of ours must not take a file's neighbours down
            return verdicts.refused(accepted, (verdicts.defect(load, error),)), ()
        return replace(accepted, rows_in=len(rows)), rows

"""The batches of one run: claim, keep the leases alive meanwhile, stop when nothing is left or time is up."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import psycopg

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Load, Scope, Status, Verdict
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

_ALL = 2**31 - 1

_PATIENCE = "SET lock_timeout = '100ms'"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a run takes on: loads and bytes per batch, seconds of lease, seconds after which it claims no more."""

    batch_files: int = 2000
    batch_bytes: int = 32 * 1024 * 1024
    lease_seconds: float = 120
    run_seconds: float = 3300
    max_attempts: int = 3

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits as set by the environment."""
        return cls(settings.batch_files, settings.batch_bytes, settings.lease_seconds, settings.run_seconds, settings.max_attempts)


class Claims:
    """What one run works off: iterate to claim batch after batch; a thread renews the leases of all of them."""

    def __init__(self, database: Database, scope: Scope, run_id: str, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.scope = scope
        self.run_id = run_id
        self.limits = limits
        self._database = database
        self._clock = clock
        self._in_hand: list[Load] = []
        self._left: set[str] = set()
        self._stopped = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease-renewer", daemon=True)

    def __enter__(self) -> "Claims":
        self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._renewer.join()
        if error is not None:
            self._give_back()

    def batches(self, connection: Connection) -> Iterator[list[Load]]:
        """Batches of claimed loads, oldest `modified` first, within the limits, until none is claimable or the run's time is up.

        The leases of a batch are renewed until the next one is asked for.
        """
        started = self._clock()
        self._bound_idleness(connection)
        while self._clock() - started < self.limits.run_seconds:
            batch = ledger.claim(
                connection,
                self.scope,
                self.run_id,
                count=self.limits.batch_files,
                size=self.limits.batch_bytes,
                lease_seconds=self.limits.lease_seconds,
            )
            if not batch:
                return
            self._in_hand = batch
            yield batch
            self._in_hand = []

    def rounds(self, connection: Connection, *, count: int, size: int) -> Iterator[list[Load]]:
        """Batches of one dataset each, so small that the datasets take turns, until none is claimable or the run's time is up.

        A batch has `count` loads and `size` bytes at most; one load always fits.
        What is replayed comes in one batch, so that it can be published in one step.
        """
        started = self._clock()
        self._bound_idleness(connection)
        claimed = died = True
        while claimed or not died:
            # What a run has died with comes after everything else, of whatever dataset.
            died = not claimed
            claimed = False
            for dataset, replay in ledger.claimable_datasets(connection, self.scope).items():
                if self._clock() - started >= self.limits.run_seconds:
                    return
                if dataset in self._left:
                    continue
                self._in_hand = ledger.claim(
                    connection,
                    self.scope,
                    self.run_id,
                    count=_ALL if replay else count,
                    size=_ALL if replay else size,
                    lease_seconds=self.limits.lease_seconds,
                    died=died,
                    dataset=dataset,
                    replay=replay,
                )
                if self._in_hand:
                    claimed = True
                    yield self._in_hand
                    self._in_hand = []

    def keep(self, loads: Sequence[Load]) -> None:
        """Renew the leases of these loads from now on, which were claimed by this run elsewhere, and of no others."""
        self._in_hand = list(loads)

    def leave(self, dataset: str) -> None:
        """Claim nothing more of a dataset in this run: the next one may be luckier."""
        self._left.add(dataset)

    @property
    def left(self) -> frozenset[str]:
        """Datasets that this run claims nothing more of."""
        return frozenset(self._left)

    def _bound_idleness(self, connection: Connection) -> None:
        """A run that falls asleep inside a transaction must not hold its locks for longer than its leases: its successor waits for them."""
        timeout = {"milliseconds": str(int(self.limits.lease_seconds * 1000))}
        connection.execute("SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false)", timeout)

    def _renew(self) -> None:
        while not self._stopped.wait(self.limits.lease_seconds / 3):
            claims = {load.claim for load in self._in_hand}
            if not claims:
                continue
            try:
                with self._database.connect() as connection:
                    put_off(connection, sorted(claims), self.limits.lease_seconds)
            except (ConfigurationError, psycopg.Error, OSError) as error:
                log.warning("leases could not be renewed: %s", type(error).__name__)

    def _give_back(self) -> None:
        """Return what a failing run has not settled to `ready`, uncharged, so that the next one need not wait for its leases."""
        try:
            with self._database.connect() as connection:
                for load in self._in_hand:
                    with suppress(ledger.ClaimLost), connection.transaction():
                        ledger.settle(connection, [Verdict(load, Status.READY, why="given back: the run failed")])
        except (ConfigurationError, psycopg.Error, OSError) as error:
            log.warning("loads could not be given back, their leases will run out: %s", type(error).__name__)


def put_off(connection: Connection, claims: Sequence[int], lease_seconds: float) -> None:
    """Renew leases on a connection that does nothing else, while another one may be moving the same loads on.

    A load that is being moved on is passed over. One that was moved on just when it was looked at is followed to its newest version, and
    waited for there, whatever SKIP LOCKED says. Soon this lets go of what it has locked, before the two are found to wait for each other,
    and tries again: until the leases are over.
    """
    connection.execute(_PATIENCE)
    over = time.monotonic() + lease_seconds
    while time.monotonic() < over:
        with suppress(psycopg.errors.LockNotAvailable):
            ledger.renew(connection, claims, lease_seconds)
            return
    log.warning("leases could not be renewed: their loads are locked by somebody else")

"""One spreadsheet that is claimed: read, judged, entered, sent, reported, up to the verdict on it."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.claims import Claims
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.ledger import Load, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.verdicts import internal_error, kind_of, unread
from ingestion_dagster.residents import outbound, row_ledger
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.identity import COLLISION
from ingestion_dagster.residents.job import Job, ResidentsOutcome
from ingestion_dagster.residents.model import Judged, RowReport, RowStatus, Rules
from ingestion_dagster.residents.outbound import COMPLETE, PARTIAL, REFUSED
from ingestion_dagster.residents.people import Groups, keys_of, lock_ids
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.row_ledger import Entry, FileRecord
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    from ingestion_dagster.residents.api_client import HereToHelp
    from ingestion_dagster.residents.dispatch import Due, Sent
    from ingestion_dagster.residents.line import Line
    from ingestion_dagster.residents.sheets import Sheet

log = logging.getLogger(__name__)

UNPROVEN_LIMIT = 10
"""Attempts after which a row is given up that the API fails at, though no other got through beside it, as in an outage."""

SERVER_ERROR = "http_server_error"

_REJECTED = (RowStatus.REFUSED, RowStatus.FAILED, RowStatus.QUARANTINED)
_ENTERED_AT_ONCE = 5000
_PROBLEMS_KEPT = 1000


class GaveWay(Exception):
    """A file cannot be dealt with for now, which is no fault of its own: `for_all` if that may hold for every dataset."""

    def __init__(
        self, error: Transient | ConfigurationError, why: str, *, for_all: bool = False, rows_in_hand: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(kind_of(error))
        self.error = error
        self.why = why
        self.for_all = for_all
        self.rows_in_hand = rows_in_hand


@dataclass(slots=True)
class SheetFile:
    """One claimed load, from reading to the report."""

    connection: Connection
    database: Database
    job: Job
    claims: Claims
    load: Load
    line: "Line"
    until: float
    started: float = field(default_factory=time.monotonic)
    rows: list[RowReport] = field(default_factory=list)
    file_status: str = ""
    links: list[str] = field(default_factory=list)
    is_gone: bool = False
    rows_in_hand: frozenset[int] = frozenset()

    def verdict(self) -> Verdict:
        """What becomes of the load. Raises what `_settled` tells apart."""
        raw = self._read()
        if isinstance(raw, Verdict):
            return self._gone(raw) if self.is_gone else raw
        content_hash = self.job.place.hasher.of_file(raw)
        previous = ledger.previous_versions(self.connection, [self.load]).get(self.load.id)
        if raw and previous is not None and previous.content_hash == content_hash:
            return Verdict(
                self.load, Status.READY_FOR_ARCHIVING, duplicate_of=previous.load_id, content_hash=content_hash, bytes=len(raw),
                why="the same content as before; its report stands",
            )  # fmt: skip
        try:
            return replace(self._loaded(raw), content_hash=content_hash, bytes=len(raw))
        except (Transient, ConfigurationError, psycopg.Error, ledger.ClaimLost, GaveWay):
            raise
        except Exception as error:  # noqa: BLE001 - a defect that one file brings to light is not its neighbours' trouble
            log.error("load_id=%s error=%s", self.load.id, kind_of(error))
            _log_place(error)
            return self._refused(raw, (internal_error(error),))

    def _read(self) -> bytes | Verdict:
        """The file in the version that the load stands for."""
        too_large = self.load.size > self.job.settings.residents_max_file_bytes
        try:
            return b"" if too_large else self.job.zone.landing.read(self.load.stored_object)
        except (Missing, Changed) as error:
            self.is_gone = True
            return unread(self.load, error, self.claims.limits.max_attempts)
        except Refused as refused:
            return self._refused(b"", refused.problems)
        except ConfigurationError as error:
            raise GaveWay(error, "its folder cannot be read") from None
        except Transient as error:
            if self.load.alone or self._others_can_be_read():
                # That others can be asked for does not prove that they could be read: it is given up late.
                return unread(self.load, error, UNPROVEN_LIMIT)
            raise GaveWay(error, "its folder cannot be read") from None

    def _gone(self, verdict: Verdict) -> Verdict:
        """A file that is not there any more, in this version. If rows of it were sent, its report tells of them; else nobody misses it."""
        row_ledger.close(self.connection, self.load.id)
        self.rows = row_ledger.states(self.connection, self.load.id)
        if not self.rows:
            nothing_lost = tuple(replace(problem, severity="warning") for problem in verdict.problems)
            return replace(verdict, to=Status.READY_FOR_ARCHIVING, problems=nothing_lost, why="gone before it was read")
        record = row_ledger.file_record(self.connection, self.load.id)
        assert record is not None
        sent = sum(row.help_request_id is not None for row in self.rows)
        told = Problem(
            row_ledger.FILE_GONE,
            "the whole file",
            f"it was removed or overwritten after {sent} of {len(self.rows)} rows were sent; drop the others again, sent ones cost no call",
        )
        problems = (told, *_unsent(self.rows))
        self.file_status = PARTIAL
        self._report(b"", None, replace(record, status=PARTIAL), problems)
        rejected = sum(row.status in _REJECTED for row in self.rows)
        written = sum(row.status == RowStatus.DONE and row.reason_code is None for row in self.rows)
        return replace(
            verdict, problems=_kept((*verdict.problems, *problems)), rows_in=len(self.rows), rows_written=written, rows_rejected=rejected
        )

    def _others_can_be_read(self) -> bool:
        """Whether the drop folder answers at all."""
        try:
            self.job.zone.landing.find(self.load.key)
        except (Transient, ConfigurationError):
            return False
        return True

    def _loaded(self, raw: bytes) -> Verdict:
        from ingestion_dagster.residents import sheets

        dataset = DATASETS[self.load.dataset or ""]
        if self.load.size > self.job.settings.residents_max_file_bytes:
            return self._refused(raw, (too_large(self.job.settings),))
        try:
            sheet = sheets.read(self.job.place.folder.file_name(self.load.key), raw, dataset)
        except Refused as refused:
            return self._refused(raw, refused.problems)
        record = row_ledger.begin(self.connection, self.load.id, self.job.as_of, asked=self.job.asked)
        problems, people = self._enter(sheet, dataset, self.job.rules(record.as_of), entered=record.entered)
        sent = self._send(sheet, dataset, self.job.rules(record.as_of), people)
        seconds = time.monotonic() - self.started
        if sent is not None and not sent.is_over:
            row_ledger.spent(self.connection, self.load.id, seconds)
            return Verdict(self.load, Status.READY, why="its turn is over; the next one goes on")
        self.rows = row_ledger.states(self.connection, self.load.id)
        rejected = sum(row.status in _REJECTED for row in self.rows)
        written = sum(row.status == RowStatus.DONE and row.reason_code is None for row in self.rows)
        if self.load.replay:
            written = min(written, sent.done if sent else 0)
        self.file_status = PARTIAL if rejected else COMPLETE
        problems = [*sheet.problems, *problems, *_unsent(self.rows)]
        self._report(
            raw, sheet, replace(record, status=self.file_status, header_row=sheet.header_row, seconds=record.seconds + seconds), problems
        )
        return Verdict(
            self.load,
            Status.READY_FOR_ARCHIVING,
            rows_in=len(self.rows),
            rows_written=written,
            rows_rejected=rejected,
            problems=_kept(problems),
        )

    def _enter(self, sheet: "Sheet", dataset: Dataset, by: Rules, *, entered: bool) -> tuple[list[Problem], dict[int, int]]:
        """Judge every row and enter it into the ledger, before the first is sent; what there is to say, and whose each row is.

        In a later turn all of them are `entered` already.
        """
        entries: list[Entry] = []
        problems: list[Problem] = []
        groups = Groups()
        of_ledger = row_ledger.dataset_id(self.connection, dataset.name)
        number = 0
        for number, cells in sheet.rows():
            judged = dataset.judge(cells, number, by)
            problems += [problem for problem in judged.problems if problem is not judged.reason or judged.status == RowStatus.REFUSED]
            if judged.prepared is not None:
                groups.add(number, keys_of(judged.prepared, dataset.name))
            if entered:
                continue
            entries.append(self._entry(number, judged, dataset))
            if len(entries) == _ENTERED_AT_ONCE:
                self._enter_some(of_ledger, entries, dataset)
                entries = []
        if not entered:
            self._enter_some(of_ledger, entries, dataset)
            row_ledger.end_of_file(self.connection, self.load.id, number)
        return problems, {number: person for person, group in enumerate(groups.groups()) for number in group.rows}

    def _enter_some(self, of_ledger: int, entries: Sequence[Entry], dataset: Dataset) -> None:
        if entries:
            fault_point("residents.enter.before")
            row_ledger.enter(self.connection, self.load.id, of_ledger, entries, ids_name_people=dataset.ids_name_people)
            fault_point("residents.enter.after")

    def _entry(self, number: int, judged: Judged, dataset: Dataset) -> Entry:
        """A row on its way into the ledger."""
        message = _messages(judged) or None
        if judged.prepared is None:
            return Entry(number, judged.status, code=judged.reason.code if judged.reason else None, message=message)
        return Entry(number, RowStatus.PENDING, self.job.place.hasher.of_row(dataset.name, judged.prepared), message=message)

    def _send(self, sheet: "Sheet", dataset: Dataset, by: Rules, people: dict[int, int]) -> "Sent | None":
        """Send what is not over yet; None if everything is."""
        from ingestion_dagster.residents.dispatch import Due

        ids = row_ledger.to_send(self.connection, self.load.id)
        if not ids:
            return None

        def due() -> Iterator[Due]:
            for number, cells in sheet.rows():
                if number in ids:
                    prepared = dataset.judge(cells, number, by).prepared
                    assert prepared is not None
                    keys = keys_of(prepared, dataset.name)
                    yield Due(number, ids[number], prepared, tuple(lock_ids(keys, self.job.place.hasher.of)), people[number])

        try:
            return self.line.run(partial(self._dispatched, due()))
        except ConfigurationError as error:
            raise GaveWay(error, "the API does not let us in", for_all=True) from None
        except Transient as error:
            # What another run holds is nobody's trouble; anything else may be everybody's.
            raise GaveWay(error, "rows are left", for_all=error.code != "rows_left", rows_in_hand=self.rows_in_hand) from None

    async def _dispatched(self, due: "Iterator[Due]", api: "HereToHelp") -> "Sent":
        from ingestion_dagster.residents.dispatch import Dispatch, Turn
        from ingestion_dagster.residents.journal import Journal, Locks

        settings = self.job.settings
        async with (
            Journal.open(self.database, self.load.id) as journal,
            Locks.open(self.database, self.claims.limits.lease_seconds) as locks,
        ):
            in_flight, most = settings.residents_requests_in_flight, self.claims.limits.max_attempts
            dispatch = Dispatch(api, journal, locks, in_flight, most, self.job.now)
            try:
                return await dispatch.send_all(due, Turn(self.until, settings.residents_turn_seconds, self._others_wait))
            finally:
                self.rows_in_hand = dispatch.in_hand

    def _others_wait(self) -> bool:
        """Whether files of another dataset wait for their turn. Asked from another thread, so by a connection of its own."""
        with self.database.connect() as connection:
            waiting = ledger.claimable_datasets(connection, self.claims.scope).keys()
        return bool(waiting - {self.load.dataset} - self.claims.left)

    def _refused(self, raw: bytes, problems: Iterable[Problem]) -> Verdict:
        """A file of which nothing was sent."""
        found = list(problems)
        record = row_ledger.begin(self.connection, self.load.id, self.job.as_of, asked=self.job.asked)
        self.file_status = REFUSED
        self._report(raw, None, replace(record, status=REFUSED, seconds=time.monotonic() - self.started), found)
        return Verdict(self.load, Status.READY_FOR_ERRORING, problems=_kept(found))

    def _report(self, raw: bytes, sheet: "Sheet | None", record: FileRecord, problems: Sequence[Problem]) -> None:
        kept = _kept(problems)
        row_ledger.finish(
            self.connection, self.load.id, status=record.status or "", header_row=record.header_row, problems=kept, seconds=record.seconds
        )
        try:
            self.links = outbound.write(self.connection, self.job.place, self.load, raw, sheet, replace(record, problems=kept), self.rows)
        except (Transient, ConfigurationError) as error:
            raise GaveWay(error, "its report cannot be written") from None

    def tell(self, verdict: Verdict, outcome: ResidentsOutcome) -> None:
        """Log what came of the file, and keep what a person has to know of."""
        counted = Counter((row.status.value, row.reason_code or "") for row in self.rows)
        name = self.load.dataset or ""
        outcome.rows.update({(name, *what): count for what, count in counted.items()})
        said = ", ".join(f"{count} {' '.join(filter(None, what))}" for what, count in sorted(counted.items()))
        codes = ", ".join(sorted({problem.code for problem in verdict.problems if problem.severity == "error"}))
        log.info("load_id=%s %s %s: %s", self.load.id, verdict.to, said, codes)
        if self.file_status not in (PARTIAL, REFUSED):
            return
        file = self.job.place.folder.file_name(self.load.key)
        line = f"{name}: {file} is {self.file_status} ({said or codes}); report: {' and '.join(self.links)}"
        outcome.troubled.append(line)
        if any(row.status == RowStatus.QUARANTINED for row in self.rows):
            outcome.quarantined[f"{self.load.id}:{counted['quarantined', 'resident_mismatch']}"] = line


def too_large(settings: Settings) -> Problem:
    """What is said of a file that is not read at all."""
    megabytes = settings.residents_max_file_bytes // 1024**2
    return Problem(
        "too_large", "the whole file", f"it is larger than {megabytes} MB; take out what is no row, or split it into several files"
    )


def _messages(judged: Judged) -> str:
    """Everything said of a row that is not sent, for its line in the report."""
    return "; ".join(f"{problem.place.partition(', ')[2] or 'the row'}: {problem.message}" for problem in judged.problems)


def _unsent(rows: Sequence[RowReport]) -> list[Problem]:
    """Rows that the ledger refused or the API did not take, as problems."""
    return [
        Problem(row.reason_code or SERVER_ERROR, f"row {row.number}", row.message)
        for row in rows
        if row.status in (RowStatus.FAILED, RowStatus.QUARANTINED) or row.reason_code == COLLISION.code
    ]


def _kept(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Problems as a load carries them: errors first, and not more than anybody reads."""
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    if len(ordered) <= _PROBLEMS_KEPT:
        return tuple(ordered)
    more = Counter(problem.code for problem in ordered[_PROBLEMS_KEPT:])
    rest = ", ".join(f"{count} {code}" for code, count in sorted(more.items()))
    return (*ordered[:_PROBLEMS_KEPT], Problem("more_problems", "the whole file", f"and there are more: {rest}", "warning"))


def _log_place(error: BaseException) -> None:
    """Where in our code an unforeseen error came up: files and lines, no values."""
    frame = error.__traceback__
    while frame is not None:
        log.error("  at %s:%s", frame.tb_frame.f_code.co_filename.rpartition("ingestion_dagster/")[2], frame.tb_lineno)
        frame = frame.tb_next

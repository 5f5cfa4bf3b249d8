"""The row ledger: which rows each file has, how far each has come, and which reports tell of it. Hashes, ids and codes only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from psycopg.types.json import Jsonb

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.drop_folder import LONGEST_SEGMENT, as_segment
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.ledger import Again, Scope
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import row_ledger_sql as sql
from ingestion_dagster.residents.identity import COLLISION, RowIdentity
from ingestion_dagster.residents.model import Action, RowReport, RowStatus, Step

ALREADY_DONE = "already_done"
FORGOTTEN = "forgotten"
FILE_GONE = "file_gone"

_ALREADY_DONE = "the same row was sent before; nothing was sent this time"
_FORGOTTEN = "it was sent so long ago that the ledger has let go of it"
_FAILED = "the API did not take it; 'ingestion retry residents' sends it again"
_QUARANTINED = "the API answered with another person's record, so no note was written; have both records looked at, then retry"

_MESSAGES = {RowStatus.FAILED: _FAILED, RowStatus.QUARANTINED: _QUARANTINED}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What is kept of a file as a whole."""

    as_of: date
    day: date
    status: str | None = None
    header_row: int | None = None
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    entered: bool = False
    """Whether all its rows are in the ledger."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a file on its way into the ledger: to be sent (with what it is known by), skipped or refused (with the reason)."""

    number: int
    status: RowStatus
    known_by: RowIdentity | None = None
    code: str | None = None
    message: str | None = None


def dataset_id(connection: Connection, name: str) -> int:
    """The id of a dataset in the ledger, where it has been entered."""
    row = connection.execute(sql.DATASET_ID, {"name": name}).fetchone()
    assert row is not None
    return int(row[0])


def begin(connection: Connection, load_id: int, as_of: date, *, asked: bool) -> FileRecord:
    """Begin with a file, or go on with it.

    It keeps the day that it was begun with, unless another was `asked` for and nothing of it has been sent.
    """
    free = asked and connection.execute(sql.ANY_SENT, {"load_id": load_id}).fetchone() == (False,)
    row = connection.execute(sql.BEGIN, {"load_id": load_id, "as_of": as_of, "day": as_of, "free": free}).fetchone()
    assert row is not None
    return FileRecord(as_of=row[0], day=row[1], seconds=row[2], entered=row[3])


def enter(connection: Connection, load_id: int, dataset: int, entries: Sequence[Entry], *, ids_name_people: bool) -> None:
    """Enter some rows of a file; batch after batch in its order. An id that stands for somebody else is refused.

    Rows that are known keep what has been done for them; of those that failed with another file, another attempt is made. In a transaction
    of its own.
    """
    parameters = {"dataset_id": dataset, "load_id": load_id, "code": COLLISION.code, "message": COLLISION.message}
    with connection.transaction():
        connection.execute(sql.ENTERING)
        with connection.cursor() as cursor, cursor.copy(sql.COPY_ENTERING) as copy:
            for entry in entries:
                known = entry.known_by
                hashes = (known.identity, known.row_hash, known.nhs_hash, known.name_hash) if known else (None,) * 4
                copy.write_row((entry.number, entry.status.value, *hashes, entry.code, entry.message))
        if ids_name_people:
            connection.execute(sql.REFUSE_COLLISIONS, parameters)
            connection.execute(sql.REFUSE_COLLISIONS_AMONG_THEM, parameters)
        connection.execute(sql.ENTER_ROWS, parameters)
        connection.execute(sql.REOPEN_FAILED, parameters)
        connection.execute(sql.ENTER_FILE_ROWS, parameters)


def end_of_file(connection: Connection, load_id: int, last: int) -> None:
    """All rows of a file are entered. Those behind the last one are forgotten: an earlier reading of the file had more."""
    with connection.transaction():
        connection.execute(sql.LEAVE_OUT, {"load_id": load_id, "last": last})
        connection.execute(sql.ENTERED, {"load_id": load_id})


def close(connection: Connection, load_id: int) -> None:
    """Give up the rows of a file that is gone, but for those that another unfinished file has: nobody can send them any more."""
    connection.execute(sql.CLOSE, {"load_id": load_id, "code": FILE_GONE})


def charge(connection: Connection, row_ids: Iterable[int], *, by: int, limit: int, code: str) -> None:
    """Count so many more attempts for rows; those that have used up the limit fail."""
    connection.execute(sql.CHARGE, {"ids": sorted(row_ids), "by": by, "limit": limit, "code": code})


def known_by(connection: Connection, fingerprint: bytes) -> bool:
    """Whether all hashes were made under the key of this fingerprint; the first to ask decides."""
    row = None
    while row is None:  # somebody else has put theirs there this very moment
        row = connection.execute(sql.FINGERPRINT, {"fingerprint": fingerprint}).fetchone()
    return bytes(row[0]) == fingerprint


def to_send(connection: Connection, load_id: int) -> dict[int, int]:
    """Rows of a file that are not over yet: by number, their ids in the ledger."""
    return dict(connection.execute(sql.TO_SEND, {"load_id": load_id}).fetchall())


def known(connection: Connection, dataset: str, rows: Sequence[RowIdentity]) -> set[int]:
    """Which of these rows would cost no call, by position."""
    parameters = {"dataset": dataset, "identities": [row.identity for row in rows], "hashes": [row.row_hash for row in rows]}
    return {int(row[0]) - 1 for row in connection.execute(sql.KNOWN, parameters)}


def strangers(connection: Connection, dataset: str, rows: Sequence[RowIdentity]) -> set[int]:
    """Which of these rows have an id that stands for somebody else who has been sent, by position."""
    parameters = {
        "dataset": dataset,
        "identities": [row.identity for row in rows],
        "nhs_hashes": [row.nhs_hash for row in rows],
        "name_hashes": [row.name_hash for row in rows],
    }
    return {int(row[0]) - 1 for row in connection.execute(sql.STRANGERS, parameters)}


def states(connection: Connection, load_id: int) -> list[RowReport]:
    """What has become of each row of a file, in order."""
    reports = []
    for number, judged, code, message, step, action, row_code, resident, request, shielding, notes, attempts, ours in connection.execute(
        sql.STATES, {"load_id": load_id}
    ):
        if judged != RowStatus.PENDING:
            status = RowStatus(judged)
            what: Action | None = Action.SKIPPED if status == RowStatus.SKIPPED else Action.FAILED
            reports.append(RowReport(number, status, what, code, message or ""))
        elif step is None:
            reports.append(RowReport(number, RowStatus.DONE, Action.SKIPPED, FORGOTTEN, _FORGOTTEN))
        elif step == Step.DONE and not ours:
            reports.append(RowReport(number, RowStatus.DONE, Action.SKIPPED, ALREADY_DONE, _ALREADY_DONE, resident, request, shielding))
        else:
            over = step in (Step.DONE, Step.FAILED, Step.QUARANTINED)
            status = RowStatus(step) if over else RowStatus.PENDING
            what = Action.FAILED if status in (RowStatus.FAILED, RowStatus.QUARANTINED) else Action(action) if action else None
            told = _MESSAGES.get(status, message or "")
            reports.append(RowReport(number, status, what, row_code, told, resident, request, shielding, notes, attempts))
    return reports


def spent(connection: Connection, load_id: int, seconds: float) -> None:
    """Add to the time that a file has taken so far."""
    connection.execute(sql.SPENT, {"load_id": load_id, "seconds": seconds})


def finish(
    connection: Connection, load_id: int, *, status: str, header_row: int | None, problems: Iterable[Problem], seconds: float
) -> None:
    """Note what is told of a file as a whole: `complete`, `partial` or `refused`."""
    parameters = {
        "load_id": load_id,
        "status": status,
        "header_row": header_row,
        "problems": Jsonb([problem.as_dict() for problem in problems]),
        "seconds": seconds,
    }
    connection.execute(sql.FINISH, parameters)


def file_record(connection: Connection, load_id: int) -> FileRecord | None:
    """What is kept of a file; None if it was never begun with, or is forgotten."""
    row = connection.execute(sql.FILE, {"load_id": load_id}).fetchone()
    if row is None:
        return None
    problems = tuple(Problem(**problem) for problem in row[4])
    return FileRecord(row[0], row[1], row[2], row[3], problems, row[5])


def reserve(connection: Connection, load_id: int, dataset: int, names: Sequence[str]) -> tuple[str, ...]:
    """The names of a file's reports: these, or with a number behind them if another file of that day has them. The same every time."""
    reserved = tuple(row[1] for row in connection.execute(sql.RESERVED, {"load_id": load_id}))
    if len(reserved) == len(names) and all(_is_for(had, name) for had, name in zip(reserved, names, strict=True)):
        return reserved
    with connection.transaction():
        connection.execute("LOCK TABLE residents.reports IN SHARE ROW EXCLUSIVE MODE")
        connection.execute(sql.UNRESERVE, {"load_id": load_id})
        free = tuple(names)
        attempt = 1
        while connection.execute(sql.TAKEN, {"dataset_id": dataset, "names": list(free), "load_id": load_id}).fetchone() == (True,):
            attempt += 1
            free = tuple(f"{name} ({attempt})" for name in names)
        connection.execute(sql.RESERVE, {"load_id": load_id, "dataset_id": dataset, "names": list(free)})
        return free


def _is_for(reserved: str, name: str) -> bool:
    return reserved == name or (reserved.startswith(f"{name} (") and reserved.endswith(")"))


def written(connection: Connection, load_id: int, part: int, url: str) -> None:
    """Note that a report stands in the outbound folder."""
    connection.execute(sql.WRITTEN, {"load_id": load_id, "part": part, "url": url})


def reported(connection: Connection, *, rows: int) -> list[tuple[int, str, list[str]]]:
    """Finished loads of at most so many rows whose reports have been written: id, dataset, names."""
    return [(row[0], row[1], list(row[2])) for row in connection.execute(sql.REPORTED, {"rows": rows})]


def unreported(connection: Connection) -> list[int]:
    """Loads that were given up without anybody having been told in the outbound folder."""
    return [row[0] for row in connection.execute(sql.UNREPORTED)]


def content_hash(connection: Connection, load_id: int) -> str | None:
    """The hash of what a load has read."""
    row = connection.execute(sql.CONTENT_HASH, {"load_id": load_id}).fetchone()
    return row[0] if row else None


def let_go(connection: Connection, load_id: int) -> None:
    """Look after the reports of a load no longer: whoever took them away has taken its file away, too."""
    connection.execute(sql.LET_GO, {"load_id": load_id})


def retry(connection: Connection, scope: Scope, key: str | None = None) -> Again:
    """Put back to `ready` refused files, and files with rows that failed or were quarantined: only those rows are sent again.

    `key` is that of a file, or its name alone. Only the newest version of a file.
    """
    keys: list[str | None] = [None]
    if key is not None:
        named = {"name": key, "segment": as_segment(key, LONGEST_SEGMENT, reversible=True)}
        keys = [row[0] for row in connection.execute(sql.KEYS_NAMED, named)]
    again = Again()
    with connection.transaction():
        for each in keys:
            errored = ledger.retry(connection, scope, each)
            wanted = {"datasets": sorted(scope.datasets) if scope.datasets is not None else None, "key": each}
            loads = [row[0] for row in connection.execute(sql.UNSENT_LOADS, wanted)]
            partly = ledger.replay(connection, Scope(scope.pipeline, ids=frozenset(loads))) if loads else Again()
            if partly.ready:
                connection.execute(sql.REOPEN, {"loads": list(partly.ready)})
            for part in (errored, partly):
                again.ready.update(part.ready)
                again.superseded.update(part.superseded)
    return again


def replay(connection: Connection, scope: Scope, run_id: str | None = None) -> Again:
    """Put back to `ready` what was loaded. What was adopted unread stays as it is: its rows were sent by another system."""
    read = frozenset(row[0] for row in connection.execute(sql.READ_LOADS))
    return ledger.replay(connection, replace(scope, ids=read), run_id)


def forget(connection: Connection, before: datetime) -> tuple[int, int]:
    """Delete what is kept of rows that have not come again since, and of the files they came in; how many rows of files, and rows."""
    with connection.transaction():
        of_files = connection.execute(sql.FORGET_FILES, {"before": before}).rowcount
        rows = connection.execute(sql.FORGET_ROWS, {"before": before}).rowcount
    return of_files, rows


def counts(connection: Connection, dataset: str, partitions: Sequence[str]) -> list[tuple[str, str, int]]:
    """Rows of the files of some partitions: status, reason code ("" for none), how many."""
    return [tuple(row) for row in connection.execute(sql.COUNTS, {"dataset": dataset, "partitions": list(partitions)})]


def open_rows(connection: Connection, dataset: str, run_id: str | None = None) -> int:
    """Rows of finished files that are not over: there should be none."""
    row = connection.execute(sql.OPEN_ROWS, {"dataset": dataset, "run_id": run_id}).fetchone()
    return int(row[0]) if row else 0


def collisions(connection: Connection, run_id: str | None = None) -> Mapping[str, int]:
    """Rows refused because their id stands for somebody else, by dataset."""
    return dict(connection.execute(sql.COLLISIONS, {"run_id": run_id}).fetchall())

"""The outbound folders: a finished file's reports, written once, and written again when somebody has taken them away."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.drop_folder import DropFolder
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.verdicts import kind_of
from ingestion_dagster.residents import report, row_ledger
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.dates import LONDON
from ingestion_dagster.residents.identity import Hasher, hasher, sha256
from ingestion_dagster.residents.model import FileReport, RowReport
from ingestion_dagster.residents.row_ledger import FileRecord
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    from ingestion_dagster.residents.sheets import Sheet

log = logging.getLogger(__name__)

_STILL_FINISHED = """
SELECT FROM ledger.loads WHERE id = %(load_id)s AND status IN ('archived', 'errored') FOR UPDATE SKIP LOCKED
"""

_AT_ONCE = 20
_LOCK = 0x7E5_1DE_17

COMPLETE, PARTIAL, REFUSED = "complete", "partial", "refused"


@dataclass(frozen=True, slots=True)
class Place:
    """Where reports go, and what marks them as ours."""

    folder: DropFolder
    hasher: Hasher
    scratch: Path
    """Where they are made, below the home."""
    today: Callable[[], date] = lambda: datetime.now(LONDON).date()


def place(settings: Settings, folder: DropFolder) -> Place:
    """Where reports go by the settings."""
    return Place(folder, hasher(settings), settings.home_folder / "scratch")


def clear_leftovers(settings: Settings, before: datetime) -> int:
    """Remove what runs that were killed had begun to write, touched last before then; how many reports."""
    removed = 0
    folder = settings.home_folder / "scratch"
    for leftover in folder.iterdir() if folder.is_dir() else ():
        if leftover.stat().st_mtime < before.timestamp():
            shutil.rmtree(leftover, ignore_errors=True)
            removed += 1
    return removed


def write(
    connection: Connection, place: Place, load: Load, raw: bytes, sheet: "Sheet | None", record: FileRecord, rows: Sequence[RowReport]
) -> list[str]:
    """Write the reports of a finished file into its outbound folder, in place of those that stand there; where they can be opened."""
    dataset = load.dataset or ""
    name = place.folder.file_name(load.key)
    told = FileReport(
        dataset=dataset,
        file_name=name,
        day=record.day,
        status=record.status or "",
        rows=tuple(rows),
        problems=record.problems,
        header_row=record.header_row,
        content_hash=sha256(raw),
        seconds=record.seconds,
    )
    wanted = report.names(dataset, name, record.day, refused=record.status == REFUSED)
    names = row_ledger.reserve(connection, load.id, row_ledger.dataset_id(connection, dataset), wanted)
    links: list[str] = []
    place.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.scratch) as scratch:
        for part, workbook in enumerate(report.write(told, sheet, Path(scratch))):
            mark = place.hasher.of("report", load.landing_zone, load.key, load.version, str(part)).hex()
            fault_point("residents.report.before")
            answer = place.folder.put_answer(dataset, names[part], workbook, mark)
            fault_point("residents.report.after")
            row_ledger.written(connection, load.id, part, answer.url)
            links.append(answer.url)
    return links


def write_missing(connection: Connection, place: Place, zone: Zone, *, rows: int = 2**31 - 1) -> int:
    """Write again the reports that are gone from the outbound folders while their files still stand in the inbound ones; how many files.

    Also those of files that were given up without one. From the ledger and the file itself: nothing is sent. Only of files of at most so
    many rows. One at a time does this, and a folder that gives way is asked the next time.
    """
    if connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
        return 0
    try:
        gone = _gone(connection, place, rows)[:_AT_ONCE]
        return sum(_tried(connection, place, zone, load) for load in (ledger.loads(connection, gone) if gone else []))
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _gone(connection: Connection, place: Place, rows: int) -> list[int]:
    """Loads whose reports are not in the outbound folders."""
    by_dataset: dict[str, list[tuple[int, list[str]]]] = {}
    for load_id, dataset, names in row_ledger.reported(connection, rows=rows):
        by_dataset.setdefault(dataset, []).append((load_id, names))
    gone = row_ledger.unreported(connection)
    for dataset, reports in by_dataset.items():
        try:
            there = {answer.name for answer in place.folder.answers(dataset) if answer.mark or not place.folder.marks}
        except (Transient, ConfigurationError) as error:
            log.warning("the outbound folder of %s could not be looked through (%s)", dataset, kind_of(error))
            continue
        gone += [load_id for load_id, names in reports if not there.issuperset(map(place.folder.shown, names))]
    return sorted(gone)


def _tried(connection: Connection, place: Place, zone: Zone, load: Load) -> bool:
    try:
        with connection.transaction():
            # Meanwhile nobody can retry the file, and write its report at once with us.
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = '10min'")
            if connection.execute(_STILL_FINISHED, {"load_id": load.id}).fetchone() is None:
                return False
            written = _written_again(connection, place, zone, load)
    except (Transient, ConfigurationError) as error:
        log.warning("load_id=%s: its report is gone and could not be written again (%s)", load.id, kind_of(error))
        return False
    if written:
        log.info("load_id=%s: its report was gone and has been written again", load.id)
    else:
        row_ledger.let_go(connection, load.id)
    return written


def _written_again(connection: Connection, place: Place, zone: Zone, load: Load) -> bool:
    """False if the file is gone, too: whoever has taken it away has done with it."""
    from ingestion_dagster.residents import sheets

    record = row_ledger.file_record(connection, load.id)
    if load.landing_zone != zone.landing.url:
        return False
    if record is None or record.status is None:
        today = place.today()
        record = FileRecord(today, today, REFUSED, problems=load.problems)
    raw = _content(connection, place, zone, load)
    if raw is None:
        return False
    sheet = None
    if record.status != REFUSED:
        try:
            sheet = sheets.read(place.folder.file_name(load.key), raw, DATASETS[load.dataset or ""])
        except Refused:
            return False
    write(connection, place, load, raw, sheet, record, row_ledger.states(connection, load.id))
    return True


def _content(connection: Connection, place: Place, zone: Zone, load: Load) -> bytes | None:
    """The file of a load, or one of the same content that has taken its place; None if neither is there."""
    try:
        return zone.landing.read(load.stored_object)
    except Refused:
        return b""
    except Missing:
        return None
    except Changed:
        pass
    try:
        found = zone.landing.find(load.key)
        raw = zone.landing.read(found) if found else None
    except (Missing, Changed, Refused):
        return None
    is_same = raw is not None and place.hasher.of_file(raw) == row_ledger.content_hash(connection, load.id)
    return raw if is_same else None

"""The outbound folders: a finished file's reports, written once, and written again when somebody has taken them away."""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.drop_folder import DropFolder
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import Changed, Missing
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import report, row_ledger
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.identity import Hasher, hasher, sha256
from ingestion_dagster.residents.model import FileReport, RowReport
from ingestion_dagster.residents.row_ledger import FileRecord
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    from ingestion_dagster.residents.sheets import Sheet

log = logging.getLogger(__name__)

_AT_ONCE = 20
_DAY_SECONDS = 86_400

COMPLETE, PARTIAL, REFUSED = "complete", "partial", "refused"


@dataclass(frozen=True, slots=True)
class Place:
    """Where reports go, and what marks them as ours."""

    folder: DropFolder
    hasher: Hasher
    scratch: Path
    """Where they are made, below the home."""


def place(settings: Settings, folder: DropFolder) -> Place:
    """Where reports go by the settings."""
    return Place(folder, hasher(settings), settings.home_folder / "scratch")


def clear_leftovers(settings: Settings, now: datetime) -> None:
    """Remove what a run that was killed had begun to write more than a day ago."""
    folder = settings.home_folder / "scratch"
    for leftover in folder.iterdir() if folder.is_dir() else ():
        if now.timestamp() - leftover.stat().st_mtime > _DAY_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


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
    links = []
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

    From the ledger and the file itself: nothing is sent. Only of files of at most so many rows. Raises `Transient` and
    `ConfigurationError` as a drop folder does.
    """
    reported = row_ledger.reported(connection, rows=rows)
    there = {dataset: {answer.name for answer in place.folder.answers(dataset)} for dataset in {each[1] for each in reported}}
    gone = [load_id for load_id, dataset, names in reported if not there[dataset].issuperset(names)]
    written = 0
    for load in ledger.loads(connection, gone[:_AT_ONCE]) if gone else []:
        if _written_again(connection, place, zone, load):
            written += 1
        else:
            row_ledger.let_go(connection, load.id)
    return written


def _written_again(connection: Connection, place: Place, zone: Zone, load: Load) -> bool:
    from ingestion_dagster.residents import sheets

    record = row_ledger.file_record(connection, load.id)
    if record is None or load.landing_zone != zone.landing.url:
        return False
    try:
        raw = zone.landing.read(load.stored_object)
    except (Missing, Changed):
        # Whoever has taken the file away, too, has done with it.
        return False
    except Refused:
        raw = b""
    sheet = None
    if record.status != REFUSED:
        try:
            sheet = sheets.read(place.folder.file_name(load.key), raw, DATASETS[load.dataset or ""])
        except Refused:
            return False
    write(connection, place, load, raw, sheet, record, row_ledger.states(connection, load.id))
    log.info("load_id=%s: its report was gone and has been written again", load.id)
    return True

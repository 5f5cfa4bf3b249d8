"""The first day on a living system: what was there before is not loaded by surprise, and what another system has done is done."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta

from ingestion_dagster.engine.datasets import pause_dataset
from ingestion_dagster.engine.drop_folder import DropFolder
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents.dates import LONDON
from ingestion_dagster.residents.places import NAMES, dataset_of, drop_folder
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.settings import Settings

OLD = timedelta(days=1)

_LOOKED_AT = "SELECT d.name, f.place FROM residents.first_looks AS f JOIN ledger.datasets AS d ON d.id = f.dataset_id"

_LOOKED = """
INSERT INTO residents.first_looks (dataset_id, place, old_files)
SELECT id, %(place)s, %(old_files)s FROM ledger.datasets WHERE pipeline = 'residents' AND name = %(name)s
ON CONFLICT DO NOTHING RETURNING dataset_id
"""

_DATED = re.compile(r"_(\d{4}-\d{2}-\d{2})(?: \(\d+\))?(?:\.xlsx)?$")
_TWINS = ("PROCESSED_", "Hackney_CT_FOR_UPLOAD_")


def look(connection: Connection, settings: Settings, now: datetime) -> list[str]:
    """Look into inbound folders that have not been looked into before; pause the datasets with too many old files. Returns which.

    A folder that is not open to us, or not set, is looked at when it is.
    """
    folder = drop_folder(settings)
    places = {name: place for name in NAMES if (place := folder.place(name)) is not None}
    new = places.items() - set(connection.execute(_LOOKED_AT).fetchall())
    if not new:
        return []
    old = Counter(dataset_of(seen.key) for seen in folder.inbound.list() if now - seen.modified > OLD)
    paused = []
    for name, place in sorted(new):
        if name in folder.closed():
            continue
        files = old[name]
        with connection.transaction():
            if not connection.execute(_LOOKED, {"name": name, "place": place, "old_files": files}).fetchone():
                continue
            if files > settings.residents_first_day_files:
                why = (
                    f"{files} files older than a day were there at the first look: 'ingestion adopt {PIPELINE}' marks those with a report "
                    f"as done; then 'ingestion resume {PIPELINE} {name}' loads the others"
                )
                pause_dataset(connection, PIPELINE, name, why)
                paused.append(name)
    return paused


def done(settings: Settings, objects: Sequence[StoredObject]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Which inbound files have a twin in their outbound folder, by key: a workbook of the name that a report of theirs has.

    Where a name is there more often than reports of it, the oldest are done. Also lines on files that have changed since the day of the
    newest report of their name: they may be others.
    """
    folder = drop_folder(settings)
    named: dict[tuple[str, str], list[StoredObject]] = {}
    for seen in objects:
        if dataset := dataset_of(seen.key):
            named.setdefault((dataset, folder.file_name(seen.key)), []).append(seen)
    days = {dataset: _processed(folder, dataset) for dataset in {dataset for dataset, _ in named}}
    keys: set[str] = set()
    doubts = []
    for (dataset, name), files in sorted(named.items()):
        reported = sorted(days[dataset].get(name, ()))
        twins = sorted(files, key=lambda seen: (seen.modified, seen.key))[: len(reported)]
        keys.update(seen.key for seen in twins)
        if twins and twins[-1].modified.astimezone(LONDON).date() > reported[-1]:
            doubts.append(f"{twins[-1].key} has changed since its report of {reported[-1]} and is marked as done all the same")
    return frozenset(keys), tuple(doubts)


def _processed(folder: DropFolder, dataset: str) -> dict[str, list[date]]:
    """Names of the files that reports in an outbound folder tell of, and the days of the reports."""
    found: dict[str, list[date]] = {}
    for answer in folder.answers(dataset):
        prefix = next((each for each in _TWINS if answer.name.startswith(each)), None)
        dated = _DATED.search(answer.name)
        if prefix and dated:
            with suppress(ValueError):
                found.setdefault(answer.name[len(prefix) : dated.start()], []).append(date.fromisoformat(dated[1]))
    return found

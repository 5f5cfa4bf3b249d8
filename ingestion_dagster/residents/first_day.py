"""The first day on a living system: what was there before is not loaded by surprise, and what another system has done is done."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.drop_folder import DropFolder
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents.places import NAMES, dataset_of, drop_folder
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.settings import Settings

OLD = timedelta(days=1)

_NOT_LOOKED_AT = """
SELECT d.id, d.name FROM ledger.datasets AS d
WHERE d.pipeline = 'residents' AND NOT EXISTS (SELECT FROM residents.first_looks AS f WHERE f.dataset_id = d.id)
ORDER BY d.name
"""

_LOOKED = """
INSERT INTO residents.first_looks (dataset_id, old_files) VALUES (%(id)s, %(old_files)s) ON CONFLICT DO NOTHING RETURNING dataset_id
"""

_DATED = re.compile(r"_\d{4}-\d{2}-\d{2}(?:\.xlsx)?$")
_TWINS = ("PROCESSED_", "Hackney_CT_FOR_UPLOAD_")


def look(connection: Connection, settings: Settings, now: datetime) -> list[str]:
    """Look at the folders of datasets that have not been looked at before; pause those with too many old files. Returns which."""
    new = connection.execute(_NOT_LOOKED_AT).fetchall()
    if not new:
        return []
    old = dict.fromkeys(NAMES, 0)
    landing = drop_folder(settings).inbound
    for seen in landing.list():
        dataset = dataset_of(seen.key)
        if dataset and now - seen.modified > OLD:
            old[dataset] += 1
    paused = []
    for dataset_id, name in new:
        files = old.get(name, 0)
        with connection.transaction():
            if not connection.execute(_LOOKED, {"id": dataset_id, "old_files": files}).fetchone():
                continue
            if files > settings.residents_first_day_files:
                why = (
                    f"{files} files older than a day were there at the first look: 'ingestion adopt {PIPELINE}' marks those with a report "
                    f"as done; then 'ingestion resume {PIPELINE} {name}' loads the others"
                )
                ledger.pause(connection, PIPELINE, name, why)
                paused.append(name)
    return paused


def is_done(settings: Settings) -> Callable[[str], bool]:
    """Which inbound files have a twin in their outbound folder, by key: a workbook of the name that a report of theirs has."""
    folder = drop_folder(settings)

    @cache
    def processed(dataset: str) -> frozenset[str]:
        return frozenset(_processed(folder, dataset))

    def done(key: str) -> bool:
        dataset = dataset_of(key)
        return dataset is not None and folder.file_name(key) in processed(dataset)

    return done


def _processed(folder: DropFolder, dataset: str) -> set[str]:
    """Names of the files that reports in an outbound folder tell of."""
    names = set()
    for answer in folder.answers(dataset):
        prefix = next((each for each in _TWINS if answer.name.startswith(each)), None)
        if prefix and _DATED.search(answer.name):
            names.add(_DATED.sub("", answer.name.removeprefix(prefix)))
    return names

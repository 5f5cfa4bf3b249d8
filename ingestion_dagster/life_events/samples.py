"""The sample files: put where they can be landed from, and whether each ended as it should, the first time and any other.

`life_events.json` beside their folder says what is to become of each. Sent again, they bring nothing new.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.registry import PIPELINE

_NEWEST = """
SELECT DISTINCT ON (l.key) l.key, l.status,
       ARRAY(SELECT DISTINCT p ->> 'code' FROM jsonb_array_elements(coalesce(l.problems, '[]')) AS p WHERE p ->> 'severity' = 'error'),
       f.code, f.record_count, f.accepted, f.duplicates, f.quarantined,
       EXISTS (
           SELECT FROM ledger.loads AS earlier
            WHERE earlier.pipeline = l.pipeline AND earlier.key = l.key AND earlier.id < l.id AND earlier.status = 'archived'
              AND earlier.finished_at > l.discovered_at - interval '1 day'
       )
FROM ledger.loads AS l
LEFT JOIN life_events.files AS f ON f.load_id = l.id
WHERE l.pipeline = %(pipeline)s AND l.key = ANY(%(keys)s)
ORDER BY l.key, l.id DESC
"""


def place(folder: Path, target: Path) -> None:
    """Copy the sample files to another folder, where they are a minute apart: files are loaded by their times, the corrections last."""
    names = list(_expected(folder))
    now = time.time()
    for position, name in enumerate(names):
        copied = target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, copied)
        os.utime(copied, (now - 60 * (len(names) - position),) * 2)


def surprises(connection: Connection, folder: Path) -> list[str]:
    """Lines that tell of each file that did not end as expected, the last time it was landed.

    Records that were accepted within a day before are duplicates when they come again.
    """
    files = _expected(folder)
    found = {key: rest for key, *rest in connection.execute(_NEWEST, {"pipeline": PIPELINE, "keys": list(files)})}
    told = []
    for key, wanted in files.items():
        if key not in found:
            told.append(f"{key}: has not been landed")
            continue
        status, codes, code, *counts, again = found[key]
        if status != wanted["status"]:
            told.append(f"{key}: is {status}, expected {wanted['status']}")
        if sorted(codes) != sorted(wanted["codes"]):
            told.append(f"{key}: its problems are {_listed(codes)}, expected {_listed(wanted['codes'])}")
        if wanted["status"] == "errored":
            if code not in wanted["codes"]:
                told.append(f"{key}: is refused for {code}, expected {_listed(wanted['codes'])}")
        elif (expected := _counts(wanted, again=again)) != counts:
            told.append(f"{key}: record count, accepted, duplicates and quarantined are {counts}, expected {expected}")
    return told


def _counts(wanted: dict[str, Any], *, again: bool) -> list[int]:
    accepted, duplicates = wanted["accepted"], wanted["duplicates"]
    if again:
        accepted, duplicates = 0, accepted + duplicates
    return [wanted["record_count"], accepted, duplicates, wanted["quarantined"]]


def _listed(codes: list[str]) -> str:
    return ", ".join(sorted(codes)) or "none"


def _expected(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(folder.with_suffix(".json").read_bytes())
    except OSError:
        raise ConfigurationError(f"{folder} is no folder of life events samples: there is no {folder.name}.json beside it") from None
    return content

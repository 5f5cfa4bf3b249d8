"""The sample delivery: put where it can be landed from, and whether each row of each file ended as it should.

`expected.json` beside the files says what is to become of them, and by which day they are to be judged.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import row_ledger
from ingestion_dagster.residents.model import RowStatus
from ingestion_dagster.residents.places import NAMES

_NEWEST = """
SELECT DISTINCT ON (l.key) l.key, coalesce(l.duplicate_of, l.id), f.status,
       ARRAY(SELECT DISTINCT p ->> 'code' FROM jsonb_array_elements(f.problems) AS p WHERE p ->> 'severity' = 'error')
FROM ledger.loads AS l
LEFT JOIN residents.files AS f ON f.load_id = coalesce(l.duplicate_of, l.id)
WHERE l.pipeline = 'residents' AND (l.key = ANY(%(keys)s))
ORDER BY l.key, l.id DESC
"""


def as_of(folder: Path) -> str:
    """The ISO date by which the samples are judged. Raises `ConfigurationError` if these are none."""
    return str(_expected(folder)["as_of"])


def place(folder: Path, target: Path) -> None:
    """Copy the samples, and nothing that lies beside them, to another folder."""
    for name in NAMES:
        if (folder / name).is_dir():
            shutil.copytree(folder / name, target / name, dirs_exist_ok=True)


def surprises(connection: Connection, folder: Path) -> list[str]:
    """Lines that tell of each file and row which did not end as expected, the last time it was landed in a local drop folder."""
    files: dict[str, Any] = _expected(folder)["files"]
    found = {key: rest for key, *rest in connection.execute(_NEWEST, {"keys": list(files)})}
    told = []
    for key, wanted in files.items():
        if key not in found:
            told.append(f"{key}: has not been landed")
            continue
        load_id, status, codes = found[key]
        if status != wanted["status"]:
            told.append(f"{key}: is {status}, expected {wanted['status']}")
        if status == "refused" and sorted(codes) != sorted(wanted["codes"]):
            told.append(f"{key}: is refused for {', '.join(sorted(codes))}, expected {', '.join(sorted(wanted['codes']))}")
        # Which of two files with one row is the first to send it goes by the order in which they arrive.
        became = [
            (row.status.value, None if row.status == RowStatus.DONE else row.reason_code) for row in row_ledger.states(connection, load_id)
        ]
        expected = [(row[0], None if row[0] == RowStatus.DONE else row[1]) for row in wanted["rows"]]
        if became != expected:
            told.append(f"{key}: its rows ended as {became}, expected {expected}")
    return told


def _expected(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "expected.json").read_bytes())
    except OSError:
        raise ConfigurationError(f"{folder} is no folder of residents samples: it has no expected.json") from None
    return content

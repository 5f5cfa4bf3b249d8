"""The sample deliveries: put where they can be landed from, and whether each file ended as it should.

Version control keeps no modification times, and snapshots go by them: `times.json` beside the deliveries has them, `expected.json` what
is to become of each file and what the current tables then hold. `source_data/README.md` describes both.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = (
    "dataset", "partition", "status", "waiting_for", "rows_in", "rows_written", "rows_unchanged", "rows_rejected", "duplicate", "codes",
)  # fmt: skip

LOADS = """
SELECT DISTINCT ON (l.key) l.key, d.name, l.partition, l.status, l.waiting_for, l.rows_in, l.rows_written, l.rows_unchanged,
       l.rows_rejected, l.duplicate_of IS NOT NULL,
       ARRAY(SELECT DISTINCT p ->> 'code' FROM jsonb_array_elements(coalesce(l.problems, '[]')) AS p)
FROM ledger.loads AS l
JOIN ledger.datasets AS d ON d.id = l.dataset_id
JOIN unnest(%(keys)s::text[], %(modified)s::timestamptz[]) AS wanted (key, modified) ON wanted.key = l.key AND wanted.modified = l.modified
WHERE l.pipeline = 'cubic'
ORDER BY l.key, l.id
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Files that are landed together; those of one come before those of the next, which uses some of their names again."""

    name: str
    modified: Mapping[str, datetime]
    """Of each of its files by key, those that describe others among them."""
    files: Mapping[str, Mapping[str, Any]]
    """What is to become of each load, by key."""
    current: Mapping[str, Mapping[str, Any]]
    """What the current tables hold afterwards, those that it changes: snapshot, number of rows, and the rows if they are few."""


def deliveries(folder: Path) -> tuple[Delivery, ...]:
    """The deliveries below `source_data/cubic`, in order. Raises `ConfigurationError` if that is not what `folder` is."""
    times = _times(folder)
    expected = json.loads((folder / "expected.json").read_bytes())
    return tuple(
        Delivery(
            name,
            {path.removeprefix(f"{name}/"): moment for path, moment in times.items() if path.startswith(f"{name}/")},
            content["files"],
            content["current"],
        )
        for name, content in expected.items()
    )


def place(folder: Path, target: Path) -> None:
    """Copy the deliveries from `source_data/cubic` to another folder, where they have the modification times they are meant to have.

    To be landed one after another: `target/good`, `target/later`, `target/bad`. What stands at their paths is replaced.
    """
    for path, moment in _times(folder).items():
        placed = target / path
        placed.parent.mkdir(parents=True, exist_ok=True)
        placed.write_bytes((folder / path).read_bytes())
        nanoseconds = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
        os.utime(placed, ns=(nanoseconds, nanoseconds))


def is_known(connection: Connection, delivery: Delivery) -> bool:
    """Whether all its files have been landed before, with their modification times: landed anew they would be news."""
    return delivery.files.keys() <= _found(connection, delivery).keys()


def surprises(connection: Connection, delivery: Delivery) -> list[str]:
    """Lines that tell of each file which did not end as expected; of rows and codes only where they differ."""
    found = _found(connection, delivery)
    told = []
    for key, fate in delivery.files.items():
        if key not in found:
            told.append(f"{key}: has not been landed")
            continue
        became = found[key]
        # A partition of None is the day of landing, whichever that is.
        wanted = {**fate, "codes": sorted(fate["codes"]), "partition": fate["partition"] or became["partition"]}
        told += [f"{key}: {name} is {became[name]}, expected {wanted[name]}" for name in _COLUMNS if became[name] != wanted[name]]
    return told


def _found(connection: Connection, delivery: Delivery) -> dict[str, dict[str, Any]]:
    asked = {"keys": list(delivery.files), "modified": [delivery.modified[key] for key in delivery.files]}
    rows = connection.execute(LOADS, asked).fetchall()
    return {key: dict(zip(_COLUMNS, (*columns, sorted(codes)), strict=True)) for key, *columns, codes in rows}


def _times(folder: Path) -> dict[str, datetime]:
    try:
        content = json.loads((folder / "times.json").read_bytes())
    except OSError:
        raise ConfigurationError(f"{folder} is no folder of cubic samples: it has no times.json") from None
    return {path: datetime.fromisoformat(text) for path, text in content.items()}

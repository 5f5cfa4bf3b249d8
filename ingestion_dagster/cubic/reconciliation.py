"""What stands in the zones against what the ledger says: nothing that has come was overlooked, all that was archived can be read."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ingestion_dagster.cubic import discovery, gunzip, places, publication
from ingestion_dagster.cubic import reconciliation_sql as sql
from ingestion_dagster.cubic.registry import PIPELINE, UNCLASSIFIED, Registry
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.landing import Target, Zone
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject, open_store
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

GRACE_SECONDS = 900.0
"""How long after it was written an object may be in no load: sensors list the landing zone every few minutes."""

LATE_SECONDS = 3600.0
"""How long a `.dfm` may stand without its data file: until then that may be on its way."""

LEFTOVER_SECONDS = 24 * 3600.0
"""How old what a crash has left must be before it is removed: no run lasts so long."""

SHOWN = 20
_PAGE = 1000
_READERS = 8
_LONGEST_METADATA = 16 << 20
_SCRATCH = re.compile(r"cubic-[0-9a-f]{32}")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Unseen:
    """What stands in the landing zone and is not as it should be. Younger objects than the grace period are counted, not judged."""

    objects: int = 0
    unseen: int = 0
    """Objects that are in no load."""
    orphans: int = 0
    """`.dfm` whose data file has never been there."""
    late: int = 0
    """`.dfm` whose data file has been moved: `tidy` puts them beside it."""
    datasets: Mapping[str, int] = field(default_factory=dict)
    """Of what is unseen, how many by table."""
    keys: tuple[str, ...] = ()
    """The first of the unseen ones and of the orphans."""


@dataclass(frozen=True, slots=True)
class Tidied:
    """What became of `.dfm` whose data file has been moved: put beside it, there already and removed, left because another is there."""

    moved: int = 0
    removed: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What was found of archived loads."""

    checked: int = 0
    """Loads whose object was looked for."""
    missing: int = 0
    differing: int = 0
    """Whose object has another size."""
    read: int = 0
    """Of which every byte was read."""
    damaged: int = 0
    """Of these, how many could not be read to the end, or are no whole gzip any more."""
    elsewhere: int = 0
    """Loads that were archived in another place than the archive zone of today: not looked for."""
    unfinished: bool = False
    """Time was up before all of the share was read."""
    keys: tuple[str, ...] = ()
    """Where the first of the missing, differing and damaged ones should stand."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """What crashes had left in the springboard and was removed."""

    staged: int = 0
    folders: int = 0


def unseen(
    connection: Connection, settings: Settings, registry: Registry, zone: Zone, *, seconds: float | None = None, now: datetime | None = None
) -> Unseen:
    """List all of the landing zone, page by page, and compare it with the ledger. Raises what listing raises.

    `seconds` is the grace period; without it, what an object needs to settle and be discovered.
    """
    grace = max(GRACE_SECONDS, settings.settle_seconds + settings.cubic_metadata_seconds) if seconds is None else seconds
    moment = now or datetime.now(UTC)
    objects = late = 0
    datasets: Counter[str] = Counter()
    overlooked: list[str] = []
    orphans: list[str] = []
    for page in _pages(zone.landing.list()):
        objects += len(page)
        old = [seen for seen in page if _is_older(zone.landing, seen, grace, moment)]
        data, metadata = _parted(zone, old)
        for key in _not_entered(connection, zone, data):
            table = registry.of_key(key)
            datasets[table.name if table else UNCLASSIFIED] += 1
            _note(overlooked, key)
        alone = [each for each in _alone(connection, zone, registry, metadata) if each.load is None or not each.load.unfinished]
        orphans += islice((each.metadata.key for each in alone if each.load is None), max(0, len(alone)))
        late += sum(each.load is not None for each in alone)
    count = len(orphans)
    return Unseen(objects, sum(datasets.values()), count, late, dict(datasets), tuple([*overlooked, *orphans][:SHOWN]))

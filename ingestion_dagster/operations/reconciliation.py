"""Every night, for every pipeline: what stands in its places against what its ledger says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from ingestion_dagster.engine import archived, discovery, ledger
from ingestion_dagster.engine.archived import Compared
from ingestion_dagster.engine.landing import Zone, side_by_side
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

LATE = timedelta(hours=1)
"""How long an object may stand in a landing zone before it is in the ledger: sensors list, or are told, within minutes."""

SHOWN = 20
_PAGE = 1000

_READY = """
SELECT id FROM ledger.loads
WHERE pipeline = %(pipeline)s AND status = 'ready' AND landing_zone = %(zone)s AND (location IS NULL OR came_back)
  AND waiting_for IS DISTINCT FROM 'upload' AND discovered_at < %(before)s AND id > %(after)s
ORDER BY id LIMIT %(count)s
"""

_STILL_READY = "SELECT id FROM ledger.loads WHERE id = ANY(%(ids)s) AND status = 'ready' ORDER BY id"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found of a pipeline."""

    objects: int = 0
    """Objects in the landing zone."""
    new: int = 0
    """Of these, entered into the ledger now."""
    late: int = 0
    """Of these, how many had stood there for longer than `LATE`: sensors, or messages, have passed over them."""
    gone: Mapping[str, int] = field(default_factory=dict)
    """Loads that wait for a run, and whose object is not there any more, by dataset."""
    gone_ids: tuple[int, ...] = ()
    """The first of them."""
    archive: Compared = field(default_factory=Compared)
    amiss: tuple[str, ...] = ()
    """Lines on what stands in targets otherwise than the ledger says."""


def reconcile(connection: Connection, pipeline: Pipeline, settings: Settings, run_id: str, *, dry_run: bool = False) -> Reconciled:
    """List all of a pipeline's landing zone and archive, and enter what no load stands for. It may be repeated.

    With `dry_run` nothing is entered. Raises `Transient` or `ConfigurationError` as its places do.
    """
    pipeline.sync_datasets(connection, settings)
    amiss = tuple(pipeline.amiss(connection, settings))
    if pipeline.keyed is not None:
        return Reconciled(amiss=amiss)
    zone = pipeline.zone(settings)
    begun = ledger.now(connection)
    found = discovery.Reconciled()
    if not dry_run:
        found = discovery.reconcile(connection, zone, datetime.now(UTC), late=LATE, run_id=run_id)
    gone = list(_gone(connection, zone, begun))
    archive = pipeline.archive(settings)
    return Reconciled(
        objects=found.seen,
        new=found.new,
        late=found.late,
        gone=_counted(gone),
        gone_ids=tuple(load.id for load in gone[:SHOWN]),
        archive=archived.compare(connection, pipeline.name, open_store(archive)) if archive else Compared(),
        amiss=amiss,
    )


def _gone(connection: Connection, zone: Zone, before: datetime) -> Iterator[Load]:
    """Loads that wait for a run and whose object is not where it was landed. One that a run has taken meanwhile is none."""
    asked = {"pipeline": zone.pipeline, "zone": zone.landing.url, "before": before, "count": _PAGE}
    after = 0
    while ids := [row[0] for row in connection.execute(_READY, asked | {"after": after})]:
        after = ids[-1]
        loads = ledger.loads(connection, ids)
        stand = side_by_side(zone, lambda load: _stands(zone, load), loads)
        missing = {load.id: load for load, is_there in zip(loads, stand, strict=True) if not is_there}
        for (load_id,) in connection.execute(_STILL_READY, {"ids": list(missing)}).fetchall() if missing else ():
            yield missing[load_id]


def _stands(zone: Zone, load: Load) -> bool:
    """Whether anything stands under a load's key; one that was overwritten is its newer version's affair."""
    with suppress(ValueError):
        return zone.landing.find(load.key) is not None
    return False


def _counted(loads: Sequence[Load]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for load in loads:
        name = load.dataset or "unknown"
        counts[name] = counts.get(name, 0) + 1
    return dict(islice(sorted(counts.items()), SHOWN))

"""The landing zone that a pipeline has unless it says otherwise: `<pipeline>/in`, and from there to `archive/<day>/…` or `failed/…`."""

from collections.abc import Callable

from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.landing import Target, Zone, versioned
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import StoredObject, open_store
from ingestion_dagster.settings import Settings


def by_day(load: Load) -> str:
    """`<day>/<key>`, the version in it: the day of discovery."""
    return f"{load.partition}/{versioned(load.key, load.version)}"


def usual_zone(
    settings: Settings,
    pipeline: str,
    arrival: Callable[[StoredObject], Arrival | None] = Arrival,
    archive_key: Callable[[Load], str] = by_day,
) -> Zone:
    """The zone below the storage, or where INGESTION_<PIPELINE>_LANDING_URL, …_ARCHIVE_URL and …_ERROR_URL place its parts.

    Where there is a setting INGESTION_<PIPELINE>_QUEUE_URL, that queue tells what arrives.

    `arrival` tells of what dataset an object is (by default: unknown until it is read), `archive_key` where a loaded one is kept.
    """
    landing, archive, error = (open_store(url) for url in _urls(settings, pipeline))
    return Zone(
        pipeline=pipeline,
        landing=landing,
        archive_targets=lambda load: (Target(archive, archive_key(load)),),
        error_targets=lambda load: (Target(error, versioned(load.key, load.version)),),
        settle_seconds=settings.settle_seconds,
        arrival=arrival,
        queue=settings.queue(pipeline),
    )


def usual_places(settings: Settings, pipeline: str) -> tuple[tuple[str, str], ...]:
    """Where loaded and refused files of such a zone go, as `Pipeline.places` tells it: a word and a URL each."""
    _, archive, error = _urls(settings, pipeline)
    return ("archived", archive), ("refused", error)


def _urls(settings: Settings, pipeline: str) -> tuple[str, str, str]:
    return (
        settings.zone(pipeline, "landing", f"{pipeline}/in"),
        settings.zone(pipeline, "archive", f"{pipeline}/archive"),
        settings.zone(pipeline, "error", f"{pipeline}/failed"),
    )

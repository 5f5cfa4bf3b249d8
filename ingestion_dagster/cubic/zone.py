"""The landing zone of cubic files, and the way from there, as registry and settings lay it down."""

from datetime import datetime

from ingestion_dagster.cubic import discovery, schemas
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.registry import PIPELINE, Registry
from ingestion_dagster.cubic.stream_kind import versioned_name
from ingestion_dagster.engine.landing import Target, Zone
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import ObjectStore, StoredObject, open_store
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings


def zone(settings: Settings, registry: Registry) -> Zone:
    """The landing zone with its archive and error zones."""
    landing = open_store(settings.zone(PIPELINE, "landing", "cubic/incoming"))
    archive = open_store(settings.zone(PIPELINE, "archive", "cubic/archive"))
    error = open_store(settings.zone(PIPELINE, "error", "cubic/error"))

    def archived(load: Load) -> list[Target]:
        if standing := _standing(archive, load):
            return [standing]
        table = registry.tables.get(load.dataset or "")
        folder = KINDS[table.kind].archive_folder(load) if table else load.key.rpartition("/")[0]
        return [Target(archive, f"{folder}/{versioned_name(load)}".lstrip("/"))]

    def refused(load: Load) -> list[Target]:
        if standing := _standing(error, load):
            return [standing]
        table = registry.tables.get(load.dataset or "")
        folder = KINDS[table.kind].error_folder(load) if table else load.key.rpartition("/")[0]
        return [Target(error, f"{folder}/{versioned_name(load)}".lstrip("/"))]

    def complete(seen: StoredObject, now: datetime) -> bool:
        if (now - seen.modified).total_seconds() > settings.cubic_metadata_seconds:
            return True
        found = [landing.find(key) for key in companions(registry, seen.key)]
        return all(each and landing.settled(each, for_seconds=settings.settle_seconds, now=now) for each in found)

    def assign(connection: Connection) -> None:
        discovery.assign(connection, registry)

    return Zone(
        pipeline=PIPELINE,
        landing=landing,
        archive_targets=archived,
        error_targets=refused,
        settle_seconds=settings.settle_seconds,
        arrival=lambda seen: discovery.arrival(registry, seen),
        complete=complete,
        assign=assign,
        decisive=lambda connection: discovery.markers(connection, registry),
        queue=settings.queue(PIPELINE),
        companions=lambda key: companions(registry, key),
    )


def _standing(store: ObjectStore, load: Load) -> Target | None:
    """Where in a store a load's object stands already: there it stays, whatever it would be called now."""
    if load.location is None or not load.location.startswith(f"{store.url}/"):
        return None
    return Target(store, load.location.removeprefix(f"{store.url}/"))


def prepare(connection: Connection, registry: Registry) -> None:
    """Bring the ledger up to what the registry says: datasets, columns, and what waited for an entry."""
    discovery.sync(connection, registry)
    schemas.sync(connection, registry)


def companions(registry: Registry, key: str) -> tuple[str, ...]:
    """What travels with the object of a key; archived and refused ones lie below the same prefixes."""
    table = registry.of_key(key)
    return KINDS[table.kind].companions(key) if table else ()

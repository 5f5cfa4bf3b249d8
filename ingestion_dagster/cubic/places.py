"""Where cubic files arrive and go: landing zone, archive, error, springboard, current tables."""

from datetime import UTC, datetime

from ingestion_dagster.cubic.registry import PIPELINE, CubicTable
from ingestion_dagster.engine.object_store import ObjectStore, open_store
from ingestion_dagster.settings import Settings

SNAPSHOT_FORMAT = "%Y%m%dT%H%M%SZ"
PART = "part-0.parquet"
"""The one file of an identifier: its name is always the same, so that a load that is repeated replaces exactly its own output."""

PENDING = "pending"
"""The partition of an ods load that has no snapshot yet."""


def springboard(settings: Settings) -> ObjectStore:
    """Where the Parquet of loaded files stands, raw and typed, and of rejected rows."""
    return open_store(settings.zone(PIPELINE, "springboard", "cubic/springboard"))


def current(settings: Settings) -> ObjectStore:
    """Where the current tables stand, each in a folder of its name."""
    return open_store(settings.zone(PIPELINE, "current", "cubic/current"))


def format_snapshot(snapshot: datetime) -> str:
    """A snapshot as partitions name it: `20220101T204950Z`."""
    return snapshot.astimezone(UTC).strftime(SNAPSHOT_FORMAT)


def table_folder(table: CubicTable, area: str = "") -> str:
    """The folder of a table in the springboard: `[area/]cubic/ods_qlik/EDW.SAMPLE`; area is '', `raw` or `rejects`."""
    folder = table.prefix.rstrip("/")
    return f"{area}/{folder}" if area else folder


def identifier_of(table: CubicTable, key: str) -> str:
    """What a loaded file is known by in its table: its name, or its path below the table's prefix, with `/` and `=` percent-encoded."""
    return key.removeprefix(table.prefix).replace("%", "%25").replace("/", "%2F").replace("=", "%3D")


def part_key(table: CubicTable, snapshot: str | None, identifier: str, area: str = "") -> str:
    """The key of a load's Parquet in the springboard: snapshot (ods only), then identifier (`identifier_of`)."""
    of_snapshot = f"snapshot={snapshot}/" if snapshot else ""
    return f"{table_folder(table, area)}/{of_snapshot}identifier={identifier}/{PART}"

"""Where metric files arrive and go: landing zone, processed, archive, failed."""

from dataclasses import replace

from ingestion_dagster.engine.landing import Target, Zone, versioned
from ingestion_dagster.engine.ledger import SUPERSEDED, Load
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.zones import usual_zone
from ingestion_dagster.metrics.files import UNCLASSIFIED
from ingestion_dagster.metrics.registry import FILE_TYPES
from ingestion_dagster.settings import Settings

PIPELINE = "metrics"
DATASETS = (*FILE_TYPES, UNCLASSIFIED)


def zone(settings: Settings) -> Zone:
    """The landing zone of metric files and its targets, as the settings place them."""
    usual = usual_zone(settings, PIPELINE, archive_key=archive_key)
    processed = open_store(processed_url(settings))

    def archive_targets(load: Load) -> list[Target]:
        newest = [] if SUPERSEDED in load.problems else [Target(processed, load.key)]
        return [*newest, *usual.archive_targets(load)]

    return replace(usual, archive_targets=archive_targets)


def processed_url(settings: Settings) -> str:
    """Where the newest loaded file stands under its own name."""
    return settings.zone(PIPELINE, "processed", "metrics/processed")


def boot_zone(settings: Settings, boot_id: str) -> Zone:
    """The zone from which one boot loads: a folder of its own, so that no other run sees its files before it has loaded them."""
    return replace(zone(settings), landing=open_store(f"{boot_folder(settings)}/{boot_id}"), settle_seconds=0, queue=None)


def boot_folder(settings: Settings) -> str:
    """URL of the folder that holds the folders of boots."""
    return settings.zone(PIPELINE, "boot", "metrics/boot")


def archive_key(load: Load) -> str:
    """`<day>/<topic>/<name>.<version>.json`: the day of discovery, and the file name up to its first underscore.

    The topic folder is the UKHSA lambda's: `OFF-SENS` for all non-public files.
    """
    name = load.key.rpartition("/")[2]
    topic = name.split("_", 1)[0] if "_" in name else name.rpartition(".")[0] or name
    return f"{load.partition}/{topic}/{versioned(load.key, load.version)}"

"""What is checked of cubic files: after each load, by the load step itself, and every night, whatever has been loaded."""

from collections.abc import Iterable, Iterator, Mapping

import dagster as dg

from ingestion_dagster.cubic import discovery, reconciliation, schemas, waiting
from ingestion_dagster.cubic.registry import PIPELINE, UNCLASSIFIED, CubicTable, registry
from ingestion_dagster.cubic.zone import zone
from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.checks import (
    Find,
    Finding,
    found_of_loads,
    load_check_specs,
    result,
    standing_checks,
    standing_findings,
    standing_specs,
    table,
)
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

NOTHING_UNCLASSIFIED = "nothing_unclassified"
NOTHING_WAITS = "nothing_waits_for_a_decision"
ALL_SEEN = "all_of_incoming_is_in_the_ledger"
ARCHIVE_READABLE = "archive_is_readable"

READ_WITHIN_DAYS = 30
"""In so many nights every archived file is read once."""

_READ_SECONDS = 3600

LANDING_ZONE_KEY = dg.AssetKey([PIPELINE, "landing_zone"])
ARCHIVE_KEY = dg.AssetKey([PIPELINE, "archive"])


def check_specs(tables: Iterable[CubicTable]) -> list[dg.AssetCheckSpec]:
    """What a load step checks at the end of each of its runs."""
    return [spec for each in tables for spec in load_check_specs(each.asset)]


def check_results(
    selected: Iterable[dg.AssetCheckKey], tables: Iterable[CubicTable], connection: Connection, run_id: str
) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of a load step, for what this run has loaded."""
    names = {dg.AssetKey(list(each.asset)): each.name for each in tables}
    for check in sorted(selected):
        found = found_of_loads(check.name, connection, PIPELINE, names[check.asset_key], run_id)
        assert found is not None
        yield result(check, found)


DAILY_SPECS = [
    *standing_specs(LANDING_ZONE_KEY),
    dg.AssetCheckSpec(NOTHING_UNCLASSIFIED, asset=LANDING_ZONE_KEY, description="Every file lies below the prefix of a registered table."),
    dg.AssetCheckSpec(NOTHING_WAITS, asset=LANDING_ZONE_KEY, description="No table waits for a decision about its columns."),
    dg.AssetCheckSpec(ALL_SEEN, asset=LANDING_ZONE_KEY, description="Every object of the landing zone is a load, or travels with one."),
    dg.AssetCheckSpec(ARCHIVE_READABLE, asset=ARCHIVE_KEY, description="Every archived file stands where the ledger says, whole."),
]
"""Standing: evaluated by a run of their own."""


def _nothing_unclassified(connection: Connection, _settings: Settings) -> Finding:
    loads = sum(count for dataset, _, count in whereabouts.held_back(connection, PIPELINE) if dataset == UNCLASSIFIED)
    prefixes = waiting.unregistered(connection)
    metadata = {"loads": loads, "prefixes": table(("prefix", "loads"), prefixes)}
    return not loads, dg.AssetCheckSeverity.WARN, metadata


def _nothing_waits(connection: Connection, _settings: Settings) -> Finding:
    waits = [
        (dataset, count)
        for dataset, why, count in whereabouts.held_back(connection, PIPELINE)
        if why.startswith((f"waiting for {schemas.WAITS_FOR}", "paused", "not active"))
    ]
    return not waits, dg.AssetCheckSeverity.ERROR, {"tables": table(("table", "loads"), waits)}


def _all_seen(connection: Connection, settings: Settings) -> Finding:
    tables = registry(settings)
    found = reconciliation.unseen(connection, settings, tables, zone(settings, tables))
    metadata = {
        "objects": found.objects,
        "unseen": found.unseen,
        "metadata_without_a_file": found.orphans,
        "metadata_that_came_late": found.late,
        "examples": table(("object",), [(key,) for key in found.keys]),
    }
    return not (found.unseen or found.orphans), dg.AssetCheckSeverity.ERROR, metadata


def _archive_readable(connection: Connection, settings: Settings) -> Finding:
    """Every object stands in its size; a share of them, another each night, is read to its last byte."""
    tables = registry(settings)
    found = reconciliation.unreadable(connection, settings, tables, zone(settings, tables), days=READ_WITHIN_DAYS, seconds=_READ_SECONDS)
    metadata = {
        "checked": found.checked,
        "missing": found.missing,
        "differing": found.differing,
        "read": found.read,
        "damaged": found.damaged,
        "elsewhere": found.elsewhere,
        "examples": table(("object",), [(key,) for key in found.keys]),
    }
    return not (found.missing or found.differing or found.damaged), dg.AssetCheckSeverity.ERROR, metadata


DAILY: Mapping[str, Find] = {
    **standing_findings(PIPELINE, lambda settings: settings.cubic_claimable_minutes),
    NOTHING_UNCLASSIFIED: _nothing_unclassified,
    NOTHING_WAITS: _nothing_waits,
    ALL_SEEN: _all_seen,
    ARCHIVE_READABLE: _archive_readable,
}


def _before(connection: Connection, settings: Settings) -> None:
    """What crashes have left behind is tidied up."""
    tables = registry(settings)
    discovery.sync(connection, tables)
    reconciliation.tidy(connection, settings, tables, zone(settings, tables))


STANDING = standing_checks(
    PIPELINE,
    DAILY_SPECS,
    DAILY,
    word="nightly",
    cron="0 3 * * *",
    timezone="America/New_York",
    description="Check what must hold whatever was loaded today: all of incoming is in the ledger, all that is archived can be read.",
    before=_before,
)

"""What is checked of the catalogue: the gates of a promotion, and, every day, what must hold whatever was refreshed."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import dagster as dg
import orjson

from ingestion_dagster.catalog import gates, live_aliases, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import DATASETS, MEDIA_TYPES, PIPELINE, MediaType
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine.checks import (
    CLAIMED_IN_TIME,
    NOTHING_LEFT_ERRORED,
    ROWS_ADD_UP,
    Find,
    Finding,
    standing_checks,
    standing_findings,
)
from ingestion_dagster.engine.dagster import error_table
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

NO_BROKEN_PROMOTION = "no_broken_promotion"
ALIASES_LEAD_HOME = "aliases_lead_home"


def _alias_key(model: str) -> dg.AssetKey:
    return dg.AssetKey([PIPELINE, model, "public_alias"])


GATE_SPECS = {
    model: [
        dg.AssetCheckSpec(name, asset=[PIPELINE, model, "search_index"], description=description, blocking=True)
        for name, description in gates.GATES.items()
    ]
    for model in MEDIA_TYPES
}
"""By media type: all of them stand before the promotion."""


def gate_results(
    places: Places, engine: SearchEngine, connection: Connection, media: MediaType, refresh: Refresh | None
) -> Iterator[dg.AssetCheckResult]:
    """What every gate says of a refresh that is filled; of one that was judged before, what was said then; else that it is not judged."""
    judged = gates.judged(places, engine, connection, media, refresh) if refresh and refresh.state == "filled" else []
    found = {gate.name: gate for gate in judged}
    for name in gates.GATES:
        gate = found.get(name)
        if gate is None:
            passed, severity, metadata = _remembered(refresh, name)
        else:
            passed, severity = gate.passed, dg.AssetCheckSeverity.ERROR
            metadata = {"found": gate.description} | {key: _shown(value) for key, value in gate.metadata.items()}
        yield dg.AssetCheckResult(
            asset_key=dg.AssetKey([PIPELINE, media.name, "search_index"]),
            check_name=name,
            passed=passed,
            severity=severity,
            metadata=metadata | ({"refresh": refresh.suffix} if refresh else {}),
        )


def _remembered(refresh: Refresh | None, gate: str) -> tuple[bool, dg.AssetCheckSeverity, dict[str, Any]]:
    """What a gate has said of a refresh that it does not judge now. That nothing was said is a warning: nobody may take it for a pass."""
    if refresh is None:
        return False, dg.AssetCheckSeverity.WARN, {"not judged": "nothing is on its way, and nothing is live yet"}
    said = refresh.counts.get("gates")
    if said is None or refresh.is_at_work:
        return False, dg.AssetCheckSeverity.WARN, {"not judged": f"it is {refresh.state}; what is judged is a refresh that is filled"}
    return (
        gate not in said,
        dg.AssetCheckSeverity.ERROR,
        {"found": said.get(gate, "passed"), "judged": f"before; now it is {refresh.state}"},
    )


def _shown(value: object) -> object:
    """A value as Dagster's metadata takes it."""
    return value if isinstance(value, bool | int | float | str) else dg.MetadataValue.json(orjson.loads(orjson.dumps(value, default=str)))


DAILY_SPECS = [
    *(
        spec
        for model in MEDIA_TYPES
        for spec in (
            dg.AssetCheckSpec(
                f"{NO_BROKEN_PROMOTION}_of_{model}",
                asset=_alias_key(model),
                description="No promotion stands broken off between its halves.",
            ),
            dg.AssetCheckSpec(
                f"{ALIASES_LEAD_HOME}_of_{model}",
                asset=_alias_key(model),
                description="Each alias leads to one index, which was made for the refresh that is live.",
            ),
        )
    ),
    dg.AssetCheckSpec(ROWS_ADD_UP, asset=_alias_key("image"), description="Every row that came in was written, unchanged or rejected."),
    dg.AssetCheckSpec(NOTHING_LEFT_ERRORED, asset=_alias_key("image"), description="No refresh stands refused."),
    dg.AssetCheckSpec(
        CLAIMED_IN_TIME, asset=_alias_key("image"), description="No refresh waits to go on beyond INGESTION_CATALOG_CLAIMABLE_MINUTES."
    ),
]

_REFUSED = "SELECT error_code, error_message FROM ledger.loads WHERE id = ANY(%(ids)s) AND status = 'errored' ORDER BY id"


def nothing_left_refused(connection: Connection) -> Finding:
    """No refresh stands refused; one that was given up, or that a later one has taken the place of, has been dealt with."""
    ids = [going.load_id for model in MEDIA_TYPES if (going := refreshes.at_work(connection, model))]
    errors = connection.execute(_REFUSED, {"ids": ids}).fetchall()
    metadata = {"loads_errored": len(errors), "load_errors": error_table((code, message, 1) for code, message in errors)}
    return not errors, dg.AssetCheckSeverity.WARN, metadata


def no_broken_promotion(connection: Connection, model: str) -> Finding:
    """No promotion of a media type is open."""
    open_ones = live_aliases.broken_off(connection, model)
    return not open_ones, dg.AssetCheckSeverity.ERROR, {"suffixes": ", ".join(open_ones)}


def aliases_lead_home(connection: Connection, settings: Settings, model: str) -> Finding:
    """Each alias of the live refresh leads to one index, which was made for it, or of its rows."""
    wrong, told = live_aliases.astray(connection, settings, model)
    return not wrong, dg.AssetCheckSeverity.ERROR, {**told, "wrong": ", ".join(wrong)} if told else {"live": "nothing yet"}


def _no_broken_promotion(model: str, connection: Connection, _settings: Settings) -> Finding:
    return no_broken_promotion(connection, model)


def _aliases_lead_home(model: str, connection: Connection, settings: Settings) -> Finding:
    return aliases_lead_home(connection, settings, model)


def _enter(connection: Connection, _settings: Settings) -> None:
    sync_datasets(connection, PIPELINE, DATASETS)


DAILY: Mapping[str, Find] = {
    **standing_findings(PIPELINE, lambda settings: settings.catalog_claimable_minutes),
    NOTHING_LEFT_ERRORED: lambda connection, _settings: nothing_left_refused(connection),
    **{f"{NO_BROKEN_PROMOTION}_of_{model}": partial(_no_broken_promotion, model) for model in MEDIA_TYPES},
    **{f"{ALIASES_LEAD_HOME}_of_{model}": partial(_aliases_lead_home, model) for model in MEDIA_TYPES},
}

STANDING = standing_checks(
    PIPELINE,
    DAILY_SPECS,
    DAILY,
    word="daily",
    cron="40 5 * * *",
    timezone="UTC",
    description="Check what must hold of the catalogue whatever was refreshed.",
    before=_enter,
)

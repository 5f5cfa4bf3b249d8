"""What is checked of spreadsheets: after each load, by the load step itself, and every day, whatever has been loaded."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import dagster as dg

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
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import row_ledger, upkeep
from ingestion_dagster.residents.places import NAMES, SANDBOX, api_address, drop_folder
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

ALL_ROWS_TERMINAL = "all_rows_terminal"
REFUSED_SHARE = "refused_share"
DEDUPE_COLLISIONS = "dedupe_collisions"
API_REACHABLE = "api_reachable"
FOLDERS_OPEN = "folders_open"

DROP_FOLDER_KEY = dg.AssetKey([PIPELINE, "drop_folder"])
API_KEY = dg.AssetKey([PIPELINE, "here_to_help_api"])

_IN_LOAD = {
    ALL_ROWS_TERMINAL: "Every row of a finished file is done, skipped, refused, failed or quarantined.",
    REFUSED_SHARE: "Not more rows were refused than INGESTION_RESIDENTS_REFUSED_PERCENT allows.",
    DEDUPE_COLLISIONS: "No id stood for two people.",
}

CHECK_SPECS = [
    spec
    for dataset in NAMES
    for spec in (
        *load_check_specs([PIPELINE, dataset], "Every row that came in was sent, left out for a reason, or refused."),
        *(dg.AssetCheckSpec(name, asset=[PIPELINE, dataset], description=description) for name, description in _IN_LOAD.items()),
    )
]


def check_results(
    selected: Iterable[dg.AssetCheckKey], connection: Connection, settings: Settings, outcome: Outcome, run_id: str
) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of a load step, for what this run has loaded."""
    collisions = row_ledger.collisions(connection, run_id)
    for check in sorted(selected):
        dataset = check.asset_key.path[-1]
        found = found_of_loads(check.name, connection, PIPELINE, dataset, run_id)
        match check.name:
            case "all_rows_terminal":
                found = all_rows_terminal(connection, dataset, run_id)
            case "refused_share":
                found = refused_share(outcome, dataset, settings.residents_refused_percent)
            case "dedupe_collisions":
                found = no_collisions(collisions.get(dataset, 0))
        assert found is not None
        yield result(check, found)


def all_rows_terminal(connection: Connection, dataset: str, run_id: str | None = None) -> Finding:
    """Every row of a finished file has come to an end."""
    rows = row_ledger.open_rows(connection, dataset, run_id)
    return not rows, dg.AssetCheckSeverity.ERROR, {"rows_open": rows}


def refused_share(outcome: Outcome, dataset: str, limit_percent: float) -> Finding:
    """The share of a run's rows that were refused, failed or quarantined is not above the limit."""
    tally = outcome.total([dataset])
    percent = 100 * tally.rows_rejected / tally.rows_in if tally.rows_in else 0.0
    metadata = {
        "rows_in": tally.rows_in,
        "rows_rejected": tally.rows_rejected,
        "percent": round(percent, 2),
        "limit_percent": limit_percent,
    }
    return percent <= limit_percent, dg.AssetCheckSeverity.WARN, metadata


def no_collisions(rows: int) -> Finding:
    """No row was refused because its id stands for somebody else."""
    return not rows, dg.AssetCheckSeverity.WARN, {"rows": rows}


DAILY_SPECS = [
    *standing_specs(DROP_FOLDER_KEY),
    dg.AssetCheckSpec(ALL_ROWS_TERMINAL, asset=DROP_FOLDER_KEY, description="Every row of every finished file has come to an end."),
    dg.AssetCheckSpec(FOLDERS_OPEN, asset=DROP_FOLDER_KEY, description="Every inbound folder can be looked into."),
    dg.AssetCheckSpec(API_REACHABLE, asset=API_KEY, description="The Here to Help API answers, and takes our key."),
]
"""Standing: evaluated by a run of their own."""


def folders_open(settings: Settings) -> Finding:
    """Every inbound folder can be looked into."""
    folder = drop_folder(settings)
    try:
        if (
            settings.drive_url
            and settings.drive.startswith("file://")
            and not Path(unquote(settings.drive.removeprefix("file://"))).is_dir()
        ):
            return False, dg.AssetCheckSeverity.ERROR, {"why": "the folder of INGESTION_DRIVE_URL does not exist: is it mounted?"}
        files = sum(1 for _ in folder.inbound.list())
    except (ConfigurationError, Transient) as error:
        return False, dg.AssetCheckSeverity.ERROR, {"why": error.code if isinstance(error, Transient) else str(error)}
    return not folder.closed(), dg.AssetCheckSeverity.ERROR, {"files": files, "closed": table(("dataset", "why"), folder.closed().items())}


def api_reachable(settings: Settings) -> Finding:
    """The API answers its health check, and takes the key."""
    try:
        asyncio.run(_ping(settings))
    except (ConfigurationError, Transient) as error:
        why = error.code if isinstance(error, Transient) else str(error)
        return False, dg.AssetCheckSeverity.ERROR, {"why": why}
    return True, dg.AssetCheckSeverity.ERROR, {"stand_in": (not settings.residents_api_url and SANDBOX) or ""}


async def _ping(settings: Settings) -> None:
    from ingestion_dagster.residents.api_client import open_api

    address = api_address(settings)
    async with open_api(address.url, address.key, requests_per_second=1, in_flight=1, patience_seconds=5) as api:
        await api.ping()


def _terminal_everywhere(connection: Connection) -> Finding:
    found = [(name, rows) for name in NAMES if (rows := row_ledger.open_rows(connection, name))]
    return not found, dg.AssetCheckSeverity.ERROR, {"datasets": table(("dataset", "rows"), found)}


DAILY: Mapping[str, Find] = {
    **standing_findings(PIPELINE, lambda settings: settings.residents_claimable_minutes),
    ALL_ROWS_TERMINAL: lambda connection, _settings: _terminal_everywhere(connection),
    FOLDERS_OPEN: lambda _connection, settings: folders_open(settings),
    API_REACHABLE: lambda _connection, settings: api_reachable(settings),
}


def _before(connection: Connection, settings: Settings) -> None:
    upkeep.sync(connection, settings)
    of_files, rows = upkeep.forget(connection, settings, datetime.now(UTC))
    log.info("%s rows of files and %s rows forgotten after %s days", of_files, rows, settings.residents_retention_days)


STANDING = standing_checks(
    PIPELINE,
    DAILY_SPECS,
    DAILY,
    word="daily",
    cron="0 6 * * *",
    timezone="Europe/London",
    description="Check what must hold whatever was loaded today, and forget what is older than the retention setting.",
    before=_before,
)

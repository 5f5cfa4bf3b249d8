"""What is checked of life events: after each load and each publishing, by the step itself, and every day."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ingestion_dagster.engine import outbox
from ingestion_dagster.engine.checks import (
    Find,
    Finding,
    accounted,
    found_of_loads,
    load_check_specs,
    result,
    standing_checks,
    standing_findings,
    standing_specs,
)
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events import counts
from ingestion_dagster.life_events.elements import GROUP, RECORD_COUNT, REGISTRATION, TAGS
from ingestion_dagster.life_events.registry import DATASET, PIPELINE
from ingestion_dagster.life_events.topics import topics
from ingestion_dagster.settings import Settings, current

COUNTS_MATCH = "counts_match"
COUNTS_AND_CODES_ONLY = "counts_and_codes_only"
PUBLISHED_IN_TIME = "published_in_time"
NO_DEAD_LETTERS = "no_dead_letters"
NONE_PAST_ITS_TIME = "none_past_its_time"
DAILY_FILE_HAS_COME = "daily_file_has_come"

LANDING_ZONE_KEY = dg.AssetKey([PIPELINE, "landing_zone"])
SOURCE_KEY = dg.AssetKey([PIPELINE, DATASET])
STAGED_KEY = dg.AssetKey([PIPELINE, "staged_events"])
STORE_KEY = dg.AssetKey([PIPELINE, "event_store"])
PUBLISHED_KEY = dg.AssetKey([PIPELINE, "published_events"])
PLATFORM_KEY = dg.AssetKey([PIPELINE, "events_platform"])
RELEASED_KEY = dg.AssetKey([PIPELINE, "released_events"])

LOAD_CHECK_SPECS = [
    *load_check_specs(SOURCE_KEY.path, "Every record that came in was accepted, a duplicate, or rejected."),
    dg.AssetCheckSpec(COUNTS_MATCH, asset=STAGED_KEY, description="Accepted, duplicate and bad records are as many as each file says."),
    dg.AssetCheckSpec(COUNTS_AND_CODES_ONLY, asset=STAGED_KEY, description="What Dagster is told holds counts and codes, and no value."),
]

PUBLISH_CHECK_SPECS = [
    dg.AssetCheckSpec(
        PUBLISHED_IN_TIME, asset=PUBLISHED_KEY, description="No event is due for longer than INGESTION_LIFE_EVENTS_PUBLISH_MINUTES."
    ),
    dg.AssetCheckSpec(NO_DEAD_LETTERS, asset=PUBLISHED_KEY, description="The platform has refused no event."),
    dg.AssetCheckSpec(NONE_PAST_ITS_TIME, asset=RELEASED_KEY, description="The store holds no event whose time is up."),
]

_CODE = re.compile(r"[a-z][a-z_]*|\d+")
_FIELDS = frozenset(TAGS) | {GROUP, REGISTRATION, RECORD_COUNT}
_OURS = frozenset({"dagster/uri", "dagster/table_name", "partition", "for example"})
"""Names of what is made of settings, of the ledger, or of sentences of ours about codes, and of nothing in a file."""


def load_check_results(
    selected: Iterable[dg.AssetCheckKey], connection: Connection, run_id: str, told: Sequence[Mapping[str, Any] | None]
) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of a load step, for what this run has loaded and told."""
    for check in sorted(selected):
        found = found_of_loads(check.name, connection, PIPELINE, DATASET, run_id)
        if found is None:
            is_counted = check.name == COUNTS_MATCH
            found = accounted(counts.unaccounted(connection, run_id)) if is_counted else counts_and_codes_only(told)
        yield result(check, found)


def publish_check_results(
    selected: Iterable[dg.AssetCheckKey], connection: Connection, settings: Settings, now: datetime
) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of a publishing step."""
    for check in sorted(selected):
        match check.name:
            case "published_in_time":
                found = published_in_time(connection, settings)
            case "no_dead_letters":
                found = no_dead_letters(connection)
            case _:
                found = none_past_its_time(connection, settings, now)
        yield result(check, found)


def counts_and_codes_only(told: Sequence[Mapping[str, Any] | None]) -> Finding:
    """Nothing that was told of this run's assets looks like a value: numbers, codes, names of elements, and tables of those."""
    found = [name for metadata in told for name, value in (metadata or {}).items() if not _is_harmless(name, value)]
    return not found, dg.AssetCheckSeverity.ERROR, {"found": len(found), "names": sorted(set(found))}


def _is_harmless(name: str, value: object) -> bool:
    """Whether this cannot come from a record, whether it is as we have told it or as Dagster keeps it."""
    if isinstance(value, dg.TableMetadataValue):
        return all(_is_harmless(column, cell) for record in value.records for column, cell in record.data.items())
    plain = value.value if isinstance(value, dg.MetadataValue) else value
    if isinstance(plain, str):
        return name in _OURS or plain in _FIELDS or _CODE.fullmatch(plain) is not None
    return plain is None or isinstance(plain, int | float | dg.TableSchema)


def published_in_time(connection: Connection, settings: Settings) -> Finding:
    """No event is due for longer than the limit, to whomever."""
    lags = [outbox.lag(connection, topic) for topic in topics(connection)]
    oldest = max(lag.oldest_seconds for lag in lags)
    limit = settings.life_events_publish_minutes * 60
    metadata = {"due": sum(lag.due + lag.later for lag in lags), "oldest_seconds": round(oldest, 1), "limit_seconds": limit}
    return oldest <= limit, dg.AssetCheckSeverity.ERROR, metadata


def no_dead_letters(connection: Connection) -> Finding:
    """Nobody has refused an event, and none has expired before it could be told of."""
    dead = sum(outbox.lag(connection, topic).dead for topic in topics(connection))
    return not dead, dg.AssetCheckSeverity.WARN, {"dead_letters": dead, "next": "ingestion life_events republish"}


def none_past_its_time(connection: Connection, settings: Settings, now: datetime) -> Finding:
    """The store holds no event whose time is up."""
    from ingestion_dagster.life_events.store import open_store

    past = len(open_store(settings).expired(connection, now, 1000))
    return not past, dg.AssetCheckSeverity.ERROR, {"past": past, "ttl_days": settings.life_events_ttl_days}


def daily_file_has_come(connection: Connection, settings: Settings, now: datetime) -> Finding:
    """The file that was due last has come."""
    from ingestion_dagster.life_events import expected

    try:
        missing = expected.overdue(connection, settings, now)
    except ConfigurationError as error:
        # The other checks are to be evaluated all the same.
        return False, dg.AssetCheckSeverity.ERROR, {"why": str(error)}
    metadata = {"file": missing.name, "due": missing.due_at.isoformat()} if missing else {}
    return missing is None, dg.AssetCheckSeverity.ERROR, metadata


DAILY_SPECS = [
    *standing_specs(LANDING_ZONE_KEY),
    dg.AssetCheckSpec(
        DAILY_FILE_HAS_COME, asset=LANDING_ZONE_KEY, description="The daily file has come by INGESTION_LIFE_EVENTS_EXPECTED_BY."
    ),
    dg.AssetCheckSpec(COUNTS_MATCH, asset=STORE_KEY, description="For every file, its records are as many as it says."),
    dg.AssetCheckSpec(PUBLISHED_IN_TIME, asset=PLATFORM_KEY, description="No event is due beyond the limit."),
    dg.AssetCheckSpec(NO_DEAD_LETTERS, asset=PLATFORM_KEY, description="The platform has refused no event."),
    dg.AssetCheckSpec(NONE_PAST_ITS_TIME, asset=STORE_KEY, description="The store holds no event whose time is up."),
]
"""Standing: evaluated by a run of their own."""

DAILY: Mapping[str, Find] = {
    **standing_findings(PIPELINE, lambda settings: settings.life_events_claimable_minutes),
    DAILY_FILE_HAS_COME: lambda connection, settings: daily_file_has_come(connection, settings, datetime.now(UTC)),
    COUNTS_MATCH: lambda connection, _settings: accounted(counts.unaccounted(connection)),
    PUBLISHED_IN_TIME: published_in_time,
    NO_DEAD_LETTERS: lambda connection, _settings: no_dead_letters(connection),
    NONE_PAST_ITS_TIME: lambda connection, settings: none_past_its_time(connection, settings, datetime.now(UTC)),
}


def _before(connection: Connection, settings: Settings) -> None:
    from ingestion_dagster.life_events import upkeep

    now = datetime.now(UTC)
    upkeep.expire_quarantine(connection, settings, now)
    upkeep.forget(connection, settings, now)


def _cron(due: str) -> str:
    """Five minutes after the daily file is due."""
    hour, minute = map(int, due.split(":"))
    return f"{(minute + 5) % 60} {(hour + (minute + 5) // 60) % 24} * * *"


STANDING = standing_checks(
    PIPELINE,
    DAILY_SPECS,
    DAILY,
    word="daily",
    cron=_cron(current().life_events_expected_by),
    timezone="Europe/London",
    description="Check what must hold whatever was loaded today, that the daily file has come, and forget what retention settings say.",
    before=_before,
)

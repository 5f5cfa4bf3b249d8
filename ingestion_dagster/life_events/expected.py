"""The daily file: what it is called, by when it is due, and whether it has come."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.registry import PIPELINE
from ingestion_dagster.settings import Settings

LONDON = ZoneInfo("Europe/London")

OFF = "off"
"""What the setting says where no file is due."""

_HAS_COME = """
SELECT EXISTS (
    SELECT FROM ledger.loads
     WHERE pipeline = %(pipeline)s AND regexp_replace(key, '^.*/', '') = %(name)s
)
"""


@dataclass(frozen=True, slots=True)
class Expected:
    """A file that is due, and by when (UTC)."""

    name: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Overdue:
    """A file that should be here, since when, and for how many seconds."""

    name: str
    due_at: datetime
    seconds: float


def expected_on(settings: Settings, day: date) -> Expected | None:
    """The file of that day; None if none is due, ever. Raises `ConfigurationError` for a name that is the same every day, or none."""
    pattern = settings.life_events_expected_file
    if pattern.casefold() == OFF:
        return None
    name = day.strftime(pattern)
    if not name or "/" in name or name.startswith("."):
        raise ConfigurationError("INGESTION_LIFE_EVENTS_EXPECTED_FILE is a file's name with the day in it, as strftime has it; or off")
    if name == (day + timedelta(days=1)).strftime(pattern):
        raise ConfigurationError("INGESTION_LIFE_EVENTS_EXPECTED_FILE has no day in it: no file could be told from yesterday's")
    due = time.fromisoformat(settings.life_events_expected_by)
    return Expected(name, datetime.combine(day, due, LONDON).astimezone(UTC))


def has_come(connection: Connection, name: str) -> bool:
    """Whether a file of that name has been seen in the landing zone, at its top or in a folder, whatever has become of it."""
    row = connection.execute(_HAS_COME, {"pipeline": PIPELINE, "name": name}).fetchone()
    assert row is not None
    return bool(row[0])


def overdue(connection: Connection, settings: Settings, now: datetime) -> Overdue | None:
    """The newest file that is due by now, if it has not come: today's, or yesterday's as long as today's is not due."""
    today = now.astimezone(LONDON).date()
    due = expected_on(settings, today)
    if due is not None and now < due.due_at:
        due = expected_on(settings, today - timedelta(days=1))
    if due is None or has_come(connection, due.name):
        return None
    return Overdue(due.name, due.due_at, (now - due.due_at).total_seconds())

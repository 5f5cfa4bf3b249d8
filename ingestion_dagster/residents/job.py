"""What a run of residents has been asked for, and what it came to."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.residents.dates import LONDON
from ingestion_dagster.residents.model import Rules
from ingestion_dagster.residents.outbound import Place, place
from ingestion_dagster.residents.places import drop_folder, zone
from ingestion_dagster.settings import Settings


@dataclass(frozen=True, slots=True)
class Job:
    """What a run has been asked for: where from and to, and by which day rows are judged."""

    place: Place
    zone: Zone
    settings: Settings
    as_of: date
    asked: bool = False
    """Whether somebody asked for that day; else a file that was begun before keeps its own."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @classmethod
    def of(cls, settings: Settings, as_of: date | None = None) -> "Job":
        """What the settings ask for; today, in London, without a day."""
        folder = drop_folder(settings)
        return cls(
            place=place(settings, folder),
            zone=zone(settings, folder),
            settings=settings,
            as_of=as_of or datetime.now(LONDON).date(),
            asked=as_of is not None,
        )

    def rules(self, as_of: date | None = None) -> Rules:
        """What rows are judged by, on a day."""
        return rules(self.settings, as_of or self.as_of)


def day_asked_for(as_of: str | None) -> date | None:
    """The day, in London, by which rows are to be judged; None: today. Raises `ConfigurationError` for none, and one to come."""
    if as_of is None:
        return None
    try:
        day = date.fromisoformat(as_of)
    except ValueError:
        raise ConfigurationError("as_of must be an ISO date such as 2026-11-20") from None
    if day > datetime.now(LONDON).date():
        raise ConfigurationError("as_of lies in the future")
    return day


def rules(settings: Settings, as_of: date) -> Rules:
    """What rows are judged by, on a day."""
    excluded = frozenset(name.strip() for name in (settings.residents_excluded_ctas_ids or "").split(",") if name.strip())
    return Rules(as_of, excluded)


@dataclass(slots=True)
class ResidentsOutcome(Outcome):
    """A run's counts; rows by dataset, status and reason; and the files of which somebody has to know."""

    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    troubled: list[str] = field(default_factory=list)
    """A line each: dataset, file, counts, report."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Of those, files with rows for which the API gave another person's record: by a key for the alert."""
    trouble: Transient | ConfigurationError | None = None
    """Why some files could not be read or sent; the run goes on with what it can, and fails at its end."""

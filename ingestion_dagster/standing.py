"""How a pipeline stands, for somebody who has just been woken: is it fine, and if not, what is to be typed next."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ingestion_dagster.engine import ledger, troubles, whereabouts
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

_DECISION = "waiting for schema"
_PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Matter:
    """One thing that stands against a pipeline: a line on it, what it is an example of, and the command that comes next."""

    line: str
    command: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """A pipeline at a moment. Without a matter it is fine."""

    pipeline: str
    matters: tuple[Matter, ...]
    notes: tuple[str, ...]
    """What is only to be known."""
    loads: int

    @property
    def verdict(self) -> str:
        """In one line: fine, or what it needs."""
        if not self.matters:
            return "fine" if self.loads else "nothing has arrived yet"
        more = f", and {len(self.matters) - 1} more" if len(self.matters) > 1 else ""
        return f"needs you: {self.matters[0].line}{more}. Next: {self.matters[0].command}"


def look(connection: Connection, pipeline: Pipeline, settings: Settings, dataset: str | None = None) -> Standing:
    """How a pipeline, or one dataset of it, stands now."""
    now = datetime.now(UTC)
    scope = Scope(pipeline.name, frozenset({dataset}) if dataset else None)
    count, oldest = ledger.claimable(connection, scope)
    waiting = [each for each in whereabouts.held_back(connection, pipeline.name) if dataset in (None, each[0])]
    notes = [f"{_loads(count)} claimable" + (f", the oldest for {age(now - oldest)}" if oldest else "")]
    notes += [f"{_loads(number)} of {name} {one_line(why)}" for name, why, number in waiting]
    notes += [one_line(line) for line in pipeline.standing(connection, dataset)]
    matters = [
        *_stuck(connection, pipeline, dataset, now),
        *_unclaimed(pipeline, settings, oldest, now),
        *_unmended(connection, pipeline, dataset),
        *_refused(connection, pipeline, dataset, now),
        *_held(pipeline, waiting),
    ]
    loads = sum(row["loads"] for row in whereabouts.status_counts(connection, pipeline.name) if dataset in (None, row["dataset"]))
    told = {matter.line for matter in matters}
    return Standing(pipeline.name, tuple(matters), tuple(note for note in notes if note not in told), loads)


def age(past: timedelta) -> str:
    """A span of time in words, to its largest unit: `3 minutes`."""
    seconds = max(0, int(past.total_seconds()))
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{seconds // size} {unit}{'s' if seconds >= 2 * size else ''}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def _stuck(connection: Connection, pipeline: Pipeline, dataset: str | None, now: datetime) -> list[Matter]:
    count, since = troubles.stuck(connection, pipeline.name, dataset)
    if since is None:
        return []
    line = f"{_loads(count)} stuck: a run died with them {age(now - since)} ago, and no sweep has given them back"
    return [Matter(line, f"ingestion doctor {pipeline.name}")]


def _unclaimed(pipeline: Pipeline, settings: Settings, oldest: datetime | None, now: datetime) -> list[Matter]:
    minutes: int = getattr(settings, f"{pipeline.name}_claimable_minutes", 60)
    if oldest is None or now - oldest <= timedelta(minutes=minutes):
        return []
    line = f"nothing has run for {age(now - oldest)}, though something could have been loaded"
    return [Matter(line, f"ingestion doctor {pipeline.name}")]


def _unmended(connection: Connection, pipeline: Pipeline, dataset: str | None) -> list[Matter]:
    return [Matter(one_line(line), command) for line, command in pipeline.wants(connection, dataset)]


def _refused(connection: Connection, pipeline: Pipeline, dataset: str | None, now: datetime) -> list[Matter]:
    return [
        Matter(
            f"{group.loads} errored with {group.code}",
            f"ingestion explain {group.code} --pipeline {pipeline.name}",
            (f"newest: {one_line(group.key)} of {group.dataset}, {age(now - group.at)} ago", one_line(group.message)),
        )
        for group in troubles.refused(connection, pipeline.name, dataset)
    ]


def _held(pipeline: Pipeline, held: list[tuple[str, str, int]]) -> list[Matter]:
    """Loads that go on only if a person says so; what waits for another file, or is switched off, does not."""
    matters = []
    for name, why, count in held:
        line = f"{_loads(count)} of {name} {one_line(why)}"
        if why.startswith(_PAUSED):
            matters.append(Matter(line, f"ingestion resume {pipeline.name} {name}"))
        elif why.startswith(_DECISION):
            matters.append(Matter(line, f"ingestion explain schema_changed --pipeline {pipeline.name}"))
    return matters


def _loads(count: int) -> str:
    return f"{count} load" if count == 1 else f"{count} loads"

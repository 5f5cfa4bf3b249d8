"""The life events pipeline as the command line sees it. What reads files, publishes or seals is imported when it is needed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

from ingestion_dagster.engine.errors import ConfigurationError, Problem
from ingestion_dagster.engine.ledger import Again, Scope
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.pipeline import Delivery, LoadJob, Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events import places
from ingestion_dagster.life_events.registry import DATASET, PIPELINE
from ingestion_dagster.settings import Settings

LOAD_JOB, PUBLISH_JOB = "life_events_load", "life_events_publish"

PUBLISHED, RELEASED = (PIPELINE, "published_events"), (PIPELINE, "released_events")

NOTHING_TO_REPLAY = (
    "life_events cannot replay: a file is deleted once its events are stored, and events are deleted once they are consumed; "
    "have GRO send the file again (what is known already is not published twice)"
)


def _check(settings: Settings, _key: str, raw: bytes, _beside: object) -> tuple[Problem, ...]:
    from ingestion_dagster.life_events.reading import Rules, check_file

    return check_file(raw, Rules.of(settings))


def _replay(_connection: Connection, _scope: Scope) -> Again:
    refuse_replay()


def refuse_replay() -> NoReturn:
    """Raise `ConfigurationError`: there is nothing that could be loaded again."""
    raise ConfigurationError(NOTHING_TO_REPLAY)


def _done(_settings: Settings, _objects: Sequence[StoredObject]) -> tuple[frozenset[str], tuple[str, ...]]:
    raise ConfigurationError(
        "life_events has nothing to adopt: files are deleted once they are done, so what stands in the landing zone has not been read by "
        "anybody; load it, or move it away"
    )


def _samples(folder: Path, scratch: Path) -> tuple[Delivery, ...]:
    from ingestion_dagster.life_events import samples

    samples.place(folder, scratch)
    return (Delivery(folder.name, scratch, surprises=partial(samples.surprises, folder=folder)),)


def _contents(connection: Connection, _settings: Settings) -> list[tuple[int, str]]:
    """Records by how far their events have come."""
    rows = connection.execute("SELECT state, count(*) FROM life_events.records GROUP BY state ORDER BY state").fetchall()
    return [(count, f"life_events.records, {state}") for state, count in rows]


def _standing(connection: Connection, _dataset: str | None) -> list[str]:
    """How many events are where on their way to the platform and to acquirers, if there are any."""
    from ingestion_dagster.engine import outbox
    from ingestion_dagster.life_events.topics import receiver, topics

    lines = []
    row = connection.execute("SELECT count(*) FROM life_events.records WHERE state = 'published'").fetchone()
    if row and row[0]:
        lines.append(f"{row[0]} events are published and not consumed by everybody")
    for topic in topics(connection):
        whom = receiver(topic)
        lag = outbox.lag(connection, topic)
        if lag.due or lag.later:
            held, until = outbox.held(connection, topic)
            by_run = f"; {held} of them are in the hands of a run, or of a dead one until {until:%H:%M:%S} UTC" if until else ""
            lines.append(f"{lag.due + lag.later} events are due to {whom}, the oldest for {lag.oldest_seconds:.0f} s{by_run}")
        if lag.dead:
            lines.append(f"{_dead(connection, topic, whom, lag.dead)}; mend the cause, then 'ingestion life_events republish'")
    return lines


def _wants(connection: Connection, _dataset: str | None) -> list[tuple[str, str]]:
    """Events that nobody will be told of unless a person does something."""
    from ingestion_dagster.engine import outbox
    from ingestion_dagster.life_events.topics import receiver, topics

    wanted = []
    for topic in topics(connection):
        if codes := outbox.dead_codes(connection, topic):
            line = _dead(connection, topic, receiver(topic), sum(count for _, count in codes))
            wanted.append((line, f"ingestion explain {codes[0][0]} --pipeline life_events"))
    return wanted


def _dead(connection: Connection, topic: str, whom: str, count: int) -> str:
    from ingestion_dagster.engine import outbox

    codes = ", ".join(f"{number} {code}" for code, number in outbox.dead_codes(connection, topic))
    return f"{count} events did not reach {whom} ({codes})"


def _behind(connection: Connection, _settings: Settings) -> list[tuple[str, ...]]:
    row = connection.execute("SELECT EXISTS (SELECT FROM ledger.outbox WHERE topic ^@ 'life_events.' AND dead_at IS NULL)").fetchone()
    return [PUBLISHED] if row and row[0] else []


def _leftovers(connection: Connection, settings: Settings, _before: datetime) -> dict[str, int]:
    """Refused files whose time in quarantine is up: a term of its own."""
    from ingestion_dagster.life_events import upkeep

    return {"expired_files": upkeep.expire_quarantine(connection, settings, datetime.now(UTC))}


LIFE_EVENTS = Pipeline(
    name=PIPELINE,
    known=lambda: (DATASET,),
    zone=places.zone,
    check=_check,
    jobs=(LoadJob(LOAD_JOB),),
    asset_of=lambda dataset: (PIPELINE, dataset) if dataset == DATASET else None,
    places=lambda settings: (("loaded", "deleted once stored"), ("refused", places.quarantine_url(settings))),
    tables=("life_events.events",),
    contents=_contents,
    samples=_samples,
    behind=_behind,
    standing=_standing,
    wants=_wants,
    follow_job=PUBLISH_JOB,
    stand_ins=places.stand_ins_needed,
    replay=_replay,
    done=_done,
    sensors=lambda _settings: ("life_events_s3_sensor", "life_events_outbox_sensor"),
    remembers=lambda settings: settings.life_events_ledger_days,
    leftovers=_leftovers,
    claimable_minutes=lambda settings: settings.life_events_claimable_minutes,
)

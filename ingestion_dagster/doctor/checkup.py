"""Which checks there are, for all pipelines or for some."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from ingestion_dagster.doctor import databases, installation, instance, outside, search, storage
from ingestion_dagster.doctor.examination import Check, Finding, examine
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.settings import Settings

_DAGSTER_SECONDS = 30.0
"""Importing Dagster alone takes seconds."""


def examined(settings: Settings, pipelines: Sequence[Pipeline], now: Callable[[], datetime] = databases.utc_now) -> list[Finding]:
    """What there is to be said of what these pipelines need."""
    return examine(list(checks(settings, pipelines, now)), settings)


def checks(settings: Settings, pipelines: Sequence[Pipeline], now: Callable[[], datetime] = databases.utc_now) -> Iterator[Check]:
    """The checks of the installation, then those of each pipeline."""
    yield Check("packages", installation.packages)
    yield Check("settings", lambda: installation.contradictions(settings))
    yield Check("clock", lambda: installation.clock(now))
    yield Check("disks", lambda: installation.disks(settings))
    yield Check("database", lambda: databases.ledger(settings, now))
    yield Check("dagster", lambda: instance.dagster(settings, now), _DAGSTER_SECONDS)
    for pipeline in pipelines:
        yield from _of_pipeline(settings, pipeline, now)


def _of_pipeline(settings: Settings, pipeline: Pipeline, now: Callable[[], datetime]) -> Iterator[Check]:
    name = pipeline.name
    if pipeline.keyed is None:
        yield Check(f"{name} settings", lambda: installation.known_places(settings, pipeline))
    for purpose, url in storage.urls(settings, name).items():
        yield Check(f"{name} {purpose}", lambda url=url: storage.place(url))  # type: ignore[misc]
    for what, look in _OUTSIDE.get(name, {}).items():
        yield Check(f"{name} {what}", lambda look=look: look(settings, now))  # type: ignore[misc]
    yield Check(f"{name} aws", lambda: outside.aws(settings, name))


_OUTSIDE: dict[str, dict[str, Callable[[Settings, Callable[[], datetime]], object]]] = {
    "cubic": {"feed": lambda settings, _now: outside.dmap_feed(settings)},
    "residents": {
        "drop folder": lambda settings, _now: outside.drop_folder(settings),
        "api": lambda settings, _now: outside.here_to_help(settings),
    },
    "life_events": {
        "platform": lambda settings, _now: outside.events_platform(settings),
        "sftp": lambda settings, _now: outside.sftp(settings),
    },
    "catalog": {
        "upstream": databases.upstream,
        "api database": databases.api_database,
        "search": lambda settings, _now: search.engine(settings),
        "sensitive terms": lambda settings, _now: outside.sensitive_terms(settings),
    },
}
"""What of the outside world only one pipeline needs."""

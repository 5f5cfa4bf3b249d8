"""The catalogue pipeline as the command line sees it. What copies, searches or swaps is imported when it is needed."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NoReturn

from ingestion_dagster.catalog import admission, refreshes
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import DATASETS, MEDIA_TYPES, PIPELINE
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Again, Scope
from ingestion_dagster.engine.pipeline import KeyedRun, LoadJob, Pipeline
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings

NOTHING_TO_REPLAY = (
    "catalog cannot replay: a refresh reads what upstream holds now; 'ingestion catalog rollback' brings back what was there before"
)
NOTHING_TO_LAND = "catalog has no landing zone: its rows come from the upstream database; 'ingestion run catalog' refreshes it"
NOTHING_TO_ADOPT = (
    "catalog has nothing to adopt: the first refresh takes over the tables and aliases that are there, and a rollback brings them back"
)


def refresh_job(model: str) -> str:
    """The job that refreshes a media type."""
    return f"catalog_{model}_refresh"


def _zone(_settings: Settings) -> Zone:
    raise ConfigurationError(NOTHING_TO_LAND)


def _check(_settings: Settings, _key: str, _raw: bytes, _beside: object) -> tuple[Problem, ...]:
    raise ConfigurationError(NOTHING_TO_LAND)


def _retry(connection: Connection, scope: Scope, key: str | None) -> Again:
    """Refused refreshes that can still go on, and their ranges; not those that were given up."""
    wanted = [model for model in MEDIA_TYPES if scope.datasets is None or model in scope.datasets]
    going = [each for model in wanted if (each := refreshes.at_work(connection, model)) and key in (None, each.suffix)]
    ids = frozenset(load_id for each in going for load_id in refreshes.loads_of(connection, each))
    return ledger.retry(connection, Scope(scope.pipeline, ids=ids))


def _replay(_connection: Connection, _scope: Scope) -> Again:
    raise ConfigurationError(NOTHING_TO_REPLAY)


def _take_over(_database: Database, _dry_run: bool) -> NoReturn:
    raise ConfigurationError(NOTHING_TO_ADOPT)


def _keyed(connection: Connection, settings: Settings, dataset: str | None, partition: str | None) -> list[KeyedRun]:
    """A refresh for each media type that is meant: the one that was broken off, or a new one.

    Raises `ConfigurationError` if none of them can go on or begin; what keeps one of several from it is among the standing lines.
    """
    from ingestion_dagster.catalog import steps
    from ingestion_dagster.catalog.places import Places

    if dataset is not None and dataset not in MEDIA_TYPES:
        raise ConfigurationError(f"{dataset} is filled by the refresh of {dataset.removesuffix('_index')}: name that")
    models = [dataset] if dataset else list(MEDIA_TYPES)
    if partition is not None:
        return [_run_of(each) for each in _named(connection, models, partition)]
    places = Places.of(settings)
    refreshes.sweep(connection, Limits.of(settings))
    wanted, hindered = [], []
    for model in models:
        if paused := admission.paused(connection, model):
            hindered.append(paused)
            continue
        try:
            refresh = refreshes.resumable(connection, model) or steps.begin(
                places, connection, MEDIA_TYPES[model], "cli", asked_by="by hand"
            )
        except refreshes.Busy as error:
            hindered.append(f"{error}; wait for its end (of its lease, if it was killed), or 'ingestion catalog discard {model}'")
        else:
            wanted.append(_run_of(refresh))
    if not wanted:
        raise ConfigurationError("; ".join(hindered))
    return wanted


def _named(connection: Connection, models: list[str], suffix: str) -> list[Refresh]:
    """The refreshes of a suffix. Raises `ConfigurationError` for one that has come to its end, or that is paused."""
    found = [each for model in models for each in refreshes.of_model(connection, model) if each.suffix == suffix]
    for refresh in found:
        admission.refuse_bygone(refresh)
        admission.refuse_paused(connection, refresh.model)
    return found


def _run_of(refresh: Refresh) -> KeyedRun:
    return KeyedRun(refresh_job(refresh.model), refresh.suffix, refreshes.definition(refresh.model), refresh.load_id)


def _places(settings: Settings) -> tuple[tuple[str, str], ...]:
    from ingestion_dagster.catalog import places

    return (("loaded", "tables of the API's database, and its search index"), ("search", places.shown(places.search_url(settings))))


def _standing(connection: Connection, dataset: str | None) -> list[str]:
    """What readers get, what a rollback would bring back, what is on its way, and what waits."""
    from ingestion_dagster.catalog import standing

    return standing.lines(connection, dataset)


def _wants(connection: Connection, dataset: str | None) -> list[tuple[str, str]]:
    """Promotions that were broken off and that nobody has mended."""
    from ingestion_dagster.catalog import standing

    return standing.wants(connection, dataset)


def _contents(_connection: Connection, settings: Settings) -> list[tuple[int, str]]:
    """Rows and documents as readers get them."""
    from ingestion_dagster.catalog import readers

    return [(count, name) for model in MEDIA_TYPES for name, count in readers.counts(settings, model).items()]


def _predict(settings: Settings, dataset: str | None) -> Mapping[str, int]:
    from ingestion_dagster.catalog import readers

    return readers.foretold(settings, [dataset] if dataset else list(MEDIA_TYPES))


def _tidy(connection: Connection, settings: Settings) -> list[str]:
    """Return what dead runs held, end what they had ended, and complete or revert promotions that were broken off."""
    returned, finished = refreshes.sweep(connection, Limits.of(settings))
    return [f"{returned} loads returned to ready, {finished} ended", *_mended(connection, settings)]


def _mended(connection: Connection, settings: Settings) -> Iterator[str]:
    from ingestion_dagster.catalog import steps
    from ingestion_dagster.catalog.places import Places

    open_ones = connection.execute("SELECT model FROM catalog.promotions WHERE ended_at IS NULL ORDER BY model").fetchall()
    for (model,) in open_ones:
        done: str | None
        try:
            done = steps.recover(Places.of(settings), connection, MEDIA_TYPES[model], "sweep")
        except refreshes.Busy:
            continue  # somebody who lives is at it
        except (Refused, Transient, ConfigurationError) as error:
            done = f"its promotion that was broken off could not be mended ({error}); the next tick tries again"
        if done:
            yield f"{model}: {done}"


def _leftovers(connection: Connection, settings: Settings, _before: datetime) -> dict[str, int]:
    """Tables and indexes that nobody reads, goes on with or rolls back to, by the catalogue's own policy."""
    from contextlib import closing

    from ingestion_dagster.catalog import retirement
    from ingestion_dagster.catalog.places import Places

    used = [model for model in MEDIA_TYPES if refreshes.of_model(connection, model)]
    if not used:
        return {}  # nothing was ever made, and no database is made for it
    places = Places.of(settings)
    gone = {"tables": 0, "indexes": 0, "left_busy": 0}
    with closing(places.search()) as engine:
        for model in used:
            try:
                retired = retirement.retire(places, engine, connection, MEDIA_TYPES[model], "operations")
            except refreshes.Busy:
                gone["left_busy"] += 1
            else:
                gone["tables"] += len(retired.tables)
                gone["indexes"] += len(retired.indexes)
    return gone


def _amiss(connection: Connection, settings: Settings) -> list[str]:
    """Aliases that lead elsewhere than to the live refresh, and promotions that were broken off."""
    from ingestion_dagster.catalog import live_aliases

    lines = []
    for model in MEDIA_TYPES:
        lines += [f"alias {alias} does not lead to the live refresh" for alias in live_aliases.astray(connection, settings, model)[0]]
        lines += [f"the promotion of {model}-{suffix} was broken off" for suffix in live_aliases.broken_off(connection, model)]
    return lines


def _partitions(connection: Connection) -> dict[str, list[str]]:
    """Refreshes that are not over: the others' partitions are history."""
    over = ("retired", "discarded")
    return {
        refreshes.definition(model): [each.suffix for each in refreshes.of_model(connection, model) if each.state not in over]
        for model in MEDIA_TYPES
    }


CATALOG = Pipeline(
    name=PIPELINE,
    known=lambda: DATASETS,
    zone=_zone,
    check=_check,
    jobs=tuple(LoadJob(refresh_job(model), lambda model=model: frozenset({model})) for model in MEDIA_TYPES),  # type: ignore[misc]
    asset_of=lambda dataset: (PIPELINE, dataset, "promoted") if dataset in MEDIA_TYPES else None,
    places=_places,
    contents=_contents,
    samples=lambda _folder, _scratch: (),
    standing=_standing,
    wants=_wants,
    retry=_retry,
    replay=_replay,
    take_over=_take_over,
    keyed=_keyed,
    foretell=_predict,
    watched=lambda _settings: (),
    sensors=lambda _settings: ("catalog_upstream_sensor", "catalog_terms_sensor"),
    leftovers=_leftovers,
    amiss=_amiss,
    dynamic_partitions=_partitions,
    claimable_minutes=lambda settings: settings.catalog_claimable_minutes,
    tidy=_tidy,
)

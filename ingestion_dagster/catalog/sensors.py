"""What starts runs of the catalogue: weekly, hourly, on upstream changes and on new terms."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ingestion_dagster.catalog import admission, refreshes, standing, steps
from ingestion_dagster.catalog.assets import CHAINS
from ingestion_dagster.catalog.live_assets import LIVE_ASSETS
from ingestion_dagster.catalog.pipeline import refresh_job
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, Refresh
from ingestion_dagster.catalog.registry import DATASETS, MEDIA_TYPES, PIPELINE
from ingestion_dagster.engine.dagster import PIPELINE_TAG, QUEUE_TAG, Ingestion, run_tags
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.scheduled import schedule_status
from ingestion_dagster.engine.sensors import not_now
from ingestion_dagster.settings import Settings, current

_A_DAY = timedelta(days=1)
_TERMS_SECONDS = 300

# Hundreds of millions of rows take days; dagster.yaml would end such a run as one that hangs.
_LONGEST_SECONDS = 7 * 86_400

# The counters cost nothing to read, whatever the table's size; a reset of the statistics only makes a change go unnoticed until the next.
_CHANGES = """
SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)
FROM pg_stat_user_tables WHERE relname = ANY(%(tables)s)
"""


def _job(name: str, selection: dg.AssetSelection, description: str) -> Any:
    return dg.define_asset_job(
        name,
        selection=selection,
        description=description,
        tags={PIPELINE_TAG: PIPELINE, QUEUE_TAG: name, "dagster/max_runtime": str(_LONGEST_SECONDS)},
        executor_def=dg.in_process_executor,
    )


REFRESH_JOBS = {
    model: _job(
        refresh_job(model),
        dg.AssetSelection.assets(*each.steps) | dg.AssetSelection.checks(each.gates),
        f"Refresh {model}: copy, index, fill, check, promote. A refresh that was broken off goes on where it was.",
    )
    for model, each in CHAINS.items()
}
UPDATE_JOBS = {
    model: _job(f"catalog_{model}_update", dg.AssetSelection.assets(each.updates), f"Bring what has changed upstream into live {model}.")
    for model, each in LIVE_ASSETS.items()
}
FILTER_JOBS = {
    model: _job(f"catalog_{model}_filter", dg.AssetSelection.assets(each.rebuild), f"Make the filtered index of {model} anew.")
    for model, each in LIVE_ASSETS.items()
}
OPERATION_JOBS = {
    model: _job(f"catalog_{model}_operation", dg.AssetSelection.assets(each.operation), f"Do a task of the private API on {model}.")
    for model, each in LIVE_ASSETS.items()
}


def _status(settings: Settings) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if settings.sensors == "running" else dg.DefaultSensorStatus.STOPPED


def _request(instance: dg.DagsterInstance, settings: Settings, refresh: Refresh) -> dg.RunRequest:
    """A run for a refresh, whose partition is made known first."""
    definition = refreshes.definition(refresh.model)
    if not instance.has_dynamic_partition(definition, refresh.suffix):
        instance.add_dynamic_partitions(definition, [refresh.suffix])
    name = refresh_job(refresh.model)
    return dg.RunRequest(job_name=name, partition_key=refresh.suffix, tags=run_tags(PIPELINE, settings, name))


def _weekly(model: str) -> dg.ScheduleDefinition:
    settings = current()

    @dg.schedule(
        name=f"catalog_{model}_weekly_schedule",
        job=REFRESH_JOBS[model],
        cron_schedule=settings.catalog_schedule,
        execution_timezone="UTC",
        default_status=schedule_status(settings),
        description=f"Refreshes {model} at INGESTION_CATALOG_SCHEDULE, unless a refresh is on its way.",
    )
    def weekly(context: dg.ScheduleEvaluationContext, ingestion: Ingestion) -> dg.RunRequest | dg.SkipReason:
        settings = ingestion.settings()
        places = Places.of(settings)
        with places.ledger.connect() as connection:
            if paused := admission.paused(connection, model):
                return dg.SkipReason(paused)
            try:
                refresh = steps.begin(places, connection, MEDIA_TYPES[model], "schedule", asked_by="schedule")
            except Busy as error:
                return dg.SkipReason(str(error))
        return _request(context.instance, settings, refresh)

    return weekly


WEEKLY = [_weekly(model) for model in MEDIA_TYPES]


def _hourly(model: str) -> dg.ScheduleDefinition:
    job = UPDATE_JOBS[model]

    @dg.schedule(
        name=f"catalog_{model}_hourly_schedule",
        job=job,
        cron_schedule=current().catalog_updates_schedule,
        execution_timezone="UTC",
        default_status=schedule_status(current()),
        description=f"Brings what has changed upstream into live {model} at INGESTION_CATALOG_UPDATES_SCHEDULE.",
    )
    def hourly(context: dg.ScheduleEvaluationContext, ingestion: Ingestion) -> dg.RunRequest | dg.SkipReason:
        with ingestion.database().connect() as connection:
            if paused := admission.paused(connection, model):
                return dg.SkipReason(paused)
            if refreshes.live(connection, model) is None:
                return dg.SkipReason(f"nothing is live yet: 'ingestion run catalog --dataset {model}' makes the first refresh")
        if reason := not_now(context.instance, PIPELINE, job.name, 1, datetime.now(UTC), is_new=True):
            return dg.SkipReason(reason)
        return dg.RunRequest(tags=run_tags(PIPELINE, ingestion.settings(), job.name))

    return hourly


HOURLY = [_hourly(model) for model in MEDIA_TYPES]


@dg.sensor(
    name="catalog_upstream_sensor",
    jobs=list(REFRESH_JOBS.values()),
    minimum_interval_seconds=max(30, current().sensor_seconds),
    default_status=_status(current()),
    description="Goes on with refreshes that can go on, and asks for one when much has changed upstream and the last is a day old.",
)
def catalog_upstream_sensor(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SensorResult | dg.SkipReason:
    """One tick: a run for each media type that has something to do, and none in flight."""
    settings = ingestion.settings()
    places = Places.of(settings)
    seen = _read(context)
    requests, says = [], []
    with places.ledger.connect() as connection:
        sync_datasets(connection, PIPELINE, DATASETS)
        for model in MEDIA_TYPES:
            refresh, why = _due(connection, places, model, seen)
            says.append(f"{model}: {why}")
            if refresh is None:
                continue
            reason = not_now(context.instance, PIPELINE, refresh_job(model), settings.runs_per_pipeline, datetime.now(UTC))
            if reason:
                says.append(f"{model}: {reason}")
            else:
                requests.append(_request(context.instance, settings, refresh))
    context.update_cursor(json.dumps({"version": 1, "changes": seen}))
    if not requests:
        return dg.SkipReason("; ".join(says))
    context.log.info("%s", "; ".join(says))
    return dg.SensorResult(run_requests=requests)


def _due(connection: Connection, places: Places, model: str, seen: dict[str, int]) -> tuple[Refresh | None, str]:
    """The refresh of a media type that should run now, if any, and why; `seen` is brought up to date."""
    if paused := admission.paused(connection, model):
        return None, paused
    going = refreshes.resumable(connection, model)
    if going is not None:
        return going, f"refresh {going.suffix} can go on from {going.state}"
    working = refreshes.at_work(connection, model)
    if working is not None:
        return None, f"refresh {working.suffix} {standing.on_its_way(connection, working)}"
    changes = _changes(places, model)
    # Counted from the first look on; after a refresh, or a reset of the counters, anew.
    base = seen.get(model)
    if base is None or changes < base:
        seen[model] = changes
        return None, f"{changes} changes upstream were counted so far"
    live = refreshes.live(connection, model)
    since = "the last refresh" if live else f"the first look; nothing is live yet, 'ingestion run catalog --dataset {model}' makes it so"
    young = live is not None and live.requested_at is not None and datetime.now(UTC) - live.requested_at < _A_DAY
    if changes - base < places.settings.catalog_upstream_rows or young:
        return None, f"{changes - base} changes upstream since {since}{', which is not a day old' if young else ''}"
    seen[model] = changes
    try:
        return steps.begin(places, connection, MEDIA_TYPES[model], "sensor", asked_by="upstream changes"), "much has changed upstream"
    except Busy as error:
        return None, str(error)


def _changes(places: Places, model: str) -> int:
    with places.upstream.connect() as upstream:
        row = upstream.execute(_CHANGES, {"tables": [table.upstream for table in MEDIA_TYPES[model].tables]}).fetchone()
    return int(row[0]) if row else 0


def _read(context: dg.SensorEvaluationContext) -> dict[str, int]:
    """What the tick before has counted; nothing if it cannot be read."""
    try:
        cursor: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"version": 1, "changes": {}}
        return {str(model): int(count) for model, count in cursor["changes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        context.log.warning("the cursor could not be read; counting anew")
        return {}


@dg.sensor(
    name="catalog_terms_sensor",
    jobs=list(FILTER_JOBS.values()),
    minimum_interval_seconds=max(_TERMS_SECONDS, current().sensor_seconds),
    default_status=_status(current()),
    description="Has the filtered index made anew when the list of sensitive terms is another than the one it was made with.",
)
def catalog_terms_sensor(context: dg.SensorEvaluationContext, ingestion: Ingestion) -> dg.SensorResult | dg.SkipReason:
    """One tick: compares fingerprints; a list that cannot be had is said so."""
    from ingestion_dagster.catalog import filtered, sensitive

    settings = ingestion.settings()
    places = Places.of(settings)
    try:
        now = sensitive.fingerprint_of(settings)
    except (Transient, ConfigurationError, Refused) as error:
        return dg.SkipReason(str(error))
    requests, says = [], []
    with places.ledger.connect() as connection, closing(places.search()) as engine:
        for model, job in FILTER_JOBS.items():
            live = refreshes.live(connection, model)
            known = filtered.made_with(engine, live.alias) if live else None
            if known is None or known == now:
                says.append(f"{model}: {'nothing is live yet' if known is None else 'the terms are those it was made with'}")
            elif busy := _in_its_way(connection, model):
                says.append(f"{model}: the terms have changed; {busy}")
            elif reason := not_now(context.instance, PIPELINE, job.name, 1, datetime.now(UTC)):
                says.append(f"{model}: the terms have changed; {reason}")
            else:
                requests.append(dg.RunRequest(job_name=job.name, tags=run_tags(PIPELINE, settings, job.name)))
    return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("; ".join(says))


def _in_its_way(connection: Connection, model: str) -> str | None:
    """What keeps the filtered index from being made anew now, in words."""
    from ingestion_dagster.catalog import filtered

    try:
        filtered.refuse_beside_others(connection, model)
    except Busy as error:
        return str(error)
    return admission.paused(connection, model)

"""Work that begins by the clock, in a queue of its own: its job and its schedule."""

from typing import Any

import dagster as dg

from ingestion_dagster.engine.dagster import PIPELINE_TAG, QUEUE_TAG
from ingestion_dagster.settings import Settings


def schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Whether schedules run without being switched on: where sensors do."""
    return dg.DefaultScheduleStatus.RUNNING if settings.sensors == "running" else dg.DefaultScheduleStatus.STOPPED


def scheduled(
    pipeline: str,
    name: str,
    work: dg.AssetsDefinition,
    settings: Settings,
    *,
    does: str,
    cron: str,
    timezone: str,
    when: str,
    longest_seconds: int,
) -> tuple[Any, dg.ScheduleDefinition]:
    """A job of this name, and the schedule that begins it; `does` and `when` describe them.

    Loads do not wait for it, nor it for them. The job is what `define_asset_job` returns; Dagster does not export its type.
    """
    job: Any = dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(work),
        description=does,
        tags={PIPELINE_TAG: pipeline, QUEUE_TAG: name, "dagster/max_runtime": str(longest_seconds)},
        executor_def=dg.in_process_executor,
    )
    schedule = dg.ScheduleDefinition(
        name=f"{name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        description=when,
        default_status=schedule_status(settings),
    )
    return job, schedule

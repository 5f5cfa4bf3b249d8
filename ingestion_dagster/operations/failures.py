"""What is told of a run that failed, and of a tick: why, in one line that quotes no record."""

from collections.abc import Collection

import dagster as dg
from dagster._core.events import JobFailureData
from dagster_shared.error import SerializableErrorInfo

from ingestion_dagster.engine import notifications
from ingestion_dagster.engine.alert import Alert, run_link
from ingestion_dagster.engine.dagster import PIPELINE_TAG
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

_TELLING = "ingestion_dagster.engine.errors."
_LONGEST_REASON = 300


def owner_of(run: dg.DagsterRun, names: Collection[str]) -> str | None:
    """Which of these (pipelines, by name) a run is of; None: of none.

    By its tag or, where it was materialized from the UI and has none, by its assets.
    """
    if PIPELINE_TAG in run.tags:
        tagged = run.tags[PIPELINE_TAG]
        return tagged if tagged in names else None
    return next((key.path[0] for key in sorted(run.asset_selection or ()) if key.path[0] in names), None)


def failed_run(connection: Connection, instance: dg.DagsterInstance, settings: Settings, pipeline: str, run: dg.DagsterRun) -> Alert:
    """The alert for a failed run: why, as far as that can be told, and what it had in hand."""
    return Alert(
        key=f"failed:{run.run_id}",
        environment=settings.environment,
        pipeline=pipeline,
        title="a run failed",
        datasets=notifications.datasets_of_run(connection, pipeline, run.run_id),
        details=(failure_reason(instance, run.run_id),),
        run_id=run.run_id,
        link=run_link(settings, run.run_id),
    )


def failure_reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed, in one line: words of ours or of Dagster's daemons. Of any other exception its type only: it may quote a record."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = [record.event_log_entry.dagster_event for record in instance.get_records_for_run(run_id, of_type=kinds).records]
    for event in events:
        if event and event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return _first_line(failure.user_failure_data.description)
            return error_reason(failure.error)
    for event in events:
        if event and event.is_job_failure:
            data = event.event_specific_data
            return error_reason(data.error) if isinstance(data, JobFailureData) and data.error else _first_line(event.message or "")
    return "no reason is recorded"


def error_reason(error: SerializableErrorInfo | None) -> str:
    """A recorded exception in one line: the message if it is one of ours, else the type of what caused it."""
    while error is not None:
        if error.message.startswith((f"{_TELLING}ConfigurationError: ", f"{_TELLING}Transient: ")):
            return _first_line(error.message.removeprefix(_TELLING))
        if error.cause is None:
            return error.cls_name or "an exception"
        error = error.cause
    return "an exception"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:_LONGEST_REASON] or "no reason is recorded"

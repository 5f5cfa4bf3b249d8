"""Doing a task of the private API on the catalogue: which Dagster run it is, and running it in this process."""

from collections.abc import Sequence

from ingestion_dagster import in_process
from ingestion_dagster.catalog import admission, refreshes, steps, tasks
from ingestion_dagster.catalog.pipeline import CATALOG, refresh_job
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import PIPELINE, media_type
from ingestion_dagster.catalog.tasks import Task
from ingestion_dagster.engine.pipeline import KeyedRun
from ingestion_dagster.in_process import Job
from ingestion_dagster.settings import Settings

_COPIED_AND_FILLED = ("upstream_snapshot", "staged_table", "fixes", "staged_indexes", "search_index", "filtered_index")
_PROMOTED = ("promoted", "retired")


def run_task(settings: Settings, task: Task) -> None:
    """Do a task to its end, as a run of Dagster's that bears its id.

    Raises `RunFailed` with why, `Busy` if something else is at work on the media type, `ConfigurationError` for what is not there.
    """
    tags = {tasks.TAG: task.id}
    match task.action:
        case "INGEST_UPSTREAM":
            _keyed(settings, ingested(settings, task), _COPIED_AND_FILLED, tags)
        case "PROMOTE":
            _keyed(settings, to_promote(settings, task), _PROMOTED, tags)
        case _:
            job = f"catalog_{task.model}_operation"
            in_process.execute(settings, Job(PIPELINE, job, config={"task_id": task.id}, tags=tags))


def ingested(settings: Settings, task: Task) -> Refresh:
    """The refresh that a task asks for: entered, unless this task has done so before."""
    media = media_type(task.model)
    suffix = task.suffix
    places = Places.of(settings)
    with places.ledger.connect() as connection:
        CATALOG.sync_datasets(connection, settings)
        admission.refuse_paused(connection, media.name)
        going = refreshes.at_work(connection, media.name)
        if going is not None and going.suffix == suffix and going.asked_by == _asker(task):
            return going
        return steps.begin(places, connection, media, _asker(task), asked_by=_asker(task), suffix=suffix, filtered=False, promote=False)


def to_promote(settings: Settings, task: Task) -> Refresh:
    """The refresh that a task wants promoted, marked so, with the alias that it is to have."""
    with Places.of(settings).ledger.connect() as connection:
        return refreshes.let_promote(connection, task.model, task.suffix, str(task.request.get("alias") or task.model))


def _asker(task: Task) -> str:
    return f"task {task.id}"


def _keyed(settings: Settings, refresh: Refresh, names: Sequence[str], tags: dict[str, str]) -> None:
    left_out = {"filtered_index"} if not refresh.filtered else set()
    left_out |= {"fixes"} if not media_type(refresh.model).table.cleaned else set()
    assets = [(PIPELINE, refresh.model, name) for name in names if name not in left_out]
    wanted = KeyedRun(refresh_job(refresh.model), refresh.suffix, refreshes.definition(refresh.model), refresh.load_id)
    in_process.run_keyed(PIPELINE, settings, wanted, assets, tags)

"""What the commands run from this process: the jobs of a pipeline, one after the other, until nothing is claimable."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_dagster.arrivals import add_partitions, await_settled
from ingestion_dagster.engine import ledger, postgres, whereabouts
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import prepare_dagster_home
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.local_files import local_files
from ingestion_dagster.engine.object_store import is_key
from ingestion_dagster.engine.pipeline import KeyedRun, Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.whereabouts import RunSummary
from ingestion_dagster.in_process import Job, RunFailed, execute, run_keyed
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    import dagster as dg


class NotFollowed(RunFailed):
    """The loads are loaded, and what should have followed from them failed."""

    def __init__(self, why: str, did: RunSummary) -> None:
        super().__init__(why)
        self.did = did


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is narrowed to, and how it goes about it."""

    dataset: str | None = None
    partition: str | None = None
    as_of: str | None = None
    dry_run: bool = False
    boot_from: Path | None = None
    quiet: bool = False
    """Log nothing of what is refused: whoever asked tells of it."""

    def config(self) -> dict[str, Any]:
        """The launchpad configuration that says so."""
        asked: dict[str, Any] = {"as_of": self.as_of, "dry_run": self.dry_run}
        if self.boot_from:
            asked |= {"boot_from": str(self.boot_from.absolute()), "boot_in_production": True}
        return {option: value for option, value in asked.items() if value}

    def of(self, job: Job) -> Job:
        """That job, asked for so."""
        return replace(job, partition=self.partition, config=self.config(), quiet=self.quiet)


Progress = Callable[[int, int], None]
"""Told now and then how many loads of how many are done."""


def run(pipeline: Pipeline, settings: Settings, request: Request, progress: Progress | None = None) -> RunSummary:
    """Load until nothing in the request's scope is claimable, in this process, through Dagster; what the runs did, summed.

    Raises `RunFailed`.
    """
    if pipeline.keyed is not None:
        return _run_keyed(pipeline, settings, request, pipeline.keyed)
    prepare_dagster_home(settings)
    _demand_day(request)
    with postgres.ready(settings).connect() as connection:
        if request.dry_run:
            jobs = _jobs(pipeline, settings, request)
            return sum((_judged(execute(settings, request.of(loading.job))) for loading in jobs), start=RunSummary())
        pipeline.sync_datasets(connection, settings)
        pipeline.sweep(connection, settings)
        await_settled(pipeline, settings, connection)
        add_partitions(pipeline, settings, connection)
        total = RunSummary()
        for loading in _jobs(pipeline, settings, request):
            total += _work_off(connection, pipeline, settings, loading, request, progress)
        try:
            _follow(connection, pipeline, settings)
        except RunFailed as error:
            raise NotFollowed(str(error), total) from None
        return total


def _run_keyed(
    pipeline: Pipeline,
    settings: Settings,
    request: Request,
    keyed: Callable[[Connection, Settings, str | None, str | None], list[KeyedRun]],
) -> RunSummary:
    """One run after the other, each for a load of its own; what became of these loads. A load that is refused fails no other's run."""
    if request.as_of:
        raise ConfigurationError(f"{pipeline.name} reads what is there now: it has no --as-of")
    total = RunSummary()
    failures = []
    with postgres.ready(settings).connect() as connection:
        pipeline.sync_datasets(connection, settings)
        wanted = keyed(connection, settings, request.dataset, request.partition)
        if not wanted:
            raise ConfigurationError(f"{pipeline.name} has no partition {request.partition}; 'ingestion status' lists those in use")
        for each in wanted:
            try:
                run_keyed(pipeline.name, settings, each)
            except RunFailed as error:
                failures.append(str(error))
            total += whereabouts.of_loads(connection, [each.load_id])
    if failures and not total.errored:
        raise RunFailed("; ".join(failures))
    return total


@dataclass(frozen=True, slots=True)
class _Loading:
    """A job that loads, and what datasets (None: all)."""

    job: Job
    datasets: frozenset[str] | None


def _jobs(pipeline: Pipeline, settings: Settings, request: Request) -> list[_Loading]:
    """The jobs that a request is for: those that load its dataset, and have its partition."""
    asset = pipeline.asset_of(request.dataset) if request.dataset else None
    assets = (asset,) if asset else ()
    loading = [job for job in pipeline.jobs if not asset or job.loads(request.dataset or "")]
    jobs = [_Loading(Job(pipeline.name, job.name, assets), job.datasets()) for job in loading]
    if request.partition is None:
        return jobs
    having = check_partition(pipeline, settings, request.partition)
    return [job for job in jobs if job.job.name in having]


def _work_off(
    connection: Connection, pipeline: Pipeline, settings: Settings, loading: _Loading, request: Request, progress: Progress | None
) -> RunSummary:
    """Runs of one job until it can claim nothing more."""
    datasets = frozenset({request.dataset}) if request.dataset else loading.datasets
    scope = Scope(pipeline.name, datasets, frozenset({request.partition}) if request.partition else None)
    total, job = RunSummary(), request.of(loading.job)
    while True:
        waiting, _ = ledger.claimable(connection, scope)
        before = pipeline.progress(connection)
        if len(pipeline.jobs) > 1:
            assets = tuple(filter(None, map(pipeline.asset_of, ledger.claimable_datasets(connection, scope))))
            if not assets:
                return total
            job = replace(job, assets=assets)
        with _watched(settings, scope, waiting, progress):
            run_id = execute(settings, job).run_id
        did = whereabouts.of_run(connection, pipeline.name, run_id)
        total = total + did
        left, _ = ledger.claimable(connection, scope)
        if (request.as_of and pipeline.as_of_narrows) or not left:
            return total
        if left == waiting and not did.loads and pipeline.progress(connection) == before:
            return replace(total, left=left)


def _demand_day(request: Request) -> None:
    """Raises `ConfigurationError` for an `as_of` that is no day, or not yet, before anything is read."""
    from ingestion_dagster.engine.dagster import LoadConfig

    LoadConfig(as_of=request.as_of).clock()


def _follow(connection: Connection, pipeline: Pipeline, settings: Settings) -> None:
    """Materialize what follows from what has been loaded."""
    if pipeline.behind is None or pipeline.follow_job is None:
        return
    if assets := pipeline.behind(connection, settings):
        execute(settings, Job(pipeline.name, pipeline.follow_job, tuple(assets)))


def boot(pipeline: Pipeline, settings: Settings, folder: Path) -> RunSummary:
    """Replace every fact of a pipeline by what the files of a folder say, in one run; what it did. Raises `RunFailed`."""
    if not any(is_key(key) for key, _ in local_files([folder])):
        raise ConfigurationError(f"there is no file in {folder} to boot from: every fact would go")
    with postgres.ready(settings).connect() as connection:
        run_id = execute(settings, Request(boot_from=folder).of(Job(pipeline.name, pipeline.jobs[0].name))).run_id
        return whereabouts.of_run(connection, pipeline.name, run_id)


def _judged(result: "dg.ExecuteInProcessResult") -> RunSummary:
    """What a dry run would have done, from the observations it made of the landing zone."""
    observed = [event.asset_observation_data.asset_observation.metadata for event in result.all_events if event.is_asset_observation]
    return sum(
        (RunSummary(**{name: int(str(value.value)) for name, value in metadata.items()}) for metadata in observed), start=RunSummary()
    )


def check_partition(pipeline: Pipeline, settings: Settings, partition: str) -> list[str]:
    """The jobs that have a partition. Raises `ConfigurationError` for one that the pipeline cannot have."""
    import dagster as dg

    from ingestion_dagster.definitions import defs
    from ingestion_dagster.engine.dagster import open_instance

    definitions = {job.name: defs.resolve_job_def(job.name).partitions_def for job in pipeline.jobs}
    prepare_dagster_home(settings)
    having = []
    with open_instance() as instance:
        for name, of in definitions.items():
            if isinstance(of, dg.DynamicPartitionsDefinition):
                known = instance.has_dynamic_partition(str(of.name), partition)
            else:
                known = of is not None and of.has_partition_key(partition)
            if known:
                having.append(name)
    if not having:
        raise ConfigurationError(f"{pipeline.name} has no partition {partition}; 'ingestion status' lists those in use")
    return having


@contextmanager
def _watched(settings: Settings, scope: Scope, waiting: int, progress: Progress | None) -> Iterator[None]:
    """Report progress from a second connection while the body runs."""
    if progress is None:
        yield
        return
    finished = threading.Event()

    def watch() -> None:
        with postgres.locate(settings).connect() as connection:
            while not finished.wait(0.3):
                left, _ = ledger.claimable(connection, scope)
                progress(max(0, waiting - left), waiting)

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        progress(waiting, waiting)

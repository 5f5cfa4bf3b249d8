"""What the commands do from this process: landing files, adopting what is there, and running a pipeline through Dagster."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_dagster.engine import landing, ledger, postgres, whereabouts
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import prepare_dagster_home
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Scope, Status, Verdict
from ingestion_dagster.engine.local_files import distinct, local_files, read_file
from ingestion_dagster.engine.object_store import StoredObject, is_key
from ingestion_dagster.engine.pipeline import KeyedRun, Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.whereabouts import RunSummary
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

ADOPTED = "adopted: it was there before"
"""Why a load is archived that nobody read."""

Tags = Mapping[str, str] | None
"""What a run is to be known by besides."""

_LONGEST_WAIT = 60.0
_PAGE = 500


class RunFailed(Exception):
    """The run itself failed; what it had committed by then stays. The message says why, and which run it was."""


class NotFollowed(RunFailed):
    """The loads are loaded, and what should have followed from them failed."""

    def __init__(self, why: str, did: RunSummary) -> None:
        super().__init__(why)
        self.did = did


@dataclass(slots=True)
class Landed:
    """What was put into a landing zone, and names that cannot be keys."""

    objects: list[StoredObject] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


def land(pipeline: Pipeline, settings: Settings, paths: Sequence[Path], dataset: str | None = None) -> Landed:
    """Put files into the landing zone, modification times kept on a local store, and enter them into the ledger."""
    zone = pipeline.zone(settings)
    prefix = pipeline.prefix_of(dataset) if dataset else ""
    files = distinct(paths, prefix)
    landed = Landed()
    with postgres.ready(settings).connect() as connection:
        pipeline.sync_datasets(connection, settings)
        entered = 0
        for key, path in files.items():
            if not is_key(key):
                landed.unusable.append(key)
                continue
            modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            landed.objects.append(zone.landing.write(pipeline.landing_key(settings, key), read_file(path), modified=modified))
            if len(landed.objects) - entered >= _PAGE:
                _enter(connection, zone, landed.objects[entered:])
                entered = len(landed.objects)
        _enter(connection, zone, landed.objects[entered:])
        zone.assign(connection)
        add_partitions(pipeline, settings, connection)
    return landed


def _enter(connection: Connection, zone: Zone, objects: Sequence[StoredObject]) -> None:
    arrivals = [arrival for arrival in map(zone.arrival, objects) if arrival is not None]
    ledger.discover(connection, zone.pipeline, zone.landing.url, arrivals, datetime.now(UTC))


def add_partitions(pipeline: Pipeline, settings: Settings, connection: Connection) -> None:
    """Tell Dagster of partitions that have come up with what has arrived."""
    if pipeline.dynamic_partitions is None:
        return
    name, keys = pipeline.dynamic_partitions(connection)
    if not keys:
        return
    from ingestion_dagster.engine.dagster import open_instance

    prepare_dagster_home(settings)
    with open_instance() as instance:
        known = set(instance.get_dynamic_partitions(name))
        if new := [key for key in keys if key not in known]:
            instance.add_dynamic_partitions(name, new)


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is narrowed to, and how it goes about it."""

    dataset: str | None = None
    partition: str | None = None
    as_of: str | None = None
    dry_run: bool = False
    boot_from: Path | None = None

    def config(self) -> dict[str, Any]:
        """The launchpad configuration that says so."""
        asked: dict[str, Any] = {"as_of": self.as_of, "dry_run": self.dry_run}
        if self.boot_from:
            asked |= {"boot_from": str(self.boot_from.absolute()), "boot_in_production": True}
        return {option: value for option, value in asked.items() if value}


def await_settled(pipeline: Pipeline, settings: Settings, connection: Connection) -> landing.Discovery:
    """Discover until no object is still being written (a minute at most; what still changes then is left to the next run)."""
    zone = pipeline.zone(settings)
    deadline = time.monotonic() + _LONGEST_WAIT
    while True:
        found = landing.discover(connection, zone, datetime.now(UTC))
        if not found.settling or time.monotonic() > deadline:
            return found
        time.sleep(min(0.2, settings.settle_seconds))


Progress = Callable[[int, int], None]
"""Told now and then how many loads of how many are done."""


def run(pipeline: Pipeline, settings: Settings, request: Request, progress: Progress | None = None) -> RunSummary:
    """Load until nothing in the request's scope is claimable, in this process, through Dagster; what the runs did, summed.

    Raises `RunFailed`.
    """
    if pipeline.keyed is not None:
        return _run_keyed(pipeline, settings, request, pipeline.keyed)
    prepare_dagster_home(settings)
    with postgres.ready(settings).connect() as connection:
        if request.dry_run:
            return sum((_judged(_in_process(settings, job, request)) for job in _jobs(pipeline, settings, request)), start=RunSummary())
        pipeline.sync_datasets(connection, settings)
        limits = Limits.of(settings)
        landing.sweep(connection, pipeline.zone(settings), lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts)
        await_settled(pipeline, settings, connection)
        add_partitions(pipeline, settings, connection)
        total = RunSummary()
        for job in _jobs(pipeline, settings, request):
            total += _work_off(connection, pipeline, settings, job, request, progress)
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
    prepare_dagster_home(settings)
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


def run_keyed(pipeline: str, settings: Settings, wanted: KeyedRun, assets: Sequence[tuple[str, ...]] = (), tags: Tags = None) -> str:
    """One run with a partition key, which is told to Dagster first; narrowed to these assets (none: all). Its id. Raises `RunFailed`."""
    prepare_dagster_home(settings)
    job = _Job(pipeline, wanted.job, None, tuple(assets))
    return _in_process(settings, job, None, keyed=wanted, tags=tags).run_id


def run_job(pipeline: str, settings: Settings, job: str, config: Mapping[str, Any], tags: Tags = None) -> str:
    """One run of a job that takes this configuration at its one step; its id. Raises `RunFailed`."""
    prepare_dagster_home(settings)
    return _in_process(settings, _Job(pipeline, job), None, tags=tags, step_config=config).run_id


def _jobs(pipeline: Pipeline, settings: Settings, request: Request) -> list["_Job"]:
    """The jobs that a request is for: those that load its dataset, and have its partition."""
    asset = pipeline.asset_of(request.dataset) if request.dataset else None
    assets = (asset,) if asset else ()
    jobs = [_Job(pipeline.name, job.name, job.datasets(), assets) for job in pipeline.jobs if not asset or job.loads(request.dataset or "")]
    if request.partition is None:
        return jobs
    having = check_partition(pipeline, settings, request.partition)
    return [job for job in jobs if job.name in having]


def _work_off(
    connection: Connection, pipeline: Pipeline, settings: Settings, job: "_Job", request: Request, progress: Progress | None
) -> RunSummary:
    """Runs of one job until it can claim nothing more."""
    datasets = frozenset({request.dataset}) if request.dataset else job.datasets
    scope = Scope(pipeline.name, datasets, frozenset({request.partition}) if request.partition else None)
    total = RunSummary()
    while True:
        waiting, _ = ledger.claimable(connection, scope)
        before = pipeline.progress(connection)
        if len(pipeline.jobs) > 1:
            assets = tuple(filter(None, map(pipeline.asset_of, ledger.claimable_datasets(connection, scope))))
            if not assets:
                return total
            job = replace(job, assets=assets)
        with _watched(settings, scope, waiting, progress):
            run_id = _in_process(settings, job, request).run_id
        did = whereabouts.of_run(connection, pipeline.name, run_id)
        total = total + did
        left, _ = ledger.claimable(connection, scope)
        if (request.as_of and pipeline.as_of_narrows) or not left:
            return total
        if left == waiting and not did.loads and pipeline.progress(connection) == before:
            return replace(total, left=left)


def _follow(connection: Connection, pipeline: Pipeline, settings: Settings) -> None:
    """Materialize what follows from what has been loaded."""
    if pipeline.behind is None or pipeline.follow_job is None:
        return
    if assets := pipeline.behind(connection, settings):
        _in_process(settings, _Job(pipeline.name, pipeline.follow_job, None, tuple(assets)), None)


def boot(pipeline: Pipeline, settings: Settings, folder: Path) -> RunSummary:
    """Replace every fact of a pipeline by what the files of a folder say, in one run; what it did. Raises `RunFailed`."""
    if not any(is_key(key) for key, _ in local_files([folder])):
        raise ConfigurationError(f"there is no file in {folder} to boot from: every fact would go")
    prepare_dagster_home(settings)
    with postgres.ready(settings).connect() as connection:
        job = _Job(pipeline.name, pipeline.jobs[0].name)
        run_id = _in_process(settings, job, Request(boot_from=folder)).run_id
        return whereabouts.of_run(connection, pipeline.name, run_id)


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was there on the first day: lines on what was taken over in the database, and how many files were marked as done."""

    told: tuple[str, ...]
    files: int
    doubts: tuple[str, ...] = ()
    """Lines on files that a person should look at."""


def adopt(pipeline: Pipeline, settings: Settings, before: datetime | None = None, *, dry_run: bool = False) -> Adopted:
    """Take over a living system: its tables, and, as done, the files that stand in the landing zone (modified before `before`).

    Nothing is loaded. The files are moved to where loaded ones go. Of a pipeline that can tell which files were dealt with, only those.
    """
    told = pipeline.take_over(postgres.locate(settings), dry_run)
    zone = pipeline.zone(settings)
    if told and pipeline.takes_over_loads and before is None:
        return Adopted(told, 0)
    if not told:
        postgres.ready(settings)
    if dry_run:
        standing = [seen for seen in zone.landing.list() if before is None or seen.modified < before]
        dealt_with, doubts = pipeline.done(settings, standing)
        return Adopted(told, len(dealt_with), doubts)
    database = postgres.ready(settings)
    limits = Limits.of(settings)
    run_id = f"adopt-{uuid.uuid4().hex[:8]}"
    adopted = 0
    with database.connect() as connection:
        pipeline.sync_datasets(connection, settings)
        await_settled(pipeline, settings, connection)
        scope = Scope(pipeline.name, waiting=True, paused=True)
        there = [load for load in ledger.claimable_loads(connection, scope) if before is None or load.modified < before]
        dealt_with, doubts = pipeline.done(settings, [load.stored_object for load in there])
        there = [load for load in there if load.key in dealt_with]
        with Claims(database, replace(scope, ids=frozenset(load.id for load in there)), run_id, limits) as claims:
            for batch in claims.batches(connection):
                with connection.transaction():
                    ledger.settle(connection, [Verdict(load, Status.READY_FOR_ARCHIVING, why=ADOPTED) for load in batch])
                done = [replace(load, status=Status.READY_FOR_ARCHIVING) for load in batch]
                landing.move(connection, zone, done, lease_seconds=limits.lease_seconds, run_id=run_id)
                adopted += len(batch)
    return Adopted(told, adopted, doubts)


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


@dataclass(frozen=True, slots=True)
class _Job:
    """A job to run: which, of what datasets (None: all), narrowed to which assets (none: all)."""

    pipeline: str
    name: str
    datasets: frozenset[str] | None = None
    assets: tuple[tuple[str, ...], ...] = ()


def _in_process(
    settings: Settings,
    wanted: _Job,
    request: Request | None,
    *,
    keyed: KeyedRun | None = None,
    tags: Tags = None,
    step_config: Mapping[str, Any] | None = None,
) -> "dg.ExecuteInProcessResult":
    """One run of a job; without a request it is one that takes none."""
    import dagster as dg

    from ingestion_dagster.definitions import defs
    from ingestion_dagster.engine.dagster import LoadConfig, open_instance, run_tags

    # What a keyed run is refused for is told by its load, and why it failed in one line by the caller: no stack traces besides.
    level = "CRITICAL" if keyed else "WARNING"
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": level}}}}
    job = defs.resolve_job_def(wanted.name)
    if request is not None:
        LoadConfig(as_of=request.as_of).clock()
        config["ops"] = {node.name: {"config": request.config()} for node in job.nodes}
    if step_config is not None:
        config["ops"] = {node.name: {"config": dict(step_config)} for node in job.nodes}
    partition = keyed.partition if keyed else request.partition if request else None
    with open_instance() as instance:
        if keyed and not instance.has_dynamic_partition(keyed.definition, keyed.partition):
            instance.add_dynamic_partitions(keyed.definition, [keyed.partition])
        result = job.execute_in_process(
            raise_on_error=False,
            instance=instance,
            asset_selection=[dg.AssetKey(list(asset)) for asset in wanted.assets] or None,
            partition_key=partition,
            tags=run_tags(wanted.pipeline, settings) | dict(tags or {}),
            run_config=config,
        )
    if not result.success:
        raise RunFailed(f"run {result.run_id} failed: {_why(result)}")
    return result


def _why(result: "dg.ExecuteInProcessResult") -> str:
    """What a failed run failed for, in one line: the step's own words, or the error at the bottom of what Dagster recorded."""
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return str(failure.user_failure_data.description)
            error = failure.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                return error.message.strip().splitlines()[0].rpartition("errors.")[2]
    return "see its log in the UI"


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

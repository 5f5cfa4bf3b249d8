"""One run of one job in this process, through Dagster."""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ingestion_dagster.engine.home import prepare_dagster_home
from ingestion_dagster.engine.pipeline import KeyedRun
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    import dagster as dg


class RunFailed(Exception):
    """The run itself failed; what it had committed by then stays. The message says why, and which run it was."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job to run, narrowed to which assets (none: all) and to which partition; `config`: what each of its steps is given.

    `definition`: the dynamic partitions that the partition is one of; Dagster is told of it first. `quiet`: whoever asked tells himself
    what was refused.
    """

    pipeline: str
    name: str
    assets: tuple[tuple[str, ...], ...] = ()
    partition: str | None = None
    definition: str | None = None
    config: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False


def execute(settings: Settings, wanted: Job) -> "dg.ExecuteInProcessResult":
    """What a run of it did. Raises `RunFailed`."""
    prepare_dagster_home(settings)
    import dagster as dg

    from ingestion_dagster.definitions import defs
    from ingestion_dagster.engine.dagster import open_instance, run_tags

    # What a run for one load is refused for is told by that load, and why it failed in one line by the caller: no stack traces besides.
    level = "CRITICAL" if wanted.definition or wanted.quiet else "WARNING"
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": level}}}}
    job = defs.resolve_job_def(wanted.name)
    if wanted.config is not None:
        config["ops"] = {node.name: {"config": dict(wanted.config)} for node in job.nodes}
    with open_instance() as instance:
        if wanted.definition and wanted.partition and not instance.has_dynamic_partition(wanted.definition, wanted.partition):
            instance.add_dynamic_partitions(wanted.definition, [wanted.partition])
        with _termination_as_before():
            result = job.execute_in_process(
                raise_on_error=False,
                instance=instance,
                asset_selection=[dg.AssetKey(list(asset)) for asset in wanted.assets] or None,
                partition_key=wanted.partition,
                tags=run_tags(wanted.pipeline, settings) | dict(wanted.tags),
                run_config=config,
            )
    if not result.success:
        raise RunFailed(f"run {result.run_id} failed: {_why(result)}")
    return result


@contextmanager
def _termination_as_before() -> Iterator[None]:
    """Dagster leaves SIGTERM as SIGINT is: ignored, where a script has begun the command with `&`, and nothing could end it any more."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


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


def run_keyed(
    pipeline: str, settings: Settings, wanted: KeyedRun, assets: Sequence[tuple[str, ...]] = (), tags: Mapping[str, str] | None = None
) -> str:
    """One run for one load, narrowed to these assets (none: all); its id. Raises `RunFailed`."""
    return execute(settings, Job(pipeline, wanted.job, tuple(assets), wanted.partition, wanted.definition, tags=tags or {})).run_id

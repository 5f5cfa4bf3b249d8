"""One run of a load step: what every pipeline does around its own loading. A pipeline says only what is its own (`Loading`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import dagster as dg
import psycopg

from ingestion_dagster.engine import ledger, moving, whereabouts
from ingestion_dagster.engine.alerting import errored_loads_alert, failed_checks_alert
from ingestion_dagster.engine.checks import evaluated, failed_names
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.dagster import (
    LANDING_DAYS,
    PIPELINE_TAG,
    QUEUE_TAG,
    RETRY_STEP,
    Ingestion,
    LoadConfig,
    load_metadata,
    narrowed,
    no_retry_of_mistakes,
    partitions_asked_for,
    summary,
)
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Scope
from ingestion_dagster.engine.outcome import Outcome, Tally
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings

Claim = Callable[[], AbstractContextManager[Claims]]
"""Opens the claims of a run: what its scope is narrowed to, discovered and put back."""


@dataclass(frozen=True, slots=True)
class Part:
    """An asset of a load step: the datasets that feed it, and what is told of it for some partitions besides the common vocabulary."""

    key: dg.AssetKey
    fed_by: Sequence[str]
    more: Callable[[Connection, Outcome, list[str]], Mapping[str, Any]] = lambda _connection, _outcome, _partitions: {}
    row_count: Callable[[Connection, Tally], int | None] = lambda _connection, _tally: None
    """`dagster/row_count`; None: the rows that were written."""
    is_pending: Callable[[str], bool] = lambda _partition: False
    """Whether loads stand in a partition that Dagster has none for: they are observed."""


@dataclass(frozen=True, slots=True)
class Loading:
    """What a pipeline says of one run of its load step; `run_load_step` does it, in this order."""

    pipeline: str
    zone: Zone
    scope: Scope
    parts: Sequence[Part]
    """The assets that are selected."""
    outcome: Outcome
    """Filled while it loads; what it holds when loading fails is committed."""
    enter: Callable[[Connection], object]
    """Enter the datasets into the ledger."""
    judge: Callable[[Connection, Sequence[Load]], dg.AssetObservation]
    """What loading these would do, for a dry run."""
    load: Callable[[Connection, Claim], Outcome | None]
    """The loading itself. Another outcome than `outcome` is returned."""
    checks: Callable[[Connection, Outcome, Sequence[Any]], Iterable[dg.AssetCheckResult]]
    """The selected checks, given what was materialized."""
    narrow: Callable[[Connection, Scope, str], Scope] | None = None
    """What the run of an id may claim; None: as `narrowed`."""
    before: Callable[[Connection], object] = lambda _connection: None
    """Once the datasets are entered, and not for a dry run."""
    observe: Callable[[Connection, Outcome], Iterable[dg.AssetObservation]] = lambda _connection, _outcome: ()
    """Further observations."""
    add_partitions: Callable[[Sequence[str]], object] | None = None
    """Tells Dagster of partitions that have come up, before they are materialized."""
    tell: Callable[[Connection, Outcome], object] = lambda _connection, _outcome: None
    """Alerts of its own, also when loading failed."""
    explain: Callable[[Exception], Exception | None] = lambda _error: None
    """The error that people should see instead; None: that one."""


def load_step(
    name: str,
    specs: Sequence[dg.AssetSpec],
    checks: Sequence[dg.AssetCheckSpec],
    partitions: dg.PartitionsDefinition[str] = LANDING_DAYS,
) -> Callable[[Callable[..., Iterator[Any]]], dg.AssetsDefinition]:
    """Makes a function the load step of these assets: any selection of them, one run for any range of partitions."""
    return dg.multi_asset(
        name=name,
        specs=specs,
        check_specs=checks,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY_STEP,
        can_subset=True,
    )


def load_job(name: str, pipeline: str, step: dg.AssetsDefinition, description: str, queue: str | None = None) -> Any:
    """The job that runs a load step, in one process; Dagster does not export its type.

    Jobs of a `queue` (by default: of a pipeline) take turns.
    """
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(step),
        description=description,
        tags={PIPELINE_TAG: pipeline, QUEUE_TAG: queue or pipeline},
        executor_def=dg.in_process_executor,
    )


def run_load_step(
    context: dg.AssetExecutionContext,
    config: LoadConfig,
    ingestion: Ingestion,
    plan: Callable[[Settings, frozenset[str] | None], Loading],
) -> Iterator[Any]:
    """One run of a load step: what it is narrowed to, the load, and what there is to tell about it.

    `plan` is given the settings and the partition keys of the run (None: a run without any takes whatever is claimable). Raises
    `dg.Failure`, not to be tried again, for a set-up or a request that cannot work.
    """
    with no_retry_of_mistakes():
        settings, partitions = ingestion.settings(), partitions_asked_for(context)
        # A pipeline that cannot do at all what is asked says so, whatever else is wrong with it.
        loading = plan(settings, partitions)
        _refuse_contradictions(config, partitions)
        database = ingestion.database()
        with database.connect() as connection:
            if config.dry_run:
                yield _dry_run(connection, config, loading)
            else:
                yield from _loaded(context, config, loading, settings, database, connection, partitions)


def _refuse_contradictions(config: LoadConfig, partitions: frozenset[str] | None) -> None:
    if config.replay and partitions is None:
        raise ConfigurationError("replay needs a partition: without one it would load everything again")
    if config.replay and config.only_errored:
        raise ConfigurationError("replay loads what is archived, only_errored what is errored: ask for one of them")


def _dry_run(connection: Connection, config: LoadConfig, loading: Loading) -> dg.AssetObservation:
    """Judge what a run would load. What has to be entered to see it is rolled back."""
    with connection.transaction(force_rollback=True):
        loading.enter(connection)
        loads = ledger.claimable_loads(connection, narrowed(connection, loading.scope, loading.zone, config))
    # Not in there: nobody else could discover anything meanwhile.
    return loading.judge(connection, loads)


def _loaded(
    context: dg.AssetExecutionContext,
    config: LoadConfig,
    loading: Loading,
    settings: Settings,
    database: Database,
    connection: Connection,
    partitions: frozenset[str] | None,
) -> Iterator[Any]:
    run_id, limits, zone = context.run.run_id, Limits.of(settings), loading.zone
    loading.enter(connection)
    loading.before(connection)
    moving.sweep(connection, zone, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)

    def claim() -> Claims:
        if loading.narrow is not None:
            scope = loading.narrow(connection, loading.scope, run_id)
        else:
            scope = narrowed(connection, loading.scope, zone, config, run_id)
        return Claims(database, scope, run_id, limits)

    try:
        outcome = loading.load(connection, claim) or loading.outcome
    except Exception as error:
        yield from _committed(loading, database)
        loading.tell(connection, loading.outcome)
        if (instead := loading.explain(error)) is not None:
            raise instead from None
        raise
    context.log.info("%s", summary(outcome))
    told = list(materializations(connection, loading, outcome, partitions))
    yield from told
    yield from loading.observe(connection, outcome)
    results = list(loading.checks(connection, outcome, told))
    for each in results:
        yield from [each] if context.has_partition_key else evaluated(each)
    loading.tell(connection, outcome)
    errored_loads_alert(connection, settings, loading.pipeline, run_id)
    failed_checks_alert(connection, settings, loading.pipeline, run_id, failed_names(results))


def materializations(
    connection: Connection, loading: Loading, outcome: Outcome, partitions: frozenset[str] | None
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetMaterialization | dg.AssetObservation]:
    """One materialization per selected asset; in a run without partition key, one per partition that it touched."""
    fed_by = {dataset for part in loading.parts for dataset in part.fed_by}
    touched = outcome.partitions(fed_by) if partitions is None else sorted(partitions)
    statuses = whereabouts.status_counts(connection, loading.pipeline, touched)
    if loading.add_partitions is not None:
        pending = {each for each in touched for part in loading.parts if part.is_pending(each)}
        loading.add_partitions([each for each in touched if each not in pending])
    for part in loading.parts:
        if partitions is not None:
            yield dg.MaterializeResult(part.key, metadata=_metadata(connection, loading.pipeline, outcome, part, statuses, touched))
            continue
        for partition in outcome.partitions(part.fed_by):
            metadata = _metadata(connection, loading.pipeline, outcome, part, statuses, [partition])
            if part.is_pending(partition):
                yield dg.AssetObservation(part.key, description="refused before its partition was known", metadata=metadata)
            else:
                yield dg.AssetMaterialization(part.key, partition=partition, metadata=metadata)


def _committed(loading: Loading, database: Database) -> Iterator[Any]:
    """In a run that fails: its committed batches stay loaded, so they are materialized all the same, as events, whatever the run's key."""
    with suppress(ConfigurationError, psycopg.Error), database.connect() as connection:
        yield from materializations(connection, loading, loading.outcome, None)


def _metadata(
    connection: Connection, pipeline: str, outcome: Outcome, part: Part, statuses: Sequence[Mapping[str, Any]], partitions: list[str]
) -> dict[str, Any]:
    tally = outcome.total(part.fed_by, partitions[0] if len(partitions) == 1 else None)
    own = [row for row in statuses if row["dataset"] in part.fed_by and row["partition"] in partitions]
    refused = any(row["status"] == "errored" for row in own)
    errors = whereabouts.errors(connection, pipeline, part.fed_by, partitions) if refused else []
    common = load_metadata(tally, outcome.seconds, own, errors, row_count=part.row_count(connection, tally))
    return common | dict(part.more(connection, outcome, partitions))


def foretold(landing_zone: dg.AssetKey, outcome: Outcome) -> dg.AssetObservation:
    """What judging all loads came to, as an observation of where they lie."""
    total = outcome.total()
    return dg.AssetObservation(
        landing_zone,
        description=f"dry run: {summary(outcome)}",
        metadata={
            "loads": total.loads_archived + total.loads_errored,
            "errored": total.loads_errored,
            "rows_in": total.rows_in,
            "rows_rejected": total.rows_rejected,
        },
    )

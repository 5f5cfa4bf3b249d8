"""Current tables as assets that follow what was loaded, what is checked of them, and their upkeep; one table's trouble is not another's."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ingestion_dagster.cubic import catalogue, current_state, delta_table, schemas
from ingestion_dagster.cubic import current as current_tables
from ingestion_dagster.cubic.current import Refreshed
from ingestion_dagster.cubic.registry import PIPELINE, CubicTable, Registry, registry
from ingestion_dagster.engine.alerting import failed_checks_alert
from ingestion_dagster.engine.checks import Finding, failed_names, result, table
from ingestion_dagster.engine.dagster import OWNERS, PIPELINE_TAG, QUEUE_TAG, RETRY_STEP, Ingestion, column_schema, no_retry_of_mistakes
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.scheduled import schedule_status
from ingestion_dagster.settings import Settings, current

CURRENT_JOB = "cubic_current"
MAINTENANCE_JOB = "cubic_maintenance"
CHECKS_JOB = "cubic_current_checks"
UP_TO_DATE = "current_is_up_to_date"
ROWS_MATCH = "current_rows_match"

COMPACTED_KEY = dg.AssetKey([PIPELINE, "maintenance", "compacted"])
VACUUMED_KEY = dg.AssetKey([PIPELINE, "maintenance", "vacuumed"])
CATALOGUE_KEY = dg.AssetKey([PIPELINE, "maintenance", "catalogue"])

_LOADED = dg.AutomationCondition.any_deps_updated()
FOLLOWS = (_LOADED.since(dg.AutomationCondition.newly_requested() & ~_LOADED) & ~dg.AutomationCondition.in_progress()).with_label(
    "after its inputs, one run at a time"
)
"""Whatever partition of an input was loaded. Not Dagster's own `since_last_handled`: that forgets what is loaded in the moment after a
request, which the run that was requested may have been too early for.
"""

_SENSOR_SECONDS = 30


@dataclass(frozen=True, slots=True)
class CurrentDefinitions:
    """What current tables offer to Dagster; nothing where no table has one."""

    assets: Sequence[dg.AssetsDefinition] = ()
    asset_checks: Sequence[dg.AssetChecksDefinition] = ()
    jobs: Sequence[Any] = ()
    schedules: Sequence[dg.ScheduleDefinition] = ()
    sensors: Sequence[dg.SensorDefinition] = ()


class CurrentConfig(dg.Config):
    """What the launchpad offers for current tables."""

    rebuild: bool = False
    """Build them from the springboard, whatever they hold."""


class UpkeepConfig(dg.Config):
    """What the launchpad offers for their upkeep."""

    retention_hours: int = 7 * 24
    """Files that a version of the last so many hours needs are kept: a reader that has begun can end."""


def key_of(each: CubicTable) -> dg.AssetKey:
    """The asset of a table's current table."""
    return dg.AssetKey([PIPELINE, "current", each.slug])


def spec(each: CubicTable, changes: CubicTable, settings: Settings) -> dg.AssetSpec:
    """The asset of a current table."""
    return dg.AssetSpec(
        key=key_of(each),
        deps=[dg.AssetKey(list(each.asset)), dg.AssetKey(list(changes.asset))],
        description=f"The newest state of `{each.name}`, one row for each key, as a Delta table; deleted keys are gone.",
        group_name=PIPELINE,
        kinds={"deltalake"},
        owners=OWNERS,
        skippable=True,
        automation_condition=FOLLOWS,
        metadata={"dagster/uri": delta_table.location(settings, each), "dagster/table_name": f"{each.name}__current"},
    )


def definitions_of(tables_of: Registry, settings: Settings) -> CurrentDefinitions:
    """Assets, checks, jobs, schedules and the sensor for the tables of a registry."""
    tables = current_state.tables(tables_of)
    published = _catalogue_asset(tables_of, settings)
    if not tables:
        return CurrentDefinitions(assets=(published,) if published else ())

    @dg.multi_asset(
        name="cubic_current_step",
        specs=[spec(each, tables_of.changes_of(each), settings) for each in tables],
        check_specs=[
            dg.AssetCheckSpec(UP_TO_DATE, asset=key_of(each), description="Every load that is committed is in the current table.")
            for each in tables
        ],
        retry_policy=RETRY_STEP,
        can_subset=True,
    )
    def cubic_current(context: dg.AssetExecutionContext, config: CurrentConfig, ingestion: Ingestion) -> Iterator[Any]:
        """Current tables: merges what was loaded, or builds anew what a merge cannot express, one table after the other."""
        with no_retry_of_mistakes():
            yield from refresh_step(context, config, ingestion)

    @dg.multi_asset_check(
        name="cubic_current_daily_checks",
        specs=[
            dg.AssetCheckSpec(ROWS_MATCH, asset=key_of(each), description="It has a row for each key that the springboard says is alive.")
            for each in tables
        ],
        can_subset=True,
    )
    def cubic_current_daily(context: dg.AssetCheckExecutionContext, ingestion: Ingestion) -> Iterator[dg.AssetCheckResult]:
        """Counts keys in the springboard, and compares."""
        yield from check_step(context, ingestion)

    jobs = {
        name: dg.define_asset_job(
            name,
            selection=selection,
            description=description,
            tags={PIPELINE_TAG: PIPELINE, QUEUE_TAG: CURRENT_JOB},
            executor_def=dg.in_process_executor,
        )
        for name, selection, description in (
            (CURRENT_JOB, dg.AssetSelection.assets(cubic_current), "Bring every current table up to date."),
            (MAINTENANCE_JOB, dg.AssetSelection.assets(cubic_upkeep), "Write small files of current tables together, delete old ones."),
            (CHECKS_JOB, dg.AssetSelection.checks(cubic_current_daily), "Compare current tables with the springboard."),
        )
    }
    is_running = settings.sensors == "running"
    schedules = [
        dg.ScheduleDefinition(
            name=f"{name}_schedule",
            job=jobs[name],
            cron_schedule=cron,
            execution_timezone="UTC",
            description=description,
            default_status=schedule_status(settings),
        )
        for name, cron, description in (
            (MAINTENANCE_JOB, "30 3 * * 0", "Tidies up current tables every Sunday."),
            (CHECKS_JOB, "30 4 * * *", "Compares current tables with the springboard every night."),
        )
    ]
    sensor = dg.AutomationConditionSensorDefinition(
        "cubic_current_sensor",
        target=dg.AssetSelection.assets(cubic_current, *([published] if published else [])),
        description="Brings current tables up to date after their inputs, and the catalogue if there is one.",
        run_tags={PIPELINE_TAG: PIPELINE, QUEUE_TAG: CURRENT_JOB},
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if is_running else dg.DefaultSensorStatus.STOPPED,
    )
    assets = [cubic_current, cubic_upkeep, *([published] if published else [])]
    return CurrentDefinitions(assets, [cubic_current_daily], list(jobs.values()), schedules, [sensor])


def refresh_step(context: dg.AssetExecutionContext, config: CurrentConfig, ingestion: Ingestion) -> Iterator[Any]:
    """Refresh the selected tables one after the other, and fail at the end if any could not be."""
    settings = ingestion.settings()
    tables_of = registry(settings)
    troubles = _Troubles()
    results = []
    with ingestion.database().connect() as connection:
        for each in _selected(current_state.tables(tables_of), context.selected_asset_keys):
            refreshed = None
            with troubles.caught(each):
                refreshed = current_tables.refresh(connection, settings, tables_of, each, rebuild=config.rebuild)
            if refreshed is not None:
                context.log.info("%s", summary(refreshed))
                yield dg.MaterializeResult(key_of(each), metadata=_metadata(refreshed, settings, each))
            check = dg.AssetCheckKey(key_of(each), UP_TO_DATE)
            if check in context.selected_asset_check_keys and (refreshed is not None or each.name in troubles.codes):
                code = troubles.codes.get(each.name)
                results.append(result(check, (code is None, dg.AssetCheckSeverity.ERROR, {"code": code} if code else {})))
                yield results[-1]
        _publish(context, connection, settings, tables_of)
        failed_checks_alert(connection, settings, PIPELINE, context.run.run_id, failed_names(results))
    troubles.raise_any()


def check_step(context: dg.AssetCheckExecutionContext, ingestion: Ingestion) -> Iterator[dg.AssetCheckResult]:
    """Compare the selected current tables with the springboard; what could not be compared has failed, with its code."""
    settings = ingestion.settings()
    tables_of = registry(settings)
    results = []
    with ingestion.database().connect() as connection:
        for check in sorted(context.selected_asset_check_keys):
            each = next(each for each in current_state.tables(tables_of) if key_of(each) == check.asset_key)
            results.append(result(check, rows_match(connection, settings, tables_of, each)))
            yield results[-1]
        failed_checks_alert(connection, settings, PIPELINE, context.run.run_id, failed_names(results))


def rows_match(connection: Connection, settings: Settings, tables_of: Registry, each: CubicTable) -> Finding:
    """The current table has as many rows as the springboard has keys that are alive. One that lags behind is not compared."""
    try:
        with current_tables.locked(connection, each):
            expected = current_tables.count_rows(connection, settings, tables_of, each)
            delta = delta_table.open_delta(settings, each) if expected is not None else None
    except (Transient, ConfigurationError) as error:
        return False, dg.AssetCheckSeverity.ERROR, {"code": _code(error)}
    if expected is None:
        return True, dg.AssetCheckSeverity.ERROR, {"compared": False}
    rows = delta.count() if delta is not None else 0
    return rows == expected, dg.AssetCheckSeverity.ERROR, {"compared": True, "rows": rows, "keys_in_springboard": expected}


@dg.multi_asset(
    name="cubic_current_upkeep",
    specs=[
        dg.AssetSpec(
            COMPACTED_KEY,
            description="Current tables whose small files have been written together; no row changes, and no reader notices.",
            group_name=PIPELINE,
            kinds={"deltalake"},
            owners=OWNERS,
            skippable=True,
        ),
        dg.AssetSpec(
            VACUUMED_KEY,
            deps=[COMPACTED_KEY],
            description="Current tables without the files that only versions before the last week need.",
            group_name=PIPELINE,
            kinds={"deltalake"},
            owners=OWNERS,
            skippable=True,
        ),
    ],
    can_subset=True,
)
def cubic_upkeep(context: dg.AssetExecutionContext, config: UpkeepConfig, ingestion: Ingestion) -> Iterator[dg.MaterializeResult[Any]]:
    """Upkeep of current tables: compaction, then vacuum, each over all tables."""
    settings = ingestion.settings()
    troubles = _Troubles()
    with ingestion.database().connect() as connection, no_retry_of_mistakes():
        if COMPACTED_KEY in context.selected_asset_keys:
            yield _kept_up(COMPACTED_KEY, connection, settings, troubles, lambda each: delta_table.compact(settings, each))
        if VACUUMED_KEY in context.selected_asset_keys:
            hours = config.retention_hours
            yield _kept_up(
                VACUUMED_KEY,
                connection,
                settings,
                troubles,
                lambda each: {"files_deleted": delta_table.vacuum(settings, each, hours)},
            )
        troubles.raise_any()


def _kept_up(
    key: dg.AssetKey, connection: Connection, settings: Settings, troubles: "_Troubles", work: Callable[[CubicTable], dict[str, int]]
) -> dg.MaterializeResult[Any]:
    started = time.monotonic()
    done: dict[str, dict[str, int]] = {}
    for each in current_state.tables(registry(settings)):
        with troubles.caught(each), current_tables.locked(connection, each):
            done[each.name] = work(each)
    names = sorted({name for counts in done.values() for name in counts})
    rows = [(dataset, *(str(counts[name]) for name in names)) for dataset, counts in done.items() if any(counts.values())]
    totals = {name: sum(counts[name] for counts in done.values()) for name in names}
    metadata: dict[str, Any] = {**totals, "tables": table(["table", *names], rows), "seconds": round(time.monotonic() - started, 3)}
    return dg.MaterializeResult(key, metadata=metadata)


def _catalogue_asset(tables_of: Registry, settings: Settings) -> dg.AssetsDefinition | None:
    if not tables_of.tables:
        return None
    of_current = [key_of(each) for each in current_state.tables(tables_of)]

    @dg.multi_asset(
        name="cubic_catalogue_step",
        specs=[
            dg.AssetSpec(
                CATALOGUE_KEY,
                deps=[*(dg.AssetKey(list(each.asset)) for each in tables_of.tables.values()), *of_current],
                description="Tables and partitions in the Glue catalogue. Off unless its databases are named.",
                group_name=PIPELINE,
                kinds={"glue"},
                owners=OWNERS,
                skippable=True,
                automation_condition=FOLLOWS if settings.cubic_glue_databases else None,
                metadata={"setting": "INGESTION_CUBIC_GLUE_DATABASES"},
            )
        ],
        retry_policy=RETRY_STEP,
    )
    def cubic_catalogue(ingestion: Ingestion) -> Iterator[dg.MaterializeResult[Any]]:
        """Publishes what is loaded and not in the catalogue yet."""
        with no_retry_of_mistakes(), ingestion.database().connect() as connection:
            settings = ingestion.settings()
            if settings.cubic_glue_databases:
                published = catalogue.sync(connection, settings, registry(settings))
                yield dg.MaterializeResult(
                    CATALOGUE_KEY, metadata={"tables_published": published.tables, "partitions_published": published.partitions}
                )

    return cubic_catalogue


class _Troubles:
    """What went wrong with which table, while the others go on."""

    def __init__(self) -> None:
        self.codes: dict[str, str] = {}
        self._messages: list[str] = []
        self._may_pass = False

    @contextmanager
    def caught(self, each: CubicTable) -> Iterator[None]:
        """Keep the trouble of a table for the end."""
        try:
            yield
        except (Transient, ConfigurationError) as error:
            self.codes[each.name] = _code(error)
            self._messages.append(f"{each.name}: {error}")
            self._may_pass = self._may_pass or isinstance(error, Transient)

    def raise_any(self) -> None:
        """Fail if there was any; a retry is worth while if it may pass."""
        if self._messages:
            told = "; ".join(self._messages)
            if self._may_pass:
                raise Transient("current_incomplete", told)
            raise ConfigurationError(told)


def _code(error: Exception) -> str:
    return error.code if isinstance(error, Transient) else "configuration"


def _selected(tables: Iterable[CubicTable], keys: Iterable[dg.AssetKey]) -> list[CubicTable]:
    wanted = set(keys)
    return [each for each in tables if key_of(each) in wanted]


def _publish(context: dg.AssetExecutionContext, connection: Connection, settings: Settings, tables_of: Registry) -> None:
    """Tell the catalogue of it. What hinders this is no trouble of a current table: the catalogue's own asset makes it good."""
    try:
        published = catalogue.sync(connection, settings, tables_of)
    except (Transient, ConfigurationError) as error:
        context.log.warning("the catalogue was not brought up to date: %s", error)
        return
    if published.tables or published.partitions:
        context.log.info("%d tables and %d partitions published to the catalogue", published.tables, published.partitions)


def _metadata(refreshed: Refreshed, settings: Settings, each: CubicTable) -> dict[str, Any]:
    return {
        "dagster/row_count": refreshed.rows,
        "dagster/column_schema": column_schema(schemas.described(refreshed.columns)),
        "dagster/uri": delta_table.location(settings, each),
        "snapshot": refreshed.snapshot,
        "rebuilt": refreshed.rebuilt,
        "loads_merged": refreshed.loads,
        "rows_inserted": refreshed.inserted,
        "rows_updated": refreshed.updated,
        "rows_deleted": refreshed.deleted,
        "version": refreshed.version,
        "seconds": round(refreshed.seconds, 3),
    }


def summary(refreshed: Refreshed) -> str:
    """A refresh in one line: numbers only."""
    how = "rebuilt" if refreshed.rebuilt else f"{refreshed.inserted} inserted, {refreshed.updated} updated, {refreshed.deleted} deleted"
    return (
        f"{refreshed.table}: {refreshed.loads} loads of snapshot {refreshed.snapshot}, {how}; "
        f"{refreshed.rows} rows; {refreshed.seconds:.1f} s"
    )


CURRENT_DEFINITIONS = definitions_of(registry(current()), current())

"""What is checked of every pipeline's loads, and how a check's result is told."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg

from ingestion_dagster.engine import ledger, whereabouts
from ingestion_dagster.engine.alerting import failed_checks_alert
from ingestion_dagster.engine.dagster import PIPELINE_TAG, Ingestion, error_table
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.scheduled import schedule_status
from ingestion_dagster.settings import Settings, current

ROWS_ADD_UP = "rows_add_up"
NOTHING_ERRORED = "nothing_errored"
NOTHING_LEFT_ERRORED = "nothing_left_errored"
CLAIMED_IN_TIME = "claimed_in_time"

_NAMED = 20

Finding = tuple[bool, dg.AssetCheckSeverity, dict[str, Any]]
"""Whether a check passed, how bad it is if not, and what it saw."""

Find = Callable[[Connection, Settings], Finding]
"""What a standing check sees."""


def result(check: dg.AssetCheckKey, finding: Finding) -> dg.AssetCheckResult:
    """A finding as the result of a check."""
    passed, severity, metadata = finding
    return dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=passed, severity=severity, metadata=metadata)


def accounted(loads: list[int]) -> Finding:
    """No load's rows are unaccounted for; else which loads, by their ids in `ledger.loads`, the first ones."""
    return not loads, dg.AssetCheckSeverity.ERROR, {"found": len(loads), "load_ids": loads[:_NAMED]}


def rows_add_up(connection: Connection, pipeline: str, dataset: str | None = None, run_id: str | None = None) -> Finding:
    """Every row that came in was written, unchanged or rejected."""
    return accounted(whereabouts.unaccounted(connection, pipeline, dataset, run_id))


def nothing_errored(connection: Connection, pipeline: str, dataset: str) -> Finding:
    """No file of a dataset stands refused."""
    codes = {code: count for code, _, count in whereabouts.errors(connection, pipeline, [dataset])}
    return not codes, dg.AssetCheckSeverity.WARN, {"loads_errored": sum(codes.values()), **codes}


def nothing_left_errored(connection: Connection, pipeline: str) -> Finding:
    """No file of a pipeline stands refused."""
    errors = whereabouts.errors(connection, pipeline)
    metadata = {"loads_errored": sum(count for _, _, count in errors), "load_errors": error_table(errors)}
    return not errors, dg.AssetCheckSeverity.WARN, metadata


def claimed_in_time(connection: Connection, pipeline: str, limit_minutes: int) -> Finding:
    """No file that could be loaded has waited beyond the limit."""
    waiting, _ = ledger.claimable(connection, Scope(pipeline))
    since = ledger.waiting_since(connection, Scope(pipeline))
    age = (ledger.now(connection) - since) / timedelta(minutes=1) if since else 0
    metadata = {"loads_claimable": waiting, "oldest_minutes": round(age, 1), "limit_minutes": limit_minutes}
    return age <= limit_minutes, dg.AssetCheckSeverity.ERROR, metadata


def load_check_specs(asset: Sequence[str], rows_add_up: str | None = None) -> list[dg.AssetCheckSpec]:
    """What every load step checks of each of its assets at the end of a run; `rows_add_up` describes what the rows must add up to."""
    return [
        dg.AssetCheckSpec(
            ROWS_ADD_UP, asset=list(asset), description=rows_add_up or "Every row that came in was written, unchanged or rejected."
        ),
        dg.AssetCheckSpec(NOTHING_ERRORED, asset=list(asset), description="No file of this kind stands refused."),
    ]


def found_of_loads(name: str, connection: Connection, pipeline: str, dataset: str, run_id: str) -> Finding | None:
    """What a check of `load_check_specs` sees of what a run has loaded; None for a check that is the pipeline's own."""
    if name == NOTHING_ERRORED:
        return nothing_errored(connection, pipeline, dataset)
    return rows_add_up(connection, pipeline, dataset, run_id) if name == ROWS_ADD_UP else None


def standing_specs(arrives_at: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """What must hold of every pipeline's loads whatever was loaded today, said of where they arrive."""
    return [
        dg.AssetCheckSpec(ROWS_ADD_UP, asset=arrives_at, description="For every load there has been, no row is unaccounted for."),
        dg.AssetCheckSpec(NOTHING_LEFT_ERRORED, asset=arrives_at, description="No file stands refused, of whatever dataset and day."),
        dg.AssetCheckSpec(CLAIMED_IN_TIME, asset=arrives_at, description="No file that could be loaded has waited beyond the limit."),
    ]


def standing_findings(pipeline: str, minutes: Callable[[Settings], int]) -> dict[str, Find]:
    """What the checks of `standing_specs` see; `minutes`: the limit for what could be loaded."""
    return {
        ROWS_ADD_UP: lambda connection, _settings: rows_add_up(connection, pipeline),
        NOTHING_LEFT_ERRORED: lambda connection, _settings: nothing_left_errored(connection, pipeline),
        CLAIMED_IN_TIME: lambda connection, settings: claimed_in_time(connection, pipeline, minutes(settings)),
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dg.TableMetadataValue:
    """Rows as a table for the UI."""
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in columns])
    return dg.TableMetadataValue(records=[dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows], schema=schema)


def failed_names(results: Iterable[dg.AssetCheckResult], *, warnings: bool = False) -> list[str]:
    """The checks that failed, for an alert; those that only warn if asked for."""
    return [
        f"{result.check_name} of {result.asset_key.to_user_string()}"
        for result in results
        if result.asset_key and not result.passed and (warnings or result.severity == dg.AssetCheckSeverity.ERROR)
    ]


def evaluated(result: dg.AssetCheckResult) -> Iterator[Any]:
    """A check result as Dagster would break it down: the event, and the output that says the check was not left out.

    Without one partition key, Dagster cannot tell which materialization a yielded result is about, and fails.
    """
    assert result.asset_key is not None
    assert result.check_name is not None
    yield dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
    )
    yield dg.Output(None, output_name=dg.AssetCheckSpec(result.check_name, asset=result.asset_key).get_python_identifier())


@dataclass(frozen=True, slots=True)
class StandingChecks:
    """What must hold whatever was loaded today: checks, the job that evaluates them, and its schedule."""

    checks: dg.AssetChecksDefinition
    job: Any
    """What `define_asset_job` returned; Dagster does not export its type."""
    schedule: dg.ScheduleDefinition


def standing_checks(
    pipeline: str,
    specs: Sequence[dg.AssetCheckSpec],
    findings: Mapping[str, Find],
    *,
    word: str,
    cron: str,
    timezone: str,
    description: str,
    before: Callable[[Connection, Settings], None],
) -> StandingChecks:
    """Checks that a run of their own evaluates, each by its name, after something has been put in order (`before`).

    `word` tells when, as in `daily`: `<pipeline>_daily_checks`, job `<pipeline>_checks`, `<pipeline>_daily_schedule`. Those that fail are
    alerted to, warnings too.
    """

    @dg.multi_asset_check(name=f"{pipeline}_{word}_checks", specs=list(specs), can_subset=True)
    def evaluate(context: dg.AssetCheckExecutionContext, ingestion: Ingestion) -> Iterator[dg.AssetCheckResult]:
        settings = ingestion.settings()
        with ingestion.database().connect() as connection:
            before(connection, settings)
            results = []
            for check in sorted(context.selected_asset_check_keys):
                results.append(result(check, findings[check.name](connection, settings)))
                yield results[-1]
            failed_checks_alert(connection, settings, pipeline, context.run.run_id, failed_names(results, warnings=True))

    job: Any = dg.define_asset_job(
        f"{pipeline}_checks",
        selection=dg.AssetSelection.checks(evaluate),
        description=description,
        tags={PIPELINE_TAG: pipeline},
        executor_def=dg.in_process_executor,
    )
    schedule = dg.ScheduleDefinition(
        name=f"{pipeline}_{word}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        description="Checks at its hour what must hold whatever was loaded.",
        default_status=schedule_status(current()),
    )
    return StandingChecks(evaluate, job, schedule)

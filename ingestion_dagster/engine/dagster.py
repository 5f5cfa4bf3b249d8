"""The resource, launchpad configuration and metadata vocabulary that the pipelines' load steps share."""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from ingestion_dagster.engine import discovery, ledger, logs, postgres
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.outcome import Outcome, Tally
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.secrets import secrets_of
from ingestion_dagster.settings import Settings, current

PIPELINE_TAG = "ingestion/pipeline"
ENVIRONMENT_TAG = "ingestion/environment"
QUEUE_TAG = "ingestion/queue"
"""Runs with one value of it take turns (dagster.yaml): a pipeline, or one of its jobs that must not wait for another."""

OWNERS = ["team:data-engineering"]

_EARLIEST_DAY = ZoneInfo("Europe/London")

LANDING_DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC", end_offset=1)
"""The day on which a load was discovered, UTC; today exists from its first second."""


class Ingestion(dg.ConfigurableResource[object]):
    """What a pipeline needs of the outside world, from this process's environment; nothing is opened before it is asked for."""

    def settings(self) -> Settings:
        """The settings of the environment, read now."""
        return current()

    def database(self) -> Database:
        """The ledger's and targets' database, schema up to date; the embedded server is started if it is the one in use."""
        return postgres.ready(self.settings())


@dg.logger(dg.Field({"log_level": dg.Field(str, default_value="INFO"), "name": dg.Field(str, default_value="dagster")}))
def console_log(context: dg.InitLoggerContext) -> logging.Logger:
    """A run's log on stderr: Dagster's own, or one JSON object a line if INGESTION_LOG_FORMAT says so."""
    settings = current()
    if settings.log_format == "text":
        logger: logging.Logger = dg.colored_console_logger.logger_fn(context)
        return logger
    found = logging.Logger(context.logger_config["name"], context.logger_config["log_level"].upper())  # noqa: LOG001 - one run's own
    handler = logging.StreamHandler()
    handler.setFormatter(logs.LineFormatter(secrets_of(settings)))
    found.addHandler(handler)
    return found


INGESTION = Ingestion()
"""The one instance every pipeline's definitions share: merging them refuses two under one name."""


class LoadConfig(dg.Config):
    """What the launchpad offers for a load step."""

    only_errored: bool = False
    """Load again what is errored in the selection, and nothing else."""
    replay: bool = False
    """Load again, from the archive, what is archived in the partitions of this run; only the newest version of each key."""
    as_of: str | None = None
    """ISO date. Load only what had been discovered by the end of that day, and judge embargoes by it."""
    dry_run: bool = False
    """Judge what would be loaded and report it; claim and write nothing."""

    def clock(self) -> datetime:
        """The instant a run goes by, UTC: now, or the end of the day named by `as_of`.

        Raises `ConfigurationError` for what is no day, or one that has not come.
        """
        now = datetime.now(UTC)
        if self.as_of is None:
            return now
        try:
            day = date.fromisoformat(self.as_of)
        except ValueError:
            raise ConfigurationError(f"as_of must be an ISO date such as {now:%Y-%m-%d}") from None
        # Where a day begins before UTC's does, today may be tomorrow.
        if day > max(now.date(), datetime.now(_EARLIEST_DAY).date()):
            raise ConfigurationError("as_of lies in the future")
        return min(now, datetime.combine(day, time.max, UTC))


def partitions_asked_for(context: dg.AssetExecutionContext) -> frozenset[str] | None:
    """The partition keys of this run; None in a run without any, which takes whatever is claimable."""
    if context.has_partition_key or context.has_partition_key_range:
        return frozenset(context.partition_keys)
    return None


def narrowed(connection: Connection, scope: Scope, zone: Zone, config: LoadConfig, run_id: str | None = None) -> Scope:
    """What a run may claim: its scope, with what has arrived by now entered, or with what is archived put back; or what was errored."""
    if config.only_errored:
        return replace(scope, ids=frozenset(ledger.retry(connection, scope, run_id=run_id).ready))
    if config.replay:
        ledger.replay(connection, scope, run_id)
        return scope  # and what an attempt that failed has put back before
    discovery.discover(connection, zone, datetime.now(UTC), run_id)
    return scope


def summary(outcome: Outcome) -> str:
    """A run in one line: numbers and codes only."""
    total = outcome.total()
    codes = ", ".join(f"{count} {code}" for code, count in sorted(outcome.codes.items()))
    return (
        f"{total.loads_archived} loads archived ({total.loads_duplicate} duplicate, {total.loads_late} late), {total.loads_errored} errored"
        f"{f' ({codes})' if codes else ''}; {total.rows_in} rows in, {total.rows_written} written, {total.rows_unchanged} unchanged, "
        f"{total.rows_rejected} rejected, {outcome.rows_withdrawn} withdrawn; "
        f"{outcome.moves_pending} moves pending; {outcome.seconds:.1f} s"
    )


RETRY_STEP = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
"""For a load step: what a client's own retries did not outlast. A mistake of set-up is not retried (`no_retry_of_mistakes`)."""


@contextmanager
def no_retry_of_mistakes() -> Iterator[None]:
    """Fail the step for good (`dg.Failure`) for a `ConfigurationError`: what is set up so that it cannot work is not tried again."""
    try:
        yield
    except ConfigurationError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def load_metadata(
    tally: Tally,
    seconds: float,
    statuses: Sequence[Mapping[str, Any]],
    errors: Sequence[tuple[str, str, int]] = (),
    *,
    row_count: int | None = None,
) -> dict[str, Any]:
    """The vocabulary every materialization carries: counts and codes only; the statuses of the partition's loads, and what is wrong."""
    return {
        "dagster/row_count": tally.rows_written if row_count is None else row_count,
        "dagster/partition_row_count": tally.rows_written,
        "loads_archived": tally.loads_archived,
        "loads_errored": tally.loads_errored,
        "loads_duplicate": tally.loads_duplicate,
        "loads_late": tally.loads_late,
        "rows_in": tally.rows_in,
        "rows_written": tally.rows_written,
        "rows_unchanged": tally.rows_unchanged,
        "rows_rejected": tally.rows_rejected,
        "bytes": tally.bytes,
        "seconds": round(seconds, 3),
        "load_statuses": status_table(statuses),
    } | ({"load_errors": error_table(errors)} if errors else {})


def status_table(statuses: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Status counts of loads as a table for the UI."""
    fields = ("dataset", "partition", "status", "loads", "rows_written", "rows_unchanged", "rows_rejected")
    schema = dg.TableSchema(
        columns=[dg.TableColumn(name, "string" if name in ("dataset", "partition", "status") else "int") for name in fields]
    )
    return dg.TableMetadataValue(records=[dg.TableRecord({name: row[name] for name in fields}) for row in statuses], schema=schema)


def error_table(errors: Iterable[tuple[str, str, int]]) -> dg.TableMetadataValue:
    """What loads of a partition stand refused for: code, the message of one of them, how many."""
    schema = dg.TableSchema(columns=[dg.TableColumn("code"), dg.TableColumn("for example"), dg.TableColumn("loads", "int")])
    records = [dg.TableRecord({"code": code, "for example": message, "loads": loads}) for code, message, loads in errors]
    return dg.TableMetadataValue(records=records, schema=schema)


def column_schema(columns: Iterable[tuple[str, str, str]]) -> dg.TableSchema:
    """A `dagster/column_schema` from (name, type, description)."""
    return dg.TableSchema(columns=[dg.TableColumn(name, kind, description) for name, kind, description in columns])


def documented(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The spec with what to read about it: its pipeline's page, as a link in the description too if it is known where the docs are."""
    page, docs = spec.key.path[0], current().docs_url
    if not docs:
        return spec.merge_attributes(metadata={"docs": f"docs/{page}.md"})
    url = f"{docs.rstrip('/')}/{page}.html"
    return spec.merge_attributes(metadata={"docs": dg.MetadataValue.url(url)}).replace_attributes(
        description=f"{spec.description}\n\n[More about {page}]({url})"
    )


def column_lineage(sources: Mapping[str, Iterable[tuple[dg.AssetKey, str]]]) -> dg.TableColumnLineage:
    """A `dagster/column_lineage`: for each column, the asset and column that its values come from."""
    deps = {column: [dg.TableColumnDep(asset, name) for asset, name in of] for column, of in sources.items()}
    return dg.TableColumnLineage({column: of for column, of in deps.items() if of})


def open_instance() -> dg.DagsterInstance:
    """The instance of this process's Dagster home. Two that open a new one take turns: Dagster creates its SQLite files without a lock.

    A home that cannot be written, as in the image, holds no such files.
    """
    home = Path(os.environ["DAGSTER_HOME"])
    with (home / ".opening").open("w") if os.access(home, os.W_OK) else nullcontext() as lock:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        instance = dg.DagsterInstance.get()
        instance.get_runs(limit=1)
        instance.all_asset_keys()
        instance.get_ticks("", "", limit=1)
        return instance


def add_partitions(instance: dg.DagsterInstance, wanted: Mapping[str, Sequence[str]], *, dry_run: bool = False) -> dict[str, int]:
    """Add those of these dynamic partitions, by the name of their definition, that Dagster does not know; how many of each."""
    added = {}
    for name, keys in wanted.items():
        known = set(instance.get_dynamic_partitions(name)) if keys else set()
        new = [key for key in keys if key not in known]
        if new and not dry_run:
            instance.add_dynamic_partitions(name, new)
        added[name] = len(new)
    return added


def run_tags(pipeline: str, settings: Settings, queue: str | None = None) -> dict[str, str]:
    """The tags every run of a pipeline carries: queue limits and alerts go by them."""
    return {PIPELINE_TAG: pipeline, ENVIRONMENT_TAG: settings.environment, QUEUE_TAG: queue or pipeline}

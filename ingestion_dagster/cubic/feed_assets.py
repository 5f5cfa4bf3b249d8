"""The DMAP feeds as assets: one step fetches each by itself, every afternoon; what one runs into, the others do not notice."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from ingestion_dagster.cubic.feeds import Feed, feeds_of
from ingestion_dagster.cubic.registry import PIPELINE, registry
from ingestion_dagster.engine.alerting import failed_checks_alert
from ingestion_dagster.engine.dagster import OWNERS, RETRY_STEP, Ingestion, error_table, no_retry_of_mistakes
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Transient
from ingestion_dagster.engine.scheduled import scheduled
from ingestion_dagster.settings import Settings, current

if TYPE_CHECKING:
    from ingestion_dagster.cubic.fetching import Fetched

JOB = "cubic_dmap_fetch"
NOTHING_INVALID = "nothing_invalid"
_LONGEST_SECONDS = 6 * 3600
_SETTING = {"public": "INGESTION_CUBIC_DMAP_PUBLIC_KEY", "controlled": "INGESTION_CUBIC_DMAP_CONTROLLED_KEY"}


@dataclass(frozen=True, slots=True)
class FeedDefinitions:
    """What the feeds offer to Dagster; nothing where no table wants one."""

    assets: Sequence[dg.AssetsDefinition] = ()
    jobs: Sequence[Any] = ()
    schedules: Sequence[dg.ScheduleDefinition] = ()


def spec(feed: Feed) -> dg.AssetSpec:
    """The asset of a feed: what it has handed over is what stands in the landing zone."""
    return dg.AssetSpec(
        key=list(feed.asset),
        description=f"DMAP feed `{feed.path}`: new and re-issued datasets, put into the landing zone below `{feed.table.prefix}`.",
        group_name=PIPELINE,
        kinds={"api", "csv"},
        owners=OWNERS,
        skippable=True,
        metadata={"feed": feed.path, "setting": _SETTING[feed.family]},
    )


def check_spec(feed: Feed) -> dg.AssetCheckSpec:
    """The check of a feed."""
    return dg.AssetCheckSpec(
        NOTHING_INVALID, asset=list(feed.asset), description="Every record that the feed has listed could be followed to a dataset."
    )


def definitions_of(feeds: Sequence[Feed], settings: Settings) -> FeedDefinitions:
    """Assets, job and schedule for these feeds."""
    if not feeds:
        return FeedDefinitions()

    @dg.multi_asset(
        name="cubic_dmap_fetch_step",
        specs=[spec(feed) for feed in feeds],
        check_specs=[check_spec(feed) for feed in feeds],
        retry_policy=RETRY_STEP,
        can_subset=True,
    )
    def cubic_dmap_feeds(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        """DMAP feeds: lists what is new, downloads it, proves it whole, puts it into the landing zone, and notes it."""
        with no_retry_of_mistakes():
            yield from fetch_step(context, ingestion, [feed for feed in feeds if dg.AssetKey(feed.asset) in context.selected_asset_keys])

    job, schedule = scheduled(
        PIPELINE,
        JOB,
        cubic_dmap_feeds,
        settings,
        does="Fetch what is new in the DMAP feeds.",
        cron="0 15 * * *",
        timezone="UTC",
        when="Fetches every afternoon what is new in the DMAP feeds.",
        longest_seconds=_LONGEST_SECONDS,
    )
    return FeedDefinitions([cubic_dmap_feeds], [job], [schedule])


def fetch_step(context: dg.AssetExecutionContext, ingestion: Ingestion, feeds: Sequence[Feed]) -> Iterator[Any]:
    """Fetch the feeds one after the other, and fail at the end if any has less than it should have."""
    from ingestion_dagster.cubic.fetch import (
        IN_PROGRESS,
        fetch_feed,
        missing,
        summary,
    )  # aiohttp comes with it: not while definitions are loaded

    settings = ingestion.settings()
    database = ingestion.database()
    mistakes: dict[str, None] = {}
    failures: list[str] = []
    failed_checks: list[str] = []
    may_pass = False
    for feed in feeds:
        started = time.monotonic()
        try:
            with database.connect() as connection:
                fetched = fetch_feed(connection, settings, feed, now=datetime.now(UTC))
                left = missing(connection, feed)
        except ConfigurationError as mistake:
            mistakes[str(mistake)] = None
            continue
        except Transient as transient:
            failures.append(f"{feed.type}: {transient.code}")
            may_pass = True
            continue
        context.log.info("%s", summary(fetched))
        if fetched.failures:
            failures.append(_told(feed, fetched))
            may_pass = may_pass or fetched.may_pass
        if fetched.uploaded or not (fetched.failures or IN_PROGRESS in fetched.codes):
            key = dg.AssetKey(feed.asset)
            yield dg.MaterializeResult(key, metadata=_metadata(feed, fetched, settings, left, time.monotonic() - started))
            if dg.AssetCheckKey(key, NOTHING_INVALID) in context.selected_asset_check_keys:
                yield _check(feed, fetched)
                failed_checks += [f"{NOTHING_INVALID} of {key.to_user_string()}"] if fetched.invalid else []
    if failed_checks:
        with database.connect() as connection:
            failed_checks_alert(connection, settings, PIPELINE, context.run.run_id, failed_checks)
    if mistakes:
        raise ConfigurationError("; ".join([*mistakes, *failures]))
    if failures:
        incomplete = Transient("dmap_fetch_incomplete", "; ".join(failures))
        if may_pass:
            raise incomplete
        raise dg.Failure(str(incomplete), allow_retries=False) from incomplete


def _told(feed: Feed, fetched: "Fetched") -> str:
    codes = ", ".join(f"{count} {code}" for code, count in fetched.codes.items())
    return f"{feed.type}: {fetched.uploaded} of {fetched.new} new datasets ({codes})"


def _metadata(feed: Feed, fetched: "Fetched", settings: Settings, left: int, seconds: float) -> dict[str, Any]:
    """Counts and codes of a fetch; `missing` is what the feed has listed at some time and was not fetched so far."""
    counts = {name: getattr(fetched, name) for name in ("listed", "new", "uploaded", "unchanged", "invalid", "failed", "bytes")}
    return {
        **counts,
        "missing": left,
        "seconds": round(seconds, 3),
        "dagster/uri": f"{settings.zone(PIPELINE, 'landing', 'cubic/incoming')}/{feed.table.prefix}",
    } | ({"problems": error_table(_by_code(fetched.problems))} if fetched.problems else {})


def _check(feed: Feed, fetched: "Fetched") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(feed.asset),
        check_name=NOTHING_INVALID,
        passed=not fetched.invalid,
        metadata={"listed": fetched.listed, "invalid": fetched.invalid},
    )


def _by_code(problems: Sequence[Problem]) -> list[tuple[str, str, int]]:
    """Codes, a message of each, and how many."""
    first = {problem.code: problem.message for problem in reversed(problems)}
    return [(code, message, sum(problem.code == code for problem in problems)) for code, message in sorted(first.items())]


FEEDS = feeds_of(registry(current()))
"""The feeds that the registry of this process's environment wants."""

FEED_DEFINITIONS = definitions_of(FEEDS, current())

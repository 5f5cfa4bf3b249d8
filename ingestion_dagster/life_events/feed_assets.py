"""The daily file, pulled from an SFTP server: an asset, its job and its schedule, where a server is set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from ingestion_dagster.engine.dagster import OWNERS, RETRY_STEP, Ingestion, no_retry_of_mistakes
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.scheduled import scheduled
from ingestion_dagster.life_events import places
from ingestion_dagster.life_events.registry import PIPELINE
from ingestion_dagster.settings import Settings, current

JOB = "life_events_pull"
PULLED_KEY = dg.AssetKey([PIPELINE, "pulled_file"])

_LONDON = ZoneInfo("Europe/London")
_LONGEST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class PullDefinitions:
    """What pulling offers to Dagster; nothing where no server is set."""

    assets: Sequence[dg.AssetsDefinition] = ()
    jobs: Sequence[Any] = ()
    schedules: Sequence[dg.ScheduleDefinition] = ()


def definitions_of(settings: Settings) -> PullDefinitions:
    """Asset, job and schedule for the server that is set."""
    if settings.life_events_sftp_host is None:
        return PullDefinitions()

    @dg.multi_asset(
        name="life_events_pull_step",
        specs=[
            dg.AssetSpec(
                PULLED_KEY,
                description="The daily file of registrations, brought from GRO's SFTP server to the landing zone. It stays on the server.",
                group_name=PIPELINE,
                kinds={"xml"},
                owners=OWNERS,
                skippable=True,
                metadata={"setting": "INGESTION_LIFE_EVENTS_SFTP_HOST"},
            )
        ],
        retry_policy=RETRY_STEP,
    )
    def life_events_pull(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        """The daily file: looks for it on the server, and lands it whole or not at all."""
        with no_retry_of_mistakes():
            yield from pull_step(context, ingestion)

    job, schedule = scheduled(
        PIPELINE,
        JOB,
        life_events_pull,
        settings,
        does="Pull the daily file, if it is there and has not been pulled.",
        cron="*/15 5-9 * * *",
        timezone="Europe/London",
        when="Looks for the daily file every quarter of an hour from five to ten in the morning.",
        longest_seconds=_LONGEST_SECONDS,
    )
    return PullDefinitions([life_events_pull], [job], [schedule])


def pull_step(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[dg.MaterializeResult[Any]]:
    """Pull today's file; materialized only if there was one to pull."""
    from ingestion_dagster.life_events import sftp  # asyncssh comes with it: not while definitions are loaded

    settings = ingestion.settings()
    today = datetime.now(UTC).astimezone(_LONDON).date()
    landing = places.zone(settings).landing
    try:
        with ingestion.database().connect() as connection:
            pulled = sftp.pull(connection, settings, today, landing)
    except Transient as error:
        if error.code in sftp.NOT_YET:
            context.log.info("nothing pulled: %s", error.code)
            return
        raise dg.Failure(f"the SFTP server (INGESTION_LIFE_EVENTS_SFTP_HOST): {error}", allow_retries=False) from None
    except Refused as refused:
        told = "; ".join(f"{problem.code}: {problem.message}" for problem in refused.problems)
        raise dg.Failure(f"the file on the SFTP server is refused: {told}", allow_retries=False) from None
    if pulled is None:
        context.log.info("nothing pulled: no file is due, or it has been pulled before")
        return
    yield dg.MaterializeResult(PULLED_KEY, metadata={"dagster/uri": f"{landing.url}/{pulled.key}", "bytes": pulled.size})


PULL = definitions_of(current())

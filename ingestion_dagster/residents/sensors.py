"""What starts runs of the residents pipeline."""

from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.load_step import load_job
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.sensors import LoadingJob, Upkeep, landing_sensor
from ingestion_dagster.residents import places, upkeep
from ingestion_dagster.residents.assets import residents_files, tell_of_closed_folders, tell_of_pauses
from ingestion_dagster.residents.pipeline import LOAD_JOB
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.settings import Settings

RESIDENTS_LOAD_JOB = load_job(
    LOAD_JOB,
    PIPELINE,
    residents_files,
    "Send the rows of every claimable spreadsheet to the Here to Help API, and report what became of them.",
)


MOST_ROWS = 5_000
"""Reports of larger files are written again by the next run: a tick has a minute."""


def _before(connection: Connection, settings: Settings) -> None:
    tell_of_pauses(connection, settings, upkeep.sync(connection, settings))
    tell_of_closed_folders(connection, settings)
    upkeep.write_missing_reports(connection, settings, rows=MOST_ROWS)


def watched_folders(settings: Settings) -> Zone:
    """The landing zone as a sensor lists it: on Drive, what has come lately, and everything now and then."""
    return places.zone(settings, recently=True)


residents_drive_sensor = landing_sensor(
    "residents_drive_sensor", PIPELINE, watched_folders, [LoadingJob(RESIDENTS_LOAD_JOB, new_at_once=True)], Upkeep(before=_before)
)

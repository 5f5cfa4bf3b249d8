"""What a run itself alerts people to: what it errored, checks that failed, a state that it has brought about."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from ingestion_dagster.engine import channels, notifications
from ingestion_dagster.engine.alert import Alert, overview_link, run_link
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

_MOST_FILES = 20


def errored_loads_alert(connection: Connection, settings: Settings, pipeline: str, run_id: str, *, files: Sequence[str] = ()) -> None:
    """Alert to what a run errored or rejected, at its end, if there is any. What hinders this does not fail the run.

    `files` are lines on single files, for people who know theirs by name. The watch sensor makes good what a crash, or such a hindrance,
    leaves out.
    """
    with _no_hindrance("errored loads", "the watch sensor alerts to them"):
        through = channels.channels(settings)
        alert = notifications.errored_loads(connection, settings, pipeline, run_id) if through else None
        if alert and files:
            more = (f"and {len(files) - _MOST_FILES} more files",) if len(files) > _MOST_FILES else ()
            alert = replace(alert, details=(*alert.details, *files[:_MOST_FILES], *more))
        if alert and notifications.raise_alert(connection, through, alert):
            notifications.deliver(connection, through)


def failed_checks_alert(connection: Connection, settings: Settings, pipeline: str, run_id: str, failed: Sequence[str]) -> None:
    """Alert to the checks that failed in a run, by name, if there is any. What hinders this does not fail the run."""
    if not failed:
        return
    with _no_hindrance("failed checks", "what is not in the outbox by now nobody alerts to; look at the run's checks in Dagster"):
        through = channels.channels(settings)
        alert = Alert(
            key=f"checks:{run_id}",
            environment=settings.environment,
            pipeline=pipeline,
            title=f"{len(failed)} checks failed",
            details=tuple(failed),
            run_id=run_id,
            link=run_link(settings, run_id),
        )
        if notifications.raise_alert(connection, through, alert):
            notifications.deliver(connection, through)


def state_alert(connection: Connection, settings: Settings, pipeline: str, key: str, title: str, *details: str) -> None:
    """Alert to a state that a run has brought about, once per `key`. What hinders this does not fail the run."""
    with _no_hindrance(title, "what is not in the outbox by now nobody alerts to; 'ingestion status' shows it"):
        through = channels.channels(settings)
        alert = Alert(key, settings.environment, pipeline, title, details=details, link=overview_link(settings))
        if notifications.raise_alert(connection, through, alert):
            notifications.deliver(connection, through)


@contextmanager
def _no_hindrance(subject: str, later: str) -> Iterator[None]:
    """Log what keeps an alert from being raised or sent, and what is done about it `later`; the run has done its work."""
    try:
        yield
    except ConfigurationError as error:
        log.error("the run's %s could not be alerted to: %s", subject, error)
    except psycopg.Error as error:
        log.warning("the run's %s could not be alerted to (%s): %s", subject, type(error).__name__, later)

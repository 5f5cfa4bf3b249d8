"""`ingestion life_events …`: what only the life events pipeline has."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import current

NOT_ALL, FAILED = 2, 1

life_events_commands = typer.Typer(no_args_is_help=True, help="What only life_events has: rekey, republish, sweep, pull.")


@life_events_commands.command(epilog="Example: ingestion life_events rekey")
def rekey() -> None:
    """Seal every stored event with the current encryption key. Safe to repeat, beside everything else. Exit 2: some could not be opened."""
    from ingestion_dagster.life_events import rekey as rekeying
    from ingestion_dagster.life_events.keys import vault
    from ingestion_dagster.life_events.store import open_store

    settings = current()
    done = rekeying.rekey(postgres.ready(settings), open_store(settings), vault(settings))
    print(f"{done.resealed} events sealed anew with key {vault(settings).current.id}; {done.gone} were deleted meanwhile")
    if done.undecipherable:
        print(
            f"{done.undecipherable} events could not be opened: INGESTION_LIFE_EVENTS_ENCRYPTION_KEYS lacks the key they were sealed with"
        )
        raise typer.Exit(NOT_ALL)


@life_events_commands.command(epilog="Example: ingestion life_events republish")
def republish() -> None:
    """Publish again what the platform has refused, and what else is due. Exit 2: it refuses some still."""
    from ingestion_dagster.life_events import notify, publish

    settings = current()
    database = postgres.ready(settings)
    with database.connect() as connection:
        print(f"{publish.retry(connection) + notify.retry(connection, settings)} dead letters are due again")
    run_id = f"republish-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    published = publish.publish(database, settings, run_id, seconds=settings.run_seconds)
    notified = notify.deliver(database, settings, run_id, seconds=settings.run_seconds)
    print(f"{published.sent} events published, {published.dead} refused")
    if settings.life_events_acquirers:
        print(f"{notified.sent} documents sent to acquirers, {notified.dead} refused")
    if published.dead or notified.dead:
        raise typer.Exit(NOT_ALL)


@life_events_commands.command(epilog="Example: ingestion life_events sweep")
def sweep() -> None:
    """Delete events whose time is up, refused files that have been in quarantine for long enough, and what is to be forgotten."""
    from ingestion_dagster.life_events import upkeep
    from ingestion_dagster.life_events.store import open_store

    settings = current()
    database = postgres.ready(settings)
    now = datetime.now(UTC)
    ttl = timedelta(days=settings.life_events_ttl_days)
    swept = upkeep.sweep(database, open_store(settings), now, f"sweep-{now:%Y%m%dT%H%M%S}", ttl=ttl)
    with database.connect() as connection:
        files = upkeep.expire_quarantine(connection, settings, now)
        forgotten = upkeep.forget(connection, settings, now)
    print(f"{swept} events and {files} refused files deleted; {forgotten.records} records and {forgotten.audit} audit rows forgotten")


@life_events_commands.command(epilog="Example: ingestion life_events pull --day 2026-11-20")
def pull(
    day: Annotated[datetime | None, typer.Option("--day", formats=["%Y-%m-%d"], help="Of which day; unset: today, in London.")] = None,
) -> None:
    """Bring the daily file from the SFTP server to the landing zone. Exit 2: it is not there yet, or is refused."""
    from ingestion_dagster.engine.errors import Refused, Transient
    from ingestion_dagster.life_events import sftp
    from ingestion_dagster.life_events.places import zone

    settings = current()
    wanted = day.date() if day else datetime.now(ZoneInfo("Europe/London")).date()
    if settings.life_events_sftp_host is None:
        raise ConfigurationError("no SFTP server is set: INGESTION_LIFE_EVENTS_SFTP_HOST")
    with postgres.ready(settings).connect() as connection:
        try:
            pulled = sftp.pull(connection, settings, wanted, zone(settings).landing)
        except Transient as error:
            if error.code not in sftp.NOT_YET:
                raise
            print(f"the file of {wanted} is not there yet ({error.code})")
            raise typer.Exit(NOT_ALL) from None
        except Refused as refused:
            for problem in refused.problems:
                print(f"the file of {wanted} is refused: {problem.message} [{problem.code}]")
            raise typer.Exit(NOT_ALL) from None
    if pulled is None:
        print(f"the file of {wanted} has been landed before, or none is due")
        return
    print(f"{pulled.key}: {pulled.size} bytes landed; 'ingestion run life_events' loads it")

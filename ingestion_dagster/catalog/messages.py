"""What people hear of a refresh while it is under way: one message, edited at each step. Failures are told by alerts.

Through a webhook, which cannot edit: one at the start, at most one an hour, and one at the end. Nothing of this can fail a refresh.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

import psycopg

from ingestion_dagster.catalog import report, slack
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.slack import Bot, Level, Message, MessageGone, Undelivered, Webhook
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

Moment = Literal["start", "step", "end"]

HOURLY = "1 hour"

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('catalog.message ' || %(model)s || ' ' || %(suffix)s, 0))"

SENT = """
SELECT reference, edited_at < now() - %(patience)s::interval
FROM catalog.messages WHERE model = %(model)s AND suffix = %(suffix)s AND channel = %(channel)s
"""

REMEMBER = """
INSERT INTO catalog.messages (model, suffix, channel, reference)
VALUES (%(model)s, %(suffix)s, %(channel)s, %(reference)s)
ON CONFLICT (model, suffix, channel) DO UPDATE SET reference = excluded.reference, edited_at = now()
"""

_LEVELS: dict[Moment, Level] = {"start": Level.INFO, "step": Level.VERBOSE, "end": Level.INFO}


def tell(database: Database, settings: Settings, refresh: Refresh, moment: Moment, *, api_url: str = slack.SLACK_API_URL) -> bool:
    """Tell how far a refresh has come; whether anything was sent. `database` is the ledger's.

    The text is made of the refresh as it stands, so that a step that is repeated says the same again, in the same message.
    """
    sent = False
    with _no_hindrance(refresh):
        through = slack.through(settings, api_url=api_url)
        if through is not None and _LEVELS[moment] >= threshold(settings):
            sent = _told(database, through, settings, refresh, moment)
    return sent


def threshold(settings: Settings) -> Level:
    """The level below which nothing is sent."""
    return Level.named(settings.slack_level)


def hidden(settings: Settings) -> tuple[str, ...]:
    """What no message may show: the addresses and secrets that this installation is set up with."""
    urls = (settings.catalog_upstream_url, settings.catalog_api_database_url, settings.catalog_search_url, settings.database_url)
    passwords = (urlsplit(url).password for url in urls if url)
    secrets = (settings.slack_token, settings.slack_webhook_url, settings.catalog_sensitive_terms_url, settings.catalog_cache_url, *urls)
    return tuple(value for value in (*secrets, *passwords) if value and len(value) > 3)


def _told(database: Database, through: Bot | Webhook, settings: Settings, refresh: Refresh, moment: Moment) -> bool:
    message = Message(report.progress(refresh), f"{refresh.model}: {report.headline(refresh)}")
    with database.connect() as connection, connection.transaction():
        # Runs that help one another tell one after the other, or each would post a message of its own.
        connection.execute("SET LOCAL lock_timeout = '60s'")
        connection.execute(LOCK, _of(refresh))
        if isinstance(through, Bot):
            return _edited(connection, through, refresh, message, hidden(settings))
        return _posted(connection, through, refresh, message, moment, hidden(settings))


def _edited(connection: Connection, bot: Bot, refresh: Refresh, message: Message, secrets: tuple[str, ...]) -> bool:
    known = connection.execute(SENT, _of(refresh) | {"channel": bot.name, "patience": HOURLY}).fetchone()
    reference = str(known[0]) if known else None
    if reference is not None:
        try:
            bot.edit(reference, message, secrets)
        except MessageGone:
            reference = None
    if reference is None:
        fault_point("catalog.message.post.before")
        reference = bot.post(message, secrets)
        fault_point("catalog.message.post.after")
    connection.execute(REMEMBER, _of(refresh) | {"channel": bot.name, "reference": reference})
    return True


def _posted(connection: Connection, webhook: Webhook, refresh: Refresh, message: Message, moment: Moment, secrets: tuple[str, ...]) -> bool:
    known = connection.execute(SENT, _of(refresh) | {"channel": webhook.name, "patience": HOURLY}).fetchone()
    if known is not None:
        last, is_old = known
        if last == "end" or moment == "start" or (moment == "step" and not is_old):
            return False
    fault_point("catalog.message.post.before")
    webhook.post(message, secrets)
    fault_point("catalog.message.post.after")
    connection.execute(REMEMBER, _of(refresh) | {"channel": webhook.name, "reference": moment})
    return True


def _of(refresh: Refresh) -> dict[str, str]:
    return {"model": refresh.model, "suffix": refresh.suffix}


@contextmanager
def _no_hindrance(refresh: Refresh) -> Iterator[None]:
    """Log what keeps people from hearing of a refresh; it goes on."""
    try:
        yield
    except Undelivered as error:
        log.warning("Slack was not told of refresh %s of %s (%s); the refresh goes on", refresh.suffix, refresh.model, error)
    except ConfigurationError as error:
        log.error("Slack was not told of refresh %s of %s: %s", refresh.suffix, refresh.model, error)
    except psycopg.Error as error:
        log.warning("Slack was not told of refresh %s of %s (%s)", refresh.suffix, refresh.model, type(error).__name__)

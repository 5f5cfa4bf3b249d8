"""That something lives: when each sweep last came to its end, and a word to a monitor outside while all is well."""

import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Collection
from datetime import datetime, timedelta

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

SECONDS = 5.0
"""How long the monitor may take to answer: a tick has a minute."""

_BEAT = """
INSERT INTO ledger.heartbeats (name, at) VALUES (%(name)s, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET at = greatest(heartbeats.at, excluded.at)
"""

_LAST = "SELECT name, at FROM ledger.heartbeats WHERE name = ANY(%(names)s)"


def beat(connection: Connection, name: str) -> None:
    """Note that what is known by a name has just come to its end."""
    connection.execute(_BEAT, {"name": name})


def last(connection: Connection, names: Collection[str]) -> dict[str, datetime]:
    """When each of these last came to its end; without those that never did."""
    return dict(connection.execute(_LAST, {"names": list(names)}).fetchall())


def silent(connection: Connection, names: Collection[str], settings: Settings) -> dict[str, datetime]:
    """Those of these that have not come to their end for longer than the setting allows, and when they last did."""
    before = ledger.now(connection) - timedelta(minutes=settings.silence_minutes)
    return {name: at for name, at in last(connection, names).items() if at < before}


def ping(settings: Settings) -> str:
    """Fetch the URL of the monitor outside; how that went, in a word: `told`, `off` without a URL, or `failed`.

    What hinders this is logged, without the URL, which may hold a secret, and fails nothing: the monitor notices.
    """
    if settings.heartbeat_url is None:
        return "off"
    try:
        request = urllib.request.Request(settings.heartbeat_url.get_secret_value())  # noqa: S310 - of our settings
        if request.type not in ("http", "https"):
            raise ValueError("no address of the web")
        with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310
            return "told"
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        log.warning("the monitor at INGESTION_HEARTBEAT_URL was not told that all is well (%s)", type(error).__name__)
        return "failed"

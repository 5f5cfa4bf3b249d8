"""Where the DMAP feeds are asked, and with which key."""

from urllib.parse import urlsplit

from ingestion_dagster.cubic.feed_client import (
    Source,
)
from ingestion_dagster.cubic.feeds import (
    Family,
    is_loopback,
)
from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import Settings

STAND_IN = "dmap"

SANDBOX_KEYS: dict[Family, str] = {"public": "sandbox-public", "controlled": "sandbox-controlled"}
"""What the sandbox's feeds are opened with."""


def source_of(settings: Settings, family: Family) -> Source:
    """Where the feeds of a family are asked, and with which key. Without a URL it is the sandbox.

    Raises `ConfigurationError` naming the variable to set, or that the sandbox does not run.
    """
    variable = f"INGESTION_CUBIC_DMAP_{family.upper()}_KEY"
    key = settings.cubic_dmap_public_key if family == "public" else settings.cubic_dmap_controlled_key
    url = settings.cubic_dmap_url
    if url is None:
        if settings.environment != "local":
            raise ConfigurationError(f"no DMAP feed is known in {settings.environment}: set INGESTION_CUBIC_DMAP_URL and {variable}")
        url = stand_ins.url(settings.home_folder, STAND_IN)
        if url is None:
            raise ConfigurationError(
                "INGESTION_CUBIC_DMAP_URL is not set, and the sandbox feed in its place does not run: 'ingestion sandbox up' starts it"
            )
        return Source(url, SANDBOX_KEYS[family], variable, link_hosts(settings, url))
    loopback = is_loopback(url)
    if not url.startswith("https://") and not (url.startswith("http://") and loopback):
        raise ConfigurationError("INGESTION_CUBIC_DMAP_URL must begin with https://: a key is sent with each request")
    if loopback and settings.environment == "production":
        raise ConfigurationError("INGESTION_CUBIC_DMAP_URL names this machine, where production has no feed")
    if not key:
        raise ConfigurationError(f"the DMAP feeds need a key: set {variable}")
    if not key.isascii() or not key.isprintable():
        raise ConfigurationError(f"{variable} holds a character that no header can carry")
    return Source(url.rstrip("/"), key, variable, link_hosts(settings, url))


def link_hosts(settings: Settings, url: str) -> frozenset[str]:
    """Hosts that may have any address: that of the feeds, and those that the settings name."""
    named = (host.strip().lower().strip("[]") for host in (settings.cubic_dmap_link_hosts or "").split(","))
    return frozenset(filter(None, (urlsplit(url).hostname, *named)))

"""Where files of death registrations arrive, and where refused ones go: as the settings say."""

from dataclasses import dataclass, field

from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.landing import Target, Zone, versioned
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.life_events.registry import DATASET, PIPELINE
from ingestion_dagster.settings import Settings

SANDBOX = "events_platform"
"""The sandbox's server that stands in for the platform."""

PUBLISHER_ID, PUBLISHER_SECRET = "sandbox-gro-publisher", "sandbox-gro-publisher-secret"  # pragma: allowlist secret
"""The publisher that the sandbox platform knows from its first start."""

_TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path


def zone(settings: Settings) -> Zone:
    """The landing zone. What has been loaded is deleted; what is refused goes to quarantine, as do the reports."""
    landing = open_store(settings.zone(PIPELINE, "landing", "life_events/incoming"))
    quarantine = open_store(quarantine_url(settings))
    return Zone(
        pipeline=PIPELINE,
        landing=landing,
        archive_targets=lambda _load: (),
        error_targets=lambda load: (Target(quarantine, versioned(load.key, load.version)),),
        settle_seconds=settings.settle_seconds,
        arrival=lambda seen: Arrival(seen, DATASET),
        queue=settings.queue(PIPELINE),
    )


def quarantine_url(settings: Settings) -> str:
    """Where refused files are kept until they expire."""
    return settings.zone(PIPELINE, "quarantine", "life_events/quarantine")


def quarantine_key(load: Load) -> str:
    """The key of a refused file in quarantine."""
    return versioned(load.key, load.version)


@dataclass(frozen=True, slots=True)
class PlatformAddress:
    """Where the events platform is, and by what it knows us."""

    url: str
    token_url: str
    client_id: str
    client_secret: str = field(repr=False)


def stand_ins_needed(settings: Settings) -> tuple[str, ...]:
    """The sandbox platform, if no other is set, and the private API, which it calls back."""
    return () if settings.life_events_platform_url else (SANDBOX, "api")


def platform_address(settings: Settings) -> PlatformAddress:
    """The platform that is meant. Raises `ConfigurationError` if none can be."""
    if settings.life_events_platform_url:
        missing = [
            f"INGESTION_LIFE_EVENTS_{name.upper()}"
            for name in ("token_url", "client_id", "client_secret")
            if getattr(settings, f"life_events_{name}") is None
        ]
        if missing:
            raise ConfigurationError(f"the events platform needs to know us: set {', '.join(missing)}")
        assert settings.life_events_token_url
        assert settings.life_events_client_id
        assert settings.life_events_client_secret
        return PlatformAddress(
            settings.life_events_platform_url.rstrip("/"),
            settings.life_events_token_url,
            settings.life_events_client_id,
            settings.life_events_client_secret.get_secret_value(),
        )
    if settings.environment == "production":
        raise ConfigurationError("production needs the real platform: set INGESTION_LIFE_EVENTS_PLATFORM_URL and the three beside it")
    found = stand_ins.url(settings.home_folder, SANDBOX)
    if found is None:
        raise ConfigurationError(
            "nobody answers as the events platform: run 'ingestion sandbox up', or set INGESTION_LIFE_EVENTS_PLATFORM_URL"
        )
    return PlatformAddress(found, f"{found}{_TOKEN_PATH}", PUBLISHER_ID, PUBLISHER_SECRET)

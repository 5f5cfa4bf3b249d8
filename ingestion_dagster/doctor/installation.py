"""The installation itself: Python and packages, settings that contradict each other, room on the disks, the clock of this machine."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from ingestion_dagster.doctor.examination import Said, ok, problem, warning
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.settings import Settings

DISTRIBUTION = "ingestion_dagster"
LITTLE_ROOM, NO_ROOM = 5 * 1024**3, 512 * 1024**2
"""Bytes free below which a disk is worth a look, and a problem."""

_PYTHONS = ((3, 11), (3, 13))
_BEFORE_THIS = datetime(2026, 1, 1, tzinfo=UTC)


def packages() -> Iterator[Said]:
    """Python and the packages that this one asks for."""
    version = sys.version_info
    if not _PYTHONS[0] <= version[:2] <= _PYTHONS[1]:
        yield problem(f"Python {version.major}.{version.minor}", "install Python 3.11, 3.12 or 3.13")
    wrong = list(_wrong(metadata.requires(DISTRIBUTION) or []))
    if wrong:
        yield problem(f"packages are not those that are asked for: {', '.join(wrong)}", "install from the locked requirements again")
    else:
        yield ok(f"Python {version.major}.{version.minor}.{version.micro}, ingestion_dagster {metadata.version(DISTRIBUTION)}")


def _wrong(requirements: list[str]) -> Iterator[str]:
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield f"{wanted.name} is missing"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} is {found}, not {wanted.specifier}"


def contradictions(settings: Settings) -> Iterator[Said]:
    """Settings that do not go together, and what production refuses."""
    found = [said for rule in _RULES if (said := rule(settings)) is not None]
    yield from found or [ok(f"environment {settings.environment}; no settings contradict each other")]


def _slack(settings: Settings) -> Said | None:
    if settings.slack_token and not settings.slack_channel:
        return problem("INGESTION_SLACK_TOKEN is set, and INGESTION_SLACK_CHANNEL is not", "set the channel: no alert gets out without")
    return None


def _nobody_told(settings: Settings) -> Said | None:
    told = settings.slack_token or settings.slack_webhook_url or settings.sns_topic_arn
    if told or settings.environment in ("local", "development"):
        return None
    return warning("nobody is told of anything: no channel for alerts is set", "set INGESTION_SLACK_WEBHOOK_URL or INGESTION_SNS_TOPIC_ARN")


def _open_api(settings: Settings) -> Said | None:
    from ingestion_dagster.api.access import is_loopback

    if settings.api_token is None and not is_loopback(settings.api_host):
        return problem("the private API has no token, and INGESTION_API_HOST is no loopback address", "set INGESTION_API_TOKEN")
    return None


def _home_in_production(settings: Settings) -> Said | None:
    if settings.environment == "production" and settings.storage.startswith("file://"):
        return warning(
            "production keeps its files in a folder", "set INGESTION_STORAGE_URL to s3://…, unless the folder is shared and backed up"
        )
    return None


def _own_keys(settings: Settings) -> Said | None:
    own = [
        f"INGESTION_{name.upper()}"
        for name in ("life_events_hmac_keys", "life_events_encryption_keys", "residents_hash_key")
        if getattr(settings, name) is None
    ]
    if own and settings.environment == "production":
        return problem(f"production has no keys of its own: {', '.join(own)}", "make keys, keep them in the secret store, and set these")
    return None


def _runs(settings: Settings) -> Said | None:
    if settings.lease_seconds >= settings.run_seconds:
        return warning(
            "INGESTION_LEASE_SECONDS is not shorter than INGESTION_RUN_SECONDS",
            "what a dead run held comes back only after the lease: shorten it",
        )
    return None


def _drive(settings: Settings) -> Said | None:
    if settings.drive.startswith("gdrive:") and settings.drive_credentials is not None and not settings.drive_credentials.is_file():
        return problem("INGESTION_DRIVE_CREDENTIALS leads to no file", "correct the path of the service account's key")
    return None


_RULES: tuple[Callable[[Settings], Said | None], ...] = (_slack, _nobody_told, _open_api, _home_in_production, _own_keys, _runs, _drive)


def known_places(settings: Settings, pipeline: Pipeline) -> Iterator[Said]:
    """Whether the settings name a landing zone and targets that can be meant. What cannot raises, and says what to correct."""
    if pipeline.keyed is not None:
        return
    yield ok(f"files arrive in {pipeline.zone(settings).landing.url}")


def disks(settings: Settings, usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage) -> Iterator[Said]:
    """Room for embedded parts and for what is written aside."""
    for name, folder in (("INGESTION_HOME", settings.home_folder), ("temporary files", Path(tempfile.gettempdir()))):
        there = nearest(folder)
        free = usage(there)[2]
        said = f"{free / 1024**3:.1f} GB free for {name} ({there})"
        if free < NO_ROOM:
            yield problem(said, "make room: loads fail without")
        elif free < LITTLE_ROOM:
            yield warning(said, "make room before it runs out")
        else:
            yield ok(said)


def nearest(folder: Path) -> Path:
    """The folder, or what there is of it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def clock(now: Callable[[], datetime]) -> Iterator[Said]:
    """Whether this machine's clock can be right at all; databases tell the rest."""
    moment = now()
    if moment < _BEFORE_THIS:
        yield problem(f"the clock of this machine says {moment:%Y-%m-%d %H:%M} UTC", "set it, and have it kept by NTP")
    else:
        yield ok(f"{moment:%Y-%m-%d %H:%M:%S} UTC")

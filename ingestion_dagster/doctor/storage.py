"""Buckets and folders: whether each can be listed, written, read and deleted from. The probe is an object that nothing takes for a file."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ingestion_dagster.doctor.examination import Said, ok, problem, warning
from ingestion_dagster.doctor.installation import nearest
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.settings import Settings

PLACES = {
    "metrics": {
        "landing": "metrics/in",
        "processed": "metrics/processed",
        "archive": "metrics/archive",
        "error": "metrics/failed",
        "boot": "metrics/boot",
    },
    "cubic": {
        "landing": "cubic/incoming",
        "archive": "cubic/archive",
        "error": "cubic/error",
        "springboard": "cubic/springboard",
        "current": "cubic/current",
    },
    "life_events": {"landing": "life_events/incoming", "quarantine": "life_events/quarantine"},
}
"""The places of each pipeline, and where they are below the storage unless a setting of their own says so."""

PROBE = ".ingestion-doctor"
"""Below this name probes are written. A name that begins with a dot is no key: no sensor sees it."""

_CONTENT = b"ingestion doctor: this may be deleted\n"


def urls(settings: Settings, pipeline: str) -> dict[str, str]:
    """The places of a pipeline: purpose to URL."""
    return {purpose: settings.zone(pipeline, purpose, path) for purpose, path in PLACES.get(pipeline, {}).items()}


def place(url: str) -> Iterator[Said]:
    """A bucket's prefix, or a folder. Raises `ConfigurationError` for a URL that is neither."""
    open_store(url)
    yield from _bucket(url) if url.startswith("s3://") else _folder(Path(unquote(urlsplit(url).path)))


def _folder(folder: Path) -> Iterator[Said]:
    there = nearest(folder)
    probe = there / f"{PROBE}-{uuid.uuid4().hex}"
    try:
        with os.scandir(there) as entries:
            next(entries, None)
        try:
            probe.write_bytes(_CONTENT)
            read = probe.read_bytes()
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        below = "" if there == folder else f", which is to be made below {there}"
        yield problem(
            f"{folder}{below}: {error.strerror}", f"let user {os.geteuid()} list, write and delete there; make room if it is full"
        )
        return
    if read != _CONTENT:
        yield problem(f"{there} gives back something else than was written", "see to the disk")
    else:
        yield ok(f"{folder} can be listed, written and deleted from" if there == folder else f"{folder} is made when it is first used")


def _bucket(url: str) -> Iterator[Said]:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    from ingestion_dagster.engine import aws

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    below = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    client: Any = aws.connect("s3", Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2}))
    step = "listed"
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=below, MaxKeys=1)
        step = "written to"
        key = f"{below}{PROBE}/{uuid.uuid4().hex}"
        made = client.put_object(Bucket=bucket, Key=key, Body=_CONTENT)
        version = {"VersionId": made["VersionId"]} if made.get("VersionId") not in (None, "null") else {}
        step = "read from"
        read = client.get_object(Bucket=bucket, Key=key, **version)["Body"].read()
        step = "deleted from"
        client.delete_object(Bucket=bucket, Key=key, **version)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        yield problem(f"{url} cannot be {step} ({code})", _ADVICE.get(code, f"grant it on {bucket}, prefix {below or '/'}"))
        return
    except BotoCoreError as error:
        yield problem(f"{url} cannot be {step} ({type(error).__name__})", "see to the credentials, AWS_REGION and the network")
        return
    yield (
        ok(f"{url} can be listed, written and deleted from")
        if read == _CONTENT
        else problem(f"{url} gives back something else than was written", "see to what stands between")
    )
    yield from _versioning(client, bucket, url)


def _versioning(client: Any, bucket: str, url: str) -> Iterator[Said]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        status = client.get_bucket_versioning(Bucket=bucket).get("Status", "off")
    except (ClientError, BotoCoreError):
        yield warning(f"whether {bucket} keeps versions cannot be told", "grant s3:GetBucketVersioning: stores ask for it")
        return
    if status == "Enabled":
        yield ok(f"{bucket} keeps versions")
    else:
        yield warning(
            f"{bucket} keeps no versions", f"switch versioning on: what is overwritten in {url} before it is read is gone otherwise"
        )


_ADVICE = {
    "NoSuchBucket": "make the bucket, or correct the setting",
    "InvalidAccessKeyId": "correct the AWS credentials",
    "SignatureDoesNotMatch": "correct the AWS credentials",
    "ExpiredToken": "renew the AWS credentials",
    "RequestTimeTooSkewed": "set this machine's clock, and have it kept by NTP",
}

"""What others run: HTTP APIs, the drop folder, SFTP, and the services of AWS that are set. Each is asked what changes nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ingestion_dagster.doctor.examination import Said, ok, problem, warning
from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.http import Client, Http
from ingestion_dagster.settings import Settings

_ANSWER_SECONDS = 5.0


def here_to_help(settings: Settings) -> Iterator[Said]:
    """The API of residents: its health check, with the key."""
    from ingestion_dagster.residents import places
    from ingestion_dagster.residents.api_client import HereToHelp

    if said := _no_stand_in(settings, settings.residents_api_url, places.SANDBOX):
        yield said
        return
    address = places.api_address(settings)

    async def ping() -> None:
        async with _asking() as client:
            await HereToHelp(client, address.url, address.key).ping()

    asyncio.run(ping())
    yield ok("it answers its health check, and takes the key")


def drop_folder(settings: Settings) -> Iterator[Said]:
    """The folders that people drop spreadsheets into."""
    from ingestion_dagster.residents import places

    if settings.drive.startswith("file://"):
        folder = Path(unquote(settings.drive.removeprefix("file://")))
        if settings.drive_url and not folder.is_dir():
            yield problem("the folder of INGESTION_DRIVE_URL does not exist", "make it: is it mounted?")
            return
    opened = places.drop_folder(settings)
    next(iter(opened.inbound.list()), None)
    closed = opened.closed()
    for dataset, why in closed.items():
        yield problem(f"the folder of {dataset} cannot be looked into: {why}", "share it with the service account, or correct its id")
    if not closed:
        yield ok("every inbound folder can be looked into")


def events_platform(settings: Settings) -> Iterator[Said]:
    """The platform of life events: a token, and whether anybody answers where events go."""
    from ingestion_dagster.life_events import places
    from ingestion_dagster.life_events.platform_client import Tokens

    if said := _no_stand_in(settings, settings.life_events_platform_url, places.SANDBOX):
        yield said
        return
    address = places.platform_address(settings)

    async def token() -> None:
        async with _asking() as client:
            await Tokens(client, address).current()

    asyncio.run(token())
    yield ok("it gives us a token")
    yield _answers(address.url)


def dmap_feed(settings: Settings) -> Iterator[Said]:
    """The feeds of cubic, if they are set."""
    if not settings.cubic_dmap_url:
        yield ok("no feed is set: the sandbox's is meant")
        return
    yield _answers(settings.cubic_dmap_url)
    if not settings.cubic_dmap_public_key and not settings.cubic_dmap_controlled_key:
        yield warning("no key of a feed is set", "set INGESTION_CUBIC_DMAP_PUBLIC_KEY or INGESTION_CUBIC_DMAP_CONTROLLED_KEY")


def sensitive_terms(settings: Settings) -> Iterator[Said]:
    """The list of sensitive terms of the catalogue: whether it can be had, never what it holds."""
    from ingestion_dagster.catalog import sensitive

    sensitive.listed(settings)
    yield ok("the list can be had")


def sftp(settings: Settings) -> Iterator[Said]:
    """The server of the daily file of life events, if one is set."""
    host, port = settings.life_events_sftp_host, settings.life_events_sftp_port
    if not host:
        yield ok("none is set")
        return
    missing = [name for name in ("user", "private_key", "host_fingerprint") if getattr(settings, f"life_events_sftp_{name}") is None]
    if missing:
        named = ", ".join(f"INGESTION_LIFE_EVENTS_SFTP_{name.upper()}" for name in missing)
        yield problem("a server is set, and how to log in is not", f"set {named}")
    try:
        with socket.create_connection((host, port), timeout=4) as connection:
            greeting = connection.recv(4)
    except OSError as error:
        yield problem(
            f"{host}:{port} cannot be reached ({error.strerror or type(error).__name__})", "see to the name, the port and the firewall"
        )
        return
    yield ok(f"{host}:{port} answers") if greeting == b"SSH-" else problem(f"{host}:{port} is no SSH server", "correct the port")


def aws(settings: Settings, pipeline: str) -> Iterator[Said]:
    """Streams, queues, topics, tables and databases of AWS that are set for a pipeline."""
    asked = list(_of_aws(settings, pipeline))
    if not asked:
        yield ok("nothing of AWS is set besides buckets")
    for name, service, region, operation, arguments, expected in asked:
        yield _asked(name, service, region, operation, arguments, expected)


_Asked = tuple[str, str, str | None, str, dict[str, Any], tuple[tuple[str, ...], str] | None]


def _of_aws(settings: Settings, pipeline: str) -> Iterator[_Asked]:
    stream = getattr(settings, f"{pipeline}_kinesis_stream", None)
    if stream:
        from ingestion_dagster.engine.kinesis import Stream

        meant = Stream.of(stream)
        active = (("StreamDescriptionSummary", "StreamStatus"), "ACTIVE")
        yield f"stream {meant.name}", "kinesis", meant.region, "describe_stream_summary", meant.arguments, active
    if queue := getattr(settings, f"{pipeline}_queue_url", None):
        yield "queue of S3 events", "sqs", None, "get_queue_attributes", {"QueueUrl": queue, "AttributeNames": ["QueueArn"]}, None
    if pipeline == "cubic" and settings.cubic_glue_databases:
        for name in settings.cubic_glue_databases.split(","):
            yield f"Glue database {name.strip()}", "glue", None, "get_database", {"Name": name.strip()}, None
    if pipeline == "life_events":
        if settings.life_events_store_url:
            table = settings.life_events_store_url.partition("://")[2].strip("/")
            yield f"DynamoDB table {table}", "dynamodb", None, "describe_table", {"TableName": table}, (("Table", "TableStatus"), "ACTIVE")
            expiry = (("TimeToLiveDescription", "TimeToLiveStatus"), "ENABLED")
            yield f"expiry of table {table}", "dynamodb", None, "describe_time_to_live", {"TableName": table}, expiry
        for acquirer, said in settings.life_events_acquirers.items():
            if queue := said.get("queue"):
                yield f"queue of {acquirer}", "sqs", None, "get_queue_attributes", {"QueueUrl": queue, "AttributeNames": ["QueueArn"]}, None
    if settings.sns_topic_arn:
        yield (
            "topic of alerts",
            "sns",
            settings.sns_topic_arn.split(":")[3] or None,
            "get_topic_attributes",
            {"TopicArn": settings.sns_topic_arn},
            None,
        )


def _asked(
    name: str, service: str, region: str | None, operation: str, arguments: dict[str, Any], expected: tuple[tuple[str, ...], str] | None
) -> Said:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    from ingestion_dagster.engine import aws

    config = Config(connect_timeout=3, read_timeout=4, retries={"total_max_attempts": 1})
    try:
        client = aws.connect(service, config, region)
        found: Any = getattr(client, operation)(**arguments)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        return problem(f"{name}: {code}", f"make it, or grant {service}:{''.join(map(str.title, operation.split('_')))} and what runs need")
    except BotoCoreError as error:
        return problem(f"{name} cannot be asked ({type(error).__name__})", "see to the credentials, AWS_REGION and the network")
    if expected is not None:
        for step in expected[0]:
            found = found.get(step, {})
        if found != expected[1]:
            return problem(f"{name} is {found or 'unset'}", f"it has to be {expected[1]}")
    return ok(f"{name} is there")


@asynccontextmanager
async def _asking() -> AsyncIterator[Client]:
    """A client that asks once, and does not wait for long."""
    http = Http(connections=1, retries=0, connect_timeout=3.0, silence_timeout=_ANSWER_SECONDS, request_timeout=_ANSWER_SECONDS)
    async with http.open() as client:
        yield client


def _no_stand_in(settings: Settings, url: str | None, name: str) -> Said | None:
    """A stand-in that is meant and does not run, where that is no fault: commands start it."""
    if url or settings.environment == "production" or stand_ins.url(settings.home_folder, name):
        return None
    return ok("the sandbox's is meant, and does not run: 'ingestion run' and 'ingestion sandbox up' start it")


def _answers(url: str) -> Said:
    """Whether anybody answers there, whatever he says."""
    from urllib.parse import urlsplit

    import aiohttp

    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def ask() -> int:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS)) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            return answer.status

    try:
        status = asyncio.run(ask())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return problem(
            f"nobody answers at {shown} ({type(error).__name__})", "see to the name, the certificate, the network on the way there"
        )
    if status >= 500:
        return problem(f"{shown} answers {status}", "ask whoever runs it")
    return ok(f"{shown} answers")

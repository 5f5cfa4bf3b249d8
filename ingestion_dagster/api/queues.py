"""How long the queues are that this project reads or fills: Dagster's, and those of SQS that are set. Each is asked for a moment only."""

import os
from collections.abc import Iterator
from pathlib import Path

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.figures import Figure, Row
from ingestion_dagster.settings import Settings

UNAVAILABLE = "queues_unavailable"

_DEPTHS = {"visible": "ApproximateNumberOfMessages", "in_flight": "ApproximateNumberOfMessagesNotVisible"}
_SECONDS = 3


def read(settings: Settings) -> list[Figure]:
    """Depths and heartbeats. Raises `Transient`; what is not set up is left out."""
    return [*_sqs(settings), *_dagster()]


def _sqs(settings: Settings) -> Iterator[Figure]:
    queues = dict(_set(settings))
    if not queues:
        return
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    from ingestion_dagster.engine import aws

    config = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"total_max_attempts": 1})
    rows: list[Row] = []
    try:
        client = aws.connect("sqs", config)
        for name, url in queues.items():
            said = client.get_queue_attributes(QueueUrl=url, AttributeNames=list(_DEPTHS.values()))["Attributes"]
            rows += [((name, state), float(said[attribute])) for state, attribute in _DEPTHS.items()]
    except (BotoCoreError, ClientError) as error:
        raise Transient(UNAVAILABLE, f"SQS cannot be asked ({type(error).__name__})") from None
    yield Figure("queue_messages", "Messages in an SQS queue, about.", ("queue", "state"), rows)


def _set(settings: Settings) -> Iterator[tuple[str, str]]:
    """Queues by a name of ours: those of S3 events, and those of acquirers."""
    for name in type(settings).model_fields:
        if name.endswith("_queue_url") and (url := getattr(settings, name)):
            yield name.removesuffix("_queue_url"), str(url)
    for acquirer, said in settings.life_events_acquirers.items():
        if url := said.get("queue"):
            yield f"life_events_{acquirer}", str(url)


def _dagster() -> Iterator[Figure]:
    """Of the instance of DAGSTER_HOME, if this process has one."""
    home = os.environ.get("DAGSTER_HOME")
    if not home or not (Path(home) / "dagster.yaml").is_file():
        return
    from ingestion_dagster.api import dagster_instance

    try:
        yield from dagster_instance.figures(Path(home))
    except Exception as error:  # noqa: BLE001 - its storage may raise whatever its driver does
        raise Transient(UNAVAILABLE, f"Dagster's storage cannot be asked ({type(error).__name__})") from None

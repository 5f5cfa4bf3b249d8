"""A Kinesis stream: how it is named and connected to, its records, and what AWS says against reading them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ingestion_dagster.engine import aws, pauses
from ingestion_dagster.engine.errors import ConfigurationError, Transient

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_ARN = re.compile(rf"arn:[a-z-]+:kinesis:([a-z0-9-]+):\d{{12}}:stream/({_NAME.pattern})")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_BOTO_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=5, read_timeout=10)

TOO_FAST = {
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
}
_KEY_REFUSALS = {"KMSAccessDeniedException", "KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException", "KMSOptInRequired"}


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its shard, its number there (decimal digits, growing), its bytes, and when the stream took it, UTC."""

    shard: str
    sequence_number: str
    data: bytes
    arrived: datetime


@dataclass(frozen=True, slots=True)
class Stream:
    """Which stream is meant. Checkpoints are kept under its name."""

    name: str
    arn: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, name_or_arn: str) -> "Stream":
        """The stream by its name or ARN. Raises `ConfigurationError` for anything else."""
        if arn := _ARN.fullmatch(name_or_arn):
            return cls(arn[2], name_or_arn, arn[1])
        if _NAME.fullmatch(name_or_arn):
            return cls(name_or_arn)
        raise ConfigurationError("a Kinesis stream is given by its name or as arn:aws:kinesis:REGION:ACCOUNT:stream/NAME; this is neither")

    @property
    def url(self) -> str:
        """The stream as the ledger names it."""
        return f"kinesis://{self.name}"

    @property
    def arguments(self) -> dict[str, str]:
        """How a call names the stream."""
        return {"StreamARN": self.arn} if self.arn else {"StreamName": self.name}

    @property
    def more_arguments(self) -> dict[str, str]:
        """How a call does that goes on with what another began, and takes no name."""
        return {"StreamARN": self.arn} if self.arn else {}


def connect(stream: Stream) -> Any:
    """A Kinesis client for this stream's region, with boto3's default credentials and endpoint. Raises `ConfigurationError`."""
    with told(stream):
        return aws.connect("kinesis", _BOTO_CONFIG, stream.region)


def pause_after(attempts: int) -> float:
    """Seconds after a stream has refused a call so many times."""
    return pauses.after(attempts, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)


def code_of(error: ClientError) -> str:
    """What AWS calls an error; "" if it does not say."""
    return aws.code_of(error.response)


@contextmanager
def told(stream: Stream) -> Iterator[None]:
    """Turns what AWS says into `Transient` or `ConfigurationError`, without the original: error bodies hold account numbers and key ids."""
    try:
        yield
    except ClientError as error:
        raise _fault(stream, code_of(error)) from None
    except aws.MISTAKES as error:
        raise ConfigurationError(f"{stream.url} is not open to us ({type(error).__name__}); check the AWS credentials and region") from None
    except BotoCoreError as error:
        raise Transient("stream_unavailable", f"{stream.url}: {type(error).__name__}") from None


def _fault(stream: Stream, code: str) -> Exception:
    if code == "ResourceNotFoundException":
        return ConfigurationError(f"there is no Kinesis stream {stream.name!r}; correct its name or ARN, or set AWS_REGION to its region")
    if code in aws.REFUSALS:
        return ConfigurationError(
            f"{stream.url} is not open to us ({code}); check credentials, kinesis:ListShards, kinesis:GetShardIterator and "
            "kinesis:GetRecords among the permissions"
        )
    if code in _KEY_REFUSALS:
        return ConfigurationError(f"{stream.url}: its encryption key is not open to us ({code}); allow kms:Decrypt, or enable the key")
    return Transient("stream_unavailable", f"{stream.url}: {code}")

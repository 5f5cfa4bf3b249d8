"""How AWS is reached: clients by the default chain of credentials, and which of their errors are mistakes of set-up."""

import threading
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import InvalidConfigError, InvalidRegionError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

DEFAULT_REGION = "eu-west-2"

MISTAKES = (InvalidConfigError, InvalidRegionError, NoCredentialsError, PartialCredentialsError, ProfileNotFound)
"""What boto3 raises where settings or credentials cannot work, whatever AWS says."""

REFUSALS = frozenset(
    {
        "403", "AccessDenied", "AccessDeniedException", "AWS.SimpleQueueService.NonExistentQueue", "ExpiredToken", "ExpiredTokenException",
        "IncompleteSignature", "InvalidAccessKeyId", "InvalidAddress", "InvalidClientTokenId", "InvalidSecurity",
        "InvalidSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired",
        "QueueDoesNotExist", "SignatureDoesNotMatch", "UnrecognizedClientException",
    }
)  # fmt: skip
"""Codes with which a service that is there keeps us out, or does not know what we name; trying again would not change it."""

connecting = threading.Lock()
"""A session is not safe to share while it creates a client; the client is."""


def connect(service: str, config: Config, region: str | None = None) -> Any:
    """A client of a service, with boto3's default credentials and endpoint; in this region, or else in the one that is set."""
    with connecting:
        session: Any = boto3.Session()
        return session.client(service, region_name=region or session.region_name or DEFAULT_REGION, config=config)


def code_of(response: Any) -> str:
    """The code in what a `ClientError` holds of the answer; empty if there is none."""
    return str(response.get("Error", {}).get("Code", ""))

"""How AWS is reached: clients by the default chain of credentials, and which of their errors are mistakes of set-up."""

import threading
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import InvalidConfigError, InvalidRegionError, NoCredentialsError, PartialCredentialsError, ProfileNotFound
from botocore.loaders import Loader, create_loader

DEFAULT_REGION = "eu-west-2"

MISTAKES = (InvalidConfigError, InvalidRegionError, NoCredentialsError, PartialCredentialsError, ProfileNotFound)
"""What boto3 raises where settings or credentials cannot work, whatever AWS says."""

REFUSALS = frozenset(
    {
        "403", "AccessDenied", "AccessDeniedException", "AWS.SimpleQueueService.NonExistentQueue", "ExpiredToken", "ExpiredTokenException",
        "IncompleteSignature", "IncompleteSignatureException", "InvalidAccessKeyId", "InvalidAddress", "InvalidClientTokenId",
        "InvalidSecurity", "InvalidSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
        "NotAuthorized", "OptInRequired", "QueueDoesNotExist", "SignatureDoesNotMatch", "UnrecognizedClientException",
    }
)  # fmt: skip
"""Codes with which a service that is there keeps us out, or does not know what we name; trying again would not change it."""

connecting = threading.Lock()
"""A session is not safe to share while it creates a client; the client is."""


@cache
def _loader(data_path: str | None) -> Loader:
    return create_loader(data_path)


def session() -> boto3.Session:
    """A session with the default chain of credentials, as the environment is now.

    What botocore's files say of services is read once per process, and not, at a tenth of a second, by every session.
    """
    bare = botocore.session.Session()
    loader = _loader(bare.get_config_variable("data_path"))
    bare.register_component("data_loader", loader)
    made = boto3.Session(botocore_session=bare)
    loader.search_paths[:] = dict.fromkeys(loader.search_paths)  # each session adds boto3's own folder
    return made


def connect(service: str, config: Config, region: str | None = None) -> Any:
    """A client of a service, with boto3's default credentials and endpoint; in this region, or else in the one that is set."""
    with connecting:
        made: Any = session()
        return made.client(service, region_name=region or made.region_name or DEFAULT_REGION, config=config)


def code_of(response: Any) -> str:
    """The code in what a `ClientError` holds of the answer; empty if there is none."""
    return str(response.get("Error", {}).get("Code", ""))

"""An acquirer's SQS queue: what is sent to it at about the same time goes in one request, again and again while it is away."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config

from ingestion_dagster.engine.breaker import Breaker
from ingestion_dagster.engine.delivery import Decided, NotThisTime, Undeliverable
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.life_events.acquirers import VARIABLE, Acquirer

LARGEST = 256 * 1024
"""Bytes of one request, and so of one message, at most."""

_REGION = re.compile(r"//sqs\.([a-z0-9-]+)\.amazonaws\.")
_AT_ONCE = 10
"""Messages of one request: SQS takes no more."""
_SHARED = 0.02
"""Seconds that a message waits for others to go with it."""
_ACCESS = frozenset(
    {
        "AccessDenied", "AccessDeniedException", "AWS.SimpleQueueService.NonExistentQueue", "ExpiredToken", "InvalidAccessKeyId",
        "InvalidClientTokenId", "InvalidSecurity", "QueueDoesNotExist", "SignatureDoesNotMatch", "UnrecognizedClientException",
    }
)  # fmt: skip
_LATER_CODES = frozenset({"RequestThrottled", "Throttling", "ThrottlingException", "InternalError", "ServiceUnavailable", "KmsThrottled"})


class Queue:
    """An SQS queue. What is sent at about the same time goes together; for the event loop that runs now."""

    def __init__(self, acquirer: Acquirer, patience_seconds: float) -> None:
        self._acquirer = acquirer
        self._client = _client(acquirer.queue)
        self._breaker = Breaker(1, patience_seconds, first_pause=0.5)
        self._waiting: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._flights: set[asyncio.Task[None]] = set()

    async def send(self, key: str, body: bytes) -> None:
        """Return once the queue has it. Raises `Decided`, `Transient` when it is away for too long, `ConfigurationError`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = sum(len(each) for _, each, _ in self._waiting)
        if self._waiting and size + len(body) > LARGEST:
            self._go()
        self._waiting.append((key, body, done))
        if len(self._waiting) == _AT_ONCE:
            self._go()
        elif self._flusher is None:
            self._flusher = asyncio.create_task(self._go_soon())
        await done

    def close(self) -> None:
        """Close the connections to the queue."""
        self._client.close()

    async def _go_soon(self) -> None:
        await asyncio.sleep(_SHARED)
        self._flusher = None
        self._go()

    def _go(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            self._flusher = None
        batch, self._waiting = self._waiting, []
        if batch:
            flight = asyncio.create_task(self._fly(batch))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    async def _fly(self, batch: list[tuple[str, bytes, "asyncio.Future[None]"]]) -> None:
        try:
            outcomes = await self._sent([(key, body) for key, body, _ in batch])
        except Exception as error:  # noqa: BLE001 - raised to each that waits
            outcomes = [error] * len(batch)
        for (_, _, done), outcome in zip(batch, outcomes, strict=True):
            if done.done():
                continue
            if outcome is None:
                done.set_result(None)
            else:
                done.set_exception(outcome)

    async def _sent(self, batch: list[tuple[str, bytes]]) -> list[Exception | None]:
        """What came of each. Tried again as long as patience lasts; raises what is no message's fault."""
        while True:
            probes = await self._breaker.enter()
            try:
                fault_point("life_events.notify.before")
                answer = await asyncio.to_thread(self._ask, batch)
                fault_point("life_events.notify.after")
            except _Away:
                self._breaker.bad()
            else:
                self._breaker.good()
                return answer
            finally:
                self._breaker.leave(probes)

    def _ask(self, batch: list[tuple[str, bytes]]) -> list[Exception | None]:
        try:
            answer = self._client.send_message_batch(QueueUrl=self._acquirer.queue, Entries=[*map(self._entry, range(len(batch)), batch)])
        except exceptions.ClientError as error:
            raise self._told(error) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
            raise ConfigurationError("no AWS credentials are set, which the queues of acquirers need") from None
        except (exceptions.ConnectionError, exceptions.HTTPClientError):
            raise _Away from None
        except exceptions.BotoCoreError as error:
            raise ConfigurationError(f"the queue of {self._acquirer.name} cannot be used ({type(error).__name__}): {VARIABLE}") from None
        failed = {int(each["Id"]): _refusal(each) for each in answer.get("Failed", ())}
        return [failed.get(number) for number in range(len(batch))]

    def _entry(self, number: int, message: tuple[str, bytes]) -> dict[str, Any]:
        key, body = message
        entry = {"Id": str(number), "MessageBody": body.decode()}
        return entry | {"MessageGroupId": key, "MessageDeduplicationId": key} if self._acquirer.is_ordered else entry

    def _told(self, error: exceptions.ClientError) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        if code in _LATER_CODES or status >= 500 or status == 429:
            return _Away()
        known = code if code in _ACCESS else str(status)
        return ConfigurationError(
            f"the queue of {self._acquirer.name} is not there, or not open to us ({known}): check {VARIABLE}, the AWS credentials, "
            "and that they may send to it (sqs:SendMessage, and kms:GenerateDataKey for an encrypted one)"
        )


class _Away(Exception):
    """The queue does not answer as it should."""


def _refusal(failed: Mapping[str, Any]) -> Decided:
    """Why SQS has not taken one message of several: the sender's fault, or its own."""
    if failed.get("SenderFault"):
        return Undeliverable("queue_refused")
    return NotThisTime("queue_failed")


def _client(queue: str) -> Any:
    region = _REGION.search(queue)
    once = Config(retries={"total_max_attempts": 2, "mode": "standard"}, connect_timeout=10, read_timeout=15, max_pool_connections=32)
    try:
        return boto3.session.Session().client("sqs", region_name=region[1] if region else None, config=once)
    except (exceptions.NoRegionError, exceptions.InvalidRegionError):
        raise ConfigurationError("the queues of acquirers need an AWS region: set AWS_DEFAULT_REGION") from None

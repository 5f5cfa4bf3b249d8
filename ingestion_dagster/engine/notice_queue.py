"""An SQS queue that tells what has come: messages received side by side, deleted once they are done with, and what nobody could read."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import orjson
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ingestion_dagster.engine import aws, notices
from ingestion_dagster.engine.notices import Told, Unreadable

_URL = re.compile(r"https?://[^/\s]+(?:/[^/\s]+)*/([A-Za-z0-9_-]{1,80}(?:\.fifo)?)")
_REGION = re.compile(r"//sqs\.([a-z0-9-]+)\.amazonaws\.")
_ARN = re.compile(r"arn:[a-z-]+:sqs:[a-z0-9-]+:(\d{12}):([A-Za-z0-9_-]{1,80}(?:\.fifo)?)")

_AT_ONCE = 10
"""Messages of one request: SQS gives and takes no more."""
_SIDE_BY_SIDE = 8
_WAIT_SECONDS = 1
"""A receipt that waits asks all of SQS's servers; one that does not may find nothing though there is something."""
_DELETIONS = 3
_PAUSE = 0.2
_BOTO_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=3, read_timeout=8, max_pool_connections=_SIDE_BY_SIDE
)


class Away(Exception):
    """The queue does not do what it is asked, now or as it is set up; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message in hand: what it is deleted by, and what it tells; None: it cannot be read."""

    receipt: str
    told: Told | None


class NoticeQueue:
    """The queue at a URL. Errors name it by its last part: the rest holds an account number. Raises `Away`, as every method does."""

    def __init__(self, url: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        known = _URL.fullmatch(url)
        if known is None:
            raise Away("a queue is given by its URL, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME; this is none")
        self.name = known[1]
        self._url = url
        self._sleep = sleep
        region = _REGION.search(url)
        with self._faults("sqs:ReceiveMessage"):
            self._client = aws.connect("sqs", _BOTO_CONFIG, region[1] if region else None)
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE)

    def __enter__(self) -> "NoticeQueue":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()
        self._client.close()

    def receive(self, most: int) -> list[Message]:
        """The next messages, about `most` of them; none if there are none now.

        What is received is hidden from others for as long as the queue says (its visibility timeout). As long as requests come back full
        there is more to be had, and several are made side by side.
        """
        messages = self._received()
        width, is_full = 1, len(messages) == _AT_ONCE
        while is_full and len(messages) < most:
            width = min(2 * width, _SIDE_BY_SIDE)
            for more in self._pool.map(lambda _number: self._received(), range(width)):
                is_full = is_full and len(more) == _AT_ONCE
                messages += more
        return messages

    def delete(self, receipts: Sequence[str]) -> int:
        """Delete messages, in batches; those that the queue fails to delete once more. Returns how many are left: they come again.

        A receipt that is refused is old: its message has been received again, and is deleted by who has it now.
        """
        left, refused = list(receipts), 0
        for attempt in range(_DELETIONS):
            if attempt:
                self._sleep(_PAUSE * 2**attempt)
            batches = [left[start : start + _AT_ONCE] for start in range(0, len(left), _AT_ONCE)]
            left = []
            for again, never in self._pool.map(self._not_deleted, batches):
                left += again
                refused += never
            if not left:
                break
        return len(left) + refused

    def dead(self) -> int | None:
        """Messages in the dead-letter queue: received as often as the redrive policy allows, and never deleted. None: there is none."""
        with self._faults("sqs:GetQueueAttributes"):
            policy = self._attribute(self._url, "RedrivePolicy")
            target = _ARN.fullmatch(str(orjson.loads(policy).get("deadLetterTargetArn"))) if policy else None
            if target is None:
                return None
        with self._faults(f"sqs:GetQueueUrl and sqs:GetQueueAttributes of {target[2]}"):
            url = self._client.get_queue_url(QueueName=target[2], QueueOwnerAWSAccountId=target[1])["QueueUrl"]
            return int(self._attribute(url, "ApproximateNumberOfMessages") or 0)

    def _attribute(self, url: str, name: str) -> str | None:
        found: str | None = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=[name]).get("Attributes", {}).get(name)
        return found

    def _received(self) -> list[Message]:
        with self._faults("sqs:ReceiveMessage"):
            answer = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=_AT_ONCE, WaitTimeSeconds=_WAIT_SECONDS)
        return [Message(found["ReceiptHandle"], _told(found.get("Body", ""))) for found in answer.get("Messages", ())]

    def _not_deleted(self, receipts: Sequence[str]) -> tuple[list[str], int]:
        """Those that may be deleted if it is asked again, and how many will not be."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        with self._faults("sqs:DeleteMessage"):
            answer: Any = self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
        failed = answer.get("Failed", ())
        again = [receipts[int(each["Id"])] for each in failed if not each.get("SenderFault")]
        return again, len(failed) - len(again)

    @contextmanager
    def _faults(self, asked: str) -> Iterator[None]:
        """Turns what AWS says into what this project says. Without the original: error bodies hold account numbers and key ids."""
        try:
            yield
        except ClientError as error:
            code = aws.code_of(error.response)
            if code in aws.REFUSALS:
                raise Away(f"{self.name} is not there, or not open to us ({code}); check its URL, the credentials and {asked}") from None
            raise Away(f"{self.name} does not answer as it should ({code})") from None
        except aws.MISTAKES as error:
            raise Away(f"{self.name} is not open to us ({type(error).__name__}); check the AWS credentials and region") from None
        except BotoCoreError as error:
            raise Away(f"{self.name} does not answer ({type(error).__name__})") from None


def _told(body: str) -> Told | None:
    try:
        return notices.read(body)
    except Unreadable:
        return None

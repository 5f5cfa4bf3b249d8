"""The event store in a DynamoDB table, whose own expiry (TTL) backs ours up.

The table has the partition key `hash` (string: a record key in hex), no sort key, and nothing in it but events. DynamoDB takes days to
delete what has expired, so each read and each condition looks at `ttl` itself.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from math import ceil
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ingestion_dagster.engine import aws
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.store import EventStore, Sealed

_VARIABLE = "INGESTION_LIFE_EVENTS_STORE_URL"
_THREADS = 32
_KEYS_A_READ = 100  # BatchGetItem takes no more
_LARGEST = 400_000  # bytes of an item; DynamoDB takes 400 KiB, names of attributes and the rest of the item included
_LONGEST_PAUSE = 5.0
_NAMES = {"#hash": "hash", "#payload": "payload", "#key": "encryption_key", "#stored": "stored_at", "#ttl": "ttl"}

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class DynamoStore(EventStore):
    """A table of boto3's default account, region and endpoint, asked up to `attempts` times for what does not succeed."""

    is_transactional = False

    def __init__(self, table: str, *, attempts: int = 5) -> None:
        self.table = table
        self._attempts = attempts
        self._connecting = threading.Lock()
        self._connected: Any = None

    def put(self, connection: Connection, events: Sequence[Sealed]) -> None:  # noqa: ARG002 - see EventStore
        """See EventStore. Raises `Refused` (`record_too_large`) for an event that no item can hold."""
        first = {event.record_key: event for event in reversed(events)}
        for event in first.values():
            if len(event.payload) > _LARGEST:
                message = "its event is larger than the 400 KB that DynamoDB takes; leave the record out, or keep events in Postgres"
                raise Refused(Problem("record_too_large", f"record {event.record_key.hex()}", message))
        self._each(self._put, first.values())

    def get(self, connection: Connection, record_keys: Sequence[bytes], now: datetime) -> dict[bytes, Sealed]:  # noqa: ARG002
        """See EventStore."""
        keys = list(dict.fromkeys(record_keys))
        batches = [keys[at : at + _KEYS_A_READ] for at in range(0, len(keys), _KEYS_A_READ)]
        found = [event for events in self._each(self._get, batches) for event in events]
        return {event.record_key: event for event in found if event.expires_at > now}

    def remove(
        self,
        connection: Connection,  # noqa: ARG002
        record_keys: Sequence[bytes],
        *,
        expired_by: datetime | None = None,
    ) -> frozenset[bytes]:
        """See EventStore."""
        keys = list(dict.fromkeys(record_keys))
        removed = self._each(lambda key: self._remove(key, expired_by), keys)
        return frozenset(key for key, was_there in zip(keys, removed, strict=True) if was_there)

    def expired(self, connection: Connection, now: datetime, count: int) -> list[bytes]:  # noqa: ARG002
        """See EventStore. Reads the whole table, if need be."""
        found: list[bytes] = []
        by = {":now": {"N": str(now.timestamp())}}
        for page in self._scan(("#hash", "#ttl"), "#ttl <= :now", by):
            found += [self._record_key(item) for item in page]
            if len(found) >= count:
                break
        return found[:count]

    def under_other_keys(self, connection: Connection, current: str, count: int) -> Iterator[list[Sealed]]:  # noqa: ARG002
        """See EventStore. Reads the whole table."""
        waiting: list[Sealed] = []
        for page in self._scan(tuple(_NAMES), "#key <> :current", {":current": {"S": current}}):
            waiting += [self._sealed(item) for item in page]
            while len(waiting) >= count:
                yield waiting[:count]
                del waiting[:count]
        if waiting:
            yield waiting

    def reseal(self, connection: Connection, changes: Sequence[tuple[Sealed, Sealed]]) -> frozenset[bytes]:  # noqa: ARG002
        """See EventStore."""
        done = self._each(lambda change: self._reseal(*change), changes)
        return frozenset(before.record_key for (before, _), resealed in zip(changes, done, strict=True) if resealed)

    def age(self, connection: Connection, since: datetime) -> tuple[int, datetime | None]:  # noqa: ARG002
        """See EventStore. Reads the whole table."""
        number, oldest = 0, None
        for page in self._scan(("#stored",)):
            stored = [self._stored_at(item) for item in page]
            number += sum(1 for moment in stored if moment < since)
            oldest = min(filter(None, (oldest, *stored)), default=None)
        return number, oldest

    @property
    def _client(self) -> Any:
        with self._connecting:
            if self._connected is None:
                retries: Any = {"mode": "standard", "total_max_attempts": self._attempts}
                config = Config(retries=retries, connect_timeout=5, read_timeout=10, max_pool_connections=_THREADS)
                self._connected = aws.connect("dynamodb", config)
            return self._connected

    def _put(self, event: Sealed) -> None:
        item = {
            "hash": {"S": event.record_key.hex()},
            "payload": {"B": event.payload},
            "encryption_key": {"S": event.encryption_key},
            "stored_at": {"S": event.stored_at.astimezone(UTC).isoformat()},
            "ttl": {"N": str(ceil(event.expires_at.timestamp()))},
        }
        self._if_so(
            "put_item",
            Item=item,
            ConditionExpression="attribute_not_exists(#hash) OR #stored < :stored",
            ExpressionAttributeNames=_only("#hash", "#stored"),
            ExpressionAttributeValues={":stored": item["stored_at"]},
        )

    def _get(self, record_keys: Sequence[bytes]) -> list[Sealed]:
        """At most `_KEYS_A_READ` of them."""
        found: list[Sealed] = []
        wanted: Any = {self.table: {"Keys": [_key(each) for each in record_keys], "ConsistentRead": True}}
        attempt = 0
        while wanted:
            with self._faults():
                answer = self._client.batch_get_item(RequestItems=wanted)
            got = [self._sealed(item) for item in answer["Responses"].get(self.table, ())]
            found += got
            wanted = answer.get("UnprocessedKeys")
            if wanted and not got:  # with something in it the answer was cut at 16 MB, and the rest is due at once
                attempt += 1
                if attempt == self._attempts:
                    raise self._unavailable("UnprocessedKeys")
                time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2**attempt)))  # noqa: S311 - a pause
        return found

    def _remove(self, record_key: bytes, expired_by: datetime | None) -> bool:
        condition: dict[str, Any] = {}
        if expired_by is not None:
            condition = {
                "ConditionExpression": "#ttl <= :by",
                "ExpressionAttributeNames": _only("#ttl"),
                "ExpressionAttributeValues": {":by": {"N": str(expired_by.timestamp())}},
            }
        answer = self._if_so("delete_item", Key=_key(record_key), ReturnValues="ALL_OLD", **condition)
        return answer is not None and "Attributes" in answer

    def _reseal(self, before: Sealed, after: Sealed) -> bool:
        answer = self._if_so(
            "update_item",
            Key=_key(before.record_key),
            UpdateExpression="SET #payload = :payload, #key = :key",
            ConditionExpression="#payload = :had AND #key = :had_key",
            ExpressionAttributeNames=_only("#payload", "#key"),
            ExpressionAttributeValues={
                ":payload": {"B": after.payload},
                ":key": {"S": after.encryption_key},
                ":had": {"B": before.payload},
                ":had_key": {"S": before.encryption_key},
            },
        )
        return answer is not None

    def _if_so(self, operation: str, **arguments: Any) -> Mapping[str, Any] | None:
        """The answer to a write under a condition; None if the condition is not met."""
        with self._faults():
            try:
                answer: Mapping[str, Any] = getattr(self._client, operation)(TableName=self.table, **arguments)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                    raise
                return None
            return answer

    def _scan(
        self, names: Sequence[str], condition: str | None = None, values: Mapping[str, Any] | None = None
    ) -> Iterator[list[Mapping[str, Any]]]:
        """Pages of all items that meet a condition: the attributes named, as they are at this moment."""
        arguments: dict[str, Any] = {
            "TableName": self.table,
            "ConsistentRead": True,
            "ProjectionExpression": ", ".join(names),
            "ExpressionAttributeNames": _only(*names),
        }
        if condition is not None:
            arguments |= {"FilterExpression": condition, "ExpressionAttributeValues": values}
        while True:
            with self._faults():
                answer = self._client.scan(**arguments)
            yield answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _each(self, work: Callable[[Argument], Result], arguments: Iterable[Argument]) -> list[Result]:
        """Do something for each, many at a time. The first failure calls off what has not begun."""
        todo = list(arguments)
        if len(todo) <= 1:
            return [work(each) for each in todo]
        with self._faults():
            self._client  # noqa: B018 - made once, before threads ask for it
        with ThreadPoolExecutor(min(_THREADS, len(todo)), thread_name_prefix="dynamodb") as pool:
            return list(pool.map(work, todo))

    def _sealed(self, item: Mapping[str, Any]) -> Sealed:
        record_key, stored_at = self._record_key(item), self._stored_at(item)
        try:
            expires_at = datetime.fromtimestamp(int(item["ttl"]["N"]), UTC)
            return Sealed(record_key, item["encryption_key"]["S"], item["payload"]["B"], stored_at, expires_at)
        except (KeyError, ValueError):
            raise self._strange() from None

    def _record_key(self, item: Mapping[str, Any]) -> bytes:
        try:
            return bytes.fromhex(item["hash"]["S"])
        except (KeyError, ValueError):
            raise self._strange() from None

    def _stored_at(self, item: Mapping[str, Any]) -> datetime:
        try:
            return datetime.fromisoformat(item["stored_at"]["S"])
        except (KeyError, ValueError):
            raise self._strange() from None

    def _strange(self) -> ConfigurationError:
        return ConfigurationError(f"{_VARIABLE}: the table {self.table} holds something that is no event; it has to be for events alone")

    def _unavailable(self, code: str) -> Transient:
        return Transient("store_unavailable", f"the DynamoDB table {self.table} does not answer as it should ({code})")

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns what DynamoDB says into what this project says, without the original, which may quote keys and access key ids."""
        try:
            yield
        except ClientError as error:
            raise self._fault(error.response["Error"]["Code"]) from None
        except aws.MISTAKES as error:
            raise ConfigurationError(f"{_VARIABLE}: DynamoDB is not open to us ({type(error).__name__}); check credentials") from None
        except BotoCoreError as error:
            raise self._unavailable(type(error).__name__) from None

    def _fault(self, code: str) -> Exception:
        if code == "ResourceNotFoundException":
            return ConfigurationError(
                f"{_VARIABLE}: there is no table {self.table} in this account and region; it needs the partition key 'hash' (string), "
                "no sort key, and time to live on attribute 'ttl'"
            )
        if code == "ValidationException":
            return ConfigurationError(
                f"{_VARIABLE}: the table {self.table} has another form; its partition key has to be 'hash' (string), without a sort key"
            )
        if code in aws.REFUSALS:
            return ConfigurationError(
                f"{_VARIABLE}: the table {self.table} is not open to us ({code}); check credentials, and that they may use "
                "PutItem, BatchGetItem, DeleteItem, UpdateItem and Scan"
            )
        return self._unavailable(code)


def _key(record_key: bytes) -> dict[str, dict[str, str]]:
    return {"hash": {"S": record_key.hex()}}


def _only(*names: str) -> dict[str, str]:
    """The names that an expression uses: DynamoDB refuses any other, and `hash` and `ttl` are words of its own."""
    return {name: _NAMES[name] for name in names}

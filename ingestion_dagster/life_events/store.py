"""The event store: payloads, encrypted, by record key, for as long as somebody has yet to consume them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings


@dataclass(frozen=True, slots=True)
class Sealed:
    """An event as the store holds it: what it is of is in `payload` (see `keys.Vault`), which its text does not show.

    A store may keep `expires_at` to the second, rounded up.
    """

    record_key: bytes
    encryption_key: str
    payload: bytes = field(repr=False)
    stored_at: datetime
    expires_at: datetime


class EventStore(ABC):
    """Events by record key. What has expired is as good as gone, whether it has been swept or not.

    Every method takes the connection of the caller's transaction: the store that lives in the same database takes part in it
    (`is_transactional`) and fails as the connection does (`psycopg.Error`); another one does its work at once, ignores the connection, and
    raises `Transient` (`store_unavailable`) when it does not answer, `ConfigurationError` if it is not there or not open to us. Nothing
    that is raised quotes an item. Safe to share between threads.
    """

    is_transactional: bool

    @abstractmethod
    def put(self, connection: Connection, events: Sequence[Sealed]) -> None:
        """Keep these events. One that is there already stays as it is, unless it was stored before.

        Then it has expired, or an attempt that was killed has left it. Of several under one key the first counts. Durable on return, or
        with the transaction.
        """

    @abstractmethod
    def get(self, connection: Connection, record_keys: Sequence[bytes], now: datetime) -> dict[bytes, Sealed]:
        """Those of the events that are there and have not expired by `now`, by record key; any number of keys."""

    @abstractmethod
    def remove(self, connection: Connection, record_keys: Sequence[bytes], *, expired_by: datetime | None = None) -> frozenset[bytes]:
        """Delete these events, expired or not; with `expired_by` only those whose time was up by then.

        Returns the keys of those that it has deleted. A store that was asked twice because its first answer was lost may leave some out.
        """

    @abstractmethod
    def expired(self, connection: Connection, now: datetime, count: int) -> list[bytes]:
        """Record keys of at most so many events whose time was up by `now`."""

    @abstractmethod
    def under_other_keys(self, connection: Connection, current: str, count: int) -> Iterator[list[Sealed]]:
        """All events that are sealed with another key than `current`, at most so many at a time, expired ones too.

        The connection may be used for transactions between two steps of the iteration.
        """

    @abstractmethod
    def reseal(self, connection: Connection, changes: Sequence[tuple[Sealed, Sealed]]) -> frozenset[bytes]:
        """Replace payloads by the same ones under another key (before, after), each only if it is still there as it was.

        Returns the keys of those that were.
        """

    @abstractmethod
    def age(self, connection: Connection, since: datetime) -> tuple[int, datetime | None]:
        """How many events were stored before `since`, and when the oldest of all was stored. Expired ones count while they are there."""


def open_store(settings: Settings) -> EventStore:
    """The event store that the settings mean. Raises `ConfigurationError` for a URL of another kind."""
    if settings.life_events_store_url is None:
        from ingestion_dagster.life_events.postgres_store import PostgresStore

        return PostgresStore()
    scheme, separator, table = settings.life_events_store_url.partition("://")
    if separator and scheme == "dynamodb" and table.strip("/"):
        from ingestion_dagster.life_events.dynamodb_store import DynamoStore

        return DynamoStore(table.strip("/"))
    raise ConfigurationError("INGESTION_LIFE_EVENTS_STORE_URL is dynamodb://table; without it events are kept in Postgres")

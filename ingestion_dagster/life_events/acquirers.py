"""Who gets what is made of events besides the platform, as the settings say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.life_events.notification import FIELDS
from ingestion_dagster.life_events.registry import NOTIFY
from ingestion_dagster.settings import Settings

VARIABLE = "INGESTION_LIFE_EVENTS_ACQUIRERS"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_QUEUE = re.compile(r"https?://[!-~]+/[!-~]+")


@dataclass(frozen=True, slots=True)
class Acquirer:
    """Who gets documents, on which queue, and which of `notification.FIELDS` are in them."""

    name: str
    queue: str
    fields: frozenset[str]

    @property
    def topic(self) -> str:
        """Its topic of the outbox."""
        return f"{NOTIFY}{self.name}"

    @property
    def is_ordered(self) -> bool:
        """Whether its queue is a FIFO queue, which drops what it is sent twice within five minutes."""
        return self.queue.endswith(".fifo")


def acquirers(settings: Settings) -> tuple[Acquirer, ...]:
    """The acquirers that are set. Raises `ConfigurationError` for one that cannot be meant."""
    return tuple(_acquirer(name, entry) for name, entry in settings.life_events_acquirers.items())


def topics(settings: Settings) -> tuple[str, ...]:
    """The topics that a new event is due under besides the platform's. Raises `ConfigurationError` as `acquirers` does."""
    return tuple(each.topic for each in acquirers(settings))


def _acquirer(name: str, entry: Mapping[str, object]) -> Acquirer:
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"{VARIABLE}: a name has letters, digits, '_' and '-', and 40 characters at most")
    if set(entry) != {"queue", "fields"}:
        raise ConfigurationError(f'{VARIABLE}: {name} has to have "queue" and "fields", and nothing else')
    queue, fields = entry["queue"], entry["fields"]
    if not isinstance(queue, str) or _QUEUE.fullmatch(queue) is None:
        raise ConfigurationError(f"{VARIABLE}: the queue of {name} is its URL: https://sqs.eu-west-2.amazonaws.com/123456789012/name")
    if not isinstance(fields, list) or not all(each in FIELDS for each in fields):
        raise ConfigurationError(f"{VARIABLE}: the fields of {name} are a list of {', '.join(FIELDS)}; it can be empty")
    return Acquirer(name, queue, frozenset(fields))

"""Whom events are on their way to: the topics of the outbox, and what people call those who wait behind them."""

from ingestion_dagster.engine import outbox
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.registry import NOTIFY, PUBLISH


def topics(connection: Connection) -> list[str]:
    """The platform's, then those of acquirers that messages stand under, dead ones too."""
    return [PUBLISH, *outbox.topics(connection, NOTIFY)]


def receiver(topic: str) -> str:
    """Who gets the messages of a topic, as people are told."""
    return "the platform" if topic == PUBLISH else f"acquirer {topic.removeprefix(NOTIFY)}"

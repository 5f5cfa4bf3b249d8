"""The point policy: what a newer file means for points that it does not hold."""

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.metrics.rules import reference
from ingestion_dagster.settings import Settings


def full_topics(settings: Settings) -> frozenset[str]:
    """Topics with policy `full`, whose newest file is the whole truth about its series. Every other topic has `keep`.

    Raises `ConfigurationError` for a topic that no list knows: a policy that is misspelt would silently not hold.
    """
    known = frozenset[str]().union(*reference().themes_topics.topics.values())
    if unknown := settings.metrics_point_policy.keys() - known:
        raise ConfigurationError(f"INGESTION_METRICS_POINT_POLICY names no topic of the reference list: {', '.join(sorted(unknown))}")
    return frozenset(topic for topic, policy in settings.metrics_point_policy.items() if policy == "full")

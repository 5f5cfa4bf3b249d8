"""The refreshes of each media type, as partitions."""

import dagster as dg

from ingestion_dagster.catalog import refreshes
from ingestion_dagster.catalog.registry import MEDIA_TYPES

REFRESHES = {model: dg.DynamicPartitionsDefinition(name=refreshes.definition(model)) for model in MEDIA_TYPES}
"""Partitions by media type; a key is the suffix of a refresh."""

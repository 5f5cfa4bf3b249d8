"""The Glue catalogue: springboard and current tables under their names, for Athena, Spark and whoever reads Glue.

Postgres knows what was published, so that a sync that finds nothing new asks nobody. It follows loads and never fails one: what could not
be published is published by the next.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ingestion_dagster.cubic import current, places
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.registry import CubicTable, Registry
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

_PARTITIONS_AT_ONCE = 100
_PARQUET = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
}
_PARQUET_SERDE = {
    "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
    "Parameters": {"serialization.format": "1"},
}
# As Spark and Glue's crawler register a Delta table: the formats are placeholders, readers go by the log below the location.
_DELTA = {
    "InputFormat": "org.apache.hadoop.mapred.SequenceFileInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveSequenceFileOutputFormat",
}
_REFUSALS = {
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_TAKEN = "AlreadyExistsException"
_ABSENT = "EntityNotFoundException"

LOADED = """
WITH schemas AS (
    SELECT DISTINCT ON (s.dataset_id) s.dataset_id, s.columns
    FROM cubic.schemas AS s
    ORDER BY s.dataset_id, s.version DESC
)
SELECT d.name, schemas.columns,
       CASE WHEN count(l.id) > 0 THEN
           array_agg(DISTINCT coalesce(l.partition, '') || '/' || substring(l.key FROM '[^/]+$')) FILTER (WHERE l.id IS NOT NULL) END
FROM ledger.datasets AS d
JOIN schemas ON schemas.dataset_id = d.id
LEFT JOIN ledger.loads AS l
    ON l.dataset_id = d.id AND l.status IN ('ready_for_archiving', 'archiving', 'archived') AND l.committed_at IS NOT NULL
    AND l.duplicate_of IS NULL AND l.error_code IS DISTINCT FROM 'superseded' AND l.rows_written > 0
    AND NOT EXISTS (
        SELECT FROM cubic.catalogue_partitions AS p
        WHERE p.database = %(database)s AND p.name = d.name
          AND p.partition = coalesce(l.partition, '') || '/' || substring(l.key FROM '[^/]+$'))
WHERE d.pipeline = 'cubic'
GROUP BY d.name, schemas.columns
"""

CURRENT = """
SELECT d.name, t.columns FROM cubic.current_tables AS t JOIN ledger.datasets AS d ON d.id = t.dataset_id
"""

ENTRIES = "SELECT database, name, fingerprint FROM cubic.catalogue_entries WHERE database = ANY(%(databases)s)"

REMEMBER = """
INSERT INTO cubic.catalogue_entries (database, name, fingerprint) VALUES (%(database)s, %(name)s, %(fingerprint)s)
ON CONFLICT (database, name) DO UPDATE SET fingerprint = excluded.fingerprint, at = now()
"""

REMEMBER_PARTITIONS = """
INSERT INTO cubic.catalogue_partitions (database, name, partition)
SELECT %(database)s, %(name)s, * FROM unnest(%(partitions)s::text[])
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class TableToPublish:
    """A table as the catalogue is to show it, and the partitions that it lacks there."""

    database: str
    name: str
    location: str
    columns: tuple[Column, ...]
    partition_keys: tuple[str, ...] = ()
    partitions: tuple[tuple[str, ...], ...] = ()
    """Values of the partition keys, in their order."""
    is_delta: bool = False
    is_new: bool = True
    """Not published so far, or with other columns or at another place."""

    @property
    def fingerprint(self) -> str:
        """What tells a changed definition from the one that was published."""
        shape = [self.location, [[each.name, each.type] for each in self.columns], self.partition_keys, self.is_delta]
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Published:
    """What a sync has published."""

    tables: int = 0
    partitions: int = 0


def databases(settings: Settings) -> tuple[str, str | None] | None:
    """The Glue databases for springboard and current tables; None if there is to be no catalogue. Raises `ConfigurationError`."""
    if not settings.cubic_glue_databases:
        return None
    names = [name.strip() for name in settings.cubic_glue_databases.split(",")]
    if not 1 <= len(names) <= 2 or not all(names) or len(set(names)) != len(names):
        raise ConfigurationError("INGESTION_CUBIC_GLUE_DATABASES reads 'springboard' or 'springboard,current', two names that differ")
    return names[0], names[1] if len(names) == 2 else None


def sync(connection: Connection, settings: Settings, registry: Registry) -> Published:
    """Publish what is loaded and not in the catalogue yet. Nothing without INGESTION_CUBIC_GLUE_DATABASES.

    Repeatable, and harmless beside another. Raises Transient (`catalogue_unavailable`) or `ConfigurationError`; what was published
    before that is remembered.
    """
    tables = partitions = 0
    for wanted in missing(connection, settings, registry):
        publish(settings, [wanted])
        fault_point("cubic.catalogue.published")
        loaded = ["/".join(values if len(values) > 1 else ("", *values)) for values in wanted.partitions]
        with connection.transaction():
            entry = {"database": wanted.database, "name": wanted.name}
            connection.execute(REMEMBER, entry | {"fingerprint": wanted.fingerprint})
            connection.execute(REMEMBER_PARTITIONS, entry | {"partitions": loaded})
        tables += wanted.is_new
        partitions += len(wanted.partitions)
    return Published(tables, partitions)

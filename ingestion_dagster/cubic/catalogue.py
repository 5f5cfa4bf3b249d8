"""The Glue catalogue: springboard and current tables under their names, for Athena, Spark and whoever reads Glue.

Postgres knows what was published, so that a sync that finds nothing new asks nobody. It follows loads and never fails one: what could not
be published is published by the next.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ingestion_dagster.cubic import delta_table, places
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

LOADED = """
WITH schemas AS (
    SELECT DISTINCT ON (s.dataset_id) s.dataset_id, s.columns
    FROM cubic.schemas AS s
    ORDER BY s.dataset_id, s.version DESC
), loaded AS (
    SELECT l.dataset_id,
           concat_ws('/', CASE WHEN l.snapshot_id IS NOT NULL THEN l.partition END, substring(l.key FROM '[^/]+$')) AS partition
    FROM ledger.loads AS l
    WHERE l.pipeline = 'cubic' AND l.status IN ('ready_for_archiving', 'archiving', 'archived') AND l.committed_at IS NOT NULL
      AND l.duplicate_of IS NULL AND l.error_code IS DISTINCT FROM 'superseded' AND l.rows_written > 0
)
SELECT asked.dataset, asked.name, schemas.columns, e.fingerprint, array_agg(DISTINCT l.partition) FILTER (WHERE l.partition IS NOT NULL)
FROM jsonb_to_recordset(%(tables)s::jsonb) AS asked (dataset text, name text)
JOIN ledger.datasets AS d ON d.pipeline = 'cubic' AND d.name = asked.dataset
JOIN schemas ON schemas.dataset_id = d.id
LEFT JOIN cubic.catalogue_entries AS e ON e.database = %(database)s AND e.name = asked.name
LEFT JOIN loaded AS l ON l.dataset_id = d.id AND NOT EXISTS (
    SELECT FROM cubic.catalogue_partitions AS p
    WHERE p.database = %(database)s AND p.name = asked.name AND p.partition = l.partition)
GROUP BY asked.dataset, asked.name, schemas.columns, e.fingerprint
ORDER BY asked.name
"""

CURRENT = """
SELECT d.name, t.columns, e.fingerprint
FROM cubic.current_tables AS t
JOIN ledger.datasets AS d ON d.id = t.dataset_id
LEFT JOIN cubic.catalogue_entries AS e ON e.database = %(database)s AND e.name = d.name
ORDER BY d.name
"""

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
        loaded = ["/".join(values) for values in wanted.partitions]
        with connection.transaction():
            entry = {"database": wanted.database, "name": wanted.name}
            connection.execute(REMEMBER, entry | {"fingerprint": wanted.fingerprint})
            connection.execute(REMEMBER_PARTITIONS, entry | {"partitions": loaded})
        tables += wanted.is_new
        partitions += len(wanted.partitions)
    return Published(tables, partitions)


def missing(connection: Connection, settings: Settings, registry: Registry) -> list[TableToPublish]:
    """What is loaded and was not published: tables that are new or have changed, and partitions. Asks Postgres only."""
    named = databases(settings)
    if named is None:
        return []
    springboard, of_current = named
    found = []
    asked = [{"dataset": table.name, "name": name} for table in registry.tables.values() for name in _names(table)]
    rows = connection.execute(LOADED, {"database": springboard, "tables": json.dumps(asked)}).fetchall() if asked else []
    for dataset, name, columns, fingerprint, partitions in rows:
        table = registry.tables[dataset]
        wanted = _springboard_table(settings, springboard, table, name, [Column(*each) for each in columns], partitions or [])
        if fingerprint != wanted.fingerprint or wanted.partitions:
            found.append(replace(wanted, is_new=fingerprint != wanted.fingerprint))
    for dataset, columns, fingerprint in connection.execute(CURRENT, {"database": of_current}).fetchall() if of_current else []:
        if dataset in registry.tables:
            shown = tuple(Column(name, kind) for name, kind in columns)
            wanted = TableToPublish(
                of_current or "", dataset, delta_table.location(settings, registry.tables[dataset]), shown, is_delta=True
            )
            if fingerprint != wanted.fingerprint:
                found.append(wanted)
    return found


def publish(settings: Settings, tables: Sequence[TableToPublish]) -> None:
    """Put tables and partitions into Glue, in place of what stands there under their names; their databases, if there are none.

    Raises Transient (`catalogue_unavailable`), or `ConfigurationError` where Glue is not open to us. Does nothing without
    INGESTION_CUBIC_GLUE_DATABASES.
    """
    if databases(settings) is None:
        return
    with _faults():
        client = _client()
        for name in sorted({table.database for table in tables}):
            _existing(client.create_database, DatabaseInput={"Name": name})
        for table in tables:
            definition = _definition(table)
            fault_point("cubic.catalogue.publish")
            if table.is_new and not _existing(client.create_table, DatabaseName=table.database, TableInput=definition):
                client.update_table(DatabaseName=table.database, TableInput=definition)
            _publish_partitions(client, table, definition)


def glue_type(kind: str) -> str:
    """A type of a column as Hive names it, which knows no time of day."""
    return "string" if kind == "time" else kind


def _names(table: CubicTable) -> list[str]:
    return [name for name, is_wanted in ((table.name, table.typed), (f"raw_{table.name}", table.raw)) if is_wanted]


def _springboard_table(
    settings: Settings, database: str, table: CubicTable, name: str, columns: Sequence[Column], partitions: Sequence[str]
) -> TableToPublish:
    is_raw = name != table.name
    keys = ("snapshot", "identifier") if table.kind == "ods" else ("identifier",)
    shown = tuple(Column(each.name, "string" if is_raw else each.type) for each in columns if each.name not in keys)
    location = f"{places.springboard(settings).url}/{places.table_folder(table, 'raw' if is_raw else '')}"
    values = [tuple(partition.split("/", len(keys) - 1)) for partition in partitions]
    return TableToPublish(database, name, location, shown, keys, tuple(each for each in values if len(each) == len(keys)))


def _definition(table: TableToPublish) -> dict[str, Any]:
    columns = [{"Name": each.name, "Type": glue_type(each.type)} for each in table.columns]
    if table.is_delta:
        serde = {
            "SerializationLibrary": "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
            "Parameters": {"serialization.format": "1", "path": table.location},
        }
        storage = {"Columns": columns, "Location": table.location, **_DELTA, "SerdeInfo": serde}
        parameters = {"EXTERNAL": "TRUE", "classification": "delta", "table_type": "DELTA", "spark.sql.sources.provider": "delta"}
    else:
        storage = {"Columns": columns, "Location": f"{table.location}/", **_PARQUET, "SerdeInfo": _PARQUET_SERDE}
        parameters = {"EXTERNAL": "TRUE", "classification": "parquet"}
    return {
        "Name": table.name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": parameters,
        "PartitionKeys": [{"Name": name, "Type": "string"} for name in table.partition_keys],
        "StorageDescriptor": storage,
    }


def _publish_partitions(client: Any, table: TableToPublish, definition: Mapping[str, Any]) -> None:
    for start in range(0, len(table.partitions), _PARTITIONS_AT_ONCE):
        inputs = []
        for values in table.partitions[start : start + _PARTITIONS_AT_ONCE]:
            folder = "/".join(f"{name}={value}" for name, value in zip(table.partition_keys, values, strict=True))
            storage = {**definition["StorageDescriptor"], "Location": f"{table.location}/{folder}/"}
            inputs.append({"Values": list(values), "StorageDescriptor": storage})
        fault_point("cubic.catalogue.partitions")
        answer = client.batch_create_partition(DatabaseName=table.database, TableName=table.name, PartitionInputList=inputs)
        codes = {error["ErrorDetail"]["ErrorCode"] for error in answer.get("Errors", ())} - {_TAKEN}
        if codes:
            raise _fault(min(codes))


def _existing(create: Callable[..., Any], **request: Any) -> bool:
    """Create something; False if it is there."""
    from botocore.exceptions import ClientError

    try:
        create(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] == _TAKEN:
            return False
        raise
    return True


def _client() -> Any:
    from botocore.config import Config

    from ingestion_dagster.engine import aws

    config = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=10, read_timeout=60)
    return aws.connect("glue", config)


@contextmanager
def _faults() -> Iterator[None]:
    """Turns what Glue says into what this project says."""
    from botocore.exceptions import BotoCoreError, ClientError

    from ingestion_dagster.engine import aws

    try:
        yield
    except ClientError as error:
        raise _fault(error.response["Error"]["Code"]) from None
    except aws.MISTAKES as error:
        raise ConfigurationError(f"Glue is not open to us ({type(error).__name__}); check the credentials") from None
    except BotoCoreError as error:
        raise Transient("catalogue_unavailable", f"Glue: {type(error).__name__}") from None


def _fault(code: str) -> Exception:
    if code in _REFUSALS:
        return ConfigurationError(
            f"Glue is not open to us ({code}); allow glue:CreateDatabase, CreateTable, UpdateTable and BatchCreatePartition, "
            "or unset INGESTION_CUBIC_GLUE_DATABASES"
        )
    return Transient("catalogue_unavailable", f"Glue: {code}")

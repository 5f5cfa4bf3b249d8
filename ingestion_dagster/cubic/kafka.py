"""Kafka: batches of a topic's records, delivered at least once; each record is written once, by (topic, partition, offset)."""

from collections.abc import Sequence

from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.ndjson import convert_ndjson
from ingestion_dagster.cubic.schemas import Accept, Fit, Version
from ingestion_dagster.cubic.sink import Outputs, Tolerance
from ingestion_dagster.cubic.stream_kind import Reading, Source, StreamKind


class Kafka(StreamKind):
    """Files of `cubic/kafka/<topic>/`."""

    kind = "kafka"
    suffixes = (".json.gz", ".json")
    one_by_one = True

    def read(self, source: Source, accept: Accept, columns: Sequence[Column] | None, outputs: Outputs, tolerance: Tolerance) -> Reading:  # noqa: ARG002 - see below
        """See StreamKind. An envelope cannot drift, and `columns` are taken from its value or are null: there is nothing to accept."""
        converted = convert_ndjson(
            source.chunks, columns, outputs, compressed=source.key.endswith(".gz"), tolerance=tolerance, wanted=source.written
        )
        return Reading(converted, Fit(Version(converted.columns, ("topic", "partition", "offset"))), offsets=converted.offsets)


KAFKA = Kafka()

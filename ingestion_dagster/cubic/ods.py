"""ODS: tables that Qlik replicates, as snapshots in parts (LOAD files) and changes since, each with a `.dfm` that describes it."""

from collections.abc import Sequence

from ingestion_dagster.cubic import dfm
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.convert import convert_csv
from ingestion_dagster.cubic.places import PENDING
from ingestion_dagster.cubic.registry import CubicTable
from ingestion_dagster.cubic.schemas import Accept, Fit, Offer
from ingestion_dagster.cubic.sink import Outputs, Tolerance
from ingestion_dagster.cubic.stream_kind import Reading, Source, StreamKind, snapshot_folder, timestamp_folder
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import StoredObject

METADATA = ".dfm"
NO_METADATA = Problem(
    "metadata_missing", "the .dfm", "there is none beside the file; its rows were not counted against it", severity="warning"
)


HEADER_DIFFERS = Problem(
    "header_differs", "header", "the file and its .dfm name different columns: one of the two is of another delivery; deliver both again"
)


class Ods(StreamKind):
    """Files of `cubic/ods_qlik/SCHEMA.TABLE/` and `…__ct/`."""

    kind = "ods"
    suffixes = (".csv.gz", ".csv")
    by_snapshot = True

    def companions(self, key: str) -> tuple[str, ...]:
        """See StreamKind: the `.dfm` of the same name."""
        suffix = next((suffix for suffix in self.suffixes if key.endswith(suffix)), None)
        return (key.removesuffix(suffix) + METADATA,) if suffix else ()

    def arrival(self, table: CubicTable, seen: StoredObject) -> Arrival | None:
        """See StreamKind. Waits for a snapshot, unless it is to be refused anyway."""
        if seen.key.endswith(METADATA):
            return None
        return Arrival(seen, table.name, PENDING, "snapshot" if seen.size and self.is_data(seen.key) else None)

    def repeats(self, table: CubicTable) -> bool:
        """See StreamKind. A part of a snapshot that comes again belongs to another snapshot."""
        return table.base is not None

    def archive_folder(self, load: Load) -> str:
        """See StreamKind."""
        return f"{super().archive_folder(load)}/{snapshot_folder(load)}"

    def error_folder(self, load: Load) -> str:
        """See StreamKind."""
        return f"{super().error_folder(load)}/{timestamp_folder(load)}"

    def read(self, source: Source, accept: Accept, columns: Sequence[Column] | None, outputs: Outputs, tolerance: Tolerance) -> Reading:  # noqa: ARG002 - see below
        """See StreamKind. `columns` need no second look: what the registry says is among the versions that `accept` compares with."""
        metadata = dfm.parse(source.companion) if source.companion is not None else None
        found: list[Fit] = []

        def accepted(header: tuple[str, ...]) -> Sequence[Column]:
            types = {column.name: column.type for column in metadata.columns} if metadata else None
            if types is not None and set(types) != set(header):
                raise Refused(HEADER_DIFFERS)
            found.append(accept(Offer(header, types, metadata.key if metadata else ())))
            return found[0].columns

        converted = convert_csv(
            source.chunks,
            accepted,
            outputs,
            dialect=metadata.dialect if metadata else dfm.Dialect(),
            compressed=source.key.endswith(".gz"),
            expected_rows=metadata.record_count if metadata else None,
            tolerance=tolerance,
        )
        return Reading(converted, found[0], metadata.warnings if metadata else (NO_METADATA,))


ODS = Ods()

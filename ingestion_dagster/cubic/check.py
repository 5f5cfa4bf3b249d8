"""Checking one file without loading it: every problem of it, with no ledger and no database."""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ingestion_dagster.cubic import schemas
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.registry import CubicTable, registry
from ingestion_dagster.cubic.schemas import Accept, Fit, Held, Offer, Version
from ingestion_dagster.cubic.sink import Outputs, Tolerance
from ingestion_dagster.cubic.stream_kind import Source
from ingestion_dagster.cubic.table_batch import refused_on_sight
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.settings import Settings

NO_TABLE = Problem(
    "no_table", "file name", "it lies below no registered prefix and would wait; add an entry to the registry", severity="warning"
)
"""`ingestion cubic propose` writes an entry from a `.dfm`."""


def check_file(settings: Settings, key: str, raw: bytes, companion: bytes | None = None) -> tuple[Problem, ...]:
    """Every problem of a file, as its table's entry in the registry has it; what the ledger knows of its table is not asked."""
    table = registry(settings).of_key(key)
    if table is None:
        return (NO_TABLE,)
    kind = KINDS[table.kind]
    if problem := refused_on_sight(kind, table, key, len(raw)):
        return (problem,)
    tolerance = Tolerance(settings.cubic_rejected_rows, settings.cubic_rejected_percent / 100)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outputs = Outputs(None, Path(folder) / "typed", Path(folder) / "rejects")
            reading = kind.read(Source(key, iter([raw]), companion), _accept(table), table.columns, outputs, tolerance)
        except Refused as refused:
            return refused.problems
        except Held as held:
            return (held.problem,)
    return (*reading.converted.problems, *reading.warnings)


def _accept(table: CubicTable) -> Accept:
    versions: Sequence[Version] = [] if table.columns is None else [Version(table.columns, table.key, registered=True)]

    def accept(offer: Offer) -> Fit:
        return schemas.fit(table, versions, offer, datetime.now(UTC))

    return accept

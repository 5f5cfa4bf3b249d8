"""Small cubic files on their whole way: discovered, claimed, converted, published, settled and moved, on an embedded Postgres."""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import cost
from ingestion_dagster.cubic.load import load_cubic
from ingestion_dagster.cubic.registry import PIPELINE, parse_registry
from ingestion_dagster.cubic.table_batch import Job
from ingestion_dagster.cubic.zone import prepare, zone
from ingestion_dagster.engine import embedded_postgres, landing, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings

REGISTRY = "tables: [{name: use, prefix: cubic/ods_qlik/EDW.USE/, kind: ods}]"


def whole_way(paths: Sequence[Path]) -> float:
    """CPU seconds of this process for each file; the first one, the marker, is loaded before and starts what is started once."""
    with tempfile.TemporaryDirectory(dir=paths[0].parent) as folder:
        home = Path(folder)
        settings = Settings(home=home, settle_seconds=0)
        try:
            database = postgres.ready(settings)
            with database.connect() as connection:
                marker = next(path for path in paths if path.name == "LOAD00000001.csv.gz")
                _run(settings, database, connection, [marker])
                rest = [path for path in paths if path != marker]
                _land(settings, rest)
                spent = cost(lambda: _run(settings, database, connection, []), database.conninfo)
                print(f"  (the server beside it: {spent.server / len(rest) * 1000:.2f} ms each; {spent.wall:.1f} s in all)")
                return spent.client / len(rest)
        finally:
            embedded_postgres.stop(home)


def _land(settings: Settings, paths: Sequence[Path]) -> None:
    store = zone(settings, parse_registry(REGISTRY)).landing
    for path in paths:
        for each in (path.with_suffix("").with_suffix(".dfm"), path):
            store.write(f"cubic/ods_qlik/EDW.USE/{each.name}", each.read_bytes())


def _run(settings: Settings, database: Database, connection: Connection, paths: Sequence[Path]) -> None:
    registry = parse_registry(REGISTRY)
    _land(settings, paths)
    prepare(connection, registry)
    job = Job.of(settings, registry)
    landing.discover(connection, job.zone, datetime.now(UTC))
    with Claims(database, Scope(PIPELINE), "bench", Limits.of(settings)) as claims:
        outcome = load_cubic(claims, job, connection)
    assert not outcome.total().loads_errored, outcome.codes

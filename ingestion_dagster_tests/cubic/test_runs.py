"""What the commands do with cubic, through Dagster in this process, by the registry that is shipped."""

from ingestion_dagster import runs
from ingestion_dagster.cubic.pipeline import CUBIC
from ingestion_dagster.engine import landing, ledger, whereabouts
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic.conftest import csv, moment

KEY = "cubic/dmap/agg_sample/agg_sample_20260110.csv.gz"
CONTENT = csv("1,one,5", header="sample_id,sample_name,sample_count")


def test_a_run_by_hand_finishes_what_a_dead_one_held(settings: Settings, database: Database) -> None:
    CUBIC.zone(settings).landing.write(KEY, CONTENT)
    with database.connect() as connection:
        CUBIC.sync_datasets(connection, settings)
        landing.discover(connection, CUBIC.zone(settings), moment("06:00:00"))
        assert ledger.claim(connection, Scope("cubic"), "dead", count=9, size=1 << 30, lease_seconds=-1)
        assert runs.run(CUBIC, settings, runs.Request()).rows_written == 1
        [state] = whereabouts.load_states(connection, "cubic")
    assert state["status"] == "archived"


def test_a_dry_run_changes_nothing_in_the_database(settings: Settings, database: Database) -> None:
    CUBIC.zone(settings).landing.write(KEY, CONTENT)
    counted = "SELECT (SELECT count(*) FROM ledger.loads), (SELECT count(*) FROM ledger.datasets), (SELECT count(*) FROM cubic.schemas)"
    summary = runs.run(CUBIC, settings, runs.Request(dry_run=True))
    assert (summary.loads, summary.errored, summary.rows_in) == (1, 0, 1)
    with database.connect() as connection:
        assert connection.execute(counted).fetchone() == (0, 0, 0)

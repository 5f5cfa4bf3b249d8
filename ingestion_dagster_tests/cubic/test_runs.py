"""What the commands do with cubic, through Dagster in this process, by the registry that is shipped."""

import dagster as dg

from ingestion_dagster import runs
from ingestion_dagster.cubic.assets import tell_of_tables
from ingestion_dagster.cubic.load import CubicOutcome
from ingestion_dagster.cubic.pipeline import CUBIC
from ingestion_dagster.cubic.sensors import cubic_s3_sensor
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import landing, ledger, whereabouts
from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.engine.errors import Problem
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


def test_the_sensor_asks_for_tables_that_have_files_and_for_no_others(settings: Settings) -> None:
    landing_zone = CUBIC.zone(settings).landing
    landing_zone.write(KEY, CONTENT)
    landing_zone.write(
        "cubic/ods_qlik/EDW.SAMPLE/LOAD1.csv.gz",
        csv("1,a,,", header="SAMPLE_ID,SAMPLE_NAME,EDW_INSERTED_DTM,EDW_UPDATED_DTM"),
        modified=moment("06:00:00"),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(
            instance=instance, repository_def=defs.get_repository_def(), resources={"ingestion": INGESTION}, sensor_name="cubic_s3_sensor"
        )
        tick = cubic_s3_sensor.evaluate_tick(context)
    asked = {request.job_name: [key.to_user_string() for key in request.asset_selection or ()] for request in tick.run_requests or ()}
    assert asked == {"cubic_ods_load": ["cubic/ods_qlik/edw_sample"], "cubic_daily_load": ["cubic/dmap/agg_sample"]}
    assert len({request.tags["ingestion/queue"] for request in tick.run_requests or ()}) == 2, "neither waits for the other"
    [added] = tick.dynamic_partitions_requests or ()
    assert list(added.partition_keys) == ["20260102T060000Z"]


def test_a_table_with_very_many_changed_columns_is_alerted_to_as_well(settings: Settings, database: Database) -> None:
    """The key of an alert stands in an index, which takes no more than 2,704 bytes."""
    many = "; ".join(f"'column_{number}' is gone" for number in range(2000))
    outcome = CubicOutcome(held={"wide": Problem("schema_changed", "header", many)})
    with database.connect() as connection:
        heard = settings.model_copy(update={"slack_webhook_url": "http://127.0.0.1:9/nobody"})
        for _ in range(2):
            tell_of_tables(connection, heard, outcome, "a-run")
        assert connection.execute("SELECT count(*) FROM ledger.alerts").fetchone() == (1,), "and once only"

"""A file type is one entry of one file: its asset, its checks, its rule and its dataset come with it."""

import json
from pathlib import Path

from ingestion_dagster import arrivals, runs
from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.adding import followed
from ingestion_dagster_tests.edited import copied, imported
from ingestion_dagster_tests.metrics.conftest import time_series_payload


def test_a_file_type_that_is_added_by_one_entry_is_loaded(settings: Settings, database: Database, tmp_path: Path) -> None:
    file = tmp_path / "COVID-19_wastewater.json"
    file.write_text(json.dumps(time_series_payload(metric_group="wastewater", metric="COVID-19_wastewater_copiesByDay")))
    root = copied(tmp_path, "metrics")
    followed("metrics: a file type", root)
    with imported(root):
        from ingestion_dagster.definitions import defs
        from ingestion_dagster.pipelines import PIPELINES

        pipeline = PIPELINES["metrics"]
        assert pipeline.check(settings, file.name, file.read_bytes(), lambda _key: None) == ()
        arrivals.land(pipeline, settings, [file])
        run = runs.run(pipeline, settings, runs.Request(dataset="wastewater"))
        checks = {f"{key.asset_key.to_user_string()}:{key.name}" for key in defs.resolve_asset_graph().asset_check_keys}
    assert (run.loads, run.errored, run.rows_written) == (1, 0, 2)
    assert checks >= {"metrics/wastewater:rows_add_up", "metrics/wastewater:nothing_errored"}
    with database.connect() as connection:
        [state] = whereabouts.load_states(connection, "metrics")
        found = connection.execute("SELECT DISTINCT metric_group FROM public.data_apitimeseries").fetchall()
    assert (state["dataset"], state["status"]) == ("wastewater", "archived")
    assert found == [("wastewater",)]

"""A table is one entry of the registry: its assets, its checks, its dataset and its place in the lake come with it."""

import os
from pathlib import Path

import pytest

from ingestion_dagster import runs
from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.adding import followed
from ingestion_dagster_tests.cubic.conftest import csv
from ingestion_dagster_tests.edited import copied, imported


def test_a_table_that_is_added_by_one_entry_is_loaded(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(tmp_path, "cubic")
    followed("cubic: a table", root)
    monkeypatch.setenv("INGESTION_CUBIC_TABLES", os.fspath(tmp_path / "source_data" / "cubic" / "tables.yaml"))
    settings = current()
    with imported(root):
        from ingestion_dagster.cubic import query
        from ingestion_dagster.cubic.registry import registry
        from ingestion_dagster.definitions import defs
        from ingestion_dagster.pipelines import PIPELINES

        pipeline = PIPELINES["cubic"]
        raw = csv("2026-01-10,north,7", "2026-01-11,north,9", header="date,rack,bicycles")
        pipeline.zone(settings).landing.write("cubic/dmap/agg_bicycles/agg_bicycles_20260110.csv.gz", raw)
        run = runs.run(pipeline, settings, runs.Request(dataset="cubic__dmap__agg_bicycles"))
        checks = {f"{key.asset_key.to_user_string()}:{key.name}" for key in defs.resolve_asset_graph().asset_check_keys}
        with database.connect() as connection:
            statement = "SELECT sum(bicycles) AS bicycles FROM cubic__dmap__agg_bicycles"
            _, found = query.run(connection, settings, registry(settings), statement)
            [state] = whereabouts.load_states(connection, "cubic")
    assert (run.loads, run.errored, run.rows_written) == (1, 0, 2)
    assert (state["dataset"], state["status"]) == ("cubic__dmap__agg_bicycles", "archived")
    assert checks >= {"cubic/dmap/agg_bicycles:rows_add_up", "cubic/dmap/agg_bicycles:nothing_errored"}
    assert found == [{"bicycles": 16}]

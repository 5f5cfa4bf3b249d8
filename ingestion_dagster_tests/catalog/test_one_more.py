"""A media type is one entry: its job, its assets and checks, its table and indexes come with it."""

from pathlib import Path

import dagster as dg
import pytest

from ingestion_dagster import runs
from ingestion_dagster.catalog import samples
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine import whereabouts
from ingestion_dagster_tests.adding import followed
from ingestion_dagster_tests.catalog import scene
from ingestion_dagster_tests.edited import copied, imported


def test_a_media_type_that_is_added_by_one_entry_is_refreshed(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)
    with places.upstream.connect() as upstream:
        upstream.execute(samples.TABLES["image"].replace("TABLE image", "TABLE video").replace("height integer", "duration integer"))
        rows = [{name: value for name, value in row.items() if name not in ("width", "height")} for row in scene.rows(range(1, 6))]
        scene.put(upstream, ("public", "video"), [row | {"duration": 1000} for row in rows])
    root = copied(tmp_path, "catalog")
    followed("catalog: a media type", root)
    with imported(root):
        from ingestion_dagster.catalog import readers
        from ingestion_dagster.catalog.gates import GATES
        from ingestion_dagster.catalog.task_requests import TaskRequest
        from ingestion_dagster.definitions import defs
        from ingestion_dagster.pipelines import PIPELINES

        run = runs.run(PIPELINES["catalog"], places.settings, runs.Request(dataset="video"))
        found = readers.search(places.settings, "video", "lantern", limit=10)
        checks = {
            key.name for key in defs.resolve_asset_graph().asset_check_keys if key.asset_key.path == ["catalog", "video", "search_index"]
        }
        assert TaskRequest.model_validate({"model": "video", "action": "INGEST_UPSTREAM"}, strict=False).model == "video"
    assert run.errored == 0
    assert found.total == 5
    assert checks == set(GATES)
    with places.api.connect() as api, places.ledger.connect() as connection:
        assert api.execute("SELECT count(*), min(duration) FROM video").fetchone() == (5, 1000)
        datasets = {state["dataset"] for state in whereabouts.load_states(connection, "catalog")}
    assert datasets == {"video", "video_index"}

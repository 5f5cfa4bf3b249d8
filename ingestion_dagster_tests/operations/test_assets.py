"""What operations does each night, through Dagster: every pipeline, whatever the trouble of one."""

import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.cubic.pipeline import SNAPSHOTS
from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.operations.assets import ALL_SEEN_TO, MAINTENANCE
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload


@pytest.fixture(autouse=True)
def temporary_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others have left on this machine is not for a test to remove."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def night(instance: dg.DagsterInstance, *, dry_run: bool = False) -> tuple[dict[str, dict[str, Any]], dict[str, bool]]:
    """Metadata by asset, and whether each check passed."""
    config = {asset.node_def.name: {"config": {"dry_run": dry_run}} for asset in MAINTENANCE if asset.key.path[-1] != "heartbeats"}
    result = dg.materialize(MAINTENANCE, instance=instance, resources={"ingestion": INGESTION}, run_config={"ops": config})
    told = {
        event.asset_key.path[-1]: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    return told, {f"{each.asset_key.path[-1]}:{each.check_name}": each.passed for each in result.get_asset_check_evaluations()}


def snapshot_of(metrics: Metrics) -> None:
    metrics.query("INSERT INTO ledger.datasets (pipeline, name) VALUES ('cubic', 'a_table') ON CONFLICT DO NOTHING")
    metrics.query(
        "INSERT INTO ledger.snapshots (dataset_id, snapshot, marker_key) SELECT id, '2026-01-02T03:04:05Z', 'k' FROM ledger.datasets "
        "WHERE name = 'a_table'"
    )


def test_a_night_sees_to_every_pipeline_and_says_so(metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(a=time_series_payload())
    snapshot_of(metrics)
    told, _ = night(instance, dry_run=True)
    assert told["partitions"]["partitions_added"] == 1
    assert instance.get_dynamic_partitions(SNAPSHOTS) == []
    assert metrics.rows("ledger.loads") == 0
    told, checks = night(instance)
    assert all(checks.values()), checks
    assert told["reconciliation"]["new"] == 1
    assert instance.get_dynamic_partitions(SNAPSHOTS) == ["20260102T030405Z"]
    told, _ = night(instance)
    assert (told["reconciliation"]["new"], told["partitions"]["partitions_added"]) == (0, 0)


def test_a_pipeline_whose_registry_is_broken_is_left_out_and_named_and_the_others_go_on(
    metrics: Metrics, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "tables.yaml"
    broken.write_text("tables: [not a table")
    monkeypatch.setenv("INGESTION_CUBIC_TABLES", str(broken))
    metrics.land(a=time_series_payload())
    told, checks = night(instance)
    assert told["reconciliation"]["new"] == 1
    assert not checks[f"reconciliation:{ALL_SEEN_TO}"]
    assert not checks[f"leftovers:{ALL_SEEN_TO}"]
    assert checks[f"partitions:{ALL_SEEN_TO}"]

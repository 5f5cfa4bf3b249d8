"""What stands in the places of a pipeline against its ledger: what was overlooked is entered, what is gone is told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingestion_dagster.engine import landing
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.metrics.places import zone
from ingestion_dagster.operations.reconciliation import Reconciled, reconcile
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

GOOD = time_series_payload()


def night(metrics: Metrics, pipeline: str = "metrics", *, dry_run: bool = False) -> Reconciled:
    with metrics.database.connect() as connection:
        return reconcile(connection, PIPELINES[pipeline], metrics.settings, "a night", dry_run=dry_run)


def test_an_object_that_no_sensor_has_seen_is_entered_and_a_dry_run_enters_nothing(metrics: Metrics) -> None:
    metrics.land(a=GOOD, b=GOOD)
    assert night(metrics, dry_run=True) == Reconciled()
    assert metrics.rows("ledger.loads") == 0
    found = night(metrics)
    assert (found.objects, found.new) == (2, 2)
    assert metrics.statuses() == {"a.json": "ready", "b.json": "ready"}
    assert (night(metrics).new, metrics.rows("ledger.loads")) == (0, 2)


def test_a_load_whose_object_was_taken_away_is_told_and_one_that_was_overwritten_is_not(metrics: Metrics) -> None:
    metrics.land(a=GOOD, b=GOOD, c=GOOD)
    with metrics.database.connect() as connection:
        METRICS.sync_datasets(connection, metrics.settings)
        landing.discover(connection, zone(metrics.settings), datetime.now(UTC))
    place = Path(metrics.settings.storage.removeprefix("file://")) / "metrics" / "in"
    (place / "a.json").unlink()
    metrics.land_key("b.json", GOOD | {"refresh_date": "2023-10-12"})
    found = night(metrics)
    assert found.gone == {"unknown": 1}
    assert metrics.query("SELECT key FROM ledger.loads WHERE id = ANY(%s)", [list(found.gone_ids)]) == [("a.json",)]


@pytest.mark.parametrize("change", ["taken away", "cut"])
def test_an_archived_object_that_is_not_as_it_was_is_told(metrics: Metrics, change: str) -> None:
    metrics.land(a=GOOD, b=GOOD | {"refresh_date": "2023-10-12"})
    metrics.run()
    assert night(metrics).archive.missing == night(metrics).archive.differing == 0
    store = open_store(f"{metrics.settings.storage}/metrics/archive")
    [key, _] = metrics.keys("archive")
    found = store.find(key)
    assert found is not None
    if change == "cut":
        store.write(key, b"{")
    else:
        store.remove(found)
    archive = night(metrics).archive
    assert (archive.checked, archive.missing, archive.differing) == ((2, 1, 0) if change == "taken away" else (2, 0, 1))
    assert archive.keys == (key,)


def test_a_catalogue_that_was_never_refreshed_is_in_order_and_no_database_is_made_for_it(metrics: Metrics) -> None:
    assert night(metrics, "catalog") == Reconciled()
    assert not (metrics.settings.home_folder / "postgres").exists()

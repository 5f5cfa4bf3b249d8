"""What killed processes have left is removed when it is old, and nothing that somebody is writing now."""

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from ingestion_dagster.cubic import current
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.operations import leftovers
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

NOBODY = cast(Connection, None)


def test_files_that_were_never_named_go_when_they_are_old_and_objects_stay(metrics: Metrics) -> None:
    metrics.load("a.json", time_series_payload())
    metrics.land_key("b.json", time_series_payload())
    storage = Path(metrics.settings.storage.removeprefix("file://")) / "metrics"
    unfinished = [storage / place / ".ingestion-writing-0123456789abcdef" for place in ("in", "archive", "processed")]
    for each in unfinished:
        each.write_text("half")
        os.utime(each, (0, 0))  # a copy is dated back before it is named
    before = metrics.keys("in"), metrics.keys("archive")
    now = datetime.now(UTC)
    assert leftovers.clear(NOBODY, METRICS, metrics.settings, now - timedelta(minutes=1)) == {"unfinished_files": 0}
    assert all(each.exists() for each in unfinished)
    assert leftovers.clear(NOBODY, METRICS, metrics.settings, now + timedelta(minutes=1)) == {"unfinished_files": 3}
    assert not any(each.exists() for each in unfinished)
    assert (metrics.keys("in"), metrics.keys("archive")) == before


def test_working_folders_of_current_tables_go_when_nobody_has_written_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("cubic-current-dead", "cubic-current-alive", "of-others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spill").write_text("x")
    long_ago = 1_000_000_000
    for name in ("cubic-current-dead", "cubic-current-alive", "of-others"):
        os.utime(tmp_path / name / "spill", (long_ago, long_ago))
        os.utime(tmp_path / name, (long_ago, long_ago))
    (tmp_path / "cubic-current-alive" / "new").write_text("x")
    (tmp_path / "cubic-current-link").symlink_to(tmp_path / "of-others")
    assert current.clear_leftovers(datetime.now(UTC) - timedelta(hours=1)) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cubic-current-alive", "cubic-current-link", "of-others"]


def test_every_pipeline_that_keeps_files_names_where(settings: Settings) -> None:
    written = {name: pipeline.written(settings) for name, pipeline in PIPELINES.items()}
    assert {name for name, urls in written.items() if urls} >= {"metrics", "cubic", "life_events"}
    assert f"{settings.storage}/cubic/springboard" in written["cubic"]
    assert {name for name, pipeline in PIPELINES.items() if pipeline.archive(settings)} == {"metrics", "cubic"}

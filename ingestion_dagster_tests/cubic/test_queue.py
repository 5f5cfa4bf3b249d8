"""Cubic files that a queue tells of: a message that is late or lost puts no file into another snapshot than a listing would."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingestion_dagster.cubic import zone as cubic_zone
from ingestion_dagster.cubic.registry import parse_registry
from ingestion_dagster.engine import discovery, notice_queue
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic.snapshot_scene import CHANGES, MARKER, TABLES, TEN
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine.notices_scene import PREFIX, Post

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket


@pytest.fixture
def post(new_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    monkeypatch.setattr(notice_queue, "_WAIT_SECONDS", 0)
    made = Post(new_bucket())
    yield made
    made.close()


def test_a_change_goes_to_the_snapshot_whose_marker_nobody_told_of(database: Database, post: Post, tmp_path: Path) -> None:
    registry = parse_registry(TABLES)
    landing = f"s3://{post.bucket}/{PREFIX}"
    settings = Settings(
        home=tmp_path, database_url=database.sqlalchemy_url, cubic_landing_url=landing, cubic_queue_url=post.url, cubic_metadata_seconds=0
    )
    zone = cubic_zone.zone(settings, registry)
    with database.connect() as connection:
        cubic_zone.prepare(connection, registry)
        post.put(MARKER)
        post.tell(MARKER)
        discovery.discover(connection, zone, TEN)
        time.sleep(1.1)  # S3 tells times in seconds
        post.put(MARKER, content=b"of the next full load")
        change = f"{CHANGES}20260101-100000000.csv.gz"
        post.put(change)
        post.tell(change)
        found = discovery.discover(connection, zone, TEN)
        assert found.new == 1
        marker = zone.landing.find(MARKER)
        assert marker is not None
        rows = connection.execute("SELECT key, partition, waiting_for FROM ledger.loads ORDER BY id").fetchall()
        newer = f"{marker.modified:%Y%m%dT%H%M%SZ}"
        assert {row[0]: row[1:] for row in rows} == {MARKER: (newer, None), change: (newer, None)}
        assert len(rows) == 3
        post.tell(MARKER)
        assert discovery.discover(connection, zone, TEN).new == 0

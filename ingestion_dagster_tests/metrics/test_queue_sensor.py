"""The sensor of a landing zone whose arrivals a queue tells of, and the runs that it asks for: on moto's SQS and S3."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster import arrivals
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import notice_queue
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.metrics.sensors import metrics_s3_sensor
from ingestion_dagster.settings import current
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine.notices_scene import PREFIX, Post
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket

GOOD = json.dumps(time_series_payload()).encode()

Tick = Callable[..., Any]


@pytest.fixture
def post(metrics: Metrics, new_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    """The landing zone of metrics in a bucket that tells a queue what arrives."""
    monkeypatch.setattr(notice_queue, "_WAIT_SECONDS", 0)
    made = Post(new_bucket())
    made.notify()
    monkeypatch.setenv("INGESTION_METRICS_LANDING_URL", f"s3://{made.bucket}/{PREFIX}")
    monkeypatch.setenv("INGESTION_METRICS_QUEUE_URL", made.url)
    yield made
    made.close()


@pytest.fixture
def tick(metrics: Metrics, instance: dg.DagsterInstance) -> Tick:
    """One evaluation as the daemon makes it."""
    repository = defs.get_repository_def()

    def evaluate(cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name="metrics_s3_sensor"
        )
        return metrics_s3_sensor.evaluate_tick(context)

    return evaluate


def alerts(metrics: Metrics) -> list[str]:
    return [row[0] for row in metrics.query("SELECT key FROM ledger.alerts ORDER BY id")]


def test_what_the_queue_tells_of_is_entered_and_one_run_asked_for(
    post: Post, tick: Tick, metrics: Metrics, instance: dg.DagsterInstance
) -> None:
    post.put("a.json", content=GOOD)
    [request] = tick().run_requests
    assert request.tags[PIPELINE_TAG] == "metrics"
    assert metrics.statuses() == {"a.json": "ready"}
    post.put("b.json", content=json.dumps(time_series_payload(stratum="b")).encode())
    assert defs.resolve_job_def("metrics_load").execute_in_process(instance=instance, tags=request.tags).success
    assert metrics.statuses() == {"a.json": "archived", "b.json": "archived"}, "a run discovers as its sensor does"
    assert post.waiting() == 2, "what a run deletes from the landing zone S3 tells as well"
    result = tick()
    assert result.skip_message == (
        f"0 objects in s3://{post.bucket}/{PREFIX}: 0 new, 0 being written; 0 loads claimable; 2 messages, 2 that tell of nothing new"
    )
    assert json.loads(result.cursor) == {"version": 1, "skip": 0}


def test_a_queue_that_stays_away_is_a_skip_and_after_three_ticks_an_alert(
    post: Post, tick: Tick, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    monkeypatch.setenv("INGESTION_METRICS_QUEUE_URL", post.url.replace(post.name, "nobodys"))
    cursor = None
    for number in (1, 2, 3, 4):
        result = tick(cursor)
        cursor = result.cursor
        assert result.run_requests == []
        assert "the queue was left for now: nobodys is not there, or not open to us" in result.skip_message
        assert [key.partition(":2")[0] for key in alerts(metrics)] == ["queue_away:metrics"] * (number >= 3)
    monkeypatch.setenv("INGESTION_METRICS_QUEUE_URL", post.url)
    assert json.loads(tick(cursor).cursor) == {"version": 1, "skip": 0}


def test_what_is_claimable_is_asked_for_while_the_queue_is_away(
    post: Post, tick: Tick, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.put("a.json", content=GOOD)
    tick()
    monkeypatch.setenv("INGESTION_METRICS_QUEUE_URL", post.url.replace(post.name, "nobodys"))
    assert len(tick().run_requests) == 1


def test_dead_letters_are_told_of_once_a_day_with_what_to_do(
    post: Post, tick: Tick, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    post.sqs.send_message(QueueUrl=post.dead_url, MessageBody="no JSON of Jane Doe")
    for _ in range(2):
        assert "1 in the dead-letter queue" in tick().skip_message
    [content] = [row[0] for row in metrics.query("SELECT content FROM ledger.alerts")]
    assert content["title"] == "1 messages of its queue could not be read, or not be deleted"
    assert "dead-letter queue" in content["details"][0]
    assert "Jane" not in str(content)


def test_the_first_day_takes_what_stands_there_and_not_what_was_told(post: Post, metrics: Metrics) -> None:
    post.put("a.json", content=GOOD)
    post.sqs.purge_queue(QueueUrl=post.url)
    assert arrivals.adopt(METRICS, current()).files == 1
    assert metrics.statuses() == {"a.json": "archived"}

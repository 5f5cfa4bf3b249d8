"""A bucket on moto whose S3 events go to a queue; and processes that empty the queue, to be killed and raced.

`python -m ingestion_dagster_tests.engine.notices_scene serve` forks a process for each request; it empties the queue once.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import boto3
from moto.sqs.models import sqs_backends

from ingestion_dagster.engine import discovery, notice_queue
from ingestion_dagster.engine.discovery import Heard
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.landing import Target, Zone, versioned
from ingestion_dagster.engine.object_store import StoredObject, open_store
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.scene import NOON, PIPELINE

REGION = "eu-west-2"
PREFIX = "some prefix/in"
_MODULE = "ingestion_dagster_tests.engine.notices_scene"
_ACCOUNT = "123456789012"
_numbers = count(1)


def zone_of(bucket: str, queue: str | None, **more: Any) -> Zone:
    """A landing zone in a bucket, which a queue tells of; files with a `b` in their names are boxes."""
    places = {name: open_store(f"s3://{bucket}/{name}") for name in (PREFIX, "archive", "failed")}

    def arrival(seen: StoredObject) -> Arrival:
        return Arrival(seen, "boxes" if "b" in seen.key else "letters")

    return Zone(
        PIPELINE,
        places[PREFIX],
        lambda load: (Target(places["archive"], versioned(load.key, load.version)),),
        lambda load: (Target(places["failed"], versioned(load.key, load.version)),),
        arrival=more.pop("arrival", arrival),
        queue=queue,
        **more,
    )


def command(_name: str) -> None:
    """What a process does."""
    notice_queue._WAIT_SECONDS = 0
    with Database.at(os.environ["INGESTION_DATABASE_URL"]).connect() as connection:
        heard = discovery.discover(connection, zone_of(os.environ["SCENE_BUCKET"], os.environ["SCENE_QUEUE"]), NOON)
    assert isinstance(heard, Heard)
    assert heard.trouble is None, heard.trouble


@dataclass
class Post:
    """A bucket, the queue of its events with a dead-letter queue behind it, and the landing zone below it."""

    bucket: str
    visibility: int = 60
    name: str = field(default_factory=lambda: f"arrivals-{next(_numbers)}")
    url: str = field(init=False)
    dead_url: str = field(init=False)
    sqs: Any = field(init=False)
    s3: Any = field(init=False)

    def __post_init__(self) -> None:
        self.sqs, self.s3 = boto3.client("sqs", region_name=REGION), boto3.client("s3", region_name=REGION)
        self.dead_url = self.sqs.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
        policy = {"deadLetterTargetArn": self.arn(f"{self.name}-dead"), "maxReceiveCount": 3}
        attributes = {"VisibilityTimeout": str(self.visibility), "RedrivePolicy": json.dumps(policy)}
        self.url = self.sqs.create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]

    def close(self) -> None:
        """Delete the queues, and what keeps connections."""
        for url in (self.url, self.dead_url):
            self.sqs.delete_queue(QueueUrl=url)
        self.sqs.close()
        self.s3.close()

    @staticmethod
    def arn(name: str) -> str:
        return f"arn:aws:sqs:{REGION}:{_ACCOUNT}:{name}"

    def zone(self, **more: Any) -> Zone:
        """The landing zone that the queue tells of."""
        return zone_of(self.bucket, self.url, **more)

    def notify(self) -> None:
        """From now on the bucket tells the queue of everything in it, as S3 does; the first message is S3's test."""
        to_queue = {"QueueArn": self.arn(self.name), "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
        self.s3.put_bucket_notification_configuration(Bucket=self.bucket, NotificationConfiguration={"QueueConfigurations": [to_queue]})

    def put(self, *keys: str, content: bytes = b"x") -> None:
        """Land objects."""
        for key in keys:
            self.s3.put_object(Bucket=self.bucket, Key=f"{PREFIX}/{key}", Body=content)

    def send(self, *bodies: Any) -> None:
        """Put messages into the queue; what is no text as JSON."""
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body if isinstance(body, str) else json.dumps(body))

    def tell(self, *keys: str, envelope: Callable[[Any], Any] = lambda event: event, **more: Any) -> None:
        """What S3 would tell of these keys, once each."""
        for key in keys:
            self.send(envelope(self.event(key, **more)))

    def event(self, key: str, *, name: str = "ObjectCreated:Put", bucket: str | None = None, prefix: str = f"{PREFIX}/") -> Any:
        """S3's event of an object, with a size, tag and version that are not to be believed."""
        path = f"{prefix}{key}".replace("+", "%2B").replace(" ", "+")
        told = {"bucket": {"name": bucket or self.bucket}, "object": {"key": path, "size": 99, "eTag": "e" * 32, "versionId": "made up"}}
        record = {"eventVersion": "2.1", "eventSource": "aws:s3", "eventTime": "2031-02-04T09:30:00.000Z", "eventName": name, "s3": told}
        return {"Records": [record]}

    def drain(self, connection: Connection, zone: Zone | None = None, **more: Any) -> Heard:
        """What one tick hears."""
        heard = discovery.discover(connection, zone or self.zone(), NOON, **more)
        assert isinstance(heard, Heard)
        return heard

    def waiting(self) -> int:
        """Messages in the queue, whether somebody has them in hand or not."""
        return len(self._backend()._messages)

    def let_time_pass(self) -> None:
        """What was received and not deleted is there again."""
        for message in self._backend()._messages:
            message.visible_at = 0

    def _backend(self) -> Any:
        return sqs_backends[_ACCOUNT][REGION].queues[self.name]

    def start(self, database: Database, fault: str | None = None) -> processes.Process:
        """A process that empties the queue."""
        settings = Settings(database_url=database.sqlalchemy_url)
        return processes.start(_MODULE, settings, "drain", fault=fault, SCENE_BUCKET=self.bucket, SCENE_QUEUE=self.url)


def sns(event: Any) -> Any:
    """An event as a topic passes it on."""
    return {"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:eu-west-2:123456789012:t", "Message": json.dumps(event)}


def eventbridge(event: Any) -> Any:
    """The same event in EventBridge's form, where keys are not encoded."""
    told = event["Records"][0]["s3"]
    key = told["object"]["key"].replace("+", " ").replace("%2B", "+")
    detail = {
        "version": "0",
        "bucket": told["bucket"],
        "object": {"key": key, "size": 9, "etag": "e", "sequencer": "0"},
        "reason": "PutObject",
    }
    return {"version": "0", "id": "1", "detail-type": "Object Created", "source": "aws.s3", "detail": detail}


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        processes.serve(command)
    else:
        command("drain")

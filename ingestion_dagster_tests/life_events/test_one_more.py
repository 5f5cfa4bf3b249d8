"""An acquirer is one entry of the environment: each event that is loaded from then on reaches its queue."""

from io import StringIO

import pytest
from dotenv import dotenv_values

from ingestion_dagster.life_events.pipeline import PUBLISH_JOB
from ingestion_dagster_tests.adding import blocks
from ingestion_dagster_tests.engine import conftest as aws
from ingestion_dagster_tests.life_events import scene, test_notify
from ingestion_dagster_tests.life_events.scene import LifeEvents, Run, file_of
from ingestion_dagster_tests.life_events.stand_in import StandIn
from ingestion_dagster_tests.life_events.test_notify import Queues

aws_environment, moto, queues = aws.aws_environment, test_notify.moto, test_notify.queues
instance, life_events, one_of_module, platform, run = scene.instance, scene.life_events, scene.one_of_module, scene.platform, scene.run
stand_in_of_module = scene.stand_in_of_module


def test_an_acquirer_that_is_added_by_one_entry_gets_what_is_loaded(
    life_events: LifeEvents, platform: StandIn, run: Run, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    [entry] = blocks("life_events: an acquirer")
    queue = queues.new()
    for name, value in dotenv_values(stream=StringIO(entry.text)).items():
        monkeypatch.setenv(name, str(value).replace("https://sqs.eu-west-2.amazonaws.com/123456789012/pensions", queue))
    life_events.drop("DI_D_20310205.xml", file_of(1, 2))
    assert run().success
    assert run("published_events", job=PUBLISH_JOB).success
    assert len(queues.taken(queue)) == 2
    assert life_events.query("SELECT count(*) FROM ledger.outbox") == [(0,)]

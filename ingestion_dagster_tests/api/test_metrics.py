"""What Prometheus is told: of every pipeline, under names that the alert rules use, at the cost of one reading, with no end of labels."""

import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ingestion_dagster.api import metrics, queues
from ingestion_dagster.api.app import create_app
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.figures import Figure, Row
from ingestion_dagster.engine.home import prepare_dagster_home
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.api.asking import Client, answering
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server

__all__ = ["aws_environment", "moto_server"]

RULES = Path(__file__).parent.parent.parent / "deploy" / "prometheus-rules.yaml"

LOADS = """
INSERT INTO ledger.datasets (pipeline, name, landing_prefix) VALUES ('metrics', 'cases', ''), ('cubic', 'taps', '');
INSERT INTO ledger.loads (pipeline, dataset_id, landing_zone, key, version, size, modified, partition, status, rows_in, rows_written,
                          rows_rejected, error_code, discovered_at, lease_until, claim)
SELECT 'metrics', (SELECT id FROM ledger.datasets WHERE name = 'cases'), 'file:///x', key, 'v', 1, now(), '2026-01-01', status, 10, 7,
       3, code, now() - interval '1 hour', CASE WHEN status = 'ingesting' THEN now() - interval '1 minute' END,
       CASE WHEN status = 'ingesting' THEN 1 END
FROM (VALUES ('a', 'archived', NULL), ('b', 'archived', NULL), ('c', 'errored', 'bad_age'), ('d', 'ready', NULL), ('e', 'ingesting', NULL))
     AS given (key, status, code);
INSERT INTO ledger.outbox (topic, key) VALUES ('life_events.publish', 'k1');
"""


@pytest.fixture
def client(settings: Settings, database: Database) -> Iterator[Client]:
    with database.connect() as connection:
        connection.execute(LOADS)
    with answering(create_app(settings)) as made:
        yield made


def values(body: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(body.decode())
    return {
        f"{sample.name}{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}": sample.value
        for family in families
        for sample in family.samples
    }


def test_loads_rows_errors_ages_and_the_outbox_are_told(client: Client) -> None:
    answer = client.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = values(answer.body)
    assert told["ingestion_loadsdataset=cases,pipeline=metrics,status=archived"] == 2
    assert told["ingestion_rowsdataset=cases,kind=rejected,pipeline=metrics"] == 15
    assert told["ingestion_errored_loadscode=bad_age,pipeline=metrics"] == 1
    assert told["ingestion_claimable_loadspipeline=metrics"] == 1
    assert 3590 < told["ingestion_claimable_oldest_secondspipeline=metrics"] < 3800
    assert told["ingestion_claimable_oldest_secondspipeline=cubic"] == 0
    assert told["ingestion_expired_leasespipeline=metrics"] == 1
    assert told["ingestion_outbox_messagestopic=life_events.publish"] == 1
    assert told["ingestion_life_events_events_alive"] == 0
    assert told["ingestion_scrape_seconds"] >= 0
    assert told["ingestion_queues_answer"] == 1


def test_who_asks_again_at_once_gets_the_same_and_asks_nobody(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.ask("GET", "/metrics")
    monkeypatch.setattr(metrics, "_read", lambda _desk: pytest.fail("the database was asked again"))
    assert client.ask("GET", "/metrics").body == first.body


def test_an_answer_ages(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[float] = [0.0]
    read: list[float] = []

    def reads(_desk: object) -> list[Figure]:
        read.append(now[0])
        return []

    monkeypatch.setattr(metrics, "_read", reads)
    scrapes = metrics.Scrapes(clock=lambda: now[0])
    for moment in (0.0, metrics.FRESH_SECONDS - 1, metrics.FRESH_SECONDS + 1):
        now[0] = moment
        scrapes.body(None)  # type: ignore[arg-type]
    assert read == [0.0, metrics.FRESH_SECONDS + 1]


def test_queues_that_are_away_hide_nothing_else(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_settings: Settings) -> list[Figure]:
        raise Transient(queues.UNAVAILABLE, "SQS is away")

    monkeypatch.setattr(queues, "read", away)
    told = values(client.ask("GET", "/metrics").body)
    assert told["ingestion_queues_answer"] == 0
    assert told["ingestion_loadsdataset=cases,pipeline=metrics,status=archived"] == 2


def test_queues_of_sqs_are_measured(settings: Settings, moto_server: str, aws_environment: pytest.MonkeyPatch) -> None:
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    client = boto3.client("sqs", region_name="eu-west-2")
    queue = client.create_queue(QueueName="of-an-acquirer")["QueueUrl"]
    client.send_message(QueueUrl=queue, MessageBody="one")
    [figure] = queues.read(settings.model_copy(update={"life_events_acquirers": {"dwp": {"queue": queue}}}))
    assert dict(figure.rows) == {("life_events_dwp", "visible"): 1, ("life_events_dwp", "in_flight"): 0}


def test_dagsters_queue_and_heartbeats_are_told_where_there_is_an_instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert queues.read(settings) == []
    prepare_dagster_home(settings)
    told = {figure.name: figure.rows for figure in queues.read(settings)}
    assert dict(told["runs"]) == {("queued",): 0, ("started",): 0}
    assert set(told) == {"runs", "daemon_silent_seconds", "sensor_silent_seconds"}


def test_no_figure_has_labels_without_end() -> None:
    rows: list[Row] = [((f"made-up\n{number}",), float(number)) for number in range(metrics.MOST_ROWS + 5)]
    body = metrics.exposition([Figure("many", "Many.", ("code",), rows)])
    told = values(body)
    assert sum(name.startswith("ingestion_many") for name in told) == metrics.MOST_ROWS
    assert told["ingestion_rows_left_out"] == 5
    assert "ingestion_manycode=made-up\\n0" not in told, "the smallest are left out"


def test_the_alert_rules_use_names_and_labels_that_there_are(client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set(re.findall(r"# TYPE (\w+)", client.ask("GET", "/metrics").body.decode()))
    prepare_dagster_home(settings)
    names |= {f"{metrics.PREFIX}{figure.name}" for figure in queues.read(settings)} | {"ingestion_queue_messages", "up"}
    names |= {"ingestion_life_events_oldest_unpublished_seconds"}
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 8
    for rule in rules:
        used = set(re.findall(r"\b(?:ingestion_\w+|up)\b", rule["expr"]))
        assert used, rule
        assert used <= names, used - names
        assert rule["annotations"]["summary"]
        assert "ingestion " in rule["annotations"]["do"]


def test_reading_costs_few_statements(database: Database) -> None:
    from ingestion_dagster.engine import figures

    class Counting:
        def __init__(self, connection: Connection) -> None:
            self.connection, self.statements = connection, 0

        def execute(self, *arguments: object) -> object:
            self.statements += 1
            return self.connection.execute(*arguments)  # type: ignore[call-overload]

    with database.connect() as connection:
        counting = Counting(connection)
        figures.read(counting, ["metrics", "cubic"])  # type: ignore[arg-type]
    assert counting.statements <= 12

"""Enrichment and deletion over HTTP: the statuses that the platform acts upon, and nothing of anybody where it does not belong."""

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from ingestion_dagster.api.app import create_app
from ingestion_dagster.engine.connections import Connections
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events import requests
from ingestion_dagster.life_events.audit import EVENT_DELETED, EVENT_ENRICHED
from ingestion_dagster.life_events.keys import hasher
from ingestion_dagster.life_events.registry import NOTIFY
from ingestion_dagster_tests.api.asking import Client, answering
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server
from ingestion_dagster_tests.life_events.held import MARKER, RECORD, Held, held, held_in, held_in_dynamo

__all__ = ["aws_environment", "held", "held_in", "held_in_dynamo", "moto_server"]

TOKEN = "a token of the test's"  # pragma: allowlist secret
UNKNOWN = "0" * 64
A_UUID = "11111111-2222-4333-8444-555555555555"
PATHS = ("/life-events/enrich", "/life-events/delete")


def with_token(held: Held) -> Held:
    return Held(held.settings.model_copy(update={"api_token": SecretStr(TOKEN)}))


@pytest.fixture(params=["postgres", "dynamodb"])
def either(request: pytest.FixtureRequest) -> Held:
    """An installation of each kind of store."""
    return with_token(request.getfixturevalue("held" if request.param == "postgres" else "held_in_dynamo"))


@pytest.fixture
def client(held: Held) -> Iterator[Client]:
    """Asks the API of an installation that keeps events in Postgres."""
    with answering(create_app(with_token(held).settings), TOKEN) as made:
        yield made


def test_the_way_of_an_event(either: Held):
    [event_id] = either.put(1, record=RECORD)
    with answering(create_app(either.settings), TOKEN) as client:
        found = client.enrich(event_id)
        assert (found.status, found.json) == (200, either.attributes(1))
        assert found.headers["content-type"] == "application/json"
        deleted = client.delete(event_id)
        assert (deleted.status, deleted.json) == (200, {"id": event_id})
        repeated = client.delete(event_id)
        assert (repeated.status, repeated.json) == (404, {"id": event_id})
        assert client.enrich(event_id).status == 404
    assert (either.state(1), either.is_stored(1)) == ("released", False)
    assert either.outcomes() == [(EVENT_ENRICHED, "ok"), (EVENT_DELETED, "ok"), (EVENT_DELETED, "not_found"), (EVENT_ENRICHED, "not_found")]
    first = either.audit()[0]
    assert first["payload_hmac"] == hasher(either.settings).of(found.body)
    assert (first["client"], first["correlation_id"]) == ("token", found.headers["correlationid"])


def test_the_audit_names_a_request_as_its_caller_does(held: Held, client: Client):
    [event_id] = held.put(1)
    assert client.enrich(event_id, CorrelationID=A_UUID).headers["correlationid"] == A_UUID
    assert held.audit()[0]["correlation_id"] == A_UUID


def test_what_is_not_known_is_not_found(held: Held, client: Client):
    missing = client.enrich(UNKNOWN)
    assert (missing.status, missing.json) == (404, {"status": 404, "userMessage": "nothing here goes by that name"})
    for event_id in (UNKNOWN, "", MARKER, "9" * 10_000):
        answer = client.delete(event_id)
        assert (answer.status, answer.json) == (404, {"id": event_id})
        assert MARKER not in str(client.enrich(event_id))
    assert MARKER not in held.everything()


BODIES = {
    "nothing": b"",
    "no json": b"{" + MARKER.encode(),
    "no object": f'["{MARKER}"]'.encode(),
    "no id": f'{{"surname": "{MARKER}"}}'.encode(),
    "number": b'{"id": 5}',
    "null": b'{"id": null}',
    "object": f'{{"id": {{"id": "{MARKER}"}}}}'.encode(),
    "more": f'{{"id": "{UNKNOWN}", "fields": ["{MARKER}"]}}'.encode(),
    "surrogate": b'{"id": "\\ud800"}',
    "bad utf-8": b'{"id": "\xff' + MARKER.encode() + b'"}',
    "deep": b'{"id": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "nan": b'{"id": NaN}',
}


@pytest.mark.parametrize("path", PATHS)
def test_any_other_body_is_refused_and_not_repeated(held: Held, client: Client, path: str, caplog: pytest.LogCaptureFixture):
    for name, body in BODIES.items():
        answer = client.ask("POST", path, raw=body)
        assert (answer.status, set(answer.json)) == (422, {"status", "userMessage"}), name
        assert MARKER not in str(answer), name
    assert client.ask("POST", path, raw=json.dumps({"id": UNKNOWN}).encode(), Content_Type="text/plain").status == 422
    event_name = EVENT_ENRICHED if path.endswith("enrich") else EVENT_DELETED
    assert held.outcomes() == [(event_name, "invalid")] * (len(BODIES) + 1)
    assert MARKER not in held.everything() + caplog.text


def test_other_methods_and_paths_are_refused_in_the_same_words(client: Client):
    for method, path, status in (
        ("GET", PATHS[0], 405), ("PUT", PATHS[1], 405), ("GET", "/life-events", 404), ("POST", f"{PATHS[0]}/", 404), ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
    ):  # fmt: skip
        answer = client.ask(method, path)
        assert (answer.status, answer.json["status"], set(answer.json)) == (status, status, {"status", "userMessage"}), path


class Away:
    is_transactional = False

    def get(self, *_: object) -> dict[bytes, object]:
        raise Transient("store_unavailable", MARKER)

    def age(self, *_: object) -> tuple[int, None]:
        raise ConfigurationError(MARKER)

    remove = get


def test_a_store_that_is_away_is_503_and_the_platform_keeps_the_event(held: Held, client: Client, monkeypatch: pytest.MonkeyPatch):
    [event_id] = held.put(1)
    monkeypatch.setattr(requests, "open_store", lambda _: Away())
    with answering(create_app(with_token(held).settings), TOKEN) as without:
        answer = without.enrich(event_id)
        assert (answer.status, answer.json["status"]) == (503, 503)
        assert int(answer.headers["retry-after"]) > 0
        refused = without.delete(event_id)
        assert (refused.status, refused.json) == (503, {"id": event_id})
        assert without.ask("GET", "/metrics").status == 503
        assert MARKER not in f"{answer}{refused}"
    assert len(held.alerts()) == 2
    assert client.delete(event_id).status == 200


def test_a_database_that_is_away_is_503_until_it_is_back(held: Held, monkeypatch: pytest.MonkeyPatch):
    [event_id] = held.put(1)
    app = create_app(with_token(held).settings)
    well = app.state.desk
    with answering(app, TOKEN) as client:
        away = Connections(Database.at(f"postgresql://{MARKER}@127.0.0.1:1/none"))
        app.state.desk = type(well)(away, well.store, well.vault, well.hasher, well.settings)
        answers = [client.enrich(event_id), client.delete(event_id), client.ask("GET", "/metrics"), client.ask("POST", PATHS[0], [])]
        assert [answer.status for answer in answers] == [503, 503, 503, 422]
        assert MARKER not in "".join(map(str, answers))
        app.state.desk = well
        assert client.enrich(event_id).status == 200
        ended = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert held.query(ended)
        assert client.enrich(event_id).status == 200


def test_an_event_that_acquirers_are_yet_to_be_sent_is_asked_for_again(held: Held, client: Client):
    [event_id] = held.put(1)
    with held.connect() as connection:
        held.queue(connection, f"{NOTIFY}dwp", 1)
    assert client.delete(event_id).status == 503
    held.query("DELETE FROM ledger.outbox")
    assert client.delete(event_id).status == 200


def test_many_callers_at_once_each_get_their_own_event(held: Held, client: Client):
    """And each within a second, which is what the platform's users are promised."""
    ids = held.put(*range(60))

    def ask(number: int) -> tuple[bool, float, int]:
        begun = time.perf_counter()
        answer = client.enrich(ids[number])
        return answer.json["hash"] == ids[number], time.perf_counter() - begun, client.delete(ids[number]).status

    with ThreadPoolExecutor(16) as pool:
        right, seconds, statuses = zip(*pool.map(ask, range(60)), strict=True)
    assert all(right)
    assert sorted(seconds)[58] < 1
    assert set(statuses) == {200}
    assert len(held.audit()) == 120


def test_metrics_are_numbers_in_prometheus_format_and_for_those_with_a_token(held: Held, client: Client):
    held.put(1, 2)
    answer = client.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    ours = [line for line in lines if "ingestion_life_events_" in line]
    values = dict(line.split(" ") for line in ours if not line.startswith("#"))
    assert float(values["ingestion_life_events_events_alive"]) == 2
    assert sum(line.startswith("# TYPE ") for line in ours) == len(values)
    assert all(float(value) >= 0 for value in values.values())
    assert Client(client.port).ask("GET", "/metrics").status == 401


def test_the_api_describes_itself_and_loads_nothing_from_elsewhere(client: Client):
    described = client.ask("GET", "/openapi.json").json
    assert {"/life-events/enrich", "/life-events/delete", "/healthz", "/metrics"} <= set(described["paths"])
    for path in PATHS:
        operation = described["paths"][path]["post"]
        assert {"200", "401", "404", "422", "429", "503"} <= set(operation["responses"])
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert (schema["required"], schema["additionalProperties"]) == (["id"], False)
    assert Client(client.port).ask("GET", "/openapi.json").status == 401


def test_nothing_of_anybody_is_in_any_answer_but_his_own(either: Held, caplog: pytest.LogCaptureFixture):
    """Nor in the logs, the audit, or the alerts."""
    caplog.set_level(logging.DEBUG)
    event_id, other = either.put(1, 2, surname=f"{MARKER}-1", record=RECORD)
    lost = either.settings.model_copy(update={"life_events_encryption_keys": SecretStr(f"b:{'ab' * 32}")})
    answers = []
    with answering(create_app(lost), TOKEN) as client:
        answers += [client.enrich(event_id), client.delete(MARKER), client.ask("GET", f"/{MARKER}"), client.ask("POST", PATHS[0], [MARKER])]
    with answering(create_app(either.settings), TOKEN) as client:
        assert MARKER in str(client.enrich(event_id))
        answers += [client.delete(event_id), client.enrich(event_id), client.enrich(other[:-1]), client.ask("GET", "/metrics")]
    assert [answer.status for answer in answers] == [503, 404, 404, 422, 200, 404, 404, 200]
    answers.pop(1)  # what is asked to be deleted by a name is told to whoever said it
    assert MARKER not in "".join(map(str, answers)) + caplog.text + either.everything()


def test_an_api_that_cannot_work_does_not_start(held: Held):
    with pytest.raises(ConfigurationError, match="INGESTION_LIFE_EVENTS_HMAC_KEYS"):
        create_app(held.settings.model_copy(update={"life_events_hmac_keys": SecretStr("a:short")}))
    with pytest.raises(ConfigurationError, match="INGESTION_LIFE_EVENTS_STORE_URL"):
        create_app(held.settings.model_copy(update={"life_events_store_url": "redis://x"}))
    with pytest.raises(ConfigurationError, match="INGESTION_DATABASE_URL"):
        create_app(held.settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"}))

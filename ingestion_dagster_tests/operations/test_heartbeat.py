"""That something lives is told outside while all is well, and silence is noticed inside."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ingestion_dagster.engine import figures
from ingestion_dagster.operations import heartbeat
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.metrics.conftest import Metrics


class Monitor(HTTPServer):
    """What listens outside: counts, and answers as it is told."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/ping/secret"


class Handler(BaseHTTPRequestHandler):
    server: Monitor

    def do_GET(self) -> None:
        self.server.fetched.append(self.path)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with Monitor() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_monitor_is_told_and_what_hinders_it_fails_nothing_and_shows_no_secret(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    assert heartbeat.ping(Settings(heartbeat_url=None)) == "off"
    assert heartbeat.ping(Settings(heartbeat_url=monitor.url)) == "told"
    assert monitor.fetched == ["/ping/secret"]
    monitor.status = 500
    for url in (monitor.url, "http://127.0.0.1:1/secret", "file:///etc/secret", "no address"):
        assert heartbeat.ping(Settings(heartbeat_url=url)) == "failed"
    assert "secret" not in caplog.text
    assert len(caplog.records) == 4


def test_what_beats_too_seldom_is_silent_and_its_age_can_be_polled(metrics: Metrics) -> None:
    with metrics.database.connect() as connection:
        for name in ("metrics_sweep_sensor", "cubic_sweep_sensor"):
            heartbeat.beat(connection, name)
        connection.execute("UPDATE ledger.heartbeats SET at = at - interval '16 minutes' WHERE name = 'cubic_sweep_sensor'")
        names = ["metrics_sweep_sensor", "cubic_sweep_sensor", "residents_sweep_sensor"]
        assert set(heartbeat.silent(connection, names, metrics.settings)) == {"cubic_sweep_sensor"}
        [ages] = [figure for figure in figures.read(connection, ["metrics"]) if figure.name == "heartbeat_seconds"]
        assert [(labels, round(age, -1)) for labels, age in ages.rows] == [(("cubic_sweep_sensor",), 960), (("metrics_sweep_sensor",), 0)]
        heartbeat.beat(connection, "cubic_sweep_sensor")
        assert heartbeat.silent(connection, names, metrics.settings) == {}

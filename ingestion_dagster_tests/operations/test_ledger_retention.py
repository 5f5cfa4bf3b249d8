"""What the ledger lets go of, and above all what it may not: each test tries to have something deleted that must stay."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.operations import ledger_retention
from ingestion_dagster.operations.ledger_retention import Forgotten
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

GOOD = time_series_payload()
LATER = timedelta(days=4000)

Forget = Callable[..., Forgotten]


@pytest.fixture
def connection(metrics: Metrics) -> Iterator[Connection]:
    with metrics.database.connect() as connection:
        yield connection


@pytest.fixture
def forget(metrics: Metrics, connection: Connection) -> Forget:
    """A night's retention, as of a day when every load that there is has ended long ago."""

    def night(pipeline: Any = METRICS, age: timedelta = LATER, **named: Any) -> Forgotten:
        return ledger_retention.forget(connection, pipeline, metrics.settings, datetime.now(UTC) + age, **named)

    return night


@pytest.fixture
def bygone(metrics: Metrics) -> Metrics:
    """A load whose object, as by a lifecycle rule of the archive, is gone."""
    metrics.load("a.json", GOOD)
    clear(metrics, "processed", "archive")
    return metrics


def clear(metrics: Metrics, *places: str) -> None:
    for place in places:
        store = open_store(f"{metrics.settings.storage}/metrics/{place}")
        for seen in list(store.list()):
            store.remove(seen)


def load_id(metrics: Metrics) -> int:
    return int(metrics.query("SELECT min(id) FROM ledger.loads")[0][0])


def test_a_load_past_its_term_whose_object_is_gone_leaves_with_its_history(bygone: Metrics, forget: Forget) -> None:
    assert forget() == Forgotten(loads=1)
    assert (bygone.rows("ledger.loads"), bygone.rows("ledger.load_events")) == (0, 0)


def test_a_load_stays_whose_object_stands_in_the_landing_zone_again(bygone: Metrics, forget: Forget) -> None:
    bygone.land_key("a.json", GOOD | {"refresh_date": "2023-10-11"})
    assert forget() == Forgotten(listed=1)
    assert bygone.rows("ledger.loads") == 1


def test_the_newest_version_of_a_key_stays_as_long_as_it_can_be_replayed_and_older_ones_go(metrics: Metrics, forget: Forget) -> None:
    for day in ("10", "11"):
        metrics.load("a.json", GOOD | {"refresh_date": f"2023-10-{day}"})
    assert forget() == Forgotten(loads=1, stored=1)
    [(location,)] = metrics.query("SELECT location FROM ledger.loads")
    assert open_store(f"{metrics.settings.storage}/metrics/archive").url in location
    clear(metrics, "archive")
    assert forget() == Forgotten(loads=1)


def test_a_refused_file_stays_as_long_as_it_can_be_retried(metrics: Metrics, forget: Forget) -> None:
    metrics.load("bad.json", GOOD | {"sex": "banana"})
    assert forget() == Forgotten(stored=1)
    clear(metrics, "failed")
    assert forget() == Forgotten(loads=1)


@pytest.mark.parametrize("status", ["ready", "ingesting", "ready_for_archiving", "archiving", "erroring"])
def test_a_load_that_has_not_ended_stays_however_old(bygone: Metrics, forget: Forget, status: str) -> None:
    bygone.query("UPDATE ledger.loads SET status = %s", [status])
    assert forget() == Forgotten()
    assert bygone.rows("ledger.loads") == 1


REFERRING = {
    "residents.rows": "INSERT INTO residents.rows (dataset_id, identity, row_hash, load_id) "
    "SELECT min(d.id), '\\x01', '\\x02', %(load)s FROM ledger.datasets AS d",
    "residents.file_rows": "INSERT INTO residents.file_rows (load_id, number, judged) VALUES (%(load)s, 1, 'skipped')",
    "life_events.records": "INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal) VALUES ('\\x01', 'k', %(load)s, 1)",
    "life_events.files": "INSERT INTO life_events.files (load_id) VALUES (%(load)s)",
    "ledger.outbox": "INSERT INTO ledger.outbox (topic, key, load_id) VALUES ('life_events.publish', 'k', %(load)s)",
    "cubic.adopted_loads": "INSERT INTO cubic.adopted_loads (original_id, load_id) VALUES (1, %(load)s)",
    "cubic.kafka_offsets": "INSERT INTO cubic.kafka_offsets (dataset_id, load_id, topic, partition, offsets) "
    "SELECT min(d.id), %(load)s, 't', 0, '{[1,2)}' FROM ledger.datasets AS d",
    "catalog.refreshes": "INSERT INTO catalog.refreshes (model, suffix, load_id, asked_by, alias) "
    "VALUES ('image', 'one', %(load)s, 't', 'image')",
}


@pytest.mark.parametrize("table", REFERRING)
def test_a_load_stays_that_a_record_within_a_term_of_its_own_refers_to(bygone: Metrics, forget: Forget, table: str) -> None:
    bygone.query(REFERRING[table], {"load": load_id(bygone)})
    try:
        assert forget() == Forgotten(referred=1)
        assert (bygone.rows("ledger.loads"), bygone.rows(table)) == (1, 1)
    finally:
        bygone.query(f"DELETE FROM {table}")
    assert forget() == Forgotten(loads=1)


def test_a_load_stays_that_another_is_the_duplicate_of(bygone: Metrics, forget: Forget) -> None:
    bygone.load("a.json", GOOD)
    assert bygone.query("SELECT count(duplicate_of) FROM ledger.loads") == [(1,)]
    assert forget() == Forgotten(referred=1, stored=1)


def test_what_is_younger_than_the_term_stays(bygone: Metrics, forget: Forget) -> None:
    term = timedelta(days=bygone.settings.ledger_days)
    assert forget(age=term - timedelta(hours=1)) == Forgotten()
    assert forget(age=term + timedelta(hours=1)) == Forgotten(loads=1)


def test_what_a_pipeline_remembers_longer_stays_longer(bygone: Metrics, forget: Forget) -> None:
    assert forget(replace(METRICS, remembers=lambda _settings: 5000)) == Forgotten()


def test_no_pipeline_forgets_before_its_own_record_ledger_or_stream_does(metrics: Metrics) -> None:
    shortest = metrics.settings.model_copy(update={"ledger_days": 1, "metrics_kinesis_stream": "a", "cubic_kinesis_stream": "b"})
    days = {name: (ledger_retention.term(pipeline, shortest) or timedelta()).days for name, pipeline in PIPELINES.items()}
    assert days["metrics"] > 365 < days["cubic"]
    assert days["residents"] == shortest.residents_retention_days
    assert days["life_events"] == shortest.life_events_ledger_days


def test_without_a_term_nothing_goes(bygone: Metrics, connection: Connection) -> None:
    forever = bygone.settings.model_copy(update={"ledger_days": 0})
    assert ledger_retention.forget(connection, METRICS, forever, datetime.now(UTC) + LATER) == Forgotten()


def test_a_load_whose_store_is_no_more_stays(bygone: Metrics, forget: Forget) -> None:
    bygone.query("UPDATE ledger.loads SET landing_zone = 'gdrive:nobody'")
    assert forget() == Forgotten(unsure=1)


def test_a_dry_run_counts_and_deletes_nothing(bygone: Metrics, forget: Forget, connection: Connection) -> None:
    bygone.query("INSERT INTO ledger.alerts (key, channel, content, status, sent_at) VALUES ('k', 'slack', '{}', 'sent', now())")
    now = datetime.now(UTC) + LATER
    for _ in range(2):
        assert forget(dry_run=True) == Forgotten(loads=1)
        assert ledger_retention.shorten(connection, bygone.settings, now, dry_run=True) == 3
        assert ledger_retention.forget_alerts(connection, bygone.settings, now, dry_run=True) == 1
    assert bygone.rows("ledger.loads") == 1


def test_the_history_can_be_shortened_by_retention_alone(bygone: Metrics, forget: Forget, connection: Connection) -> None:
    forget(dry_run=True)
    for statement in ("DELETE FROM ledger.load_events", "UPDATE ledger.load_events SET why = 'x'"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute(statement)
    with connection.transaction():
        connection.execute("SELECT set_config('ledger.forgetting', 'on', true)")
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"), connection.transaction():
            connection.execute("UPDATE ledger.load_events SET why = 'x'")


NIGHT = """
from datetime import UTC, datetime, timedelta
from ingestion_dagster.engine import postgres
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.operations import ledger_retention
from ingestion_dagster.settings import current

with postgres.locate(current()).connect() as connection:
    ledger_retention.forget(connection, METRICS, current(), datetime.now(UTC) + timedelta(days=4000))
"""

KILLED_AT = "operations.forget.within"


def test_a_night_that_is_killed_within_is_as_if_it_had_not_begun(bygone: Metrics, forget: Forget) -> None:
    processes.run_until_killed(NIGHT, KILLED_AT, environment=processes.environment_of(bygone.settings))
    assert (bygone.rows("ledger.loads"), bygone.rows("ledger.load_events")) == (1, 5)
    assert forget() == Forgotten(loads=1)


def test_two_nights_at_once_delete_each_load_once(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.land(**{f"f{number}": GOOD | {"metric": "COVID-19_deaths_ONSByDay", "age": "all", "n": number} for number in range(12)})
    metrics.run()
    clear(metrics, "processed", "archive", "failed")
    monkeypatch.setattr(ledger_retention, "BATCH", 2)
    barrier = threading.Barrier(2)
    results: list[Forgotten] = []

    def night() -> None:
        with metrics.database.connect() as connection:
            barrier.wait()
            results.append(ledger_retention.forget(connection, METRICS, metrics.settings, datetime.now(UTC) + LATER))

    threads = [threading.Thread(target=night) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.loads for result in results) == 12
    assert (metrics.rows("ledger.loads"), metrics.rows("ledger.load_events")) == (0, 0)


def test_of_an_old_load_beginning_end_and_every_new_start_stay_told(metrics: Metrics, connection: Connection) -> None:
    metrics.load("a.json", GOOD)
    metrics.query("UPDATE ledger.loads SET finished_at = now() - interval '1 day'")
    ledger.replay(connection, Scope("metrics"))
    metrics.run()
    now = datetime.now(UTC) + timedelta(days=metrics.settings.load_history_days)
    assert ledger_retention.shorten(connection, metrics.settings, now - timedelta(hours=1)) == 0
    assert ledger_retention.shorten(connection, metrics.settings, now + timedelta(hours=1)) == 6
    kept = metrics.query("SELECT from_status, to_status FROM ledger.load_events ORDER BY id")
    assert kept == [(None, "ready"), ("archiving", "archived"), ("archived", "ready"), ("archiving", "archived")]


def test_an_alert_that_was_not_sent_for_certain_stays(metrics: Metrics, connection: Connection) -> None:
    for status in ("due", "sending", "sent"):
        metrics.query(
            "INSERT INTO ledger.alerts (key, channel, content, status, sent_at) VALUES (%s, 'slack', '{}', %s, now())", [status, status]
        )
    now = datetime.now(UTC) + LATER
    assert ledger_retention.forget_alerts(connection, metrics.settings, now) == 1
    assert metrics.query("SELECT status FROM ledger.alerts ORDER BY 1") == [("due",), ("sending",)]

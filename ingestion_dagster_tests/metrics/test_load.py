"""A metric file's way through the pipeline, against a real database and real files."""

import traceback
from datetime import UTC, datetime

import psycopg
import pytest

from ingestion_dagster.engine import landing
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.metrics.interface import Merged, MetricsAPIInterface
from ingestion_dagster.metrics.places import zone
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload


def test_a_bad_file_does_not_hold_up_its_neighbours(metrics: Metrics) -> None:
    metrics.land(good=time_series_payload(), bad=time_series_payload(sex="banana", age="5"))
    outcome = metrics.run()
    assert metrics.statuses() == {"good.json": "archived", "bad.json": "errored"}
    assert {problem["code"] for problem in metrics.report("bad")["problems"]} == {"unknown_sex", "bad_age"}
    assert metrics.rows("metrics.core_time_series") == metrics.rows("public.data_apitimeseries") == 2
    assert outcome.total().rows_written == 2


def test_the_same_file_again_writes_nothing_and_says_of_what_it_is_a_duplicate(metrics: Metrics) -> None:
    metrics.load("a.json", time_series_payload())
    metrics.load("a.json", time_series_payload())
    first, second = metrics.states()
    assert (first["status"], second["status"]) == ("archived", "archived")
    assert second["duplicate_of"] is not None
    assert (second["rows_in"], second["rows_written"]) == (0, 0)
    assert metrics.keys("in") == []
    assert metrics.keys("processed") == ["a.json"]


def test_a_run_whose_leases_ran_out_keeps_nothing_and_goes_on_with_the_rest(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between claim and commit another run takes the first batch over; the second batch is loaded all the same."""
    merge = MetricsAPIInterface.merge
    taken: list[int] = []

    def overtaken(interface: MetricsAPIInterface, now: datetime) -> Merged:
        if not taken:
            taken.append(1)
            metrics.query("UPDATE ledger.loads SET claim = claim + 1000 WHERE key = 'a.json' RETURNING id")
        return merge(interface, now)

    monkeypatch.setattr(MetricsAPIInterface, "merge", overtaken)
    metrics.land(a=time_series_payload(), b=time_series_payload(age="00-04"))
    metrics.run(limits=Limits(batch_files=1))
    assert metrics.statuses() == {"a.json": "ingesting", "b.json": "archived"}
    assert metrics.query("SELECT DISTINCT age FROM public.data_apitimeseries") == [("00-04",)]
    assert "leases ran out" in caplog.text


def lose_the_connection_of_the_second_merge(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the backend that the second merge from now on uses, as a restart of the server would."""
    merge = MetricsAPIInterface.merge
    merges: list[int] = []

    def interrupted(interface: MetricsAPIInterface, now: datetime) -> Merged:
        merges.append(1)
        if len(merges) == 2:
            [(backend,)] = interface._connection.execute("SELECT pg_backend_pid()").fetchall()
            metrics.query("SELECT pg_terminate_backend(%s)", [backend])
        return merge(interface, now)

    monkeypatch.setattr(MetricsAPIInterface, "merge", interrupted)


def test_a_lost_connection_gives_the_batch_back_uncharged_and_says_nothing_of_its_rows(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses the batch (its message quotes the row), and then goes away while the files are taken one by one."""
    metrics.query("ALTER TABLE metrics.api_time_series ADD CONSTRAINT refuses CHECK (metric_value < 7000) NOT VALID")
    lose_the_connection_of_the_second_merge(metrics, monkeypatch)
    metrics.land(a=time_series_payload([("2023-06-20", 7317.4242)]), b=time_series_payload(age="00-04"))
    with pytest.raises(Transient, match="database_connection_lost") as lost:
        metrics.run()
    assert "7317" not in "".join(traceback.format_exception(lost.value))
    assert lost.value.__context__ is None
    assert [(state["status"], state["attempts"]) for state in metrics.states()] == [("ready", 0), ("ready", 0)]
    metrics.run()
    assert metrics.statuses() == {"a.json": "errored", "b.json": "archived"}


def test_a_store_that_answers_nobody_fails_the_run_and_charges_no_file(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> bytes:
        raise Transient("object_store_unavailable", "SlowDown")

    metrics.land(a=time_series_payload(), b=time_series_payload(age="00-04"))
    with monkeypatch.context() as patch:
        patch.setattr(landing, "read", unavailable)
        for _ in range(5):
            with pytest.raises(Transient, match="object_store_unavailable"):
                metrics.run()
    assert [(state["status"], state["attempts"]) for state in metrics.states()] == [("ready", 0), ("ready", 0)]
    metrics.run()
    assert set(metrics.statuses().values()) == {"archived"}


def test_one_unreadable_file_among_readable_ones_is_charged_and_given_up(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    read = landing.read

    def moody(place: Zone, load: Load) -> bytes:
        if load.key == "bad.json":
            raise Transient("object_store_unavailable", "SlowDown")
        return read(place, load)

    monkeypatch.setattr(landing, "read", moody)
    for attempt in range(3):
        metrics.land_key(f"good{attempt}.json", time_series_payload(age=f"0{attempt}-09"))
        metrics.land_key("bad.json", time_series_payload()) if attempt == 0 else None
        metrics.run(run_id=f"run-{attempt}")
    [bad] = [state for state in metrics.states() if state["key"] == "bad.json"]
    assert (bad["status"], bad["error_code"], bad["attempts"]) == ("errored", "transient_exhausted", 3)


def test_a_file_over_the_limit_is_refused_unread(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "read", lambda _zone, load: pytest.fail(f"{load.key} was read"))
    metrics.land(a=time_series_payload())
    metrics.run(max_load_bytes=10)
    assert metrics.report("a")["problems"][0]["code"] == "file_too_large"


def test_an_unreadable_file_that_is_claimed_by_itself_is_given_up_in_the_end(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run died with it: it comes alone, with no neighbour to tell its trouble from the store's, and must not fail runs for ever."""

    def unreadable(*_: object) -> bytes:
        raise Transient("object_store_unavailable", "Permission denied")

    metrics.land(a=time_series_payload())
    with metrics.database.connect() as connection:
        landing.discover(connection, zone(metrics.settings), datetime.now(UTC))
    metrics.query("UPDATE ledger.loads SET alone = true")
    monkeypatch.setattr(landing, "read", unreadable)
    for attempt in range(3):
        metrics.run(run_id=f"run-{attempt}")
    [state] = metrics.states()
    assert (state["status"], state["error_code"]) == ("errored", "transient_exhausted")


def test_a_refusal_of_the_database_is_not_settled_for_a_load_that_another_run_has_taken(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is lost between the database's refusal of the one file and the verdict on it; the run goes on."""

    def refuses(interface: MetricsAPIInterface, now: datetime) -> Merged:
        metrics.query("UPDATE ledger.loads SET claim = claim + 1000")
        raise psycopg.errors.CheckViolation("no")

    monkeypatch.setattr(MetricsAPIInterface, "merge", refuses)
    metrics.land(a=time_series_payload())
    assert metrics.run().total().loads_errored == 0
    assert metrics.statuses() == {"a.json": "ingesting"}

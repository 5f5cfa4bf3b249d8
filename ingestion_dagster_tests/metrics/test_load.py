"""A metric file's way through the pipeline, against a real database and real files."""

from datetime import datetime

import pytest

from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.metrics.interface import Merged, MetricsAPIInterface
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

"""A metric file's way through the pipeline, against a real database and real files."""

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

"""The load step under Dagster: what a run with and without a partition key takes, reports and checks."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import landing, ledger
from ingestion_dagster.metrics.assets import LANDING_ZONE, datasets_selected
from ingestion_dagster.metrics.checks import CHECK_SPECS
from ingestion_dagster.metrics.places import zone
from ingestion_dagster.metrics.registry import FILE_TYPES, TABLES
from ingestion_dagster_tests.engine.results import evaluations, materialized
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.test_load import lose_the_connection_of_the_second_merge

TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
YESTERDAY = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
VOCABULARY = {
    "dagster/row_count", "loads_archived", "loads_errored", "rows_in", "rows_written", "rows_rejected", "bytes", "seconds", "load_statuses",
}  # fmt: skip
GOOD = time_series_payload()
CASES = time_series_payload(metric_group="cases", metric="COVID-19_cases_casesByDay")
HEADLINE = headline_payload()
BAD = time_series_payload(sex="banana", age="5")
FED_BY_SERIES = {name for name, table in TABLES.items() if not table.is_fact} | {"core_time_series", "api_time_series"}


@pytest.fixture
def run(metrics: Metrics, instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """One run of the pipeline's job; `run("cases", partition_key=…, as_of=…)` narrows it."""
    job = defs.resolve_job_def("metrics_load")

    def execute(
        *names: str, partition_key: str | None = None, tags: dict[str, str] | None = None, raise_on_error: bool = True, **config: Any
    ) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["metrics", name]) for name in names] or None,
            partition_key=partition_key,
            tags=tags,
            run_config={"ops": {node.name: {"config": config} for node in job.nodes}},
            raise_on_error=raise_on_error,
        )

    return execute


Run = Callable[..., dg.ExecuteInProcessResult]


def discovered_yesterday(metrics: Metrics, *keys: str) -> None:
    """Enter what stands in the landing zone, and date these keys back."""
    with metrics.database.connect() as connection:
        landing.discover(connection, zone(metrics.settings), datetime.now(UTC))
        connection.execute(
            "UPDATE ledger.loads SET partition = %s, discovered_at = discovered_at - interval '1 day' WHERE key = ANY(%s)",
            [YESTERDAY, list(keys)],
        )


# Runs without a partition key, as a sensor asks for them


def test_keyless_run_reports_each_asset_and_day_it_touched_and_no_other(run: Run, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(old=GOOD, new=GOOD | {"age": "01+"}, cases=CASES)
    discovered_yesterday(metrics, "old.json")
    found = materialized(run())
    assert set(found) == {("deaths", YESTERDAY), ("deaths", TODAY), ("cases", TODAY)} | {
        (table, day) for table in FED_BY_SERIES for day in (YESTERDAY, TODAY)
    }
    assert instance.get_materialized_partitions(dg.AssetKey(["metrics", "deaths"])) == {YESTERDAY, TODAY}
    assert instance.get_materialized_partitions(dg.AssetKey(["metrics", "headline"])) == set()


def test_counts_of_an_asset_are_those_of_its_own_files_and_day(run: Run, metrics: Metrics) -> None:
    three_days = time_series_payload([("2023-06-20", 1), ("2023-06-21", 2), ("2023-06-22", None)], age="02+")
    metrics.land(old=GOOD, new=three_days, again=GOOD | {"age": "03+"}, bad=BAD, cases=CASES, headline=HEADLINE)
    discovered_yesterday(metrics, "old.json", "bad.json")
    found = materialized(run())
    counts = ("loads_archived", "loads_errored", "rows_in", "rows_written", "rows_rejected")
    assert {key: tuple(values[name] for name in counts) for key, values in found.items() if key[0] in FILE_TYPES} == {
        ("deaths", YESTERDAY): (1, 1, 4, 2, 2),
        ("deaths", TODAY): (2, 0, 4, 4, 0),
        ("cases", TODAY): (1, 0, 2, 2, 0),
        ("headline", TODAY): (1, 0, 1, 1, 0),
    }
    of_table = found["core_time_series", TODAY]
    assert (of_table["rows_in"], of_table["loads_archived"]) == (6, 3)
    assert of_table["dagster/row_count"] == metrics.rows("metrics.core_time_series") == 8
    assert of_table["dagster/partition_row_count"] == 6
    assert found["core_headline", TODAY]["rows_in"] == 1
    staged = {(state["dataset"], state["partition"]): 0 for state in metrics.states()}
    for state in metrics.states():
        staged[state["dataset"], state["partition"]] += state["rows_in"]
    assert {key: values["rows_in"] for key, values in found.items() if key[0] in FILE_TYPES} == staged


@pytest.mark.parametrize("partition_key", [None, TODAY])
def test_every_materialization_speaks_the_whole_vocabulary(run: Run, metrics: Metrics, partition_key: str | None) -> None:
    metrics.land(deaths=GOOD, headline=HEADLINE, bad=BAD)
    discovered_yesterday(metrics)
    found = materialized(run(partition_key=partition_key))
    assert {key[0] for key in found} >= {"deaths", "headline", *TABLES}
    for (name, partition), values in found.items():
        assert set(values) >= VOCABULARY, name
        if name in TABLES:
            assert values["dagster/table_name"] == f"public.{TABLES[name].view}"
            assert [column.name for column in values["dagster/column_schema"].columns] == [column[0] for column in TABLES[name].columns]
        else:
            assert values["dagster/uri"] == f"{metrics.settings.storage}/metrics/processed"
        feeding = TABLES[name].fed_by if name in TABLES else (name,)
        assert {record.data["partition"] for record in values["load_statuses"].records} <= {partition}
        assert {record.data["dataset"] for record in values["load_statuses"].records} <= set(feeding)
    statuses = {record.data["status"]: record.data["loads"] for record in found["deaths", TODAY]["load_statuses"].records}
    assert statuses == {"archived": 1, "errored": 1}


def test_day_without_loads_is_materialized_by_key_and_untouched_without(run: Run) -> None:
    assert materialized(run()) == {}
    found = materialized(run(partition_key=YESTERDAY))
    assert set(found) == {(name, YESTERDAY) for name in (*FILE_TYPES, *TABLES)}
    assert {values["rows_in"] for values in found.values()} == {0}


def test_unreadable_file_alone_does_not_fail_the_run(run: Run, metrics: Metrics) -> None:
    metrics.land(broken=b"{")
    result = run()
    assert result.success
    assert materialized(result) == {}
    assert metrics.statuses() == {"broken.json": "errored"}


# Narrowed runs


def test_partition_key_takes_its_day_only(run: Run, metrics: Metrics) -> None:
    metrics.land(old=GOOD, new=CASES)
    discovered_yesterday(metrics, "old.json")
    found = materialized(run(partition_key=YESTERDAY))
    assert metrics.statuses() == {"old.json": "archived", "new.json": "ready"}
    assert (found["deaths", YESTERDAY]["rows_in"], found["cases", YESTERDAY]["rows_in"]) == (2, 0)


def test_single_run_backfill_takes_every_day_of_its_range(run: Run, metrics: Metrics) -> None:
    metrics.land(old=GOOD, new=CASES, older=HEADLINE)
    discovered_yesterday(metrics, "old.json", "older.json")
    metrics.query("UPDATE ledger.loads SET partition = '2024-02-02' WHERE key = 'older.json' RETURNING id")
    result = run(tags={ASSET_PARTITION_RANGE_START_TAG: YESTERDAY, ASSET_PARTITION_RANGE_END_TAG: TODAY})
    assert result.success
    assert metrics.statuses() == {"old.json": "archived", "new.json": "archived", "older.json": "ready"}
    found = materialized(result)
    assert {partition for _, partition in found} == {YESTERDAY, TODAY}
    assert found["core_time_series", TODAY]["rows_in"] == 4
    assert len(evaluations(result)) == len(CHECK_SPECS)


def test_file_type_takes_its_files_and_gives_the_rest_back_uncharged(run: Run, metrics: Metrics) -> None:
    metrics.land(deaths=GOOD, cases=CASES, broken=b"[")
    found = materialized(run("cases"))
    assert metrics.statuses() == {"deaths.json": "ready", "cases.json": "archived", "broken.json": "errored"}
    assert {state["attempts"] for state in metrics.states()} == {0}
    assert set(found) == {("cases", TODAY)}


def test_selected_table_takes_the_file_types_that_feed_it(run: Run, metrics: Metrics) -> None:
    metrics.land(deaths=GOOD, headline=HEADLINE)
    found = materialized(run("core_headline"))
    assert metrics.statuses() == {"deaths.json": "ready", "headline.json": "archived"}
    assert set(found) == {("core_headline", TODAY)}
    assert found["core_headline", TODAY]["rows_written"] == 1


def test_every_table_is_fed_by_what_selecting_it_loads() -> None:
    for name, table in TABLES.items():
        assert datasets_selected([dg.AssetKey(["metrics", name])]) == set(table.fed_by)
    assert datasets_selected([dg.AssetKey(["metrics", "cases"]), dg.AssetKey(["metrics", "core_headline"])]) == {"cases", "headline"}


# Checks


@pytest.mark.parametrize("partition_key", [None, TODAY])
def test_every_check_is_evaluated_with_and_without_a_key(
    run: Run, metrics: Metrics, instance: dg.DagsterInstance, partition_key: str | None
) -> None:
    metrics.land(deaths=GOOD, bad=CASES | {"sex": "banana"})
    discovered_yesterday(metrics)
    result = run(partition_key=partition_key)
    found = evaluations(result)
    assert set(found) == {(spec.asset_key.path[-1], spec.name) for spec in CHECK_SPECS}
    assert {key for key, each in found.items() if not each.passed} == {("cases", "nothing_errored")}
    failed = found["cases", "nothing_errored"]
    assert failed.severity == dg.AssetCheckSeverity.WARN
    assert {name: value.value for name, value in failed.metadata.items()} == {"loads_errored": 1, "unknown_sex": 1}
    logged = [record.message or record.user_message for record in instance.all_logs(result.run_id)]
    assert not [message for message in logged if "did not yield" in message]


def test_selecting_one_file_type_evaluates_its_checks_only(run: Run, metrics: Metrics, instance: dg.DagsterInstance) -> None:
    metrics.land(cases=CASES)
    result = run("cases")
    assert set(evaluations(result)) == {("cases", "rows_add_up"), ("cases", "nothing_errored")}
    assert not [record for record in instance.all_logs(result.run_id) if "did not yield" in record.user_message]


def test_rows_that_do_not_add_up_fail_their_check(run: Run, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.land(a=GOOD)
    monkeypatch.setattr(ledger.Verdict, "rows_unchanged", property(lambda _verdict: 7))
    found = evaluations(run())
    assert [key for key, each in found.items() if not each.passed] == [("deaths", "rows_add_up")]


def test_public_row_of_a_sensitive_metric_fails_the_check_of_every_fact_table(run: Run, metrics: Metrics) -> None:
    metrics.load("a.json", GOOD)
    with metrics.database.connect() as connection:  # the database holds it too
        connection.execute("ALTER TABLE metrics.series DROP CONSTRAINT series_metric_id_is_public_fkey")
    metrics.query("UPDATE metrics.metric SET name = 'OFF-SENS_' || name RETURNING id")
    failed = {key for key, each in evaluations(run()).items() if not each.passed}
    assert failed == {(table, "public_flag_holds") for table in ("core_headline", "core_time_series", "api_time_series")}


# Launchpad configuration


def test_only_errored_takes_what_is_errored_and_nothing_that_is_ready(run: Run, metrics: Metrics) -> None:
    metrics.load("a.json", BAD)
    metrics.load("c.json", CASES | {"sex": "banana"})
    metrics.land(ready=HEADLINE)
    discovered_yesterday(metrics)
    result = run("deaths", only_errored=True)
    assert result.success
    retried = metrics.query("SELECT l.key FROM ledger.load_events AS e JOIN ledger.loads AS l ON l.id = e.load_id WHERE e.why = 'retry'")
    assert retried == [("a.json",)]
    assert metrics.statuses() == {"a.json": "errored", "c.json": "errored", "ready.json": "ready"}


def test_as_of_leaves_what_was_discovered_later_and_judges_embargoes_by_that_day(run: Run, metrics: Metrics) -> None:
    metrics.land(old=GOOD, new=CASES)
    discovered_yesterday(metrics, "old.json")
    run(as_of=YESTERDAY)
    assert metrics.statuses() == {"old.json": "archived", "new.json": "ready"}


@pytest.mark.parametrize("as_of", ["soon", "2999-12-31", "2023-02-30"])
def test_unusable_as_of_fails_the_run_before_it_touches_anything(run: Run, metrics: Metrics, as_of: str) -> None:
    metrics.land(a=GOOD)
    with pytest.raises(dg.Failure, match="as_of") as failed:
        run(as_of=as_of)
    assert failed.value.allow_retries is False
    assert metrics.states() == []


def test_the_partition_of_a_refused_file_says_what_is_wrong_with_it(run: Run, metrics: Metrics) -> None:
    metrics.land(errored=BAD)
    found = materialized(run())
    [record] = found["deaths", TODAY]["load_errors"].records
    assert record.data["code"] in {problem["code"] for problem in metrics.report("errored")["problems"]}
    assert record.data["loads"] == 1


@pytest.mark.parametrize("only_errored", [False, True])
def test_dry_run_observes_the_landing_zone_and_changes_nothing(run: Run, metrics: Metrics, only_errored: bool) -> None:
    metrics.load("errored.json", BAD)
    metrics.land(a=GOOD, broken=b"{", b=CASES)
    before = [metrics.states(), metrics.query("SELECT * FROM ledger.load_events ORDER BY id"), metrics.keys("in"), metrics.keys("failed")]
    result = run(dry_run=True, only_errored=only_errored)
    after = [metrics.states(), metrics.query("SELECT * FROM ledger.load_events ORDER BY id"), metrics.keys("in"), metrics.keys("failed")]
    assert after == before
    assert materialized(result) == {}
    [observation] = [event.asset_observation_data.asset_observation for event in result.all_events if event.is_asset_observation]
    assert observation.asset_key == LANDING_ZONE.key
    observed = {name: value.value for name, value in observation.metadata.items()}
    expected = (1, 1, 2, 2) if only_errored else (3, 1, 4, 0)
    assert tuple(observed[name] for name in ("loads", "errored", "rows_in", "rows_rejected")) == expected


def test_dry_run_does_not_finish_the_moves_of_a_dead_run(run: Run, metrics: Metrics) -> None:
    metrics.load("a.json", GOOD)
    metrics.query("UPDATE ledger.loads SET status = 'archiving', lease_until = now() - interval '1 day' RETURNING id")
    run(dry_run=True)
    assert metrics.statuses() == {"a.json": "archiving"}


# Runs that cannot work


def test_run_without_a_database_fails_and_names_the_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/none")  # pragma: allowlist secret
    result = run(raise_on_error=False)
    assert not result.success
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.error is not None
    assert "INGESTION_DATABASE_URL" in failure.error.to_string()
    assert "hunter2" not in failure.error.to_string()


def test_runs_over_nothing_new_change_nothing(run: Run, metrics: Metrics) -> None:
    metrics.land(deaths=GOOD, cases=CASES, bad=BAD)
    run()

    def state() -> list[Any]:
        return [
            metrics.states(),
            metrics.query("SELECT count(*), max(id) FROM ledger.load_events"),
            *(metrics.query(f"SELECT t::text FROM metrics.{table} AS t ORDER BY 1") for table in (*TABLES, "series")),
            *(metrics.keys(place) for place in ("in", "processed", "archive", "failed")),
        ]

    before = state()
    for _ in range(3):
        assert materialized(run()) == {}
    assert state() == before


def test_a_step_that_lost_its_connection_loads_everything_when_it_is_tried_again(
    run: Run, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run must not end green with loads left in the hand of its own first attempt."""
    lose_the_connection_of_the_second_merge(metrics, monkeypatch)
    monkeypatch.setenv("INGESTION_BATCH_FILES", "1")
    metrics.land(a=GOOD, b=CASES)
    result = run()
    assert result.success
    assert metrics.statuses() == {"a.json": "archived", "b.json": "archived"}
    written = [
        (event.materialization.asset_key.path[-1], event.materialization.metadata["rows_written"].value)
        for event in result.all_events
        if event.is_step_materialization
    ]
    assert sorted(each for each in written if each[0] in FILE_TYPES) == [("cases", 2), ("deaths", 2)]


def test_an_unreadable_file_is_seen_where_it_arrived(run: Run, metrics: Metrics) -> None:
    metrics.land(broken=b"{")
    [observed] = [event.asset_observation_data.asset_observation for event in run().all_events if event.is_asset_observation]
    assert observed.asset_key == LANDING_ZONE.key
    assert observed.metadata["loads_errored"].value == 1
